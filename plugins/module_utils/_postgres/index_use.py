# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which indexes nobody needs: unused on every server, or covered by another one. PRIVATE to the collection.

An index that is not used on the primary may be the one that a standby's reports live on, and counters that are young prove
nothing. So an index is only called unused when the counters of each server are old enough and each server could be asked.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import OK, UNKNOWN, WARNING, Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._plan import human_bytes
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.bloat import safe_size
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions, Row, connect, one, query

if t.TYPE_CHECKING:
    import psycopg

DAY = 86400.0
HINT = "drop it after review (runbook: Maintenance Tasks, Database Maintenance)"
REBUILD = "playbooks/index-rebuild.yml"

_INDEXES = """
SELECT i.oid::bigint AS oid, c.oid::bigint AS table_oid, n.nspname AS schema, i.relname AS name, c.relname AS table,
  a.amname AS method, coalesce(pg_partition_root(i.oid)::oid, i.oid)::bigint AS root,
  coalesce(pg_partition_root(i.oid)::oid, i.oid)::regclass::text AS root_name,
  {size} AS size_bytes, x.indisunique AS is_unique, x.indisprimary AS is_primary, x.indisvalid AS is_valid,
  x.indisreplident OR x.indisclustered AS is_marked, EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.oid) AS is_constraint,
  x.indnkeyatts::int AS keys, (SELECT array_agg(k ORDER BY o) FROM unnest(x.indkey::int[]) WITH ORDINALITY AS u(k, o)) AS columns,
  (SELECT array_agg(k::bigint ORDER BY o) FROM unnest(x.indclass::oid[]) WITH ORDINALITY AS u(k, o)) AS classes,
  (SELECT array_agg(k::bigint ORDER BY o) FROM unnest(x.indcollation::oid[]) WITH ORDINALITY AS u(k, o)) AS collations,
  (SELECT array_agg(k::int ORDER BY o) FROM unnest(x.indoption::int[]) WITH ORDINALITY AS u(k, o)) AS orders,
  coalesce(pg_get_expr(x.indexprs, x.indrelid), '') AS expressions, coalesce(pg_get_expr(x.indpred, x.indrelid), '') AS predicate,
  x.indimmediate AS is_immediate, coalesce((to_jsonb(x) ->> 'indnullsnotdistinct')::boolean, false) AS nulls_equal,
  pg_get_indexdef(i.oid) AS definition
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid
  JOIN pg_namespace n ON n.oid = i.relnamespace JOIN pg_am a ON a.oid = i.relam
WHERE i.relkind = 'i' AND i.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
ORDER BY n.nspname, c.relname, i.relname
"""
_SCANS = """
SELECT s.indexrelid::bigint AS oid, s.idx_scan AS scans,
  extract(epoch FROM clock_timestamp() - (to_jsonb(s) ->> 'last_idx_scan')::timestamptz)::float8 AS last_age
FROM pg_stat_user_indexes s
"""
_AGE = """
SELECT extract(epoch FROM clock_timestamp() - coalesce(d.stats_reset, pg_postmaster_start_time()))::float8 AS age,
  d.stats_reset IS NOT NULL AS exact, (SELECT system_identifier FROM pg_control_system())::text AS system
FROM pg_stat_database d WHERE d.datname = current_database()
"""


@dataclasses.dataclass(frozen=True)
class Counters:
    """What one server knows of the use of indexes."""

    server: str
    age: float
    """Seconds that the counters cover at least."""
    system: str
    scans: t.Mapping[int, int]
    last: t.Mapping[int, float | None]
    """Seconds since the last scan, where the server (16 and newer) tells."""

    def idle(self, oid: int, seconds: float) -> bool:
        """Whether the index was not used in the time; 0 seconds stand for ever."""
        if not self.scans.get(oid, 0):
            return True
        last = self.last.get(oid)
        return last is not None and 0 < seconds <= last


