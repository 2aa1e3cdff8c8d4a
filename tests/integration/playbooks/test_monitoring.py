# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Monitoring as code on the lab: rules that fire when they should, dashboards whose every question Prometheus understands."""

from __future__ import annotations

import json
import re
import subprocess
import typing as t
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.integration.playbooks.conftest import PlayedLab
from tests.lab.daemon import wait_until
from tests.lab.monitoring import Monitoring

DASHBOARDS = ("overview", "api", "workers", "database", "storage")
BUILT_IN = {"__rate_interval", "__interval", "__range"}


@pytest.fixture(scope="module")
def installed(lab: PlayedLab) -> t.Iterator[PlayedLab]:
    """The lab with rules and dashboards, and a report whose metrics are exported; both gone afterwards."""
    monitoring = lab.drill.lab.part(Monitoring)
    predicted = lab.play_well("monitoring", check=True)
    assert not list(monitoring.rules.iterdir()) and not list(monitoring.dashboards.iterdir()), "check mode wrote"
    done = lab.play_well("monitoring")
    assert predicted.changed() == 2, "rules and dashboards"
    assert done.changed() == predicted.changed(), "check mode predicts the run"
    assert len(list(monitoring.dashboards.iterdir())) == len(DASHBOARDS)
    assert lab.play_well("monitoring").changed() == 0
    yield lab
    for path in [*monitoring.rules.iterdir(), *monitoring.dashboards.iterdir()]:
        path.unlink()
    monitoring.reload()


def rules_file(lab: PlayedLab) -> Path:
    return lab.drill.lab.part(Monitoring).rules / "fileforge.yml"


def alerts(lab: PlayedLab) -> dict[str, dict[str, t.Any]]:
    groups = yaml.safe_load(rules_file(lab).read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def panels(lab: PlayedLab) -> list[tuple[str, dict[str, t.Any]]]:
    found = []
    for name in DASHBOARDS:
        dashboard = json.loads((lab.drill.lab.part(Monitoring).dashboards / f"fileforge-{name}.json").read_text())
        found += [(f"{name}: {panel['title']}", panel) for panel in dashboard["panels"]]
    return found


def test_prometheus_has_read_the_rules(installed: PlayedLab) -> None:
    with urllib.request.urlopen(f"{installed.facts['prometheus']['url']}/api/v1/rules", timeout=10) as answer:
        groups = json.load(answer)["data"]["groups"]
    loaded = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
    assert set(loaded) == set(alerts(installed))
    assert "err" not in loaded.values()


def test_every_limit_of_the_runbook_has_an_alert(installed: PlayedLab) -> None:
    found = alerts(installed)
    limits = {"ApiResponseSeconds": (0.5, 1.0), "ErrorRate": (0.01, 0.05), "QueueLength": (100, 1000)}
    limits |= {"CpuUsage": (0.7, 0.9), "MemoryUsage": (0.8, 0.95), "DiskUsage": (0.8, 0.9)}
    for name, (warning, critical) in limits.items():
        for severity, limit in (("Warning", warning), ("Critical", critical)):
            rule = found[f"FileForge{name}{severity}"]
            assert float(rule["expr"].rpartition(") > ")[2]) == limit
            assert rule["labels"]["severity"] == severity.lower()
            assert re.search(r"runbook|playbooks/", rule["annotations"]["description"])


SERIES = {
    "queue over 100": ('fileforge_queue_length{queue="q"}', "150x30", "FileForgeQueueLengthWarning", {"severity": "warning"}),
    "queue over 1000": ('fileforge_queue_length{queue="q"}', "1500x30", "FileForgeQueueLengthCritical", {"severity": "critical"}),
    "target down": ('up{job="backend", instance="a"}', "0x30", "FileForgeTargetDown", {"severity": "critical"}),
    "memory": (
        ["node_memory_MemAvailable_bytes", "node_memory_MemTotal_bytes"],
        ["10x30", "100x30"],
        "FileForgeMemoryUsageWarning",
        {"severity": "warning"},
    ),
    "backup": (
        'fileforge_check_status{check="backup.rpo", status="critical", host="db1"}',
        "1x30",
        "FileForgeBackupCritical",
        {"severity": "critical"},
    ),
    "report": ("fileforge_report_time_seconds", "0x3000", "FileForgeReportMissing", {"severity": "warning"}),
}


def promtool(place: Path, lab: PlayedLab, series: list[dict[str, str]], alert: str, at: str) -> dict[str, t.Any]:
    """What promtool sees firing: an expectation that nothing fires, so that it lists what does."""
    test = {
        "rule_files": [str(rules_file(lab))],
        "evaluation_interval": "1m",
        "tests": [
            {"interval": "1m", "input_series": series, "alert_rule_test": [{"eval_time": at, "alertname": alert, "exp_alerts": []}]}
        ],
    }
    path = place / "rules-test.yml"
    path.write_text(yaml.safe_dump(test))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False, timeout=60)
    return {"fires": done.returncode != 0, "said": done.stdout + done.stderr}


