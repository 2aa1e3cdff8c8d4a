# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around sizes, bloat and useless indexes."""

from __future__ import annotations

import contextlib
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._checks import Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, WaitTimeout
from ansible_collections.fileforge.ops.plugins.modules import postgres_size_info as module


def params(**changes: t.Any) -> dict[str, t.Any]:
    return {**{name: spec.get("default") for name, spec in module.ARGUMENTS.items()}, **changes}


def fail(*arguments: t.Any) -> t.NoReturn:
    raise WaitTimeout("too slow")


@pytest.fixture(autouse=True)
def connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "connect", lambda *args, **kwargs: contextlib.nullcontext())


def test_what_cannot_be_looked_at_is_unknown_and_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.bloat, "estimate_tables", fail)
    monkeypatch.setattr(module.bloat, "estimate_indexes", lambda connection: [])
    monkeypatch.setattr(module.index_use, "indexes", fail)
    monkeypatch.setattr(module.sizes, "tables", lambda connection: [{"name": n} for n in range(50)])
    monkeypatch.setattr(module.sizes, "size_check", lambda *args: Check("postgres.size.database", "ok", "1 GiB"))
    result = module.operate(params(), False)
    assert {check["id"]: check["status"] for check in result["checks"]} == {
        "postgres.size.database": "ok",
        "postgres.bloat.tables": "unknown",
        "postgres.bloat.indexes": "ok",
        "postgres.indexes.invalid": "unknown",
        "postgres.indexes.duplicate": "unknown",
        "postgres.indexes.unused": "unknown",
    }
    assert result["status"] == "unknown" and len(result["tables"]) == 20 and result["changed"] is False


def test_a_failed_sample_does_not_hide_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine, name in ((module.bloat, "estimate_tables"), (module.bloat, "estimate_indexes"), (module.index_use, "indexes")):
        monkeypatch.setattr(engine, name, fail)
    monkeypatch.setattr(module.sizes, "tables", lambda connection: [])
    monkeypatch.setattr(module.sizes, "size_check", lambda *args: Check("postgres.size.database", "ok", "1 GiB"))
    monkeypatch.setattr(module.sizes, "sample", fail)
    checks = {check["id"]: check["status"] for check in module.operate(params(sample_file="/kept"), False)["checks"]}
    assert checks["postgres.size.database"] == "ok" and checks["postgres.size.growth"] == "unknown"


@pytest.mark.parametrize("changes", [{"bloat_ratio": 0}, {"bloat_ratio": 2}, {"top": -1}, {"timeout": 0}, {"unused_days": -1}])
def test_options_that_make_no_sense(changes: dict[str, t.Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "connect", lambda *args, **kwargs: pytest.fail("connected"))
    with pytest.raises(InvalidOption, match=next(iter(changes))):
        module.operate(params(**changes), False)
