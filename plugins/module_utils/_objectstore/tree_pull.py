# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carrying out a plan in the direction from the bucket to the directory. PRIVATE to the collection."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import threading
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import MIB, ObjectInfo, run_all
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.compare import described
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.digests import Fingerprint, hash_file, part_count
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.inventory import Row
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.manifest import Entry
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.names import folders, path_text
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.place import PRIVATE_FOLDER, Folder
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.transfer import (
    Written,
    check_written,
    fetch_ranges,
    finish_file,
    split_ranges,
    write_pieces,
)
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.tree import Tree

BIG = 16 * MIB
PIECE = 4 * MIB
NEW_FILE = 0o644
MOST_DAMAGED = 100
_REMOTE = """SELECT r.size, r.etag, r.sha256, r.mode, r.mtime, l.mode, l.uid, l.gid
    FROM remote r LEFT JOIN local l ON l.path = r.path WHERE r.path = ?"""


class Pull:
    """One run of one plan. Files are fetched first; what is not in the bucket is moved aside last."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._inventory = tree.inventory
        self._ground = tree.ground
        self._number = itertools.count()
        self._lock = threading.Lock()
        self._damaged: list[IntegrityError] = []
        self._touched: set[bytes] = set()
        self.unchecked = 0
        self.files = 0
        self.kept_path = os.path.join(self._ground.aside, tree.plan.digest)
        with contextlib.ExitStack() as stack:
            self._root = stack.enter_context(Folder(self._ground.path, owner=tree.owner))
            self._kept = stack.enter_context(_made(self.kept_path))
            self._handles = stack.pop_all()

    def run(self) -> None:
        """Carry the plan out; a failure leaves whole files only, and the next run goes on."""
        with self._handles:
            shutil.rmtree(self._ground.partial, ignore_errors=True)
            os.mkdir(self._ground.partial, PRIVATE_FOLDER)
            self._clear()
            try:
                self._fetch()
            except BaseException:
                self._inventory.save_hashes(self._ground.state_file)
                raise
            self._move_aside()
            self._set_facts()
            self._root.sync(sorted(self._touched))
        shutil.rmtree(self._ground.partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.rmdir(self.kept_path)  # when nothing had to be kept

    # -- moving aside -------------------------------------------------------------------------------------------------

    def _clear(self) -> None:
        """Move away what stands where a directory or file of the bucket belongs."""
        for path, _size, _sum in self._tree.actions("clear"):
            self._root.move_to(path, self._kept)
        in_way = self._inventory.execute("SELECT d.path FROM local_folder d JOIN listed r ON r.path = d.path")
        for (top,) in in_way:
            below = self._inventory.execute("SELECT path FROM local_folder WHERE path > ? AND path < ?", (top + b"/", top + b"0"))
            self._prune({top, *(row[0] for row in below)})

    def _move_aside(self) -> None:
        count = int(self._inventory.execute("SELECT count(*) FROM action WHERE kind = 'aside'")[0][0])
        with self._tree.progress.phase("aside", count, unit="files") as phase:
            emptied: set[bytes] = set()
            for path, _size, _sum in self._tree.actions("aside"):
                self._root.move_to(path, self._kept)
                self._touch(path)
                emptied.update(folders(path))
                phase.advance(1)
            self._prune(emptied)

    def _prune(self, candidates: set[bytes]) -> None:
        for folder in sorted(candidates, key=lambda path: path.count(b"/"), reverse=True):
            if self._root.prune(folder):
                self._touch(folder)

    def _touch(self, path: bytes) -> None:
        with self._lock:
            self._touched.add(os.path.dirname(path))

    # -- fetching -----------------------------------------------------------------------------------------------------

    def _fetch(self) -> None:
        jobs = self._tree.options.jobs
        total = int(self._inventory.execute("SELECT coalesce(sum(size), 0) FROM action WHERE kind IN ('fetch', 'replace')")[0][0])
        with self._tree.progress.phase("transfer", total):
            run_all(lambda row: self._fetch_one(row, 1), self._wanted(below=BIG), jobs)
            for row in self._wanted(least=BIG):
                self._fetch_one(row, jobs)
        if self._damaged:
            raise self._all_damaged()

    def _wanted(self, *, below: int | None = None, least: int = 0) -> t.Iterator[Row]:
        for kind in ("fetch", "replace"):
            yield from self._tree.actions(kind, below=below, least=least)

    def _fetch_one(self, row: Row, workers: int) -> None:
        path = row[0]
        partial = os.path.join(self._ground.partial, str(next(self._number)))
        try:
            self._fetch_to(partial, path, workers)
        except IntegrityError as error:
            if error.state.get("reason") != "damaged" or len(self._damaged) >= MOST_DAMAGED:
                raise
            with self._lock:
                self._damaged.append(error)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)

    def _fetch_to(self, partial: str, path: bytes, workers: int) -> None:
        size, etag, sha256, mode, mtime, old_mode, old_uid, old_gid = self._inventory.execute(_REMOTE, [path])[0]
        entry = Entry(path, size, etag, sha256, mode, mtime)
        info, entry, written = self._receive(partial, entry, workers)
        checked = check_written(self._tree.store.options.where, info, entry.sha256, written)
        if not checked and part_count(etag):
            checked = hash_file(os.fsencode(partial), etag).etag == etag
        uid, gid = self._tree.owner or (-1, -1)
        owner = (uid if uid >= 0 else _or(old_uid, -1), gid if gid >= 0 else _or(old_gid, -1))
        finish_file(
            partial,
            mode=_or(entry.mode, _or(old_mode, NEW_FILE)),
            owner=owner if os.geteuid() == 0 or self._tree.owner else None,
            mtime_ns=entry.mtime,
        )
        facts = self._root.place(partial, path, self._kept)
        self._inventory.remember(path, facts, Fingerprint(written.sha256, etag))
        self._touch(path)
        with self._lock:
            self.unchecked += not checked
            self.files += 1

    def _receive(self, partial: str, entry: Entry, workers: int) -> tuple[ObjectInfo, Entry, Written]:
        """Write the object's bytes; what it turned out to be, and what is known of the file."""
        store, key = self._tree.store, self._tree.options.folder + path_text(entry.path)
        advance = self._tree.progress.advance
        if workers > 1:
            info = ObjectInfo(key, entry.size, entry.etag) if entry.sha256 else store.head(key)
            pieces = fetch_ranges(store, key, entry.etag, split_ranges(entry.size, PIECE), workers=workers)
            with contextlib.closing(pieces):  # type: ignore[type-var]
                written = write_pieces(partial, pieces, advance, md5=entry.sha256 is None)
        else:
            seen: list[ObjectInfo] = []
            stream = store.stream(key, etag=entry.etag, on_info=seen.append)
            written = write_pieces(partial, stream, advance, md5=entry.sha256 is None)
            info = seen[0]
        if entry.sha256 is None:
            entry = described(entry.path, entry.size, entry.etag, info.metadata)
        return info, entry, written

    def _all_damaged(self) -> OpsError:
        first = self._damaged[0]
        keys = sorted(str(error.state.get("key")) for error in self._damaged)
        return IntegrityError(
            f"{len(keys)} objects are damaged and were not written; the other files were. First: {first.message}",
            hint=first.hint,
            reason="damaged",
            damaged_keys=keys,
            files=self.files,
        )

    # -- attributes ---------------------------------------------------------------------------------------------------

    def _set_facts(self) -> None:
        owner = self._tree.owner
        for path, _size, _sum in self._tree.actions("set"):
            mode, mtime = self._inventory.execute("SELECT mode, mtime FROM remote WHERE path = ?", [path])[0]
            known = self._inventory.execute(
                "SELECT sha256, etag FROM hashed WHERE path = ? UNION ALL SELECT sha256, etag FROM cached WHERE path = ?",
                [path, path],
            )
            facts = self._root.set_facts(path, mode, owner, mtime)
            if known:
                self._inventory.remember(path, facts, Fingerprint(*known[0]))

    def summary(self) -> str:
        """What the run leaves to be said; empty when nothing."""
        if not self.unchecked:
            return ""
        return (
            f"{self.unchecked} objects have no checksum that could be compared: no sha256 in a manifest or in their metadata, "
            "and uploaded in parts of an unknown size"
        )


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _made(path: str) -> Folder:
    os.makedirs(path, PRIVATE_FOLDER, exist_ok=True)
    return Folder(path, mode=PRIVATE_FOLDER)
