# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Forecasts: when a limit is reached, what is not foretold, and drawings that hold what they show."""

from __future__ import annotations

import datetime
import random
import re
import typing as t
from xml.etree import ElementTree

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._report import capacity, plot
from ansible_collections.fileforge.ops.plugins.module_utils._report.capacity import Enough, Line, Resource, forecast
from ansible_collections.fileforge.ops.plugins.module_utils._report.history import History, Run
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime.datetime(2026, 11, 24, 7, 30, tzinfo=datetime.timezone.utc)
DAY = 86400.0
DISK: dict[str, t.Any] = {"name": "disk", "title": "Disk", "metric": "disk", "limit": 0.9, "unit": "ratio", "hint": "order more"}


def past(slope: float, now: float, days: int = 60, age: float = 0.0) -> list[tuple[float, float]]:
    """Daily values that grow by ``slope`` a day to ``now``."""
    at = NOW.timestamp() - age * DAY
    return [(at - day * DAY, now - slope * day) for day in reversed(range(days))]


def one(points: list[tuple[float, float]], subject: str = "", **changes: t.Any) -> dict[str, t.Any]:
    [found] = forecast(Resource(**{**DISK, **changes}), [Line(subject, points)], NOW, Enough())
    return found


@pytest.mark.parametrize(
    ("slope", "now", "status", "days", "words"),
    [
        (0.001, 0.5, "ok", 400.0, "+3 % in 30 days; limit of 90 %: 2027-12-29"),
        (0.005, 0.5, "warning", 80.0, "limit of 90 %: 2027-02-12"),
        (0.02, 0.5, "critical", 20.0, "2026-12-14"),
        (0.01, 0.95, "critical", 0.0, "over its limit of 90 %"),
        (0.0, 0.5, "ok", None, "steady; does not come near"),
        (-0.001, 0.5, "ok", None, "-3 % in 30 days"),
        (0.00001, 0.5, "ok", None, "not in ten years"),
    ],
)
def test_when_the_limit_is_reached(slope: float, now: float, status: str, days: float | None, words: str) -> None:
    check = one(past(slope, now), "mountpoint=/")["check"]
    assert (check["id"], check["status"], check["subject"]) == ("capacity.disk", status, "mountpoint=/"), check
    assert check["value"] == (None if days is None else pytest.approx(days, abs=0.1))
    assert words in check["summary"] and check["summary"].startswith("Disk (mountpoint=/): ")
    assert check["hint"] == ("" if status == "ok" else "order more")


def test_the_age_of_the_newest_value_counts() -> None:
    assert one(past(0.02, 0.5, age=0.75))["check"]["value"] == pytest.approx(19.25, abs=0.06)


def test_an_early_end_of_the_interval_warns() -> None:
    chance = random.Random(1)
    jagged = [(when, value + chance.gauss(0, 0.03)) for when, value in past(0.009, 0.5, days=20)]
    found = one(jagged, critical_days=38, warning_days=38)
    assert re.search(r": (\S+) \(between (\S+) and (\S+)\)", found["check"]["summary"])
    assert found["check"]["value"] > 38 and found["check"]["status"] == "warning"


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (past(0.01, 0.5, days=9), "only 9 values over 8 days: a forecast needs 10 over 14"),
        (past(0.01, 0.5, days=12), "only 12 values over 11 days"),
        ([], "only 0 values over 0 days"),
        (past(0.01, 0.5, age=10), "not measured since 2026-11-14"),
    ],
)
def test_what_is_not_foretold(points: list[tuple[float, float]], words: str) -> None:
    found = one(points)
    assert (found["check"]["status"], found["check"]["value"], found["trend"]) == ("unknown", None, None)
    assert words in found["check"]["summary"] and found["check"]["hint"]


def test_a_short_past_over_its_limit_is_critical() -> None:
    check = one(past(0.01, 0.95, days=3))["check"]
    assert check["status"] == "critical" and "95 %, over its limit of 90 %; only 3 values" in check["summary"]
    assert check["hint"] == "order more"


def test_a_resource_without_values_is_unknown() -> None:
    [found] = forecast(Resource(**DISK), [], NOW, Enough())
    assert found["check"]["status"] == "unknown" and "no values of metric disk" in found["check"]["summary"]
    assert plot.plot(found) == ""


def test_growth_without_a_limit_is_told() -> None:
    check = one(past(1024.0**3, 90 * 1024.0**3), unit="bytes", limit=None)["check"]
    assert check["status"] == "ok" and "+30.0 GiB in 30 days" in check["summary"]


def test_the_soonest_is_first() -> None:
    lines = [Line("slow", past(0.001, 0.5)), Line("never", past(0, 0.5)), Line("soon", past(0.02, 0.5))]
    assert [each["subject"] for each in forecast(Resource(**DISK), lines, NOW, Enough())] == ["soon", "slow", "never"]


