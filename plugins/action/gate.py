# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stops a destructive run unless its plan was confirmed; see the documentation of the module of the same name."""

from __future__ import annotations

import os
import typing as t

from ansible.errors import AnsiblePromptInterrupt, AnsiblePromptNoninteractive
from ansible.plugins.action import ActionBase
from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError, Refused
from ansible_collections.fileforge.ops.plugins.plugin_utils._gate import Gate

ARGUMENTS = {
    "plans": {"type": "list", "elements": "dict", "required": True},
    "confirm": {"type": "str", "default": ""},
    "title": {"type": "str", "default": "Plan"},
    "allow_prompt": {"type": "bool", "default": True},
    "always": {"type": "bool", "default": False},
}

UNATTENDED_VARIABLES = ("awx_job_id", "tower_job_id")
UNATTENDED_ENVIRONMENT = ("AWX_ISOLATED_DATA_DIR", "RUNNER_OMIT_EVENTS")
"""Set by AWX and its runner, which give their jobs a terminal that nobody sits at."""
ANSWER_SECONDS = 1800


def published(gate: Gate) -> dict[str, t.Any]:
    """What set_stats would return: AWX hands it to the next job of a workflow as the extra variable ``confirm``.

    Ansible joins what several gates or hosts publish; with a comma after each digest, all of them are confirmed.
    """
    return {"data": {"confirm": f"{gate.digest},"}, "per_host": False, "aggregate": True}


class ActionModule(ActionBase):
    """Shows the plans and decides whether the run may go on."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False
    _supports_diff = False

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(argument_spec=ARGUMENTS)
        result["changed"] = False
        unattended = any((task_vars or {}).get(name) for name in UNATTENDED_VARIABLES) or any(
            name in os.environ for name in UNATTENDED_ENVIRONMENT
        )
        asks = options["allow_prompt"] and not unattended
        try:
            gate = Gate.of(options["title"], options["plans"], options["always"])
            result.update(digest=gate.digest, needed=gate.needed, confirmed=False)
            for line in gate.lines():
                self._display.display(line)
            result.update(self._decide(gate, options["confirm"].strip(), asks))
            if gate.needed and not result["confirmed"]:
                result["ansible_stats"] = published(gate)
        except OpsError as error:
            told = error.result()
            result.update(told, code=told.get("reason", told["code"]), failed=True)
        return result

    def _decide(self, gate: Gate, confirm: str, asks: bool) -> dict[str, t.Any]:
        if self._task.check_mode:
            return {"confirmed": gate.needed and gate.confirmed_by(confirm)}
        if gate.check(confirm):
            return {"confirmed": True, "confirmed_by": "digest"}
        if not gate.needed:
            return {}
        if not asks:
            raise gate.missing()
        answer = self._ask(gate)
        if answer != "yes":
            raise Refused("declined", f"{gate.title}: the answer was not yes, so nothing was done")
        return {"confirmed": True, "confirmed_by": "terminal"}

    def _ask(self, gate: Gate) -> str:
        try:
            question = "Type yes to carry out exactly this plan, anything else to stop:"
            typed = self._display.prompt_until(question, seconds=ANSWER_SECONDS)
        except AnsiblePromptNoninteractive as error:
            raise gate.missing() from error
        except AnsiblePromptInterrupt:
            return ""
        text = typed.decode(errors="replace") if isinstance(typed, bytes) else str(typed)
        return text.strip().lower()
