# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries out one task on one index, so that a kill at any point leaves what the next run completes. PRIVATE to the collection.

At every moment the name has the index that it had before or the new one, whole and valid. What an attempt leaves is removed
before the next attempt, and at the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import threading
import time
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError, WaitTimeout
from ansible_collections.fileforge.ops.plugins.module_utils._module import require_library
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import (
    PostgresOptions,
    connect,
    one,
    query,
    query_error,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_check import checker
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_inventory import (
    NEW,
    OLD,
    Index,
    Inventory,
    own_name,
    quoted,
    take,
    transaction,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_plan import (
    CREATE,
    DROP,
    REBUILD,
    RebuildOptions,
    Target,
    Task,
)
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline

if t.TYPE_CHECKING:
    import psycopg

APPLICATION = "fileforge.ops index rebuild"
LOCK_CLASS = 0x46464F50
RUN_LOCK, WORK_LOCK = 1, 2
"""Advisory locks of the database: one run has the first alone, each of its building sessions shares the second."""
DONE, FAILED, LEFT = "done", "failed", "left"
LONGEST_PAUSE = 30.0
_LOCK_STATES = ("55P03", "40P01")
_BLOCKERS = """
SELECT a.xact_start, a.pid, a.usename AS role, a.application_name AS application, a.state,
  extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds
FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL
  AND a.backend_type = 'client backend'
  AND clock_timestamp() - a.xact_start > make_interval(secs => %(seconds)s)
  AND (a.backend_xmin IS NOT NULL OR EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.granted
    AND l.locktype = 'relation' AND l.relation = %(table)s::bigint::oid AND l.database = a.datid))
  AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.pid = a.pid)
  AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory'
    AND l.classid = %(class)s::bigint::oid AND l.objid = %(work)s::bigint::oid AND l.database = a.datid)
UNION ALL
SELECT p.prepared, NULL, p.owner, p.gid, 'prepared', extract(epoch FROM clock_timestamp() - p.prepared)::float8
FROM pg_prepared_xacts p JOIN pg_locks l ON l.pid IS NULL AND l.locktype = 'transactionid' AND l.transactionid = p.transaction
WHERE p.database = current_database() AND EXISTS (SELECT FROM pg_locks r WHERE r.pid IS NULL
  AND r.virtualtransaction = l.virtualtransaction AND r.locktype = 'relation' AND r.relation = %(table)s::bigint::oid)
ORDER BY 1
"""


@dataclasses.dataclass
class Outcome:
    """How a task ended."""

    task: Task
    status: str = ""
    reason: str = ""
    message: str = ""
    attempts: int = 0
    seconds: float = 0.0
    bytes_after: int | None = None
    verified: bool | None = None
    verify_note: str = ""
    changed: bool = False

    def fail(self, reason: str, message: str) -> None:
        """Note that it could not be done."""
        self.status, self.reason, self.message = FAILED, reason, message

    def as_dict(self) -> dict[str, t.Any]:
        """For a module's result."""
        task, bloat = self.task, self.task.bloat
        return {
            "schema": task.schema,
            "name": task.name,
            "table": task.table,
            "action": task.kind,
            "reason": task.reason,
            "status": self.status,
            "message": self.message,
            "attempts": self.attempts,
            "seconds": round(self.seconds, 3),
            "bytes_before": task.index.bytes if task.index else 0,
            "bytes_after": self.bytes_after,
            "bloat_percent": None if bloat is None or bloat.ratio is None else round(100 * bloat.ratio, 1),
            "bloat_source": None if bloat is None else bloat.source,
            "verified": self.verified,
            "verify_note": self.verify_note,
        }


class Window:
    """The time in which work is allowed: building ends early enough to remove what it leaves."""

    def __init__(self, seconds: float | None, lock_timeout: float) -> None:
        self.end = None if seconds is None else Deadline(seconds)
        self.work = None if seconds is None else Deadline(seconds - min(0.2 * seconds, lock_timeout + 5))


class Cancelled(OpsError):
    """Somebody cancelled the statement on the server, or the run is being stopped."""

    code = "cancelled"


class WindowOver(OpsError):
    """The time in which work is allowed has passed."""

    code = "window"


class Worker:
    """One session that builds; not shared between threads but for ``cancel``."""

    def __init__(self, postgres: PostgresOptions, options: RebuildOptions, window: Window, stop: threading.Event) -> None:
        self._postgres = postgres
        self._options = options
        self._window = window
        self._deadline = window.work
        self._stop = stop
        self._connection: psycopg.Connection[t.Any] | None = None
        self.task: Task | None = None

    @property
    def pid(self) -> int | None:
        """Process of the session on the server."""
        connection = self._connection
        return None if connection is None or connection.closed else int(connection.info.backend_pid)

    def cancel(self) -> None:
        """Cancel what the session does; from another thread."""
        connection = self._connection
        if connection is not None and not connection.closed:
            with contextlib.suppress(Exception):
                connection.cancel()

    def close(self) -> None:
        """End the session."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def run(self, task: Task) -> Outcome:
        """Do it; errors become part of the outcome."""
        outcome = Outcome(task)
        begin = time.monotonic()
        self.task = task
        try:
            self._persist(task, outcome)
        except WindowOver as error:
            outcome.status, outcome.reason, outcome.message = LEFT, "window", error.message
        except OpsError as error:
            outcome.fail("connection_lost" if error.code == "unavailable" else _reason(error), error.message)
        finally:
            self.task = None
            outcome.seconds = time.monotonic() - begin
        if outcome.status != DONE:
            self._tidy(task)
        return outcome

    # -- attempts ---------------------------------------------------------

    def _persist(self, task: Task, outcome: Outcome) -> None:
        last = ""
        for attempt in range(1, self._options.attempts + 1):
            outcome.attempts = attempt
            if attempt > 1:
                self._pause(attempt)
            try:
                self._await_quiet(task)
                self._attempt(task, outcome)
            except OpsError as error:
                if error.state.get("sqlstate") not in _LOCK_STATES:
                    raise
                last = error.message
            else:
                outcome.status = DONE
                return
        outcome.fail("locked", f"given up after {self._options.attempts} attempts: {last}")

    def _pause(self, attempt: int) -> None:
        seconds = random.uniform(0.5, 1) * min(LONGEST_PAUSE, self._options.lock_timeout * 2 ** (attempt - 2))  # noqa: S311
        if self._stop.wait(min(seconds, self._deadline.left if self._deadline else seconds)):
            raise Cancelled("the run was stopped")

    def _await_quiet(self, task: Task) -> None:
        """Wait, no longer than the lock timeout, for old transactions: a build would have to wait for them when it is done."""
        limit = self._options.lock_timeout
        patience = Deadline(limit)
        arguments = {"seconds": limit, "table": task.table_oid, "class": LOCK_CLASS, "work": WORK_LOCK}
        while True:
            found = query(self._session(), _BLOCKERS, arguments)
            if not found:
                return
            if not patience.left:
                row = found[0]
                raise WaitTimeout(f"{_who(row)} has had a transaction open for {row['seconds']:.0f} s", sqlstate="55P03")
            if self._stop.wait(0.2):
                raise Cancelled("the run was stopped")

    def _attempt(self, task: Task, outcome: Outcome) -> None:
        if task.kind == DROP:
            self._drop_task(task, outcome)
        elif task.kind == REBUILD:
            self._rebuild(task, outcome)
        else:
            self._replace(task, outcome)

    # -- the three kinds of work -------------------------------------------

    def _drop_task(self, task: Task, outcome: Outcome) -> None:
        inventory = self._look(task)
        index = inventory.find(task.schema, task.name)
        if index is not None and task.index is not None and index.oid == task.index.oid and _removable(inventory, index, None):
            self._drop(index)
            outcome.changed = True
        outcome.bytes_after = 0

    def _rebuild(self, task: Task, outcome: Outcome) -> None:
        index = self._clean(task, outcome).find(task.schema, task.name)
        if index is None or task.index is None:
            raise OpsError(f"index {task.shown} is gone")
        if index.oid == task.index.oid:
            self._execute(f"REINDEX INDEX CONCURRENTLY {self._name(task.schema, task.name)}")
            outcome.changed = True
            index = self._clean(task, outcome).find(task.schema, task.name)
        # Else an attempt before this one got as far as the exchange.
        if index is None or not index.is_valid or index.oid == task.index.oid:
            raise OpsError(f"the server did not rebuild {task.shown}, without saying why: see its log")
        outcome.bytes_after = index.bytes

    def _replace(self, task: Task, outcome: Outcome) -> None:
        target = t.cast(Target, task.target)
        fresh_name = own_name(task.name, NEW, target.digest)
        inventory = self._clean(task, outcome)
        index = inventory.find(task.schema, task.name)
        if index is None or index.digest != target.digest:
            if task.kind == CREATE and index is not None:
                raise OpsError(f"an index {task.shown} has appeared meanwhile")
            fresh = inventory.find(task.schema, fresh_name) or self._create(task, target, fresh_name, outcome)
            self._validate(fresh, outcome)
            self._exchange(task, index, fresh)
            outcome.changed = True
            inventory = self._clean(task, outcome)
        index = inventory.find(task.schema, task.name)
        if index is None or not index.is_valid or index.digest != target.digest:
            raise OpsError(f"{task.shown} does not have the new definition after the exchange")
        outcome.bytes_after = index.bytes
        if index.has_expressions:  # their statistics belong to the index
            self._execute(f"ANALYZE {self._name(task.schema, task.table)}")

    def _create(self, task: Task, target: Target, name: str, outcome: Outcome) -> Index:
        wanted = target.wanted
        unique = "UNIQUE " if wanted.unique else ""
        where = f"{self._name(name)} ON {self._name(task.schema, task.table)}"
        outcome.changed = True
        self._execute(f"CREATE {unique}INDEX CONCURRENTLY {where} {wanted.definition}")
        fresh = self._look(task).find(task.schema, name)
        if fresh is None or fresh.digest != target.digest:
            raise OpsError(f"the server made another index than {target.definition}")
        return fresh

    def _validate(self, fresh: Index, outcome: Outcome) -> None:
        """Prove the new index before the old one goes."""
        if not fresh.is_valid:
            raise OpsError(f"the new index {fresh.shown} is not valid")
        if not self._options.verify:
            return
        self._limit()
        options = self._options
        with checker(self._session(), heapallindexed=options.heapallindexed, create_extension=options.create_extension) as examiner:
            verdict = examiner.check(fresh)
        outcome.verified, outcome.verify_note = verdict.sound, verdict.words
        if verdict.sound is False:
            self._drop(fresh)
            raise OpsError(f"the new index {fresh.shown} is damaged: {verdict.words}", reason="damaged")

    def _exchange(self, task: Task, index: Index | None, fresh: Index) -> None:
        """Give the name to the new index, in one transaction, with the comment of the old one."""
        session = self._session()
        self._limit()
        with transaction(session):
            if index is not None:
                old_name = own_name(task.name, OLD, index.digest)
                comment = one(session, "SELECT obj_description(%s::bigint::oid, 'pg_class') AS text", (index.oid,))["text"]
                query(session, f"ALTER INDEX {self._name(task.schema, task.name)} RENAME TO {self._name(old_name)}")
            query(session, f"ALTER INDEX {self._name(task.schema, fresh.name)} RENAME TO {self._name(task.name)}")
            if index is not None and comment is not None:
                literal = str(require_library("psycopg.sql", "psycopg").Literal(comment).as_string(session))
                query(session, f"COMMENT ON INDEX {self._name(task.schema, task.name)} IS {literal}")

    # -- leftovers ---------------------------------------------------------

    def _look(self, task: Task) -> Inventory:
        return take(self._session(), task.table_oid)

    def _clean(self, task: Task, outcome: Outcome | None) -> Inventory:
        """Remove what interrupted rebuilds of this index have left; the inventory of the table after that."""
        inventory = self._look(task)
        found = False
        for leftover in inventory.leftovers():
            if leftover.of == task.name and _removable(inventory, leftover.index, task.target):
                self._drop(leftover.index)
                found = True
        if found and outcome is not None:
            outcome.changed = True
        return self._look(task) if found else inventory

    def _drop(self, index: Index) -> None:
        self._execute(f"DROP INDEX CONCURRENTLY IF EXISTS {self._name(index.schema, index.name)}")

    def _tidy(self, task: Task) -> None:
        """Remove what a failed task left, if that is possible now; else the next run does it."""
        if task.kind == DROP or self._connection is None or self._connection.closed:
            return
        self._deadline = self._window.end
        with contextlib.suppress(OpsError):
            self._clean(task, None)
        self._deadline = self._window.work

    # -- the session -------------------------------------------------------

    def _session(self) -> psycopg.Connection[t.Any]:
        if self._connection is None or self._connection.closed:
            self._connection = open_session(self._postgres, self._options)
        return self._connection

    def _name(self, *parts: str) -> str:
        return quoted(self._session(), *parts)

    def _limit(self) -> None:
        """End statements with the window, on the server, even when this process is no more."""
        if self._stop.is_set():
            raise Cancelled("the run was stopped")
        left = 0
        if self._deadline is not None:
            if not self._deadline.left:
                raise WindowOver("the window is over")
            left = max(1, int(self._deadline.left * 1000))
        query(self._session(), "SELECT set_config('statement_timeout', %s, false)", (str(left),))

    def _execute(self, statement: str) -> None:
        self._limit()
        session = self._session()
        library = require_library("psycopg", "psycopg")
        try:
            session.execute(statement.encode(), prepare=statement.startswith("CREATE"))
        except library.Error as error:
            if session.closed or session.broken:
                self.close()
            if error.sqlstate == "57014":
                if self._deadline is not None and not self._deadline.left:
                    raise WindowOver("stopped at the end of the window") from error
                raise Cancelled(f"cancelled on the server: {str(error).splitlines()[0]}") from error
            raise query_error(error, self._postgres.describe()) from error


def _who(row: t.Mapping[str, t.Any]) -> str:
    """Whose transaction a row of ``_BLOCKERS`` is."""
    if row["pid"] is None:
        return f"the prepared transaction {row['application']!r} of {row['role']}, to be committed or rolled back by name,"
    return f"process {row['pid']} ({row['role']}, {row['application'] or 'no name'}, {row['state']})"


def _reason(error: OpsError) -> str:
    if error.state.get("sqlstate") == "23505":
        return "not_unique"
    return str(error.state.get("reason") or error.code)


def _removable(inventory: Inventory, index: Index, target: Target | None) -> bool:
    """Whether a leftover can go now: nothing is lost with it, and nobody builds it."""
    leftover = inventory.leftover(index)
    if leftover is None:
        return False
    if not index.is_valid:
        return True
    original = inventory.find(index.schema, leftover.of)
    if original is None or not original.is_valid or original.table_oid != index.table_oid:
        return False
    adopted = leftover.kind == NEW and target is not None and target.digest == index.digest
    return not adopted or original.digest == index.digest


def open_session(postgres: PostgresOptions, options: RebuildOptions) -> psycopg.Connection[t.Any]:
    """A session that builds: it ends soon after this process, and is known by its advisory lock."""
    session = connect(postgres, lock_timeout_ms=int(options.lock_timeout * 1000), application_name=APPLICATION)
    try:
        query(session, "SELECT pg_advisory_lock_shared(%s, %s)", (LOCK_CLASS, WORK_LOCK))
        if session.info.server_version >= 140000:
            with contextlib.suppress(OpsError):  # not every operating system can
                query(session, "SET client_connection_check_interval = '500ms'")
        if options.maintenance_work_mem:
            query(session, "SELECT set_config('maintenance_work_mem', %s, false)", (options.maintenance_work_mem,))
    except OpsError:
        session.close()
        raise
    return session
