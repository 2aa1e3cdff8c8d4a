# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deployments, StatefulSets and DaemonSets: what is asked of them and how they are told. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import datetime
import typing as t
import urllib.parse

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, NotFound
from ansible_collections.fileforge.ops.plugins.module_utils._kube.client import MERGE, Client, Object

DEPLOYMENT, STATEFUL_SET, DAEMON_SET = "Deployment", "StatefulSet", "DaemonSet"
PLURALS = {DEPLOYMENT: "deployments", STATEFUL_SET: "statefulsets", DAEMON_SET: "daemonsets"}
RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
RESTART_ID = "fileforge.ops/restart-id"
REVISION = "deployment.kubernetes.io/revision"


def quoted(part: str) -> str:
    """One segment of a path."""
    return urllib.parse.quote(part, safe="")


@dataclasses.dataclass(frozen=True)
class Reference:
    """Names one workload."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def path(self) -> str:
        """Of the object."""
        return f"/apis/apps/v1/namespaces/{quoted(self.namespace)}/{PLURALS[self.kind]}/{quoted(self.name)}"

    @property
    def pods_path(self) -> str:
        """Of the namespace's pods."""
        return f"/api/v1/namespaces/{quoted(self.namespace)}/pods"


@dataclasses.dataclass(frozen=True)
class Workload:
    """One state of a workload, as far as rollouts are concerned."""

    reference: Reference
    uid: str
    generation: int
    observed_generation: int
    replicas: int
    """Wanted; of a DaemonSet: how many nodes should have one."""
    current: int
    """Pods that exist and are not ending."""
    updated: int
    ready: int
    available: int
    rolling: bool
    """Whether pods are replaced without being deleted by hand."""
    partition: int
    paused: bool
    current_revision: str
    update_revision: str
    conditions: tuple[tuple[str, str, str, str], ...]
    """Type, status, reason, message."""
    selector: str
    restarted_at: str
    restart_id: str
    images: tuple[str, ...]

    @property
    def progress_failed(self) -> str | None:
        """The message of ProgressDeadlineExceeded."""
        for kind, _status, reason, message in self.conditions:
            if kind == "Progressing" and reason == "ProgressDeadlineExceeded":
                return message
        return None

    def as_dict(self) -> dict[str, t.Any]:
        """What the module returns as ``workload``."""
        return {
            "kind": self.reference.kind,
            "namespace": self.reference.namespace,
            "name": self.reference.name,
            "uid": self.uid,
            "generation": self.generation,
            "revision": self.update_revision,
            "images": list(self.images),
            "restarted_at": self.restarted_at,
            "restart_id": self.restart_id,
        }


def selector_text(selector: Object) -> str:
    """A LabelSelector in the form of a query."""
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for expression in selector.get("matchExpressions") or []:
        key, values = expression["key"], ",".join(expression.get("values") or [])
        forms = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key, "DoesNotExist": f"!{key}"}
        parts.append(forms[expression["operator"]])
    return ",".join(parts)


def parse(reference: Reference, obj: Object) -> Workload:
    """A workload from the server's object; counts that are left out are 0."""
    spec: Object = obj["spec"]
    status: Object = obj.get("status") or {}
    daemon = reference.kind == DAEMON_SET
    strategy: Object = spec.get("strategy" if reference.kind == DEPLOYMENT else "updateStrategy") or {}
    template: Object = spec["template"]
    annotations: Object = template.get("metadata", {}).get("annotations") or {}
    own: Object = obj["metadata"].get("annotations") or {}

    def count(name: str, of_daemon_set: str) -> int:
        return int(status.get(of_daemon_set if daemon else name) or 0)

    return Workload(
        reference=reference,
        uid=obj["metadata"]["uid"],
        generation=int(obj["metadata"].get("generation") or 0),
        observed_generation=int(status.get("observedGeneration") or 0),
        replicas=int(status.get("desiredNumberScheduled") or 0) if daemon else int(spec.get("replicas", 1)),
        current=count("replicas", "currentNumberScheduled"),
        updated=count("updatedReplicas", "updatedNumberScheduled"),
        ready=count("readyReplicas", "numberReady"),
        available=count("availableReplicas", "numberAvailable"),
        rolling=strategy.get("type", "RollingUpdate") != "OnDelete",
        partition=int((strategy.get("rollingUpdate") or {}).get("partition") or 0),
        paused=bool(spec.get("paused")),
        current_revision=str(status.get("currentRevision") or ""),
        update_revision=str(status.get("updateRevision") or own.get(REVISION) or ""),
        conditions=tuple(
            (entry["type"], entry["status"], entry.get("reason") or "", entry.get("message") or "")
            for entry in status.get("conditions") or []
        ),
        selector=selector_text(spec.get("selector") or {}),
        restarted_at=str(annotations.get(RESTARTED_AT) or ""),
        restart_id=str(annotations.get(RESTART_ID) or ""),
        images=tuple(entry.get("image", "") for entry in template["spec"]["containers"]),
    )


def read(client: Client, reference: Reference) -> Workload:
    """The workload now; raises NotFound with a message that names it."""
    try:
        return parse(reference, client.get(reference.path))
    except NotFound as error:
        raise NotFound(
            f"{reference} does not exist at {client.host}", hint="check namespace, kind, name and kube_context", **error.state
        ) from error


def restart(client: Client, workload: Workload, at: datetime.datetime, restart_id: str | None, *, dry_run: bool = False) -> None:
    """Change the pod template's annotations, as ``kubectl rollout restart`` does; the uid guards against a namesake."""
    annotations = {RESTARTED_AT: at.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")}
    if restart_id:
        annotations[RESTART_ID] = restart_id
    body: Object = {
        "metadata": {"uid": workload.uid},
        "spec": {"template": {"metadata": {"annotations": annotations}}},
    }
    client.patch(workload.reference.path, body, dry_run=dry_run)


def scale(client: Client, workload: Workload, replicas: int, *, dry_run: bool = False) -> None:
    """Set the number of replicas through the scale subresource."""
    if workload.reference.kind == DAEMON_SET:
        raise InvalidOption("kind", DAEMON_SET, "runs on every node and cannot be scaled")
    client.patch(f"{workload.reference.path}/scale", {"spec": {"replicas": replicas}}, kind=MERGE, dry_run=dry_run)


def pods_of(client: Client, workload: Workload) -> list[Object]:
    """Its pods, ending ones too; those that merely carry the same labels are left out."""
    pods = list(client.list(workload.reference.pods_path, {"labelSelector": workload.selector}))
    owners = {workload.uid}
    if workload.reference.kind == DEPLOYMENT:
        owners |= {item["metadata"]["uid"] for item in replica_sets_of(client, workload)}
    return [pod for pod in pods if owner_uid(pod) in owners]


def replica_sets_of(client: Client, workload: Workload) -> list[Object]:
    """A Deployment's replica sets."""
    path = f"/apis/apps/v1/namespaces/{quoted(workload.reference.namespace)}/replicasets"
    found = client.list(path, {"labelSelector": workload.selector})
    return [item for item in found if owner_uid(item) == workload.uid]


def owner_uid(obj: Object) -> str:
    """The uid of the object's controller; empty without one."""
    for reference in obj["metadata"].get("ownerReferences") or []:
        if reference.get("controller"):
            return str(reference["uid"])
    return ""
