# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Capacity planning on the lab: every resource is continued and drawn, a limit that is passed fails the run, nothing is changed."""

from __future__ import annotations

import json
import typing as t

from tests.integration.playbooks.conftest import PlayedLab
from tests.lab.daemon import wait_until
from tests.lab.monitoring import Monitoring


def report(lab: PlayedLab) -> dict[str, t.Any]:
    content: dict[str, t.Any] = json.loads((lab.drill.layout.state / "reports/capacity/latest/report.json").read_text())
    return content


def test_limits_are_foretold_and_nothing_is_changed(lab: PlayedLab) -> None:
    monitoring = lab.drill.lab.part(Monitoring)
    old = "count_over_time(fileforge_queue_length[60s]) > 12"
    wait_until(lambda: monitoring.query(old), 60, "Prometheus to know half a minute")
    directory = lab.drill.layout.state / "reports" / "capacity"
    looked = lab.play_well("capacity-planning", check=True)
    assert looked.changed() == 0 and "FileForge capacity planning:" in looked.output and not directory.exists()

    first = lab.play_well("capacity-planning")
    assert first.changed() == 0
    found = {forecast["name"]: forecast for forecast in report(lab)["forecasts"]}
    assert set(found) == {"disk", "memory", "requests", "queue", "database"}
    for name in ("disk", "memory", "requests", "queue"):
        assert found[name]["check"]["status"] == "ok" and found[name]["trend"], found[name]["check"]
    page = (directory / "latest" / "report.html").read_text()
    assert page.count('<svg class="plot"') >= 4

    small = [{"name": "memory", "title": "Memory", "metric": "memory", "unit": "ratio", "limit": 0.001, "hint": "order more"}]
    failed = lab.play("capacity-planning", capacity_planning_resources=small)
    assert failed.returncode != 0 and "over its limit of 0.1 %" in failed.output and failed.changed() == 0


def test_a_prometheus_that_does_not_answer_fails_the_run(lab: PlayedLab) -> None:
    failed = lab.play("capacity-planning", capacity_planning_prometheus={"prometheus_url": "http://127.0.0.1:9"})
    assert failed.returncode != 0
    found = {check["id"]: check["status"] for section in report(lab)["sections"] for check in section["checks"]}
    assert found["prometheus.connection"] == "critical" and found["capacity.disk"] == "unknown"
