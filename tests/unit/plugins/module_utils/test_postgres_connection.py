# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of a connection and the meaning of its errors."""

from __future__ import annotations

import socket
import types
import typing as t

import psycopg
import psycopg.errors
import pytest
from ansible_collections.fileforge.ops.plugins.module_utils import _argspec
from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    AccessDenied,
    InvalidOption,
    NotFound,
    OpsError,
    Unavailable,
    WaitTimeout,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import connection as engine
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions, connect, query_error


def test_every_option_of_the_shared_spec_is_used() -> None:
    params = {name: f"value of {name}" for name in _argspec.POSTGRES}
    options = PostgresOptions.from_params({**params, "something_else": 1})
    assert {f"postgres_{name}": getattr(options, name) for name in vars(options)} == params


def test_defaults_are_those_of_the_shared_spec() -> None:
    options = PostgresOptions.from_params(dict.fromkeys(_argspec.POSTGRES))
    defaults = {name: spec.get("default") for name, spec in _argspec.POSTGRES.items()}
    assert {f"postgres_{name}": value for name, value in vars(options).items()} == defaults


def test_the_password_is_never_shown() -> None:
    options = PostgresOptions(host="db1", password="geheim")
    assert "geheim" not in repr(options) + options.describe()
    assert options.conninfo("x")["password"] == "geheim"


def test_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unavailable, match=f"postgres@127.0.0.1:{port}/postgres.*refused") as caught:
        connect(PostgresOptions(host="127.0.0.1", port=port, password="geheim"))
    assert "geheim" not in caught.value.message and caught.value.hint


def test_a_silent_server_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(Unavailable, match="timeout"):
            connect(PostgresOptions(host="127.0.0.1", port=silent.getsockname()[1], connect_timeout=2))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('FATAL:  password authentication failed for user "x"', AccessDenied),
        ("fe_sendauth: no password supplied", AccessDenied),
        ('FATAL:  no pg_hba.conf entry for host "127.0.0.1"', AccessDenied),
        ('FATAL:  role "x" does not exist', AccessDenied),
        ('FATAL:  role "x" is not permitted to log in', AccessDenied),
        ('FATAL:  Peer authentication failed for user "postgres"', AccessDenied),
        ('FATAL:  database "x" does not exist', NotFound),
        ("FATAL:  the database system is starting up", Unavailable),
        ("FATAL:  sorry, too many clients already", Unavailable),
        ("server does not support SSL, but SSL was required", InvalidOption),
        ("SSL error: certificate verify failed", InvalidOption),
        ('root certificate file "/x" does not exist', InvalidOption),
    ],
)
def test_connection_errors(monkeypatch: pytest.MonkeyPatch, text: str, kind: type[OpsError]) -> None:
    def refuse(**arguments: t.Any) -> t.NoReturn:
        raise psycopg.OperationalError(text)

    monkeypatch.setattr(psycopg, "connect", refuse)
    with pytest.raises(OpsError) as caught:
        connect(PostgresOptions(host="db1", user="x", database="x", password="geheim"))
    assert caught.value.__class__ is kind and text in caught.value.message and "x@db1:5432/x" in caught.value.message


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("QueryCanceled", WaitTimeout),
        ("LockNotAvailable", WaitTimeout),
        ("InsufficientPrivilege", AccessDenied),
        ("UndefinedTable", NotFound),
        ("UndefinedFunction", NotFound),
        ("AdminShutdown", Unavailable),
        ("ConnectionFailure", Unavailable),
        ("SyntaxError", OpsError),
        ("IndexCorrupted", OpsError),
    ],
)
def test_statement_errors(name: str, kind: type[OpsError]) -> None:
    error = query_error(getattr(psycopg.errors, name)("first line\nsecond line"), "db1")
    assert error.__class__ is kind and error.message == "db1: first line"


def test_an_error_without_a_code_is_a_lost_connection() -> None:
    assert query_error(psycopg.OperationalError("the connection is closed"), "db1").__class__ is Unavailable


def test_one_row() -> None:
    class Fake:
        info = types.SimpleNamespace(user="u", host="h", port=1, dbname="d")

        def __init__(self, rows: list[dict[str, int]]) -> None:
            self.rows = rows

        def execute(self, sql: bytes, params: object) -> t.Any:
            return types.SimpleNamespace(description=True, fetchall=lambda: self.rows)

    assert engine.one(t.cast(t.Any, Fake([{"a": 1}])), "select") == {"a": 1}
    with pytest.raises(NotFound, match=r"u@h:1/d.*no row"):
        engine.one(t.cast(t.Any, Fake([])), "select")
    with pytest.raises(OpsError, match="2 rows"):
        engine.one(t.cast(t.Any, Fake([{"a": 1}, {"a": 2}])), "select")
