# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a bucket can be restored to: properties against a plain reading of the rules, and every refusal."""

from __future__ import annotations

import datetime
import gzip
import io
import tarfile
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup.base_backups import find_backup_label
from ansible_collections.fileforge.ops.plugins.module_utils._backup.catalog import Catalog, RecoveryPlan, plan_recovery
from ansible_collections.fileforge.ops.plugins.module_utils._backup.report import Limits, Report
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, InvalidOption, OpsError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import wal
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.plugins.module_utils.wal_builder import SMALL, Place, Wal

START = datetime.datetime(2026, 11, 23, 14, 0, tzinfo=datetime.timezone.utc)
SECOND = 1_000_000


def at(seconds: float) -> datetime.datetime:
    return START + datetime.timedelta(seconds=seconds)


def micro(seconds: float) -> int:
    return wal.record_microseconds(at(seconds))


def written(times: t.Sequence[t.Sequence[float]], made: Wal | None = None) -> Wal:
    """One segment for each list of commit times."""
    made = made or Wal()
    for each in times:
        for time in each:
            made.filler(5000)
            made.transaction(micro(time))
        made.fill()
    return made


def place_of(made: Wal, *backups: tuple[str, int, int, float], without: t.Container[int] = ()) -> Place:
    """A bucket with the WAL, less some segments, and backups (name, start LSN, stop LSN, stopped)."""
    place = Place()
    place.add_wal({made.name(number): made.segment(number) for number in made.complete if number not in without})
    for name, start, stop, stopped in backups:
        place.add_backup(name, start, stop, at(stopped))
    return place


def load(place: Place) -> Catalog:
    return Catalog.load(t.cast("t.Any", place))


def plan(place: Place, seconds: float | None, **options: t.Any) -> RecoveryPlan:
    return plan_recovery(load(place), None if seconds is None else at(seconds), **options)


def refusal(place: Place, seconds: float | None, **options: t.Any) -> Refused:
    with pytest.raises(Refused) as caught:
        plan(place, seconds, **options)
    return caught.value


FIRST = SMALL + 40
SIMPLE = [[1, 2], [3, 4], [5, 6], [7, 8]]


def simple(**options: t.Any) -> Place:
    return place_of(written(SIMPLE), ("2026-11-23-1400", FIRST, FIRST + 100, 0.5), **options)


# Properties

TIMES = st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=9)


@given(TIMES, st.sets(st.integers(1, 9), max_size=2), st.integers(-1, 60), st.lists(st.integers(1, 9), max_size=3))
@settings(max_examples=250, deadline=None)
def test_the_plan_ends_where_postgresql_stops(steps: list[list[int]], without: set[int], target: int, begins: list[int]) -> None:
    """Against the rule itself, read plainly over all records in order."""
    clock, times = 0, []
    for each in steps:
        row = []
        for step in each:
            clock += step
            row.append(clock)
        times.append(row)
    made = written(times)
    count = len(steps)
    backups = []
    for begin in sorted({min(begin, count) for begin in begins} | {1}):
        first = next((item for item in made.transactions if item.lsn >= begin * SMALL), None)
        stopped = (first.time - micro(0)) / SECOND - 0.5 if first is not None else clock + 0.5
        backups.append((f"2026-11-23-14{begin:02d}", begin * SMALL + 40, begin * SMALL + 140, stopped))
    place = place_of(made, *backups, without=without)
    present = [number for number in made.complete if number not in without]
    usable = [backup for backup in backups if backup[3] < target]
    wanted = usable[-1] if usable else None
    end = None
    if wanted is not None:
        stop = next((x for x in made.transactions if x.time > micro(target) and x.lsn >= wanted[1]), None)
        if stop is not None:
            needed = range(wanted[1] // SMALL, (stop.end_lsn - 1) // SMALL + 1)
            end = needed if all(number in present for number in needed) else None
    try:
        found = plan(place, target)
    except Refused as error:
        assert end is None
        assert error.state["reason"] in ("target_before_backups", "target_unreachable", "wal_gap")
        assert (error.state["reason"] == "target_before_backups") == (wanted is None)
        latest = error.state.get("latest_reachable_time")
        if latest is not None and wanted is not None and datetime.datetime.fromisoformat(latest) > at(wanted[3]):
            reached = plan_recovery(load(place), datetime.datetime.fromisoformat(latest))
            assert reached.target_time is not None
        return
    assert wanted is not None and end is not None
    assert found.backup.name == wanted[0]
    assert found.segment_names == [made.name(number) for number in end]
    assert found.end_lsn == stop.lsn and found.stop_time == wal.record_time(stop.time)


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=3, max_size=12),
    st.integers(1, 20),
    st.lists(st.integers(-1, 1), min_size=40, max_size=40),
)
@settings(max_examples=40, deadline=None)
def test_later_wal_changes_no_plan(steps: list[list[int]], target: int, jitter: list[int]) -> None:
    """Also when neighbouring transactions enter the WAL in another order than their clocks say."""
    clock, times, skews = 0, [], iter(jitter)
    for each in steps:
        row = []
        for step in each:
            clock += step
            row.append(max(0.75, clock + next(skews) * 0.5))
        times.append(row)
    made = written(times)
    plans = []
    for count in range(1, len(steps) + 1):
        place = place_of(made, ("2026-11-23-1400", FIRST, FIRST + 100, 0.5), without=range(1 + count, 99))
        try:
            found = plan(place, target)
        except Refused:
            assert not plans, "a plan that was possible must stay possible"
            continue
        plans.append((found.segment_names, found.end_lsn, found.stop_time, found.last_transaction))
    assert len({repr(item) for item in plans}) <= 1


