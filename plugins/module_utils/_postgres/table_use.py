# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the tables of one database are read: large ones row by row, or from disk. PRIVATE to the collection.

What takes room in them is for ``sizes``, bloat for ``bloat``, unused indexes for ``index_use``, dead rows for ``health_storage``.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import OK, WARNING, Check
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.bloat import safe_size
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import Row, query
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.health_look import size_text

if t.TYPE_CHECKING:
    import psycopg

IDS = ("tables.sequential_scans", "tables.hit_ratio")
COUNTERS = ("seq_scan", "seq_tup_read", "idx_scan", "heap_blks_read", "heap_blks_hit")
PART = 0.1
"""A scan that reads less of a table than this ended early: it is not worth an index."""
ACCESSES = 10000
"""Blocks that have to be asked for before the hit ratio of a table says something."""

_TABLES = f"""
SELECT current_database() || '/' || c.oid::text AS key, n.nspname || '.' || c.relname AS table, ({safe_size("c")})::float8 AS bytes,
       s.n_live_tup::float8 AS live, s.n_dead_tup::float8 AS dead, s.seq_scan::float8 AS seq_scan,
       s.seq_tup_read::float8 AS seq_tup_read, coalesce(s.idx_scan, 0)::float8 AS idx_scan,
       coalesce(i.heap_blks_read, 0)::float8 AS heap_blks_read, coalesce(i.heap_blks_hit, 0)::float8 AS heap_blks_hit
FROM pg_stat_user_tables AS s JOIN pg_class AS c ON c.oid = s.relid JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_statio_user_tables AS i ON i.relid = s.relid
WHERE c.relpersistence <> 't' ORDER BY 3 DESC LIMIT 2000
"""  # noqa: S608 - constants


@dataclasses.dataclass(frozen=True)
class Limits:
    """From which size on a table counts, how many scans of it are too many, and how much should come from memory."""

    size: int
    scans: int
    hit_percent: float


@dataclasses.dataclass(frozen=True)
class TableUse:
    """A table in the time that is reviewed."""

    table: str
    bytes: float
    live: float
    dead: float
    figures: t.Mapping[str, float]

    @property
    def scans(self) -> float:
        """Sequential scans that read a good part of it."""
        scans = self.figures.get("seq_scan", 0.0)
        return scans if scans and self.figures.get("seq_tup_read", 0.0) / scans >= max(1.0, PART * self.live) else 0.0

    @property
    def hit_percent(self) -> float | None:
        """Percent of its blocks that were in PostgreSQL's memory; None when few were asked for."""
        read, hit = self.figures.get("heap_blks_read", 0.0), self.figures.get("heap_blks_hit", 0.0)
        return 100 * hit / (read + hit) if read + hit >= ACCESSES else None

    def as_dict(self) -> dict[str, t.Any]:
        """For results and evidence."""
        hit = self.hit_percent
        return {
            "table": self.table,
            "bytes": int(self.bytes),
            "live_rows": int(self.live),
            "dead_rows": int(self.dead),
            "sequential_scans": int(self.figures.get("seq_scan", 0.0)),
            "sequential_rows": int(self.figures.get("seq_tup_read", 0.0)),
            "index_scans": int(self.figures.get("idx_scan", 0.0)),
            "hit_percent": None if hit is None else round(hit, 2),
        }


def look(connection: psycopg.Connection[t.Any]) -> list[Row]:
    """The users' tables of the connected database, the largest first. Waits for no lock."""
    return query(connection, _TABLES)


def counted(rows: t.Sequence[Row]) -> dict[str, t.Mapping[str, float]]:
    """The counters of each table, to be remembered."""
    return {row["key"]: {name: row[name] for name in COUNTERS} for row in rows}


def uses_of(rows: t.Sequence[Row], figures: t.Mapping[str, t.Mapping[str, float]]) -> list[TableUse]:
    """The tables with what was counted in the time that is reviewed."""
    return [TableUse(row["table"], row["bytes"], row["live"], row["dead"], figures[row["key"]]) for row in rows]


def worst_first(uses: t.Sequence[TableUse]) -> list[TableUse]:
    """By the rows that were read one by one."""
    return sorted(uses, key=lambda use: -use.figures.get("seq_tup_read", 0.0))


def judge(uses: t.Sequence[TableUse], limits: Limits) -> list[Check]:
    """The checks of IDS."""
    large = [use for use in uses if use.bytes >= limits.size]
    return [scans_check(large, limits), hit_check(large, limits)]


def scans_check(large: t.Sequence[TableUse], limits: Limits) -> Check:
    """Large tables that are read from one end to the other, again and again."""
    found = worst_first([use for use in large if use.scans >= limits.scans])
    if not found:
        summary = f"no table of {size_text(limits.size)} or more was read from one end to the other {limits.scans} times"
        value = max((use.scans for use in large), default=0.0)
        evidence = [use.as_dict() for use in worst_first(large)[:10]]
        return Check(IDS[0], OK, summary, value, "scans", limits.scans, evidence=evidence)
    first = found[0]
    summary = f"{first.table} ({size_text(first.bytes)}) was read from one end to the other {first.scans:.0f} times"
    summary += f", the worst of {len(found)} tables" if len(found) > 1 else ""
    hint = (
        f"EXPLAIN the statements on {first.table}; add the index that they miss (declare it in fileforge_indexes: "
        "playbooks/index-rebuild.yml)"
    )
    evidence = [use.as_dict() for use in found[:10]]
    return Check(IDS[0], WARNING, summary, first.scans, "scans", limits.scans, None, hint, evidence)


def hit_check(large: t.Sequence[TableUse], limits: Limits) -> Check:
    """Large tables that are often asked for and seldom in memory."""
    known = sorted(((use.hit_percent, use) for use in large if use.hit_percent is not None), key=lambda pair: pair[0])
    if not known:
        return Check(IDS[1], OK, f"no table of {size_text(limits.size)} or more was read often", None, "%", limits.hit_percent)
    percent, first = known[0]
    low = percent < limits.hit_percent
    summary = f"{percent:.4g} % of the blocks of {first.table} came from memory, the least of {len(known)} large tables"
    hint = "an index, less bloat (playbooks/db-maintenance.yml), or more memory (playbook fileforge.ops.capacity_planning)"
    evidence = [use.as_dict() for _percent, use in known[:10]]
    return Check(
        IDS[1], WARNING if low else OK, summary, round(percent, 2), "%", limits.hit_percent, None, hint if low else "", evidence
    )
