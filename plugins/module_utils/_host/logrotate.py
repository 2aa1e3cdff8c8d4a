# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stanza of logrotate: judged by logrotate itself and by what is around it, installed whole. PRIVATE to the collection."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import os
import shutil
import stat
import tempfile
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils import _files, _process
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._host import globs
from ansible_collections.fileforge.ops.plugins.module_utils._host.log_access import preflight
from ansible_collections.fileforge.ops.plugins.module_utils._host.logrotate_stanza import StanzaOptions, render
from ansible_collections.fileforge.ops.plugins.module_utils._host.postrotate import SEARCH
from ansible_collections.fileforge.ops.plugins.module_utils._host.stanzas import Configuration, conflicts, shared_files

TIMEOUT = 60.0


def program() -> str:
    """Where logrotate is."""
    path = shutil.which("logrotate", path=SEARCH)
    if path is None:
        raise Refused("no_logrotate", "logrotate is not installed on this host", hint="install it: apt-get install logrotate")
    return path


def judge(text: str) -> list[str]:
    """Let logrotate read the stanza in debug mode, with a state file of its own; raises Refused with what it said.

    An unknown directive is only an error line, with status 0: the lines decide. Returns its warnings.
    """
    with tempfile.TemporaryDirectory(prefix="fileforge-logrotate-") as private:
        file = os.path.join(private, "stanza")
        _files.write_whole(file, text.encode(), mode=0o600)
        done = _process.run([program(), "--debug", "--state", f"{private}/state", file], timeout=TIMEOUT, check=False)
        said = [line.strip().replace(file, "the stanza") for line in done.stderr.splitlines()]
    errors = [line for line in said if line.startswith("error:")]
    if errors or done.returncode != 0:
        raise Refused(
            "not_accepted",
            f"logrotate does not accept the stanza: {'; '.join(errors) or f'status {done.returncode}'}",
            hint="nothing was installed; with missingok=false the log files must be there",
            errors=errors,
        )
    return [line for line in said if line.startswith("warning:") and "debug mode" not in line]


@dataclasses.dataclass
class Target:
    """Where the stanza is installed."""

    dest: str
    main_config: str = "/etc/logrotate.conf"
    mode: int = 0o644
    backup: bool = False

    def check(self) -> None:
        """Raise InvalidOption for what logrotate would refuse to read."""
        if not os.path.isabs(self.dest) or self.dest.endswith("/"):
            raise InvalidOption("dest", self.dest, "not the absolute path of a file")
        if not os.path.isdir(os.path.dirname(self.dest)):
            raise InvalidOption("dest", self.dest, "its directory does not exist", hint="create the directory, or correct the path")
        if os.path.isdir(self.dest) or os.path.islink(self.dest):
            raise InvalidOption("dest", self.dest, "is a directory or a symbolic link", hint="give the path of a plain file")
        if self.mode & 0o022:
            raise InvalidOption(
                "mode", f"{self.mode:04o}", "logrotate ignores files that group or others can write", hint="use '0644'"
            )

    def read(self) -> str | None:
        """The file's text; None when it is not there."""
        try:
            with open(self.dest, encoding="utf-8", errors="surrogateescape") as stream:
                return stream.read()
        except FileNotFoundError:
            return None

    def as_wanted(self, text: str) -> bool:
        """Whether text, mode and owner are right already."""
        if self.read() != text:
            return False
        found = os.stat(self.dest)
        return stat.S_IMODE(found.st_mode) == self.mode and (os.geteuid() != 0 or found.st_uid == 0)

    def keep_old(self) -> str:
        """Copy the file beside itself under a name that logrotate does not read."""
        stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
        kept = f"{self.dest}.{stamp}~"
        shutil.copy2(self.dest, kept)
        return kept


