# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values as Markdown and as HTML, for reports. PRIVATE to the collection."""

from __future__ import annotations

import html
import re
import typing as t

WORDS = {"ok": "OK", "warning": "WARNING", "critical": "CRITICAL", "unknown": "UNKNOWN"}


def clock(value: t.Any) -> str:
    """``2026-11-23 14:05:00.123 UTC`` for an ISO time of a report."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)\.(\d{3})\d{3}\+00:00", str(value))
    if match is None:
        return str(value)
    return f"{match[1]} {match[2]}{'' if match[3] == '000' else f'.{match[3]}'} UTC"


def printable(value: t.Any) -> str:
    """One line without control characters, which could move a terminal's cursor."""
    return re.sub(r"\s+", " ", "".join(letter if letter.isprintable() else " " for letter in str(value))).strip()


def markdown_cell(value: t.Any) -> str:
    """Any value as the text of a Markdown cell, on one line."""
    text = html.escape(str(value), quote=False).replace("\\", "\\\\").replace("|", "\\|").replace("`", "\\`")
    text = re.sub(r"([*_\[\]#~])", r"\\\1", text)
    return printable(text)


def markdown_table(heads: t.Sequence[str], rows: t.Iterable[t.Sequence[t.Any]]) -> list[str]:
    """A Markdown table and the empty line after it."""
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return [*lines, *(f"| {' | '.join(markdown_cell(value) for value in row)} |" for row in rows), ""]


def text(value: t.Any) -> str:
    """Any value as HTML text, with what cannot be printed made visible."""
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(value))
    return html.escape(shown, quote=True)


def badge(status: str) -> str:
    """A status as a coloured word."""
    return f'<span class="badge {status}">{WORDS[status]}</span>'


def html_table(heads: t.Sequence[str], rows: t.Iterable[t.Sequence[str]], kind: str = "") -> str:
    """A table of HTML cells; each cell knows its heading for narrow screens."""
    head = "".join(f"<th scope=col>{text(name)}</th>" for name in heads)
    body = "".join(
        "<tr>" + "".join(f'<td data-label="{text(name)}">{value}</td>' for name, value in zip(heads, row)) + "</tr>" for row in rows
    )
    return (
        f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>' if body else "<p class=none>None.</p>"
    )


def html_pairs(rows: t.Iterable[tuple[t.Any, t.Any]]) -> str:
    """Names and values, escaped."""
    return "<dl>" + "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in rows) + "</dl>"
