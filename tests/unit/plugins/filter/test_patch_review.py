# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A review of patches names hosts and packages."""

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.fileforge.ops.plugins.filter.patch_review import patch_review

FIX = {
    "package": "openssl",
    "installed": "3.0.1",
    "candidate": "3.0.2",
    "age_days": 12.5,
    "held": True,
    "advisory": "DSA-1",
    "severity": "",
}


def look(**more: t.Any) -> list[dict[str, t.Any]]:
    checks = [
        {"id": f"updates.{name}", "status": "warning", "summary": name, "subject": ""} for name in ("security", "held", "reboot")
    ]
    result = {"checks": checks, "security_updates": [FIX], "held": ["linux-image"], **more}
    return [{"name": "Security updates", "host": "db1", "result": result}]


def test_hosts_and_packages_are_named() -> None:
    checks = {check["id"]: check for check in patch_review(look())[0]["result"]["checks"]}
    assert {check["subject"] for check in checks.values()} == {"db1"}
    assert checks["updates.security"]["summary"] == "security (openssl 3.0.1 -> 3.0.2, DSA-1, 12.5 days, held)"
    assert checks["updates.held"]["summary"] == "held (linux-image)"
    assert checks["updates.reboot"]["summary"] == "reboot"


def test_a_long_list_is_bounded() -> None:
    [security, *_rest] = patch_review(look(security_updates=[FIX] * 100))[0]["result"]["checks"]
    assert security["summary"].endswith("and 40 more)")


def test_what_could_not_be_looked_at_says_where() -> None:
    lost = {"name": "nowhere", "host": "nowhere"}
    failed = {"name": "Updates", "host": "db1", "result": {"failed": True, "msg": "refused"}}
    assert patch_review([lost, failed]) == [lost, {**failed, "name": "Updates of db1"}]


def test_what_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="patch_review"):
        patch_review({})  # type: ignore[arg-type]
