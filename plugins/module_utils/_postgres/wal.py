# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The write-ahead log as files: positions, segment names, timeline histories, and a reader. PRIVATE to the collection.

The reader walks the records of segments and reports transactions that ended (commit, abort, and both for prepared ones): the
records that PostgreSQL compares with a recovery target time. It reads record headers only, follows page addresses, lengths and the
``xl_prev`` chain to know where valid WAL ends, and does not compute record checksums.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import struct
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, InvalidOption

DEFAULT_SEGMENT_SIZE = 16 * 1024 * 1024
PAGE_SIZE = 8192
"""XLOG_BLCKSZ of every packaged build; a segment that says otherwise is refused."""

SEGMENT_NAME = re.compile(r"[0-9A-F]{24}\Z")
HISTORY_NAME = re.compile(r"(?P<timeline>[0-9A-F]{8})\.history\Z")
BACKUP_HISTORY_NAME = re.compile(r"(?P<segment>[0-9A-F]{24})\.(?P<offset>[0-9A-F]{8})\.backup\Z")
PARTIAL_NAME = re.compile(r"(?P<segment>[0-9A-F]{24})\.partial\Z")

_EPOCH = datetime.datetime(2000, 1, 1, tzinfo=datetime.timezone.utc)
_LSN = re.compile(r"(?P<high>[0-9A-Fa-f]{1,8})/(?P<low>[0-9A-Fa-f]{1,8})\Z")


# Positions and names


def parse_lsn(text: str) -> int:
    """``0/3000028`` as a number of bytes. Raises InvalidOption."""
    match = _LSN.match(text.strip())
    if match is None:
        raise InvalidOption("lsn", text, "not a WAL position", hint="use the form 0/3000028")
    return (int(match["high"], 16) << 32) | int(match["low"], 16)


def format_lsn(lsn: int) -> str:
    """The form PostgreSQL prints: ``0/3000028``."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def valid_segment_size(size: int) -> bool:
    """Whether PostgreSQL could have been initialised with it: a power of two from 1 MiB to 1 GiB."""
    return 1 << 20 <= size <= 1 << 30 and size & (size - 1) == 0


def segment_number(lsn: int, size: int = DEFAULT_SEGMENT_SIZE) -> int:
    """The number of the segment that holds the byte at ``lsn``."""
    return lsn // size


def last_segment_number(end_lsn: int, size: int = DEFAULT_SEGMENT_SIZE) -> int:
    """The number of the last segment needed for WAL up to, not including, ``end_lsn``."""
    return max(0, end_lsn - 1) // size


def segment_name(timeline: int, number: int, size: int = DEFAULT_SEGMENT_SIZE) -> str:
    """``000000010000000000000003``."""
    high, low = divmod(number, (1 << 32) // size)
    return f"{timeline:08X}{high:08X}{low:08X}"


def split_segment_name(name: str, size: int = DEFAULT_SEGMENT_SIZE) -> tuple[int, int]:
    """Timeline and number of a segment. Raises InvalidOption for a name that cannot exist with this segment size."""
    if not SEGMENT_NAME.match(name):
        raise InvalidOption("segment", name, "not the name of a WAL segment")
    timeline, high, low = (int(name[begin : begin + 8], 16) for begin in (0, 8, 16))
    per_high = (1 << 32) // size
    if low >= per_high:
        raise InvalidOption("segment", name, f"cannot exist with segments of {size} bytes")
    return timeline, high * per_high + low


def next_segment_name(name: str, size: int = DEFAULT_SEGMENT_SIZE) -> str:
    """The segment that follows on the same timeline."""
    timeline, number = split_segment_name(name, size)
    return segment_name(timeline, number + 1, size)


def history_name(timeline: int) -> str:
    """``00000002.history``."""
    return f"{timeline:08X}.history"


# Timelines


@dataclasses.dataclass(frozen=True)
class HistoryEntry:
    """One line of a history file: the ancestor ``timeline`` was left at ``switch_lsn``."""

    timeline: int
    switch_lsn: int
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class TimelinePart:
    """A stretch of one timeline in the history of another; ``end`` is None for the timeline itself."""

    timeline: int
    begin: int
    end: int | None


def parse_history(text: str, timeline: int) -> tuple[HistoryEntry, ...]:
    """The content of ``<timeline>.history``, oldest ancestor first. Raises IntegrityError."""
    entries: list[HistoryEntry] = []
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        fields = line.split(None, 2)
        match = _LSN.match(fields[1]) if len(fields) > 1 else None
        if not fields[0].isdigit() or match is None:
            raise IntegrityError(f"{history_name(timeline)}: cannot read the line {line!r}")
        entry = HistoryEntry(int(fields[0]), parse_lsn(fields[1]), fields[2] if len(fields) > 2 else "")
        if entries and (entry.timeline <= entries[-1].timeline or entry.switch_lsn < entries[-1].switch_lsn):
            raise IntegrityError(f"{history_name(timeline)}: timelines are not in order")
        entries.append(entry)
    if entries and entries[-1].timeline >= timeline:
        raise IntegrityError(f"{history_name(timeline)}: names timeline {entries[-1].timeline} as an ancestor")
    return tuple(entries)


def ancestry(timeline: int, entries: t.Sequence[HistoryEntry] = ()) -> tuple[TimelinePart, ...]:
    """The stretches of WAL that lead to ``timeline``, oldest first, from its parsed history."""
    parts = []
    begin = 0
    for entry in entries:
        parts.append(TimelinePart(entry.timeline, begin, entry.switch_lsn))
        begin = entry.switch_lsn
    return (*parts, TimelinePart(timeline, begin, None))


# Records

COMMIT, ABORT = "commit", "abort"
_KINDS = {0x00: COMMIT, 0x20: ABORT, 0x30: "commit_prepared", 0x40: "abort_prepared"}
_RM_XLOG, _RM_XACT = 0, 1
_XLOG_SWITCH, _XLOG_BACKUP_END = 0x40, 0x50
_CONTINUES, _LONG, _OVERWRITES = 0x1, 0x2, 0x8
_SHORT_HEADER, _LONG_HEADER, _RECORD_HEADER = 24, 40, 24
_HEAD = 48
"""Bytes of a transaction record that are sure to hold its time: header 24, origin 3, top-level xid 5, data length 5, time 8."""
_PAGE = struct.Struct("<HHIQI")
_LONG_PART = struct.Struct("<QII")
_RECORD = struct.Struct("<IIQBB")
_NUMBER = struct.Struct("<q")
_LENGTH = struct.Struct("<I")
_MAJORS = {0xD101: 12, 0xD106: 13, 0xD10D: 14, 0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18}


class Transaction(t.NamedTuple):
    """A transaction that ended. ``lsn`` is where its record begins; it is readable when WAL up to ``end_lsn`` is there."""

    time: int
    """Microseconds since 2000-01-01 UTC, as PostgreSQL stores it; see ``record_time``."""
    lsn: int
    end_lsn: int
    kind: str
    xid: int


def record_time(microseconds: int) -> datetime.datetime:
    """A record's time as UTC."""
    return _EPOCH + datetime.timedelta(microseconds=microseconds)


