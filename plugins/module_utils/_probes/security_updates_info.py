# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options and result of the module of the same name. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import time
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import result_of
from ansible_collections.fileforge.ops.plugins.module_utils._host import package_manager
from ansible_collections.fileforge.ops.plugins.module_utils._host.updates import UpdateOptions, review

ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "manager": {"type": "str", "choices": ["auto", "apt", "dnf"], "default": "auto"},
    "security_warning": {"type": "int", "default": 1},
    "security_critical": {"type": "int"},
    "age_warning_days": {"type": "float", "default": 7},
    "age_critical_days": {"type": "float", "default": 30},
    "lists_warning_hours": {"type": "float", "default": 48},
    "lists_unknown_hours": {"type": "float", "default": 168},
    "history_file": {"type": "path"},
    "timeout": {"type": "float", "default": 120},
}


def operate(params: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Look and return the result of the module."""
    options = UpdateOptions(**{field.name: params[field.name] for field in dataclasses.fields(UpdateOptions)})
    options.check()
    outcome = review(options, package_manager.look(options.manager, options.timeout), time.time(), record=not check_mode)
    return {"changed": False, **outcome.as_dict(), **result_of(outcome.checks)}
