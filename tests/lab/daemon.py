# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Background processes known by pid *and* start time, so that a reused pid is never mistaken for them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import typing as t
from pathlib import Path


def start_time(pid: int) -> int | None:
    """The kernel's start tick of a process; None when it is gone or only waits to be reaped."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def children(pid: int) -> list[int]:
    """Direct children of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def wait_until(condition: t.Callable[[], object], timeout: float, what: str, *, every: float = 0.05) -> None:
    """Poll until the condition holds; TimeoutError naming ``what`` otherwise."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(every)


class Daemon:
    """One background process: its files are NAME.pid and NAME.log in ``directory``."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.pid_file = directory / f"{name}.pid"
        self.log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Pid of the running process, or None."""
        if self._process is not None:
            self._process.poll()
        try:
            noted = json.loads(self.pid_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return t.cast(int, noted["pid"]) if start_time(noted["pid"]) == noted["start"] else None

    def start(self, argv: t.Sequence[str], *, env: t.Mapping[str, str] | None = None, cwd: str = "/") -> None:
        """Start it unless it runs; the process notes its own pid before it becomes the program, so none is ever lost."""
        if self.pid is not None:
            return
        self.pid_file.parent.mkdir(parents=True, exist_ok=True)

        def note() -> None:
            pid = os.getpid()
            fresh = f"{self.pid_file}.new"
            with open(fresh, "w", encoding="utf-8") as file:
                file.write(json.dumps({"pid": pid, "start": start_time(pid)}))
            os.replace(fresh, self.pid_file)

        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=note,  # noqa: PLW1509  (it only writes a file; the lab starts programs from one thread)
            )

    def stop(self, grace: float = 10.0) -> None:
        """SIGTERM to the process and its group, SIGKILL after ``grace`` seconds; returns when it is gone."""
        pid = self.pid
        if pid is not None:
            for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
                try:
                    os.killpg(pid, number)
                    wait_until(lambda: self.pid is None, patience, f"{self.name} (pid {pid}) to end")
                except (ProcessLookupError, TimeoutError):
                    pass
                if self.pid is None:
                    break
            else:
                raise TimeoutError(f"{self.name} (pid {pid}) does not end")
        self.pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """SIGKILL to the process and its group."""
        pid = self.pid
        if pid is not None:
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            wait_until(lambda: self.pid is None, 10.0, f"{self.name} (pid {pid}) to end")
        self.pid_file.unlink(missing_ok=True)

    def last_lines(self, count: int = 15) -> str:
        """The end of its log."""
        try:
            return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])
        except FileNotFoundError:
            return ""
