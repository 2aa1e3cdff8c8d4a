# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""File name patterns as glob(3) reads them: whether one matches a name, and whether two can match the same. PRIVATE.

Needed because two stanzas of logrotate that match the same file exclude each other, also when the file is not there yet.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import os
import re
import typing as t


@dataclasses.dataclass(frozen=True)
class Token:
    """What one place of a pattern accepts: a literal character, any, any number of them (star), or a set."""

    kind: str
    text: str = ""
    negated: bool = False

    def accepts(self, character: str) -> bool:
        """Whether a single character fits."""
        if self.kind == "literal":
            return self.text == character
        if self.kind == "set":
            return (re.match(f"[{self.text}]", character) is not None) != self.negated
        return True

    def may_share(self, other: Token) -> bool:
        """Whether some character fits both."""
        if self.kind == "literal":
            return other.accepts(self.text)
        if other.kind == "literal":
            return self.accepts(other.text)
        if self.kind == other.kind == "set":
            return any(self.accepts(chr(code)) and other.accepts(chr(code)) for code in range(32, 127))
        return True


@functools.lru_cache(maxsize=1024)
def tokens_of(segment: str) -> tuple[Token, ...]:
    """The tokens of one path segment. An unclosed bracket is a literal, a backslash takes the next character literally."""
    found: list[Token] = []
    position = 0
    while position < len(segment):
        character = segment[position]
        position += 1
        if character == "\\" and position < len(segment):
            found.append(Token("literal", segment[position]))
            position += 1
        elif character == "*":
            if not found or found[-1].kind != "star":
                found.append(Token("star"))
        elif character == "?":
            found.append(Token("any"))
        elif character == "[" and (end := _end_of_set(segment, position)) is not None:
            found.append(_set_token(segment[position:end]))
            position = end + 1
        else:
            found.append(Token("literal", character))
    return tuple(found)


def _end_of_set(segment: str, start: int) -> int | None:
    """Index of the bracket that closes the set; one right after the opening (or its negation) is a member."""
    first = start + 1 if segment[start : start + 1] in ("!", "^") else start
    end = segment.find("]", first + 1)
    return None if end < 0 else end


def _set_token(inner: str) -> Token:
    negated = inner[:1] in ("!", "^")
    members = inner[1:] if negated else inner
    escaped = members.replace("\\", "\\\\").replace("]", "\\]").replace("[", "\\[").replace("^", "\\^").replace("&", "\\&")
    try:
        re.compile(f"[{escaped}]")
    except re.error:  # a range in the wrong order matches nothing
        return Token("set", "^\\x00-\\U0010ffff", negated)
    return Token("set", escaped, negated)


def _overlap(one: tuple[Token, ...], other: tuple[Token, ...]) -> bool:
    """Whether one name fits both token lists: the pairs of positions that a common name can reach."""
    waiting, seen = [(0, 0)], set()
    while waiting:
        pair = waiting.pop()
        if pair in seen:
            continue
        seen.add(pair)
        at, by = pair
        if at == len(one) and by == len(other):
            return True
        left = one[at] if at < len(one) else None
        right = other[by] if by < len(other) else None
        if left is not None and left.kind == "star":
            waiting.append((at + 1, by))
            if right is not None:
                waiting.append((at, by + 1))
        if right is not None and right.kind == "star":
            waiting.append((at, by + 1))
            if left is not None:
                waiting.append((at + 1, by))
        if left is not None and right is not None and "star" not in (left.kind, right.kind) and left.may_share(right):
            waiting.append((at + 1, by + 1))
    return False


def _hidden_apart(one: tuple[Token, ...], other: tuple[Token, ...]) -> bool:
    """A wildcard at the beginning does not match a dot there; so a pattern with a literal dot first is apart from it."""
    first, second = one[:1], other[:1]
    if not first or not second:
        return False
    return any(
        a[0].kind == "literal" and a[0].text == "." and b[0].kind != "literal" for a, b in ((first, second), (second, first))
    )


def is_pattern(path: str) -> bool:
    """Whether the path has a wildcard."""
    return any(token.kind != "literal" for token in tokens_of(path))


def literal_of(path: str) -> str:
    """The path without its escapes; only of use when it has no wildcard."""
    return "".join(token.text for token in tokens_of(path))


def overlap(one: str, other: str) -> bool:
    """Whether some path matches both patterns; a wildcard does not match a slash."""
    first, second = (os.path.normpath(path).split("/") for path in (one, other))
    if len(first) != len(second):
        return False
    for left, right in zip(first, second):
        tokens = tokens_of(left), tokens_of(right)
        if _hidden_apart(*tokens) or not _overlap(*tokens):
            return False
    return True


def matches(pattern: str, path: str) -> bool:
    """Whether a path (taken literally) matches the pattern."""
    return overlap(pattern, glob.escape(path))


def example_of(pattern: str) -> str:
    """A path that the pattern matches."""
    made: list[str] = []
    for token in tokens_of(pattern):
        if token.kind == "literal":
            made.append(token.text)
        else:
            made.append(next((sign for sign in "x0aA_-." if token.accepts(sign)), "x"))
    return "".join(made)


def expand(pattern: str) -> list[str]:
    """Existing paths that match, sorted; also a dangling symbolic link."""
    if not is_pattern(pattern):
        path = literal_of(pattern)
        return [path] if os.path.lexists(path) else []
    return sorted(path for path in glob.glob(_for_python(pattern)) if matches(pattern, path))


def _for_python(pattern: str) -> str:
    """Python's glob knows no backslash and no caret in a set."""
    written: list[str] = []
    for segment in pattern.split("/"):
        parts: t.List[str] = []
        for token in tokens_of(segment):
            parts.append({"star": "*", "any": "?", "set": "?"}.get(token.kind) or glob.escape(token.text))
        written.append("".join(parts))
    return "/".join(written)
