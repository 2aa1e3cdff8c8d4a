# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much of a table or an index is empty: estimated from statistics, or measured by pgstattuple. PRIVATE to the collection.

Each answer says which it is (``source``). The estimate is the size that the relation would have if it were written anew now,
computed from the planner's statistics and the layout of PostgreSQL's pages; it reads no table. For a btree it knows
deduplication, partial indexes and expressions. What cannot be estimated has no numbers and a reason, never zero.
"""

from __future__ import annotations

import dataclasses
import math
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, NotFound, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import Row, query

if t.TYPE_CHECKING:
    import psycopg

ESTIMATE, EXACT, NONE = "estimate", "exact", "none"
PAGE = 8192
PAGE_HEADER = 24
BTREE_SPECIAL = 16
ITEM_POINTER = 4
MAXALIGN = 8
POSTING_BYTES = PAGE * 10 // 100 // MAXALIGN * MAXALIGN - ITEM_POINTER
"""The largest posting list that building an index writes."""
TOAST_CHUNKS_PER_PAGE = 4
STALE_FRACTION = 0.2
"""Part of the rows that may have changed since ANALYZE before an estimate is called stale."""
_ALIGNMENT = {"c": 1, "s": 2, "i": 4, "d": 8}


@dataclasses.dataclass(frozen=True)
class Bloat:
    """One relation. ``bloat_bytes`` is what a rewrite would free, ``ratio`` its part of ``size_bytes`` (0 to 1)."""

    oid: int
    schema: str
    name: str
    kind: str
    """table, index or toast."""
    table: str
    """The table's own name (for an index or TOAST, that of its table)."""
    method: str
    """heap, btree, gin..."""
    size_bytes: int
    expected_bytes: int | None
    source: str
    """estimate, exact, or none when there are no numbers."""
    note: str = ""
    """Why there are no numbers, or what makes them doubtful."""

    @property
    def bloat_bytes(self) -> int | None:
        """Bytes that a rewrite would free; None when unknown."""
        return None if self.expected_bytes is None else max(0, self.size_bytes - self.expected_bytes)

    @property
    def ratio(self) -> float | None:
        """``bloat_bytes`` as a part of the size; None when unknown."""
        if self.bloat_bytes is None:
            return None
        return round(self.bloat_bytes / self.size_bytes, 4) if self.size_bytes else 0.0

    def as_dict(self) -> dict[str, t.Any]:
        """For a module's result."""
        return {**dataclasses.asdict(self), "bloat_bytes": self.bloat_bytes, "ratio": self.ratio}


@dataclasses.dataclass(frozen=True)
class Column:
    """What matters of one column of a table or an index for its place on a page."""

    length: int
    """Bytes; negative for variable length."""
    alignment: int
    width: float | None
    """Average stored bytes of values that are not null; None without statistics."""
    null_fraction: float = 0.0
    distinct: float = -1.0
    """As in pg_stats: negative is a fraction of the rows."""
    common: tuple[float, ...] = ()
    """Fractions of the rows that hold the most common values."""
    name: str = ""

    @classmethod
    def from_row(cls, row: Row) -> Column:
        """From a row of ``_COLUMNS``."""
        width = row["avg_width"]
        return cls(
            length=row["attlen"],
            alignment=_ALIGNMENT[row["attalign"]],
            width=float(row["attlen"]) if row["attlen"] > 0 else (None if width is None else float(width)),
            null_fraction=row["null_frac"] or 0.0,
            distinct=-1.0 if row["n_distinct"] is None else row["n_distinct"],
            common=tuple(row["most_common_freqs"] or ()),
            name=row["attname"],
        )


_FILLFACTOR = "(SELECT option_value::int FROM pg_options_to_table(c.reloptions) WHERE option_name = 'fillfactor')"


def locked(alias: str) -> str:
    """SQL for whether somebody holds or wants a row of pg_class for himself: to ask for its size would wait for him."""
    return f"""EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'relation' AND l.relation = {alias}.oid
      AND l.mode = 'AccessExclusiveLock' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))"""  # noqa: S608


