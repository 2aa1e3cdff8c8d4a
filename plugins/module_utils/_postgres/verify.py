# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is the data of a server what it should be: assertions by query, and structure by amcheck. PRIVATE to the collection."""

from __future__ import annotations

import contextlib
import dataclasses
import decimal
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, UNKNOWN, Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError, WaitTimeout
from ansible_collections.fileforge.ops.plugins.module_utils._module import require_library
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import one, query, query_error
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline

if t.TYPE_CHECKING:
    import psycopg

ROWS_PER_TABLE = 20
"""Problems that are fetched of one table; a broken table has thousands."""
MAX_FINDINGS = 200
_CORRUPTION = ("XX001", "XX002")
_LOOKS = "runbook: Incident Response, Database Issues"

_INDEXES = """
SELECT c.oid::bigint AS oid, c.oid::regclass::text AS name
FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid JOIN pg_am a ON a.oid = c.relam
WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence <> 't' AND i.indisvalid AND i.indisready
ORDER BY c.oid
"""
_TABLES = """
SELECT c.oid::bigint AS oid, c.oid::regclass::text AS name
FROM pg_class c JOIN pg_am a ON a.oid = c.relam
WHERE a.amname = 'heap' AND c.relkind IN ('r', 'm', 't') AND c.relpersistence <> 't'
ORDER BY c.oid
"""


@dataclasses.dataclass(frozen=True)
class Assertion:
    """A query with one value, and what that value must be."""

    name: str
    query: str
    equals: str | None = None
    minimum: float | None = None
    maximum: float | None = None

    def __post_init__(self) -> None:
        if self.equals is None and self.minimum is None and self.maximum is None:
            raise InvalidOption("assertions", self.name, "says neither equals nor minimum nor maximum")

    def problem(self, value: t.Any) -> str:
        """What is wrong with the value; empty when nothing is."""
        if self.equals is not None:
            return "" if _same(value, self.equals) else f"is {_shown(value)} instead of {self.equals}"
        number = _number(value)
        if number is None:
            return f"is {_shown(value)}, not a number"
        if self.minimum is not None and number < self.minimum:
            return f"is {_shown(value)}, less than {self.minimum:g}"
        if self.maximum is not None and number > self.maximum:
            return f"is {_shown(value)}, more than {self.maximum:g}"
        return ""

    def wanted(self) -> str:
        """The demand in words."""
        words = [f"= {self.equals}"] if self.equals is not None else []
        words += [f">= {self.minimum:g}"] if self.minimum is not None else []
        words += [f"<= {self.maximum:g}"] if self.maximum is not None else []
        return " and ".join(words)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One problem of one relation."""

    relation: str
    kind: str
    message: str

    def as_dict(self) -> dict[str, str]:
        """For a module's result."""
        return dataclasses.asdict(self)


@dataclasses.dataclass
class Examined:
    """What amcheck saw of one kind of relation."""

    kind: str
    total: int = 0
    done: int = 0
    broken: int = 0
    findings: list[Finding] = dataclasses.field(default_factory=list)
    unable: list[str] = dataclasses.field(default_factory=list)

    def check(self) -> Check:
        """``postgres.amcheck.indexes`` or ``postgres.amcheck.tables``."""
        summary = f"{self.done} of {self.total} {self.kind} examined, {self.broken} damaged"
        if self.broken:
            status, summary = CRITICAL, f"{summary}: {', '.join(sorted({finding.relation for finding in self.findings})[:5])}"
        elif self.unable or self.done < self.total:
            status, summary = UNKNOWN, f"{summary}; could not look: {self.unable[0] if self.unable else 'not all were reached'}"
        else:
            status = OK
        evidence = [finding.as_dict() for finding in self.findings[:10]]
        hint = "" if status == OK else _LOOKS
        return Check(
            f"postgres.amcheck.{self.kind}", status, summary, value=self.broken, unit=self.kind, hint=hint, evidence=evidence
        )


@dataclasses.dataclass
class Report:
    """Everything that was looked at."""

    checks: list[Check] = dataclasses.field(default_factory=list)
    findings: list[Finding] = dataclasses.field(default_factory=list)
    values: dict[str, t.Any] = dataclasses.field(default_factory=dict)


def verify_assertions(connection: psycopg.Connection[t.Any], assertions: t.Sequence[Assertion], deadline: Deadline) -> Report:
    """Run each query in a read-only transaction. A query that cannot run for want of time or connection is ``unknown``."""
    report = Report()
    for assertion in assertions:
        check_id = f"postgres.assert.{assertion.name}"
        try:
            value = _value(connection, assertion.query, deadline)
        except OpsError as error:
            could_not = isinstance(error, WaitTimeout) or error.code in ("unavailable", "access_denied")
            status = UNKNOWN if could_not else CRITICAL
            report.checks.append(Check(check_id, status, f"{assertion.name}: {error.message}", hint=_LOOKS))
            continue
        problem = assertion.problem(value)
        report.values[assertion.name] = _plain(value)
        summary = f"{assertion.name} {problem}" if problem else f"{assertion.name} is {_shown(value)} ({assertion.wanted()})"
        status, hint = (CRITICAL, _LOOKS) if problem else (OK, "")
        report.checks.append(Check(check_id, status, summary, value=_plain(value), hint=hint))
    return report


