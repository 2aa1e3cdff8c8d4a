# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""WAL positions, names, histories and the reader, on WAL of our own making (the integration tests use PostgreSQL's)."""

from __future__ import annotations

import datetime
import time

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import wal
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.plugins.module_utils.wal_builder import PAGE, SMALL, SYSTEM, Wal, usable

SIZES = st.sampled_from([1 << power for power in range(20, 31)])


@given(st.integers(0, (1 << 64) - 1))
def test_positions_read_back(lsn: int) -> None:
    assert wal.parse_lsn(wal.format_lsn(lsn)) == lsn


@pytest.mark.parametrize("text", ["", "0", "0/", "g/0", "0/0/0", "0/123456789"])
def test_what_is_no_position(text: str) -> None:
    with pytest.raises(InvalidOption):
        wal.parse_lsn(text)


@given(SIZES, st.integers(1, 0xFFFFFFFF), st.integers(0, (1 << 33) - 1))
def test_segment_names_read_back_and_follow_each_other(size: int, timeline: int, number: int) -> None:
    number %= (1 << 64) // size - 1
    name = wal.segment_name(timeline, number, size)
    assert wal.split_segment_name(name, size) == (timeline, number)
    assert wal.split_segment_name(wal.next_segment_name(name, size), size) == (timeline, number + 1)
    assert wal.next_segment_name(name, size) > name


def test_names_as_postgresql_prints_them() -> None:
    assert wal.segment_name(1, 0xFF) == "0000000100000000000000FF"
    assert wal.next_segment_name("0000000100000000000000FF") == "000000010000000100000000"
    assert wal.next_segment_name("000000010000000000000003", 1 << 30) == "000000010000000100000000"
    with pytest.raises(InvalidOption):
        wal.split_segment_name("000000010000000000000004", 1 << 30)
    with pytest.raises(InvalidOption):
        wal.split_segment_name("00000001000000000000000g")
    assert (wal.last_segment_number(0x3000000), wal.last_segment_number(0x3000001)) == (2, 3)


def test_histories() -> None:
    text = "1\t0/3000000\tno recovery target specified\n\n# a comment\n2\t0/5000060\tbefore 2026-11-23 14:05:00+00\n"
    entries = wal.parse_history(text, 3)
    assert [(entry.timeline, entry.switch_lsn) for entry in entries] == [(1, 0x3000000), (2, 0x5000060)]
    parts = wal.ancestry(3, entries)
    assert [(part.timeline, part.begin, part.end) for part in parts] == [
        (1, 0, 0x3000000),
        (2, 0x3000000, 0x5000060),
        (3, 0x5000060, None),
    ]
    assert wal.ancestry(1) == (wal.TimelinePart(1, 0, None),)
    for wrong in ("one\t0/1\tx", "1", "2\t0/5\tx\n1\t0/6\tx", "1\t0/6\tx\n2\t0/5\tx", "3\t0/5\tx"):
        with pytest.raises(IntegrityError):
            wal.parse_history(wrong, 3)


@given(st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2200, 1, 1)))
def test_times_are_exact(value: datetime.datetime) -> None:
    value = value.replace(tzinfo=datetime.timezone.utc)
    assert wal.record_time(wal.record_microseconds(value)) == value


RECORD = st.one_of(
    st.tuples(st.just("filler"), st.integers(24, 30_000)),
    st.tuples(st.just("filler"), st.just(usable(SMALL) + 5000)),
    st.tuples(st.sampled_from(["commit", "abort", "prepared"]), st.integers(0, 20_000)),
    st.tuples(st.just("other"), st.just(0)),
    st.tuples(st.just("near the end"), st.integers(0, 12)),
    st.tuples(st.just("switch"), st.just(0)),
)


def build(plan: list[tuple[str, int]]) -> Wal:
    made = Wal()
    for count, (kind, number) in enumerate(plan):
        if kind == "filler":
            made.filler(number)
        elif kind == "other":
            made.record(1, 0x10, b"\0" * 8)  # a transaction is prepared: not an end
            made.record(0, 0x70, b"point in time")
        elif kind == "near the end":
            made.fill(left=8 * number)
        elif kind == "switch":
            made.switch()
        else:
            info = {"commit": 0x80, "abort": 0x20, "prepared": 0x30}[kind]
            made.transaction(1_000_000 + count, info, length=number or None, xid=count, origin=bool(count % 3))
    made.fill()
    return made


