# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record through Ansible: check mode, real run, second run, then what people do to it."""

from __future__ import annotations

import typing as t
from pathlib import Path

from tests.integration.conftest import ModuleRunner

FIRST = {"id": "object-access", "task": "Read files of another user", "owner": "Security", "scope": ["api"]}
SECOND = {"id": "uploads", "task": "Upload what is not allowed", "owner": "Platform", "due_days": 0}


def options(place: Path, *checklist: dict[str, t.Any]) -> dict[str, t.Any]:
    return {"directory": str(place / "records"), "quarter": "2026-Q4", "checklist": list(checklist)}


def test_check_real_and_second_run_and_what_people_write(run_module: ModuleRunner, place: Path) -> None:
    path = place / "records" / "2026-Q4.yml"
    looked = run_module("penetration_record", options(place, FIRST), check=True)
    assert looked["changed"] and not path.exists()
    first = run_module("penetration_record", options(place, FIRST))
    assert first["changed"] and path.read_text() == looked["diff"]["after"] and first["status"] == "ok"
    assert not run_module("penetration_record", options(place, FIRST))["changed"]

    written = path.read_text().replace("status: open", "status: done  # by two of us").replace("notes: ''", "notes: nothing found")
    path.write_text(written)
    extended = run_module("penetration_record", options(place, FIRST, SECOND))
    assert extended["changed"] and path.read_text().startswith(written), "what people wrote stays"
    assert [(check["subject"], check["status"]) for check in extended["checks"]] == [
        ("object-access", "warning"),
        ("uploads", "ok"),
    ]
    assert "nothing shows it" in extended["checks"][0]["summary"] and extended["entries"][1]["owner"] == "Platform"
    assert not run_module("penetration_record", options(place, SECOND))["changed"], "what the checklist no longer has stays, too"


def test_a_damaged_record_is_named_and_left(run_module: ModuleRunner, place: Path) -> None:
    path = place / "records" / "2026-Q4.yml"
    path.parent.mkdir()
    path.write_text("- id: scope\n  task: [\n")
    failed = run_module("penetration_record", options(place, FIRST), expect_failure=True)
    assert str(path) in failed["msg"] and "not YAML" in failed["msg"] and path.read_text() == "- id: scope\n  task: [\n"
    wrong = run_module("penetration_record", {**options(place, FIRST), "quarter": "Q4"}, expect_failure=True)
    assert "quarter" in wrong["msg"] and "2026-Q4" in wrong["msg"] + wrong["hint"]
