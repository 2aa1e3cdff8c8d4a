# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics as checks: the runbook's table of key metrics as queries, and how the answers are judged. PRIVATE to the collection.

A series that is absent and a value that is not a number are ``unknown``: nobody measured.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, STATUSES, UNKNOWN, WARNING, Check, worst
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError, Unavailable
from ansible_collections.fileforge.ops.plugins.module_utils._prometheus.client import Answer, Prometheus, PrometheusOptions, Series

KEPT = 20
PLACES = ("instance", "mountpoint", "pod", "job", "handler", "task")
"""Labels that say in a summary of what a value is."""
POINTS = 300
"""Points of a series that are returned: enough to draw it."""
REDUCERS: dict[str, t.Callable[[t.Sequence[float]], float]] = {
    "last": lambda found: found[-1],
    "max": max,
    "min": min,
    "average": lambda found: sum(value / len(found) for value in found),  # never overflows; opposite infinities are no number
}
_DURATION = re.compile(r"(?:\d+(?:ms|[smhdwy]))+\Z")
_NO_DISK = "tmpfs|ramfs|squashfs|iso9660|nsfs|devtmpfs|rpc_pipefs|fuse.lxcfs"


@dataclasses.dataclass(frozen=True)
class Query:
    """What to ask, and from when on the answer is too much (or, when warning is above critical, too little)."""

    name: str
    query: str
    warning: float | None = None
    critical: float | None = None
    unit: str = ""
    hint: str = ""
    range_seconds: float | None = None
    step_seconds: float = 60.0
    reduce: str = "last"
    absent: str = UNKNOWN

    def __post_init__(self) -> None:
        if not slug(self.name):
            raise InvalidOption("queries", self.name, "a query needs a name with letters or digits")
        if not self.query.strip():
            raise InvalidOption(f"queries.{self.name}.query", self.query, "must not be empty")
        if self.reduce not in REDUCERS or self.absent not in STATUSES:
            raise InvalidOption(f"queries.{self.name}", self.reduce, f"reduce is one of {', '.join(REDUCERS)}")
        if self.range_seconds is not None and not 0 < self.step_seconds <= self.range_seconds:
            raise InvalidOption(f"queries.{self.name}.step_seconds", self.step_seconds, "must be above 0 and within range_seconds")

    @property
    def id(self) -> str:
        """The id of its check."""
        return f"metric.{slug(self.name)}"

    @property
    def advice(self) -> str:
        """What to do next when it is not ok."""
        return self.hint or f"look at it in Prometheus: {self.query}"


def slug(name: str) -> str:
    """A name as a part of check ids."""
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")


@dataclasses.dataclass(frozen=True)
class Selectors:
    """What the shipped queries look at."""

    application: str = 'job="fileforge-backend"'
    node: str = 'job="node"'
    window: str = "5m"

    def __post_init__(self) -> None:
        if not _DURATION.match(self.window):
            raise InvalidOption("window", self.window, "not a duration", hint="use for example 5m")


def shipped(selectors: Selectors) -> dict[str, Query]:
    """The runbook's table of key metrics, and whether everything is scraped, by name."""
    window = selectors.window

    def app(metric: str, *more: str) -> str:
        return metric + _braces(selectors.application, *more)

    def node(metric: str, *more: str) -> str:
        return metric + _braces(selectors.node, *more)

    failed_requests, idle = app("http_requests_total", 'code=~"5.."'), node("node_cpu_seconds_total", 'mode="idle"')
    failed = f"sum(rate({failed_requests}[{window}]))"
    every = f"sum(rate({app('http_requests_total')}[{window}]))"
    disk = f'fstype!~"{_NO_DISK}"'
    free, avail, size = (node(f"node_filesystem_{part}_bytes", disk) for part in ("free", "avail", "size"))
    api, resources = "runbook: Incident Response, API Unavailable", "runbook: Key Metrics; playbook fileforge.ops.capacity_planning"
    found = [
        Query(
            "api_response_seconds",
            f"histogram_quantile(0.95, sum by (le) (rate({app('http_request_duration_seconds_bucket')}[{window}])))",
            0.5, 1.0, "s", f"{api}; look at the slowest handlers and at the database",
        ),
        Query("error_rate", f"({failed} or vector(0)) / {every}", 0.01, 0.05, "ratio", f"{api}; look at the backend's logs"),
        Query(
            "queue_length", f"sum(max by (queue) ({app('fileforge_queue_length')}))", 100, 1000, "messages",
            "runbook: Incident Response, High Queue Backlog",
        ),
        Query("cpu_usage", f"1 - avg by (instance) (rate({idle}[{window}]))",
              0.7, 0.9, "ratio", resources),
        Query("memory_usage", f"1 - {node('node_memory_MemAvailable_bytes')} / {node('node_memory_MemTotal_bytes')}",
              0.8, 0.95, "ratio", resources),
        Query("disk_usage", f"1 - {avail} / ({size} - {free} + {avail})", 0.8, 0.9, "ratio", resources),
        Query("scrape_targets", "count(up == 0) or 0 * count(up)", 0, None, "targets down",
              "look at Status, Targets in Prometheus: what is not scraped is not watched"),
    ]  # fmt: skip
    return {query.name: query for query in found}


