# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may expire: over random histories nothing that is kept loses what it needs; and each rule by itself."""

from __future__ import annotations

import dataclasses
import datetime
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup.expire import Archive, Backup, Decision, Policy, decide
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import wal
from hypothesis import event, given, settings
from hypothesis import strategies as st

SIZE = 1 << 20
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
DAY = datetime.timedelta(days=1)


@dataclasses.dataclass
class Life:
    """A cluster's life, its successors' too, and what of it reached the archive."""

    now: datetime.datetime = START
    timeline: int = 1
    position: int = 10
    """The segment that is written next."""
    system: int = 1
    stored: dict[int, dict[int, datetime.datetime]] = dataclasses.field(default_factory=dict)
    written: dict[tuple[int, int], datetime.datetime] = dataclasses.field(default_factory=dict)
    owner: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)
    histories: dict[int, tuple[wal.HistoryEntry, ...]] = dataclasses.field(default_factory=lambda: {1: ()})
    backups: list[Backup] = dataclasses.field(default_factory=list)

    def write(self, count: int, hours: float, delay: float = 0) -> None:
        """Segments that are archived, some time after they were written."""
        for _number in range(count):
            self.now += datetime.timedelta(hours=hours)
            place = (self.timeline, self.position)
            if self.position not in self.stored.setdefault(self.timeline, {}):
                self.stored[self.timeline][self.position] = self.now + datetime.timedelta(hours=delay)
                self.written[place] = self.now
                self.owner[place] = self.system
            self.position += 1

    def backup(self, segments: int, kind: str) -> None:
        """A backup during which some segments are written."""
        start = self.position * SIZE + 100
        self.write(segments, 1)
        stop = (self.position - 1) * SIZE + 400
        self.backups.append(
            Backup(
                f"b{len(self.backups):03d}",
                None if kind == "timeless" else self.now,
                complete=kind != "aborted",
                timeline=self.timeline,
                start=start,
                stop=None if kind == "plain" else stop,
                system=None if kind == "plain" else str(self.system),
                failed=kind == "failed",
            )
        )

    def restore(self, back: int) -> None:
        """Recover to a moment some segments ago; a new timeline begins there."""
        entries = self.histories[self.timeline]
        lowest = entries[-1].switch_lsn // SIZE if entries else 10
        self.position = max(lowest, self.position - back)
        new = max(self.histories) + 1
        self.histories[new] = (*entries, wal.HistoryEntry(self.timeline, self.position * SIZE + 77))
        self.timeline = new

    def upgrade(self, low: bool) -> None:
        """A new cluster, with a new system identifier, back on timeline 1; it counts on, or from the beginning again."""
        self.system += 1
        self.timeline = 1
        self.position = 1 if low and not any(number < 10 for number in self.stored.get(1, {})) else 1 + self.highest()

    def highest(self) -> int:
        return max((number for stored in self.stored.values() for number in stored), default=10)

    def archive(self) -> Archive:
        return Archive(self.stored, {line: wal.ancestry(line, entries) for line, entries in self.histories.items()}, SIZE)


def lived(events: t.Sequence[tuple[t.Any, ...]], lost: t.Iterable[int] = ()) -> Life:
    life = Life()
    for name, *arguments in events:
        getattr(life, name)(*arguments)
    everything = sorted((line, number) for line, stored in life.stored.items() for number in stored)
    for place in lost:
        line, number = everything[place % len(everything)] if everything else (0, 0)
        life.stored.get(line, {}).pop(number, None)
    return life


# An oracle of its own: PostgreSQL's reading of an archive, segment by segment


def path(life: Life, backup: Backup, leaf: int, until: int) -> list[tuple[int, int]] | None:
    """What recovery from the backup reads on the way to a segment of a timeline; None when it cannot get there."""
    parts = wal.ancestry(leaf, life.histories[leaf])
    end = backup.start if backup.stop is None else backup.stop
    own = [part for part in parts if part.timeline == backup.timeline]
    if not own or end < own[0].begin or (own[0].end is not None and end > own[0].end):
        return None
    read = []
    for number in range(backup.start // SIZE, until + 1):
        covering = [p for p in parts if p.begin // SIZE <= number and (p.end is None or number <= (p.end - 1) // SIZE)]
        if not covering or number not in life.stored.get(covering[-1].timeline, {}):
            return None
        read.append((covering[-1].timeline, number))
    return read


def own_range(backup: Backup) -> range:
    stop = backup.stop if backup.stop is not None else backup.start + 1
    return range(backup.start // SIZE, (stop - 1) // SIZE + 1)


def good(life: Life, backup: Backup) -> bool:
    there = life.stored.get(backup.timeline, {})
    return backup.complete and not backup.failed and all(number in there for number in own_range(backup))


def reachable(life: Life, names: t.Container[str], since: datetime.datetime) -> set[tuple[int, int]]:
    """Segments written since then to which one of these backups leads, in the archive as it is."""
    found = set()
    for (line, number), written in life.written.items():
        if written < since or number not in life.stored.get(line, {}):
            continue
        for backup in life.backups:
            if backup.name not in names or not good(life, backup):
                continue
            read = path(life, backup, line, number)
            if read and (backup.system is None or all(life.owner[place] == int(backup.system) for place in read)):
                found.add((line, number))
                break
    return found


EVENTS = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 8), st.sampled_from([1, 6, 24]), st.sampled_from([0, 0, 0, 30])),
    st.tuples(st.just("write"), st.integers(1, 8), st.sampled_from([6, 24])),
    st.tuples(st.just("backup"), st.integers(1, 3), st.sampled_from(["good"] * 5 + ["plain", "aborted", "failed", "timeless"])),
    st.tuples(st.just("backup"), st.integers(1, 3), st.just("good")),
    st.tuples(st.just("restore"), st.integers(0, 12)),
    st.tuples(st.just("upgrade"), st.booleans()),
)
POLICIES = st.builds(
    lambda keep, least, wal_keep: Policy(keep * DAY, least, wal_keep * DAY, 2 * DAY),
    st.integers(1, 20),
    st.integers(1, 3),
    st.integers(1, 10),
)


