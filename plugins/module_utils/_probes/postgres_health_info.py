# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options and result of the module of the same name. PRIVATE to the collection."""

from __future__ import annotations

import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._argspec import POSTGRES, merge
from ansible_collections.fileforge.ops.plugins.module_utils._checks import result_of
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.health import chosen, examine
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.health_look import HealthOptions, limits_from

ARGUMENTS = merge(
    POSTGRES,
    {
        "checks": {"type": "list", "elements": "str", "default": []},
        "skip": {"type": "list", "elements": "str", "default": []},
        "limits": {"type": "dict", "default": {}},
        "expected_role": {"type": "str", "choices": ["any", "primary", "standby"], "default": "any"},
        "expected_replicas": {"type": "int"},
        "require_archiving": {"type": "bool", "default": False},
        "ignore_roles": {"type": "list", "elements": "str", "default": []},
        "ignore_applications": {
            "type": "list",
            "elements": "str",
            "default": ["pg_dump", "pg_dumpall", "pg_restore", "pg_basebackup"],
        },
        "check_timeout": {"type": "float", "default": 5},
        "timeout": {"type": "float", "default": 60},
    },
)
PLAIN = (
    "expected_role",
    "expected_replicas",
    "require_archiving",
    "ignore_roles",
    "ignore_applications",
    "check_timeout",
    "timeout",
)


def operate(params: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Examine and return the result of the module."""
    probes = chosen(params["checks"], params["skip"])
    health = HealthOptions(limits=limits_from(params["limits"]), **{name: params[name] for name in PLAIN})
    report = examine(PostgresOptions.from_params(params), health, probes)
    return {"changed": False, "server": report.server, "blocking": report.blocking, **result_of(report.checks)}
