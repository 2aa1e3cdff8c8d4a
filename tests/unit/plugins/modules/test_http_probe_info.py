# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's options reach the engine, and its documentation describes them."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._http.probe import Attempt, Outcome, ProbeOptions
from ansible_collections.fileforge.ops.plugins.module_utils._probes import http_probe_info as module


def params(**changes: t.Any) -> dict[str, t.Any]:
    return {**{name: spec.get("default") for name, spec in module.ARGUMENTS.items()}, "url": "http://api.example/health", **changes}


def test_defaults_are_the_engines_and_the_runbooks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ProbeOptions] = []

    def fake(options: ProbeOptions) -> Outcome:
        seen.append(options)
        return Outcome(options, [Attempt("t", 0.1)])

    monkeypatch.setattr(module, "probe", fake)
    result = module.operate(params(), False)
    plain = ProbeOptions(url="http://api.example/health")
    assert {**vars(seen[0]), "status_codes": tuple(seen[0].status_codes), "name": ""} == vars(plain)
    assert (seen[0].latency_warning, seen[0].latency_critical) == (0.5, 1.0)
    assert result["name"] == "api-example" and result["changed"] is False
    assert result["status"] == "critical", "one good probe of three needed"


def test_the_token_is_a_secret() -> None:
    assert module.ARGUMENTS["bearer_token"]["no_log"] is True


def test_invalid_options_are_refused() -> None:
    with pytest.raises(InvalidOption):
        module.operate(params(probes=2, required=3), False)
