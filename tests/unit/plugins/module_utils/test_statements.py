# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Statements: the columns of every version, what happened since the last review, what is shown, and what is judged."""

from __future__ import annotations

import dataclasses
import json
import re
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._evidence.redaction import Redactor
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import statements_state as state
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.statements import (
    Check,
    StatementOptions,
    collection_check,
    judge,
    ranked,
    regressions,
    uses_of,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.statements_read import (
    HIDDEN,
    Reading,
    Statement,
    combined,
    expressions,
    shown,
    statement_sql,
)
from hypothesis import given
from hypothesis import strategies as st

COUNTED = ["calls", "rows", "shared_blks_hit", "shared_blks_read", "temp_blks_read", "temp_blks_written"]
BASE = ["userid", "dbid", "queryid", "query", *COUNTED]
OLD = [*BASE, "total_time", "mean_time", "max_time", "blk_read_time", "blk_write_time"]
V13 = [*BASE, "plans", "total_plan_time", "total_exec_time", "max_exec_time", "blk_read_time", "wal_records", "wal_bytes"]
V14 = [*V13, "toplevel"]
V15 = [*V14, "jit_functions", "temp_blk_read_time"]
V17 = [name for name in V15 if name != "blk_read_time"] + ["shared_blk_read_time", "stats_since", "minmax_stats_since"]
V18 = [*V17, "wal_buffers_full", "parallel_workers_launched"]
DAY = 86400.0
WEEK = 7 * DAY


@pytest.mark.parametrize(
    ("columns", "time", "read_time", "counts_wal"),
    [
        pytest.param(OLD, "s.total_time", "s.blk_read_time", False, id="12"),
        pytest.param(V13, "s.total_exec_time", "s.blk_read_time", True, id="13"),
        pytest.param(V14, "s.total_exec_time", "s.blk_read_time", True, id="14"),
        pytest.param(V15, "s.total_exec_time", "s.blk_read_time", True, id="15 and 16"),
        pytest.param(V17, "s.total_exec_time", "s.shared_blk_read_time", True, id="17"),
        pytest.param(V18, "s.total_exec_time", "s.shared_blk_read_time", True, id="18"),
    ],
)
def test_columns_are_those_of_the_view(columns: list[str], time: str, read_time: str, counts_wal: bool) -> None:
    found = expressions(columns)
    assert (found["time"], found["read_time"], "wal" in found) == (time, read_time, counts_wal)
    assert found["temporary"] == "s.temp_blks_read + s.temp_blks_written"
    sql = statement_sql("public", columns)
    assert set(re.findall(r"\bs\.(\w+)", sql)) <= set(columns), "nothing is asked for that the view does not have"
    assert ("s.stats_since" in sql) == ("stats_since" in columns)
    assert ("s.toplevel" in sql) == ("toplevel" in columns)


def test_a_view_that_is_something_else_is_refused() -> None:
    with pytest.raises(OpsError, match="no column for time"):
        expressions(BASE)


@pytest.mark.parametrize(
    "text",
    [
        "ALTER ROLE app PASSWORD 'hunter2hunter2'",
        "CREATE USER app WITH PASSWORD E'a\\'hunter2hunter2'",
        "SELECT dblink_connect('host=db password=hunter2hunter2')",
        "DO $body$ BEGIN PERFORM login('hunter2hunter2'); END $body$",
        "SET app.password = hunter2hunter2",
        "/* it's hunter2hunter2 */ ALTER ROLE app PASSWORD 'hunter2hunter2",
    ],
)
def test_values_are_never_shown(text: str) -> None:
    assert "hunter2" not in shown(text, Redactor())


def test_long_statements_are_cut_and_what_they_do_stays() -> None:
    text = shown("SELECT name FROM users WHERE id = $1 OR " + " OR ".join(f"id = ${n}" for n in range(2, 900)), Redactor())
    assert text.startswith("SELECT name FROM users WHERE id = $1 OR id = $2") and len(text) == 300


def row(**changes: t.Any) -> dict[str, t.Any]:
    plain = {"userid": 10, "dbid": 5, "queryid": 1, "query": "SELECT $1", "database": "db", "role": "app", "toplevel": True}
    return {**plain, "calls": 1.0, "time": 2.0, "rows": 3.0, "largest": 2.0, "since": None, **changes}


def test_rows_that_cannot_be_told_apart_are_one() -> None:
    found = combined([row(), row(calls=4.0), row(toplevel=False), row(userid=11)])
    assert [statement.figures["calls"] for statement in found] == [5.0, 1.0, 1.0]
    assert len({statement.key for statement in found}) == 3


def statement(key: str = "a", calls: float = 10, mean: float = 5, *, since: float | None = None, **more: t.Any) -> Statement:
    figures = {"calls": float(calls), "time": float(calls * mean), "rows": float(calls), **more.pop("figures", {})}
    return Statement(
        key, more.pop("database", "db"), more.pop("role", "app"), more.pop("text", f"SELECT {key}"), figures, mean, since
    )


def reading(*statements: Statement, taken: float = WEEK, **more: t.Any) -> Reading:
    plain = {"identity": "1/15", "server": "15.1", "extension": "1.10", "reset": 0.0, "deallocated": 0, "most": 5000}
    return Reading(**{**plain, "io_timing": True, **more}, taken=taken, statements=statements)


def past(*readings: Reading, age: float = 6 * DAY, now: float = 2 * WEEK) -> state.Past:
    return state.choose([state.sample_of(item, {}) for item in readings], "1/15", now, age)


counts = st.integers(0, 10**6)


@given(before=counts, more=counts, mean=st.floats(0.01, 1e4))
def test_what_happened_since_is_the_difference(before: int, more: int, mean: float) -> None:
    earlier = reading(statement(calls=before, mean=mean))
    now = reading(statement(calls=before + more, mean=mean), taken=2 * WEEK)
    found = state.since_last(now, now.statements[0], past(earlier).last)
    assert found["calls"] == more
    assert found["time"] == pytest.approx(more * mean, abs=0.01, rel=1e-6)


@given(before=st.integers(1, 10**6), data=st.data())
def test_an_entry_that_was_counted_anew_is_all_new(before: int, data: st.DataObject) -> None:
    calls = data.draw(st.integers(0, before - 1))
    now = reading(statement(calls=calls), taken=2 * WEEK)
    assert state.since_last(now, now.statements[0], past(reading(statement(calls=before))).last)["calls"] == calls


@pytest.mark.parametrize(
    "now",
    [
        pytest.param(reading(statement(calls=15), taken=2 * WEEK, reset=WEEK + 1), id="everything was reset"),
        pytest.param(reading(statement(calls=15, since=WEEK + 1), taken=2 * WEEK), id="the entry was made anew"),
        pytest.param(reading(statement("b", calls=15), taken=2 * WEEK), id="it was not there"),
    ],
)
def test_a_reset_is_noticed_though_more_was_counted_than_before(now: Reading) -> None:
    assert state.since_last(now, now.statements[0], past(reading(statement(calls=10))).last)["calls"] == 15


@given(st.lists(st.tuples(counts, st.booleans()), min_size=1, max_size=8))
def test_reviews_in_a_row_add_up_to_what_was_called(weeks: list[tuple[int, bool]]) -> None:
    """Whatever is reset in between: no call is reviewed twice, and none is lost but those before a reset that nobody saw."""
    seen, counted, last, reset = 0, 0, state.Past(), 0.0
    for number, (calls, cleared) in enumerate(weeks, start=1):
        if cleared:
            counted, reset = 0, number * WEEK - 1
        counted += calls
        now = reading(statement(calls=counted), taken=number * WEEK, reset=reset)
        seen += int(state.since_last(now, now.statements[0], last.last)["calls"])
        last = past(now, now=(number + 1) * WEEK)
    assert seen == sum(calls for calls, _cleared in weeks)


def test_looking_often_does_not_shorten_the_week(tmp_path: Path) -> None:
    path = str(tmp_path / "statements.json")
    samples: list[state.Sample] = []
    for hour in range(0, 24 * 30, 3):
        samples = state.load(path)
        state.save(path, [*samples, state.sample_of(reading(statement(calls=hour), taken=hour * 3600.0), {"t": {"seq_scan": 1.0}})])
    kept = state.load(path)
    assert len(kept) == state.KEPT and kept[-1].taken == (24 * 30 - 3) * 3600
    chosen = state.choose(kept, "1/15", 24 * 30 * 3600.0, 6 * DAY)
    assert chosen.last and chosen.earlier
    assert 6 * DAY <= 30 * DAY - chosen.last.taken < 7 * DAY
    assert 6 * DAY <= chosen.last.taken - chosen.earlier.taken < 7 * DAY
    assert kept[0].tables == {"t": {"seq_scan": 1.0}}


@given(st.lists(st.integers(0, 10**7), unique=True, min_size=1, max_size=60))
def test_the_newest_sample_is_always_kept(moments: list[int]) -> None:
    samples = [state.Sample("x", float(moment), None, {}) for moment in sorted(moments)]
    kept = state.thinned(samples)
    assert kept[-1] == samples[-1] and len(kept) <= state.KEPT
    assert kept == state.thinned(kept)


def test_samples_of_another_server_are_not_compared(tmp_path: Path) -> None:
    other = dataclasses.replace(state.sample_of(reading(statement()), {}), identity="2/15")
    assert state.choose([other], "1/15", 2 * WEEK, DAY) == state.Past()


@pytest.mark.parametrize("content", ["", "[]", '{"samples": [{}]}', '{"samples": 5}', '{"samples": [{"statements": {"a": 5}}]}'])
def test_a_file_of_something_else_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(InvalidOption, match="state_file"):
        state.load(str(path))


def checks_of(now: Reading, options: StatementOptions, before: state.Past) -> dict[str, Check]:
    return {check.id: check for check in judge(now, uses_of(now, before), options, before)}


@pytest.mark.parametrize(("mean", "status"), [(249.0, "ok"), (250.0, "warning"), (1000.0, "critical")])
def test_the_slowest_is_named_with_what_to_do(mean: float, status: str) -> None:
    now = reading(
        statement("slow", 5, mean),
        statement("once", 4, 9000),
        statement("dump", 9, 9000, text="COPY public.files TO stdout"),
        statement("batch", 9, 9000, role="batch"),
    )
    check = checks_of(now, StatementOptions(ignore_roles=["batch"]), state.Past())["statements.slowest"]
    assert (check.status, check.value, "SELECT slow" in check.summary) == (status, mean, True)
    assert ("EXPLAIN" in check.hint) == (status != "ok")


@pytest.mark.parametrize(
    ("figures", "word"),
    [
        ({"temporary": 5.0}, "work_mem"),
        ({"rows": 90000.0}, "9000 rows a call"),
        ({"reads": 9.0, "hits": 1.0}, "90 % of its blocks"),
    ],
)
def test_the_hint_is_what_the_figures_say(figures: dict[str, float], word: str) -> None:
    now = reading(statement(calls=10, mean=500, figures=figures))
    assert word in checks_of(now, StatementOptions(), state.Past())["statements.slowest"].hint


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        pytest.param((100, 5), (200, 7.5), True, id="twice as slow this week"),
        pytest.param((100, 5), (200, 7.4), False, id="not quite"),
        pytest.param((19, 5), (200, 50), False, id="too few calls before"),
        pytest.param((100, 5), (119, 50), False, id="too few calls since"),
        pytest.param((100, 0.1), (200, 0.5), False, id="too quick to matter"),
    ],
)
def test_what_became_slower(before: tuple[int, float], now: tuple[int, float], found: bool) -> None:
    options = StatementOptions(state_file="x")
    last = past(reading(statement(calls=before[0], mean=before[1])))
    late = reading(statement(calls=now[0], mean=now[1]), taken=2 * WEEK)
    assert bool(regressions(uses_of(late, last), options)) is found
    check = checks_of(late, options, last)["statements.regressions"]
    assert check.status == ("warning" if found else "ok")
    assert ("5 to 10 ms: SELECT a" in check.summary) is found


