# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The local end of a tree: its directory, what is kept aside, and moves that cannot be led astray. PRIVATE to the collection.

Every change goes through directory handles opened component by component without following symbolic links, so that whoever owns
the tree cannot make a privileged run write elsewhere by swapping a directory for a link.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._files import make_directory
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.faults import printable
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.names import path_text

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FOLDER = 0o755
PRIVATE_FOLDER = 0o700


class Ground:
    """Where a tree is and where its removed files go."""

    def __init__(self, path: str, aside: str | None) -> None:
        for option, value in (("path", path), ("aside", aside)):
            if value is not None and (not os.path.isabs(value) or os.path.normpath(value).strip("/") == ""):
                raise InvalidOption(option, value, "must be an absolute path, and not the root directory")
        self.path = os.path.normpath(path)
        self.aside = os.path.normpath(aside or f"{self.path}.aside")
        if f"{self.path}/".startswith(f"{self.aside}/"):
            raise InvalidOption("aside", self.aside, "must not be the tree itself or hold it")
        self.root = os.fsencode(self.path)

    @property
    def state_file(self) -> str:
        """The file with the checksums and the running plan."""
        return os.path.join(self.aside, "state.sqlite")

    @property
    def partial(self) -> str:
        """The directory of files that are being written."""
        return os.path.join(self.aside, "partial")

    @property
    def reserved(self) -> bytes | None:
        """The path of the directory aside inside the tree, when it is there."""
        inside = f"{self.aside}/".startswith(f"{self.path}/")
        return os.fsencode(os.path.relpath(self.aside, self.path)) if inside else None

    @property
    def exists(self) -> bool:
        """Whether the tree's directory is there."""
        return os.path.isdir(self.path)

    def check(self) -> None:
        """Raise Refused unless the path is a directory, or can become one, on the file system of the directory aside."""
        for what in (self.path, self.aside):
            if os.path.islink(what):
                raise Refused(
                    "symbolic_link", f"{what} is a symbolic link to {os.readlink(what)}", hint="give the path that it leads to"
                )
            if os.path.lexists(what) and not os.path.isdir(what):
                raise Refused("not_a_directory", f"{what} is there, but not a directory", hint="move it away, or check the path")
        ends = [_existing(what) for what in (self.path, self.aside)]
        if os.stat(ends[0]).st_dev != os.stat(ends[1]).st_dev:
            raise Refused(
                "aside_other_file_system",
                f"{self.aside} would be on another file system than {self.path} (is that a mount point?), "
                "so files could not be moved there in one step",
                hint=f"set aside to a directory inside, for example {self.path}/.aside: it is left out of the comparison",
            )

    def free(self) -> tuple[int, int]:
        """Free bytes and free inodes for an ordinary user; -1 inodes where the file system does not count them."""
        facts = os.statvfs(_existing(self.path))
        return facts.f_bavail * facts.f_frsize, facts.f_favail if facts.f_files else -1

    @contextlib.contextmanager
    def locked(self) -> t.Iterator[None]:
        """Hold a lock on the tree's directory, which must exist; the kernel releases it when this process dies."""
        handle = os.open(self.path, _FOLDER)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                raise Refused(
                    "locked", f"{self.path}: another run is working on this tree", hint="wait for it to end, then run again"
                ) from error
            yield
        finally:
            os.close(handle)


