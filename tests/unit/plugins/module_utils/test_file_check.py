# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows against files."""

from __future__ import annotations

import hashlib
import os
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, NotFound
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.file_check import (
    KINDS,
    Comparison,
    Row,
    _row,
    compare,
    hostile,
    walk,
)
from hypothesis import given, settings
from hypothesis import strategies as st


def fill(root: Path, files: dict[str, bytes]) -> list[Row]:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    rows = [Row(os.fsencode(name), len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()]
    return sorted(rows)


def run(rows: t.Iterable[Row], root: Path, **changes: t.Any) -> Comparison:
    return compare(rows, str(root), **{"hashing": True, "jobs": 2, "max_findings": 20, **changes})


FILES = {"a": b"1", "a.txt": b"22", "a/": b"", "b/c/d": b"333", "b.d": b"4", "b/z": b"5", "ü/ö": b"6"}
FILES = {name: content for name, content in FILES.items() if not name.endswith("/") and name != "a"}


def test_equal(tmp_path: Path) -> None:
    rows = fill(tmp_path, FILES)
    result = run(rows, tmp_path)
    assert not result.counts and (result.rows, result.files, result.hashed) == (5, 5, 5)
    assert {check.status for check in result.checks(True)} == {"ok"}
    assert result.hashed_bytes == sum(map(len, FILES.values()))


def test_every_kind_of_difference(tmp_path: Path) -> None:
    rows = fill(tmp_path, {"size": b"12", "hash": b"12", "gone": b"x", "link": b"x", "fine": b"x", "orphan": b"y"})
    (tmp_path / "size").write_bytes(b"123")
    (tmp_path / "hash").write_bytes(b"21")
    (tmp_path / "gone").unlink()
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("fine")
    rows = sorted([row for row in rows if row.path != b"orphan"] + [Row(b"../etc/passwd", 1, None)])
    result = run(rows, tmp_path)
    assert dict(result.counts) == dict.fromkeys(("hostile", "missing", "not_regular", "size", "sha256", "orphan"), 1)
    assert {finding["kind"]: finding["path"] for finding in result.all_findings()} == {
        "hostile": "../etc/passwd",
        "missing": "gone",
        "not_regular": "link",
        "size": "size",
        "sha256": "hash",
        "orphan": "orphan",
    }
    statuses = {check.id: check.status for check in result.checks(True)}
    assert statuses == {f"files.{kind}": KINDS[kind][0] for kind in KINDS} | {"files.unreadable": "ok"}


def test_findings_are_bounded_but_all_are_counted(tmp_path: Path) -> None:
    rows = [Row(f"{number:04}".encode(), 1, None) for number in range(1000)]
    result = run(rows, tmp_path, max_findings=3)
    assert result.counts["missing"] == 1000 and len(result.all_findings()) == 3


def test_without_hashing_nothing_is_read(tmp_path: Path) -> None:
    rows = [row._replace(sha256="0" * 64) for row in fill(tmp_path, FILES)]
    result = run(rows, tmp_path, hashing=False)
    assert not result.counts and result.hashed == 0
    assert "files.sha256" not in {check.id for check in result.checks(False)}


def test_two_rows_may_share_a_file(tmp_path: Path) -> None:
    rows = fill(tmp_path, {"a": b"1", "b": b"2"})
    assert not run(sorted(rows * 2), tmp_path).counts


def test_values_that_are_null_are_not_compared(tmp_path: Path) -> None:
    rows = [Row(row.path, None, None) for row in fill(tmp_path, FILES)]
    result = run(rows, tmp_path)
    assert not result.counts and result.hashed == 0


def test_ignored_names(tmp_path: Path) -> None:
    rows = fill(tmp_path, FILES)
    fill(tmp_path, {"lost+found/x": b"", "deep/.partial-1": b""})
    assert run(rows, tmp_path, ignore=["lost+found", ".partial-*"]).counts == {}
    assert run(rows, tmp_path).counts["orphan"] == 2


def test_rows_out_of_order_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="order"):
        run([Row(b"b", 1, None), Row(b"a", 1, None)], tmp_path)


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="none"):
        run([], tmp_path / "none")


@pytest.mark.parametrize("path", ["", "/etc/passwd", "..", "a/../b", "./a", "a//b", "a/", "a\nb", "a\0b", "a\x7f", "x" * 256, "."])
def test_hostile_paths(path: str) -> None:
    assert hostile(path.encode())


@pytest.mark.parametrize("path", ["a", "a/b", "...", "a..b/c", "ü/ö", " a", "-rf"])
def test_usable_paths(path: str) -> None:
    assert not hostile(path.encode())


def test_a_hostile_path_is_printable(tmp_path: Path) -> None:
    result = run([Row(b"a\n\x1b[31m", 1, None)], tmp_path)
    assert result.all_findings()[0]["path"].isprintable()


def test_columns() -> None:
    assert _row({"path": "ä", "size": 3, "sha256": b"\x01\xff"}) == Row("ä".encode(), 3, "01ff")
    assert _row({"path": "a", "sha256": " AB "}) == Row(b"a", None, "ab")
    assert _row({"path": None}) == Row(b"", None, None)


NAME = st.text(st.sampled_from("ab./-0é~"), min_size=1, max_size=3).filter(lambda name: "/" not in name and name not in (".", ".."))


@settings(max_examples=60, deadline=None)
@given(st.sets(st.lists(NAME, min_size=1, max_size=3).map("/".join), max_size=12))
def test_the_walk_is_in_the_order_of_bytes(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    """The merge depends on it: the directory's order must be that of the database's C collation."""
    root = tmp_path_factory.mktemp("walk")
    made = set()
    for name in sorted(names):
        path = root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            made.add(os.fsencode(name))
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
    found = [entry.path for entry in walk(str(root))]
    assert found == sorted(found) and {path for path in made if (root / os.fsdecode(path)).is_file()} == set(found)
