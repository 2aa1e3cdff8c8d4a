# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which statements cost a server most, and which became slower, from pg_stat_statements. PRIVATE to the collection.

Statements are judged without their values. What cannot be seen (no extension, no right) is ``unknown`` with the way to see it.
"""

from __future__ import annotations

import dataclasses
import re
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import (
    CRITICAL,
    OK,
    UNKNOWN,
    WARNING,
    Check,
    grade,
    worst,
)
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError, Unavailable
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import statements_state as state
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import table_use
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions, connect, query
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.health_look import INCIDENT, size_text
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.statements_read import GRANT, Reading, Statement, read
from ansible_collections.fileforge.ops.plugins.module_utils._time import duration_text

if t.TYPE_CHECKING:
    import psycopg

BLOCK = 8192
CLEAN, REBUILD = "playbooks/db-maintenance.yml", "playbooks/index-rebuild.yml"
ORDERS = {
    "load": ("time", "of the time of all statements"),
    "calls": ("calls", "of all calls"),
    "rows": ("rows", "of all rows"),
    "reads": ("reads", "of the blocks that were not in memory"),
    "temporary": ("temporary", "of the blocks of temporary files"),
    "wal": ("wal", "of the WAL that statements wrote"),
}
"""What the most expensive statements are listed by, beside their mean time: the figure, and what it is a part of."""
JUDGED = ("slowest", "regressions", "dealloc")
IDS = (*JUDGED, *ORDERS)
MAINTENANCE = (
    r"^(?:vacuum|analyze|reindex|cluster|checkpoint|copy|refresh|create|alter|drop|truncate|fetch|listen)\b",
    r"\bpg_(?:backup_|start_backup|stop_backup|switch_wal|create_restore_point|sleep_until|wal_replay_|logical_slot_)",
)
"""Statements that may take long: work for the administrator, whose time nobody waits for."""


@dataclasses.dataclass(frozen=True)
class StatementOptions:
    """What to look at, and from when on it is too much. Times of statements are in milliseconds."""

    databases: t.Sequence[str] = ()
    top: int = 10
    mean_warning: float = 250.0
    mean_critical: float = 1000.0
    minimum_calls: int = 5
    regression_factor: float = 2.0
    regression_calls: int = 20
    regression_ms: float = 1.0
    ignore_roles: t.Sequence[str] = ()
    ignore: t.Sequence[str] = MAINTENANCE
    tables: bool = True
    table_bytes: int = 64 << 20
    seq_scan_warning: int = 100
    hit_ratio_warning: float = 90.0
    state_file: str | None = None
    period_hours: float = 144.0
    timeout: float = 30.0

    def __post_init__(self) -> None:
        for name in ("top", "minimum_calls", "regression_calls", "seq_scan_warning", "period_hours", "timeout"):
            if getattr(self, name) <= 0:
                raise InvalidOption(name, getattr(self, name), "must be more than 0")
        if self.mean_warning > self.mean_critical:
            raise InvalidOption("mean_warning", self.mean_warning, f"must not be above mean_critical ({self.mean_critical:g})")
        if self.regression_factor <= 1:
            raise InvalidOption("regression_factor", self.regression_factor, "must be more than 1")
        for pattern in self.ignore:
            try:
                re.compile(pattern)
            except re.error as error:
                raise InvalidOption("ignore", pattern, f"is no regular expression: {error}") from error

    def ignores(self, statement: Statement) -> bool:
        """Whether a statement may take as long as it likes."""
        return statement.role in self.ignore_roles or any(re.search(word, statement.text, re.IGNORECASE) for word in self.ignore)


@dataclasses.dataclass(frozen=True)
class Use:
    """A statement in the time that is reviewed."""

    statement: Statement
    figures: t.Mapping[str, float]
    before: t.Mapping[str, float] = dataclasses.field(default_factory=dict)
    """The same in the time before."""

    @property
    def calls(self) -> float:
        """How often it was run."""
        return self.figures.get("calls", 0.0)

    @property
    def mean(self) -> float:
        """Mean time in ms."""
        return mean_of(self.figures) or 0.0

    def as_dict(self) -> dict[str, t.Any]:
        """For results and evidence."""
        figures = self.figures
        read, hit = figures.get("reads", 0.0), figures.get("hits", 0.0)
        before = mean_of(self.before)
        return {
            "statement": self.statement.text,
            "id": self.statement.key,
            "database": self.statement.database,
            "role": self.statement.role,
            "calls": int(self.calls),
            "mean_ms": round(self.mean, 3),
            "mean_before_ms": None if before is None else round(before, 3),
            "max_ms": None if self.statement.largest is None else round(self.statement.largest, 3),
            "total_ms": round(figures.get("time", 0.0), 1),
            "rows": int(figures.get("rows", 0.0)),
            "read_bytes": int(read * BLOCK),
            "read_ms": round(figures["read_time"], 1) if "read_time" in figures else None,
            "hit_percent": round(100 * hit / (read + hit), 1) if read + hit else None,
            "temporary_bytes": int(figures.get("temporary", 0.0) * BLOCK),
            "wal_bytes": int(figures["wal"]) if "wal" in figures else None,
        }


def mean_of(figures: t.Mapping[str, float]) -> float | None:
    """Mean time of a call in ms; None without a call."""
    calls = figures.get("calls", 0.0)
    return figures.get("time", 0.0) / calls if calls > 0 else None


@dataclasses.dataclass
class Report:
    """What the module returns."""

    checks: list[Check] = dataclasses.field(default_factory=list)
    statements: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)
    regressions: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)
    tables: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)
    window: dict[str, t.Any] = dataclasses.field(default_factory=dict)


def examine(server: PostgresOptions, options: StatementOptions, *, remember: bool) -> Report:
    """Look, compare with the last review, and judge. ``remember``: whether the state file may be written.

    A server that refuses or does not answer is ``critical`` in ``statements.collection``; one that cannot tell is ``unknown``.
    """
    report = Report()
    samples = state.load(options.state_file) if options.state_file else []
    milliseconds = max(1, int(options.timeout * 1000))
    try:
        connection = connect(
            server, statement_timeout_ms=milliseconds, lock_timeout_ms=milliseconds, application_name="fileforge.ops review"
        )
    except OpsError as error:
        status = CRITICAL if isinstance(error, Unavailable) else UNKNOWN
        hint = f"{INCIDENT}; {error.hint}" if error.hint else INCIDENT
        report.checks.append(Check("statements.collection", status, error.message, hint=hint))
        report.checks += _blind(options, "the server could not be asked")
        return report
    with connection:
        query(connection, "SET search_path = pg_catalog; SET default_transaction_read_only = on")
        _review(connection, options, samples, report, remember)
    return report


def _review(
    connection: psycopg.Connection[t.Any], options: StatementOptions, samples: list[state.Sample], report: Report, remember: bool
) -> None:
    reading: Reading | None = None
    try:
        reading = read(connection, options.databases)
    except OpsError as error:
        hint = error.hint or INCIDENT
        report.checks.append(Check("statements.collection", UNKNOWN, f"could not look: {error.message}", hint=hint))
        report.checks += [check for check in _blind(options, "see statements.collection") if check.id.startswith("statements.")]
    past = state.choose(samples, reading.identity, reading.taken, options.period_hours * 3600) if reading else state.Past()
    tables = _tables(connection, options, past.last, report) if options.tables else {}
    if reading is None:
        return
    uses = uses_of(reading, past)
    report.checks += [collection_check(reading, past.last), *judge(reading, uses, options, past)]
    report.checks.sort(key=lambda check: check.id.startswith("tables."))
    report.statements = ranked(uses, options.top)
    report.regressions = [use.as_dict() for use in regressions(uses, options)][: options.top]
    report.window = described(reading, past.last)
    if options.state_file and remember:
        try:
            state.save(options.state_file, [*samples, state.sample_of(reading, tables)])
        except InvalidOption as error:  # what was found is worth more than what the next review will miss
            hint = "let the user of the connection write there: the next review has nothing to compare with"
            report.checks.append(Check("statements.memory", WARNING, error.message, hint=hint))


def _tables(
    connection: psycopg.Connection[t.Any], options: StatementOptions, last: state.Sample | None, report: Report
) -> dict[str, state.Figures]:
    limits = table_use.Limits(options.table_bytes, options.seq_scan_warning, options.hit_ratio_warning)
    try:
        rows = table_use.look(connection)
    except OpsError as error:
        hint = error.hint or INCIDENT
        report.checks += [Check(name, UNKNOWN, f"could not look: {error.message}", hint=hint) for name in table_use.IDS]
        return {}
    counted = table_use.counted(rows)
    before = last.tables if last else {}
    found = table_use.uses_of(rows, {key: state.growth(figures, before.get(key)) for key, figures in counted.items()})
    report.checks += table_use.judge(found, limits)
    report.tables = [use.as_dict() for use in table_use.worst_first(found)][: options.top]
    return counted


def _blind(options: StatementOptions, why: str) -> list[Check]:
    ids = [f"statements.{name}" for name in IDS if name != "regressions" or options.state_file]
    ids += list(table_use.IDS) if options.tables else []
    return [Check(name, UNKNOWN, why, hint="see statements.collection") for name in ids]


def uses_of(reading: Reading, past: state.Past) -> list[Use]:
    """What was run since the last review, with what was before; what nobody ran is left out."""
    found = []
    for statement in reading.statements:
        figures = state.since_last(reading, statement, past.last)
        if figures.get("calls", 0.0) > 0:
            found.append(Use(statement, figures, state.before_last(past, statement.key)))
    return found


def described(reading: Reading, last: state.Sample | None) -> dict[str, t.Any]:
    """What the figures are of."""
    begin = state.begin_of(reading, last)
    return {
        "server": reading.server,
        "extension": reading.extension,
        "entries": len(reading.statements) + reading.hidden,
        "hidden": reading.hidden,
        "since": begin,
        "seconds": None if begin is None else round(max(0.0, reading.taken - begin), 1),
        "compared": last is not None,
        "reset": reading.reset,
        "io_timing": reading.io_timing,
    }


def collection_check(reading: Reading, last: state.Sample | None) -> Check:
    """``statements.collection``: whether all statements are seen, and of what time."""
    begin = state.begin_of(reading, last)
    if begin is None:
        time = "since the last reset, whenever that was"
    else:
        time = f"of the last {duration_text(max(0.0, reading.taken - begin))}"
        was_reset = last is not None and (reading.reset or 0.0) > last.taken
        time += " (they were reset after the last review)" if was_reset else "" if last else " (since the reset; no earlier review)"
    summary = f"{len(reading.statements)} statements {time}"
    value = None if begin is None else round(max(0.0, reading.taken - begin), 1)
    if reading.hidden:
        summary = f"{reading.hidden} statements of other roles cannot be seen; {summary}"
        return Check("statements.collection", UNKNOWN, summary, value, "s", hint=GRANT)
    return Check(
        "statements.collection", OK, summary, value, "s", evidence=None if reading.io_timing else {"track_io_timing": "off"}
    )


def judge(reading: Reading, uses: t.Sequence[Use], options: StatementOptions, past: state.Past) -> list[Check]:
    """All checks of statements. What is hidden makes none of them ok."""
    checks = [slowest_check(uses, options), dealloc_check(reading, past.last)]
    checks += [regressions_check(uses, options, past)] if options.state_file else []
    checks += [order_check(name, uses, options.top) for name in ORDERS]
    if reading.hidden:
        hidden = f"{reading.hidden} statements of other roles cannot be seen"
        checks = [
            dataclasses.replace(
                check, status=worst([check.status, UNKNOWN]), summary=f"{check.summary}; {hidden}", hint=check.hint or GRANT
            )
            if check.id != "statements.dealloc"
            else check
            for check in checks
        ]
    return checks


def slowest_check(uses: t.Sequence[Use], options: StatementOptions) -> Check:
    """``statements.slowest``: the largest mean time of what was called often enough to be no accident."""
    often = [use for use in uses if use.calls >= options.minimum_calls and not options.ignores(use.statement)]
    often.sort(key=lambda use: -use.mean)
    limits = (options.mean_warning, options.mean_critical)
    if not often:
        summary = f"no statement was called {options.minimum_calls} times or more"
        return Check("statements.slowest", OK, summary, None, "ms", *limits)
    first = often[0]
    status = grade(first.mean, *limits)
    slow = sum(use.mean >= options.mean_warning for use in often)
    summary = f"{first.mean:.4g} ms on average over {first.calls:.0f} calls: {clipped(first.statement.text)}"
    if slow > 1:
        summary += f" ({slow} statements reach {options.mean_warning:g} ms)"
    evidence = [use.as_dict() for use in often[: options.top]]
    hint = "" if status == OK else advice(first)
    return Check("statements.slowest", status, summary, round(first.mean, 3), "ms", *limits, hint, evidence)


def regressions(uses: t.Sequence[Use], options: StatementOptions) -> list[Use]:
    """Statements whose mean time grew by the factor, those that cost most by it first."""
    found = []
    for use in uses:
        before = mean_of(use.before)
        enough = min(use.calls, use.before.get("calls", 0.0)) >= options.regression_calls
        grown = before is not None and use.mean >= options.regression_ms and use.mean >= options.regression_factor * before
        if enough and grown and not options.ignores(use.statement):
            found.append(use)
    return sorted(found, key=lambda use: -(use.mean - (mean_of(use.before) or 0.0)) * use.calls)


def regressions_check(uses: t.Sequence[Use], options: StatementOptions, past: state.Past) -> Check:
    """``statements.regressions``: what became slower since the last review."""
    check_id, unit = "statements.regressions", "statements"
    if past.last is None:
        summary = "no earlier review to compare with; the next one has this"
        return Check(check_id, UNKNOWN, summary, None, unit, 1, hint="look again in a week: playbooks/performance-review.yml")
    found = regressions(uses, options)
    if not found:
        return Check(check_id, OK, f"no statement became {options.regression_factor:g} times slower", 0, unit, 1)
    first = found[0]
    before = mean_of(first.before) or 0.0
    summary = f"{len(found)} became slower; most: {before:.4g} to {first.mean:.4g} ms: {clipped(first.statement.text)}"
    hint = f"compare plans and sizes, and what was deployed since; ANALYZE its tables ({CLEAN}); {advice(first)}"
    return Check(check_id, WARNING, summary, len(found), unit, 1, None, hint, [use.as_dict() for use in found[: options.top]])


def dealloc_check(reading: Reading, last: state.Sample | None) -> Check:
    """``statements.dealloc``: whether entries were dropped to make room, so that figures of rare statements are too small."""
    dropped = state.evictions(reading, last)
    entries = len(reading.statements) + reading.hidden
    hint = f"raise pg_stat_statements.max (now {reading.most or 'unknown'}) and restart the server"
    if dropped is None:
        full = reading.most is not None and entries >= 0.95 * reading.most
        summary = f"{entries} of {reading.most or '?'} entries are in use; this version does not count dropped ones"
        return Check("statements.dealloc", WARNING if full else OK, summary, None, "times", 1, hint=hint if full else "")
    if dropped:
        summary = f"the least used entries were dropped {dropped} times: what is rare is not seen"
        return Check("statements.dealloc", WARNING, summary, dropped, "times", 1, hint=hint)
    return Check("statements.dealloc", OK, f"no entry was dropped ({entries} of {reading.most or '?'})", 0, "times", 1)


def order_check(name: str, uses: t.Sequence[Use], top: int) -> Check:
    """``statements.load`` and so on: which statements cost most. It only informs: some statement is always the first."""
    figure, whole = ORDERS[name]
    order = sorted((use for use in uses if use.figures.get(figure)), key=lambda use: -use.figures[figure])
    total = sum(use.figures[figure] for use in order)
    if not order:
        known = not uses or any(figure in use.figures for use in uses)
        summary = "none" if known else f"this version of pg_stat_statements does not count {name}"
        return Check(f"statements.{name}", OK, summary, None, "%")
    share = 100 * order[0].figures[figure] / total
    summary = f"{share:.3g} % {whole} ({amount(figure, order[0].figures[figure])}): {clipped(order[0].statement.text)}"
    return Check(f"statements.{name}", OK, summary, round(share, 2), "%", evidence=[use.as_dict() for use in order[:top]])


def amount(figure: str, value: float) -> str:
    """A figure for people."""
    if figure == "time":
        return duration_text(value / 1000) if value >= 1000 else f"{value:.3g} ms"
    if figure in ("reads", "temporary"):
        return size_text(value * BLOCK)
    return size_text(value) if figure == "wal" else f"{value:.0f}"


def advice(use: Use) -> str:
    """What to do about a statement that costs too much, from what its figures say."""
    found = use.as_dict()
    steps = ["run EXPLAIN (ANALYZE, BUFFERS) for it"]
    if found["temporary_bytes"]:
        steps.append("it spills to disk: raise work_mem for its role, or let it sort less")
    if found["rows"] > 1000 * use.calls:
        steps.append(f"it handles {found['rows'] / use.calls:.0f} rows a call: ask for less at a time")
    if found["hit_percent"] is not None and found["hit_percent"] < 80:
        steps.append(f"{100 - found['hit_percent']:.0f} % of its blocks came from disk: add an index, or clean up ({CLEAN})")
    if len(steps) == 1:
        steps.append(f"look for sequential scans and missing indexes (declare them, {REBUILD}), and for waits on locks")
    return "; ".join(steps)


def clipped(text: str, length: int = 110) -> str:
    """A statement in a summary."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def ranked(uses: t.Sequence[Use], top: int) -> list[dict[str, t.Any]]:
    """The first of each order, each statement once with its ``ranks``; those that took most time first."""
    ranks: dict[int, dict[str, int]] = {}
    measures: dict[str, t.Callable[[Use], float]] = {name: _measure(figure) for name, (figure, _whole) in ORDERS.items()}
    measures["mean"] = lambda use: use.mean
    for name, measure in measures.items():
        order = sorted((place for place, use in enumerate(uses) if measure(use) > 0), key=lambda place: -measure(uses[place]))
        for rank, place in enumerate(order[:top], start=1):
            ranks.setdefault(place, {})[name] = rank
    found = [{**uses[place].as_dict(), "ranks": names} for place, names in ranks.items()]
    return sorted(found, key=lambda item: -item["total_ms"])


def _measure(figure: str) -> t.Callable[[Use], float]:
    return lambda use: use.figures.get(figure, 0.0)
