# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recovery settings of a data directory, right for PostgreSQL 12 to 18. PRIVATE to the collection.

The settings go into a marked block at the end of ``postgresql.auto.conf``, where they win over every configuration file; every
``recovery_target*`` is set, because a forgotten one from an earlier recovery would stop the server or stop it at the wrong place.
The block is taken out again after promotion; a second, lasting block makes a scratch server harmless.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import re
import shlex
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import Refused
from ansible_collections.fileforge.ops.plugins.module_utils._files import fsync_directory, write_whole
from ansible_collections.fileforge.ops.plugins.module_utils._time import postgres_time

OLDEST = 12
RECOVERY_SIGNAL = "recovery.signal"
AUTO_CONF = "postgresql.auto.conf"
LEFTOVERS = (
    "standby.signal",
    "recovery.conf",
    "recovery.done",
    "backup_label.old",
    "tablespace_map.old",
    "postmaster.pid",
    "postmaster.opts",
)
"""Files of another life of the directory; ``recovery.conf`` alone would stop the server."""

_BLOCK = "fileforge {} settings, written by a restore"
_RECOVERY, _SCRATCH = "recovery", "scratch"
_TARGETS = ("recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_xid", "recovery_target_time")
_STALE = re.compile(r"\s*(recovery_target\w*|promote_trigger_file)\s*(=|\s)", re.IGNORECASE)

_SETTING = re.compile(r"\s*(?P<name>[A-Za-z_][A-Za-z0-9_.]*)\s*=?\s*(?P<value>.*?)\s*$")


def require_supported(major: int) -> None:
    """Raise Refused (``wrong_version``) for versions that are recovered by ``recovery.conf``."""
    if major < OLDEST:
        raise Refused(
            "wrong_version",
            f"the backup is of PostgreSQL {major}; point-in-time restore is supported from PostgreSQL {OLDEST} on",
            hint="restore it by hand with a recovery.conf",
        )


def conf_quote(value: str) -> str:
    """A value in a PostgreSQL configuration file."""
    if "\n" in value or "\0" in value:
        raise ValueError("a configuration value cannot hold a line break")
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def restore_command(argv: t.Sequence[str], absent: int) -> str:
    """The ``restore_command`` that runs a program with the wanted file's name and the place for it as its last arguments.

    ``absent`` is the program's status for a file that truly does not exist. PostgreSQL takes every status from 1 to 125 for that,
    ends recovery there and promotes; so the shell makes 1 of ``absent`` and something fatal of all other failures, such as those of
    an interpreter that cannot start.
    """
    words = " ".join(shlex.quote(word) for word in argv).replace("%", "%%")
    return f'{words} "%f" "%p"; s=$?; [ $s -ne {absent} ] || exit 1; [ $s -eq 0 ] || [ $s -gt 125 ] || exit 126; exit $s'


@dataclasses.dataclass(frozen=True)
class RecoverySettings:
    """Where recovery is to end. ``target_time`` None: at the end of the WAL that ``restore_command`` finds."""

    major: int
    timeline: int
    restore_command: str
    target_time: datetime.datetime | None = None
    archive: bool = True
    """Whether the restored server archives WAL as its own settings say; false turns archiving off."""

    def pairs(self) -> dict[str, str]:
        """Name and value of each setting."""
        require_supported(self.major)
        settings = dict.fromkeys(_TARGETS, "")
        # The one in use comes last: up to 17, even an empty one after it counts as a second target, which is fatal.
        settings["recovery_target_time"] = "" if self.target_time is None else postgres_time(self.target_time)
        settings["recovery_target_timeline"] = str(self.timeline)
        settings["recovery_target_inclusive"] = "on"
        settings["recovery_target_action"] = "promote"
        settings["recovery_min_apply_delay"] = "0"
        settings["recovery_end_command"] = ""
        settings["archive_cleanup_command"] = ""
        settings["restore_command"] = self.restore_command
        settings["primary_conninfo"] = ""
        if self.major < 16:
            settings["promote_trigger_file"] = ""
        if self.major >= 15:
            settings["recovery_prefetch"] = "try"
        if not self.archive:
            settings["archive_mode"] = "off"
        return settings


def strip_blocks(text: str, *kinds: str) -> str:
    """The text of an ``auto.conf`` without the blocks of the given kinds (all of ours when none is given)."""
    for kind in kinds or (_RECOVERY, _SCRATCH):
        marker = re.escape(_BLOCK.format(kind))
        text = re.sub(rf"(?ms)^# begin {marker}\n.*?^# end {marker}\n?", "", text)
    return text


def strip_stale(text: str) -> tuple[str, tuple[str, ...]]:
    """The text without settings of an earlier recovery, and the lines that were taken out."""
    kept, removed = [], []
    for line in text.splitlines(keepends=True):
        if _STALE.match(line):
            removed.append(line.strip())
        else:
            kept.append(line)
    return "".join(kept), tuple(removed)


def _block(kind: str, pairs: t.Mapping[str, str]) -> str:
    marker = _BLOCK.format(kind)
    lines = [f"# begin {marker}", *(f"{name} = {conf_quote(value)}" for name, value in pairs.items()), f"# end {marker}"]
    return "\n".join(lines) + "\n"


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


def _read(path: str) -> str:
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
        return stream.read()
    return ""


def _write(path: str, text: str, owner: tuple[int, int] | None) -> None:
    write_whole(path, text.encode(errors="surrogateescape"), mode=0o600, owner=owner)


def prepare(
    data_directory: str,
    settings: RecoverySettings,
    *,
    owner: tuple[int, int] | None = None,
    scratch: t.Mapping[str, str] | None = None,
) -> list[str]:
    """Make the directory recover when its server is started next; returns what was removed or taken out.

    Safe to repeat. ``recovery.signal`` is written last: without it the server would not look into the archive.
    """
    pairs = settings.pairs()
    path = os.path.join(data_directory, AUTO_CONF)
    text, removed = strip_stale(strip_blocks(_read(path)))
    text = _ended(text)
    if scratch:
        text += _block(_SCRATCH, scratch)
    _write(path, text + _block(_RECOVERY, pairs), owner)
    taken = [*removed, *remove_leftovers(data_directory)]
    write_whole(os.path.join(data_directory, RECOVERY_SIGNAL), b"", mode=0o600, owner=owner)
    return taken


def remove_leftovers(data_directory: str) -> list[str]:
    """Remove files of another life of the directory; returns their names."""
    removed = []
    for name in LEFTOVERS:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(data_directory, name))
            removed.append(name)
    if removed:
        fsync_directory(data_directory)
    return removed


def finish(data_directory: str, settings: RecoverySettings, *, owner: tuple[int, int] | None = None) -> bool:
    """Take the recovery settings out again after promotion; true when there was something to take out.

    ``ALTER SYSTEM`` drops comments, and with them our marks: then the lines are known by name and value.
    """
    path = os.path.join(data_directory, AUTO_CONF)
    before = _read(path)
    ours = settings.pairs()
    lines = []
    for line in strip_blocks(before, _RECOVERY).splitlines(keepends=True):
        match = _SETTING.match(line)
        name = match["name"].lower() if match and not line.lstrip().startswith("#") else ""
        unmarked = match is not None and name in ours and match["value"] == conf_quote(ours[name]) and name != "archive_mode"
        if not unmarked:
            lines.append(line)
    after = "".join(lines)
    if after == before:
        return False
    _write(path, after, owner)
    return True


def recovering(data_directory: str) -> bool:
    """Whether the directory still waits for (the end of) recovery."""
    return os.path.lexists(os.path.join(data_directory, RECOVERY_SIGNAL))
