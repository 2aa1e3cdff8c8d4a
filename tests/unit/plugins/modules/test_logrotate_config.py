# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's options reach the engine."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._host.logrotate import Outcome, Target
from ansible_collections.fileforge.ops.plugins.module_utils._host.logrotate_stanza import StanzaOptions
from ansible_collections.fileforge.ops.plugins.module_utils._host.postrotate import Signal
from ansible_collections.fileforge.ops.plugins.modules import logrotate_config as module


def params(**changes: t.Any) -> dict[str, t.Any]:
    defaults = {name: spec.get("default") for name, spec in module.ARGUMENTS.items()}
    return {**defaults, "dest": "/etc/logrotate.d/x", "paths": ["/var/log/x.log"], "frequency": "daily", **changes}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[t.Any, ...]]:
    seen: list[tuple[t.Any, ...]] = []

    def install(options: StanzaOptions, target: Target, *, check_mode: bool) -> Outcome:
        seen.append((options, target, check_mode))
        return Outcome(True, "old", "new", ["note"], [], "/etc/logrotate.d/x.1~", ["/var/log/x.log"])

    def remove(target: Target, *, check_mode: bool) -> Outcome:
        seen.append((None, target, check_mode))
        return Outcome(False, "", "")

    monkeypatch.setattr(module.logrotate, "install", install)
    monkeypatch.setattr(module.logrotate, "remove", remove)
    return seen


def test_defaults_are_the_engines(calls: list[tuple[t.Any, ...]]) -> None:
    warned: list[str] = []
    result = module.operate(params(), True, warned.append)
    [(given, target, check_mode)] = calls
    plain = StanzaOptions(["/var/log/x.log"], "daily")
    for field in dataclasses.fields(StanzaOptions):
        if field.name not in ("postrotate", "postrotate_allowed"):
            assert getattr(given, field.name) == getattr(plain, field.name), field.name
    assert target == Target("/etc/logrotate.d/x") and check_mode is True
    assert warned == result["notes"] == ["note"]
    assert result["changed"] and result["diff"]["before"] == "old" and result["diff"]["after"] == "new"
    assert result["backup_file"].endswith("~") and result["stanza"] == "new"


def test_signal_mode_and_state(calls: list[tuple[t.Any, ...]]) -> None:
    module.operate(params(signal={"pid_file": "/run/x.pid", "signal": "USR1"}, mode="0600", backup=True), False, str)
    assert calls[0][0].signal == Signal("/run/x.pid", "USR1")
    assert (calls[0][1].mode, calls[0][1].backup, calls[0][2]) == (0o600, True, False)
    assert module.operate(params(state="absent"), False, str)["changed"] is False
    assert calls[1][0] is None


def test_a_mode_that_is_no_number() -> None:
    with pytest.raises(InvalidOption, match="mode"):
        module.operate(params(mode="u=rw"), False, str)
