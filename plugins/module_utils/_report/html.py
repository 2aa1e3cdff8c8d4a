# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report as one page: the verdict first, then what to do, then everything that was looked at. PRIVATE to the collection."""

from __future__ import annotations

import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import OK, STATUSES
from ansible_collections.fileforge.ops.plugins.module_utils._markup import WORDS, badge, clock, html_table, text
from ansible_collections.fileforge.ops.plugins.module_utils._page import page
from ansible_collections.fileforge.ops.plugins.module_utils._report import plot
from ansible_collections.fileforge.ops.plugins.module_utils._report.rows import rows_of
from ansible_collections.fileforge.ops.plugins.module_utils._report.text import change_summary, name_of, since_text

Report = t.Dict[str, t.Any]
SENTENCES = {
    "ok": "Everything that was looked at is well.",
    "warning": "Nothing is broken; something needs attention.",
    "unknown": "Something could not be looked at: whether it is well is not known.",
    "critical": "Something is broken and needs a person now.",
}

STYLE = """\
.verdict { display: grid; grid-template-columns: 1fr auto; gap: 8px 32px; align-items: center; border-left: 8px solid; }
.verdict.ok { border-left-color: var(--ok); } .verdict.warning { border-left-color: var(--warning); }
.verdict.critical { border-left-color: var(--critical); } .verdict.unknown { border-left-color: var(--unknown); }
.verdict .word { font-size: 34px; font-weight: 700; line-height: 1.15; margin: 0; letter-spacing: -0.02em; }
.verdict.ok .word { color: var(--ok); } .verdict.warning .word { color: var(--warning); }
.verdict.critical .word { color: var(--critical); } .verdict.unknown .word { color: var(--unknown); }
.verdict p { margin: 2px 0 0; } .counts { display: flex; flex-wrap: wrap; gap: 8px; justify-content: flex-end; }
.count { text-align: center; min-width: 74px; padding: 6px 10px; border-radius: 10px; background: var(--track); font-size: 12px; }
.count b { display: block; font-size: 24px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.count.critical.some { color: var(--critical); background: var(--critical-soft); }
.count.warning.some { color: var(--warning); background: var(--warning-soft); }
.count.unknown.some { color: var(--unknown); background: var(--unknown-soft); }
.count.ok.some { color: var(--ok); background: var(--ok-soft); }
.runs { grid-column: 1 / -1; display: flex; gap: 3px; align-items: center; font-size: 12px; color: var(--muted); }
.runs svg { max-width: 100%; height: auto; } .run.ok { fill: var(--ok); } .run.warning { fill: var(--warning); }
.run.critical { fill: var(--critical); } .run.unknown { fill: var(--unknown); }
.problems { display: grid; gap: 12px; }
.problem { display: grid; grid-template-columns: 100px 1fr auto; gap: 4px 16px; align-items: start; }
.problem .badge { justify-self: start; margin-top: 2px; } .problem p { margin: 2px 0 0; }
.problem .what { font-weight: 600; } .problem .next b { color: var(--muted); font-weight: 600; }
.problem .more { font-size: 13px; color: var(--muted); text-align: right; }
.spark { display: block; overflow: visible; } .spark polyline { fill: none; stroke: var(--c0); stroke-width: 1.5; }
.spark circle { fill: var(--c0); }
.moves { margin: 0; padding-left: 1.2em; font-size: 14px; }
.section { margin-top: 12px; padding: 10px 20px; } .section > summary { display: flex; gap: 12px; align-items: center; }
.section > summary { color: var(--ink); font-size: 15px; } .section > summary b { flex: 1; min-width: 7em; }
.section > summary::before { content: "\\25b8"; color: var(--muted); } .section[open] > summary::before { content: "\\25be"; }
.section > table { table-layout: fixed; } .section > table > thead th:nth-child(1) { width: 112px; }
.section > table > thead th:nth-child(2) { width: 32%; } .section > table > thead th:nth-child(4) { width: 108px; }
.section td code { white-space: normal; } .more .spark { margin: 4px 0 0 auto; }
.section tr:has(+ .rows) > td { border-bottom: 0; } .rows details { margin: 0; } .rows th, .rows td { padding-right: 16px; }
.rows td { font-variant-numeric: tabular-nums; min-width: 64px; } .rows td:first-child { min-width: 180px; }
@media screen and (max-width: 720px) {
  .verdict { grid-template-columns: minmax(0, 1fr); } .counts { justify-content: flex-start; } .runs { flex-wrap: wrap; }
  .problem { grid-template-columns: minmax(0, 1fr); } .problem .more { text-align: left; } .more .spark { margin-left: 0; }
  tr.rows > td { display: block; } .rows td, .rows td:first-child { min-width: 0; }
}
@media print {
  .problem, .verdict { break-inside: avoid; } .rows td, .rows td:first-child { min-width: 0; } .rows table { font-size: 10px; }
}
"""
WIDTH, HEIGHT = 96, 24
HEADS = "".join(f"<th scope=col>{name}</th>" for name in ("status", "check", "found", "trend"))


