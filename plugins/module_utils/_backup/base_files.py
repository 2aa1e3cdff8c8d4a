# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a running cluster as a base backup needs them: which, and how they are read. PRIVATE to the collection.

What is left out follows PostgreSQL's own base backup: contents that every start makes anew, temporary files, and relations that
are not logged (but not their initialisation forks). A file that vanishes is left out, one that shrinks is filled up with zeros
and one that grows is cut at the size it had when it was opened: replay of the WAL since the backup's start makes all of them right.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import stat
import threading
import time
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._archive.index import DIRECTORY, FILE, LINK, ChecksumFailure
from ansible_collections.fileforge.ops.plugins.module_utils._archive.writer import BytesSource, Entry, Source
from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import pages

EMPTIED = {"pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"}
"""Directories of the data directory that are kept without their contents."""
WAL = "pg_wal"
WAL_DIRECTORIES = ("archive_status", "summaries")
LEFT_OUT = {
    "backup_label",
    "backup_label.old",
    "backup_manifest",
    "current_logfiles.tmp",
    "postgresql.auto.conf.tmp",
    "postmaster.opts",
    "postmaster.pid",
    "tablespace_map",
    "tablespace_map.old",
    ".DS_Store",
}
LEFT_OUT_PREFIXES = ("pgsql_tmp", "pg_internal.init")
CONTROL_FILE = "global/pg_control"
_TEMPORARY = re.compile(r"t[0-9]+_[0-9]+(?:_(?:fsm|vm))?(?:\.[0-9]+)?")
_UNLOGGED = re.compile(r"([0-9]+)_init")
_FORK = re.compile(r"([0-9]+)(?:_(?:fsm|vm))?(?:\.[0-9]+)?")
_DATABASE = re.compile(r"(?:base|PG_[0-9]+_[0-9]+)/[0-9]+")
_SLICE = 1 << 20
REPORTED_FAILURES = 1000
"""Checksum failures that are recorded at most."""


@dataclasses.dataclass(frozen=True)
class Found:
    """One thing to archive. ``segment`` is the number of the relation segment when its pages have checksums."""

    path: str
    type: str
    state: os.stat_result
    target: str = ""
    segment: int | None = None

    @property
    def size(self) -> int:
        """Bytes to copy."""
        return self.state.st_size if self.type == FILE else 0


@dataclasses.dataclass
class Tree:
    """What is below one root, parents first."""

    root: str
    found: list[Found] = dataclasses.field(default_factory=list)
    skipped: list[str] = dataclasses.field(default_factory=list)
    """Special files and symbolic links, which a base backup cannot carry."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(item.size for item in self.found)


def data_tree(root: str, tablespaces: t.Collection[str] = ()) -> Tree:
    """The data directory without ``global/pg_control``; ``tablespaces`` are locations that have archives of their own."""
    tree = Tree(root)
    inside = {os.path.realpath(place) for place in tablespaces}
    _walk(tree, "", inside)
    return tree


def tablespace_tree(location: str, version_directory: str) -> Tree:
    """A tablespace: only the directory of this server's version."""
    tree = Tree(location)
    path = os.path.join(location, version_directory)
    tree.found.append(Found(version_directory, DIRECTORY, os.lstat(path)))
    _walk(tree, version_directory, set())
    return tree


def _walk(tree: Tree, directory: str, inside: set[str]) -> None:
    names = _names(os.path.join(tree.root, directory))
    unlogged = _unlogged(names) if _DATABASE.fullmatch(directory) else frozenset()
    for name in names:
        path = f"{directory}/{name}" if directory else name
        if _left_out(directory, name, unlogged):
            continue
        try:
            state = os.lstat(os.path.join(tree.root, path))
        except FileNotFoundError:
            continue
        if path == WAL:
            _add_wal(tree, state)
        elif stat.S_ISDIR(state.st_mode):
            tree.found.append(Found(path, DIRECTORY, state))
            if not (path in EMPTIED or os.path.join(os.path.realpath(tree.root), path) in inside):
                _walk(tree, path, inside)
        elif stat.S_ISREG(state.st_mode):
            segment = pages.segment_of(name) if _DATABASE.fullmatch(directory) or directory == "global" else None
            tree.found.append(Found(path, FILE, state, segment=segment))
        elif stat.S_ISLNK(state.st_mode) and directory == "pg_tblspc":
            tree.found.append(Found(path, LINK, state, target=os.readlink(os.path.join(tree.root, path))))
        else:
            tree.skipped.append(path)


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []  # a database that was dropped meanwhile
    except PermissionError as error:
        raise Refused(
            "data_directory_unreadable",
            f"{path}: {error.strerror}",
            hint="run the module as the user that PostgreSQL runs as, or as root (become_user: postgres)",
        ) from error


def _unlogged(names: t.Iterable[str]) -> frozenset[str]:
    return frozenset(match[1] for match in map(_UNLOGGED.fullmatch, names) if match is not None)


def _left_out(directory: str, name: str, unlogged: t.Container[str]) -> bool:
    if name in LEFT_OUT or name.startswith(LEFT_OUT_PREFIXES) or f"{directory}/{name}" == CONTROL_FILE:
        return True
    if not _DATABASE.fullmatch(directory):
        return False
    fork = _FORK.fullmatch(name)
    return bool(_TEMPORARY.fullmatch(name)) or (fork is not None and fork[1] in unlogged)


