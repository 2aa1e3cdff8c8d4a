# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's options reach the engine."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._probes import tls_certificate_info as module
from ansible_collections.fileforge.ops.plugins.module_utils._tls.endpoint import Endpoint
from ansible_collections.fileforge.ops.plugins.module_utils._tls.examine import Findings, Questions


def params(**changes: t.Any) -> dict[str, t.Any]:
    return {**{name: spec.get("default") for name, spec in module.ARGUMENTS.items()}, **changes}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[t.Any, Questions]]:
    calls: list[tuple[t.Any, Questions]] = []

    def fake(what: t.Any, asked: Questions) -> Findings:
        calls.append((what, asked))
        return Findings()

    monkeypatch.setattr(module, "examine_endpoint", fake)
    monkeypatch.setattr(module, "examine_file", fake)
    return calls


def test_defaults_are_the_runbooks(seen: list[tuple[t.Any, Questions]]) -> None:
    result = module.operate(params(host="a.example"), False)
    [(endpoint, asked)] = seen
    assert endpoint == Endpoint("a.example", 443)
    assert asked == Questions("a.example", "a.example")
    assert (asked.warning_days, asked.critical_days) == (30, 7)
    assert (result["changed"], result["status"]) == (False, "unknown")


@pytest.mark.parametrize(
    ("changes", "port"), [({"starttls": "smtp"}, 25), ({"starttls": "postgres"}, 5432), ({"starttls": "smtp", "port": 587}, 587)]
)
def test_ports(seen: list[tuple[t.Any, Questions]], changes: dict[str, t.Any], port: int) -> None:
    module.operate(params(host="10.0.0.1", server_name="a.example", **changes), False)
    [(endpoint, asked)] = seen
    assert (endpoint.port, endpoint.name, asked.name, asked.hostname) == (port, "a.example", "a.example", "a.example")


def test_a_file_asks_for_no_name_of_its_own(seen: list[tuple[t.Any, Questions]]) -> None:
    module.operate(params(path="/etc/ssl/api.pem"), False)
    [(path, asked)] = seen
    assert (path, asked.name, asked.hostname) == ("/etc/ssl/api.pem", "api", "")
    assert asked.id("expiry") == "certificate.api.expiry"