def indexes(connection: psycopg.Connection[t.Any]) -> list[Row]:
    """All indexes of the users with what tells them apart."""
    return query(connection, _INDEXES.format(size=safe_size("i")))


def counters(connection: psycopg.Connection[t.Any], server: str) -> Counters:
    """The counters of one server."""
    age = one(connection, _AGE)
    rows = query(connection, _SCANS)
    return Counters(
        server, age["age"], age["system"], {row["oid"]: row["scans"] for row in rows}, {row["oid"]: row["last_age"] for row in rows}
    )


def standbys(connection: psycopg.Connection[t.Any]) -> int:
    """Standbys that are connected now (not backups and not archivers of WAL)."""
    sql = """SELECT count(*)::int AS number FROM pg_stat_replication r
        WHERE NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical')
        AND r.state <> 'backup' AND coalesce(r.application_name, '') NOT IN ('pg_receivewal', 'pg_basebackup')"""
    return int(one(connection, sql)["number"])


def replica_counters(server: PostgresOptions, replicas: t.Sequence[str], primary: Counters) -> tuple[list[Counters], list[str]]:
    """The counters of each replica (``host`` or ``host:port``), and why some could not be had."""
    found, problems = [], []
    for name in replicas:
        host, port = _address(name, server.port)
        options = dataclasses.replace(server, host=host, port=port)
        try:
            with connect(options, statement_timeout_ms=10_000, lock_timeout_ms=2_000) as connection:
                counted = counters(connection, name)
        except OpsError as error:
            problems.append(f"{name}: {error.message}")
            continue
        if counted.system != primary.system:
            problems.append(f"{name} is not a replica of this server")
            continue
        found.append(counted)
    return found, problems


def _address(name: str, port: int) -> tuple[str, int]:
    host, separator, number = name.rpartition(":")
    if not separator or "]" in number or (":" in host.strip("[]") and not host.startswith("[")):
        return name.strip("[]"), port
    if not host or not number.isdigit():
        raise InvalidOption("replicas", name, "is neither host nor host:port")
    return host.strip("[]"), int(number)


def unused(found: t.Sequence[Row], servers: t.Sequence[Counters], days: float) -> list[Row]:
    """Indexes that only cost: not used on any of the servers; of a partitioned index only when none of its parts is."""
    seconds = days * DAY
    used = {row["root"] for row in found if not all(server.idle(row["oid"], seconds) for server in servers)}
    groups: dict[int, Row] = {}
    for row in found:
        needed = row["is_unique"] or row["is_primary"] or row["is_constraint"] or row["is_marked"] or not row["is_valid"]
        if needed or row["root"] in used:
            continue
        group = groups.setdefault(
            row["root"],
            {
                "schema": row["schema"],
                "name": row["root_name"],
                "table": row["table"],
                "size_bytes": 0,
                "definition": row["definition"],
            },
        )
        group["size_bytes"] += row["size_bytes"]
    return sorted(groups.values(), key=lambda row: (-row["size_bytes"], row["name"]))


def unused_check(candidates: t.Sequence[Row], servers: t.Sequence[Counters], problems: t.Sequence[str], days: float) -> Check:
    """``postgres.indexes.unused``: unknown while the counters are young or a standby was not asked."""
    youngest = min(servers, key=lambda server: server.age)
    age = youngest.age / DAY
    size = sum(row["size_bytes"] for row in candidates)
    summary = f"{len(candidates)} indexes ({human_bytes(size)}) were not used in {age:.1f} days on {len(servers)} servers"
    doubts = list(problems)
    if age < days:
        doubts.append(f"the counters of {youngest.server} are younger than {days:g} days")
    if doubts:
        summary += f"; that proves nothing yet: {doubts[0]}"
    status = UNKNOWN if doubts else WARNING if candidates else OK
    evidence = {"candidates": list(candidates[:20]), "doubts": doubts}
    hint = (
        HINT
        if status == WARNING
        else "give every standby as replicas, and wait until the counters are old enough"
        if doubts
        else ""
    )
    return Check("postgres.indexes.unused", status, summary, float(len(candidates)), "indexes", hint=hint, evidence=evidence)


