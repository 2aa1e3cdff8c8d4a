# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing a tar as gzip members that decompress alone. PRIVATE to the collection.

Entries go in, compressed bytes come out through ``sink`` in order. Work on one member (open, read, hash, compress) happens in
one thread; several members are worked on at the same time, which pays because hashing and deflate release the GIL. Memory is
bounded by ``jobs`` members in work and as many that wait for their turn.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import tarfile
import threading
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._archive import codec
from ansible_collections.fileforge.ops.plugins.module_utils._archive.index import FILE, LINK, FileEntry, Member
from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError

MEMBER = 8 << 20
"""Bytes of tar in a full member."""
ENTRIES = 512
"""Entries in a member of small files at most."""
GROWTH = 4
"""Members of small files that grow while they are read hold at most so many times the bytes of a full one."""
ALIGNMENT = 32 << 10
"""The largest page of PostgreSQL."""
END = bytes(2 * tarfile.BLOCKSIZE)
_KINDS = {FILE: tarfile.REGTYPE, "d": tarfile.DIRTYPE, LINK: tarfile.SYMTYPE}


class Source(t.Protocol):
    """An opened file. ``read`` may be called from several threads at the same time and must give exactly ``length`` bytes."""

    @property
    def size(self) -> int:
        """Bytes of the file as it is archived."""

    @property
    def mode(self) -> int:
        """Permission bits."""

    @property
    def uid(self) -> int:
        """Owner."""

    @property
    def gid(self) -> int:
        """Group."""

    @property
    def mtime(self) -> int:
        """Seconds since the epoch."""

    def read(self, offset: int, length: int) -> bytes:
        """The bytes to archive."""

    def close(self) -> None:
        """Called once, after the last read, also after an error."""


@dataclasses.dataclass(frozen=True)
class BytesSource:
    """A file that exists only in the archive."""

    content: bytes
    mode: int
    uid: int
    gid: int
    mtime: int

    @property
    def size(self) -> int:
        """Length of the content."""
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        """See Source."""
        return self.content[offset : offset + length]

    def close(self) -> None:
        """Nothing to close."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One thing to archive. ``open`` is called when its turn comes; None from it leaves the entry out (the file is gone).

    ``size`` is what a look at the directory said; what ``open`` returns decides, within the same member size class. Directories
    and links take mode, owner and time from a Source of no bytes.
    """

    path: str
    open: t.Callable[[], Source | None]
    type: str = FILE
    size: int = 0
    target: str = ""


@dataclasses.dataclass(frozen=True)
class Written:
    """What became of the archive."""

    size: int
    sha256: str
    uncompressed_size: int
    members: tuple[Member, ...]
    files: tuple[FileEntry, ...]


@dataclasses.dataclass
class _Packed:
    """One finished member. Offsets of entries count from the member's own start."""

    data: bytes
    length: int
    crc32: int
    entries: list[FileEntry]
    sha256: str = ""
    """With the last piece of a big file: the checksum of the entry that its first piece brought."""


