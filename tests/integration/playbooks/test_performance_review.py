# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The weekly review on the lab: a slow statement and the time of tasks are named, and nothing is changed."""

from __future__ import annotations

import json
import typing as t

import pytest

from tests.integration.playbooks.conftest import PlayedLab
from tests.lab.daemon import wait_until
from tests.lab.monitoring import Monitoring
from tests.lab.parts import Postgres

SECTIONS = {"Latency, errors, tasks and nodes", "Statements", "Table sizes", "Database"}
TASKS = "fileforge_task_duration_seconds_count"


def report(lab: PlayedLab) -> dict[str, t.Any]:
    content: dict[str, t.Any] = json.loads((lab.drill.layout.state / "reports/performance/latest/report.json").read_text())
    return content


def checks(lab: PlayedLab) -> dict[str, dict[str, t.Any]]:
    return {check["id"]: check for section in report(lab)["sections"] for check in section["checks"]}


@pytest.fixture(scope="module")
def busy(lab: PlayedLab) -> t.Iterator[PlayedLab]:
    """The lab with a slow statement, and tasks that Prometheus has seen."""
    cluster = lab.drill.lab.part(Postgres).cluster
    cluster.execute("CREATE FUNCTION slow_report() RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(1)'", "fileforge")
    for _number in range(5):
        cluster.execute("SELECT slow_report()", "fileforge")
    monitoring = lab.drill.lab.part(Monitoring)
    wait_until(lambda: monitoring.query(TASKS), 30, "Prometheus to know the tasks before there are any")
    send_tasks(lab, 3)
    seen = f"sum(increase({TASKS}[30s])) > 0"
    wait_until(lambda: monitoring.query(seen), 30, "Prometheus to see tasks")
    yield lab
    cluster.execute("DROP FUNCTION slow_report()", "fileforge")


def send_tasks(lab: PlayedLab, count: int) -> None:
    """As the application does."""
    import celery

    broker = lab.facts["redis"]["url"]
    path = lab.drill.lab.part(Postgres).cluster.execute("SELECT path FROM files ORDER BY id LIMIT 1", "fileforge")[0][0]
    with celery.Celery(broker=broker) as application:
        application.conf.task_default_queue = lab.facts["redis"]["queue"]
        for _number in range(count):
            application.send_task("fileforge.checksum", (path,), ignore_result=True)


def test_the_week_is_reviewed_and_nothing_is_changed(busy: PlayedLab) -> None:
    state = busy.drill.layout.state
    looked = busy.play_well("performance-review", check=True)
    assert looked.changed() == 0 and "FileForge performance review:" in looked.output
    assert not (state / "reports" / "performance").exists() and not (state / "statements.json").exists()

    first = busy.play_well("performance-review")
    assert first.changed() == 0 and "slow_report()" in first.output, "what needs action is told"
    found = checks(busy)
    assert {section["name"] for section in report(busy)["sections"]} == SECTIONS
    slowest = found["statements.slowest"]
    assert slowest["status"] == "warning" and "slow_report()" in slowest["summary"] and "EXPLAIN" in slowest["hint"]
    assert found["statements.collection"]["status"] == "ok" and found["statements.regressions"]["status"] == "unknown"
    for name in (
        "latency_p50",
        "latency_p95",
        "latency_p99",
        "latency_p95_by_handler",
        "error_rate",
        "task_p95",
        "cpu_p95",
        "memory_p95",
    ):
        assert found[f"metric.{name}"]["value"] is not None, found[f"metric.{name}"]
    assert "task=fileforge.checksum" in found["metric.task_p95"]["summary"]
    assert "handler=" in found["metric.latency_p95_by_handler"]["summary"]
    assert "postgres.vacuum_debt" in found and "postgres.indexes.unused" in found and "tables.sequential_scans" in found

    second = busy.play_well("performance-review", performance_review_skip=["Table sizes", "Database"])
    assert second.changed() == 0
    found = checks(busy)
    assert found["statements.regressions"]["status"] == "ok", "the review before is remembered"
    assert "slow_report()" not in found["statements.slowest"]["summary"], "nobody called it since"


def test_a_series_that_is_absent_is_unknown(busy: PlayedLab) -> None:
    series = {**dict.fromkeys(("latency", "requests", "failures", "tasks"), 'nothing{job="x"}'), "node": 'job="x"'}
    skip = ["Statements", "Table sizes", "Database"]
    failed = busy.play(
        "performance-review",
        performance_review_series=series,
        performance_review_skip=skip,
        performance_review_fail_on="warning",
    )
    assert failed.returncode != 0
    assert {check["status"] for name, check in checks(busy).items() if name.startswith("metric.")} == {"unknown"}
