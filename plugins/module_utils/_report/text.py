# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report as text: for a terminal, as Markdown, and as one line for Nagios. PRIVATE to the collection."""

from __future__ import annotations

import textwrap
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, UNKNOWN, WARNING
from ansible_collections.fileforge.ops.plugins.module_utils._markup import clock, markdown_cell, markdown_table, printable
from ansible_collections.fileforge.ops.plugins.module_utils._report.rows import rows_of

Report = t.Dict[str, t.Any]
NAGIOS_CODES = {OK: 0, WARNING: 1, CRITICAL: 2, UNKNOWN: 3}
"""Exit statuses of the monitoring plugins' guidelines."""
MARKS = {OK: "ok", WARNING: "WARNING", CRITICAL: "CRITICAL", UNKNOWN: "UNKNOWN"}
NAGIOS_UNITS = ("s", "%", "B")
"""Units of measurement that performance data knows; another is left out."""


def name_of(check: Report) -> str:
    """Id, and of what."""
    return f"{check['id']} [{check['subject']}]" if check["subject"] else str(check["id"])


def since_text(check: Report, when: str) -> str:
    """``since 2026-11-22 06:00 UTC``; nothing for a status of this run."""
    return f"since {clock(check['since'])[:16]} UTC" if check["since"] != when else "new"


def terminal(report: Report, width: int = 100) -> str:
    """Problems first, each with its next step; then one line a section."""
    lines = [f"{report['title']}: {MARKS[report['status']].upper()} ({report['summary']})", clock(report["time"]), ""]
    for check in report["problems"]:
        head = f"{MARKS[check['status']]:<9} {name_of(check)} ({since_text(check, report['time'])})"
        lines += [head, *_wrapped(check["summary"], width)]
        lines += _wrapped(f"-> {check['hint']}", width) if check["hint"] else []
    lines += [""] if report["problems"] else []
    widest = max((len(section["name"]) for section in report["sections"]), default=0)
    for section in report["sections"]:
        good = sum(1 for check in section["checks"] if check["status"] == OK)
        where = f" on {section['host']}" if section["host"] else ""
        lines.append(f"{MARKS[section['status']]:<9} {section['name']:<{widest}} {good} of {len(section['checks'])} ok{where}")
    lines += _changes(report)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _wrapped(value: str, width: int) -> list[str]:
    return textwrap.wrap(printable(value), width, initial_indent=" " * 10, subsequent_indent=" " * 10)


def _changes(report: Report) -> list[str]:
    changes = report["changes"]
    if changes["reference"] is None:
        return ["", "first run: nothing to compare with"]
    lines = ["", f"against {clock(changes['reference'])[:16]} UTC: {change_summary(report)}"]
    for kind in ("worse", "better"):
        lines += [f"  {kind}: {item['key']} {item['was']} -> {item['now']}" for item in changes[kind]]
    return lines


def change_summary(report: Report) -> str:
    """``2 worse, 1 better`` or ``no change``."""
    changes = report["changes"]
    words = (("worse", "worse"), ("better", "better"), ("appeared", "new"), ("gone", "no longer looked at"))
    found = [f"{len(changes[kind])} {word}" for kind, word in words if changes[kind]]
    return ", ".join(found) or "no change"


def markdown(report: Report) -> str:
    """The report as Markdown."""
    lines = [
        f"# {markdown_cell(report['title'])}",
        "",
        f"**{MARKS[report['status']].upper()}**: {report['summary']}, {clock(report['time'])}",
        "",
    ]
    problems = [
        (MARKS[c["status"]], name_of(c), c["summary"], c["hint"], since_text(c, report["time"])) for c in report["problems"]
    ]
    lines += [
        "## What to do",
        "",
        *(markdown_table(("status", "check", "found", "next", "since"), problems) if problems else ["Nothing.", ""]),
    ]
    changes = report["changes"]
    against = clock(changes["reference"]) if changes["reference"] else "nothing: this is the first run"
    lines += [f"## Changes against {against}", ""]
    moved = [(item["key"], item["was"] or "", item["now"]) for kind in ("worse", "better", "appeared") for item in changes[kind]]
    moved += [(item["key"], item["was"], "not looked at") for item in changes["gone"]]
    lines += markdown_table(("check", "was", "is"), moved) if moved else ["No change.", ""]
    for section in report["sections"]:
        where = f" on {section['host']}" if section["host"] else ""
        lines += [f"## {markdown_cell(section['name'])}{markdown_cell(where)}: {MARKS[section['status']]}", ""]
        lines += markdown_table(
            ("status", "check", "found"), [(MARKS[c["status"]], name_of(c), c["summary"]) for c in section["checks"]]
        )
        for check in section["checks"]:
            found = rows_of(check)
            if found is not None:
                heads, rows = found
                lines += [
                    f"### {markdown_cell(name_of(check))}",
                    "",
                    *markdown_table([markdown_cell(head) for head in heads], rows),
                ]
    return "\n".join(lines).rstrip("\n") + "\n"


def nagios(report: Report) -> str:
    """One line with performance data (monitoring plugins' guidelines, section on output)."""
    problems = "; ".join(f"{name_of(check)}: {printable(check['summary'])}" for check in report["problems"][:3])
    head = f"{report['title']} {report['status'].upper()}: {report['summary']}{' - ' if problems else ''}{problems}"
    data = [_perfdata(check) for section in report["sections"] for check in section["checks"]]
    return f"{head.replace('|', '/')} | {' '.join(filter(None, data))}".rstrip(" |") + "\n"


def _perfdata(check: Report) -> str:
    value = check["value"]
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return ""
    label = check["key"].replace("'", "''").replace("=", "_").replace("|", "_")
    unit = check["unit"] if check["unit"] in NAGIOS_UNITS else ""
    warning, critical = check[WARNING], check[CRITICAL]
    lower = ":" if warning is not None and critical is not None and warning > critical else ""
    limits = ";".join("" if limit is None else f"{limit:g}{lower}" for limit in (warning, critical))
    return f"'{label}'={value:.10g}{unit};{limits}".rstrip(";")  # a range "7:" is bad below 7
