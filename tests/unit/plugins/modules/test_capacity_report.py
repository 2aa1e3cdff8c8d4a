# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around the forecasts: its options reach the engine, and what could not be looked at is told once."""

from __future__ import annotations

import typing as t

import pytest
import yaml
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._report import deliver
from ansible_collections.fileforge.ops.plugins.modules import capacity_report as module

DISK: dict[str, t.Any] = {"name": "disk", "metric": "disk_usage", "limit": 0.9}


def params(**changes: t.Any) -> dict[str, t.Any]:
    defaults = {name: option.get("default") for name, option in module.arguments().items()}
    defaults["resources"] = [resource(**DISK)]
    return {**defaults, **changes}


def resource(**given: t.Any) -> dict[str, t.Any]:
    return {**{name: option.get("default") for name, option in module.RESOURCE.items()}, **given}


def test_documentation_is_the_argument_spec() -> None:
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    specified = module.arguments()
    assert set(documented) == set(specified)
    pairs = [(documented, specified), (documented["resources"]["suboptions"], module.RESOURCE)]
    pairs.append((documented["results"]["suboptions"], deliver.SOURCE))
    for words, options in pairs:
        assert set(words) == set(options)
        for name, option in options.items():
            for field in ("type", "default", "required", "choices", "elements"):
                assert words[name].get(field) == option.get(field), (name, field)


def test_a_failed_look_is_told_beside_what_it_hides() -> None:
    looked = [{"name": "Prometheus", "host": "app1", "result": {"failed": True, "msg": "connection refused"}, "seconds": 0.1}]
    report = module.report_of(params(results=looked), None)
    assert [(check["id"], check["status"]) for check in report["problems"]] == [
        ("capacity.disk", "unknown"),
        ("prometheus.probe", "unknown"),
    ]
    assert report["forecasts"][0]["trend"] is None


def test_checks_of_the_metrics_are_not_told_twice() -> None:
    checks = [{"id": "prometheus.connection", "status": "ok"}, {"id": "metric.disk_usage", "status": "ok"}]
    report = module.report_of(
        params(results=[{"name": "Prometheus", "host": "", "result": {"checks": checks}, "seconds": None}]), None
    )
    assert [check["id"] for section in report["sections"] for check in section["checks"]] == [
        "capacity.disk",
        "prometheus.connection",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resources": [resource(**DISK), resource(**DISK)]}, "same check id"),
        ({"resources": [resource(name="x")]}, "either metric or check"),
        ({"minimum_points": 2}, "minimum_points=2"),
    ],
)
def test_bad_options_are_named(changes: dict[str, t.Any], words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        module.report_of(params(**changes), None)
