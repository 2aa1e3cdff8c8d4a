# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which backups and which WAL may go: rules over plain facts, no bucket. PRIVATE to the collection.

What is never given up:

* the newest good backup, and so many more of the newest good ones as are asked for, whatever their age;
* of every backup that stays, the WAL from its start to its end, without which it cannot be restored at all, and on to the next
  transaction, at which recovery to a time after its end stops;
* for as many days as WAL is kept, the way to every moment: on each timeline with WAL of these days, the newest good backup made
  before them and all WAL from its start on, across the timelines that lead there.

Segments are compared by timeline and number, never by name, and a segment goes only because nothing needs it *and* it is old: an
upgraded cluster that counts from the beginning again, or an abandoned timeline, takes nothing of another's. Where something cannot
be read (a history file, an index), no WAL goes.
"""

from __future__ import annotations

import dataclasses
import datetime
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._postgres import wal

Time = t.Optional[datetime.datetime]
Span = t.Tuple[int, int, t.Optional[int]]
"""Timeline, first and last number; no last: to the end of the timeline."""

TAIL = 16
"""Segments after a backup's end that are looked through at most for a transaction."""


@dataclasses.dataclass(frozen=True)
class Policy:
    """How long what is kept."""

    keep: datetime.timedelta
    """Backups; never shorter than for WAL, which is of no use without them."""
    keep_least: int
    """So many of the newest good backups stay whatever their age; never less than one."""
    wal_keep: datetime.timedelta
    aborted_after: datetime.timedelta
    """Older than this, a backup that was never finished will not be."""


@dataclasses.dataclass(frozen=True)
class Backup:
    """A base backup as the rules see it."""

    name: str
    made: Time
    complete: bool = True
    readable: bool = True
    """Whether it is known where its WAL begins."""
    timeline: int = 1
    start: int = 0
    stop: int | None = None
    system: str | None = None
    segment_size: int | None = None
    failed: bool = False
    """Whether its last verification failed."""
    hold: str = ""
    """Why it stays, whatever the rules say; empty when they apply."""


@dataclasses.dataclass(frozen=True)
class Archive:
    """The WAL: when each segment was stored, by timeline and number, and the ancestry of each timeline that is known."""

    segments: t.Mapping[int, t.Mapping[int, Time]]
    ancestries: t.Mapping[int, t.Sequence[wal.TimelinePart]]
    segment_size: int = wal.DEFAULT_SEGMENT_SIZE

    def has(self, backup: Backup) -> bool:
        """Whether all WAL is there that makes the backup consistent."""
        if backup.stop is None:
            return wal.segment_number(backup.start, self.segment_size) in self.segments.get(backup.timeline, {})
        first, last = self.own(backup)
        there = self.segments.get(backup.timeline, {})
        return all(number in there for number in range(first, last + 1))

    def own(self, backup: Backup) -> tuple[int, int]:
        """The numbers of the first and the last segment that the backup itself needs."""
        size = self.segment_size
        return wal.segment_number(backup.start, size), wal.last_segment_number(backup.stop or backup.start + 1, size)

    def leads_to(self, backup: Backup, timeline: int) -> tuple[wal.TimelinePart, ...]:
        """The stretches from the backup to the timeline; none when the backup is not one of its ancestors."""
        parts = tuple(self.ancestries.get(timeline) or [wal.TimelinePart(timeline, 0, None)])
        end = backup.start if backup.stop is None else backup.stop
        for place, part in enumerate(parts):
            if part.timeline == backup.timeline:
                return parts[place:] if part.begin <= end and (part.end is None or end <= part.end) else ()
        return ()


@dataclasses.dataclass
class Decision:
    """What goes and what stays, each with the reason."""

    expired: list[Backup] = dataclasses.field(default_factory=list)
    """Oldest first."""
    aborted: list[Backup] = dataclasses.field(default_factory=list)
    kept: dict[str, str] = dataclasses.field(default_factory=dict)
    wal: dict[int, list[int]] = dataclasses.field(default_factory=dict)
    """Numbers of the segments that go, by timeline, in order."""
    problems: list[str] = dataclasses.field(default_factory=list)
    """Why something stays that could have gone."""


