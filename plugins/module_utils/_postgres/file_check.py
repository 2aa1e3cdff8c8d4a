# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows that describe files against the files themselves. PRIVATE to the collection.

Both sides come in the same order (bytes of the path), the rows through a server-side cursor and the files by a sorted walk, and
are merged: memory does not grow with their number. Nothing is ever opened by a path that the database gave.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import fnmatch
import hashlib
import os
import stat
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, WARNING, Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, InvalidOption, NotFound
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import translated

if t.TYPE_CHECKING:
    import psycopg

BLOCK = 1024 * 1024
BATCH = 5000
"""Rows fetched at once by the cursor."""
HOSTILE, MISSING, NOT_REGULAR, SIZE, SHA256, UNREADABLE, ORPHAN = (
    "hostile",
    "missing",
    "not_regular",
    "size",
    "sha256",
    "unreadable",
    "orphan",
)
KINDS = {
    HOSTILE: (CRITICAL, "rows with a path that leaves the directory or cannot be a path"),
    MISSING: (CRITICAL, "rows whose file is missing"),
    NOT_REGULAR: (CRITICAL, "rows whose file is not a regular file"),
    SIZE: (CRITICAL, "files whose size is not the row's"),
    SHA256: (CRITICAL, "files whose SHA-256 is not the row's"),
    UNREADABLE: (CRITICAL, "files that cannot be read"),
    ORPHAN: (WARNING, "files without a row"),
}
"""Kind of finding -> its status and what it counts."""


class Row(t.NamedTuple):
    """What the database says of a file."""

    path: bytes
    size: int | None
    sha256: str | None


class Entry(t.NamedTuple):
    """What the directory holds."""

    path: bytes
    size: int
    regular: bool


@dataclasses.dataclass
class Comparison:
    """Counts of everything and the first findings of each kind."""

    max_findings: int
    rows: int = 0
    files: int = 0
    hashed: int = 0
    hashed_bytes: int = 0
    counts: t.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    findings: dict[str, list[dict[str, t.Any]]] = dataclasses.field(default_factory=dict)

    def add(self, kind: str, path: bytes, expected: t.Any = None, found: t.Any = None) -> None:
        """Count a problem, and keep it while there is room for its kind."""
        self.counts[kind] += 1
        kept = self.findings.setdefault(kind, [])
        if len(kept) < self.max_findings:
            text = ascii(os.fsdecode(path))[1:-1] if kind == HOSTILE else os.fsdecode(path).encode(errors="replace").decode()
            kept.append({"kind": kind, "path": text[:1000], "expected": expected, "found": found})

    def all_findings(self) -> list[dict[str, t.Any]]:
        """The kept ones, in the order of ``KINDS``."""
        return [finding for kind in KINDS for finding in self.findings.get(kind, [])]

    def checks(self, hashing: bool) -> list[Check]:
        """``files.<kind>`` for each kind of finding."""
        result = []
        for kind, (bad, words) in KINDS.items():
            if kind == SHA256 and not hashing:
                continue
            count = self.counts[kind]
            kept = [finding["path"] for finding in self.findings.get(kind, [])][:10]
            summary = f"{count} {words} ({self.rows} rows, {self.files} files)"
            if kept:
                summary += f", first: {kept[0]}"
            hint = "runbook: Disaster Recovery, Full System Restore" if count else ""
            check = Check(f"files.{kind}", bad if count else OK, summary, value=count, unit="files", hint=hint, evidence=kept)
            result.append(check)
        return result


def compare(
    rows: t.Iterable[Row], directory: str, *, hashing: bool, jobs: int, max_findings: int, ignore: t.Sequence[str] = ()
) -> Comparison:
    """Merge rows and files. Both must be in ascending order of the path's bytes; equal paths may follow each other in rows."""
    result = Comparison(max_findings)
    with _Hasher(directory, jobs, result) as hasher:
        entries = walk(directory, ignore)
        entry = next(entries, None)
        matched = False
        for row in _usable(rows, result):
            while entry is not None and entry.path < row.path:
                _leave(result, entry, matched)
                entry, matched = next(entries, None), False
            if entry is None or entry.path != row.path:
                result.add(MISSING, row.path)
                continue
            matched = True
            if _looks_right(result, row, entry) and hashing and row.sha256:
                hasher.submit(entry, row.sha256)
        while entry is not None:
            _leave(result, entry, matched)
            entry, matched = next(entries, None), False
    return result


def rows_of(connection: psycopg.Connection[t.Any], sql: str) -> t.Iterator[Row]:
    """Stream a query with the columns ``path``, ``size`` and ``sha256`` (the last two optional) in the order of the path."""
    ordered = f'SELECT * FROM ({sql.strip().rstrip(";")}\n) AS described ORDER BY path COLLATE "C"'  # noqa: S608 - the user's own
    with translated("the query of files"), connection.transaction(force_rollback=True):
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        with connection.cursor(name="fileforge_files") as cursor:
            cursor.itersize = BATCH
            cursor.execute(ordered.encode())
            for row in cursor:
                yield _row(row)


