# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A container's command line and environment, as its spec and the cluster's objects say."""

from __future__ import annotations

import base64
import os
import re
import sys
import typing as t

from . import resources
from .objects import Object
from .store import Store

_REFERENCE = re.compile(r"\$(?:\$|\(([A-Za-z_][\w.-]*)\))")
PLACEHOLDER = "import signal, sys; print('app starting, image', sys.argv[1], 'mode ok', flush=True); signal.pause()"
"""What runs for an image without a command."""


class ConfigError(Exception):
    """Something that the container refers to does not exist."""


def expand(text: str, env: t.Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` when it is known; ``$$`` is a dollar."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return env.get(match[1], match[0])

    return _REFERENCE.sub(value, text)


def command_of(container: Object, env: t.Mapping[str, str]) -> list[str]:
    words = [*(container.get("command") or []), *(container.get("args") or [])]
    if not words:
        return [sys.executable, "-c", PLACEHOLDER, container.get("image", "")]
    return [expand(word, env) for word in words]


def environment_of(store: Store, pod: Object, container: Object, address: str, home: str) -> dict[str, str]:
    """Raises ConfigError for a missing ConfigMap, Secret or key that is not optional."""
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": home,
        "LANG": "C.UTF-8",
        "HOSTNAME": pod["metadata"]["name"],
        "POD_IP": address,
    }
    namespace = pod["metadata"]["namespace"]
    for source in container.get("envFrom") or []:
        for field, resource in (("configMapRef", resources.CONFIG_MAPS), ("secretRef", resources.SECRETS)):
            if field in source:
                data = _data(store, resource, namespace, source[field])
                env.update({source.get("prefix", "") + key: value for key, value in data.items()})
    for entry in container.get("env") or []:
        if "valueFrom" in entry:
            found = _value_from(store, pod, address, entry["valueFrom"])
            if found is not None:
                env[entry["name"]] = found
        else:
            env[entry["name"]] = expand(entry.get("value", ""), env)
    return env


def _data(store: Store, resource: resources.Resource, namespace: str, reference: Object) -> dict[str, str]:
    found = store.find(resource, namespace, reference["name"])
    if found is None:
        if reference.get("optional"):
            return {}
        raise ConfigError(f'{resource.singular} "{reference["name"]}" not found')
    data: dict[str, str] = found.get("data") or {}
    if resource is resources.SECRETS:
        return {key: base64.b64decode(value).decode() for key, value in data.items()}
    return data


def _value_from(store: Store, pod: Object, address: str, source: Object) -> str | None:
    for field, resource in (("configMapKeyRef", resources.CONFIG_MAPS), ("secretKeyRef", resources.SECRETS)):
        if field in source:
            reference = source[field]
            data = _data(store, resource, pod["metadata"]["namespace"], reference)
            if reference["key"] not in data and not reference.get("optional"):
                raise ConfigError(f"couldn't find key {reference['key']} in {resource.kind} {reference['name']}")
            return data.get(reference["key"])
    return _field(pod, address, source["fieldRef"]["fieldPath"]) if "fieldRef" in source else None


def _field(pod: Object, address: str, path: str) -> str:
    match = re.fullmatch(r"metadata\.(labels|annotations)\['([^']+)'\]", path)
    if match:
        return str((pod["metadata"].get(match[1]) or {}).get(match[2], ""))
    if path in ("status.podIP", "status.hostIP"):
        return address if path == "status.podIP" else "127.0.0.1"
    value: t.Any = pod
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, dict) else ""
    return str(value)