def _add_wal(tree: Tree, state: os.stat_result) -> None:
    """An empty pg_wal, a directory even where it is a symbolic link."""
    top = os.stat(tree.root) if stat.S_ISLNK(state.st_mode) else state
    tree.found.append(Found(WAL, DIRECTORY, top))
    for name in WAL_DIRECTORIES:
        if os.path.isdir(os.path.join(tree.root, WAL, name)):
            tree.found.append(Found(f"{WAL}/{name}", DIRECTORY, top))


class Throttle:
    """Bounds how many bytes a second all readers together take; ``stop`` wakes and ends those that wait."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._next = time.monotonic()
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def take(self, count: int) -> None:
        """Wait until ``count`` more bytes may be read."""
        if self._stopped.is_set():
            raise OpsError("the backup was stopped")
        if not self._rate:
            return
        with self._lock:
            now = time.monotonic()
            wait = max(0.0, self._next - now)
            self._next = max(self._next, now) + count / self._rate
        if wait and self._stopped.wait(wait):
            raise OpsError("the backup was stopped")

    def stop(self) -> None:
        """End all waits; what comes after fails at once."""
        self._stopped.set()


@dataclasses.dataclass(frozen=True)
class PageRules:
    """How pages are judged."""

    page_size: int
    segment_pages: int
    start_lsn: int


class Reader:
    """Opens files for the archive; shared by all threads. ``rules`` None reads without looking at pages."""

    def __init__(self, rules: PageRules | None, throttle: Throttle, on_bytes: t.Callable[[int], None]) -> None:
        self.rules = rules if pages.SUPPORTED else None
        self._throttle = throttle
        self._on_bytes = on_bytes
        self._lock = threading.Lock()
        self.failures: list[ChecksumFailure] = []
        """Pages with wrong checksums, at most REPORTED_FAILURES."""
        self.failure_count = 0

    def entry(self, root: str, item: Found, shown: str = "") -> Entry:
        """The archive's entry for something found; ``shown`` is what its path is called below the data directory."""
        if item.type != FILE:
            state = item.state
            mode = stat.S_IMODE(state.st_mode)
            content = BytesSource(b"", mode, state.st_uid, state.st_gid, int(state.st_mtime))
            return Entry(item.path, lambda: content, type=item.type, target=item.target)
        return Entry(item.path, lambda: self._open(root, item, shown or item.path), size=item.size)

    def _open(self, root: str, item: Found, shown: str) -> Source | None:
        path = os.path.join(root, item.path)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None
            raise OpsError(f"{path}: {error.strerror}") from error
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            os.close(handle)
            return None
        return _OpenFile(self, handle, path, shown, item.segment, state)

    def take(self, count: int) -> None:
        """Before a read."""
        self._throttle.take(count)

    def done(self, count: int) -> None:
        """After a read."""
        self._on_bytes(count)

    def failed(self, path: str, block: int) -> None:
        """Record a page."""
        with self._lock:
            self.failure_count += 1
            if len(self.failures) < REPORTED_FAILURES:
                self.failures.append(ChecksumFailure(path, block))


class _OpenFile:
    """A file of the cluster while it is archived."""

    def __init__(self, reader: Reader, handle: int, path: str, shown: str, segment: int | None, state: os.stat_result) -> None:
        self._reader = reader
        self._handle = handle
        self._path = path
        self._shown = shown
        self._segment = segment
        self.size = state.st_size
        self.mode = stat.S_IMODE(state.st_mode)
        self.uid, self.gid, self.mtime = state.st_uid, state.st_gid, int(state.st_mtime)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly so many bytes: zeros where the file was cut meanwhile, pages verified."""
        pieces = []
        for position in range(offset, offset + length, _SLICE):
            wanted = min(_SLICE, offset + length - position)
            self._reader.take(wanted)
            piece = self._pread(position, wanted)
            pieces.append(piece)
            self._reader.done(wanted)
            if len(piece) < wanted:
                break
        data = b"".join(pieces).ljust(length, b"\0")
        rules = self._reader.rules
        if rules is None or self._segment is None or self.size % rules.page_size:
            return data
        return self._verified(rules, data, offset)

    def _pread(self, position: int, length: int) -> bytes:
        data = b""
        while len(data) < length:
            try:
                more = os.pread(self._handle, length - len(data), position + len(data))
            except OSError as error:
                raise OpsError(f"{self._path}: cannot be read at byte {position}: {error.strerror}") from error
            if not more:
                break
            data = data + more if data else more
        return data

    def _verified(self, rules: PageRules, data: bytes, offset: int) -> bytes:
        """The data, with pages that looked wrong read once more: PostgreSQL may have been writing them."""
        size = rules.page_size
        block = offset // size + (self._segment or 0) * rules.segment_pages
        wrong = pages.wrong_pages(data, block, size, rules.start_lsn)
        if not wrong:
            return data
        fixed = bytearray(data)
        for number in wrong:
            again = self._pread(offset + number * size, size)
            if len(again) == size:  # otherwise the file was cut, and replay will not look at the page
                fixed[number * size : (number + 1) * size] = again
                if pages.wrong_pages(again, block + number, size, rules.start_lsn):
                    self._reader.failed(self._shown, block + number)
        return bytes(fixed)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._handle)


def control_file(root: str) -> tuple[bytes, os.stat_result]:
    """``global/pg_control``, read until it is the same twice in a row, because the server may be writing it."""
    path = os.path.join(root, CONTROL_FILE)
    before = b""
    for _attempt in range(20):
        with open(path, "rb") as stream:
            content = stream.read()
            state = os.fstat(stream.fileno())
        if content == before:
            return content, state
        before = content
    raise OpsError(f"{path}: changes all the time")
