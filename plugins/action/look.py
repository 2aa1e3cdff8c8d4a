# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs modules that only look, at the same time; see the documentation of the module of the same name."""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError
from ansible_collections.fileforge.ops.plugins.plugin_utils._parallel import Answer, Call, run_all

PROBE = {
    "name": {"type": "str", "required": True},
    "module": {"type": "str", "required": True},
    "args": {"type": "dict", "default": {}},
    "timeout": {"type": "float"},
}
ARGUMENTS = {
    "probes": {"type": "list", "elements": "dict", "required": True, "options": PROBE},
    "timeout": {"type": "float", "default": 60},
    "at_once": {"type": "int", "default": 8},
}
Probe = t.Dict[str, t.Any]


class ActionModule(ActionBase):
    """Runs the probes and returns what each said."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False
    _supports_diff = False

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(argument_spec=ARGUMENTS)
        try:
            probes = [checked(probe, place, options["timeout"]) for place, probe in enumerate(options["probes"])]
            if options["at_once"] < 1:
                raise InvalidOption("at_once", options["at_once"], "must be 1 or more")
        except OpsError as error:
            return {**result, **error.result(), "failed": True}
        answers = run_all([Call(self._runs(probe, task_vars or {}), probe["timeout"]) for probe in probes], options["at_once"])
        host = (task_vars or {}).get("inventory_hostname", "")
        result["results"] = [result_of(probe, answer, host) for probe, answer in zip(probes, answers)]
        result["changed"] = False
        return result

    def _runs(self, probe: Probe, task_vars: dict[str, t.Any]) -> t.Callable[[], dict[str, t.Any]]:
        def run() -> dict[str, t.Any]:
            answer: dict[str, t.Any] = self._execute_module(
                module_name=probe["module"], module_args=probe["args"], task_vars=task_vars
            )
            return answer

        return run


def checked(probe: Probe, place: int, timeout: float) -> Probe:
    """The probe with its deadline; raises InvalidOption for one that could do more than look."""
    if not probe["module"].endswith("_info"):
        raise InvalidOption(
            f"probes[{place}].module", probe["module"], "is not a module that only looks", hint="give one whose name ends in _info"
        )
    limit = timeout if probe["timeout"] is None else probe["timeout"]
    if limit <= 0:
        raise InvalidOption(f"probes[{place}].timeout", limit, "must be above zero")
    return {**probe, "timeout": limit}


def result_of(probe: Probe, answer: Answer, host: str) -> dict[str, t.Any]:
    """What the module said, without Ansible's own keys; a failure when it said nothing."""
    value = answer.value if isinstance(answer.value, dict) else {}
    found = {name: said for name, said in value.items() if not name.startswith("_ansible_") and name != "invocation"}
    if answer.problem:
        found = {"failed": True, "msg": answer.problem, "hint": f"run {probe['module']} by itself to see what it waits for"}
    return {"name": probe["name"], "host": host, "seconds": answer.seconds, "result": found}
