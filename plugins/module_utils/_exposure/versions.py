# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which versions of TLS an endpoint would speak, and whether it would use a weak cipher suite. PRIVATE to the collection.

A library of today refuses to speak what is to be found out, so the greeting (ClientHello) is made here: RFC 8446 section 4.1.2, and
for older versions RFC 5246 section 7.4.1.2. Each offers one version only. What comes back is an agreement (ServerHello), a refusal
(an alert, or the end of the connection) or nothing. No handshake is completed and no key is made.
"""

from __future__ import annotations

import os
import socket
import struct
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, UNKNOWN, WARNING, Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError, Unavailable
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline

VERSIONS = {"SSLv3": 0x0300, "TLSv1.0": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
"""From oldest to newest."""
WEAK = {
    0x0001: "NULL-MD5", 0x0002: "NULL-SHA", 0x003B: "NULL-SHA256", 0x0003: "EXP-RC4-MD5", 0x0008: "EXP-DES-CBC-SHA",
    0x0004: "RC4-MD5", 0x0005: "RC4-SHA", 0x0009: "DES-CBC-SHA",
    0x000A: "DES-CBC3-SHA", 0x0018: "ADH-RC4-MD5", 0x0034: "ADH-AES128-SHA",
    0xC006: "ECDHE-ECDSA-NULL-SHA", 0xC007: "ECDHE-ECDSA-RC4-SHA", 0xC008: "ECDHE-ECDSA-DES-CBC3-SHA", 0xC010: "ECDHE-RSA-NULL-SHA",
    0xC011: "ECDHE-RSA-RC4-SHA", 0xC012: "ECDHE-RSA-DES-CBC3-SHA", 0xC018: "AECDH-AES128-SHA",
}  # fmt: skip
"""Without encryption, without authentication, or with what is broken (RFC 7465, RFC 8996, RFC 9325 section 4.1)."""
USUAL = (0xC02B, 0xC02C, 0xC02F, 0xC030, 0xCCA8, 0xCCA9, 0x009C, 0x009D, 0xC009, 0xC00A, 0xC013, 0xC014, 0x002F, 0x0035, *WEAK)
NEWEST = (0x1301, 0x1302, 0x1303)
_GROUPS = (0x001D, 0x0017, 0x0018, 0x0019)
_SIGNATURES = (0x0403, 0x0503, 0x0603, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601, 0x0807, 0x0203, 0x0201)
_ALERT, _HANDSHAKE, _SERVER_HELLO = 21, 22, 2
_SUPPORTED_VERSIONS = 43


class NotTls(OpsError):
    """What answers does not speak TLS."""

    code = "not_tls"


def hello(version: int, suites: t.Sequence[int], server_name: str) -> bytes:
    """A ClientHello in its record that offers this version only."""
    newest = version >= VERSIONS["TLSv1.3"]
    extensions = b""
    if version > VERSIONS["SSLv3"]:
        if server_name and not _is_address(server_name):
            name = server_name.encode("idna")
            extensions += _extension(0, _sized(2, b"\0" + _sized(2, name)))
        extensions += (
            _extension(10, _sized(2, _shorts(_GROUPS)))
            + _extension(11, b"\x01\x00")
            + _extension(13, _sized(2, _shorts(_SIGNATURES)))
        )
    if newest:
        extensions += _extension(_SUPPORTED_VERSIONS, _sized(1, _shorts([version])))
        extensions += _extension(51, _sized(2, _shorts([0x001D]) + _sized(2, os.urandom(32))))
    body = struct.pack("!H", min(version, VERSIONS["TLSv1.2"])) + os.urandom(32) + _sized(1, os.urandom(32) if newest else b"")
    body += _sized(2, _shorts(suites)) + b"\x01\x00" + (_sized(2, extensions) if extensions else b"")
    message = b"\x01" + _sized(3, body)
    return struct.pack("!BH", _HANDSHAKE, min(version, VERSIONS["TLSv1.0"])) + _sized(2, message)


def _is_address(name: str) -> bool:
    return ":" in name or name.replace(".", "").isdigit()


def _shorts(values: t.Iterable[int]) -> bytes:
    return b"".join(struct.pack("!H", value) for value in values)


def _sized(width: int, content: bytes) -> bytes:
    return len(content).to_bytes(width, "big") + content


def _extension(kind: int, content: bytes) -> bytes:
    return struct.pack("!H", kind) + _sized(2, content)


def agreed(answer: bytes) -> tuple[int, int] | None:
    """Version and cipher suite of a ServerHello; None for a refusal. Raises NotTls for anything else."""
    if not answer or answer[0] == _ALERT:
        return None
    if answer[0] != _HANDSHAKE or len(answer) < 5 or answer[1] != 3:
        raise NotTls(f"does not speak TLS: it answers {answer[:16]!r}", hint="is the port right?")
    body = answer[5:]
    if len(body) < 39 or body[0] != _SERVER_HELLO:
        raise NotTls("answers a greeting with something else than a greeting")
    version = int.from_bytes(body[4:6], "big")
    place = 39 + body[38]
    suite = int.from_bytes(body[place : place + 2], "big")
    place += 3
    end = place + 2 + int.from_bytes(body[place : place + 2], "big")
    place += 2
    while place + 4 <= min(end, len(body)):
        kind, size = struct.unpack("!HH", body[place : place + 4])
        if kind == _SUPPORTED_VERSIONS and size == 2:
            version = int.from_bytes(body[place + 4 : place + 6], "big")
        place += 4 + size
    return version, suite


def ask(address: tuple[str, int], greeting: bytes, timeout: float) -> bytes:
    """Send it and read the first record; empty when the connection is ended instead. Raises Unavailable."""
    deadline = Deadline(timeout)
    try:
        connection = socket.create_connection(address, timeout=timeout)
    except OSError as error:
        raise Unavailable(f"{address[0]}:{address[1]}: {error.strerror or error}", hint="is the server running?") from error
    with connection:
        try:
            connection.sendall(greeting)
            return _record(connection, deadline)
        except socket.timeout as error:
            raise Unavailable(f"{address[0]}:{address[1]}: no answer to a greeting within {timeout:g} s") from error
        except OSError:
            return b""


def _record(connection: socket.socket, deadline: Deadline) -> bytes:
    answer = b""
    wanted = 5
    while len(answer) < wanted:
        connection.settimeout(max(deadline.left, 0.001))
        part = connection.recv(wanted - len(answer))
        if not part:
            break
        answer += part
        if len(answer) == 5 and answer[0] == _HANDSHAKE:
            wanted = 5 + int.from_bytes(answer[3:5], "big")
    return answer


def look(address: tuple[str, int], server_name: str, timeout: float) -> dict[str, t.Any]:
    """The versions that are spoken, and the weak suite that is taken in each of the old ones. Raises Unavailable and NotTls."""
    spoken: list[str] = []
    weak: dict[str, str] = {}
    for name, version in VERSIONS.items():
        suites = NEWEST if version >= VERSIONS["TLSv1.3"] else USUAL
        found = agreed(ask(address, hello(version, suites, server_name), timeout))
        if found is None or found[0] != version:
            continue
        spoken.append(name)
        if version < VERSIONS["TLSv1.3"]:
            bad = agreed(ask(address, hello(version, tuple(WEAK), server_name), timeout))
            if bad is not None:
                weak[name] = WEAK.get(bad[1], f"0x{bad[1]:04x}")
    return {"versions": spoken, "weak": weak}


def judge(found: t.Mapping[str, t.Any], minimum: str, accepted: t.Collection[str]) -> Check:
    """``exposure.tls``: nothing older than ``minimum`` and no weak suite."""
    oldest = VERSIONS[minimum]
    old = [name for name in found["versions"] if VERSIONS[name] < oldest and f"tls:{name}" not in accepted]
    weak = {name: suite for name, suite in found["weak"].items() if f"cipher:{suite}" not in accepted}
    spoken = f"speaks {', '.join(found['versions']) or 'no version of TLS that is known here'}"
    evidence = dict(found)
    if old:
        hint = f"allow only {minimum} and newer (nginx: ssl_protocols)"
        return Check(
            "exposure.tls", CRITICAL, f"{spoken}; {', '.join(old)} is too old", len(old), "versions", hint=hint, evidence=evidence
        )
    if weak:
        hint = "take weak cipher suites out (nginx: ssl_ciphers)"
        summary = f"{spoken}; takes a weak cipher suite: {', '.join(sorted(set(weak.values())))}"
        return Check("exposure.tls", WARNING, summary, 0, "versions", hint=hint, evidence=evidence)
    if not found["versions"]:
        return Check("exposure.tls", UNKNOWN, spoken, None, "versions", hint="look with openssl s_client", evidence=evidence)
    return Check("exposure.tls", OK, spoken, 0, "versions", evidence=evidence)