@given(st.lists(RECORD, max_size=25))
@settings(max_examples=150, deadline=None)
@example([("near the end", 3), ("commit", 0), ("filler", 100)])
@example([("near the end", 1), ("commit", 0), ("filler", 100)])
@example([("near the end", 5), ("commit", 15000), ("filler", 100)])
@example([("near the end", 0), ("commit", 0)])
def test_the_reader_finds_what_was_written(plan: list[tuple[str, int]]) -> None:
    """Whole, and segment by segment with the records that two segments share."""
    made = build(plan)
    wanted = [tuple(vars(item).values()) for item in made.transactions]
    reader = wal.WalReader()
    scans = []
    for number in made.complete:
        data = made.segment(number)
        reader.feed(data)
        scans.append(wal.scan_segment(data))
        assert wal.scan_segment([data[:PAGE], data[PAGE : 5 * PAGE], data[5 * PAGE :]]) == scans[-1]
    assert [tuple(item) for item in reader.transactions] == wanted
    assert not reader.ended and all(scan.complete for scan in scans)
    alone = [item for scan in scans for item in scan.transactions]
    split = [wal.split_transaction(before, after) for before, after in zip(scans, scans[1:], strict=False)]
    longer = [item for item in wanted if item[2] - item[1] > SMALL]
    assert sorted(map(tuple, [*alone, *filter(None, split)]), key=lambda item: item[1]) == [x for x in wanted if x not in longer]


@given(st.lists(RECORD, min_size=1, max_size=12), st.integers(1, SMALL // PAGE - 1), st.sampled_from(["zero", "recycled"]))
@settings(max_examples=100, deadline=None)
def test_valid_wal_ends_where_pages_do(plan: list[tuple[str, int]], page: int, tail: str) -> None:
    """A segment whose later pages were never written (or hold what an older segment held) ends with its last whole record."""
    made = build(plan)
    old = Wal(first=0)
    old.fill()
    data, cut = made.segment(1), page * PAGE
    rest = bytes(SMALL - cut) if tail == "zero" else old.segment(0)[cut:]
    scan = wal.scan_segment(data[:cut] + rest)
    limit = SMALL + cut
    if not scan.complete:  # else a switch record came first
        assert [tuple(item) for item in scan.transactions] == [
            tuple(vars(item).values()) for item in made.transactions if item.end_lsn <= limit
        ]
        assert scan.end_lsn <= limit


def test_a_broken_chain_is_the_end() -> None:
    made = Wal()
    first = made.transaction(1)
    made.transaction(2)
    made.fill()
    data = bytearray(made.segment(1))
    data[first.end_lsn - SMALL + 8] ^= 1  # xl_prev of the second
    scan = wal.scan_segment(bytes(data))
    assert [item.time for item in scan.transactions] == [1] and not scan.complete and scan.end_lsn == first.end_lsn


def test_an_aborted_record_is_overwritten() -> None:
    """After a crash in the middle of a record, the next page says that what was begun does not count."""
    made = Wal()
    first = made.transaction(1)
    begin = made.lsn
    made.filler(3 * PAGE)
    made.transaction(2)
    made.fill()
    data = bytearray(made.segment(1))
    after = Wal(first=1)
    after.stream = bytearray(b"\0" * (PAGE - 40))  # records from the second page on
    after.previous = first.lsn
    after.record(0, 0xD0, b"\0" * 16)
    wanted = after.transaction(3)
    data[PAGE : 2 * PAGE] = after.segment(1)[PAGE : 2 * PAGE]
    data[PAGE + 2 : PAGE + 4] = b"\x08\x00"
    assert begin < SMALL + PAGE
    scan = wal.scan_segment(bytes(data))
    assert [item.time for item in scan.transactions] == [1, 3] and scan.transactions[1].lsn == wanted.lsn


def test_headers() -> None:
    made = Wal()
    made.fill()
    data = made.segment(1)
    header = wal.read_header(data[:40])
    assert (header.system_identifier, header.segment_size, header.start_lsn, header.timeline) == (str(SYSTEM), SMALL, SMALL, 1)
    assert header.major_version == 15
    for wrong in (
        b"",
        data[:39],
        bytes(40),
        data[:1] + b"\x00" + data[2:40],
        data[:2] + b"\0\0" + data[4:40],
        data[:36] + b"\0\x40\0\0",
    ):
        with pytest.raises(IntegrityError):
            wal.read_header(wrong)
    with pytest.raises(IntegrityError):
        wal.scan_segment(data[:-1])
    with pytest.raises(IntegrityError):
        wal.scan_segment([])


def test_ends_of_base_backups_are_noticed() -> None:
    made = Wal()
    made.record(0, 0x50, (0x2000028).to_bytes(8, "little"))
    end = made.lsn
    made.fill()
    assert wal.scan_segment(made.segment(1)).backup_ends == ((0x2000028, end),)


def test_a_full_segment_is_read_in_time() -> None:
    """16 MiB of the smallest common records, 170,000 of them, a sixth of them commits."""
    made = Wal(size=wal.DEFAULT_SEGMENT_SIZE)
    while len(made.stream) < usable(made.size) - 1000:
        for _number in range(5):
            made.filler(92)
        made.transaction(len(made.stream), length=46)
    made.fill()
    data = made.segment(1)
    begin = time.process_time()
    scan = wal.scan_segment(data)
    assert time.process_time() - begin < 1.5
    assert len(scan.transactions) == len(made.transactions) > 25_000 and scan.complete
