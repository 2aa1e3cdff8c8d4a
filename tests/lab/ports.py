# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Free loopback ports, remembered by name so that a restarted service keeps its address."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path

FIRST, LAST = 20000, 32000  # below the range that the kernel gives to clients
_given: set[int] = set()


def is_free(port: int) -> bool:
    """Whether nothing listens on that loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port that nothing listens on and that this process has not given out yet."""
    for port in random.sample(range(FIRST, LAST), 2000):
        if port not in _given and is_free(port):
            _given.add(port)
            return port
    raise OSError("no free loopback port")


def remembered(file: Path, names: list[str]) -> dict[str, int]:
    """Ports by name from a JSON file; missing ones are chosen and written to it."""
    ports: dict[str, int] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    missing = [name for name in names if name not in ports]
    _given.update(ports.values())
    for name in missing:
        ports[name] = free_port()
    if missing:
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps(ports, indent=1, sort_keys=True), encoding="utf-8")
        fresh.replace(file)
    return {name: ports[name] for name in names}
