# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server of a dump: what it is, the snapshot that dump and row counts share, and pg_dump. PRIVATE to the collection."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import typing as t
import zlib

from ansible_collections.fileforge.ops.plugins.module_utils._backup.dumps import TableRows
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, NotFound, OpsError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._module import require_library
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import PROGRAM_PLACES, program_version
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions, connect, one, query

if t.TYPE_CHECKING:
    import psycopg

OLDEST = 120000
NEWER = 5
"""How many major versions newer than the server a pg_dump may be that is looked for."""
LOCKED_AT_ONCE = 500
ATTEMPTS = 3
_LOCK_CLASS = zlib.crc32(b"fileforge dump") & 0x7FFFFFFF

_FACTS = """
SELECT current_setting('server_version_num')::int AS version_num,
       pg_is_in_recovery() AS in_recovery,
       (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
       datname AS database,
       pg_encoding_to_char(encoding) AS encoding,
       datcollate AS collate,
       datctype AS ctype,
       (SELECT rolname FROM pg_roles WHERE oid = 10) AS superuser,
       pg_database_size(oid) AS database_bytes
  FROM pg_database WHERE datname = current_database()
"""
_ROLES = """
SELECT DISTINCT r.rolname AS name
  FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
 WHERE d.refclassid = 'pg_authid'::regclass
   AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND r.rolname !~ '^pg_'
 ORDER BY 1
"""
_TABLESPACES = """
SELECT DISTINCT s.spcname AS name
  FROM pg_class c JOIN pg_tablespace s ON s.oid = c.reltablespace
 WHERE s.spcname NOT IN ('pg_default', 'pg_global')
 ORDER BY 1
"""
_TABLES = """
SELECT n.nspname AS schema, c.relname AS name
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND (c.relpersistence = 'p' OR NOT pg_is_in_recovery())
   AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY 1, 2
"""
"""Tables whose rows pg_dump brings: not those of extensions, and on a standby not unlogged ones."""


@dataclasses.dataclass(frozen=True)
class DumpServer:
    """The server and the database that is dumped."""

    version_num: int
    in_recovery: bool
    system_identifier: str
    database: str
    encoding: str
    collate: str
    ctype: str
    superuser: str
    database_bytes: int

    @property
    def major(self) -> int:
        """Major version."""
        return self.version_num // 10000


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """An exported snapshot, valid as long as its transaction, and what was read in it."""

    id: str
    taken: str
    """ISO 8601 in UTC; what committed before is in it."""
    tables: t.Tuple[t.Tuple[str, str], ...]
    """Schema and name; each is locked against changes of its definition and against truncation."""
    roles: t.Tuple[str, ...]
    tablespaces: t.Tuple[str, ...]
    large_objects: int


@contextlib.contextmanager
def session(options: PostgresOptions, lock_timeout: float) -> t.Iterator[psycopg.Connection[t.Any]]:
    """The connection that holds the lock of the dump and its snapshot."""
    connection = connect(
        options, statement_timeout_ms=0, lock_timeout_ms=int(lock_timeout * 1000), application_name="fileforge dump"
    )
    try:
        for name in ("idle_session_timeout", "idle_in_transaction_session_timeout"):
            query(connection, "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = %s", (name,))
        query(connection, "SET row_security = off")
        yield connection
    finally:
        connection.close()


def look(connection: psycopg.Connection[t.Any]) -> DumpServer:
    """The server's facts; raises Refused (reason ``version``) for one that is too old."""
    server = DumpServer(**one(connection, _FACTS))
    if server.version_num < OLDEST:
        raise Refused("version", f"PostgreSQL {server.major} is too old: 12 or newer is needed")
    return server


def lock(connection: psycopg.Connection[t.Any], place: str) -> None:
    """One dump of a database to a place at a time; raises Refused (reason ``locked``). Held as long as the connection."""
    key = zlib.crc32(place.encode()) & 0x7FFFFFFF
    if not one(connection, "SELECT pg_try_advisory_lock(%s::int, %s::int) AS held", (_LOCK_CLASS, key))["held"]:
        raise Refused(
            "locked",
            f"another dump of this database to {place} is running",
            hint="wait for it, or look for the application fileforge dump in pg_stat_activity",
        )


