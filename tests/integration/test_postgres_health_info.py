# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Health of real servers, 15 and 18, with the documented role; faults are injected one by one and taken back."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import typing as t
import uuid
from pathlib import Path

import psycopg
import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._checks import Check
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import health_server
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.health import NAMES, chosen, examine
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.health_look import HealthOptions, limits_from

from tests.integration.documented import examples
from tests.lab.daemon import wait_until
from tests.lab.postgres import PostgresCluster

if t.TYPE_CHECKING:
    from tests.integration.conftest import ModuleRunner

Found = dict[str, Check]
PASSWORD = "choose-one"  # as in the documentation
SETTINGS = {
    "max_prepared_transactions": 2,
    "wal_level": "replica",
    "autovacuum": "on",
    "archive_mode": "on",
    "archive_command": "true",
}


def monitored(place: Path, version: int) -> PostgresCluster:
    """A running server with a database and the documented monitoring role."""
    cluster = PostgresCluster(place / f"health-{version}", version=version)
    cluster.create(SETTINGS).start()
    cluster.execute("CREATE ROLE fileforge LOGIN")
    cluster.execute("CREATE DATABASE fileforge OWNER fileforge")
    cluster.execute("CREATE TABLE users (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)", "fileforge")
    cluster.execute("INSERT INTO users (name) SELECT 'user ' || n FROM generate_series(1, 10) AS n", "fileforge")
    with cluster.connect("fileforge") as connection:
        connection.execute(examples("server-checks.md", "sql")[0])
    return cluster


@pytest.fixture(scope="module")
def server(session_place: Path) -> t.Iterator[PostgresCluster]:
    """The primary of this file."""
    place = session_place / uuid.uuid4().hex[:8]
    place.mkdir()
    place.chmod(0o755)
    cluster = monitored(place, 15)
    yield cluster
    cluster.destroy()
    shutil.rmtree(place)


def standby_of(server: PostgresCluster) -> PostgresCluster:
    """A standby beside it, streaming through a slot."""
    copy = PostgresCluster(server.root.parent / "standby")
    copy.root.mkdir(mode=0o755)
    copy.directory("log")
    for place in (copy.root, copy.socket_directory):
        place.mkdir(mode=0o755, exist_ok=True)
        shutil.chown(place, copy.owner) if os.geteuid() == 0 else None
    source = f"host={server.socket_directory} port={server.port} user=postgres application_name=second"
    arguments = ["-d", source, "-D", str(copy.data_directory), "-R", "-C", "-S", "second", "-c", "fast", "-X", "stream"]
    server.run("pg_basebackup", *arguments)
    copy.configure({"port": copy.port, "unix_socket_directories": copy.socket_directory})
    copy.start()
    streaming = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn IS NOT NULL"
    wait_until(lambda: server.execute(streaming), 20, "the standby to stream")
    return copy


@pytest.fixture(scope="module")
def standby(server: PostgresCluster) -> t.Iterator[PostgresCluster]:
    """A standby of it."""
    copy = standby_of(server)
    yield copy
    copy.destroy()
    server.execute("SELECT pg_drop_replication_slot('second') WHERE EXISTS (SELECT FROM pg_replication_slots WHERE NOT active)")


def monitor(cluster: PostgresCluster) -> dict[str, t.Any]:
    """The options of the monitoring role, over TCP with its password."""
    options = {"host": "127.0.0.1", "port": cluster.port, "user": "fileforge_monitor", "password": PASSWORD}
    return {f"postgres_{name}": value for name, value in {**options, "database": "fileforge"}.items()}


def look(cluster: PostgresCluster, *names: str, limits: dict[str, t.Any] | None = None, **more: t.Any) -> Found:
    """Checks of the engine as the monitoring role, by their names without postgres."""
    connection = PostgresOptions.from_params({**monitor(cluster), **more.pop("connection", {})})
    report = examine(connection, HealthOptions(limits=limits_from(limits or {}), **more), chosen(names, []))
    return {check.id.removeprefix("postgres."): check for check in report.checks}


def only(found: Found, name: str) -> Check:
    """The check of that name; everything is told when it is not there."""
    assert name in found, found
    return found[name]


