# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where reports are kept: one directory for each run, and a link to the latest. PRIVATE to the collection."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._evidence import journal
from ansible_collections.fileforge.ops.plugins.module_utils._evidence.render import render_html, render_markdown
from ansible_collections.fileforge.ops.plugins.module_utils._evidence.report import Facts, same_report
from ansible_collections.fileforge.ops.plugins.module_utils._files import fsync_directory, write_whole
from ansible_collections.fileforge.ops.plugins.module_utils._time import parse_time

T = t.TypeVar("T")
LATEST = "latest"
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")


class EvidenceError(OpsError):
    """Evidence cannot be read or written."""

    code = "evidence"


def guarded(call: t.Callable[[], T], path: str) -> T:
    """Call; an OSError names the file and becomes an EvidenceError."""
    try:
        return call()
    except OSError as error:
        raise EvidenceError(
            f"{error.filename or path}: {error.strerror}", hint="look at the path, its rights and the free disk"
        ) from error


def with_start_of_journal(facts: Facts, path: str | None) -> Facts:
    """The facts, with the journal's first time as the start of the run unless one was given."""
    if path is None or facts.run_started is not None:
        return facts
    entries, _found = guarded(lambda: journal.read(path), path)
    return dataclasses.replace(facts, run_started=parse_time(str(entries[0]["time"]), "journal")) if entries else facts


@dataclasses.dataclass(frozen=True)
class Change:
    """A report, what it would replace, and whether that is needed."""

    report: dict[str, t.Any]
    texts: dict[str, str]
    before: str
    needed: bool

    def as_diff(self) -> dict[str, str]:
        """For Ansible's diff mode: the Markdown before and after."""
        after = self.texts["report.md"] if self.needed else self.before
        return {"before": self.before, "after": after, "before_header": "report.md", "after_header": "report.md"}


@dataclasses.dataclass(frozen=True)
class Place:
    """A run's directory below the evidence directory."""

    base: str
    run_id: str

    @classmethod
    def of(cls, base: str, run_id: str) -> Place:
        """Raises InvalidOption when the name cannot be a directory's."""
        if not _RUN_ID.fullmatch(run_id) or run_id == LATEST:
            raise InvalidOption("run_id", run_id, "must be letters, digits, dots, dashes and underscores, and not latest")
        return cls(os.path.abspath(base), run_id)

    @property
    def directory(self) -> str:
        """The run's directory."""
        return os.path.join(self.base, self.run_id)

    @property
    def link(self) -> str:
        """The link to the latest run's directory."""
        return os.path.join(self.base, LATEST)

    def files(self) -> list[str]:
        """The files of the report."""
        return [os.path.join(self.directory, name) for name in ("report.json", "report.md", "report.html")]

    def as_dict(self) -> dict[str, str]:
        """The shape that the module returns."""
        json_path, markdown, html = self.files()
        return {
            "run_id": self.run_id,
            "directory": self.directory,
            "json": json_path,
            "markdown": markdown,
            "html": html,
            "latest": self.link,
        }

    def _read(self, name: str) -> str | None:
        try:
            with open(os.path.join(self.directory, name), encoding="utf-8") as stream:
                return stream.read()
        except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
            return None

    def compare(self, report: dict[str, t.Any]) -> Change:
        """What is to be written for this report; the one that is there stays when it says the same and is whole."""
        return guarded(lambda: self._compare(report), self.directory)

    def _compare(self, report: dict[str, t.Any]) -> Change:
        old_json, old_markdown, old_html = self._read("report.json"), self._read("report.md"), self._read("report.html")
        report = json.loads(json.dumps(report))
        kept = report
        if old_json is not None:
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                old = json.loads(old_json)
                kept = old if same_report(old, report) else report
        texts = {
            "report.json": f"{json.dumps(kept, indent=2)}\n",
            "report.md": render_markdown(kept),
            "report.html": render_html(kept),
        }
        linked = os.path.islink(self.link) and os.readlink(self.link) == self.run_id
        same = list(texts.values()) == [old_json, old_markdown, old_html]
        return Change(kept, texts, old_markdown or "", not (same and linked))

    def write(self, change: Change) -> None:
        """Write the files, each as a whole, then point the link here. Raises EvidenceError."""
        guarded(lambda: self._write(change), self.directory)

    def _write(self, change: Change) -> None:
        os.makedirs(self.directory, mode=0o755, exist_ok=True)
        for name in ("report.md", "report.html", "report.json"):
            write_whole(os.path.join(self.directory, name), change.texts[name].encode())
        partial = f"{self.link}.{os.getpid()}.partial"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        os.symlink(self.run_id, partial)
        os.replace(partial, self.link)
        fsync_directory(self.base)
