# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renewal information and revocation, from a server of the test's own."""

from __future__ import annotations

import datetime
import http.server
import json
import threading
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils import _wait
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, Unavailable
from ansible_collections.fileforge.ops.plugins.module_utils._time import now
from ansible_collections.fileforge.ops.plugins.module_utils._tls import authority as engine
from ansible_collections.fileforge.ops.plugins.module_utils._tls import examine
from ansible_collections.fileforge.ops.plugins.module_utils._tls.certificate import Certificate, from_der
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from tests.lab.signer import Signer

DER = serialization.Encoding.DER
DAY = datetime.timedelta(days=1)
Answers = dict[str, t.Callable[[bytes], tuple[int, bytes]]]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> t.Iterator[tuple[str, Answers]]:
    """Base URL, and what each path answers."""
    monkeypatch.setattr(_wait.time, "sleep", lambda _seconds: None)
    answers: Answers = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = answers.get(self.path)
            status, content = answer(body) if answer else (404, b"")
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *args: object) -> None:
            """Stay quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer()


def leaf(signer: Signer, url: str = "") -> Certificate:
    extensions: list[tuple[x509.ExtensionType, bool]] = []
    if url:
        access = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(url))
        extensions.append((x509.AuthorityInformationAccess([access]), False))
    made = signer.leaf(ec.generate_private_key(ec.SECP256R1()).public_key(), ["a.example"], 50, extensions=extensions)
    return from_der(made.public_bytes(DER))


def offer(site: tuple[str, Answers], certificate: Certificate, start: float, end: float) -> str:
    base, answers = site
    window = {name: (now() + days * DAY).isoformat() for name, days in (("start", start), ("end", end))}
    answers["/dir"] = lambda _body: (200, json.dumps({"renewalInfo": f"{base}/ari"}).encode())
    information = {"suggestedWindow": window, "explanationURL": "https://acme.example/why"}
    answers[f"/ari/{certificate.ari_id}"] = lambda _body: (200, json.dumps(information).encode())
    return f"{base}/dir"


@pytest.mark.parametrize(("start", "end", "due", "status"), [(5, 6, False, "ok"), (-9, -8, True, "critical"), (-9, 1, None, None)])
def test_the_window(
    site: tuple[str, Answers], signer: Signer, start: float, end: float, due: bool | None, status: str | None
) -> None:
    certificate = leaf(signer)
    directory = offer(site, certificate, start, end)
    window = engine.renewal_window(certificate, directory)
    assert window is not None and window.start <= window.moment <= window.end
    assert window == engine.renewal_window(certificate, directory), "the same moment each time"
    assert window.explanation == "https://acme.example/why"
    asked = examine.Questions("a", acme_directory=directory)
    check = examine._window_check(examine.Findings(certificate), asked, "it")
    if due is not None:
        assert (window.due, check.status) == (due, status)
    else:
        assert check.status == ("warning" if window.due else "ok")


def test_moments_differ_between_certificates(site: tuple[str, Answers], signer: Signer) -> None:
    moments = set()
    start = now()
    for _number in range(5):
        certificate = leaf(signer)
        window = engine.renewal_window(certificate, offer(site, certificate, 1, 3))
        assert window is not None
        moments.add(round((window.moment - start).total_seconds(), -2))
    assert len(moments) == 5


def test_authorities_that_suggest_nothing(site: tuple[str, Answers], signer: Signer) -> None:
    base, answers = site
    certificate = leaf(signer)
    answers["/dir"] = lambda _body: (200, b"{}")
    assert engine.renewal_window(certificate, f"{base}/dir") is None
    answers["/dir"] = lambda _body: (200, json.dumps({"renewalInfo": f"{base}/ari"}).encode())
    assert engine.renewal_window(certificate, f"{base}/dir") is None, "a certificate of another authority"


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"suggestedWindow": {"start": "soon", "end": "later"}}', b"{}"])
def test_answers_that_are_no_window(site: tuple[str, Answers], signer: Signer, answer: bytes) -> None:
    certificate = leaf(signer)
    directory = offer(site, certificate, 1, 2)
    site[1][f"/ari/{certificate.ari_id}"] = lambda _body: (200, answer)
    with pytest.raises(Unavailable):
        engine.renewal_window(certificate, directory)
    check = examine._window_check(examine.Findings(certificate), examine.Questions("a", acme_directory=directory), "it")
    assert check.status == "unknown"


def test_no_authority_there(site: tuple[str, Answers], signer: Signer) -> None:
    site[1]["/dir"] = lambda _body: (503, b"")
    with pytest.raises(Unavailable, match="503"):
        engine.renewal_window(leaf(signer), f"{site[0]}/dir")
    with pytest.raises(InvalidOption):
        engine.renewal_window(leaf(signer), "file:///etc/passwd")
    with pytest.raises(InvalidOption, match="ca_cert"):
        engine.renewal_window(leaf(signer), f"{site[0]}/dir", "/no/such/file")


def respond(
    signer: Signer, certificate: Certificate, *, revoked: bool = False, forged: bool = False, delegate: bool = False, age: float = 0
) -> t.Callable[[bytes], tuple[int, bytes]]:
    def answer(body: bytes) -> tuple[int, bytes]:
        assert ocsp.load_der_ocsp_request(body).serial_number == int(certificate.serial, 16)
        key, own = signer.key, signer.intermediate
        if forged or delegate:
            key = ec.generate_private_key(ec.SECP256R1())
            usage = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False)
            own = signer.leaf(key.public_key(), [], 5, extensions=[usage] if delegate else [])
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert=x509.load_der_x509_certificate(certificate.der),
            issuer=signer.intermediate,
            algorithm=hashes.SHA1(),
            cert_status=ocsp.OCSPCertStatus.REVOKED if revoked else ocsp.OCSPCertStatus.GOOD,
            this_update=now() - (age + 1) * DAY,
            next_update=now() - (age - 1) * DAY,
            revocation_time=now() - DAY if revoked else None,
            revocation_reason=None,
        )
        builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, own).certificates([own])
        return 200, builder.sign(key, hashes.SHA256()).public_bytes(DER)

    return answer


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({}, "ok"),
        ({"delegate": True}, "ok"),
        ({"revoked": True}, "critical"),
        ({"forged": True}, "unknown"),
        ({"age": 9}, "unknown"),
    ],
)
def test_revocation(site: tuple[str, Answers], signer: Signer, how: dict[str, t.Any], status: str) -> None:
    certificate, issuer = leaf(signer, f"{site[0]}/ocsp"), from_der(signer.intermediate.public_bytes(DER))
    site[1]["/ocsp"] = respond(signer, certificate, **how)
    found = examine.Findings(certificate, (certificate, issuer), True)
    assert examine._revocation_check(found, examine.Questions("a", ocsp=True), "it").status == status


def test_no_responder_named_or_no_answer(site: tuple[str, Answers], signer: Signer) -> None:
    issuer = from_der(signer.intermediate.public_bytes(DER))
    asked = examine.Questions("a", ocsp=True)
    for certificate, status in ((leaf(signer), "ok"), (leaf(signer, f"{site[0]}/absent"), "unknown")):
        found = examine.Findings(certificate, (certificate, issuer), True)
        assert examine._revocation_check(found, asked, "it").status == status
    site[1]["/absent"] = lambda _body: (200, b"nonsense")
    named = leaf(signer, f"{site[0]}/absent")
    assert examine._revocation_check(examine.Findings(named, (named, issuer), True), asked, "it").status == "unknown"
    assert examine._revocation_check(examine.Findings(named, (named,), False), asked, "it").status == "unknown"
