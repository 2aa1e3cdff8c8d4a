# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A report for people: Markdown, and one HTML page that needs nothing from elsewhere. PRIVATE to the collection."""

from __future__ import annotations

import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._evidence.style import CONTENT
from ansible_collections.fileforge.ops.plugins.module_utils._markup import (
    WORDS,
    badge,
    clock,
    html_pairs,
    html_table,
    markdown_cell,
    markdown_table,
    text,
)
from ansible_collections.fileforge.ops.plugins.module_utils._page import page
from ansible_collections.fileforge.ops.plugins.module_utils._plan import human_bytes, plan_lines
from ansible_collections.fileforge.ops.plugins.module_utils._time import duration_text

VERDICTS = {True: "met", False: "missed", None: "not known"}
TIME_NAMES = {
    "disaster_time": "Disaster",
    "run_started": "Recovery started",
    "target_time": "Target of the restore",
    "last_commit": "Last recovered commit",
    "latest_archived_commit": "Last archived commit",
    "restored_time": "Service verified",
}
Report = t.Dict[str, t.Any]


def sorted_times(report: Report) -> list[tuple[str, str]]:
    """The known times, in their order."""
    return sorted(((name, value) for name, value in report["times"].items() if value), key=lambda pair: pair[1])


def span_text(seconds: float | None) -> str:
    """A duration, or that it is not known."""
    return "not known" if seconds is None else duration_text(seconds)


def size_text(count: float | None) -> str:
    """A size, or that it is not known."""
    return "not known" if count is None else human_bytes(count)


def rate_text(rate: float | None) -> str:
    """A rate of bytes, or that it is not known."""
    return "not known" if rate is None else f"{human_bytes(rate)}/s"


def amount_text(phase: Report) -> str:
    """What a phase did, with its rate for bytes."""
    if not phase["done"]:
        return ""
    if phase["unit"] != "B":
        return f"{phase['done']} {phase['unit']}".strip()
    rate = f", {rate_text(phase['done'] / phase['seconds'])}" if phase["seconds"] > 0 else ""
    return f"{human_bytes(phase['done'])}{rate}"


def phase_name(phase: Report) -> str:
    """``database: fetch``, or the phase alone."""
    return f"{phase['step']}: {phase['phase']}" if phase.get("step") else str(phase["phase"])


# Markdown


def _code(lines: t.Iterable[str]) -> list[str]:
    safe = ["".join(letter if letter.isprintable() else "?" for letter in line) for line in lines]
    return [*(f"    {line}" for line in safe), ""]


def _markdown_measures(report: Report) -> list[str]:
    names = (("rto", "RTO"), ("rpo", "RPO"), ("archive_rpo", "RPO of the archive alone"))
    rows = []
    for key, name in names:
        measure = report[key]
        rows.append(
            (name, span_text(measure["seconds"]), duration_text(measure["objective"]), VERDICTS[measure["met"]], measure["basis"])
        )
    return markdown_table(("", "measured", "objective", "verdict", "from"), rows)


def _markdown_forecast(report: Report) -> list[str]:
    forecast = report["forecast"]
    rows = [
        ("Largest database that still meets the RTO", size_text(forecast["largest_database_bytes"])),
        ("Largest WAL backlog that still meets the RTO", size_text(forecast["largest_wal_backlog_bytes"])),
        *(_input_row(name, value) for name, value in forecast["inputs"].items()),
    ]
    return [*markdown_table(("", ""), rows), *_code(f"{name} = {text}" for name, text in forecast["formula"].items())]


def _input_row(name: str, value: float | None) -> tuple[str, str]:
    if name.endswith("_rate"):
        return name, rate_text(value)
    return name, size_text(value) if name.endswith("_bytes") else span_text(value)


def _markdown_plans(report: Report) -> list[str]:
    lines: list[str] = []
    for plan in report["plans"]:
        lines += [f"**{markdown_cell(plan.get('title', 'Plan'))}**, digest {markdown_cell(plan.get('digest', ''))}", ""]
        lines += _code([*safe_plan_lines(plan), *(f"  note: {note}" for note in plan.get("notes") or [])])
    return lines or ["No plan was given.", ""]


def safe_plan_lines(plan: Report) -> list[str]:
    """The lines of a plan; of one that is none, that it is none."""
    try:
        return plan_lines(plan)
    except (KeyError, TypeError, ValueError, AttributeError):
        return ["  not a plan"]


def _markdown_journal(report: Report) -> list[str]:
    section = report["journal"]
    if section is None:
        return ["No journal was given.", ""]
    state = "holds" if section["ok"] else f"is broken at line {section['broken_line']}: {section['problem']}"
    lines = markdown_table(
        ("", ""),
        [
            ("journal", section["path"]),
            ("chain", f"{section['lines']} lines, {state}"),
            ("last hash", section["head"]),
            *section["who"].items(),
            *section["why"].items(),
        ],
    )
    rows = [
        (clock(step["started"]), step["host"], step["task"], step["status"], f"{float(step['seconds'] or 0):.1f}")
        for step in section["steps"]
    ]
    return [*lines, *markdown_table(("started", "host", "task", "status", "seconds"), rows)]


