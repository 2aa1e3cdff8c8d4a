# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What indexes there are, in which state, and which are left of an interrupted rebuild. PRIVATE to the collection.

Leftovers are recognised by what they are, never by being invalid alone:

* ``X_ccnew`` and ``X_ccold`` (with a number, and with X cut, as the server names them) are what REINDEX CONCURRENTLY leaves. One
  is a leftover when it is invalid and X is on the same table with the same definition.
* ``X_ffnew_<digest>`` and ``X_ffold_<digest>`` are the new and the old index of our own replacement. The digest is that of X and
  the index's own definition, so that the name proves itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._module import require_library
from ansible_collections.fileforge.ops.plugins.module_utils._plan import digest_of
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import Row, one, query, query_error, translated

if t.TYPE_CHECKING:
    import psycopg

NAME_BYTES = 63
CUT_BYTES = 60
"""A name this long may have lost bytes of the original's, whose last character may have had up to four."""
NEW, OLD = "new", "old"
DIGITS = 8
SYSTEM_SCHEMAS = ("pg_catalog", "information_schema", "pg_toast")
_SERVER_LEFTOVER = re.compile(r"(?P<stem>.*)_cc(?:new|old)\d*", re.DOTALL)
_OWN_LEFTOVER = re.compile(r"(?P<stem>.*)_ff(?P<kind>new|old)_(?P<digest>[0-9a-f]{8})", re.DOTALL)

_LISTING = """
SELECT i.oid::bigint AS oid, n.nspname AS schema, i.relname AS name, t.oid::bigint AS table_oid, t.relname AS table,
  a.amname AS method, i.relkind::text AS kind, i.relispartition AS is_partition, p.inhparent::bigint AS parent_oid,
  x.indisvalid AS is_valid, x.indisunique AS is_unique, x.indisexclusion AS is_exclusion,
  x.indisreplident AS is_replica_identity, x.indisclustered AS is_clustered, x.indexprs IS NOT NULL AS has_expressions,
  x.indpred IS NOT NULL AS is_partial, pg_has_role(t.relowner, 'USAGE') AS is_ours,
  coalesce(nullif(i.reltablespace, 0), d.dattablespace)::bigint AS tablespace,
  CASE WHEN locked.relation IS NOT NULL OR i.relkind = 'I' THEN i.relpages::bigint * current_setting('block_size')::int
       ELSE coalesce(pg_relation_size(i.oid), 0) END AS bytes,
  t.relpages::bigint * current_setting('block_size')::int AS table_bytes,
  ARRAY(SELECT k.conname || ' (' || k.contype::text || ')' FROM pg_constraint k WHERE k.conindid = i.oid ORDER BY 1) AS constraints,
  pg_get_indexdef(i.oid) AS statement,
  format('CREATE %%sINDEX %%I ON %%s%%I.%%I ', CASE WHEN x.indisunique THEN 'UNIQUE ' ELSE '' END, i.relname,
    CASE WHEN t.relkind = 'p' THEN 'ONLY ' ELSE '' END, n.nspname, t.relname) AS beginning
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
  JOIN pg_namespace n ON n.oid = i.relnamespace JOIN pg_am a ON a.oid = i.relam
  JOIN pg_database d ON d.datname = current_database() LEFT JOIN pg_inherits p ON p.inhrelid = i.oid
  LEFT JOIN (SELECT DISTINCT l.relation FROM pg_locks l JOIN pg_database b ON b.oid = l.database
    WHERE b.datname = current_database() AND l.mode = 'AccessExclusiveLock') AS locked ON locked.relation = i.oid
WHERE i.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND (%(table)s::bigint IS NULL OR t.oid = %(table)s::bigint)
ORDER BY n.nspname, i.relname
"""

_BUSY = """
SELECT l.relation::bigint AS relation, min(l.pid) AS pid
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid JOIN pg_database d ON d.oid = l.database
WHERE l.locktype = 'relation' AND l.granted AND l.mode IN ('ShareUpdateExclusiveLock', 'ShareLock', 'AccessExclusiveLock')
  AND d.datname = current_database() AND l.pid <> pg_backend_pid() AND coalesce(a.backend_type, '') <> 'autovacuum worker'
GROUP BY 1
"""


