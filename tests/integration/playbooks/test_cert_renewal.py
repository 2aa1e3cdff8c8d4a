# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates renewed by the playbook, on the lab; what is told is what happened."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import typing as t
from pathlib import Path

import pytest

from tests.lab import ROOT
from tests.lab.parts import CertificateAuthority, Web

if t.TYPE_CHECKING:
    from tests.integration.playbooks.conftest import PlayedLab


class Told:
    """A webhook that keeps what it is sent."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        told = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Stay quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def take(self) -> list[str]:
        """What was told since the last time."""
        taken, self.messages = self.messages, []
        return taken


@pytest.fixture
def told() -> t.Iterator[Told]:
    made = Told()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_cert_renewal(lab: PlayedLab, told: Told) -> None:
    """Issued, unchanged, not renewed while the authority is down, renewed; each told as it was."""
    web, authority = lab.drill.lab.part(Web).server, lab.drill.lab.part(CertificateAuthority).server
    tell = {"fileforge_certificate_notifications": [{"name": "channel", "url": told.url}, {"name": "none", "url": ""}]}

    predicted = lab.play_well("cert-renewal", check=True, **tell)
    assert predicted.changed() == 1 and "would request" in predicted.output
    assert told.take() == [] and not (web.paths.certbot / "live").exists()

    issued = lab.play_well("cert-renewal", **tell)
    assert issued.changed() == 1
    [message] = told.take()
    assert re.match(r"app1: certificate api was issued, valid until .* and is served by", message)

    again = lab.play_well("cert-renewal", **tell)
    assert again.changed() == 0 and "is not due" in again.output
    assert told.take() == []

    due = {"fileforge_certificate_renew_before_days": 4000, "fileforge_certificate_critical_days": 7}
    acme = {**json.loads(json.dumps(lab_acme(lab))), "acme_server": "https://127.0.0.1:1/dir"}
    failed = lab.play("cert-renewal", **tell, **due, fileforge_acme=acme)
    assert failed.returncode != 0
    [message] = told.take()
    assert "certificate api not renewed, with a problem: no certificate" in message and "was renewed" not in message

    deaf = {"name": "deaf", "url": "http://127.0.0.1:1/"}
    tell["fileforge_certificate_notifications"].insert(0, deaf)
    renewed = lab.play_well("cert-renewal", **tell, force=True)
    assert renewed.changed() == 1 and "deaf was not told" in renewed.output
    [message] = told.take()
    assert "certificate api was renewed" in message
    assert authority.healthy() and web.healthy()


def lab_acme(lab: PlayedLab) -> dict[str, t.Any]:
    """fileforge_acme as the lab's inventory has it."""
    facts = lab.facts["tls"]
    directory = facts["certbot_directory"]
    return {
        "authenticator": "webroot",
        "webroot_path": facts["webroot"],
        "agree_tos": True,
        "acme_ca_cert": facts["directory_ca"],
        "config_directory": directory,
        "work_directory": f"{directory}/work",
        "logs_directory": f"{directory}/logs",
    }


@pytest.mark.parametrize("block", range(2))
def test_the_documents_examples(lab: PlayedLab, block: int, tmp_path: Path) -> None:
    """The plays of docs/certificates.md, on the lab's endpoints."""
    plays = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/certificates.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(plays) == 2
    (tmp_path / "play.yml").write_text(plays[block])
    argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "inventories/lab", str(tmp_path / "play.yml")]
    env = {
        **os.environ,
        "LAB_DIR": str(lab.command.state),
        "ANSIBLE_NOCOLOR": "true",
        "ANSIBLE_CALLBACKS_ENABLED": "ansible.builtin.default",
    }
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
