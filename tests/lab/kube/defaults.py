# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server adds to an object that does not say it, and what it refuses."""

from __future__ import annotations

import re

from . import resources
from .errors import invalid
from .objects import Object
from .resources import Resource
from .selectors import matches_object

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_TEMPLATED = frozenset(
    (resources.DEPLOYMENTS, resources.REPLICA_SETS, resources.STATEFUL_SETS, resources.DAEMON_SETS, resources.JOBS)
)


def _probe(probe: Object) -> None:
    for name, value in (("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)):
        probe.setdefault(name, value)
    if "httpGet" in probe:
        probe["httpGet"].setdefault("path", "/")
        probe["httpGet"].setdefault("scheme", "HTTP")


def _container(container: Object) -> None:
    image = container.get("image", "")
    tagged = ":" in image.rpartition("/")[2] and not image.endswith(":latest")
    container.setdefault("imagePullPolicy", "IfNotPresent" if tagged else "Always")
    container.setdefault("resources", {})
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    for port in container.get("ports") or []:
        port.setdefault("protocol", "TCP")
    for name in ("readinessProbe", "livenessProbe", "startupProbe"):
        if container.get(name):
            _probe(container[name])
    for entry in container.get("env") or []:
        if "valueFrom" in entry and "fieldRef" in entry["valueFrom"]:
            entry["valueFrom"]["fieldRef"].setdefault("apiVersion", "v1")
        if "value" in entry and entry["value"] == "":
            del entry["value"]


def pod_spec(spec: Object) -> None:
    """Fill a pod's spec in place."""
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    for container in (spec.get("initContainers") or []) + (spec.get("containers") or []):
        _container(container)


def _deployment(spec: Object) -> None:
    spec.setdefault("replicas", 1)
    spec.setdefault("progressDeadlineSeconds", 600)
    spec.setdefault("revisionHistoryLimit", 10)
    strategy = spec.setdefault("strategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxSurge", "25%")
        rolling.setdefault("maxUnavailable", "25%")


def _stateful_set(spec: Object) -> None:
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("podManagementPolicy", "OrderedReady")
    spec.setdefault("serviceName", "")
    strategy = spec.setdefault("updateStrategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        strategy.setdefault("rollingUpdate", {}).setdefault("partition", 0)


def _daemon_set(spec: Object) -> None:
    spec.setdefault("revisionHistoryLimit", 10)
    strategy = spec.setdefault("updateStrategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", 1)
        rolling.setdefault("maxSurge", 0)


def _job(spec: Object) -> None:
    spec.setdefault("backoffLimit", 6)
    spec.setdefault("parallelism", 1)
    spec.setdefault("completions", 1)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)


def _service(spec: Object) -> None:
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    for port in spec.get("ports") or []:
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port["port"])


def _replica_set(spec: Object) -> None:
    spec.setdefault("replicas", 1)


_BY_RESOURCE = {
    resources.DEPLOYMENTS: _deployment,
    resources.REPLICA_SETS: _replica_set,
    resources.STATEFUL_SETS: _stateful_set,
    resources.DAEMON_SETS: _daemon_set,
    resources.JOBS: _job,
    resources.SERVICES: _service,
    resources.PODS: pod_spec,
}
_EMPTY_STATUS: dict[Resource, Object] = {
    resources.PODS: {"phase": "Pending"},
    resources.NAMESPACES: {"phase": "Active"},
    resources.REPLICA_SETS: {"replicas": 0},
    resources.STATEFUL_SETS: {"replicas": 0, "availableReplicas": 0},
    resources.DAEMON_SETS: {
        "currentNumberScheduled": 0,
        "desiredNumberScheduled": 0,
        "numberMisscheduled": 0,
        "numberReady": 0,
    },
    resources.SERVICES: {"loadBalancer": {}},
}


def complete(resource: Resource, obj: Object) -> None:
    """Fill an object in place."""
    obj["apiVersion"], obj["kind"] = resource.group_version, resource.kind
    if resource in _BY_RESOURCE and isinstance(obj.get("spec"), dict):
        _BY_RESOURCE[resource](obj["spec"])
    if resource in _TEMPLATED:
        template = obj["spec"].setdefault("template", {})
        template.setdefault("metadata", {}).setdefault("creationTimestamp", None)
        pod_spec(template.setdefault("spec", {}))
    if resource is resources.SECRETS:
        obj.setdefault("type", "Opaque")
    if resource is resources.NAMESPACES:
        obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
        obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"]["name"]


def empty_status(resource: Resource) -> Object | None:
    """The status of an object that has just been created; None for kinds without one."""
    if resource in _EMPTY_STATUS:
        return dict(_EMPTY_STATUS[resource])
    return {} if "status" in resource.subresources else None


def check(resource: Resource, obj: Object, previous: Object | None = None) -> None:
    """Raise Invalid for what a real server refuses."""
    name = obj["metadata"].get("name", "")
    if not _NAME.fullmatch(name) or len(name) > 253:
        raise invalid(resource.kind, name, "metadata.name", "a lowercase RFC 1123 subdomain must consist of [a-z0-9.-]")
    if resource in _TEMPLATED or resource is resources.PODS:
        if not isinstance(obj.get("spec"), dict):
            raise invalid(resource.kind, name, "spec", "Required value")
        spec = obj["spec"]["template"]["spec"] if resource in _TEMPLATED else obj["spec"]
        _check_containers(resource, name, spec)
    if resource in _TEMPLATED and resource is not resources.JOBS:
        _check_selector(resource, name, obj, previous)


def _check_containers(resource: Resource, name: str, spec: Object) -> None:
    containers = spec.get("containers")
    if not containers:
        raise invalid(resource.kind, name, "spec.containers", "Required value")
    names = [container.get("name") for container in containers]
    if len(set(names)) != len(names) or not all(names):
        raise invalid(resource.kind, name, "spec.containers.name", f"missing or duplicate: {names}")
    if resource is not resources.PODS and not all(container.get("image") for container in containers):
        raise invalid(resource.kind, name, "spec.template.spec.containers.image", "Required value")


def _check_selector(resource: Resource, name: str, obj: Object, previous: Object | None) -> None:
    spec = obj["spec"]
    selector = spec.get("selector")
    if not matches_object(selector, spec["template"]["metadata"].get("labels") or {}):
        raise invalid(
            resource.kind, name, "spec.template.metadata.labels", "Invalid value: `selector` does not match template `labels`"
        )
    if previous is not None and previous["spec"].get("selector") != selector:
        raise invalid(resource.kind, name, "spec.selector", "Invalid value: field is immutable")
    replicas = spec.get("replicas", 0)
    if not isinstance(replicas, int) or replicas < 0:
        raise invalid(resource.kind, name, "spec.replicas", "Invalid value: must be greater than or equal to 0")
