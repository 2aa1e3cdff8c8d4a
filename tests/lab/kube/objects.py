# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small questions that everything asks of Kubernetes objects (plain dictionaries)."""

from __future__ import annotations

import datetime
import typing as t
from decimal import Decimal

Object = dict[str, t.Any]

_SUFFIXES = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
}


def now_text() -> str:
    """Now as Kubernetes writes it: whole seconds, Z."""
    return time_text(datetime.datetime.now(datetime.timezone.utc))


def time_text(value: datetime.datetime) -> str:
    return value.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> float:
    """Seconds since the epoch."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def quantity(text: t.Any) -> Decimal:
    """The number behind ``250m``, ``64Mi`` or ``2``."""
    text = str(text)
    digits = text.rstrip("numkMGTKi")
    return Decimal(digits) * _SUFFIXES[text[len(digits) :]]


def scaled(value: t.Any, total: int, *, round_up: bool) -> int:
    """An int-or-percentage of ``total``."""
    if isinstance(value, str) and value.endswith("%"):
        product = int(value[:-1]) * total
        return -(-product // 100) if round_up else product // 100
    return int(value)


def key_of(obj: Object) -> tuple[str, str]:
    """Namespace ('' when there is none) and name."""
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def condition(obj: Object, kind: str) -> Object | None:
    for entry in obj.get("status", {}).get("conditions") or []:
        if entry["type"] == kind:
            return t.cast(Object, entry)
    return None


def set_condition(conditions: list[Object], kind: str, status: str, reason: str = "", message: str = "", **extra: str) -> None:
    """Put a condition into a list; lastTransitionTime changes only when the status does."""
    new: Object = {"type": kind, "status": status, "lastTransitionTime": now_text(), **extra}
    if reason:
        new["reason"] = reason
    if message:
        new["message"] = message
    for index, old in enumerate(conditions):
        if old["type"] == kind:
            if old["status"] == status:
                new["lastTransitionTime"] = old["lastTransitionTime"]
            conditions[index] = new
            return
    conditions.append(new)


def controller_of(obj: Object) -> Object | None:
    for reference in obj["metadata"].get("ownerReferences") or []:
        if reference.get("controller"):
            return t.cast(Object, reference)
    return None


def owned_by(obj: Object, uid: str) -> bool:
    owner = controller_of(obj)
    return owner is not None and owner["uid"] == uid


def reference_to(owner: Object) -> Object:
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def is_terminating(obj: Object) -> bool:
    return "deletionTimestamp" in obj["metadata"]


def is_finished(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def is_active(pod: Object) -> bool:
    """Whether a controller counts the pod."""
    return not is_terminating(pod) and not is_finished(pod)


def is_ready(pod: Object) -> bool:
    found = condition(pod, "Ready")
    return found is not None and found["status"] == "True"


def is_available(pod: Object, min_ready_seconds: int, now: float) -> bool:
    found = condition(pod, "Ready")
    if found is None or found["status"] != "True":
        return False
    return not min_ready_seconds or parse_time(found["lastTransitionTime"]) + min_ready_seconds <= now


def pod_requests(pod_spec: Object) -> dict[str, Decimal]:
    """The sum of the containers' requests of cpu and memory."""
    total = {"cpu": Decimal(0), "memory": Decimal(0)}
    for container in pod_spec.get("containers", []):
        resources = container.get("resources") or {}
        requests = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
        for name in total:
            total[name] += quantity(requests.get(name, 0))
    return total
