# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a recovery proved: measured RTO and RPO, assertions, phases and a forecast, from facts only. PRIVATE to the collection.

The same facts give the same report, byte for byte: nothing in it is read from the clock.
"""

from __future__ import annotations

import dataclasses
import datetime
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, UNKNOWN, WARNING, Check, result_of
from ansible_collections.fileforge.ops.plugins.module_utils._evidence import journal
from ansible_collections.fileforge.ops.plugins.module_utils._plan import digest_of
from ansible_collections.fileforge.ops.plugins.module_utils._time import duration_text, iso

FORMAT = 1
TIGHT = 0.8
"""Share of an objective from which on meeting it is a warning."""
MAX_STEPS = 500
"""Steps of a journal that a report lists at most, the longest ones."""

Time = t.Optional[datetime.datetime]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a run found out; times are None when they are not known."""

    title: str
    plans: list[dict[str, t.Any]]
    phases: list[dict[str, t.Any]]
    assertions: list[dict[str, t.Any]]
    rto: float
    rpo: float
    disaster_time: Time = None
    run_started: Time = None
    restored_time: Time = None
    target_time: Time = None
    last_commit: Time = None
    latest_archived_commit: Time = None
    database_bytes: int | None = None
    wal_segment_size: int = 16 * 1024 * 1024
    fetch_phases: tuple[str, ...] = ("fetch",)
    replay_phases: tuple[str, ...] = ("replay",)
    files: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)

    def as_dict(self) -> dict[str, t.Any]:
        """As JSON; its digest names a run that has no other name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: iso(value) if isinstance(value, datetime.datetime) else value for name, value in values.items()}

    def run_id(self) -> str:
        """A name for this run, from its facts."""
        times = [time for time in (self.restored_time, self.disaster_time, self.run_started, self.target_time) if time]
        stamp = times[0].strftime("%Y%m%dT%H%M%SZ-") if times else ""
        return f"{stamp}{digest_of(self.as_dict())}"


@dataclasses.dataclass(frozen=True)
class Measure:
    """A span against its objective; ``seconds`` is None when it was not measured."""

    seconds: float | None
    objective: float
    basis: str
    problem: str = ""

    def as_dict(self) -> dict[str, t.Any]:
        """As JSON, with the verdict."""
        met = None if self.seconds is None else self.seconds <= self.objective
        return {**dataclasses.asdict(self), "met": met}

    def check(self, name: str, what: str, hint: str) -> Check:
        """The verdict as a check."""
        if self.seconds is None:
            status, summary = UNKNOWN, f"{what} is not known: {self.problem}"
        else:
            status = OK if self.seconds < TIGHT * self.objective else WARNING if self.seconds <= self.objective else CRITICAL
            relation = "within" if self.seconds <= self.objective else "over"
            summary = f"{what} {duration_text(self.seconds)}, {relation} the objective of {duration_text(self.objective)}"
        return Check(
            id=name,
            status=status,
            summary=summary,
            value=self.seconds,
            unit="s",
            warning=round(TIGHT * self.objective, 3),
            critical=self.objective,
            hint="" if status == OK else hint,
        )


def span(begin: Time, end: Time, objective: float, basis: str, missing: str) -> Measure:
    """The time between two facts; not known when one is missing or they are in the wrong order."""
    if begin is None or end is None:
        return Measure(None, objective, basis, missing)
    seconds = (end - begin).total_seconds()
    if seconds < 0:
        return Measure(None, objective, basis, f"{iso(end)} is before {iso(begin)}, so one of the times is wrong")
    return Measure(round(seconds, 3), objective, basis)


def measure_rto(facts: Facts) -> Measure:
    """From the disaster (or the start of the run, when no disaster time was declared) to the first verified probe."""
    basis = "disaster time to first verified probe"
    begin = facts.disaster_time
    if begin is None and facts.run_started is not None:
        begin, basis = facts.run_started, "start of the run to first verified probe"
    return span(
        begin, facts.restored_time, facts.rto, basis, "the disaster time or the time of the first verified probe is missing"
    )


def measure_rpo(facts: Facts) -> Measure:
    """What was lost: from the last recovered commit to the disaster."""
    return span(
        facts.last_commit,
        facts.disaster_time,
        facts.rpo,
        "last recovered commit to disaster time",
        "the last recovered commit or the disaster time is missing",
    )


def measure_archive(facts: Facts) -> Measure:
    """What the archive alone would have lost, whatever target was chosen."""
    return span(
        facts.latest_archived_commit,
        facts.disaster_time,
        facts.rpo,
        "last archived commit to disaster time",
        "the last archived commit or the disaster time is missing",
    )


def _total(facts: Facts, names: tuple[str, ...]) -> tuple[float, float]:
    """Seconds and bytes of the phases with these names; segments count with their size."""
    seconds = amount = 0.0
    for phase in facts.phases:
        factor = {"B": 1, "segments": facts.wal_segment_size}.get(phase["unit"])
        if phase["phase"] in names and factor is not None:
            seconds += phase["seconds"]
            amount += phase["done"] * factor
    return seconds, amount


def forecast(facts: Facts, rto: Measure) -> dict[str, t.Any]:
    """The largest database, and the largest WAL backlog, that still meet the RTO at the measured rates.

    Everything but fetch and replay is taken as it was (``other_seconds``). One of the two varies, the other stays as measured.
    """
    fetch_seconds, fetched = _total(facts, facts.fetch_phases)
    replay_seconds, replayed = _total(facts, facts.replay_phases)
    database = float(facts.database_bytes if facts.database_bytes is not None else fetched)
    fetch_rate = database / fetch_seconds if fetch_seconds > 0 and database > 0 and fetched > 0 else None
    replay_rate = replayed / replay_seconds if replay_seconds > 0 and replayed > 0 else None
    taken = rto.seconds if rto.seconds is not None else sum(phase["seconds"] for phase in facts.phases)
    other = max(0.0, taken - fetch_seconds - replay_seconds)
    for_fetch = max(0.0, facts.rto - other - replay_seconds)
    for_replay = max(0.0, facts.rto - other - fetch_seconds)
    return {
        "largest_database_bytes": None if fetch_rate is None else int(fetch_rate * for_fetch),
        "largest_wal_backlog_bytes": None if replay_rate is None else int(replay_rate * for_replay),
        "formula": {
            "largest_database_bytes": "fetch_rate * max(0, rto - other_seconds - replay_seconds)",
            "largest_wal_backlog_bytes": "replay_rate * max(0, rto - other_seconds - fetch_seconds)",
            "other_seconds": "measured RTO (without it, the sum of all phases) - fetch_seconds - replay_seconds",
        },
        "inputs": {
            "rto": facts.rto,
            "database_bytes": int(database),
            "fetch_seconds": round(fetch_seconds, 3),
            "fetch_rate": None if fetch_rate is None else round(fetch_rate, 1),
            "wal_bytes": int(replayed),
            "replay_seconds": round(replay_seconds, 3),
            "replay_rate": None if replay_rate is None else round(replay_rate, 1),
            "other_seconds": round(other, 3),
        },
    }


def assertions_check(assertions: list[dict[str, t.Any]]) -> Check:
    """All assertions as one check; none at all is unknown, because nothing was proven."""
    failed = [item["name"] for item in assertions if not item["ok"]]
    if not assertions:
        return Check("dr.assertions", UNKNOWN, "nothing was asserted about the restored state", hint="pass assertions")
    if failed:
        hint = "look at the failed assertions before the service is given back"
        return Check("dr.assertions", CRITICAL, f"{len(failed)} of {len(assertions)} failed: {', '.join(failed)}", hint=hint)
    return Check("dr.assertions", OK, f"all {len(assertions)} assertions hold", value=float(len(assertions)))


def journal_section(path: str) -> dict[str, t.Any]:
    """What the journal says; raises OSError when it cannot be read."""
    entries, found = journal.read(path)
    steps = [
        {name: entry.get(name, "") for name in ("started", "task", "module", "host", "status", "seconds")}
        for entry in entries
        if entry.get("event") == "task_end"
    ]
    shown = sorted(sorted(steps, key=lambda step: -float(step["seconds"] or 0))[:MAX_STEPS], key=lambda step: str(step["started"]))
    begin = entries[0] if entries else {}
    whys = [entry.get("why") or {} for entry in entries if entry.get("event") == "play_start"]
    who = {name: begin[name] for name in ("user", "sudo_user", "controller", "ansible", "playbook") if begin.get(name)}
    return {
        "path": path,
        "lines": found.lines,
        "head": found.head,
        "ok": found.ok,
        "broken_line": found.broken_line,
        "problem": found.problem,
        "started": begin.get("time"),
        "who": who,
        "why": next((why for why in whys if why), {}),
        "steps": shown,
        "steps_not_shown": len(steps) - len(shown),
    }


def journal_check(section: dict[str, t.Any]) -> Check:
    """Whether the journal's chain holds up to here."""
    if section["ok"] and section["lines"]:
        return Check("dr.journal", OK, f"the chain of {section['lines']} lines holds", value=float(section["lines"]))
    if section["ok"]:
        hint = "look whether the callback fileforge.ops.journal is enabled"
        return Check("dr.journal", UNKNOWN, "the journal is empty", hint=hint)
    summary = f"line {section['broken_line']} of the journal {section['problem']}"
    return Check("dr.journal", CRITICAL, summary, hint="the journal was altered or damaged: do not rely on it")


