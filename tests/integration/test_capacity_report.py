# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Months in a real Prometheus, asked and continued through Ansible: the day on which a disk is full is the day it will be."""

from __future__ import annotations

import datetime
import json
import math
import shutil
import subprocess
import time
import typing as t
import uuid
from pathlib import Path

import pytest

from tests.integration.conftest import ModuleRunner
from tests.lab.daemon import Daemon, wait_until
from tests.lab.monitoring import answers
from tests.lab.ports import free_port

DAY = 86400
DAYS = 60
RESOURCES = [
    {"name": "disk", "title": "Disks", "metric": "disk", "unit": "ratio", "limit": 0.9, "hint": "order more room"},
    {"name": "database", "title": "Database", "check": "*/postgres.size.database", "unit": "bytes", "limit": 100 * 1024**3},
]


def used(mount: str, day: float) -> float:
    """How full a disk was ``day`` days ago: one grows by a percent a day and swings every day, the other was cleaned up once."""
    swing = 0.02 * math.sin(2 * math.pi * day)
    return 0.7 - 0.01 * day + swing if mount == "/srv" else 0.4 + (0.2 if day > 40 else 0.0) + swing


@pytest.fixture(scope="module")
def past(session_place: Path) -> t.Iterator[str]:
    """The URL of a Prometheus that has sixty days of two disks."""
    place = session_place / f"past-{uuid.uuid4().hex[:6]}"
    place.mkdir()
    end = int(time.time())
    lines = ["# TYPE disk gauge"]
    for mount in ("/", "/srv"):
        for seconds in range(DAYS * DAY, 0, -240):
            lines.append(f'disk{{mountpoint="{mount}"}} {used(mount, seconds / DAY):.6f} {end - seconds}')
    source = place / "past.om"
    source.write_text("\n".join([*lines, "# EOF", ""]))
    blocks = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=2000h", "--quiet"]
    subprocess.run([*blocks, str(source), str(place / "data")], check=True, timeout=120, stdout=subprocess.DEVNULL)
    configuration, port = place / "prometheus.yml", free_port()
    configuration.write_text("{}\n")
    server = Daemon("past", place)
    argv = ["prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={place / 'data'}", "--log.level=warn"]
    argv += ["--storage.tsdb.retention.time=1y", f"--web.listen-address=127.0.0.1:{port}"]
    try:
        server.start(argv)
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/-/ready"), 30, "prometheus to be ready")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def asked(run_module: ModuleRunner, past: str) -> dict[str, t.Any]:
    """What Prometheus says of the disks, a point a day."""
    query = {"name": "disk", "query": "disk", "range_seconds": DAYS * DAY, "step_seconds": DAY}
    return run_module("prometheus_metric_info", {"prometheus_url": past, "metrics": [], "queries": [query]})


def history(place: Path) -> Path:
    """What reports kept: a database that grows by a GiB a day."""
    now = datetime.datetime.now(datetime.timezone.utc)
    path = place / "history.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {
                    "time": (now - datetime.timedelta(days=day)).isoformat(timespec="microseconds"),
                    "status": "ok",
                    "checks": {"db1/postgres.size.database": ["ok", (50 - day) * 1024**3], "db1/postgres.role": ["ok", None]},
                }
            )
            + "\n"
            for day in range(30, -1, -1)
        )
    )
    return path


def test_check_real_and_second_run(run_module: ModuleRunner, place: Path, asked: dict[str, t.Any]) -> None:
    directory = place / "capacity"
    options = {
        "results": [{"name": "Prometheus", "host": "app1", "result": asked}],
        "histories": [str(history(place)), str(place / "not-yet.jsonl")],
        "resources": RESOURCES,
        "directory": str(directory),
        "fail_on": "never",
    }
    looked = run_module("capacity_report", options, check=True)
    assert not looked["changed"] and looked["files"] == {} and not directory.exists()

    first = run_module("capacity_report", options)
    assert not first["changed"] and {key: looked[key] for key in ("status", "counts")} == {
        key: first[key] for key in ("status", "counts")
    }
    srv, root, database = first["forecasts"]
    assert (srv["subject"], root["subject"]) == ("mountpoint=/srv", "mountpoint=/")
    assert srv["check"]["status"] == "critical" and srv["check"]["value"] == pytest.approx(20, abs=1.5), srv["check"]
    full = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=srv["check"]["value"])).date()
    assert str(full) in srv["check"]["summary"] and srv["check"]["hint"] == "order more room"
    assert root["check"]["status"] == "ok" and root["check"]["value"] is None, "a clean-up is no growth"
    assert database["check"]["value"] == pytest.approx(50, abs=0.2) and database["trend"]["slope"] == pytest.approx(
        1024**3, rel=1e-3
    )
    page = Path(first["files"]["report.html"]).read_text()
    assert page.count('<svg class="plot"') == 3 and page.count('class="past"') == 3 and "order more room" in page
    kept = json.loads((directory / "latest" / "report.json").read_text())
    assert kept["forecasts"] == json.loads(json.dumps(first["forecasts"])) and 55 <= len(srv["points"]) <= 61

    second = run_module("capacity_report", options)
    assert not second["changed"] and len((directory / "history.jsonl").read_text().splitlines()) == 2


def test_a_limit_that_comes_near_fails_the_run_after_it_was_written(
    run_module: ModuleRunner, place: Path, asked: dict[str, t.Any]
) -> None:
    options = {
        "results": [{"name": "Prometheus", "result": asked}],
        "resources": RESOURCES[:1],
        "directory": str(place / "capacity"),
    }
    failed = run_module("capacity_report", options, expect_failure=True)
    assert "1 critical of 3 checks" in failed["msg"] and Path(failed["files"]["report.html"]).exists()


def test_what_could_not_be_asked_is_unknown(run_module: ModuleRunner, place: Path) -> None:
    query = {"name": "disk", "query": "disk", "range_seconds": DAY, "step_seconds": 60}
    nowhere = {"prometheus_url": f"http://127.0.0.1:{free_port()}", "metrics": [], "queries": [query]}
    looked = run_module("prometheus_metric_info", nowhere)
    found = run_module(
        "capacity_report", {"results": [{"name": "Prometheus", "result": looked}], "resources": RESOURCES, "fail_on": "never"}
    )
    assert {check["id"]: check["status"] for check in found["checks"]} == {
        "capacity.disk": "unknown",
        "capacity.database": "unknown",
        "prometheus.connection": "critical",
    }
    broken = run_module("capacity_report", {"resources": [{"name": "disk", "limit": 1}]}, expect_failure=True)
    assert "resources.disk" in broken["msg"] and "either metric or check" in broken["msg"]