def safe_size(alias: str) -> str:
    """SQL for the size of a row of pg_class that waits for no lock: what VACUUM last saw where somebody wants all of it."""
    return f"""CASE WHEN {locked(alias)} THEN {alias}.relpages::bigint * 8192
      ELSE coalesce(pg_relation_size({alias}.oid), {alias}.relpages::bigint * 8192) END"""


_LIVE = """CASE WHEN coalesce(s.last_analyze, s.last_autoanalyze, s.last_vacuum, s.last_autovacuum) IS NOT NULL
      THEN s.n_live_tup ELSE c.reltuples END"""
_OURS = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND c.relpersistence <> 't'"

_TABLES = f"""
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, coalesce(a.amname, 'heap') AS method,
  c.relkind::text AS relkind, coalesce(p.relname, c.relname) AS table, {safe_size("c")} AS size_bytes,
  {_FILLFACTOR} AS fillfactor, ({_LIVE})::float8 AS rows,
  coalesce(s.n_mod_since_analyze, 0)::float8 AS changed, current_setting('block_size')::int AS block_size
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am a ON a.oid = c.relam
  LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid LEFT JOIN pg_class p ON c.relkind = 't' AND p.reltoastrelid = c.oid
  LEFT JOIN pg_namespace pn ON pn.oid = p.relnamespace
WHERE c.relkind IN ('r', 'm', 't') AND {_OURS}
  AND (CASE WHEN %(oids)s::bigint[] IS NULL
       THEN coalesce(pn.nspname, n.nspname) NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
       ELSE c.oid = ANY (%(oids)s::bigint[]) END)
ORDER BY c.oid
"""  # noqa: S608 - constants of this file

_INDEXES = f"""
SELECT i.oid::bigint AS oid, n.nspname AS schema, i.relname AS name, a.amname AS method, c.relname AS table,
  {safe_size("i")} AS size_bytes, {_FILLFACTOR.replace("c.", "i.")} AS fillfactor,
  (CASE WHEN x.indpred IS NULL THEN {_LIVE} ELSE i.reltuples END)::float8 AS rows,
  coalesce(s.n_mod_since_analyze, 0)::float8 AS changed, x.indisunique AS is_unique, x.indisvalid AS is_valid,
  x.indpred IS NOT NULL AS is_partial, current_setting('block_size')::int AS block_size,
  (current_setting('server_version_num')::int >= 130000 AND x.indnatts = x.indnkeyatts
    AND NOT EXISTS (SELECT FROM pg_options_to_table(i.reloptions)
                    WHERE option_name = 'deduplicate_items' AND NOT option_value::bool)
    AND NOT EXISTS (SELECT FROM unnest(x.indclass::oid[]) AS k(opclass) JOIN pg_opclass o ON o.oid = k.opclass
                    WHERE NOT EXISTS (SELECT FROM pg_amproc f WHERE f.amprocfamily = o.opcfamily AND f.amprocnum = 4
                      AND f.amproclefttype = o.opcintype AND f.amprocrighttype = o.opcintype))
    AND NOT EXISTS (SELECT FROM pg_collation l WHERE l.oid = ANY (x.indcollation::oid[]) AND NOT l.collisdeterministic)
  ) AS deduplicates
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid
  JOIN pg_namespace n ON n.oid = i.relnamespace JOIN pg_am a ON a.oid = i.relam
  LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
WHERE i.relkind = 'i' AND {_OURS}
  AND (CASE WHEN %(oids)s::bigint[] IS NULL THEN n.nspname <> 'pg_toast' ELSE i.oid = ANY (%(oids)s::bigint[]) END)
ORDER BY i.oid
"""  # noqa: S608 - constants of this file

