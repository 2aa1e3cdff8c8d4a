# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Contiguous WAL from one segment on, along the history of a timeline. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import datetime
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._backup.base_backups import BackupFacts
from ansible_collections.fileforge.ops.plugins.module_utils._backup.wal_store import StoredSegment, WalStore
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import wal
from ansible_collections.fileforge.ops.plugins.module_utils._time import iso

_LOOK_BACK = 512
"""Segments without any transaction that are read at most in search of the last one."""
_SKEW = 2
"""Segments before the one found that are looked at, too: transactions are stamped shortly before they enter the WAL."""
_STEP = datetime.timedelta(microseconds=1)


@dataclasses.dataclass
class Chain:
    """Segments that follow each other without a gap, as PostgreSQL will read them.

    At a branch the child's copy of the segment is taken, as PostgreSQL does. When only the parent's is there, the chain ends
    with it and ``limit`` is where the child left it.
    """

    archive: WalStore
    parts: tuple[wal.TimelinePart, ...]
    segments: list[StoredSegment]
    missing: str
    """The first segment that is not there."""
    beyond: bool
    """Whether later segments on this history are there."""
    limit: int | None = None
    _system: str | None = None

    @property
    def timeline(self) -> int:
        """The timeline that it leads to."""
        return self.parts[-1].timeline

    @property
    def last_number(self) -> int:
        """Number of the last segment; -1 when there is none."""
        return self.segments[-1].number if self.segments else -1

    # -- origin -------------------------------------------------------------------------------------------------------

    def check_origin(self, facts: BackupFacts) -> None:
        """Raise Refused (wal_foreign) unless the first segment comes from the cluster of the backup."""
        if not self.segments:
            return
        size = facts.wal_segment_size
        if size is not None and size != self.archive.segment_size:
            raise Refused(
                "wal_foreign",
                f"the archive's WAL segments have {self.archive.segment_size} bytes, those of the backup's cluster {size}",
                hint="another cluster archives into this place: use another prefix for it",
            )
        self._system = facts.system_identifier
        self.check_origin_of(0)

    def check_origin_of(self, place: int) -> None:
        """The same for one segment."""
        stored = self.segments[place]
        found = self.archive.header(stored).system_identifier
        self._system = self._system or found
        if found != self._system:
            raise Refused(
                "wal_foreign",
                f"{stored.key} was written by another cluster (system identifier {found}, not {self._system})",
                hint="two clusters archive into one place: restore from the second region, and give each its own prefix",
                segment=stored.name,
            )

    # -- contents -----------------------------------------------------------------------------------------------------

    def scan(self, place: int) -> wal.SegmentScan:
        """Read one segment. Raises IntegrityError when valid WAL ends inside it although the chain goes on."""
        self.check_origin_of(place)
        found = self.archive.scan(self.segments[place])
        if not found.complete and place < len(self.segments) - 1:
            raise IntegrityError(
                f"{self.segments[place].key}: valid WAL ends inside it, at {wal.format_lsn(found.end_lsn)}",
                hint="the object is damaged: fetch it from the second region, or choose an earlier target time",
            )
        return found

    def latest(self, place: int) -> int | None:
        """The latest time of a transaction inside one segment."""
        if self.limit is not None and place == len(self.segments) - 1:
            return max((item.time for item in self._ended_in(place)), default=None)
        if not self.archive.known(self.segments[place]):
            self.scan(place)
        return self.archive.latest_time(self.segments[place])

    def _ended_in(self, place: int) -> list[wal.Transaction]:
        """Transactions whose records end in one segment, in WAL order."""
        scan = self.scan(place)
        split = wal.split_transaction(self.scan(place - 1), scan) if place > 0 and scan.lead_end is not None else None
        found = [*([split] if split else []), *scan.transactions]
        if self.limit is not None and place == len(self.segments) - 1:
            found = [item for item in found if item.end_lsn <= self.limit]
        return found

    def backup_stop(self, facts: BackupFacts) -> int | None:
        """Where the backup becomes consistent; None when the WAL up to there is not all in the chain."""
        stop = facts.stop_lsn
        if stop is None:
            for place in range(len(self.segments)):
                ends = (end for begin, end in self.scan(place).backup_ends if begin == facts.start_lsn)
                stop = next(ends, None)
                if stop is not None:
                    return stop
            return None
        return stop if self.last_number >= wal.last_segment_number(stop, self.archive.segment_size) else None

    def end_lsn(self) -> int:
        """Where replay of everything ends."""
        for place in range(len(self.segments) - 1, -1, -1):
            found = self.scan(place).end_lsn
            if found:
                return found
        return 0

    # -- times --------------------------------------------------------------------------------------------------------

    def first_after(self, time: int) -> tuple[int, wal.Transaction] | None:
        """The place and the transaction at which recovery to ``time`` stops.

        Which segments are read depends on where the answer lies, not on how much WAL follows it.
        """
        count = len(self.segments)
        low = probe = 0
        step = 1
        while probe < count and not self._reached(probe, low, time):
            low, probe, step = probe + 1, probe + step, step * 2
        high = probe
        while low < high:
            middle = (low + high) // 2
            if middle >= count or self._reached(middle, low, time):
                high = middle
            else:
                low = middle + 1
        for place in range(max(0, min(low, count) - _SKEW), count):
            for transaction in self._ended_in(place):
                if transaction.time > time:
                    return place, transaction
        return None

    def _reached(self, place: int, low: int, time: int) -> bool:
        """Whether a later transaction ended up to this segment, as far back as ``low``."""
        for earlier in range(place, low - 1, -1):
            latest = self.latest(earlier)
            if latest is not None:
                return latest > time
        return False

    def last_before(self, place: int, lsn: int) -> datetime.datetime | None:
        """The time of the last transaction before a position in the segment ``place`` or in those shortly before it."""
        for earlier in range(place, max(-1, place - 1 - _SKEW), -1):
            times = [item.time for item in self._ended_in(earlier) if item.lsn < lsn]
            if times:
                return wal.record_time(max(times))
        return None

    def last_time(self) -> datetime.datetime | None:
        """The time of the last transaction in the chain."""
        last = len(self.segments) - 1
        for place in range(last, max(-1, last - _LOOK_BACK), -1):
            latest = self.latest(place) if place != last else max((item.time for item in self._ended_in(place)), default=None)
            if latest is not None:
                return wal.record_time(latest)
        return None

    def latest_reachable(self) -> datetime.datetime | None:
        """The latest target time at which PostgreSQL would stop."""
        last = self.last_time()
        return None if last is None else last - _STEP

    def later_than(self, target: datetime.datetime | None) -> bool:
        """Whether WAL after the gap goes beyond the target."""
        later = [
            stored
            for part in self.parts
            for stored in self.archive.segments.get(part.timeline, {}).values()
            if stored.number > self.last_number
        ]
        for stored in sorted(later, key=lambda item: (item.number, item.timeline), reverse=True)[:_LOOK_BACK]:
            latest = self.archive.latest_time(stored)
            if latest is not None:
                return target is None or wal.record_time(latest) > target
        return False

    def gap(self, what: str, latest: datetime.datetime | None = None) -> Refused:
        """The refusal that names the first missing segment."""
        if latest is None and self.segments:
            latest = self.latest_reachable()
        until = f"; without it the latest reachable time is {iso(latest)}" if latest else ""
        return Refused(
            "wal_gap",
            f"WAL segment {self.missing} is missing from the archive, {what}{until}",
            hint="look for it in the second region or in the server's pg_wal and archive it, or choose an earlier target time",
            segment=self.missing,
            latest_reachable_time=iso(latest),
        )


