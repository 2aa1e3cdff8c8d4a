# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest of a tree in a bucket: one JSON object per line, gzip'd, beside the prefix. PRIVATE to the collection.

It spares a request per object: with it, sizes, SHA-256, modes and times of a million files are one download. An entry only counts
while its ETag is that of the object, so a manifest that is out of date does no harm.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import typing as t
import zlib

from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.names import key_path, path_text

LONGEST_LINE = 64 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_OCTAL = re.compile(r"[0-7]{1,7}\Z")
_SECONDS = re.compile(r"(-?)(\d{1,11})(?:\.(\d{1,9}))?\Z")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One file as it was uploaded. ``mtime`` in nanoseconds; None = not known."""

    path: bytes
    size: int
    etag: str
    sha256: str | None
    mode: int | None
    mtime: int | None

    def line(self) -> bytes:
        """The entry as a line of the manifest."""
        value = {"path": path_text(self.path), "size": self.size, "sha256": self.sha256, "etag": self.etag}
        value["mode"] = None if self.mode is None else mode_text(self.mode)
        value["mtime"] = None if self.mtime is None else time_text(self.mtime)
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def manifest_key(prefix: str) -> str | None:
    """Where the manifest of a prefix is; None for the whole bucket, which has no place beside it."""
    return f"{prefix.rstrip('/')}.tree.jsonl.gz" if prefix else None


def mode_text(mode: int) -> str:
    """``0644``."""
    return f"{mode & 0o777:04o}"


def time_text(nanoseconds: int) -> str:
    """Seconds since 1970 with nine decimals."""
    sign = "-" if nanoseconds < 0 else ""
    seconds, rest = divmod(abs(nanoseconds), 10**9)
    return f"{sign}{seconds}.{rest:09d}"


def parse_mode(value: t.Any) -> int | None:
    """The permission bits of an octal text such as ``0644`` or ``100644``; None when it is not one."""
    text = str(value) if isinstance(value, str) else ""
    return int(text, 8) & 0o777 if _OCTAL.match(text) else None


def parse_time(value: t.Any) -> int | None:
    """Nanoseconds of seconds as text or number; None when it is neither."""
    if isinstance(value, float):
        value = f"{value:.9f}"
    match = _SECONDS.match(str(value)) if isinstance(value, (str, int)) and not isinstance(value, bool) else None
    if match is None:
        return None
    nanoseconds = int(match[2]) * 10**9 + int((match[3] or "").ljust(9, "0"))
    return -nanoseconds if match[1] else nanoseconds


def parse_sha256(value: t.Any) -> str | None:
    """A SHA-256 in lower-case hexadecimal digits; None when it is not one."""
    return value if isinstance(value, str) and _SHA256.match(value) else None


def read_manifest(chunks: t.Iterable[bytes]) -> t.Iterator[Entry]:
    """The entries of a compressed manifest. Raises ValueError when it is damaged."""
    for number, line in enumerate(_lines(chunks), 1):
        try:
            value = json.loads(line)
            path, size, etag = value["path"], value["size"], value["etag"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"line {number}: {type(error).__name__}") from error
        if not (isinstance(path, str) and isinstance(size, int) and isinstance(etag, str)):
            raise ValueError(f"line {number}: wrong types")
        yield Entry(
            key_path(path),
            size,
            etag,
            parse_sha256(value.get("sha256")),
            parse_mode(value.get("mode")),
            parse_time(value.get("mtime")),
        )


def _lines(chunks: t.Iterable[bytes]) -> t.Iterator[bytes]:
    inflate = zlib.decompressobj(31)
    rest = b""
    for chunk in chunks:
        while chunk:
            try:
                rest += inflate.decompress(chunk, 1 << 20)
            except zlib.error as error:
                raise ValueError(f"not gzip: {error}") from error
            chunk = inflate.unconsumed_tail
            *whole, rest = rest.split(b"\n")
            yield from whole
            if len(rest) > LONGEST_LINE:
                raise ValueError("a line is too long")
    if rest or not inflate.eof:
        raise ValueError("it ends in the middle")


def write_manifest(stream: t.BinaryIO, entries: t.Iterable[Entry]) -> int:
    """Write entries compressed; the same entries always give the same bytes. How many there were."""
    count = 0
    with gzip.GzipFile(filename="", mode="wb", fileobj=stream, compresslevel=6, mtime=0) as packed:
        for entry in entries:
            packed.write(entry.line())
            count += 1
    return count
