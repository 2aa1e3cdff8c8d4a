# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options and result of the module of the same name. PRIVATE to the collection."""

from __future__ import annotations

import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._argspec import PROMETHEUS, merge
from ansible_collections.fileforge.ops.plugins.module_utils._checks import result_of
from ansible_collections.fileforge.ops.plugins.module_utils._prometheus.client import PrometheusOptions
from ansible_collections.fileforge.ops.plugins.module_utils._prometheus.queries import Query, Selectors, compose, examine

QUERY: dict[str, dict[str, t.Any]] = {
    "name": {"type": "str", "required": True},
    "query": {"type": "str", "required": True},
    "warning": {"type": "float"},
    "critical": {"type": "float"},
    "unit": {"type": "str", "default": ""},
    "hint": {"type": "str", "default": ""},
    "range_seconds": {"type": "float"},
    "step_seconds": {"type": "float", "default": 60},
    "reduce": {"type": "str", "choices": ["last", "max", "min", "average"], "default": "last"},
    "absent": {"type": "str", "choices": ["ok", "warning", "unknown", "critical"], "default": "unknown"},
}
METRICS = ["api_response_seconds", "error_rate", "queue_length", "cpu_usage", "memory_usage", "disk_usage", "scrape_targets"]
ARGUMENTS = merge(
    PROMETHEUS,
    {
        "metrics": {"type": "list", "elements": "str", "default": METRICS},
        "thresholds": {"type": "dict", "default": {}},
        "application_selector": {"type": "str", "default": 'job="fileforge-backend"'},
        "node_selector": {"type": "str", "default": 'job="node"'},
        "window": {"type": "str", "default": "5m"},
        "queries": {"type": "list", "elements": "dict", "default": [], "options": QUERY},
    },
)


def operate(params: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Ask, judge and return the result of the module."""
    selectors = Selectors(params["application_selector"], params["node_selector"], params["window"])
    own = [Query(**item) for item in params["queries"]]
    queries = compose(params["metrics"], own, params["thresholds"], selectors)
    report = examine(PrometheusOptions.from_params(params), queries)
    warnings = [f"Prometheus: {note}" for note in report.notes]
    found = {"metrics": report.metrics, "api_warnings": report.notes, "warnings": warnings}
    return {"changed": False, **found, **result_of(report.checks)}
