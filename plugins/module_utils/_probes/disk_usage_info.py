# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options and result of the module of the same name. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import result_of
from ansible_collections.fileforge.ops.plugins.module_utils._host import disk

ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "paths": {"type": "list", "elements": "str", "default": []},
    "required_mounts": {"type": "list", "elements": "str", "default": []},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "usage_warning": {"type": "float", "default": 0.8},
    "usage_critical": {"type": "float", "default": 0.9},
    "inodes_warning": {"type": "float", "default": 0.8},
    "inodes_critical": {"type": "float", "default": 0.9},
    "days_warning": {"type": "float", "default": 30},
    "days_critical": {"type": "float", "default": 7},
    "timeout": {"type": "float", "default": 5},
    "history_file": {"type": "path"},
    "history_days": {"type": "float", "default": 30},
}


def operate(params: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Look and return the result of the module."""
    options = disk.DiskOptions(**{field.name: params[field.name] for field in dataclasses.fields(disk.DiskOptions)})
    volumes, checks = disk.look(options, record=not check_mode)
    return {"changed": False, "volumes": [volume.as_dict() for volume in volumes], **result_of(checks)}
