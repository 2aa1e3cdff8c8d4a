# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a certificate says, and which names it is for."""

from __future__ import annotations

import datetime
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, MissingLibrary
from ansible_collections.fileforge.ops.plugins.module_utils._time import now
from ansible_collections.fileforge.ops.plugins.module_utils._tls import certificate as engine
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import AuthorityInformationAccessOID
from hypothesis import given
from hypothesis import strategies as st

from tests.lab.signer import PEM, Signer

LABEL = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
HOST = st.lists(LABEL, min_size=2, max_size=5).map(lambda labels: ".".join([*labels, "org"]))


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer()


def read(place: Path) -> list[engine.Certificate]:
    return engine.from_pem((place / "fullchain.pem").read_text(), "fullchain.pem")


@given(HOST)
def test_a_name_matches_itself_in_any_case_and_nothing_longer_or_shorter(host: str) -> None:
    assert engine.matches(host, host)
    assert engine.matches(host.upper(), host + ".")
    assert not engine.matches(host, f"x.{host}")
    assert not engine.matches(host, host.split(".", 1)[1])


@given(HOST, LABEL)
def test_a_wildcard_stands_for_exactly_one_label(host: str, label: str) -> None:
    assert engine.matches(f"*.{host}", f"{label}.{host}")
    assert not engine.matches(f"*.{host}", host)
    assert not engine.matches(f"*.{host}", f"x.{label}.{host}")
    assert not engine.matches(f"a*.{host}", f"ab.{host}")


@pytest.mark.parametrize(
    ("pattern", "name", "same"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("2001:db8::1", "2001:0db8:0::1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("*.0.0.1", "127.0.0.1", False),
        ("*.org", "example.org", False),
        ("xn--bcher-kva.example", "bücher.example", True),
        ("example.org", "", False),
    ],
)
def test_addresses_and_odd_names(pattern: str, name: str, same: bool) -> None:
    assert engine.matches(pattern, name) is same


def test_facts(signer: Signer, tmp_path: Path) -> None:
    access = x509.AuthorityInformationAccess(
        [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier("http://ocsp.example/"))]
    )
    staple = x509.TLSFeature([x509.TLSFeatureType.status_request])
    place = signer.write(tmp_path / "a", ["a.example", "10.0.0.1"], days=12, extensions=[(access, False), (staple, False)])
    leaf, intermediate = read(place)
    assert leaf.names == ("a.example", "10.0.0.1")
    assert (leaf.subject, leaf.issuer, intermediate.subject) == ("CN=a.example", "CN=intermediate", "CN=intermediate")
    assert leaf.days_left == pytest.approx(12, abs=0.02)
    assert leaf.not_after.utcoffset() == datetime.timedelta(0)
    assert leaf.key_type == "ECDSA secp256r1"
    assert (leaf.ocsp_urls, leaf.must_staple) == (("http://ocsp.example/",), True)
    assert leaf.valid_now and leaf.covers("10.0.0.1") and not leaf.covers("leaf")
    assert intermediate.must_staple is False and intermediate.ocsp_urls == ()
    with (place / "privkey.pem").open("rb") as stream:
        key = stream.read()
    assert engine.key_matches(leaf, key)
    assert not engine.key_matches(intermediate, key)
    with pytest.raises(IntegrityError, match="cannot be read"):
        engine.key_matches(leaf, b"nonsense")


def test_keys_of_other_types(signer: Signer, tmp_path: Path) -> None:
    leaf = read(signer.write(tmp_path / "a", ["a.example"], rsa_bits=1024))[0]
    assert (leaf.key_type, leaf.key_bits) == ("RSA 1024", 1024)
    made = signer.leaf(ed25519.Ed25519PrivateKey.generate().public_key(), [], 5)
    [edwards] = engine.from_pem(made.public_bytes(PEM).decode(), "x")
    assert (edwards.key_type, edwards.names) == ("Ed25519", ())


def test_the_common_name_is_no_name(signer: Signer) -> None:
    [made] = engine.from_pem(signer.root.public_bytes(PEM).decode(), "x")
    assert made.subject == "CN=root" and not made.covers("root")


def test_dates_without_an_offset_are_utc() -> None:
    """The distribution's library gives naive dates and knows no others."""

    class Old:
        not_valid_after = datetime.datetime(2026, 3, 1, 12, 0, 0)

    assert engine._date(Old(), "not_valid_after") == datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.timezone.utc)


def test_ari_id_is_the_one_of_the_standards_example() -> None:
    class Authority:
        key_identifier = bytes.fromhex("69885B6B87464041E1B37B847BA0AE2CDE01C8D4")

    assert engine._ari_id(Authority(), 0x87654321) == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"
    assert engine._ari_id(None, 5) == ""


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not a file of ours"])
def test_what_is_no_certificate(text: str) -> None:
    with pytest.raises(IntegrityError, match=r"some\.pem"):
        engine.from_pem(text, "some.pem")


def test_what_ssl_tells_is_the_same(signer: Signer, tmp_path: Path) -> None:
    leaf = read(signer.write(tmp_path / "a", ["a.example"], days=9))[0]
    stamp = "%b %d %H:%M:%S %Y GMT"
    peer: dict[str, t.Any] = {
        "subject": ((("commonName", "a.example"),),),
        "issuer": ((("commonName", "intermediate"),),),
        "notBefore": leaf.not_before.strftime(stamp),
        "notAfter": leaf.not_after.strftime(stamp),
        "subjectAltName": (("DNS", "a.example"),),
        "serialNumber": f"0{leaf.serial.upper()}",
    }
    told = engine.from_peercert(peer, leaf.der)
    for field in ("names", "not_before", "not_after", "serial", "fingerprint"):
        assert getattr(told, field) == getattr(leaf, field)
    assert (told.key_type, told.ari_id) == ("", "")
    assert told.not_after > now()


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, package: str) -> None:
        raise MissingLibrary(f"{name} is not installed", hint=f"apt-get install python3-{package}")

    monkeypatch.setattr(engine, "require_library", absent)
    assert engine.can_parse() is False
    with pytest.raises(MissingLibrary) as caught:
        engine.from_pem("x", "y")
    assert caught.value.hint == "apt-get install python3-cryptography"
