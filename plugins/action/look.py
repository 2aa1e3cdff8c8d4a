# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs modules that only look, at the same time; see the documentation of the module of the same name.

Those of the collection run in one process on the host, by the module, or in this one where the host is this machine; any other is
sent there and run by itself.
"""

from __future__ import annotations

import functools
import math
import typing as t

from ansible.plugins.action import ActionBase
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._parallel import Answer, Call, run_all
from ansible_collections.fileforge.ops.plugins.module_utils._probes.run import MODULES, result_of, run_probes
from ansible_collections.fileforge.ops.plugins.modules.look import ARGUMENTS
from ansible_collections.fileforge.ops.plugins.plugin_utils._here import as_sent, runs_here

TRANSFER = 60.0
"""Seconds for the way to the host and back, beside the deadlines of what is looked at."""
Probe = t.Dict[str, t.Any]
Result = t.Dict[str, t.Any]


class ActionModule(ActionBase):
    """Runs the probes and returns what each said."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False
    _supports_diff = False

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> Result:
        result: Result = super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(argument_spec=ARGUMENTS)
        at_once = options["at_once"]
        try:
            probes = [checked(probe, place, options["timeout"]) for place, probe in enumerate(options["probes"])]
            if at_once < 1:
                raise InvalidOption("at_once", at_once, "must be 1 or more")
        except OpsError as error:
            return {**result, **error.result(), "failed": True}
        groups = grouped(probes)
        calls = [Call(self._runs(group, at_once, task_vars or {}), deadline(group, at_once)) for group in groups]
        found: dict[int, Result] = {}
        for group, answer in zip(groups, run_all(calls, at_once)):
            found.update(zip((probe["place"] for probe in group), results_of(group, answer)))
        host = (task_vars or {}).get("inventory_hostname", "")
        result["results"] = [{**found[place], "host": host} for place in range(len(probes))]
        result["changed"] = False
        return result

    def _runs(self, group: list[Probe], at_once: int, task_vars: dict[str, t.Any]) -> t.Callable[[], Result]:
        own = group[0]["module"] in MODULES
        sent = {"probes": [{name: probe[name] for name in ("name", "module", "args", "timeout")} for probe in group]}
        arguments = {**sent, "at_once": at_once} if own else group[0]["args"]
        if own and runs_here(self, task_vars):
            return functools.partial(look_here, sent["probes"], at_once, bool(self._task.check_mode))

        def run() -> Result:
            name = "fileforge.ops.look" if own else group[0]["module"]
            answer: Result = self._execute_module(module_name=name, module_args=arguments, task_vars=task_vars)
            return answer

        return run


def look_here(probes: list[Probe], at_once: int, check_mode: bool) -> Result:
    """What the module would return."""
    return {"results": run_probes(as_sent(probes), at_once, check_mode)}


def checked(probe: Probe, place: int, timeout: float) -> Probe:
    """The probe with its place and deadline; raises InvalidOption for one that could do more than look."""
    if not probe["module"].endswith("_info"):
        raise InvalidOption(
            f"probes[{place}].module", probe["module"], "is not a module that only looks", hint="give one whose name ends in _info"
        )
    limit = timeout if probe["timeout"] is None else probe["timeout"]
    if limit <= 0:
        raise InvalidOption(f"probes[{place}].timeout", limit, "must be above zero")
    return {**probe, "place": place, "timeout": limit}


def grouped(probes: t.Sequence[Probe]) -> list[list[Probe]]:
    """What is run together: all that the collection's own module can look at, and each other by itself."""
    own = [probe for probe in probes if probe["module"] in MODULES]
    return [*([own] if own else []), *([probe] for probe in probes if probe["module"] not in MODULES)]


def deadline(group: t.Sequence[Probe], at_once: int) -> float:
    """Seconds until the whole group is given up. The module keeps the deadline of each of its own."""
    longest: float = max(probe["timeout"] for probe in group)
    return longest * math.ceil(len(group) / at_once) + TRANSFER if group[0]["module"] in MODULES else longest


def results_of(group: t.Sequence[Probe], answer: Answer) -> list[Result]:
    """For each probe of the group what was found, or why nothing was."""
    value = answer.value if isinstance(answer.value, dict) else {}
    if group[0]["module"] not in MODULES or "results" not in value:
        return [result_of(probe, answer) for probe in group]
    return [dict(found) for found in value["results"]]