_COLUMNS = """
SELECT c.oid::bigint AS oid, t.attname, t.attlen::int AS attlen, t.attalign::text AS attalign,
  s.avg_width, s.null_frac::float8 AS null_frac, s.n_distinct::float8 AS n_distinct,
  s.most_common_freqs::float8[] AS most_common_freqs
FROM pg_class c
  JOIN pg_attribute t ON t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped
  LEFT JOIN pg_index x ON x.indexrelid = c.oid
  LEFT JOIN pg_class o ON o.oid = CASE WHEN x.indexrelid IS NULL OR x.indkey[t.attnum - 1] = 0 THEN c.oid ELSE x.indrelid END
  LEFT JOIN pg_attribute b ON b.attrelid = o.oid
    AND b.attnum = CASE WHEN o.oid = c.oid THEN t.attnum ELSE x.indkey[t.attnum - 1] END
  LEFT JOIN pg_stats s ON s.schemaname = (SELECT nspname FROM pg_namespace WHERE oid = o.relnamespace)
    AND s.tablename = o.relname AND s.attname = b.attname AND NOT s.inherited
WHERE c.oid = ANY (%(oids)s::bigint[])
ORDER BY c.oid, t.attnum
"""


def estimate_tables(connection: psycopg.Connection[t.Any], oids: t.Sequence[int] | None = None) -> list[Bloat]:
    """Tables, materialized views and their TOAST tables: those of ``oids``, or all but the system's and temporary ones."""
    rows = query(connection, _TABLES, {"oids": None if oids is None else list(oids)})
    columns = _columns(connection, [row["oid"] for row in rows if row["relkind"] != "t"])
    return [_table_bloat(row, columns.get(row["oid"], [])) for row in rows]


def estimate_indexes(connection: psycopg.Connection[t.Any], oids: t.Sequence[int] | None = None) -> list[Bloat]:
    """Indexes: those of ``oids``, or all but those of the system, of TOAST and of temporary tables. Only btree has numbers."""
    rows = query(connection, _INDEXES, {"oids": None if oids is None else list(oids)})
    columns = _columns(connection, [row["oid"] for row in rows])
    return [_index_bloat(row, columns.get(row["oid"], [])) for row in rows]


def _columns(connection: psycopg.Connection[t.Any], oids: list[int]) -> dict[int, list[Column]]:
    found: dict[int, list[Column]] = {}
    for row in query(connection, _COLUMNS, {"oids": oids}):
        found.setdefault(row["oid"], []).append(Column.from_row(row))
    return found


def _base(row: Row, kind: str) -> dict[str, t.Any]:
    return {"kind": kind, **{key: row[key] for key in ("oid", "schema", "name", "table", "method", "size_bytes")}}


def _no_estimate(row: Row, columns: t.Sequence[Column], method: str) -> str:
    """Why there can be no estimate; empty when there can."""
    if row["method"] != method:
        return f"there is no estimate for {row['method']}; measure it instead"
    if row["block_size"] != PAGE:
        return f"there is no estimate for pages of {row['block_size']} bytes"
    if row["rows"] is None or row["rows"] < 0:
        return "never analysed: ANALYZE the table first"
    missing = [column.name for column in columns if column.width is None]
    if missing and row["rows"] > 0:
        return f"no statistics of {', '.join(missing[:3])}: never analysed, or this role may not read the column"
    return ""


def _doubt(row: Row) -> str:
    if row["changed"] > STALE_FRACTION * max(row["rows"], 1.0) and row["changed"] > 1000:
        return f"the statistics are stale: {row['changed']:.0f} rows changed since ANALYZE"
    return ""


def _table_bloat(row: Row, columns: list[Column]) -> Bloat:
    kind = "toast" if row["relkind"] == "t" else "table"
    reason = _no_estimate(row, columns, "heap")
    if reason:
        return Bloat(**_base(row, kind), expected_bytes=None, source=NONE, note=reason)
    if kind == "toast":
        note = "at least: chunks that are not full are counted as full"
        pages = math.ceil(row["rows"] / TOAST_CHUNKS_PER_PAGE)
    else:
        note = _doubt(row)
        pages = heap_pages(row["rows"], columns, row["fillfactor"] or 100)
    return Bloat(**_base(row, kind), expected_bytes=pages * PAGE, source=ESTIMATE, note=note)