def duplicates(found: t.Sequence[Row]) -> list[Row]:
    """Indexes that another one makes superfluous: the same, or a leading part of it."""
    by_table: dict[int, list[Row]] = {}
    for row in found:
        if row["is_valid"]:
            by_table.setdefault(row["table_oid"], []).append(row)
    result: dict[tuple[int, int], Row] = {}
    for rows in by_table.values():
        for row in rows:
            better = [other for other in rows if other is not row and _replaces(other, row)]
            if not better:
                continue
            best = min(better, key=_worth)
            entry = result.setdefault(
                (row["root"], best["root"]),
                {
                    **{name: row[name] for name in ("schema", "table", "definition")},
                    "name": row["root_name"],
                    "kind": "same" if _shape(best) == _shape(row) else "prefix",
                    "covered_by": best["root_name"],
                    "size_bytes": 0,
                },
            )
            entry["size_bytes"] += row["size_bytes"]
    return sorted(result.values(), key=lambda row: (-row["size_bytes"], row["name"]))


def _worth(row: Row) -> tuple[bool, bool, bool, bool, int]:
    """Sorts the index to keep first."""
    return (not row["is_primary"], not row["is_constraint"], not row["is_marked"], not row["is_unique"], row["oid"])


def _shape(row: Row) -> tuple[t.Any, ...]:
    return (
        row["method"], row["keys"], row["columns"], row["classes"], row["collations"], row["orders"], row["expressions"],
        row["predicate"],
    )  # fmt: skip


def _enforces(other: Row, row: Row) -> bool:
    """Whether ``other`` keeps the table as unique as ``row`` does: in the same moment, and of nulls as well."""
    return not row["is_unique"] or (
        other["is_unique"] and all(other[name] == row[name] for name in ("is_immediate", "nulls_equal"))
    )


def _replaces(other: Row, row: Row) -> bool:
    """Whether ``other`` can do all that ``row`` does, and is not itself the one to drop."""
    if row["is_constraint"] or row["is_primary"] or row["is_marked"] or other["method"] != row["method"]:
        return False
    if _shape(other) == _shape(row):
        return _enforces(other, row) and _worth(other) < _worth(row)
    if row["is_unique"] or row["method"] != "btree" or 0 in row["columns"] or row["predicate"] != other["predicate"]:
        return False
    keys = row["keys"]
    if other["keys"] < keys or any(
        other[name][:keys] != row[name][:keys] for name in ("columns", "classes", "collations", "orders")
    ):
        return False
    return set(row["columns"]) <= set(other["columns"])


def duplicate_check(found: t.Sequence[Row]) -> Check:
    """``postgres.indexes.duplicate``."""
    size = sum(row["size_bytes"] for row in found)
    summary = f"{len(found)} indexes ({human_bytes(size)}) are covered by another"
    if found:
        summary += f": {', '.join(row['name'] + ' by ' + row['covered_by'] for row in found[:3])}"
    status = WARNING if found else OK
    hint = HINT if found else ""
    return Check("postgres.indexes.duplicate", status, summary, float(len(found)), "indexes", hint=hint, evidence=list(found[:20]))


def invalid_check(found: t.Sequence[Row]) -> Check:
    """``postgres.indexes.invalid``: left by a CREATE INDEX CONCURRENTLY or a REINDEX that failed."""
    invalid = [f"{row['schema']}.{row['name']}" for row in found if not row["is_valid"]]
    summary = f"{len(invalid)} indexes are invalid{': ' + ', '.join(invalid[:5]) if invalid else ''}"
    status = WARNING if invalid else OK
    hint = REBUILD if invalid else ""
    return Check("postgres.indexes.invalid", status, summary, float(len(invalid)), "indexes", hint=hint, evidence=invalid[:20])
