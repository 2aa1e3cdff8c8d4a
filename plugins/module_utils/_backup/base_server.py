# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server of a base backup: what it is, that it runs on this host, and its backup session. PRIVATE to the collection."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import struct
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, Refused, WaitTimeout
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import wal
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions, connect, one, query
from ansible_collections.fileforge.ops.plugins.module_utils._wait import wait_for

if t.TYPE_CHECKING:
    import psycopg

OLDEST = 120000
CLOCK_TOLERANCE = 10
"""Seconds that postmaster.pid and the server may differ about the server's start."""
POLL = 0.2

_FACTS = """
SELECT current_setting('server_version_num')::int AS version_num,
       pg_is_in_recovery() AS in_recovery,
       current_setting('data_directory') AS data_directory,
       current_setting('archive_mode') AS archive_mode,
       current_setting('archive_command') AS archive_command,
       coalesce(current_setting('archive_library', true), '') AS archive_library,
       current_setting('data_checksums') = 'on' AS checksums,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size') AS wal_segment_size,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'block_size') AS block_size,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'segment_size') AS segment_pages,
       current_setting('port')::int AS port,
       extract(epoch FROM pg_postmaster_start_time())::float AS server_started,
       system_identifier::text AS system_identifier,
       catalog_version_no AS catalog_version
  FROM pg_control_system()
"""
_ARCHIVER = """
SELECT last_failed_wal, last_failed_time::text AS last_failed_time,
       last_failed_time IS NOT NULL AND (last_archived_time IS NULL OR last_failed_time > last_archived_time) AS failing
  FROM pg_stat_archiver
"""
_TABLESPACES = """
SELECT oid::bigint AS oid, pg_tablespace_location(oid) AS location
  FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY oid
"""


@dataclasses.dataclass(frozen=True)
class Tablespace:
    """A tablespace outside the data directory's own."""

    oid: int
    location: str


@dataclasses.dataclass(frozen=True)
class Server:
    """What a backup must know of its server."""

    version_num: int
    in_recovery: bool
    data_directory: str
    archive_mode: str
    archive_command: str
    archive_library: str
    checksums: bool
    wal_segment_size: int
    block_size: int
    segment_pages: int
    port: int
    server_started: float
    system_identifier: str
    catalog_version: int

    @property
    def version_directory(self) -> str:
        """Name of the directory that this version uses inside a tablespace."""
        return f"PG_{self.version_num // 10000}_{self.catalog_version}"


@contextlib.contextmanager
def session(options: PostgresOptions) -> t.Iterator[psycopg.Connection[t.Any]]:
    """The one connection of a backup; the server ends a running backup when it closes."""
    connection = connect(options, statement_timeout_ms=0, lock_timeout_ms=0, application_name="fileforge base backup")
    try:
        for name in ("idle_session_timeout", "idle_in_transaction_session_timeout"):
            query(connection, "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = %s", (name,))
        yield connection
    finally:
        connection.close()


def look(connection: psycopg.Connection[t.Any]) -> Server:
    """The server's facts; raises Refused (reason ``version``) for one that is too old."""
    server = Server(**one(connection, _FACTS))
    if server.version_num < OLDEST:
        raise Refused("version", f"PostgreSQL {server.version_num // 10000} is too old: 12 or newer is needed")
    return server


def tablespaces_of(connection: psycopg.Connection[t.Any]) -> list[Tablespace]:
    """Tablespaces with a location of their own. Those made in place lie inside the data directory and go with it."""
    rows = [Tablespace(row["oid"], row["location"]) for row in query(connection, _TABLESPACES)]
    return [row for row in rows if os.path.isabs(row.location)]


def check_server(connection: psycopg.Connection[t.Any], server: Server) -> None:
    """Raise Refused unless a backup of this server can be taken here and will be restorable."""
    if server.in_recovery:
        raise Refused("standby", "the server is a standby", hint="run the module on the primary")
    check_local(server)
    if server.archive_mode not in ("on", "always"):
        raise Refused(
            "archiving_off",
            f"archive_mode is {server.archive_mode}: a base backup is of no use without the WAL written during it",
            hint="configure continuous archiving first (fileforge.ops.postgres_wal_archive)",
        )
    if not (server.archive_command or server.archive_library):
        raise Refused(
            "archiving_off",
            "archive_mode is on, but there is no archive_command",
            hint="configure continuous archiving first (fileforge.ops.postgres_wal_archive)",
        )
    archiver = one(connection, _ARCHIVER)
    if archiver["failing"]:
        raise Refused(
            "archiver_failing",
            f"WAL archiving fails: the last attempt, of {archiver['last_failed_wal']} at {archiver['last_failed_time']}, failed",
            hint="look at the server's log for what archive_command says, and repair it first",
        )


