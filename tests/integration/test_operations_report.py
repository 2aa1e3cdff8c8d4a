# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of checks through Ansible: what is written, what a second run adds, and what a failed look becomes."""

from __future__ import annotations

import json
import sys
import typing as t
from pathlib import Path

from tests.integration.conftest import ModuleRunner

FORMS = ["json", "text", "markdown", "html", "junit", "prometheus", "nagios"]
HOSTS_OWN = "/usr/bin/python3"
"""With it the module runs as on any host; with Ansible's own, in Ansible's process."""


def check(status: str, value: float = 1) -> dict[str, t.Any]:
    return {"id": "area.name", "status": status, "summary": f"it is {status}", "value": value, "hint": "playbooks/x.yml"}


def results(*statuses: str) -> list[dict[str, t.Any]]:
    return [{"name": "Area", "host": "app1", "result": {"checks": [check(status)]}} for status in statuses]


def test_check_real_and_second_run(run_module: ModuleRunner, place: Path) -> None:
    directory = place / "reports"
    options = {"directory": str(directory), "formats": FORMS, "results": results("ok", "warning"), "title": "Morning"}
    fewer = {**options, "formats": [form for form in FORMS if form != "prometheus"]}  # whose library a host may lack
    looked = run_module("operations_report", fewer, check=True, interpreter=HOSTS_OWN)
    assert not looked["changed"] and looked["files"] == {} and not directory.exists()
    assert looked["status"] == "warning" and "Morning: WARNING" in looked["text"]

    first = run_module("operations_report", options)
    assert not first["changed"]
    assert sorted(first["files"]) == sorted(f"report.{end}" for end in ("json", "txt", "md", "html", "xml", "prom", "nagios"))
    assert all(Path(path).stat().st_size for path in first["files"].values())
    assert (directory / "latest" / "report.txt").read_text() == looked["text"].replace(
        looked["text"].splitlines()[1], first["text"].splitlines()[1]
    )

    second = run_module("operations_report", {**options, "results": results("critical", "warning"), "fail_on": "never"})
    assert [item["now"] for item in second["changes"]["worse"]] == ["critical"]
    assert len((directory / "history.jsonl").read_text().splitlines()) == 2
    assert json.loads((directory / "latest" / "report.json").read_text())["status"] == "critical"
    assert (second["nagios_code"], second["counts"]["critical"]) == (2, 1)


def test_exit_policy_fails_after_everything_was_written(run_module: ModuleRunner, place: Path) -> None:
    broken = [*results("ok"), {"name": "Queue", "result": {"failed": True, "msg": "connection refused"}}]
    options = {"directory": str(place / "reports"), "results": broken, "textfile": str(place / "checks.prom")}
    passed = run_module("operations_report", options)
    assert (passed["status"], passed["failed"]) == ("unknown", False)
    failed = run_module("operations_report", {**options, "fail_on": "warning"}, expect_failure=True)
    assert "1 unknown of 2 checks" in failed["msg"]
    assert Path(failed["files"]["report.html"]).exists()
    assert 'check="queue.probe"' in (place / "checks.prom").read_text()


def test_refusals_write_nothing(run_module: ModuleRunner, place: Path) -> None:
    options = {
        "directory": str(place / "reports"),
        "results": [{"name": "x", "result": {"checks": [{"id": "a", "status": "good"}]}}],
    }
    for interpreter in (HOSTS_OWN, sys.executable):
        refused = run_module("operations_report", options, expect_failure=True, interpreter=interpreter)
        assert "results[0].checks" in refused["msg"] and "ok, warning, unknown, critical" in refused["msg"]
    assert not (place / "reports").exists()
