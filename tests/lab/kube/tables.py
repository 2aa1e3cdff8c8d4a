# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``kubectl get`` prints: the server answers with tables when it is asked to."""

from __future__ import annotations

import time
import typing as t

from . import resources
from .objects import Object, condition, is_terminating, parse_time
from .resources import Resource

Row = t.Callable[[Object], list[t.Any]]
WIDE = 1


def wanted(accept: str) -> bool:
    return "as=Table" in accept


def age(text: str | None) -> str:
    """``5s``, ``3m10s``, ``2h``, ``4d`` as kubectl writes it."""
    if not text:
        return "<unknown>"
    seconds = max(0, int(time.time() - parse_time(text)))
    if seconds < 120:
        return f"{seconds}s"
    minutes = seconds // 60
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    hours = minutes // 60
    return f"{hours}h" if hours < 48 else f"{hours // 24}d"


def _age(obj: Object) -> str:
    return age(obj["metadata"].get("creationTimestamp"))


def pod_state(pod: Object) -> str:
    """The STATUS column."""
    reason = str(pod["status"].get("reason") or pod["status"].get("phase", "Unknown"))
    for status in pod["status"].get("initContainerStatuses") or []:
        state = status["state"]
        if state.get("terminated", {}).get("exitCode") == 0:
            continue
        if "terminated" in state:
            return f"Init:{state['terminated']['reason']}"
        waiting = state.get("waiting", {}).get("reason", "")
        return f"Init:{waiting}" if waiting and waiting != "PodInitializing" else "Init"
    for status in reversed(pod["status"].get("containerStatuses") or []):
        state = status["state"]
        if state.get("waiting", {}).get("reason"):
            reason = state["waiting"]["reason"]
        elif state.get("terminated", {}).get("reason"):
            reason = state["terminated"]["reason"]
    return "Terminating" if is_terminating(pod) else reason


def _pod(pod: Object) -> list[t.Any]:
    statuses = pod["status"].get("containerStatuses") or []
    ready = sum(bool(status["ready"]) for status in statuses)
    restarts = str(sum(status["restartCount"] for status in statuses))
    ends = [status["lastState"]["terminated"]["finishedAt"] for status in statuses if status["lastState"].get("terminated")]
    if ends:
        restarts += f" ({age(max(ends))} ago)"
    node = pod["spec"].get("nodeName", "<none>")
    address = pod["status"].get("podIP", "<none>")
    total = len(pod["spec"]["containers"])
    return [pod["metadata"]["name"], f"{ready}/{total}", pod_state(pod), restarts, _age(pod), address, node, "<none>", "<none>"]


def _images(obj: Object) -> list[str]:
    containers = obj["spec"]["template"]["spec"]["containers"]
    labels = (obj["spec"].get("selector") or {}).get("matchLabels") or {}
    return [
        ",".join(entry["name"] for entry in containers),
        ",".join(entry["image"] for entry in containers),
        ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
    ]


def _deployment(obj: Object) -> list[t.Any]:
    status = obj["status"]
    ready = f"{status.get('readyReplicas', 0)}/{obj['spec']['replicas']}"
    counts = [status.get("updatedReplicas", 0), status.get("availableReplicas", 0)]
    return [obj["metadata"]["name"], ready, *counts, _age(obj), *_images(obj)]


def _replica_set(obj: Object) -> list[t.Any]:
    status = obj["status"]
    counts = [obj["spec"]["replicas"], status.get("replicas", 0), status.get("readyReplicas", 0)]
    return [obj["metadata"]["name"], *counts, _age(obj), *_images(obj)]


def _stateful_set(obj: Object) -> list[t.Any]:
    ready = f"{obj['status'].get('readyReplicas', 0)}/{obj['spec']['replicas']}"
    return [obj["metadata"]["name"], ready, _age(obj), *_images(obj)[:2]]


def _daemon_set(obj: Object) -> list[t.Any]:
    status = obj["status"]
    names = ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled", "numberAvailable")
    selector = obj["spec"]["template"]["spec"].get("nodeSelector") or {}
    nodes = ",".join(f"{key}={value}" for key, value in selector.items()) or "<none>"
    return [obj["metadata"]["name"], *(status.get(name, 0) for name in names), nodes, _age(obj), *_images(obj)]