def _braces(*matchers: str) -> str:
    return "{" + ",".join(matcher for matcher in matchers if matcher.strip()) + "}"


NAMES = tuple(shipped(Selectors()))


def compose(
    metrics: t.Sequence[str],
    own: t.Sequence[Query],
    thresholds: t.Mapping[str, t.Any],
    selectors: Selectors,
) -> list[Query]:
    """The shipped queries that are wanted and the user's, one of which may take the place of a shipped one; with the thresholds."""
    known = shipped(selectors)
    for name in metrics:
        if name not in known:
            raise InvalidOption("metrics", name, "there is no such metric", hint=f"there are: {', '.join(known)}")
    found = {name: known[name] for name in metrics}
    for query in own:
        if query.name in found and query.warning is None and query.critical is None:
            query = dataclasses.replace(query, warning=found[query.name].warning, critical=found[query.name].critical)
        found[query.name] = query
    if len({query.id for query in found.values()}) != len(found):
        raise InvalidOption("queries", [query.name for query in own], "two names give the same check id")
    for name, limits in thresholds.items():
        if name not in found and name not in known:
            raise InvalidOption("thresholds", name, "there is no such metric", hint=f"there are: {', '.join({**known, **found})}")
        if not isinstance(limits, t.Mapping) or not set(limits) <= {"warning", "critical"}:
            raise InvalidOption(f"thresholds.{name}", limits, "must hold warning, critical or both")
        if name in found:
            query = found[name]
            warning, critical = limits.get("warning", query.warning), limits.get("critical", query.critical)
            found[name] = dataclasses.replace(query, warning=_limit(name, warning), critical=_limit(name, critical))
    return list(found.values())


def _limit(name: str, limit: t.Any) -> float | None:
    try:
        return None if limit is None else float(limit)
    except (TypeError, ValueError) as error:
        raise InvalidOption(f"thresholds.{name}", limit, "not a number") from error


@dataclasses.dataclass
class Report:
    """What the module returns; ``notes`` are warnings of the API."""

    checks: list[Check] = dataclasses.field(default_factory=list)
    metrics: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def examine(options: PrometheusOptions, queries: t.Sequence[Query]) -> Report:
    """Ask and judge. A server that does not answer is ``critical``, because then nobody watches; its metrics are ``unknown``."""
    report = Report()
    lost: OpsError | None = None
    try:
        server = Prometheus(options)
        offset = server.instant("time()").series[0].points[0][1] - time.time()
        summary = f"Prometheus at {options.url} answers"
        report.checks.append(Check("prometheus.connection", OK, summary, evidence={"clock_offset": round(offset, 3)}))
    except (OpsError, IndexError) as error:
        lost = error if isinstance(error, OpsError) else OpsError(f"what answers at {options.url} is not the API of Prometheus")
        status = CRITICAL if isinstance(lost, Unavailable) else UNKNOWN
        hint = lost.hint or "check that Prometheus runs, and prometheus_url: without it nobody is alerted"
        report.checks.append(Check("prometheus.connection", status, lost.message, hint=hint))
    for query in queries:
        if lost is not None:
            hint = "see prometheus.connection"
            report.checks.append(_check(query, UNKNOWN, "Prometheus could not be asked", None, hint=hint))
            continue
        try:
            answer = ask(server, query)
        except OpsError as error:
            lost = error if isinstance(error, Unavailable) else None
            report.checks.append(_check(query, UNKNOWN, f"could not look: {error.message}", None, hint=error.hint or query.advice))
            continue
        report.checks.append(judge(query, answer))
        report.metrics.append(described(query, answer))
        report.notes += [f"{query.name}: {note}" for note in answer.notes]
    return report