def build(facts: Facts, run_id: str, journal_path: str | None = None) -> dict[str, t.Any]:
    """The whole report as JSON."""
    rto, rpo, archive = measure_rto(facts), measure_rpo(facts), measure_archive(facts)
    checks = [
        rto.check("dr.rto", "RTO", "look at the longest phases; see the forecast"),
        rpo.check("dr.rpo", "RPO", "look at the archiving lag and at the chosen target time"),
    ]
    if facts.latest_archived_commit is not None:
        checks.append(
            archive.check("dr.rpo_archive", "RPO of the archive", "look at archive_timeout and at the archiver's failures")
        )
    checks.append(assertions_check(facts.assertions))
    section = None if journal_path is None else journal_section(journal_path)
    if section is not None:
        checks.append(journal_check(section))
    given = facts.as_dict()
    return {
        "format": FORMAT,
        "run_id": run_id,
        "title": facts.title,
        **result_of(checks),
        "objectives": {"rto": facts.rto, "rpo": facts.rpo},
        "times": {name: given[name] for name in given if name.endswith(("_time", "_commit")) or name == "run_started"},
        "rto": rto.as_dict(),
        "rpo": rpo.as_dict(),
        "archive_rpo": archive.as_dict(),
        "phases": facts.phases,
        "plans": facts.plans,
        "assertions": facts.assertions,
        "forecast": forecast(facts, rto),
        "evidence": facts.files,
        "journal": section,
    }


def same_report(old: dict[str, t.Any], new: dict[str, t.Any]) -> bool:
    """Whether two reports say the same. A journal goes on being written while reports are made from it: when the new one continues
    the old one, nothing that the report is about has changed."""
    before, after = old.get("journal"), new.get("journal")
    rest_old = {name: value for name, value in old.items() if name not in ("journal", "checks")}
    rest_new = {name: value for name, value in new.items() if name not in ("journal", "checks")}
    if rest_old != rest_new or (before is None) != (after is None):
        return False
    if before is None or after is None:
        return bool(old.get("checks") == new.get("checks"))
    if before["path"] != after["path"] or not (before["ok"] and after["ok"]):
        return bool(old == new)
    entries, _found = journal.read(after["path"])
    count = before["lines"]
    return bool(0 < count <= len(entries) and entries[count - 1]["hash"] == before["head"])