def _index_bloat(row: Row, columns: list[Column]) -> Bloat:
    reason = _no_estimate(row, columns, "btree")
    if not reason and not row["is_valid"]:
        reason = "the index is invalid"
    if reason:
        return Bloat(**_base(row, "index"), expected_bytes=None, source=NONE, note=reason)
    deduplicates = row["deduplicates"] and not row["is_unique"]
    if row["is_partial"]:  # the statistics are of all rows of the table, not of those in the index
        columns = [dataclasses.replace(column, distinct=-1.0, common=(), null_fraction=0.0) for column in columns]
    pages = btree_pages(row["rows"], columns, row["fillfactor"] or 90, deduplicates)
    return Bloat(**_base(row, "index"), expected_bytes=pages * PAGE, source=ESTIMATE, note=_doubt(row))


def _aligned(size: float) -> int:
    return math.ceil(size / MAXALIGN) * MAXALIGN


def _data_width(columns: t.Sequence[Column]) -> tuple[float, bool]:
    """Average bytes of the columns with their padding, and whether each row has the same."""
    offset, fixed = 0.0, True
    for column in columns:
        width = column.width or 0.0
        if column.length > 0:
            offset += ((-offset) % column.alignment if fixed else (column.alignment - 1) / 2) * (1 - column.null_fraction)
        elif width > 127:  # a long header is aligned, a short one is not
            offset += (column.alignment - 1) / 2 * (1 - column.null_fraction)
        offset += width * (1 - column.null_fraction)
        fixed = fixed and column.length > 0 and not column.null_fraction
    return offset, fixed


def _tuple_width(columns: t.Sequence[Column], plain_header: int, null_header: int) -> float:
    """Average bytes of a tuple with its header and padding."""
    without_null = math.prod(1 - column.null_fraction for column in columns)
    header = plain_header * without_null + null_header * (1 - without_null)
    data, fixed = _data_width(columns)
    return float(_aligned(header + data)) if fixed else header + data + (MAXALIGN - 1) / 2


def heap_pages(rows: float, columns: t.Sequence[Column], fillfactor: int) -> int:
    """Pages of a table of so many rows that was just written."""
    if rows <= 0:
        return 0
    return _pages(rows, _tuple_width(columns, 24, _aligned(23 + math.ceil(len(columns) / 8))), fillfactor)


def _pages(rows: float, width: float, fillfactor: int) -> int:
    usable = PAGE - PAGE_HEADER - PAGE * (100 - fillfactor) / 100
    return math.ceil(rows / max(1, math.floor(usable / (width + ITEM_POINTER))))


def btree_pages(rows: float, columns: t.Sequence[Column], fillfactor: int, deduplicates: bool) -> int:
    """Pages of a btree of so many entries that was just built: its meta page, leaves and inner pages."""
    if rows <= 0:
        return 1
    key = max(16.0, _tuple_width(columns, 8, 16))
    capacity = PAGE - PAGE_HEADER - BTREE_SPECIAL
    if deduplicates:
        content = sum(groups * _group_bytes(rows_each, key) for groups, rows_each in _groups(rows, columns))
    else:
        content = rows * (key + ITEM_POINTER)
    usable = capacity - PAGE * (100 - fillfactor) / 100 - (key + ITEM_POINTER)  # each leaf holds its high key, too
    pages = math.ceil(content / max(usable, key + ITEM_POINTER))
    fanout = max(2, math.floor((capacity - PAGE * 0.30) / (key + ITEM_POINTER)))
    total = 1 + pages
    while pages > 1:
        pages = math.ceil(pages / fanout)
        total += pages
    return total


def _groups(rows: float, columns: t.Sequence[Column]) -> list[tuple[float, float]]:
    """Groups of equal keys: how many groups of how many rows each."""
    if len(columns) != 1:
        distinct = math.prod(_distinct(column, rows) + (column.null_fraction > 0) for column in columns)
        distinct = max(1.0, min(rows, distinct))
        return [(distinct, rows / distinct)]
    column = columns[0]
    groups = [(1.0, rows * column.null_fraction)] if column.null_fraction else []
    groups += [(1.0, rows * fraction) for fraction in column.common]
    rest = rows - sum(size for _one, size in groups)
    left = _distinct(column, rows) - len(column.common)
    if rest >= 1:
        number = max(1.0, min(rest, left))
        groups.append((number, rest / number))
    return groups


