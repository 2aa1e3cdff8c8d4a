# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a backup is as large as those before it."""

from __future__ import annotations

import statistics
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup.backup_size import COMPARED, size_check
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.plugins.module_utils.test_catalog import FIRST, at, checks, simple
from tests.unit.plugins.module_utils.wal_builder import SYSTEM

GB = 1 << 30


def backup(content: int | None, stored: int = 1, complete: bool = True, system: str = "7") -> dict[str, t.Any]:
    facts = {"content_bytes": content, "system_identifier": None if content is None else system} if complete else {}
    return {"name": "b", "bytes": stored, "complete": complete, **facts}


def status(*sizes: int, fraction: float = 0.5) -> str:
    return size_check([backup(size) for size in sizes], fraction).status


@given(st.lists(st.integers(1, 10 * GB), min_size=1, max_size=20), st.floats(0.01, 1))
def test_against_the_rule_read_plainly(sizes: list[int], fraction: float) -> None:
    check = size_check([backup(size) for size in sizes], fraction)
    assert (check.id, check.warning, check.critical) == ("backup.size", fraction, fraction / 2)
    before = sizes[:-1][-COMPARED:]
    if not before:
        assert check.status == "ok" and check.value is None and "no earlier one" in check.summary
        return
    share = sizes[-1] / statistics.median(before)
    wanted = "critical" if share < fraction / 2 else "warning" if share < fraction else "ok"
    assert check.status == wanted and bool(check.hint) == (wanted != "ok")


@given(st.lists(st.integers(1, 10 * GB), min_size=1, max_size=9), st.integers(0, GB))
def test_a_larger_backup_is_never_worse(sizes: list[int], more: int) -> None:
    order = ("critical", "warning", "ok")
    assert order.index(status(*sizes[:-1], sizes[-1] + more)) >= order.index(status(*sizes))


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ((100,), "ok"),
        ((100, 50), "ok"),
        ((100, 49), "warning"),
        ((100, 24), "critical"),
        ((100, 100, 3, 100), "ok"),  # one bad backup moves no median
        ((9000, 100, 100, 100, 100, 100, 100, 100, 60), "ok"),  # and the eighth before does not count
        ((100, 100, 0), "critical"),
        ((0, 0), "ok"),
    ],
)
def test_limits(sizes: tuple[int, ...], wanted: str) -> None:
    assert status(*sizes) == wanted


def test_like_is_compared_with_like() -> None:
    plain = [backup(None, 900), backup(None, 800)]
    assert size_check([*plain, backup(10)], 0.5).status == "ok", "plain archives do not tell what they hold"
    assert size_check([backup(5000), *plain, backup(None, 100)], 0.5).status == "critical"
    other = size_check([backup(5000), backup(10, system="8")], 0.5)
    assert other.status == "ok" and "database system 8" in other.summary
    unfinished = size_check([backup(100), backup(10), backup(1, complete=False)], 0.5)
    assert unfinished.status == "critical" and unfinished.evidence["median"] == 100, "one that is unfinished says nothing"
    nothing = size_check([backup(1, complete=False)], 0.5)
    assert nothing.status == "unknown" and nothing.hint


def test_from_the_catalog() -> None:
    place = simple()
    for minute, content in (("01", 4_000_000), ("02", 3_000_000), ("03", 1_000_000)):
        place.add_backup(f"2026-11-23-14{minute}", FIRST, FIRST + 100, at(1), content=content)
    found = checks(place, 10)["backup.size"]
    assert (found.status, found.value) == ("warning", round(1 / 3, 4)) and found.evidence["kind"].endswith(str(SYSTEM))
    assert "backup.size" not in checks(place, 10, min_size=0)
