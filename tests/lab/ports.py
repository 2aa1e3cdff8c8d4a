# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Free loopback ports, remembered by name so that a restarted service keeps its address."""

from __future__ import annotations

import fcntl
import json
import os
import random
import socket
import tempfile
import time
from pathlib import Path

FIRST, LAST = 20000, 32000  # below the range that the kernel gives to clients
CLAIMED_SECONDS = 1800.0
"""For so long a port that was given out is given to nobody else: its service may start late, or be down in a test."""
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


def claim(port: int) -> bool:
    """Take a port for this process; False when another process of this user has taken it lately."""
    registry = Path(tempfile.gettempdir()) / f"fileforge-ports-{os.geteuid()}.json"
    with os.fdopen(os.open(registry, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        now = time.time()
        try:
            claims = {name: at for name, at in json.load(stream).items() if 0 <= now - at < CLAIMED_SECONDS}
        except ValueError:  # new, or its writer was killed
            claims = {}
        if str(port) in claims:
            return False
        stream.seek(0)
        stream.truncate()
        json.dump({**claims, str(port): now}, stream)
    return True


def free_port() -> int:
    """A port that nothing listens on and that nobody has been given lately."""
    for port in random.sample(range(FIRST, LAST), 2000):
        if port not in _given and is_free(port) and claim(port):
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
