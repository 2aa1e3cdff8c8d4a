# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options and result of the module of the same name. PRIVATE to the collection."""

from __future__ import annotations

import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import result_of
from ansible_collections.fileforge.ops.plugins.module_utils._exposure.target import Target, examine

PATH: dict[str, dict[str, t.Any]] = {
    "path": {"type": "str", "required": True},
    "pattern": {"type": "str", "required": True},
    "what": {"type": "str", "required": True},
    "status": {"type": "str", "choices": ["warning", "critical"], "default": "critical"},
}
ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "url": {"type": "str", "required": True},
    "name": {"type": "str", "default": ""},
    "address": {"type": "str", "default": ""},
    "expected_ports": {"type": "list", "elements": "int"},
    "ports": {"type": "list", "elements": "str", "default": ["1-65535"]},
    "minimum_tls": {"type": "str", "choices": ["TLSv1.2", "TLSv1.3"], "default": "TLSv1.2"},
    "paths": {"type": "list", "elements": "dict", "default": [], "options": PATH},
    "accepted": {"type": "list", "elements": "str", "default": []},
    "timeout": {"type": "float", "default": 5},
    "port_timeout": {"type": "float", "default": 1},
    "at_once": {"type": "int", "default": 400},
}


def operate(params: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Look and return the result of the module."""
    return {"changed": False, **result_of(examine(Target(**{name: params[name] for name in ARGUMENTS})))}
