# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The judging parts of the health engine, and that no probe disturbs another."""

from __future__ import annotations

import socket
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._checks import OK, Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    AccessDenied,
    InvalidOption,
    OpsError,
    Unavailable,
    WaitTimeout,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import health, health_replication, health_storage
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.health_look import (
    GIB,
    HealthOptions,
    Look,
    limits_from,
    size_text,
    without_literals,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.health_sessions import blocking_trees
from hypothesis import given, settings
from hypothesis import strategies as st

PIDS = st.integers(1, 8)


def pids_in(trees: t.Sequence[dict[str, t.Any]]) -> set[int]:
    return {tree["pid"] for tree in trees} | {pid for tree in trees for pid in pids_in(tree["blocks"])}


@settings(deadline=None)
@given(st.dictionaries(PIDS, st.sets(st.integers(0, 8), min_size=1, max_size=3), max_size=8))
def test_the_blocking_trees_hold_every_session_and_end(waits: dict[int, set[int]]) -> None:
    """Also with cycles and several blockers each."""
    waits = {pid: blockers - {pid} for pid, blockers in waits.items() if blockers - {pid}}
    waiting = {pid: {"pid": pid, "blockers": sorted(blockers), "seconds": 1.0} for pid, blockers in waits.items()}
    trees = blocking_trees(waiting, {})
    assert pids_in(trees) == set(waits) | {pid for blockers in waits.values() for pid in blockers}
    free = {pid for blockers in waits.values() for pid in blockers} - set(waits)
    assert free <= {tree["pid"] for tree in trees}, "who blocks and does not wait is a root"
    assert [tree["blocked"] for tree in trees] == sorted((tree["blocked"] for tree in trees), reverse=True)


def test_a_chain_has_one_root() -> None:
    waiting = {
        2: {"pid": 2, "blockers": [1], "seconds": 9.0},
        3: {"pid": 3, "blockers": [2, 2], "seconds": 5.0},
        4: {"pid": 4, "blockers": [0], "seconds": 1.0},
    }
    session = {"pid": 1, "role": "app", "database": "d", "application": "", "state": "idle in transaction"}
    session |= {"transaction_seconds": 12.34, "query": "UPDATE users SET email = 'a@b' WHERE id = 7"}
    chain, prepared = blocking_trees(waiting, {1: session})
    assert (chain["pid"], chain["blocked"], chain["waits"], chain["transaction"]) == (1, 2, None, 12.3)
    assert chain["query"] == "UPDATE users SET email = ? WHERE id = ?"
    assert chain["blocks"][0]["pid"] == 2 and chain["blocks"][0]["blocks"][0]["waits"] == 5.0
    assert (prepared["pid"], prepared["state"]) == (0, "prepared transaction")


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT 'it''s', 12.5, $1 FROM t1", "SELECT ?, ?, $1 FROM t1"),
        ("SELECT $x$ secret $x$,\n  2", "SELECT ?, ?"),
        ("SELECT 'cut off in the mid", "SELECT ?"),
        ("SELECT $x$ cut off in the mid", "SELECT ?"),
        (r"ALTER ROLE a PASSWORD E'it\'s secret'", "ALTER ROLE a PASSWORD ?"),
        ("SELECT 'a' -- it's\nFROM t WHERE x = 'secret'", "SELECT ? FROM t WHERE x = ?"),
        ("/* it's */ SELECT 'secret'", "SELECT ?"),
        ("SELECT /* a /* b */ it's */ 'secret'", "SELECT"),
        ("SELECT \"it's\" FROM t WHERE x = 'secret'", 'SELECT "it\'s" FROM t WHERE x = ?'),
        (None, ""),
    ],
)
def test_evidence_holds_no_values(statement: str | None, expected: str) -> None:
    assert without_literals(statement) == expected


