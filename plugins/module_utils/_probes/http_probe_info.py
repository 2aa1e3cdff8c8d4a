# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options and result of the module of the same name. PRIVATE to the collection."""

from __future__ import annotations

import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import result_of
from ansible_collections.fileforge.ops.plugins.module_utils._http.probe import ProbeOptions, probe

ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "url": {"type": "str", "required": True},
    "name": {"type": "str"},
    "method": {"type": "str", "choices": ["GET", "HEAD", "OPTIONS"], "default": "GET"},
    "headers": {"type": "dict", "default": {}},
    "bearer_token": {"type": "str", "no_log": True},
    "probes": {"type": "int", "default": 5},
    "required": {"type": "int", "default": 3},
    "interval": {"type": "float", "default": 1},
    "timeout": {"type": "float", "default": 5},
    "retries_for": {"type": "float", "default": 0},
    "status_codes": {"type": "list", "elements": "int", "default": [200]},
    "body_regex": {"type": "str"},
    "body_json": {"type": "dict", "default": {}},
    "latency_warning": {"type": "float", "default": 0.5},
    "latency_critical": {"type": "float", "default": 1.0},
    "validate_certs": {"type": "bool", "default": True},
    "ca_cert": {"type": "path"},
}


def operate(params: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Probe and return the result of the module."""
    outcome = probe(ProbeOptions(**{name: params[name] for name in ARGUMENTS}))
    return {"changed": False, **outcome.as_dict(), **result_of(outcome.checks())}
