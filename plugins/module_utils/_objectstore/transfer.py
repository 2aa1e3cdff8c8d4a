# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading big objects by parallel ranges, in bounded memory. PRIVATE to the collection."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import os
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError
from ansible_collections.fileforge.ops.plugins.module_utils._files import fsync_directory
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import MIB, ObjectInfo, Store, run_all
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.digests import is_md5

RANGE = 8 * MIB
Range = t.Tuple[int, int]
"""Offset and length."""


def split_ranges(size: int, piece: int = RANGE, start: int = 0) -> t.Iterator[Range]:
    """``size`` bytes from ``start`` as consecutive ranges of at most ``piece`` bytes."""
    for offset in range(start, start + size, piece):
        yield offset, min(piece, start + size - offset)


def fetch_ranges(
    store: Store,
    key: str,
    etag: str | None,
    ranges: t.Iterable[Range],
    *,
    workers: int = 4,
    ahead: int | None = None,
) -> t.Iterator[bytes]:
    """The bytes of each range, in order, fetched ``workers`` at a time and at most ``ahead`` ranges (default twice that) early.

    Memory stays below ``ahead`` + 1 ranges. Closing the iterator early stops the fetching.
    """
    pending: collections.deque[concurrent.futures.Future[bytes]] = collections.deque()
    limit = ahead or 2 * workers
    source = iter(ranges)
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        while True:
            while len(pending) < limit:
                item = next(source, None)
                if item is None:
                    break
                pending.append(pool.submit(store.get, key, start=item[0], length=item[1], etag=etag))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        pool.shutdown(wait=True)


def each_range(
    store: Store,
    key: str,
    etag: str | None,
    ranges: t.Iterable[Range],
    handle: t.Callable[[int, bytes], None],
    *,
    workers: int = 4,
) -> None:
    """Call ``handle(number, bytes)`` for each range, from the worker that fetched it, in any order. The first error ends it."""

    def work(item: tuple[int, Range]) -> None:
        number, (start, length) = item
        handle(number, store.get(key, start=start, length=length, etag=etag))

    run_all(work, enumerate(ranges), workers)


def download_file(
    store: Store,
    key: str,
    path: str,
    *,
    info: ObjectInfo | None = None,
    sha256: str | None = None,
    workers: int = 4,
    piece: int = RANGE,
    mode: int = 0o600,
    owner: tuple[int, int] | None = None,
    mtime_ns: int | None = None,
    on_bytes: t.Callable[[int], None] = lambda count: None,
) -> str:
    """Write the object to ``path``, whole or not at all; the SHA-256 of what was written.

    ``info`` pins the version (else it is looked up now). The bytes are checked against ``sha256``, or else against the ETag
    where that is an MD5. The partial file ``.<name>.partial`` beside it is overwritten by the next try.
    """
    info = info or store.head(key)
    partial = os.path.join(os.path.dirname(path), f".{os.path.basename(path)[:200]}.partial")
    pieces = fetch_ranges(store, key, info.etag, split_ranges(info.size, piece), workers=workers)
    try:
        with contextlib.closing(pieces):  # type: ignore[type-var]
            written = write_pieces(partial, pieces, on_bytes, md5=sha256 is None)
        check_written(store.options.where, info, sha256, written)
        finish_file(partial, mode=mode, owner=owner, mtime_ns=mtime_ns)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise
    fsync_directory(os.path.dirname(path) or ".")
    return written.sha256


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written; ``md5`` is empty unless asked for."""

    sha256: str
    md5: str
    size: int


def write_pieces(partial: str, pieces: t.Iterable[bytes], on_bytes: t.Callable[[int], None], *, md5: bool) -> Written:
    """Write and sync the pieces to a file of mode 0600."""
    found = hashlib.sha256()
    plain = hashlib.md5(usedforsecurity=False)
    size = 0
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb", buffering=0) as stream:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[stream.write(view) :]
            found.update(piece)
            if md5:
                plain.update(piece)
            size += len(piece)
            on_bytes(len(piece))
        os.fsync(stream.fileno())
    return Written(found.hexdigest(), plain.hexdigest() if md5 else "", size)


def check_written(where: str, info: ObjectInfo, sha256: str | None, written: Written) -> bool:
    """Whether the bytes could be checked; raises IntegrityError when they are not those that were stored.

    Against the SHA-256, or else the ETag where that is an MD5 (it is none in multipart uploads and with KMS encryption).
    """
    if sha256 is not None:
        if written.sha256 != sha256:
            raise damaged(where, info, "SHA-256", sha256, written.sha256)
        return True
    if not (written.md5 and is_md5(info.etag) and info.encryption in (None, "AES256")):
        return False
    if written.md5 != info.etag:
        raise damaged(where, info, "MD5", info.etag, written.md5)
    return True


def damaged(where: str, info: ObjectInfo, name: str, expected: str, found: str) -> IntegrityError:
    """The error for an object whose content is not what was recorded for it."""
    return IntegrityError(
        f"{info.key} at {where}: its content has {name} {found}, but {expected} was recorded when it was stored",
        hint="the object is damaged: restore an older version of it, or use another copy (second region)",
        reason="damaged",
        key=info.key,
    )


def finish_file(partial: str, *, mode: int, owner: tuple[int, int] | None, mtime_ns: int | None) -> None:
    """Give a partial file the attributes of the finished one; -1 in ``owner`` leaves that as it is."""
    if owner is not None:
        os.chown(partial, *owner, follow_symlinks=False)
    os.chmod(partial, mode)
    if mtime_ns is not None:
        os.utime(partial, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