def ask(server: Prometheus, query: Query) -> Answer:
    """The answer to a query, now or over its range up to now."""
    if query.range_seconds is None:
        return server.instant(query.query)
    end = time.time()
    return server.span(query.query, end - query.range_seconds, end, query.step_seconds)


def value_of(query: Query, series: Series) -> float:
    """A series as one number. Points that are not numbers are left out while there are others."""
    found = [value for _moment, value in series.points if not math.isnan(value)]
    return REDUCERS[query.reduce](found) if found else math.nan


def grade(query: Query, value: float) -> str:
    """More than a limit is too much; less, when warning is above critical."""
    if math.isnan(value):
        return UNKNOWN
    warning, critical = query.warning, query.critical
    falling = warning is not None and critical is not None and warning > critical
    for limit, status in ((critical, CRITICAL), (warning, WARNING)):
        if limit is not None and (value < limit if falling else value > limit):
            return status
    return OK


def judge(query: Query, answer: Answer) -> Check:
    """The worst series decides."""
    found = [(series, value_of(query, series)) for series in answer.series if series.points]
    if not found:
        hint = f"look whether it is scraped, and whether the query's names are right: {query.query}"
        return _check(query, query.absent, f"{query.name}: no series", None, hint=hint)
    falling = query.warning is not None and query.critical is not None and query.warning > query.critical
    order = sorted(
        found,
        key=lambda item: (-STATUSES.index(grade(query, item[1])), item[1] if falling else -item[1] if item[1] == item[1] else 0),
    )
    status = worst(grade(query, value) for _series, value in found)
    first, value = order[0]
    place = ", ".join(f"{key}={text}" for key, text in sorted(first.labels.items()) if key in PLACES)
    where = f" ({place})" if place else ""
    summary = f"{query.name}: {text_of(value, query.unit)}{where}"
    if len(found) > 1:
        summary += f", the worst of {len(found)} series"
    if answer.notes:
        summary += f"; Prometheus says: {answer.notes[0]}"
    evidence = [{"labels": series.labels, "value": _plain(value)} for series, value in order[:KEPT]]
    return _check(query, status, summary, _plain(value), hint=query.advice, evidence=evidence)


def text_of(value: float, unit: str) -> str:
    """A value for people; a ratio as percent."""
    if math.isnan(value):
        return "not a number: nothing was measured"
    return f"{100 * value:.4g} %" if unit == "ratio" else f"{value:.4g} {unit}".strip()


def _plain(value: float) -> float | None:
    """A number that JSON has."""
    return round(value, 9) if math.isfinite(value) else None


def _check(query: Query, status: str, summary: str, value: float | None, *, hint: str = "", evidence: t.Any = None) -> Check:
    hint = "" if status == OK else hint
    return Check(query.id, status, summary, value, query.unit, query.warning, query.critical, hint, evidence)


def described(query: Query, answer: Answer) -> dict[str, t.Any]:
    """A metric for reports: with the points of a range, thinned out to what a drawing needs."""
    series = []
    for item in answer.series[:KEPT]:
        points = item.points[:: math.ceil(len(item.points) / POINTS)] if item.points else ()
        series.append(
            {
                "labels": item.labels,
                "value": _plain(value_of(query, item)) if item.points else None,
                "points": [[moment, _plain(value)] for moment, value in points] if query.range_seconds else [],
            }
        )
    return {"name": query.name, "query": query.query, "unit": query.unit, "series": series}