@given(st.lists(EVENTS, min_size=3, max_size=30), POLICIES, st.lists(st.integers(0, 500), max_size=3), st.integers(0, 40))
@settings(max_examples=600, deadline=None)
def test_nothing_that_is_kept_loses_what_it_needs(
    events: list[tuple[t.Any, ...]], policy: Policy, lost: list[int], idle_days: int
) -> None:
    life = lived(events, lost)
    life.now += idle_days * DAY
    since = life.now - policy.wal_keep
    names = {backup.name for backup in life.backups}
    newest = max((b for b in life.backups if good(life, b)), key=lambda b: (b.made or life.now + DAY, b.start), default=None)
    before = {b.name for b in life.backups if good(life, b)}
    reached = reachable(life, names, since)
    found = decide(life.backups, life.archive(), policy, life.now)
    gone = {backup.name for backup in [*found.expired, *found.aborted]}
    assert gone | set(found.kept) == names and not gone & set(found.kept)
    if newest is None:
        assert not gone and not found.wal
        return
    assert newest.name in found.kept, "the newest good backup always stays"
    survivors = [b for b in life.backups if good(life, b) and b.name in found.kept]
    assert len(survivors) >= min(policy.keep_least, len(before))
    for line, numbers in found.wal.items():
        for number in numbers:
            assert life.stored[line].pop(number) < since
    event(f"expires backups: {bool(found.expired)}, WAL: {bool(found.wal)}, timelines: {min(3, len(life.histories))}")
    for backup in life.backups:
        if backup.name in found.kept and backup.name in before:
            assert good(life, backup), f"{backup} lost WAL that it needs"
    assert reachable(life, found.kept, since) == reached, "a moment of the days for which WAL is kept was lost"
    for expired in found.expired:
        for backup in survivors:
            if (backup.system, backup.timeline) == (expired.system, expired.timeline):
                assert expired.start <= backup.start, "out of order"


@given(st.lists(EVENTS, min_size=3, max_size=30), POLICIES)
@settings(max_examples=100, deadline=None)
def test_it_ends_in_one_run(events: list[tuple[t.Any, ...]], policy: Policy) -> None:
    life = lived(events)
    found = decide(life.backups, life.archive(), policy, life.now)
    life.backups = [backup for backup in life.backups if backup.name in found.kept]
    for line, numbers in found.wal.items():
        for number in numbers:
            del life.stored[line][number]
    again = decide(life.backups, life.archive(), policy, life.now)
    assert not again.expired and not again.aborted and not again.wal
    assert set(again.kept) == set(found.kept)


# Each rule by itself

POLICY = Policy(30 * DAY, 1, 7 * DAY, 2 * DAY)


def daily(days: int, **kinds: str) -> Life:
    """A backup a day and a segment every six hours."""
    life = Life()
    for day in range(days):
        life.backup(1, kinds.get(f"day{day}", "good"))
        life.write(4, 6)
    return life


def judge(life: Life, policy: Policy = POLICY) -> Decision:
    return decide(life.backups, life.archive(), policy, life.now)


