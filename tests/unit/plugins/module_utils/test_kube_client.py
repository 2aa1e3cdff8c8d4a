# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests, retries and errors of the Kubernetes client, against a scripted HTTP server."""

from __future__ import annotations

import http.server
import json
import threading
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils import _wait
from ansible_collections.fileforge.ops.plugins.module_utils._argspec import KUBE
from ansible_collections.fileforge.ops.plugins.module_utils._errors import AccessDenied, InvalidOption, NotFound, Unavailable
from ansible_collections.fileforge.ops.plugins.module_utils._kube import client as kube
from ansible_collections.fileforge.ops.plugins.module_utils._kube.client import Client, KubeOptions, Rejected, message_of
from ansible_collections.fileforge.ops.plugins.module_utils._kube.workload import Reference, read

TOKEN = "a-secret-token"
DROP = -1


class Script:
    """Answers in order (status, body); DROP closes the connection. Keeps what was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, t.Any]] = []
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        script = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                script.asked.append((self.command, self.path, dict(self.headers), body))
                status, answer = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
                if status == DROP:
                    self.close_connection = True
                    return
                data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PATCH = _answer

            def log_message(self, *_args: t.Any) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def client(self, **options: t.Any) -> Client:
        return Client(KubeOptions(host=self.url, token=TOKEN, timeout=5, **options))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> t.Iterator[Script]:
    original = _wait.retry
    monkeypatch.setattr(kube, "retry", lambda *args, **options: original(*args, **options, sleep=lambda _unused: None))
    found = Script()
    yield found
    found.server.shutdown()
    found.server.server_close()


def status(code: int, message: str) -> tuple[int, dict[str, t.Any]]:
    return code, {"kind": "Status", "message": message, "code": code}


def test_get_sends_the_token_and_parses(script: Script) -> None:
    script.answers = [(200, {"kind": "Pod"})]
    assert script.client().get("/api/v1/x", {"labelSelector": "a in (b,c)"}) == {"kind": "Pod"}
    method, path, headers, _unused = script.asked[0]
    assert (method, path) == ("GET", "/api/v1/x?labelSelector=a+in+%28b%2Cc%29")
    assert headers["authorization"] == f"Bearer {TOKEN}"


def test_patch(script: Script) -> None:
    script.answers = [(200, {})]
    script.client().patch("/x", {"a": 1}, dry_run=True)
    method, path, headers, body = script.asked[0]
    assert (method, path) == ("PATCH", "/x?fieldManager=fileforge-ops&dryRun=All")
    assert headers["Content-Type"] == "application/strategic-merge-patch+json" and json.loads(body) == {"a": 1}


def test_pages(script: Script) -> None:
    script.answers = [(200, {"items": [1, 2], "metadata": {"continue": "next="}}), (200, {"items": [3], "metadata": {}})]
    assert list(script.client().list("/x")) == [1, 2, 3]
    assert script.asked[1][1].endswith("continue=next%3D")


@pytest.mark.parametrize("trouble", [(DROP, ""), status(500, "internal"), status(503, "starting"), status(429, "slow down")])
def test_passing_trouble_is_retried(script: Script, trouble: tuple[int, t.Any]) -> None:
    script.answers = [trouble, trouble, (200, {"kind": "Pod"})]
    assert script.client().get("/x") == {"kind": "Pod"}
    assert len(script.asked) == 3


@pytest.mark.parametrize("trouble", [(DROP, ""), status(500, "etcd is gone")])
def test_lasting_trouble_is_not_retried_for_ever(script: Script, trouble: tuple[int, t.Any]) -> None:
    script.answers = [trouble]
    with pytest.raises(Unavailable, match="after 4 attempts") as caught:
        script.client().get("/x")
    assert len(script.asked) == kube.ATTEMPTS
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "expected", "text"),
    [
        (status(401, "Unauthorized"), AccessDenied, "credentials are not accepted"),
        (status(403, "cannot patch deployments"), AccessDenied, "cannot patch deployments"),
        (status(404, "not there"), NotFound, "not there"),
        (status(409, "modified"), Rejected, "409 modified"),
        (status(422, "invalid"), Rejected, "422 invalid"),
        ((301, ""), Rejected, "301"),
        ((200, "<html>"), Rejected, "not JSON"),
        ((200, "[1]"), Rejected, "not an object"),
    ],
)
def test_errors_are_typed_and_not_retried(script: Script, answer: tuple[int, t.Any], expected: type[Exception], text: str) -> None:
    script.answers = [answer]
    with pytest.raises(expected, match=text):
        script.client().get("/x")
    assert len(script.asked) == 1


def test_missing_workload_is_named(script: Script) -> None:
    script.answers = [status(404, "not there")]
    with pytest.raises(NotFound, match="Deployment default/web does not exist"):
        read(script.client(), Reference("Deployment", "default", "web"))


def test_silent_server(script: Script) -> None:
    script.server.shutdown()
    with pytest.raises(Unavailable, match="timed out"):
        Client(KubeOptions(host=script.url, timeout=1)).get("/x")


def test_message_of_other_bodies() -> None:
    assert message_of(b'{"message": "m"}') == "m"
    assert message_of(b"plain\nmore") == "plain"
    assert message_of(b"[]") == "[]"


# options


def params(**changes: t.Any) -> dict[str, t.Any]:
    return {**{name: spec.get("default") for name, spec in KUBE.items()}, **changes}


def test_options_never_show_the_token() -> None:
    assert TOKEN not in repr(KubeOptions.from_params(params(kube_token=TOKEN, kube_host="http://h")))
    with pytest.raises(InvalidOption):
        KubeOptions.from_params(params(kube_timeout=0))


def kubeconfig(path: Path, server: str, token: str) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": token}}, {"name": "other", "user": {"token": "another"}}],
        "contexts": [
            {"name": "one", "context": {"cluster": "c", "user": "u"}},
            {"name": "two", "context": {"cluster": "c", "user": "other"}},
        ],
    }
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def test_kubeconfig_and_context(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script.answers = [(200, {})]
    file = kubeconfig(tmp_path / "config", script.url, TOKEN)
    Client(KubeOptions(config=str(file), timeout=5)).get("/x")
    Client(KubeOptions(config=str(file), context="two", timeout=5)).get("/x")
    monkeypatch.setenv("KUBECONFIG", str(file))
    Client(KubeOptions(timeout=5)).get("/x")
    assert [asked[2]["authorization"] for asked in script.asked] == [f"Bearer {TOKEN}", "Bearer another", f"Bearer {TOKEN}"]


def test_token_from_the_environment(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    script.answers = [(200, {})]
    monkeypatch.setenv("K8S_AUTH_API_KEY", "from-environment")
    Client(KubeOptions(host=script.url, timeout=5)).get("/x")
    assert script.asked[0][2]["authorization"] == "Bearer from-environment"


@pytest.mark.parametrize("content", ["", "not: [yaml", "apiVersion: v1", "[]"])
def test_useless_kubeconfig(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InvalidOption, match="kube_config"):
        Client(KubeOptions(config=str(file)))


def test_no_configuration_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InvalidOption, match="kube_config"):
        Client(KubeOptions())
    with pytest.raises(InvalidOption, match="no such file"):
        Client(KubeOptions(config=str(tmp_path / "absent")))


def test_unusable_authority(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no certificate", encoding="utf-8")
    for name in ("absent", "text"):
        with pytest.raises(InvalidOption, match="kube_ca_cert"):
            Client(KubeOptions(host="https://127.0.0.1:1", ca_cert=str(tmp_path / name)))
