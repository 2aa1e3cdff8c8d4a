# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Label selectors, understood on this side: a workload counts when its own labels or those of its pods match. PRIVATE."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption

Labels = t.Mapping[str, str]
Test = t.Callable[[Labels], bool]

_KEY = r"[A-Za-z0-9](?:[\w./-]*[A-Za-z0-9])?"
_ONE = re.compile(
    rf"\s*(?:(?P<absent>!)\s*(?P<gone>{_KEY})"
    rf"|(?P<set>{_KEY})\s+(?P<verb>in|notin)\s*\((?P<values>[^()]*)\)"
    rf"|(?P<key>{_KEY})\s*(?:(?P<operator>==|=|!=)\s*(?P<value>[\w.-]*))?)\s*(?P<end>,|$)"
)


def _requirement(match: re.Match[str]) -> Test:
    if match["absent"]:
        return lambda labels: match["gone"] not in labels
    if match["set"]:
        values = frozenset(value.strip() for value in match["values"].split(","))
        if match["verb"] == "in":
            return lambda labels: labels.get(match["set"], None) in values
        return lambda labels: labels.get(match["set"], None) not in values
    if not match["operator"]:
        return lambda labels: match["key"] in labels
    wanted = match["value"]
    if match["operator"] == "!=":
        return lambda labels: labels.get(match["key"]) != wanted
    return lambda labels: labels.get(match["key"]) == wanted


def parse_selector(text: str, option: str = "selector") -> Test:
    """A test of labels for ``a=b,c!=d,e in (f,g),h,!i``; an empty selector matches all. Raises InvalidOption."""
    tests: list[Test] = []
    position = 0
    text = text.strip()
    ended = True
    while position < len(text):
        match = _ONE.match(text, position)
        if match is None:
            raise InvalidOption(option, text, f"not a label selector from {text[position:]!r} on", hint="for example app=backend")
        tests.append(_requirement(match))
        position, ended = match.end(), match["end"] == ""
    if not ended:
        raise InvalidOption(option, text, "a label selector must not end with a comma")
    return lambda labels: all(test(labels) for test in tests)
