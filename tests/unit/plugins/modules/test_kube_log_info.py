# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's options reach the engine."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._checks import Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._kube.log_lines import Rules
from ansible_collections.fileforge.ops.plugins.module_utils._kube.logs import LogRequest
from ansible_collections.fileforge.ops.plugins.module_utils._probes import kube_log_info as module


def params(**changes: t.Any) -> dict[str, t.Any]:
    spec = module.ARGUMENTS
    return {**{name: entry.get("default") for name, entry in spec.items()}, "kube_host": "http://h", **changes}


class FakeReader:
    seen: t.ClassVar[list[t.Any]] = []

    def __init__(self, client: t.Any, request: LogRequest, now: t.Any) -> None:
        self.seen += [client, request]

    def read(self) -> None:
        self.seen.append("read")

    def result(self) -> dict[str, t.Any]:
        return {"groups": []}

    def checks(self) -> list[Check]:
        return [Check("kube.logs.read", "unknown", "no")]


@pytest.fixture(autouse=True)
def seen(monkeypatch: pytest.MonkeyPatch) -> list[t.Any]:
    FakeReader.seen = []
    monkeypatch.setattr(module, "LogReader", FakeReader)
    monkeypatch.setattr(module, "Client", lambda options, connections: (options.host, connections))
    return FakeReader.seen


def test_defaults_are_the_engines(seen: list[t.Any]) -> None:
    assert module.operate(params(), False) == {
        "changed": False,
        "groups": [],
        "status": "unknown",
        "checks": [t.cast(t.Any, _check())],
    }
    assert seen == [("http://h", 8), LogRequest("default"), "read"]


def _check() -> dict[str, t.Any]:
    return Check("kube.logs.read", "unknown", "no").as_dict()


def test_every_option_reaches_the_engine(seen: list[t.Any]) -> None:
    rules = Rules("p", False, ("a",), ("b",), ("c",))
    request = LogRequest("n", "s=1", ("app",), 3, rules, False, 2048, 9, 10, 11, 12, 13, 2, 3, 4, 5, "x")
    given = {field.name: getattr(request, field.name) for field in dataclasses.fields(request) if field.name != "rules"}
    given.update({field.name: getattr(rules, field.name) for field in dataclasses.fields(rules)})
    module.operate(params(**{name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}), False)
    assert seen[:2] == [("http://h", 9), request]


def test_bad_options_are_refused_before_anything_is_asked(seen: list[t.Any]) -> None:
    with pytest.raises(InvalidOption, match="parallel"):
        module.operate(params(parallel=0), False)
    assert seen == []
