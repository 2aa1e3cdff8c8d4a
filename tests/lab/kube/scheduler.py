# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts pods on nodes that have room for what they request, and says why when none has."""

from __future__ import annotations

import copy

from . import resources
from .events import Recorder
from .objects import Object, condition, is_finished, is_terminating, pod_requests, quantity, set_condition
from .store import Store


class Scheduler:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._events = Recorder(store, "default-scheduler")

    def reconcile(self) -> None:
        for pod in self._store.list(resources.PODS):
            if not pod["spec"].get("nodeName") and not is_terminating(pod) and not is_finished(pod):
                self._place(pod)

    def _place(self, pod: Object) -> None:
        nodes = self._store.list(resources.NODES)
        problems: dict[str, int] = {}
        for node in nodes:
            reasons = self._problems(pod, node)
            if not reasons:
                self._bind(pod, node)
                return
            for reason in reasons:
                problems[reason] = problems.get(reason, 0) + 1
        text = ", ".join(f"{count} {reason}" for reason, count in sorted(problems.items()))
        message = f"0/{len(nodes)} nodes are available: {text or 'no nodes'}."
        known = condition(pod, "PodScheduled")
        if known is None or known.get("message") != message:
            self._condition(pod, "False", "Unschedulable", message)
            self._events.warning(pod, "FailedScheduling", message)

    def _problems(self, pod: Object, node: Object) -> list[str]:
        found = []
        labels = node["metadata"].get("labels") or {}
        if any(labels.get(key) != value for key, value in (pod["spec"].get("nodeSelector") or {}).items()):
            found.append("node(s) didn't match Pod's node affinity/selector")
        if (node.get("spec") or {}).get("unschedulable"):
            found.append("node(s) were unschedulable")
        demand = pod_requests(pod["spec"])
        name = node["metadata"]["name"]
        for other in self._store.list(resources.PODS):
            if other["spec"].get("nodeName") == name and not is_finished(other):
                for resource, amount in pod_requests(other["spec"]).items():
                    demand[resource] += amount
        allocatable = node["status"]["allocatable"]
        own = pod_requests(pod["spec"])
        found += [
            f"Insufficient {resource}"
            for resource, amount in demand.items()
            if own[resource] and amount > quantity(allocatable[resource])
        ]
        return found

    def _bind(self, pod: Object, node: Object) -> None:
        name = node["metadata"]["name"]
        bound = self._condition({**pod, "spec": {**pod["spec"], "nodeName": name}}, "True")
        metadata = pod["metadata"]
        self._events.normal(bound, "Scheduled", f"Successfully assigned {metadata['namespace']}/{metadata['name']} to {name}")

    def _condition(self, pod: Object, status: str, reason: str = "", message: str = "") -> Object:
        pod = copy.deepcopy(pod)
        conditions = pod["status"].setdefault("conditions", [])
        set_condition(conditions, "PodScheduled", status, reason, message)
        return self._store.update(resources.PODS, pod, spec_changes=False)