@contextlib.contextmanager
def session(cluster: PostgresCluster, *statements: str) -> t.Iterator[psycopg.Connection[t.Any]]:
    """A session of the application that has run statements and stays as it is."""
    with cluster.connect("fileforge", application_name="the application") as connection:
        for statement in statements:
            connection.execute(statement)
        yield connection


@contextlib.contextmanager
def waiting(cluster: PostgresCluster, statement: str, condition: str) -> t.Iterator[None]:
    """A session that hangs in a statement, until the body ends; the condition says when it does."""
    connection = cluster.connect("fileforge", application_name="the victim")

    def run() -> None:
        with contextlib.suppress(psycopg.Error):
            connection.execute(statement)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_until(
            lambda: cluster.execute(f"SELECT 1 FROM pg_stat_activity WHERE application_name = 'the victim' AND {condition}"),
            20,
            statement,
        )
        yield
    finally:
        with contextlib.suppress(psycopg.Error):
            connection.cancel()
        thread.join(20)
        connection.close()


def test_healthy_with_the_documented_role(run_module: ModuleRunner, server: PostgresCluster) -> None:
    arguments = {**monitor(server), "expected_role": "primary", "require_archiving": True}
    for check in (True, False, False):
        result = run_module("postgres_health_info", arguments, check=check)
        assert {item["id"]: item["status"] for item in result["checks"] if item["status"] != "ok"} == {}
        assert (result["status"], result["changed"], result["blocking"]) == ("ok", False, [])
    assert {item["id"] for item in result["checks"]} == {f"postgres.{name}" for name in ("connection", *NAMES)}
    assert result["server"]["role"] == "primary" and result["server"]["version"].startswith("15")
    lag = next(item for item in result["checks"] if item["id"] == "postgres.replication_lag")
    assert lag["value"] is None and lag["status"] == "ok"


def test_the_newest_version_with_the_distributions_python(run_module: ModuleRunner, session_place: Path) -> None:
    cluster = monitored(session_place, 18)
    try:
        cluster.execute("SELECT pg_create_physical_replication_slot('gone', true)")
        result = run_module("postgres_health_info", monitor(cluster), interpreter="/usr/bin/python3")
        assert {item["id"]: item["status"] for item in result["checks"] if item["status"] != "ok"} == {"postgres.slots": "warning"}
        assert result["server"]["version"].startswith("18") and len(result["checks"]) == len(NAMES) + 1
    finally:
        cluster.destroy()


def test_the_database_is_down(run_module: ModuleRunner, place: Path) -> None:
    arguments = {"postgres_host": str(place), "postgres_port": 5499}
    result = run_module("postgres_health_info", arguments)
    found = {item["id"]: item["status"] for item in result["checks"]}
    assert found.pop("postgres.connection") == "critical" and set(found.values()) == {"unknown"}
    assert (result["status"], result["server"]) == ("critical", {})
    assert "Database Issues" in result["checks"][0]["hint"] and result["checks"][1]["hint"] == "see postgres.connection"
    wrong = run_module("postgres_health_info", {**arguments, "limits": {"conections": {}}}, expect_failure=True)
    assert wrong["code"] == "invalid_option" and "connections" in wrong["hint"]


def test_no_permission_is_unknown(server: PostgresCluster) -> None:
    server.execute("CREATE ROLE nobody_special LOGIN")
    own = {"postgres_host": str(server.socket_directory), "postgres_user": "nobody_special"}
    found = look(server, connection=own)
    hidden = {name for name, check in found.items() if check.status == "unknown"}
    assert hidden == {
        "connections", "blocking", "long_queries", "idle_in_transaction", "long_transactions", "replicas", "replication_lag",
        "replication_lag_time", "sequences", "invalid_indexes", "pending_restart", "archiver",
    }  # fmt: skip
    assert all("server-checks" in found[name].hint for name in hidden - {"archiver"}), "the hint says what to grant"
    denied = look(server, connection={"postgres_password": "wrong"})
    assert set(check.status for check in denied.values()) == {"unknown"} and "password" in denied["connection"].summary


