# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What logrotate is told already: the stanzas of a configuration with everything that it includes. PRIVATE."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
import shlex
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import NotFound, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._host import globs

TABOO = (
    ",v", ".cfsaved", ".disabled", ".dpkg-bak", ".dpkg-del", ".dpkg-dist", ".dpkg-new", ".dpkg-old", ".rhn-cfg-tmp-*",
    ".rpmnew", ".rpmorig", ".rpmsave", ".swp", ".ucf-dist", ".ucf-new", ".ucf-old", "~")  # fmt: skip
"""Endings of files that logrotate leaves out of an included directory, unless tabooext says otherwise."""

SCRIPTS = ("prerotate", "postrotate", "firstaction", "lastaction", "preremove")
DEPTH = 16
LARGEST = 4 * 1024 * 1024


@dataclasses.dataclass(frozen=True)
class Stanza:
    """A list of patterns that one block of directives is for."""

    file: str
    line: int
    patterns: tuple[str, ...]
    directives: tuple[str, ...] = ()

    def where(self) -> str:
        """File and line, for people."""
        return f"{self.file}:{self.line}"


class Configuration:
    """Reads a main configuration; ``files`` are the files that logrotate reads, in its order."""

    def __init__(self, main: str) -> None:
        self.main = main
        self.files: list[str] = []
        self.stanzas: list[Stanza] = []
        self.problems: list[str] = []
        self._endings = list(TABOO)
        self._names: list[str] = []
        self._included: list[str] = []
        if not os.path.exists(main):
            raise NotFound(
                f"main_config={main!r}: there is no such file on this host",
                hint="give the configuration that logrotate is started with, or an empty value to look at no other stanza",
            )
        self._read_file(main, 0)

    def includes(self, path: str) -> bool:
        """Whether a file is read already, or would be if it existed."""
        real = os.path.realpath(path)
        if any(os.path.realpath(file) == real for file in self.files):
            return True
        directories = {os.path.realpath(item) for item in self._included if os.path.isdir(item)}
        return os.path.dirname(real) in directories and not self.taboo(path)

    def taboo(self, path: str) -> bool:
        """Whether a file of that name is left out of an included directory."""
        name = os.path.basename(path)
        return any(fnmatch.fnmatchcase(name, f"*{ending}") for ending in self._endings) or any(
            fnmatch.fnmatchcase(name, pattern) for pattern in self._names
        )

    def _read_file(self, path: str, depth: int) -> None:
        if depth > DEPTH:
            raise Refused("include_depth", f"{self.main}: includes are nested more than {DEPTH} deep, at {path}")
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as stream:
                text = stream.read(LARGEST)
        except OSError as error:
            raise Refused(
                "cannot_read",
                f"{path}: {error.strerror}, so what it says about the same files is unknown",
                hint="make it readable for the user that runs this (become), or repair the include",
            ) from error
        self.files.append(path)
        for number, key, rest in _statements(text):
            if key == "stanza":
                self._add_stanza(path, number, rest)
            elif key == "include":
                self._include(rest, depth)
            elif key in ("tabooext", "taboopat"):
                self._set_taboo(key, rest)

    def _add_stanza(self, path: str, number: int, rest: str) -> None:
        names, _brace, body = rest.partition("{")
        try:
            patterns = shlex.split(names)
        except ValueError as error:
            self.problems.append(f"{path}:{number}: {error}")
            return
        inside = tuple(f"{key} {value}".strip() for _number, key, value in _statements(body))
        self.stanzas.append(Stanza(path, number, tuple(os.path.expanduser(item) for item in patterns), inside))

    def _include(self, rest: str, depth: int) -> None:
        target = os.path.expanduser(rest.strip().strip("\"'"))
        self._included.append(target)
        if not os.path.isdir(target):
            self._read_file(target, depth + 1)
            return
        for name in sorted(os.listdir(target)):
            path = os.path.join(target, name)
            if os.path.isfile(path) and not self.taboo(path):
                self._read_file(path, depth + 1)

    def _set_taboo(self, key: str, rest: str) -> None:
        items = rest.replace(",", " ").split() if key == "taboopat" else [item for item in re.split(r"[\s,]+", rest) if item]
        add = bool(items) and items[0].startswith("+")
        if add:
            items[0] = items[0][1:]
        items = [item for item in items if item]
        if key == "taboopat":
            self._names = (self._names if add else []) + items
        else:
            self._endings = (self._endings if add else []) + items


