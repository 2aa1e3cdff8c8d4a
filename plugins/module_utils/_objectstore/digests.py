# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checksums of local files in the forms in which object stores keep them. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import typing as t

MIB = 1024 * 1024
BLOCK = MIB
USUAL_PARTS = tuple(size * MIB for size in (8, 16, 5, 64, 10, 15, 32, 50, 100, 128, 20, 25, 256, 512, 1024))
"""Part sizes of the usual upload programs, most usual first."""
MOST_CANDIDATES = 4


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What a file's content is, at one moment."""

    sha256: str
    etag: str
    """The ETag that was asked about when the content can have it, else the MD5."""
    stable: bool = True
    """Whether the file kept its size and time stamps while it was read."""


def is_md5(etag: str) -> bool:
    """Whether an ETag has the form of a plain MD5."""
    return len(etag) == 32 and all(char in "0123456789abcdef" for char in etag)


def part_count(etag: str) -> int:
    """The number of parts that a multipart ETag names; 0 for any other form."""
    digest, dash, count = etag.rpartition("-")
    return int(count) if dash and is_md5(digest) and count.isdigit() else 0


def part_sizes(etag: str, size: int) -> list[int]:
    """Part sizes with which ``size`` bytes can have got this multipart ETag, likeliest first."""
    count = part_count(etag)
    if not count:
        return []
    even = -(-size // count)
    options = [*USUAL_PARTS, -(-even // MIB) * MIB, even]
    fitting = [part for part in dict.fromkeys(options) if part and max(1, -(-size // part)) == count]
    return fitting[:MOST_CANDIDATES]


class PartHash:
    """A running multipart ETag for one part size."""

    def __init__(self, part_size: int) -> None:
        self._size = part_size
        self._left = part_size
        self._part = hashlib.md5(usedforsecurity=False)
        self._whole = hashlib.md5(usedforsecurity=False)
        self._count = 0

    def update(self, data: bytes) -> None:
        """Take the next bytes of the file."""
        view = memoryview(data)
        while view:
            piece = view[: self._left]
            self._part.update(piece)
            self._left -= len(piece)
            view = view[len(piece) :]
            if not self._left:
                self._end_part()

    def _end_part(self) -> None:
        self._whole.update(self._part.digest())
        self._part = hashlib.md5(usedforsecurity=False)
        self._left = self._size
        self._count += 1

    def etag(self) -> str:
        """The ETag of everything taken; ends the last part."""
        if self._left < self._size or not self._count:
            self._end_part()
        return f"{self._whole.hexdigest()}-{self._count}"


def hash_file(path: bytes, asked: str = "", on_bytes: t.Callable[[int], None] = lambda count: None) -> Fingerprint:
    """Read a file (never through a symbolic link) once; ``asked`` is the ETag that its content should be compared with."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(handle, "rb", buffering=0) as stream:
        before = os.fstat(stream.fileno())
        whole, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        parts = [PartHash(size) for size in part_sizes(asked, before.st_size)]
        while True:
            data = stream.read(BLOCK)
            if not data:
                break
            whole.update(data)
            for part in parts:
                part.update(data)
            if not parts:
                md5.update(data)
            on_bytes(len(data))
        after = os.fstat(stream.fileno())
    etags = [part.etag() for part in parts] or [md5.hexdigest()]
    stable = (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (after.st_size, after.st_mtime_ns, after.st_ctime_ns)
    return Fingerprint(whole.hexdigest(), asked if asked in etags else etags[0], stable)
