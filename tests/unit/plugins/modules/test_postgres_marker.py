# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around the marker engine."""

from __future__ import annotations

import contextlib
import datetime
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.marker import Marker
from ansible_collections.fileforge.ops.plugins.modules import postgres_marker as module

MOMENT = datetime.datetime(2026, 11, 23, 14, 5, tzinfo=datetime.timezone.utc)


def params(**changes: t.Any) -> dict[str, t.Any]:
    return {**{name: spec.get("default") for name, spec in module.ARGUMENTS.items()}, "label": "x", **changes}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []

    def note(name: str, result: t.Any) -> t.Callable[..., t.Any]:
        def call(*arguments: t.Any) -> t.Any:
            made.append(name)
            return result

        return call

    monkeypatch.setattr(module, "connect", lambda *args, **kwargs: contextlib.nullcontext())
    monkeypatch.setattr(module.marker, "find", note("find", None))
    monkeypatch.setattr(module.marker, "create", note("create", Marker("x", True, MOMENT, MOMENT, "commit_timestamp", "0/1", "S")))
    monkeypatch.setattr(module.marker, "wait_archived", note("wait_archived", "S"))
    return made


def test_check_mode_only_looks(calls: list[str]) -> None:
    result = module.operate(params(wait_archived=True), True)
    assert (result["changed"], result["committed_at"], calls) == (True, "", ["find"])
    assert "x" in result["diff"]["after"]


def test_creates_and_waits(calls: list[str]) -> None:
    result = module.operate(params(wait_archived=True), False)
    assert (result["changed"], result["archived"], calls) == (True, "S", ["find", "create", "wait_archived"])
    assert result["committed_at"] == "2026-11-23T14:05:00.000000+00:00"


def test_a_marker_that_is_there_is_left(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.marker, "find", lambda *args: Marker("x", False, MOMENT, MOMENT, "row", "0/1", "S"))
    result = module.operate(params(), False)
    assert (result["changed"], result["diff"], calls) == (False, {"before": "", "after": ""}, [])


def test_a_bad_table_is_refused_before_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "connect", lambda *args, **kwargs: pytest.fail("connected"))
    with pytest.raises(InvalidOption):
        module.operate(params(table="x; DROP TABLE y"), False)


def test_result_is_what_is_documented(calls: list[str]) -> None:
    import yaml

    documented = set(yaml.safe_load(module.RETURN))
    assert set(module.operate(params(), False)) - {"changed", "diff"} == documented
    assert set(module.operate(params(), True)) - {"changed", "diff"} == documented
