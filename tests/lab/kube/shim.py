# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parent of one container's process, so that the container outlives a killed server and its exit status is not lost.

``python -I -S shim.py DIRECTORY`` reads ``spec.json`` there (argv, env, cwd, uid, gid, groups, grace), claims the directory,
runs the program, writes each line of its output with the time to ``log``, and at its end ``exit.json``. SIGTERM is passed on and
followed by SIGKILL after the grace period; SIGUSR1 kills at once. When the program has ended, whatever it left running is killed;
when this process is killed, the kernel kills the program. Imports nothing of the package.
"""

from __future__ import annotations

import ctypes
import datetime
import json
import os
import selectors
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; with the pid it identifies the process. None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def write_json(path: Path, value: dict[str, object]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value))
    partial.replace(path)


def claim(directory: Path) -> bool:
    """Whether this process now owns the directory: the first link wins, so that nobody starts the container twice."""
    mine = directory / f"claim.{os.getpid()}"
    mine.write_text(json.dumps({"pid": os.getpid(), "start": start_time(os.getpid())}))
    try:
        os.link(mine, directory / "claim")
    except FileExistsError:
        return False
    finally:
        mine.unlink()
    return True


def now_text() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Log:
    """Lines with the time in front; a line without an end is flushed when the output ends."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._rest = b""

    def write(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > 65536:
            lines.append(self._rest)
            self._rest = b""
        stamp = now_text().encode()
        if lines:
            os.write(self._handle, b"".join(stamp + b" " + line + b"\n" for line in lines))

    def close(self) -> None:
        if self._rest:
            self.write(b"\n")
        os.close(self._handle)


def children(pid: int) -> list[int]:
    """Processes whose parent is ``pid``."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = Path(f"/proc/{entry}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(entry))
    return found


def descendants(pid: int) -> list[int]:
    found = children(pid)
    for child in list(found):
        found += descendants(child)
    return found


def kill_descendants() -> None:
    for pid in descendants(os.getpid()):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def become(spec: dict[str, object], parent: int) -> None:
    """In the child: own session, the wanted user, die with the parent."""
    os.setsid()
    if spec.get("uid") is not None:
        os.setgroups(spec["groups"])  # type: ignore[arg-type]
        os.setgid(spec["gid"])  # type: ignore[arg-type]
        os.setuid(spec["uid"])  # type: ignore[arg-type]
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(137)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGPIPE, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.chdir(str(spec["cwd"]))


def spawn(spec: dict[str, object], output: int, failure: int) -> int:
    """Start the program; an error before exec is written to ``failure``."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        become(spec, parent)
        argv, env = spec["argv"], spec["env"]
        os.execvpe(argv[0], argv, env)  # type: ignore[index, arg-type]
    except OSError as error:
        os.write(failure, f"{error.strerror}: {error.filename or ''}".encode())
    os._exit(127)


class Shim:
    """Waits for output, for signals and for the end."""

    def __init__(self, directory: Path, spec: dict[str, object]) -> None:
        self._directory = directory
        self._grace = float(spec["grace"])  # type: ignore[arg-type]
        self._log = Log(directory / "log")
        self._signals, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, lambda *_unused: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._output, write = os.pipe2(os.O_CLOEXEC)
        problems, failure = os.pipe2(os.O_CLOEXEC)
        self._pid = spawn(spec, write, failure)
        os.close(write)
        os.close(failure)
        self._problem = os.read(problems, 4096).decode(errors="replace")
        os.close(problems)
        self._deadline: float | None = None
        self._status: int | None = None

    def run(self) -> None:
        started = now_text()
        write_json(self._directory / "started.json", {"pid": self._pid, "start": start_time(self._pid), "time": started})
        selector = selectors.DefaultSelector()
        selector.register(self._output, selectors.EVENT_READ)
        selector.register(self._signals, selectors.EVENT_READ)
        while self._status is None:
            for key, _unused in selector.select(self._patience()):
                self._handle(key.fd, selector)
            if self._deadline is not None and time.monotonic() >= self._deadline:
                kill_descendants()
                self._deadline = None
            self._reap()
        self._end(started)

    def _patience(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _handle(self, handle: int, selector: selectors.BaseSelector) -> None:
        data = os.read(handle, 65536)
        if handle == self._output:
            if data:
                self._log.write(data)
            else:
                selector.unregister(handle)
            return
        if signal.SIGUSR1 in data:
            kill_descendants()
        elif signal.SIGTERM in data or signal.SIGINT in data:
            self._deadline = time.monotonic() + self._grace
            self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        try:
            os.kill(self._pid, number)
        except ProcessLookupError:
            return

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid:
                self._status = status

    def _end(self, started: str) -> None:
        while True:  # what is left of the container's processes
            kill_descendants()
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                break
        os.set_blocking(self._output, False)
        try:
            while data := os.read(self._output, 65536):
                self._log.write(data)
        except BlockingIOError:
            pass
        self._log.close()
        code = os.waitstatus_to_exitcode(self._status or 0)
        result = {"code": code if code >= 0 else 128 - code, "signal": max(0, -code), "started": started, "finished": now_text()}
        write_json(self._directory / "exit.json", {**result, "problem": self._problem})


def main() -> int:
    directory = Path(sys.argv[1])
    if not claim(directory):
        return 1
    _LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)
    Shim(directory, json.loads((directory / "spec.json").read_text())).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