def record_microseconds(value: datetime.datetime) -> int:
    """The inverse of ``record_time``, exact."""
    return (value - _EPOCH) // datetime.timedelta(microseconds=1)


@dataclasses.dataclass(frozen=True)
class SegmentHeader:
    """What the first page of a segment says about it."""

    magic: int
    timeline: int
    start_lsn: int
    system_identifier: str
    segment_size: int

    @property
    def major_version(self) -> int | None:
        """The PostgreSQL major version, when this page magic is a known one."""
        return _MAJORS.get(self.magic)


def read_header(data: bytes | bytearray | memoryview) -> SegmentHeader:
    """Read a segment's long page header from its first bytes. Raises IntegrityError."""
    if len(data) < _LONG_HEADER:
        raise IntegrityError("a WAL segment is shorter than its header")
    magic, info, timeline, address, _remaining = _PAGE.unpack_from(data, 0)
    system_identifier, segment_size, page_size = _LONG_PART.unpack_from(data, _SHORT_HEADER)
    if magic >> 8 not in (0xD0, 0xD1) or not info & _LONG:
        raise IntegrityError("not a WAL segment: it does not begin with a long page header")
    if page_size != PAGE_SIZE:
        raise IntegrityError(f"WAL pages of {page_size} bytes are not supported, only {PAGE_SIZE}")
    if not valid_segment_size(segment_size) or address % segment_size:
        raise IntegrityError(f"not a WAL segment: segment size {segment_size}, first page at {format_lsn(address)}")
    return SegmentHeader(magic, timeline, address, str(system_identifier), segment_size)


