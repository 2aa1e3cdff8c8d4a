# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Making a filled directory ready for its first start: tablespaces, recovery settings, and what a scratch server must not do.

PRIVATE to the collection. All of it happens in the new directory, before that takes the old one's place; so a directory in place
without ``recovery.signal`` is one whose recovery is over.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_layout import Layout, Tablespace
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._files import make_directory, write_whole
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import recovery
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import ServerOptions

FOLDERS = (
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_multixact",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
    "pg_wal/archive_status",
    "pg_xact",
)
"""What a server needs to find, although a backup may leave out what is in them."""

SOCKET_LIMIT = 107
"""Bytes of the path of a Unix socket on Linux, less its terminator."""
_HBA = "fileforge_scratch_hba.conf"
_IDENT = "fileforge_scratch_ident.conf"
Owner = t.Optional[t.Tuple[int, int]]


def own(path: str, owner: Owner) -> None:
    """Give a file of ours to the server's user (only root needs to, and can)."""
    if owner is not None and os.geteuid() == 0:
        os.chown(path, *owner, follow_symlinks=False)


def make_folder(path: str, owner: Owner, mode: int = 0o700) -> None:
    """A directory (its parents must exist), owned by the server's user."""
    make_directory(path, mode, owner if os.geteuid() == 0 else None)


def complete_folders(root: str, owner: Owner) -> None:
    """Add the directories that a server needs. Raises IntegrityError for a link, which would lead writes out of the directory."""
    for name in FOLDERS:
        path = os.path.join(root, name)
        if os.path.islink(path):
            raise IntegrityError(f"{path} is a link to {os.readlink(path)} instead of a directory", hint="choose another backup")
        make_folder(path, owner)


def place_tablespaces(root: str, tablespaces: t.Sequence[Tablespace], owner: Owner) -> None:
    """Point the directory to its tablespaces: the links, and the map from which PostgreSQL makes them again at its start."""
    folder = os.path.join(root, "pg_tblspc")
    for name in os.listdir(folder):
        if os.path.islink(os.path.join(folder, name)):
            os.unlink(os.path.join(folder, name))
    lines = []
    for tablespace in sorted(tablespaces, key=lambda tablespace: tablespace.oid):
        link = os.path.join(folder, str(tablespace.oid))
        os.symlink(tablespace.location, link)
        own(link, owner)
        escaped = tablespace.location.replace("\\", "\\\\").replace("\n", "\\\n").replace("\r", "\\\r")
        lines.append(f"{tablespace.oid} {escaped}\n")
    path = os.path.join(root, "tablespace_map")
    if lines:
        write_whole(path, "".join(lines).encode(), mode=0o600, owner=owner)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def scratch_settings(layout: Layout, options: ServerOptions, major: int) -> dict[str, str]:
    """Settings with which a copy of a production server does nothing outside its own directory."""
    directory = layout.data_directory
    socket_directory = options.socket_directory or directory
    settings = {
        "archive_mode": "off",
        "archive_command": "",
        "listen_addresses": "",
        "port": str(options.port or 5432),
        "unix_socket_directories": socket_directory,
        "hba_file": os.path.join(directory, _HBA),
        "ident_file": os.path.join(directory, _IDENT),
        "external_pid_file": "",
        "ssl": "off",
        "logging_collector": "off",
        "log_destination": "stderr",
        "synchronous_standby_names": "",
        "primary_conninfo": "",
        "restore_command": "",
        # A copy of an enabled subscription would connect to the publisher and consume what the live server's slot is for.
        "max_logical_replication_workers": "0",
        # Jobs of pg_cron, which the copy preloads like the original; a setting of nothing where it does not.
        "cron.launch_active_jobs": "off",
    }
    if major >= 15:
        settings["archive_library"] = ""
    return settings


def check_socket_path(directory: str, port: int | None) -> None:
    """Raise InvalidOption when a socket cannot have its path there."""
    path = os.path.join(directory, f".s.PGSQL.{port or 5432}")
    if len(os.fsencode(path)) > SOCKET_LIMIT:
        raise InvalidOption(
            "socket_directory",
            directory,
            f"too long for a Unix socket ({len(os.fsencode(path))} bytes of at most {SOCKET_LIMIT})",
            hint="set socket_directory to a shorter path",
        )


def write_scratch_files(root: str, owner_name: str, owner: Owner) -> None:
    """Let root, the server's user and whoever runs this connect through the private socket, as themselves; nobody else."""
    users = dict.fromkeys(("root", owner_name, pwd.getpwuid(os.geteuid()).pw_name))
    roles = dict.fromkeys(("postgres", owner_name))
    pairs = "".join(f'scratch "{user}" "{role}"\n' for user in users for role in roles)
    write_whole(os.path.join(root, _HBA), b"local all all peer map=scratch\n", mode=0o600, owner=owner)
    write_whole(os.path.join(root, _IDENT), pairs.encode(), mode=0o600, owner=owner)
    if not os.path.exists(os.path.join(root, "postgresql.conf")):
        text = b"# This copy was restored without a configuration file; see postgresql.auto.conf.\n"
        write_whole(os.path.join(root, "postgresql.conf"), text, mode=0o600, owner=owner)


def settle(
    layout: Layout,
    settings: recovery.RecoverySettings,
    options: ServerOptions,
    *,
    owner: Owner,
    scratch: bool,
) -> list[str]:
    """Make the new directory ready; returns what was taken out of it. Repeatable."""
    complete_folders(layout.new, owner)
    place_tablespaces(layout.new, layout.tablespaces, owner)
    lasting = None
    if scratch:
        write_scratch_files(layout.new, options.owner or "postgres", owner)
        lasting = scratch_settings(layout, options, settings.major)
    return recovery.prepare(layout.new, settings, owner=owner, scratch=lasting)
