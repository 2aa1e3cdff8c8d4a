# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are either whole or not there, and locks that a dead process cannot keep. PRIVATE to the collection."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import Refused


def fsync_directory(path: str) -> None:
    """Make names created, renamed or removed in a directory survive a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: str, content: bytes, *, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """Write beside, fsync, rename, fsync the directory: a reader sees the old file or the new one."""
    partial = f"{path}.{os.getpid()}.partial"
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            if owner is not None and os.geteuid() == 0:
                os.fchown(stream.fileno(), *owner)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise
    fsync_directory(os.path.dirname(path) or ".")


_HALF_MADE = stat.S_IFDIR | stat.S_ISVTX
"""A directory that root has made and not yet given to its owner. Nobody has another use for one without any permission."""


def make_directory(path: str | bytes, mode: int, owner: tuple[int, int] | None = None, *, dir_fd: int | None = None) -> None:
    """Make a directory and give it to its owner, unless something has its name.

    A run that is killed between the two leaves a directory by whose mode the next run knows that it must be finished.
    """
    marks = owner is not None and os.geteuid() == 0
    try:
        os.mkdir(path, stat.S_IMODE(_HALF_MADE) if marks else mode, dir_fd=dir_fd)
    except FileExistsError:
        if not marks or os.lstat(path, dir_fd=dir_fd).st_mode != _HALF_MADE:
            return
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if owner is not None:
            os.fchown(handle, *owner)
        os.fchmod(handle, mode)
    finally:
        os.close(handle)


@contextlib.contextmanager
def exclusive_lock(path: str, what: str) -> t.Iterator[None]:
    """Hold an flock for the body; refuse at once (reason ``locked``) when another process holds it.

    The kernel releases it when the holder dies; the file stays, because removing it would race.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            holder = os.pread(handle, 64, 0).decode(errors="replace").strip()
            raise Refused(
                "locked",
                f"{what}: already running (process {holder or 'unknown'} holds {path})",
                hint="wait for it, or look at that process",
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
