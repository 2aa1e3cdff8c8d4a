# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs out or rots: transaction ids, sequences, indexes, dead rows, pages. PRIVATE to the collection."""

from __future__ import annotations

from ansible_collections.fileforge.ops.plugins.module_utils._checks import UNKNOWN, WARNING, Check, grade, worst
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import Row
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.health_look import KEPT, Look, size_text

IDS = float(2**31)
"""Transaction ids, and multixact ids, that may be in use at a time."""
LARGEST = {21: 2**15 - 1, 23: 2**31 - 1, 20: 2**63 - 1}
"""The largest value of smallint, integer and bigint, by the oid of the type."""
DEAD_ROWS = 10_000
"""A table with fewer dead rows than this has no debt worth telling."""

_AGES = """
SELECT datname AS database, age(datfrozenxid)::float8 AS xids, mxid_age(datminmxid)::float8 AS mxids FROM pg_database
"""
_SEQUENCES = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS sequence, s.seqmin, s.seqmax, s.seqincrement, v.last_value,
       coalesce(a.atttypid, s.seqtypid)::int AS type, a.attrelid::regclass::text || '.' || quote_ident(a.attname) AS owner,
       has_sequence_privilege(c.oid, 'SELECT, USAGE') AS readable
FROM pg_sequence AS s JOIN pg_class AS c ON c.oid = s.seqrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_sequences AS v ON v.schemaname = n.nspname AND v.sequencename = c.relname
LEFT JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
     AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
LEFT JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE c.relpersistence <> 't' AND NOT s.seqcycle
"""
_INVALID = """
SELECT i.indexrelid::regclass::text AS index, i.indrelid::regclass::text AS table, i.indisready AS ready,
       pg_relation_size(i.indexrelid)::float8 AS bytes
FROM pg_index AS i
WHERE NOT i.indisvalid AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index AS p WHERE p.relid = i.indrelid)
ORDER BY 4 DESC
"""
_DEAD = """
WITH settings AS (
    SELECT current_setting('autovacuum_vacuum_threshold')::float8 AS base,
           current_setting('autovacuum_vacuum_scale_factor')::float8 AS scale,
           nullif(coalesce(current_setting('autovacuum_vacuum_max_threshold', true), '-1'), '-1')::float8 AS most
), tables AS (
    SELECT c.oid, greatest(c.reltuples, 0)::float8 AS rows,
           max(o.option_value) FILTER (WHERE o.option_name = 'autovacuum_vacuum_threshold') AS base,
           max(o.option_value) FILTER (WHERE o.option_name = 'autovacuum_vacuum_scale_factor') AS scale,
           coalesce(max(o.option_value) FILTER (WHERE o.option_name = 'autovacuum_enabled'), 'on') AS auto
    FROM pg_class AS c LEFT JOIN LATERAL pg_options_to_table(c.reloptions) AS o ON true
    WHERE c.relkind IN ('r', 'm') GROUP BY c.oid, c.reltuples
)
SELECT tables.oid::regclass::text AS table, u.n_dead_tup::float8 AS dead, u.n_live_tup::float8 AS live, tables.auto AS autovacuum,
       least(coalesce(tables.base::float8, s.base) + coalesce(tables.scale::float8, s.scale) * tables.rows, s.most) AS threshold,
       extract(epoch FROM clock_timestamp() - greatest(u.last_vacuum, u.last_autovacuum))::float8 AS vacuumed
FROM tables JOIN pg_stat_all_tables AS u ON u.relid = tables.oid CROSS JOIN settings AS s
WHERE u.n_dead_tup >= %s ORDER BY 2 DESC LIMIT 1000
"""
_CHECKSUMS = """
SELECT current_setting('data_checksums') AS state,
       (SELECT coalesce(sum(checksum_failures), 0)::float8 FROM pg_stat_database) AS failures,
       (SELECT max(checksum_last_failure)::text FROM pg_stat_database) AS last