def test_blocked_sessions(server: PostgresCluster) -> None:
    locked = "SELECT * FROM users WHERE id = 1 FOR UPDATE"
    with session(server, "BEGIN", locked) as root:
        with waiting(server, "UPDATE users SET name = 'secret value' WHERE id = 1", "wait_event_type = 'Lock'"):
            limits = {"blocking": {"warning": 0.001, "critical": 600}}
            connection = PostgresOptions.from_params(monitor(server))
            report = examine(connection, HealthOptions(limits=limits_from(limits)), chosen(["blocking"], []))
            check = report.checks[1]
            assert (check.id, check.status) == ("postgres.blocking", "warning")
            assert str(root.info.backend_pid) in check.hint
            (tree,) = report.blocking
            assert (tree["pid"], tree["state"], tree["blocked"]) == (root.info.backend_pid, "idle in transaction", 1)
            assert tree["blocks"][0]["application"] == "the victim" and "secret" not in str(tree)
            assert (
                only(look(server, "blocking", limits={"blocking": {"warning": 0, "critical": 0.001}}), "blocking").status
                == "critical"
            )
            idle = only(
                look(server, "idle_in_transaction", limits={"idle_in_transaction": {"warning": 0.001}}), "idle_in_transaction"
            )
            assert idle.status == "warning" and "the application" in idle.summary
            old = only(look(server, "long_transactions", limits={"long_transactions": {"warning": 0.001}}), "long_transactions")
            assert old.status == "warning"
    assert only(look(server, "blocking"), "blocking").status == "ok"


def test_long_queries_but_not_those_of_dumps(server: PostgresCluster) -> None:
    with waiting(server, "SELECT pg_sleep(60)", "state = 'active'"):
        limits = {"long_queries": {"warning": 0, "critical": 0.001}}
        check = only(look(server, "long_queries", limits=limits), "long_queries")
        assert check.status == "critical" and check.evidence[0]["query"] == "SELECT pg_sleep(?)"
        assert only(look(server, "long_queries", limits=limits, ignore_applications=["the victim"]), "long_queries").value == 0


def test_prepared_transactions_block_too(server: PostgresCluster) -> None:
    with session(server, "BEGIN", "SELECT * FROM users WHERE id = 2 FOR UPDATE", "PREPARE TRANSACTION 'forgotten'"):
        pass
    try:
        limits = {"prepared_transactions": {"warning": 0, "critical": 0.001}}
        check = only(look(server, "prepared_transactions", limits=limits), "prepared_transactions")
        assert check.status == "critical" and "forgotten" in check.summary
        with waiting(server, "DELETE FROM users WHERE id = 2", "wait_event_type = 'Lock'"):
            blocking = only(look(server, "blocking"), "blocking")
            assert "a prepared transaction (blocks 1)" in blocking.summary
    finally:
        server.execute("ROLLBACK PREPARED 'forgotten'", "fileforge")


def test_one_stuck_check_is_cut_off_and_the_others_go_on(server: PostgresCluster) -> None:
    with session(server, "BEGIN", "LOCK TABLE pg_sequence IN ACCESS EXCLUSIVE MODE"):
        found = look(server, check_timeout=0.3)
    bad = {name: check for name, check in found.items() if check.status == "unknown"}
    assert set(bad) == {"sequences"} and "timeout" in bad["sequences"].summary


def test_a_server_that_is_frozen(server: PostgresCluster) -> None:
    pid = t.cast(int, server.pid)
    os.kill(pid, signal.SIGSTOP)
    try:
        found = look(server, connection={"postgres_connect_timeout": 2}, timeout=20)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert found.pop("connection").status == "critical"
    assert {check.status for check in found.values()} == {"unknown"}


def test_slots_and_roles(server: PostgresCluster) -> None:
    server.execute("SELECT pg_create_physical_replication_slot('abandoned', true)")
    try:
        slots = only(look(server, "slots"), "slots")
        assert slots.status == "warning" and "abandoned: inactive" in slots.summary and "pg_drop_replication_slot" in slots.hint
        assert only(look(server, "slots", limits={"slots": {"warning": 0, "critical": 0}}), "slots").status == "critical"
    finally:
        server.execute("SELECT pg_drop_replication_slot('abandoned')")
    assert only(look(server, "role", expected_role="standby"), "role").status == "critical"
    assert only(look(server, "replicas", expected_replicas=1), "replicas").status == "critical"


