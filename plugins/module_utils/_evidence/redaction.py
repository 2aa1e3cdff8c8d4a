# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeping secrets out of what is written down. PRIVATE to the collection.

Three nets: values under names that sound secret, values that are known to be secret (from the environment and from variables whose
names sound secret), and text that looks like a credential wherever it stands.
"""

from __future__ import annotations

import math
import re
import typing as t
from urllib.parse import quote

MASK = "[redacted]"
MAX_TEXT = 2000
MAX_ITEMS = 50
MAX_DEPTH = 6
MIN_SECRET = 6
"""Known values shorter than this are not searched for: they would blot out ordinary words."""

_SECRET_NAME = re.compile(
    r"(?:^|[^a-z])pass(?:$|[^a-z])|passw(?:or)?d|passphrase|secret|token|credential|authorization|cookie|webhook|dsn$"
    r"|(?:api|access|private|ssh|signing|encryption|routing|shared|auth|account)[_-]?key|(?:^|[_-])key$|^(?:aws|vault)_.*key",
    re.IGNORECASE,
)
_NOT_SECRET = re.compile(
    r"^(?:manifest_key|tokens?_(?:used|count)|password_(?:file|expires?)|update_password|no_log|.*_key_?file)$", re.IGNORECASE
)
_HEADERS = re.compile(r"(?:^|[^a-z])headers?$", re.IGNORECASE)
_PLAIN_HEADER = re.compile(r"^(?:accept|content|if|cache)-.*|^(?:accept|connection|date|host|range|user-agent)$", re.IGNORECASE)
"""Among headers of a request only these are shown: any other may be how its service knows its users."""
_PATTERNS = (
    (re.compile(r"([a-z][a-z0-9+.-]*://[^/\s:@]*):[^@\s/]+@", re.IGNORECASE), rf"\1:{MASK}@"),
    # Headers as text; a sentence after the same word is none.
    (
        re.compile(
            r"\b(Authorization[\"']?\s*:\s*[\"']?)(?![\"']?\s*\{\{)"
            r"(Digest\s[^\r\n]*|[^\s\"']+(?:\s+[^\s\"']+)?(?=[\"'\r\n]|\s*$)|[^\r\n\"']*=[^\r\n\"']*)",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"\b(Cookie[\"']?\s*:\s*[\"']?)(?![\"']?\s*\{\{)[^\r\n\"'=]+=[^\r\n\"']*", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE), rf"\1 {MASK}"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), MASK),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"), MASK),
    (re.compile(r"\b(?:xox[abeprs]-|ghp_|gho_|github_pat_|glpat-)[A-Za-z0-9_-]{10,}"), MASK),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL), MASK),
    (re.compile(r"(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"']+", re.IGNORECASE), rf"\1{MASK}"),
    (
        re.compile(
            r"((?:pass(?:word|wd|phrase)|pgpassword|secret(?:[_-]?(?:access[_-]?)?key)?|token|api[_-]?key|access[_-]?key)"
            r"[\"']?\s*[=:]\s*)(?!\s*\{\{)(\"[^\"]*\"|'[^']*'|[^\s,;&\"']+)",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
)


def sounds_secret(name: str) -> bool:
    """Whether a value under this name is to be hidden."""
    return bool(_SECRET_NAME.search(name)) and not _NOT_SECRET.match(name)


def hidden_keys(mapping: t.Mapping[t.Any, t.Any], name: str = "") -> set[t.Any]:
    """Keys of a mapping of that name whose values are to be hidden: also those of headers, and the value of a named pair."""
    headers = bool(_HEADERS.search(name))
    found = {key for key in mapping if sounds_secret(str(key)) or (headers and not _PLAIN_HEADER.match(str(key)))}
    if "value" in mapping and any(sounds_secret(str(mapping.get(key) or "")) for key in ("name", "key")):
        found.add("value")
    return found


def worth_hiding(value: t.Any) -> bool:
    """Whether a value can be a secret at all."""
    return value not in (None, "", [], {}) and not isinstance(value, bool)


class Redactor:
    """Knows some secrets by value and hides them, and what looks like one, in any JSON-like value."""

    def __init__(self, known: t.Iterable[str] = ()) -> None:
        self._known: set[str] = set()
        self._search: re.Pattern[str] | None = None
        self.learn(known)

    def learn(self, known: t.Iterable[str]) -> None:
        """Hide these values from now on."""
        fresh = {form for text in known for line in (text, *text.split("\n")) for form in (line, quote(line, safe=""))}
        fresh = {form for form in fresh if len(form.strip()) >= MIN_SECRET}
        if fresh - self._known:
            self._known |= fresh
            longest_first = sorted(self._known, key=len, reverse=True)
            self._search = re.compile("|".join(re.escape(value) for value in longest_first))

    def learn_mapping(self, variables: t.Mapping[str, t.Any], depth: int = 0, name: str = "") -> None:
        """Learn the values of variables whose names sound secret; templates are not values."""
        found = []
        hidden = hidden_keys(variables, name)
        for key, value in variables.items():
            if isinstance(value, t.Mapping):
                if depth < MAX_DEPTH:
                    self.learn_mapping(value, depth + 1, str(key))
            elif value not in (None, "", True, False) and key in hidden:
                texts = [str(item) for item in (value if isinstance(value, (list, tuple)) else [value])]
                found += [text for text in texts if "{{" not in text]
        self.learn(found)

    def text(self, value: str) -> str:
        """A text without secrets, cut to a bearable length."""
        if self._search is not None:
            value = self._search.sub(MASK, value)
        for pattern, replacement in _PATTERNS:
            value = pattern.sub(replacement, value)
        return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}... ({len(value)} characters)"

    def value(self, value: t.Any, name: str = "", depth: int = 0) -> t.Any:
        """A JSON value without secrets; ``name`` is what it is called. Whatever is not JSON becomes text."""
        if name and worth_hiding(value) and sounds_secret(name):
            return MASK
        if value is None or isinstance(value, (bool, int)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if depth >= MAX_DEPTH:
            return f"({type(value).__name__}, not shown)"
        if isinstance(value, t.Mapping):
            hidden = hidden_keys(value, name)
            return {
                self.text(str(key)): MASK if key in hidden and worth_hiding(item) else self.value(item, str(key), depth + 1)
                for key, item in list(value.items())[:MAX_ITEMS]
            }
        if isinstance(value, (list, tuple, set, frozenset)):
            items = [self.value(item, "", depth + 1) for item in list(value)[:MAX_ITEMS]]
            return items if len(value) <= MAX_ITEMS else [*items, f"({len(value) - MAX_ITEMS} more)"]
        return self.text(str(value))
