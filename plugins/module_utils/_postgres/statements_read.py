# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What pg_stat_statements has counted, whatever its version calls it. PRIVATE to the collection.

Columns were renamed between versions, and an extension that nobody updated keeps its old ones on a new server: so they are chosen
by what the catalog says the view has.
"""

from __future__ import annotations

import dataclasses
import datetime
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import NotFound, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._evidence.redaction import Redactor
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import Row, one, query
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.health_look import without_literals

if t.TYPE_CHECKING:
    import psycopg

EXTENSION = "pg_stat_statements"
HIDDEN = "<insufficient privilege>"
GRANT = "GRANT pg_monitor TO the role: pg_read_all_stats, which is part of it, shows the statements of others"
PRELOAD = (
    "add pg_stat_statements to shared_preload_libraries, restart the server, and CREATE EXTENSION pg_stat_statements "
    "(docs/performance-review.md)"
)
TEXT = 8000
"""Characters of a statement that are fetched."""
SHOWN = 300
"""Characters of a statement that are shown."""
COLUMNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "calls": (("calls",),),
    "time": (("total_exec_time",), ("total_time",)),
    "largest": (("max_exec_time",), ("max_time",)),
    "rows": (("rows",),),
    "hits": (("shared_blks_hit",),),
    "reads": (("shared_blks_read",),),
    "read_time": (("shared_blk_read_time",), ("blk_read_time",)),
    "temporary": (("temp_blks_read", "temp_blks_written"),),
    "wal": (("wal_bytes",),),
}
"""For each figure the columns whose sum it is; the first set that the view has counts."""
COUNTERS = ("calls", "time", "rows", "hits", "reads", "read_time", "temporary", "wal")
"""Figures that only grow until they are reset: a later look less an earlier one is what happened in between."""
NEEDED = ("calls", "time", "rows")

_EXTENSION = """
SELECT e.extversion AS version, quote_ident(n.nspname) AS schema,
       (SELECT array_agg(a.attname::text) FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
        WHERE c.relname = 'pg_stat_statements' AND c.relnamespace = n.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       EXISTS (SELECT FROM pg_class AS c WHERE c.relname = 'pg_stat_statements_info' AND c.relnamespace = n.oid) AS has_info
FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'
"""
_SERVER = """
SELECT current_setting('server_version') AS version, current_database() AS database, clock_timestamp() AS now,
       current_user::text AS role, pg_postmaster_start_time() AS started,
       (SELECT system_identifier FROM pg_control_system())::text AS system,
       current_setting('pg_stat_statements.max', true) AS most, current_setting('pg_stat_statements.track', true) AS track,
       coalesce(current_setting('compute_query_id', true), 'auto') AS ids, current_setting('track_io_timing') AS io_timing
"""


@dataclasses.dataclass(frozen=True)
class Statement:
    """One entry: its counters, who ran it where, and what it is without the values in it."""

    key: str
    database: str
    role: str
    text: str
    figures: t.Mapping[str, float]
    largest: float | None
    """Longest execution in ms, since the entry was made."""
    since: float | None
    """Seconds since 1970 when the entry was made, where the extension (1.11) tells."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """All entries at one time. ``deallocated`` counts the times that the least used entries were dropped to make room."""

    identity: str
    server: str
    extension: str
    taken: float
    reset: float | None
    deallocated: int | None
    most: int | None
    io_timing: bool
    statements: tuple[Statement, ...] = ()
    hidden: int = 0
    """Entries of other roles whose text may not be seen."""


def expressions(columns: t.Collection[str]) -> dict[str, str]:
    """The SQL of each figure that a view with these columns has. Raises OpsError when it lacks what every version has."""
    found = {}
    for name, choices in COLUMNS.items():
        chosen = next((choice for choice in choices if set(choice) <= set(columns)), None)
        if chosen:
            found[name] = " + ".join(f"s.{column}" for column in chosen)
    missing = [name for name in NEEDED if name not in found]
    if missing:
        hint = "ALTER EXTENSION pg_stat_statements UPDATE, and look which program made that view"
        raise OpsError(f"the view pg_stat_statements has no column for {', '.join(missing)}", hint=hint)
    return found


def statement_sql(schema: str, columns: t.Collection[str]) -> str:
    """The query for all entries of a view with these columns."""
    figures = [f"({sql})::float8 AS {name}" for name, sql in expressions(columns).items()]
    figures.append(f"{'s.toplevel' if 'toplevel' in columns else 'true'} AS toplevel")
    figures.append(f"{'extract(epoch FROM s.stats_since)' if 'stats_since' in columns else 'NULL'}::float8 AS since")
    return (
        f"SELECT s.userid::bigint, s.dbid::bigint, s.queryid, left(s.query, {TEXT}) AS query, "  # noqa: S608 - names of the catalog
        f"coalesce(d.datname, s.dbid::text) AS database, coalesce(r.rolname, s.userid::text) AS role, {', '.join(figures)} "
        f"FROM {schema}.pg_stat_statements AS s LEFT JOIN pg_database AS d ON d.oid = s.dbid "
        "LEFT JOIN pg_roles AS r ON r.oid = s.userid"
    )


def read(connection: psycopg.Connection[t.Any], databases: t.Sequence[str] = ()) -> Reading:
    """All entries of these databases, of every one without them.

    Raises NotFound without the extension, and OpsError when its library is not loaded or it records nothing.
    """
    server = one(connection, _SERVER)
    extension = _extension(connection, server)
    _require_recording(server)
    try:
        rows = query(connection, statement_sql(extension["schema"], extension["columns"]))
    except OpsError as error:
        if "shared_preload_libraries" in error.message:
            raise OpsError("the library of pg_stat_statements is not loaded", hint=PRELOAD) from error
        raise
    info = _info(connection, extension)
    hidden = sum(row["query"] == HIDDEN for row in rows)
    return Reading(
        identity=f"{server['system']}/{server['version'].split('.')[0].split(' ')[0]}",
        server=server["version"],
        extension=extension["version"],
        taken=_epoch(server["now"]) or 0.0,
        reset=_epoch(info.get("stats_reset")),
        deallocated=info.get("dealloc"),
        most=int(server["most"]) if server["most"] else None,
        io_timing=server["io_timing"] == "on",
        statements=combined(row for row in rows if row["query"] != HIDDEN and (not databases or row["database"] in databases)),
        hidden=hidden,
    )


def _extension(connection: psycopg.Connection[t.Any], server: Row) -> Row:
    rows = query(connection, _EXTENSION)
    if rows and rows[0]["columns"]:
        return rows[0]
    available = query(connection, "SELECT 1 FROM pg_available_extensions WHERE name = %s", (EXTENSION,))
    if not available:
        hint = "install the server's package of contributed extensions (postgresql-contrib), then: "
    elif server["most"] is not None:  # its settings are there: the library is loaded
        raise NotFound(
            f"the extension pg_stat_statements is not in the database {server['database']}",
            hint=f"CREATE EXTENSION pg_stat_statements in {server['database']}; its library is loaded already",
        )
    else:
        hint = ""
    raise NotFound(f"the extension pg_stat_statements is not in the database {server['database']}", hint=f"{hint}{PRELOAD}")


def _require_recording(server: Row) -> None:
    for setting, value, off in (("pg_stat_statements.track", server["track"], "none"), ("compute_query_id", server["ids"], "off")):
        if value == off:
            hint = f"ALTER SYSTEM RESET {setting}, and SELECT pg_reload_conf()"
            raise OpsError(f"pg_stat_statements records nothing: {setting} is {off}", hint=hint)


def _info(connection: psycopg.Connection[t.Any], extension: Row) -> Row:
    if not extension["has_info"]:
        return {}
    found: Row = one(connection, f"SELECT dealloc, stats_reset FROM {extension['schema']}.pg_stat_statements_info")  # noqa: S608
    return found


def _epoch(moment: datetime.datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def combined(rows: t.Iterable[Row]) -> tuple[Statement, ...]:
    """The statements of the rows. Rows that cannot be told apart (ids that two texts share) are one."""
    redactor = Redactor()
    found: dict[str, Statement] = {}
    for row in rows:
        key = f"{row['dbid']}/{row['userid']}/{row['queryid']}/{'t' if row['toplevel'] else 'n'}"
        figures = {name: float(row[name]) for name in COUNTERS if row.get(name) is not None}
        statement = Statement(
            key, row["database"], row["role"], shown(row["query"], redactor), figures, row.get("largest"), row["since"]
        )
        before = found.get(key)
        if before is not None:
            total = {name: before.figures.get(name, 0.0) + value for name, value in figures.items()}
            statement = dataclasses.replace(before, figures=total)
        found[key] = statement
    return tuple(found.values())


def shown(text: str | None, redactor: Redactor) -> str:
    """What a statement does. Utility statements keep their values in the view, passwords among them: none of them is shown."""
    return redactor.text(without_literals(text, SHOWN))
