# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which certificate an endpoint serves, and whether a client would trust it. PRIVATE to the collection.

Each look is a new connection: TCP, STARTTLS where asked, handshake with SNI, all within one deadline, however slowly the other side
trickles. The facts are taken without judging them; trust is a second handshake with verification, so an untrusted certificate is
described as well as a trusted one.
"""

from __future__ import annotations

import dataclasses
import socket
import ssl
import struct
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError, Unavailable
from ansible_collections.fileforge.ops.plugins.module_utils._tls.certificate import Certificate, can_parse, from_der, from_peercert
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline

STARTTLS = ("smtp", "postgres")
NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, which the ssl module does not name."""
_EXPIRED = (9, 10)
_POSTGRES_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_MEANING = {
    2: "the chain is not complete, or its authority is not trusted",
    18: "the certificate is signed by itself",
    19: "the chain ends in an authority that is not trusted",
    20: "the chain is not complete, or its authority is not trusted",
    21: "only the certificate itself is served, without the one that signed it, or its authority is not trusted",
}


class HandshakeFailed(OpsError):
    """The endpoint answered, but no TLS connection came about."""

    code = "handshake_failed"


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where a certificate is served."""

    host: str
    port: int = 443
    server_name: str = ""
    """Sent as SNI, and what the certificate must be for; empty means ``host``."""
    starttls: str = ""

    def __post_init__(self) -> None:
        if not self.host:
            raise InvalidOption("host", self.host, "must not be empty")
        if not 1 <= self.port <= 65535:
            raise InvalidOption("port", self.port, "not a port", hint="use a number from 1 to 65535")
        if self.starttls and self.starttls not in STARTTLS:
            raise InvalidOption("starttls", self.starttls, f"not known; known are {', '.join(STARTTLS)}")

    @property
    def name(self) -> str:
        """The name that clients ask for."""
        return self.server_name or self.host

    def __str__(self) -> str:
        text = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return f"{text} ({self.name})" if self.name != self.host else text


@dataclasses.dataclass(frozen=True)
class Served:
    """What one handshake showed."""

    leaf: Certificate
    chain: tuple[Certificate, ...] = ()
    """What was sent, the leaf first; only the leaf when this Python cannot see more (``chain_known``)."""
    chain_known: bool = False
    version: str = ""


def look(endpoint: Endpoint, timeout: float, ca_cert: str | None = None) -> Served:
    """The certificate that is served. Raises Unavailable (not reached), HandshakeFailed (no TLS).

    Without the library cryptography only a trusted certificate can be described; HandshakeFailed otherwise.
    """
    parse = can_parse()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if parse else _trusting(ca_cert)
    context.check_hostname = False
    if parse:
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # weak keys are to be described, not to be refused
    try:
        tls = _connect(endpoint, context, timeout)
    except ssl.SSLCertVerificationError as error:
        raise HandshakeFailed(
            f"{endpoint}: the certificate is not trusted ({error.verify_message}), and without the Python library cryptography "
            "an untrusted certificate cannot be described",
            hint="install it: apt-get install python3-cryptography",
        ) from error
    der = tls.getpeercert(True) or b""
    if not parse:
        return Served(from_peercert(tls.getpeercert() or {}, der), version=tls.version() or "")
    sent = _sent_chain(tls)
    leaf = from_der(der)
    return Served(leaf, tuple(from_der(item) for item in sent) or (leaf,), bool(sent), tls.version() or "")


def distrust(endpoint: Endpoint, timeout: float, ca_cert: str | None, *, dates: bool = True) -> str:
    """Why a client would not trust what is served, whatever its name; empty when it would. Raises as ``look`` does."""
    context = _trusting(ca_cert)
    if not dates:
        context.verify_flags = ssl.VerifyFlags(int(context.verify_flags) | NO_CHECK_TIME)
    try:
        _connect(endpoint, context, timeout)
    except ssl.SSLCertVerificationError as error:
        return explain(error.verify_code, error.verify_message)
    return ""


def explain(code: int, message: str) -> str:
    """OpenSSL's verdict on a chain in words."""
    if code in _EXPIRED:
        return f"a certificate of the chain is out of its dates ({message})"
    return f"{_MEANING[code]} ({message})" if code in _MEANING else message