@contextlib.contextmanager
def snapshot(connection: psycopg.Connection[t.Any]) -> t.Iterator[Snapshot]:
    """Export a snapshot for the body. Tables that vanish between the look and the lock are a reason to begin anew."""
    for attempt in range(1, ATTEMPTS + 1):
        query(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        try:
            taken = _take(connection)
        except NotFound:
            query(connection, "ROLLBACK")
            if attempt == ATTEMPTS:
                raise
            continue
        try:
            yield taken
        finally:
            with contextlib.suppress(OpsError):  # the connection may be gone, and is closed soon
                query(connection, "ROLLBACK")
        return


def _take(connection: psycopg.Connection[t.Any]) -> Snapshot:
    taken = """to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')"""
    row = one(connection, f"SELECT {taken} AS taken, pg_export_snapshot() AS id")
    tables = tables_of(connection)
    sql = require_library("psycopg.sql", "psycopg")
    for first in range(0, len(tables), LOCKED_AT_ONCE):
        names = sql.SQL(", ").join(sql.Identifier(*table) for table in tables[first : first + LOCKED_AT_ONCE])
        query(connection, sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(names).as_string(connection))
    return Snapshot(
        row["id"],
        row["taken"],
        tables,
        tuple(str(found["name"]) for found in query(connection, _ROLES)),
        tuple(str(found["name"]) for found in query(connection, _TABLESPACES)),
        one(connection, "SELECT count(*) AS number FROM pg_largeobject_metadata")["number"],
    )


def tables_of(connection: psycopg.Connection[t.Any]) -> tuple[tuple[str, str], ...]:
    """Schema and name of each table whose rows a dump brings."""
    return tuple((str(found["schema"]), str(found["name"])) for found in query(connection, _TABLES))


def count_rows(
    connection: psycopg.Connection[t.Any], tables: t.Iterable[tuple[str, str]], on_table: t.Callable[[], None] = lambda: None
) -> tuple[TableRows, ...]:
    """Count each table's own rows, in the connection's transaction if it has one. Raises NotFound for a missing table."""
    sql = require_library("psycopg.sql", "psycopg")
    found = []
    for schema, name in tables:
        statement = sql.SQL("SELECT count(*) AS rows FROM ONLY {}").format(sql.Identifier(schema, name))
        found.append(TableRows(schema, name, one(connection, statement.as_string(connection))["rows"]))
        on_table()
    return tuple(found)


def find_program(name: str, major: int, bin_directory: str | None = None) -> tuple[str, str]:
    """A client program and its version: of the server's major version, or else a newer one.

    Raises Refused (``wrong_version``) and InvalidOption.
    """
    if bin_directory is not None:
        program = os.path.join(bin_directory, name)
        found = program_version(program)
        if found is None:
            raise InvalidOption("bin_directory", bin_directory, f"there is no working {name} in it")
        if found[0] < major:
            raise _too_old(name, major, f"{program} is of version {found[1]}")
        return program, found[1]
    places = [place.format(number) for number in range(major, major + NEWER + 1) for place in PROGRAM_PLACES]
    on_path = shutil.which(name)
    programs = [os.path.join(place, name) for place in places] + ([os.path.realpath(on_path), on_path] if on_path else [])
    usable = []
    for program in dict.fromkeys(programs):
        found = program_version(program)
        if found is not None and found[0] >= major:
            usable.append((found[0], program, found[1]))
    if not usable:
        raise _too_old(name, major, f"looked in {', '.join(place.format(major) for place in PROGRAM_PLACES)} and PATH")
    _number, program, version = min(usable, key=lambda item: item[0])
    return program, version


def _too_old(name: str, major: int, detail: str) -> Refused:
    return Refused(
        "wrong_version",
        f"there is no {name} that can work with PostgreSQL {major}: {detail}",
        hint=f"install the client programs of PostgreSQL {major}, or set bin_directory",
    )


def environment(options: PostgresOptions) -> dict[str, str]:
    """How libpq reaches the server: in the environment, because the arguments of a program are for everybody to see."""
    values = {
        "PGHOST": options.host,
        "PGPORT": str(options.port),
        "PGUSER": options.user,
        "PGPASSWORD": options.password,
        "PGDATABASE": options.database,
        "PGSSLMODE": options.sslmode,
        "PGSSLROOTCERT": options.sslrootcert,
        "PGCONNECT_TIMEOUT": str(options.connect_timeout),
        "PGAPPNAME": "fileforge dump",
    }
    return {name: value for name, value in values.items() if value is not None}