@settings(deadline=None)
@given(st.text(alphabet="abc'$1 \n", max_size=40), st.integers(1000, 9999))
def test_no_quoted_value_survives(around: str, secret: int) -> None:
    quoted = around.replace("'", "").replace("$", "")
    assert str(secret) not in without_literals(f"SELECT {quoted} '{secret}'")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"seqmin": 1, "seqmax": 2**63 - 1, "seqincrement": 1, "last_value": 2**30, "type": 23}, 50.0),
        ({"seqmin": 1, "seqmax": 101, "seqincrement": 1, "last_value": 91, "type": 20}, 90.0),
        ({"seqmin": 1, "seqmax": 2**63 - 1, "seqincrement": 1, "last_value": 32767, "type": 21}, 100.0),
        ({"seqmin": -100, "seqmax": 0, "seqincrement": -1, "last_value": -75, "type": 20}, 75.0),
        ({"seqmin": 1, "seqmax": 10, "seqincrement": 1, "last_value": None, "type": 20}, 0.0),
        ({"seqmin": 5, "seqmax": 5, "seqincrement": 1, "last_value": 5, "type": 20}, 100.0),
    ],
)
def test_sequences_count_the_type_of_their_column(row: dict[str, t.Any], expected: float) -> None:
    assert health_storage.used_share(row) == pytest.approx(expected, rel=1e-3)


SLOT = {"active": True, "retained": 0.0, "wal_status": "reserved", "conflicting": False, "invalidation_reason": ""}


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "ok"),
        ({"active": False}, "warning"),
        ({"active": False, "retained": 25.0 * GIB}, "critical"),
        ({"retained": 6.0 * GIB}, "warning"),
        ({"wal_status": "extended"}, "warning"),
        ({"wal_status": "unreserved"}, "critical"),
        ({"wal_status": "lost", "retained": None}, "critical"),
        ({"conflicting": True}, "critical"),
        ({"invalidation_reason": "idle_timeout"}, "critical"),
        ({"wal_status": "", "retained": None}, "ok"),
    ],
)
def test_slots(changes: dict[str, t.Any], status: str) -> None:
    assert health_replication._judge_slot({**SLOT, **changes}, 5 * GIB, 20 * GIB)[0] == status


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("000000010000000000000005", 6 * 16 << 20),
        ("0000000A00000001000000FF", (1 << 32) + (256 * 16 << 20)),
        ("00000002.history", None),
        ("000000010000000000000005.00000028.backup", None),
        ("000000010000000000000005.partial", None),
    ],
)
def test_the_end_of_the_archive(name: str, end: int | None) -> None:
    assert health_replication._archived_end(name, 16 << 20) == end


class Connection:
    """A connection that answers nothing; its descriptor is a real socket's."""

    def __init__(self) -> None:
        self.here, self.there = socket.socketpair()
        self.closed = False

    def fileno(self) -> int:
        return self.here.fileno()

    def close(self) -> None:
        self.closed = True
        self.here.close()
        self.there.close()


SERVER = {
    "version": 15,
    "version_text": "15.1",
    "standby": False,
    "sees_statistics": True,
    "sees_settings": False,
    "started": "",
    "position": "0/1",
    "database": "d",
    "name": "",
}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """Connections made; the server introduces itself as SERVER."""
    made: list[Connection] = []

    def connect(*_arguments: t.Any, **_options: t.Any) -> Connection:
        made.append(Connection())
        return made[-1]

    monkeypatch.setattr(health, "connect", connect)
    monkeypatch.setattr(health, "query", lambda _connection, _sql: [])
    monkeypatch.setattr(health, "one", lambda _connection, _sql: dict(SERVER))
    return made


def probe(name: str, look: t.Callable[[Look], list[Check]], needs: str = "") -> health.Probe:
    return health.Probe((name,), look, needs)


def fine(look: Look) -> list[Check]:
    return [Check("postgres.cache_hit", OK, "fine")]


def statuses(report: health.Report) -> dict[str, str]:
    return {check.id.removeprefix("postgres."): check.status for check in report.checks}


