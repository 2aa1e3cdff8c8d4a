# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running one thing and measuring it: seconds, peak memory of its largest process and of all its processes together."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
import typing as t
from pathlib import Path

from tests.lab import ROOT
from tests.lab.daemon import children

PAGE = os.sysconf("SC_PAGE_SIZE")
SERVERS = ("postgres", "weed")


@dataclasses.dataclass
class Measured:
    """One line of the table."""

    what: str
    seconds: float
    bytes: int
    largest_process: int = 0
    all_processes: int = 0
    phases: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def rate(self) -> float:
        """MiB of database a second."""
        return self.bytes / self.seconds / 2**20 if self.seconds else 0.0


class MemoryWatch:
    """Samples the resident memory of a process and its descendants, database servers apart."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.largest = 0
        self.total = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._ended.set()
        self._thread.join(10)

    def _family(self) -> list[int]:
        found, waiting = [], [self.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            waiting += children(pid)
        return found

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            sizes = []
            for pid in self._family():
                try:
                    if Path(os.readlink(f"/proc/{pid}/exe")).name in SERVERS:
                        continue
                    # file-backed pages are shared with every other Python on the machine, so they count once, in the largest
                    resident, shared = (int(number) * PAGE for number in Path(f"/proc/{pid}/statm").read_text().split()[1:3])
                except (OSError, ValueError):
                    continue
                sizes.append((resident, resident - shared))
            if sizes:
                largest = max(resident for resident, _own in sizes)
                self.largest = max(self.largest, largest)
                self.total = max(self.total, largest + sum(own for _resident, own in sizes) - max(own for _resident, own in sizes))


def program(what: str, argv: t.Sequence[str], size: int, *, env: t.Mapping[str, str] | None = None, **options: t.Any) -> Measured:
    """Measure a program; it must succeed."""
    began = time.monotonic()
    environment = {**os.environ, **(env or {})}
    process = subprocess.Popen(list(argv), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, cwd="/", **options)
    with MemoryWatch(process.pid) as memory:
        _out, errors = process.communicate(timeout=1800)
    if process.returncode != 0:
        raise RuntimeError(f"{argv[0]} ended with status {process.returncode}: {errors.decode(errors='replace')[-600:]}")
    return Measured(what, time.monotonic() - began, size, memory.largest, memory.total)


def module(what: str, name: str, arguments: t.Mapping[str, t.Any], size: int) -> tuple[Measured, dict[str, t.Any]]:
    """Measure a module of the collection as a process of its own; it must succeed."""
    argv = [sys.executable, "-m", f"ansible_collections.fileforge.ops.plugins.modules.{name}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "collections"), "PYTHONDONTWRITEBYTECODE": "1"}
    began = time.monotonic()
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd="/"
    )
    with MemoryWatch(process.pid) as memory:
        given = json.dumps({"ANSIBLE_MODULE_ARGS": dict(arguments)}).encode()
        output, errors = process.communicate(given, timeout=1800)
    took = time.monotonic() - began
    try:
        result: dict[str, t.Any] = json.loads(output.decode(errors="replace").strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise RuntimeError(f"{name} gave no result: {output[-300:]!r} {errors[-900:]!r}") from error
    if result.get("failed"):
        raise RuntimeError(f"{name}: {result.get('msg')}")
    phases: dict[str, float] = {}
    for timing in result.get("timings") or []:
        phases[timing["phase"]] = phases.get(timing["phase"], 0.0) + float(timing["seconds"])
    return Measured(what, took, size, memory.largest, memory.total, phases), result
