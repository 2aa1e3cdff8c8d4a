# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which TCP ports of a host answer, by connecting to each. PRIVATE to the collection."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import re
import socket
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, UNKNOWN, WARNING, Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, Unavailable

_OWN_FAULTS = (errno.ENETUNREACH, errno.ENETDOWN, errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.EPERM)
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
TELLING = 20
"""Ports that are named in a summary."""


@dataclasses.dataclass(frozen=True)
class Scan:
    """What connecting showed: ports that accepted, how many refused, and how many did not answer at all."""

    open: tuple[int, ...]
    refused: int
    silent: int


def ports_of(ranges: t.Sequence[str]) -> list[int]:
    """``["22", "8000-8002"]`` as ports in order, each once. Raises InvalidOption."""
    found: set[int] = set()
    for item in ranges:
        match = _RANGE.fullmatch(str(item).strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= 65535:
            raise InvalidOption("ports", item, "is no port and no range of ports", hint='use for example "443" or "1-1024"')
        found.update(range(first, last + 1))
    return sorted(found)


def scan(host: str, ports: t.Sequence[int], timeout: float, at_once: int) -> Scan:
    """Connect to every port, so many at the same time, and hang up. Raises Unavailable when this side cannot connect."""
    try:
        address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"{host} cannot be resolved: {error}", hint="is the name right?") from error
    return asyncio.run(_scan(address[0], str(address[4][0]), ports, timeout, at_once))


async def _scan(family: int, address: str, ports: t.Sequence[int], timeout: float, at_once: int) -> Scan:
    found: dict[str, list[int]] = {"open": [], "refused": [], "silent": []}
    waiting = iter(ports)

    async def work() -> None:
        for port in waiting:
            found[await _connect(family, address, port, timeout)].append(port)

    workers = [asyncio.ensure_future(work()) for _number in range(min(at_once, len(ports)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
    return Scan(tuple(sorted(found["open"])), len(found["refused"]), len(found["silent"]))


async def _connect(family: int, address: str, port: int, timeout: float) -> str:
    try:
        _reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port, family=family), timeout)
    except asyncio.TimeoutError:
        return "silent"
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        if error.errno in _OWN_FAULTS:
            raise Unavailable(
                f"cannot connect from here: {error.strerror}", hint="look at this host's network and limits"
            ) from error
        return "silent"
    writer.close()
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), timeout)
    return "open"


def judge(host: str, found: Scan, expected: t.Collection[int], looked: t.Collection[int], accepted: t.Collection[str]) -> Check:
    """``exposure.ports``: what is open and not expected is critical; an expected port that is not open makes the list wrong."""
    unexpected = [port for port in found.open if port not in expected and f"port:{port}" not in accepted]
    missing = [port for port in sorted(expected) if port in looked and port not in found.open]
    evidence = {
        "open": list(found.open),
        "refused": found.refused,
        "silent": found.silent,
        "unexpected": unexpected,
        "missing": missing,
    }
    total = f"{len(found.open)} of {len(looked)} ports of {host} are open"
    if unexpected:
        summary = f"{total}, unexpectedly {named(unexpected)}"
        hint = "close them or the firewall before them; what is meant to be open goes into expected_ports"
        return Check("exposure.ports", CRITICAL, summary, len(unexpected), "ports", hint=hint, evidence=evidence)
    if missing:
        summary = f"{total}; expected but not open: {named(missing)}"
        status = UNKNOWN if not found.open else WARNING
        hint = "is the service down, or a firewall between? Else take them out of expected_ports"
        return Check("exposure.ports", status, summary, 0, "ports", hint=hint, evidence=evidence)
    return Check("exposure.ports", OK, f"{total}, all of them expected", 0, "ports", evidence=evidence)


def named(ports: t.Sequence[int]) -> str:
    """Ports for people."""
    more = f" and {len(ports) - TELLING} more" if len(ports) > TELLING else ""
    return ", ".join(map(str, ports[:TELLING])) + more