class ArchiveWriter:
    """Use as a context manager; ``add`` any number of times, then ``finish``. Leaving it early stops the threads."""

    def __init__(
        self,
        sink: t.Callable[[bytes], None],
        *,
        level: int = 1,
        jobs: int = 2,
        member_size: int = MEMBER,
        names: t.Callable[[int, int], tuple[str, str]] = lambda uid, gid: ("", ""),
    ) -> None:
        self._sink = sink
        self._level = level
        self._member_size = member_size
        self._names = names
        self._pool = concurrent.futures.ThreadPoolExecutor(jobs, "archive")
        self._window = 2 * jobs
        self._running: collections.deque[concurrent.futures.Future[_Packed]] = collections.deque()
        self._batch: list[Entry] = []
        self._batch_size = 0
        self._opened: set[_BigFile] = set()
        self._stopped = threading.Event()
        self._hash = hashlib.sha256()
        self._c_off = self._u_off = 0
        self._members: list[Member] = []
        self._files: list[FileEntry] = []

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(self, *_details: object) -> None:
        self._stopped.set()
        for future in self._running:
            future.cancel()
        self._pool.shutdown(wait=True)
        for big in self._opened:
            big.close()

    def add(self, entry: Entry) -> None:
        """Take the next entry. Blocks while the window is full; raises what a thread or the sink raised."""
        if entry.type == FILE and entry.size > self._member_size:
            self._flush()
            self._add_big(entry)
            return
        room = tarfile.BLOCKSIZE + _padded(entry.size)
        if self._batch and (self._batch_size + room > self._member_size or len(self._batch) >= ENTRIES):
            self._flush()
        self._batch.append(entry)
        self._batch_size += room

    def drain(self) -> tuple[FileEntry, ...]:
        """Wait until everything added so far is written; the entries so far, with their checksums."""
        self._flush()
        while self._running:
            self._settle()
        return tuple(self._files)

    def finish(self) -> Written:
        """Write the end of the tar as a member of its own."""
        self.drain()
        self._emit(_Packed(codec.pack(END, self._level), len(END), codec.best.crc32(END), []))
        return Written(self._c_off, self._hash.hexdigest(), self._u_off, tuple(self._members), tuple(self._files))

    def _flush(self) -> None:
        if self._batch:
            batch, self._batch, self._batch_size = self._batch, [], 0
            self._submit(functools.partial(self._pack_batch, batch))

    def _submit(self, work: t.Callable[[], _Packed]) -> None:
        while len(self._running) >= self._window:
            self._settle()
        self._running.append(self._pool.submit(self._guarded, work))

    def _guarded(self, work: t.Callable[[], _Packed]) -> _Packed:
        try:
            return work()
        except BaseException:
            self._stopped.set()
            raise

    def _settle(self) -> None:
        self._emit(self._running.popleft().result())

    def _add_big(self, entry: Entry) -> None:
        source = entry.open()
        if source is None:
            return
        big = _BigFile(entry, source, self._stopped)
        self._opened.add(big)
        for offset in range(0, max(source.size, 1), self._member_size):
            length = min(self._member_size, source.size - offset)
            self._submit(functools.partial(self._pack_piece, big, offset, length))

    def _pack_piece(self, big: _BigFile, offset: int, length: int) -> _Packed:
        data = big.read(offset, length)
        entries = []
        if offset == 0:
            header, record = self._header(big.entry, big.source, big.source.size)
            entries.append(record)
            data = header + data
        last = offset + length == big.source.size
        digest = ""
        if last:
            digest = big.digest()
            data += bytes(_padded(big.source.size) - big.source.size)
            self._opened.discard(big)
            big.close()
        return _Packed(codec.pack(data, self._level), len(data), codec.best.crc32(data), entries, digest)

    def _pack_batch(self, batch: list[Entry]) -> _Packed:
        pieces: list[bytes] = []
        entries: list[FileEntry] = []
        length = 0
        for entry in batch:
            source = entry.open()
            if source is None:
                continue
            try:
                # A file may have grown since it was listed; one that grew beyond all bounds is cut at a page boundary.
                room = max(entry.size, (GROWTH * self._member_size - length) // ALIGNMENT * ALIGNMENT)
                size = min(source.size, room) if entry.type == FILE else 0
                data = source.read(0, size) if size else b""
                header, record = self._header(entry, source, size)
            finally:
                source.close()
            digest = hashlib.sha256(data).hexdigest() if entry.type == FILE else ""
            entries.append(dataclasses.replace(record, offset=length + len(header), sha256=digest))
            for piece in (header, data, bytes(_padded(size) - size)):
                pieces.append(piece)
                length += len(piece)
        data = b"".join(pieces)
        return _Packed(codec.pack(data, self._level) if data else b"", length, codec.best.crc32(data), entries)

    def _header(self, entry: Entry, source: Source, size: int) -> tuple[bytes, FileEntry]:
        """The tar header blocks of an entry, and its record as if they began at byte 0."""
        info = tarfile.TarInfo(entry.path)
        info.type = _KINDS[entry.type]
        info.mode, info.uid, info.gid, info.mtime, info.size = source.mode, source.uid, source.gid, source.mtime, size
        info.uname, info.gname = self._names(source.uid, source.gid)
        info.linkname = entry.target
        header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        record = FileEntry(
            path=entry.path,
            type=entry.type,
            mode=source.mode,
            uid=source.uid,
            gid=source.gid,
            mtime=source.mtime,
            size=size,
            offset=len(header),
            target=entry.target,
        )
        return header, record

    def _emit(self, packed: _Packed) -> None:
        if packed.length == 0:
            return
        for entry in packed.entries:
            self._files.append(dataclasses.replace(entry, offset=entry.offset + self._u_off))
        if packed.sha256:
            self._files[-1] = dataclasses.replace(self._files[-1], sha256=packed.sha256)
        self._members.append(Member(self._c_off, len(packed.data), self._u_off, packed.length, packed.crc32))
        self._c_off += len(packed.data)
        self._u_off += packed.length
        self._hash.update(packed.data)
        self._sink(packed.data)


class _BigFile:
    """A file that is archived in pieces: they are read by several threads, and hashed in order as they come."""

    def __init__(self, entry: Entry, source: Source, stopped: threading.Event) -> None:
        self.entry = entry
        self.source = source
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._turn = threading.Condition()
        self._stopped = stopped
        self._closed = False

    def read(self, offset: int, length: int) -> bytes:
        """A piece, which is also hashed when the pieces before it have been.

        Those have been started before this one, so waiting for them ends, unless one failed.
        """
        data = self.source.read(offset, length)
        with self._turn:
            while self._hashed != offset:
                if self._stopped.is_set():
                    raise OpsError("the archive is no longer being written")
                self._turn.wait(0.1)
        self._hash.update(data)
        with self._turn:
            self._hashed += length
            self._turn.notify_all()
        return data

    def digest(self) -> str:
        """SHA-256 of all pieces."""
        return self._hash.hexdigest()

    def close(self) -> None:
        """Close the source once."""
        if not self._closed:
            self._closed = True
            self.source.close()


def _padded(size: int) -> int:
    return size + -size % tarfile.BLOCKSIZE
