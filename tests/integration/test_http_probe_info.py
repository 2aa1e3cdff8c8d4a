# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Probing real servers through Ansible, also over TLS with an authority of our own."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import socket
import ssl
import threading
import typing as t
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if t.TYPE_CHECKING:
    from tests.integration.conftest import ModuleRunner

QUICK = {"probes": 3, "required": 2, "interval": 0.01, "timeout": 5, "latency_warning": 30, "latency_critical": 60}


class Healthy(http.server.BaseHTTPRequestHandler):
    """Says 503 as often as the server is told, then 200."""

    def do_GET(self) -> None:
        with self.server.lock:  # type: ignore[attr-defined]
            bad = self.server.bad > 0  # type: ignore[attr-defined]
            self.server.bad -= 1  # type: ignore[attr-defined]
        body = b'{"status": "ok"}'
        self.send_response(503 if bad else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def server() -> t.Iterator[t.Any]:
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    made.bad, made.lock = 0, threading.Lock()  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def certificate(place: Path, names: list[x509.GeneralName]) -> tuple[Path, Path]:
    """A self-signed certificate; files of certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signed = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())
    (place / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (place / "key.pem").write_bytes(private)
    return place / "cert.pem", place / "key.pem"


def test_healthy_in_check_mode_too(run_module: ModuleRunner, server: t.Any) -> None:
    arguments = {**QUICK, "name": "api", "url": f"http://127.0.0.1:{server.server_port}/health", "body_json": {"status": "ok"}}
    for check in (True, False, False):
        result = run_module("http_probe_info", arguments, check=check)
        assert (result["changed"], result["healthy"], result["good"], result["status"]) == (False, True, 3, "ok")
        assert [item["id"] for item in result["checks"]] == ["endpoint.api.health", "endpoint.api.latency"]


def test_waits_until_healthy(run_module: ModuleRunner, server: t.Any) -> None:
    server.bad = 4
    result = run_module("http_probe_info", {**QUICK, "url": f"http://127.0.0.1:{server.server_port}/", "retries_for": 60})
    assert (result["healthy"], result["made"]) == (True, 6)
    assert result["probes"][0]["status"] == 503


def test_unhealthy_is_an_answer_not_a_failure(run_module: ModuleRunner, server: t.Any) -> None:
    server.bad = 1000
    result = run_module("http_probe_info", {**QUICK, "url": f"http://127.0.0.1:{server.server_port}/"})
    assert (result["healthy"], result["status"]) == (False, "critical")
    assert "status 503 instead of 200" in result["checks"][0]["summary"]


def test_unreachable_is_critical(run_module: ModuleRunner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    result = run_module("http_probe_info", {**QUICK, "url": f"http://127.0.0.1:{port}/"})
    assert result["checks"][0]["status"] == "critical" and "refused" in result["checks"][0]["summary"]


def test_tls_is_verified_unless_told_otherwise(run_module: ModuleRunner, server: t.Any, place: Path) -> None:
    cert, key = certificate(place, [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://127.0.0.1:{server.server_port}/"
    untrusted = run_module("http_probe_info", {**QUICK, "url": url})
    assert (untrusted["healthy"], untrusted["status"]) == (False, "critical")
    assert "certificate not trusted" in untrusted["checks"][0]["summary"]
    trusted = run_module("http_probe_info", {**QUICK, "url": url, "ca_cert": str(cert)})
    assert trusted["healthy"] and trusted["tls"]["version"].startswith("TLS") and trusted["tls"]["not_after"]
    wrong_name = run_module("http_probe_info", {**QUICK, "url": url.replace("127.0.0.1", "localhost"), "ca_cert": str(cert)})
    assert not wrong_name["healthy"]
    assert run_module("http_probe_info", {**QUICK, "url": url, "validate_certs": False})["healthy"]
    missing = run_module("http_probe_info", {**QUICK, "url": url, "ca_cert": str(place / "none.pem")})
    assert missing["checks"][0]["status"] == "unknown"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"url": "gopher://x/"}, "not an http"),
        ({"url": "http://x/", "required": 9}, "required=9"),
        ({"url": "http://u:p@x/"}, "credentials"),
    ],
)
def test_invalid_options(run_module: ModuleRunner, changes: dict[str, t.Any], words: str) -> None:
    result = run_module("http_probe_info", {**QUICK, **changes}, expect_failure=True)
    assert words in result["msg"] and result["code"] == "invalid_option"
