# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trends: a line is found whatever a third of the points do, and its interval holds the truth as often as it says."""

from __future__ import annotations

import math
import random

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._report import trend
from ansible_collections.fileforge.ops.plugins.module_utils._report.trend import DAY, Point, Trend, cleaned, thinned, trend_of
from hypothesis import given
from hypothesis import strategies as st

START = 1_760_000_000.0


def line(slope: float, level: float = 10.0, days: int = 30) -> list[Point]:
    return [(START + day * DAY, level + slope * day) for day in range(days)]


def found(points: list[Point]) -> Trend:
    result = trend_of(points)
    assert result is not None
    return result


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.integers(3, 60))
def test_a_line_is_found_as_it_is(slope: float, level: float, days: int) -> None:
    seen = found(line(slope, level, days))
    near = 1e-9 * max(1.0, abs(slope) * days, abs(level)) * 10
    assert math.isclose(seen.slope, slope, rel_tol=1e-6, abs_tol=near)
    assert math.isclose(seen.level, level + slope * (days - 1), rel_tol=1e-6, abs_tol=near)
    assert (seen.points, seen.days) == (days, float(days - 1))


@given(st.lists(st.tuples(st.integers(0, 10**9), st.floats(-1e9, 1e9)), min_size=3, max_size=40, unique_by=lambda point: point[0]))
def test_the_slope_is_within_its_interval_and_moves_with_the_points(points: list[tuple[int, float]]) -> None:
    seen = found(cleaned(points))
    assert seen.low <= seen.slope <= seen.high
    raised = found(cleaned(((when, value + 1000) for when, value in points)))
    assert math.isclose(raised.slope, seen.slope, rel_tol=1e-3, abs_tol=1e-3 * (1 + abs(seen.slope)))


def test_a_quarter_of_wild_points_does_not_move_it() -> None:
    points = line(2.0, days=40)
    wild = [(when, 1e6 if place % 4 == 0 else value) for place, (when, value) in enumerate(points)]
    assert found(wild).slope == pytest.approx(2.0, rel=0.15)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    chance = random.Random(7)
    held = 0
    for _number in range(400):
        noisy = found([(when, value + chance.gauss(0, 8)) for when, value in line(0.5)])
        held += noisy.low <= 0.5 <= noisy.high
    assert 0.92 <= held / 400 <= 0.99


def test_noise_without_a_trend_is_steady() -> None:
    chance = random.Random(3)
    steady = [found([(when, 50 + chance.gauss(0, 5)) for when, _value in line(0)]).direction for _number in range(200)]
    assert steady.count("steady") >= 180


def test_days_to_a_limit() -> None:
    growing = found(line(2.0, level=10.0, days=31))  # 70 now
    assert growing.direction == "grows" and growing.days_to(90.0) == pytest.approx((10.0, 10.0, 10.0))
    assert growing.days_to(70.0) == (0.0, 0.0, 0.0) and growing.days_to(60.0) == (0.0, 0.0, 0.0)
    assert growing.value_at(growing.at + 5 * DAY) == pytest.approx(80.0)
    assert found(line(-1.0)).days_to(90.0) is None and found(line(-1.0)).direction == "shrinks"
    assert found(line(0.0)).days_to(90.0) is None and found(line(0.0)).direction == "steady"
    assert found(line(1e-3)).days_to(90.0) == (math.inf, math.inf, math.inf), "in two hundred years is never"


def test_what_is_no_number_and_too_few() -> None:
    points = [(3.0, 1.0), (1.0, None), (2.0, math.nan), (0.0, 5), (3.0, 2.0)]
    assert cleaned(points) == [(0.0, 5.0), (3.0, 2.0)]
    assert trend_of([]) is None and trend_of(cleaned(points)) is None
    three = found(line(1.0, days=3))
    assert (three.low, three.high, three.direction) == (-math.inf, math.inf, "steady"), "three points make nothing certain"


def test_thinning_keeps_both_ends() -> None:
    points = line(1.0, days=1000)
    few = thinned(points, 50)
    assert len(few) == 50 and few[0] == points[0] and few[-1] == points[-1] and few == sorted(set(few))
    assert found(points).slope == pytest.approx(1.0) and found(points).points == 1000
    assert trend.MOST_POINTS < 1000
