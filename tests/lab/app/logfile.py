# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The application's log: numbered lines, so that a lost one is seen; reopened on SIGHUP, as logrotate needs it."""

from __future__ import annotations

import datetime
import os
import signal
import threading
import typing as t
from pathlib import Path


class LogFile:
    """One open file; the pid file says whom to tell that it was rotated."""

    def __init__(self, path: Path, pid_file: Path) -> None:
        self.path = path
        self.number = 0
        self._stream: t.IO[str] = path.open("a", encoding="utf-8")
        self._rotated = threading.Event()
        signal.signal(signal.SIGHUP, lambda *_unused: self._rotated.set())
        fresh = pid_file.with_name(f"{pid_file.name}.new")
        fresh.write_text(f"{os.getpid()}\n", encoding="utf-8")
        fresh.replace(pid_file)

    def write(self, text: str) -> None:
        """Add a line, to the file of that name as it is now when it was rotated."""
        if self._rotated.is_set():
            self._rotated.clear()
            self._stream.close()
            self._stream = self.path.open("a", encoding="utf-8")
        self.number += 1
        moment = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
        self._stream.write(f"{moment} pid={os.getpid()} line={self.number} {text}\n")
        self._stream.flush()
