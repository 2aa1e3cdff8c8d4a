# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's options reach the engine, and wrong ones are refused before a connection is made."""

from __future__ import annotations

import re
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._checks import Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.health import NAMES, Report
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.health_look import LIMITS
from ansible_collections.fileforge.ops.plugins.module_utils._probes import postgres_health_info as module
from ansible_collections.fileforge.ops.plugins.modules.postgres_health_info import DOCUMENTATION


def params(**changes: t.Any) -> dict[str, t.Any]:
    return {**{name: spec.get("default") for name, spec in module.ARGUMENTS.items()}, **changes}


def test_options_reach_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[t.Any, ...]] = []

    def fake(*arguments: t.Any) -> Report:
        seen.append(arguments)
        return Report([Check("postgres.role", "warning", "x")], {"role": "primary"}, [{"pid": 1}])

    monkeypatch.setattr(module, "examine", fake)
    changes = {"postgres_host": "db1", "limits": {"connections": {"warning": 50}}, "expected_replicas": 2, "skip": ["cache_hit"]}
    result = module.operate(params(**changes), False)
    options, health, probes = seen[0]
    assert options.host == "db1" and health.expected_replicas == 2
    assert (health.limits["connections"].warning, health.limits["connections"].critical) == (50, 90)
    assert {name for probe in probes for name in probe.names} == set(NAMES) - {"cache_hit"}
    assert result["status"] == "warning" and result["changed"] is False
    assert (result["server"], result["blocking"]) == ({"role": "primary"}, [{"pid": 1}])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"limits": {"conections": {}}}, "no such limit"),
        ({"limits": {"connections": {"warning": 95}}}, "must not be above critical"),
        ({"limits": {"connections": {"warn": 95}}}, "must hold"),
        ({"limits": {"connections": {"warning": "many"}}}, "not a number"),
        ({"checks": ["rolle"]}, "no such check"),
        ({"skip": ["rolle"]}, "no such check"),
        ({"check_timeout": 0}, "more than 0"),
    ],
)
def test_wrong_options_are_refused(monkeypatch: pytest.MonkeyPatch, changes: dict[str, t.Any], words: str) -> None:
    monkeypatch.setattr(module, "examine", lambda *_arguments: pytest.fail("connected"))
    with pytest.raises(InvalidOption, match=words):
        module.operate(params(**changes), False)


def test_every_limit_and_check_is_documented() -> None:
    for name in (*LIMITS, *NAMES):
        assert re.search(rf"C\((postgres\.)?{name}\)", DOCUMENTATION) or name == "cache_hit", name
