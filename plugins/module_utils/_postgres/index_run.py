# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run over the indexes of a database: look, plan, build in parallel, verify. PRIVATE to the collection."""

from __future__ import annotations

import contextlib
import threading
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError, Refused, WaitTimeout
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import index_space
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.bloat import ESTIMATE
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions, connect, one, query
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_check import Checker, checker
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_inventory import Inventory, shown, take
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_look import choose, spaces
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_plan import (
    BLOAT,
    DROP,
    REBUILD,
    Choice,
    Left,
    RebuildOptions,
    Task,
    plan_of,
    require_version,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_queue import Queue, Speed, fraction
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_rebuild import (
    APPLICATION,
    DONE,
    FAILED,
    LEFT,
    LOCK_CLASS,
    RUN_LOCK,
    WORK_LOCK,
    Outcome,
    Window,
    Worker,
)
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress
from ansible_collections.fileforge.ops.plugins.module_utils._wait import wait_for

if t.TYPE_CHECKING:
    import psycopg

POLL = 0.5
LOCK_PATIENCE = 5.0
"""Seconds for the session of a run that was just killed to be gone."""
ORPHAN_PATIENCE = 60.0
_HOLDERS = """
SELECT l.pid, a.application_name AS application, a.client_addr::text AS address, a.backend_start::text AS since
FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid JOIN pg_database d ON d.oid = l.database
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND d.datname = current_database()
  AND l.classid = %(class)s::bigint::oid AND l.objid = %(object)s::bigint::oid AND l.pid <> pg_backend_pid()
"""
_BUILDING = """
SELECT pid, phase, coalesce(current_locker_pid, 0) AS locker, coalesce(blocks_done, 0) AS blocks_done,
  coalesce(blocks_total, 0) AS blocks_total, coalesce(tuples_done, 0) AS tuples_done, coalesce(tuples_total, 0) AS tuples_total
FROM pg_stat_progress_create_index WHERE pid = ANY (%(pids)s)
"""


def run_rebuild(
    postgres: PostgresOptions,
    options: RebuildOptions,
    *,
    check_mode: bool,
    plan_digest: str | None,
    progress: Progress,
) -> dict[str, t.Any]:
    """Carry it out; returns the module's result. Raises Refused before anything is touched, OpsError with the result after."""
    options.check()
    window = Window(options.window, options.lock_timeout)
    session = connect(postgres, lock_timeout_ms=int(options.lock_timeout * 1000), application_name=APPLICATION)
    with contextlib.closing(session) as connection:
        row = one(connection, "SELECT pg_is_in_recovery() AS standby, current_setting('server_version_num')::int AS version")
        require_version(row["version"])
        if row["standby"]:
            raise Refused("standby", "the server is a standby: its indexes are those of its primary", hint="use the primary")
        _take_lock(connection)
        if not check_mode:
            _end_orphans(connection)
        with progress.phase("look", unit=""):
            choice = choose(connection, options, row["version"], window.end)
            room = spaces(connection, options, choice)
        plan = plan_of(f"Maintain the indexes of database {connection.info.dbname}", choice)
        plan.require(plan_digest)
        run = Run(connection, postgres, options, choice, window, progress)
        if not check_mode:
            run.build()
            run.verify()
        return run.result(plan, room, check_mode)


def _take_lock(connection: psycopg.Connection[t.Any]) -> None:
    """One run at a time in a database. Raises Refused (locked) naming the other one."""
    try:
        wait_for(
            "the lock of the index maintenance",
            lambda: one(connection, "SELECT pg_try_advisory_lock(%s, %s) AS mine", (LOCK_CLASS, RUN_LOCK))["mine"],
            bool,
            timeout=LOCK_PATIENCE,
            interval=0.1,
        )
    except WaitTimeout as error:
        holders = query(connection, _HOLDERS, {"class": LOCK_CLASS, "object": RUN_LOCK})
        who = ", ".join(
            f"process {row['pid']} ({row['application']}, {row['address'] or 'local'}, since {row['since']})" for row in holders
        )
        raise Refused(
            "locked", f"another run maintains the indexes of this database: {who or 'it has just ended'}", hint="wait for it"
        ) from error


def _end_orphans(connection: psycopg.Connection[t.Any]) -> None:
    """End the sessions of a run that was killed: the server would go on with what they build, beside this run."""
    arguments = {"class": LOCK_CLASS, "object": WORK_LOCK}

    def orphans() -> list[dict[str, t.Any]]:
        found = query(connection, _HOLDERS, arguments)
        for row in found:
            query(connection, "SELECT pg_terminate_backend(%s)", (row["pid"],))
        return found

    try:
        wait_for("the end of the sessions of a killed run", orphans, lambda rows: not rows, timeout=ORPHAN_PATIENCE, interval=0.1)
    except OpsError as error:
        raise Refused("locked", f"sessions of a killed run still build: {error.message}", hint="end them, or wait") from error


# -- building --------------------------------------------------------------


class Run:
    """The work on what was chosen."""

    def __init__(
        self,
        connection: psycopg.Connection[t.Any],
        postgres: PostgresOptions,
        options: RebuildOptions,
        choice: Choice,
        window: Window,
        progress: Progress,
    ) -> None:
        self._connection = connection
        self._options = options
        self._choice = choice
        self._window = window
        self._progress = progress
        self._queue = Queue(choice.tasks)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._speed = Speed()
        self._defect: BaseException | None = None
        self.outcomes: list[Outcome] = []
        number = min(options.jobs, len(choice.tasks))
        self._workers = [Worker(postgres, options, window, self._stop) for _number in range(number)]

    def build(self) -> None:
        """Do all tasks. Raises OpsError when the session that holds the lock is lost: then everything was stopped."""
        if not self._workers:
            return
        threads = [threading.Thread(target=self._serve, args=(worker,), daemon=True) for worker in self._workers]
        with self._progress.phase("rebuild", total=sum(task.bytes for task in self._choice.tasks)):
            for thread in threads:
                thread.start()
            try:
                self._watch(threads)
            finally:
                self._end(threads)
        if self._defect is not None:
            raise self._defect

    def _serve(self, worker: Worker) -> None:
        try:
            while True:
                task = self._queue.next()
                if task is None:
                    return
                try:
                    outcome = self._do(worker, task)
                finally:
                    self._queue.done(task)
                with self._lock:
                    self.outcomes.append(outcome)
        except BaseException as error:  # pylint: disable=broad-except
            self._defect = error
            self._stop.set()
            self._queue.drain()
        finally:
            worker.close()

    def _do(self, worker: Worker, task: Task) -> Outcome:
        left = self._window.work.left if self._window.work else None
        expected = self._speed.expected(task.weight)
        if left is not None and (not left or expected > left):
            words = f"expected to take {expected:.0f} s, and the window has {left:.0f} s left" if left else "the window is over"
            return Outcome(task, LEFT, "window", words)
        problem = self._no_room(task)
        if problem:
            return Outcome(task, LEFT, "disk_space", problem)
        outcome = worker.run(task)
        if outcome.status == DONE and task.kind != DROP:
            self._speed.learn(task.weight, outcome.seconds)
        return outcome

    def _no_room(self, task: Task) -> str:
        """Whether others have filled the disk since the plan; only looked at when that is cheap: on this host."""
        if task.kind == DROP:
            return ""
        with self._lock:
            space = index_space.look(self._connection, task.tablespace)
        needed = index_space.needed_for([task.bytes], 1)
        if space.free is None or needed <= space.free:
            return ""
        return f"needs {needed} bytes in {space.location}, which has only {space.free} free now"

    def _watch(self, threads: t.Sequence[threading.Thread]) -> None:
        while True:
            alive = [thread for thread in threads if thread.is_alive()]
            if not alive:
                return
            alive[0].join(POLL)
            try:
                self._publish()
            except OpsError as error:
                if error.code == "unavailable":
                    raise OpsError(f"the session that holds the lock is lost, everything was stopped: {error.message}") from error

    def _publish(self) -> None:
        building = {worker.pid: worker.task for worker in self._workers if worker.pid and worker.task}
        with self._lock:
            done: float = sum(outcome.task.bytes for outcome in self.outcomes)
            rows = query(self._connection, _BUILDING, {"pids": list(building)})
        words = []
        for row in rows:
            task = building[row["pid"]]
            if task is not None:
                done += fraction(row) * task.bytes
                locker = f" (process {row['locker']})" if row["locker"] and "waiting" in row["phase"] else ""
                words.append(f"{task.shown}: {row['phase']}{locker}")
        self._progress.set(int(done), detail="; ".join(words))

    def _end(self, threads: t.Sequence[threading.Thread]) -> None:
        """Stop what still runs, when this was interrupted."""
        if any(thread.is_alive() for thread in threads):
            self._stop.set()
            self._queue.drain()
            for worker in self._workers:
                worker.cancel()
        for thread in threads:
            thread.join(ORPHAN_PATIENCE)

    # -- afterwards --------------------------------------------------------

    def verify(self) -> None:
        """Prove the rebuilt indexes; replaced ones were proven before the exchange."""
        pending = [outcome for outcome in self.outcomes if outcome.status == DONE and outcome.task.kind == REBUILD]
        if not self._options.verify or not pending:
            return
        options = self._options
        inventory = take(self._connection)  # before: it leaves the search_path of a transaction empty
        with self._progress.phase("verify", total=sum(outcome.bytes_after or 0 for outcome in pending)):
            with checker(
                self._connection, heapallindexed=options.heapallindexed, create_extension=options.create_extension
            ) as examiner:
                for outcome in sorted(pending, key=lambda each: each.bytes_after or 0):
                    self._verify(examiner, inventory, outcome)
                    self._progress.advance(outcome.bytes_after or 0, outcome.task.shown)

    def _verify(self, examiner: Checker, inventory: Inventory, outcome: Outcome) -> None:
        task = outcome.task
        left = self._window.end.left if self._window.end else None
        if left is not None and left <= 0:
            outcome.verify_note = "the window is over"
            return
        query(self._connection, "SELECT set_config('statement_timeout', %s, false)", (str(int((left or 0) * 1000)),))
        index = inventory.find(task.schema, task.name)
        if index is None:
            outcome.verify_note = "the index was dropped or renamed meanwhile"
            return
        verdict = examiner.check(index)
        outcome.verified, outcome.verify_note = verdict.sound, verdict.words
        if verdict.sound is False:
            outcome.fail("damaged", f"the rebuilt index is damaged: {verdict.words}")

    def result(self, plan: Plan, spaces: t.Sequence[index_space.Space], check_mode: bool) -> dict[str, t.Any]:
        """The module's result. Raises OpsError with it when a task failed."""
        outcomes = sorted(self.outcomes, key=lambda each: (each.task.kind != DROP, each.task.urgency))
        left = [*self._choice.left, *(left_of(each) for each in outcomes if each.status == LEFT)]
        worked = [each for each in outcomes if each.status != LEFT]
        result: dict[str, t.Any] = {
            "changed": bool(plan.steps) if check_mode else any(each.changed for each in outcomes),
            "plan": plan.as_dict(),
            "diff": plan.as_diff(),
            "indexes": [each.as_dict() for each in worked],
            "left": [each.as_dict() for each in left],
            "space": [space.as_dict() for space in spaces],
            "bytes_before": sum(each.task.index.bytes for each in worked if each.status == DONE and each.task.index),
            "bytes_after": sum(each.bytes_after or 0 for each in worked if each.status == DONE),
            "timings": list(self._progress.timings),
            "warnings": _warnings(worked, left),
        }
        failed = [each for each in worked if each.status == FAILED]
        if failed:
            words = "; ".join(f"{each.task.shown} ({each.reason}): {each.message}" for each in failed[:3])
            del result["warnings"], result["diff"]
            raise OpsError(
                f"{len(failed)} of {len(outcomes)} indexes failed: {words}",
                hint="each table has its indexes as before, or better; run again when the reason is gone",
                **result,
            )
        return result


def _warnings(worked: t.Sequence[Outcome], left: t.Sequence[Left]) -> list[str]:
    unproven = [each for each in worked if each.status == DONE and each.task.kind != DROP and each.verified is None]
    words = [f"{shown(each.schema, each.name)} was left ({each.reason}): {each.detail}" for each in left[:5]]
    if len(left) > len(words):
        words.append(f"{len(left) - len(words)} more indexes were left, see left")
    noted = sorted({each.verify_note for each in unproven if each.verify_note})
    kept = [each.task.shown for each in unshrunk(worked)]
    if kept:
        words.append(f"rebuilding hardly shrank {', '.join(kept[:3])}: the estimate of bloat is wrong there, use bloat: exact")
    if noted:
        words.append(f"{len(unproven)} new indexes were not verified: {'; '.join(noted[:3])}")
    return words


def unshrunk(outcomes: t.Sequence[Outcome]) -> list[Outcome]:
    """Rebuilt for an estimated bloat, less than half of which was there."""
    return [each for each in outcomes if each.status == DONE and each.task.reason == BLOAT and _hardly_shrank(each)]


def _hardly_shrank(outcome: Outcome) -> bool:
    bloat, index = outcome.task.bloat, outcome.task.index
    if bloat is None or index is None or bloat.source != ESTIMATE:
        return False
    return index.bytes - (outcome.bytes_after or 0) < (bloat.bloat_bytes or 0) / 2


def left_of(outcome: Outcome) -> Left:
    """A task that was not begun or not finished in time, as what is left."""
    task = outcome.task
    return Left(task.schema, task.name, task.table, outcome.reason, outcome.message)
