# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Making objects: names, defaults, validation, quota. Requests and controllers both come through here."""

from __future__ import annotations

import base64
import copy
import secrets
from decimal import Decimal

from . import defaults, errors, resources
from .objects import Object, is_finished, pod_requests, quantity
from .resources import Resource
from .store import Store

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def random_suffix(length: int = 5) -> str:
    return "".join(secrets.choice(_ALPHABET) for _unused in range(length))


def prepare(store: Store, resource: Resource, namespace: str, obj: Object) -> Object:
    """The object as it would be stored; raises what a real server refuses it with."""
    obj = copy.deepcopy(obj)
    metadata = obj.setdefault("metadata", {})
    for name in ("uid", "resourceVersion", "creationTimestamp", "generation", "selfLink", "deletionTimestamp"):
        metadata.pop(name, None)
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = f"{metadata['generateName']}{random_suffix()}"
    if resource.namespaced:
        if metadata.setdefault("namespace", namespace) != namespace:
            raise errors.bad_request(
                f"the namespace of the provided object does not match the namespace sent on the request ({namespace})"
            )
        _require_namespace(store, resource, namespace, metadata.get("name", ""))
    else:
        metadata.pop("namespace", None)
    defaults.complete(resource, obj)
    status = defaults.empty_status(resource)
    if status is not None and resource is not resources.NODES:
        obj["status"] = status
    defaults.check(resource, obj)
    if resource is resources.PODS:
        _require_quota(store, obj)
    if resource is resources.SECRETS:
        _encode_strings(obj)
    return obj


def create(store: Store, resource: Resource, namespace: str, obj: Object) -> Object:
    return store.create(resource, prepare(store, resource, namespace, obj))


def _require_namespace(store: Store, resource: Resource, namespace: str, name: str) -> None:
    found = store.get(resources.NAMESPACES, "", namespace)
    if found["status"].get("phase") == "Terminating":
        raise errors.forbidden(
            resource.qualified,
            name,
            f"unable to create new content in namespace {namespace} because it is being terminated",
        )


def _encode_strings(secret: Object) -> None:
    for key, value in (secret.pop("stringData", None) or {}).items():
        secret.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()


def quota_usage(store: Store, namespace: str) -> dict[str, Decimal]:
    """What the pods of a namespace use, by the names that a quota limits."""
    used = {"pods": Decimal(0), "requests.cpu": Decimal(0), "requests.memory": Decimal(0)}
    for pod in store.list(resources.PODS, namespace):
        if not is_finished(pod):
            _add(used, _demand(pod))
    return used


def _add(total: dict[str, Decimal], more: dict[str, Decimal]) -> None:
    for name, value in more.items():
        total[name] += value


def _demand(pod: Object) -> dict[str, Decimal]:
    requests = pod_requests(pod["spec"])
    return {"pods": Decimal(1), "requests.cpu": requests["cpu"], "requests.memory": requests["memory"]}


def _require_quota(store: Store, pod: Object) -> None:
    namespace = pod["metadata"]["namespace"]
    demand = _demand(pod)
    for quota in store.list(resources.QUOTAS, namespace):
        used = quota_usage(store, namespace)
        hard = quota.get("spec", {}).get("hard") or {}
        for short, name in (("cpu", "requests.cpu"), ("memory", "requests.memory")):
            if short in hard:
                hard = {**hard, name: hard[short]}
        for name in used:
            if name in hard and used[name] + demand[name] > quantity(hard[name]):
                why = f"exceeded quota: {quota['metadata']['name']}, requested: {name}={demand[name]}, "
                why += f"used: {name}={used[name]}, limited: {name}={hard[name]}"
                raise errors.forbidden("pods", pod["metadata"]["name"], why)
