# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options and result of the module of the same name. PRIVATE to the collection."""

from __future__ import annotations

import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._argspec import S3, merge
from ansible_collections.fileforge.ops.plugins.module_utils._backup.catalog import Catalog
from ansible_collections.fileforge.ops.plugins.module_utils._backup.report import Limits, Report, unknown_checks
from ansible_collections.fileforge.ops.plugins.module_utils._checks import result_of
from ansible_collections.fileforge.ops.plugins.module_utils._errors import AccessDenied, InvalidOption, NotFound, Unavailable
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import S3Options, Store
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.names import check_prefix
from ansible_collections.fileforge.ops.plugins.module_utils._time import iso, now, parse_time

ARGUMENTS = merge(
    S3,
    {
        "prefix": {"type": "str", "default": ""},
        "rpo": {"type": "int", "default": 3600},
        "max_backup_age": {"type": "int", "default": 93600},
        "max_verified_age": {"type": "int", "default": 691200},
        "min_size": {"type": "float", "default": 0.5},
        "target_time": {"type": "str"},
    },
)
NOTHING: dict[str, t.Any] = {
    "backups": [],
    "wal": [],
    "dumps": [],
    "last_verified": None,
    "restorable": [],
    "rpo_seconds": None,
    "last_transaction": None,
}


def limits_of(params: dict[str, t.Any]) -> Limits:
    """From the module's parameters. Raises InvalidOption."""
    for name in ("rpo", "max_backup_age"):
        if params[name] < 1:
            raise InvalidOption(name, params[name], "must be at least 1")
    target = parse_time(params["target_time"], "target_time") if params["target_time"] else None
    if params["max_verified_age"] < 0:
        raise InvalidOption("max_verified_age", params["max_verified_age"], "must be at least 0")
    if not 0 <= params["min_size"] <= 1:
        raise InvalidOption("min_size", params["min_size"], "must be a fraction from 0 to 1", hint="half is 0.5")
    return Limits(params["rpo"], params["max_backup_age"], target, params["max_verified_age"], params["min_size"])


def operate(params: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Read the bucket and return the result of the module."""
    limits = limits_of(params)
    prefix = check_prefix(params["prefix"])
    options = S3Options.from_params(params)
    try:
        report = Report(Catalog.load(Store(options), prefix), limits, now())
        return {
            "changed": False,
            "backups": report.backups,
            "wal": report.wal(),
            "dumps": report.dumps(),
            "last_verified": report.last_verified,
            "restorable": [item.as_dict() for item in report.restorable()],
            "rpo_seconds": report.rpo_seconds,
            "last_transaction": iso(report.last_transaction),
            **result_of(report.checks()),
        }
    except (Unavailable, AccessDenied, NotFound) as error:
        return {"changed": False, **NOTHING, **result_of(unknown_checks(error, limits))}
