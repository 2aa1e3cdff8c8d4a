# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a certificate says: names, dates, key, where to ask about it. PRIVATE to the collection.

Everything is parsed by the Python library cryptography. Without it, only what the ssl module tells about a certificate that it
trusts is known (``from_peercert``).
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import ipaddress
import re
import ssl
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, MissingLibrary
from ansible_collections.fileforge.ops.plugins.module_utils._module import require_library
from ansible_collections.fileforge.ops.plugins.module_utils._time import UTC, iso, now

_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
PACKAGE = "cryptography"


@dataclasses.dataclass(frozen=True)
class Certificate:
    """The facts of one certificate."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    """DNS names and IP addresses that it is for; the common name does not count."""
    not_before: datetime.datetime
    not_after: datetime.datetime
    serial: str
    fingerprint: str
    """SHA-256 of the whole certificate, in hexadecimal."""
    key_type: str = ""
    """``RSA 2048``, ``ECDSA secp256r1``, ``Ed25519``; empty when it could not be seen."""
    key_bits: int = 0
    ocsp_urls: tuple[str, ...] = ()
    must_staple: bool = False
    ari_id: str = ""
    """Its name at the authority's renewal information, empty when it has none."""
    der: bytes = dataclasses.field(default=b"", repr=False)

    @property
    def days_left(self) -> float:
        """Days until it ends; negative afterwards."""
        return round((self.not_after - now()).total_seconds() / 86400, 2)

    @property
    def valid_now(self) -> bool:
        """Whether today is within its dates."""
        return self.not_before <= now() < self.not_after

    def covers(self, name: str) -> bool:
        """Whether it is for this host name or address."""
        return any(matches(pattern, name) for pattern in self.names)

    def lacks(self, wanted: t.Iterable[str]) -> list[str]:
        """Those of the names that it does not have, word for word but for case: an authority writes them as it likes."""
        own = {name.casefold() for name in self.names}
        return [name for name in wanted if name.casefold() not in own]

    def has_exactly(self, wanted: t.Iterable[str]) -> bool:
        """Whether these are its names, in any order and case."""
        return {name.casefold() for name in self.names} == {name.casefold() for name in wanted}

    def as_dict(self) -> dict[str, t.Any]:
        """For a module's result."""
        return {
            "subject": self.subject,
            "issuer": self.issuer,
            "names": list(self.names),
            "not_before": iso(self.not_before),
            "not_after": iso(self.not_after),
            "days_left": self.days_left,
            "serial": self.serial,
            "fingerprint": self.fingerprint,
            "key_type": self.key_type,
            "ocsp_urls": list(self.ocsp_urls),
            "must_staple": self.must_staple,
        }


def matches(pattern: str, name: str) -> bool:
    """Whether a name in a certificate is this name: a wildcard stands for one whole first label, never for an address."""
    try:
        return ipaddress.ip_address(pattern) == ipaddress.ip_address(name)
    except ValueError:
        pass
    if _is_address(name) or _is_address(pattern):
        return False
    have, want = _labels(pattern), _labels(name)
    if len(have) != len(want) or not all(want):
        return False
    if have[0] == "*":
        return len(have) > 2 and have[1:] == want[1:]
    return have == want


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _labels(name: str) -> list[str]:
    try:
        name = name.encode("idna").decode() if not name.isascii() else name
    except UnicodeError:
        return []
    return name.lower().rstrip(".").split(".")


def can_parse() -> bool:
    """Whether the library that reads certificates is there."""
    try:
        require_library(PACKAGE, PACKAGE)
    except MissingLibrary:
        return False
    return True


def from_der(der: bytes) -> Certificate:
    """Everything about one certificate; raises MissingLibrary, and IntegrityError when it is none."""
    x509 = _x509()
    try:
        parsed = x509.load_der_x509_certificate(der)
        return _facts(x509, parsed, der)
    except ValueError as error:
        raise IntegrityError(f"not a certificate: {error}") from error


def from_pem(text: str, where: str) -> list[Certificate]:
    """All certificates of a PEM file in their order; raises IntegrityError when there is none, or a broken one."""
    _x509()
    blocks = _BLOCK.findall(text)
    if not blocks:
        raise IntegrityError(f"{where} holds no PEM certificate", hint="a certificate begins with -----BEGIN CERTIFICATE-----")
    found = []
    for number, block in enumerate(blocks, 1):
        try:
            found.append(from_der(ssl.PEM_cert_to_DER_cert(block)))
        except (IntegrityError, ValueError) as error:
            raise IntegrityError(f"{where}: certificate {number} cannot be read: {error}") from error
    return found