def build_chain(walstore: WalStore, parts: t.Sequence[wal.TimelinePart], first: int) -> Chain:
    """Follow the history from segment number ``first`` until one is missing."""
    size = walstore.segment_size
    chain = Chain(walstore, tuple(parts), [], "", False)
    number = first
    while True:
        covering = [part for part in reversed(parts) if _covers(part, number, size)]
        if not covering:
            break
        stored = walstore.segment(covering[0].timeline, number)
        if stored is None:
            _end_at_branch(walstore, chain, covering[1:], number)
            break
        chain.segments.append(stored)
        number += 1
    chain.missing = walstore.name(covering[0].timeline if covering else parts[-1].timeline, number)
    chain.beyond = any(
        later > number and _covers(part, later, size) for part in parts for later in walstore.segments.get(part.timeline, {})
    )
    return chain


def _end_at_branch(walstore: WalStore, chain: Chain, parents: list[wal.TimelinePart], number: int) -> None:
    """The child's copy of the segment is missing: the parent's is as good up to the branch, and no further."""
    for parent in parents:
        stored = walstore.segment(parent.timeline, number)
        if stored is not None:
            chain.segments.append(stored)
            chain.limit = parent.end
            return


def _covers(part: wal.TimelinePart, number: int, size: int) -> bool:
    """Whether a segment holds WAL of this stretch."""
    if number < wal.segment_number(part.begin, size):
        return False
    return part.end is None or number <= wal.last_segment_number(part.end, size)