def sparkline(check: Report) -> str:
    """The last values as a small line that ends in the present one; nothing for fewer than two."""
    value = check["value"]
    now = [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []
    points = [*check["history"], *now]
    if len(points) < 2:
        return ""
    low, high = min(points), max(points)
    span = (high - low) or 1.0
    places = [
        (place / (len(points) - 1) * WIDTH, HEIGHT - 3 - (point - low) / span * (HEIGHT - 6) if high > low else HEIGHT / 2)
        for place, point in enumerate(points)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    label = f"the last {len(points)} values, from {low:g} to {high:g} {check['unit']}".strip()
    return (
        f'<svg class="spark" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{text(label)}"><title>{text(label)}</title>'
        f'<polyline points="{line}"/><circle cx="{places[-1][0]:.1f}" cy="{places[-1][1]:.1f}" r="2.5"/></svg>'
    )


def _verdict(report: Report) -> str:
    counts = "".join(
        f'<span class="count {status}{" some" if count else ""}"><b>{count}</b>{status}</span>'
        for status, count in ((status, report["counts"][status]) for status in reversed(STATUSES))
    )
    return (
        f'<section class="panel verdict {report["status"]}"><div><p class="word">{WORDS[report["status"]]}</p>'
        f"<p>{SENTENCES[report['status']]}</p><p class=muted>{text(report['summary'])}</p></div>"
        f'<div class="counts">{counts}</div>{_runs(report)}</section>'
    )


def _runs(report: Report) -> str:
    """The earlier runs, one mark each, and this one."""
    runs = [*report["runs"], {"time": report["time"], "status": report["status"]}]
    marks = "".join(
        f'<rect class="run {run["status"]}" x="{place * 12}" width="9" height="14" rx="2">'
        f"<title>{text(clock(run['time']))}: {WORDS[run['status']]}</title></rect>"
        for place, run in enumerate(runs)
    )
    label, width = f"the last {len(runs)} runs", len(runs) * 12
    return (
        f'<div class="runs"><svg width="{width}" height="14" viewBox="0 0 {width} 14" role="img" aria-label="{label}">{marks}</svg>'
        f"<span>{label}</span></div>"
    )


def _problem(check: Report, when: str) -> str:
    hint = f'<p class="next"><b>Next:</b> {text(check["hint"])}</p>' if check["hint"] else ""
    return (
        f'<article class="panel problem">{badge(check["status"])}<div><p class="what">{text(check["summary"])}</p>{hint}'
        f"<p class=muted><code>{text(name_of(check))}</code></p></div>"
        f'<div class="more">{text(since_text(check, when))}{sparkline(check)}</div></article>'
    )


def _changes(report: Report) -> str:
    changes = report["changes"]
    if changes["reference"] is None:
        return "<p class=none>This is the first run: there is nothing to compare with.</p>"
    items = [
        f"<li><code>{text(item['key'])}</code> {item['was'] or 'new'} &rarr; <b>{item['now']}</b></li>"
        for kind in ("worse", "appeared", "better")
        for item in changes[kind]
    ]
    items += [f"<li><code>{text(item['key'])}</code> is no longer looked at</li>" for item in changes["gone"]]
    return f'<ul class="moves">{"".join(items)}</ul>' if items else "<p class=none>Nothing.</p>"


def _rows(check: Report) -> str:
    """What else a check has seen, in a row of its own that is opened by a click, and on paper is open."""
    found = rows_of(check)
    if found is None:
        return ""
    heads, rows = found
    table = html_table(heads, [[text(cell) for cell in row] for row in rows])
    seen = len(check["evidence"])
    summary = f"the first {len(rows)} of {seen}" if seen > len(rows) else f"all {seen}"
    opened = f'<details><summary>{summary}</summary><div class="scroll">{table}</div></details>'
    return f'<tr class="rows"><td colspan="4">{opened}</td></tr>'


def _section(section: Report) -> str:
    rows = "".join(
        f'<tr><td data-label="status">{badge(check["status"])}</td><td data-label="check"><code>{text(name_of(check))}</code></td>'
        f'<td data-label="found">{text(check["summary"])}</td><td class="trend" data-label="trend">{sparkline(check)}</td></tr>'
        f"{_rows(check)}"
        for check in section["checks"]
    )
    good = sum(1 for check in section["checks"] if check["status"] == OK)
    where = f" on {section['host']}" if section["host"] else ""
    return (
        f'<details class="panel section"{"" if section["status"] == OK else " open"}><summary><b>{text(section["name"])}</b>'
        f"<span class=muted>{good} of {len(section['checks'])} ok{text(where)}</span>{badge(section['status'])}</summary>"
        f"<table><thead><tr>{HEADS}</tr></thead><tbody>{rows}</tbody></table></details>"
    )


def html(report: Report) -> str:
    """The report as one self-contained page."""
    problems = "".join(_problem(check, report["time"]) for check in report["problems"])
    against = clock(report["changes"]["reference"])[:16] + " UTC" if report["changes"]["reference"] else ""
    change = f"Since {against}: {change_summary(report)}" if against else "Changes"
    todo = f'<h2>What to do</h2><div class="problems">{problems}</div>' if problems else ""
    forecasts = report.get("forecasts")
    future = f"<h2>Where it is going</h2>{plot.figures(forecasts)}" if forecasts else ""
    content = (
        f"<header><h1>{text(report['title'])}</h1><p>{text(clock(report['time']))}</p></header>{_verdict(report)}{todo}{future}"
        f'<h2>{text(change)}</h2><div class="panel">{_changes(report)}</div>'
        f"<h2>All checks</h2>{''.join(_section(section) for section in report['sections'])}\n"
    )
    return page(text(report["title"]), content, style=STYLE + (plot.STYLE if forecasts else ""))
