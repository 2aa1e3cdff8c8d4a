# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""An authority of the tests' own: certificates of any name, age, key and chain."""

from __future__ import annotations

import datetime
import ipaddress
import typing as t
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

PEM = serialization.Encoding.PEM


class Signer:
    """An authority of the tests: a root, an intermediate, and what it signs."""

    def __init__(self, name: str = "") -> None:
        self.names = tuple(f"{name} {kind}".strip() for kind in ("root", "intermediate"))
        self.root_key, self.key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        self.root = self._sign(self.names[0], self.root_key.public_key(), self.names[0], self.root_key, days=1000, ca=True)
        self.intermediate = self._sign(self.names[1], self.key.public_key(), self.names[0], self.root_key, days=900, ca=True)

    def leaf(
        self,
        public_key: t.Any,
        names: t.Sequence[str],
        days: float,
        begin: float = -1,
        extensions: t.Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> x509.Certificate:
        """A certificate of the intermediate; ``begin`` and ``days`` from now."""
        entries: list[x509.GeneralName] = []
        for name in names:
            try:
                entries.append(x509.IPAddress(ipaddress.ip_address(name)))
            except ValueError:
                entries.append(x509.DNSName(name))
        more = [*extensions, (x509.SubjectAlternativeName(entries), False)] if entries else list(extensions)
        return self._sign(
            names[0] if names else "leaf", public_key, self.names[1], self.key, days=days, begin=begin, extensions=more
        )

    def _sign(
        self,
        subject: str,
        public_key: t.Any,
        issuer: str,
        key: t.Any,
        *,
        days: float,
        begin: float = -1,
        ca: bool = False,
        extensions: t.Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> x509.Certificate:
        def name(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer)).public_key(public_key)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now + datetime.timedelta(days=begin))
        builder = builder.not_valid_after(now + datetime.timedelta(days=days))
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
        for extension, critical in [*extensions, (identifier, False)]:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(key, hashes.SHA256())

    def write(self, place: Path, names: t.Sequence[str], days: float = 90, *, chain: bool = True, **more: t.Any) -> Path:
        """fullchain.pem (or only the leaf), privkey.pem and root.pem in a new directory."""
        place.mkdir(parents=True)
        bits = more.pop("rsa_bits", None)
        key = rsa.generate_private_key(65537, bits) if bits else ec.generate_private_key(ec.SECP256R1())
        certificates = [self.leaf(key.public_key(), names, days, **more), *([self.intermediate] if chain else [])]
        (place / "fullchain.pem").write_bytes(b"".join(item.public_bytes(PEM) for item in certificates))
        (place / "root.pem").write_bytes(self.root.public_bytes(PEM))
        private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (place / "privkey.pem").write_bytes(private)
        return place
