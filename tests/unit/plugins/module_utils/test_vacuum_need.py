# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tables need work, and in which order."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.vacuum_need import Limits, TableFacts, needs_of, work_for
from hypothesis import given
from hypothesis import strategies as st

QUIET = TableFacts(1, "public", "files", "r", heap_bytes=8192 * 1000, rows=10_000.0, inserted=0)

FACTS = st.builds(
    TableFacts,
    oid=st.integers(1, 2**31),
    schema=st.just("public"),
    name=st.text(min_size=1),
    relkind=st.sampled_from("rmp"),
    heap_bytes=st.integers(0, 2**40),
    rows=st.floats(-1, 1e10),
    dead=st.integers(0, 10**9),
    toast_dead=st.integers(0, 10**9),
    changed=st.integers(0, 10**9),
    inserted=st.one_of(st.none(), st.integers(0, 10**9)),
    xid_age=st.integers(0, 2**31),
    mxid_age=st.integers(0, 2**31),
    has_statistics=st.booleans(),
    counters_known=st.booleans(),
    parts_ahead=st.one_of(st.none(), st.floats(-1e6, 1e6)),
)


def kinds(limits: Limits | None = None, **changes: t.Any) -> list[str]:
    return [need.kind for need in needs_of(dataclasses.replace(QUIET, **changes), limits or Limits())]


@pytest.mark.parametrize(
    ("below", "reached", "kind"),
    [
        ({"dead": 1049}, {"dead": 1050}, "dead_rows"),
        ({"toast_dead": 49}, {"toast_dead": 50}, "toast_dead_rows"),
        ({"inserted": 2999}, {"inserted": 3000}, "inserted_rows"),
        ({"changed": 549}, {"changed": 550}, "stale_statistics"),
        ({"xid_age": 99_999_999}, {"xid_age": 100_000_000}, "transaction_age"),
        ({"mxid_age": 199_999_999}, {"mxid_age": 200_000_000}, "multixact_age"),
        ({"heap_bytes": 0, "has_statistics": False}, {"has_statistics": False}, "no_statistics"),
        ({"heap_bytes": 0, "counters_known": False}, {"counters_known": False}, "lost_counters"),
    ],
)
def test_each_limit_is_reached_at_its_number(below: dict[str, t.Any], reached: dict[str, t.Any], kind: str) -> None:
    assert kinds(**below) == []
    assert kinds(**reached) == [kind]


def test_an_old_server_counts_no_inserts() -> None:
    assert kinds(inserted=None) == []


def test_own_parameters_only_make_it_earlier() -> None:
    assert kinds(dead=200, options={"autovacuum_vacuum_scale_factor": "0.01"}) == ["dead_rows"]
    assert kinds(dead=1050, options={"autovacuum_vacuum_scale_factor": "0.5"}) == ["dead_rows"]
    assert kinds(inserted=10**6, options={"autovacuum_vacuum_insert_threshold": "-1"}) == [], "switched off for this table"
    assert kinds(xid_age=60_000_000, options={"autovacuum_freeze_max_age": "100000000"}) == ["transaction_age"]


def test_system_tables_need_no_statistics() -> None:
    assert kinds(schema="pg_catalog", has_statistics=False) == []
    assert kinds(oid=2619, schema="pg_catalog", changed=10**6) == [], "ANALYZE passes over pg_statistic"


def test_a_partitioned_table_follows_its_partitions() -> None:
    parent = {"relkind": "p", "heap_bytes": 0, "dead": 10**6}
    assert kinds(**parent, parts_ahead=3600.0) == []
    assert kinds(**parent, parts_ahead=90_000.0) == ["stale_statistics"]
    assert kinds(**parent, has_statistics=False) == ["no_statistics"]


def test_age_beyond_autovacuums_own_limit_comes_first() -> None:
    tables = [
        dataclasses.replace(QUIET, name="stale", changed=10**6),
        dataclasses.replace(QUIET, name="dead", dead=10_000),
        dataclasses.replace(QUIET, name="deader", dead=10_001),
        dataclasses.replace(QUIET, name="ageing", xid_age=110_000_000),
        dataclasses.replace(QUIET, name="old", xid_age=200_000_000),
        dataclasses.replace(QUIET, name="appended", inserted=10**6),
    ]
    assert [work.facts.name for work in work_for(tables, Limits())] == ["old", "deader", "dead", "ageing", "appended", "stale"]


@given(tables=st.lists(FACTS, max_size=8))
def test_every_work_has_a_reason_and_the_order_is_total(tables: list[TableFacts]) -> None:
    works = work_for(tables, Limits())
    assert all(work.needs and work.action for work in works)
    assert [work.urgency for work in works] == sorted(work.urgency for work in works)
    assert all(need.value >= need.limit for work in works for need in work.needs)
    assert all(work.vacuum and not work.analyze for work in work_for(tables, Limits(), analyze=False))


@given(facts=FACTS, factor=st.floats(0.0, 0.1))
def test_lower_limits_never_find_less(facts: TableFacts, factor: float) -> None:
    strict = Limits(dead_scale_factor=factor, dead_threshold=10, age_fraction=0.1)
    assert {need.kind for need in needs_of(facts, Limits())} <= {need.kind for need in needs_of(facts, strict)}


@pytest.mark.parametrize("limits", [Limits(dead_threshold=-1), Limits(age_fraction=0), Limits(age_fraction=1.5)])
def test_limits_that_make_no_sense(limits: Limits) -> None:
    with pytest.raises(InvalidOption):
        limits.check()
