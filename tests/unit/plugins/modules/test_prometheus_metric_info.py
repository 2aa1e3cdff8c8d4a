# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's options reach the engine, and wrong ones are refused before anything is asked."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._checks import Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._probes import prometheus_metric_info as module
from ansible_collections.fileforge.ops.plugins.module_utils._prometheus.queries import NAMES, Report


def params(**changes: t.Any) -> dict[str, t.Any]:
    plain = {name: spec.get("default") for name, spec in module.ARGUMENTS.items()}
    return {**plain, "prometheus_url": "http://metrics.example:9090", **changes}


def own(**changes: t.Any) -> dict[str, t.Any]:
    return {**{name: spec.get("default") for name, spec in module.QUERY.items()}, "name": "mine", "query": "up", **changes}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[t.Any, ...]]:
    calls: list[tuple[t.Any, ...]] = []

    def fake(*arguments: t.Any) -> Report:
        calls.append(arguments)
        return Report([Check("metric.mine", "ok", "fine")], [], ["mine: partial answer"])

    monkeypatch.setattr(module, "examine", fake)
    return calls


def test_defaults_are_the_runbooks(seen: list[tuple[t.Any, ...]]) -> None:
    result = module.operate(params(), False)
    limits = {query.name: (query.warning, query.critical) for query in seen[0][1]}
    assert limits == {
        "api_response_seconds": (0.5, 1.0),
        "error_rate": (0.01, 0.05),
        "queue_length": (100, 1000),
        "cpu_usage": (0.7, 0.9),
        "memory_usage": (0.8, 0.95),
        "disk_usage": (0.8, 0.9),
        "scrape_targets": (0, None),
    }
    assert tuple(module.METRICS) == NAMES
    assert result["warnings"] == ["Prometheus: mine: partial answer"] and result["api_warnings"] == ["mine: partial answer"]


def test_own_queries_and_thresholds(seen: list[tuple[t.Any, ...]]) -> None:
    changes = {
        "metrics": ["queue_length"],
        "queries": [own(warning=1, critical=2), own(name="queue_length", query="my_queue")],
        "thresholds": {"mine": {"critical": 3}, "cpu_usage": {"warning": 0.5}},
    }
    module.operate(params(**changes), False)
    found = {query.name: (query.query, query.warning, query.critical) for query in seen[0][1]}
    assert found == {"queue_length": ("my_queue", 100, 1000), "mine": ("up", 1, 3)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metrics": ["cpu"]}, "no such metric"),
        ({"thresholds": {"cpu": {"warning": 1}}}, "no such metric"),
        ({"thresholds": {"cpu_usage": {"warn": 1}}}, "must hold"),
        ({"thresholds": {"cpu_usage": {"warning": "high"}}}, "not a number"),
        ({"window": "five minutes"}, "not a duration"),
        ({"queries": [own(query=" ")]}, "must not be empty"),
        ({"queries": [own(name="a b"), own(name="a-b")]}, "same check id"),
        ({"queries": [own(range_seconds=10, step_seconds=60)]}, "within range_seconds"),
        ({"prometheus_url": "metrics:9090"}, "not an http"),
        ({"prometheus_url": "http://me:secret@metrics"}, "credentials"),
        ({"prometheus_timeout": 0}, "more than 0"),
        ({"prometheus_attempts": 0}, "at least 1"),
    ],
)
def test_wrong_options_are_refused(seen: list[tuple[t.Any, ...]], changes: dict[str, t.Any], words: str) -> None:
    with pytest.raises(InvalidOption, match=words) as caught:
        module.operate(params(**changes), False)
    assert "secret" not in str(caught.value) and not seen


def test_credentials_are_secrets() -> None:
    assert {name for name, spec in module.ARGUMENTS.items() if spec.get("no_log")} == {"prometheus_token", "prometheus_password"}
