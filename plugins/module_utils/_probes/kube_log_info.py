# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options and result of the module of the same name. PRIVATE to the collection."""

from __future__ import annotations

import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._argspec import KUBE, merge
from ansible_collections.fileforge.ops.plugins.module_utils._checks import result_of
from ansible_collections.fileforge.ops.plugins.module_utils._kube.client import Client, KubeOptions
from ansible_collections.fileforge.ops.plugins.module_utils._kube.log_lines import LEVEL_KEYS, LEVELS, MESSAGE_KEYS, Rules
from ansible_collections.fileforge.ops.plugins.module_utils._kube.logs import LogReader, LogRequest
from ansible_collections.fileforge.ops.plugins.module_utils._time import now

RULES: dict[str, dict[str, t.Any]] = {
    "pattern": {"type": "str"},
    "ignore_case": {"type": "bool", "default": True},
    "levels": {"type": "list", "elements": "str", "default": list(LEVELS)},
    "level_keys": {"type": "list", "elements": "str", "default": list(LEVEL_KEYS), "no_log": False},
    "message_keys": {"type": "list", "elements": "str", "default": list(MESSAGE_KEYS), "no_log": False},
}
REQUEST: dict[str, dict[str, t.Any]] = {
    "namespace": {"type": "str", "default": "default"},
    "selector": {"type": "str", "default": ""},
    "containers": {"type": "list", "elements": "str", "default": []},
    "name": {"type": "str", "default": ""},
    "since_hours": {"type": "float", "default": 24},
    "previous": {"type": "bool", "default": True},
    "max_bytes": {"type": "int", "default": 16777216},
    "parallel": {"type": "int", "default": 8},
    "timeout": {"type": "int", "default": 300},
    "groups": {"type": "int", "default": 20},
    "kept_groups": {"type": "int", "default": 500},
    "min_matches": {"type": "int", "default": 10},
    "rate_warning": {"type": "float", "default": 1},
    "rate_critical": {"type": "float", "default": 5},
    "burst_warning": {"type": "float", "default": 100},
    "burst_critical": {"type": "float", "default": 1000},
}
ARGUMENTS = merge(KUBE, RULES, REQUEST)


def _frozen(value: t.Any) -> t.Any:
    return tuple(value) if isinstance(value, list) else value


def operate(params: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Read, count and judge."""
    rules = Rules(**{name: _frozen(params[name]) for name in RULES})
    request = LogRequest(rules=rules, **{name: _frozen(params[name]) for name in REQUEST})
    reader = LogReader(Client(KubeOptions.from_params(params), connections=request.parallel), request, now())
    reader.read()
    return {"changed": False, **reader.result(), **result_of(reader.checks())}