def test_the_runbooks_schedule() -> None:
    life = daily(40)
    found = judge(life)
    ages = [(life.now - (backup.made or START)).days for backup in life.backups if backup.name in found.kept]
    assert max(ages) == 29 and len(ages) == len({(life.now - (b.made or START)).days for b in life.backups} & set(range(30)))
    whole = [n for n in life.stored[1] if n not in found.wal[1]]
    anchor = next(b for b in reversed(life.backups) if b.made and b.made <= life.now - 7 * DAY)
    recent = [number for number in whole if number >= anchor.start // SIZE]
    assert recent == list(range(anchor.start // SIZE, life.position)), "no gap in the days for which WAL is kept"
    older = {number for number in whole if number < anchor.start // SIZE}
    kept = [b for b in life.backups if b.name in found.kept and b.start < anchor.start]
    own = {number for backup in kept for number in own_range(backup)}
    assert older == own | {own_range(backup)[-1] + 1 for backup in kept}, "older ones keep their own WAL and one transaction more"


def test_seven_days_by_the_clock_alone_would_break_a_backup_of_yesterday_week() -> None:
    """What a lifecycle rule of seven days on wal/ does, and what is done here instead."""
    life = daily(20)
    since = life.now - 7 * DAY
    blind = {number for number, time in life.stored[1].items() if time < since}
    broken = [b for b in life.backups if set(own_range(b)) & blind]
    assert broken, "the rule of the runbook's table takes WAL from backups that are to be kept for 30 days"
    found = judge(life)
    assert not found.expired
    assert not {number for b in life.backups for number in own_range(b)} & set(found.wal[1])


def test_backups_that_stopped_do_not_expire_to_nothing() -> None:
    life = daily(5)
    life.now += 400 * DAY
    found = judge(life, dataclasses.replace(POLICY, keep_least=3))
    assert list(found.kept) == ["b002", "b003", "b004"]
    assert found.kept["b004"] == "one of the 3 newest good backups"
    assert all(number not in found.wal.get(1, []) for number in range(life.backups[4].start // SIZE, life.position))


def test_a_newest_backup_that_cannot_be_restored_is_not_the_one_that_stays() -> None:
    life = daily(5, day4="failed")
    life.now += 100 * DAY
    assert "b003" in judge(life).kept
    life = daily(5)
    del life.stored[1][life.backups[4].start // SIZE]
    life.now += 100 * DAY
    assert "b003" in judge(life).kept


def test_nothing_goes_while_nothing_can_be_restored() -> None:
    life = daily(3, day0="failed", day1="aborted", day2="failed")
    life.now += 100 * DAY
    found = judge(life)
    assert not found.expired and not found.aborted and not found.wal and len(found.kept) == 3
    assert "no base backup can be restored" in found.problems[0]
    assert judge(Life()).problems == []


def test_aborted_backups_go_when_they_are_old() -> None:
    life = daily(6, day1="aborted", day5="aborted")
    found = judge(life)
    assert [backup.name for backup in found.aborted] == ["b001"]
    assert "may still be made" in found.kept["b005"]


def test_an_abandoned_timeline_keeps_what_a_kept_backup_needs() -> None:
    """Names of another timeline are larger, numbers lower: neither may be compared alone."""
    life = daily(12)
    life.restore(20)
    for _day in range(12):
        life.backup(1, "good")
        life.write(4, 6)
    found = judge(life)
    assert not found.expired
    for backup in life.backups:
        assert not set(own_range(backup)) & set(found.wal.get(backup.timeline, []))
    assert found.wal[1] and found.wal[2]


def test_after_an_upgrade_the_new_cluster_takes_nothing_of_the_olds() -> None:
    life = Life(position=5000)
    for _day in range(10):
        life.backup(1, "good")
        life.write(4, 6)
    life.upgrade(low=True)
    assert life.position < 10
    for _day in range(9):
        life.backup(1, "good")
        life.write(1, 23)
    found = judge(life)
    assert not found.expired
    numbers = {number for backup in life.backups for number in own_range(backup)}
    assert not numbers & set(found.wal[1]) and max(found.wal[1]) > 4999
    life.now += 25 * DAY
    life.backup(1, "good")
    found = judge(life)
    assert {backup.system for backup in found.expired} == {"1", "2"}
    assert {number for number in life.stored[1] if number > 4999} <= set(found.wal[1]), "an old cluster is not kept for ever"


def test_a_history_that_is_missing_stops_wal_expiry() -> None:
    life = daily(10)
    life.restore(2)
    life.write(3, 6)
    del life.histories[2]
    found = judge(life)
    assert not found.wal and "00000002.history is missing" in found.problems[0]


@pytest.mark.parametrize(("change", "words"), [({"readable": False}, "index cannot be read"), ({"segment_size": 9}, "9 bytes")])
def test_a_backup_whose_needs_are_unknown_stops_wal_expiry(change: dict[str, t.Any], words: str) -> None:
    life = daily(10)
    life.backups[3] = dataclasses.replace(life.backups[3], **change)
    found = judge(life)
    assert not found.wal and words in found.problems[0]


def test_clocks_that_jump_expire_nothing_out_of_order() -> None:
    life = daily(12)
    life.backups[3] = dataclasses.replace(life.backups[3], made=START - 300 * DAY)
    found = judge(life)
    assert found.kept["b003"] == "made after b000, which stays"


def test_wal_is_kept_on_to_the_next_transaction() -> None:
    """Recovery to a time after the backup's end stops at the first later commit: without one it never ends."""
    life = daily(20)
    asked: list[int] = []

    def third(timeline: int, number: int) -> bool:
        asked.append(number)
        return number % 5 == 2

    found = decide(life.backups, life.archive(), POLICY, life.now, third)
    assert found.wal[1][:6] == [13, 14, 18, 19, 23, 24], "backups are at 10, 15, 20, and each has two segments more"
    assert asked[:4] == [11, 12, 16, 17]


def test_what_is_held_stays() -> None:
    life = daily(40)
    life.backups[0] = dataclasses.replace(life.backups[0], hold="for the auditors")
    assert judge(life).kept["b000"] == "for the auditors"
