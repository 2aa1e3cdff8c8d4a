# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at many things: the options are those that are documented, and only what looks is run."""

from __future__ import annotations

import ast
import importlib
import inspect
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.fileforge.ops.plugins.action import look as action
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._parallel import Answer
from ansible_collections.fileforge.ops.plugins.module_utils._probes import http_probe_info, run
from ansible_collections.fileforge.ops.plugins.modules import look as module


def probe(**changes: t.Any) -> dict[str, t.Any]:
    return {"name": "API", "module": "fileforge.ops.http_probe_info", "args": {}, "timeout": None, **changes}


def test_documentation_is_the_argument_spec() -> None:
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    for specified, described in ((module.ARGUMENTS, documented), (module.PROBE, documented["probes"]["suboptions"])):
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
    found = run.result_of(probe(), Answer(said, "", 0.5))
    assert found == {"name": "API", "seconds": 0.5, "result": {"checks": [], "changed": False}}


def test_no_answer_is_a_failure_with_the_next_step() -> None:
    found = run.result_of(probe(), Answer(None, "no answer within 5 s", 5.0))["result"]
    assert found["failed"] and found["msg"] == "no answer within 5 s" and "http_probe_info" in found["hint"]


def test_own_modules_go_together_and_others_alone() -> None:
    names = ("fileforge.ops.http_probe_info", "other.one.thing_info", "fileforge.ops.disk_usage_info", "other.one.thing_info")
    probes = [action.checked(probe(module=name, timeout=float(place + 1)), place, 60) for place, name in enumerate(names)]
    groups = action.grouped(probes)
    assert [[item["place"] for item in group] for group in groups] == [[0, 2], [1], [3]]
    assert action.deadline(groups[0], 1) == 2 * 3.0 + action.TRANSFER and action.deadline(groups[1], 1) == 2.0


def test_a_group_that_failed_has_failed_for_each_of_its_probes() -> None:
    group = [action.checked(probe(name=name), place, 60) for place, name in enumerate("ab")]
    for answer in (Answer({"failed": True, "msg": "no Python"}), Answer(problem="no Python")):
        found = action.results_of(group, answer)
        assert [(item["name"], item["result"]["failed"], item["result"]["msg"]) for item in found] == [
            ("a", True, "no Python"),
            ("b", True, "no Python"),
        ]


def test_all_that_can_be_run_together_is_sent_to_the_host() -> None:
    tree = ast.parse(Path(run.__file__).read_text())
    sent = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    files = {path.stem for path in Path(run.__file__).parent.glob("*_info.py")}
    assert files == set(run.NAMES) and files <= sent


@pytest.mark.parametrize("name", run.NAMES)
def test_it_is_the_module_of_that_name(name: str) -> None:
    code = importlib.import_module(f"ansible_collections.fileforge.ops.plugins.module_utils._probes.{name}")
    public = importlib.import_module(f"ansible_collections.fileforge.ops.plugins.modules.{name}")
    assert code.operate is public.operate and code.ARGUMENTS is public.ARGUMENTS
    assert list(inspect.signature(code.operate).parameters) == ["params", "check_mode"]


def test_options_are_checked_and_secrets_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, t.Any]] = []

    def operate(params: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
        seen.append({**params, "check": check_mode})
        return {"answer": f"sent {params['bearer_token']}"}

    monkeypatch.setattr(http_probe_info, "operate", operate)
    options = {"url": "http://x", "bearer_token": "tell-nobody", "probes": "7"}
    found = run.run_probe(probe(args=options), True)
    assert "tell-nobody" not in str(found) and seen[0]["probes"] == 7 and seen[0]["timeout"] == 5 and seen[0]["check"] is True
    wrong = run.run_probe(probe(args={"urll": "http://x"}), False)
    assert wrong["failed"] and "urll" in wrong["msg"] and "url" in wrong["msg"] and len(seen) == 1
