# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at many things: the options are those that are documented, and only what looks is run."""

from __future__ import annotations

import typing as t

import pytest
import yaml
from ansible_collections.fileforge.ops.plugins.action import look as action
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.modules import look as module
from ansible_collections.fileforge.ops.plugins.plugin_utils._parallel import Answer


def probe(**changes: t.Any) -> dict[str, t.Any]:
    return {"name": "API", "module": "fileforge.ops.http_probe_info", "args": {}, "timeout": None, **changes}


def test_documentation_is_the_argument_spec() -> None:
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    for specified, described in ((action.ARGUMENTS, documented), (action.PROBE, documented["probes"]["suboptions"])):
        assert set(specified) == set(described)
        for name, option in specified.items():
            for field in ("type", "default", "required", "elements"):
                assert described[name].get(field) == option.get(field), (name, field)


@pytest.mark.parametrize("name", ["ansible.builtin.command", "fileforge.ops.postgres_restore", "fileforge.ops.gate"])
def test_what_could_do_more_than_look_is_refused(name: str) -> None:
    with pytest.raises(InvalidOption, match=r"probes\[3\]\.module"):
        action.checked(probe(module=name), 3, 60)


@pytest.mark.parametrize("timeout", [0, -1.5])
def test_a_deadline_is_above_zero(timeout: float) -> None:
    with pytest.raises(InvalidOption, match="timeout"):
        action.checked(probe(timeout=timeout), 0, 60)


def test_the_deadline_of_the_task_is_the_default() -> None:
    assert [action.checked(probe(timeout=own), 0, 60)["timeout"] for own in (None, 5.0)] == [60, 5.0]


def test_result_is_what_the_module_said_without_what_is_ansibles() -> None:
    said = {"checks": [], "changed": False, "_ansible_parsed": True, "invocation": {"module_args": {}}}
    found = action.result_of(probe(), Answer(said, "", 0.5), "app1")
    assert found == {"name": "API", "host": "app1", "seconds": 0.5, "result": {"checks": [], "changed": False}}


def test_no_answer_is_a_failure_with_the_next_step() -> None:
    found = action.result_of(probe(), Answer(None, "no answer within 5 s", 5.0), "app1")["result"]
    assert found["failed"] and found["msg"] == "no answer within 5 s" and "http_probe_info" in found["hint"]
