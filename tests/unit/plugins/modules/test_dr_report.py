# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around the report: its options reach the facts, its documentation is its argument spec."""

from __future__ import annotations

import typing as t

import pytest
import yaml
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.modules import dr_report as module


def params(**changes: t.Any) -> dict[str, t.Any]:
    defaults = {name: option.get("default") for name, option in module.arguments().items()}
    return {**defaults, "evidence_directory": "/tmp/x", **changes}


def test_every_option_reaches_the_facts() -> None:
    time = "2026-11-23T14:05:00+00:00"
    given: dict[str, t.Any] = {
        "title": "Drill",
        "plans": [{"title": "a"}],
        "phases": [{"step": "s", "phase": "fetch", "seconds": 1.5, "done": 3.0, "unit": "B"}],
        "assertions": [{"name": "a", "ok": True, "detail": ""}],
        "rto": 60,
        "rpo": 30,
        "database_bytes": 5,
        "wal_segment_size": 7,
        "fetch_phases": ["a"],
        "replay_phases": ["b"],
        **dict.fromkeys(module.TIMES, time),
    }
    assert set(given) | {"evidence_directory", "run_id", "journal", "evidence_files"} == set(module.arguments())
    facts = module.facts_of(params(**given, evidence_files=["/nonexistent"])).as_dict()
    expected = {**given, "fetch_phases": ("a",), "replay_phases": ("b",)}
    expected.update(dict.fromkeys(module.TIMES, "2026-11-23T14:05:00.000000+00:00"))
    expected["files"] = [{"path": "/nonexistent", "error": "No such file or directory"}]
    assert facts == expected
    assert isinstance(facts["phases"][0]["done"], int)


def test_documentation_is_the_argument_spec() -> None:
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    spec = module.arguments()
    assert set(documented) == set(spec)
    for name, option in spec.items():
        assert documented[name]["type"] == option["type"], name
        assert documented[name].get("default") == option.get("default"), name
        assert set(documented[name].get("suboptions", {})) == set(option.get("options", {})), name


@pytest.mark.parametrize(
    "changes",
    [
        {"rto": 0},
        {"rpo": -1},
        {"wal_segment_size": 0},
        {"phases": [{"phase": "x", "seconds": -1.0, "done": 0.0, "unit": ""}]},
        {"phases": [{"phase": "x", "seconds": 1.0, "done": -2.0, "unit": ""}]},
        {"last_commit": "latest"},
        {"disaster_time": "2026-11-23 14:05"},
    ],
)
def test_unusable_values_are_refused(changes: dict[str, t.Any]) -> None:
    with pytest.raises(InvalidOption):
        module.facts_of(params(**changes))


def test_latest_is_a_target_but_no_time() -> None:
    assert module.facts_of(params(target_time="latest")).target_time is None
