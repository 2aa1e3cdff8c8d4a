# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a check has seen, as a table: the summary names the worst, these are the others with it. PRIVATE to the collection."""

from __future__ import annotations

import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._markup import printable
from ansible_collections.fileforge.ops.plugins.module_utils._plan import human_bytes

MOST_ROWS, MOST_COLUMNS, MOST_TEXT = 10, 9, 240
"""What a page has room for; the JSON has all."""
Table = t.Tuple[t.List[str], t.List[t.List[str]]]


def rows_of(check: t.Mapping[str, t.Any]) -> Table | None:
    """Heads and rows of the check's evidence; None where the summary has said it all, or the evidence is no list of facts."""
    evidence = check.get("evidence")
    if not isinstance(evidence, list) or len(evidence) < 2 or not all(isinstance(item, dict) for item in evidence):
        return None
    shown = evidence[:MOST_ROWS]
    names = list(dict.fromkeys(name for item in shown for name in item))
    used = [name for name in names if any(_cell(name, item.get(name)) for item in shown)][:MOST_COLUMNS]
    return [_head(name) for name in used], [[_cell(name, item.get(name)) for name in used] for item in shown]


def _head(name: t.Any) -> str:
    """``read_bytes`` -> ``read``: the cell has the unit."""
    return printable(str(name).replace("_bytes", "").replace("_", " "))


def _cell(name: t.Any, value: t.Any) -> str:
    if value is None or value in ("", [], {}):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return human_bytes(value) if str(name).endswith("bytes") and value >= 0 else f"{value:.10g}"
    if isinstance(value, dict):
        value = ", ".join(f"{key}={item}" for key, item in value.items())
    elif isinstance(value, list):
        value = ", ".join(map(str, value))
    words = printable(value)
    return words if len(words) <= MOST_TEXT else f"{words[: MOST_TEXT - 3]}..."