def test_replication(server: PostgresCluster, standby: PostgresCluster) -> None:
    limits = {"replication_lag": {"warning": 100_000, "critical": 1_000_000}}
    names = ("role", "replicas", "slots")
    caught_up = "SELECT 1 FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()"
    wait_until(lambda: server.execute(caught_up), 20, "the standby to catch up")
    assert {check.status for check in look(server, *names, "replication_lag", expected_replicas=1, limits=limits).values()} == {
        "ok"
    }
    mine = look(standby, *names, "replication_lag", expected_role="standby")
    assert {name: check.status for name, check in mine.items() if check.status != "ok"} == {}
    assert mine["wal_receiver"].value == "streaming"
    standby.execute("SELECT pg_wal_replay_pause()")
    with server.connect("fileforge") as connection:
        connection.execute("CREATE TABLE much AS SELECT n, repeat('x', 500) FROM generate_series(1, 4000) AS n")
    behind = "flush_lsn = pg_current_wal_lsn() AND pg_wal_lsn_diff(flush_lsn, replay_lsn) > 1000000"
    lagging = f"SELECT 1 FROM pg_stat_replication WHERE {behind}"
    wait_until(lambda: server.execute(lagging), 20, "the standby to lag")
    lag = only(look(server, "replication_lag", limits=limits), "replication_lag")
    assert lag.status == "critical" and lag.evidence[0]["standby"] == "second"
    theirs = only(look(standby, "replication_lag"), "replication_lag")
    assert theirs.status == "warning" and "pg_wal_replay_resume" in theirs.hint
    standby.execute("SELECT pg_wal_replay_resume()")
    wait_until(lambda: server.execute(caught_up), 20, "the standby to catch up")
    assert only(look(server, "replication_lag", limits=limits), "replication_lag").status == "ok"
    standby.execute("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'")
    standby.execute("SELECT pg_reload_conf()")
    wait_until(lambda: not standby.execute("SELECT 1 FROM pg_stat_wal_receiver"), 20, "the receiver to be gone")
    assert only(look(standby, "replicas", "replication_lag"), "wal_receiver").status == "critical"
    wait_until(lambda: not server.execute("SELECT 1 FROM pg_stat_replication"), 20, "the sender to be gone")
    assert only(look(server, "slots"), "slots").status == "warning"


def test_archiver_by_what_happened_last(server: PostgresCluster) -> None:
    def command(text: str) -> None:
        server.execute(f"ALTER SYSTEM SET archive_command = '{text}'")
        server.execute("SELECT pg_reload_conf()")
        server.switch_wal()

    def happened(what: str) -> t.Callable[[], object]:
        return lambda: server.execute(f"SELECT 1 FROM pg_stat_archiver WHERE {what}")

    failing = "last_failed_time > coalesce(last_archived_time, '-infinity')"
    command("false")
    wait_until(happened(failing), 20, "archiving to fail")
    check = only(look(server, "archiver"), "archiver")
    assert check.status == "critical" and "archiving fails" in check.summary and check.evidence["waiting"] >= 1
    server.execute("INSERT INTO users (name) VALUES ('later')", "fileforge")
    command("true")
    wait_until(happened(f"NOT ({failing})"), 90, "archiving to work again")
    after = only(look(server, "archiver"), "archiver")
    assert after.status == "ok", "a failure that is over is no failure"
    server.execute("INSERT INTO users (name) VALUES ('not archived yet')", "fileforge")
    old = only(look(server, "archiver", limits={"archiver": {"warning": 0, "critical": 0.001}}), "archiver")
    assert old.status == "critical" and old.value is not None
    assert "archive_timeout is 0" in old.summary, "one row of 100 bytes is data"
    server.execute("ALTER SYSTEM SET archive_timeout = '1h'")
    server.execute("SELECT pg_reload_conf()")

    def idle() -> Check:
        return only(look(server, "archiver", limits={"archiver": {"warning": 0, "critical": 0.001}}), "archiver")

    def all_is_archived() -> bool:
        server.execute("SELECT pg_switch_wal()")  # again and again: autovacuum may have written something
        return idle().value is None

    wait_until(all_is_archived, 20, "all to be archived")
    assert idle().status == "ok", "an idle server has nothing to archive"