def test_slower_is_against_the_week_before_not_against_all_time() -> None:
    first = reading(statement(calls=1000, mean=100), taken=WEEK)
    second = reading(statement(calls=1100, mean=(1000 * 100 + 100 * 10) / 1100), taken=2 * WEEK)
    third = reading(statement(calls=1200, mean=(1000 * 100 + 100 * 10 + 100 * 30) / 1200), taken=3 * WEEK)
    use = uses_of(third, past(first, second, now=3 * WEEK))[0]
    assert use.mean == pytest.approx(30) and use.as_dict()["mean_before_ms"] == pytest.approx(10, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"deallocated": 7}, "ok"),
        ({"deallocated": 8}, "warning"),
        ({"deallocated": 2, "reset": WEEK + 1}, "warning"),
        ({"deallocated": None, "most": 100}, "ok"),
        ({"deallocated": None, "most": 1}, "warning"),
    ],
)
def test_entries_that_were_dropped_since(changes: dict[str, t.Any], status: str) -> None:
    last = past(reading(statement(), deallocated=7))
    check = checks_of(reading(statement(), taken=2 * WEEK, **changes), StatementOptions(), last)["statements.dealloc"]
    assert check.status == status
    assert ("pg_stat_statements.max" in check.hint) == (status == "warning")


