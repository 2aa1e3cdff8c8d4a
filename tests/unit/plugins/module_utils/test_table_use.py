# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables that are read row by row or from disk: only large ones, and only when it is often."""

from __future__ import annotations

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.table_use import IDS, Check, Limits, TableUse, judge

LIMITS = Limits(1000, 10, 90.0)


def found(*uses: TableUse) -> dict[str, Check]:
    return {check.id: check for check in judge(uses, LIMITS)}


def table(size: float = 1000, live: float = 100, name: str = "public.files", **figures: float) -> TableUse:
    return TableUse(name, size, live, 0, figures)


@pytest.mark.parametrize(
    ("use", "status"),
    [
        pytest.param(table(seq_scan=10, seq_tup_read=1000), "warning", id="whole"),
        pytest.param(table(seq_scan=10, seq_tup_read=100), "warning", id="a tenth of it each time"),
        pytest.param(table(seq_scan=10, seq_tup_read=99), "ok", id="ended early"),
        pytest.param(table(seq_scan=9, seq_tup_read=900), "ok", id="seldom"),
        pytest.param(table(999, seq_scan=10, seq_tup_read=1000), "ok", id="small"),
        pytest.param(table(live=0, seq_scan=10), "ok", id="empty"),
    ],
)
def test_sequential_scans(use: TableUse, status: str) -> None:
    check = found(use)[IDS[0]]
    assert check.status == status
    assert ("index-rebuild" in check.hint and "public.files" in check.summary) == (status == "warning")


@pytest.mark.parametrize(
    ("read", "hit", "status"), [(2000, 8000, "warning"), (1000, 9000, "ok"), (999, 9001, "ok"), (5000, 4999, "ok")]
)
def test_blocks_that_were_not_in_memory(read: float, hit: float, status: str) -> None:
    check = found(table(heap_blks_read=read, heap_blks_hit=hit), table(name="b", heap_blks_read=0, heap_blks_hit=20000))[IDS[1]]
    assert check.status == status and bool(check.hint) == (status == "warning")


def test_the_worst_table_is_named() -> None:
    uses = [table(name=name, seq_scan=20, seq_tup_read=rows) for name, rows in (("a", 5000), ("b", 9000))]
    check = found(*uses)[IDS[0]]
    assert check.summary.startswith("b (") and "worst of 2" in check.summary


def test_nothing_to_look_at_is_ok() -> None:
    assert {check.status for check in found().values()} == {"ok"}
