# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks become assertions."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.fileforge.ops.plugins.filter.assertions import FilterModule
from ansible_collections.fileforge.ops.plugins.module_utils._checks import STATUSES, Check

assertions = FilterModule().filters()["assertions"]
CHECKS = [Check(f"a.{status}", status, f"it is {status}").as_dict() for status in STATUSES]


def test_only_what_is_accepted_holds() -> None:
    assert [item["ok"] for item in assertions(CHECKS)] == [True, False, False, False]
    assert [item["ok"] for item in assertions(CHECKS, ["ok", "warning"])] == [True, True, False, False]
    assert assertions(CHECKS)[1] == {"name": "a.warning", "ok": False, "detail": "it is warning"}


@pytest.mark.parametrize("checks", [[{}], ["text"], 3])
def test_what_is_not_a_list_of_checks(checks: object) -> None:
    with pytest.raises(AnsibleFilterError, match="checks"):
        assertions(checks)
