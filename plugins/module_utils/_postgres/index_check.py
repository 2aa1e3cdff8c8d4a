# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is a new index sound: amcheck on single indexes. PRIVATE to the collection."""

from __future__ import annotations

import contextlib
import dataclasses
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import one, query
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_inventory import Index, transaction

if t.TYPE_CHECKING:
    import psycopg

CORRUPT = ("XX001", "XX002")
_SCHEMA = """
SELECT quote_ident(n.nspname) AS schema FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'amcheck'
"""
_FUNCTIONS = """
SELECT to_regprocedure(%(s)s || '.bt_index_check(regclass, boolean, boolean)') IS NOT NULL AS checkunique,
  to_regprocedure(%(s)s || '.gin_index_check(regclass)') IS NOT NULL AS gin
"""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """``sound`` is None when it could not be looked at; ``words`` say why, or what is wrong."""

    sound: bool | None
    words: str = ""


class Checker:
    """Checks indexes with the amcheck of one connection; ``schema`` is None when there is none."""

    def __init__(self, connection: psycopg.Connection[t.Any], schema: str | None, heapallindexed: bool) -> None:
        self._connection = connection
        self._schema = schema
        self._heapallindexed = heapallindexed
        self._functions = one(connection, _FUNCTIONS, {"s": schema}) if schema else {}

    def check(self, index: Index) -> Verdict:
        """Examine one index."""
        statement = self._statement(index)
        if self._schema is None:
            return Verdict(None, "the extension amcheck is not installed in this database")
        if statement is None:
            return Verdict(None, f"there is no check for {index.method} indexes")
        try:
            with transaction(self._connection):
                query(self._connection, f"SELECT {self._schema}.{statement}", {"oid": index.oid})
        except OpsError as error:
            if error.state.get("sqlstate") in CORRUPT:
                return Verdict(False, error.message)
            if error.code == "unavailable":
                raise
            return Verdict(None, error.message)
        return Verdict(True)

    def _statement(self, index: Index) -> str | None:
        heap = "true" if self._heapallindexed else "false"
        if index.method == "btree":
            unique = ", true" if index.is_unique and self._functions.get("checkunique") else ""
            return f"bt_index_check(%(oid)s::bigint::oid::regclass, {heap}{unique})"
        return "gin_index_check(%(oid)s::bigint::oid::regclass)" if index.method == "gin" and self._functions.get("gin") else None


@contextlib.contextmanager
def checker(connection: psycopg.Connection[t.Any], *, heapallindexed: bool, create_extension: bool) -> t.Iterator[Checker]:
    """A checker; a missing extension is made, where wanted, in a transaction that is rolled back at the end."""
    with contextlib.ExitStack() as stack:
        rows = query(connection, _SCHEMA)
        if not rows and create_extension:
            stack.enter_context(transaction(connection, rollback=True))
            try:
                with transaction(connection):
                    query(connection, "CREATE EXTENSION amcheck")
            except OpsError as error:
                if error.code == "unavailable":
                    raise
            rows = query(connection, _SCHEMA)
        schema = str(rows[0]["schema"]) if rows else None
        yield Checker(connection, schema, heapallindexed)