@dataclasses.dataclass(frozen=True)
class Index:
    """One index as the catalog has it."""

    oid: int
    schema: str
    name: str
    table_oid: int
    table: str
    method: str = "btree"
    kind: str = "i"
    """``i``, or ``I`` for that of a partitioned table."""
    is_partition: bool = False
    parent_oid: int | None = None
    is_valid: bool = True
    is_unique: bool = False
    is_exclusion: bool = False
    is_replica_identity: bool = False
    is_clustered: bool = False
    has_expressions: bool = False
    is_partial: bool = False
    is_ours: bool = True
    tablespace: int = 0
    bytes: int = 0
    table_bytes: int = 0
    constraints: tuple[str, ...] = ()
    definition: str = ""
    """What follows the table's name in CREATE INDEX, as the server writes it."""

    @classmethod
    def from_row(cls, row: Row) -> Index:
        """From a row of the listing."""
        fields = {field.name for field in dataclasses.fields(cls)}
        plain = {key: value for key, value in row.items() if key in fields}
        return cls(**{**plain, "constraints": tuple(row["constraints"]), "definition": rest_of(row["statement"], row["beginning"])})

    @property
    def digest(self) -> str:
        """Equal for two indexes of one table that differ in name and validity only."""
        return definition_digest(self.definition, self.is_unique)

    @property
    def shown(self) -> str:
        """``schema.name`` for people."""
        return shown(self.schema, self.name)

    @property
    def shown_definition(self) -> str:
        """The definition for people."""
        return with_unique(self.definition, self.is_unique)

    @property
    def safe(self) -> bool:
        """Whether the server lets other concurrent builds go on while this one is being built."""
        return not self.has_expressions and not self.is_partial


def shown(*parts: str) -> str:
    """An identifier for people: quoted where needed, on one line whatever is in it."""
    words = [part if re.fullmatch(r"[a-z_][a-z0-9_]*", part) else '"{}"'.format(part.replace('"', '""')) for part in parts]
    return "".join(letter if letter.isprintable() else "?" for letter in ".".join(words))


def quoted(connection: psycopg.Connection[t.Any], *parts: str) -> str:
    """An identifier for a statement."""
    return str(require_library("psycopg.sql", "psycopg").Identifier(*parts).as_string(connection))


@contextlib.contextmanager
def transaction(connection: psycopg.Connection[t.Any], *, rollback: bool = False) -> t.Iterator[None]:
    """A transaction, or a savepoint in one; its own statements, too, raise nothing but OpsError."""
    with translated(f"database {connection.info.dbname}"), connection.transaction(force_rollback=rollback):
        yield


def rest_of(statement: str, beginning: str) -> str:
    """What follows the table's name in an index's definition."""
    if not statement.startswith(beginning):
        raise OpsError(f"the server describes an index in an unexpected way: {statement}", statement=statement)
    return statement[len(beginning) :]


def definition_digest(definition: str, unique: bool) -> str:
    """Digest of a definition as the server writes it."""
    return digest_of([definition, unique])


def with_unique(definition: str, unique: bool) -> str:
    """A definition for people."""
    return f"UNIQUE {definition}" if unique else definition


def clipped(text: str, most: int) -> str:
    """As many whole characters as fit."""
    return text.encode()[:most].decode(errors="ignore")


def own_name(name: str, kind: str, digest: str) -> str:
    """The name of the new or the old index while ``name`` is replaced; it proves itself by name and definition."""
    suffix = f"_ff{kind}_{digest_of([name, digest])[:DIGITS]}"
    return clipped(name, NAME_BYTES - len(suffix)) + suffix


def looks_like_leftover(name: str) -> bool:
    """Whether the name alone would be that of a leftover."""
    return bool(_SERVER_LEFTOVER.fullmatch(name) or _OWN_LEFTOVER.fullmatch(name))


def _is_stem(stem: str, leftover: str, name: str) -> bool:
    """Whether a leftover's stem may be that of ``name``: the whole of it, or its beginning where the whole did not fit."""
    return name == stem or (name.startswith(stem) and len(leftover.encode()) >= CUT_BYTES)


@dataclasses.dataclass(frozen=True)
class Leftover:
    """An index that an interrupted rebuild of ``of`` has left."""

    index: Index
    of: str
    kind: str
    """``server`` (REINDEX CONCURRENTLY), ``new`` or ``old`` (our own replacement)."""