def _row(row: t.Mapping[str, t.Any]) -> Row:
    path, size, digest = row["path"], row.get("size"), row.get("sha256")
    if isinstance(digest, (bytes, memoryview)):
        digest = bytes(digest).hex()
    data = b"" if path is None else str(path).encode("utf-8", "surrogateescape")
    return Row(data, None if size is None else int(size), digest.strip().lower() if digest else None)


def walk(directory: str, ignore: t.Sequence[str] = ()) -> t.Iterator[Entry]:
    """Everything below a directory that is not a directory, in ascending order of the relative path's bytes.

    Symbolic links are not followed. ``ignore``: shell patterns of names (of files and of whole directories).
    """
    root = os.fsencode(directory).rstrip(b"/") or b"/"
    if not os.path.isdir(root):
        raise NotFound(f"the directory {directory} does not exist", hint="restore the files first, or check path")
    patterns = [os.fsencode(pattern) for pattern in ignore]
    above = len(os.path.join(root, b""))
    stack = [_listing(root, patterns)]
    while stack:
        item = next(stack[-1], None)
        if item is None:
            stack.pop()
        elif item.is_dir(follow_symlinks=False):
            stack.append(_listing(item.path, patterns))
        else:
            status = _status(item)
            if status is not None:
                yield Entry(item.path[above:], status.st_size, stat.S_ISREG(status.st_mode))


def _listing(place: bytes, patterns: t.Sequence[bytes]) -> t.Iterator[os.DirEntry[bytes]]:
    try:
        with os.scandir(place) as found:
            items = [item for item in found if not any(fnmatch.fnmatchcase(item.name, pattern) for pattern in patterns)]
    except FileNotFoundError:
        items = []  # removed meanwhile
    except PermissionError as error:
        raise InvalidOption("path", os.fsdecode(place), "cannot be read by this user", hint="use become") from error
    return iter(sorted(items, key=lambda item: item.name + (b"/" if item.is_dir(follow_symlinks=False) else b"")))


def _status(item: os.DirEntry[bytes]) -> os.stat_result | None:
    try:
        return item.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None


def hostile(path: bytes) -> bool:
    """Whether a path could lead out of its directory or cannot be the name of a file."""
    if not path or path.startswith(b"/") or any(byte < 32 or byte == 127 for byte in path):
        return True
    return any(part in (b"", b".", b"..") or len(part) > 255 for part in path.split(b"/"))


def _usable(rows: t.Iterable[Row], result: Comparison) -> t.Iterator[Row]:
    before = b""
    for row in rows:
        result.rows += 1
        if row.path < before:
            raise IntegrityError(
                f"the rows are not in the order of their paths: {row.path!r} after {before!r}",
                hint="the database's encoding must be UTF-8",
            )
        before = row.path
        if hostile(row.path):
            result.add(HOSTILE, row.path)
        else:
            yield row


def _leave(result: Comparison, entry: Entry, matched: bool) -> None:
    result.files += 1
    if not matched:
        result.add(ORPHAN, entry.path)


def _looks_right(result: Comparison, row: Row, entry: Entry) -> bool:
    if not entry.regular:
        result.add(NOT_REGULAR, row.path)
        return False
    if row.size is not None and row.size != entry.size:
        result.add(SIZE, row.path, row.size, entry.size)
        return False
    return True


class _Hasher:
    """Hashes files in threads; at most a few files are waiting. Results are added by the caller's thread only."""

    def __init__(self, directory: str, jobs: int, result: Comparison) -> None:
        self._root = os.fsencode(directory)
        self._result = result
        self._pool = concurrent.futures.ThreadPoolExecutor(jobs)
        self._waiting: collections.deque[tuple[Entry, str, concurrent.futures.Future[str]]] = collections.deque()
        self._limit = 4 * jobs

    def __enter__(self) -> _Hasher:
        return self

    def __exit__(self, kind: object, *_details: object) -> None:
        try:
            while kind is None and self._waiting:
                self._collect()
        finally:
            self._pool.shutdown(wait=True)

    def submit(self, entry: Entry, expected: str) -> None:
        """Queue a file."""
        if len(self._waiting) >= self._limit:
            self._collect()
        self._waiting.append((entry, expected, self._pool.submit(sha256_of, self._root, entry.path)))

    def _collect(self) -> None:
        entry, expected, future = self._waiting.popleft()
        try:
            found = future.result()
        except OSError as error:
            self._result.add(UNREADABLE, entry.path, found=error.strerror)
            return
        self._result.hashed += 1
        self._result.hashed_bytes += entry.size
        if found != expected:
            self._result.add(SHA256, entry.path, expected, found)


def sha256_of(root: bytes, path: bytes) -> str:
    """Hash a file below ``root`` without following a symbolic link in its last component."""
    digest = hashlib.sha256()
    handle = os.open(os.path.join(root, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(handle, "rb", buffering=0) as stream:
        while True:
            block = stream.read(BLOCK)
            if not block:
                return digest.hexdigest()
            digest.update(block)
