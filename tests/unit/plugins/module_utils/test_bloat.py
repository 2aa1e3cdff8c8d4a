# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layout of pages from which bloat is estimated."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import bloat
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.bloat import Bloat, Column
from hypothesis import given
from hypothesis import strategies as st

INT = Column(length=4, alignment=4, width=4.0)
BIGINT = Column(length=8, alignment=8, width=8.0)
TEXT = Column(length=-1, alignment=4, width=20.0)

COLUMNS = st.builds(
    Column,
    length=st.sampled_from([1, 2, 4, 8, 16, -1]),
    alignment=st.sampled_from([1, 2, 4, 8]),
    width=st.floats(1, 500),
    null_fraction=st.floats(0, 1),
    distinct=st.one_of(st.floats(-1, -0.001), st.floats(1, 1e6)),
)


def row(**changes: t.Any) -> dict[str, t.Any]:
    return {
        "oid": 1, "schema": "public", "name": "files", "table": "files", "method": "heap", "relkind": "r", "size_bytes": 8192 * 100,
        "fillfactor": None, "rows": 1000.0, "changed": 0.0, "block_size": 8192, **changes,
    }  # fmt: skip


def test_an_integer_key_as_postgresql_builds_it() -> None:
    """100,000 integers are 276 pages: 1 meta page, 274 leaves and their root."""
    assert bloat.btree_pages(100_000, [INT], 90, False) == 276
    assert bloat.btree_pages(100_000, [BIGINT], 90, True) == 276, "unique values gain nothing from deduplication"


def test_few_distinct_values_are_deduplicated() -> None:
    status = dataclasses.replace(INT, distinct=5.0, common=(0.2, 0.2, 0.2, 0.2, 0.2))
    assert bloat.btree_pages(200_000, [status], 90, True) == pytest.approx(171, rel=0.02)
    assert bloat.btree_pages(200_000, [status], 90, False) == pytest.approx(551, rel=0.02)


def test_nothing_in_it() -> None:
    assert bloat.heap_pages(0, [INT], 100) == 0
    assert bloat.btree_pages(0, [INT], 90, True) == 1, "the meta page is always there"


def test_fillfactor_and_nulls() -> None:
    assert bloat.heap_pages(100_000, [BIGINT, TEXT], 50) > 1.9 * bloat.heap_pages(100_000, [BIGINT, TEXT], 100)
    null = dataclasses.replace(TEXT, null_fraction=1.0)
    assert bloat.heap_pages(100_000, [BIGINT, null], 100) < bloat.heap_pages(100_000, [BIGINT, TEXT], 100)


@given(rows=st.floats(1, 1e9), columns=st.lists(COLUMNS, min_size=1, max_size=6), fillfactor=st.integers(10, 100))
def test_every_layout_has_pages_for_its_rows(rows: float, columns: list[Column], fillfactor: int) -> None:
    heap = bloat.heap_pages(rows, columns, fillfactor)
    assert heap >= rows * 24 / 8192 * 0.9 and bloat.heap_pages(rows * 2, columns, fillfactor) >= heap
    index = bloat.btree_pages(rows, columns, fillfactor, True)
    assert 2 <= index <= bloat.btree_pages(rows, columns, fillfactor, False) * 1.01 + 2, "deduplication never costs"
    assert bloat.btree_pages(rows * 2, columns, fillfactor, True) >= index


@given(size=st.integers(0, 2**40), expected=st.one_of(st.none(), st.integers(0, 2**41)))
def test_bloat_is_a_part_of_the_size(size: int, expected: int | None) -> None:
    item = Bloat(1, "public", "files", "table", "files", "heap", size, expected, bloat.ESTIMATE)
    if expected is None:
        assert item.ratio is None and item.bloat_bytes is None and item.as_dict()["ratio"] is None
    else:
        assert item.ratio is not None and 0 <= item.ratio <= 1 and 0 <= (item.bloat_bytes or 0) <= size


@pytest.mark.parametrize(
    ("changes", "columns", "word"),
    [
        ({"method": "columnar"}, [INT], "columnar"),
        ({"rows": -1.0}, [INT], "analysed"),
        ({"block_size": 4096}, [INT], "4096"),
        ({}, [dataclasses.replace(TEXT, width=None, name="path")], "path"),
    ],
)
def test_without_a_ground_there_is_no_number(changes: dict[str, t.Any], columns: list[Column], word: str) -> None:
    item = bloat._table_bloat(row(**changes), columns)
    assert item.source == "none" and item.expected_bytes is None and word in item.note


def test_doubts_are_told() -> None:
    stale = bloat._table_bloat(row(rows=10_000.0, changed=5000.0), [INT])
    assert stale.source == "estimate" and "stale" in stale.note
    toast = bloat._table_bloat(row(relkind="t", rows=399.0), [])
    assert (toast.kind, toast.expected_bytes) == ("toast", 100 * 8192) and "at least" in toast.note
    invalid = bloat._index_bloat({**row(method="btree"), "is_valid": False, "is_unique": False, "deduplicates": True}, [INT])
    assert invalid.source == "none" and "invalid" in invalid.note


def test_a_partial_index_does_not_use_the_tables_distribution() -> None:
    base = {**row(method="btree", rows=10_000.0), "is_valid": True, "is_unique": False, "deduplicates": True}
    column = dataclasses.replace(INT, distinct=1.0, common=(1.0,))
    whole = bloat._index_bloat({**base, "is_partial": False}, [column])
    partial = bloat._index_bloat({**base, "is_partial": True}, [column])
    assert whole.expected_bytes is not None and partial.expected_bytes is not None
    assert partial.expected_bytes > whole.expected_bytes
