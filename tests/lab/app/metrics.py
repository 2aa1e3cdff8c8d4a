# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the application tells Prometheus about itself."""

from __future__ import annotations

import itertools
import multiprocessing
import typing as t

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from tests.lab.app.settings import Settings

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
REGISTRY = prometheus_client.CollectorRegistry()
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
TASK_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
PRIORITY_KEYS = ("", "\x06\x163", "\x06\x166", "\x06\x169")
"""What Celery appends to a queue's name for the higher numbers of priority."""

_requests = prometheus_client.Counter("http_requests_total", "Requests answered.", ["method", "handler", "code"], registry=REGISTRY)
_seconds = prometheus_client.Histogram(
    "http_request_duration_seconds", "Time to answer a request.", ["method", "handler"], buckets=BUCKETS, registry=REGISTRY
)


class Families(t.Protocol):
    """Something that knows metrics at the time of a scrape."""

    def collect(self) -> t.Iterator[t.Any]:
        """The metrics now."""


def exposition() -> bytes:
    """All metrics in Prometheus' text format."""
    return t.cast(bytes, prometheus_client.generate_latest(REGISTRY))


def count(method: str, path: str, code: int, seconds: float) -> None:
    """One answered request; files and unknown paths share a handler each, so that labels stay few."""
    if path.startswith("/api/files/"):
        handler = "/api/files/{path}"
    else:
        handler = path if path in ("/live", "/health", "/api/files") else "other"
    _requests.labels(method, handler, str(code)).inc()
    _seconds.labels(method, handler).observe(seconds)


class _Queue:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = settings.redis_client(timeout=1.0)

    def collect(self) -> t.Iterator[t.Any]:
        """Waiting tasks over all priorities; no sample when Redis does not answer."""
        family = GaugeMetricFamily("fileforge_queue_length", "Tasks that wait in a queue.", labels=["queue"])
        try:
            waiting = sum(self._client.llen(self._settings.queue + suffix) for suffix in PRIORITY_KEYS)
        except Exception:  # absent says it better than a wrong number
            return
        family.add_metric([self._settings.queue], waiting)
        yield family


class _Worker:
    def collect(self) -> t.Iterator[t.Any]:
        """Tasks of this worker's main process: its children run them."""
        from celery.worker import state

        taken = CounterMetricFamily("fileforge_worker_tasks", "Tasks that the worker began.", labels=["task"])
        for name, number in list(state.total_count.items()):
            taken.add_metric([name], number)
        yield taken
        held = GaugeMetricFamily("fileforge_worker_tasks_held", "Tasks that the worker holds.", labels=["state"])
        active, reserved = len(state.active_requests), len(state.reserved_requests)
        held.add_metric(["active"], active)
        held.add_metric(["reserved"], max(0, reserved - active))
        yield held


class TaskTimes:
    """How long tasks took, counted in memory that the worker's processes share: its children run them, and the parent is asked.

    Without a lock, which a killed child would keep: the lab's workers run one task at a time.
    """

    def __init__(self, names: t.Iterable[str]) -> None:
        self._cells = {name: multiprocessing.RawArray("d", len(TASK_BUCKETS) + 2) for name in names}

    def count(self, name: str, seconds: float) -> None:
        """A task that ended; the last cell is the sum."""
        cells = self._cells.get(name)
        if cells is not None:
            cells[sum(seconds > limit for limit in TASK_BUCKETS)] += 1
            cells[-1] += seconds

    def collect(self) -> t.Iterator[t.Any]:
        """The times of each task, from the beginning: a rate needs the zero before the first."""
        family = HistogramMetricFamily("fileforge_task_duration_seconds", "Time to run a task.", labels=["task"])
        for name, cells in self._cells.items():
            limits = [*(str(limit) for limit in TASK_BUCKETS), "+Inf"]
            family.add_metric([name], list(zip(limits, itertools.accumulate(cells[:-1]), strict=True)), cells[-1])
        yield family


def measure_queue(settings: Settings) -> None:
    """From now on, expose the queue's length."""
    REGISTRY.register(_Queue(settings))


def measure_worker(times: TaskTimes) -> None:
    """From now on, expose the worker's tasks."""
    REGISTRY.register(_Worker())
    REGISTRY.register(times)
