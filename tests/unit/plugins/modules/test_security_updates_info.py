# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's options reach the engine."""

from __future__ import annotations

import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._host.updates import Fix, Found, UpdateOptions
from ansible_collections.fileforge.ops.plugins.module_utils._probes import security_updates_info as module


def params(**changes: t.Any) -> dict[str, t.Any]:
    return {**{name: spec.get("default") for name, spec in module.ARGUMENTS.items()}, **changes}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    seen: list[tuple[str, float]] = []

    def look(manager: str, timeout: float) -> Found:
        seen.append((manager, timeout))
        fix = Fix("openssl", "1", "2", "x")
        return Found("apt", [fix], 3, lists_refreshed=time.time(), reboot=False, reboot_reason="x")

    monkeypatch.setattr(module.package_manager, "look", look)
    return seen


def test_defaults_are_the_engines(asked: list[tuple[str, float]], tmp_path: Path) -> None:
    plain = UpdateOptions()
    assert {name: spec.get("default") for name, spec in module.ARGUMENTS.items()} == vars(plain)
    result = module.operate(params(history_file=str(tmp_path / "seen.json")), True)
    assert asked == [("auto", 120)] and not (tmp_path / "seen.json").exists()
    assert result["changed"] is False and result["status"] == "warning" and result["other_updates"] == 3
    assert result["security_updates"][0]["package"] == "openssl" and result["oldest_fix_age_days"] == 0
    module.operate(params(history_file=str(tmp_path / "seen.json")), False)
    assert (tmp_path / "seen.json").exists()


def test_invalid_options_are_refused_before_anything_is_asked(asked: list[tuple[str, float]]) -> None:
    with pytest.raises(InvalidOption):
        module.operate(params(timeout=0), False)
    assert not asked
