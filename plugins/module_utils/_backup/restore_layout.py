# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a restore puts things, and the exchange of old and new directories. PRIVATE to the collection.

Names derive from the digest of the plan, so a second run of the same plan finds what the first one left. The exchange is a
sequence of renames; each is recognised as done by what is there, so it can be cut off anywhere and repeated. The old data
directory goes first and the new one comes last: in between there is none, and nothing can be started on a mixture.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._files import fsync_directory

Rename = t.Callable[[str, str], None]


@dataclasses.dataclass(frozen=True)
class Tablespace:
    """A tablespace of the backup and where it will be."""

    oid: int
    location: str
    version_directory: str
    """``PG_15_202209061``: the directory below the location that belongs to this major version."""

    @property
    def live(self) -> str:
        """The directory that PostgreSQL uses."""
        return os.path.join(self.location, self.version_directory)


@dataclasses.dataclass(frozen=True)
class Exchange:
    """A directory in use, the new one that takes its place, and the name under which the old one is kept."""

    live: str
    new: str
    kept: str


@dataclasses.dataclass(frozen=True)
class Layout:
    """All paths of one restore."""

    data_directory: str
    digest: str
    tablespaces: tuple[Tablespace, ...] = ()
    younger: tuple[str, ...] = ()
    """Directories of tablespaces that are not in the backup. Replay makes them again, and they must not be there then."""

    @property
    def new(self) -> str:
        """The data directory while it is being filled."""
        return f"{self.data_directory}.restore-{self.digest}"

    @property
    def kept(self) -> str:
        """The old data directory afterwards."""
        return f"{self.data_directory}.before-{self.digest}"

    @property
    def private(self) -> str:
        """WAL program, its configuration and spool, and the journal of verified files; gone when the restore is finished."""
        return f"{self.data_directory}.recovery-{self.digest}"

    @property
    def log(self) -> str:
        """What a server that is started by pg_ctl writes."""
        return f"{self.data_directory}.restore.log"

    def tablespace_new(self, tablespace: Tablespace) -> str:
        """The version directory while it is being filled."""
        return f"{tablespace.live}.restore-{self.digest}"

    def exchanges(self) -> tuple[Exchange, ...]:
        """The data directory first."""
        places = [Exchange(self.data_directory, self.new, self.kept)]
        for tablespace in self.tablespaces:
            kept = f"{tablespace.live}.before-{self.digest}"
            places.append(Exchange(tablespace.live, self.tablespace_new(tablespace), kept))
        return tuple(places)

    def aside(self) -> tuple[tuple[str, str], ...]:
        """Younger tablespaces, and the names under which they are kept."""
        return tuple((path, f"{path}.before-{self.digest}") for path in self.younger)

    def all_kept(self) -> list[str]:
        """Every name under which something is kept."""
        return [place.kept for place in self.exchanges()] + [kept for _path, kept in self.aside()]

    def kept_paths(self) -> list[str]:
        """Old directories that are there now."""
        return [path for path in self.all_kept() if os.path.isdir(path)]


def swapped(layout: Layout) -> bool:
    """Whether every new directory is in its place."""
    return all(os.path.isdir(place.live) and not os.path.lexists(place.new) for place in layout.exchanges())


def swap(layout: Layout, *, rename: Rename = os.rename) -> None:
    """Exchange old and new. Repeatable after any interruption. Raises Refused (``swap_conflict``) for a state that is not ours."""
    data, *tablespaces = layout.exchanges()
    if swapped(layout):
        return
    _keep(data, rename)
    for path, kept in layout.aside():
        if os.path.lexists(path):
            if os.path.lexists(kept):
                raise _conflict(path, kept)
            _move(path, kept, rename)
    for place in tablespaces:
        _keep(place, rename)
        _place(place, rename)
    _place(data, rename)


def _keep(place: Exchange, rename: Rename) -> None:
    """Move the old directory aside, if the new one is still to come and the old one is still there."""
    if not os.path.lexists(place.new) or not os.path.lexists(place.live):
        return
    if os.path.lexists(place.kept):
        with contextlib.suppress(OSError):
            os.rmdir(place.live)  # an empty one, which a service manager made in between
            return
        raise _conflict(place.live, place.kept)
    _move(place.live, place.kept, rename)


def _conflict(live: str, kept: str) -> Refused:
    return Refused(
        "swap_conflict",
        f"{live} exists although the old one was already moved to {kept}: something made it meanwhile",
        hint=f"look at {live}; when it holds nothing of worth, remove it and run again",
    )


def _place(place: Exchange, rename: Rename) -> None:
    if os.path.lexists(place.new):
        if os.path.lexists(place.live):
            raise Refused(
                "swap_conflict",
                f"{place.live} exists again: something made it during the exchange",
                hint="look at it, then run again",
            )
        _move(place.new, place.live, rename)
    elif not os.path.isdir(place.live):
        raise OpsError(
            f"neither {place.new} nor {place.live} is there", hint=f"the old directory, if there was one, is {place.kept}"
        )


def _move(source: str, target: str, rename: Rename) -> None:
    rename(source, target)
    fsync_directory(os.path.dirname(target))


def mount_point(path: str) -> str | None:
    """The path itself when it is a mount point (then it cannot be renamed)."""
    return path if os.path.isdir(path) and os.path.ismount(path) else None


def nearest_existing(path: str) -> str:
    """The path, or the closest directory above it that exists."""
    while not os.path.isdir(path):
        above = os.path.dirname(path)
        if above == path:
            break
        path = above
    return path
