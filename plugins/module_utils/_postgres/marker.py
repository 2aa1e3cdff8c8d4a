# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A row whose commit time is known, and the wait until its WAL is archived. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import datetime
import re
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import one, query, translated
from ansible_collections.fileforge.ops.plugins.module_utils._time import iso
from ansible_collections.fileforge.ops.plugins.module_utils._wait import wait_for

if t.TYPE_CHECKING:
    import psycopg

FROM_SERVER, FROM_CLOCK, FROM_ROW = "commit_timestamp", "clock_after_commit", "row"
FAILURES = 3
"""Failed attempts to archive after which waiting is given up: a single one is retried by the server."""
_NAME = re.compile(r"[a-z_][a-z0-9_$]{0,62}\Z")
_SEGMENT = re.compile(r"[0-9A-F]{24}")


@dataclasses.dataclass(frozen=True)
class Marker:
    """A committed marker. ``not_before`` and ``committed_at`` enclose the commit."""

    label: str
    created: bool
    not_before: datetime.datetime
    committed_at: datetime.datetime
    source: str
    lsn: str
    segment: str

    def as_dict(self) -> dict[str, t.Any]:
        """What the module returns."""
        return {
            "label": self.label,
            "not_before": iso(self.not_before),
            "committed_at": iso(self.committed_at),
            "committed_at_source": self.source,
            "lsn": self.lsn,
            "segment": self.segment,
        }


def table_name(text: str) -> tuple[str, ...]:
    """``schema.table`` or ``table`` as its parts; only plain lower-case names, so nothing needs quoting anywhere."""
    parts = tuple(text.split("."))
    if len(parts) > 2 or not all(_NAME.match(part) for part in parts):
        raise InvalidOption("table", text, "not a table name", hint="use lower-case letters, digits and underscores")
    return parts


def find(connection: psycopg.Connection[t.Any], table: str, label: str) -> Marker | None:
    """The marker with this label, if it is there. A missing table is no marker."""
    name = ".".join(table_name(table))
    if one(connection, "SELECT to_regclass(%s) IS NULL AS missing", (name,))["missing"]:
        return None
    tracked = one(connection, "SELECT current_setting('track_commit_timestamp')::bool AS tracked")["tracked"]
    committed = "pg_xact_commit_timestamp(xmin)" if tracked else "NULL::timestamptz"
    sql = f"SELECT marked_at, {committed} AS committed_at FROM {name} WHERE label = %s"  # noqa: S608 - the name was checked
    rows = query(connection, sql, (label,))
    if not rows:
        return None
    marked, exact = rows[0]["marked_at"], rows[0]["committed_at"]
    lsn, segment = _position(connection)
    return Marker(label, False, marked, exact or marked, FROM_SERVER if exact else FROM_ROW, lsn, segment)


def create(connection: psycopg.Connection[t.Any], table: str, label: str) -> Marker:
    """Insert the marker and commit it durably. ``connection`` is in autocommit mode.

    Two runs at once with the same label: the second one finds the row of the first.
    """
    if one(connection, "SELECT pg_is_in_recovery() AS standby")["standby"]:
        raise Refused("in_recovery", "the server is a standby or still recovering: it cannot take a marker", hint="use the primary")
    name = ".".join(table_name(table))
    query(
        connection,
        f"CREATE TABLE IF NOT EXISTS {name} (label text PRIMARY KEY, marked_at timestamptz NOT NULL DEFAULT clock_timestamp())",
    )
    with translated(f"insert into {name}"), connection.transaction():
        query(connection, "SET LOCAL synchronous_commit = on")
        insert = f"INSERT INTO {name} (label) VALUES (%s) ON CONFLICT DO NOTHING"  # noqa: S608 - the name was checked
        inserted = query(connection, f"{insert} RETURNING marked_at, txid_current()::text AS transaction", (label,))
    if not inserted:
        return t.cast(Marker, find(connection, table, label))
    after = one(
        connection,
        "SELECT clock_timestamp() AS clock, CASE WHEN current_setting('track_commit_timestamp')::bool"
        " THEN pg_xact_commit_timestamp((%s::bigint %% 4294967296)::text::xid) END AS exact",
        (inserted[0]["transaction"],),
    )
    lsn, segment = _position(connection)
    source = FROM_SERVER if after["exact"] else FROM_CLOCK
    return Marker(label, True, inserted[0]["marked_at"], after["exact"] or after["clock"], source, lsn, segment)


def wait_archived(connection: psycopg.Connection[t.Any], timeout: float) -> str:
    """Finish the current WAL segment and wait until the archiver has it; return the segment's name.

    Raises Refused when nothing archives, and WaitTimeout when the deadline passes or the archiver keeps failing.
    """
    mode = one(connection, "SELECT current_setting('archive_mode') AS mode")["mode"]
    if mode == "off":
        raise Refused("archive_mode_off", "archive_mode is off: no WAL is archived", hint="run backup.yml first")
    segment = one(connection, "SELECT pg_walfile_name(pg_switch_wal()) AS segment")["segment"]
    begin = _archiver(connection)["failed_count"]

    def failed(state: dict[str, t.Any]) -> str | None:
        if state["failed_count"] - begin < FAILURES:
            return None
        return f"archiving of {state['last_failed_wal']} failed {state['failed_count'] - begin} times: see the server's log"

    wait_for(
        f"WAL segment {segment} in the archive",
        lambda: _archiver(connection),
        lambda state: _covers(state["last_archived_wal"], segment),
        timeout=timeout,
        interval=0.25,
        failed=failed,
    )
    return t.cast(str, segment)


def _covers(archived: str | None, segment: str) -> bool:
    """Whether the last archived file proves that ``segment`` was archived: the archiver goes in order of names."""
    match = _SEGMENT.match(archived or "")
    return match is not None and match.group() >= segment


def _archiver(connection: psycopg.Connection[t.Any]) -> dict[str, t.Any]:
    row = one(
        connection,
        "SELECT last_archived_wal, last_archived_time::text, failed_count, last_failed_wal, last_failed_time::text"
        " FROM pg_stat_archiver",
    )
    return {key: row[key] for key in row}


def _position(connection: psycopg.Connection[t.Any]) -> tuple[str, str]:
    row = one(connection, "SELECT lsn::text AS lsn, pg_walfile_name(lsn) AS segment FROM pg_current_wal_insert_lsn() AS lsn")
    return row["lsn"], row["segment"]