def _job(obj: Object) -> list[t.Any]:
    status = obj["status"]
    done = [entry["type"] for entry in status.get("conditions") or [] if entry["status"] == "True"]
    state = done[0] if done else "Running"
    took = age(status.get("startTime"))
    return [obj["metadata"]["name"], state, f"{status.get('succeeded', 0)}/{obj['spec']['completions']}", took, _age(obj)]


def _service(obj: Object) -> list[t.Any]:
    spec = obj["spec"]
    ports = []
    for port in spec.get("ports") or []:
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        ports.append(f"{port['port']}{node}/{port['protocol']}")
    selector = ",".join(f"{key}={value}" for key, value in (spec.get("selector") or {}).items()) or "<none>"
    return [obj["metadata"]["name"], spec["type"], spec.get("clusterIP", "<none>"), "<none>", ",".join(ports), _age(obj), selector]


def _event(obj: Object) -> list[t.Any]:
    about = obj["involvedObject"]
    name = f"{about.get('kind', '').lower()}/{about.get('name', '')}"
    source = (obj.get("source") or {}).get("component", "")
    return [
        age(obj.get("lastTimestamp")),
        obj.get("type", ""),
        obj.get("reason", ""),
        name,
        obj.get("message", ""),
        about.get("fieldPath", ""),
        source,
        age(obj.get("firstTimestamp")),
        obj.get("count", 1),
        obj["metadata"]["name"],
    ]


def _node(obj: Object) -> list[t.Any]:
    found = condition(obj, "Ready")
    state = "Ready" if found is not None and found["status"] == "True" else "NotReady"
    if (obj.get("spec") or {}).get("unschedulable"):
        state += ",SchedulingDisabled"
    info = obj["status"].get("nodeInfo", {})
    return [obj["metadata"]["name"], state, "<none>", _age(obj), info.get("kubeletVersion", "")]


_COLUMNS: dict[Resource, tuple[str, Row]] = {
    resources.PODS: ("Name Ready Status Restarts Age +IP +Node +Nominated-Node +Readiness-Gates", _pod),
    resources.DEPLOYMENTS: ("Name Ready Up-to-date Available Age +Containers +Images +Selector", _deployment),
    resources.REPLICA_SETS: ("Name Desired Current Ready Age +Containers +Images +Selector", _replica_set),
    resources.STATEFUL_SETS: ("Name Ready Age +Containers +Images", _stateful_set),
    resources.DAEMON_SETS: (
        "Name Desired Current Ready Up-to-date Available Node-Selector Age +Containers +Images +Selector",
        _daemon_set,
    ),
    resources.JOBS: ("Name Status Completions Duration Age", _job),
    resources.SERVICES: ("Name Type Cluster-IP External-IP Port(s) Age +Selector", _service),
    resources.EVENTS: ("Last_Seen Type Reason Object Message +Subobject +Source +First_Seen +Count +Name", _event),
    resources.NODES: ("Name Status Roles Age Version", _node),
    resources.NAMESPACES: ("Name Status Age", lambda obj: [obj["metadata"]["name"], obj["status"].get("phase", ""), _age(obj)]),
    resources.CONFIG_MAPS: ("Name Data Age", lambda obj: [obj["metadata"]["name"], len(obj.get("data") or {}), _age(obj)]),
    resources.SECRETS: (
        "Name Type Data Age",
        lambda obj: [obj["metadata"]["name"], obj.get("type", ""), len(obj.get("data") or {}), _age(obj)],
    ),
    resources.REVISIONS: (
        "Name Controller Revision Age",
        lambda obj: [obj["metadata"]["name"], obj["metadata"]["ownerReferences"][0]["name"], obj["revision"], _age(obj)],
    ),
}
_PLAIN: tuple[str, Row] = ("Name Age", lambda obj: [obj["metadata"]["name"], _age(obj)])


def table(resource: Resource, objects: list[Object], metadata: Object, include: str) -> Object:
    """A Table with one row for each object; each row carries as much of its object as asked for."""
    columns, row = _COLUMNS.get(resource, _PLAIN)
    definitions = []
    for name in columns.split():
        definitions.append(
            {
                "name": name.lstrip("+").replace("_", " "),
                "type": "string",
                "format": "name" if name == "Name" else "",
                "description": "",
                "priority": WIDE if name.startswith("+") else 0,
            }
        )
    rows = []
    for obj in objects:
        entry: Object = {"cells": row(obj)}
        if include == "Object":
            entry["object"] = obj
        elif include != "None":
            entry["object"] = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
        rows.append(entry)
    return {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": definitions, "rows": rows}