def require_read(target: Target, configuration: Configuration) -> None:
    """Refuse a place that the main configuration does not read, and backups that it would."""
    if not configuration.includes(target.dest):
        reason = "its name is one of those that logrotate leaves out" if configuration.taboo(target.dest) else "nothing includes it"
        raise Refused(
            "not_read",
            f"dest={target.dest}: {target.main_config} does not read it ({reason}), so the stanza would do nothing",
            hint=f"install into a directory that {target.main_config} includes, or give the right main_config",
        )
    if target.backup and not configuration.taboo(f"{target.dest}~"):
        raise Refused(
            "backup_read", f"{target.main_config} would read backups of {target.dest} as configuration (tabooext without ~)"
        )


@dataclasses.dataclass
class Outcome:
    """What was, or would be, done."""

    changed: bool
    before: str
    after: str
    notes: list[str] = dataclasses.field(default_factory=list)
    possible: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)
    backup_file: str | None = None
    matched: list[str] = dataclasses.field(default_factory=list)


def install(options: StanzaOptions, target: Target, *, check_mode: bool) -> Outcome:
    """Judge the stanza and everything around it, then write it whole; check mode does all but write."""
    options.check()
    target.check()
    program()
    notes = preflight(options) + require_each_once(options.paths)
    text = render(options)
    possible: list[dict[str, t.Any]] = []
    if target.main_config:
        configuration = Configuration(target.main_config)
        require_read(target, configuration)
        possible = _require_no_conflict(options, target, configuration)
        notes += [f"{item['file']}:{item['line']} could match the same files ({item['pattern']})" for item in possible]
    notes += judge(text)
    changed = not target.as_wanted(text)
    matched = sorted({path for pattern in options.paths for path in globs.expand(pattern)})
    outcome = Outcome(changed, target.read() or "", text, notes, possible, None, matched)
    if changed and not check_mode:
        if target.backup and os.path.exists(target.dest):
            outcome.backup_file = target.keep_old()
        _files.write_whole(target.dest, text.encode("utf-8", "surrogateescape"), mode=target.mode, owner=(0, 0))
    return outcome


def require_each_once(paths: t.Sequence[str]) -> list[str]:
    """Refuse two paths of the stanza that are for the same file, now or when it is there; returns what is only possible.

    logrotate calls that a duplicate entry and leaves the whole stanza out.
    """
    notes = []
    for one, other in itertools.combinations(paths, 2):
        shared = shared_files(one, other)
        if not shared and not globs.overlap(one, other):
            continue
        if not shared and globs.is_pattern(one) and globs.is_pattern(other):
            notes.append(f"{one} and {other} could match the same file, which logrotate would refuse as a duplicate entry")
            continue
        raise InvalidOption(
            "paths",
            other,
            f"also matched by {one}{f' ({shared[0]})' if shared else ''}, and logrotate leaves out a stanza with duplicate entries",
            hint="remove one of the two, or use patterns that have no file in common",
        )
    return notes


def _require_no_conflict(options: StanzaOptions, target: Target, configuration: Configuration) -> list[dict[str, t.Any]]:
    """Refuse when another stanza is for the same files; returns the conflicts that are only possible."""
    found = conflicts(options.paths, configuration, target.dest)
    certain = [item for item in found if item.certain]
    if certain:
        places = ", ".join(item.stanza.where() for item in certain[:5])
        raise Refused(
            "conflict",
            f"another stanza is for the same files, and logrotate ignores the one that it reads later: {certain[0].text()}",
            hint=f"each file may have one stanza only; remove this path here, or there: {places}",
            conflicts=[item.as_dict() for item in found],
        )
    return [item.as_dict() for item in found]


def remove(target: Target, *, check_mode: bool) -> Outcome:
    """Take the stanza away; the logs and what was rotated stay."""
    before = target.read()
    outcome = Outcome(before is not None, before or "", "")
    if before is not None and not check_mode:
        if target.backup:
            outcome.backup_file = target.keep_old()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target.dest)
        _files.fsync_directory(os.path.dirname(target.dest))
    return outcome
