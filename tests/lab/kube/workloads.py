# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controllers that make pods: ReplicaSet, StatefulSet, DaemonSet and Job."""

from __future__ import annotations

import copy
import time

from . import creation, deletion, resources, revisions
from .errors import ApiError
from .events import Recorder
from .objects import (
    Object,
    is_active,
    is_available,
    is_ready,
    is_terminating,
    now_text,
    owned_by,
    reference_to,
    set_condition,
)
from .store import Store

REVISION_LABEL = "controller-revision-hash"


class PodMaker:
    """What the controllers here share: an owner's pods, making and removing them with events."""

    def __init__(self, store: Store, component: str) -> None:
        self.store = store
        self.events = Recorder(store, component)

    def pods_of(self, owner: Object) -> list[Object]:
        pods = self.store.list(resources.PODS, owner["metadata"]["namespace"])
        return [pod for pod in pods if owned_by(pod, owner["metadata"]["uid"])]

    def make(self, owner: Object, template: Object, metadata: Object) -> ApiError | None:
        """Create a pod; the server's refusal, if it refuses."""
        found = template.get("metadata") or {}
        labels = {**(found.get("labels") or {}), **metadata.pop("labels", {})}
        pod = {
            "metadata": {
                **metadata,
                "labels": labels,
                "annotations": dict(found.get("annotations") or {}),
                "ownerReferences": [reference_to(owner)],
            },
            "spec": copy.deepcopy(template["spec"]),
        }
        try:
            created = creation.create(self.store, resources.PODS, owner["metadata"]["namespace"], pod)
        except ApiError as error:
            self.events.warning(owner, "FailedCreate", f"Error creating: {error.message}")
            return error
        self.events.normal(owner, "SuccessfulCreate", f"Created pod: {created['metadata']['name']}")
        return None

    def remove(self, owner: Object, pod: Object) -> None:
        deletion.request(self.store, resources.PODS, pod)
        self.events.normal(owner, "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}")


class Backoff:
    """After a refusal, wait before the next try: doubling up to a limit."""

    def __init__(self, first: float = 0.5, limit: float = 10.0) -> None:
        self._first = first
        self._limit = limit
        self._waits: dict[str, tuple[float, float]] = {}

    def blocked(self, uid: str) -> bool:
        return uid in self._waits and time.monotonic() < self._waits[uid][0]

    def failed(self, uid: str) -> None:
        wait = min(self._limit, self._waits[uid][1] * 2 if uid in self._waits else self._first)
        self._waits[uid] = (time.monotonic() + wait, wait)

    def succeeded(self, uid: str) -> None:
        self._waits.pop(uid, None)


class ReplicaSetController(PodMaker):
    def __init__(self, store: Store) -> None:
        super().__init__(store, "replicaset-controller")
        self._backoff = Backoff()

    def reconcile(self) -> None:
        for replica_set in self.store.list(resources.REPLICA_SETS):
            if not is_terminating(replica_set):
                self._one(replica_set)

    def _one(self, owner: Object) -> None:
        pods = [pod for pod in self.pods_of(owner) if is_active(pod)]
        wanted = owner["spec"]["replicas"]
        uid = owner["metadata"]["uid"]
        failure: ApiError | None = None
        if len(pods) < wanted and not self._backoff.blocked(uid):
            for _unused in range(wanted - len(pods)):
                failure = self.make(owner, owner["spec"]["template"], {"generateName": f"{owner['metadata']['name']}-"})
                if failure is not None:
                    self._backoff.failed(uid)
                    break
                self._backoff.succeeded(uid)
        for pod in sorted(pods, key=_worth)[: max(0, len(pods) - wanted)]:
            self.remove(owner, pod)
        self._status(owner, failure)

    def _status(self, owner: Object, failure: ApiError | None) -> None:
        pods = [pod for pod in self.pods_of(owner) if is_active(pod)]
        now = time.time()
        minimum = owner["spec"].get("minReadySeconds", 0)
        status: Object = {"observedGeneration": owner["metadata"]["generation"], "replicas": len(pods)}
        counts = {
            "fullyLabeledReplicas": len(pods),
            "readyReplicas": sum(map(is_ready, pods)),
            "availableReplicas": sum(is_available(pod, minimum, now) for pod in pods),
        }
        status.update({name: count for name, count in counts.items() if count})
        conditions = copy.deepcopy((owner.get("status") or {}).get("conditions") or [])
        if failure is not None:
            set_condition(conditions, "ReplicaFailure", "True", "FailedCreate", failure.message)
        elif len(pods) >= owner["spec"]["replicas"]:
            conditions = [entry for entry in conditions if entry["type"] != "ReplicaFailure"]
        if conditions:
            status["conditions"] = conditions
        self.store.set_status(resources.REPLICA_SETS, owner, status)


def _worth(pod: Object) -> tuple[bool, bool, str]:
    """Pods to lose first come first: unscheduled, not ready, young."""
    created = pod["metadata"]["creationTimestamp"]
    return bool(pod["spec"].get("nodeName")), is_ready(pod), "".join(chr(255 - ord(letter)) for letter in created)