@given(st.sets(st.integers(1, 40), min_size=1))
@settings(max_examples=60, deadline=None)
def test_ranges_and_gaps_divide_what_is_there(numbers: set[int]) -> None:
    place = Place({f"wal/{wal.segment_name(1, number)}.gz": b"" for number in numbers})
    store = load(place).wal
    seen: set[int] = set()
    for item in store.ranges(1):
        first, last = (wal.split_segment_name(name)[1] for name in (item.first, item.last))
        assert item.count == last - first + 1
        seen.update(range(first, last + 1))
    assert seen == numbers
    missing: set[int] = set()
    for gap in store.gaps(1):
        first, last = (wal.split_segment_name(name)[1] for name in (gap.first_missing, gap.last_missing))
        assert gap.count == last - first + 1
        missing.update(range(first, last + 1))
    assert missing == set(range(min(numbers), max(numbers) + 1)) - numbers


# Targets


def test_only_needed_segments_are_read() -> None:
    made = written([[number] for number in range(1, 65)])
    place = place_of(made, ("2026-11-23-1400", FIRST, FIRST + 100, 0.5))
    found = plan(place, 40.5)
    assert found.stop_time == at(41) and found.last_transaction == at(40) and len(found.segments) == 41
    whole = {key for key in place.reads if key.startswith("wal/")}
    assert len(whole) < 20


def test_a_transaction_split_between_segments_counts_where_it_ends() -> None:
    made = Wal()
    made.transaction(micro(1))
    made.fill(left=16)
    made.transaction(micro(5))
    made.fill()
    place = place_of(made, ("2026-11-23-1400", FIRST, FIRST + 40, 0.5))
    found = plan(place, 3)
    assert len(found.segments) == 2 and found.end_lsn == made.transactions[1].lsn
    only = place_of(made, ("2026-11-23-1400", FIRST, FIRST + 40, 0.5), without=[2])
    assert refusal(only, 3).state["reason"] == "target_unreachable"


def test_the_target_itself_is_included() -> None:
    found = plan(simple(), 4)
    assert found.stop_time == at(5) and found.last_transaction == at(4)
    assert refusal(simple(), 8).state["latest_reachable_time"] == "2026-11-23T14:00:07.999999+00:00"
    assert plan(simple(), 7.999999).stop_time == at(8)


def test_everything() -> None:
    found = plan(simple(), None)
    assert len(found.segments) == 4 and found.stop_reason == "end_of_wal" and found.last_transaction == at(8)
    assert found.end_lsn == 5 * SMALL


def test_long_silence_is_searched_through() -> None:
    times: list[list[float]] = [[1], *([[]] * 20), [9], *([[]] * 9)]
    place = place_of(written(times), ("2026-11-23-1400", FIRST, FIRST + 100, 0.5))
    assert len(plan(place, 5).segments) == 22
    assert refusal(place, 9).state["reason"] == "target_unreachable"


