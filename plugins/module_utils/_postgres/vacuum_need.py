# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tables need VACUUM or ANALYZE now, why, and in which order. PRIVATE to the collection.

The rules are those of autovacuum (rows against threshold + factor x rows, age against a maximum) with limits that are reached
earlier, so that the work is done in a quiet hour. A table's own storage parameters count when they ask for work still earlier.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import AccessDenied, InvalidOption, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.bloat import safe_size
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import Row, query

if t.TYPE_CHECKING:
    import psycopg

VACUUM, ANALYZE = "vacuum", "analyze"
PG_STATISTIC = 2619
"""The one table that ANALYZE passes over."""
PARENT_TOLERANCE = 86400.0
"""Seconds by which the statistics of a partitioned table may be older than the newest of its partitions."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """When a table needs work; see the options of the module."""

    dead_threshold: int = 50
    dead_scale_factor: float = 0.1
    insert_threshold: int = 1000
    insert_scale_factor: float = 0.2
    analyze_threshold: int = 50
    analyze_scale_factor: float = 0.05
    age_fraction: float = 0.5

    def check(self) -> None:
        """Raise InvalidOption for a limit that makes no sense."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value < 0:
                raise InvalidOption(field.name, value, "must not be negative")
        if not 0 < self.age_fraction <= 1:
            raise InvalidOption("age_fraction", self.age_fraction, "must be more than 0 and at most 1")


@dataclasses.dataclass(frozen=True)
class TableFacts:
    """What the server knows of one table (with its TOAST table)."""

    oid: int
    schema: str
    name: str
    relkind: str
    heap_bytes: int = 0
    rows: float = 0.0
    """pg_class.reltuples: the last estimate, negative when there was none."""
    dead: int = 0
    toast_rows: float = 0.0
    toast_dead: int = 0
    changed: int = 0
    """Rows changed since ANALYZE."""
    inserted: int | None = None
    """Rows inserted since VACUUM; None before PostgreSQL 13."""
    xid_age: int = 0
    mxid_age: int = 0
    xid_max: int = 200_000_000
    mxid_max: int = 400_000_000
    options: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    has_statistics: bool = True
    counters_known: bool = True
    """Whether the activity counters say anything; a crash loses them."""
    parts_ahead: float | None = None
    """For a partitioned table: seconds by which its partitions' newest statistics are younger than its own."""
    allowed: bool = True
    """Whether this role may VACUUM it. The server only warns when not."""
    busy_pid: int | None = None
    """Process that vacuums it right now."""

    @property
    def full_name(self) -> str:
        """``schema.name`` for people."""
        return f"{self.schema}.{self.name}"


@dataclasses.dataclass(frozen=True)
class Need:
    """One reason: ``value`` reached ``limit``."""

    kind: str
    """transaction_age, multixact_age, dead_rows, toast_dead_rows, inserted_rows, no_statistics, stale_statistics, lost_counters."""
    action: str
    value: float
    limit: float
    rank: int
    """0 is the most urgent: autovacuum's own maximum age is passed."""

    @property
    def pressure(self) -> float:
        """How many times the limit is reached."""
        return self.value / max(self.limit, 1.0)

    def as_dict(self) -> dict[str, t.Any]:
        """For a module's result."""
        return {"kind": self.kind, "action": self.action, "value": int(self.value), "limit": int(self.limit)}


@dataclasses.dataclass(frozen=True)
class Work:
    """A table and all reasons to work on it."""

    facts: TableFacts
    needs: tuple[Need, ...]

    @property
    def vacuum(self) -> bool:
        """Whether VACUUM is needed."""
        return any(need.action == VACUUM for need in self.needs)

    @property
    def analyze(self) -> bool:
        """Whether ANALYZE is needed."""
        return any(need.action == ANALYZE for need in self.needs)

    @property
    def freeze(self) -> bool:
        """Whether the age must come down."""
        return any(need.kind in ("transaction_age", "multixact_age") for need in self.needs)

    @property
    def action(self) -> str:
        """vacuum, analyze or vacuum+analyze."""
        return "+".join(name for name, needed in ((VACUUM, self.vacuum), (ANALYZE, self.analyze)) if needed)

    @property
    def urgency(self) -> tuple[int, float, str]:
        """Sorts the most urgent first; equal ones by name."""
        first = min(need.rank for need in self.needs)
        return first, -max(need.pressure for need in self.needs if need.rank == first), self.facts.full_name


