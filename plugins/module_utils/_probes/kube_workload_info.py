# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options and result of the module of the same name. PRIVATE to the collection."""

from __future__ import annotations

import datetime
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._argspec import KUBE, merge
from ansible_collections.fileforge.ops.plugins.module_utils._checks import result_of
from ansible_collections.fileforge.ops.plugins.module_utils._kube.assessment import Assessment, Limits
from ansible_collections.fileforge.ops.plugins.module_utils._kube.client import Client, KubeOptions
from ansible_collections.fileforge.ops.plugins.module_utils._kube.inventory import PODS, gather
from ansible_collections.fileforge.ops.plugins.module_utils._kube.restarts import Samples, counters
from ansible_collections.fileforge.ops.plugins.module_utils._time import now

LIMITS: dict[str, dict[str, t.Any]] = {
    "window_hours": {"type": "float", "default": 24},
    "startup_grace": {"type": "int", "default": 120},
    "restarts_warning": {"type": "float", "default": 1},
    "restarts_critical": {"type": "float", "default": 5},
    "events_warning": {"type": "float", "default": 20},
    "cpu_warning": {"type": "float", "default": 70},
    "cpu_critical": {"type": "float", "default": 90},
    "memory_warning": {"type": "float", "default": 80},
    "memory_critical": {"type": "float", "default": 95},
}
ARGUMENTS = merge(
    KUBE,
    LIMITS,
    {
        "namespace": {"type": "str", "default": "default"},
        "selector": {"type": "str", "default": ""},
        "name": {"type": "str", "default": ""},
        "samples_file": {"type": "path"},
    },
)


def operate(params: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Look and judge."""
    limits = Limits(**{name: params[name] for name in LIMITS})
    inventory = gather(Client(KubeOptions.from_params(params)), params["namespace"], params["selector"])
    at = now()
    samples = Samples.load(params["samples_file"])
    assessment = Assessment(inventory, limits, samples, at, params["name"])
    if params["samples_file"] and not check_mode and PODS not in inventory.problems:
        counts = counters(pod for _owned, pod in inventory.owned_pods())
        samples.keep(params["samples_file"], counts, at, datetime.timedelta(hours=limits.window_hours))
    usages = sorted(assessment.usages, key=lambda usage: -(usage.percent or 0))
    return {
        "changed": False,
        "workloads": assessment.workloads(),
        "findings": [judged.as_dict() for judged in assessment.findings[:200]],
        "restarts": [one.as_dict() for one in assessment.restarts[:50]],
        "events": assessment.warnings()[:50],
        "usage": [usage.as_dict() for usage in usages[:100]],
        "unseen": {kind: problem.message for kind, problem in inventory.problems.items()},
        **result_of(assessment.checks()),
    }
