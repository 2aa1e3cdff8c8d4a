# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a series is going, and when it gets to a limit. PRIVATE to the collection.

The slope is Theil's and Sen's: the median of the slopes of all pairs of points, which a quarter of wild points does not move. Its
interval is Sen's, from the variance of Kendall's statistic (P. K. Sen, Estimates of the regression coefficient based on Kendall's
tau, Journal of the American Statistical Association 63, 1968; without the correction for ties, which only makes it wider).
A series grows when the whole interval is above zero.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import typing as t

DAY = 86400.0
MOST_POINTS = 200
"""A series is thinned to this many points: 20,000 pairs, some ten milliseconds."""
CONFIDENCE = 0.95
FOREVER = 3650.0
"""Days after which a forecast says nothing."""

Point = t.Tuple[float, float]
"""Seconds since the epoch, and value."""


@dataclasses.dataclass(frozen=True)
class Trend:
    """Values by day. ``level`` is where the line stands at ``at``, the time of the newest point."""

    slope: float
    low: float
    high: float
    level: float
    at: float
    points: int
    days: float

    @property
    def direction(self) -> str:
        """``grows`` or ``shrinks`` when that is certain, else ``steady``."""
        return "grows" if self.low > 0 else "shrinks" if self.high < 0 else "steady"

    def value_at(self, when: float) -> float:
        """The line at a time."""
        return self.level + self.slope * (when - self.at) / DAY

    def days_to(self, limit: float) -> tuple[float, float, float] | None:
        """Days from the newest point until the line is at an upper limit: expected, earliest, latest; infinite beyond ``FOREVER``.

        0 for a limit that the line is at or above; None for a series that does not certainly grow.
        """
        if self.level >= limit:
            return 0.0, 0.0, 0.0
        if self.direction != "grows":
            return None
        left = limit - self.level
        expected, earliest, latest = (_finite(left / slope) for slope in (self.slope, self.high, self.low))
        return expected, earliest, latest


def _finite(days: float) -> float:
    return days if days <= FOREVER else math.inf


def cleaned(points: t.Iterable[t.Sequence[t.Any]]) -> list[Point]:
    """The points that are numbers, in the order of their times, one for each millisecond."""
    found = {round(float(when), 3): float(value) for when, value in points if value is not None and math.isfinite(float(value))}
    return sorted(found.items())


def thinned(points: t.Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most so many points, evenly, the first and the newest among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(place * (len(points) - 1) / (most - 1))] for place in range(most)]


def trend_of(points: t.Sequence[Point]) -> Trend | None:
    """The trend of points as ``cleaned`` gives them; None for fewer than three, which have no interval."""
    if len(points) < 3:
        return None
    at, days = points[-1][0], (points[-1][0] - points[0][0]) / DAY
    used = [((when - at) / DAY, value) for when, value in thinned(points)]
    slopes = sorted(
        (later[1] - early[1]) / (later[0] - early[0]) for place, early in enumerate(used) for later in used[place + 1 :]
    )
    slope = statistics.median(slopes)
    low, high = _interval(slopes, len(used))
    level = statistics.median([value - slope * when for when, value in used])
    return Trend(slope, low, high, level, at, len(points), days)


def _interval(slopes: t.Sequence[float], points: int) -> tuple[float, float]:
    """Sen's interval: ranks around the middle, as wide as Kendall's statistic varies without a trend."""
    deviation = math.sqrt(points * (points - 1) * (2 * points + 5) / 18)
    wide = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * deviation
    lower, upper = math.floor((len(slopes) - wide) / 2), math.ceil((len(slopes) + wide) / 2)
    low = slopes[lower - 1] if lower >= 1 else -math.inf
    high = slopes[upper] if upper < len(slopes) else math.inf
    return low, high
