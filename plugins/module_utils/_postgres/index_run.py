# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run over the indexes of a database: look, plan, build in parallel, verify. PRIVATE to the collection."""

from __future__ import annotations

import threading
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError, Refused, WaitTimeout
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import index_space
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.bloat import (
    Bloat,
    estimate_indexes,
    exact_index,
    measuring_schema,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions, connect, one, query
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_check import checker
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_inventory import (
    Index,
    Inventory,
    canonical,
    shown,
    take,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_plan import (
    DROP,
    REBUILD,
    Choice,
    Chooser,
    Left,
    RebuildOptions,
    Target,
    Task,
    Wanted,
    in_scope,
    plan_of,
    require_version,
)
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
_TABLE = """
SELECT c.oid::bigint AS oid, c.relkind::text AS kind, c.relpages::bigint * current_setting('block_size')::int AS bytes,
  pg_has_role(c.relowner, 'USAGE') AS is_ours, d.dattablespace::bigint AS tablespace,
  EXISTS (SELECT FROM pg_class o WHERE o.relnamespace = c.relnamespace AND o.relname = %(name)s AND o.relkind NOT IN ('i', 'I'))
    AS name_taken
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_database d ON d.datname = current_database()
WHERE n.nspname = %(schema)s AND c.relname = %(table)s
"""
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
_PHASES = (
    ("building index: scanning table", 0.02, 0.40),
    ("building index: sorting", 0.42, 0.0),
    ("building index: loading", 0.45, 0.15),
    ("building index", 0.02, 0.58),
    ("waiting for writers before validation", 0.60, 0.0),
    ("index validation: scanning index", 0.60, 0.10),
    ("index validation: sorting", 0.70, 0.0),
    ("index validation: scanning table", 0.72, 0.25),
    ("waiting for old snapshots", 0.97, 0.0),
    ("waiting for readers", 0.98, 0.0),
)
"""Beginnings of the server's names of phases, where each begins, and its part of the whole."""


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
    with connect(postgres, lock_timeout_ms=int(options.lock_timeout * 1000), application_name=APPLICATION) as connection:
        row = one(connection, "SELECT pg_is_in_recovery() AS standby, current_setting('server_version_num')::int AS version")
        require_version(row["version"])
        if row["standby"]:
            raise Refused("standby", "the server is a standby: its indexes are those of its primary", hint="use the primary")
        _take_lock(connection)
        if not check_mode:
            _end_orphans(connection)
        with progress.phase("look", unit=""):
            choice = _choose(connection, options, row["version"])
            spaces = _spaces(connection, options, choice)
        plan = plan_of(f"Maintain the indexes of database {connection.info.dbname}", choice)
        plan.require(plan_digest)
        run = Run(connection, postgres, options, choice, window, progress)
        if not check_mode:
            run.build()
            run.verify()
        return run.result(plan, spaces, check_mode)


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


# -- looking ---------------------------------------------------------------


def _choose(connection: psycopg.Connection[t.Any], options: RebuildOptions, version: int) -> Choice:
    targets = [_target(connection, wanted) for wanted in options.indexes if wanted.definition is not None]
    inventory = take(connection)
    notes: list[str] = []
    bloats = _bloats(connection, options, inventory, notes)
    choice = Chooser(inventory, options, targets, bloats, version).choose()
    choice.notes = notes + choice.notes
    return choice


def _target(connection: psycopg.Connection[t.Any], wanted: Wanted) -> Target:
    table = str(wanted.table)
    rows = query(connection, _TABLE, {"schema": wanted.schema, "table": table, "name": wanted.name})
    where = shown(wanted.schema, table)
    if not rows:
        raise Refused("no_such_table", f"there is no table {where} for index {wanted.shown}", hint="check schema and table")
    row = rows[0]
    if row["kind"] not in ("r", "m", "p"):
        raise Refused("not_a_table", f"{where} is neither a table nor a materialized view", hint="check schema and table")
    definition, unsafe = canonical(connection, wanted.schema, table, str(wanted.definition), wanted.unique)
    return Target(
        wanted, row["oid"], row["kind"], row["bytes"], row["tablespace"], row["is_ours"], row["name_taken"], definition, unsafe
    )


def _bloats(
    connection: psycopg.Connection[t.Any], options: RebuildOptions, inventory: Inventory, notes: list[str]
) -> dict[int, Bloat]:
    """Bloat of the valid indexes that are looked at; what cannot be told is noted."""
    if options.bloat == "none":
        return {}
    looked_at = [index for index in _looked_at(options, inventory) if index.is_valid and index.bytes >= options.bloat_min_bytes]
    if not looked_at:
        return {}
    if options.bloat == "exact":
        measuring_schema(connection)
        found = _measured(connection, looked_at, notes)
    else:
        found = {bloat.oid: bloat for bloat in estimate_indexes(connection, [index.oid for index in looked_at])}
    for index in looked_at:
        bloat = found.get(index.oid)
        if bloat is not None and bloat.note:
            notes.append(f"{index.shown}: bloat {'unknown' if bloat.ratio is None else 'doubtful'}, {bloat.note}")
    return found


def _looked_at(options: RebuildOptions, inventory: Inventory) -> list[Index]:
    found: dict[int, Index] = {}
    for wanted in options.indexes:
        index = inventory.find(wanted.schema, wanted.name)
        for each in [] if index is None else inventory.leaves(index) if index.kind == "I" else [index]:
            found[each.oid] = each
    if not options.only:
        found.update({index.oid: index for index in inventory.indexes if index.kind == "i" and in_scope(index, options.schemas)})
    return list(found.values())


def _measured(connection: psycopg.Connection[t.Any], indexes: t.Sequence[Index], notes: list[str]) -> dict[int, Bloat]:
    found = {}
    for index in indexes:
        if index.method != "btree":
            notes.append(f"{index.shown}: bloat unknown, {index.method} indexes cannot be measured")
            continue
        try:
            found[index.oid] = exact_index(connection, index.oid)
        except OpsError as error:
            if error.code == "unavailable":
                raise
            notes.append(f"{index.shown}: bloat unknown, {error.message}")
    return found


def _spaces(connection: psycopg.Connection[t.Any], options: RebuildOptions, choice: Choice) -> list[index_space.Space]:
    tablespaces = sorted({task.tablespace for task in choice.tasks if task.kind != DROP})
    spaces = {tablespace: index_space.look(connection, tablespace) for tablespace in tablespaces}
    return index_space.fit(choice, spaces, jobs=options.jobs, required=options.require_space)


# -- building --------------------------------------------------------------


class Queue:
    """Hands out tasks: one at a time on a table, and alone where builds would wait for one another."""

    def __init__(self, tasks: t.Sequence[Task]) -> None:
        self._waiting = list(tasks)
        self._running: list[Task] = []
        self._changed = threading.Condition()

    def next(self) -> Task | None:
        """The next task that may begin now, waiting for one; None when none is left."""
        with self._changed:
            while self._waiting:
                for task in self._waiting:
                    if self._may_begin(task):
                        self._waiting.remove(task)
                        self._running.append(task)
                        return task
                self._changed.wait()
            return None

    def _may_begin(self, task: Task) -> bool:
        if any(running.alone for running in self._running) or (task.alone and self._running):
            return False
        return all(running.table_oid != task.table_oid for running in self._running)

    def done(self, task: Task) -> None:
        """The task has ended."""
        with self._changed:
            self._running.remove(task)
            self._changed.notify_all()

    def drain(self) -> list[Task]:
        """Take away all that has not begun."""
        with self._changed:
            waiting, self._waiting = self._waiting, []
            self._changed.notify_all()
            return waiting


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
        with self._progress.phase("verify", total=sum(outcome.bytes_after or 0 for outcome in pending)):
            with checker(
                self._connection, heapallindexed=options.heapallindexed, create_extension=options.create_extension
            ) as examiner:
                for outcome in sorted(pending, key=lambda each: each.bytes_after or 0):
                    self._verify(examiner, outcome)
                    self._progress.advance(outcome.bytes_after or 0, outcome.task.shown)

    def _verify(self, examiner: t.Any, outcome: Outcome) -> None:
        task = outcome.task
        left = self._window.end.left if self._window.end else None
        if left is not None and left <= 0:
            outcome.verify_note = "the window is over"
            return
        query(self._connection, "SELECT set_config('statement_timeout', %s, false)", (str(int((left or 0) * 1000)),))
        index = take(self._connection, task.table_oid).find(task.schema, task.name)
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
    if noted:
        words.append(f"{len(unproven)} new indexes were not verified: {'; '.join(noted[:3])}")
    return words


def left_of(outcome: Outcome) -> Left:
    """A task that was not begun or not finished in time, as what is left."""
    task = outcome.task
    return Left(task.schema, task.name, task.table, outcome.reason, outcome.message)


class Speed:
    """How long a build takes, learnt from those before it. Much smaller ones teach nothing: they are all overhead."""

    COMPARABLE = 16

    def __init__(self) -> None:
        self._seen: list[tuple[int, float]] = []

    def learn(self, weight: int, seconds: float) -> None:
        """A build of that weight took that long."""
        self._seen.append((weight, seconds))

    def expected(self, weight: int) -> float:
        """Seconds for a build; 0 when nothing is known yet."""
        similar = [seconds / most for most, seconds in list(self._seen) if most * self.COMPARABLE >= weight and most]
        return weight * min(similar) if similar else 0.0


def fraction(row: t.Mapping[str, t.Any]) -> float:
    """How much of a build is done, from 0 to 1, for a row of pg_stat_progress_create_index."""
    for name, begin, part in _PHASES:
        if row["phase"].startswith(name):
            blocks = row["blocks_done"] / row["blocks_total"] if row["blocks_total"] else 0.0
            tuples = row["tuples_done"] / row["tuples_total"] if row["tuples_total"] else 0.0
            return begin + part * min(1.0, max(blocks, tuples))
    return 0.0
