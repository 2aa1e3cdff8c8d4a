# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the report in this process where the host is this machine, else there; see the module of the same name."""

from __future__ import annotations

import typing as t

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible_collections.fileforge.ops.plugins.module_utils._module import attempt
from ansible_collections.fileforge.ops.plugins.modules.operations_report import arguments, make
from ansible_collections.fileforge.ops.plugins.plugin_utils._here import as_sent, runs_here


class ActionModule(ActionBase):
    """Validates as the module does, and makes the same report."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False
    _supports_diff = False

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        if not runs_here(self, task_vars or {}):
            return {**result, **self._execute_module(task_vars=task_vars)}
        given = ArgumentSpecValidator(arguments()).validate(as_sent(self._task.args))
        if given.error_messages:
            return {**result, "failed": True, "msg": "; ".join(given.error_messages)}
        done, made = attempt(lambda: make(given.validated_parameters, bool(self._task.check_mode)))
        return {**result, **(made if done else {**made, "failed": True})}