def decide(
    backups: t.Sequence[Backup],
    archive: Archive,
    policy: Policy,
    now: datetime.datetime,
    has_transaction: t.Callable[[int, int], bool] = lambda timeline, number: True,
) -> Decision:
    """Apply the rules. ``has_transaction`` tells whether one ends in a segment; it is asked about few."""
    found = Decision()
    good = by_age(item for item in backups if item.complete and item.readable and not item.failed and archive.has(item))
    if not good:
        found.kept = {item.name: "no base backup can be restored, so nothing is given up" for item in backups}
        if backups or archive.segments:
            found.problems.append(
                "no base backup can be restored, so neither backups nor WAL expire: make one, playbooks/backup.yml"
            )
        return found
    shared = len({item.system for item in backups if item.system}) > 1
    anchors = _anchors(good, archive, now - policy.wal_keep, shared)
    _choose(backups, good, anchors, policy, now, found)
    stays = [item for item in backups if item.name in found.kept and item.complete]
    found.problems += _wal_problems(stays, archive)
    if not found.problems:
        spans = _needed(stays, good[-1], anchors, archive, now - policy.wal_keep, shared)
        found.wal = _unneeded(archive, spans, now - policy.wal_keep)
        _keep_tails(stays, archive, found.wal, has_transaction)
    return found


def by_age(backups: t.Iterable[Backup]) -> list[Backup]:
    """Oldest first; what has no time counts as new."""
    newest = datetime.datetime.max.replace(tzinfo=datetime.timezone.utc)
    return sorted(backups, key=lambda item: (item.made or newest, item.start, item.name))


# Backups


def _anchors(good: t.Sequence[Backup], archive: Archive, since: datetime.datetime, shared: bool) -> list[tuple[Backup, int]]:
    """For each timeline with WAL that is kept, and for each cluster, the last good backup made before; and that timeline."""
    found = []
    for timeline in archive.segments:
        newest: dict[str | None, Backup] = {}
        for item in sorted(good, key=lambda one: one.start):
            if item.made is not None and item.made <= since and archive.leads_to(item, timeline):
                newest[item.system] = item
        found += [(item, timeline) for item in newest.values() if _leads_to_recent(item, timeline, archive, since, shared)]
    return found


def _leads_to_recent(item: Backup, timeline: int, archive: Archive, since: datetime.datetime, shared: bool) -> bool:
    for line, first, last in _open_spans(item, timeline, archive, shared):
        for number, time in archive.segments.get(line, {}).items():
            if first <= number and (last is None or number <= last) and (time is None or time >= since):
                return True
    return False


def _choose(
    backups: t.Sequence[Backup],
    good: t.Sequence[Backup],
    anchors: t.Sequence[tuple[Backup, int]],
    policy: Policy,
    now: datetime.datetime,
    found: Decision,
) -> None:
    least = {item.name for item in good[-max(1, policy.keep_least) :]}
    needed = {item.name for item, _timeline in anchors}
    for item in backups:
        reason = _reason(item, least, needed, policy, now)
        if reason:
            found.kept[item.name] = reason
    _keep_order(backups, found)
    gone = [item for item in backups if item.name not in found.kept]
    found.expired = by_age(item for item in gone if item.complete)
    found.aborted = by_age(item for item in gone if not item.complete)


def _reason(item: Backup, least: set[str], needed: set[str], policy: Policy, now: datetime.datetime) -> str:
    """Why it stays; empty when it may go."""
    if item.hold or item.made is None:
        return item.hold or "nothing tells how old it is"
    if not item.complete:
        return "" if now - item.made > policy.aborted_after else "it is not finished and may still be made"
    keep = max(policy.keep, policy.wal_keep)
    if now - item.made <= keep:
        return f"younger than {_days(keep)}"
    if item.name in least:
        return f"one of the {max(1, policy.keep_least)} newest good backups"
    if item.name in needed:
        return f"WAL of the last {_days(policy.wal_keep)} is replayed from it"
    return ""


def _keep_order(backups: t.Sequence[Backup], found: Decision) -> None:
    """On one timeline of one cluster nothing expires that comes after a backup that stays, whatever the clocks said."""
    groups: dict[tuple[str | None, int], list[Backup]] = {}
    for item in backups:
        if item.complete and item.readable:
            groups.setdefault((item.system, item.timeline), []).append(item)
    for group in groups.values():
        before = ""
        for item in sorted(group, key=lambda one: (one.start, one.name)):
            if item.name in found.kept:
                before = before or item.name
            elif before:
                found.kept[item.name] = f"made after {before}, which stays"


