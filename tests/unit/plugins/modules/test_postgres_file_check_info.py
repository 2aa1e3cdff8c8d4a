# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around the comparison of rows and files."""

from __future__ import annotations

import contextlib
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.file_check import KINDS, Row
from ansible_collections.fileforge.ops.plugins.modules import postgres_file_check_info as module


def params(path: Path, **changes: t.Any) -> dict[str, t.Any]:
    defaults = {name: spec.get("default") for name, spec in module.ARGUMENTS.items()}
    return {**defaults, "path": str(path), "query": "SELECT path FROM files", **changes}


@pytest.fixture(autouse=True)
def rows(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    given: list[Row] = []
    monkeypatch.setattr(module, "connect", lambda *args, **kwargs: contextlib.nullcontext())
    monkeypatch.setattr(module, "rows_of", lambda connection, query: iter(given))
    return given


def test_result(tmp_path: Path, rows: list[Row]) -> None:
    (tmp_path / "a").write_bytes(b"1")
    rows += [Row(b"a", 1, "0" * 64), Row(b"b", 1, None)]
    result = module.operate(params(tmp_path))
    assert (result["rows"], result["files"], result["hashed"], result["bytes"]) == (2, 1, 1, 1)
    assert result["counts"] == {**dict.fromkeys(KINDS, 0), "missing": 1, "sha256": 1}
    assert result["status"] == "critical" and result["changed"] is False


def test_hash_can_be_left_out(tmp_path: Path, rows: list[Row]) -> None:
    (tmp_path / "a").write_bytes(b"1")
    rows += [Row(b"a", 1, "0" * 64)]
    assert module.operate(params(tmp_path, hash=False))["status"] == "ok"


def test_jobs_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption):
        module.operate(params(tmp_path, jobs=0))
