# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What containers use of what they may use and have asked for, from the metrics API. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import re
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._kube.client import Object

_QUANTITY = re.compile(r"([+-]?\d+(?:\.\d*)?|[+-]?\.\d+)(?:[eE]([+-]?\d+)|([numkKMGTPE]i?)?)")
_SUFFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60}
CPU, MEMORY = "cpu", "memory"


def quantity(text: t.Any) -> float | None:
    """The number behind ``250m``, ``64Mi``, ``1e3`` or ``2``; None for anything else."""
    match = _QUANTITY.fullmatch(str(text).strip())
    if match is None:
        return None
    number = float(match[1])
    if match[2]:
        return float(number * 10.0 ** int(match[2]))
    suffix = match[3] or ""
    factor = {**_SUFFIXES, **_BINARY, "": 1.0}.get(suffix)
    return None if factor is None else number * factor


@dataclasses.dataclass(frozen=True)
class Usage:
    """Of one container and one resource, in cores or bytes."""

    pod: str
    container: str
    resource: str
    used: float
    request: float | None
    limit: float | None

    @property
    def percent(self) -> float | None:
        """Of the limit; None without one."""
        return round(100 * self.used / self.limit, 1) if self.limit else None

    @property
    def percent_of_request(self) -> float | None:
        """Of the request; None without one."""
        return round(100 * self.used / self.request, 1) if self.request else None

    def as_dict(self) -> dict[str, t.Any]:
        """For the module's result."""
        return {**dataclasses.asdict(self), "percent": self.percent, "percent_of_request": self.percent_of_request}


def _containers(pod: Object) -> dict[str, Object]:
    spec: Object = pod["spec"]
    return {
        entry["name"]: entry.get("resources") or {} for field in ("initContainers", "containers") for entry in spec.get(field) or []
    }


def usages_of(pod: Object, metrics: Object) -> list[Usage]:
    """What the containers of one pod use."""
    bounds = _containers(pod)
    found = []
    for entry in metrics.get("containers") or []:
        given = bounds.get(entry["name"], {})
        for resource in (CPU, MEMORY):
            used = quantity((entry.get("usage") or {}).get(resource, ""))
            if used is not None:
                limit = quantity((given.get("limits") or {}).get(resource, ""))
                request = quantity((given.get("requests") or {}).get(resource, ""))
                found.append(Usage(pod["metadata"]["name"], entry["name"], resource, used, request, limit))
    return found
