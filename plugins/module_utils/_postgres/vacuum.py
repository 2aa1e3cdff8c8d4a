# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""VACUUM and ANALYZE by need, the most urgent first, within a window of time. PRIVATE to the collection.

Several connections take tables from one ordered list. What was not done is in ``left`` with its reason; nothing is dropped in
silence, also not what the server itself only warns about. Nothing here takes more than VACUUM's own lock (no FULL).
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    InvalidOption,
    OpsError,
    Refused,
    Unavailable,
    WaitTimeout,
)
from ansible_collections.fileforge.ops.plugins.module_utils._module import require_library
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import vacuum_need as need
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import (
    PostgresOptions,
    Row,
    one,
    query,
    translated,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.vacuum_watch import session, watching
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline, wait_for

if t.TYPE_CHECKING:
    import psycopg

ROUNDS = 2
"""ANALYZE may find dead rows that a crash had made the server forget, and leaves some in the catalogs; both go in the same run."""
COUNTERS_TIMEOUT = 5.0
EMERGENCY_AGE = 1_000_000_000
"""From this age on a table is vacuumed at full speed, whatever the cost limit."""
_FREEZE_MIN_AGE = {"transaction_age": "vacuum_freeze_min_age", "multixact_age": "vacuum_multixact_freeze_min_age"}
HINTS = {
    "window": "run again, or give a longer window",
    "locked": "see who holds the lock (pg_locks), and run again",
    "busy": "wait until it has ended",
    "not_allowed": "connect as the table's owner or a superuser, or grant MAINTAIN (17 and newer)",
    "gone": "",
    "failed": "look at the server's log",
    "skipped": "look at the server's message",
}


@dataclasses.dataclass(frozen=True)
class VacuumOptions:
    """The module's options of the same names."""

    tables: t.Sequence[str] = ()
    exclude: t.Sequence[str] = ()
    catalogs: bool = True
    analyze: bool = True
    window: float = 3600.0
    jobs: int = 2
    cost_limit: int = 200
    cost_delay: float = 2.0
    parallel_workers: int | None = None
    lock_timeout: float = 5.0
    limits: need.Limits = dataclasses.field(default_factory=need.Limits)

    def check(self) -> None:
        """Raise InvalidOption before anything is touched."""
        self.limits.check()
        for name, least, most in (("jobs", 1, 32), ("cost_limit", 1, 10_000), ("cost_delay", 0, 100), ("lock_timeout", 0.1, 3600)):
            if not least <= getattr(self, name) <= most:
                raise InvalidOption(name, getattr(self, name), f"must be from {least} to {most}")
        if self.window <= 0:
            raise InvalidOption("window", self.window, "must be more than 0 seconds")
        if self.parallel_workers is not None and not 0 <= self.parallel_workers <= 1024:
            raise InvalidOption("parallel_workers", self.parallel_workers, "must be from 0 to 1024")


@dataclasses.dataclass(frozen=True)
class Left:
    """A table that needs work which was not done."""

    work: need.Work
    reason: str
    """window, locked, busy, not_allowed, gone, skipped or failed."""
    message: str

    def as_dict(self) -> dict[str, t.Any]:
        """For a module's result."""
        return {**_described(self.work), "reason": self.reason, "message": self.message, "hint": HINTS[self.reason]}


def _described(work: need.Work) -> dict[str, t.Any]:
    reasons = [reason.as_dict() for reason in work.needs]
    return {"table": work.facts.full_name, "action": work.action, "needs": reasons, "heap_bytes": work.facts.heap_bytes}


@dataclasses.dataclass
class Vacuumed:
    """What a run did and left."""

    plan: Plan
    done: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)
    left: list[Left] = dataclasses.field(default_factory=list)
    holders: list[Row] = dataclasses.field(default_factory=list)

    def result(self) -> dict[str, t.Any]:
        """For a module's result."""
        return {
            "changed": bool(self.done),
            "plan": self.plan.as_dict(),
            "tables": self.done,
            "left": [left.as_dict() for left in self.left],
            "held_back_by": self.holders,
        }