def _distinct(column: Column, rows: float) -> float:
    return max(1.0, -column.distinct * rows if column.distinct < 0 else column.distinct)


def _group_bytes(rows: float, key: float) -> float:
    """Bytes of the entries of one key, interpolated between whole numbers of rows."""
    low = max(1, math.floor(rows))
    part = max(0.0, rows - low)
    return _posting_bytes(low, key) * (1 - part) + _posting_bytes(low + 1, key) * part


def _posting_bytes(rows: int, key: float) -> float:
    most = math.floor((POSTING_BYTES - key) / 6)
    if rows == 1 or most < 2:
        return rows * (key + ITEM_POINTER)
    lists, rest = divmod(rows, most)
    size = lists * (key + _aligned(6 * most) + ITEM_POINTER)
    if rest:
        size += key + (_aligned(6 * rest) if rest > 1 else 0) + ITEM_POINTER
    return size


_EXTENSION = """
SELECT quote_ident(n.nspname) AS schema FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'pgstattuple'
"""


def measuring_schema(connection: psycopg.Connection[t.Any]) -> str:
    """The schema of the extension pgstattuple, quoted. Raises Refused when the database does not have it."""
    rows = query(connection, _EXTENSION)
    if not rows:
        raise Refused(
            "no_pgstattuple",
            f"the extension pgstattuple is not installed in database {connection.info.dbname}, so bloat cannot be measured",
            hint="CREATE EXTENSION pgstattuple (the role needs pg_stat_scan_tables), or use the estimate",
        )
    return str(rows[0]["schema"])


def exact_index(connection: psycopg.Connection[t.Any], oid: int) -> Bloat:
    """Measure one btree by reading all of it. Raises Refused without the extension, NotFound, InvalidOption for other methods."""
    schema = measuring_schema(connection)
    row = _one_relation(connection, _INDEXES, oid, "index")
    if row["method"] != "btree":
        raise InvalidOption("index", row["name"], f"only btree indexes can be measured, this is {row['method']}")
    if not row["is_valid"]:
        return Bloat(**_base(row, "index"), expected_bytes=None, source=NONE, note="the index is invalid")
    sql = f"SELECT * FROM {schema}.pgstatindex(%s::bigint::oid::regclass)"  # noqa: S608 - quoted by the server
    found = query(connection, sql, (oid,))[0]
    density = found["avg_leaf_density"]
    full = row["fillfactor"] or 90
    leaves = 0 if math.isnan(density) else min(found["leaf_pages"], math.ceil(found["leaf_pages"] * density / full))
    pages = 1 + leaves
    if found["leaf_pages"]:
        pages += math.ceil(found["internal_pages"] * leaves / found["leaf_pages"])
    return Bloat(**{**_base(row, "index"), "size_bytes": found["index_size"]}, expected_bytes=pages * PAGE, source=EXACT)


def exact_table(connection: psycopg.Connection[t.Any], oid: int) -> Bloat:
    """Measure one table or TOAST table by reading all of it. Raises Refused without the extension, NotFound."""
    schema = measuring_schema(connection)
    row = _one_relation(connection, _TABLES, oid, "table")
    sql = f"SELECT * FROM {schema}.pgstattuple(%s::bigint::oid::regclass)"  # noqa: S608 - quoted by the server
    found = query(connection, sql, (oid,))[0]
    width = _aligned(found["tuple_len"] / max(1, found["tuple_count"]))
    expected = min(found["table_len"], _pages(found["tuple_count"], width, row["fillfactor"] or 100) * PAGE)
    kind = "toast" if row["relkind"] == "t" else "table"
    return Bloat(**{**_base(row, kind), "size_bytes": found["table_len"]}, expected_bytes=expected, source=EXACT)


def _one_relation(connection: psycopg.Connection[t.Any], sql: str, oid: int, what: str) -> Row:
    rows = query(connection, sql, {"oids": [oid]})
    if not rows:
        raise NotFound(f"there is no {what} with the oid {oid} in database {connection.info.dbname}")
    return rows[0]
