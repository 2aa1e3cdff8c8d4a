# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What takes room in a database: tables with TOAST and indexes, bloat, growth since the last look. PRIVATE to the collection.

What cannot be seen is ``unknown`` and hides nothing else.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import OK, UNKNOWN, WARNING, Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._files import write_whole
from ansible_collections.fileforge.ops.plugins.module_utils._plan import human_bytes
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import bloat
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import Row, one, query
from ansible_collections.fileforge.ops.plugins.module_utils._time import duration_text
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline

if t.TYPE_CHECKING:
    import psycopg

SAMPLES_KEPT = 60
RATE_SECONDS = 3600.0
"""Below this distance of two samples no rate by day is computed from them."""
REBUILD, VACUUM = "playbooks/index-rebuild.yml", "playbooks/db-maintenance.yml"
LATER = "look again in an hour or more, with the same sample_file"

_TABLES = """
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS relkind, c.reltuples::float8 AS rows,
  coalesce(s.n_dead_tup, 0) AS dead_rows, {size} AS heap_bytes,
  coalesce((SELECT sum({toast}) FROM pg_class o WHERE o.oid = c.reltoastrelid OR o.oid IN
    (SELECT x.indexrelid FROM pg_index x WHERE x.indrelid = c.reltoastrelid)), 0)::bigint AS toast_bytes,
  coalesce((SELECT sum({index}) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = c.oid), 0)::bigint
    AS index_bytes,
  greatest(s.last_vacuum, s.last_autovacuum) AS vacuumed, greatest(s.last_analyze, s.last_autoanalyze) AS analysed
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
"""


@dataclasses.dataclass(frozen=True)
class BloatLimits:
    """From when on bloat is worth a warning: both must be reached."""

    ratio: float = 0.3
    size: int = 100 * 1024 * 1024


def tables(connection: psycopg.Connection[t.Any]) -> list[Row]:
    """All tables of the users with the bytes of heap, TOAST and indexes, the largest first. Waits for no lock."""
    sql = _TABLES.format(size=_all_forks("c"), toast=_all_forks("o"), index=_all_forks("i"))
    rows = query(connection, sql)
    for row in rows:
        row["total_bytes"] = row["heap_bytes"] + row["toast_bytes"] + row["index_bytes"]
        for moment in ("vacuumed", "analysed"):
            row[moment] = row[moment].isoformat() if row[moment] else None
    return sorted(rows, key=lambda row: (-row["total_bytes"], row["schema"], row["name"]))


def _all_forks(alias: str) -> str:
    """The safe size with free space and visibility maps, as pg_total_relation_size counts."""
    forks = " + ".join(f"coalesce(pg_relation_size({alias}.oid, '{fork}'), 0)" for fork in ("fsm", "vm", "init"))
    return f"(CASE WHEN {bloat.locked(alias)} THEN {alias}.relpages::bigint * 8192 ELSE ({bloat.safe_size(alias)}) + {forks} END)"


def size_check(connection: psycopg.Connection[t.Any], found: t.Sequence[Row]) -> Check:
    """``postgres.size.database``, which only informs."""
    size = one(connection, "SELECT pg_database_size(current_database()) AS size")["size"]
    top = ", ".join(f"{row['schema']}.{row['name']} {human_bytes(row['total_bytes'])}" for row in found[:3])
    summary = f"{connection.info.dbname} has {human_bytes(size)}{f'; largest: {top}' if top else ''}"
    return Check("postgres.size.database", OK, summary, value=float(size), unit="bytes")


def measured(
    connection: psycopg.Connection[t.Any], estimates: t.Sequence[bloat.Bloat], limits: BloatLimits, deadline: Deadline
) -> list[bloat.Bloat]:
    """The estimates, with those measured that reach the limits or have no numbers though they are large enough."""
    found = []
    for item in estimates:
        wanted = item.size_bytes >= limits.size and (item.ratio is None or item.ratio >= limits.ratio)
        if wanted and item.kind == "index" and item.method != "btree":
            wanted = False
        if wanted and deadline.left:
            item = _measure(connection, item, deadline)
        found.append(item)
    return found


def _measure(connection: psycopg.Connection[t.Any], item: bloat.Bloat, deadline: Deadline) -> bloat.Bloat:
    query(connection, "SELECT set_config('statement_timeout', %s, false)", (str(max(1000, int(deadline.left * 1000))),))
    try:
        return (bloat.exact_index if item.kind == "index" else bloat.exact_table)(connection, item.oid)
    except OpsError as error:
        return dataclasses.replace(item, note=f"not measured: {error.message}")
    finally:
        query(connection, "RESET statement_timeout")


def bloat_check(kind: str, found: t.Sequence[bloat.Bloat], limits: BloatLimits) -> Check:
    """``postgres.bloat.tables`` or ``postgres.bloat.indexes``: what exceeds the limits, else what could not be judged."""
    large = [item for item in found if item.size_bytes >= limits.size]
    bloated = [item for item in large if item.ratio is not None and item.ratio >= limits.ratio and item.bloat_bytes]
    blind = [item for item in large if item.ratio is None and item.method in ("heap", "btree")]
    bloated.sort(key=lambda item: -(item.bloat_bytes or 0))
    wasted = sum(item.bloat_bytes or 0 for item in found)
    summary = f"{len(bloated)} {kind} are {limits.ratio:.0%} empty or more (at least {human_bytes(limits.size)} large)"
    if bloated:
        first = bloated[0]
        summary += f"; worst: {first.schema}.{first.name}, {human_bytes(first.bloat_bytes or 0)} of {human_bytes(first.size_bytes)}"
        summary += f" ({first.source})"
    elif blind:
        summary += f"; could not judge {blind[0].schema}.{blind[0].name}: {blind[0].note}"
    status = WARNING if bloated else UNKNOWN if blind else OK
    hint = "" if status == OK else VACUUM if kind == "tables" or not bloated else REBUILD
    evidence = [item.as_dict() for item in (bloated or blind)[:10]]
    return Check(f"postgres.bloat.{kind}", status, summary, value=float(wasted), unit="bytes", hint=hint, evidence=evidence)