def maintain(
    server: PostgresOptions, options: VacuumOptions, *, check_mode: bool, plan_digest: str | None, progress: Progress
) -> Vacuumed:
    """Do what is needed within the window. Raises OpsError, with what was done, when a table failed for a reason of its own."""
    options.check()
    deadline = Deadline(options.window)
    with session(server, options.lock_timeout) as connection:
        if one(connection, "SELECT pg_is_in_recovery() AS standby")["standby"]:
            raise Refused("standby", f"{server.describe()} is a standby: it cannot be vacuumed", hint="connect to the primary")
        selected = need.resolve(connection, options.tables, "tables") if options.tables else None
        excluded = set(need.resolve(connection, options.exclude, "exclude"))

        def survey(oids: t.Sequence[int] | None) -> list[need.Work]:
            tables = [facts for facts in need.look(connection, oids, catalogs=options.catalogs) if facts.oid not in excluded]
            return need.work_for(tables, options.limits, analyze=options.analyze)

        needed = survey(selected)
        works = [work for work in needed if work.facts.allowed]
        plan = plan_for(connection.info.dbname, works)
        plan.require(plan_digest)
        forbidden = f"the role {server.user} may not vacuum it (the server itself would only warn)"
        vacuumed = Vacuumed(plan, left=[Left(work, "not_allowed", forbidden) for work in needed if not work.facts.allowed])
        if check_mode:
            vacuumed.done = [_described(work) for work in works]
            return vacuumed
        seen: set[int] = set()
        for _round in range(ROUNDS):
            if works:
                _Run(server, options, deadline, progress, vacuumed).carry_out(works)
            seen |= {work.facts.oid for work in works if work.vacuum}
            left = {item.work.facts.oid for item in vacuumed.left}
            works = [work for work in survey(selected) if work.facts.allowed and work.facts.oid not in seen | left]
        vacuumed.holders = _holders(connection) if any(item.get("held_back") for item in vacuumed.done) else []
    _raise_failures(vacuumed)
    return vacuumed


def plan_for(database: str, works: t.Sequence[need.Work]) -> Plan:
    """One step for each table in the order of urgency. The numbers, which change by themselves, are not part of the digest."""
    plan = Plan(f"Vacuum and analyse by need in database {database}")
    for work in works:
        kinds = ", ".join(sorted({reason.kind.replace("_", " ") for reason in work.needs}))
        plan.steps.append(Step(work.action, work.facts.full_name, detail=kinds))
        numbers = "; ".join(f"{reason.kind} {reason.value:.0f} of {reason.limit:.0f}" for reason in work.needs)
        plan.notes.append(f"{work.facts.full_name}: {numbers}")
    return plan


def _raise_failures(vacuumed: Vacuumed) -> None:
    failed = [left for left in vacuumed.left if left.reason == "failed"]
    if failed:
        names = ", ".join(left.work.facts.full_name for left in failed[:5])
        raise OpsError(
            f"{len(failed)} tables could not be worked on ({names}); first: {failed[0].message}",
            hint="look at the server's log; everything else is done, see tables and left",
            **vacuumed.result(),
        )


