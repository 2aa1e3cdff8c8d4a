# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around VACUUM."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.vacuum import Vacuumed, plan_for
from ansible_collections.fileforge.ops.plugins.modules import postgres_vacuum as module


def params(**changes: t.Any) -> dict[str, t.Any]:
    return {**{name: spec.get("default") for name, spec in module.ARGUMENTS.items()}, **changes}


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> dict[str, t.Any]:
    seen: dict[str, t.Any] = {}

    def maintain(server: t.Any, options: t.Any, **arguments: t.Any) -> Vacuumed:
        seen.update(kind="maintain", options=options, **arguments)
        return Vacuumed(plan_for("app", []), done=[{"action": "vacuum", "table": "public.files"}])

    def rewrite(server: t.Any, options: t.Any, **arguments: t.Any) -> dict[str, t.Any]:
        seen.update(kind="rewrite", options=options, **arguments)
        return {"changed": False, "plan": plan_for("app", []).as_dict(), "tables": [], "left": []}

    monkeypatch.setattr(module.vacuum, "maintain", maintain)
    monkeypatch.setattr(module.vacuum_full, "rewrite", rewrite)
    return seen


def test_options_reach_the_engine(called: dict[str, t.Any]) -> None:
    result = module.operate(params(dead_scale_factor=0.01, jobs=3, window=60, exclude=["logs"]), True, diff=True)
    options = called["options"]
    assert called["kind"] == "maintain" and called["check_mode"] is True
    assert (options.jobs, options.window, options.exclude, options.limits.dead_scale_factor) == (3, 60, ["logs"], 0.01)
    assert result["changed"] is True and result["diff"]["after"] == "vacuum public.files\n" and result["timings"] == []


def test_full_only_for_named_tables(called: dict[str, t.Any]) -> None:
    module.operate(params(full=["files"], plan_digest="abc", lock_timeout=1), False)
    assert called["kind"] == "rewrite" and called["plan_digest"] == "abc"
    assert (called["options"].full, called["options"].lock_timeout) == (["files"], 1)


def test_bad_options_are_refused_before_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible_collections.fileforge.ops.plugins.module_utils._postgres.vacuum_watch.connect", pytest.fail)
    for changes in ({"jobs": 0}, {"window": 0}, {"age_fraction": 2.0}, {"full": ["files"], "full_min_bloat": 5.0}):
        with pytest.raises(InvalidOption):
            module.operate(params(**changes), False)
