# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Quantities and what containers use of their limits."""

from __future__ import annotations

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._kube.usage import Usage, quantity, usages_of
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2", 2),
        ("250m", 0.25),
        ("1500000n", 0.0015),
        ("5u", 5e-6),
        ("64Mi", 64 * 2**20),
        ("1.5Gi", 1.5 * 2**30),
        ("1k", 1000),
        ("2M", 2e6),
        ("1e3", 1000),
        ("12E", 12e18),
        ("1E3", 1000),
        (".5", 0.5),
        (3, 3),
        ("", None),
        ("many", None),
        ("1Xi", None),
        ("mi", None),
    ],
)
def test_quantities(text: object, number: float | None) -> None:
    assert quantity(text) == (pytest.approx(number) if number is not None else None)


@given(st.integers(0, 10**12), st.sampled_from(["", "m", "k", "Ki", "Mi", "G"]))
def test_more_is_more(number: int, suffix: str) -> None:
    less, more = quantity(f"{number}{suffix}"), quantity(f"{number + 1}{suffix}")
    assert less is not None and more is not None and less < more


def test_usage_against_limits_and_requests() -> None:
    bounds = {"limits": {"memory": "100Mi"}, "requests": {"memory": "50Mi", "cpu": "100m"}}
    pod = {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "app", "resources": bounds}, {"name": "side"}]}}
    metrics = {
        "containers": [
            {"name": "app", "usage": {"cpu": "50000000n", "memory": "92160Ki"}},
            {"name": "side", "usage": {"cpu": "1", "memory": "odd"}},
        ]
    }
    found = usages_of(pod, metrics)
    assert found[1] == Usage("a", "app", "memory", 92160 * 1024, 50 * 2**20, 100 * 2**20)
    assert (found[1].percent, found[1].percent_of_request) == (90.0, 180.0)
    assert (found[0].percent, found[0].percent_of_request) == (None, 50.0)
    assert [(usage.container, usage.resource, usage.limit) for usage in found[2:]] == [("side", "cpu", None)]
    assert found[1].as_dict()["percent"] == 90.0
