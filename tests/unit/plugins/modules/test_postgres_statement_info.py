# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's options reach the engine, its documentation names all checks, and nothing is remembered in check mode."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._checks import Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import table_use
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.statements import IDS, MAINTENANCE, Report
from ansible_collections.fileforge.ops.plugins.module_utils._probes import postgres_statement_info as module
from ansible_collections.fileforge.ops.plugins.modules.postgres_statement_info import DOCUMENTATION, RETURN


def params(**changes: t.Any) -> dict[str, t.Any]:
    return {**{name: spec.get("default") for name, spec in module.ARGUMENTS.items()}, **changes}


def test_options_reach_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[t.Any, ...]] = []

    def fake(server: t.Any, options: t.Any, *, remember: bool) -> Report:
        seen.append((server, options, remember))
        return Report([Check("statements.slowest", "warning", "x")], [{"statement": "SELECT"}])

    monkeypatch.setattr(module, "examine", fake)
    result = module.operate(params(postgres_host="db1", mean_warning=10.0, state_file="/x"), True)
    module.operate(params(ignore=["^batch"]), False)
    server, options, remember = seen[0]
    assert (server.host, options.mean_warning, options.state_file, options.ignore) == ("db1", 10.0, "/x", MAINTENANCE)
    assert remember is False and seen[1][2] is True and seen[1][1].ignore == ["^batch"]
    assert (result["status"], result["changed"], result["statements"]) == ("warning", False, [{"statement": "SELECT"}])


def test_wrong_options_are_refused_before_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "examine", lambda *_arguments, **_more: pytest.fail("connected"))
    with pytest.raises(InvalidOption, match="mean_warning"):
        module.operate(params(mean_warning=2000.0), False)


def test_every_check_and_figure_is_documented() -> None:
    for name in (*(f"statements.{name}" for name in IDS), *table_use.IDS):
        assert f"C({name})" in DOCUMENTATION, name
    for name in ("mean_before_ms", "temporary_bytes", "hit_percent", "ranks"):
        assert f"C({name})" in RETURN