def from_peercert(peer: t.Mapping[str, t.Any], der: bytes) -> Certificate:
    """What the ssl module itself tells about a certificate that it trusts: no key, no extensions but the names."""

    def end(field: str) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(ssl.cert_time_to_seconds(str(peer[field])), UTC)

    def text(field: str) -> str:
        return ",".join(f"{key}={value}" for part in peer.get(field, ()) for key, value in part)

    return Certificate(
        subject=text("subject"),
        issuer=text("issuer"),
        names=tuple(str(value) for _kind, value in peer.get("subjectAltName", ())),
        not_before=end("notBefore"),
        not_after=end("notAfter"),
        serial=str(peer.get("serialNumber", "")).lower().lstrip("0"),
        fingerprint=hashlib.sha256(der).hexdigest(),
        der=der,
    )


def key_matches(certificate: Certificate, private_key: bytes) -> bool:
    """Whether an unencrypted PEM key is the one of the certificate; raises IntegrityError when it cannot be read."""
    serialization = require_library("cryptography.hazmat.primitives.serialization", PACKAGE)
    try:
        key = serialization.load_pem_private_key(private_key, password=None)
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"the private key cannot be read: {error}") from error
    shape = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    public = _x509().load_der_x509_certificate(certificate.der).public_key()
    return bool(key.public_key().public_bytes(*shape) == public.public_bytes(*shape))


def _x509() -> t.Any:
    return require_library("cryptography.x509", PACKAGE)


def _facts(x509: t.Any, parsed: t.Any, der: bytes) -> Certificate:
    key_type, key_bits = _key(parsed.public_key())
    extensions = {extension.oid.dotted_string: extension.value for extension in parsed.extensions}
    return Certificate(
        subject=parsed.subject.rfc4514_string(),
        issuer=parsed.issuer.rfc4514_string(),
        names=_names(x509, extensions.get("2.5.29.17")),
        not_before=_date(parsed, "not_valid_before"),
        not_after=_date(parsed, "not_valid_after"),
        serial=f"{parsed.serial_number:x}",
        fingerprint=hashlib.sha256(der).hexdigest(),
        key_type=key_type,
        key_bits=key_bits,
        ocsp_urls=_ocsp_urls(extensions.get("1.3.6.1.5.5.7.1.1")),
        must_staple=any(int(feature.value) == 5 for feature in extensions.get("1.3.6.1.5.5.7.1.24", ())),
        ari_id=_ari_id(extensions.get("2.5.29.35"), parsed.serial_number),
        der=der,
    )


def _date(parsed: t.Any, field: str) -> datetime.datetime:
    """Since version 42 of the library the dates have an offset, under another name."""
    value = getattr(parsed, f"{field}_utc", None)
    found: datetime.datetime = value if value is not None else getattr(parsed, field).replace(tzinfo=UTC)
    return found


def _names(x509: t.Any, alternatives: t.Any) -> tuple[str, ...]:
    if alternatives is None:
        return ()
    hosts = [str(name) for name in alternatives.get_values_for_type(x509.DNSName)]
    return tuple(hosts + [str(address) for address in alternatives.get_values_for_type(x509.IPAddress)])


def _ocsp_urls(access: t.Any) -> tuple[str, ...]:
    found = [item for item in access or () if item.access_method.dotted_string == "1.3.6.1.5.5.7.48.1"]
    return tuple(str(item.access_location.value) for item in found)


def _ari_id(authority_key: t.Any, serial: int) -> str:
    """RFC 9773: the authority's key identifier and the DER bytes of the serial number."""
    if authority_key is None or authority_key.key_identifier is None:
        return ""
    number = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (authority_key.key_identifier, number))


def _key(key: t.Any) -> tuple[str, int]:
    bits = int(getattr(key, "key_size", 0))
    curve = getattr(key, "curve", None)
    if curve is not None:
        return f"ECDSA {curve.name}", bits
    kind = type(key).__name__.replace("PublicKey", "").lstrip("_")
    return (f"{kind} {bits}", bits) if bits else (kind, 0)
