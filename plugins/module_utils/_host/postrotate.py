# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command that makes a program reopen its log, checked before it is needed at night. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import stat
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils import _process
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError, Refused

SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ALLOWED = ("systemctl", "service", "invoke-rc.d", "kill", "nginx", "apachectl", "pg_ctlcluster", "rsyslog-rotate")
RELOADS = ("reload", "restart", "try-restart", "reload-or-restart", "try-reload-or-restart")
SYSTEMD = "/run/systemd/system"
_OPERATOR = re.compile(r"[|&;<>()]+$")
_EXPANSION = re.compile(r"[$`*?\[\]{}~!#\n]")
HIDING = "a failure of the command, or what it printed, would be lost: logrotate reports both when they reach it"


@dataclasses.dataclass(frozen=True)
class Signal:
    """Send a signal to the process whose number is in a file."""

    pid_file: str
    signal: str = "HUP"

    def check(self) -> None:
        """Raise InvalidOption for what cannot be written into a script safely."""
        if not self.pid_file.startswith("/"):
            raise InvalidOption("signal.pid_file", self.pid_file, "not an absolute path")
        if not re.fullmatch(r"[A-Z][A-Z0-9]{1,9}", self.signal) or self.signal in ("KILL", "STOP", "TERM"):
            raise InvalidOption(
                "signal.signal", self.signal, "not a signal that asks a program to reopen its log, such as HUP or USR1"
            )

    def line(self) -> str:
        """The line of the script; a missing file or process makes it fail."""
        return f'kill -s {self.signal} "$(cat {shlex.quote(self.pid_file)})"'


def words_of(command: str) -> list[str]:
    """The words of a plain command; raises InvalidOption for anything that only a shell understands."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        words = list(lexer)
    except ValueError as error:
        raise InvalidOption("postrotate", command, str(error), hint="quote it as for a shell") from error
    operators = [word for word in words if _OPERATOR.match(word)]
    if operators:
        raise InvalidOption("postrotate", command, f"contains {operators[0]!r}: {HIDING}", hint=f"write only {_plain(command)!r}")
    if not words:
        raise InvalidOption("postrotate", command, "empty")
    if _EXPANSION.search(command):
        raise InvalidOption(
            "postrotate",
            command,
            "contains something that a shell would expand",
            hint="give a program with plain arguments; for a signal to the process of a pid file use the option signal",
        )
    return words


def _plain(command: str) -> str:
    """The command up to its first operator."""
    return re.split(r"\d*[|&;<>]", command)[0].strip()


def locate(program: str) -> str:
    """The program's absolute path; raises Refused when it is missing, cannot be run or may be changed by other users."""
    path = shutil.which(program, path=SEARCH)
    if path is None:
        raise Refused(
            "postrotate_missing",
            f"postrotate: {program} is not installed, or cannot be run",
            hint=f"install it, or give its absolute path; searched {SEARCH}",
        )
    if not os.path.isabs(path):
        raise InvalidOption("postrotate", program, "neither a plain name nor an absolute path")
    found = os.stat(path)
    if os.geteuid() == 0 and (found.st_uid != 0 or found.st_mode & stat.S_IWOTH or (found.st_gid and found.st_mode & stat.S_IWGRP)):
        raise Refused(
            "postrotate_insecure",
            f"postrotate: {path} can be changed by users other than root, and logrotate runs it as root",
            hint=f"make root its owner and take the others' right to write: chown root: {path}; chmod go-w {path}",
        )
    return path


def script_of(commands: t.Sequence[str], signal: Signal | None, allowed: t.Sequence[str]) -> list[str]:
    """The lines of the script, with absolute paths; each failure is the script's failure."""
    lines: list[str] = []
    for command in commands:
        words = words_of(command)
        path = locate(words[0])
        if not {path, words[0], os.path.basename(path)} & set(allowed):
            raise Refused(
                "postrotate_not_allowed",
                f"postrotate: {words[0]} is not one of the allowed programs ({', '.join(allowed) or 'none'})",
                hint=f"add {path} to postrotate_allowed when logrotate may run it",
            )
        require_unit(path, words[1:])
        lines.append(" ".join(shlex.quote(word) for word in [path, *words[1:]]))
    if signal is not None:
        signal.check()
        lines.append(signal.line())
    return ["set -e", *lines] if len(lines) > 1 else lines


def require_unit(program: str, arguments: t.Sequence[str]) -> None:
    """Refuse a reload of a unit that systemd does not know or cannot reload; without systemd nothing can be said."""
    verbs = [word for word in arguments if not word.startswith("-")]
    if os.path.basename(program) != "systemctl" or not verbs or verbs[0] not in RELOADS or not os.path.isdir(SYSTEMD):
        return
    for unit in verbs[1:]:
        try:
            shown = _process.run([program, "show", "--property=LoadState,CanReload", "--", unit], timeout=20).stdout
        except OpsError as error:
            raise Refused("postrotate_unit", f"postrotate: systemctl show {unit}: {error.message}") from error
        state = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        if state.get("LoadState") != "loaded":
            raise Refused(
                "postrotate_unit",
                f"postrotate: systemd has no unit {unit} (LoadState={state.get('LoadState', 'unknown')}), so its reload would fail",
                hint="install the service first, or correct its name",
            )
        if verbs[0] == "reload" and state.get("CanReload") != "yes":
            raise Refused(
                "postrotate_unit",
                f"postrotate: the unit {unit} cannot be reloaded: it has no ExecReload",
                hint="give the unit an ExecReload, send a signal with the option signal, or use systemctl reload-or-restart",
            )
