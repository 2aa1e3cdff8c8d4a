# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""VACUUM FULL of named tables: planned, confirmed, with room on the disk, and given up rather than blocking others for long.
PRIVATE to the collection.

It rewrites a table under an exclusive lock that stops reads and writes, so nothing calls it unless it was asked for by name.
"""

from __future__ import annotations

import dataclasses
import os
import time
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError, Refused, WaitTimeout
from ansible_collections.fileforge.ops.plugins.module_utils._module import require_library
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step, human_bytes
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import bloat
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import vacuum_need as need
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import (
    PostgresOptions,
    Row,
    one,
    query,
    translated,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.vacuum_watch import session, watching
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline

if t.TYPE_CHECKING:
    import psycopg

LOCK_ATTEMPTS = 3
FREE_FACTOR = 1.1


@dataclasses.dataclass(frozen=True)
class FullOptions:
    """The module's options."""

    full: t.Sequence[str]
    full_min_bloat: float = 0.3
    window: float = 3600.0
    lock_timeout: float = 5.0

    def check(self) -> None:
        """Raise InvalidOption before anything is touched."""
        if not 0 <= self.full_min_bloat < 1:
            raise InvalidOption("full_min_bloat", self.full_min_bloat, "must be from 0 to below 1")
        if self.window <= 0:
            raise InvalidOption("window", self.window, "must be more than 0 seconds")
        if not 0.1 <= self.lock_timeout <= 3600:
            raise InvalidOption("lock_timeout", self.lock_timeout, "must be from 0.1 to 3600")


@dataclasses.dataclass(frozen=True)
class Table:
    """A named table and what is known of its bloat."""

    oid: int
    schema: str
    name: str
    total_bytes: int
    """With its TOAST table and indexes: what the rewrite may need at most."""
    heap_bytes: int
    bloat_bytes: int | None
    note: str
    directory: str | None

    @property
    def full_name(self) -> str:
        """``schema.name`` for people."""
        return f"{self.schema}.{self.name}"

    @property
    def ratio(self) -> float:
        """The estimated part of table and TOAST table that is empty."""
        return (self.bloat_bytes or 0) / self.heap_bytes if self.heap_bytes else 0.0


def rewrite(
    server: PostgresOptions, options: FullOptions, *, check_mode: bool, plan_digest: str | None, progress: Progress
) -> dict[str, t.Any]:
    """Rewrite the named tables that are bloated enough. Raises Refused without a confirmed plan."""
    options.check()
    with session(server, options.lock_timeout) as connection:
        if one(connection, "SELECT pg_is_in_recovery() AS standby")["standby"]:
            raise Refused("standby", f"{server.describe()} is a standby: it cannot be vacuumed", hint="connect to the primary")
        tables = [_look(connection, name) for name in dict.fromkeys(options.full)]
        todo = [table for table in tables if table.bloat_bytes is not None and table.ratio >= options.full_min_bloat]
        left = [_left_before(table, options) for table in tables if table not in todo]
        plan = _plan(connection.info.dbname, todo, server)
        plan.require(plan_digest)
        result: dict[str, t.Any] = {"changed": bool(todo), "plan": plan.as_dict(), "left": left, "held_back_by": []}
        if check_mode or not todo:
            return {**result, "tables": [_described(table) for table in todo]}
        if not plan_digest:
            raise Refused(
                "not_confirmed",
                "VACUUM FULL blocks reads and writes of the table, so it needs a confirmed plan",
                hint=f"read the plan of check mode and give its digest as plan_digest (now {plan.digest})",
                plan=plan.as_dict(),
            )
        _require_room(todo, server)
        done = _carry_out(connection, server, options, todo, left, progress)
    return {**result, "changed": bool(done), "tables": done}


_TABLE = """
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS relkind, c.reltoastrelid::bigint AS toast,
  CASE WHEN c.relkind IN ('r', 'm') THEN pg_total_relation_size(c.oid) ELSE 0 END AS total_bytes,
  nullif(pg_tablespace_location(c.reltablespace), '') AS tablespace
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%s)
"""


def _look(connection: psycopg.Connection[t.Any], name: str) -> Table:
    rows = query(connection, _TABLE, (name,))
    if not rows:
        raise InvalidOption("full", name, f"there is no such table in database {connection.info.dbname}")
    row = rows[0]
    if row["schema"] in ("pg_catalog", "pg_toast", "information_schema"):
        raise InvalidOption("full", name, "is a part of the system; only tables of your own are rewritten")
    if row["relkind"] == "p":
        raise InvalidOption("full", name, "is partitioned", hint="name the partitions to rewrite, one after the other")
    if row["relkind"] not in ("r", "m"):
        raise InvalidOption("full", name, "is neither a table nor a materialized view")
    if not need.look(connection, [row["oid"]])[0].allowed:
        raise Refused("not_allowed", f"the role may not vacuum {name}", hint="connect as its owner or a superuser")
    oids = [row["oid"], *([row["toast"]] if row["toast"] else [])]
    parts = bloat.estimate_tables(connection, oids)
    unknown = [part.note for part in parts if part.bloat_bytes is None]
    return Table(
        oid=row["oid"],
        schema=row["schema"],
        name=row["name"],
        total_bytes=row["total_bytes"],
        heap_bytes=sum(part.size_bytes for part in parts),
        bloat_bytes=None if unknown else sum(part.bloat_bytes or 0 for part in parts),
        note=unknown[0] if unknown else "",
        directory=row["tablespace"] or _data_directory(connection),
    )


