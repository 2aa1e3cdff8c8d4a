# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes known by a mark in their environment: also those that left the tree of the one that started them."""

from __future__ import annotations

import contextlib
import os
import signal
import typing as t
import uuid
from pathlib import Path

from tests.lab.daemon import start_time, wait_until

NAME = "FILEFORGE_TEST_RUN"
CONTROLLER = "ansible-playbook"
MODULE = "AnsiballZ_"


class Mark:
    """One mark, to be given to a process as environment."""

    def __init__(self) -> None:
        self.value = uuid.uuid4().hex
        self.environment = {NAME: self.value}

    def processes(self, fragment: str = "") -> list[int]:
        """Pids of the marked processes whose command line holds the fragment."""
        needle = f"{NAME}={self.value}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                mine = needle in (entry / "environ").read_bytes() and fragment.encode() in (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if mine and start_time(int(entry.name)) is not None:
                found.append(int(entry.name))
        return found

    def controllers(self) -> list[int]:
        """Ansible and its workers."""
        return self.processes(CONTROLLER)

    def modules(self) -> list[int]:
        """Running modules with their helpers; never a server that one of them has started."""
        return self.processes(MODULE)

    @staticmethod
    def kill(victims: t.Sequence[int]) -> None:
        """SIGKILL, and wait until they are gone; the caller reaps its own children."""
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: all(start_time(pid) is None for pid in victims), 20, "killed processes to be gone")
