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
INTERVAL = 0.5


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

    def sample(self, main: dict[tuple[str, str], int]) -> None:
        """Measure the trees under the given processes, at most twice a second."""
        now = time.monotonic()
        passed = now - self._sampled
        if passed < INTERVAL:
            return
        table = _processes() if main else {}
        children: dict[int, list[int]] = {}
        for pid, (parent, _unused) in table.items():
            children.setdefault(parent, []).append(pid)
        found = {}
        for key, pid in main.items():
            memory = private = 0
            seconds = 0.0
            queue = [pid]
            while queue:
                current = queue.pop()
                queue += children.get(current, [])
                resident, own = _memory(current)
                memory += resident
                private += own
                seconds += table[current][1] if current in table else 0.0
            before = self._usage.get(key)
            cpu = max(0.0, seconds - before.cpu_seconds) / passed if before is not None else 0.0
            found[key] = Usage(memory, private, cpu, seconds)
        self._usage, self._sampled = found, now


def _processes() -> dict[int, tuple[int, float]]:
    """Parent and cpu seconds of every process."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            found[int(entry)] = (int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS)
    return found


def _memory(pid: int) -> tuple[int, int]:
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0, 0
    resident, shared = int(fields[1]) * _PAGE, int(fields[2]) * _PAGE
    return resident, max(0, resident - shared)


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
