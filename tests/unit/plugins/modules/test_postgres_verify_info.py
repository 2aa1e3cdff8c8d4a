# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around the verification engine."""

from __future__ import annotations

import contextlib
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._checks import Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.verify import Finding, Report
from ansible_collections.fileforge.ops.plugins.modules import postgres_verify_info as module


def params(**changes: t.Any) -> dict[str, t.Any]:
    return {**{name: spec.get("default") for name, spec in module.ARGUMENTS.items()}, **changes}


@pytest.fixture
def structure(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, t.Any]]:
    seen: list[dict[str, t.Any]] = []

    def verify(connection: object, **arguments: t.Any) -> Report:
        seen.append(arguments)
        return Report([Check("postgres.amcheck.tables", "critical", "bad")], [Finding("files", "table", "block 1: bad")])

    monkeypatch.setattr(module, "connect", lambda *args, **kwargs: contextlib.nullcontext())
    monkeypatch.setattr(module.verify, "verify_structure", verify)
    return seen


def test_structure_is_examined_by_default(structure: list[dict[str, t.Any]]) -> None:
    result = module.operate(params(), False)
    assert result["status"] == "critical" and result["changed"] is False
    assert result["findings"] == [{"relation": "files", "kind": "table", "message": "block 1: bad"}]
    assert structure[0]["heapallindexed"] is True and structure[0]["create_extension"] is False


def test_check_mode_creates_no_extension(structure: list[dict[str, t.Any]]) -> None:
    module.operate(params(create_extension=True), True)
    module.operate(params(create_extension=True), False)
    assert [call["create_extension"] for call in structure] == [False, True]


def test_nothing_asked_is_unknown(structure: list[dict[str, t.Any]]) -> None:
    assert module.operate(params(amcheck=False), False)["status"] == "unknown"
    assert not structure


def test_an_assertion_without_a_demand_is_refused_before_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "connect", lambda *args, **kwargs: pytest.fail("connected"))
    demand = {"name": "n", "query": "q", "equals": None, "minimum": None, "maximum": None}
    with pytest.raises(InvalidOption):
        module.operate(params(assertions=[demand]), False)