def render_markdown(report: Report) -> str:
    """The report as Markdown."""
    times = [(TIME_NAMES.get(name, name), clock(value)) for name, value in sorted_times(report)]
    total = sum(phase["seconds"] for phase in report["phases"])
    phases = [(phase_name(phase), f"{phase['seconds']:.1f}", amount_text(phase)) for phase in report["phases"]]
    assertions = [("ok" if item["ok"] else "FAILED", item["name"], item["detail"]) for item in report["assertions"]]
    evidence = [(item["path"], item.get("size", ""), item.get("sha256", item.get("error", ""))) for item in report["evidence"]]
    lines = [f"# {markdown_cell(report['title'])}", "", f"**{WORDS[report['status']]}**, run {markdown_cell(report['run_id'])}", ""]
    lines += ["## Objectives", "", *_markdown_measures(report), *markdown_table(("time", ""), times)]
    lines += ["## Checks", "", *markdown_table(("status", "check", "", "next"), _check_rows(report))]
    lines += ["## Phases", "", *markdown_table(("phase", "seconds", "done"), [*phases, ("all", f"{total:.1f}", "")])]
    lines += ["## Assertions", "", *markdown_table(("", "what", "found"), assertions)]
    lines += ["## Plan", "", *_markdown_plans(report)]
    lines += ["## Forecast", "", *_markdown_forecast(report)]
    lines += ["## Evidence", "", *markdown_table(("file", "bytes", "SHA-256"), evidence), *_markdown_journal(report)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _check_rows(report: Report) -> list[tuple[str, str, str, str]]:
    return [(WORDS[check["status"]], check["id"], check["summary"], check["hint"]) for check in report["checks"]]


# HTML


def _measure_card(name: str, measure: Report) -> str:
    state = {True: "ok", False: "critical", None: "unknown"}[measure["met"]]
    share = 0.0 if measure["seconds"] is None else measure["seconds"] / measure["objective"]
    gauge = (
        f'<svg class="gauge" role="img" aria-label="{share:.0%} of the objective">'
        '<rect class="track" width="100%" height="8" rx="4"/>'
        f'<rect class="fill {state}" width="{max(min(share, 1.0) * 100, 0.6 if share else 0):.2f}%" height="8" rx="4"/></svg>'
    )
    used = f"{share * 100:.1f} % of the objective of" if measure["seconds"] is not None else "objective"
    note = measure["problem"] if measure["seconds"] is None else measure["basis"]
    return (
        f'<section class="card"><h3>{text(name)}<span class="badge {state}">{VERDICTS[measure["met"]]}</span></h3>'
        f'<p class="big">{text(span_text(measure["seconds"]))}</p>{gauge}'
        f"<p>{used} {text(duration_text(measure['objective']))}</p><p class=muted>{text(note)}</p></section>"
    )


def _assertion_card(report: Report) -> str:
    good = sum(1 for item in report["assertions"] if item["ok"])
    count = len(report["assertions"])
    state = "unknown" if not count else "ok" if good == count else "critical"
    word = {"unknown": "none", "ok": "all hold", "critical": "failed"}[state]
    names = ", ".join(str(item["name"]) for item in report["assertions"] if not item["ok"])
    return (
        f'<section class="card"><h3>Assertions<span class="badge {state}">{word}</span></h3>'
        f'<p class="big">{good} of {count}</p><p class=muted>{text(names or "about the restored state")}</p></section>'
    )


def _phase_chart(phases: t.Sequence[Report]) -> str:
    """One bar for each phase on a common time axis: where it began and how long it took."""
    total = sum(phase["seconds"] for phase in phases)
    if not phases or total <= 0:
        return "<p class=none>No phase was timed.</p>"
    rows, begin, steps = [], 0.0, list(dict.fromkeys(phase.get("step", "") for phase in phases))
    for phase in phases:
        left, width = begin / total * 100, phase["seconds"] / total * 100
        begin += phase["seconds"]
        colour = steps.index(phase.get("step", "")) % 5
        title = f"{phase_name(phase)}: {duration_text(phase['seconds'])}"
        rows.append(
            f'<div class="phase"><div class="name">{text(phase_name(phase))}</div>'
            f'<svg class="bar" role="img" aria-label="{text(title)}"><title>{text(title)}</title>'
            f'<rect class="track" width="100%" height="18" rx="3"/>'
            f'<rect class="c{colour}" x="{min(left, 99.4):.3f}%" width="{max(width, 0.6):.3f}%" height="18" rx="3"/></svg>'
            f'<div class="time">{text(duration_text(phase["seconds"]))}</div>'
            f'<div class="done">{text(amount_text(phase))}</div></div>'
        )
    axis = "".join(f"<span>{text(duration_text(total * part / 4))}</span>" for part in range(5))
    return f'<div class="phases">{"".join(rows)}<div class="phase axis"><div class="ticks">{axis}</div></div></div>'


def _plan_item(line: str) -> str:
    kind = ' class="destructive"' if line.startswith("!") else ""
    return f"<li{kind}>{text(line.lstrip('! '))}</li>"


def _plans(report: Report) -> str:
    parts = []
    for plan in report["plans"]:
        items = "".join(_plan_item(line) for line in safe_plan_lines(plan))
        notes = "".join(f"<p class=note>{text(note)}</p>" for note in plan.get("notes") or [])
        digest = f"<code>{text(plan.get('digest', ''))}</code>"
        parts.append(f"<h3>{text(plan.get('title', 'Plan'))} {digest}</h3><ol class=plan>{items}</ol>{notes}")
    return "".join(parts) or "<p class=none>No plan was given.</p>"


def _forecast(report: Report) -> str:
    forecast = report["forecast"]
    cards = "".join(
        f'<section class="card"><h3>{name}</h3><p class="big">{text(size_text(forecast[key]))}</p>'
        f"<p class=muted>{text(note)}</p></section>"
        for key, name, note in (
            ("largest_database_bytes", "Largest database", "still meets the RTO with the measured WAL backlog"),
            ("largest_wal_backlog_bytes", "Largest WAL backlog", "still meets the RTO with the measured database"),
        )
    )
    formula = "".join(f"<li><code>{text(name)} = {text(value)}</code></li>" for name, value in forecast["formula"].items())
    inputs = html_pairs(_input_row(name, value) for name, value in forecast["inputs"].items())
    return (
        f'<div class="cards">{cards}</div><details open><summary>Formula and inputs</summary>'
        f"<ul class=formula>{formula}</ul>{inputs}</details>"
    )


def _journal(report: Report) -> str:
    section = report["journal"]
    if section is None:
        return "<p class=none>No journal was given.</p>"
    state = "holds" if section["ok"] else f"is broken at line {section['broken_line']}: {section['problem']}"
    facts = [("journal", section["path"]), ("chain", f"{section['lines']} lines, {state}"), ("last hash", section["head"])]
    facts += [*section["who"].items(), *section["why"].items()]
    steps = html_table(
        ("started", "host", "task", "status", "seconds"),
        [
            (
                text(clock(step["started"])),
                text(step["host"]),
                text(step["task"]),
                f'<span class="step {text(step["status"])}">{text(step["status"])}</span>',
                f"{float(step['seconds'] or 0):.1f}",
            )
            for step in section["steps"]
        ],
        "wide",
    )
    return f"{html_pairs(facts)}<details><summary>{len(section['steps'])} steps</summary>{steps}</details>"


def render_html(report: Report) -> str:
    """The report as one self-contained page."""
    checks = [
        (badge(check["status"]), f"<code>{text(check['id'])}</code>", text(check["summary"]), text(check["hint"]))
        for check in report["checks"]
    ]
    hinted = any(check["hint"] for check in report["checks"])
    assertions = [
        (
            f'<span class="badge {"ok" if item["ok"] else "critical"}">{"holds" if item["ok"] else "fails"}</span>',
            text(item["name"]),
            text(item["detail"]),
        )
        for item in report["assertions"]
    ]
    evidence = [
        (text(item["path"]), text(item.get("size", "")), f"<code>{text(item.get('sha256', item.get('error', '')))}</code>")
        for item in report["evidence"]
    ]
    cards = _measure_card("RTO", report["rto"]) + _measure_card("RPO", report["rpo"])
    if report["archive_rpo"]["seconds"] is not None:
        cards += _measure_card("RPO of the archive alone", report["archive_rpo"])
    values = {
        "title": text(report["title"]),
        "badge": badge(report["status"]),
        "run": text(report["run_id"]),
        "cards": cards + _assertion_card(report),
        "times": html_pairs((TIME_NAMES.get(name, name), clock(value)) for name, value in sorted_times(report)),
        "phases": _phase_chart(report["phases"]),
        "checks": html_table(("status", "check", "found", *(["next"] if hinted else [])), checks),
        "assertions": html_table(("status", "what", "found"), assertions),
        "plans": _plans(report),
        "forecast": _forecast(report),
        "evidence": html_table(("file", "bytes", "SHA-256"), evidence, "wide") if evidence else "",
        "journal": _journal(report),
    }
    return page(values["title"], CONTENT.substitute(values))
