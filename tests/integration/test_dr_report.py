# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a recovery, through real Ansible: check mode, real run, second run, then what is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step

from tests.integration.plays import Playbook

HOSTILE = "<script>alert(1)</script>"


def arguments(place: Path, **changes: t.Any) -> dict[str, t.Any]:
    plan = Plan(f"Restore {HOSTILE}", [Step("replace", f"/srv/{HOSTILE}", bytes=5 << 30, destructive=True)], ["a note"])
    return {
        "evidence_directory": str(place / "evidence"),
        "title": f"Recovery {HOSTILE}",
        "plans": [plan.as_dict()],
        "phases": [
            {"step": "database", "phase": "fetch", "seconds": 100, "done": 10 << 30, "unit": "B"},
            {"step": "database", "phase": "replay", "seconds": 20, "done": 64, "unit": "segments"},
            {"step": "workloads", "phase": "rollout", "seconds": 30, "done": 2, "unit": "workloads"},
        ],
        "assertions": [{"name": f"marker {HOSTILE}", "ok": True, "detail": "seen"}],
        "disaster_time": "2026-11-23T14:05:00Z",
        "restored_time": "2026-11-23T14:10:00+00:00",
        "last_commit": "2026-11-23 14:04:30.5+00",
        "latest_archived_commit": "2026-11-23T14:01:00Z",
        **changes,
    }


def tree(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def test_check_real_and_second_run(place: Path, run_module: t.Any) -> None:
    given = arguments(place)
    checked = run_module("dr_report", given, check=True, diff=True)
    assert checked["changed"] is True
    assert not (place / "evidence").exists()
    real = run_module("dr_report", given, diff=True)
    assert real["changed"] is True
    assert {name: real[name] for name in ("report", "rto", "rpo", "checks", "diff")} == {
        name: checked[name] for name in ("report", "rto", "rpo", "checks", "diff")
    }
    before = tree(place / "evidence")
    again = run_module("dr_report", given, diff=True)
    assert again["changed"] is False
    assert again["diff"]["before"] == again["diff"]["after"]
    assert tree(place / "evidence") == before
    assert os.readlink(place / "evidence/latest") == real["report"]["run_id"]
    assert real["evidence_files"] == [real["report"][kind] for kind in ("json", "markdown", "html")]
    report = json.loads(Path(real["report"]["json"]).read_text())
    assert report["rto"]["seconds"] == 300
    assert report["rpo"]["seconds"] == 29.5
    assert report["archive_rpo"]["seconds"] == 240
    assert report["status"] == real["status"] == "ok"
    # 300 s of RTO: 100 fetch, 20 replay, 180 the rest; 10 GiB in 100 s
    assert report["forecast"]["largest_database_bytes"] == int((10 << 30) / 100 * (14400 - 180 - 20))
    assert report["forecast"]["largest_wal_backlog_bytes"] == int((64 << 24) / 20 * (14400 - 180 - 100))


def test_the_page_needs_nothing_and_escapes_everything(place: Path, run_module: t.Any) -> None:
    done = run_module("dr_report", arguments(place))
    page = Path(done["report"]["html"]).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.search(r"(?:src|href)\s*=|url\(|@import|http-equiv=.refresh", page)
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    prose = [line for line in Path(done["report"]["markdown"]).read_text().splitlines() if not line.startswith("    ")]
    assert "<script" not in "\n".join(prose)


def test_missed_objectives_and_failed_assertions_are_critical_but_no_failure(place: Path, run_module: t.Any) -> None:
    done = run_module(
        "dr_report", arguments(place, rto=200, rpo=10, assertions=[{"name": "a", "ok": True}, {"name": "b", "ok": False}])
    )
    assert done["status"] == "critical"
    assert {check["id"]: check["status"] for check in done["checks"]} == {
        "dr.rto": "critical",
        "dr.rpo": "critical",
        "dr.rpo_archive": "critical",
        "dr.assertions": "critical",
    }
    assert done["rto"]["met"] is False
    assert done["forecast"]["largest_database_bytes"] == 0


def test_what_is_not_known_is_unknown(place: Path, run_module: t.Any) -> None:
    done = run_module("dr_report", {"evidence_directory": str(place / "evidence"), "target_time": "latest"})
    assert {check["id"]: check["status"] for check in done["checks"]} == {
        "dr.rto": "unknown",
        "dr.rpo": "unknown",
        "dr.assertions": "unknown",
    }
    assert done["forecast"]["largest_database_bytes"] is None
    assert done["forecast"]["largest_wal_backlog_bytes"] is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"disaster_time": "2026-11-23T14:05:00"}, "offset"),
        ({"disaster_time": "yesterday"}, "not a date"),
        ({"run_id": "../elsewhere"}, "run_id"),
        ({"run_id": "latest"}, "run_id"),
        ({"rto": 0}, "above zero"),
        ({"journal": "/nonexistent/journal.jsonl"}, "/nonexistent/journal.jsonl: No such file"),
        ({"phases": [{"phase": "fetch", "seconds": -1}]}, "negative"),
    ],
)
def test_unusable_options_are_refused(place: Path, run_module: t.Any, changes: dict[str, t.Any], said: str) -> None:
    failed = run_module("dr_report", arguments(place, **changes), expect_failure=True)
    assert said in failed["msg"]
    assert not (place / "evidence").exists()


def test_a_place_that_cannot_be_written_is_named(place: Path, run_module: t.Any) -> None:
    (place / "evidence").write_text("a file")
    failed = run_module("dr_report", arguments(place), expect_failure=True)
    assert str(place / "evidence") in failed["msg"]
    assert failed["code"] == "evidence"


def report_play(place: Path, **changes: t.Any) -> Playbook:
    given = arguments(place, journal="{{ lookup('env', 'FILEFORGE_JOURNAL') }}", run_id="run-1", **changes)
    twice = {"fileforge.ops.dr_report": given, "register": "outcome"}
    tasks = [
        {"name": "Work", "ansible.builtin.command": "true"},
        {"name": "Report", **twice, "register": "first"},
        {"name": "Report again", **twice},
    ]
    return Playbook(place, tasks, journal=True)


def test_the_journal_of_the_running_play_is_verified_and_does_not_break_idempotence(place: Path) -> None:
    playbook = report_play(place)
    ended = playbook.run()
    assert ended.rc == 0, ended.output
    assert ended.registered["changed"] is False
    section = json.loads((place / "evidence/latest/report.json").read_text())["journal"]
    assert section["ok"] is True
    assert [step["task"] for step in section["steps"]] == ["Work"]
    lines = playbook.journal_files()[0].read_text().splitlines()
    assert json.loads(lines[section["lines"] - 1])["hash"] == section["head"]


def test_an_altered_journal_is_critical(place: Path, run_module: t.Any) -> None:
    playbook = report_play(place)
    assert playbook.run().rc == 0
    path = playbook.journal_files()[0]
    path.write_text(path.read_text().replace('"task":"Work"', '"task":"Rest"', 1))
    done = run_module("dr_report", arguments(place, journal=str(path), run_id="run-2"))
    found = {check["id"]: check for check in done["checks"]}["dr.journal"]
    assert found["status"] == "critical"
    assert "line 3" in found["summary"]


def test_it_runs_with_the_oldest_python_there_is(place: Path, run_module: t.Any) -> None:
    for interpreter in ("/usr/bin/python3", sys.executable):
        version = subprocess.run([interpreter, "-V"], capture_output=True, text=True, check=True).stdout
        done = run_module("dr_report", arguments(place, run_id=version.split()[1]), interpreter=interpreter)
        assert done["changed"] is True