def check_local(server: Server) -> None:
    """Raise Refused unless the running server's data directory is on this host and may be read."""
    place = server.data_directory
    hint = "run the module on the database's host, as the user that PostgreSQL runs as or as root"
    try:
        with open(os.path.join(place, "global/pg_control"), "rb") as stream:
            (identifier,) = struct.unpack("=Q", stream.read(8))
        with open(os.path.join(place, "postmaster.pid"), encoding="utf-8", errors="replace") as stream:
            lines = stream.read().splitlines()
    except PermissionError as error:
        raise Refused("data_directory_unreadable", f"{error.filename}: {error.strerror}", hint=hint) from error
    except (OSError, struct.error) as error:
        raise Refused(
            "not_local", f"{place} on this host is not the data directory of the running server: {error}", hint=hint
        ) from error
    if str(identifier) != server.system_identifier:
        raise Refused(
            "not_local", f"{place} on this host belongs to system {identifier}, not {server.system_identifier}", hint=hint
        )
    started = [int(line) if line.strip().isdigit() else -1 for line in (lines + [""] * 4)[2:4]]
    if abs(started[0] - server.server_started) > CLOCK_TOLERANCE or started[1] != server.port:
        raise Refused(
            "not_local", f"{place} on this host is the data directory of another server with the same system identifier", hint=hint
        )


@dataclasses.dataclass(frozen=True)
class Started:
    """A running backup."""

    start_lsn: int


@dataclasses.dataclass(frozen=True)
class Stopped:
    """An ended backup: its end and the files that must go into it."""

    stop_lsn: int
    label: str
    tablespace_map: str
    start_segment: str
    timeline: int


_LABEL = re.compile(r"START WAL LOCATION: (\S+) \(file ([0-9A-F]{24})\)\n")


def start(connection: psycopg.Connection[t.Any], server: Server, label: str, fast: bool) -> Started:
    """Begin; with ``fast`` the checkpoint is done at once."""
    if server.version_num >= 150000:
        row = one(connection, "SELECT pg_backup_start(%s, %s)::text AS lsn", (label, fast))
    else:
        row = one(connection, "SELECT pg_start_backup(%s, %s, false)::text AS lsn", (label, fast))
    return Started(wal.parse_lsn(row["lsn"]))


def stop(connection: psycopg.Connection[t.Any], server: Server) -> Stopped:
    """End. Does not wait for the archiver: ``wait_archived`` does, with a deadline."""
    function = "pg_backup_stop(false)" if server.version_num >= 150000 else "pg_stop_backup(false, false)"
    row = one(connection, f"SELECT lsn::text AS lsn, labelfile, spcmapfile FROM {function}")  # noqa: S608 - one of two constants
    label = row["labelfile"]
    match = _LABEL.match(label)
    if match is None:
        raise IntegrityError("the server gave a backup_label that cannot be read")
    timeline, _number = wal.split_segment_name(match[2], server.wal_segment_size)
    return Stopped(wal.parse_lsn(row["lsn"]), label, row["spcmapfile"] or "", match[2], timeline)


def needed_wal(server: Server, stopped: Stopped, started: Started) -> tuple[str, str]:
    """The last segment, and the backup history file, that must be in the archive before the backup is of use."""
    size = server.wal_segment_size
    last = wal.segment_name(stopped.timeline, wal.last_segment_number(stopped.stop_lsn, size), size)
    return last, f"{stopped.start_segment}.{started.start_lsn % size:08X}.backup"


def archived(data_directory: str, name: str) -> bool:
    """Whether PostgreSQL's archiver has done a file; what is there no more was done and recycled."""
    status = os.path.join(data_directory, "pg_wal", "archive_status", name)
    if os.path.exists(f"{status}.done"):
        return True
    if os.path.exists(f"{status}.ready") or os.path.exists(os.path.join(data_directory, "pg_wal", name)):
        return os.path.exists(f"{status}.done")  # it may have become done between two looks
    return True


def wait_archived(connection: psycopg.Connection[t.Any], server: Server, names: t.Sequence[str], timeout: float) -> None:
    """Wait until the archiver has done the files; raises WaitTimeout that says what it last failed on."""
    try:
        wait_for(
            "the WAL of the backup in the archive",
            lambda: [name for name in names if not archived(server.data_directory, name)],
            lambda missing: not missing,
            timeout=timeout,
            interval=POLL,
        )
    except WaitTimeout as error:
        archiver = one(connection, _ARCHIVER)
        trouble = f"; archiving {archiver['last_failed_wal']} fails" if archiver["failing"] else ""
        raise WaitTimeout(
            f"the WAL of the backup was not archived within {timeout:g} s: {', '.join(error.state['last'])}{trouble}",
            hint="look at the server's log for what archive_command says",
            last=error.state["last"],
        ) from error
