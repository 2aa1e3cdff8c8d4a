# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Point-in-time restore: look, plan, fetch, exchange, recover, record. PRIVATE to the collection.

Every run begins with a look at what is there: a record of a finished restore, an attempt that was cut off, or neither. Up to the
exchange of directories the plan is made anew each time (and comes out the same in an unchanged world); from then on the attempt's
own plan is carried to its end, because what it started cannot be taken back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._archive.index import FILE, Archive, FileEntry
from ansible_collections.fileforge.ops.plugins.module_utils._backup import restore_preflight as preflight
from ansible_collections.fileforge.ops.plugins.module_utils._backup import restore_state as state
from ansible_collections.fileforge.ops.plugins.module_utils._backup.catalog import Catalog
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_fetch import Filler, Journal, Tally, sync_tree
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_files import Tree, remove_tree
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_layout import Layout, Tablespace, swap, swapped
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_plain import complete_plain, fill_plain
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_plan import (
    Chosen,
    Facts,
    RestoreOptions,
    build_plan,
    check_new_timeline,
    choose,
)
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_recover import (
    Ending,
    Replay,
    Watch,
    check_ending,
    log_size,
    logged_commit,
    read_ending,
)
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_settle import make_folder, own, settle
from ansible_collections.fileforge.ops.plugins.module_utils._backup.wal_install import (
    install_program,
    restore_command,
    write_config,
)
from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    IntegrityError,
    NotFound,
    OpsError,
    ProcessFailed,
    Refused,
    WaitTimeout,
)
from ansible_collections.fileforge.ops.plugins.module_utils._files import exclusive_lock, fsync_directory
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import Store
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import recovery
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import (
    CONTROL_FILE,
    Server,
    find_binaries,
    read_control,
    read_version,
    server_failure,
)
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress
from ansible_collections.fileforge.ops.plugins.module_utils._time import iso, now, parse_time
from ansible_collections.fileforge.ops.plugins.module_utils._wait import wait_for

STOP_TIMEOUT = 300.0


