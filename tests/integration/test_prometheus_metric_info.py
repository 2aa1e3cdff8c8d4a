# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics of a real Prometheus that scrapes an application whose figures the tests decide, and a real node exporter."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
import typing as t
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._prometheus.client import PrometheusOptions
from ansible_collections.fileforge.ops.plugins.module_utils._prometheus.queries import (
    NAMES,
    Query,
    Report,
    Selectors,
    compose,
    examine,
    shipped,
)

from tests.lab.daemon import Daemon, wait_until
from tests.lab.ports import free_port

if t.TYPE_CHECKING:
    from tests.integration.conftest import ModuleRunner

WINDOW = "2s"
BOUNDS = ("0.1", "0.5", "1", "5", "+Inf")


class Application:
    """What an application exposes: every scrape adds requests, as many as the test says."""

    def __init__(self) -> None:
        self.good, self.failing, self.slow, self.queue = 0, 0, 0, 5.0
        self.per_scrape = (10, 0, 0)
        self.lock = threading.Lock()

    def exposition(self) -> str:
        """The metrics at this scrape."""
        with self.lock:
            self.good, self.failing, self.slow = (a + b for a, b in zip((self.good, self.failing, self.slow), self.per_scrape))
            every = self.good + self.failing
            lines = [f'http_requests_total{{code="200"}} {self.good}', f'http_requests_total{{code="503"}} {self.failing}']
            for bound in BOUNDS:
                count = every - self.slow if bound in ("0.1", "0.5", "1") else every
                lines.append(f'http_request_duration_seconds_bucket{{le="{bound}"}} {count}')
            lines.append(f'fileforge_queue_length{{queue="fileforge-tasks"}} {self.queue}')
            return "\n".join(lines) + "\n"


class Watched:
    """Prometheus, a node exporter and the application."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.application = Application()
        application = self.application

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = application.exposition().encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_details: object) -> None:
                """Stay quiet."""

        self.exposer = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.exposer.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.node, self.server = Daemon("node-exporter", place), Daemon("prometheus", place)
        self.node_port, self.port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> Watched:
        """Start and wait until rates can be taken."""
        jobs = {"fileforge-backend": self.exposer.server_port, "node": self.node_port}
        scrapes = [{"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for name, port in jobs.items()]
        interval = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "1s"}
        configuration = self.place / "prometheus.yml"
        configuration.write_text(json.dumps({"global": interval, "scrape_configs": scrapes}))
        collectors = [f"--collector.{name}" for name in ("cpu", "meminfo", "filesystem")]
        self.node.start(
            [
                "prometheus-node-exporter",
                f"--web.listen-address=127.0.0.1:{self.node_port}",
                "--collector.disable-defaults",
                *collectors,
            ]
        )
        argv = ["prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={self.place / 'data'}"]
        self.server.start([*argv, f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"])
        self.until("rate(http_requests_total[2s]) > 0 and on() count(rate(node_cpu_seconds_total[2s]))")
        return self

    def until(self, expression: str) -> None:
        """Wait until a query gives something."""

        def given() -> bool:
            target = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
            try:
                with urllib.request.urlopen(target, timeout=5) as answer:
                    return bool(json.load(answer)["data"]["result"])
            except OSError:
                assert self.server.pid is not None, self.server.last_lines()
                return False

        wait_until(given, 30, expression)

    def close(self) -> None:
        """Leave nothing running."""
        self.server.kill()
        self.node.kill()
        self.exposer.shutdown()
        self.exposer.server_close()


@pytest.fixture(scope="module")
def watched(session_place: Path) -> t.Iterator[Watched]:
    """The servers of this file."""
    place = session_place / uuid.uuid4().hex[:8]
    place.mkdir()
    made = Watched(place)
    try:
        yield made.start()
    finally:
        made.close()
        shutil.rmtree(place)


def look(watched: Watched, *names: str, queries: t.Sequence[Query] = (), **thresholds: t.Any) -> Report:
    """The engine's answer."""
    asked = compose(names, queries, thresholds, Selectors(window=WINDOW))
    return examine(PrometheusOptions(watched.url), asked)


def only(report: Report) -> tuple[str, str, t.Any]:
    """Id, status and value of the one metric."""
    (check,) = report.checks[1:]
    assert bool(check.hint) == (check.status != "ok")
    return check.id, check.status, check.value