class StatefulSetController(PodMaker):
    """Ordinals, one at a time unless Parallel; updates from the highest ordinal down to the partition."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, "statefulset-controller")

    def reconcile(self) -> None:
        for stateful_set in self.store.list(resources.STATEFUL_SETS):
            if not is_terminating(stateful_set):
                self._one(stateful_set)

    def _one(self, owner: Object) -> None:
        revision = revisions.ensure(self.store, owner)["metadata"]["name"]
        pods = {_ordinal(pod): pod for pod in self.pods_of(owner)}
        if self._scale(owner, pods, revision):
            self._update(owner, pods, revision)
        self._status(owner, revision)

    def _current(self, owner: Object, update: str) -> str:
        return str((owner.get("status") or {}).get("currentRevision") or update)

    def _template(self, owner: Object, revision: str) -> Object:
        for known in revisions.of(self.store, owner):
            if known["metadata"]["name"] == revision:
                return {key: value for key, value in known["data"]["spec"]["template"].items() if key != "$patch"}
        found: Object = owner["spec"]["template"]
        return found

    def _scale(self, owner: Object, pods: dict[int, Object], revision: str) -> bool:
        """Make and remove pods; whether the set is complete and ready, so that an update may go on."""
        ordered = owner["spec"]["podManagementPolicy"] == "OrderedReady"
        wanted = owner["spec"]["replicas"]
        for ordinal in range(wanted):
            pod = pods.get(ordinal)
            if pod is None:
                self._make(owner, ordinal, revision)
            elif not is_terminating(pod) and not is_active(pod):
                self.remove(owner, pod)
            if ordered and (pod is None or is_terminating(pod) or not is_ready(pod)):
                return self._only_stale(owner, pods, revision)
        for ordinal in sorted((number for number in pods if number >= wanted), reverse=True):
            if not is_terminating(pods[ordinal]):
                self.remove(owner, pods[ordinal])
            if ordered:
                return False
        return all(ordinal in pods for ordinal in range(wanted))

    def _only_stale(self, owner: Object, pods: dict[int, Object], revision: str) -> bool:
        """A pod of an old revision that does not get ready must not hold back its own replacement."""
        broken = [pod for pod in pods.values() if not is_ready(pod) and not is_terminating(pod)]
        return bool(broken) and all(_revision_of(pod) != revision for pod in broken) and len(pods) == owner["spec"]["replicas"]

    def _make(self, owner: Object, ordinal: int, update: str) -> None:
        strategy = owner["spec"]["updateStrategy"]
        partition = strategy.get("rollingUpdate", {}).get("partition", 0) if strategy["type"] == "RollingUpdate" else 0
        revision = self._current(owner, update) if ordinal < partition else update
        name = f"{owner['metadata']['name']}-{ordinal}"
        labels = {
            REVISION_LABEL: revision,
            "statefulset.kubernetes.io/pod-name": name,
            "apps.kubernetes.io/pod-index": str(ordinal),
        }
        self.make(owner, self._template(owner, revision), {"name": name, "labels": labels})

    def _update(self, owner: Object, pods: dict[int, Object], revision: str) -> None:
        strategy = owner["spec"]["updateStrategy"]
        if strategy["type"] != "RollingUpdate":
            return
        partition = strategy.get("rollingUpdate", {}).get("partition", 0)
        for ordinal in sorted(pods, reverse=True):
            pod = pods[ordinal]
            if ordinal < partition or ordinal >= owner["spec"]["replicas"]:
                continue
            if _revision_of(pod) != revision and not is_terminating(pod):
                self.remove(owner, pod)
                return
            if not is_ready(pod) or is_terminating(pod):
                return

    def _status(self, owner: Object, update: str) -> None:
        pods = [pod for pod in self.pods_of(owner) if is_active(pod)]
        now = time.time()
        wanted = owner["spec"]["replicas"]
        updated = [pod for pod in pods if _revision_of(pod) == update]
        ready = sum(map(is_ready, pods))
        current = self._current(owner, update)
        if len(updated) == wanted == ready == len(pods):
            current = update
        status: Object = {
            "observedGeneration": owner["metadata"]["generation"],
            "replicas": len(pods),
            "availableReplicas": sum(is_available(pod, owner["spec"].get("minReadySeconds", 0), now) for pod in pods),
            "currentRevision": current,
            "updateRevision": update,
            "collisionCount": 0,
        }
        counts = {
            "readyReplicas": ready,
            "currentReplicas": sum(_revision_of(pod) == current for pod in pods),
            "updatedReplicas": len(updated),
        }
        status.update({name: count for name, count in counts.items() if count})
        self.store.set_status(resources.STATEFUL_SETS, owner, status)


def _ordinal(pod: Object) -> int:
    return int(pod["metadata"]["name"].rpartition("-")[2])


def _revision_of(pod: Object) -> str:
    return str((pod["metadata"].get("labels") or {}).get(REVISION_LABEL, ""))


class DaemonSetController(PodMaker):
    """One pod on every node."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, "daemonset-controller")

    def reconcile(self) -> None:
        for daemon_set in self.store.list(resources.DAEMON_SETS):
            if not is_terminating(daemon_set):
                self._one(daemon_set)

    def _one(self, owner: Object) -> None:
        revision = revisions.ensure(self.store, owner)["metadata"]["name"]
        label = revision.rpartition("-")[2]
        nodes = [node["metadata"]["name"] for node in self.store.list(resources.NODES)]
        pods = self.pods_of(owner)
        for pod in pods:
            if not is_terminating(pod) and not is_active(pod):
                self.remove(owner, pod)
        served = {_node_of(pod): pod for pod in pods}
        for node in nodes:
            if node not in served:
                template = copy.deepcopy(owner["spec"]["template"])
                template["spec"]["nodeSelector"] = {**template["spec"].get("nodeSelector", {}), "kubernetes.io/hostname": node}
                metadata = {"generateName": f"{owner['metadata']['name']}-", "labels": {REVISION_LABEL: label}}
                self.make(owner, template, metadata)
        self._update(owner, list(served.values()), label)
        self._status(owner, label, len(nodes))

    def _update(self, owner: Object, pods: list[Object], label: str) -> None:
        strategy = owner["spec"]["updateStrategy"]
        if strategy["type"] != "RollingUpdate":
            return
        stale = [pod for pod in pods if _revision_of(pod) != label and not is_terminating(pod)]
        room = int(strategy["rollingUpdate"]["maxUnavailable"]) - sum(not is_ready(pod) for pod in pods)
        broken = [pod for pod in stale if not is_ready(pod)]
        for pod in broken + [pod for pod in stale if is_ready(pod)][: max(0, room)]:
            self.remove(owner, pod)

    def _status(self, owner: Object, label: str, nodes: int) -> None:
        pods = [pod for pod in self.pods_of(owner) if is_active(pod)]
        now = time.time()
        available = sum(is_available(pod, owner["spec"].get("minReadySeconds", 0), now) for pod in pods)
        status: Object = {
            "observedGeneration": owner["metadata"]["generation"],
            "currentNumberScheduled": len(pods),
            "desiredNumberScheduled": nodes,
            "numberMisscheduled": 0,
            "numberReady": sum(map(is_ready, pods)),
        }
        counts = {
            "updatedNumberScheduled": sum(_revision_of(pod) == label for pod in pods),
            "numberAvailable": available,
            "numberUnavailable": nodes - available,
        }
        status.update({name: count for name, count in counts.items() if count})
        self.store.set_status(resources.DAEMON_SETS, owner, status)


