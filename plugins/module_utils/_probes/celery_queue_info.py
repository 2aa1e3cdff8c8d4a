# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options and result of the module of the same name. PRIVATE to the collection."""

from __future__ import annotations

import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._argspec import REDIS, merge
from ansible_collections.fileforge.ops.plugins.module_utils._celery.broker import SEPARATOR, Layout, RedisOptions
from ansible_collections.fileforge.ops.plugins.module_utils._celery.queues import QueueOptions, examine
from ansible_collections.fileforge.ops.plugins.module_utils._checks import result_of

LAYOUT: dict[str, dict[str, t.Any]] = {
    "key_prefix": {"type": "str", "default": "", "no_log": False},
    "priority_steps": {"type": "list", "elements": "int", "default": [0, 3, 6, 9]},
    "separator": {"type": "str"},
    "control_exchange": {"type": "str", "default": "celery"},
    "event_exchange": {"type": "str", "default": "celeryev"},
}
LIMITS: dict[str, dict[str, t.Any]] = {
    "queues": {"type": "list", "elements": "str", "required": True},
    "ask_workers": {"type": "bool", "default": True},
    "expected_workers": {"type": "list", "elements": "str", "default": []},
    "minimum_workers": {"type": "int", "default": 1},
    "depth_warning": {"type": "int", "default": 100},
    "depth_critical": {"type": "int", "default": 1000},
    "age_warning": {"type": "float", "default": 300},
    "age_critical": {"type": "float", "default": 3600},
    "task_seconds": {"type": "float", "default": 1800},
    "visibility_timeout": {"type": "float", "default": 3600},
    "memory_warning": {"type": "float", "default": 80},
    "memory_critical": {"type": "float", "default": 95},
    "age_header": {"type": "str", "default": "fileforge_published_at"},
    "state_file": {"type": "path"},
}
ARGUMENTS = merge(REDIS, LAYOUT, LIMITS, {"sample_interval": {"type": "float", "default": 2.5}})


def operate(params: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Examine and return the result of the module."""
    layout = {name: params[name] for name in LAYOUT}
    layout["separator"] = SEPARATOR if params["separator"] is None else params["separator"]
    limits = {name: params[name] for name in LIMITS}
    options = QueueOptions(layout=Layout(**layout), interval=params["sample_interval"], **limits)
    report = examine(RedisOptions.from_params(params), options, remember=not check_mode)
    found = {name: getattr(report, name) for name in ("queues", "workers", "unacknowledged", "redis")}
    return {"changed": False, **found, **result_of(report.checks)}