def test_the_runbooks_metrics(run_module: ModuleRunner, watched: Watched) -> None:
    # How busy and full this machine is, is not the test's to say.
    thresholds = {name: {"warning": 1.1, "critical": 1.2} for name in ("cpu_usage", "memory_usage", "disk_usage")}
    arguments = {"prometheus_url": watched.url, "window": WINDOW, "thresholds": thresholds}
    for check in (True, False, False):
        result = run_module("prometheus_metric_info", arguments, check=check)
        assert {item["id"]: item["status"] for item in result["checks"] if item["status"] != "ok"} == {}
        assert (result["status"], result["changed"], result["api_warnings"]) == ("ok", False, [])
    found = {item["id"]: item["value"] for item in result["checks"]}
    assert set(found) == {"prometheus.connection", *(f"metric.{name}" for name in NAMES)}
    assert found["metric.error_rate"] == 0 and found["metric.queue_length"] == 5
    assert 0 < found["metric.memory_usage"] < 1 and 0 < found["metric.disk_usage"] < 1 and 0 <= found["metric.cpu_usage"] <= 1


def test_errors_and_slowness(watched: Watched) -> None:
    watched.application.per_scrape = (97, 3, 0)
    watched.until("sum(rate(http_requests_total[1s])) > 400 and on() sum(rate(http_requests_total{code='503'}[1s])) > 10")
    try:
        name, status, value = only(look(watched, "error_rate"))
        assert (name, status) == ("metric.error_rate", "warning") and 0.01 < value < 0.05
        watched.application.per_scrape = (80, 20, 50)
        watched.until("sum(rate(http_requests_total{code='503'}[2s])) > 80")
        assert only(look(watched, "error_rate"))[1] == "critical"
        assert only(look(watched, "api_response_seconds"))[1] == "critical"
    finally:
        watched.application.per_scrape = (10, 0, 0)


@pytest.mark.parametrize(("length", "status"), [(100, "ok"), (101, "warning"), (1001, "critical")])
def test_queue_length(watched: Watched, length: int, status: str) -> None:
    watched.application.queue = length
    watched.until(f"fileforge_queue_length == {length}")
    assert only(look(watched, "queue_length")) == ("metric.queue_length", status, length)


def test_nothing_measured_is_unknown(watched: Watched) -> None:
    watched.application.per_scrape = (0, 0, 0)
    watched.until("sum(rate(http_requests_total[2s])) == 0")
    try:
        for name in ("error_rate", "api_response_seconds"):
            assert only(look(watched, name)) == (f"metric.{name}", "unknown", None), "no requests, no rate"
    finally:
        watched.application.per_scrape = (10, 0, 0)
    elsewhere = compose(NAMES, [], {}, Selectors('job="other"', 'job="other"', WINDOW))
    report = examine(PrometheusOptions(watched.url), elsewhere)
    absent = {check.id for check in report.checks if check.status == "unknown" and "no series" in check.summary}
    assert absent == {f"metric.{name}" for name in NAMES if name != "scrape_targets"}


def test_ranges_and_bad_queries(run_module: ModuleRunner, watched: Watched) -> None:
    queries = [
        {
            "name": "most",
            "query": "fileforge_queue_length",
            "warning": 10000,
            "range_seconds": 10,
            "step_seconds": 1,
            "reduce": "max",
        },
        {"name": "broken", "query": "sum(rate("},
        {"name": "counted", "query": "count(up)", "warning": 1},
    ]
    result = run_module("prometheus_metric_info", {"prometheus_url": watched.url, "metrics": [], "queries": queries})
    found = {item["id"]: item["status"] for item in result["checks"]}
    assert found == {"prometheus.connection": "ok", "metric.most": "ok", "metric.broken": "unknown", "metric.counted": "warning"}
    assert len(result["metrics"][0]["series"][0]["points"]) >= 2
    assert "bad_data" in result["checks"][2]["summary"]
    refused = run_module("prometheus_metric_info", {"prometheus_url": watched.url, "metrics": ["cpu"]}, expect_failure=True)
    assert refused["code"] == "invalid_option" and "cpu_usage" in refused["hint"]


def test_prometheus_says_that_every_shipped_query_is_valid(watched: Watched) -> None:
    for query in shipped(Selectors(window=WINDOW)).values():
        target = f"{watched.url}/api/v1/format_query?{urllib.parse.urlencode({'query': query.query})}"
        with urllib.request.urlopen(target, timeout=5) as answer:
            assert json.load(answer)["status"] == "success"


def test_a_target_is_down_and_then_prometheus_itself(run_module: ModuleRunner, watched: Watched) -> None:
    """The last one: it stops them."""
    watched.node.kill()
    watched.until("up{job='node'} == 0")
    report = look(watched, "scrape_targets", "memory_usage")
    assert [(check.id, check.status) for check in report.checks[1:]] == [
        ("metric.scrape_targets", "warning"),
        ("metric.memory_usage", "unknown"),
    ]
    watched.server.kill()
    result = run_module("prometheus_metric_info", {"prometheus_url": watched.url, "prometheus_attempts": 2})
    found = {item["id"]: item["status"] for item in result["checks"]}
    assert found.pop("prometheus.connection") == "critical" and set(found.values()) == {"unknown"}
    assert result["status"] == "critical" and result["checks"][0]["hint"]