def _node_of(pod: Object) -> str:
    return str(pod["spec"].get("nodeSelector", {}).get("kubernetes.io/hostname", ""))


class JobController(PodMaker):
    """Runs pods until enough have succeeded or too many have failed."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, "job-controller")

    def reconcile(self) -> None:
        for job in self.store.list(resources.JOBS):
            if not is_terminating(job):
                self._label(job)

    def _label(self, job: Object) -> None:
        """Jobs choose their pods by their own uid."""
        uid = job["metadata"]["uid"]
        labels = job["spec"]["template"]["metadata"].setdefault("labels", {})
        if labels.get("batch.kubernetes.io/controller-uid") != uid:
            job = copy.deepcopy(job)
            added = {"batch.kubernetes.io/controller-uid": uid, "batch.kubernetes.io/job-name": job["metadata"]["name"]}
            job["spec"]["template"]["metadata"]["labels"] = {**labels, **added, "job-name": job["metadata"]["name"]}
            job["spec"]["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
            job = self.store.update(resources.JOBS, job, spec_changes=False)
        self._one(job)

    def _one(self, job: Object) -> None:
        status: Object = copy.deepcopy(job.get("status") or {})
        if any(entry["type"] in ("Complete", "Failed") for entry in status.get("conditions") or []):
            return
        pods = self.pods_of(job)
        succeeded = sum(pod["status"]["phase"] == "Succeeded" for pod in pods)
        failed = sum(pod["status"]["phase"] == "Failed" for pod in pods)
        active = [pod for pod in pods if is_active(pod)]
        status.setdefault("startTime", now_text())
        conditions = status.setdefault("conditions", [])
        if succeeded >= job["spec"]["completions"]:
            status["completionTime"] = now_text()
            set_condition(conditions, "Complete", "True", "CompletionsReached", "", lastProbeTime=now_text())
            self.events.normal(job, "Completed", "Job completed")
        elif failed > job["spec"]["backoffLimit"]:
            message = "Job has reached the specified backoff limit"
            set_condition(conditions, "Failed", "True", "BackoffLimitExceeded", message, lastProbeTime=now_text())
            self.events.warning(job, "BackoffLimitExceeded", message)
        elif not job["spec"]["suspend"]:
            missing = min(job["spec"]["parallelism"], job["spec"]["completions"] - succeeded) - len(active)
            for _unused in range(missing):
                self.make(job, job["spec"]["template"], {"generateName": f"{job['metadata']['name']}-"})
        counts = {"active": len(active), "succeeded": succeeded, "failed": failed, "ready": sum(map(is_ready, active))}
        for name, count in counts.items():
            status.pop(name, None)
            if count or name == "ready":
                status[name] = count
        self.store.set_status(resources.JOBS, job, status)
