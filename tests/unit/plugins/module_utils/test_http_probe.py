# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Probing an endpoint: against real servers on loopback."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import socket
import threading
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._http import probe as engine
from ansible_collections.fileforge.ops.plugins.module_utils._http.probe import Attempt, Outcome, ProbeOptions, judge, probe
from hypothesis import given
from hypothesis import strategies as st


@dataclasses.dataclass
class Answer:
    """What the server says."""

    status: int = 200
    body: str = '{"status": "ok", "parts": [{"name": "database", "up": true}], "count": 3}'
    headers: t.Mapping[str, str] = dataclasses.field(default_factory=dict)


class Server:
    """Answers from a list; the last answer is repeated."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers) or [Answer()]
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append((self.command, self.path, dict(self.headers)))
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                body = answer.body.encode()
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *args: object) -> None:
                """Stay quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/health"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> Server:
        self.thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def raw_server(talk: t.Callable[[socket.socket], None]) -> t.Iterator[str]:
    """A server that does with each connection what it is told."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _unused = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                talk(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def options(url: str, **changes: t.Any) -> ProbeOptions:
    return ProbeOptions(**{"url": url, "probes": 3, "required": 2, "interval": 0.0, "timeout": 2.0, **changes})


def status_of(outcome: Outcome) -> str:
    return outcome.checks()[0].status


def test_all_good() -> None:
    with Server() as server:
        outcome = probe(options(server.url, name="api"))
    assert (outcome.healthy, outcome.good, len(server.requests)) == (True, 3, 3)
    health, latency = outcome.checks()
    assert (health.id, health.status, health.value) == ("endpoint.api.health", "ok", 3)
    assert (latency.id, latency.status) == ("endpoint.api.latency", "ok")
    times = outcome.latency()
    assert 0 < times["minimum"] <= times["p50"] <= times["p95"] <= times["maximum"] < 2


def test_enough_but_not_all_good_is_a_warning() -> None:
    with Server(Answer(status=503), Answer()) as server:
        outcome = probe(options(server.url))
    assert outcome.healthy and status_of(outcome) == "warning"
    assert "503" in outcome.checks()[0].summary


def test_the_newest_probe_must_be_good() -> None:
    with Server(Answer(), Answer(), Answer(status=500)) as server:
        outcome = probe(options(server.url))
    assert outcome.good == 2 and not outcome.healthy and status_of(outcome) == "critical"


def test_goes_on_until_healthy_while_there_is_time() -> None:
    with Server(*[Answer(status=503)] * 6, Answer()) as server:
        outcome = probe(options(server.url, retries_for=30))
    assert outcome.healthy and len(outcome.attempts) == 8


def test_gives_up_when_the_time_is_over() -> None:
    with Server(Answer(status=503)) as server:
        outcome = probe(options(server.url, retries_for=0.2))
    assert not outcome.healthy and len(outcome.attempts) > 3


def test_redirects_are_reported_not_followed() -> None:
    with Server(Answer(status=302, headers={"Location": "https://login.example/"})) as server:
        outcome = probe(options(server.url))
        assert {path for _unused, path, _unused in server.requests} == {"/health"}
    assert outcome.attempts[0].location == "https://login.example/"
    assert "redirects to https://login.example/" in outcome.attempts[0].problem


def test_headers_and_token_are_sent() -> None:
    with Server() as server:
        probe(options(server.url + "?deep=1", headers={"X-Probe": "yes"}, bearer_token="s3cr3t", method="HEAD"))
    command, path, headers = server.requests[0]
    assert (command, path, headers["X-Probe"], headers["Authorization"]) == ("HEAD", "/health?deep=1", "yes", "Bearer s3cr3t")


def test_refused_is_critical_not_unknown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    outcome = probe(options(f"http://127.0.0.1:{port}/"))
    assert status_of(outcome) == "critical" and outcome.attempts[0].problem == "Connection refused"
    assert outcome.checks()[1].status == "unknown"


def test_a_silent_server_times_out() -> None:
    release = threading.Event()
    with raw_server(lambda connection: (connection.recv(1000), release.wait(10))[0] and None) as url:
        outcome = probe(options(url, probes=1, required=1, timeout=0.3))
        release.set()
    assert outcome.attempts[0].problem == "timed out" and outcome.attempts[0].latency < 2


def test_a_dripping_server_cannot_hold_a_probe() -> None:
    """Each byte comes before the socket's timeout, but the whole answer does not come in time."""
    stop = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not stop.wait(0.05):
            connection.sendall(b"x")

    with raw_server(drip) as url:
        outcome = probe(options(url, probes=1, required=1, timeout=0.5))
        stop.set()
    assert not outcome.healthy and outcome.attempts[0].latency < 3
    assert "timed out" in outcome.attempts[0].problem or "whole answer" in outcome.attempts[0].problem


