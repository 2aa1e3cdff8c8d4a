# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The health of one PostgreSQL server, 12 to 18, with no more rights than pg_monitor has. PRIVATE to the collection.

Every probe has its own time: the server cancels a statement that takes longer, and when the server does not even do that, the
connection is cut and the next probe gets a new one. A probe that fails makes its own checks ``unknown`` and no others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import threading
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, UNKNOWN, Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError, Unavailable, WaitTimeout
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import (
    health_replication,
    health_server,
    health_sessions,
    health_storage,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions, connect, one, query
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.health_look import (
    GRANT,
    INCIDENT,
    HealthOptions,
    Look,
    Server,
)
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline

if t.TYPE_CHECKING:
    import psycopg

OLDEST = 12
GRACE = 1.0
"""Seconds that the server gets to cancel a statement by itself before its connection is cut."""

_SERVER = """
SELECT current_setting('server_version_num')::int / 10000 AS version, current_setting('server_version') AS version_text,
       pg_is_in_recovery() AS standby, pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_statistics,
       pg_has_role(current_user, 'pg_read_all_settings', 'USAGE') AS sees_settings,
       pg_postmaster_start_time()::text AS started, current_database() AS database, current_setting('cluster_name') AS name,
       coalesce(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text, '') AS position
"""


@dataclasses.dataclass(frozen=True)
class Probe:
    """One look, the checks that come of it, and the predefined role without which it sees only a part."""

    names: tuple[str, ...]
    look: t.Callable[[Look], list[Check]]
    needs: str = ""


STATISTICS, SETTINGS = "pg_read_all_stats", "pg_read_all_settings"
PROBES = (
    Probe(("role",), health_replication.role),
    Probe(("connections",), health_sessions.connections, STATISTICS),
    Probe(("blocking",), health_sessions.blocking, STATISTICS),
    Probe(("long_queries", "idle_in_transaction", "long_transactions"), health_sessions.slow_sessions, STATISTICS),
    Probe(("prepared_transactions",), health_sessions.prepared_transactions),
    Probe(("replicas", "replication_lag", "replication_lag_time"), health_replication.replication, STATISTICS),
    Probe(("slots",), health_replication.slots),
    Probe(("archiver",), health_replication.archiver),
    Probe(("wraparound", "wraparound_multixact"), health_storage.wraparound),
    Probe(("sequences",), health_storage.sequences),
    Probe(("invalid_indexes",), health_storage.invalid_indexes, STATISTICS),
    Probe(("vacuum_debt",), health_storage.vacuum_debt),
    Probe(("checksum_failures",), health_storage.checksum_failures),
    Probe(("pending_restart",), health_server.pending_restart, SETTINGS),
    Probe(("time_sync",), health_server.time_sync),
    Probe(("checkpoints",), health_server.checkpoints),
    Probe(("cache_hit",), health_server.cache_hit),
)
NAMES = tuple(name for probe in PROBES for name in probe.names)


@dataclasses.dataclass
class Report:
    """All checks, what the server is, and who blocks whom."""

    checks: list[Check] = dataclasses.field(default_factory=list)
    server: dict[str, t.Any] = dataclasses.field(default_factory=dict)
    blocking: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)


def chosen(names: t.Sequence[str], skipped: t.Sequence[str]) -> list[Probe]:
    """The probes of the named checks, all when none is named, without the skipped ones. Raises InvalidOption."""
    for option, given in (("checks", names), ("skip", skipped)):
        for name in given:
            if name not in NAMES:
                raise InvalidOption(option, name, "there is no such check", hint=f"there are: {', '.join(NAMES)}")
    wanted = [name for name in names or NAMES if name not in skipped]
    return [
        dataclasses.replace(probe, names=tuple(name for name in probe.names if name in wanted))
        for probe in PROBES
        if any(name in wanted for name in probe.names)
    ]


class _Guard:
    """Cuts a connection when the server neither answers nor cancels within the time."""

    def __init__(self, connection: psycopg.Connection[t.Any], seconds: float) -> None:
        self.rang = False
        self._descriptor = os.dup(connection.fileno())
        self._timer = threading.Timer(seconds, self._ring)
        self._timer.daemon = True

    def __enter__(self) -> _Guard:
        self._timer.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._timer.cancel()
        self._timer.join()
        os.close(self._descriptor)

    def _ring(self) -> None:
        self.rang = True
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._descriptor)) as watched:
            watched.shutdown(socket.SHUT_RDWR)


