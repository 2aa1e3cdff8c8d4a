# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Events: written once, counted when they repeat, forgotten after an hour."""

from __future__ import annotations

import time

from . import resources
from .objects import Object, now_text, parse_time
from .store import Store

LIFETIME = 3600.0


class Recorder:
    """Records events about objects in one component's name."""

    def __init__(self, store: Store, component: str) -> None:
        self._store = store
        self._component = component

    def normal(self, about: Object, reason: str, message: str, container: str = "") -> None:
        self._record(about, "Normal", reason, message, container)

    def warning(self, about: Object, reason: str, message: str, container: str = "") -> None:
        self._record(about, "Warning", reason, message, container)

    def _record(self, about: Object, kind: str, reason: str, message: str, container: str) -> None:
        metadata = about["metadata"]
        involved: Object = {
            "kind": about["kind"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "apiVersion": about["apiVersion"],
            "resourceVersion": metadata["resourceVersion"],
        }
        if "namespace" in metadata:
            involved["namespace"] = metadata["namespace"]
        if container:
            involved["fieldPath"] = f"spec.containers{{{container}}}"
        namespace = metadata.get("namespace", "default")
        known = self._known(namespace, involved, kind, reason, message)
        if known is not None:
            self._store.update(resources.EVENTS, {**known, "count": known["count"] + 1, "lastTimestamp": now_text()})
            return
        self._store.create(
            resources.EVENTS,
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": f"{metadata['name']}.{time.time_ns():x}", "namespace": namespace},
                "involvedObject": involved,
                "type": kind,
                "reason": reason,
                "message": message,
                "source": {"component": self._component},
                "reportingComponent": self._component,
                "reportingInstance": "",
                "count": 1,
                "firstTimestamp": now_text(),
                "lastTimestamp": now_text(),
                "eventTime": None,
            },
        )

    def _known(self, namespace: str, involved: Object, kind: str, reason: str, message: str) -> Object | None:
        for event in self._store.list(resources.EVENTS, namespace):
            about = event["involvedObject"]
            if (about.get("uid"), about.get("fieldPath")) != (involved["uid"], involved.get("fieldPath")):
                continue
            if (event.get("type"), event.get("reason"), event.get("message")) == (kind, reason, message):
                return event
        return None


def forget_old(store: Store) -> None:
    """Remove events older than their lifetime."""
    limit = time.time() - LIFETIME
    for event in store.list(resources.EVENTS):
        if parse_time(event.get("lastTimestamp") or event["metadata"]["creationTimestamp"]) < limit:
            store.delete(resources.EVENTS, event)
