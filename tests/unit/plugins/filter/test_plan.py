# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans of roles are the plans of modules."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.fileforge.ops.plugins.filter.plan import FilterModule
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step
from ansible_collections.fileforge.ops.plugins.plugin_utils._gate import untampered

plan = FilterModule().filters()["plan"]


def test_the_same_plan_as_a_modules() -> None:
    steps = [{"action": "checkout", "object": "/app", "count": 3, "destructive": True, "detail": "a..b"}]
    made = plan(steps, "configuration", notes=["careful"])
    expected = Plan("configuration", [Step("checkout", "/app", count=3, destructive=True, detail="a..b")], ["careful"])
    assert made == expected.as_dict()
    assert untampered(made, 1) == made


def test_nothing_to_do() -> None:
    assert plan([], "x")["steps"] == [] and plan([], "x")["destructive"] is False


@pytest.mark.parametrize("steps", [[{"action": "x"}], [{"action": "x", "object": "y", "colour": "red"}], ["text"], 3])
def test_what_is_not_a_list_of_steps(steps: object) -> None:
    with pytest.raises(AnsibleFilterError, match="steps"):
        plan(steps, "x")
