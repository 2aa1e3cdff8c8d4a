# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Label and field selectors, as strings of a query or as objects of a spec."""

from __future__ import annotations

import re
import typing as t

from .errors import bad_request
from .objects import Object

_REQUIREMENT = re.compile(
    r"\s*(?:(?P<set>[\w./-]+)\s+(?P<verb>in|notin)\s*\((?P<values>[^)]*)\)"
    r"|!\s*(?P<absent>[\w./-]+)"
    r"|(?P<key>[\w./-]+)\s*(?:(?P<operator>==?|!=)\s*(?P<value>[\w.-]*))?)\s*(?:,|$)"
)
Predicate = t.Callable[[Object], bool]


def _in(key: str, values: t.Collection[str]) -> Predicate:
    return lambda labels: key in labels and labels[key] in values


def _not_in(key: str, values: t.Collection[str]) -> Predicate:
    return lambda labels: labels.get(key) not in values


def _present(key: str) -> Predicate:
    return lambda labels: key in labels


def _absent(key: str) -> Predicate:
    return lambda labels: key not in labels


def _requirement(match: re.Match[str]) -> Predicate:
    if match["set"]:
        values = {value.strip() for value in match["values"].split(",")}
        return _in(match["set"], values) if match["verb"] == "in" else _not_in(match["set"], values)
    if match["absent"]:
        return _absent(match["absent"])
    if not match["operator"]:
        return _present(match["key"])
    return (_not_in if match["operator"] == "!=" else _in)(match["key"], (match["value"],))


def labels_predicate(text: str) -> Predicate:
    """A predicate on the labels for ``a=b,c!=d,e in (f,g),h,!i``."""
    predicates: list[Predicate] = []
    position = 0
    while position < len(text):
        match = _REQUIREMENT.match(text, position)
        if match is None or match.end() == position:
            raise bad_request(f"unable to parse requirement: {text[position:]!r}")
        predicates.append(_requirement(match))
        position = match.end()
    return lambda labels: all(predicate(labels) for predicate in predicates)


def matches_object(selector: Object | None, labels: Object) -> bool:
    """Whether labels satisfy a LabelSelector (``matchLabels`` and ``matchExpressions``); none matches nothing."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for expression in selector.get("matchExpressions") or []:
        key, values = expression["key"], expression.get("values") or []
        predicate = {"In": _in(key, values), "NotIn": _not_in(key, values), "Exists": _present(key), "DoesNotExist": _absent(key)}
        if not predicate[expression["operator"]](labels):
            return False
    return True


def _field(obj: Object, path: str) -> str:
    value: t.Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def fields_predicate(text: str) -> Predicate:
    """A predicate on the object for ``metadata.name=a,status.phase!=Running``."""
    wanted: list[tuple[str, bool, str]] = []
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"\s*([\w.]+)\s*(==?|!=)\s*(.*?)\s*", part)
        if match is None:
            raise bad_request(f"invalid selector: {part!r}; can't understand {part!r}")
        wanted.append((match[1], match[2] != "!=", match[3]))
    return lambda obj: all((_field(obj, path) == value) is equal for path, equal, value in wanted)


def predicate_of(query: t.Mapping[str, str]) -> Predicate:
    """Both selectors of a request's query."""
    labels = labels_predicate(query.get("labelSelector", ""))
    fields = fields_predicate(query.get("fieldSelector", ""))
    return lambda obj: labels(obj["metadata"].get("labels") or {}) and fields(obj)