"""
_FAILED = """
SELECT coalesce(datname, 'shared') AS database, checksum_failures::int AS failures FROM pg_stat_database WHERE checksum_failures > 0
"""


def wraparound(look: Look) -> list[Check]:
    """How much of the transaction ids, and of the multixact ids, is in use: at 100 % the server stops writing."""
    rows = look.rows(_AGES)
    hint = (
        "playbook fileforge.ops.db_maintenance (VACUUM FREEZE) for that database; first end what holds back the horizon: long or "
        "prepared transactions and slots"
    )
    checks = []
    for name, key, what in (("wraparound", "xids", "transaction ids"), ("wraparound_multixact", "mxids", "multixact ids")):
        oldest = max(rows, key=lambda row: float(row[key]))
        share = 100 * float(oldest[key]) / IDS
        summary = f"{share:.1f} % of the {what} are in use (database {oldest['database']}, age {oldest[key]:.0f})"
        evidence = [{"database": row["database"], "age": row[key]} for row in rows[:KEPT]]
        checks.append(look.graded(name, share, summary, hint=hint, evidence=evidence))
    return checks


def sequences(look: Look) -> list[Check]:
    """How far each sequence is on the way to the end of its own range or of its column's type, whichever comes first."""
    rows = look.rows(_SEQUENCES)
    hidden = [row["sequence"] for row in rows if not row["readable"]]
    seen = sorted(((used_share(row), row) for row in rows if row["readable"]), key=lambda item: -item[0])
    evidence = [{"sequence": row["sequence"], "column": row["owner"], "used": round(share, 2)} for share, row in seen[:KEPT]]
    share = seen[0][0] if seen else 0.0
    limit = look.options.limits["sequences"]
    status = grade(share, limit.warning, limit.critical)
    if seen:
        summary = f"the sequence nearest to its end is {seen[0][1]['sequence']}: {share:.1f} % used ({len(seen)} sequences)"
    else:
        summary = "no sequence" if not hidden else "no sequence can be read"
    hint = "alter the column (and its sequence) to bigint before it reaches the end: then inserts fail"
    if hidden:
        status = worst([status, UNKNOWN])
        summary += f"; {len(hidden)} cannot be read, {hidden[0]} among them"
        hint = f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA ... TO this role (docs/server-checks.md); {hint}"
    value = share if seen or not hidden else None
    return [look.graded("sequences", value, summary, status=status, hint=hint, evidence=evidence or hidden[:KEPT])]


def used_share(row: Row) -> float:
    """Percent of a sequence's values that are used; a sequence that was never used has used none."""
    last = row["last_value"]
    if last is None:
        return 0.0
    largest = LARGEST.get(row["type"], LARGEST[20])
    if row["seqincrement"] > 0:
        begin, end = row["seqmin"], min(row["seqmax"], largest)
    else:
        begin, end = row["seqmax"], max(row["seqmin"], -largest - 1)
    return 100.0 if begin == end else max(0.0, 100.0 * (last - begin) / (end - begin))


def invalid_indexes(look: Look) -> list[Check]:
    """Indexes that are kept up to date but not used: what a failed concurrent build leaves. One being built now is none."""
    rows = look.rows(_INVALID)
    if not rows:
        return [look.graded("invalid_indexes", 0, "no invalid index")]
    summary = f"{len(rows)} invalid indexes ({size_text(sum(row['bytes'] for row in rows))}), the largest is {rows[0]['index']}"
    hint = "playbook fileforge.ops.index_rebuild; names with _ccnew or _ccold are left-overs that can be dropped"
    return [look.graded("invalid_indexes", len(rows), summary, hint=hint, evidence=rows[:KEPT])]


def vacuum_debt(look: Look) -> list[Check]:
    """Tables whose dead rows are a multiple of the number at which autovacuum should have come."""
    rows = look.rows(_DEAD, (DEAD_ROWS,))
    owed = sorted(((float(row["dead"]) / max(float(row["threshold"]), 1.0), row) for row in rows), key=lambda item: -item[0])
    evidence = [
        {**{key: row[key] for key in ("table", "dead", "live", "autovacuum", "vacuumed")}, "debt": round(debt, 2)}
        for debt, row in owed[:KEPT]
    ]
    value = owed[0][0] if owed else 0.0
    limit = look.options.limits["vacuum_debt"]
    status = grade(value, limit.warning, limit.critical)
    summary = f"no table of {look.server.database} has more than {DEAD_ROWS} dead rows"
    if owed:
        row = owed[0][1]
        summary = f"{row['table']} has {row['dead']:.0f} dead rows, {value:.1f} times what autovacuum waits for"
    hint = (
        "playbook fileforge.ops.db_maintenance; then look why autovacuum does not come: long transactions, locks, its cost limits"
    )
    if look.row("SELECT current_setting('autovacuum') AS state")["state"] == "off":
        status = worst([status, WARNING])
        summary = f"autovacuum is off; {summary}"
        hint = f"ALTER SYSTEM SET autovacuum = on, and reload; {hint}"
    return [look.graded("vacuum_debt", value, summary, status=status, hint=hint, evidence=evidence)]


def checksum_failures(look: Look) -> list[Check]:
    """Pages that were read and were not what was written."""
    row = look.row(_CHECKSUMS)
    if row["state"] != "on":
        summary = "data checksums are off: damage by disk or memory goes unnoticed"
        hint = "switch them on in a maintenance window: pg_checksums --enable, with the server stopped"
        return [look.graded("checksum_failures", None, summary, status=WARNING, hint=hint)]
    if not row["failures"]:
        return [look.graded("checksum_failures", 0, "no page with a wrong checksum was read")]
    summary = f"{row['failures']:.0f} pages with a wrong checksum were read, the last at {row['last']}"
    hint = "stop trusting this disk: runbook: Disaster Recovery, Database Restore (playbook fileforge.ops.db_restore), or fail over"
    return [look.graded("checksum_failures", row["failures"], summary, hint=hint, evidence=look.rows(_FAILED))]
