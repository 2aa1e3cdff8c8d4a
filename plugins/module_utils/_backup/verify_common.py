# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What verifying a dump and a base backup share: options, checks, and the questions to the restored database. PRIVATE."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._backup.scratch_server import Place, ScratchServer
from ansible_collections.fileforge.ops.plugins.module_utils._backup.verifications import DUMP, KINDS, TIME
from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, UNKNOWN, Check, grade, worst
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, NotFound, OpsError, WaitTimeout
from ansible_collections.fileforge.ops.plugins.module_utils._module import require_library
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import verify as database_verify
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import one
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress
from ansible_collections.fileforge.ops.plugins.module_utils._time import duration_text
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline

if t.TYPE_CHECKING:
    import psycopg

LATEST = "latest"
ANOTHER = "use an older backup until a good one is made (playbooks/backup.yml), and find out what damaged this one"
AGAIN = "see what ended it in the other checks, put it right, then verify again: playbooks/backup-verify.yml"
SHOWN = 10
PREPARING = ("checksum", "fetch", "create", "restore", "sync", "swap", "replay")
"""Phases that a real recovery would have to go through, too."""


@dataclasses.dataclass(frozen=True)
class VerifyOptions:
    """What the user asks for; times in seconds."""

    scratch_directory: str
    kind: str = DUMP
    backup: str = LATEST
    prefix: str = ""
    target_time: str = LATEST
    database: str | None = None
    minimum_rows: t.Mapping[str, int] = dataclasses.field(default_factory=dict)
    assertions: t.Tuple[database_verify.Assertion, ...] = ()
    amcheck: bool = True
    heapallindexed: bool = True
    page_checksums: bool = True
    owner: str = "postgres"
    bin_directory: str | None = None
    program_interpreter: str = "/usr/bin/python3"
    server_options: t.Tuple[str, ...] = ()
    jobs: int = 2
    timeout: int = 14400
    rto: int = 0
    max_age: int = 0
    record: bool = True

    def check(self) -> None:
        """Raise InvalidOption for values that cannot be used."""
        if self.kind not in KINDS:
            raise InvalidOption("kind", self.kind, f"must be one of {', '.join(KINDS)}")
        for name, least in {"jobs": 1, "timeout": 1, "rto": 0, "max_age": 0}.items():
            if getattr(self, name) < least:
                raise InvalidOption(name, getattr(self, name), f"must be at least {least}")
        if self.kind != DUMP and not self.database and (self.minimum_rows or self.assertions):
            raise InvalidOption(
                "database",
                self.database,
                "a base backup holds all databases, so say in which the rows and assertions are looked for",
            )

    def place(self) -> Place:
        """Where the scratch server lives."""
        return Place(self.scratch_directory, self.owner, self.bin_directory, self.server_options)


class Bad(Exception):
    """The backup is bad and there is no use in going on; the reason is in the checks already."""


class Findings:
    """The checks of one verification; what was expected and not reached is unknown."""

    def __init__(self, expected: t.Sequence[str]) -> None:
        self._expected = list(expected)
        self.checks: list[Check] = []
        self.damage: list[dict[str, str]] = []

    def ok(self, name: str, summary: str, **more: t.Any) -> None:
        """It was looked at and found good."""
        self.checks.append(Check(name, OK, summary, **more))

    def bad(self, name: str, summary: str, **more: t.Any) -> None:
        """It was looked at and found bad."""
        self.checks.append(Check(name, CRITICAL, summary, hint=more.pop("hint", "") or ANOTHER, **more))

    def unknown(self, name: str, summary: str, **more: t.Any) -> None:
        """It could not be looked at."""
        self.checks.append(Check(name, UNKNOWN, summary, hint=more.pop("hint", "") or AGAIN, **more))

    def complete(self) -> list[Check]:
        """All checks, also those that were not reached."""
        found = {check.id for check in self.checks}
        missing = [name for name in self._expected if name not in found]
        ended = "not looked at: the verification ended before"
        return [*self.checks, *(Check(name, UNKNOWN, ended, hint=AGAIN) for name in missing)]


