# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Groups of messages become checks; what is new or has grown is a warning."""

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.fileforge.ops.plugins.filter.log_review import log_review


def look(**counts: int) -> list[dict[str, t.Any]]:
    groups = [
        {
            "message": message,
            "count": count,
            "first": "2026-11-23T01:00:00Z",
            "last": "2026-11-23T02:00:00Z",
            "pods": ["backend-1"],
            "pod_count": 3,
            "sample": f"ERROR {message} 17",
        }
        for message, count in counts.items()
    ]
    checks = [{"id": "kube.logs.read", "status": "ok", "summary": "all", "subject": "", "value": 0}]
    return [{"name": "Logs", "host": "app1", "result": {"groups": groups, "checks": checks}}]


def groups_of(results: list[dict[str, t.Any]]) -> dict[str, dict[str, t.Any]]:
    return {check["subject"]: check for check in results[0]["result"]["checks"] if check["id"] == "logs.group"}


def report_of(results: list[dict[str, t.Any]]) -> dict[str, t.Any]:
    return {"sections": [{"checks": results[0]["result"]["checks"]}]}


def test_first_review_tells_all_with_evidence() -> None:
    found = groups_of(log_review(look(broken=2)))["broken"]
    assert found["status"] == "warning" and found["hint"]
    for word in (
        "not reviewed before",
        "2 from 2026-11-23T01:00:00Z to 2026-11-23T02:00:00Z",
        "backend-1 and 2 more",
        "ERROR broken 17",
    ):
        assert word in found["summary"]
    assert found["evidence"]["count"] == 2


def test_what_is_new_or_has_grown_stands_out() -> None:
    previous = report_of(log_review(look(old=5, grown=5, few=1)))
    found = groups_of(log_review(look(old=6, grown=15, few=9, new=1), previous))
    assert {name: check["status"] for name, check in found.items()} == {
        "old": "ok",
        "grown": "warning",
        "few": "ok",
        "new": "warning",
    }
    assert "new since the last review" in found["new"]["summary"]
    assert "5 in the last review" in found["grown"]["summary"]
    assert not found["old"]["hint"]


def test_a_quiet_review_is_a_review() -> None:
    previous = report_of(log_review(look()))
    assert "new since the last review" in groups_of(log_review(look(new=1), previous))["new"]["summary"]


@pytest.mark.parametrize(
    "source", [{"name": "Logs", "host": "app1"}, {"name": "Logs", "result": {"failed": True, "msg": "refused"}}]
)
def test_what_could_not_be_looked_at_stays_so(source: dict[str, t.Any]) -> None:
    assert log_review([source]) == [source]


@pytest.mark.parametrize(("results", "growth"), [("text", 3), ({}, 3), ([], 1)])
def test_what_is_refused(results: t.Any, growth: float) -> None:
    with pytest.raises(AnsibleFilterError, match="log_review"):
        log_review(results, {}, growth)
