# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading archives: by member with an index, or as a plain stream without one. PRIVATE to the collection.

With an index, any member can be fetched and decoded by itself and in any order:

    for piece in pieces_of(archive, wanted):            # wanted: paths, None for all files
        data = decode_member(piece.member, store.get(archive.key, start=piece.member.c_off, length=piece.member.c_len))
        for part in piece.parts:
            os.pwrite(file_of(part.entry), data[part.start:part.start + part.length], part.position)

Without one (the runbook's ``tar -czf`` form) the whole stream is read in order:

    for entry in read_plain(store.stream(key)):         # entry.chunks() gives the content of a file; it may be skipped
        ...

Both refuse what could leave the destination. Neither looks at what is on disk: the caller creates parents without following
links, because a link may be there before the archive is read.
"""

from __future__ import annotations

import dataclasses
import tarfile
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._archive import codec
from ansible_collections.fileforge.ops.plugins.module_utils._archive.index import (
    DIRECTORY,
    FILE,
    LINK,
    Archive,
    FileEntry,
    Member,
    safe_path,
)
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError

CHUNK = 1 << 20
LARGEST_EXTENSION = 1 << 20
"""Bytes of a long name or of extended headers in a plain archive."""
LARGEST_FILE = 1 << 40


def decode_member(member: Member, data: bytes) -> bytes:
    """The bytes of the tar that a member holds; raises IntegrityError unless length and CRC-32 are those of the index.

    The GIL is released while it works, so members can be decoded in threads.
    """
    if len(data) != member.c_len:
        raise IntegrityError(f"the member at byte {member.c_off} has {len(data)} bytes, not {member.c_len}")
    engine = codec.best.decompressobj(wbits=31)
    try:
        plain: bytes = engine.decompress(data, member.u_len + 1)
    except codec.best.error as error:
        raise IntegrityError(f"the member at byte {member.c_off} cannot be decompressed: {error}") from error
    if len(plain) != member.u_len or not engine.eof or engine.unused_data:
        raise IntegrityError(f"the member at byte {member.c_off} does not hold the {member.u_len} bytes that the index names")
    if codec.best.crc32(plain) != member.crc32:
        raise IntegrityError(f"the member at byte {member.c_off} holds other bytes than those that were archived")
    return plain


@dataclasses.dataclass(frozen=True)
class Part:
    """Bytes of one file inside one decoded member: ``data[start:start + length]`` belongs at ``position`` of the file."""

    entry: FileEntry
    start: int
    length: int
    position: int


@dataclasses.dataclass(frozen=True)
class Piece:
    """A member and the parts of wanted files in it."""

    member: Member
    parts: tuple[Part, ...]


def pieces_of(archive: Archive, wanted: t.Collection[str] | None = None) -> t.Iterator[Piece]:
    """The members that hold content of the wanted files (all when None), in archive order, each once.

    Empty files have no content and appear nowhere; directories and links neither.
    """
    files = (entry for entry in archive.files if entry.type == FILE and entry.size and (wanted is None or entry.path in wanted))
    entry = next(files, None)
    for member in archive.members:
        parts = []
        while entry is not None and entry.offset < member.u_end:
            begin = max(entry.offset, member.u_off)
            end = min(entry.offset + entry.size, member.u_end)
            if begin < end:
                parts.append(Part(entry, begin - member.u_off, end - begin, begin - entry.offset))
            if entry.offset + entry.size > member.u_end:
                break
            entry = next(files, None)
        if parts:
            yield Piece(member, tuple(parts))


@dataclasses.dataclass(frozen=True)
class PlainEntry:
    """One entry of a plain archive. ``path`` is ``""`` for the archived directory itself (``./``)."""

    path: str
    type: str
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    target: str
    chunks: t.Callable[[], t.Iterator[bytes]]
    """The content of a file, once; may be left unread. Only valid until the next entry is asked for."""


def read_plain(chunks: t.Iterable[bytes]) -> t.Iterator[PlainEntry]:
    """The entries of a gzip'd tar of any number of members, in order; the whole stream is verified by the time it ends.

    Raises IntegrityError for damage of any kind (also an archive that ends before its two zero blocks) and for entries that a
    backup of PostgreSQL cannot have: paths out of the destination, hard links, devices, FIFOs, sparse files.
    """
    stream = _Inflated(chunks)
    extension: dict[str, str] = {}
    ended = False
    while True:
        block = stream.exactly(tarfile.BLOCKSIZE, allow_end=ended)
        if not block:
            return
        if not any(block):
            ended = True
            continue
        if ended:
            raise IntegrityError("the archive goes on after its end: several archives one after the other are not read")
        info = _header(block)
        if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE):
            _extend(extension, info, stream)
            continue
        entry, content = _entry(info, extension, stream)
        extension = {}
        yield entry
        content.drain()


class _Inflated:
    """Exact reads from a gzip stream; every member's length and CRC-32 are verified by the decompressor."""

    def __init__(self, chunks: t.Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._engine: t.Any = None
        self._input = b""
        self._plain = b""
        self._at = 0

    def _more(self) -> bool:
        """Decode some more; False at the true end of the stream."""
        while True:
            self._input = self._input or next((chunk for chunk in self._chunks if chunk), b"")
            ended = not self._input
            if self._engine is None:
                if ended:
                    return False
                self._engine = codec.best.decompressobj(wbits=31)
            try:
                plain = self._engine.decompress(self._input, CHUNK)
            except codec.best.error as error:
                raise IntegrityError(f"the archive is damaged: {error}") from error
            self._input = self._engine.unconsumed_tail
            if self._engine.eof:
                self._input = self._engine.unused_data
                self._engine = None
            elif ended and not plain:
                raise IntegrityError("the archive is cut off: its compressed data has no end")
            if plain:
                self._plain = self._plain[self._at :] + plain
                self._at = 0
                return True

    def exactly(self, length: int, *, allow_end: bool = False) -> bytes:
        """So many bytes; with ``allow_end``, nothing at the end of the stream."""
        while len(self._plain) - self._at < length:
            if not self._more():
                if allow_end and len(self._plain) == self._at:
                    return b""
                raise IntegrityError("the archive is cut off: it ends before its end marker")
        return self._take(length)

    def some(self, limit: int) -> bytes:
        """Between one and ``limit`` bytes."""
        if len(self._plain) == self._at and not self._more():
            raise IntegrityError("the archive is cut off inside a file")
        return self._take(limit)

    def _take(self, limit: int) -> bytes:
        result = self._plain[self._at : self._at + limit]
        self._at += len(result)
        return result


class _Content:
    """The data blocks of one entry."""

    def __init__(self, stream: _Inflated, size: int) -> None:
        self._stream = stream
        self._left = size
        self._padding = -size % tarfile.BLOCKSIZE

    def chunks(self) -> t.Iterator[bytes]:
        while self._left:
            data = self._stream.some(min(self._left, CHUNK))
            self._left -= len(data)
            yield data

    def drain(self) -> None:
        for _data in self.chunks():
            pass
        if self._padding:
            self._stream.exactly(self._padding)
            self._padding = 0


def _header(block: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError as error:
        raise IntegrityError(f"the archive holds a damaged header: {error}") from error


def _extend(extension: dict[str, str], info: tarfile.TarInfo, stream: _Inflated) -> None:
    if not 0 <= info.size <= LARGEST_EXTENSION:
        raise IntegrityError(f"the archive holds an extended header of {info.size} bytes")
    data = stream.exactly(info.size)
    stream.exactly(-info.size % tarfile.BLOCKSIZE)
    if info.type == tarfile.XGLTYPE:
        return
    if info.type == tarfile.XHDTYPE:
        extension.update(_pax_records(data))
        return
    name = "path" if info.type == tarfile.GNUTYPE_LONGNAME else "linkpath"
    extension[name] = data.rstrip(b"\0").decode("utf-8", "surrogateescape")


def _pax_records(data: bytes) -> dict[str, str]:
    records = {}
    while data:
        length, _blank, rest = data.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(data):
            raise IntegrityError("the archive holds a damaged extended header")
        keyword, equals, value = rest[: int(length) - len(length) - 1].partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise IntegrityError("the archive holds a damaged extended header")
        records[keyword.decode("utf-8", "replace")] = value[:-1].decode("utf-8", "surrogateescape")
        data = data[int(length) :]
    return records


_TYPES = {
    tarfile.REGTYPE: FILE,
    tarfile.AREGTYPE: FILE,
    tarfile.CONTTYPE: FILE,
    tarfile.DIRTYPE: DIRECTORY,
    tarfile.SYMTYPE: LINK,
}


def _entry(info: tarfile.TarInfo, extension: dict[str, str], stream: _Inflated) -> tuple[PlainEntry, _Content]:
    name = extension.get("path", info.name)
    kind = _TYPES.get(info.type)
    if kind is None or any(keyword.startswith("GNU.sparse") for keyword in extension):
        raise IntegrityError(f"{name!r} in the archive is a hard link, device, FIFO or sparse file: refused")
    size = _number(extension, "size", info.size) if kind == FILE else 0
    if not 0 <= size <= LARGEST_FILE:
        raise IntegrityError(f"{name!r} in the archive has {size} bytes: refused")
    content = _Content(stream, size)
    entry = PlainEntry(
        path=_plain_path(name, kind),
        type=kind,
        mode=info.mode & 0o7777,
        uid=_number(extension, "uid", info.uid),
        gid=_number(extension, "gid", info.gid),
        mtime=_number(extension, "mtime", int(info.mtime)),
        size=size,
        target=extension.get("linkpath", info.linkname) if kind == LINK else "",
        chunks=content.chunks,
    )
    if any(character in entry.target for character in "\0\r\n"):
        raise IntegrityError(f"{name!r} in the archive points to {entry.target!r}: refused")
    return entry, content


def _plain_path(name: str, kind: str) -> str:
    """``./base/1`` and ``base/1/`` are ``base/1``; the archived directory itself is the empty path."""
    path = name.rstrip("/") if kind == DIRECTORY and name.strip("/") else name
    path = path[2:] if path.startswith("./") else path
    if kind == DIRECTORY and path in ("", "."):
        return ""
    return safe_path(path)


def _number(extension: dict[str, str], keyword: str, default: int) -> int:
    try:
        return int(float(extension[keyword])) if "." in extension.get(keyword, "") else int(extension.get(keyword, default))
    except (ValueError, OverflowError) as error:
        raise IntegrityError(f"the archive holds a damaged extended header: {keyword}={extension[keyword]!r}") from error
