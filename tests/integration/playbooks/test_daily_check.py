# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The morning check on the lab: all well when it is, each fault in its place when not, and nothing hidden by it."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest

from tests.integration.playbooks.conftest import PlayedLab
from tests.lab.monitoring import Monitoring
from tests.lab.parts import Redis

SECTIONS = {
    "Disks",
    "Database",
    "Kubernetes",
    "Errors in the logs",
    "Queue",
    "Backups",
    "Key metrics",
    "Endpoint api",
    "Endpoint prometheus",
    "Certificate api.fileforge.test",
    "Certificate file api",
}
BUSY: dict[str, t.Any] = {
    "api_response_seconds": {"warning": 20, "critical": 30},
    "error_rate": {"warning": 0.01, "critical": 0.05},
    "queue_length": {"warning": 100, "critical": 1000},
    "cpu_usage": {"warning": 1.1, "critical": 1.2},
    "memory_usage": {"warning": 0.98, "critical": 0.99},
    "disk_usage": {"warning": 0.98, "critical": 0.99},
}
"""Limits for a machine that the tests keep busy; the queue and the errors have the runbook's."""
SKIP = ["Errors in the logs"]
"""Other tests cause errors in this lab, and the logs of a whole day remember them."""


def report(lab: PlayedLab) -> dict[str, t.Any]:
    content: dict[str, t.Any] = json.loads((lab.drill.layout.state / "reports" / "daily" / "latest" / "report.json").read_text())
    return content


def statuses(lab: PlayedLab) -> dict[str, str]:
    return {check["id"]: check["status"] for section in report(lab)["sections"] for check in section["checks"]}


@pytest.fixture(scope="module")
def prepared(lab: PlayedLab) -> PlayedLab:
    """What a platform that is looked after has: backups, one of them verified, and a certificate that clients trust."""
    for name in ("backup", "backup-verify", "cert-renewal"):
        lab.play_well(name)
    return lab


def test_check_mode_looks_and_writes_nothing(prepared: PlayedLab) -> None:
    looked = prepared.play("daily-check", check=True, daily_check_thresholds=BUSY)
    assert looked.changed() == 0
    assert "FileForge daily check:" in looked.output
    assert not (prepared.drill.layout.state / "reports" / "daily").exists()
    assert not (prepared.drill.layout.state / "disks").exists()


def test_everything_of_the_runbook_is_looked_at_and_well(prepared: PlayedLab) -> None:
    prepared.play("daily-check", daily_check_thresholds=BUSY)
    assert {section["name"] for section in report(prepared)["sections"]} == SECTIONS
    bad = {check["id"]: check["summary"] for check in report(prepared)["problems"] if not check["id"].startswith("kube.")}
    assert not bad, "a lab that is well"
    second = prepared.play_well("daily-check", daily_check_thresholds=BUSY, daily_check_skip=SKIP)
    assert second.changed() == 0
    for host in ("db1", "app1"):
        history = json.loads((prepared.drill.layout.state / "disks" / f"{host}.json").read_text())
        assert history["samples"]["/"], "how full the disks are is kept"
    metrics = prepared.drill.lab.part(Monitoring).textfiles / "fileforge.prom"
    assert 'check="backup.rpo"' in metrics.read_text()


def test_a_server_that_is_down_hides_nothing_and_fails_the_run(prepared: PlayedLab) -> None:
    redis = prepared.drill.lab.part(Redis)
    redis.stop()
    try:
        failed = prepared.play("daily-check", daily_check_thresholds=BUSY, daily_check_skip=SKIP)
    finally:
        redis.start()
    assert failed.returncode != 0
    found = statuses(prepared)
    assert found["redis.connection"] == "critical"
    assert found["celery.workers"] == "unknown", "what was not looked at is not well"
    assert found["endpoint.api.health"] == "critical"
    assert found["postgres.connections"] == found["disk.usage"] == found["certificate.api-fileforge-test.expiry"] == "ok"
    assert {"redis.connection", "endpoint.api.health"} <= {check["id"] for check in report(prepared)["problems"] if check["hint"]}


def test_a_host_that_is_not_reached_is_told(prepared: PlayedLab, place: Path) -> None:
    inventory = place / "nowhere.yml"
    nowhere = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}
    inventory.write_text(json.dumps({"all": {"hosts": {"nowhere": nowhere}}}))
    request = {"daily_check_thresholds": BUSY, "daily_check_skip": SKIP, "database_hosts": "nowhere"}
    lost = prepared.play("daily-check", "-i", str(inventory), **request)
    assert lost.changed() == 0
    found = {(section["host"], section["name"]): section["status"] for section in report(prepared)["sections"]}
    assert found["nowhere", "Database"] == found["nowhere", "Disks"] == "unknown"
    assert found["app1", "Queue"] != "unknown", "its workers may still be coming back from the test before"