class WalReader:
    """Reads consecutive segments, fed whole or in page-sized pieces, and collects their ``transactions``.

    ``ended`` says that valid WAL ends inside what was fed, at ``end_lsn``; ``switched`` that the rest of the last segment is
    padding, so the next record begins with the next segment. A record that began before the first byte fed is skipped, its
    first bytes are kept in ``lead``; a record still open at the end is in ``open_head`` and ``open_lsn``.
    """

    def __init__(self) -> None:
        self.header: SegmentHeader | None = None
        self.timeline = 0
        """Timeline of the last valid page (higher than the first one's after a switch inside the segment)."""
        self.transactions: list[Transaction] = []
        self.backup_ends: list[tuple[int, int]] = []
        """Base backups that ended: where each began, and the end of the record that says so."""
        self.ended = False
        self.switched = False
        self.end_lsn = 0
        """End of the last complete record."""
        self.lead = b""
        self.lead_end: int | None = None
        self.open_head = b""
        self.open_lsn: int | None = None
        self._need = 0
        """Bytes that the open record still needs, as the next page's header must say."""
        self._previous: int | None = None
        """Where the last record began; the next one must point back to it."""
        self._lead_open = False
        self._address = 0

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Read the bytes that follow what was fed before: a segment's beginning first, then whole pages."""
        if self.header is None:
            self.header = read_header(data)
            self._address = self.header.start_lsn
        if len(data) % PAGE_SIZE:
            raise IntegrityError(f"WAL ends inside a page: {len(data)} bytes after {format_lsn(self._address)}")
        for offset in range(0, len(data), PAGE_SIZE):
            if self.ended:
                return
            self._page(data, offset)
            self._address += PAGE_SIZE

    def _page(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        magic, info, timeline, address, remaining = _PAGE.unpack_from(data, offset)
        header = self.header
        if self.switched and header is not None and self._address % header.segment_size:
            return
        if header is None or magic != header.magic or address != self._address or timeline < self.timeline:
            self.ended = True  # zero or recycled: valid WAL ended with the page before
            return
        self.switched = False
        self.timeline = timeline
        begin = offset + (_LONG_HEADER if info & _LONG else _SHORT_HEADER)
        position: int | None = begin
        if self._need or info & (_CONTINUES | _OVERWRITES):
            position = self._continue(data, begin, offset + PAGE_SIZE, info, remaining)
        if position is not None and position < offset + PAGE_SIZE:
            self._records(data, position, offset + PAGE_SIZE, address - offset)

    def _continue(self, data: bytes | bytearray | memoryview, begin: int, end: int, info: int, remaining: int) -> int | None:
        """Take this page's share of an open record; the place of the next record, or None when there is none in this page."""
        if info & _OVERWRITES:
            self._forget_open()
            return begin
        first = self._previous is None and self.open_lsn is None and not self._need
        if not info & _CONTINUES or not remaining or (remaining != self._need and not first):
            self.ended = True  # the open record was never finished
            return None
        if first:
            self._lead_open = True
        taken = min(remaining, end - begin)
        if self._lead_open:
            self.lead = (self.lead + bytes(data[begin : min(begin + taken, begin + _HEAD)]))[:_HEAD]
        elif len(self.open_head) < _HEAD:
            self.open_head = (self.open_head + bytes(data[begin : min(begin + taken, begin + _HEAD)]))[:_HEAD]
        self._need = remaining - taken
        if self._need:
            return None
        position = begin + _aligned(taken)
        self.end_lsn = self._address + position - (end - PAGE_SIZE)
        self._close()
        return None if self.ended or self.switched else position

    def _close(self) -> None:
        """The open record is complete."""
        if self._lead_open or self.open_lsn is None:
            self._lead_open, self.lead_end = False, self.end_lsn
            return
        head, lsn = self.open_head, self.open_lsn
        self._forget_open()
        _length, xid, previous, info, manager = _RECORD.unpack_from(head, 0)
        if self._previous is not None and previous != self._previous:
            self.ended = True
            self.end_lsn = lsn
            return
        self._previous = lsn
        if manager <= _RM_XACT:
            self._note(head, 0, manager, info, xid, lsn)

    def _forget_open(self) -> None:
        self.open_head, self.open_lsn, self._need, self._lead_open = b"", None, 0, False

    def _records(self, data: bytes | bytearray | memoryview, position: int, end: int, delta: int) -> None:
        """The records that begin in a page: ``position`` to ``end`` in ``data``; ``delta`` makes a position an LSN."""
        unpack, previous = _RECORD.unpack_from, self._previous
        last_header = end - _RECORD_HEADER
        while position < end:
            if position > last_header:
                self._open(data, position, end, delta)
                break
            length, xid, back, info, manager = unpack(data, position)
            if not length and previous is None and self.lead_end is not None:
                self.switched = True  # what ended here was a switch record that began in the segment before
                break
            if length < _RECORD_HEADER or (back != previous and (previous is not None or back >= position + delta)):
                self.ended = True
                break
            after = position + length
            if after > end:
                self._open(data, position, end, delta)
                break
            previous = position + delta
            position = (after + 7) & -8
            if manager <= _RM_XACT:
                self.end_lsn = position + delta
                self._note(data, previous - delta, manager, info, xid, previous)
                if self.switched:
                    break
        self._previous = previous
        self.end_lsn = min(position, end) + delta

    def _note(self, data: bytes | bytearray | memoryview, position: int, manager: int, info: int, xid: int, lsn: int) -> None:
        """Keep what matters of a record that ends at ``end_lsn`` and whose head is at ``position``."""
        if manager == _RM_XACT:
            kind = _KINDS.get(info & 0x70)
            time = _first_number(data, position) if kind is not None else None
            if kind is not None and time is not None:
                self.transactions.append(Transaction(time, lsn, self.end_lsn, kind, xid))
        elif info & 0xF0 == _XLOG_SWITCH:
            self.switched = True
        elif info & 0xF0 == _XLOG_BACKUP_END:
            self.backup_ends.append((_first_number(data, position) or 0, self.end_lsn))

    def _open(self, data: bytes | bytearray | memoryview, position: int, end: int, delta: int) -> None:
        """A record begins here and goes on in the next page."""
        length = _LENGTH.unpack_from(data, position)[0]
        if length < _RECORD_HEADER:
            self.ended = True
            return
        self.open_lsn = position + delta
        self.open_head = bytes(data[position : min(end, position + _HEAD)])
        self._need = length - (end - position)
        if self._need <= 0:  # a whole record is never shorter than what is left of the page here
            self.ended = True


def _first_number(data: bytes | bytearray | memoryview, position: int) -> int | None:
    """The 64-bit number that a record's data begin with (a time, a position); for records that refer to no blocks."""
    position += _RECORD_HEADER
    sizes = {253: 3, 252: 5, 255: 2, 254: 5}  # origin, top-level transaction, short and long data length
    for _part in range(3):
        if position + 10 > len(data):
            return None
        part = data[position]
        if part not in sizes:
            return None
        position += sizes[part]
        if part >= 254:
            break
    if position + _NUMBER.size > len(data):
        return None
    number: int = _NUMBER.unpack_from(data, position)[0]
    return number


def _aligned(length: int) -> int:
    return (length + 7) & -8


@dataclasses.dataclass(frozen=True)
class SegmentScan:
    """What one segment holds, read alone."""

    header: SegmentHeader
    transactions: tuple[Transaction, ...]
    """Those whose records begin and end in this segment."""
    backup_ends: tuple[tuple[int, int], ...]
    end_lsn: int
    complete: bool
    """Whether valid WAL reaches the end of the segment, or a switch record closes it."""
    last_timeline: int
    lead: bytes
    lead_end: int | None
    tail: bytes
    tail_lsn: int | None

    @property
    def latest(self) -> int | None:
        """The latest time of an ended transaction."""
        return max((transaction.time for transaction in self.transactions), default=None)

    def first_after(self, time: int) -> Transaction | None:
        """The first transaction in WAL order that ended later than ``time``: where recovery to ``time`` stops."""
        return next((transaction for transaction in self.transactions if transaction.time > time), None)


def scan_segment(data: t.Iterable[bytes | bytearray | memoryview] | bytes) -> SegmentScan:
    """Read one segment, whole or in pieces that are multiples of a page. Raises IntegrityError."""
    reader = WalReader()
    for piece in [data] if isinstance(data, bytes) else data:
        reader.feed(piece)
    if reader.header is None:
        raise IntegrityError("a WAL segment is empty")
    return SegmentScan(
        reader.header,
        tuple(reader.transactions),
        tuple(reader.backup_ends),
        reader.end_lsn,
        not reader.ended,
        reader.timeline,
        reader.lead,
        reader.lead_end,
        reader.open_head,
        reader.open_lsn,
    )


def split_transaction(before: SegmentScan, after: SegmentScan) -> Transaction | None:
    """The transaction whose record begins in one segment and ends in the next, if there is one and it is whole."""
    if before.tail_lsn is None or after.lead_end is None:
        return None
    head = (before.tail + after.lead)[:_HEAD]
    if len(head) < _RECORD_HEADER:
        return None
    _length, xid, _previous, info, manager = _RECORD.unpack_from(head, 0)
    kind = _KINDS.get(info & 0x70)
    time = _first_number(head, 0) if manager == _RM_XACT and kind is not None else None
    if kind is None or time is None:
        return None
    return Transaction(time, before.tail_lsn, after.lead_end, kind, xid)
