# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pods as targets for Prometheus, in the form of its HTTP discovery: the distribution builds it without Kubernetes' own."""

from __future__ import annotations

import typing as t

from . import resources
from .store import Store

PATH = "/lab/prometheus-targets"


def targets(store: Store) -> list[dict[str, t.Any]]:
    """Every running pod that has a port, with the labels that a query needs."""
    found = []
    for pod in store.list(resources.PODS):
        address, metadata = pod["status"].get("podIP"), pod["metadata"]
        ports = [port["containerPort"] for container in pod["spec"]["containers"] for port in container.get("ports") or []]
        if pod["status"].get("phase") != "Running" or not address or not ports or "deletionTimestamp" in metadata:
            continue
        labels = {"pod": metadata["name"], "namespace": metadata["namespace"], "job": (metadata.get("labels") or {}).get("app", "")}
        found.append({"targets": [f"{address}:{port}" for port in ports], "labels": labels})
    return found
