# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page around every HTML report: self-contained, light and dark, for screens and paper. PRIVATE to the collection."""

from __future__ import annotations

import string

_PAGE = string.Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<main>
$content</main>
</body>
</html>
""")

STYLE = """\
:root {
  --page: #f6f7f9; --card: #ffffff; --ink: #16202c; --muted: #5a6878; --line: #dde3ea; --track: #e8edf2;
  --ok: #12713f; --ok-soft: #dcf3e6; --warning: #8a5300; --warning-soft: #fdeecd; --critical: #b3201f; --critical-soft: #fde2e1;
  --unknown: #4c5a6a; --unknown-soft: #e6eaef; --c0: #2f6fde; --c1: #0f8f80; --c2: #8b55d1; --c3: #c26a12; --c4: #b8417c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #10151c; --card: #19212b; --ink: #e7edf4; --muted: #9aa9ba; --line: #2c3846; --track: #26313e;
    --ok: #6fd9a0; --ok-soft: #14382a; --warning: #f2c063; --warning-soft: #3d2f10; --critical: #ff8d89; --critical-soft: #48201f;
    --unknown: #b3c0ce; --unknown-soft: #2a3543; --c0: #6ea3ff; --c1: #45c8b7; --c2: #b98cf2; --c3: #f0a04b; --c4: #ec7fb1;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink); line-height: 1.5; font-size: 16px;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; overflow-wrap: anywhere;
}
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 64px; }
header { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 16px; margin-bottom: 24px; }
header p { flex-basis: 100%; margin: 0; color: var(--muted); }
h1 { font-size: 30px; line-height: 1.2; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 40px 0 12px; }
h3 { font-size: 16px; margin: 16px 0 8px; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 0.88em; }
.muted, .none { color: var(--muted); }
.panel, .card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 20px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(225px, 1fr)); gap: 16px; }
.card h3 { display: flex; justify-content: space-between; align-items: center; gap: 8px; margin: 0; }
.card h3 { color: var(--muted); font-weight: 600; }
.card p { margin: 4px 0 0; font-size: 14px; }
.card .big { font-size: 30px; font-weight: 650; margin: 6px 0 8px; line-height: 1.2; letter-spacing: -0.02em; }
.gauge { display: block; width: 100%; height: 8px; }
.badge { display: inline-block; padding: 2px 10px; border-radius: 99px; font-size: 12px; font-weight: 700; white-space: nowrap; }
.badge.ok { color: var(--ok); background: var(--ok-soft); }
.badge.warning { color: var(--warning); background: var(--warning-soft); }
.badge.critical { color: var(--critical); background: var(--critical-soft); }
.badge.unknown { color: var(--unknown); background: var(--unknown-soft); }
header .badge { font-size: 15px; padding: 4px 14px; }
.track { fill: var(--track); }
.fill.ok { fill: var(--ok); } .fill.critical { fill: var(--critical); } .fill.unknown { fill: var(--unknown); }
.c0 { fill: var(--c0); } .c1 { fill: var(--c1); } .c2 { fill: var(--c2); } .c3 { fill: var(--c3); } .c4 { fill: var(--c4); }
.phase { display: grid; grid-template-columns: 190px 1fr 92px 176px; gap: 4px 14px; align-items: center; }
.phase { padding: 5px 0; font-size: 14px; }
.phase .bar { display: block; width: 100%; height: 18px; }
.phase .time { text-align: right; font-variant-numeric: tabular-nums; font-weight: 600; }
.phase .done { color: var(--muted); font-size: 13px; }
.axis .ticks { grid-column: 2; display: flex; justify-content: space-between; color: var(--muted); font-size: 12px; }
.ticks span { white-space: nowrap; }
table { width: 100%; border-collapse: collapse; font-size: 14px; }
th { text-align: left; color: var(--muted); font-weight: 600; font-size: 12px; padding: 4px 12px 6px 0; }
th { border-bottom: 1px solid var(--line); }
td { padding: 8px 12px 8px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody tr:last-child td { border-bottom: 0; }
td:last-child { padding-right: 0; }
td code { white-space: nowrap; } .wide code { white-space: normal; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 20px; margin: 0; font-size: 14px; }
dt { color: var(--muted); } dd { margin: 0; font-variant-numeric: tabular-nums; }
ol.plan { margin: 0; padding-left: 1.6em; font-size: 14px; } ol.plan li { padding: 2px 0 2px 6px; }
ol.plan li.destructive { color: var(--critical); font-weight: 600; } ol.plan li.destructive::marker { content: "! "; }
.panel > h3:first-child { margin-top: 0; }
p.note { margin: 4px 0 0 1.6em; padding-left: 6px; color: var(--muted); font-size: 14px; }
ul.formula { margin: 8px 0 12px; padding-left: 1.2em; font-size: 14px; }
details { margin-top: 14px; } summary { cursor: pointer; color: var(--muted); font-size: 14px; }
details > table { margin-top: 8px; }
.step.failed, .step.unreachable { color: var(--critical); font-weight: 600; }
.step.changed { color: var(--warning); } .step.ok { color: var(--ok); } .step.skipped { color: var(--muted); }
.scroll { overflow-x: auto; }
@media screen and (max-width: 720px) {
  main { padding: 20px 14px 48px; } h1 { font-size: 24px; }
  .panel, .card { padding: 14px 14px; }
  .phase { grid-template-columns: 1fr auto; } .phase .bar { grid-column: 1 / -1; grid-row: 2; } .phase .name { grid-row: 1; }
  .phase .time { grid-row: 1; grid-column: 2; }
  .phase .done { grid-column: 1 / -1; } .axis .ticks { grid-column: 1 / -1; } .ticks span:nth-child(even) { display: none; }
  table, tbody { display: block; } thead { display: none; }
  tr { display: block; padding: 8px 0; border-bottom: 1px solid var(--line); }
  tbody tr:last-child { border-bottom: 0; }
  td code { white-space: normal; }
  td { display: grid; grid-template-columns: 72px minmax(0, 1fr); gap: 8px; padding: 2px 0; border: 0; }
  td::before { content: attr(data-label); color: var(--muted); font-size: 12px; padding-top: 2px; }
  td > .badge { justify-self: start; } td:empty { display: none; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; } dd { margin-bottom: 8px; }
}
@media print {
  :root {
    color-scheme: light;
    --page: #fff; --card: #fff; --ink: #000; --muted: #444; --line: #bbb; --track: #e6e6e6; --ok: #0b5a30; --ok-soft: #e3f5ea;
    --warning: #6d4200; --warning-soft: #fbeed3; --critical: #8f1110; --critical-soft: #fbe3e2; --unknown: #444;
    --unknown-soft: #eee;
    --c0: #2f6fde; --c1: #0f8f80; --c2: #8b55d1; --c3: #c26a12; --c4: #b8417c;
  }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 12px; } main { max-width: none; padding: 0; }
  .card, tr, .phase { break-inside: avoid; } tr.rows { break-inside: auto; } h2, h3, summary { break-after: avoid; }
  thead { display: table-header-group; } td code { white-space: normal; } .scroll { overflow: visible; }
  details::details-content { content-visibility: visible; block-size: auto; }
  dl { grid-template-columns: max-content minmax(0, 1fr); }
}
"""
"""Tokens, type and tables; a report adds what only it has."""


def page(title: str, content: str, *, style: str = "") -> str:
    """A whole page; ``title`` and ``content`` are HTML already."""
    return _PAGE.substitute(title=title, content=content, style=STYLE + style)