def _days(span: datetime.timedelta) -> str:
    days = span.total_seconds() / 86400
    return f"{days:g} day" + ("" if days == 1 else "s")


# WAL


def _wal_problems(stays: t.Sequence[Backup], archive: Archive) -> list[str]:
    """What makes it impossible to tell which WAL is needed."""
    problems = []
    for timeline in sorted(archive.segments):
        if timeline != 1 and timeline not in archive.ancestries:
            problems.append(
                f"no WAL expires: {wal.history_name(timeline)} is missing or cannot be read, so nothing tells what timeline "
                f"{timeline} needs; archive it again from the server's pg_wal"
            )
    for item in stays:
        if not item.readable:
            problems.append(f"no WAL expires: nothing tells which WAL base backup {item.name} needs; its index cannot be read")
        elif item.segment_size not in (None, archive.segment_size):
            problems.append(
                f"no WAL expires: base backup {item.name} has WAL segments of {item.segment_size} bytes, the archive of "
                f"{archive.segment_size}; give each cluster a prefix of its own"
            )
    return problems


def _needed(
    stays: t.Sequence[Backup],
    newest: Backup,
    anchors: t.Sequence[tuple[Backup, int]],
    archive: Archive,
    since: datetime.datetime,
    shared: bool,
) -> list[Span]:
    """All WAL that something needs."""
    spans: list[Span] = []
    for item in stays:
        first, last = archive.own(item)
        spans.append((item.timeline, first, None if item.stop is None else last))
        if item.stop is None or item == newest or item.made is None or item.made > since:
            for timeline in {*archive.segments, item.timeline}:
                spans += _open_spans(item, timeline, archive, shared)
    for item, timeline in anchors:
        spans += _open_spans(item, timeline, archive, shared)
    return spans


def _open_spans(item: Backup, timeline: int, archive: Archive, shared: bool) -> list[Span]:
    """Everything from a backup on to the end of a timeline that it leads to; at a branch both copies of the segment.

    In an archive that several clusters share, only to the first gap: what follows may be another's.
    """
    size = archive.segment_size
    start = wal.segment_number(item.start, size)
    spans: list[Span] = []
    for part in archive.leads_to(item, timeline):
        first = max(start, wal.segment_number(part.begin, size))
        last = None if part.end is None else wal.last_segment_number(part.end, size)
        end = _run_end(archive.segments.get(part.timeline, {}), first, last) if shared else last
        spans.append((part.timeline, first, end))
        if last is None or (end is not None and end < last - 1):
            break
    return spans


def _run_end(stored: t.Mapping[int, Time], first: int, last: int | None) -> int:
    """The last of the segments that follow each other from ``first`` on."""
    number = first
    while number in stored and (last is None or number <= last):
        number += 1
    return number - 1


def _unneeded(archive: Archive, spans: t.Sequence[Span], since: datetime.datetime) -> dict[int, list[int]]:
    """Old segments in none of the spans."""
    found: dict[int, list[int]] = {}
    for timeline, stored in archive.segments.items():
        own = [(first, last) for line, first, last in set(spans) if line == timeline]
        for number in sorted(stored):
            time = stored[number]
            if time is None or time >= since:
                continue
            if not any(first <= number and (last is None or number <= last) for first, last in own):
                found.setdefault(timeline, []).append(number)
    return found


def _keep_tails(
    stays: t.Sequence[Backup], archive: Archive, gone: dict[int, list[int]], has_transaction: t.Callable[[int, int], bool]
) -> None:
    """Take back the segments between a backup's end and the first transaction after it."""
    for item in stays:
        if item.stop is None:
            continue
        number = archive.own(item)[1] + 1
        for _step in range(TAIL):
            if number not in gone.get(item.timeline, ()):
                break
            gone[item.timeline].remove(number)
            if has_transaction(item.timeline, number):
                break
            number += 1
    for timeline in [timeline for timeline, numbers in gone.items() if not numbers]:
        del gone[timeline]
