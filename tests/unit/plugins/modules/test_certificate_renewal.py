# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's options reach the engine."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step
from ansible_collections.fileforge.ops.plugins.module_utils._tls.certbot import CertbotOptions
from ansible_collections.fileforge.ops.plugins.module_utils._tls.endpoint import Endpoint
from ansible_collections.fileforge.ops.plugins.module_utils._tls.renewal import Request
from ansible_collections.fileforge.ops.plugins.modules import certificate_renewal as module


def params(**changes: t.Any) -> dict[str, t.Any]:
    endpoints = [{"host": "a.example", "port": 443, "server_name": None, "starttls": None}]
    defaults = {name: spec.get("default") for name, spec in module.ARGUMENTS.items()}
    return {**defaults, "cert_name": "api", "endpoints": endpoints, **changes}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    requests: list[Request] = []

    class Fake:
        def __init__(self, request: Request) -> None:
            requests.append(request)
            self.plan = Plan("certificate api", [Step("request", "api")])

        def rehearse(self) -> dict[str, t.Any]:
            return {"changed": True, "outcome": "renewed", "by": "rehearse"}

        def apply(self) -> dict[str, t.Any]:
            return {"changed": True, "outcome": "renewed", "by": "apply"}

    monkeypatch.setattr(module, "Renewal", Fake)
    return requests


def test_defaults_are_the_engines_and_the_runbooks(seen: list[Request]) -> None:
    module.operate(params(), check=False, diff=False)
    order = CertbotOptions("api", [], certbot_arguments=[])
    plain = Request(order, [Endpoint("a.example")], ["nginx", "-t", "-q"], ["nginx", "-s", "reload"])
    assert seen == [plain]
    assert seen[0].renew_before_days == 30


def test_check_mode_rehearses_and_the_diff_is_the_plan(seen: list[Request]) -> None:
    assert module.operate(params(), check=True, diff=False)["by"] == "rehearse"
    assert module.operate(params(), check=False, diff=True)["diff"]["after"] == "  request     api\n"


def test_bad_endpoints_are_refused(seen: list[Request]) -> None:
    bad = [{"host": "a.example", "port": 0, "server_name": "b", "starttls": None}]
    with pytest.raises(InvalidOption, match="port"):
        module.operate(params(endpoints=bad), check=True, diff=False)
    assert not seen