def _existing(path: str) -> str:
    """The path, or its nearest ancestor that exists."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


@contextlib.contextmanager
def os_errors(what: str) -> t.Iterator[None]:
    """Turn what the operating system refuses into an OpsError that names the file."""
    try:
        yield
    except OSError as error:
        name = error.filename if error.filename is not None else what
        text = path_text(name) if isinstance(name, bytes) else str(name)
        hints = {
            errno.ENOSPC: "free some space and run again: finished files are kept",
            errno.EDQUOT: "raise the quota or free some space, and run again: finished files are kept",
            errno.EACCES: "run with become, or as the owner of the tree",
            errno.EPERM: "run with become, or as the owner of the tree",
            errno.ENOENT: "it disappeared meanwhile: run again",
            errno.EROFS: "the file system is mounted read-only: look at the kernel's log",
        }
        raise OpsError(f"{what}: {printable(text)}: {error.strerror}", hint=hints.get(error.errno or 0, "")) from error


class Folder:
    """A directory below which files are placed by their relative path."""

    def __init__(self, path: str, *, mode: int = NEW_FOLDER, owner: tuple[int, int] | None = None) -> None:
        self._path = path
        self._mode = mode
        self._owner = owner
        self._handle = os.open(path, _FOLDER)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._handle)

    @contextlib.contextmanager
    def parent(self, path: bytes, *, create: bool = False) -> t.Iterator[tuple[int, bytes]]:
        """A handle of the directory that holds ``path``, and the last component."""
        *above, name = path.split(b"/")
        handle = os.dup(self._handle)
        try:
            for component in above:
                inner = self._enter(handle, component, path, create)
                os.close(handle)
                handle = inner
            yield handle, name
        finally:
            os.close(handle)

    def _enter(self, handle: int, component: bytes, path: bytes, create: bool) -> int:
        if create:
            make_directory(component, self._mode, self._owner, dir_fd=handle)
        try:
            return os.open(component, _FOLDER, dir_fd=handle)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise Refused(
                "not_a_directory",
                f"{self._path}: {printable(path_text(component))} on the way to {printable(path_text(path))} is not a directory",
                hint="someone changed the tree meanwhile: look at it, then run again",
            ) from error

    def place(self, partial: str, path: bytes, kept: Folder) -> os.stat_result:
        """Give a finished file its name here; what had the name is kept under the same path in ``kept``. The file's facts."""
        with self.parent(path, create=True) as (handle, name):
            self._keep(handle, name, path, kept)
            os.rename(partial, name, dst_dir_fd=handle)
            return os.stat(name, dir_fd=handle, follow_symlinks=False)

    @staticmethod
    def _keep(handle: int, name: bytes, path: bytes, kept: Folder) -> None:
        try:
            old = os.stat(name, dir_fd=handle, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(old.st_mode):
            raise Refused(
                "not_a_file",
                f"{printable(path_text(path))}: a directory has appeared where a file belongs",
                hint="someone changed the tree meanwhile: look at it, then run again",
            )
        with kept.parent(path, create=True) as (target, last):
            free = _free_name(target, last, old)
            if free is None:
                return
            try:
                os.link(name, free, src_dir_fd=handle, dst_dir_fd=target, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                    raise
                os.rename(name, free, src_dir_fd=handle, dst_dir_fd=target)

    def move_to(self, path: bytes, kept: Folder) -> bool:
        """Move a file to the same path in ``kept``; whether it was there."""
        try:
            with self.parent(path) as (handle, name), kept.parent(path, create=True) as (target, last):
                old = os.stat(name, dir_fd=handle, follow_symlinks=False)
                free = _free_name(target, last, old)
                if free is None:
                    os.unlink(name, dir_fd=handle)  # a second name of the file that is kept already
                else:
                    os.rename(name, free, src_dir_fd=handle, dst_dir_fd=target)
        except FileNotFoundError:
            return False
        return True

    def prune(self, path: bytes) -> bool:
        """Remove a directory if it is empty; whether it was."""
        try:
            with self.parent(path) as (handle, name):
                os.rmdir(name, dir_fd=handle)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EBUSY):
                return False
            raise
        return True

    def set_facts(self, path: bytes, mode: int | None, owner: tuple[int, int] | None, mtime: int | None) -> os.stat_result:
        """Set mode, owner and modification time of a file, as far as given; its facts."""
        with self.parent(path) as (handle, name):
            opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=handle)
            try:
                if owner is not None:
                    os.fchown(opened, *owner)
                if mode is not None:
                    os.fchmod(opened, mode)
                if mtime is not None:
                    os.utime(opened, ns=(mtime, mtime))
                return os.fstat(opened)
            finally:
                os.close(opened)

    def sync(self, folders: t.Iterable[bytes]) -> None:
        """Make the names in these directories survive a power cut."""
        for folder in folders:
            # a directory that is gone, or a file by now, needs no more syncing than what holds it
            with contextlib.suppress(FileNotFoundError, Refused), self.parent(os.path.join(folder, b".")) as (handle, _dot):
                os.fsync(handle)


def _free_name(handle: int, name: bytes, old: os.stat_result) -> bytes | None:
    """A name that is not taken in a directory; None when the very file is there already (an interrupted run linked it)."""
    candidate = name
    for number in range(1, 10_000):
        try:
            there = os.stat(candidate, dir_fd=handle, follow_symlinks=False)
        except FileNotFoundError:
            return candidate
        if (there.st_ino, there.st_dev) == (old.st_ino, old.st_dev):
            return None
        candidate = name[:240] + b".%d" % number
    raise OpsError(f"{printable(path_text(name))}: too many versions are kept aside already")