def work_for(tables: t.Iterable[TableFacts], limits: Limits, *, analyze: bool = True) -> list[Work]:
    """The tables that need work, the most urgent first."""
    found = []
    for facts in tables:
        needs = tuple(need for need in needs_of(facts, limits) if analyze or need.action == VACUUM)
        if needs:
            found.append(Work(facts, needs))
    return sorted(found, key=lambda work: work.urgency)


def needs_of(facts: TableFacts, limits: Limits) -> list[Need]:
    """All reasons to work on a table."""
    if facts.relkind == "p":
        return _parent_needs(facts)
    found = [*_age_needs(facts, limits), *_row_needs(facts, limits), *_statistics_needs(facts, limits)]
    return [need for need in found if need.value >= need.limit]


def _parent_needs(facts: TableFacts) -> list[Need]:
    if not facts.has_statistics:
        return [Need("no_statistics", ANALYZE, 1, 1, 3)]
    if facts.parts_ahead is not None and facts.parts_ahead > PARENT_TOLERANCE:
        return [Need("stale_statistics", ANALYZE, facts.parts_ahead, PARENT_TOLERANCE, 4)]
    return []


def _age_needs(facts: TableFacts, limits: Limits) -> t.Iterator[Need]:
    for kind, age, most, option in (
        ("transaction_age", facts.xid_age, facts.xid_max, "autovacuum_freeze_max_age"),
        ("multixact_age", facts.mxid_age, facts.mxid_max, "autovacuum_multixact_freeze_max_age"),
    ):
        most = min(most, int(facts.options.get(option, most)))
        yield Need(kind, VACUUM, age, max(1.0, most * limits.age_fraction), 0 if age >= most else 1)


def _row_needs(facts: TableFacts, limits: Limits) -> t.Iterator[Need]:
    threshold, factor = _own(facts, "vacuum", limits.dead_threshold, limits.dead_scale_factor)
    yield Need("dead_rows", VACUUM, facts.dead, _limit(threshold, factor, facts.rows), 1)
    yield Need("toast_dead_rows", VACUUM, facts.toast_dead, _limit(threshold, factor, facts.toast_rows), 1)
    threshold, factor = _own(facts, "vacuum_insert", limits.insert_threshold, limits.insert_scale_factor)
    if facts.inserted is not None and threshold >= 0:
        yield Need("inserted_rows", VACUUM, facts.inserted, _limit(threshold, factor, facts.rows), 2)


def _statistics_needs(facts: TableFacts, limits: Limits) -> t.Iterator[Need]:
    if not facts.heap_bytes or facts.oid == PG_STATISTIC:
        return
    ours = facts.schema not in ("pg_catalog", "information_schema")
    if ours and not facts.has_statistics:
        yield Need("no_statistics", ANALYZE, 1, 1, 3)
    elif ours and not facts.counters_known:
        yield Need("lost_counters", ANALYZE, 1, 1, 3)
    else:
        threshold, factor = _own(facts, "analyze", limits.analyze_threshold, limits.analyze_scale_factor)
        yield Need("stale_statistics", ANALYZE, facts.changed, _limit(threshold, factor, facts.rows), 4)


def _own(facts: TableFacts, kind: str, threshold: int, factor: float) -> tuple[int, float]:
    """The table's own storage parameters where they are lower; a negative one switches the rule off."""
    own_threshold = int(facts.options.get(f"autovacuum_{kind}_threshold", threshold))
    own_factor = float(facts.options.get(f"autovacuum_{kind}_scale_factor", factor))
    return min(threshold, own_threshold), min(factor, own_factor)


def _limit(threshold: int, factor: float, rows: float) -> float:
    return max(1.0, threshold + factor * max(0.0, rows))


_MAY = """(pg_has_role(c.relowner, 'USAGE') OR (NOT c.relisshared
    AND pg_has_role((SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE')){maintain})"""
_MAINTAIN = " OR has_table_privilege(c.oid, 'MAINTAIN')"

