# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filling a directory from an indexed archive: parallel ranges, every file verified, resumable. PRIVATE to the collection.

Members of the archive are fetched in batches and unpacked by as many threads as there are jobs; a file's bytes go to their place
at once and are hashed in order from the page cache as soon as they are contiguous, so memory is bounded by the batches in
flight. A file counts only after its SHA-256 was right; that is noted in a journal, which lets a second run skip it cheaply.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import stat
import threading
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._archive.index import DIRECTORY, FILE, LINK, Archive, FileEntry, Member
from ansible_collections.fileforge.ops.plugins.module_utils._archive.reader import Piece, decode_member, pieces_of
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_files import (
    PIECE,
    Tree,
    copy_bytes,
    write_all,
)
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import Store, run_all

BATCH_PACKED = 4 << 20
BATCH_UNPACKED = 32 << 20
UNPACKING = 4
"""Members that are unpacked at the same time at most: each takes memory of twice its size, and a processor."""
ATTEMPTS = 3
"""Tries of one batch whose bytes arrive damaged although their length is right."""

OnBytes = t.Callable[[int], None]


# What is there already


class Journal:
    """Files that were verified, as one JSON line each. Lines of another boot are not believed: their bytes may be lost."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, list[t.Any]] = {}
        boot = _boot_id()
        with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as stream:
            for line in stream:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    row = json.loads(line)
                    if row["boot"] == boot:
                        self._known[row["path"]] = list(row["stat"])
        self._boot = boot
        self._stream = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed by close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stream.close()

    def note(self, name: str, sha256: str, state: os.stat_result) -> None:
        """Remember that a file had this content when it looked like this."""
        line = json.dumps({"path": name, "stat": [sha256, *_marks(state)], "boot": self._boot})
        with self._lock:
            self._stream.write(f"{line}\n")

    def knows(self, name: str, sha256: str, state: os.stat_result) -> bool:
        """Whether a file had this content and has not changed since."""
        return self._known.get(name) == [sha256, *_marks(state)]


def _marks(state: os.stat_result) -> list[int]:
    return [state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return f"unknown-{os.getpid()}"


@dataclasses.dataclass
class Tally:
    """Bytes of files by where they came from."""

    present: int = 0
    """Left by an earlier run."""
    copied: int = 0
    """Taken from the old directory."""
    fetched: int = 0
    downloaded: int = 0
    """Compressed bytes read from the bucket."""

    def as_dict(self) -> dict[str, int]:
        """For results."""
        return dataclasses.asdict(self)


class Filler:
    """Fills one tree from one archive. ``skip`` are paths that are not wanted (yet)."""

    def __init__(
        self,
        store: Store,
        archive: Archive,
        tree: Tree,
        journal: Journal,
        *,
        strip: str = "",
        jobs: int = 4,
        on_bytes: OnBytes = lambda count: None,
    ) -> None:
        self._store = store
        self._archive = archive
        self._tree = tree
        self._journal = journal
        self._strip = strip
        self._jobs = jobs
        self._on_bytes = on_bytes
        self._lock = threading.Lock()
        self._unpacking = threading.BoundedSemaphore(UNPACKING)
        self.tally = Tally()

    def name(self, entry: FileEntry) -> str:
        """The entry's path below the tree's root."""
        return entry.path[len(self._strip) + 1 :] if self._strip else entry.path

    def shape(self) -> None:
        """Make directories and links; the links to tablespaces are made by whoever knows where these are now."""
        for entry in self._archive.files:
            name = self.name(entry)
            if entry.type == DIRECTORY and name:
                self._tree.directory(name, entry.mode)
            elif entry.type == LINK and name and not name.startswith("pg_tblspc/"):
                self._tree.link(name, entry.target)

    def fill(self, wanted: t.Sequence[FileEntry], old: str | None = None) -> None:
        """Bring every wanted file into the tree, verified: kept from an earlier run, copied from ``old``, or fetched."""
        rest: list[FileEntry] = []

        def look(entry: FileEntry) -> None:
            if not self._present(entry) and not (old is not None and self._copy(entry, old)):
                with self._lock:
                    rest.append(entry)

        run_all(look, wanted, self._jobs)
        rest.sort(key=lambda entry: entry.offset)
        self._fetch(rest)

    def _count(self, what: str, size: int) -> None:
        with self._lock:
            setattr(self.tally, what, getattr(self.tally, what) + size)
        self._on_bytes(size)

    def _present(self, entry: FileEntry) -> bool:
        name = self.name(entry)
        state = self._tree.state(name)
        if state is None or not stat.S_ISREG(state.st_mode) or state.st_size != entry.size:
            return False
        key = self._journal_name(name)
        if not self._journal.knows(key, entry.sha256, state):
            handle = self._tree.open(name)
            try:
                if hash_file(handle, entry.size) != entry.sha256:
                    return False
                self._tree.finish(handle, entry.mode, entry.mtime)
                self._journal.note(key, entry.sha256, os.fstat(handle))
            finally:
                os.close(handle)
        self._count("present", entry.size)
        return True

    def _journal_name(self, name: str) -> str:
        return f"{self._archive.oid or ''}:{name}"

    def _copy(self, entry: FileEntry, old: str) -> bool:
        """Copy from the old directory and keep the copy if it is right. A server may write there: only the copy is judged."""
        if not entry.size:
            return False
        name = self.name(entry)
        source = _open_source(old, name, entry.size)
        if source is None:
            return False
        try:
            target = self._tree.create(name)
            try:
                if not copy_bytes(source, target, entry.size) or hash_file(target, entry.size) != entry.sha256:
                    return False
                self._close_file(entry, target)
            finally:
                os.close(target)
        finally:
            os.close(source)
        self._count("copied", entry.size)
        return True

    def _close_file(self, entry: FileEntry, handle: int) -> None:
        self._tree.finish(handle, entry.mode, entry.mtime)
        self._journal.note(self._journal_name(self.name(entry)), entry.sha256, os.fstat(handle))

    # -- fetching -----------------------------------------------------------------------------------------------------

    def _fetch(self, wanted: t.Sequence[FileEntry]) -> None:
        for entry in wanted:
            if not entry.size:
                handle = self._tree.create(self.name(entry))
                try:
                    self._close_file(entry, handle)
                finally:
                    os.close(handle)
        named = {entry.path: entry for entry in wanted if entry.size}
        batches = join_pieces(pieces_of(self._archive, named.keys()))
        arriving = {path: _Arriving(self, entry) for path, entry in named.items()}
        try:
            run_all(lambda batch: self._batch(batch, arriving), batches, self._jobs)
        finally:
            for file in arriving.values():
                file.abandon()

    def _batch(self, batch: t.Sequence[Piece], arriving: dict[str, _Arriving]) -> None:
        base = batch[0].member.c_off
        data = memoryview(self._get(base, batch[-1].member.c_end))
        for piece in batch:
            member = piece.member
            with self._unpacking:
                content = memoryview(self._content(member, bytes(data[member.c_off - base : member.c_end - base])))
                for part in piece.parts:
                    arriving[part.entry.path].accept(part.position, content[part.start : part.start + part.length])
                del content

    def _get(self, begin: int, end: int) -> bytearray:
        """A range of the archive, put together without holding its bytes twice."""
        data = bytearray(end - begin)
        offset = 0
        for chunk in self._store.stream(self._archive.key, start=begin, length=end - begin, etag=self._archive.etag):
            data[offset : offset + len(chunk)] = chunk
            offset += len(chunk)
        with self._lock:
            self.tally.downloaded += len(data)
        return data

    def _content(self, member: Member, data: bytes) -> bytes:
        """The member's content; fetched again when it arrived damaged, because not every path checks what it carries."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return decode_member(member, data)
            except IntegrityError as error:
                if attempt == ATTEMPTS:
                    raise IntegrityError(
                        f"{self._archive.key}: {error.message}", hint="the backup is damaged: choose another one"
                    ) from error
            data = bytes(self._get(member.c_off, member.c_end))
        raise IntegrityError(f"{self._archive.key}: unreachable")


