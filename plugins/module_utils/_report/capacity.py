# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""When each limit is reached: what was measured in the past, continued. PRIVATE to the collection.

Two sources: series of Prometheus, and the values that earlier reports of checks kept. A series that is too short, or that nobody
measures any more, is ``unknown``: nothing is foretold from a guess.
"""

from __future__ import annotations

import dataclasses
import datetime
import fnmatch
import math
import statistics
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, UNKNOWN, WARNING, Check, worst
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._plan import human_bytes
from ansible_collections.fileforge.ops.plugins.module_utils._prometheus.queries import slug
from ansible_collections.fileforge.ops.plugins.module_utils._report.history import History
from ansible_collections.fileforge.ops.plugins.module_utils._report.trend import DAY, Point, Trend, cleaned, thinned, trend_of
from ansible_collections.fileforge.ops.plugins.module_utils._time import UTC, iso

DRAWN = 160
"""Points of a series that are kept for its drawing."""
MONTH = 30.0


@dataclasses.dataclass(frozen=True)
class Resource:
    """What is planned for: where its past is, its limit, and how many days ahead a person wants to know."""

    name: str
    title: str = ""
    metric: str = ""
    """Name of a metric in the results of ``prometheus_metric_info``."""
    check: str = ""
    """Pattern of a key in the histories of reports: ``*/postgres.size.database``."""
    limit: float | None = None
    unit: str = ""
    hint: str = ""
    warning_days: float = 90.0
    critical_days: float = 30.0

    def __post_init__(self) -> None:
        option = f"resources.{self.name}"
        if not slug(self.name):
            raise InvalidOption("resources", self.name, "a resource needs a name with letters or digits")
        if bool(self.metric) == bool(self.check):
            raise InvalidOption(option, self.metric or self.check, "give either metric or check")
        if self.limit is not None and not math.isfinite(self.limit):
            raise InvalidOption(f"{option}.limit", self.limit, "must be a number")
        if not 0 <= self.critical_days <= self.warning_days:
            raise InvalidOption(f"{option}.critical_days", self.critical_days, "must be from 0 to warning_days")

    @property
    def id(self) -> str:
        """The id of its checks."""
        return f"capacity.{slug(self.name)}"


@dataclasses.dataclass(frozen=True)
class Enough:
    """From when on a past is long enough to be continued."""

    days: float = 14.0
    points: int = 10

    def __post_init__(self) -> None:
        if self.days < 0:
            raise InvalidOption("minimum_days", self.days, "must not be below 0")
        if self.points < 3:
            raise InvalidOption("minimum_points", self.points, "must be 3 or more")


@dataclasses.dataclass(frozen=True)
class Line:
    """The past of one thing."""

    subject: str
    points: list[Point]


def lines_of_metrics(results: t.Iterable[t.Mapping[str, t.Any]], metric: str) -> list[Line]:
    """The series of a metric in results of ``prometheus_metric_info``, named by the labels in which they differ."""
    found = [
        series
        for result in results
        for entry in result.get("metrics") or []
        if entry["name"] == metric
        for series in entry["series"]
        if series["points"]
    ]
    labels = [dict(series["labels"]) for series in found]
    telling = sorted({name for each in labels for name in each if len({other.get(name) for other in labels}) > 1})
    names = [", ".join(f"{name}={each[name]}" for name in telling if name in each) for each in labels]
    return [Line(name, cleaned(series["points"])) for name, series in zip(names, found)]


def lines_of_history(histories: t.Iterable[History], pattern: str) -> list[Line]:
    """The values of all checks whose key matches, from every history."""
    points: dict[str, list[Point]] = {}
    for history in histories:
        for run in history.runs:
            for key, (_status, value) in run.checks.items():
                if isinstance(value, (int, float)) and not isinstance(value, bool) and fnmatch.fnmatchcase(key, pattern):
                    points.setdefault(key, []).append((run.time.timestamp(), float(value)))
    return [Line(key, cleaned(points[key])) for key in sorted(points)]


def amount(value: float, unit: str) -> str:
    """A value for people."""
    if unit == "bytes":
        return f"{'-' if value < 0 else ''}{human_bytes(abs(value))}"
    return f"{100 * value:.3g} %" if unit == "ratio" else f"{value:.4g} {unit}".strip()


def day_of(moment: float) -> str:
    """``2027-02-01``."""
    return datetime.datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")


def forecast(resource: Resource, lines: t.Sequence[Line], now: datetime.datetime, enough: Enough) -> list[dict[str, t.Any]]:
    """One forecast for each line, soonest first; a resource without any is ``unknown``."""
    if not lines:
        source = f"metric {resource.metric}" if resource.metric else f"check {resource.check} of earlier reports"
        hint = "look whether it is measured, and whether the names in the inventory are right"
        check = _check(resource, "", UNKNOWN, f"{resource.title or resource.name}: no values of {source}", hint=hint)
        return [_described(resource, Line("", []), check, None)]
    found = [_one(resource, line, now.timestamp(), enough) for line in lines]
    return sorted(found, key=lambda each: math.inf if each["check"]["value"] is None else each["check"]["value"])


def _one(resource: Resource, line: Line, now: float, enough: Enough) -> dict[str, t.Any]:
    trend = trend_of(line.points)
    reason = _unusable(line, trend, now, enough)
    what = f"{resource.title or resource.name}{f' ({line.subject})' if line.subject else ''}"
    if trend is None or reason:
        return _described(resource, line, _unforeseen(resource, line, what, reason), None)
    change = trend.slope * MONTH
    pace = f"{'+' if change >= 0 else ''}{amount(change, resource.unit)} in 30 days"
    text = f"{what}: {amount(trend.level, resource.unit)}, {pace if trend.direction != 'steady' else 'steady'}"
    if resource.limit is None:
        return _described(resource, line, _check(resource, line.subject, OK, text), trend)
    days = _left(trend, resource.limit, now)
    limit = amount(resource.limit, resource.unit)
    if days is None:
        check = _check(resource, line.subject, OK, f"{text}; does not come near its limit of {limit}")
    elif trend.level >= resource.limit:
        check = _check(resource, line.subject, CRITICAL, f"{text}; over its limit of {limit}", 0.0)
    else:
        expected, earliest, latest = days
        when = day_of(now + expected * DAY) if math.isfinite(expected) else "not in ten years"
        ends = [_date(now, earliest), _date(now, latest)]
        between = f" (between {ends[0]} and {ends[1]})" if math.isfinite(expected) and ends[0] != ends[1] else ""
        value = round(expected, 1) if math.isfinite(expected) else None
        check = _check(
            resource, line.subject, _status(resource, expected, earliest), f"{text}; limit of {limit}: {when}{between}", value
        )
    return _described(resource, line, check, trend)


def _unforeseen(resource: Resource, line: Line, what: str, reason: str) -> Check:
    """Nothing can be said of the future; a limit that is passed already is told all the same."""
    last = line.points[-1][1] if line.points else None
    if last is None or resource.limit is None or last < resource.limit:
        return _check(
            resource, line.subject, UNKNOWN, f"{what}: {reason}", hint="wait until more is known, or look who measures it"
        )
    over = f"{amount(last, resource.unit)}, over its limit of {amount(resource.limit, resource.unit)}"
    return _check(resource, line.subject, CRITICAL, f"{what}: {over}; {reason}")


def _unusable(line: Line, trend: Trend | None, now: float, enough: Enough) -> str:
    """Why nothing can be said; empty when something can."""
    points = line.points
    days = (points[-1][0] - points[0][0]) / DAY if points else 0.0
    if trend is None or len(points) < enough.points or days < enough.days:
        needs = f"a forecast needs {enough.points} over {enough.days:g}"
        return f"only {len(points)} values over {days:.3g} days: {needs}"
    gap = statistics.median(after[0] - before[0] for before, after in zip(points, points[1:]))
    if now - points[-1][0] > max(3 * gap, DAY):
        return f"not measured since {day_of(points[-1][0])}"
    return ""


def _left(trend: Trend, limit: float, now: float) -> tuple[float, float, float] | None:
    """Days from now instead of from the newest point."""
    days = trend.days_to(limit)
    age = (now - trend.at) / DAY
    if days is None:
        return None
    expected, earliest, latest = (max(0.0, each - age) for each in days)
    return expected, earliest, latest


def _status(resource: Resource, expected: float, earliest: float) -> str:
    if expected <= resource.critical_days:
        return CRITICAL
    return WARNING if expected <= resource.warning_days or earliest <= resource.critical_days else OK


def _date(now: float, days: float) -> str:
    return day_of(now + days * DAY) if math.isfinite(days) else "never"


def _check(resource: Resource, subject: str, status: str, summary: str, value: float | None = None, hint: str = "") -> Check:
    hint = "" if status == OK else hint or resource.hint or "find what makes it grow, or make room before the limit is reached"
    limits = (resource.warning_days, resource.critical_days)
    return Check(resource.id, status, summary, value, "days", *limits, hint=hint, subject=subject)


def _described(resource: Resource, line: Line, check: Check, trend: Trend | None) -> dict[str, t.Any]:
    return {
        "name": resource.name,
        "title": resource.title or resource.name,
        "subject": line.subject,
        "unit": resource.unit,
        "limit": resource.limit,
        "points": [[moment, value] for moment, value in thinned(line.points, DRAWN)],
        "trend": _plain(trend),
        "check": check.as_dict(),
    }


def _plain(trend: Trend | None) -> dict[str, t.Any] | None:
    """A trend as JSON: values by day; an end of the interval that is not known is null."""
    if trend is None:
        return None
    found = {name: value if math.isfinite(value) else None for name, value in dataclasses.asdict(trend).items()}
    return {**found, "direction": trend.direction, "time": iso(datetime.datetime.fromtimestamp(trend.at, UTC))}


def section_of(resource: Resource, forecasts: t.Sequence[dict[str, t.Any]]) -> dict[str, t.Any]:
    """The checks of a resource, as an entry of a report's results."""
    checks = [each["check"] for each in forecasts]
    return {
        "name": resource.title or resource.name,
        "result": {"checks": checks, "status": worst(check["status"] for check in checks)},
    }
