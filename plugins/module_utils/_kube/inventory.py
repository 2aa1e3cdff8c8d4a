# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is in a namespace: workloads with their pods, warning events, usage; each read on its own. PRIVATE."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, MissingLibrary, OpsError, Unavailable
from ansible_collections.fileforge.ops.plugins.module_utils._kube.client import Client, Object
from ansible_collections.fileforge.ops.plugins.module_utils._kube.diagnosis import warning_events
from ansible_collections.fileforge.ops.plugins.module_utils._kube.labels import parse_selector
from ansible_collections.fileforge.ops.plugins.module_utils._kube.workload import (
    PLURALS,
    Reference,
    Workload,
    owner_uid,
    parse,
    quoted,
)

JOB = "Job"
PODS, REPLICA_SETS, JOBS, EVENTS, METRICS = "pods", "replicasets", "jobs", "events", "metrics"


@dataclasses.dataclass
class Owned:
    """One workload with what belongs to it."""

    kind: str
    name: str
    uid: str
    obj: Object
    rollout: Workload | None
    """None for a Job."""
    pods: list[Object] = dataclasses.field(default_factory=list)
    replica_sets: list[Object] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def makers(self) -> set[str]:
        """Uids of the objects that make its pods."""
        return {self.uid, *(item["metadata"]["uid"] for item in self.replica_sets)}


@dataclasses.dataclass
class Inventory:
    """One look at a namespace. ``problems`` says for each kind of object why it could not be read."""

    namespace: str
    whole: bool = True
    """Whether no selector narrows it."""
    workloads: list[Owned] = dataclasses.field(default_factory=list)
    loose: list[Object] = dataclasses.field(default_factory=list)
    """Pods that none of the workloads made."""
    events: list[Object] = dataclasses.field(default_factory=list)
    metrics: dict[str, Object] = dataclasses.field(default_factory=dict)
    problems: dict[str, OpsError] = dataclasses.field(default_factory=dict)

    @property
    def unreachable(self) -> Unavailable | None:
        """Why the server did not answer at all."""
        problem = self.problems.get(PODS)
        return problem if isinstance(problem, Unavailable) else None

    def owned_pods(self) -> t.Iterator[tuple[Owned | None, Object]]:
        """Every pod with its workload."""
        for owned in self.workloads:
            for pod in owned.pods:
                yield owned, pod
        for pod in self.loose:
            yield None, pod

    def problem_with(self, *kinds: str) -> OpsError | None:
        """The first reason why one of these could not be read."""
        return next((self.problems[kind] for kind in kinds if kind in self.problems), None)


class _Reader:
    """Reads lists one by one; what cannot be read becomes a problem, and a silent server is not asked again and again."""

    def __init__(self, client: Client, inventory: Inventory) -> None:
        self._client = client
        self._inventory = inventory

    def read(self, kind: str, group: str) -> list[Object]:
        """All objects of a kind."""
        path = f"/{group}/namespaces/{quoted(self._inventory.namespace)}/{'pods' if kind == METRICS else kind}"
        return self.guard(kind, lambda: list(self._client.list(path)))

    def guard(self, kind: str, call: t.Callable[[], list[Object]]) -> list[Object]:
        """What the call returns; nothing when it fails."""
        if self._inventory.unreachable is not None:
            self._inventory.problems[kind] = self._inventory.unreachable
            return []
        try:
            return call()
        except (InvalidOption, MissingLibrary):
            raise  # nothing to do with what is in the cluster
        except OpsError as error:
            self._inventory.problems[kind] = error
            return []

    def events(self) -> list[Object]:
        """The warning events, newest first."""
        return self.guard(EVENTS, lambda: warning_events(self._client, self._inventory.namespace))


def gather(client: Client, namespace: str, selector: str = "") -> Inventory:
    """Look at a namespace. Never raises for what it may not see or for a server that does not answer."""
    selected = parse_selector(selector)
    inventory = Inventory(namespace, not selector)
    reader = _Reader(client, inventory)
    pods = reader.read(PODS, "api/v1")
    replica_sets = reader.read(REPLICA_SETS, "apis/apps/v1")
    found: list[Owned] = []
    for kind, plural in PLURALS.items():
        for obj in reader.read(plural, "apis/apps/v1"):
            reference = Reference(kind, namespace, obj["metadata"]["name"])
            found.append(Owned(kind, reference.name, obj["metadata"]["uid"], obj, parse(reference, obj)))
    for obj in reader.read(JOBS, "apis/batch/v1"):
        found.append(Owned(JOB, obj["metadata"]["name"], obj["metadata"]["uid"], obj, None))
    inventory.events = reader.events()
    inventory.metrics = {item["metadata"]["name"]: item for item in reader.read(METRICS, "apis/metrics.k8s.io/v1beta1")}
    _attribute(inventory, found, pods, replica_sets)
    inventory.workloads = [owned for owned in found if any(selected(labels) for labels in _labels_of(owned.obj))]
    inventory.loose = [pod for pod in inventory.loose if selected(pod["metadata"].get("labels") or {})]
    return inventory


def _labels_of(obj: Object) -> list[dict[str, str]]:
    """The workload's own labels, and those of the pods that it makes."""
    template = (obj["spec"].get("template") or {}).get("metadata") or {}
    return [obj["metadata"].get("labels") or {}, template.get("labels") or {}]


def _attribute(inventory: Inventory, found: list[Owned], pods: list[Object], replica_sets: list[Object]) -> None:
    """Give replica sets and pods to the workloads that made them."""
    by_uid = {owned.uid: owned for owned in found}
    for replica_set in replica_sets:
        owner = by_uid.get(owner_uid(replica_set))
        if owner is not None:
            owner.replica_sets.append(replica_set)
    makers = {uid: owned for owned in found for uid in owned.makers}
    by_name = {owned.name: owned for owned in found if owned.kind == "Deployment"} if REPLICA_SETS in inventory.problems else {}
    for pod in pods:
        maker = makers.get(owner_uid(pod)) or by_name.get(_deployment_name(pod))
        if maker is not None:
            maker.pods.append(pod)
        else:
            inventory.loose.append(pod)


def _deployment_name(pod: Object) -> str:
    """From the name of the replica set, when those may not be listed."""
    for reference in pod["metadata"].get("ownerReferences") or []:
        if reference.get("kind") == "ReplicaSet":
            return str(reference["name"]).rpartition("-")[0]
    return ""