def test_what_runs_out(server: PostgresCluster) -> None:
    server.execute("CREATE TABLE small (id smallserial PRIMARY KEY)", "fileforge")
    server.execute("GRANT SELECT ON SEQUENCE small_id_seq TO fileforge_monitor", "fileforge")
    server.execute("SELECT setval('small_id_seq', 30000)", "fileforge")
    check = only(look(server, "sequences"), "sequences")
    assert check.status == "critical" and check.evidence[0]["column"] == "public.small.id"
    server.execute("SELECT setval('small_id_seq', 1)", "fileforge")
    server.execute("CREATE SEQUENCE hidden", "fileforge")
    hidden = only(look(server, "sequences"), "sequences")
    assert hidden.status == "unknown" and "GRANT SELECT" in hidden.hint
    server.execute("DROP SEQUENCE hidden", "fileforge")
    limits = {name: {"warning": 0, "critical": 90} for name in ("wraparound", "connections")}
    found = look(server, "wraparound", "connections", limits=limits)
    assert (found["wraparound"].status, found["connections"].status) == ("warning", "warning")


def test_what_rots(server: PostgresCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    server.execute("CREATE TABLE twice AS SELECT 1 AS n FROM generate_series(1, 12000)", "fileforge")
    server.execute("ALTER TABLE twice SET (autovacuum_enabled = off)", "fileforge")
    with pytest.raises(psycopg.errors.UniqueViolation):
        server.execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON twice (n)", "fileforge")
    index = only(look(server, "invalid_indexes"), "invalid_indexes")
    assert index.status == "warning" and "index_rebuild" in index.hint and index.evidence[0]["index"] == "public.broken"
    server.execute("ANALYZE twice", "fileforge")
    server.execute("DELETE FROM twice", "fileforge")
    wait_until(lambda: only(look(server, "vacuum_debt"), "vacuum_debt").status == "warning", 20, "the dead rows to be counted")
    debt = only(look(server, "vacuum_debt"), "vacuum_debt")
    assert debt.evidence[0]["autovacuum"] == "off" and "db_maintenance" in debt.hint
    server.execute("DROP TABLE twice", "fileforge")
    server.execute("ALTER SYSTEM SET max_connections = 61")
    server.execute("ALTER SYSTEM SET recovery_target_time = '2026-01-01 00:00:00+00'")
    server.execute("SELECT pg_reload_conf()")
    pending = "SELECT 1 FROM pg_settings WHERE pending_restart AND name = 'recovery_target_time'"
    wait_until(lambda: server.execute(pending), 20, "the settings to be pending")
    assert only(look(server, "pending_restart"), "pending_restart").evidence == ["max_connections"]
    server.execute("ALTER SYSTEM RESET max_connections")
    server.execute("ALTER SYSTEM RESET recovery_target_time")
    server.execute("SELECT pg_reload_conf()")
    real = health_server.time.time
    monkeypatch.setattr(health_server.time, "time", lambda: real() + 3)
    assert only(look(server, "time_sync"), "time_sync").status == "warning"


def test_damaged_pages(server: PostgresCluster) -> None:
    """The last one: it restarts the server."""
    server.execute("CREATE TABLE damaged AS SELECT n FROM generate_series(1, 1000) AS n", "fileforge")
    path = server.data_directory / server.execute("SELECT pg_relation_filepath('damaged')", "fileforge")[0][0]
    server.execute("CHECKPOINT")
    server.stop()
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff" * 8)
    server.start()
    with pytest.raises(psycopg.errors.DataCorrupted):
        server.execute("SELECT * FROM damaged", "fileforge")
    wait_until(
        lambda: only(look(server, "checksum_failures"), "checksum_failures").status == "critical", 20, "the failure to be counted"
    )
    check = only(look(server, "checksum_failures"), "checksum_failures")
    assert check.evidence == [{"database": "fileforge", "failures": 1}] and "db_restore" in check.hint