def test_what_is_hidden_makes_nothing_ok() -> None:
    assert HIDDEN == "<insufficient privilege>"
    now = reading(statement(), hidden=3)
    found = checks_of(now, StatementOptions(), state.Past())
    assert {check.status for name, check in found.items() if name != "statements.dealloc"} == {"unknown"}
    check = collection_check(now, None)
    assert check.status == "unknown" and "pg_monitor" in check.hint


def test_a_version_that_does_not_count_wal_says_so() -> None:
    assert "does not count wal" in checks_of(reading(statement()), StatementOptions(), state.Past())["statements.wal"].summary


def test_each_statement_is_listed_once_with_its_ranks() -> None:
    now = reading(statement("often", 1000, 1), statement("slow", 1, 900), statement("third", 2, 3), statement("idle", 0, 0))
    found = ranked(uses_of(now, state.Past()), 1)
    assert [(item["statement"], sorted(item["ranks"])) for item in found] == [
        ("SELECT often", ["calls", "load", "rows"]),
        ("SELECT slow", ["mean"]),
    ]
    json.dumps(found)


@pytest.mark.parametrize(
    "changes",
    [{"top": 0}, {"mean_warning": 2000}, {"regression_factor": 1}, {"ignore": ["("]}, {"period_hours": 0}, {"timeout": -1}],
)
def test_options_that_make_no_sense_are_named(changes: dict[str, t.Any]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(changes))):
        StatementOptions(**changes)
