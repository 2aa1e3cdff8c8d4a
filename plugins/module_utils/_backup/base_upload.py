# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of a base backup while they are written: names nobody else has, and streams in parts. PRIVATE to the collection."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import datetime
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._archive.index import METADATA
from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import (
    MultipartUpload,
    ObjectInfo,
    Store,
    part_size_for,
)

PART = 16 << 20
GROWTH_AFTER = 3000
"""Every so many parts the part size doubles, for archives that become larger than expected."""
WORKERS = 2
NAMES = 100


def part_size(number: int, expected: int) -> int:
    """Bytes of part ``number`` (from 1) of an archive whose files have ``expected`` bytes, of which half may remain.

    The 10,000 parts that S3 allows hold 1.4 times ``expected`` bytes, should nothing be compressible.
    """
    return part_size_for(expected // 2, PART) << ((number - 1) // GROWTH_AFTER)


class PartStream:
    """Bytes in, parts out; ``WORKERS`` parts are on their way while the next fills, and no more are held."""

    def __init__(self, upload: MultipartUpload, expected: int) -> None:
        self._upload = upload
        self._expected = expected
        self._buffer: list[bytes] = []
        self._size = 0
        self._number = 1
        self._pool = concurrent.futures.ThreadPoolExecutor(WORKERS, "upload")
        self._running: collections.deque[concurrent.futures.Future[str]] = collections.deque()

    def __enter__(self) -> PartStream:
        return self

    def __exit__(self, *_details: object) -> None:
        for future in self._running:
            future.cancel()
        self._pool.shutdown(wait=True)

    def write(self, data: bytes) -> None:
        """Take the next bytes; raises what an earlier part's upload raised."""
        self._buffer.append(data)
        self._size += len(data)
        if self._size >= part_size(self._number, self._expected):
            self._send()

    def flush(self) -> None:
        """Send the rest and wait until all parts are there; after it nothing more can be written."""
        if self._size or self._number == 1:
            self._send()
        while self._running:
            self._running.popleft().result()

    def complete(self) -> ObjectInfo:
        """Make the object appear, whole."""
        self.flush()
        return self._upload.complete()

    def _send(self) -> None:
        data = b"".join(self._buffer)
        self._buffer, self._size = [], 0
        while len(self._running) >= WORKERS:
            self._running.popleft().result()
        self._running.append(self._pool.submit(self._upload.part, self._number, data))
        self._number += 1


class Names:
    """The keys of one backup."""

    def __init__(self, prefix: str, name: str) -> None:
        self.name = name
        self._stem = f"{prefix}base/{name}_base"

    @property
    def data(self) -> str:
        """The archive of the data directory."""
        return f"{self._stem}.tar.gz"

    def tablespace(self, oid: int | str) -> str:
        """The archive of a tablespace."""
        return f"{self._stem}.tblspc-{oid}.tar.gz"

    @property
    def manifest(self) -> str:
        """PostgreSQL's manifest."""
        return f"{self._stem}.backup_manifest"

    @property
    def index(self) -> str:
        """The commit marker."""
        return f"{self._stem}.index.json.gz"


@contextlib.contextmanager
def reserved(store: Store, prefix: str, started: datetime.datetime) -> t.Iterator[tuple[Names, MultipartUpload]]:
    """A name for a backup started then, held by a running upload of its data archive, which is aborted unless completed."""
    with contextlib.ExitStack() as stack:
        stamp = started.strftime("%Y-%m-%d-%H%M")
        for number in range(1, NAMES):
            names = Names(prefix, stamp if number == 1 else f"{stamp}-{number}")
            if _taken(store, names):
                continue
            with contextlib.ExitStack() as attempt:
                upload = attempt.enter_context(store.multipart(names.data, metadata=METADATA))
                if _alone(store, names, upload) and not _taken(store, names):
                    stack.push(attempt.pop_all())
                    break
        else:
            raise Refused("no_name", f"{prefix}base/{stamp}: {NAMES} backups were started in this minute")
        yield names, upload


def _taken(store: Store, names: Names) -> bool:
    return any(True for _item in store.list(f"{names.data[: -len('tar.gz')]}"))


def _alone(store: Store, names: Names, upload: MultipartUpload) -> bool:
    """Whether no other upload has this key. Who began first cannot be told: services date uploads by whole seconds.

    Of two at the same time both may give way; each then tries the next name.
    """
    try:
        running = store.running_uploads(names.data)
    except OpsError:
        return True  # the credentials may not list uploads, or the service cannot: finished backups are still seen
    return all(item.upload_id == upload.upload_id for item in running)
