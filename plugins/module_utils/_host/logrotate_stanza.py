# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""One stanza of logrotate: its options and its text. PRIVATE to the collection.

Every directive that this stanza has an opinion on is written, also when it is off: logrotate's own defaults depend on what the
main configuration said before.
"""

from __future__ import annotations

import dataclasses
import re
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._host import globs
from ansible_collections.fileforge.ops.plugins.module_utils._host.postrotate import Signal, script_of

HEADER = "# Written by fileforge.ops.logrotate_config; changes made here are lost.\n"
_SIZE = re.compile(r"\d+[kMG]?$")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\"'\\{}]")
_DATE_FORMAT = re.compile(r"(?:%[YmdHMSVs]|[A-Za-z0-9._-])+$")


@dataclasses.dataclass
class StanzaOptions:
    """What is to be rotated and how; the names are logrotate's where it has one."""

    paths: t.Sequence[str]
    frequency: str | None = None
    size: str | None = None
    minsize: str | None = None
    maxsize: str | None = None
    rotate: int = 30
    maxage: int | None = None
    compress: bool = True
    delaycompress: bool = True
    missingok: bool = True
    notifempty: bool = True
    create: bool = True
    create_mode: str | None = None
    create_owner: str | None = None
    create_group: str | None = None
    copytruncate: bool = False
    su_user: str | None = None
    su_group: str | None = None
    sharedscripts: bool = True
    postrotate: t.Sequence[str] = ()
    postrotate_allowed: t.Sequence[str] = ()
    signal: Signal | None = None
    dateext: bool = False
    dateformat: str | None = None
    olddir: str | None = None
    writer: str | None = None

    def check(self) -> None:
        """Raise InvalidOption for what can be seen to be wrong without looking at the host."""
        self._check_paths()
        self._check_when()
        if self.rotate < -1:
            raise InvalidOption("rotate", self.rotate, "must be -1 (keep all) or more")
        if self.maxage is not None and self.maxage < 1:
            raise InvalidOption("maxage", self.maxage, "must be at least one day")
        if self.create_mode is not None and not re.fullmatch(r"0?[0-7]{3}", self.create_mode):
            raise InvalidOption(
                "create_mode", self.create_mode, "not a mode such as '0640'", hint="quote it, so that YAML keeps it"
            )
        if self.create_group is not None and self.create_owner is None:
            raise InvalidOption("create_group", self.create_group, "needs create_owner", hint="give both, or neither")
        if self.create_owner is not None and self.create_mode is None:
            raise InvalidOption("create_owner", self.create_owner, "needs create_mode", hint="for example create_mode: '0640'")
        if (self.su_user is None) != (self.su_group is None):
            raise InvalidOption("su_user", self.su_user, "needs su_group, and the other way round", hint="give both, or neither")
        if self.dateformat is not None and not (self.dateext and _DATE_FORMAT.match(self.dateformat)):
            problem = "only %Y %m %d %H %M %S %V %s, letters, digits and ._- are possible" if self.dateext else "needs dateext"
            raise InvalidOption("dateformat", self.dateformat, problem)

    def _check_paths(self) -> None:
        if not self.paths:
            raise InvalidOption("paths", list(self.paths), "empty", hint="give at least one path or pattern")
        for path in [*self.paths, *([self.olddir] if self.olddir is not None else [])]:
            option = "olddir" if path is self.olddir else "paths"
            if not path.startswith("/"):
                raise InvalidOption(option, path, "not an absolute path", hint="logrotate needs absolute paths here")
            if _UNSAFE.search(path):
                raise InvalidOption(option, path, "contains a quote, a brace, a backslash or a control character")
            if ".." in path.split("/"):
                raise InvalidOption(option, path, "contains '..'", hint="write the directory's own path")
        if self.olddir is None:
            for path in self.paths:
                self._check_own_files(path)

    def _check_own_files(self, pattern: str) -> None:
        """A pattern that matches what was rotated already rotates it again and again."""
        suffix = ".1"
        if self.dateext:
            suffix = re.sub(r"%[A-Za-z]", "1", self.dateformat) if self.dateformat else "-20260101"
        for name in (globs.example_of(pattern) + suffix, globs.example_of(pattern) + suffix + ".gz"):
            for other in self.paths:
                if globs.matches(other, name):
                    raise InvalidOption(
                        "paths",
                        other,
                        f"also matches rotated files such as {name}",
                        hint="use a narrower pattern such as *.log, or olddir",
                    )

    def _check_when(self) -> None:
        if self.frequency is None and self.size is None:
            raise InvalidOption("frequency", None, "neither frequency nor size is given", hint="for example frequency: daily")
        if self.frequency is not None and self.size is not None:
            raise InvalidOption(
                "size",
                self.size,
                f"does not go with frequency={self.frequency}: in logrotate the last one wins",
                hint="use maxsize to rotate earlier when a file is big, or minsize to leave small files alone",
            )
        for option in ("size", "minsize", "maxsize"):
            value = getattr(self, option)
            if value is not None and not _SIZE.match(value):
                raise InvalidOption(option, value, "not a size", hint="bytes, or a number followed by k, M or G, such as 100M")


def render(options: StanzaOptions) -> str:
    """The stanza's text."""

    def switch(name: str, on: bool) -> str:
        return name if on else f"no{name}"

    lines = [options.frequency] if options.frequency else [f"size {options.size}"]
    lines += [f"{name} {getattr(options, name)}" for name in ("minsize", "maxsize") if getattr(options, name) is not None]
    lines.append(f"rotate {options.rotate}")
    if options.maxage is not None:
        lines.append(f"maxage {options.maxage}")
    lines += [switch(name, getattr(options, name)) for name in ("compress", "delaycompress", "missingok")]
    lines.append("notifempty" if options.notifempty else "ifempty")
    if options.create and not options.copytruncate:
        parts = [options.create_mode, options.create_owner, options.create_group]
        lines.append(" ".join(["create", *[part for part in parts if part is not None]]))
    else:
        lines.append("nocreate")
    lines.append(switch("copytruncate", options.copytruncate))
    lines.append(f'olddir "{options.olddir}"' if options.olddir else "noolddir")
    lines.append(switch("dateext", options.dateext))
    if options.dateformat is not None:
        lines.append(f"dateformat {options.dateformat}")
    if options.su_user is not None:
        lines.append(f"su {options.su_user} {options.su_group}")
    lines.append(switch("sharedscripts", options.sharedscripts))
    script = script_of(options.postrotate, options.signal, options.postrotate_allowed)
    body = "".join(f"    {line}\n" for line in lines)
    if script:
        body += "    postrotate\n" + "".join(f"        {line}\n" for line in script) + "    endscript\n"
    names = "\n".join(f'"{path}"' for path in options.paths)
    return f"{HEADER}{names} {{\n{body}}}\n"
