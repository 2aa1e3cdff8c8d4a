# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting a restored directory, watching it recover, and what it became. PRIVATE to the collection."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import time
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, OpsError, WaitTimeout
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import recovery
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import (
    PidFile,
    RecoveryState,
    Server,
    read_control,
    recovery_state,
    server_failure,
    startup_segment,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.wal import (
    HISTORY_NAME,
    format_lsn,
    parse_history,
    parse_lsn,
    segment_name,
    split_segment_name,
)
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress
from ansible_collections.fileforge.ops.plugins.module_utils._time import duration_text
from ansible_collections.fileforge.ops.plugins.module_utils._wait import wait_for

INTERVAL = 0.25
_ANEW = (
    "do not use what was restored; check the archive, then restore again with force or to another target_time, and with "
    "target_timeline when the archive has got WAL of the wrong timeline meanwhile; what was restored will be kept aside"
)


@dataclasses.dataclass(frozen=True)
class Replay:
    """The part of a recovery plan that replay needs; JSON-able."""

    timeline: int
    target_time: str | None
    """ISO 8601 in UTC; None: to the end of the archived WAL."""
    segments: t.List[str]
    bytes: int
    segment_size: int
    end_lsn: str | None = None
    """Where the archived WAL ends, when that is known."""

    @property
    def end_segment(self) -> str | None:
        """The last segment that replay needs."""
        return self.segments[-1] if self.segments else None

    def as_dict(self) -> dict[str, t.Any]:
        """JSON form."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Limits:
    """How long to wait, in seconds."""

    recovery: float
    stall: float
    start: float


@dataclasses.dataclass(frozen=True)
class Moment:
    """One look at a recovering server."""

    found: PidFile | None
    waits: bool
    """Whether ``recovery.signal`` is still there."""
    state: str
    sql: RecoveryState | None
    segment: str | None

    @property
    def promoted(self) -> bool:
        """Recovery is over and the server takes writes."""
        if self.found is None or self.waits:
            return False
        if self.sql is not None:
            return not self.sql.in_recovery
        return self.state == "in production"

    @property
    def mark(self) -> tuple[t.Any, ...]:
        """Changes as long as replay advances."""
        return (self.segment, self.state, self.waits, self.sql.replay_lsn if self.sql else None)


class Watch:
    """Follows one recovery to its promotion."""

    def __init__(self, server: Server, replay: Replay, limits: Limits, progress: Progress, *, log_begin: int) -> None:
        self._server = server
        self._replay = replay
        self._limits = limits
        self._progress = progress
        self._log_begin = log_begin
        self._places = {name: number for number, name in enumerate(replay.segments)}
        self._begin = time.monotonic()
        self._advanced = self._begin
        self._mark: tuple[t.Any, ...] = ()
        self._seen = False
        self.last_commit: str | None = None

    def look(self) -> Moment:
        """Ask files, processes and the server itself."""
        directory = self._server.data_directory
        waits = recovery.recovering(directory)
        found = self._server.running()
        sql = None
        if found is not None and found.status in ("ready", "standby"):
            sql = recovery_state(found, self._server.options.owner)
        try:
            state = read_control(directory).state
        except (OpsError, OSError):
            state = "unknown"
        return Moment(found, waits, state, sql, startup_segment(found.pid) if found else None)

    def note(self, moment: Moment) -> None:
        """Publish progress and remember when replay advanced."""
        self._seen = self._seen or moment.found is not None
        if moment.sql is not None and moment.sql.last_commit:
            self.last_commit = moment.sql.last_commit
        mark = (*moment.mark, os.stat(self._server.log_path).st_size if os.path.exists(self._server.log_path) else 0)
        if mark != self._mark:
            self._mark, self._advanced = mark, time.monotonic()
        done = self._done(moment)
        detail = f"recovered to {self.last_commit[:19]}Z" if self.last_commit else ""
        self._progress.set(done, len(self._replay.segments) or None, detail)

    def _done(self, moment: Moment) -> int:
        if moment.promoted:
            return len(self._replay.segments)
        name = moment.segment
        if name is None and moment.sql is not None and moment.sql.replay_lsn:
            size = self._replay.segment_size
            name = segment_name(self._replay.timeline, parse_lsn(moment.sql.replay_lsn) // size, size)
        return self._places.get(name or "", int(self._progress.snapshot()["done"]))

    def failed(self, moment: Moment) -> str | None:
        """Why waiting longer is useless."""
        now = time.monotonic()
        if moment.found is None and (self._seen or now - self._begin > self._limits.start):
            raise server_failure(self._server.log_tail(since=self._log_begin))
        idle = now - self._advanced
        if idle > self._limits.stall:
            where = moment.segment or (moment.sql.replay_lsn if moment.sql else None) or "an unknown place"
            return f"replay has not advanced for {duration_text(idle)} (at {where})" + _pause_reason(
                self._server.log_tail(since=self._log_begin)
            )
        return None

    def run(self) -> Moment:
        """Wait for the promotion. Raises OpsError (the server ended) and WaitTimeout (stalled, or the time is over)."""
        try:
            return wait_for(
                f"recovery of {self._server.data_directory}",
                self.look,
                lambda moment: moment.promoted,
                timeout=self._limits.recovery,
                interval=INTERVAL,
                failed=self.failed,
                on_state=self.note,
            )
        except WaitTimeout as error:
            last = error.state.pop("last", None)
            raise WaitTimeout(
                error.message,
                hint="the server goes on recovering by itself; run this again to go on watching it",
                segment=last.segment if isinstance(last, Moment) else None,
                **error.state,
            ) from error


def _pause_reason(log: str) -> str:
    if "insufficient parameter settings" in log or "recovery has paused" in log:
        return ": recovery has paused because a setting is lower than it was on the server that was backed up"
    return ""


@dataclasses.dataclass(frozen=True)
class Ending:
    """Where a recovery ended."""

    timeline: int
    end_lsn: str
    last_commit: str | None


def read_ending(data_directory: str, replay: Replay, last_commit: str | None) -> Ending:
    """The new timeline and the position at which it left the old one, from its history file in ``pg_wal``."""
    newest = 0
    for name in os.listdir(os.path.join(data_directory, "pg_wal")):
        match = HISTORY_NAME.match(name)
        if match:
            newest = max(newest, int(match["timeline"], 16))
    if newest <= replay.timeline:
        raise IntegrityError(
            f"{data_directory}: the server was promoted, but no history file of a timeline newer than {replay.timeline} is there",
            hint=_ANEW,
        )
    with open(os.path.join(data_directory, "pg_wal", f"{newest:08X}.history"), encoding="utf-8", errors="replace") as stream:
        entries = parse_history(stream.read(), newest)
    if not entries or entries[-1].timeline != replay.timeline:
        left = entries[-1].timeline if entries else "none"
        raise IntegrityError(
            f"{data_directory}: timeline {newest} left timeline {left}, not {replay.timeline} as planned", hint=_ANEW
        )
    return Ending(newest, format_lsn(entries[-1].switch_lsn), last_commit)


def check_ending(ending: Ending, replay: Replay) -> None:
    """Raise IntegrityError unless recovery ended where the plan says.

    PostgreSQL takes a damaged or missing record for the end of WAL and promotes; without a target nothing else would notice.
    Without a target more than was planned is fine: a server that is stopped for the restore archives its last segment meanwhile.
    """
    if replay.end_segment is None:
        return
    size = replay.segment_size
    _timeline, number = split_segment_name(replay.end_segment, size)
    end = parse_lsn(ending.end_lsn)
    too_early = end < (number - 1) * size
    too_late = replay.target_time is not None and end > (number + 1) * size
    if too_early or too_late:
        what = f"segment {replay.end_segment}"
        raise IntegrityError(
            f"recovery ended at {ending.end_lsn}, but the plan was to reach {what}: the WAL in between is damaged or missing",
            hint=_ANEW,
            end_lsn=ending.end_lsn,
        )
    if replay.end_lsn is not None and replay.target_time is None and end < parse_lsn(replay.end_lsn):
        raise IntegrityError(
            f"recovery ended at {ending.end_lsn}, before the end of the archived WAL at {replay.end_lsn}",
            hint=_ANEW,
            end_lsn=ending.end_lsn,
        )


_LOG_COMMIT = re.compile(
    r"last completed transaction was at log time (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?)([+-]\d\d(?::?\d\d)?|\s*UTC|\s*GMT)"
)


def logged_commit(log: str) -> str | None:
    """The last commit recovered according to the server's log, when its time zone is told by number or is UTC."""
    found = _LOG_COMMIT.findall(log)
    if not found:
        return None
    moment, zone = found[-1]
    zone = zone.strip()
    return f"{moment.replace(' ', 'T')}{'+00:00' if zone in ('UTC', 'GMT') else zone}"


def log_size(server: Server) -> int:
    """Where the next start's messages begin in what pg_ctl catches."""
    with contextlib.suppress(OSError):
        return os.stat(server.log_path).st_size
    return 0
