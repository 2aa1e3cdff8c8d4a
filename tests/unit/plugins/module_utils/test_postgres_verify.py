# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Assertions about values; the structure is tested on real servers."""

from __future__ import annotations

import datetime
import decimal
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.verify import Assertion, Examined, Finding, _plain
from hypothesis import given
from hypothesis import strategies as st


def assertion(**demand: t.Any) -> Assertion:
    return Assertion(name="n", query="q", **demand)


@pytest.mark.parametrize(
    ("demand", "value", "problem"),
    [
        ({"equals": "1"}, 1, ""),
        ({"equals": "1.0"}, decimal.Decimal("1.00"), ""),
        ({"equals": "1"}, 2, "is 2 instead of 1"),
        ({"equals": "abc"}, "abc", ""),
        ({"equals": "abc"}, "abd", "is abd instead of abc"),
        ({"equals": "true"}, True, ""),
        ({"equals": "t"}, True, ""),
        ({"equals": "1"}, True, "is True instead of 1"),
        ({"equals": "None"}, None, "is null"),
        ({"minimum": 1}, 0, "less than 1"),
        ({"minimum": 1}, 1, ""),
        ({"maximum": 1}, 1, ""),
        ({"maximum": 1}, 1.5, "more than 1"),
        ({"minimum": 0, "maximum": 5}, 9, "more than 5"),
        ({"minimum": 0}, None, "null, not a number"),
        ({"minimum": 0}, "many", "many, not a number"),
        ({"minimum": 0}, float("nan"), "not a number"),
    ],
)
def test_demands(demand: dict[str, t.Any], value: t.Any, problem: str) -> None:
    found = assertion(**demand).problem(value)
    assert problem in found and bool(found) == bool(problem)


def test_an_assertion_must_demand_something() -> None:
    with pytest.raises(InvalidOption, match="neither"):
        assertion()


@given(st.integers() | st.decimals(allow_nan=False, allow_infinity=False, places=3))
def test_a_number_equals_its_own_text(number: int | decimal.Decimal) -> None:
    assert assertion(equals=str(number)).problem(number) == ""


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_limits(value: int, limit: int) -> None:
    assert bool(assertion(minimum=limit).problem(value)) == (value < limit)
    assert bool(assertion(maximum=limit).problem(value)) == (value > limit)


def test_values_become_json() -> None:
    moment = datetime.datetime(2026, 11, 23, tzinfo=datetime.timezone.utc)
    assert [_plain(v) for v in (None, True, decimal.Decimal(3), decimal.Decimal("1.5"), moment)] == [
        None,
        True,
        3,
        1.5,
        str(moment),
    ]


def test_not_all_examined_is_unknown_but_damage_is_critical() -> None:
    assert Examined("indexes", total=2, done=2).check().status == "ok"
    assert Examined("indexes", total=2, done=1).check().status == "unknown"
    assert Examined("tables", total=2, done=1, unable=["permission denied"]).check().status == "unknown"
    damaged = Examined("tables", total=2, done=1, broken=1, findings=[Finding("public.files", "table", "block 3: bad")])
    assert damaged.check().status == "critical" and "public.files" in damaged.check().summary
