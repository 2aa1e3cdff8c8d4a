# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A report of any checks: what is wrong now, since when, and what has changed. PRIVATE to the collection.

The input is what modules returned. A module that failed could not look: that is one check with status ``unknown``, never a gap.
"""

from __future__ import annotations

import dataclasses
import datetime
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, STATUSES, UNKNOWN, WARNING, worst
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._markup import printable
from ansible_collections.fileforge.ops.plugins.module_utils._report.history import History, Run
from ansible_collections.fileforge.ops.plugins.module_utils._time import iso

FORMAT = 1
FIELDS = ("unit", "hint", "warning", "critical", "value", "evidence")
WORST_FIRST = {status: -rank for rank, status in enumerate(STATUSES)}
FAILS = {"critical": (CRITICAL,), "warning": (CRITICAL, UNKNOWN, WARNING), "never": ()}
"""Statuses on which a run fails, by ``fail_on``. Unknown counts from ``warning`` on: not to have looked is not to be well."""

Report = t.Dict[str, t.Any]


@dataclasses.dataclass(frozen=True)
class Section:
    """What one module said; ``host`` where it looked from, ``seconds`` how long."""

    name: str
    checks: list[dict[str, t.Any]]
    host: str = ""
    seconds: float | None = None


def section_of(source: t.Mapping[str, t.Any], place: int) -> Section | None:
    """A section from an entry of the option ``results``; None for a task that was skipped on purpose. Raises InvalidOption."""
    name, result, host = printable(source.get("name") or ""), source.get("result"), printable(source.get("host") or "")
    option = f"results[{place}]"
    if not name:
        raise InvalidOption(option, dict(source), "has no name", hint="give each entry the name of what was looked at")
    if result is None:
        return Section(name, [_not_looked(name, "the module did not run", "look at the output of the run")], host)
    if not isinstance(result, dict):
        raise InvalidOption(option, result, "result must be what a module returned", hint="register the task and give the variable")
    if result.get("skipped"):
        return None
    checks = [_valid(check, f"{option}.checks") for check in result.get("checks") or []]
    if result.get("failed") or result.get("unreachable"):
        message = str(result.get("msg") or "no message")
        hint = str(result.get("hint") or "run the module by itself, with -vvv, to see why")
        checks.append(_not_looked(name, f"could not look: {message}", hint))
    elif not checks:
        checks.append(_not_looked(name, "the module returned no checks", "give the result of a module that returns checks"))
    return Section(name, checks, host, source.get("seconds"))


def _not_looked(name: str, summary: str, hint: str) -> dict[str, t.Any]:
    empty = dict.fromkeys(FIELDS)
    return {
        **empty,
        "id": f"{identifier(name)}.probe",
        "status": UNKNOWN,
        "summary": summary,
        "hint": hint,
        "unit": "",
        "subject": "",
    }


def identifier(name: str) -> str:
    """``Log files`` -> ``log_files``."""
    return "_".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split()) or "unnamed"


def _valid(check: t.Any, option: str) -> dict[str, t.Any]:
    if not isinstance(check, dict) or not check.get("id") or check.get("status") not in STATUSES:
        raise InvalidOption(option, check, f"a check has an id and a status of {', '.join(STATUSES)}")
    given = {name: check.get(name) for name in FIELDS}
    return {
        **given,
        "id": printable(check["id"]),
        "status": check["status"],
        "summary": str(check.get("summary") or ""),
        "hint": str(check.get("hint") or ""),
        "unit": str(check.get("unit") or ""),
        "subject": printable(check.get("subject") or ""),
    }


def keyed(sections: t.Sequence[Section]) -> list[tuple[Section, list[dict[str, t.Any]]]]:
    """The sections with their checks, each with a ``key`` that is the same tomorrow: host, id, subject, number."""
    seen: dict[str, int] = {}
    found = []
    for section in sections:
        checks = []
        for check in section.checks:
            key = "/".join(part for part in (section.host, check["id"], check["subject"]) if part)
            seen[key] = seen.get(key, 0) + 1
            checks.append({**check, "key": key if seen[key] == 1 else f"{key}#{seen[key]}", "section": section.name})
        found.append((section, checks))
    return found


def build(title: str, sections: t.Sequence[Section], history: History, when: datetime.datetime, limit: int = 30) -> Report:
    """The report at ``when``. Changes are against the newest run that is ``History.DAY`` old, or else the oldest."""
    groups = keyed(sections)
    checks = [check for _section, found in groups for check in found]
    reference = history.reference(when)
    for check in checks:
        check["was"] = reference.status_of(check["key"]) if reference else None
        check["since"] = iso(history.since(check["key"], check["status"], when))
        check["history"] = history.points(check["key"], limit)
    counts = {status: sum(1 for check in checks if check["status"] == status) for status in reversed(STATUSES)}
    status = worst(check["status"] for check in checks)
    return {
        "format": FORMAT,
        "title": title,
        "time": iso(when),
        "status": status,
        "counts": counts,
        "summary": summary_of(counts),
        "problems": sorted((c for c in checks if c["status"] != OK), key=lambda check: WORST_FIRST[check["status"]]),
        "changes": changes(checks, reference),
        "runs": [{"time": iso(run.time), "status": run.status} for run in history.runs[-limit:]],
        "sections": [
            {
                "name": section.name,
                "host": section.host,
                "seconds": section.seconds,
                "status": worst(c["status"] for c in found),
                "checks": found,
            }
            for section, found in groups
        ],
    }


def summary_of(counts: t.Mapping[str, int]) -> str:
    """``1 critical, 2 unknown of 31 checks`` or ``all 31 checks ok``."""
    total = sum(counts.values())
    bad = [f"{counts[status]} {status}" for status in (CRITICAL, UNKNOWN, WARNING) if counts[status]]
    if not total:
        return "nothing was looked at"
    return f"{', '.join(bad)} of {total} checks" if bad else f"all {total} checks ok"


def changes(checks: t.Sequence[dict[str, t.Any]], reference: Run | None) -> dict[str, t.Any]:
    """What is worse, better, new and gone against the run that the report compares with."""
    if reference is None:
        return {"reference": None, "worse": [], "better": [], "appeared": [], "gone": []}
    rank = {status: place for place, status in enumerate(STATUSES)}
    now = {check["key"] for check in checks}
    known = [check for check in checks if check["was"] is not None]

    def moved(check: dict[str, t.Any]) -> dict[str, t.Any]:
        return {"key": check["key"], "was": check["was"], "now": check["status"], "summary": check["summary"]}

    return {
        "reference": iso(reference.time),
        "worse": [moved(check) for check in known if rank[check["status"]] > rank[check["was"]]],
        "better": [moved(check) for check in known if rank[check["status"]] < rank[check["was"]]],
        "appeared": [moved(check) for check in checks if check["was"] is None and check["status"] != OK],
        "gone": [{"key": key, "was": status} for key, status in reference.statuses() if key not in now],
    }


def violates(report: Report, fail_on: str) -> bool:
    """Whether a run with this exit policy fails."""
    return report["status"] in FAILS[fail_on]
