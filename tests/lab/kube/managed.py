# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""metadata.managedFields, as far as clients look at it: who wrote what kind of thing last."""

from __future__ import annotations

import copy

from .objects import Object, now_text


def note(obj: Object, manager: str, operation: str, api_version: str, subresource: str = "") -> Object:
    """The object with the manager's entry renewed."""
    obj = {**obj, "metadata": dict(obj["metadata"])}
    entries: list[Object] = copy.deepcopy(obj["metadata"].get("managedFields") or [])
    entry: Object = {
        "manager": manager,
        "operation": operation,
        "apiVersion": api_version,
        "time": now_text(),
        "fieldsType": "FieldsV1",
        "fieldsV1": {},
    }
    if subresource:
        entry["subresource"] = subresource
    identity = (manager, operation, subresource)
    kept = [item for item in entries if (item["manager"], item["operation"], item.get("subresource", "")) != identity]
    obj["metadata"]["managedFields"] = [*kept, entry]
    return obj