def test_wal_as_plain_files_and_below_a_prefix() -> None:
    made = written(SIMPLE)
    place = Place({f"db1/wal/{name}": data for name, data in made.segments().items()})
    place.add_backup("2026-11-23-1400", FIRST, FIRST + 100, at(0.5), prefix="db1/")
    found = plan_recovery(Catalog.load(t.cast("t.Any", place), "db1/"), at(5.5))
    assert found.segment_names == [made.name(number) for number in (1, 2, 3)]
    place.objects[f"db1/wal/{made.name(2)}"] = b"cut"
    with pytest.raises(Refused) as caught:
        plan_recovery(Catalog.load(t.cast("t.Any", place), "db1/"), at(5.5))
    assert caught.value.state["segment"] == made.name(2)


# Refusals


def test_refusals() -> None:
    assert refusal(Place(), 5).state["reason"] == "no_backups"
    before = refusal(simple(), 0.5)
    assert before.state["reason"] == "target_before_backups"
    assert before.state["earliest_reachable_time"] == "2026-11-23T14:00:00.500000+00:00"
    assert refusal(simple(), 5, backup="2020-01-01-0000").state["reason"] == "backup_unknown"
    gap = refusal(simple(without=[2]), 5.5)
    assert gap.state["reason"] == "wal_gap" and gap.state["segment"] == wal.segment_name(1, 2, SMALL)
    assert gap.state["segment"] in gap.message and gap.state["latest_reachable_time"] == "2026-11-23T14:00:01.999999+00:00"
    assert plan(simple(without=[4]), 5.5).stop_time == at(6)  # a gap behind what is needed does not matter
    assert refusal(simple(without=[2]), 99).state["reason"] == "target_unreachable"
    assert refusal(simple(without=[2]), None).state["reason"] == "wal_gap"
    assert refusal(simple(without=[1]), 1.5).state["segment"] == wal.segment_name(1, 1, SMALL)
    assert refusal(simple(), 5, target_timeline=7).state["reason"] == "timeline_unknown"
    with pytest.raises(InvalidOption):
        plan(simple(), 5, target_timeline="newest")


def test_marked_without_index_is_refused_and_passed_over() -> None:
    place = simple()
    index = place.objects.pop("base/2026-11-23-1400_base.index.json.gz")
    assert refusal(place, 5).state["reason"] == "index_missing"
    assert refusal(place, 5, backup="2026-11-23-1400").state["reason"] == "index_missing"
    place.objects["base/2026-11-23-1401_base.tar.gz"] = b""
    place.metadata["base/2026-11-23-1401_base.tar.gz"] = {"fileforge-format": "1"}
    place.objects["base/2026-11-23-1400_base.index.json.gz"] = index
    assert plan(place, 5).backup.name == "2026-11-23-1400"
    place.objects["base/2026-11-23-1400_base.index.json.gz"] = index[:-9]
    with pytest.raises(IntegrityError, match="2026-11-23-1400_base"):
        plan(place, 5)


def test_wal_of_another_cluster_is_refused() -> None:
    made = written(SIMPLE)
    place = place_of(made)
    place.add_backup("2026-11-23-1400", FIRST, FIRST + 100, at(0.5), system=1)
    assert refusal(place, 5).state["reason"] == "wal_foreign"
    place = simple()
    other = written(SIMPLE, Wal(system=2))
    place.add_wal({other.name(3): other.segment(3)})
    assert refusal(place, 5.5).state["segment"] == made.name(3)
    place = place_of(made)
    place.add_backup("2026-11-23-1400", FIRST, FIRST + 100, at(0.5), size=1 << 24)
    assert refusal(place, 5).state["reason"] == "wal_foreign"


