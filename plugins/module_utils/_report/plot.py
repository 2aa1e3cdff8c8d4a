# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Forecasts as drawings (SVG 2, W3C): what was measured, the trend, its interval and the limit. PRIVATE to the collection.

Colours are those of the page, so that a drawing is right in light, in dark and on paper.
"""

from __future__ import annotations

import dataclasses
import math
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._markup import badge, text
from ansible_collections.fileforge.ops.plugins.module_utils._report.capacity import amount, day_of
from ansible_collections.fileforge.ops.plugins.module_utils._report.trend import DAY

STYLE = """\
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 16px; }
.figure { margin: 0; break-inside: avoid; } .figure figcaption { font-size: 14px; margin-bottom: 10px; }
.figure figcaption b { margin-right: 8px; } .figure figcaption p { margin: 4px 0 0; color: var(--muted); }
.plot { display: block; width: 100%; height: auto; } .plot text { fill: var(--muted); font-size: 12px; }
.plot .grid { stroke: var(--line); stroke-width: 1; } .plot .past { fill: none; stroke: var(--c0); stroke-width: 1.75; }
.plot .trend { stroke: var(--c0); stroke-width: 1.75; stroke-dasharray: 5 4; } .plot .band { fill: var(--c0); opacity: 0.14; }
.plot .limit { stroke: var(--critical); stroke-width: 1.5; } .plot text.limit { fill: var(--critical); stroke: none; }
.plot .now { stroke: var(--muted); stroke-dasharray: 2 3; }
"""
WIDTH, HEIGHT = 560, 230
LEFT, RIGHT, TOP, BOTTOM = 74, 10, 12, 26
TICKS = 4


@dataclasses.dataclass(frozen=True)
class Frame:
    """What part of the world is drawn."""

    begin: float
    end: float
    low: float
    high: float

    def x(self, when: float) -> float:
        """Column of a time."""
        return LEFT + (when - self.begin) / (self.end - self.begin) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Row of a value; what is outside is at the edge."""
        inside = min(max(value, self.low), self.high)
        return HEIGHT - BOTTOM - (inside - self.low) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)


def step_of(span: float, ticks: int = TICKS) -> float:
    """A round distance of ticks: 1, 2 or 5 times a power of ten."""
    rough = span / ticks
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next((factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999), 10)


def frame_of(forecast: t.Mapping[str, t.Any]) -> Frame:
    """The past, a while of the future (up to the limit when that is near), and the values of both."""
    points, trend, limit = forecast["points"], forecast["trend"], forecast["limit"]
    begin, at = points[0][0], points[-1][0]
    span = max(at - begin, 1.0)
    days = forecast["check"]["value"] if trend else None
    end = at if trend is None else at + min(max(span / 3, (days or 0) * DAY * 1.15), 2 * span)
    seen = [value for _moment, value in points]
    if trend:
        seen.append(trend["level"] + trend["slope"] * (end - at) / DAY)
    high, low = max(*seen, 0.0), min(*seen, 0.0)
    if limit is not None and limit <= 4 * max(high, 1e-12):
        high = max(high, limit * 1.05)
    return Frame(begin, max(end, begin + 1.0), low, high if high > low else low + 1.0)


def plot(forecast: t.Mapping[str, t.Any]) -> str:
    """A drawing; nothing for fewer than two points."""
    points, trend, limit, unit = forecast["points"], forecast["trend"], forecast["limit"], forecast["unit"]
    if len(points) < 2:
        return ""
    frame = frame_of(forecast)
    parts = [*_values(frame, unit), *_times(frame)]
    if trend:
        parts += _future(frame, trend)
    if limit is not None and frame.low <= limit <= frame.high:
        row = frame.y(limit)
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{row:.1f}" y2="{row:.1f}"/>')
        parts.append(f'<text class="limit" x="{LEFT + 6}" y="{row - 4:.1f}">limit {text(amount(limit, unit))}</text>')
    line = " ".join(f"{frame.x(moment):.1f},{frame.y(value):.1f}" for moment, value in points)
    parts.append(f'<polyline class="past" points="{line}"/>')
    label, drawing = text(forecast["check"]["summary"]), "".join(parts)
    head = f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
    return f"{head}<title>{label}</title>{drawing}</svg>"


def _values(frame: Frame, unit: str) -> list[str]:
    scale = 1024.0 ** int(math.log(max(frame.high - frame.low, 1.0), 1024)) if unit == "bytes" else 1.0
    step = scale * step_of((frame.high - frame.low) / scale)
    shown = unit if unit in ("bytes", "ratio") else ""  # the caption says the others
    found = []
    for number in range(math.ceil(frame.low / step - 1e-9), math.floor(frame.high / step + 1e-9) + 1):
        row = frame.y(number * step)
        found.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{row:.1f}" y2="{row:.1f}"/>')
        found.append(f'<text x="{LEFT - 8}" y="{row + 4:.1f}" text-anchor="end">{text(amount(number * step, shown))}</text>')
    return found


def _times(frame: Frame) -> list[str]:
    found = []
    for place, anchor in enumerate(("start", "middle", "middle", "end")):
        when = frame.begin + (frame.end - frame.begin) * place / 3
        found.append(f'<text x="{frame.x(when):.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{day_of(when)}</text>')
    return found


def _future(frame: Frame, trend: t.Mapping[str, t.Any]) -> list[str]:
    at, level, days = trend["at"], trend["level"], (frame.end - trend["at"]) / DAY
    column, edge, row = frame.x(at), frame.x(frame.end), frame.y(level)
    past = level - trend["slope"] * (at - frame.begin) / DAY
    found = [f'<line class="now" x1="{column:.1f}" x2="{column:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>']
    if trend["low"] is not None and trend["high"] is not None:
        low, high = frame.y(level + trend["low"] * days), frame.y(level + trend["high"] * days)
        found.append(f'<polygon class="band" points="{column:.1f},{row:.1f} {edge:.1f},{high:.1f} {edge:.1f},{low:.1f}"/>')
    ends = f'y1="{frame.y(past):.1f}" y2="{frame.y(level + trend["slope"] * days):.1f}"'
    found.append(f'<line class="trend" x1="{LEFT}" x2="{edge:.1f}" {ends}/>')
    return found


def figures(forecasts: t.Sequence[t.Mapping[str, t.Any]]) -> str:
    """All drawings, with what they say."""
    found = []
    for forecast in forecasts:
        title, status = text(forecast["title"]), forecast["check"]["status"]
        subject = f"<p><code>{text(forecast['subject'])}</code></p>" if forecast["subject"] else ""
        caption = f"<b>{title}</b>{badge(status)}{subject}<p>{text(forecast['check']['summary'])}</p>"
        found.append(f'<figure class="panel figure"><figcaption>{caption}</figcaption>{plot(forecast)}</figure>')
    return f'<div class="figures">{"".join(found)}</div>'
