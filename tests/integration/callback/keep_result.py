# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Callback that writes a task's result to the file that KEEP_RESULT names: half as long as a second task that copies it there."""

from __future__ import annotations

import json
import os
import typing as t
from pathlib import Path

from ansible.plugins.callback import CallbackBase

if t.TYPE_CHECKING:
    from ansible.executor.task_result import CallbackTaskResult

DOCUMENTATION = r"""
name: keep_result
type: notification
short_description: Keep the result of a task
description:
  - Writes a task's result as JSON to the file that the environment variable E(KEEP_RESULT) names.
"""


class CallbackModule(CallbackBase):
    """Whatever way the task ended."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "keep_result"
    CALLBACK_NEEDS_ENABLED = True

    def _keep(self, result: CallbackTaskResult, **ended: bool) -> None:
        found = {name: value for name, value in result.result.items() if not name.startswith("_ansible_") and name != "invocation"}
        target = Path(os.environ["KEEP_RESULT"])
        fresh = target.with_name(target.name + ".new")
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps({"changed": False, "failed": False, **found, **ended}), encoding="utf-8")
        fresh.rename(target)

    def v2_runner_on_ok(self, result: CallbackTaskResult) -> None:
        self._keep(result)

    def v2_runner_on_failed(self, result: CallbackTaskResult, ignore_errors: bool = False) -> None:
        self._keep(result, failed=True)

    def v2_runner_on_unreachable(self, result: CallbackTaskResult) -> None:
        self._keep(result, failed=True, unreachable=True)

    def v2_runner_on_skipped(self, result: CallbackTaskResult) -> None:
        self._keep(result, skipped=True)
