# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's options reach the engine."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._checks import Check
from ansible_collections.fileforge.ops.plugins.module_utils._host import disk
from ansible_collections.fileforge.ops.plugins.module_utils._host.mounts import Usage
from ansible_collections.fileforge.ops.plugins.module_utils._probes import disk_usage_info as module


def params(**changes: t.Any) -> dict[str, t.Any]:
    return {**{name: spec.get("default") for name, spec in module.ARGUMENTS.items()}, **changes}


def test_defaults_are_the_engines_and_the_runbooks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[disk.DiskOptions, bool]] = []

    def look(options: disk.DiskOptions, *, record: bool) -> tuple[list[disk.Volume], list[Check]]:
        seen.append((options, record))
        return [disk.Volume(Usage("/", "/", 10, 9, 1), None)], [Check("disk.usage", "critical", "full")]

    monkeypatch.setattr(module.disk, "look", look)
    result = module.operate(params(), False)
    plain = disk.DiskOptions()
    assert {**vars(seen[0][0]), "paths": (), "required_mounts": (), "exclude": ()} == vars(plain)
    assert (seen[0][0].usage_warning, seen[0][0].usage_critical) == (0.8, 0.9)
    assert result["status"] == "critical" and result["changed"] is False
    assert result["volumes"][0]["used_fraction"] == 0.9
    module.operate(params(), True)
    assert [record for _options, record in seen] == [True, False], "check mode notes nothing"
