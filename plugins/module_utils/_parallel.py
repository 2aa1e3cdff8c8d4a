# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs calls at the same time, each in a process of its own with a deadline. PRIVATE to the collection.

Processes rather than threads: one that hangs can be ended, and what Ansible needs to run a module is made for one run in a process
at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import time
import typing as t

CHUNK = 65536
MAX_BYTES = 64 * 1024 * 1024
"""Of one answer; more is a defect of whoever answers."""


@dataclasses.dataclass
class Call:
    """One call: it returns something that JSON can hold."""

    function: t.Callable[[], t.Any]
    timeout: float


@dataclasses.dataclass
class Answer:
    """What a call returned, or why it did not."""

    value: t.Any = None
    problem: str = ""
    seconds: float = 0.0


class _Running:
    """A call in its process."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.begun = time.monotonic()
        self.content = bytearray()
        self.pipe, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._child(write)
        os.close(write)
        with contextlib.suppress(OSError):  # the child does the same; whoever is first
            os.setpgid(self.pid, self.pid)

    def _child(self, write: int) -> t.NoReturn:
        status = 1
        try:
            os.setpgid(0, 0)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            try:
                content = json.dumps({"value": self.call.function()}, default=str)
            except Exception as error:  # whatever it is, the parent is told
                content = json.dumps({"problem": f"{type(error).__name__}: {error}"})
            with os.fdopen(write, "wb") as stream:
                stream.write(content.encode())
            status = 0
        finally:
            os._exit(status)  # nothing of the parent's is cleaned up here

    @property
    def deadline(self) -> float:
        """On the monotonic clock."""
        return self.begun + self.call.timeout

    def read(self) -> bool:
        """Take what is there; False at its end."""
        chunk = os.read(self.pipe, CHUNK)
        self.content += chunk
        return bool(chunk) and len(self.content) <= MAX_BYTES

    def end(self, problem: str = "") -> Answer:
        """Leave nothing running; the answer."""
        os.close(self.pipe)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        answer = Answer(problem=problem, seconds=round(time.monotonic() - self.begun, 3))
        if problem:
            return answer
        try:
            found = json.loads(self.content.decode())
        except ValueError:
            return dataclasses.replace(answer, problem="its process ended without an answer")
        return dataclasses.replace(answer, value=found.get("value"), problem=found.get("problem", ""))


def run_all(calls: t.Sequence[Call], at_once: int) -> list[Answer]:
    """Run the calls, at most ``at_once`` at a time, in their order; an answer for each, whatever happens to the others."""
    waiting = list(enumerate(calls))
    running: dict[int, tuple[int, _Running]] = {}
    answers: list[Answer] = [Answer() for _call in calls]
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                place, call = waiting.pop(0)
                begun = _Running(call)
                running[begun.pipe] = (place, begun)
            _step(running, answers)
    finally:
        for _place, left in running.values():
            left.end("interrupted")
    return answers


def _step(running: dict[int, tuple[int, _Running]], answers: list[Answer]) -> None:
    """Wait for the next answer or deadline."""
    nearest = min(begun.deadline for _place, begun in running.values())
    ready, _write, _errors = select.select(list(running), [], [], max(0.0, nearest - time.monotonic()))
    for pipe, (place, begun) in list(running.items()):
        ended = pipe in ready and not begun.read()
        late = not ended and time.monotonic() >= begun.deadline
        if ended or late:
            del running[pipe]
            answers[place] = begun.end(f"no answer within {begun.call.timeout:g} s" if late else "")
