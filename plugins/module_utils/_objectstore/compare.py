# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files of equal size differ in content, hashing only what nothing else answers. PRIVATE to the collection."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import os
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import NotFound
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import Store
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.digests import Fingerprint, hash_file
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.inventory import KNOWN, Inventory
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.manifest import (
    Entry,
    parse_mode,
    parse_sha256,
    parse_time,
)
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.names import path_text

BATCH = 256
_PAIRS = f"""SELECT l.path, l.size, r.etag, r.sha256, coalesce(h.sha256, c.sha256), coalesce(h.etag, c.etag), o.sha256, o.etag
    FROM local l JOIN remote r ON r.path = l.path AND r.size = l.size {KNOWN}
    LEFT JOIN cached o ON o.path = l.path WHERE true"""  # noqa: S608 - constants only


@dataclasses.dataclass(frozen=True)
class Pair:
    """A path that has the same size on both sides, and what is known of both contents."""

    path: bytes
    size: int
    etag: str
    sha256: str | None
    """Of the object, where the manifest or its metadata tell."""
    known_sha256: str | None
    """Of the local file, where the cache still holds."""
    known_etag: str | None
    old_sha256: str | None
    """Of the content that was here when the cache was written, valid or not..."""
    old_etag: str | None
    """...and the ETag of the object that it came from."""

    def from_cache(self) -> bool | None:
        """Whether the contents are equal, without reading; None when that is not known."""
        if self.known_sha256 is None:
            return None
        if self.sha256 is not None:
            return self.known_sha256 == self.sha256
        return True if self.known_etag == self.etag else None

    def against(self, found: Fingerprint) -> bool | None:
        """Whether the contents are equal, given the local checksum; None when that says nothing about the object."""
        if self.sha256 is not None:
            return found.sha256 == self.sha256
        if found.etag == self.etag or (self.old_etag == self.etag and self.old_sha256 == found.sha256):
            return True
        return None


@dataclasses.dataclass(frozen=True)
class _Verdict:
    pair: Pair
    same: bool
    found: Fingerprint | None = None
    facts: os.stat_result | None = None
    described: Entry | None = None


class Comparison:
    """Goes through all pairs and yields the paths that differ."""

    def __init__(self, inventory: Inventory, store: Store, root: bytes, prefix: str, *, verify: bool, workers: int) -> None:
        self._inventory = inventory
        self._store = store
        self._root = root
        self._prefix = prefix
        self._verify = verify
        self._workers = workers
        self.hashed_bytes = 0

    def differing(self, on_count: t.Callable[[int], None]) -> t.Iterator[Pair]:
        """Pairs with different contents. Checksums that were computed are noted in the inventory."""
        pairs = (Pair(*row) for row in self._inventory.rows(_PAIRS, column="l.path"))
        with concurrent.futures.ThreadPoolExecutor(self._workers) as pool:
            while True:
                batch = list(itertools.islice(pairs, BATCH))
                if not batch:
                    return
                for verdict in pool.map(self._judge, batch):
                    self._note(verdict)
                    if not verdict.same:
                        yield verdict.pair
                on_count(len(batch))

    def hash_rest(self, on_count: t.Callable[[int], None]) -> None:
        """Note the checksum of every local file that has none yet; forget files that are gone by now (a tree may be in use)."""
        sql = f"SELECT l.path, l.size FROM local l {KNOWN} WHERE coalesce(h.sha256, c.sha256) IS NULL"  # noqa: S608
        rows = self._inventory.rows(sql, column="l.path")
        with concurrent.futures.ThreadPoolExecutor(self._workers) as pool:
            while True:
                batch = list(itertools.islice(rows, BATCH))
                if not batch:
                    return
                for (path, size), known in zip(batch, pool.map(self._hash, (row[0] for row in batch))):
                    if known is None:
                        self._inventory.execute("DELETE FROM local WHERE path = ?", [path])
                        continue
                    self.hashed_bytes += size
                    self._inventory.remember(path, known[1], known[0])
                on_count(len(batch))

    def _hash(self, path: bytes) -> tuple[Fingerprint, os.stat_result] | None:
        place = os.path.join(self._root, path)
        try:
            return hash_file(place), os.stat(place, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _judge(self, pair: Pair) -> _Verdict:
        cached = None if self._verify else pair.from_cache()
        if cached is not None:
            return _Verdict(pair, cached)
        path = os.path.join(self._root, pair.path)
        found = hash_file(path, pair.etag)
        facts = os.stat(path, follow_symlinks=False) if found.stable else None
        same = pair.against(found)
        if same is not None:
            return _Verdict(pair, same, self._with_etag(found, pair, same), facts)
        described = self._describe(pair)
        same = described is not None and described.sha256 == found.sha256
        return _Verdict(pair, same, self._with_etag(found, pair, same), facts, described)

    @staticmethod
    def _with_etag(found: Fingerprint, pair: Pair, same: bool) -> Fingerprint:
        """Equal content may be cached under the object's ETag even where that cannot be computed."""
        return dataclasses.replace(found, etag=pair.etag) if same else found

    def _describe(self, pair: Pair) -> Entry | None:
        """What the object's own metadata say; None when it is not the listed object any more."""
        try:
            info = self._store.head(self._prefix + path_text(pair.path))
        except NotFound:
            return None
        if (info.size, info.etag) != (pair.size, pair.etag):
            return None
        return described(pair.path, info.size, info.etag, info.metadata)

    def _note(self, verdict: _Verdict) -> None:
        if verdict.described is not None:
            self._inventory.asked += 1
            self._inventory.describe([verdict.described])
        if verdict.found is not None:
            self.hashed_bytes += verdict.pair.size
            if verdict.facts is not None:
                self._inventory.remember(verdict.pair.path, verdict.facts, verdict.found)


def described(path: bytes, size: int, etag: str, metadata: t.Mapping[str, str]) -> Entry:
    """What an object's metadata tell about the file it was."""
    return Entry(
        path,
        size,
        etag,
        parse_sha256(metadata.get("sha256")),
        parse_mode(metadata.get("mode")),
        parse_time(metadata.get("mtime")),
    )