class Subject(t.Protocol):
    """A backup that was chosen to be verified."""

    kind: str
    name: str
    key: str
    size: int

    def expected(self) -> list[str]:
        """Ids of the checks that a good backup passes."""

    def run(self, place: Place, findings: Findings, progress: Progress, deadline: Deadline) -> dict[str, t.Any]:
        """Restore and look; facts for the record. Raises Bad after a check that makes going on useless."""


def ask(server: ScratchServer, database: str, options: VerifyOptions, findings: Findings, deadline: Deadline) -> None:
    """Minimum rows and assertions in the database that the user knows."""
    if not options.minimum_rows and not options.assertions:
        return
    try:
        connection = server.connect(database)
    except NotFound as error:
        names = ["verify.minimum_rows"] if options.minimum_rows else []
        names += [f"postgres.assert.{assertion.name}" for assertion in options.assertions]
        for name in names:
            findings.bad(name, error.message)
        return
    with connection:
        if options.minimum_rows:
            _minimum_rows(connection, options.minimum_rows, findings)
        report = database_verify.verify_assertions(connection, options.assertions, deadline)
        findings.checks += report.checks


def _minimum_rows(connection: psycopg.Connection[t.Any], minimum: t.Mapping[str, int], findings: Findings) -> None:
    problems, seen = [], {}
    sql = require_library("psycopg.sql", "psycopg")
    for table, least in minimum.items():
        statement = sql.SQL("SELECT count(*) AS rows FROM {}").format(sql.Identifier(*table.split(".", 1)))
        try:
            rows = one(connection, statement.as_string(connection))["rows"]
        except OpsError as error:
            problems.append(f"{table}: {error.message}")
            continue
        seen[table] = rows
        if rows < least:
            problems.append(f"{table} has {rows} rows, at least {least} are expected")
    if problems:
        findings.bad("verify.minimum_rows", "; ".join(problems[:SHOWN]), value=len(problems), unit="tables", evidence=seen)
    else:
        findings.ok(
            "verify.minimum_rows", f"{len(minimum)} tables have the rows they must have", value=0, unit="tables", evidence=seen
        )


def examine(
    server: ScratchServer, databases: t.Sequence[str], options: VerifyOptions, findings: Findings, deadline: Deadline
) -> None:
    """amcheck in each database; one check for indexes and one for tables, whatever the number of databases."""
    if not options.amcheck:
        return
    found: dict[str, list[tuple[str, Check]]] = {}
    for database in databases:
        with server.connect(database) as connection:
            report = database_verify.verify_structure(
                connection, heapallindexed=options.heapallindexed, create_extension=True, deadline=deadline
            )
        findings.damage += [{"database": database, **finding.as_dict()} for finding in report.findings]
        for check in report.checks:
            found.setdefault(check.id, []).append((database, check))
    for name, results in found.items():
        findings.checks.append(_joined(name, results))


def _joined(name: str, results: t.Sequence[tuple[str, Check]]) -> Check:
    status = worst(check.status for _database, check in results)
    shown = [item for item in results if item[1].status == status] if status != OK else results
    summary = "; ".join(f"{database}: {check.summary}" for database, check in shown[:SHOWN])
    evidence = [{"database": database, **item} for database, check in results for item in check.evidence or ()][:SHOWN]
    value = sum(int(check.value or 0) for _database, check in results)
    return Check(name, status, summary, value, results[0][1].unit, hint="" if status == OK else ANOTHER, evidence=evidence)


def time_taken(progress: Progress, rto: int, findings: Findings) -> None:
    """``verify.time``: how long fetching and restoring took, against the objective if there is one."""
    seconds = round(sum(timing["seconds"] for timing in progress.timings if timing["phase"] in PREPARING), 1)
    limit = rto or None
    summary = f"fetched and restored in {duration_text(seconds)}" + (f" of {duration_text(rto)} that it may take" if rto else "")
    status = grade(seconds, None, limit)
    hint = "" if status == OK else "make base backups more often, or raise jobs, network and disks"
    findings.checks.append(Check(TIME, status, summary, seconds, "s", None, limit, hint))


def could_not(error: OpsError) -> bool:
    """Whether an error says nothing about the backup: time or a connection was lacking."""
    return isinstance(error, WaitTimeout) or error.code in ("unavailable", "access_denied")