def _data_directory(connection: psycopg.Connection[t.Any]) -> str | None:
    try:
        return str(one(connection, "SELECT current_setting('data_directory') AS place")["place"])
    except OpsError:
        return None


def _left_before(table: Table, options: FullOptions) -> dict[str, t.Any]:
    if table.bloat_bytes is None:
        reason, message, hint = "no_estimate", f"its bloat is not known: {table.note}", "ANALYZE it first"
    else:
        reason, hint = "not_bloated", ""
        message = f"{table.ratio:.0%} of it is empty (estimate), less than full_min_bloat {options.full_min_bloat:.0%}"
    return {**_described(table), "reason": reason, "message": message, "hint": hint}


def _described(table: Table) -> dict[str, t.Any]:
    return {
        "table": table.full_name,
        "action": "vacuum full",
        "heap_bytes": table.heap_bytes,
        "total_bytes_before": table.total_bytes,
        "bloat_bytes": table.bloat_bytes,
        "bloat_source": bloat.NONE if table.bloat_bytes is None else bloat.ESTIMATE,
    }


def _plan(database: str, todo: t.Sequence[Table], server: PostgresOptions) -> Plan:
    plan = Plan(f"VACUUM FULL in database {database}")
    for table in todo:
        detail = "rewrites the table; nobody can read or write it meanwhile"
        plan.steps.append(Step("rewrite", table.full_name, destructive=True, detail=detail))
        free = _free(table, server)
        plan.notes.append(
            f"{table.full_name}: {human_bytes(table.total_bytes)} with indexes and TOAST, about"
            f" {human_bytes(table.bloat_bytes or 0)} would be freed (estimate), free on the disk:"
            f" {'unknown from here' if free is None else human_bytes(free)}"
        )
    return plan


def _free(table: Table, server: PostgresOptions) -> int | None:
    """Free bytes where the table is; None when the server is on another machine or does not say where its files are."""
    local = not server.host or server.host.startswith("/") or server.host in ("localhost", "127.0.0.1", "::1")
    try:
        found = os.statvfs(table.directory) if local and table.directory else None
    except OSError:
        return None
    return found.f_bavail * found.f_frsize if found else None


def _require_room(todo: t.Sequence[Table], server: PostgresOptions) -> None:
    for table in todo:
        free, wanted = _free(table, server), int(table.total_bytes * FREE_FACTOR)
        if free is not None and free < wanted:
            raise Refused(
                "disk_space",
                f"{table.full_name}: a rewrite may need {human_bytes(wanted)}, {human_bytes(free)} are free in {table.directory}",
                hint="make room first, or leave this table out",
            )


def _carry_out(
    connection: psycopg.Connection[t.Any],
    server: PostgresOptions,
    options: FullOptions,
    todo: t.Sequence[Table],
    left: list[dict[str, t.Any]],
    progress: Progress,
) -> list[dict[str, t.Any]]:
    deadline = Deadline(options.window)
    done: list[dict[str, t.Any]] = []
    finished = 0
    total = sum(table.heap_bytes for table in todo)
    with progress.phase("vacuum full", total or None), watching(server, progress, lambda: finished):
        for table in todo:
            problem = _rewrite_one(connection, options, table, deadline, done)
            if problem:
                left.append({**_described(table), **problem})
            finished += table.heap_bytes
        progress.set(finished)
    return done


def _rewrite_one(
    connection: psycopg.Connection[t.Any], options: FullOptions, table: Table, deadline: Deadline, done: list[dict[str, t.Any]]
) -> Row | None:
    """None when it is done, else why not."""
    sql = require_library("psycopg.sql", "psycopg")
    statement = sql.SQL("VACUUM (FULL, ANALYZE) {}").format(sql.Identifier(table.schema, table.name))
    for _attempt in range(LOCK_ATTEMPTS):
        if deadline.left < 0.5:
            return {"reason": "window", "message": "the window ended before its turn", "hint": "run again, or give a longer window"}
        query(connection, "SELECT set_config('statement_timeout', %s, false)", (str(max(500, int(deadline.left * 1000))),))
        begin = time.monotonic()
        try:
            with translated(table.full_name):
                connection.execute(statement)
        except WaitTimeout as error:
            if error.state.get("sqlstate") == "55P03":
                continue
            message = "stopped at the end of the window; the table is as it was"
            return {"reason": "window", "message": message, "hint": "give a longer window"}
        seconds = round(time.monotonic() - begin, 3)
        after = one(connection, "SELECT pg_total_relation_size(%s::bigint::oid) AS size", (table.oid,))["size"]
        done.append({**_described(table), "total_bytes_after": after, "seconds": seconds})
        return None
    return {
        "reason": "locked",
        "message": f"its lock was not free within {options.lock_timeout:g} s, {LOCK_ATTEMPTS} times",
        "hint": "see who uses the table (pg_locks), and run again in a quiet hour",
    }
