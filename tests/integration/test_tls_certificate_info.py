# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates that nginx and PostgreSQL really serve, through Ansible, also where the library is missing."""

from __future__ import annotations

import shutil
import socket
import subprocess
import typing as t
from pathlib import Path

import pytest

from tests.integration.acme import fingerprint
from tests.lab.daemon import wait_until
from tests.lab.place import give
from tests.lab.signer import Signer
from tests.lab.tls import NAME, WebServer

if t.TYPE_CHECKING:
    from tests.integration.conftest import ModuleRunner, PostgresFactory

DISTRIBUTION = "/usr/bin/python3"


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer()


@pytest.fixture(scope="module")
def web(session_place: Path, signer: Signer) -> t.Iterator[WebServer]:
    """nginx with a certificate that ends in 20 days."""
    server = WebServer(session_place / "served")
    signer.write(server.paths.root / "good", [NAME], days=20)
    server.paths.link.symlink_to(server.paths.root / "good")
    try:
        yield server.start()
    finally:
        server.stop()


def asked(web: WebServer, **changes: t.Any) -> dict[str, t.Any]:
    root = str(web.paths.root / "good" / "root.pem")
    return {"host": "127.0.0.1", "port": web.paths.ports["https"], "server_name": NAME, "ca_cert": root, **changes}


def statuses(result: dict[str, t.Any]) -> dict[str, str]:
    return {check["id"].rsplit(".", 1)[1]: check["status"] for check in result["checks"]}


def test_served(run_module: ModuleRunner, web: WebServer) -> None:
    """The same in check mode, by this Python and by the distribution's with its older library."""
    results = [
        run_module("tls_certificate_info", asked(web, name="api"), check=check, interpreter=interpreter)
        for check, interpreter in ((True, DISTRIBUTION), (False, DISTRIBUTION))
    ]
    for result in results:
        assert statuses(result) == {"presented": "ok", "expiry": "warning", "hostname": "ok", "key": "ok", "chain": "ok"}
        assert (result["changed"], result["status"], result["name"]) == (False, "warning", "api")
        assert result["certificate"]["fingerprint"] == fingerprint(web.paths.link / "fullchain.pem")
        assert [item["subject"] for item in result["chain"]] == [f"CN={NAME}", "CN=intermediate"]
    [expiry] = [check for check in results[0]["checks"] if check["id"] == "certificate.api.expiry"]
    assert 19.9 < expiry["value"] < 20.1 and "cert-renewal.yml" in expiry["hint"]


def test_what_the_script_reads_is_nothing(web: WebServer, run_module: ModuleRunner) -> None:
    """openssl writes notAfter=, which `grep "Not After"` does not find; its fourth word would be the year. Here it is days."""
    port = web.paths.ports["https"]
    shown = subprocess.run(
        ["openssl", "s_client", "-servername", NAME, "-connect", f"127.0.0.1:{port}"],
        input=b"",
        capture_output=True,
        timeout=30,
        check=False,
    )
    dates = subprocess.run(["openssl", "x509", "-noout", "-dates"], input=shown.stdout, capture_output=True, timeout=30, check=True)
    assert b"notAfter=" in dates.stdout
    assert [line for line in dates.stdout.splitlines() if b"Not After" in line] == []
    result = run_module("tls_certificate_info", asked(web, warning_days=19, critical_days=7))
    assert statuses(result)["expiry"] == "ok"
    result = run_module("tls_certificate_info", asked(web, warning_days=40, critical_days=25))
    assert statuses(result)["expiry"] == "critical"


def test_unreachable_is_unknown_and_not_silence(run_module: ModuleRunner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    result = run_module("tls_certificate_info", {"host": "127.0.0.1", "port": port})
    assert (result["status"], result["certificate"]) == ("unknown", None)
    assert set(statuses(result).values()) == {"unknown"}


def test_without_the_library(run_module: ModuleRunner, web: WebServer, place: Path) -> None:
    """A host whose Python has no cryptography still tells days and names; the rest is unknown, with the package to install."""
    (place / "cryptography").mkdir()
    (place / "cryptography" / "__init__.py").write_text("raise ImportError('not here')\n")
    env = {"PYTHONPATH": str(place)}
    result = run_module("tls_certificate_info", asked(web), interpreter=DISTRIBUTION, env=env)
    assert statuses(result) == {"presented": "ok", "expiry": "warning", "hostname": "ok", "key": "unknown", "chain": "ok"}
    file = str(web.paths.link / "fullchain.pem")
    failed = run_module("tls_certificate_info", {"path": file}, expect_failure=True, interpreter=DISTRIBUTION, env=env)
    assert failed["code"] == "missing_library" and "python3-cryptography" in failed["hint"]


def test_a_file(run_module: ModuleRunner, web: WebServer) -> None:
    path = str(web.paths.link / "fullchain.pem")
    options = {"path": path, "hostname": "other.example", "ca_cert": str(web.paths.root / "good" / "root.pem")}
    result = run_module("tls_certificate_info", options)
    assert statuses(result) == {"presented": "ok", "expiry": "warning", "hostname": "critical", "key": "ok", "chain": "ok"}


def test_postgres(run_module: ModuleRunner, postgres: PostgresFactory, signer: Signer) -> None:
    """STARTTLS of a real server: TLS on, then off."""
    cluster = postgres(start=False)
    made = signer.write(cluster.data_directory.parent / "tls", [NAME], days=90)
    for name in ("fullchain.pem", "privkey.pem"):
        shutil.copy(made / name, cluster.data_directory / name)
        give(cluster.data_directory / name)
        (cluster.data_directory / name).chmod(0o600)
    with (cluster.data_directory / "postgresql.auto.conf").open("a") as settings:
        settings.write("ssl = on\nssl_cert_file = 'fullchain.pem'\nssl_key_file = 'privkey.pem'\n")
    cluster.start()
    options = {
        "host": "127.0.0.1",
        "port": cluster.port,
        "starttls": "postgres",
        "hostname": NAME,
        "ca_cert": str(made / "root.pem"),
    }
    result = run_module("tls_certificate_info", options)
    assert set(statuses(result).values()) == {"ok"}, result["checks"]
    cluster.execute("ALTER SYSTEM SET ssl = off")
    cluster.execute("SELECT pg_reload_conf()")
    wait_until(lambda: cluster.execute("SHOW ssl")[0][0] == "off", 20, "PostgreSQL to reload")
    result = run_module("tls_certificate_info", options)
    assert statuses(result)["presented"] == "critical" and "ssl = off" in result["checks"][0]["summary"]
