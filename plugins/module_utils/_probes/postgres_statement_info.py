# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options and result of the module of the same name. PRIVATE to the collection."""

from __future__ import annotations

import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._argspec import POSTGRES, merge
from ansible_collections.fileforge.ops.plugins.module_utils._checks import result_of
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.statements import MAINTENANCE, StatementOptions, examine

OWN: dict[str, dict[str, t.Any]] = {
    "databases": {"type": "list", "elements": "str", "default": []},
    "top": {"type": "int", "default": 10},
    "mean_warning": {"type": "float", "default": 250},
    "mean_critical": {"type": "float", "default": 1000},
    "minimum_calls": {"type": "int", "default": 5},
    "regression_factor": {"type": "float", "default": 2},
    "regression_calls": {"type": "int", "default": 20},
    "regression_ms": {"type": "float", "default": 1},
    "ignore_roles": {"type": "list", "elements": "str", "default": []},
    "ignore": {"type": "list", "elements": "str"},
    "tables": {"type": "bool", "default": True},
    "table_bytes": {"type": "int", "default": 67108864},
    "seq_scan_warning": {"type": "int", "default": 100},
    "hit_ratio_warning": {"type": "float", "default": 90},
    "state_file": {"type": "path"},
    "period_hours": {"type": "float", "default": 144},
    "timeout": {"type": "float", "default": 30},
}
ARGUMENTS = merge(POSTGRES, OWN)


def operate(params: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Examine and return the result of the module."""
    given = {name: params[name] for name in OWN}
    given["ignore"] = MAINTENANCE if params["ignore"] is None else params["ignore"]
    report = examine(PostgresOptions.from_params(params), StatementOptions(**given), remember=not check_mode)
    found = {name: getattr(report, name) for name in ("statements", "regressions", "tables", "window")}
    return {"changed": False, **found, **result_of(report.checks)}