def join_pieces(pieces: t.Iterable[Piece]) -> t.Iterator[list[Piece]]:
    """Pieces whose members follow each other, joined to ranges of bounded size."""
    batch: list[Piece] = []
    packed = unpacked = 0
    for piece in pieces:
        member = piece.member
        packed, unpacked = packed + member.c_len, unpacked + member.u_len
        if batch and (batch[-1].member.c_end != member.c_off or packed > BATCH_PACKED or unpacked > BATCH_UNPACKED):
            yield batch
            batch, packed, unpacked = [], member.c_len, member.u_len
        batch.append(piece)
    if batch:
        yield batch


class _Arriving:
    """One file whose bytes come in any order."""

    def __init__(self, filler: Filler, entry: FileEntry) -> None:
        self._filler = filler
        self._entry = entry
        self._lock = threading.Lock()
        self._handle = -1
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._pieces: dict[int, int] = {}
        self._hashing = False
        self._done = False

    def accept(self, offset: int, data: memoryview) -> None:
        """Write bytes to their place; whoever makes the file contiguous hashes it. Bytes that came before are ignored."""
        with self._lock:
            if self._done or offset in self._pieces or offset < self._hashed:
                return
            if self._handle < 0:
                self._handle = self._filler._tree.create(self._filler.name(self._entry))
        write_all(self._handle, data, offset)
        self._filler._count("fetched", len(data))
        with self._lock:
            self._pieces[offset] = len(data)
            if self._hashing:
                return
            self._hashing = True
        self._advance(offset, data)

    def _advance(self, offset: int, data: memoryview) -> None:
        while True:
            with self._lock:
                length = self._pieces.pop(self._hashed, None)
                if length is None:
                    self._hashing = False
                    complete = self._hashed == self._entry.size and not self._done
                    self._done = self._done or complete
                    break
            if self._hashed == offset:
                self._hash.update(data)
            else:
                for piece in read_pieces(self._handle, self._hashed, length):
                    self._hash.update(piece)
            self._hashed += length
        if complete:
            self._finish()

    def _finish(self) -> None:
        handle, self._handle = self._handle, -1
        try:
            if self._hash.hexdigest() != self._entry.sha256:
                raise IntegrityError(
                    f"{self._filler._archive.key}: {self._entry.path} does not have the SHA-256 that the index promises",
                    hint="the backup is damaged: choose another one",
                )
            self._filler._close_file(self._entry, handle)
        finally:
            os.close(handle)

    def abandon(self) -> None:
        """Close what an error left open."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def read_pieces(handle: int, offset: int, length: int) -> t.Iterator[bytes]:
    """``length`` bytes of a file from ``offset``, a piece at a time; fewer when it is shorter."""
    end = offset + length
    while offset < end:
        data = os.pread(handle, min(PIECE, end - offset), offset)
        if not data:
            return
        offset += len(data)
        yield data


def hash_file(handle: int, size: int) -> str:
    """SHA-256 of the first ``size`` bytes."""
    found = hashlib.sha256()
    for piece in read_pieces(handle, 0, size):
        found.update(piece)
    return found.hexdigest()


def _open_source(root: str, name: str, size: int) -> int | None:
    """A regular file of that size in the old directory; None when there is none. Links are not followed below the root."""
    handle = None
    try:
        handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        *folders, last = name.split("/")
        for part in folders:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
            os.close(handle)
            handle = below
        source = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=handle)
    except OSError:
        return None
    finally:
        if handle is not None:
            os.close(handle)
    state = os.fstat(source)
    if stat.S_ISREG(state.st_mode) and state.st_size == size:
        return source
    os.close(source)
    return None


# Making it last


def sync_tree(root: str, jobs: int, on_file: t.Callable[[int], None] = lambda count: None) -> None:
    """fsync every file and directory below (and including) ``root``; links are not followed."""
    folders: list[str] = []
    files: list[str] = []
    for folder, _names, names in os.walk(root):
        folders.append(folder)
        files.extend(os.path.join(folder, name) for name in names)

    def sync(path: str) -> None:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if os.path.islink(path):
                return
            raise OpsError(f"{path}: cannot be opened to sync it: {error.strerror}") from error
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        on_file(1)

    with concurrent.futures.ThreadPoolExecutor(max(4, jobs)) as pool:
        for _done in pool.map(sync, files):
            pass
    for folder in reversed(folders):
        sync(folder)


def files_of(archive: Archive) -> list[FileEntry]:
    """The regular files of an archive, in its order."""
    return [entry for entry in archive.files if entry.type == FILE]