def test_one_failing_probe_hides_no_other(opened: list[Connection]) -> None:
    def denied(look: Look) -> list[Check]:
        raise AccessDenied("permission denied for function", hint="grant it")

    report = health.examine(PostgresOptions(), HealthOptions(), [probe("role", denied), probe("cache_hit", fine)])
    assert statuses(report) == {"connection": "ok", "role": "unknown", "cache_hit": "ok"}
    assert report.checks[1].hint == "grant it" and len(opened) == 1 and opened[0].closed


def test_a_stuck_probe_is_cut_and_the_next_gets_a_new_connection(opened: list[Connection]) -> None:
    def stuck(look: Look) -> list[Check]:
        opened[-1].here.recv(1)  # for ever, unless somebody shuts the socket down
        raise Unavailable("server closed the connection unexpectedly")

    options = HealthOptions(check_timeout=0.05)
    health_grace, health.GRACE = health.GRACE, 0.05
    try:
        report = health.examine(PostgresOptions(), options, [probe("role", stuck), probe("cache_hit", fine)])
    finally:
        health.GRACE = health_grace
    assert statuses(report) == {"connection": "ok", "role": "unknown", "cache_hit": "ok"}
    assert "no answer within" in report.checks[1].summary and len(opened) == 2


def test_a_role_without_the_right_is_not_asked_what_it_sees_a_part_of(opened: list[Connection]) -> None:
    def never(look: Look) -> list[Check]:
        raise AssertionError("asked")

    report = health.examine(PostgresOptions(), HealthOptions(), [probe("pending_restart", never, health.SETTINGS)])
    assert statuses(report)["pending_restart"] == "unknown" and "pg_monitor" in report.checks[1].hint


def test_the_whole_time_is_bounded(opened: list[Connection]) -> None:
    def stuck(look: Look) -> list[Check]:
        opened[-1].here.recv(1)
        raise Unavailable("server closed the connection unexpectedly")

    options = HealthOptions(check_timeout=60, timeout=0.2)
    report = health.examine(PostgresOptions(), options, [probe("cache_hit", stuck), probe("role", fine)])
    assert statuses(report) == {"connection": "ok", "cache_hit": "unknown", "role": "unknown"}
    assert "were over" in report.checks[2].summary


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unavailable("connection refused"), "critical"),
        (WaitTimeout("no answer"), "critical"),
        (AccessDenied("password authentication failed"), "unknown"),
        (OpsError("something else"), "unknown"),
    ],
)
def test_a_server_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch, error: OpsError, status: str) -> None:
    def refuse(*_arguments: t.Any, **_options: t.Any) -> t.NoReturn:
        raise error

    monkeypatch.setattr(health, "connect", refuse)
    found = statuses(health.examine(PostgresOptions(), HealthOptions(), health.PROBES))
    assert found.pop("connection") == status
    assert set(found.values()) == {"unknown"} and set(found) == set(health.NAMES)


def test_an_old_server_is_unknown(opened: list[Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "one", lambda _connection, _sql: {**SERVER, "version": 11, "version_text": "11.22"})
    report = health.examine(PostgresOptions(), HealthOptions(), [probe("cache_hit", fine)])
    assert set(statuses(report).values()) == {"unknown"} and "11.22" in report.checks[0].summary


def test_choosing_checks() -> None:
    assert [probe.names for probe in health.chosen(["idle_in_transaction"], [])] == [("idle_in_transaction",)]
    assert len(health.chosen([], [])) == len(health.PROBES)
    with pytest.raises(InvalidOption):
        health.chosen(["nothing"], [])


def test_limits_can_be_switched_off() -> None:
    limit = limits_from({"connections": {"critical": None}})["connections"]
    assert (limit.warning, limit.critical) == (75, None)
    assert [size_text(size) for size in (10, 2048, 3 << 20, GIB * 1.5)] == ["10 bytes", "2.0 KiB", "3.0 MiB", "1.5 GiB"]