@pytest.mark.parametrize(("answer", "words"), [(b"", "closed the connection"), (b"SSH-2.0-OpenSSH\r\n\r\n", "not an HTTP answer")])
def test_not_an_http_server(answer: bytes, words: str) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(answer)

    with raw_server(talk) as url:
        outcome = probe(options(url, probes=1, required=1))
    assert words in outcome.attempts[0].problem and status_of(outcome) == "critical"


def test_unreadable_authorities_are_unknown(tmp_path: t.Any) -> None:
    outcome = probe(options("https://127.0.0.1:1/", ca_cert=str(tmp_path / "none.pem")))
    assert status_of(outcome) == "unknown" and "none.pem" in outcome.checks()[0].summary
    (tmp_path / "bad.pem").write_text("nonsense")
    assert status_of(probe(options("https://127.0.0.1:1/", ca_cert=str(tmp_path / "bad.pem")))) == "unknown"


@pytest.mark.parametrize(("code", "status"), [(socket.EAI_AGAIN, "unknown"), (socket.EAI_NONAME, "critical")])
def test_resolver(monkeypatch: pytest.MonkeyPatch, code: int, status: str) -> None:
    def resolve(*args: object, **kwargs: object) -> t.NoReturn:
        raise socket.gaierror(code, "resolver says no")

    monkeypatch.setattr(engine.socket, "getaddrinfo", resolve)
    assert status_of(probe(options("http://api.example/"))) == status


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        ({"body_regex": '"status": "(ok|fine)"'}, ""),
        ({"body_regex": "degraded"}, "does not match"),
        ({"body_json": {"status": "ok", "parts.0.up": True, "count": 3}}, ""),
        ({"body_json": {"parts.0.up": "true", "count": "3"}}, ""),
        ({"body_json": {"count": 3.0}}, ""),
        ({"body_json": {"parts.0.up": 1}}, "instead of 1"),
        ({"body_json": {"status": "down"}}, 'status is "ok" instead of "down"'),
        ({"body_json": {"parts.1.up": True}}, "has no parts.1.up"),
        ({"body_json": {"nothing": None}}, "has no nothing"),
        ({"status_codes": [201, 204]}, "status 200 instead of 201, 204"),
    ],
)
def test_judgement(changes: dict[str, t.Any], problem: str) -> None:
    found = judge(options("http://x/", **changes), 200, "", Answer().body)
    assert problem in found and bool(problem) == bool(found)


def test_a_body_that_is_not_json() -> None:
    assert judge(options("http://x/", body_json={"a": 1}), 200, "", "<html>") == "the body is not JSON"


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "ftp://x/"},
        {"url": "http:///x"},
        {"url": "http://x:99999/"},
        {"url": "http://user:geheim@x/"},
        {"required": 0},
        {"required": 4},
        {"timeout": 0},
        {"interval": -1},
        {"body_regex": "("},
    ],
)
def test_invalid_options(changes: dict[str, t.Any]) -> None:
    with pytest.raises(InvalidOption) as caught:
        options(**{"url": "http://x/", **changes})
    assert "geheim" not in caught.value.message


def test_slow_answers_are_graded() -> None:
    for slowest, status in ((0.5, "ok"), (0.7, "warning"), (1.0, "warning"), (1.5, "critical")):
        attempts = [Attempt("t", latency) for latency in (0.1, slowest, 0.2)]
        assert Outcome(options("http://x/"), attempts).checks()[1].status == status, slowest


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 6), st.data())
def test_n_of_m(answers: list[bool], probes: int, data: st.DataObject) -> None:
    """Healthy exactly when the newest is good and N of the last M are."""
    required = data.draw(st.integers(1, probes))
    attempts = [Attempt("t", 0.1, problem="" if good else "bad") for good in answers]
    outcome = Outcome(options("http://x/", probes=probes, required=required), attempts)
    assert outcome.healthy == (answers[-1] and sum(answers[-probes:]) >= required)
    assert (status_of(outcome) == "ok") == all(answers[-probes:]) if outcome.healthy else status_of(outcome) == "critical"
    json.dumps(outcome.as_dict())