@dataclasses.dataclass
class Work:
    """One restore as this run found it."""

    plan: Plan
    layout: Layout
    replay: Replay
    backup: dict[str, t.Any]
    facts: dict[str, t.Any]
    chosen: Chosen | None = None
    """None when the attempt is past fetching."""
    attempt: state.Attempt | None = None
    owner: tuple[int, int] = (0, 0)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the module returns."""

    changed: bool
    plan: Plan
    backup: t.Dict[str, t.Any]
    recovery: t.Dict[str, t.Any]
    kept: t.List[str]
    timings: t.List[t.Dict[str, t.Any]]
    record: str
    warnings: t.List[str]
    transfer: t.Dict[str, int]

    def as_dict(self) -> dict[str, t.Any]:
        """Plain values."""
        value = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        value["plan"] = self.plan.as_dict()
        return value


class Restore:
    """One module run."""

    def __init__(self, options: RestoreOptions, progress: Progress) -> None:
        self._options = options
        self._progress = progress
        self._request = options.request().as_dict()
        self._tally = Tally()
        self._notes: list[str] = []

    # -- entry points -------------------------------------------------------------------------------------------------

    def check(self) -> Outcome:
        """What ``run`` would do now; touches nothing."""
        finished = self._finished()
        if finished is not None:
            return finished
        work = self._look(self._store())
        work.plan.require(self._options.plan_digest)
        return self._outcome(work, changed=True)

    def run(self) -> Outcome:
        """Restore, or go on with a restore that was cut off."""
        finished = self._finished()
        if finished is not None:
            return finished
        store = self._store()
        work = self._look(store)
        work.plan.require(self._options.plan_digest)
        with self._locked():
            if self._situation() != self._seen:  # another run did something before we had the lock
                finished = self._finished()
                if finished is not None:
                    return finished
                work = self._look(store)
                work.plan.require(self._options.plan_digest)
            if work.chosen is not None:
                self._fetch(store, work)
                work.facts["inode"] = os.stat(work.layout.new).st_ino
                self._mark(work, state.SWAPPING)
            return self._carry_on(work)

    def _store(self) -> Store:
        store = Store(self._options.s3, pool=self._options.jobs + 8)
        store.check_bucket()
        return store

    @contextlib.contextmanager
    def _locked(self) -> t.Iterator[None]:
        """Hold the lock. A run of the same request is waited for: its controller may have died, it goes on by itself."""
        directory = self._options.data_directory
        with contextlib.ExitStack() as held:

            def locked_out() -> Refused | None:
                try:
                    held.enter_context(exclusive_lock(state.lock_path(directory), f"restore of {directory}"))
                except Refused as refused:
                    attempt = state.load_attempt(directory)
                    if attempt is not None and attempt.request != self._request:
                        raise
                    return refused
                return None

            if locked_out() is not None:
                with self._progress.phase("wait for another run", None, ""):
                    limit = self._options.limits.recovery
                    wait_for(f"another restore of {directory}", locked_out, lambda refused: refused is None, timeout=limit)
            yield

    # -- looking ------------------------------------------------------------------------------------------------------

    def _finished(self) -> Outcome | None:
        """The outcome of a second run: a record of the same request whose result is still in place."""
        directory = self._options.data_directory
        self._options.timeline()
        record = None if self._options.force else state.load_record(directory)
        if record is None or record.get("request") != self._request or state.load_attempt(directory) is not None:
            return None
        try:
            control = read_control(directory)
            inode = os.stat(directory).st_ino
        except (OSError, NotFound, IntegrityError):
            return None
        same = (control.system_identifier, inode) == (record.get("system_identifier"), record.get("inode"))
        if not same or control.timeline < int(record["recovery"]["timeline_old"]) or recovery.recovering(directory):
            return None
        plan = Plan(f"restore of {directory} as of {self._request['target_time']}")
        plan.notes.append(f"restored at {record.get('finished')}; set force to do it again")
        kept = [path for path in record.get("kept", ()) if os.path.isdir(path)]
        return Outcome(
            False, plan, record["backup"], record["recovery"], kept, record["timings"], state.record_path(directory), [], {}
        )

    def _situation(self) -> tuple[t.Any, ...]:
        """What another run of this module could have changed."""
        directory = self._options.data_directory
        inode = os.stat(directory).st_ino if os.path.isdir(directory) else 0
        return (state.load_attempt(directory), state.load_record(directory), inode)

    def _look(self, store: Store) -> Work:
        options = self._options
        self._seen = self._situation()
        owner = preflight.check_host(options)
        attempt = state.load_attempt(options.data_directory)
        if attempt is not None and self._is_carried_on(attempt):
            return self._resumed(attempt, owner)
        catalog = Catalog.load(store, options.prefix)
        chosen = choose(store, options, catalog)
        preflight.check_version(options, chosen)
        preflight.check_identity(options, chosen)
        preflight.check_places(options, chosen)
        check_new_timeline(catalog, options, chosen)
        preflight.check_archives(store, chosen)
        stop = preflight.check_stopped(options)
        younger = preflight.younger_tablespaces(options, chosen)
        live = (options.data_directory, *(tablespace.live for tablespace in chosen.tablespaces), *younger)
        facts = Facts(tuple(path for path in live if os.path.lexists(path)), stop, younger)
        plan, layout = _name(options, chosen, facts)
        credit = _layout_of(attempt, options) if attempt is not None and not attempt.irrevocable else layout
        plan.notes.extend(preflight.check_space(preflight.needs(options, chosen, credit)))
        plan.notes.extend(self._attempt_notes(attempt))
        self._notes = list(chosen.warnings)
        return Work(plan, layout, chosen.replay, _backup_of(chosen), _facts_of(chosen, facts), chosen, attempt, owner)

    def _is_carried_on(self, attempt: state.Attempt) -> bool:
        """Whether this run is to end what the attempt began. Raises Refused (``spoiled``) when that has no end."""
        if attempt.request != self._request or not attempt.irrevocable or (self._options.force and attempt.failed):
            return False
        if attempt.phase == state.SPOILED:
            raise Refused(
                "spoiled",
                f"the restore of {self._options.data_directory} begun at {attempt.begun} cannot be carried on: {attempt.failed}",
                hint="check the archive, then restore again with force, or to another target_time or from another backup; what is "
                "there now will be kept aside",
            )
        return True

    def _attempt_notes(self, attempt: state.Attempt | None) -> list[str]:
        if attempt is None:
            return []
        if attempt.request == self._request and not attempt.irrevocable:
            return [f"goes on with what a restore begun at {attempt.begun} has fetched"]
        layout = _layout_of(attempt, self._options)
        kept = [path for path in (layout.kept, layout.new) if os.path.lexists(path)]
        return [f"another restore, begun at {attempt.begun}, was never finished; it left {', '.join(kept) or 'nothing'}"]

    def _resumed(self, attempt: state.Attempt, owner: tuple[int, int]) -> Work:
        """The exchange has begun: the attempt's plan is the plan."""
        plan = attempt.restored_plan()
        layout = _layout_of(attempt, self._options)
        self._notes = list(attempt.facts.get("warnings", ()))
        replay = Replay(**attempt.recovery)
        return Work(plan, layout, replay, dict(attempt.facts["backup"]), dict(attempt.facts), None, attempt, owner)

    # -- fetching -----------------------------------------------------------------------------------------------------

    def _fetch(self, store: Store, work: Work) -> None:
        self._adopt(work)
        work.attempt = state.Attempt(
            request=self._request,
            plan=work.plan.as_dict(),
            phase=state.FETCHING,
            backup=work.backup["name"],
            facts=work.facts,
            recovery=work.replay.as_dict(),
            begun=iso(now()) or "",
            timings=work.attempt.timings if work.attempt is not None and not work.attempt.irrevocable else [],
        )
        state.save_attempt(self._options.data_directory, work.attempt)
        make_folder(work.layout.private, work.owner)
        try:
            if work.chosen is not None and work.chosen.index is None:
                self._fetch_plain(store, work, work.chosen)
            elif work.chosen is not None:
                self._fetch_indexed(store, work, work.chosen)
        except OSError as error:
            place = error.filename or work.layout.new
            raise OpsError(
                f"writing the restored files failed at {place}: {error.strerror}",
                hint="make room or repair the file system, then run again: what is there already is kept",
            ) from error

    def _adopt(self, work: Work) -> None:
        """Take over what an unfinished attempt with another plan fetched of the same backup; remove it otherwise."""
        attempt = work.attempt
        if attempt is None or attempt.digest == work.layout.digest:
            return
        before = _layout_of(attempt, self._options)
        if attempt.irrevocable:
            if attempt.failed:
                remove_tree(before.private)  # nothing recovers by this program any more, and credentials lie beside it
            return
        same = attempt.backup == work.backup["name"] and before.tablespaces == work.layout.tablespaces
        pairs = [(before.private, work.layout.private)]
        pairs += [(old.new, new.new) for old, new in zip(before.exchanges(), work.layout.exchanges())] if same else []
        for old, new in pairs:
            if same and os.path.isdir(old) and not os.path.lexists(new):
                os.rename(old, new)
        for place in [before.private, *(exchange.new for exchange in before.exchanges())]:
            remove_tree(place)

    def _fetch_plain(self, store: Store, work: Work, chosen: Chosen) -> None:
        layout = work.layout
        with self._progress.phase("fetch", chosen.size):
            mark = os.path.join(layout.private, "unpacked")
            fill_plain(store, chosen.key, layout.new, mark, work.owner, self._progress.advance)
        self._notes.extend(complete_plain(layout.new, chosen.label, work.owner))
        control = read_control(layout.new)
        major = read_version(layout.new) or 0
        wanted = self._options.system_identifier or chosen.system_identifier
        if wanted and control.system_identifier != wanted:
            raise Refused(
                "wrong_system_identifier",
                f"the archive holds the cluster {control.system_identifier}, the WAL and this request are of {wanted}",
                hint="check prefix, backup and system_identifier",
            )
        recovery.require_supported(major)
        find_binaries(major, self._options.bin_directory)
        work.facts.update(major=major, system_identifier=control.system_identifier)
        with self._progress.phase("sync", None, "files"):
            self._settle(work)
            sync_tree(layout.new, self._options.jobs, self._progress.advance)

    def _fetch_indexed(self, store: Store, work: Work, chosen: Chosen) -> None:
        jobs = self._options.jobs
        with Journal(os.path.join(work.layout.private, "verified.jsonl")) as journal:
            with self._progress.phase("fetch", preflight.content_size(chosen)):
                for archive, tablespace in chosen.archives():
                    self._fill(store, work, archive, tablespace, journal)
            with self._progress.phase("sync", None, "files"):
                self._settle(work)
                for exchange in work.layout.exchanges():
                    sync_tree(exchange.new, jobs, self._progress.advance)
                self._place_control(store, work, chosen.archives()[0][0], journal)

    def _fill(self, store: Store, work: Work, archive: Archive, tablespace: Tablespace | None, journal: Journal) -> None:
        new, live, strip = work.layout.new, self._options.data_directory, ""
        if tablespace is not None:
            new, live, strip = work.layout.tablespace_new(tablespace), tablespace.live, tablespace.version_directory
            _make_location(tablespace.location, work.owner)
        old = live if self._options.delta and os.path.isdir(live) else None
        with Tree(new, work.owner) as tree:
            filler = Filler(store, archive, tree, journal, strip=strip, jobs=self._options.jobs, on_bytes=self._progress.advance)
            filler.shape()
            if tablespace is None:
                tree.remove(CONTROL_FILE)
            filler.fill([entry for entry in archive.files if entry.type == FILE and entry.path != CONTROL_FILE], old)
            self._count(filler.tally)

    def _count(self, tally: Tally) -> None:
        for name, value in tally.as_dict().items():
            setattr(self._tally, name, getattr(self._tally, name) + value)

    def _place_control(self, store: Store, work: Work, archive: Archive, journal: Journal) -> None:
        """The control file comes last, when everything else is safe on disk: without it no server starts."""
        entry = _entry(archive, CONTROL_FILE)
        with Tree(work.layout.new, work.owner) as tree:
            Filler(store, archive, tree, journal, jobs=1).fill([entry])
            tree.sync_file(CONTROL_FILE)
            tree.sync_directory(os.path.dirname(CONTROL_FILE))

    def _settings(self, work: Work) -> recovery.RecoverySettings:
        program, config = _program_paths(work.layout)
        target = work.replay.target_time
        return recovery.RecoverySettings(
            major=int(work.facts["major"]),
            timeline=work.replay.timeline,
            restore_command=restore_command(self._options.interpreter, program, config),
            target_time=None if target is None else parse_time(target, "target_time"),
            archive=not self._options.scratch,
        )

    def _settle(self, work: Work) -> None:
        options = self._options
        taken = settle(work.layout, self._settings(work), options.server, owner=work.owner, scratch=options.scratch)
        if taken:
            self._notes.append(f"taken out of the restored directory: {', '.join(taken)}")

    # -- exchange and recovery ----------------------------------------------------------------------------------------

    def _mark(self, work: Work, phase: str) -> None:
        """Remember how far it got, with what is known by then."""
        if work.attempt is None:
            raise OpsError("a restore without an attempt")
        work.facts["warnings"] = list(dict.fromkeys(self._notes))
        work.attempt.facts = work.facts
        work.attempt.phase = phase
        work.attempt.timings = [*work.attempt.timings, *self._progress.timings[self._kept_timings :]]
        self._kept_timings = len(self._progress.timings)
        state.save_attempt(self._options.data_directory, work.attempt)

    _kept_timings = 0

    def _carry_on(self, work: Work) -> Outcome:
        """From the exchange on; every part sees what is done already."""
        options = self._options
        major = int(work.facts["major"])
        server = Server(options.data_directory, find_binaries(major, options.bin_directory), options.server, work.layout.log)
        with self._progress.phase("swap", None, ""):
            if not swapped(work.layout):
                self._stop_old(server, work)
                swap(work.layout)
            _require_ours(work)
            self._mark_once(work, state.RECOVERING)
        try:
            last_commit = self._recover(server, work)
        except WaitTimeout:  # the server goes on by itself
            raise
        except OpsError as error:
            self._give_up(work, error)
            raise
        self._mark_once(work, state.PROMOTED)
        try:
            ending = self._verify(work, last_commit)
        except IntegrityError as error:
            raise self._spoiled(server, work, error) from error
        return self._finish(server, work, ending)

    def _give_up(self, work: Work, error: OpsError, phase: str | None = None) -> None:
        """Remember that recovery failed: ``force`` then begins anew instead of carrying on."""
        if work.attempt is not None:
            work.attempt.failed = error.message
            self._mark(work, phase or work.attempt.phase)

    def _spoiled(self, server: Server, work: Work, error: IntegrityError) -> IntegrityError:
        """Recovery ended at the wrong place: nobody may work with what is there, and no later run can make it right."""
        done = "the server was stopped"
        try:
            if server.running() is not None:
                server.stop(timeout=STOP_TIMEOUT)
        except OpsError as problem:
            done = f"the server could not be stopped, stop it at once: {problem.message}"
        self._give_up(work, error, state.SPOILED)
        _remove_private(work.layout)
        return IntegrityError(f"{error.message}; {done}", hint=error.hint, **error.state)

    def _mark_once(self, work: Work, phase: str) -> None:
        """Never back to an earlier phase."""
        if work.attempt is not None and state.PHASES.index(work.attempt.phase) < state.PHASES.index(phase):
            self._mark(work, phase)

    def _stop_old(self, server: Server, work: Work) -> None:
        found = server.running()
        if found is None:
            return
        if not (self._options.stop_running or work.facts.get("stop")):
            preflight.check_stopped(self._options)
        server.stop(timeout=STOP_TIMEOUT)

    def _recover(self, server: Server, work: Work) -> str | None:
        """Start what is to be started and wait for the promotion; the last commit recovered, when the server tells."""
        replay, directory = work.replay, server.data_directory
        with self._progress.phase("replay", len(replay.segments) or None, "segments"):
            begin = log_size(server)
            if recovery.recovering(directory):
                self._install_program(work)
            if server.running() is None:
                self._start(server, work, begin)
            watch = Watch(server, replay, self._options.limits, self._progress, log_begin=begin)
            watch.run()
        return watch.last_commit or logged_commit(server.log_tail(since=0))

    def _start(self, server: Server, work: Work, begin: int) -> None:
        handle = os.open(server.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        os.close(handle)
        own(server.log_path, work.owner)
        if recovery.recovering(server.data_directory):
            recovery.remove_leftovers(server.data_directory)
        try:
            server.start(timeout=self._options.limits.start)
        except ProcessFailed as error:
            raise server_failure(server.log_tail(since=begin)) from error

    def _install_program(self, work: Work) -> None:
        """The WAL program and its configuration, fresh in every run: credentials may have been renewed."""
        program, config = _program_paths(work.layout)
        spool = os.path.join(work.layout.private, "spool")
        make_folder(work.layout.private, work.owner)
        make_folder(spool, work.owner)
        rules = {
            "copy": self._options.scratch,
            "oids": [tablespace.oid for tablespace in work.layout.tablespaces],
            "own": [tablespace.location for tablespace in work.layout.tablespaces],
            "version_directory": f"PG_{work.facts['major']}_{read_control(work.layout.data_directory).catalog_version}",
            "notes": os.path.join(work.layout.private, "tablespaces"),
        }
        install_program(program, self._options.interpreter, work.owner)
        write_config(
            config,
            self._options.s3,
            self._options.prefix,
            spool,
            work.owner,
            segment_size=work.replay.segment_size,
            tablespaces=rules,
        )

    def _verify(self, work: Work, last_commit: str | None) -> Ending:
        ending = read_ending(self._options.data_directory, work.replay, last_commit or work.facts.get("last_transaction"))
        check_ending(ending, work.replay)
        return ending

    def _finish(self, server: Server, work: Work, ending: Ending) -> Outcome:
        directory = self._options.data_directory
        if recovery.finish(directory, self._settings(work), owner=work.owner) and server.running() is not None:
            server.reload()
        if not self._options.keep_old:
            for path in work.layout.kept_paths():
                remove_tree(path)
        _remove_private(work.layout)
        outcome = self._outcome(work, changed=True, ending=ending)
        record = {
            "request": self._request,
            "plan_digest": work.plan.digest,
            "system_identifier": work.facts["system_identifier"],
            "inode": os.stat(directory).st_ino,
            "backup": outcome.backup,
            "recovery": outcome.recovery,
            "kept": outcome.kept,
            "timings": outcome.timings,
            "begun": work.attempt.begun if work.attempt is not None else None,
            "finished": iso(now()),
        }
        state.save_record(directory, record)
        state.drop_attempt(directory)
        return outcome

    def _outcome(self, work: Work, *, changed: bool, ending: Ending | None = None) -> Outcome:
        earlier = work.attempt.timings if work.attempt is not None else []
        found = {
            "target_time": work.replay.target_time,
            "timeline_old": work.replay.timeline,
            "timeline_new": ending.timeline if ending is not None else work.facts.get("new_timeline"),
            "last_commit": ending.last_commit if ending is not None else work.facts.get("last_transaction"),
            "end_lsn": ending.end_lsn if ending is not None else None,
            "segments": len(work.replay.segments),
        }
        return Outcome(
            changed=changed,
            plan=work.plan,
            backup=work.backup,
            recovery=found,
            kept=work.layout.kept_paths() if ending is not None else [],
            timings=[*earlier, *self._progress.timings[self._kept_timings :]],
            record=state.record_path(self._options.data_directory),
            warnings=list(dict.fromkeys(self._notes)),
            transfer=self._tally.as_dict() if ending is not None else {},
        )


def _name(options: RestoreOptions, chosen: Chosen, facts: Facts) -> tuple[Plan, Layout]:
    """The plan and the names that derive from it; a repetition of a finished restore gets names of its own."""
    repetition = 0
    while True:
        plan = build_plan(options, chosen, facts, repetition)
        layout = Layout(options.data_directory, plan.digest, chosen.tablespaces, facts.younger)
        if not any(os.path.lexists(path) for path in layout.all_kept()):
            return plan, layout
        repetition += 1


def _remove_private(layout: Layout) -> None:
    """Remove the WAL program with its spool. Under another name first: its background process then finds nothing and ends."""
    gone = f"{layout.private}.gone"
    remove_tree(gone)
    with contextlib.suppress(FileNotFoundError):
        os.rename(layout.private, gone)
    remove_tree(gone)


def _require_ours(work: Work) -> None:
    """Raise Refused (``swap_conflict``) when what is in place is not the directory that was filled."""
    path = work.layout.data_directory
    if os.stat(path).st_ino != work.facts["inode"]:
        raise Refused(
            "swap_conflict",
            f"{path} is not the directory that this restore filled: something exchanged it meanwhile",
            hint=f"look at it; to give this restore up, remove {state.attempt_path(path)}",
        )


def _program_paths(layout: Layout) -> tuple[str, str]:
    return os.path.join(layout.private, "fileforge-wal"), os.path.join(layout.private, "wal.json")


def _entry(archive: Archive, path: str) -> FileEntry:
    found = next((entry for entry in archive.files if entry.path == path), None)
    if found is None:
        raise Refused("archive_damaged", f"{archive.key}: the index has no {path}", hint="choose another backup")
    return found


def _make_location(path: str, owner: tuple[int, int]) -> None:
    """A tablespace's location, with the directories above it that are missing."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for place in reversed(missing):
        make_folder(place, owner)
        fsync_directory(os.path.dirname(place))


def _layout_of(attempt: state.Attempt, options: RestoreOptions) -> Layout:
    tablespaces = tuple(Tablespace(*row) for row in attempt.facts.get("tablespaces", ()))
    return Layout(options.data_directory, attempt.digest, tablespaces, tuple(attempt.facts.get("younger", ())))


def _backup_of(chosen: Chosen) -> dict[str, t.Any]:
    return {
        "name": chosen.backup,
        "key": chosen.key,
        "bytes": chosen.size,
        "plain": chosen.index is None,
        "system_identifier": chosen.system_identifier,
        "version_num": chosen.version_num,
        "stopped": chosen.index.stopped if chosen.index is not None else None,
    }


def _facts_of(chosen: Chosen, facts: Facts) -> dict[str, t.Any]:
    return {
        **facts.as_dict(),
        "tablespaces": [[tablespace.oid, tablespace.location, tablespace.version_directory] for tablespace in chosen.tablespaces],
        "backup": _backup_of(chosen),
        "major": chosen.major,
        "system_identifier": chosen.system_identifier,
        "last_transaction": chosen.last_transaction,
        "new_timeline": chosen.new_timeline,
    }
