# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing a tree of files that a stranger may have named, without ever leaving its root. PRIVATE to the collection.

Every path is walked component by component from the root's descriptor, never following a symbolic link, so neither ``..`` nor a
link planted half way can lead a write elsewhere.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import fcntl
import os
import shutil
import stat
import threading
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._archive.index import safe_path
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRECTORIES = 64
_FICLONE = 0x40049409
"""ioctl of Linux: share the source's blocks (XFS, Btrfs)."""
PIECE = 1 << 20

Owner = t.Optional[t.Tuple[int, int]]


class Tree:
    """A directory that is being filled. Thread-safe. Use as a context manager: it keeps descriptors open."""

    def __init__(self, root: str, owner: Owner = None, mode: int = 0o700) -> None:
        self.root = root
        self._owner = owner if os.geteuid() == 0 else None
        self._mode = mode
        self._lock = threading.Lock()
        self._open: collections.OrderedDict[str, int] = collections.OrderedDict()
        self._root = -1

    def __enter__(self) -> Tree:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.root, 0o700)
        self._root = os.open(self.root, _DIRECTORY)
        os.fchmod(self._root, self._mode)
        self._give(self._root)
        return self

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            for handle in self._open.values():
                os.close(handle)
            self._open.clear()
            os.close(self._root)
            self._root = -1

    def _descend(self, path: str) -> int:
        """A descriptor of a directory below the root, made when it is missing; the caller closes it."""
        handle = os.dup(self._root)
        try:
            for part in path.split("/") if path else ():
                below = self._enter(handle, part)
                os.close(handle)
                handle = below
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _enter(self, parent: int, name: str) -> int:
        try:
            handle = os.open(name, _DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=parent)
            handle = os.open(name, _DIRECTORY, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise IntegrityError(f"{self.root}: {name!r} is not a directory, but the backup has files below it") from error
            raise
        self._give(handle)
        return handle

    def _give(self, handle: int) -> None:
        """Make the owner the directory's owner: also of one that a run made which was killed before it gave it away."""
        if self._owner:
            state = os.fstat(handle)
            if (state.st_uid, state.st_gid) != self._owner:
                os.fchown(handle, *self._owner)

    @contextlib.contextmanager
    def _parent(self, path: str) -> t.Iterator[tuple[int, str]]:
        """Descriptor of the directory that holds ``path``, and the last component."""
        folder, _slash, name = safe_path(path).rpartition("/")
        with self._lock:
            handle = self._open.get(folder)
            if handle is None:
                handle = self._descend(folder)
                self._open[folder] = handle
            self._open.move_to_end(folder)
            duplicate = os.dup(handle)
            while len(self._open) > _OPEN_DIRECTORIES:
                os.close(self._open.popitem(last=False)[1])
        try:
            yield duplicate, name
        finally:
            os.close(duplicate)

    def directory(self, path: str, mode: int = 0o700) -> None:
        """Make a directory (and those above it), or set the mode of one that is there."""
        with self._parent(path) as (parent, name):
            handle = self._enter(parent, name)
            try:
                os.fchmod(handle, mode & 0o777)
            finally:
                os.close(handle)

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link, in place of one that is there."""
        with self._parent(path) as (parent, name):
            self._clear(parent, name)
            os.symlink(target, name, dir_fd=parent)
            if self._owner:
                os.chown(name, *self._owner, dir_fd=parent, follow_symlinks=False)

    def create(self, path: str) -> int:
        """An empty file open for reading and writing, in place of what was there; the caller closes it."""
        with self._parent(path) as (parent, name):
            self._clear(parent, name)
            return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)

    def open(self, path: str) -> int:
        """An existing regular file open for reading; the caller closes it. Raises FileNotFoundError."""
        with self._parent(path) as (parent, name):
            return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)

    def state(self, path: str) -> os.stat_result | None:
        """``lstat`` of a path; None when nothing is there."""
        with self._parent(path) as (parent, name):
            try:
                return os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                return None

    def remove(self, path: str) -> None:
        """Remove a file or link, if it is there."""
        with self._parent(path) as (parent, name):
            self._clear(parent, name)

    def finish(self, handle: int, mode: int, mtime: int) -> None:
        """Give a written file its owner, mode (never setuid) and time."""
        if self._owner:
            os.fchown(handle, *self._owner)
        os.fchmod(handle, mode & 0o777)
        os.utime(handle, (mtime, mtime))

    @staticmethod
    def _clear(parent: int, name: str) -> None:
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):
            os.rmdir(name, dir_fd=parent)

    def sync_directory(self, path: str = "") -> None:
        """fsync one directory (the root for an empty path)."""
        handle = self._descend(path)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def sync_file(self, path: str) -> None:
        """fsync one file; links and what is gone again are skipped."""
        try:
            handle = self.open(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):
                return
            raise
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def copy_bytes(source: int, target: int, size: int) -> bool:
    """Copy ``size`` bytes to the start of an empty file: shared blocks where possible; false when the source is shorter."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return _copy_range(source, target, size)
    return os.fstat(target).st_size == size


def _copy_range(source: int, target: int, size: int) -> bool:
    offset = 0
    while offset < size:
        done = _copy_piece(source, target, offset, min(64 * PIECE, size - offset))
        if done == 0:
            return False
        offset += done
    return True


def _copy_piece(source: int, target: int, offset: int, length: int) -> int:
    try:
        return os.copy_file_range(source, target, length, offset, offset)
    except (OSError, AttributeError):  # not between these file systems, or not on this system
        data = os.pread(source, min(length, PIECE), offset)
        write_all(target, data, offset)
        return len(data)


def write_all(handle: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of the bytes at an offset."""
    view = memoryview(data)
    while view:
        done = os.pwrite(handle, view, offset)
        view, offset = view[done:], offset + done


def remove_tree(path: str) -> None:
    """Remove a directory tree of our own making; symbolic links are removed, never followed. Nothing there is fine."""
    try:
        state = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(state.st_mode) or os.path.ismount(path):
        raise IntegrityError(f"{path}: not a plain directory, so it is not removed")
    shutil.rmtree(path)
