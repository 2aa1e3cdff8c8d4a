# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers as processes: started through a shim, found again after a restart of the server, never left behind."""

from __future__ import annotations

import dataclasses
import grp
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

from .objects import Object
from .shim import claim, descendants, start_time

SHIM = Path(__file__).with_name("shim.py")
CLAIM_PATIENCE = 10.0
"""Seconds in which a started shim must have claimed its directory."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """The user that containers run as; None for the server's own."""

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()
    home: str = ""

    @classmethod
    def of(cls, user: str | None) -> Identity:
        if user is None:
            return cls(home=str(Path.home()))
        entry = pwd.getpwnam(user)
        if entry.pw_uid == os.geteuid():
            return cls(home=entry.pw_dir)
        groups = tuple(group.gr_gid for group in grp.getgrall() if user in group.gr_mem)
        return cls(entry.pw_uid, entry.pw_gid, (entry.pw_gid, *groups), entry.pw_dir)


@dataclasses.dataclass(frozen=True)
class Exit:
    """How a container ended."""

    code: int
    reason: str
    started: str
    finished: str
    message: str = ""

    def as_terminated(self, container_id: str) -> Object:
        state: Object = {
            "exitCode": self.code,
            "reason": self.reason,
            "startedAt": f"{self.started[:19]}Z",
            "finishedAt": f"{self.finished[:19]}Z",
            "containerID": container_id,
        }
        if self.message:
            state["message"] = self.message
        return state


def _alive(pid: int, start: int | None) -> bool:
    return start is not None and start_time(pid) == start


def _read_json(path: Path) -> Object | None:
    try:
        found: Object = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def kill_session(session: int) -> None:
    """Kill what is left of a container whose shim was killed: everything of its session."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and _session_of(int(entry)) == session:
            try:
                os.kill(int(entry), signal.SIGKILL)
            except ProcessLookupError:
                continue


class Process:
    """One attempt to run one container, kept in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._popen: subprocess.Popen[bytes] | None = None
        self._born = time.monotonic()
        self._sent: set[int] = set()
        self._started: Object | None = None

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def start(self, argv: list[str], env: dict[str, str], cwd: str, grace: float, identity: Identity) -> None:
        self.directory.mkdir(parents=True, mode=0o700)
        spec = {"argv": argv, "env": env, "cwd": cwd, "grace": grace, "uid": identity.uid, "gid": identity.gid}
        place = self.directory / "spec.json"
        place.touch(0o600)
        place.write_text(json.dumps({**spec, "groups": list(identity.groups)}))
        self._popen = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SHIM), str(self.directory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    @property
    def started(self) -> Object | None:
        if self._started is None:
            self._started = _read_json(self.directory / "started.json")
        return self._started

    @property
    def pid(self) -> int | None:
        """The container's main process, while it runs."""
        started = self.started
        return started["pid"] if started is not None and _alive(started["pid"], started["start"]) else None

    def exit(self) -> Exit | None:
        """How it ended; None while it runs."""
        if self._popen is not None:
            self._popen.poll()
        result = _read_json(self.directory / "exit.json")
        if result is None:
            if self._shim() is not None:
                return None
            result = _read_json(self.directory / "exit.json") or self._lost()
        reason = "Completed" if result["code"] == 0 else "Error"
        forced = self.directory / "reason"
        if forced.exists():
            reason = forced.read_text()
        if result["problem"]:
            reason = "StartError"
        return Exit(result["code"], reason, result["started"], result["finished"], result["problem"])

    def _shim(self) -> int | None:
        """The pid of the living shim; one that has only just been started counts."""
        owner = _read_json(self.directory / "claim")
        if owner is not None:
            return owner["pid"] if _alive(owner["pid"], owner["start"]) else None
        if self._popen is not None and self._popen.returncode is None and time.monotonic() - self._born < CLAIM_PATIENCE:
            return self._popen.pid
        if self.directory.exists():
            claim(self.directory)  # from now on a late shim ends by itself
            owner = _read_json(self.directory / "claim")
            if owner is not None and owner["pid"] != os.getpid():
                return owner["pid"] if _alive(owner["pid"], owner["start"]) else None
        return None

    def _lost(self) -> Object:
        """The shim was killed: nobody knows how the container ended, but it must not go on."""
        started = self.started
        if started is not None:
            kill_session(started["pid"])
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        begun = started["time"] if started is not None else stamp
        result = {"code": 137, "signal": 9, "started": begun, "finished": stamp, "problem": ""}
        if self.directory.exists():
            (self.directory / "reason").write_text("ContainerStatusUnknown")
            (self.directory / "exit.json").write_text(json.dumps(result))
        return result

    def terminate(self) -> None:
        """SIGTERM to the main process; the shim kills after the grace period."""
        self._signal(signal.SIGTERM)

    def kill(self, reason: str = "") -> None:
        if reason:
            (self.directory / "reason").write_text(reason)
        self._signal(signal.SIGUSR1)

    def _signal(self, number: int) -> None:
        shim = self._shim()
        if shim is None or number in self._sent or not (self.directory / "started.json").exists():
            return
        self._sent.add(number)
        try:
            os.kill(shim, number)
        except ProcessLookupError:
            return

    def tree(self) -> list[int]:
        """The container's processes."""
        pid = self.pid
        return [] if pid is None else [pid, *descendants(pid)]


class Places:
    """The directories of pods: STATE/pods/NAMESPACE_NAME_UID/CONTAINER/ATTEMPT."""

    def __init__(self, state: Path) -> None:
        self._root = state / "pods"
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def pod(self, pod: Object) -> Path:
        metadata = pod["metadata"]
        return self._root / f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}"

    def attempt(self, pod: Object, container: str, number: int) -> Path:
        return self.pod(pod) / container / str(number)

    def last_attempt(self, pod: Object, container: str) -> int | None:
        try:
            numbers = [int(name) for name in os.listdir(self.pod(pod) / container) if name.isdigit()]
        except FileNotFoundError:
            return None
        return max(numbers, default=None)

    def forget(self, pod: Object) -> None:
        shutil.rmtree(self.pod(pod), ignore_errors=True)

    def forget_attempts_before(self, pod: Object, container: str, number: int) -> None:
        """Keep the present attempt and the one before it, as ``logs --previous`` needs them."""
        for name in os.listdir(self.pod(pod) / container):
            if name.isdigit() and int(name) < number - 1:
                shutil.rmtree(self.pod(pod) / container / name, ignore_errors=True)

    def processes(self) -> t.Iterator[tuple[str, Process]]:
        """Every attempt on disk with the uid of its pod."""
        for directory in self._root.glob("*/*/*"):
            if directory.name.isdigit():
                yield directory.parent.parent.name.rpartition("_")[2], Process(directory)

    def remove_strangers(self, known: set[str]) -> None:
        """End and forget the containers of pods that are not known."""
        end([process for uid, process in self.processes() if uid not in known], grace=0)
        for directory in self._root.iterdir():
            if directory.name.rpartition("_")[2] not in known:
                shutil.rmtree(directory, ignore_errors=True)


def end(processes: t.Sequence[Process], grace: float) -> None:
    """End containers and wait for it: SIGTERM, then after ``grace`` seconds SIGKILL."""
    running = [process for process in processes if process.exit() is None]
    deadline = time.monotonic() + grace
    while running:
        for process in running:
            if time.monotonic() >= deadline:
                process.kill()
            else:
                process.terminate()
        time.sleep(0.02)
        running = [process for process in running if process.exit() is None]
