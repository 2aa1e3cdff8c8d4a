# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real nginx that shows what it should not, looked at through Ansible; then the same one put right."""

from __future__ import annotations

import shutil
import typing as t
import uuid
from pathlib import Path

import pytest

from tests.integration.conftest import ModuleRunner
from tests.lab.daemon import Daemon, wait_until
from tests.lab.monitoring import answers
from tests.lab.ports import free_port
from tests.lab.tls import self_signed

NAME = "files.fileforge.test"
WRONG = "ssl_protocols TLSv1 TLSv1.1 TLSv1.2; ssl_ciphers ALL:@SECLEVEL=0;"
RIGHT = """
ssl_protocols TLSv1.2 TLSv1.3; server_tokens off;
add_header Strict-Transport-Security "max-age=31536000" always; add_header X-Content-Type-Options nosniff always;
add_header Content-Security-Policy "default-src 'self'; frame-ancestors 'none'" always;
add_header Referrer-Policy no-referrer always;
"""


class Nginx:
    """One server on TLS, and a second port that nobody expects."""

    def __init__(self, place: Path) -> None:
        self.place, self.port, self.other = place, free_port(), free_port()
        self.site = place / "site"
        self.site.mkdir()
        (self.site / "index.html").write_text("<title>FileForge</title>")
        self_signed(place, [NAME])
        self.daemon = Daemon("nginx", place)

    def serve(self, settings: str) -> None:
        """Start anew with these settings."""
        self.daemon.stop()
        configuration = self.place / "nginx.conf"
        configuration.write_text(
            f"daemon off; pid {self.place}/master.pid; error_log {self.place}/error.log; worker_processes 1;\n"
            "events {}\n"
            f"http {{ access_log off; client_body_temp_path {self.place}/t1; proxy_temp_path {self.place}/t2;\n"
            f"fastcgi_temp_path {self.place}/t3; uwsgi_temp_path {self.place}/t4; scgi_temp_path {self.place}/t5;\n"
            f"types {{ text/html html; }} root {self.site};\n"
            f"server {{ listen 127.0.0.1:{self.other}; }}\n"
            f"server {{ listen 127.0.0.1:{self.port} ssl; ssl_certificate {self.place}/fullchain.pem;\n"
            f"ssl_certificate_key {self.place}/privkey.pem; {settings} }} }}\n"
        )
        self.daemon.start(["nginx", "-c", str(configuration), "-p", str(self.place), "-e", str(self.place / "error.log")])
        wait_until(lambda: answers(f"http://127.0.0.1:{self.other}/"), 10, "nginx to answer")

    def options(self, **more: t.Any) -> dict[str, t.Any]:
        """Of the module."""
        ports = [f"{port}" for port in (self.port, self.other, free_port())]
        return {"url": f"https://{NAME}:{self.port}/", "address": "127.0.0.1", "ports": ports, **more}


@pytest.fixture
def nginx(session_place: Path) -> t.Iterator[Nginx]:
    made = session_place / f"exposed-{uuid.uuid4().hex[:6]}"
    made.mkdir(mode=0o755)
    server = Nginx(made)
    yield server
    server.daemon.stop()
    shutil.rmtree(made)


def by_area(found: t.Mapping[str, t.Any]) -> dict[str, dict[str, t.Any]]:
    return {check["id"].removeprefix("exposure."): check for check in found["checks"]}


def test_what_is_wrong_is_found_and_what_is_right_is_ok(run_module: ModuleRunner, nginx: Nginx) -> None:
    (nginx.site / ".git").mkdir()
    (nginx.site / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (nginx.site / ".env").write_text("DATABASE_PASSWORD=correct-horse\n")
    nginx.serve(WRONG)
    for check in (True, False):
        found = run_module("exposure_info", nginx.options(expected_ports=[nginx.port]), check=check)
        areas = by_area(found)
        assert not found["changed"] and found["status"] == "critical" and "correct-horse" not in str(found)
        assert areas["ports"]["status"] == "critical" and areas["ports"]["evidence"]["unexpected"] == [nginx.other]
        assert areas["tls"]["status"] == "critical" and areas["tls"]["evidence"]["versions"] == ["TLSv1.0", "TLSv1.1", "TLSv1.2"]
        assert set(areas["headers"]["evidence"]) >= {"strict-transport-security", "x-frame-options", "server"}
        assert [item["path"] for item in areas["paths"]["evidence"]["found"]] == ["/.git/HEAD", "/.env"]
        assert all(check["hint"] and check["subject"] == NAME for check in areas.values())

    shutil.rmtree(nginx.site / ".git")
    (nginx.site / ".env").unlink()
    nginx.serve(RIGHT)
    right = run_module("exposure_info", nginx.options(expected_ports=[nginx.port, nginx.other], name="files"))
    assert {check["status"] for check in right["checks"]} == {"ok"}, right["checks"]
    assert {check["subject"] for check in right["checks"]} == {"files"} and len(right["checks"]) == 4


def test_a_server_that_is_down_is_unknown(run_module: ModuleRunner, nginx: Nginx) -> None:
    areas = by_area(run_module("exposure_info", nginx.options(expected_ports=[nginx.port], timeout=2)))
    assert {area: check["status"] for area, check in areas.items()} == dict.fromkeys(
        ("ports", "tls", "headers", "paths"), "unknown"
    )
    refused = run_module("exposure_info", nginx.options(accepted=["everything"]), expect_failure=True)
    assert "accepted" in refused["msg"] and "header:server" in refused["hint"]
