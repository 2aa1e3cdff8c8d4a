# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the lab keeps its state: a directory that the database's user can reach too.

PostgreSQL refuses to run as root, so root's lab runs it as user ``postgres``; every parent of its directories must then be
traversable for that user. A clone below a private home directory is not: the state then lives in /var/tmp, and ``.lab`` is a
link to it.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import stat
from pathlib import Path

from tests.lab import ROOT

DATABASE_USER = "postgres"


class PlaceError(Exception):
    """The state directory cannot be used."""


def owner() -> str:
    """Name of the user that PostgreSQL runs as."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    try:
        pwd.getpwnam(DATABASE_USER)
    except KeyError as error:
        raise PlaceError("run as root, the lab needs the user postgres: install the distribution's package postgresql") from error
    return DATABASE_USER


def traversable(directory: Path, user: str) -> bool:
    """Whether ``user`` can pass through ``directory`` and all its parents."""
    entry = pwd.getpwnam(user)
    groups = set(os.getgrouplist(user, entry.pw_gid))
    for level in (directory, *directory.parents):
        status = level.stat()
        if status.st_uid == entry.pw_uid:
            allowed = status.st_mode & stat.S_IXUSR
        elif status.st_gid in groups:
            allowed = status.st_mode & stat.S_IXGRP
        else:
            allowed = status.st_mode & stat.S_IXOTH
        if not allowed:
            return False
    return True


def state_directory() -> Path:
    """The real directory of the lab's state, made when absent; ``LAB_DIR`` chooses another one."""
    chosen = os.environ.get("LAB_DIR")
    if chosen:
        place = Path(chosen).resolve()
        _make(place)
        if not traversable(place, owner()):
            raise PlaceError(f"LAB_DIR={place}: user {owner()} cannot reach it; choose a directory below /var/tmp")
        return place
    link = ROOT / ".lab"
    if traversable(ROOT, owner()):
        if not link.is_symlink():
            _make(link)
        return link.resolve()
    mark = hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]
    place = Path(f"/var/tmp/fileforge-lab-{os.geteuid()}-{mark}")
    _make(place)
    if link.is_dir() and not link.is_symlink():
        try:
            link.rmdir()
        except OSError as error:
            raise PlaceError(f"{link} holds files but user {owner()} cannot reach it; remove it") from error
    if not link.is_symlink():
        link.symlink_to(place)
    return place


def workplace(name: str) -> Path:
    """A directory of that name in the lab's state, reachable for PostgreSQL's user."""
    place = state_directory()
    for part in Path(name).parts:
        place /= part
        _make(place)
    return place


def give(path: Path) -> None:
    """Make PostgreSQL's user the owner of a path."""
    if os.geteuid() == 0:
        entry = pwd.getpwnam(owner())
        os.chown(path, entry.pw_uid, entry.pw_gid)


def _make(place: Path) -> None:
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    status = place.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise PlaceError(f"{place} is not a directory of this user")
    place.chmod(0o755)