@dataclasses.dataclass
class Inventory:
    """All indexes of the database (or of one table), and who works on their tables."""

    indexes: list[Index]
    busy: dict[int, int] = dataclasses.field(default_factory=dict)
    """Oid of a table or an index: pid of another session that holds a lock on it as a rebuild does."""

    def find(self, schema: str, name: str) -> Index | None:
        """The index of that name."""
        return next((index for index in self.indexes if (index.schema, index.name) == (schema, name)), None)

    def on_table(self, table_oid: int) -> list[Index]:
        """The indexes of a table."""
        return [index for index in self.indexes if index.table_oid == table_oid]

    def worker_on(self, index: Index) -> int | None:
        """Pid of a session that may be building this index just now."""
        return self.busy.get(index.oid) or self.busy.get(index.table_oid)

    def leaves(self, index: Index) -> list[Index]:
        """The indexes of the partitions below that of a partitioned table, all levels."""
        found: list[Index] = []
        for child in self.indexes:
            if child.parent_oid == index.oid:
                found += self.leaves(child) if child.kind == "I" else [child]
        return found

    def twin(self, index: Index) -> Index | None:
        """A valid index of the same table with the same definition and another name."""
        for other in self.on_table(index.table_oid):
            if other.oid != index.oid and other.is_valid and other.digest == index.digest:
                return other
        return None

    def leftover(self, index: Index) -> Leftover | None:
        """What this index is a leftover of, if it is one."""
        return self._server_leftover(index) or self._own_leftover(index)

    def leftovers(self) -> list[Leftover]:
        """All leftovers that are there."""
        return [found for found in map(self.leftover, self.indexes) if found]

    def _server_leftover(self, index: Index) -> Leftover | None:
        match = _SERVER_LEFTOVER.fullmatch(index.name)
        if match is None or index.is_valid or index.constraints:
            return None
        for other in self.on_table(index.table_oid):
            same = other.oid != index.oid and other.digest == index.digest
            if same and _is_stem(match["stem"], index.name, other.name):
                return Leftover(index, other.name, "server")
        return None

    def _own_leftover(self, index: Index) -> Leftover | None:
        match = _OWN_LEFTOVER.fullmatch(index.name)
        if match is None or index.constraints:
            return None
        others = [other.name for other in self.on_table(index.table_oid) if other.oid != index.oid]
        for name in [match["stem"], *others]:
            if own_name(name, match["kind"], index.digest) == index.name:
                return Leftover(index, name, match["kind"])
        return None


def take(connection: psycopg.Connection[t.Any], table_oid: int | None = None) -> Inventory:
    """The inventory of the database, or of one table."""
    with transaction(connection):
        query(connection, "SET LOCAL search_path TO ''")  # definitions must not depend on who asks
        rows = query(connection, _LISTING, {"table": table_oid})
        busy = query(connection, _BUSY)
    indexes = [Index.from_row(row) for row in rows if row["statement"] is not None]  # none: dropped meanwhile
    return Inventory(indexes, {row["relation"]: row["pid"] for row in busy})


def canonical(connection: psycopg.Connection[t.Any], schema: str, table: str, definition: str, unique: bool) -> tuple[str, bool]:
    """A user's definition as the server writes it, and whether it has expressions or a predicate.

    The server is asked: an index is made on an empty temporary copy of the table, in a transaction that is rolled back.
    Raises InvalidOption when the server does not accept the definition.
    """
    copy = quoted(connection, "pg_temp", table)
    word = "UNIQUE " if unique else ""
    library = require_library("psycopg", "psycopg")
    with transaction(connection, rollback=True):
        query(connection, f"CREATE TEMPORARY TABLE {quoted(connection, table)} (LIKE {quoted(connection, schema, table)})")
        try:
            # Prepared, so that it can only be one statement.
            connection.execute(f"CREATE {word}INDEX {_PROBE} ON {copy} {definition}".encode(), prepare=True)
        except library.Error as error:
            found = query_error(error, "database")
            if found.code in ("unavailable", "timeout", "access_denied"):
                raise
            raise InvalidOption(
                "indexes",
                definition,
                f"the server does not accept this definition on {shown(schema, table)}: {str(error).splitlines()[0]}",
                hint="give what follows the table's name in CREATE INDEX, for example (updated_at)",
            ) from error
        query(connection, "SET LOCAL search_path TO ''")
        row = one(connection, _PROBED, {"name": _PROBE})
    beginning = next((text for text in row["beginnings"] if row["statement"].startswith(text)), row["beginnings"][0])
    return rest_of(row["statement"], beginning), bool(row["unsafe"])


_PROBE = "fileforge_probe"
_PROBED = """
SELECT pg_get_indexdef(i.oid) AS statement, x.indexprs IS NOT NULL OR x.indpred IS NOT NULL AS unsafe,
  ARRAY(SELECT format('CREATE %%sINDEX %%I ON %%I.%%I ', CASE WHEN x.indisunique THEN 'UNIQUE ' ELSE '' END,
                      i.relname, s, t.relname) FROM unnest(ARRAY['pg_temp', n.nspname::text]) AS s) AS beginnings
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
  JOIN pg_namespace n ON n.oid = i.relnamespace
WHERE i.relname = %(name)s AND i.relnamespace = pg_my_temp_schema()
"""
