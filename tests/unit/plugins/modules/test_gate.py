# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gate decides, and that its documentation is what its action accepts."""

from __future__ import annotations

import copy
import typing as t

import pytest
import yaml
from ansible_collections.fileforge.ops.plugins.action import gate as action
from ansible_collections.fileforge.ops.plugins.module_utils._errors import PlanChanged, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step, digest_of
from ansible_collections.fileforge.ops.plugins.modules import gate as module
from ansible_collections.fileforge.ops.plugins.plugin_utils._gate import Gate
from hypothesis import given
from hypothesis import strategies as st

STEPS = st.builds(
    Step,
    st.sampled_from(["fetch", "replace", "keep"]),
    st.text(max_size=8),
    count=st.none() | st.integers(0, 9),
    bytes=st.none() | st.integers(0, 1 << 40),
    destructive=st.booleans(),
    detail=st.text(max_size=4),
)
PLANS = st.builds(Plan, st.text(max_size=8), st.lists(STEPS, max_size=4), st.lists(st.text(max_size=4), max_size=2))


def gate(*plans: Plan, always: bool = False) -> Gate:
    return Gate.of("Recover", [plan.as_dict() for plan in plans], always)


def test_documentation_is_what_the_action_accepts() -> None:
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    assert set(documented) == set(action.ARGUMENTS)
    for name, option in action.ARGUMENTS.items():
        for field in ("type", "elements", "default"):
            assert documented[name].get(field) == option.get(field), name
        assert documented[name].get("required", False) == option.get("required", False), name


@given(st.lists(PLANS, max_size=3), st.booleans())
def test_plans_of_modules_pass_with_their_digest_and_with_no_other(plans: list[Plan], always: bool) -> None:
    it = gate(*plans, always=always)
    steps = [step for plan in plans for step in plan.steps]
    assert it.needed == (any(step.destructive for step in steps) or (always and bool(steps)))
    assert it.digest == (plans[0].digest if len(plans) == 1 else digest_of([plan.digest for plan in plans]))
    assert it.check(it.digest) == it.needed
    assert it.check("") is False
    if it.needed:
        with pytest.raises(PlanChanged):
            it.check("0" * 16)
    else:
        assert it.check("0" * 16) is False


@given(PLANS.filter(lambda plan: bool(plan.steps)), st.data())
def test_any_change_of_title_or_steps_is_found(plan: Plan, data: st.DataObject) -> None:
    altered: dict[str, t.Any] = copy.deepcopy(plan.as_dict())
    step = altered["steps"][data.draw(st.integers(0, len(altered["steps"]) - 1))]
    how = data.draw(st.sampled_from(["object", "title", "destructive", "remove", "add"]))
    if how == "object":
        step["object"] += "x"
    elif how == "title":
        altered["title"] += "x"
    elif how == "destructive":
        step["destructive"] = not step.get("destructive", False)
    elif how == "remove":
        altered["steps"].remove(step)
    else:
        altered["steps"].append(Step("fetch", "more").as_dict())
    with pytest.raises(Refused) as refused:
        Gate.of("Recover", [altered], False)
    assert refused.value.state["reason"] == "plan_tampered"


@pytest.mark.parametrize("plan", [None, "plan", [], {}, {"title": "a"}, {"title": "a", "steps": None}, {"steps": [1]}])
def test_what_is_no_plan_is_refused(plan: t.Any) -> None:
    with pytest.raises(Refused):
        Gate.of("Recover", [plan], False)


def test_a_plan_that_calls_itself_harmless_is_not_believed() -> None:
    plan = Plan("Wipe", [Step("remove", "/srv", destructive=True)]).as_dict()
    plan["destructive"] = False
    assert Gate.of("Recover", [plan], False).needed


def test_own_digests_confirm_each_destructive_plan() -> None:
    first, second = Plan("a", [Step("replace", "x", destructive=True)]), Plan("b", [Step("replace", "y", destructive=True)])
    harmless = Plan("c", [Step("fetch", "z")])
    it = gate(first, second, harmless)
    assert it.check(f"{first.digest},{second.digest}")
    assert it.check(f" {second.digest} {first.digest} ")
    with pytest.raises(PlanChanged):
        it.check(first.digest)
    with pytest.raises(PlanChanged):
        it.check(f"{first.digest},{harmless.digest}")
    with pytest.raises(PlanChanged):
        gate(first, second, harmless, always=True).check(f"{first.digest},{second.digest}")


def test_lines_show_everything_and_say_what_to_type() -> None:
    it = gate(Plan("Restore", [Step("replace", "/x", bytes=2048, destructive=True)], ["free disk: 1 GiB"]))
    lines = it.lines()
    assert lines[0] == "Recover"
    assert any("! replace" in line and "/x (2.0 KiB)" in line for line in lines)
    assert "    note: free disk: 1 GiB" in lines
    assert f"  to carry out exactly this: -e confirm={it.digest}" in lines
    assert "  no confirmation is needed" in gate(Plan("Restore")).lines()


@given(st.lists(PLANS, min_size=1, max_size=3))
def test_what_several_gates_publish_together_confirms_each(plans: list[Plan]) -> None:
    """Ansible joins the texts of all hosts and gates, as AWX hands them to the next job."""
    gates = [gate(plan, always=True) for plan in plans]
    joined = "".join(action.published(it)["data"]["confirm"] for it in gates)
    assert all(it.confirmed_by(joined) for it in gates)
    assert all(it.check(joined) == it.needed for it in gates)
