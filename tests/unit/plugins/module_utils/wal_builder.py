# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes WAL as PostgreSQL lays it out, and buckets that hold it, for tests of what reads them."""

from __future__ import annotations

import bisect
import dataclasses
import datetime
import gzip
import hashlib
import struct
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._archive.index import Archive, BackupIndex, Member
from ansible_collections.fileforge.ops.plugins.module_utils._backup.wal_program import crc32c
from ansible_collections.fileforge.ops.plugins.module_utils._errors import NotFound
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import ObjectInfo, S3Options
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import wal

PAGE, SHORT, LONG = 8192, 24, 40
SMALL = 1 << 20
SYSTEM = 7711469141024274838


def usable(size: int) -> int:
    """Bytes of a segment that records can have."""
    return size - LONG - (size // PAGE - 1) * SHORT


@dataclasses.dataclass(frozen=True)
class Written:
    time: int
    lsn: int
    end_lsn: int
    kind: str
    xid: int


class Wal:
    """Records one after another from the beginning of segment ``first``."""

    def __init__(self, *, size: int = SMALL, first: int = 1, timeline: int = 1, magic: int = 0xD110, system: int = SYSTEM) -> None:
        self.size, self.first, self.magic, self.system = size, first, magic, system
        self.timelines = [(0, timeline)]
        self.stream = bytearray()
        self.starts: list[tuple[int, int]] = []
        """Begin and length of every record in the stream."""
        self.previous = 0
        self.transactions: list[Written] = []

    def branch(self, timeline: int) -> Wal:
        """Another history that goes on from here."""
        other = Wal(size=self.size, first=self.first, magic=self.magic, system=self.system)
        other.timelines = [*self.timelines, (self.lsn, timeline)]
        other.stream, other.starts = bytearray(self.stream), list(self.starts)
        other.previous, other.transactions = self.previous, list(self.transactions)
        return other

    def position(self, offset: int) -> int:
        """The LSN of an offset in the stream."""
        segment, rest = divmod(offset, usable(self.size))
        base = (self.first + segment) * self.size
        if rest < PAGE - LONG:
            return base + LONG + rest
        page, rest = divmod(rest - (PAGE - LONG), PAGE - SHORT)
        return base + (page + 1) * PAGE + SHORT + rest

    @property
    def lsn(self) -> int:
        return self.position(len(self.stream))

    def end(self, offset: int) -> int:
        """The LSN just after a record that ends at an aligned offset."""
        return self.position(offset - 8) + 8

    def record(self, manager: int, info: int, data: bytes = b"", length: int | None = None, xid: int = 0) -> int:
        """Append a record; its LSN. ``length`` makes it longer than its data."""
        if data:
            data = bytes([255, len(data)]) + data
        length = max(length or 0, 24 + len(data))
        begin, lsn = len(self.stream), self.lsn
        self.starts.append((begin, length))
        self.stream += struct.pack("<IIQBBHI", length, xid, self.previous, info, manager, 0, 0) + data
        self.stream += bytes(begin + length - len(self.stream))
        self.stream += bytes(-len(self.stream) % 8)
        self.previous = lsn
        return lsn

    def transaction(self, time: int, info: int = 0, length: int | None = None, xid: int = 700, origin: bool = False) -> Written:
        """A record that ends a transaction; ``origin`` puts a replication origin and a top-level xid before its data."""
        before = (b"\xfd\x01\x00\xfc" + struct.pack("<I", 5)) if origin else b""
        data = struct.pack("<q", time) + b"extra"
        body = before + bytes([255, len(data)]) + data
        length = max(length or 0, 24 + len(body))
        begin, lsn = len(self.stream), self.lsn
        self.starts.append((begin, length))
        self.stream += struct.pack("<IIQBBHI", length, xid, self.previous, info, 1, 0, 0) + body
        self.stream += bytes(begin + length - len(self.stream))
        self.stream += bytes(-len(self.stream) % 8)
        self.previous = lsn
        kind = {0x00: "commit", 0x20: "abort", 0x30: "commit_prepared", 0x40: "abort_prepared"}[info & 0x70]
        written = Written(time, lsn, self.end(len(self.stream)), kind, xid)
        self.transactions.append(written)
        return written

    def tablespace(self, oid: int, location: str, *, xid: int = 701, right: bool = True) -> int:
        """What CREATE TABLESPACE does, with a checksum that is right or not."""
        path = struct.pack("<I", oid) + location.encode() + b"\0"
        data = (bytes([255, len(path)]) if len(path) < 256 else b"\xfe" + struct.pack("<I", len(path))) + path
        begin, lsn, length = len(self.stream), self.lsn, 24 + len(data)
        head = struct.pack("<IIQBBH", length, xid, self.previous, 0, 5, 0)
        self.starts.append((begin, length))
        self.stream += head + struct.pack("<I", crc32c(data + head) ^ (not right)) + data + bytes(-length % 8)
        self.previous = lsn
        return lsn

    def filler(self, length: int) -> int:
        """A record of another resource manager."""
        return self.record(10, 0, length=length)

    def fill(self, left: int = 0) -> None:
        """Go on until ``left`` bytes of a segment remain; into the next one where this one has no room for a record."""
        room = (-len(self.stream) % usable(self.size) or usable(self.size)) - left
        self.filler((room if room >= 32 else room + usable(self.size)) - 7)

    def switch(self) -> None:
        """What pg_switch_wal does."""
        self.record(0, 0x40)
        self.stream += bytes(-len(self.stream) % usable(self.size))

    def _header(self, address: int) -> bytes:
        timeline = [number for begin, number in self.timelines if begin <= address][-1]
        offset = (address // self.size - self.first) * usable(self.size)
        inside = address % self.size // PAGE
        offset += 0 if inside == 0 else PAGE - LONG + (inside - 1) * (PAGE - SHORT)
        index = bisect.bisect_left(self.starts, (offset, 0)) - 1
        remaining = 0
        if index >= 0:
            begin, length = self.starts[index]
            remaining = max(0, begin + length - offset)
        info = (1 if remaining else 0) | (0 if inside else 2)
        page = struct.pack("<HHIQI4x", self.magic, info, timeline, address, remaining)
        return page if inside else page + struct.pack("<QII", self.system, self.size, PAGE)

    def segment(self, number: int) -> bytes:
        """The bytes of a segment; zeros after the last record's page."""
        pages = []
        offset = (number - self.first) * usable(self.size)
        for address in range(number * self.size, (number + 1) * self.size, PAGE):
            header = self._header(address)
            body = self.stream[offset : offset + PAGE - len(header)]
            offset += PAGE - len(header)
            pages.append((header + body).ljust(PAGE, b"\0") if body else bytes(PAGE))
        return b"".join(pages)

    @property
    def complete(self) -> range:
        """Numbers of the segments that are full."""
        return range(self.first, self.first + len(self.stream) // usable(self.size))

    def name(self, number: int) -> str:
        """A full segment's name: it is archived by the timeline that its end is on."""
        end = (number + 1) * self.size - 1
        return wal.segment_name([line for begin, line in self.timelines if begin <= end][-1], number, self.size)

    def segments(self) -> dict[str, bytes]:
        """The full ones by name."""
        return {self.name(number): self.segment(number) for number in self.complete}


class Place:
    """A bucket in memory, as far as the catalog needs one; counts what is read."""

    def __init__(self, objects: t.Mapping[str, bytes] | None = None) -> None:
        self.objects = dict(objects or {})
        self.metadata: dict[str, dict[str, str]] = {}
        self.options = S3Options("bucket", "http://memory.example")
        self.bucket = "bucket"
        self.reads: list[str] = []
        self.modified = datetime.datetime(2026, 11, 23, 14, tzinfo=datetime.timezone.utc)

    def _info(self, key: str) -> ObjectInfo:
        if key not in self.objects:
            raise NotFound(f"no {key}", reason="key")
        data = self.objects[key]
        return ObjectInfo(key, len(data), hashlib.md5(data).hexdigest(), self.modified, self.metadata.get(key, {}))

    head = _info

    def list(self, prefix: str = "", *, start_after: str = "") -> t.Iterator[ObjectInfo]:
        yield from [self._info(key) for key in sorted(self.objects) if key.startswith(prefix)]

    def get(self, key: str, *, start: int | None = None, length: int | None = None, etag: str | None = None) -> bytes:
        self._info(key)
        self.reads.append(key)
        begin = start or 0
        return self.objects[key][begin : None if length is None else begin + length]

    def stream(self, key: str, *, chunk: int = 65536, **_options: t.Any) -> t.Iterator[bytes]:
        data = self.get(key)
        for begin in range(0, len(data), chunk):
            yield data[begin : begin + chunk]

    def add_wal(self, segments: t.Mapping[str, bytes], prefix: str = "") -> None:
        for name, data in segments.items():
            self.objects[f"{prefix}wal/{name}.gz"] = gzip.compress(data, 1)

    def add_backup(
        self,
        name: str,
        start_lsn: int,
        stop_lsn: int,
        stopped: datetime.datetime,
        *,
        timeline: int = 1,
        size: int = SMALL,
        system: int = SYSTEM,
        prefix: str = "",
        content: int = 0,
    ) -> None:
        """``content`` are the bytes that the index says it holds."""
        key = f"{prefix}base/{name}_base.tar.gz"
        self.objects[key] = b""
        self.metadata[key] = {"fileforge-format": "1"}
        members = (Member(0, 1, 0, content, 0),) if content else ()
        index = BackupIndex(
            name=name,
            label=name,
            started=(stopped - datetime.timedelta(seconds=1)).isoformat(),
            stopped=stopped.isoformat(),
            start_lsn=wal.format_lsn(start_lsn),
            stop_lsn=wal.format_lsn(stop_lsn),
            timeline=timeline,
            start_segment=wal.segment_name(timeline, start_lsn // size, size),
            stop_segment=wal.segment_name(timeline, (stop_lsn - 1) // size, size),
            system_identifier=str(system),
            version_num=150020,
            catalog_version=202209061,
            wal_segment_size=size,
            block_size=8192,
            checksums=True,
            checksum_failures=(),
            manifest_key=f"{prefix}base/{name}_base.backup_manifest",
            archives=(Archive(key, None, None, len(members), "", None, "0" * 64, content, members, ()),),
        )
        self.objects[f"{prefix}base/{name}_base.index.json.gz"] = index.to_bytes()