def verify_structure(
    connection: psycopg.Connection[t.Any], *, heapallindexed: bool, create_extension: bool, deadline: Deadline
) -> Report:
    """amcheck over all btree indexes and, from PostgreSQL 14, all heaps of the connected database.

    With ``create_extension`` a missing extension is created in a transaction that is rolled back at the end, so nothing stays.
    """
    with contextlib.ExitStack() as stack:
        try:
            schema = _amcheck_schema(connection)
            if schema is None and create_extension:
                stack.enter_context(connection.transaction(force_rollback=True))
                query(connection, "CREATE EXTENSION amcheck")
                schema = _amcheck_schema(connection)
        except OpsError as error:
            return _not_examined(f"the extension amcheck cannot be used: {error.message}")
        if schema is None:
            return _not_examined("the extension amcheck is not installed in this database")
        return _examine(connection, schema, heapallindexed, deadline)


def _not_examined(reason: str) -> Report:
    hint = "CREATE EXTENSION amcheck, or create_extension on a scratch server"
    kinds = ("indexes", "tables")
    return Report(
        checks=[Check(f"postgres.amcheck.{kind}", UNKNOWN, f"{kind} not examined: {reason}", hint=hint) for kind in kinds]
    )


def _examine(connection: psycopg.Connection[t.Any], schema: str, heapallindexed: bool, deadline: Deadline) -> Report:
    flag = "true" if heapallindexed else "false"
    index_sql = f"SELECT {schema}.bt_index_check(%s::oid::regclass, {flag}) AS block, NULL AS message"
    table_sql = f"SELECT blkno AS block, msg AS message FROM {schema}.verify_heapam(%s::oid::regclass) LIMIT {ROWS_PER_TABLE}"  # noqa: S608
    kinds = [("indexes", _INDEXES, index_sql)]
    if connection.info.server_version >= 140000:
        kinds.append(("tables", _TABLES, table_sql))
    report = Report()
    for kind, listing, sql in kinds:
        examined = Examined(kind)
        try:
            relations = query(connection, listing)
        except OpsError as error:
            examined.unable.append(error.message)
            relations = []
            examined.total = 1
        examined.total = max(examined.total, len(relations))
        for relation in relations:
            if not deadline.left:
                examined.unable.append("the time is over")
                break
            _examine_one(connection, examined, relation, sql, deadline)
        report.checks.append(examined.check())
        report.findings.extend(examined.findings[: MAX_FINDINGS - len(report.findings)])
    return report


def _examine_one(
    connection: psycopg.Connection[t.Any], examined: Examined, relation: dict[str, t.Any], sql: str, deadline: Deadline
) -> None:
    library = require_library("psycopg", "psycopg", minimum=(3, 1))
    kind = examined.kind[:-2] if examined.kind == "indexes" else examined.kind[:-1]
    try:
        with connection.transaction():
            _limit(connection, deadline)
            problems = connection.execute(sql.encode(), (relation["oid"],)).fetchall()
    except library.Error as error:
        if error.sqlstate in _CORRUPTION:
            examined.done += 1
            examined.broken += 1
            examined.findings.append(Finding(relation["name"], kind, str(error).splitlines()[0]))
        elif error.sqlstate not in ("42P01", "XX000") or not _gone(connection, relation["oid"]):
            examined.unable.append(query_error(error, relation["name"]).message)
        else:
            examined.total -= 1  # dropped meanwhile
        return
    examined.done += 1
    found = [Finding(relation["name"], kind, f"block {row['block']}: {row['message']}") for row in problems if row["message"]]
    examined.broken += bool(found)
    examined.findings.extend(found)


def _gone(connection: psycopg.Connection[t.Any], oid: int) -> bool:
    return not query(connection, "SELECT 1 FROM pg_class WHERE oid = %s::oid", (oid,))


def _amcheck_schema(connection: psycopg.Connection[t.Any]) -> str | None:
    rows = query(
        connection,
        "SELECT quote_ident(n.nspname) AS name FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
        " WHERE e.extname = 'amcheck'",
    )
    return str(rows[0]["name"]) if rows else None


def _value(connection: psycopg.Connection[t.Any], sql: str, deadline: Deadline) -> t.Any:
    if not deadline.left:
        raise WaitTimeout("the time is over")
    with connection.transaction(force_rollback=True):
        query(connection, "SET TRANSACTION READ ONLY")
        _limit(connection, deadline)
        row = one(connection, sql)
    if len(row) != 1:
        raise OpsError(f"the query gives {len(row)} columns instead of one value")
    return next(iter(row.values()))


def _limit(connection: psycopg.Connection[t.Any], deadline: Deadline) -> None:
    milliseconds = max(1, int(deadline.left * 1000))
    connection.execute("SELECT set_config('statement_timeout', %s, true)", (str(milliseconds),))


def _same(value: t.Any, expected: str) -> bool:
    number, wanted = _number(value), _number(expected)
    if number is not None and wanted is not None:
        return number == wanted
    if isinstance(value, bool):
        return str(value).lower() == expected.lower() or expected.lower() == ("t" if value else "f")
    return value is not None and str(value) == expected


def _number(value: t.Any) -> decimal.Decimal | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = decimal.Decimal(str(value))
    except decimal.InvalidOperation:
        return None
    return number if number.is_finite() else None


def _plain(value: t.Any) -> t.Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    number = _number(value)
    if number is not None:
        return int(number) if number == number.to_integral_value() else float(number)
    return str(value)


def _shown(value: t.Any) -> str:
    return "null" if value is None else str(_plain(value))[:200]
