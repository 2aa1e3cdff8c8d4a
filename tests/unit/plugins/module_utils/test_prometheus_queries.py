# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judging answers, and a client that takes no nonsense from a server."""

from __future__ import annotations

import http.server
import json
import math
import threading
import time
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import AccessDenied, OpsError, Unavailable
from ansible_collections.fileforge.ops.plugins.module_utils._prometheus.client import (
    Answer,
    Prometheus,
    PrometheusOptions,
    Series,
    parse,
)
from ansible_collections.fileforge.ops.plugins.module_utils._prometheus.queries import (
    Query,
    Selectors,
    described,
    examine,
    judge,
    shipped,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st


def answer(*values: float) -> Answer:
    return Answer(tuple(Series({"instance": str(number)}, ((0.0, value),)) for number, value in enumerate(values)))


@pytest.mark.parametrize(
    ("values", "status", "value"),
    [
        ([], "unknown", None),
        ([math.nan], "unknown", None),
        ([1.0], "ok", 1.0),
        ([100.0], "ok", 100.0),
        ([101.0], "warning", 101.0),
        ([1001.0, 5.0], "critical", 1001.0),
        ([5.0, math.nan], "unknown", None),
        ([2000.0, math.nan], "critical", 2000.0),
        ([math.inf], "critical", None),
        ([-math.inf], "ok", None),
    ],
)
def test_the_worst_series_decides(values: list[float], status: str, value: float | None) -> None:
    check = judge(Query("queue", "q", 100, 1000, hint="scale up"), answer(*values))
    assert (check.id, check.status, check.value) == ("metric.queue", status, value)
    assert bool(check.hint) == (status != "ok")
    json.dumps(check.as_dict(), allow_nan=False)


@pytest.mark.parametrize(("value", "status"), [(0.5, "ok"), (0.09, "warning"), (0.009, "critical")])
def test_falling_limits(value: float, status: str) -> None:
    assert judge(Query("traffic", "q", 0.1, 0.01), answer(value)).status == status


def test_absent_can_be_expected() -> None:
    assert judge(Query("alerts", "ALERTS", 0, absent="ok"), answer()).status == "ok"


@example([8.988465674311579e307, 8.98846567431158e307], "average")
@example([math.inf, -math.inf], "average")
@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=True), max_size=6), st.sampled_from(["last", "max", "min", "average"]))
def test_no_series_of_numbers_breaks_it(values: list[float], how: str) -> None:
    points = tuple((float(number), value) for number, value in enumerate(values))
    query = Query("m", "q", 1, 2, range_seconds=60, step_seconds=1, reduce=how)
    found = Answer((Series({}, points),))
    check = judge(query, found)
    if not [value for value in values if not math.isnan(value)]:
        assert check.status == "unknown"
    json.dumps([check.as_dict(), described(query, found)], allow_nan=False)


@pytest.mark.parametrize(("how", "value"), [("last", 2.0), ("max", 9.0), ("min", 1.0), ("average", 4.0)])
def test_ranges_are_reduced(how: str, value: float) -> None:
    points = tuple((float(number), value) for number, value in enumerate([1.0, 9.0, math.nan, 2.0]))
    query = Query("m", "q", range_seconds=60, step_seconds=1, reduce=how)
    assert judge(query, Answer((Series({}, points),))).value == value


def test_selectors_are_part_of_the_shipped_queries() -> None:
    found = shipped(Selectors('job="api",env="prod"', "", "1m"))
    assert '{job="api",env="prod",code=~"5.."}[1m]' in found["error_rate"].query
    assert 'node_cpu_seconds_total{mode="idle"}[1m]' in found["cpu_usage"].query


def test_the_notes_of_the_api_are_kept() -> None:
    body = {
        "status": "success",
        "data": {"resultType": "vector", "result": []},
        "warnings": ["partial"],
        "infos": ["not a counter"],
    }
    assert parse(json.dumps(body).encode(), "http://p").notes == ("partial", "not a counter")


@pytest.mark.parametrize(
    "body", [b"<html>log in", b"{}", b"[]", b'{"data": {"resultType": "streams", "result": []}}', b'{"data": null}']
)
def test_what_is_not_the_api(body: bytes) -> None:
    with pytest.raises(OpsError, match="is not the API"):
        parse(body, "http://p")


