# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's options reach the engine; samples are written in real runs only."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, Unavailable
from ansible_collections.fileforge.ops.plugins.module_utils._kube.assessment import Limits
from ansible_collections.fileforge.ops.plugins.module_utils._kube.inventory import Inventory
from ansible_collections.fileforge.ops.plugins.module_utils._probes import kube_workload_info as module

POD = {
    "metadata": {"name": "web", "uid": "u", "creationTimestamp": "2020-01-01T00:00:00Z"},
    "spec": {"containers": [{"name": "app"}]},
    "status": {"phase": "Running", "containerStatuses": [{"name": "app", "restartCount": 4}]},
}


def params(**changes: t.Any) -> dict[str, t.Any]:
    spec = module.ARGUMENTS
    return {**{name: entry.get("default") for name, entry in spec.items()}, "kube_host": "http://h", **changes}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[t.Any]:
    seen: list[t.Any] = []

    def gather(client: t.Any, namespace: str, selector: str) -> Inventory:
        seen.append((client.host, namespace, selector))
        return Inventory(namespace, loose=[POD])

    monkeypatch.setattr(module, "Client", lambda options: options)
    monkeypatch.setattr(module, "gather", gather)
    return seen


def test_options_reach_the_engine(asked: list[t.Any]) -> None:
    result = module.operate(params(namespace="n", selector="a=b", name="x", restarts_warning=1, restarts_critical=1), False)
    assert asked == [("http://h", "n", "a=b")]
    statuses = {check["id"]: check["status"] for check in result["checks"]}
    assert statuses["kube.x.restarts"] == "critical" and result["changed"] is False
    assert result["restarts"][0]["method"] == "last_state"


def test_defaults_are_the_engines() -> None:
    assert Limits(**{name: spec["default"] for name, spec in module.LIMITS.items()}) == Limits()


def test_samples_are_kept_but_not_in_check_mode(asked: list[t.Any], tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    module.operate(params(samples_file=str(path)), True)
    assert not path.exists()
    result = module.operate(params(samples_file=str(path)), False)
    assert json.loads(path.read_text())["samples"][0]["restarts"] == {"u/app": 4} and result["changed"] is False


def test_samples_are_not_replaced_by_nothing_when_pods_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "Client", lambda options: options)
    monkeypatch.setattr(module, "gather", lambda *_args: Inventory("n", problems={"pods": Unavailable("down")}))
    path = tmp_path / "samples.json"
    result = module.operate(params(samples_file=str(path)), False)
    assert not path.exists() and result["unseen"] == {"pods": "down"} and result["status"] == "critical"


def test_bad_limits_are_refused_before_anything_is_asked(asked: list[t.Any]) -> None:
    with pytest.raises(InvalidOption, match="window_hours"):
        module.operate(params(window_hours=-1), False)
    assert asked == []
