# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""metrics.k8s.io from what the processes really use."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

from . import resources
from .objects import Object, now_text
from .store import Store

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
INTERVAL = 1.0
"""Seconds between two samples: a container over its limit is killed, and ``kubectl top`` is true, that much later at most."""


@dataclasses.dataclass(frozen=True)
class Usage:
    """Of one container: memory in bytes (``private`` without what is shared with others), cpu in cores."""

    memory: int
    private: int
    cpu: float
    cpu_seconds: float


class Meter:
    """Samples process trees."""

    def __init__(self) -> None:
        self._usage: dict[tuple[str, str], Usage] = {}
        self._sampled = 0.0

    def usage(self, uid: str, container: str) -> Usage | None:
        return self._usage.get((uid, container))

    def due(self) -> bool:
        """Whether the last sample is old enough, so that the processes need not be named for nothing."""
        return time.monotonic() - self._sampled >= INTERVAL

    def sample(self, main: dict[tuple[str, str], int]) -> None:
        """Measure the trees under the given processes, and nothing else of the machine: it is shared by many labs."""
        now = time.monotonic()
        passed = now - self._sampled
        found = {}
        for key, pid in main.items():
            members = [_measure(member) for member in _tree(pid)]
            memory, private, seconds = (sum(column) for column in zip(*members))
            before = self._usage.get(key)
            cpu = max(0.0, seconds - before.cpu_seconds) / passed if before is not None else 0.0
            found[key] = Usage(int(memory), int(private), cpu, seconds)
        self._usage, self._sampled = found, now


def _read(pid: int, name: str) -> str:
    """A file of a process; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


def _tree(pid: int) -> list[int]:
    """The process and its descendants, by what the kernel keeps of each thread's children."""
    found = [pid]
    for member in found:
        try:
            threads = os.listdir(f"/proc/{member}/task")
        except OSError:
            continue
        found += [int(child) for thread in threads for child in _read(member, f"task/{thread}/children").split()]
    return found


def _measure(pid: int) -> tuple[int, int, float]:
    """Memory, memory of its own, and cpu seconds of one process."""
    pages, times = _read(pid, "statm").split(), _read(pid, "stat").rpartition(")")[2].split()
    if not pages or not times:
        return 0, 0, 0.0
    resident, shared = int(pages[1]) * _PAGE, int(pages[2]) * _PAGE
    return resident, max(0, resident - shared), (int(times[11]) + int(times[12])) / _TICKS


def _amounts(cpu: float, memory: int) -> Object:
    return {"cpu": f"{round(cpu * 1e9)}n", "memory": f"{memory // 1024}Ki"}


def pod_metrics(store: Store, meter: Meter, namespace: str) -> list[Object]:
    found: list[Object] = []
    for pod in store.list(resources.PODS, namespace):
        metadata = pod["metadata"]
        usages = [(entry["name"], meter.usage(metadata["uid"], entry["name"])) for entry in pod["spec"]["containers"]]
        if pod["status"]["phase"] != "Running" or not any(usage for _unused, usage in usages):
            continue
        found.append(
            {
                "kind": "PodMetrics",
                "apiVersion": "metrics.k8s.io/v1beta1",
                "metadata": {
                    "name": metadata["name"],
                    "namespace": metadata["namespace"],
                    "creationTimestamp": now_text(),
                    "labels": metadata.get("labels") or {},
                },
                "timestamp": now_text(),
                "window": "15s",
                "containers": [
                    {"name": name, "usage": _amounts(usage.cpu, usage.memory)} for name, usage in usages if usage is not None
                ],
            }
        )
    return found


def node_metrics(store: Store) -> list[Object]:
    load = os.getloadavg()[0]
    lines = Path("/proc/meminfo").read_text().splitlines()
    memory = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    used = memory["MemTotal"] - memory["MemAvailable"]
    return [
        {
            "kind": "NodeMetrics",
            "apiVersion": "metrics.k8s.io/v1beta1",
            "metadata": {"name": node["metadata"]["name"], "creationTimestamp": now_text(), "labels": {}},
            "timestamp": now_text(),
            "window": "15s",
            "usage": _amounts(min(load, os.cpu_count() or 1), used),
        }
        for node in store.list(resources.NODES)
    ]
