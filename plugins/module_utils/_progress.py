# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress of long steps: published to a file that the action plugin reads, and timed by phase. PRIVATE to the collection.

The file holds one JSON object, written whole and renamed, at most twice a second:
``{"phase", "done", "total", "unit", "rate", "eta", "elapsed", "detail"}`` with ``rate`` in units a second and times in seconds, and
``running`` (whether the phase goes on) and ``ended`` (the timings of the phases before, and of this one when it has ended).
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._plan import human_bytes

INTERVAL = 0.5
BYTES = "B"


class Progress:
    """Phases of one run. Thread-safe: workers call ``advance``. With no ``path`` it only keeps the timings."""

    def __init__(self, path: str | None = None, clock: t.Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._written = float("-inf")
        self._phase = ""
        self._begin = clock()
        self._done = 0
        self._total: int | None = None
        self._unit = ""
        self._detail = ""
        self._running = False
        self.timings: list[dict[str, t.Any]] = []
        """Ended phases in order: ``{"phase", "seconds", "done", "unit"}``."""

    @contextlib.contextmanager
    def phase(self, name: str, total: int | None = None, unit: str = BYTES) -> t.Iterator[Progress]:
        """Time a phase and publish its start and end. Phases do not nest. The timing is kept when the body raises, too."""
        with self._lock:
            self._phase, self._total, self._unit = name, total, unit
            self._done, self._detail, self._begin = 0, "", self._clock()
            self._running = True
            self._publish(force=True)
        try:
            yield self
        finally:
            with self._lock:
                self.timings.append(
                    {"phase": name, "seconds": round(self._clock() - self._begin, 3), "done": self._done, "unit": self._unit}
                )
                self._running = False
                self._publish(force=True)

    def advance(self, count: int, detail: str = "") -> None:
        """Count ``count`` more units done."""
        with self._lock:
            self._done += count
            self._detail = detail or self._detail
            self._publish()

    def set(self, done: int, total: int | None = None, detail: str = "") -> None:
        """Set the absolute count, for work that is observed rather than done (replay)."""
        with self._lock:
            self._done = done
            self._total = self._total if total is None else total
            self._detail = detail or self._detail
            self._publish()

    def snapshot(self) -> dict[str, t.Any]:
        """What the file would hold now."""
        elapsed = max(self._clock() - self._begin, 1e-9)
        rate = self._done / elapsed
        left = None if self._total is None else max(0, self._total - self._done)
        return {
            "phase": self._phase,
            "done": self._done,
            "total": self._total,
            "unit": self._unit,
            "rate": round(rate, 1),
            "eta": round(left / rate, 1) if left is not None and rate > 0 else None,
            "elapsed": round(elapsed, 1),
            "detail": self._detail,
        }

    def _publish(self, force: bool = False) -> None:
        now = self._clock()
        if self._path is None or (not force and now - self._written < INTERVAL):
            return
        self._written = now
        partial = f"{self._path}.partial"
        try:
            with open(partial, "w", encoding="utf-8") as stream:
                json.dump({**self.snapshot(), "running": self._running, "ended": self.timings}, stream)
            os.replace(partial, self._path)
        except OSError:
            self._path = None  # a lost view must not stop the work


def progress_line(state: dict[str, t.Any]) -> str:
    """``fetch 43% 1.0/2.3 GiB 160.0 MiB/s eta 8s`` for a snapshot."""
    words = [state["phase"]]
    if state.get("total"):
        words.append(f"{min(100, 100 * state['done'] // state['total'])}%")
    words += _amount_words(state)
    if state.get("eta") is not None:
        words.append(f"eta {_clock_text(state['eta'])}")
    elif state.get("elapsed"):
        words.append(f"for {_clock_text(state['elapsed'])}")
    if state.get("detail"):
        words.append(state["detail"])
    return " ".join(words)


def ended_line(timing: dict[str, t.Any]) -> str:
    """``fetch done: 2.3 GiB in 14s (164.3 MiB/s)`` for an ended phase's timing."""
    seconds, done, unit = timing["seconds"], timing["done"], timing["unit"]
    line = f"{timing['phase']} done: "
    if done:
        line += f"{human_bytes(done) if unit == BYTES else f'{done} {unit}'.rstrip()} "
    line += f"in {_clock_text(seconds) if seconds >= 10 else f'{seconds:.1f}s'}"
    return f"{line} ({human_bytes(done / seconds)}/s)" if done and unit == BYTES and seconds >= 0.1 else line


def _amount_words(state: dict[str, t.Any]) -> list[str]:
    done, total, unit = state["done"], state.get("total"), state.get("unit", "")
    if not done and not total:
        return []
    if unit != BYTES:
        return [f"{done}/{total} {unit}".rstrip() if total else f"{done} {unit}".rstrip()]
    words = [_pair(done, total) if total else human_bytes(done)]
    if done:
        words.append(f"{human_bytes(state['rate'])}/s")
    return words


def _pair(done: float, total: float) -> str:
    whole = human_bytes(total)
    unit = whole.split()[1]
    scale = {"B": 0, "KiB": 1, "MiB": 2, "GiB": 3, "TiB": 4}[unit]
    return f"{done / 1024**scale:.{1 if scale else 0}f}/{whole}"


def _clock_text(seconds: float) -> str:
    seconds = int(seconds)
    if seconds < 60:
        return f"{seconds}s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes}m{seconds:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m"
