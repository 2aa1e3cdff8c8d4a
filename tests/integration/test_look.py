# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many modules at the same time through Ansible: good, broken and stuck ones side by side."""

from __future__ import annotations

import http.server
import sys
import threading
import typing as t

import pytest

from tests.integration.conftest import ModuleRunner


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers at once, or never."""

    stuck = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/stuck":
            self.stuck.wait(60)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Nothing to say."""


@pytest.fixture
def address() -> t.Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    Handler.stuck.set()
    server.shutdown()
    thread.join()
    server.server_close()


def probe(name: str, url: str, **options: t.Any) -> dict[str, t.Any]:
    return {"name": name, "module": "fileforge.ops.http_probe_info", "args": {"url": url, "probes": 1, "required": 1}, **options}


def test_a_broken_probe_does_not_hide_the_others(run_module: ModuleRunner, address: str) -> None:
    stuck = {"url": f"{address}/stuck", "probes": 1, "required": 1, "timeout": 50}
    probes = [
        probe("good", f"{address}/good"),
        probe("bad options", address, args={"url": address, "probes": 0}),
        probe("no module", address, module="fileforge.ops.nothing_info"),
        {"name": "stuck", "module": "fileforge.ops.http_probe_info", "args": stuck, "timeout": 2.0},
        probe("good too", f"{address}/good"),
    ]
    for check, interpreter in ((True, "/usr/bin/python3"), (False, sys.executable)):  # on a host, and in Ansible's own process
        looked = run_module("look", {"probes": probes}, check=check, interpreter=interpreter)
        assert not looked["changed"]
        assert [result["name"] for result in looked["results"]] == [item["name"] for item in probes]
        results = {result["name"]: result["result"] for result in looked["results"]}
        assert results["good"]["status"] == results["good too"]["status"] == "ok"
        assert results["bad options"]["failed"] and "probes (0)" in results["bad options"]["msg"]
        assert results["no module"]["failed"] and "nothing_info" in results["no module"]["msg"]
        assert results["stuck"]["msg"] == "no answer within 2 s"

    reported = run_module("operations_report", {"results": looked["results"], "fail_on": "never"})
    assert {check["id"]: check["status"] for check in reported["checks"]}["stuck.probe"] == "unknown"


def test_what_could_change_something_is_refused_before_anything_runs(run_module: ModuleRunner, address: str) -> None:
    probes = [probe("good", address), probe("bad", address, module="ansible.builtin.command")]
    refused = run_module("look", {"probes": probes}, expect_failure=True)
    assert "probes[1].module" in refused["msg"] and "results" not in refused