def _trusting(ca_cert: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_cert)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidOption("ca_cert", ca_cert, f"cannot be used: {reason}", hint="give a PEM file of authorities") from error
    context.check_hostname = False
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # newer Pythons are stricter than browsers; all are to judge alike
    return context


def _connect(endpoint: Endpoint, context: ssl.SSLContext, timeout: float) -> ssl.SSLObject:
    deadline = Deadline(timeout)
    try:
        connected = socket.create_connection((endpoint.host, endpoint.port), timeout=timeout)
    except OSError as error:
        raise Unavailable(f"{endpoint}: {_reason(error)}", hint="is the server running, and is the name right?") from error
    with connected:
        try:
            wire = _Wire(connected, deadline)
            if endpoint.starttls:
                {"smtp": _smtp, "postgres": _postgres}[endpoint.starttls](endpoint, wire)
            return wire.handshake(context, endpoint.name)
        except ssl.SSLCertVerificationError:
            raise
        except ssl.SSLError as error:
            reason = getattr(error, "reason", None) or error
            raise HandshakeFailed(f"{endpoint}: no TLS: {reason}") from error
        except OSError as error:
            raise Unavailable(f"{endpoint}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    if isinstance(error, socket.timeout):
        return "no answer in time"
    return error.strerror or str(error) or type(error).__name__


class _Wire:
    """A connected socket whose every operation ends at one deadline."""

    def __init__(self, connected: socket.socket, deadline: Deadline) -> None:
        self._socket = connected
        self._deadline = deadline

    def send(self, data: bytes) -> None:
        if data:
            self._socket.settimeout(self._left())
            self._socket.sendall(data)

    def receive(self, size: int = 16384) -> bytes:
        self._socket.settimeout(self._left())
        return self._socket.recv(size)

    def _left(self) -> float:
        if not self._deadline.left:
            raise socket.timeout("deadline")
        return self._deadline.left

    def handshake(self, context: ssl.SSLContext, name: str) -> ssl.SSLObject:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                self.send(outgoing.read())
                data = self.receive()
                if not data:
                    raise ssl.SSLError(0, "the connection was closed during the handshake") from None
                incoming.write(data)
            else:
                self.send(outgoing.read())
                return tls


def _smtp(endpoint: Endpoint, wire: _Wire) -> None:
    for command, wanted in (("", "220"), ("EHLO fileforge.ops", "250"), ("STARTTLS", "220")):
        wire.send(f"{command}\r\n".encode() if command else b"")
        answer = _smtp_answer(wire)
        if not answer.startswith(wanted):
            raise HandshakeFailed(f"{endpoint}: {command or 'the greeting'} was answered with {answer[:80]!r} instead of {wanted}")


def _smtp_answer(wire: _Wire) -> str:
    """The last line of an answer of one or more lines; a byte at a time, because what follows may be TLS."""
    while True:
        line = b""
        while not line.endswith(b"\n") and len(line) < 2000:
            data = wire.receive(1)
            if not data:
                return line.decode(errors="replace")
            line += data
        if line[3:4] != b"-":
            return line.decode(errors="replace").strip()


def _postgres(endpoint: Endpoint, wire: _Wire) -> None:
    wire.send(_POSTGRES_SSL_REQUEST)
    answer = wire.receive(1)
    if answer == b"N":
        raise HandshakeFailed(f"{endpoint}: this PostgreSQL server has TLS switched off (ssl = off)")
    if answer != b"S":
        raise HandshakeFailed(f"{endpoint}: does not answer as PostgreSQL does ({answer!r})")


def _sent_chain(tls: ssl.SSLObject) -> list[bytes]:
    """DER of what was sent, the leaf first; nothing before Python 3.10, which cannot tell."""
    public = getattr(tls, "get_unverified_chain", None)
    if public is not None:
        return [bytes(item) for item in public()]
    private: t.Any = getattr(getattr(tls, "_sslobj", None), "get_unverified_chain", None)
    if private is None:
        return []
    return [ssl.PEM_cert_to_DER_cert(item.public_bytes()) for item in private() or []]
