# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where reports of checks are kept: a directory for each run, a link to the latest, and the history. PRIVATE to the collection."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._files import exclusive_lock, fsync_directory, write_whole
from ansible_collections.fileforge.ops.plugins.module_utils._report import html, machine, text
from ansible_collections.fileforge.ops.plugins.module_utils._report.history import History, run_of

RENDERERS: dict[str, tuple[str, t.Callable[[dict[str, t.Any]], str]]] = {
    "json": ("report.json", lambda report: f"{json.dumps(report, indent=2)}\n"),
    "text": ("report.txt", text.terminal),
    "markdown": ("report.md", text.markdown),
    "html": ("report.html", html.html),
    "junit": ("report.xml", machine.junit),
    "prometheus": ("report.prom", machine.prometheus),
    "nagios": ("report.nagios", text.nagios),
}
"""File and function of each form."""
LATEST = "latest"
HISTORY = "history.jsonl"
STAMP = re.compile(r"\d{8}T\d{6}Z(-\d+)?")


class ReportError(OpsError):
    """A report cannot be written."""

    code = "report"


def rendered(report: dict[str, t.Any], forms: t.Iterable[str]) -> dict[str, str]:
    """File name to content, for each form."""
    return {RENDERERS[form][0]: RENDERERS[form][1](report) for form in forms}


def write_textfile(path: str, content: str) -> None:
    """Write the metrics as a whole, readable for the collector. Raises ReportError."""
    try:
        write_whole(path, content.encode(), mode=0o644)
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}", hint="look at the path, its rights and the free disk") from error


class Store:
    """The reports of one kind, below one directory."""

    def __init__(self, directory: str, keep: int) -> None:
        self.directory = os.path.abspath(directory)
        self.keep = keep

    @property
    def history_path(self) -> str:
        """The file of the earlier runs."""
        return os.path.join(self.directory, HISTORY)

    def history(self) -> History:
        """The earlier runs."""
        return History.load(self.history_path)

    def write(self, report: dict[str, t.Any], files: dict[str, str]) -> dict[str, str]:
        """Write the files, point the link to them, add the run to the history, drop what is older than is kept. Raises ReportError.

        The history is read again under the lock: another run may have ended meanwhile.
        """
        try:
            os.makedirs(self.directory, mode=0o755, exist_ok=True)
            with exclusive_lock(os.path.join(self.directory, ".lock"), "report"):
                target = self._new_directory(report["time"])
                for name, content in files.items():
                    write_whole(os.path.join(target, name), content.encode(errors="replace"))
                self._point_to(os.path.basename(target))
                self.history().with_run(run_of(report), self.keep).save(self.history_path)
                self._drop_old()
        except OSError as error:
            where = error.filename or self.directory
            raise ReportError(f"{where}: {error.strerror}", hint="look at the path, its rights and the free disk") from error
        return {name: os.path.join(target, name) for name in files}

    def _new_directory(self, time: str) -> str:
        stamp = re.sub(r"[-:]", "", time[:19]) + "Z"
        for number in range(1, 1000):
            path = os.path.join(self.directory, stamp if number == 1 else f"{stamp}-{number}")
            try:
                os.mkdir(path, 0o755)
            except FileExistsError:
                continue
            return path
        raise ReportError(f"{self.directory}: a thousand reports of {stamp}", hint="remove what makes them")

    def _point_to(self, name: str) -> None:
        link = os.path.join(self.directory, LATEST)
        partial = f"{link}.{os.getpid()}.partial"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        os.symlink(name, partial)
        os.replace(partial, link)
        fsync_directory(self.directory)

    def _drop_old(self) -> None:
        runs = sorted(entry.path for entry in os.scandir(self.directory) if STAMP.fullmatch(entry.name) and entry.is_dir())
        for path in runs[: -self.keep]:
            shutil.rmtree(path, ignore_errors=True)
