# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carrying out a plan in the direction from the directory to the bucket. PRIVATE to the collection."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, NotFound, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import MIB, ObjectInfo, part_size_for, run_all
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.digests import Fingerprint
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.inventory import Row
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.manifest import (
    Entry,
    mode_text,
    time_text,
    write_manifest,
)
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.names import path_text
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.place import Folder
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.tree import Tree

PART = 8 * MIB
STALE_UPLOAD = 24 * 3600
_FINAL = """SELECT r.path, r.size, r.etag, coalesce(h.sha256, c.sha256, r.sha256), coalesce(l.mode & 511, r.mode),
    coalesce(l.mtime, r.mtime) FROM remote r LEFT JOIN local l ON l.path = r.path
    LEFT JOIN hashed h ON h.path = l.path LEFT JOIN cached c ON c.path = l.path WHERE true"""


class Push:
    """One run of one plan. Files are uploaded first; the manifest is written last."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._inventory = tree.inventory
        self._store = tree.store
        self._prefix = tree.options.folder
        self.kept_path = f"{self._prefix.rstrip('/') or 'tree'}.aside/{tree.plan.digest}"
        self._lock = threading.Lock()
        self.files = 0

    def run(self) -> None:
        """Carry the plan out; a failure leaves whole objects only, and the next run goes on."""
        with contextlib.suppress(OpsError):  # tidying up is no reason to fail
            self._store.sweep_uploads(self._prefix, STALE_UPLOAD)
        self._remove("clear")
        try:
            self._upload()
        except BaseException:
            self._inventory.save_hashes(self._tree.ground.state_file)
            raise
        count = int(self._inventory.execute("SELECT count(*) FROM action WHERE kind = 'aside'")[0][0])
        with self._tree.progress.phase("aside", count, unit="objects"):
            self._remove("aside")
        if self._tree.paths("manifest"):
            self._write_manifest()

    def _upload(self) -> None:
        jobs = self._tree.options.jobs
        total = int(self._inventory.execute("SELECT coalesce(sum(size), 0) FROM action WHERE kind IN ('upload', 'replace')")[0][0])
        with self._tree.progress.phase("transfer", total), Folder(self._tree.ground.path) as root:
            run_all(lambda row: self._upload_one(root, row, 1), self._wanted(below=PART + 1), jobs)
            for row in self._wanted(least=PART + 1):
                self._upload_one(root, row, jobs)

    def _wanted(self, *, below: int | None = None, least: int = 0) -> t.Iterator[Row]:
        for kind in ("upload", "replace"):
            yield from self._tree.actions(kind, below=below, least=least)

    def _upload_one(self, root: Folder, row: Row, workers: int) -> None:
        path, size, total = row
        sha256 = total.partition(":")[2]
        key = self._prefix + path_text(path)
        mode, mtime, replaced = self._inventory.execute(
            "SELECT l.mode & 511, l.mtime, r.path IS NOT NULL FROM local l LEFT JOIN listed r ON r.path = l.path WHERE l.path = ?",
            [path],
        )[0]
        metadata = {"sha256": sha256, "mode": mode_text(mode), "mtime": time_text(mtime)}
        if replaced:
            self._keep(path)
        with root.parent(path) as (folder, name):
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        with os.fdopen(handle, "rb", buffering=0) as stream:
            if size <= PART:
                info = self._put_whole(stream, key, size, sha256, metadata)
            else:
                info = self._put_parts(stream, key, size, sha256, metadata, workers)
            facts = os.fstat(stream.fileno())
        with self._lock:
            self.files += 1
        self._inventory.insert("listed", [(path, size, info.etag)])
        self._inventory.describe([Entry(path, size, info.etag, sha256, mode, mtime)])
        if (facts.st_size, facts.st_mtime_ns) == (size, mtime):
            self._inventory.remember(path, facts, Fingerprint(sha256, info.etag))

    def _put_whole(self, stream: t.Any, key: str, size: int, sha256: str, metadata: dict[str, str]) -> ObjectInfo:
        data = os.pread(stream.fileno(), size + 1, 0)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise _changed(key)
        info = self._store.put(key, data, metadata=metadata)
        self._tree.progress.advance(size)
        return info

    def _put_parts(self, stream: t.Any, key: str, size: int, sha256: str, metadata: dict[str, str], workers: int) -> ObjectInfo:
        """Upload in parts. What is sent is hashed again in order before the object appears, so its sha256 is true."""
        part = part_size_for(size, PART)
        sums: dict[int, bytes] = {}
        with self._store.multipart(key, metadata=metadata) as upload:

            def send(number: int) -> None:
                data = os.pread(stream.fileno(), part, number * part)
                sums[number] = hashlib.md5(data, usedforsecurity=False).digest()
                upload.part(number + 1, data)
                self._tree.progress.advance(len(data))

            run_all(send, range(-(-size // part)), workers)
            whole = hashlib.sha256()
            for number in range(-(-size // part) + 1):
                data = os.pread(stream.fileno(), part, number * part)
                if data and sums.get(number) != hashlib.md5(data, usedforsecurity=False).digest():
                    raise _changed(key)
                whole.update(data)
            if whole.hexdigest() != sha256:
                raise _changed(key)
            return upload.complete()

    # -- keeping what is replaced or removed ---------------------------------------------------------------------------

    def _keep(self, path: bytes) -> None:
        if self._tree.versions:
            return
        text = path_text(path)
        with contextlib.suppress(NotFound):
            self._store.copy(self._prefix + text, f"{self.kept_path}/{text}")

    def _remove(self, kind: str) -> None:
        for path, _size, _sum in self._tree.actions(kind):
            self._keep(path)
            self._store.delete([self._prefix + path_text(path)])
            self._inventory.execute("DELETE FROM listed WHERE path = ?", [path])
            self._tree.progress.advance(1)

    def _write_manifest(self) -> None:
        entries = (Entry(*row) for row in self._inventory.rows(_FINAL, column="r.path"))
        with tempfile.NamedTemporaryFile(prefix="fileforge-manifest-") as stream:
            count = write_manifest(t.cast(t.BinaryIO, stream), entries)
            stream.flush()
            self._store.put_file(
                stream.name, self._tree.manifest_key or "", metadata={"entries": str(count)}, content_type="application/gzip"
            )

    def summary(self) -> str:
        """What the run leaves to be said; empty when nothing."""
        return ""


def _changed(key: str) -> IntegrityError:
    return IntegrityError(
        f"{key}: the local file changed while it was uploaded; the object was not written",
        hint="run again: the new content will be planned; finished objects are kept",
        reason="changed",
    )
