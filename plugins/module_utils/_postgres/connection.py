# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections to one PostgreSQL server, with errors that a person can act on. PRIVATE to the collection.

Needs psycopg 3.1 or newer, imported when the first connection is made. Messages name host, port, role and database; never the
password.
"""

from __future__ import annotations

import contextlib
import dataclasses
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    AccessDenied,
    InvalidOption,
    NotFound,
    OpsError,
    Unavailable,
    WaitTimeout,
)
from ansible_collections.fileforge.ops.plugins.module_utils._module import require_library

if t.TYPE_CHECKING:
    import psycopg

Row = t.Dict[str, t.Any]
Params = t.Union[t.Sequence[t.Any], t.Mapping[str, t.Any], None]

KEEPALIVES = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""A peer that vanished is noticed within a minute instead of never."""


@dataclasses.dataclass(frozen=True)
class PostgresOptions:
    """The options of ``_argspec.POSTGRES``."""

    host: str | None = None
    port: int = 5432
    user: str = "postgres"
    password: str | None = dataclasses.field(default=None, repr=False)
    database: str = "postgres"
    sslmode: str = "prefer"
    sslrootcert: str | None = None
    connect_timeout: int = 10

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> PostgresOptions:
        """From a module's parameters; other options are ignored."""
        fields = (field.name for field in dataclasses.fields(cls))
        return cls(**{name: params[f"postgres_{name}"] for name in fields if params.get(f"postgres_{name}") is not None})

    def describe(self) -> str:
        """``postgres@db1:5432/postgres`` for messages."""
        return f"{self.user}@{self.host or 'local socket'}:{self.port}/{self.database}"

    def conninfo(self, application_name: str) -> dict[str, t.Any]:
        """Keyword arguments of libpq."""
        arguments = {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "dbname": self.database,
            "sslmode": self.sslmode,
            "sslrootcert": self.sslrootcert,
            "connect_timeout": self.connect_timeout,
            "application_name": application_name,
            **KEEPALIVES,
        }
        return {name: value for name, value in arguments.items() if value is not None}


def connect(
    options: PostgresOptions,
    *,
    autocommit: bool = True,
    statement_timeout_ms: int | None = None,
    lock_timeout_ms: int | None = None,
    application_name: str = "fileforge.ops",
) -> psycopg.Connection[t.Any]:
    """Open a connection whose rows are dictionaries.

    Raises AccessDenied (authentication or host rules), NotFound (no such database), Unavailable (refused, starting up, timed
    out, name not resolved) and InvalidOption (the certificate file cannot be used).
    """
    library = require_library("psycopg", "psycopg", minimum=(3, 1))
    rows = require_library("psycopg.rows", "psycopg")
    try:
        connection: psycopg.Connection[t.Any] = library.connect(
            autocommit=True, row_factory=rows.dict_row, **options.conninfo(application_name)
        )
    except library.Error as error:
        raise _connect_error(options, error) from error
    try:
        timeouts = {"statement_timeout": statement_timeout_ms, "lock_timeout": lock_timeout_ms}
        for name, value in timeouts.items():
            if value is not None:
                connection.execute("SELECT set_config(%s, %s, false)", (name, str(value)))
        connection.autocommit = autocommit
    except library.Error as error:
        connection.close()
        raise query_error(error, options.describe()) from error
    return connection


def query(connection: psycopg.Connection[t.Any], sql: str, params: Params = None) -> list[Row]:
    """All rows of a statement as dictionaries; an empty list for a statement without a result set.

    Raises WaitTimeout (statement or lock timeout), AccessDenied, NotFound (relation or function), Unavailable (connection
    lost), and OpsError for everything else, with the server's own words and its ``sqlstate``.
    """
    with translated(_where(connection)):
        cursor = connection.execute(sql.encode(), params)
        return [dict(row) for row in cursor.fetchall()] if cursor.description else []


def one(connection: psycopg.Connection[t.Any], sql: str, params: Params = None) -> Row:
    """The only row of a statement. Raises NotFound for none, OpsError for several."""
    rows = query(connection, sql, params)
    if not rows:
        raise NotFound(f"{_where(connection)}: the statement gave no row: {_shortened(sql)}")
    if len(rows) > 1:
        raise OpsError(f"{_where(connection)}: the statement gave {len(rows)} rows instead of one: {_shortened(sql)}")
    return rows[0]


@contextlib.contextmanager
def translated(what: str) -> t.Iterator[None]:
    """Turn errors of psycopg in the body into OpsError; for cursors and other uses beyond ``query``."""
    library = require_library("psycopg", "psycopg", minimum=(3, 1))
    try:
        yield
    except library.Error as error:
        raise query_error(error, what) from error


def query_error(error: psycopg.Error, what: str) -> OpsError:
    """The OpsError for an error of a statement."""
    code = error.sqlstate or ""
    message = f"{what}: {_first_line(error)}"
    if code in ("57014", "55P03"):
        return WaitTimeout(message, hint="raise the timeout, or look at what holds the lock", sqlstate=code)
    if code == "42501" or code.startswith("28"):
        return AccessDenied(message, hint="grant the role what it needs, or connect as another role", sqlstate=code)
    if code in ("42P01", "42883", "3D000", "3F000", "42703", "58P01"):
        return NotFound(message, sqlstate=code)
    if code.startswith(("08", "57P")) or not code:
        return Unavailable(message, hint="look at the server's log", sqlstate=code)
    return OpsError(message, sqlstate=code)


_DENIED = (
    "authentication failed",
    "no pg_hba.conf entry",
    "no password supplied",
    "pg_hba.conf rejects",
    "is not permitted to log in",
)
_CERTIFICATE = ("certificate verify failed", "root certificate file", "does not match host name", "does not support ssl")


def _connect_error(options: PostgresOptions, error: psycopg.Error) -> OpsError:
    text = str(error)
    lowered = text.lower()
    code = error.sqlstate or ""
    message = f"cannot connect to PostgreSQL as {options.describe()}: {_first_line(error)}"
    if code.startswith("28") or any(sign in lowered for sign in _DENIED) or ("role" in lowered and "does not exist" in lowered):
        return AccessDenied(message, hint="check postgres_user, postgres_password and the server's pg_hba.conf")
    if code == "3D000" or ("database" in lowered and "does not exist" in lowered):
        return NotFound(message, hint="check postgres_database")
    if any(sign in lowered for sign in _CERTIFICATE):
        return InvalidOption("postgres_sslmode", options.sslmode, message, hint="check postgres_sslmode and postgres_sslrootcert")
    return Unavailable(message, hint="check that the server runs and that postgres_host and postgres_port are right")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _where(connection: psycopg.Connection[t.Any]) -> str:
    info = connection.info
    try:
        return f"{info.user}@{info.host or 'local socket'}:{info.port}/{info.dbname}"
    except Exception:  # the connection is closed: it no longer knows
        return "PostgreSQL"


def _shortened(sql: str) -> str:
    words = " ".join(sql.split())
    return words if len(words) <= 120 else f"{words[:117]}..."