def test_damaged_wal_is_named() -> None:
    made = written(SIMPLE)
    place = simple()
    key = f"wal/{made.name(3)}.gz"
    whole = place.objects[key]
    for wrong in (whole[:-20], gzip.compress(b"short"), gzip.compress(made.segment(2)), gzip.compress(bytes(SMALL))):
        place.objects[key] = wrong
        with pytest.raises(IntegrityError, match=made.name(3)):
            plan(place, 5.5)
    place.objects[key] = gzip.compress(made.segment(3)[: SMALL // 2] + bytes(SMALL // 2))
    with pytest.raises(IntegrityError, match="valid WAL ends inside"):
        plan(place, 5.5)


# Timelines


def branched() -> tuple[Place, Wal, Wal]:
    """Timeline 2 leaves timeline 1 in its third segment, after 5 s; both go on."""
    trunk = written([[1, 2], [3, 4]])
    trunk.filler(5000)
    trunk.transaction(micro(5))
    child = trunk.branch(2)
    written([[6.5], [7.5], [8.5]], child)
    parent = trunk
    written([[6], [7], [8], [9], [10]], parent)
    place = place_of(parent, ("2026-11-23-1400", FIRST, FIRST + 100, 0.5))
    place.add_wal({name: data for name, data in child.segments().items() if name.startswith("00000002")})
    place.objects["wal/00000002.history"] = f"1\t{wal.format_lsn(child.timelines[1][0])}\tno target\n".encode()
    return place, parent, child


def test_timelines() -> None:
    place, parent, child = branched()
    newest = plan(place, 7)
    assert newest.timeline == 2 and newest.stop_time == at(7.5) and newest.histories == ("00000002.history",)
    assert newest.segment_names == [child.name(number) for number in (1, 2, 3, 4)]
    assert newest.segment_names[2].startswith("00000002")  # at the branch, the child's copy
    old = plan(place, 7.75, target_timeline=1)
    assert old.timeline == 1 and old.stop_time == at(8) and old.segment_names[-1] == parent.name(5)
    assert plan(place, 7.75, target_timeline="current").segment_names == old.segment_names
    assert plan(place, None).end_lsn == 6 * SMALL
    place.add_backup("2026-11-23-1409", 6 * SMALL + 40, 6 * SMALL + 140, at(8.75), timeline=1)
    assert plan(place, 9.5, target_timeline=1).backup.name == "2026-11-23-1409"
    assert plan(place, 7, target_timeline=2).backup.name == "2026-11-23-1400"  # the newer one is no ancestor
    assert refusal(place, 9.5, target_timeline=2, backup="2026-11-23-1409").state["reason"] == "timeline_unknown"


def test_a_branch_whose_first_segment_is_missing() -> None:
    place, _parent, child = branched()
    del place.objects[f"wal/{child.name(3)}.gz"]
    gap = refusal(place, 7)
    assert gap.state["reason"] == "wal_gap" and gap.state["segment"] == child.name(3)
    assert refusal(place, None).state["segment"] == child.name(3)
    assert plan(place, 4.5).stop_time == at(5)  # before the branch the parent's copy is as good
    assert refusal(place, 5).state["reason"] == "wal_gap"  # but what the parent wrote behind it does not count
    assert plan(place, 5, target_timeline=1).stop_time == at(6)


def test_a_branch_without_history_is_passed_over() -> None:
    place = branched()[0]
    del place.objects["wal/00000002.history"]
    found = plan(place, 7.75)
    assert found.timeline == 1 and "history file is missing" in found.warnings[0]
    assert refusal(place, 7, target_timeline=2).state["reason"] == "timeline_unknown"


def test_restorable() -> None:
    place = branched()[0]
    found = {item.timeline: item for item in load(place).restorable()}
    assert found[1].begin == at(0.5) and found[1].end == at(10) - datetime.timedelta(microseconds=1)
    assert found[2].end == at(8.5) - datetime.timedelta(microseconds=1)
    gapped = simple(without=[2])
    gapped.add_backup("2026-11-23-1403", 3 * SMALL + 40, 3 * SMALL + 100, at(4.5))
    assert [(item.begin, item.backup) for item in load(gapped).restorable()] == [
        (at(0.5), "2026-11-23-1400"),
        (at(4.5), "2026-11-23-1403"),
    ]


# The plain form

LABEL = """START WAL LOCATION: {start} (file {segment})
CHECKPOINT LOCATION: 0/100060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-23 14:00:00 UTC
LABEL: by hand
START TIMELINE: 1
"""


def tarball(*files: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def plain(*, history: bool, end_record: bool = True, label: bool = True) -> Place:
    made = Wal()
    made.transaction(micro(0.25))
    start = made.lsn
    made.filler(SMALL)
    if end_record:
        made.record(0, 0x50, start.to_bytes(8, "little"))
    stop = made.lsn
    written([[1, 2], [3, 4]], made)
    place = place_of(made)
    text = LABEL.format(start=wal.format_lsn(start), segment=made.name(1))
    files = [("main/base/1/1", b"x" * 100_000)]
    files += [("main/backup_label", text.encode())] if label else []
    place.objects["base/2026-11-23-1400_base.tar.gz"] = tarball(*files)
    if history:
        more = f"STOP WAL LOCATION: {wal.format_lsn(stop)} (file {made.name(2)})\nSTOP TIME: 2026-11-23 14:00:00 UTC\n"
        place.objects[f"wal/{made.name(1)}.{start % SMALL:08X}.backup.gz"] = gzip.compress((text + more).encode())
    return place


@pytest.mark.parametrize("history", [True, False])
def test_a_plain_archive_is_used_with_a_warning(history: bool) -> None:
    found = plan(plain(history=history), 2.5)
    assert found.backup.plain and found.stop_time == at(3) and "plain archive" in found.warnings[0]
    assert len(found.segments) == 3 and found.stop_lsn > SMALL
    assert found.backup.facts().source == ("history" if history else "backup_label")


def test_a_plain_archive_that_cannot_become_consistent() -> None:
    assert refusal(plain(history=False, end_record=False), 2.5).state["reason"] == "wal_gap"
    assert refusal(plain(history=False), -0.1).state["reason"] == "target_before_backups"
    assert refusal(plain(history=False, label=False), 2.5).state["reason"] == "backup_label_missing"


def test_labels_are_found_wherever_they_are() -> None:
    packed = tarball(("a", b"x" * 300_000), ("./backup_label", b"START"), ("b", b"y"))
    for size in (1, 100, len(packed)):
        pieces = iter([packed[begin : begin + size] for begin in range(0, len(packed), size)])
        assert find_backup_label(pieces) == "START"
    assert find_backup_label(iter([tarball(("a", b"x"))])) is None
    two = gzip.compress(gzip.decompress(packed)[:1000]) + gzip.compress(gzip.decompress(packed)[1000:])
    assert find_backup_label(iter([two])) == "START"
    with pytest.raises(OpsError):
        find_backup_label(iter([b"no archive at all, but long enough to be one" * 30]))


# Checks


def checks(place: Place, now: float, **limits: t.Any) -> dict[str, t.Any]:
    report = Report(load(place), Limits(**{"rpo": 60, "max_backup_age": 1000, "max_verified_age": 0, **limits}), at(now))
    return {check.id: check for check in report.checks()}


def test_checks() -> None:
    good = checks(simple(), 10, target_time=at(5))
    assert {check.status for check in good.values()} == {"ok"}
    assert good["backup.rpo"].value == 2.0
    late = checks(simple(), 2000, target_time=at(100))
    assert {name: check.status for name, check in late.items()} == {
        "backup.age": "critical",
        "backup.complete": "ok",
        "backup.size": "ok",
        "backup.wal_contiguous": "ok",
        "backup.rpo": "critical",
        "backup.target_reachable": "critical",
    }
    assert "the database was idle" in late["backup.rpo"].summary and late["backup.rpo"].value == 1992.0
    gap = checks(simple(without=[2]), 10)
    assert gap["backup.wal_contiguous"].status == "critical" and gap["backup.wal_contiguous"].value == wal.segment_name(1, 2, SMALL)
    assert gap["backup.rpo"].value == 8.0  # what lies behind the gap cannot be restored
    nothing = checks(Place(), 10, min_size=0)
    assert {check.status for check in nothing.values()} == {"critical"}
    older = simple(without=[2])
    older.add_backup("2026-11-23-1403", 3 * SMALL + 40, 3 * SMALL + 100, at(4.5))
    assert checks(older, 10)["backup.wal_contiguous"].status == "warning"


def test_an_unfinished_backup_is_a_warning() -> None:
    place = simple()
    place.objects["base/2026-11-23-1401_base.tar.gz"] = b""
    place.metadata["base/2026-11-23-1401_base.tar.gz"] = {"fileforge-format": "1"}
    found = checks(place, 10)
    assert found["backup.complete"].status == "warning" and "2026-11-23-1401" in found["backup.complete"].summary
    assert found["backup.age"].status == "ok"


def test_damaged_newest_wal_is_no_ok() -> None:
    place = simple()
    place.objects[f"wal/{wal.segment_name(1, 4, SMALL)}.gz"] = b"damaged"
    assert checks(place, 10)["backup.rpo"].status == "unknown"
