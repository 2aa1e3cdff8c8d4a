# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's options reach the engine, and check mode rehearses only."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._argspec import KUBE, PLANNED, PROGRESS
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, PlanChanged
from ansible_collections.fileforge.ops.plugins.module_utils._kube.client import KubeOptions
from ansible_collections.fileforge.ops.plugins.module_utils._kube.rollout import Request
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step
from ansible_collections.fileforge.ops.plugins.modules import kube_rollout as module

PLAN = Plan("Restart", [Step("restart", "web", destructive=True)])


def params(**changes: t.Any) -> dict[str, t.Any]:
    spec = {**KUBE, **PLANNED, **PROGRESS, **module.ARGUMENTS}
    return {**{name: entry.get("default") for name, entry in spec.items()}, "name": "web", "kube_host": "http://h", **changes}


class FakeRollout:
    seen: t.ClassVar[list[tuple[t.Any, ...]]] = []

    def __init__(self, client: t.Any, request: Request, progress: t.Any) -> None:
        self.plan = PLAN
        self.seen.append((client, request))

    def apply(self) -> dict[str, t.Any]:
        self.seen.append(("apply",))
        return {"changed": True}

    def rehearse(self) -> dict[str, t.Any]:
        self.seen.append(("rehearse",))
        return {"changed": True}


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> list[tuple[t.Any, ...]]:
    FakeRollout.seen = []
    monkeypatch.setattr(module, "Rollout", FakeRollout)
    monkeypatch.setattr(module, "Client", lambda options: options)
    return FakeRollout.seen


def test_options_reach_the_engine() -> None:
    given = params(kind="StatefulSet", namespace="ff", state="scaled", replicas=0, restart_id="r", not_within=1, timeout=2)
    module.operate({**given, "stall_timeout": 3, "log_lines": 4, "kube_token": "t"}, check=False, diff=False)
    options, request = FakeRollout.seen[0]
    assert options == KubeOptions(host="http://h", token="t")
    assert str(request.reference) == "StatefulSet ff/web"
    assert (request.state, request.replicas, request.restart_id, request.not_within) == ("scaled", 0, "r", 1)
    assert (request.timeout, request.stall_timeout, request.log_lines) == (2, 3, 4)


def test_defaults_are_the_engines() -> None:
    module.operate(params(), check=False, diff=False)
    request = FakeRollout.seen[0][1]
    assert request == Request(reference=request.reference, state="ready")
    assert str(request.reference) == "Deployment default/web"


def test_check_mode_rehearses_and_diff_shows_the_plan() -> None:
    result = module.operate(params(), check=True, diff=True)
    assert FakeRollout.seen[1:] == [("rehearse",)]
    assert result["diff"] == PLAN.as_diff()
    assert "diff" not in module.operate(params(), check=False, diff=False)


def test_another_plan_than_the_confirmed_one_is_refused_before_anything_is_done() -> None:
    with pytest.raises(PlanChanged):
        module.operate(params(plan_digest="0123456789abcdef"), check=False, diff=False)
    assert len(FakeRollout.seen) == 1
    module.operate(params(plan_digest=PLAN.digest), check=False, diff=False)


def test_invalid_options() -> None:
    with pytest.raises(InvalidOption):
        module.operate(params(state="scaled", replicas=-1), check=False, diff=False)