class Scripted(http.server.BaseHTTPRequestHandler):
    """Answers from the server's script, the last line of it for ever."""

    def do_POST(self) -> None:
        script = self.server.script  # type: ignore[attr-defined]
        self.server.seen.append((self.path, dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))  # type: ignore[attr-defined]
        code, body = script.pop(0) if len(script) > 1 else script[0]
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/login")
        self.end_headers()
        if body == "drip":
            try:
                while True:
                    self.wfile.write(b" ")
                    time.sleep(0.02)
            except OSError:
                return
        self.wfile.write(body.encode())

    def log_message(self, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def server() -> t.Iterator[t.Any]:
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    made.daemon_threads = True
    made.seen = []  # type: ignore[attr-defined]
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


GOOD = json.dumps({"status": "success", "data": {"resultType": "scalar", "result": [0, "7"]}})


def client(server: t.Any, **options: t.Any) -> Prometheus:
    return Prometheus(PrometheusOptions(f"http://127.0.0.1:{server.server_port}/prom/", **options))


def test_a_busy_server_is_asked_again_but_not_for_ever(server: t.Any) -> None:
    server.script = [(503, "not ready"), (200, GOOD)]
    assert client(server).instant("up", 5).series[0].points == ((0.0, 7.0),)
    assert [path for path, _headers, _body in server.seen] == ["/prom/api/v1/query"] * 2
    assert b"query=up" in server.seen[0][2] and b"time=5.000" in server.seen[0][2] and b"timeout=10s" in server.seen[0][2]
    server.script = [(503, "not ready")]
    with pytest.raises(Unavailable, match="after 2 attempts"):
        client(server, attempts=2).instant("up")
    assert len(server.seen) == 4


@pytest.mark.parametrize(
    ("code", "body", "kind", "words"),
    [
        (400, '{"errorType": "bad_data", "error": "parse error"}', OpsError, "bad_data: parse error"),
        (401, "", AccessDenied, "credentials"),
        (302, "", OpsError, "status 302"),
        (200, "<html>", OpsError, "is not the API"),
    ],
)
def test_refusals_are_not_repeated(server: t.Any, code: int, body: str, kind: type[OpsError], words: str) -> None:
    server.script = [(code, body)]
    with pytest.raises(kind, match=words):
        client(server).instant("up{")
    assert len(server.seen) == 1


def test_a_dripping_answer_does_not_hold_us(server: t.Any) -> None:
    server.script = [(200, "drip")]
    began = time.monotonic()
    with pytest.raises(Unavailable, match="no whole answer"):
        client(server, timeout=0.3, attempts=1).instant("up")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"token": "abc"}, "Bearer abc"), ({"username": "me", "password": "pw"}, "Basic bWU6cHc="), ({}, None)],
)
def test_credentials(server: t.Any, options: dict[str, str], expected: str | None) -> None:
    server.script = [(200, GOOD)]
    client(server, headers={"X-Scope-OrgID": "t1"}, **options).instant("up")
    headers = {name.lower(): value for name, value in server.seen[0][1].items()}
    assert headers.get("authorization") == expected and headers["x-scope-orgid"] == "t1"


def test_one_bad_query_hides_no_other(server: t.Any) -> None:
    server.script = [(200, GOOD), (400, '{"errorType": "bad_data", "error": "parse error"}'), (200, GOOD)]
    options = PrometheusOptions(f"http://127.0.0.1:{server.server_port}")
    report = examine(options, [Query("bad", "up{"), Query("good", "up", 5, 6)])
    assert [(check.id, check.status) for check in report.checks] == [
        ("prometheus.connection", "ok"),
        ("metric.bad", "unknown"),
        ("metric.good", "critical"),
    ]
    assert "parse error" in report.checks[1].summary


def test_a_server_that_goes_away_makes_the_rest_unknown_at_once(server: t.Any) -> None:
    server.script = [(200, GOOD), (503, "")]
    options = PrometheusOptions(f"http://127.0.0.1:{server.server_port}", attempts=1)
    report = examine(options, [Query("one", "up"), Query("two", "up")])
    assert [check.status for check in report.checks] == ["ok", "unknown", "unknown"]
    assert len(server.seen) == 2


def test_a_server_that_is_not_there(server: t.Any) -> None:
    server.shutdown()
    server.server_close()
    options = PrometheusOptions(f"http://127.0.0.1:{server.server_port}", attempts=2)
    report = examine(options, [Query("one", "up")])
    assert [check.status for check in report.checks] == ["critical", "unknown"]
    assert "refused" in report.checks[0].summary
