# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The penetration test on the lab: one report of what is exposed and what people have to do; their record is theirs."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

from tests.integration.playbooks.conftest import PlayedLab


def report(lab: PlayedLab) -> dict[str, t.Any]:
    content: dict[str, t.Any] = json.loads((lab.drill.layout.state / "reports/penetration/latest/report.json").read_text())
    return content


def checks(lab: PlayedLab) -> dict[str, dict[str, t.Any]]:
    return {f"{check['id']} {check['subject']}": check for section in report(lab)["sections"] for check in section["checks"]}


def record(lab: PlayedLab) -> Path:
    [path] = (lab.drill.layout.state / "penetration").glob("*.yml")
    return path


def test_one_report_and_a_record_that_is_kept(lab: PlayedLab) -> None:
    looked = lab.play_well("penetration-test", check=True)
    assert looked.changed() == 1 and not (lab.drill.layout.state / "penetration").exists()
    assert "object-access" in looked.output, "the diff shows the new record"

    first = lab.play_well("penetration-test")
    assert first.changed() == 1 and "FileForge penetration test:" in first.output
    found = checks(lab)
    assert set(found) == {f"exposure.{area} api" for area in ("ports", "tls", "headers", "paths")} | {
        "penetration.item scope",
        "penetration.item object-access",
    }
    assert found["exposure.ports api"]["status"] == "ok" and found["exposure.tls api"]["status"] == "ok"
    assert found["exposure.headers api"]["status"] == "warning" and "header" in found["exposure.headers api"]["hint"]

    written = record(lab).read_text().replace("  status: open", "  status: done", 1)
    record(lab).write_text(written)
    second = lab.play_well("penetration-test")
    assert second.changed() == 0 and record(lab).read_text() == written
    assert checks(lab)["penetration.item scope"]["status"] == "warning", "done, but nothing shows it"


def test_a_damaged_record_hides_nothing(lab: PlayedLab) -> None:
    lab.play_well("penetration-test")
    before = record(lab).read_text()
    record(lab).write_text("- id: [\n")
    failed = lab.play("penetration-test", penetration_test_fail_on="warning")
    assert failed.returncode != 0 and record(lab).read_text() == "- id: [\n"
    found = checks(lab)
    assert found["record.probe "]["status"] == "unknown" and "not YAML" in found["record.probe "]["summary"]
    assert found["exposure.tls api"]["status"] == "ok"
    record(lab).write_text(before)
