# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deleting: grace for pods, finalizers, and what becomes of the things that the object owned."""

from __future__ import annotations

import copy
import datetime

from . import resources
from .objects import Object, controller_of, is_terminating, now_text, time_text
from .resources import Resource
from .store import Store

FOREGROUND = "foregroundDeletion"
_DEPENDENTS = (
    resources.REPLICA_SETS,
    resources.REVISIONS,
    resources.PODS,
    resources.JOBS,
    resources.ENDPOINT_SLICES,
)


def request(store: Store, resource: Resource, obj: Object, grace: int | None = None, propagation: str = "") -> Object:
    """Do what a DELETE asks for; the object as it is afterwards."""
    if resource is resources.PODS:
        return _delete_pod(store, obj, grace)
    if resource is resources.NAMESPACES:
        obj = copy.deepcopy(obj)
        obj["metadata"].setdefault("deletionTimestamp", now_text())
        obj["status"] = {**obj.get("status", {}), "phase": "Terminating"}
        return store.update(resource, obj)
    if propagation == "Orphan":
        _orphan(store, obj["metadata"]["uid"])
    obj = copy.deepcopy(obj)
    if propagation == "Foreground":
        finalizers = obj["metadata"].setdefault("finalizers", [])
        if FOREGROUND not in finalizers:
            finalizers.append(FOREGROUND)
    if not obj["metadata"].get("finalizers"):
        return store.delete(resource, obj)
    obj["metadata"].setdefault("deletionTimestamp", now_text())
    obj["metadata"].setdefault("deletionGracePeriodSeconds", 0)
    return store.update(resource, obj)


def _delete_pod(store: Store, pod: Object, grace: int | None) -> Object:
    if grace is None:
        grace = int(pod["spec"].get("terminationGracePeriodSeconds", 30))
    if grace == 0 or not pod["spec"].get("nodeName"):
        return store.delete(resources.PODS, pod)
    metadata = pod["metadata"]
    if is_terminating(pod) and metadata["deletionGracePeriodSeconds"] <= grace:
        return pod
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=grace)
    stamps = {"deletionTimestamp": time_text(end), "deletionGracePeriodSeconds": grace}
    return store.update(resources.PODS, {**pod, "metadata": {**metadata, **stamps}})


def _orphan(store: Store, uid: str) -> None:
    for resource in _DEPENDENTS:
        for obj in store.list(resource):
            owner = controller_of(obj)
            if owner is not None and owner["uid"] == uid:
                obj = copy.deepcopy(obj)
                obj["metadata"]["ownerReferences"].remove(owner)
                store.update(resource, obj)


def collect_garbage(store: Store) -> None:
    """Delete what has lost its owner, and finish foreground deletions and namespaces."""
    alive = {obj["metadata"]["uid"]: obj for resource in resources.ALL for obj in store.list(resource)}
    awaited = set()
    for resource in _DEPENDENTS:
        for obj in store.list(resource):
            owner = controller_of(obj)
            if owner is None:
                continue
            awaited.add(owner["uid"])
            holder = alive.get(owner["uid"])
            leaving = holder is not None and FOREGROUND in (holder["metadata"].get("finalizers") or [])
            if (holder is None or leaving) and not is_terminating(obj):
                request(store, resource, obj, propagation="Foreground" if leaving else "")
    for resource in resources.ALL:
        for obj in store.list(resource):
            _finish(store, resource, obj, awaited)


def _finish(store: Store, resource: Resource, obj: Object, awaited: set[str]) -> None:
    if not is_terminating(obj):
        return
    if resource is resources.NAMESPACES:
        _empty_namespace(store, obj)
        return
    finalizers = obj["metadata"].get("finalizers") or []
    if FOREGROUND in finalizers and obj["metadata"]["uid"] not in awaited:
        obj = copy.deepcopy(obj)
        obj["metadata"]["finalizers"].remove(FOREGROUND)
        store.update(resource, obj)


def _empty_namespace(store: Store, namespace: Object) -> None:
    name = namespace["metadata"]["name"]
    left = [(resource, obj) for resource in resources.ALL if resource.namespaced for obj in store.list(resource, name)]
    for resource, obj in left:
        if not is_terminating(obj):
            request(store, resource, obj)
    if not left:
        store.delete(resources.NAMESPACES, namespace)
