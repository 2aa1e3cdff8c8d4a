# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the command line and the ConfigMap kube-system/lab-controls decide."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import typing as t
from pathlib import Path

from . import resources
from .objects import Object
from .store import Store

POD_NETWORK, SERVICE_NETWORK = 64, 128
CONTROLS = ("kube-system", "lab-controls")


@dataclasses.dataclass(frozen=True)
class Settings:
    state: Path
    port: int = 0
    token_file: Path | None = None
    tls: bool = False
    run_as: str | None = None
    node: str = "lab"
    cpu: str = "8"
    memory: str = "16Gi"
    backoff: float = 1.0
    """Seconds before the second restart of a container; doubles with each."""
    backoff_limit: float = 30.0

    def addresses(self, first: int) -> t.Iterator[str]:
        """Loopback addresses of a network that depends on the state directory, so that two servers do not share any.

        ``first`` (a multiple of 64) tells pods and services apart.
        """
        number = int.from_bytes(hashlib.sha256(str(self.state).encode()).digest()[:2], "big")
        return (f"127.{first + number // 256 % 64}.{number % 256}.{host}" for host in range(1, 255))


def _controls(store: Store) -> Object:
    found = store.find(resources.CONFIG_MAPS, *CONTROLS)
    return (found or {}).get("data") or {}


def pull_problem(store: Store, image: str) -> str | None:
    """Why an image cannot be pulled: a line ``PATTERN [not-found|unauthorized|timeout]`` of the controls matches it."""
    for line in _controls(store).get("unpullableImages", "").splitlines():
        pattern, _unused, kind = line.strip().partition(" ")
        if pattern and fnmatch.fnmatchcase(image, pattern):
            return {
                "unauthorized": "pull access denied, repository does not exist or may require authorization: authorization failed",
                "timeout": "dial tcp: i/o timeout",
            }.get(kind.strip(), f"{image}: not found")
    return None


def metrics_mode(store: Store) -> str:
    """``on``, ``missing`` or ``broken``."""
    return str(_controls(store).get("metrics", "on"))
