# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold before a restore touches anything; each thing that does not has its own reason. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import os
import re
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._archive.index import FILE, Archive
from ansible_collections.fileforge.ops.plugins.module_utils._archive.reader import decode_member
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_layout import Layout, mount_point, nearest_existing
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_plan import Chosen, RestoreOptions, check_overlap
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_settle import check_socket_path
from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    IntegrityError,
    InvalidOption,
    NotFound,
    OpsError,
    Refused,
)
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import Store
from ansible_collections.fileforge.ops.plugins.module_utils._plan import human_bytes
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import (
    Control,
    find_binaries,
    read_control,
    read_version,
    resolve_owner,
    running_server,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.recovery import require_supported
from ansible_collections.fileforge.ops.plugins.module_utils._process import run

WAL_ON_DISK = 4 << 30
"""Replay keeps about twice max_wal_size of the segments it has fetched; this is assumed when more would have to be replayed."""
SPARE = 64 << 20
"""Free bytes beside the calculated ones: directories, logs, rounding to blocks."""
END_OF_TAR = 1024
UNPACKED_GUESS = 5
"""How much a plain archive is assumed to grow, because nothing tells."""


# This host


def check_host(options: RestoreOptions) -> tuple[int, int]:
    """Owner, directories, control; returns the owner's ids. Nothing of the bucket is needed for it."""
    owner = resolve_owner(options.server.owner or "postgres")
    if options.scratch and options.server.control is not Control.PG_CTL:
        raise InvalidOption("control", options.server.control.value, "a scratch restore is started by pg_ctl only")
    _check_data_directory(options.data_directory)
    _check_parent(options)
    if options.scratch or options.server.socket_directory:
        check_socket_path(options.server.socket_directory or options.data_directory, options.server.port)
    _check_interpreter(options)
    return owner


def _check_data_directory(path: str) -> None:
    if not os.path.isabs(path) or path == "/":
        raise InvalidOption("data_directory", path, "not an absolute path of a data directory")
    if not os.path.lexists(path):
        return
    if not os.path.isdir(path):
        raise Refused("not_a_data_directory", f"{path} is not a directory", hint="check data_directory")
    if mount_point(path):
        raise Refused(
            "data_directory_mount",
            f"{path} is a mount point, so it cannot be exchanged by renaming",
            hint="use a directory below the mount point as data_directory",
        )
    if os.listdir(path) and read_version(path) is None:
        raise Refused(
            "not_a_data_directory",
            f"{path} is not empty and not a PostgreSQL data directory (it has no PG_VERSION)",
            hint="check data_directory; move what is there away if it may go",
        )


def _check_parent(options: RestoreOptions) -> None:
    parent = os.path.dirname(options.data_directory)
    if not os.path.isdir(parent):
        raise Refused("parent_missing", f"{parent} does not exist", hint=f"create it for user {options.server.owner or 'postgres'}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise Refused("parent_not_writable", f"{parent} cannot be written to", hint="use become, or check its owner and mode")
    reached = run(["test", "-x", parent], timeout=20, user=options.server.owner, check=False)
    if reached.returncode != 0:
        raise Refused(
            "parent_not_reachable",
            f"user {options.server.owner} cannot pass through {parent}, so a server could not run below it",
            hint="give that user the right to search every directory above data_directory",
        )


def _check_interpreter(options: RestoreOptions) -> None:
    try:
        done = run([options.interpreter, "-c", "import boto3"], timeout=60, user=options.server.owner, check=False)
        problem = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it failed"])[-1]
    except OpsError as error:
        problem = error.message
    if problem:
        raise Refused(
            "interpreter",
            f"the WAL program cannot run by {options.interpreter} as user {options.server.owner}: {problem}",
            hint="install boto3 for it (apt-get install python3-boto3), or set program_interpreter",
        )


def check_stopped(options: RestoreOptions) -> bool:
    """Whether a server runs on the data directory and will be stopped; Refused (``server_running``) when it may not be."""
    found = running_server(options.data_directory)
    if found is None:
        return False
    if not options.stop_running:
        raise Refused(
            "server_running",
            f"a server (process {found.pid}) runs on {options.data_directory}",
            hint="stop it, or set stop_running to have it stopped when everything is fetched",
            pid=found.pid,
        )
    return True


# The backup


def check_identity(options: RestoreOptions, chosen: Chosen) -> None:
    """System identifier: the option, or what the present directory says, against the backup's."""
    wanted, origin = options.system_identifier, "system_identifier"
    if wanted is None and os.path.isdir(options.data_directory) and os.listdir(options.data_directory):
        try:
            wanted, origin = read_control(options.data_directory).system_identifier, options.data_directory
        except (NotFound, IntegrityError):
            return  # too damaged to say whose it was
    if wanted is not None and wanted != chosen.system_identifier:
        raise Refused(
            "wrong_system_identifier",
            f"the backup {chosen.backup} is of the cluster {chosen.system_identifier}, but {origin} says {wanted}",
            hint="check s3_bucket, prefix and data_directory; to replace one cluster by another, set system_identifier",
        )


def check_version(options: RestoreOptions, chosen: Chosen) -> str | None:
    """The programs' directory; None for a plain archive whose version is not known yet (then it is checked once it is)."""
    if chosen.major is None:
        return None
    require_supported(chosen.major)
    found = find_binaries(chosen.major, options.bin_directory)
    if chosen.index is not None and not options.scratch and options.server.control is Control.PG_CTL:
        _check_configuration(options, chosen.index.data_directory)
    return found


def _check_configuration(options: RestoreOptions, archive: Archive) -> None:
    if options.server.config_file:
        if not os.path.isfile(options.server.config_file):
            raise InvalidOption("config_file", options.server.config_file, "there is no such file")
        return
    if not any(entry.path == "postgresql.conf" for entry in archive.files):
        raise Refused(
            "config_missing",
            "the backup holds no postgresql.conf (its server had it elsewhere)",
            hint="set config_file, or use control=pg_ctlcluster or systemd",
        )


def check_archives(store: Store, chosen: Chosen) -> None:
    """Size, ETag and the end of every archive. Raises Refused (``archive_damaged``)."""
    if chosen.index is None:
        return
    for archive in chosen.index.archives:
        try:
            _check_archive(store, archive)
        except IntegrityError as error:
            raise _damaged(archive, error.message) from error
        except NotFound as error:
            if error.state.get("reason") == "bucket":
                raise
            raise _damaged(archive, "the object is not there") from error


def _check_archive(store: Store, archive: Archive) -> None:
    info = store.head(archive.key)
    if info.size != archive.size:
        raise IntegrityError(f"the object has {info.size} bytes, the index promises {archive.size}")
    if info.etag != archive.etag:
        raise IntegrityError(f"the object is not the one that was indexed (ETag {info.etag}, not {archive.etag})")
    last = archive.members[-1]
    content = decode_member(last, store.get(archive.key, start=last.c_off, length=last.c_len, etag=archive.etag))
    if len(content) < END_OF_TAR or any(content[-END_OF_TAR:]):
        raise IntegrityError("the archive does not end with the end marker of a tar")


def _damaged(archive: Archive, problem: str) -> Refused:
    return Refused(
        "archive_damaged",
        f"{archive.key}: {problem}",
        hint="choose another backup, or get the object back from the bucket's older versions or the second region",
        key=archive.key,
    )


# Room


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes that a restore will write below a directory."""

    path: str
    bytes: int


def needs(options: RestoreOptions, chosen: Chosen, layout: Layout) -> list[Need]:
    """What will be written where, less what an unfinished attempt (of this ``layout``) has written already."""
    found = []
    if chosen.index is None:
        found.append(Need(os.path.dirname(options.data_directory), chosen.size * UNPACKED_GUESS))
    for archive, tablespace in chosen.archives():
        size = sum(entry.size for entry in archive.files)
        new = layout.new if tablespace is None else layout.tablespace_new(tablespace)
        place = os.path.dirname(options.data_directory) if tablespace is None else tablespace.location
        found.append(Need(place, max(0, size - disk_usage(new))))
    found.append(Need(os.path.dirname(options.data_directory), min(chosen.wal_size, WAL_ON_DISK) + SPARE))
    return found


def disk_usage(path: str) -> int:
    """Bytes of the files below a directory, as allocated; 0 when it is not there."""
    total = 0
    for folder, _names, files in os.walk(path):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def check_space(wanted: t.Sequence[Need], free: t.Callable[[str], int] | None = None) -> list[str]:
    """Compare needs with free space per file system; a line for each. Raises Refused (``disk_space``)."""
    free = free or free_bytes
    groups: dict[int, list[Need]] = {}
    for need in wanted:
        groups.setdefault(os.stat(nearest_existing(need.path)).st_dev, []).append(need)
    lines = []
    for needs_there in groups.values():
        total = sum(need.bytes for need in needs_there)
        place = nearest_existing(needs_there[0].path)
        available = free(place)
        lines.append(f"{place}: {human_bytes(total)} needed, {human_bytes(available)} free")
        if total > available:
            raise Refused(
                "disk_space",
                f"too little room on the file system of {place}: {human_bytes(total)} needed, {human_bytes(available)} free",
                hint="make room (old kept directories?), or map tablespaces elsewhere with tablespace_map",
                needed=total,
                available=available,
            )
    return lines


def free_bytes(path: str) -> int:
    """What an ordinary user may still write there."""
    state = os.statvfs(path)
    return state.f_bavail * state.f_frsize


def check_places(options: RestoreOptions, chosen: Chosen) -> None:
    """Tablespaces: not inside each other, not mount points at the level that is exchanged, and writable."""
    check_overlap(options, chosen.tablespaces)
    for tablespace in chosen.tablespaces:
        if mount_point(tablespace.live):
            raise Refused(
                "data_directory_mount",
                f"{tablespace.live} is a mount point, so it cannot be exchanged by renaming",
                hint="mount the file system at the tablespace's location instead",
            )
        existing = nearest_existing(tablespace.location)
        if not os.access(existing, os.W_OK | os.X_OK):
            raise Refused(
                "parent_not_writable", f"{existing} cannot be written to", hint="use become, or map the tablespace elsewhere"
            )


def younger_tablespaces(options: RestoreOptions, chosen: Chosen) -> tuple[str, ...]:
    """Directories of the old data directory's tablespaces that the backup does not know.

    Replay makes such a tablespace at the same place again and would write into, or remove, what is there.
    """
    folder = os.path.join(options.data_directory, "pg_tblspc")
    if options.scratch or not os.path.isdir(folder):
        return ()
    oids = {str(tablespace.oid) for tablespace in chosen.tablespaces}
    restored = {tablespace.location for tablespace in chosen.tablespaces}
    links = [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name not in oids]
    locations = [os.path.realpath(link) for link in links if os.path.islink(link)]
    name = re.compile(rf"PG_{read_version(options.data_directory)}_\d+\Z")
    found = []
    for location in locations:
        if location not in restored and os.path.isdir(location):
            found += [os.path.join(location, entry) for entry in sorted(os.listdir(location)) if name.match(entry)]
    found = [path for path in found if os.path.isdir(path) and os.listdir(path)]
    for path in found:
        _check_movable(path)
    return tuple(found)


def _check_movable(path: str) -> None:
    if mount_point(path):
        raise Refused(
            "data_directory_mount",
            f"{path} is a mount point, so it cannot be kept aside by renaming",
            hint="mount the file system at the tablespace's location instead",
        )
    if not os.access(os.path.dirname(path), os.W_OK | os.X_OK):
        raise Refused("parent_not_writable", f"{os.path.dirname(path)} cannot be written to", hint="use become")


def content_size(chosen: Chosen) -> int:
    """Bytes of all files of an indexed backup."""
    return sum(entry.size for archive, _place in chosen.archives() for entry in archive.files if entry.type == FILE)
