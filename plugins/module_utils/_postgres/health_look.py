# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all looks at a server's health share: limits, the way to ask, the form of the answers. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import re
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import OK, Check, grade
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import Params, Row, one, query

if t.TYPE_CHECKING:
    import psycopg

MIB, GIB = 1 << 20, 1 << 30
KEPT = 20
"""Entries of evidence that are kept: a report is read by people."""
INCIDENT = "runbook: Incident Response, Database Issues"
GRANT = "grant the role what it needs: GRANT pg_monitor TO the role (docs/server-checks.md)"


@dataclasses.dataclass(frozen=True)
class Limit:
    """From which value on a check is a warning, and critical; None: never."""

    warning: float | None
    critical: float | None
    unit: str = ""


LIMITS: dict[str, Limit] = {
    "connections": Limit(75, 90, "%"),
    "blocking": Limit(30, 300, "s"),
    "long_queries": Limit(300, 1800, "s"),
    "idle_in_transaction": Limit(60, 300, "s"),
    "long_transactions": Limit(1800, 7200, "s"),
    "prepared_transactions": Limit(60, 300, "s"),
    "replication_lag": Limit(64 * MIB, GIB, "bytes"),
    "replication_lag_time": Limit(60, 300, "s"),
    "slots": Limit(5 * GIB, 20 * GIB, "bytes"),
    "archiver": Limit(1800, 3600, "s"),
    "wraparound": Limit(50, 75, "%"),
    "wraparound_multixact": Limit(50, 75, "%"),
    "sequences": Limit(75, 90, "%"),
    "invalid_indexes": Limit(1, None, "indexes"),
    "vacuum_debt": Limit(2, 10, "times the threshold"),
    "checksum_failures": Limit(None, 1, "failures"),
    "pending_restart": Limit(1, None, "settings"),
    "time_sync": Limit(2, 5, "s"),
    "checkpoints": Limit(50, None, "%"),
    "cache_hit": Limit(None, None, "%"),
}
"""The defaults; the runbook's recovery point objective of one hour gives the archiver's."""


@dataclasses.dataclass(frozen=True)
class HealthOptions:
    """What is asked of the server, beyond the limits."""

    limits: t.Mapping[str, Limit] = dataclasses.field(default_factory=lambda: dict(LIMITS))
    expected_role: str = "any"
    expected_replicas: int | None = None
    require_archiving: bool = False
    ignore_roles: t.Sequence[str] = ()
    ignore_applications: t.Sequence[str] = ()
    check_timeout: float = 5.0
    timeout: float = 60.0

    def __post_init__(self) -> None:
        for name in ("check_timeout", "timeout"):
            if getattr(self, name) <= 0:
                raise InvalidOption(name, getattr(self, name), "must be more than 0")


def limits_from(given: t.Mapping[str, t.Any]) -> dict[str, Limit]:
    """The defaults with what the user gave: ``{"connections": {"warning": 80}}``."""
    limits = dict(LIMITS)
    for name, item in given.items():
        option = f"limits.{name}"
        if name not in limits:
            raise InvalidOption("limits", name, "there is no such limit", hint=f"there are: {', '.join(sorted(limits))}")
        if not isinstance(item, t.Mapping) or not set(item) <= {"warning", "critical"}:
            raise InvalidOption(option, item, "must hold warning, critical or both")
        default = limits[name]
        warning = _number(option, item.get("warning", default.warning))
        critical = _number(option, item.get("critical", default.critical))
        if warning is not None and critical is not None and warning > critical:
            raise InvalidOption(option, item, f"warning ({warning:g}) must not be above critical ({critical:g})")
        limits[name] = Limit(warning, critical, default.unit)
    return limits


def _number(option: str, value: t.Any) -> float | None:
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InvalidOption(option, value, "not a number") from error


@dataclasses.dataclass
class Server:
    """What is known of the server from the first question."""

    version: int
    version_text: str
    standby: bool
    sees_statistics: bool
    sees_settings: bool
    started: str
    position: str
    database: str
    name: str

    @property
    def role(self) -> str:
        """``primary`` or ``standby``."""
        return "standby" if self.standby else "primary"

    def as_dict(self) -> dict[str, t.Any]:
        """For a module's result."""
        return {
            "version": self.version_text,
            "role": self.role,
            "started": self.started,
            "wal_position": self.position,
            "database": self.database,
            "cluster_name": self.name,
        }


class Look:
    """A server, the questions to it, and answers in the form of checks."""

    def __init__(self, connection: psycopg.Connection[t.Any], server: Server, options: HealthOptions) -> None:
        self._connection = connection
        self.server = server
        self.options = options
        self.blocking: list[dict[str, t.Any]] = []

    @property
    def version(self) -> int:
        """Major version."""
        return self.server.version

    def rows(self, sql: str, params: Params = None) -> list[Row]:
        """All rows."""
        return query(self._connection, sql, params)

    def row(self, sql: str, params: Params = None) -> Row:
        """The only row."""
        return one(self._connection, sql, params)

    def graded(
        self,
        name: str,
        value: float | None,
        summary: str,
        *,
        hint: str = "",
        evidence: t.Any = None,
        status: str | None = None,
    ) -> Check:
        """The check of that name; its status from its limit unless given. Hints belong to what is not ok."""
        limit = self.options.limits[name]
        if status is None:
            status = grade(value, limit.warning, limit.critical)
        return Check(
            f"postgres.{name}",
            status,
            summary,
            value=None if value is None else round(value, 3),
            unit=limit.unit,
            warning=limit.warning,
            critical=limit.critical,
            hint="" if status == OK else hint,
            evidence=evidence,
        )


_LITERAL = re.compile(
    r"""
    (?P<name>"(?:[^"]|"")*")                                  # a quoted name, which may hold an apostrophe
    | (?P<comment>--[^\n]* | /\*(?:(?!/\*|\*/).)*(?:\*/|.*))   # of one that holds another, everything up to the end
    | (?P<tag>\$(?:[^\W\d]\w*)?\$).*?(?:(?P=tag)|\Z)
    | \b[eE]'(?:[^'\\]|''|\\.)*'?
    | '(?:[^']|'')*'?
    | (?<!\$)\b\d+(?:\.\d+)?\b                                 # $1 is a place, not a value
    """,
    re.DOTALL | re.VERBOSE,
)


def without_literals(statement: str | None, length: int = 160) -> str:
    """A statement as evidence: what it does, without the values in it, which may be anybody's data."""
    text = " ".join(_LITERAL.sub(_blank, statement or "").split())
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _blank(found: re.Match[str]) -> str:
    return found["name"] or (" " if found["comment"] else "?")


def size_text(size: float) -> str:
    """``1.5 GiB``."""
    for unit, factor in (("GiB", GIB), ("MiB", MIB), ("KiB", 1024)):
        if abs(size) >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"