def test_series_are_named_by_what_tells_them_apart() -> None:
    def series(**labels: str) -> dict[str, t.Any]:
        return {"labels": {"job": "node", **labels}, "points": [[1.0, 2.0], [2.0, None]]}

    metrics = [{"name": "disk", "series": [series(instance="a", mountpoint="/"), series(instance="a", mountpoint="/srv")]}]
    found = capacity.lines_of_metrics([{"metrics": metrics}, {"failed": True}], "disk")
    assert [(line.subject, line.points) for line in found] == [("mountpoint=/", [(1.0, 2.0)]), ("mountpoint=/srv", [(1.0, 2.0)])]
    alone = capacity.lines_of_metrics([{"metrics": [{"name": "disk", "series": [series()]}]}], "disk")
    assert [line.subject for line in alone] == [""] and capacity.lines_of_metrics([], "disk") == []


def test_histories_are_joined_by_key() -> None:
    def run(day: int, **checks: t.Any) -> Run:
        return Run(
            NOW + datetime.timedelta(days=day), "ok", {name.replace("__", "/"): ("ok", value) for name, value in checks.items()}
        )

    first = History([run(0, db1__size=1, db1__role=None), run(1, db1__size=2.5)])
    second = History([run(2, db1__size=True, db2__size=9), run(3, db1__size=4)])
    found = capacity.lines_of_history([first, second], "*/size")
    assert [(line.subject, [value for _when, value in line.points]) for line in found] == [
        ("db1/size", [1.0, 2.5, 4.0]),
        ("db2/size", [9.0]),
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "!"}, "letters or digits"),
        ({"metric": ""}, "either metric or check"),
        ({"check": "x"}, "either metric or check"),
        ({"limit": float("nan")}, r"resources.disk.limit=nan"),
        ({"critical_days": 100}, "from 0 to warning_days"),
    ],
)
def test_bad_resources_are_named(changes: dict[str, t.Any], words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        Resource(**{**DISK, **changes})


@pytest.mark.parametrize("given_", [{"days": -1}, {"points": 2}])
def test_bad_minimums_are_named(given_: dict[str, t.Any]) -> None:
    with pytest.raises(InvalidOption, match="minimum_"):
        Enough(**given_)


def drawn(found: dict[str, t.Any]) -> tuple[ElementTree.Element, list[tuple[float, float]]]:
    root = ElementTree.fromstring(plot.plot(found))
    [line] = [each for each in root.iter("polyline") if each.get("class") == "past"]
    return root, [(float(x), float(y)) for x, y in (pair.split(",") for pair in (line.get("points") or "").split())]


def test_a_drawing_shows_past_trend_interval_and_limit() -> None:
    found = one(past(0.005, 0.5), "mountpoint=/<b>")
    root, points = drawn(found)
    assert len(points) == 60 and points[0][0] == plot.LEFT and points[-1][1] < points[0][1], "what grows goes up"
    kinds = [each.get("class") for each in root.iter()]
    assert {"past", "trend", "band", "limit", "now", "grid"} <= set(kinds)
    words = [each.text for each in root.iter("text")]
    assert "limit 90 %" in words and "2026-09-26" in words and "50 %" in words
    [limit] = [each for each in root.iter("line") if each.get("class") == "limit"]
    [trend] = [each for each in root.iter("line") if each.get("class") == "trend"]
    assert float(trend.get("y2") or 0) < float(limit.get("y1") or 0), "the line is seen to cross the limit"
    page = plot.figures([found])
    assert "<b>" not in re.sub("<b>Disk</b>", "", page) and "Disk" in page and "badge warning" in page


def test_ticks_are_numbers_of_their_unit() -> None:
    def ticks(**changes: t.Any) -> list[str | None]:
        root, _points = drawn(one(past(changes.pop("slope"), changes.pop("now")), limit=None, **changes))
        return [each.text for each in root.iter("text") if each.get("text-anchor") == "end" and each.get("x") == f"{plot.LEFT - 8}"]

    assert ticks(slope=1024**3, now=200 * 1024**3, unit="bytes") == ["0 B", "100.0 GiB", "200.0 GiB"]
    assert ticks(slope=1, now=100, unit="requests/s") == ["0", "50", "100"], "a long unit has no room"


def test_a_far_limit_is_not_drawn() -> None:
    root, _points = drawn(one(past(0.00001, 0.1)))
    assert "limit" not in [each.get("class") for each in root.iter()]


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.floats(-1e12, 1e12)), min_size=2, max_size=30, unique_by=lambda point: point[0])
)
def test_every_drawing_is_within_its_frame(points: list[tuple[int, float]]) -> None:
    _root, places = drawn(one([(NOW.timestamp() - when, value) for when, value in sorted(points, reverse=True)], unit="bytes"))
    assert all(plot.LEFT - 0.1 <= x <= plot.WIDTH - plot.RIGHT + 0.1 for x, _y in places)
    assert all(plot.TOP - 0.1 <= y <= plot.HEIGHT - plot.BOTTOM + 0.1 for _x, y in places)


@given(st.floats(1e-9, 1e15))
def test_ticks_are_round_and_few(span: float) -> None:
    step = plot.step_of(span)
    assert 1 <= span / step <= plot.TICKS * 1.01
    assert f"{step:.6e}"[0] in "125"
