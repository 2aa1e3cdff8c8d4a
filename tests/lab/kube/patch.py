# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The four ways to patch an object: strategic merge, JSON merge (RFC 7396), JSON patch (RFC 6902) and apply."""

from __future__ import annotations

import copy
import typing as t

from .errors import ApiError, bad_request
from .objects import Object

MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey",),
    "conditions": ("type",),
    "containerStatuses": ("name",),
    "ownerReferences": ("uid",),
    "ports": ("containerPort", "port"),
    "taints": ("key",),
    "addresses": ("type",),
}
"""The merge key of lists of objects, by the list's field name (the first key that the items have)."""
PRIMITIVE_SETS = frozenset({"finalizers", "podCIDRs"})


def strategic_merge(original: t.Any, patch: t.Any, field: str = "") -> t.Any:
    """Strategic merge patch, with ``$patch``, ``$setElementOrder``, ``$deleteFromPrimitiveList`` and ``$retainKeys``."""
    if isinstance(patch, dict):
        return _merge_map(original if isinstance(original, dict) else {}, patch)
    if isinstance(patch, list) and isinstance(original, list) and field in PRIMITIVE_SETS:
        return original + [item for item in patch if item not in original]
    key = _merge_key(field, patch) if isinstance(patch, list) else None
    if key is not None:
        return _merge_list(original if isinstance(original, list) else [], patch, key)
    return copy.deepcopy(patch)


def _merge_map(original: Object, patch: Object) -> Object:
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != "$patch"}
    if directive == "delete":
        return {}
    result = dict(original)
    if "$retainKeys" in patch:
        result = {key: value for key, value in result.items() if key in patch["$retainKeys"]}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            result[name] = [item for item in result.get(name) or [] if item not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = strategic_merge(result.get(key), value, key)
    for key, order in patch.items():
        if key.startswith("$setElementOrder/"):
            _reorder(result, key.partition("/")[2], order)
    return result


def _merge_key(field: str, items: list[t.Any]) -> str | None:
    if field not in MERGE_KEYS or not all(isinstance(item, dict) for item in items):
        return None
    for key in MERGE_KEYS[field]:
        if any(key in item for item in items):
            return key
    return MERGE_KEYS[field][0]


def _merge_list(original: list[t.Any], patch: list[Object], key: str) -> list[t.Any]:
    if any(item.get("$patch") == "replace" for item in patch):
        return [copy.deepcopy(item) for item in patch if "$patch" not in item]
    result = list(original)
    for item in patch:
        if key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        place = next((index for index, old in enumerate(result) if old.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            if place is not None:
                result.pop(place)
        elif place is None:
            result.append(strategic_merge({}, item))
        else:
            result[place] = strategic_merge(result[place], item)
    return result


def _reorder(result: Object, field: str, order: list[t.Any]) -> None:
    items = result.get(field)
    if not items:
        return
    key = _merge_key(field, order)
    wanted = [item[key] if key else item for item in order]

    def position(item: t.Any) -> int:
        name = item.get(key) if key else item
        return wanted.index(name) if name in wanted else len(wanted)

    result[field] = sorted(items, key=position)


def json_merge(original: t.Any, patch: t.Any) -> t.Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(original) if isinstance(original, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = json_merge(result.get(key), value)
    return result


def _invalid(message: str) -> ApiError:
    return ApiError(422, "Invalid", f"the server rejected our request due to an error in our request: {message}")


def _index(container: list[t.Any], token: str, *, end: bool = False) -> int:
    if end and token == "-":
        return len(container)
    if not token.isdigit() or int(token) > len(container) - (not end):
        raise _invalid(f"invalid index {token}")
    return int(token)


def _locate(document: t.Any, pointer: str) -> tuple[t.Any, str]:
    """The container that holds what an RFC 6901 pointer names, and the last token."""
    if not pointer.startswith("/"):
        raise _invalid(f"invalid pointer {pointer!r}")
    tokens = [token.replace("~1", "/").replace("~0", "~") for token in pointer[1:].split("/")]
    for token in tokens[:-1]:
        document = _read(document, token)
    return document, tokens[-1]


def _read(container: t.Any, token: str) -> t.Any:
    if isinstance(container, list):
        return container[_index(container, token)]
    if not isinstance(container, dict) or token not in container:
        raise _invalid(f"nothing at {token!r}")
    return container[token]


def _add(container: t.Any, token: str, value: t.Any) -> None:
    if isinstance(container, list):
        container.insert(_index(container, token, end=True), value)
    elif isinstance(container, dict):
        container[token] = value
    else:
        raise _invalid(f"cannot add {token!r} to a value")


def _remove(container: t.Any, token: str) -> t.Any:
    value = _read(container, token)
    if isinstance(container, list):
        container.pop(int(token))
    else:
        del container[token]
    return value


def json_patch(original: Object, operations: t.Any) -> Object:
    """RFC 6902: add, remove, replace, move, copy, test; all or nothing."""
    if not isinstance(operations, list):
        raise bad_request("a JSON patch is a list of operations")
    document = copy.deepcopy(original)
    for operation in operations:
        container, token = _locate(document, operation["path"])
        name = operation["op"]
        if name == "test":
            if _read(container, token) != operation.get("value"):
                raise _invalid(f"testing value {operation['path']} failed")
            continue
        if name in ("remove", "replace"):
            _remove(container, token)
        if name == "remove":
            continue
        value = copy.deepcopy(operation.get("value"))
        if name == "move":
            value = _remove(*_locate(document, operation["from"]))
        elif name == "copy":
            value = copy.deepcopy(_read(*_locate(document, operation["from"])))
        elif name not in ("add", "replace"):
            raise _invalid(f"unknown operation {name!r}")
        _add(container, token, value)
    return document