class _Run:
    """One pass over an ordered list of tables with several connections."""

    def __init__(
        self, server: PostgresOptions, options: VacuumOptions, deadline: Deadline, progress: Progress, into: Vacuumed
    ) -> None:
        self._server, self._options, self._deadline, self._progress = server, options, deadline, progress
        self._into = into
        self._lock = threading.Lock()
        self._finished_bytes = 0
        self._errors: list[BaseException] = []

    def carry_out(self, works: t.Sequence[need.Work]) -> None:
        """Work on all of them; returns when the last has ended or was left."""
        waiting = iter(works)
        total = sum(work.facts.heap_bytes for work in works)
        with self._progress.phase("vacuum", total or None), watching(self._server, self._progress, lambda: self._finished_bytes):
            workers = min(self._options.jobs, len(works))
            threads = [threading.Thread(target=self._worker, args=(waiting,)) for _number in range(workers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self._progress.set(self._finished_bytes)
        if self._errors:
            raise self._errors[0]
        for work in waiting:  # every worker lost the server
            self._leave(work, "failed", "the connection to the server was lost")

    def _next(self, waiting: t.Iterator[need.Work]) -> need.Work | None:
        with self._lock:
            return next(waiting, None)

    def _worker(self, waiting: t.Iterator[need.Work]) -> None:
        connection: psycopg.Connection[t.Any] | None = None
        try:
            with contextlib.ExitStack() as stack:
                while True:
                    work = self._next(waiting)
                    if work is None:
                        return
                    try:
                        if connection is None or connection.closed:
                            connection = stack.enter_context(session(self._server, self._options.lock_timeout))
                        self._attempt(connection, work)
                    except OpsError as error:
                        self._leave(work, "failed", error.message)
                        if connection is None or connection.closed:
                            connection = None
                            if isinstance(error, Unavailable) and not self._server_answers():
                                return
                    with self._lock:
                        self._finished_bytes += work.facts.heap_bytes
        except BaseException as error:  # pylint: disable=broad-except
            self._errors.append(error)

    def _server_answers(self) -> bool:
        try:
            with session(self._server, self._options.lock_timeout):
                return True
        except OpsError:
            return False

    def _leave(self, work: need.Work, reason: str, message: str) -> None:
        with self._lock:
            self._into.left.append(Left(work, reason, message))

    def _attempt(self, connection: psycopg.Connection[t.Any], work: need.Work) -> None:
        reason = self._obstacle(connection, work)
        if reason:
            self._leave(work, *reason)
            return
        begin = one(connection, "SELECT clock_timestamp() AS now")["now"]
        clock = time.monotonic()
        try:
            warnings = self._execute(connection, work)
        except WaitTimeout as error:
            if error.state.get("sqlstate") == "55P03":
                self._leave(work, "locked", f"its lock was not free within {self._options.lock_timeout:g} s")
            elif self._deadline.left < 0.5:
                self._leave(work, "window", "stopped at the end of the window; what it had done stays")
            else:
                self._leave(work, "failed", error.message)
            return
        if warnings and not _counted(connection, work, begin, COUNTERS_TIMEOUT):
            self._leave(work, "skipped", "; ".join(warnings))
            return
        self._record(connection, work, begin, time.monotonic() - clock, warnings)

    def _obstacle(self, connection: psycopg.Connection[t.Any], work: need.Work) -> tuple[str, str] | None:
        """Why not to begin with a table at all."""
        if self._deadline.left < 0.5:
            return "window", "the window ended before its turn"
        found = need.look(connection, [work.facts.oid])
        if not found:
            return "gone", "it was dropped meanwhile"
        if found[0].busy_pid:
            return "busy", f"process {found[0].busy_pid} vacuums it right now"
        return None

    def _execute(self, connection: psycopg.Connection[t.Any], work: need.Work) -> list[str]:
        """The statement itself; returns the server's warnings."""
        self._prepare(connection, work)
        sql = require_library("psycopg.sql", "psycopg")
        words = [need.VACUUM.upper()] if work.vacuum else []
        details = ["ANALYZE"] if work.analyze and work.vacuum else []
        if work.vacuum and self._options.parallel_workers is not None and connection.info.server_version >= 130000:
            details.append(f"PARALLEL {self._options.parallel_workers}")
        words += [f"({', '.join(details)})"] if details else []
        statement = sql.SQL("{} {}").format(
            sql.SQL(" ".join(words or ["ANALYZE"])), sql.Identifier(work.facts.schema, work.facts.name)
        )
        warnings: list[str] = []

        def heard(notice: t.Any) -> None:
            if notice.severity_nonlocalized == "WARNING":
                warnings.append(str(notice.message_primary))

        connection.add_notice_handler(heard)
        try:
            with translated(work.facts.full_name):
                connection.execute(statement)
        finally:
            connection.remove_notice_handler(heard)
        return warnings

    def _prepare(self, connection: psycopg.Connection[t.Any], work: need.Work) -> None:
        """Cost, time and age settings of the session for this table."""
        emergency = max(work.facts.xid_age, work.facts.mxid_age) >= EMERGENCY_AGE
        settings: dict[str, object] = {
            "statement_timeout": max(500, int(self._deadline.left * 1000)),
            "vacuum_cost_delay": 0 if emergency else self._options.cost_delay,
            "vacuum_cost_limit": max(1, self._options.cost_limit // self._options.jobs),
        }
        for kind in ("", "multixact_"):
            for name in (f"vacuum_{kind}freeze_table_age", f"vacuum_{kind}freeze_min_age"):
                query(connection, f"RESET {name}")
        if work.freeze:
            settings["vacuum_freeze_table_age"] = settings["vacuum_multixact_freeze_table_age"] = 0
            for reason in work.needs:
                minimum = _FREEZE_MIN_AGE.get(reason.kind)
                if minimum:
                    usual = int(one(connection, "SELECT current_setting(%s) AS value", (minimum,))["value"])
                    settings[minimum] = min(usual, int(reason.limit / 4))
        for name, value in settings.items():
            query(connection, "SELECT set_config(%s, %s, false)", (name, str(value)))

    def _record(
        self, connection: psycopg.Connection[t.Any], work: need.Work, begin: t.Any, seconds: float, warnings: list[str]
    ) -> None:
        _counted(connection, work, begin, COUNTERS_TIMEOUT)
        found = need.look(connection, [work.facts.oid])
        before, after = work.facts, found[0] if found else None
        entry: dict[str, t.Any] = {**_described(work), "seconds": round(seconds, 3), "warnings": warnings, "held_back": False}
        if after is not None:
            for name in ("dead", "toast_dead", "xid_age", "mxid_age", "heap_bytes"):
                entry[f"{name}_before"], entry[f"{name}_after"] = getattr(before, name), getattr(after, name)
            still = {reason.kind for reason in need.needs_of(after, self._options.limits) if reason.action == need.VACUUM}
            entry["held_back"] = bool(work.vacuum and still & {reason.kind for reason in work.needs})
        with self._lock:
            self._into.done.append(entry)


_COUNTED = """
SELECT coalesce(bool_and(moment >= %(begin)s), false) AS counted FROM (
  SELECT s.last_vacuum AS moment FROM pg_stat_all_tables s WHERE s.relid = %(oid)s AND %(vacuum)s
  UNION ALL SELECT s.last_analyze FROM pg_stat_all_tables s WHERE s.relid = %(oid)s AND %(analyze)s) AS moments
"""


def _counted(connection: psycopg.Connection[t.Any], work: need.Work, begin: t.Any, timeout: float) -> bool:
    """Whether the server's counters show that the work was done (before 15 they come a moment later)."""
    parent = work.facts.relkind == "p" and connection.info.server_version < 140000
    if parent:  # it has no counters there
        return True
    values = {"begin": begin, "oid": work.facts.oid, "vacuum": work.vacuum, "analyze": work.analyze}
    try:
        return wait_for(
            f"the counters of {work.facts.full_name}",
            lambda: bool(one(connection, _COUNTED, values)["counted"]),
            lambda counted: counted,
            timeout=timeout,
            interval=0.1,
        )
    except WaitTimeout:
        return False


_HOLDERS = """
SELECT * FROM (
  SELECT 'session' AS kind, pid::text AS name, age(backend_xmin) AS age,
    concat_ws(' ', usename, application_name, state, 'for ' || date_trunc('second', clock_timestamp() - xact_start)) AS detail
  FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'
  UNION ALL SELECT 'prepared transaction', gid, age(transaction), concat_ws(' ', owner, database) FROM pg_prepared_xacts
  UNION ALL SELECT 'replication slot', slot_name, greatest(age(xmin), age(catalog_xmin)),
    CASE WHEN active THEN 'active' ELSE 'inactive' END FROM pg_replication_slots
  UNION ALL SELECT 'standby', coalesce(application_name, pid::text), age(backend_xmin), client_addr::text FROM pg_stat_replication
) AS holders WHERE age IS NOT NULL ORDER BY age DESC, kind, name LIMIT 5
"""


def _holders(connection: psycopg.Connection[t.Any]) -> list[Row]:
    """What keeps VACUUM from removing rows, the oldest first."""
    return query(connection, _HOLDERS)
