# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install the WAL program and its configuration, and the commands that call it. PRIVATE to the collection."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shlex
import stat
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._backup import wal_program
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._files import write_whole
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import S3Options
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import recovery

BATCH, PREFETCH = 8, 8
ABSENT = 100
"""Status of a file that is not in the archive: none that an interpreter, a loader or a shell ends with when something is wrong."""
SECRETS = ("access_key", "secret_key", "session_token")
Owner = t.Tuple[int, int]


def program_source() -> str:
    """The program's text, from a directory or from the archive that Ansible runs a module from."""
    loader = getattr(wal_program, "__loader__", None)
    text = loader.get_source(wal_program.__name__) if loader is not None and hasattr(loader, "get_source") else None
    if not isinstance(text, str):
        raise OpsError("the text of the WAL program cannot be read", hint="install the collection's source files")
    return text


def program_text(interpreter: str) -> bytes:
    """What is installed: the program, to be run by this interpreter."""
    return f"#!{interpreter}\n{program_source()}".encode()


def config_text(
    options: S3Options,
    prefix: str,
    spool: str,
    *,
    segment_size: int | None = None,
    batch: int = BATCH,
    prefetch: int = PREFETCH,
    tablespaces: t.Mapping[str, t.Any] | None = None,
) -> bytes:
    """The configuration file. It holds secrets. ``tablespaces``: rules for those that replay makes."""
    values: dict[str, t.Any] = {
        "bucket": options.bucket,
        "endpoint": options.endpoint,
        "region": options.region,
        "access_key": options.access_key,
        "secret_key": options.secret_key,
        "session_token": options.session_token,
        "profile": options.profile,
        "ca_bundle": options.ca_bundle,
        "addressing_style": options.addressing_style,
        "timeout": options.timeout,
        "attempts": options.attempts,
        "prefix": prefix,
        "spool": spool,
        "segment_size": segment_size,
        "batch": batch,
        "prefetch": prefetch,
    }
    if tablespaces is not None:
        values["tablespaces"] = dict(tablespaces)
    return f"{json.dumps(values, indent=1, sort_keys=True)}\n".encode()


def install_program(path: str, interpreter: str, owner: Owner | None = None) -> bool:
    """Write the program; whether that changed anything."""
    return install_file(path, program_text(interpreter), 0o755, owner)


def write_config(
    path: str,
    options: S3Options,
    prefix: str,
    spool: str,
    owner: Owner | None = None,
    *,
    segment_size: int | None = None,
    batch: int = BATCH,
    prefetch: int = PREFETCH,
    tablespaces: t.Mapping[str, t.Any] | None = None,
) -> bool:
    """Write the configuration, readable for ``owner`` only; whether that changed anything."""
    text = config_text(options, prefix, spool, segment_size=segment_size, batch=batch, prefetch=prefetch, tablespaces=tablespaces)
    return install_file(path, text, 0o600, owner)


def install_file(path: str, content: bytes, mode: int, owner: Owner | None) -> bool:
    """Make a file have this content, mode and owner, with the directories above it; whether that changed anything."""
    if is_installed(path, content, mode, owner):
        return False
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    write_whole(path, content, mode=mode, owner=owner)
    return True


def is_installed(path: str, content: bytes, mode: int, owner: Owner | None) -> bool:
    """Whether nothing is to be done."""
    try:
        status = os.lstat(path)
        with open(path, "rb") as stream:
            same = stream.read() == content
    except OSError:
        return False
    owned = owner is None or os.geteuid() != 0 or (status.st_uid, status.st_gid) == owner
    return same and owned and stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) == mode


def make_spool(path: str, owner: Owner | None) -> bool:
    """Make the spool directory, for its owner only; whether that changed anything."""
    if spool_is_made(path, owner):
        return False
    os.makedirs(path, mode=0o700, exist_ok=True)
    os.chmod(path, 0o700)
    if owner is not None and os.geteuid() == 0:
        os.chown(path, *owner)
    return True


def spool_is_made(path: str, owner: Owner | None) -> bool:
    """Whether nothing is to be done."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    owned = owner is None or os.geteuid() != 0 or (status.st_uid, status.st_gid) == owner
    return owned and stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o700


def remove_file(path: str) -> bool:
    """Remove a file; whether there was one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
        return True
    return False


def owner_ids(name: str) -> Owner:
    """User and main group of a user name. Raises InvalidOption."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise InvalidOption("owner", name, "there is no such user on this host") from None
    return entry.pw_uid, entry.pw_gid


def archive_command(interpreter: str, program: str, config: str) -> str:
    """``archive_command``: PostgreSQL replaces %p and runs the rest by a shell."""
    for option, value in (("program_interpreter", interpreter), ("program_path", program), ("config_path", config)):
        if not value.startswith("/") or any(character in value for character in "\n\r\0"):
            raise InvalidOption(option, value, "must be an absolute path without control characters")
    return f'{shlex.join([interpreter, program, "--config", config]).replace("%", "%%")} push "%p"'


def restore_command(interpreter: str, program: str, config: str) -> str:
    """``restore_command``: fetch a file; only what is truly not in the archive counts as the end of WAL."""
    return recovery.restore_command([interpreter, program, "--config", config, "fetch", "--absent", str(ABSENT)], ABSENT)
