# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which indexes nobody needs."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import index_use
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_use import DAY, Counters


def index(oid: int, *columns: int, **changes: t.Any) -> dict[str, t.Any]:
    keys = changes.get("keys", len(columns))
    return {
        "oid": oid, "root": oid, "root_name": f"i{oid}", "table_oid": 1, "schema": "public", "name": f"i{oid}", "table": "files",
        "method": "btree", "size_bytes": 10, "is_unique": False, "is_primary": False, "is_valid": True, "is_marked": False,
        "is_constraint": False, "keys": keys, "columns": list(columns), "classes": [1] * keys, "collations": [0] * keys,
        "orders": [0] * keys, "expressions": "", "predicate": "", "definition": "CREATE INDEX",
        "is_immediate": True, "nulls_equal": False, **changes,
    }  # fmt: skip


def server(age_days: float, last: dict[int, float] | None = None, **scans: int) -> Counters:
    return Counters("db", age_days * DAY, "1", {int(name[1:]): number for name, number in scans.items()}, last or {})


def covered(*found: dict[str, t.Any]) -> dict[str, str]:
    return {row["name"]: row["covered_by"] for row in index_use.duplicates(found)}


def test_the_same_and_a_leading_part() -> None:
    assert covered(index(1, 3), index(2, 3)) == {"i2": "i1"}
    assert covered(index(1, 3), index(2, 3, 4)) == {"i1": "i2"}
    assert covered(index(1, 4), index(2, 3, 4)) == {}
    assert covered(index(1, 3), index(2, 3, 4, keys=1)) == {"i1": "i2"}, "a column that is included is no key"
    assert covered(index(1, 3, 5, keys=1), index(2, 3, 4)) == {}, "the included column is only in the first"


def test_what_is_needed_is_kept() -> None:
    assert covered(index(1, 3), index(2, 3, is_unique=True, is_constraint=True)) == {"i1": "i2"}
    assert covered(index(1, 3, is_unique=True), index(2, 3, 4)) == {}
    assert covered(index(1, 3, is_marked=True), index(2, 3)) == {"i2": "i1"}
    assert covered(index(1, 3, is_primary=True, is_constraint=True), index(2, 3, is_unique=True, is_constraint=True)) == {}


@pytest.mark.parametrize("other", [{"nulls_equal": True}, {"is_immediate": False, "is_constraint": True}])
def test_what_is_unique_otherwise_is_no_duplicate(other: dict[str, t.Any]) -> None:
    assert covered(index(1, 3, is_unique=True), index(2, 3, is_unique=True)) == {"i2": "i1"}
    assert covered(index(1, 3, is_unique=True), index(2, 3, is_unique=True, **other)) == {}
    assert covered(index(1, 3, is_unique=True, **other), index(2, 3, is_unique=True)) == {}
    assert covered(index(1, 3), index(2, 3, is_unique=True, **other)) == {"i1": "i2"}, "it finds the same rows"


@pytest.mark.parametrize(
    "changes",
    [
        {"predicate": "(done)"}, {"method": "hash"}, {"classes": [2]}, {"collations": [9]}, {"orders": [1]}, {"is_valid": False},
        {"table_oid": 2}, {"expressions": "lower(path)", "columns": [0]},
    ],
)  # fmt: skip
def test_what_differs_is_no_duplicate(changes: dict[str, t.Any]) -> None:
    assert covered(index(1, 3), index(2, 3, **changes)) == {}


def test_parts_of_a_partitioned_index_are_one() -> None:
    parts = [index(10, 3, root=1, root_name="root", table_oid=7), index(11, 3, root=1, root_name="root", table_oid=8)]
    others = [index(20, 3, 4, root=2, root_name="wide", table_oid=7), index(21, 3, 4, root=2, root_name="wide", table_oid=8)]
    rows = index_use.duplicates([*parts, *others])
    assert [(row["name"], row["covered_by"], row["size_bytes"]) for row in rows] == [("root", "wide", 20)]
    assert [row["name"] for row in index_use.unused(parts, [server(60, i11=1)], 30)] == []
    assert [(row["name"], row["size_bytes"]) for row in index_use.unused(parts, [server(60)], 30)] == [("root", 20)]


def test_unused_on_every_server() -> None:
    found = [index(1, 3), index(2, 4), index(3, 5, is_unique=True), index(4, 6, is_valid=False)]
    primary = server(60, i2=5)
    assert [row["name"] for row in index_use.unused(found, [primary], 30)] == ["i1"]
    assert index_use.unused(found, [primary, server(60, i1=1)], 30) == []
    long_ago = server(60, {2: 40 * DAY}, i2=5)
    assert [row["name"] for row in index_use.unused(found, [long_ago], 30)] == ["i1", "i2"]
    assert [row["name"] for row in index_use.unused(found, [long_ago], 0)] == ["i1"], "0 stands for ever"


@pytest.mark.parametrize(
    ("servers", "problems", "candidates", "status"),
    [
        ([server(60)], [], [index(1, 3)], "warning"),
        ([server(60)], [], [], "ok"),
        ([server(3)], [], [], "unknown"),
        ([server(60), server(3)], [], [index(1, 3)], "unknown"),
        ([server(60)], ["1 standbys were not asked"], [index(1, 3)], "unknown"),
    ],
)
def test_proof_is_needed(servers: list[Counters], problems: list[str], candidates: list[t.Any], status: str) -> None:
    check = index_use.unused_check(candidates, servers, problems, 30)
    assert check.status == status and bool(check.hint) == (status != "ok")


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("db2", ("db2", 5432)), ("db2:6000", ("db2", 6000)), ("/run/pg:6000", ("/run/pg", 6000)), ("[::1]:6000", ("::1", 6000)),
        ("::1", ("::1", 5432)), ("[::1]", ("::1", 5432)),
    ],
)  # fmt: skip
def test_addresses(name: str, address: tuple[str, int]) -> None:
    assert index_use._address(name, 5432) == address


@pytest.mark.parametrize("name", ["db2:", "db2:x", ":5432"])
def test_no_addresses(name: str) -> None:
    with pytest.raises(InvalidOption, match="replicas"):
        index_use._address(name, 5432)
