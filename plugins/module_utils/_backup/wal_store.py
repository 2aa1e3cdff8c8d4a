# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The WAL in a bucket: which segments and timelines are there, what is missing, what one holds. PRIVATE to the collection."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import re
import typing as t
import zlib

from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, InvalidOption, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import ObjectInfo, Store
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import wal

_NAME = re.compile(r"(?P<name>[0-9A-F]{8}(?:\.history|[0-9A-F]{16}(?:\.[0-9A-F]{8}\.backup|\.partial)?))(?P<gz>\.gz)?\Z")
_HEADER_BYTES = 16384
_SMALL_LIMIT = 1 << 20
_KEPT_SCANS = 4


@dataclasses.dataclass(frozen=True)
class StoredSegment:
    """A segment in the bucket; ``size`` is that of the object."""

    name: str
    timeline: int
    number: int
    key: str
    size: int
    compressed: bool
    last_modified: datetime.datetime | None


@dataclasses.dataclass(frozen=True)
class SegmentRange:
    """Consecutive segments of one timeline."""

    timeline: int
    first: str
    last: str
    count: int
    size: int

    def as_dict(self) -> dict[str, t.Any]:
        """The shape that modules return."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class SegmentGap:
    """Segments that are missing between two that are there."""

    timeline: int
    first_missing: str
    last_missing: str
    count: int

    def as_dict(self) -> dict[str, t.Any]:
        """The shape that modules return."""
        return dataclasses.asdict(self)


class WalStore:
    """Listed once; contents are read when asked for. Use one for one run: what it has read it does not read again."""

    def __init__(self, store: Store, prefix: str, objects: t.Iterable[ObjectInfo]) -> None:
        self._store = store
        self._place = f"{prefix}wal/"
        self.segments: dict[int, dict[int, StoredSegment]] = {}
        """By timeline, then by segment number."""
        self.history_keys: dict[int, str] = {}
        self.backup_history_keys: dict[str, str] = {}
        """``<segment>.<offset>`` of a backup's start to the object's key."""
        self.partials: list[str] = []
        self.segment_size = wal.DEFAULT_SEGMENT_SIZE
        self._histories: dict[int, tuple[wal.HistoryEntry, ...]] = {}
        self._headers: dict[str, wal.SegmentHeader] = {}
        self._scans: collections.OrderedDict[str, wal.SegmentScan] = collections.OrderedDict()
        self._latest: dict[str, int | None] = {}
        self._sort(objects)

    @classmethod
    def load(cls, store: Store, prefix: str = "") -> WalStore:
        """List the WAL below ``prefix``."""
        return cls(store, prefix, store.list(f"{prefix}wal/"))

    def _sort(self, objects: t.Iterable[ObjectInfo]) -> None:
        found: dict[str, tuple[ObjectInfo, bool]] = {}
        for item in objects:
            match = _NAME.match(item.key[len(self._place) :])
            if match is None:
                continue
            name, compressed = match["name"], bool(match["gz"])
            if wal.SEGMENT_NAME.match(name):
                found.setdefault(name, (item, compressed))
            elif name.endswith(".history"):
                self.history_keys[int(name[:8], 16)] = item.key
            elif name.endswith(".backup"):
                self.backup_history_keys[name[: -len(".backup")]] = item.key
            else:
                self.partials.append(name)
        self.segment_size = self._find_segment_size(found)
        for name, (item, compressed) in sorted(found.items()):
            try:
                timeline, number = wal.split_segment_name(name, self.segment_size)
            except InvalidOption:
                continue
            stored = StoredSegment(name, timeline, number, item.key, item.size, compressed, item.last_modified)
            self.segments.setdefault(timeline, {})[number] = stored

    def _find_segment_size(self, found: dict[str, tuple[ObjectInfo, bool]]) -> int:
        """From the first header that can be read: names alone do not tell."""
        for name in sorted(found, reverse=True)[:3]:
            item, compressed = found[name]
            try:
                self._headers[name] = self._read_header(item.key, item.size, compressed)
            except IntegrityError:
                continue
            return self._headers[name].segment_size
        return wal.DEFAULT_SEGMENT_SIZE

    def _read_header(self, key: str, size: int, compressed: bool) -> wal.SegmentHeader:
        data = self._store.get(key, start=0, length=min(size, _HEADER_BYTES)) if size else b""
        try:
            return wal.read_header(zlib.decompressobj(31).decompress(data, _HEADER_BYTES) if compressed else data)
        except (zlib.error, IntegrityError) as error:
            raise IntegrityError(f"{key}: cannot be read as a WAL segment: {error}") from error

    # -- what is there ------------------------------------------------------------------------------------------------

    @property
    def timelines(self) -> list[int]:
        """Every timeline of which there is a segment or a history."""
        return sorted(self.segments.keys() | self.history_keys.keys())

    @property
    def count(self) -> int:
        """How many segments."""
        return sum(len(segments) for segments in self.segments.values())

    def segment(self, timeline: int, number: int) -> StoredSegment | None:
        """That segment, when it is there and not visibly cut short."""
        found = self.segments.get(timeline, {}).get(number)
        if found is not None and not found.compressed and found.size != self.segment_size:
            return None
        return found

    def name(self, timeline: int, number: int) -> str:
        """A segment's name with this archive's segment size."""
        return wal.segment_name(timeline, number, self.segment_size)

    def ranges(self, timeline: int) -> list[SegmentRange]:
        """Runs of consecutive segments of a timeline, in order."""
        runs: list[list[StoredSegment]] = []
        for number in sorted(self.segments.get(timeline, {})):
            stored = self.segment(timeline, number)
            if stored is None:
                continue
            if runs and runs[-1][-1].number == number - 1:
                runs[-1].append(stored)
            else:
                runs.append([stored])
        return [SegmentRange(timeline, run[0].name, run[-1].name, len(run), sum(stored.size for stored in run)) for run in runs]

    def gaps(self, timeline: int) -> list[SegmentGap]:
        """What is missing between the runs."""
        ranges = self.ranges(timeline)
        gaps = []
        for before, after in zip(ranges, ranges[1:]):
            first = wal.split_segment_name(before.last, self.segment_size)[1] + 1
            last = wal.split_segment_name(after.first, self.segment_size)[1] - 1
            gaps.append(SegmentGap(timeline, self.name(timeline, first), self.name(timeline, last), last - first + 1))
        return gaps

    # -- timelines ----------------------------------------------------------------------------------------------------

    def history(self, timeline: int) -> tuple[wal.HistoryEntry, ...]:
        """The ancestors of a timeline; none for timeline 1. Raises Refused (timeline_unknown) when its history is missing."""
        if timeline not in self._histories:
            key = self.history_keys.get(timeline)
            if key is None and timeline != 1:
                raise Refused(
                    "timeline_unknown",
                    f"{self._place}{wal.history_name(timeline)} is not in bucket {self._store.bucket}: nothing tells where "
                    f"timeline {timeline} branched off",
                    hint="archive that history file from the server's pg_wal, or choose another timeline",
                )
            text = "" if key is None else self.read_small(key).decode("utf-8", "replace")
            self._histories[timeline] = wal.parse_history(text, timeline)
        return self._histories[timeline]

    def ancestry(self, timeline: int) -> tuple[wal.TimelinePart, ...]:
        """The stretches of timelines that lead to this one, oldest first."""
        return wal.ancestry(timeline, self.history(timeline))

    def read_small(self, key: str) -> bytes:
        """A history file's content, unpacked where it is packed."""
        data = self._store.get(key)
        if not key.endswith(".gz"):
            return data
        try:
            return zlib.decompressobj(31).decompress(data, _SMALL_LIMIT)
        except zlib.error as error:
            raise IntegrityError(f"{key}: cannot be unpacked: {error}") from error

    # -- contents -----------------------------------------------------------------------------------------------------

    def header(self, stored: StoredSegment) -> wal.SegmentHeader:
        """The segment's own header, checked against its name."""
        if stored.name not in self._headers:
            self._headers[stored.name] = self._read_header(stored.key, stored.size, stored.compressed)
        found = self._headers[stored.name]
        if found.start_lsn != stored.number * self.segment_size or found.timeline > stored.timeline:
            raise IntegrityError(
                f"{stored.key}: holds WAL from {wal.format_lsn(found.start_lsn)} of timeline {found.timeline}, "
                "which is not what its name says",
                hint="the object was copied under a wrong name: fetch the right one from where it is",
            )
        return found

    def read(self, stored: StoredSegment) -> bytes:
        """The segment's bytes. Raises IntegrityError unless there are exactly as many as a segment has."""
        data = self._store.get(stored.key)
        if stored.compressed:
            data = _unpack(data, self.segment_size, stored.key)
        if len(data) != self.segment_size:
            raise IntegrityError(
                f"{stored.key}: holds {len(data)} bytes of WAL instead of {self.segment_size}",
                hint="the object is damaged: fetch it from the second region, or choose a target time before it",
            )
        return data

    def scan(self, stored: StoredSegment) -> wal.SegmentScan:
        """The transactions in a segment."""
        found = self._scans.get(stored.name)
        if found is None:
            data = self.read(stored)
            try:
                found = wal.scan_segment(data)
            except IntegrityError as error:
                raise IntegrityError(f"{stored.key}: {error.message}", hint=error.hint) from error
            self._headers[stored.name] = found.header
            self._latest[stored.name] = found.latest
            self._scans[stored.name] = found
            while len(self._scans) > _KEPT_SCANS:
                self._scans.popitem(last=False)
        self.header(stored)
        return found

    def known(self, stored: StoredSegment) -> bool:
        """Whether it has been read already."""
        return stored.name in self._latest

    def latest_time(self, stored: StoredSegment) -> int | None:
        """The latest time of a transaction that ended inside this segment alone."""
        if stored.name not in self._latest:
            self.scan(stored)
        return self._latest[stored.name]


def _unpack(data: bytes, limit: int, key: str) -> bytes:
    """Every gzip member, at most one byte more than ``limit``."""
    pieces: list[bytes] = []
    size = 0
    while data and size <= limit:
        engine = zlib.decompressobj(31)
        try:
            piece = engine.decompress(data, limit + 1 - size)
        except zlib.error as error:
            raise IntegrityError(f"{key}: damaged: {error}", hint="fetch it from the second region") from error
        pieces.append(piece)
        size += len(piece)
        if not engine.eof:
            if size <= limit:
                raise IntegrityError(f"{key}: cut off: the packed data end early", hint="fetch it from the second region")
            break
        data = engine.unused_data
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