# ---- growth


@dataclasses.dataclass(frozen=True)
class Sample:
    """The sizes of one look. ``identity`` tells one database of one cluster from all others."""

    identity: str
    taken: datetime.datetime
    database_bytes: int
    tables: t.Mapping[str, int]

    def as_dict(self) -> dict[str, t.Any]:
        """For the file."""
        return {**dataclasses.asdict(self), "taken": self.taken.isoformat()}

    @classmethod
    def from_dict(cls, value: t.Mapping[str, t.Any]) -> Sample:
        """From the file; raises ValueError, KeyError or TypeError for anything else."""
        taken = datetime.datetime.fromisoformat(value["taken"])
        if taken.tzinfo is None:
            raise ValueError("a sample without an offset from UTC")
        tables_found = {str(name): int(size) for name, size in dict(value["tables"]).items()}
        return cls(str(value["identity"]), taken, int(value["database_bytes"]), tables_found)


def sample(connection: psycopg.Connection[t.Any], found: t.Sequence[Row]) -> Sample:
    """The sizes now."""
    row = one(
        connection,
        "SELECT oid::bigint AS oid, pg_database_size(oid) AS size, clock_timestamp() AS now,"
        " (SELECT system_identifier FROM pg_control_system()) AS system FROM pg_database WHERE datname = current_database()",
    )
    names = {f"{table['schema']}.{table['name']}": table["total_bytes"] for table in found}
    return Sample(f"{row['system']}/{row['oid']}", row["now"], row["size"], names)


def read_samples(path: str) -> list[Sample]:
    """The kept samples, the oldest first; none when there is no file. Raises InvalidOption for a file that is something else."""
    try:
        with open(path, encoding="utf-8") as stream:
            content = json.load(stream)
        return [Sample.from_dict(item) for item in content["samples"]]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InvalidOption("sample_file", path, f"cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        hint = "give another path, or remove the file to begin anew"
        raise InvalidOption("sample_file", path, f"is no file of samples ({error})", hint=hint) from error


def write_samples(path: str, samples: t.Sequence[Sample]) -> None:
    """Keep the newest samples. Raises InvalidOption when the place cannot be written to."""
    content = json.dumps({"samples": [item.as_dict() for item in samples[-SAMPLES_KEPT:]]}, indent=1).encode()
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
        write_whole(path, content, mode=0o640)
    except OSError as error:
        raise InvalidOption("sample_file", path, f"cannot be written: {error.strerror}") from error


def growth(before: t.Sequence[Sample], now: Sample) -> dict[str, t.Any] | None:
    """What grew since the last sample of this database; None without one."""
    mine = [item for item in before if item.identity == now.identity and item.taken < now.taken]
    if not mine:
        return None
    last = mine[-1]
    seconds = (now.taken - last.taken).total_seconds()
    changes = {name: size - last.tables.get(name, 0) for name, size in now.tables.items()}
    changes.update({name: -size for name, size in last.tables.items() if name not in now.tables})
    grown = now.database_bytes - last.database_bytes
    rate = grown / seconds * 86400 if seconds >= RATE_SECONDS else None
    ordered = sorted((name for name, change in changes.items() if change), key=lambda name: (-abs(changes[name]), name))
    return {
        "since": last.taken.isoformat(),
        "seconds": round(seconds, 1),
        "bytes": grown,
        "bytes_per_day": None if rate is None else round(rate),
        "tables": [{"table": name, "bytes": changes[name], "new": name not in last.tables} for name in ordered[:20]],
    }


def growth_check(found: t.Mapping[str, t.Any] | None, size: int, warning_percent: float) -> Check:
    """``postgres.size.growth``: percent of the size by day."""
    check_id, unit = "postgres.size.growth", "percent/day"
    if found is None:
        return Check(check_id, UNKNOWN, "no earlier sample to compare with; the next run has one", unit=unit, hint=LATER)
    since = f"{'+' if found['bytes'] >= 0 else '-'}{human_bytes(abs(found['bytes']))} in {duration_text(found['seconds'])}"
    if found["bytes_per_day"] is None:
        return Check(check_id, UNKNOWN, f"{since}: too short a time for a rate", unit=unit, hint=LATER)
    percent = round(100 * found["bytes_per_day"] / max(1, size - found["bytes"]), 2)
    first = found["tables"][0] if found["tables"] else None
    summary = f"{since}, {percent:g} % a day" + (f"; most: {first['table']}" if first else "")
    status = WARNING if percent >= warning_percent else OK
    hint = "runbook: Routine Tasks, Capacity planning" if status == WARNING else ""
    return Check(check_id, status, summary, percent, unit, warning_percent, hint=hint, evidence=found["tables"][:5])