@pytest.mark.parametrize("name", sorted(SERIES))
def test_alert_fires_when_it_should_and_not_before(installed: PlayedLab, place: Path, name: str) -> None:
    names, points, alert, labels = SERIES[name]
    pairs = zip(names, points) if isinstance(names, list) else [(names, points)]
    series = [{"series": series, "values": f"{point.partition('x')[0]}+0x{point.partition('x')[2]}"} for series, point in pairs]
    late = "28h" if name == "report" else "25m"
    fired = promtool(place, installed, series, alert, late)
    assert fired["fires"], fired["said"]
    assert all(f'{key}="{value}"' in fired["said"] for key, value in labels.items()), fired["said"]
    early = promtool(place, installed, series, alert, "0m")
    assert not early["fires"], early["said"]


def test_quiet_numbers_fire_nothing(installed: PlayedLab, place: Path) -> None:
    series = [{"series": 'fileforge_queue_length{queue="q"}', "values": "99+0x30"}, {"series": "up", "values": "1+0x30"}]
    for alert in ("FileForgeQueueLengthWarning", "FileForgeQueueLengthCritical", "FileForgeTargetDown"):
        quiet = promtool(place, installed, series, alert, "25m")
        assert not quiet["fires"], quiet["said"]
    assert promtool(place, installed, [], "FileForgeQueueLengthAbsent", "25m")["fires"], "nothing measured is an alert"


def work(lab: PlayedLab) -> None:
    """A request and a task, as users cause them."""
    import celery

    lab.drill.application.ask("/api/files")
    redis, uploads = lab.facts["redis"], lab.drill.layout.uploads
    upload = next(path for path in uploads.rglob("*") if path.is_file()).relative_to(uploads)
    with celery.Celery(broker=redis["url"]) as application:
        application.send_task("fileforge.checksum", [str(upload)], queue=redis["queue"], ignore_result=True)


def test_every_question_of_every_panel_runs_and_its_variables_resolve(installed: PlayedLab) -> None:
    monitoring = installed.drill.lab.part(Monitoring)
    questions = {}
    for name, panel in panels(installed):
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert set(re.findall(r"\$\{?(\w+)", target["expr"])) <= BUILT_IN, name
            questions[f"{name}, {target['refId']}"] = target["expr"].replace("$__rate_interval", "1m")
            monitoring.query(questions[f"{name}, {target['refId']}"])
    assert len(questions) > 25
    for name, expression in questions.items():
        if "fileforge_check" in expression or "fileforge_report" in expression or "Days until" in name:
            continue  # answered when a daily check has run, or when a disk fills

        def answered(expression: str = expression) -> bool:
            work(installed)
            return bool(monitoring.query(expression))

        wait_until(answered, 60, f"{name} to have an answer on a lab that is used", every=0.5)


def test_dashboards_are_laid_out_without_overlap(installed: PlayedLab) -> None:
    for name in DASHBOARDS:
        dashboard = json.loads((installed.drill.lab.part(Monitoring).dashboards / f"fileforge-{name}.json").read_text())
        assert dashboard["uid"] == name
        assert {entry["name"] for entry in dashboard["templating"]["list"]} == {"datasource"}
        cells = [
            (x, y)
            for panel in dashboard["panels"]
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        ]
        assert len(cells) == len(set(cells))
        assert max(x for x, _y in cells) < 24
        assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_a_rule_that_promtool_refuses_is_not_installed(installed: PlayedLab) -> None:
    before = rules_file(installed).read_text()
    refused = installed.play("monitoring", monitoring_thresholds={name: {"warning": "(", "critical": 1} for name in THRESHOLDS})
    assert refused.returncode != 0
    assert rules_file(installed).read_text() == before


THRESHOLDS = ("api_response_seconds", "error_rate", "queue_length", "cpu_usage", "memory_usage", "disk_usage")