class _Examination:
    """The connection of the moment, and what it gives."""

    def __init__(self, options: PostgresOptions, health: HealthOptions) -> None:
        self._options = options
        self._health = health
        self._deadline = Deadline(health.timeout)
        self._connection: psycopg.Connection[t.Any] | None = None
        self._lost: OpsError | None = None
        self.server: Server | None = None
        self.blocking: list[dict[str, t.Any]] = []

    def open(self) -> psycopg.Connection[t.Any]:
        """The connection; a new one when the last was cut or closed. Raises what connecting raised, at once the second time."""
        if self._connection is not None and not self._connection.closed:
            return self._connection
        if self._lost is not None:
            raise self._lost
        milliseconds = max(1, int(self._health.check_timeout * 1000))
        limited = dataclasses.replace(self._options, connect_timeout=max(2, min(self._options.connect_timeout, self._left())))
        try:
            self._connection = connect(
                limited, statement_timeout_ms=milliseconds, lock_timeout_ms=milliseconds, application_name="fileforge.ops health"
            )
            self._guarded(
                lambda connection: query(connection, "SET search_path = pg_catalog; SET default_transaction_read_only = on")
            )
        except OpsError as error:
            self._lost = error
            raise
        return self._connection

    def close(self) -> None:
        """Leave."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()

    def _left(self) -> int:
        return int(self._deadline.left) + 1

    def _guarded(self, work: t.Callable[[psycopg.Connection[t.Any]], t.Any]) -> t.Any:
        connection = self.open()
        seconds = min(self._health.check_timeout + GRACE, max(0.1, self._deadline.left))
        with _Guard(connection, seconds) as guard:
            try:
                return work(connection)
            except OpsError as error:
                if guard.rang:
                    connection.close()
                    raise WaitTimeout(f"no answer within {seconds:g} s", hint=INCIDENT) from error
                raise

    def introduce(self) -> Server:
        """What server this is."""
        row = self._guarded(lambda connection: one(connection, _SERVER))
        self.server = Server(**row)
        return self.server

    def run(self, probe: Probe) -> list[Check]:
        """The checks of a probe; ``unknown`` ones when it could not look."""
        if not self._deadline.left:
            return unknown(probe.names, f"the {self._health.timeout:g} s for all checks were over", "raise timeout")
        server = t.cast(Server, self.server)
        missing = (probe.needs == STATISTICS and not server.sees_statistics) or (
            probe.needs == SETTINGS and not server.sees_settings
        )
        if missing:
            return unknown(probe.names, f"the role {self._options.user} is no member of {probe.needs} and sees only a part", GRANT)

        def work(connection: psycopg.Connection[t.Any]) -> list[Check]:
            look = Look(connection, server, self._health)
            found = probe.look(look)
            self.blocking += look.blocking
            return found

        try:
            return t.cast("list[Check]", self._guarded(work))
        except OpsError as error:
            return unknown(probe.names, f"could not look: {error.message}", error.hint or GRANT)


def unknown(names: t.Iterable[str], why: str, hint: str) -> list[Check]:
    """Checks that nobody could answer."""
    return [Check(f"postgres.{name}", UNKNOWN, why, hint=hint) for name in names]


def examine(options: PostgresOptions, health: HealthOptions, probes: t.Sequence[Probe]) -> Report:
    """Run the probes. ``postgres.connection`` says whether the server could be asked at all.

    A server that refuses, is starting or does not answer is ``critical``: that was seen. One that does not let this role in, or
    that this host lacks a library for, is ``unknown``.
    """
    report = Report()
    names = [name for probe in probes for name in probe.names]
    examination = _Examination(options, health)
    try:
        server = examination.introduce()
        if server.version < OLDEST:
            raise OpsError(
                f"PostgreSQL {server.version_text} is older than {OLDEST}", hint="upgrade it: it is not maintained any more"
            )
        report.server = server.as_dict()
        summary = f"PostgreSQL {server.version_text} answers as {server.role}, at {server.position or 'no position'}"
        report.checks.append(Check("postgres.connection", OK, summary, value=server.version_text))
        for probe in probes:
            wanted = {f"postgres.{name}" for name in probe.names} | (
                {"postgres.wal_receiver"} if "replicas" in probe.names else set()
            )
            report.checks += [check for check in examination.run(probe) if check.id in wanted]
        report.blocking = examination.blocking
    except OpsError as error:
        down = isinstance(error, (Unavailable, WaitTimeout))
        hint = error.hint or INCIDENT
        report.checks.append(Check("postgres.connection", CRITICAL if down else UNKNOWN, error.message, hint=f"{INCIDENT}; {hint}"))
        report.checks += unknown(names, "the server could not be asked", "see postgres.connection")
    finally:
        examination.close()
    return report
