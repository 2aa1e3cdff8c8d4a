# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which build goes next, how long it may take, and how far it is. PRIVATE to the collection."""

from __future__ import annotations

import threading
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_plan import Task

_PHASES = (
    ("building index: scanning table", 0.02, 0.40),
    ("building index: sorting", 0.42, 0.0),
    ("building index: loading", 0.45, 0.15),
    ("building index", 0.02, 0.58),
    ("waiting for writers before validation", 0.60, 0.0),
    ("index validation: scanning index", 0.60, 0.10),
    ("index validation: sorting", 0.70, 0.0),
    ("index validation: scanning table", 0.72, 0.25),
    ("waiting for old snapshots", 0.97, 0.0),
    ("waiting for readers", 0.98, 0.0),
)
"""Beginnings of the server's names of phases, where each begins, and its part of the whole."""


class Queue:
    """Hands out tasks: one at a time on a table, and alone where builds would wait for one another."""

    def __init__(self, tasks: t.Sequence[Task]) -> None:
        self._waiting = list(tasks)
        self._running: list[Task] = []
        self._changed = threading.Condition()

    def next(self) -> Task | None:
        """The next task that may begin now, waiting for one; None when none is left."""
        with self._changed:
            while self._waiting:
                for task in self._waiting:
                    if self._may_begin(task):
                        self._waiting.remove(task)
                        self._running.append(task)
                        return task
                self._changed.wait()
            return None

    def _may_begin(self, task: Task) -> bool:
        if any(running.alone for running in self._running) or (task.alone and self._running):
            return False
        return all(running.table_oid != task.table_oid for running in self._running)

    def done(self, task: Task) -> None:
        """The task has ended."""
        with self._changed:
            self._running.remove(task)
            self._changed.notify_all()

    def drain(self) -> list[Task]:
        """Take away all that has not begun."""
        with self._changed:
            waiting, self._waiting = self._waiting, []
            self._changed.notify_all()
            return waiting


class Speed:
    """How long a build takes, learnt from those before it. Much smaller ones teach nothing: they are all overhead."""

    COMPARABLE = 16

    def __init__(self) -> None:
        self._seen: list[tuple[int, float]] = []

    def learn(self, weight: int, seconds: float) -> None:
        """A build of that weight took that long."""
        self._seen.append((weight, seconds))

    def expected(self, weight: int) -> float:
        """Seconds for a build; 0 when nothing is known yet."""
        similar = [seconds / most for most, seconds in list(self._seen) if most * self.COMPARABLE >= weight and most]
        return weight * min(similar) if similar else 0.0


def fraction(row: t.Mapping[str, t.Any]) -> float:
    """How much of a build is done, from 0 to 1, for a row of pg_stat_progress_create_index."""
    for name, begin, part in _PHASES:
        if row["phase"].startswith(name):
            blocks = row["blocks_done"] / row["blocks_total"] if row["blocks_total"] else 0.0
            tuples = row["tuples_done"] / row["tuples_total"] if row["tuples_total"] else 0.0
            return round(begin + part * min(1.0, max(blocks, tuples)), 4)
    return 0.0