_FACTS = """
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS relkind,
  CASE WHEN c.relkind = 'p' THEN 0 ELSE {size} END AS heap_bytes, c.reltuples::float8 AS rows,
  coalesce(s.n_dead_tup, 0) AS dead, coalesce(o.reltuples, 0)::float8 AS toast_rows, coalesce(ts.n_dead_tup, 0) AS toast_dead,
  coalesce(s.n_mod_since_analyze, 0) AS changed, (to_jsonb(s) ->> 'n_ins_since_vacuum')::bigint AS inserted,
  CASE WHEN c.relkind = 'p' THEN 0 ELSE greatest(age(c.relfrozenxid), coalesce(age(o.relfrozenxid), 0)) END AS xid_age,
  CASE WHEN c.relkind = 'p' THEN 0 ELSE greatest(mxid_age(c.relminmxid), coalesce(mxid_age(o.relminmxid), 0)) END AS mxid_age,
  current_setting('autovacuum_freeze_max_age')::int AS xid_max,
  current_setting('autovacuum_multixact_freeze_max_age')::int AS mxid_max,
  coalesce((SELECT jsonb_object_agg(option_name, option_value) FROM pg_options_to_table(c.reloptions)), '{{}}') AS options,
  coalesce(s.last_analyze, s.last_autoanalyze) IS NOT NULL OR NOT has_table_privilege(c.oid, 'SELECT')
    OR EXISTS (SELECT FROM pg_stats p WHERE p.schemaname = n.nspname AND p.tablename = c.relname
               AND p.inherited = (c.relkind = 'p')) AS has_statistics,
  coalesce(s.last_analyze, s.last_autoanalyze, s.last_vacuum, s.last_autovacuum) IS NOT NULL
    OR s.n_live_tup + s.n_dead_tup + s.n_mod_since_analyze > 0 OR c.reltuples = 0 AS counters_known,
  CASE WHEN c.relkind = 'p' THEN extract(epoch FROM (
      SELECT max(greatest(ps.last_analyze, ps.last_autoanalyze)) FROM pg_partition_tree(c.oid) pt
      JOIN pg_stat_all_tables ps ON ps.relid = pt.relid WHERE pt.isleaf)
    - greatest(s.last_analyze, s.last_autoanalyze))::float8 END AS parts_ahead,
  {may} AS allowed, v.pid AS busy_pid
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_class o ON o.oid = c.reltoastrelid
  LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
  LEFT JOIN pg_stat_all_tables ts ON ts.relid = c.reltoastrelid
  LEFT JOIN pg_stat_progress_vacuum v ON v.relid = c.oid AND v.datname = current_database()
WHERE c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't'
  AND (%(oids)s::bigint[] IS NULL OR c.oid = ANY (%(oids)s::bigint[]))
  AND (%(catalogs)s OR n.nspname NOT IN ('pg_catalog', 'information_schema'))
ORDER BY c.oid
"""


def look(connection: psycopg.Connection[t.Any], oids: t.Sequence[int] | None = None, *, catalogs: bool = True) -> list[TableFacts]:
    """The facts of all tables but temporary ones, or of those of ``oids``."""
    maintain = _MAINTAIN if connection.info.server_version >= 170000 else ""
    sql = _FACTS.format(size=safe_size("c"), may=_MAY.format(maintain=maintain))
    rows = query(connection, sql, {"oids": None if oids is None else list(oids), "catalogs": catalogs})
    return [TableFacts(**row) for row in rows]


_RESOLVE = """
SELECT coalesce(t.relid::oid, c.oid)::bigint AS oid, c.relkind::text AS relkind
FROM pg_class c LEFT JOIN LATERAL pg_partition_tree(c.oid) t ON c.relkind = 'p' WHERE c.oid = to_regclass(%s)
"""


def resolve(connection: psycopg.Connection[t.Any], names: t.Sequence[str], option: str) -> list[int]:
    """The oids of tables by their names as in SQL; a partitioned table stands for its partitions, too. Raises InvalidOption."""
    found: list[int] = []
    for name in names:
        rows = _resolve_one(connection, name, option)
        if not rows:
            raise InvalidOption(
                option,
                name,
                f"there is no such relation in database {connection.info.dbname}",
                hint='write names as in SQL, for example files, public.files or "Mixed Case"',
            )
        if rows[0]["relkind"] not in ("r", "m", "p"):
            raise InvalidOption(option, name, "is neither a table nor a materialized view")
        found += [row["oid"] for row in rows]
    return list(dict.fromkeys(found))


def _resolve_one(connection: psycopg.Connection[t.Any], name: str, option: str) -> list[Row]:
    try:
        return query(connection, _RESOLVE, (name,))
    except AccessDenied:
        raise
    except OpsError as error:
        raise InvalidOption(option, name, f"is no name of a relation: {error.message}") from error
