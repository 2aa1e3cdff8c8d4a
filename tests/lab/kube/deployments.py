# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Deployment controller: replica sets by template, rolling update within surge and unavailability, progress deadline."""

from __future__ import annotations

import copy
import time

from . import creation, resources
from .events import Recorder
from .objects import Object, condition, is_terminating, now_text, owned_by, parse_time, reference_to, scaled, set_condition
from .revisions import HASH_LABEL, bare, template_hash
from .store import Store

_DONE = "NewReplicaSetAvailable"
REVISION = "deployment.kubernetes.io/revision"


class DeploymentController:
    """Brings every Deployment's replica sets one step nearer to its spec."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._events = Recorder(store, "deployment-controller")

    def reconcile(self) -> None:
        for deployment in self._store.list(resources.DEPLOYMENTS):
            if not is_terminating(deployment):
                _Rollout(self._store, self._events, deployment).step()


class _Rollout:
    def __init__(self, store: Store, events: Recorder, deployment: Object) -> None:
        self._store = store
        self._events = events
        self._deployment = deployment
        self._spec: Object = deployment["spec"]
        self._wanted: int = self._spec["replicas"]
        uid = deployment["metadata"]["uid"]
        namespace = deployment["metadata"]["namespace"]
        owned = [item for item in store.list(resources.REPLICA_SETS, namespace) if owned_by(item, uid)]
        self._sets = sorted((item for item in owned if not is_terminating(item)), key=_revision)
        template = bare(self._spec["template"])
        self._new = next((item for item in self._sets if bare(item["spec"]["template"]) == template), None)
        self._set_created = False

    @property
    def _old(self) -> list[Object]:
        return [item for item in self._sets if self._new is None or item["metadata"]["uid"] != self._new["metadata"]["uid"]]

    def step(self) -> None:
        if self._spec.get("paused"):
            self._scale_only()
        else:
            self._ensure_new_set()
            if self._spec["strategy"]["type"] == "Recreate":
                self._recreate()
            else:
                self._roll()
            self._trim()
        self._write_status()

    # replica sets

    def _ensure_new_set(self) -> None:
        newest = max([_revision(item) for item in self._sets], default=0)
        if self._new is not None:
            if _revision(self._new) < newest:
                annotations = {**self._new["metadata"].get("annotations", {}), REVISION: str(newest + 1)}
                self._replace({**self._new, "metadata": {**self._new["metadata"], "annotations": annotations}})
            self._annotate(_revision(self._new))
            return
        template = copy.deepcopy(self._spec["template"])
        digest = template_hash(template)
        labels = {**template["metadata"].get("labels", {}), HASH_LABEL: digest}
        template["metadata"]["labels"] = labels
        metadata = self._deployment["metadata"]
        selector = copy.deepcopy(self._spec["selector"])
        selector.setdefault("matchLabels", {})[HASH_LABEL] = digest
        self._new = creation.create(
            self._store,
            resources.REPLICA_SETS,
            metadata["namespace"],
            {
                "metadata": {
                    "name": f"{metadata['name']}-{digest}",
                    "labels": labels,
                    "annotations": {
                        REVISION: str(newest + 1),
                        "deployment.kubernetes.io/desired-replicas": str(self._wanted),
                    },
                    "ownerReferences": [reference_to(self._deployment)],
                },
                "spec": {
                    "replicas": 0,
                    "selector": selector,
                    "template": template,
                    "minReadySeconds": self._spec.get("minReadySeconds", 0),
                },
            },
        )
        self._sets.append(self._new)
        self._set_created = True
        self._annotate(newest + 1)

    def _annotate(self, revision: int) -> None:
        metadata = self._deployment["metadata"]
        annotations = {**(metadata.get("annotations") or {}), REVISION: str(revision)}
        changed = {**self._deployment, "metadata": {**metadata, "annotations": annotations}}
        self._deployment = self._store.update(resources.DEPLOYMENTS, changed)

    def _replace(self, replica_set: Object) -> None:
        stored = self._store.update(resources.REPLICA_SETS, replica_set)
        uid = stored["metadata"]["uid"]
        self._sets = [stored if item["metadata"]["uid"] == uid else item for item in self._sets]
        if self._new is not None and self._new["metadata"]["uid"] == uid:
            self._new = stored

    def _scale(self, replica_set: Object, replicas: int) -> None:
        before = replica_set["spec"]["replicas"]
        if before == replicas:
            return
        self._replace({**replica_set, "spec": {**replica_set["spec"], "replicas": replicas}})
        direction = "up" if replicas > before else "down"
        message = f"Scaled {direction} replica set {replica_set['metadata']['name']} from {before} to {replicas}"
        self._events.normal(self._deployment, "ScalingReplicaSet", message)

    def _scale_only(self) -> None:
        active = [item for item in self._sets if item["spec"]["replicas"] > 0] or self._sets[-1:]
        if len(active) == 1:
            self._scale(active[0], self._wanted)

    def _trim(self) -> None:
        empty = [item for item in self._old if not item["spec"]["replicas"] and not item["status"].get("replicas")]
        for item in empty[: max(0, len(empty) - self._spec["revisionHistoryLimit"])]:
            self._store.delete(resources.REPLICA_SETS, item)
            self._sets.remove(item)

    # strategies

    def _recreate(self) -> None:
        for item in self._old:
            self._scale(item, 0)
        if self._new is not None and not any(self._has_pods(item) for item in self._old):
            self._scale(self._new, self._wanted)

    def _has_pods(self, replica_set: Object) -> bool:
        pods = self._store.list(resources.PODS, replica_set["metadata"]["namespace"])
        return any(owned_by(pod, replica_set["metadata"]["uid"]) for pod in pods)

    @property
    def _limits(self) -> tuple[int, int]:
        """Surge and unavailability in pods; not both 0."""
        rolling = self._spec["strategy"].get("rollingUpdate", {})
        surge = scaled(rolling.get("maxSurge", 0), self._wanted, round_up=True)
        unavailable = scaled(rolling.get("maxUnavailable", 0), self._wanted, round_up=False)
        return (surge, unavailable or 1) if not surge and not unavailable else (surge, min(unavailable, self._wanted))

    def _roll(self) -> None:
        if self._new is None:
            return
        surge, _unused = self._limits
        have = self._new["spec"]["replicas"]
        if have > self._wanted:
            self._scale(self._new, self._wanted)
        elif have < self._wanted:
            room = self._wanted + surge - sum(item["spec"]["replicas"] for item in self._sets)
            self._scale(self._new, have + max(0, min(room, self._wanted - have)))
        self._shrink_old()

    def _shrink_old(self) -> None:
        if self._new is None:
            return
        minimum = self._wanted - self._limits[1]
        total = sum(item["spec"]["replicas"] for item in self._sets)
        new_unavailable = self._new["spec"]["replicas"] - _available(self._new)
        spare = total - minimum - new_unavailable
        for item in self._old:  # pods that do not work first
            broken = item["spec"]["replicas"] - _available(item)
            remove = min(spare, broken)
            if remove > 0:
                self._scale(item, item["spec"]["replicas"] - remove)
                spare -= remove
        spare = sum(map(_available, self._sets)) - minimum
        for item in self._old:
            remove = min(spare, item["spec"]["replicas"])
            if remove > 0:
                self._scale(item, item["spec"]["replicas"] - remove)
                spare -= remove

    # status

    def _write_status(self) -> None:
        old: Object = self._deployment.get("status") or {}
        new: Object = {"observedGeneration": self._deployment["metadata"]["generation"]}
        updated = self._new["status"] if self._new is not None else {}
        available = sum(map(_available, self._sets))
        total = sum(item["status"].get("replicas", 0) for item in self._sets)
        counts = {
            "replicas": total,
            "updatedReplicas": updated.get("replicas", 0),
            "readyReplicas": sum(item["status"].get("readyReplicas", 0) for item in self._sets),
            "availableReplicas": available,
            "unavailableReplicas": max(0, self._wanted - available, total - available),
        }
        new.update({name: count for name, count in counts.items() if count})
        conditions = copy.deepcopy(old.get("conditions") or [])
        minimum = self._wanted - (self._limits[1] if self._spec["strategy"]["type"] == "RollingUpdate" else 0)
        self._availability(conditions, available >= minimum)
        self._progress(conditions, old, counts)
        self._failure(conditions)
        new["conditions"] = conditions
        self._store.set_status(resources.DEPLOYMENTS, self._deployment, new)

    def _availability(self, conditions: list[Object], enough: bool) -> None:
        known = condition({"status": {"conditions": conditions}}, "Available")
        if known is not None and (known["status"] == "True") is enough:
            return
        reason = "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable"
        message = f"Deployment {'has' if enough else 'does not have'} minimum availability."
        set_condition(conditions, "Available", str(enough), reason, message, lastUpdateTime=now_text())

    def _progress(self, conditions: list[Object], old: Object, counts: dict[str, int]) -> None:
        known = condition({"status": {"conditions": conditions}}, "Progressing")
        if self._spec.get("paused"):
            if known is None or known["reason"] != "DeploymentPaused":
                message = "Deployment is paused"
                set_condition(conditions, "Progressing", "Unknown", "DeploymentPaused", message, lastUpdateTime=now_text())
            return
        found = None if self._new is None else self._verdict(self._new, known, old, counts)
        if found is not None and (known is None or (known["reason"], known["message"]) != found[1:] or found[1] != _DONE):
            set_condition(conditions, "Progressing", *found, lastUpdateTime=now_text())

    def _verdict(self, new: Object, known: Object | None, old: Object, counts: dict[str, int]) -> tuple[str, str, str] | None:
        """Status, reason and message of the Progressing condition; None when there is nothing new to say."""
        name = new["metadata"]["name"]
        have = {counts["updatedReplicas"], counts["replicas"], counts["availableReplicas"], new["spec"]["replicas"]}
        if have == {self._wanted}:
            return "True", _DONE, f'ReplicaSet "{name}" has successfully progressed.'
        if self._set_created:
            return "True", "NewReplicaSetCreated", f'Created new replica set "{name}"'
        if known is None or known["reason"] == "DeploymentPaused":
            return "True", "FoundNewReplicaSet", f'Found new replica set "{name}"'
        if _progressed(old, counts):
            return "True", "ReplicaSetUpdated", f'ReplicaSet "{name}" is progressing.'
        if self._late(known):
            return "False", "ProgressDeadlineExceeded", f'ReplicaSet "{name}" has timed out progressing.'
        return None

    def _late(self, known: Object) -> bool:
        if known["reason"] in (_DONE, "ProgressDeadlineExceeded"):
            return False
        return time.time() - parse_time(known["lastUpdateTime"]) > float(self._spec["progressDeadlineSeconds"])

    def _failure(self, conditions: list[Object]) -> None:
        failing = condition(self._new, "ReplicaFailure") if self._new is not None else None
        conditions[:] = [entry for entry in conditions if entry["type"] != "ReplicaFailure"]
        if failing is not None:
            conditions.append({**failing, "lastUpdateTime": failing["lastTransitionTime"]})


def _revision(replica_set: Object) -> int:
    return int((replica_set["metadata"].get("annotations") or {}).get(REVISION, 0))


def _available(replica_set: Object) -> int:
    return int(replica_set["status"].get("availableReplicas", 0))


def _progressed(old: Object, new: dict[str, int]) -> bool:
    old_left = old.get("replicas", 0) - old.get("updatedReplicas", 0)
    return (
        new["updatedReplicas"] > old.get("updatedReplicas", 0)
        or new["replicas"] - new["updatedReplicas"] < old_left
        or new["readyReplicas"] > old.get("readyReplicas", 0)
        or new["availableReplicas"] > old.get("availableReplicas", 0)
    )
