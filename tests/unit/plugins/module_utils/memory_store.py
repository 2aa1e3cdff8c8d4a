# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bucket in memory with the interface of Store, for properties that need thousands of runs."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
import typing as t
from pathlib import Path

from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, NotFound, Unavailable
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import ObjectInfo, S3Options


@dataclasses.dataclass
class Stored:
    data: bytes
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)


class MemoryStore:
    """Objects by key. After ``budget`` reads and writes of data, it is unavailable (None: never)."""

    def __init__(self, objects: t.Mapping[str, bytes] | None = None, budget: int | None = None) -> None:
        self.objects = {key: Stored(data) for key, data in (objects or {}).items()}
        self.options = S3Options("bucket", "http://memory.example")
        self.bucket = "bucket"
        self.budget = budget
        self._lock = threading.Lock()

    def _spend(self) -> None:
        with self._lock:
            if self.budget is not None:
                self.budget -= 1
                if self.budget < 0:
                    raise Unavailable("the budget is spent")

    def _info(self, key: str) -> ObjectInfo:
        if key not in self.objects:
            raise NotFound(f"no {key}", reason="key")
        stored = self.objects[key]
        return ObjectInfo(key, len(stored.data), hashlib.md5(stored.data).hexdigest(), None, stored.metadata)

    head = _info

    def list(self, prefix: str = "", *, start_after: str = "") -> t.Iterator[ObjectInfo]:
        for key in sorted(self.objects, key=lambda item: item.encode()):
            if key.startswith(prefix):
                yield self._info(key)

    def stream(
        self,
        key: str,
        *,
        etag: str | None = None,
        on_info: t.Callable[[ObjectInfo], None] = lambda info: None,
        chunk: int = 3,
    ) -> t.Iterator[bytes]:
        if not key.endswith(".tree.jsonl.gz"):
            self._spend()
        info = self._info(key)
        if etag not in (None, info.etag):
            raise IntegrityError("replaced", reason="replaced")
        on_info(info)
        data = self.objects[key].data
        for start in range(0, len(data), chunk):
            yield data[start : start + chunk]

    def put(self, key: str, data: bytes, *, metadata: t.Mapping[str, str] | None = None, **_options: t.Any) -> ObjectInfo:
        self._spend()
        self.objects[key] = Stored(data, dict(metadata or {}))
        return self._info(key)

    def put_file(self, path: str, key: str, *, metadata: t.Mapping[str, str] | None = None, **_options: t.Any) -> ObjectInfo:
        return self.put(key, Path(path).read_bytes(), metadata=metadata)

    def copy(self, source: str, target: str) -> ObjectInfo:
        self._info(source)
        self.objects[target] = self.objects[source]
        return self._info(target)

    def delete(self, keys: t.Iterable[str]) -> int:
        return sum(self.objects.pop(key, None) is not None for key in keys)

    def sweep_uploads(self, prefix: str, older_than_seconds: float) -> t.List[str]:
        return []

    def contents(self) -> t.Iterator[bytes]:
        for stored in self.objects.values():
            yield stored.data

    def below(self, prefix: str) -> dict[str, bytes]:
        return {key[len(prefix) :]: stored.data for key, stored in self.objects.items() if key.startswith(prefix)}


@contextlib.contextmanager
def nothing_is_lost(before: t.Iterable[bytes], after: t.Callable[[], t.Iterable[bytes]]) -> t.Iterator[None]:
    """Every content that is there before the body is there after it, somewhere, even when the body fails."""
    kept = set(before)
    try:
        yield
    finally:
        assert kept <= set(after())