def _statements(text: str) -> t.Iterator[tuple[int, str, str]]:
    """Line number, key and the rest, for each directive; a stanza comes as one with its whole body, a script with its lines."""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        number, line = at + 1, lines[at].strip()
        at += 1
        if not line or line.startswith("#"):
            continue
        if line[0] in "/\"'~":
            whole, at = _whole_stanza(lines, at - 1)
            yield number, "stanza", whole
            continue
        key, _sign, rest = re.sub(r"[\s=]+", " ", line, count=1).partition(" ")
        if key in SCRIPTS:
            script, at = _whole_script(lines, at)
            yield number, key, script
            continue
        yield number, key, rest.strip()


def _whole_stanza(lines: list[str], at: int) -> tuple[str, int]:
    """The text from the patterns to the closing brace (which is left out), and the line after it."""
    names: list[str] = []
    while at < len(lines) and "{" not in lines[at]:
        if not lines[at].lstrip().startswith("#"):
            names.append(lines[at])
        at += 1
    if at == len(lines):
        return " ".join(names), at
    head, _brace, first = lines[at].partition("{")
    body, at = [first], at + 1
    if first.strip().endswith("}"):
        return f"{' '.join([*names, head])}{{{first.strip()[:-1]}", at
    while at < len(lines):
        line = lines[at].strip()
        at += 1
        if line.startswith("}"):
            break
        body.append(line)
        if line in SCRIPTS:
            script, at = _whole_script(lines, at)
            body += [script, "endscript"]
    joined = "\n".join(body)
    return f"{' '.join([*names, head])}{{{joined}", at


def _whole_script(lines: list[str], at: int) -> tuple[str, int]:
    """The lines up to endscript, and the line after it."""
    script: list[str] = []
    while at < len(lines) and lines[at].strip() != "endscript":
        script.append(lines[at])
        at += 1
    return "\n".join(script), at + 1


@dataclasses.dataclass(frozen=True)
class Conflict:
    """Another stanza for the same files."""

    stanza: Stanza
    pattern: str
    theirs: str
    files: tuple[str, ...]

    @property
    def certain(self) -> bool:
        """Whether a file is there that both match, or one of the patterns is a plain name; else it is only possible."""
        return bool(self.files) or not (globs.is_pattern(self.pattern) and globs.is_pattern(self.theirs))

    def as_dict(self) -> dict[str, t.Any]:
        """For the module's result."""
        return {
            "file": self.stanza.file,
            "line": self.stanza.line,
            "pattern": self.theirs,
            "ours": self.pattern,
            "files": list(self.files[:20]),
            "certain": self.certain,
        }

    def text(self) -> str:
        """For people."""
        shared = f" (both match {self.files[0]})" if self.files else ""
        return f"{self.stanza.where()} rotates {self.theirs}{shared}"


def conflicts(patterns: t.Sequence[str], configuration: Configuration, own_file: str) -> list[Conflict]:
    """Stanzas of other files that match the same names; certain ones first."""
    own = os.path.realpath(own_file)
    found: list[Conflict] = []
    for stanza in configuration.stanzas:
        if os.path.realpath(stanza.file) == own:
            continue
        for ours in patterns:
            for theirs in stanza.patterns:
                shared = shared_files(ours, theirs)
                if shared or globs.overlap(ours, theirs):
                    found.append(Conflict(stanza, ours, theirs, tuple(shared)))
    return sorted(found, key=lambda item: not item.certain)


def shared_files(one: str, other: str) -> list[str]:
    """Existing files that both match, also by way of symbolic links in the directories."""
    real = {os.path.realpath(path) for path in globs.expand(other)}
    return [path for path in globs.expand(one) if os.path.realpath(path) in real]
