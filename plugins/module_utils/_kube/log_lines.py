# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which log lines matter, and which of them say the same: matching, JSON lines, normalising, counting. PRIVATE to the collection.

Speed comes from looking at blocks of lines first: a block is searched for anything that could matter, and only the lines found
that way are decoded, parsed and judged. Memory is bounded: lines are cut, and groups are limited in number.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import threading
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._evidence.redaction import Redactor

MAX_LINE = 16384
MAX_MESSAGE = 240
MAX_SAMPLE = 500
MAX_SPANS = 20000
"""Spans of five minutes that are counted apart: more than two months."""
SPAN_MINUTES = 5
BLOCK = 262144

LEVELS = ("error", "critical", "fatal", "alert", "emergency", "panic")
LEVEL_KEYS = ("level", "severity", "levelname", "log.level", "loglevel", "lvl")
MESSAGE_KEYS = ("message", "msg", "event", "log", "error", "err", "exception")
WORDS = ("error", "exception", "fatal", "critical", "panic", "traceback", "failed", "failure", "emerg")
"""What a text line without a level says when something is wrong."""
_ALIASES = {
    "err": "error",
    "severe": "error",
    "crit": "critical",
    "emerg": "emergency",
    "warn": "warning",
    "information": "info",
    "dbg": "debug",
}
_NUMBERS = ((60, "fatal"), (50, "error"), (40, "warning"), (30, "info"), (20, "debug"), (10, "trace"))
_NUMERIC = ('evel":5', 'evel":6', 'evel": 5', 'evel": 6')
"""How numeric levels from 50 on look in a line of JSON."""
_TEXT_LEVEL = re.compile(
    r"(?:^|[\s\[(|<=:\"'])(TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|ERR|SEVERE|CRITICAL|CRIT|FATAL|ALERT|PANIC|EMERG|EMERGENCY)"
    r"(?!\w)"
    r"|\b(?:level|lvl|severity)=\"?(\w+)"
)
_LEVEL_WITHIN = 160
_CALL = r"error(?!\()|(?<!_)error"
"""The word, but not as the end of a function's name in a line of code."""
_SIMPLE = re.compile(r"[A-Za-z0-9 _|]+")


@dataclasses.dataclass(frozen=True)
class Line:
    """One line that matters. ``at`` is its time in UTC without a zone (it sorts as text), empty when unknown."""

    at: str
    level: str
    message: str


@dataclasses.dataclass(frozen=True)
class Rules:
    """What matters."""

    pattern: str | None = None
    """Without one: lines of the levels, and text lines without a level that hold one of WORDS."""
    ignore_case: bool = True
    levels: tuple[str, ...] = LEVELS
    level_keys: tuple[str, ...] = LEVEL_KEYS
    message_keys: tuple[str, ...] = MESSAGE_KEYS

    def compiled(self) -> re.Pattern[str]:
        """The pattern for texts; raises InvalidOption."""
        try:
            if self.pattern is None:
                return re.compile("|".join((_CALL, *WORDS[1:])), re.IGNORECASE)
            return re.compile(self.pattern, re.IGNORECASE if self.ignore_case else 0)
        except re.error as error:
            raise InvalidOption("pattern", self.pattern, f"not a regular expression: {error}") from error


def level_name(value: t.Any) -> str:
    """One spelling for each level; numbers as the common JSON loggers use them."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return next((name for least, name in _NUMBERS if value >= least), "trace")
    text = str(value).strip().lower()
    return _ALIASES.get(text, text)


class Matcher:
    """Judges lines by Rules."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._pattern = rules.compiled()
        self._levels = frozenset(level_name(level) for level in rules.levels)
        self._quick, self._lower = self._prefilter()

    def _prefilter(self) -> tuple[re.Pattern[bytes] | None, bool]:
        """A search that no line that matters escapes, and whether it wants small letters; None: look at every line."""
        pattern = self._rules.pattern
        if pattern is not None and not _SIMPLE.fullmatch(pattern):
            return None, False
        lower = self._rules.ignore_case or pattern is None
        spelled = {alias for alias, name in _ALIASES.items() if name in self._levels} | self._levels
        words = [*(WORDS if pattern is None else pattern.split("|")), *sorted(spelled)]
        if not lower:
            words += [form for level in spelled for form in (level.upper(), level.capitalize())]
        if self._levels & {"error", "fatal"}:
            words += _NUMERIC
        if not all(words):
            return None, False
        text = "|".join(re.escape(word.lower() if lower else word) for word in words)
        return re.compile(text.encode()), lower

    def lines(self, block: bytes) -> t.Iterator[bytes]:
        """The lines of a block (which ends with a line feed) that may matter."""
        if self._quick is None:
            yield from block.split(b"\n")[:-1]
            return
        text = block.lower() if self._lower else block
        position = 0
        while (match := self._quick.search(text, position)) is not None:
            start = text.rfind(b"\n", 0, match.start()) + 1
            end = text.find(b"\n", match.end())
            yield block[start:end]
            position = end + 1

    def judge(self, raw: bytes) -> Line | None:
        """The line when it matters."""
        stamp, _blank, rest = raw[:MAX_LINE].partition(b" ")
        at = sortable(stamp)
        text = (rest if at else raw[:MAX_LINE]).decode("utf-8", "replace")
        fields = _json(text)
        if fields is not None:
            level = level_name(_first(fields, self._rules.level_keys) or "")
            message = _text(_first(fields, self._rules.message_keys)) or text
        else:
            found = _TEXT_LEVEL.search(text, 0, _LEVEL_WITHIN)
            level, message = level_name((found[1] or found[2]) if found is not None else ""), text
        return Line(at, level, message.strip()) if self._matters(level, message) else None

    def _matters(self, level: str, message: str) -> bool:
        if level and level in self._levels:
            return True
        if self._rules.pattern is None and level:
            return False  # INFO: 0 errors
        return self._pattern.search(message) is not None


def _json(text: str) -> dict[str, t.Any] | None:
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # a line may be nested as deeply as it is long
        return None
    return found if isinstance(found, dict) else None


def _first(fields: dict[str, t.Any], keys: t.Sequence[str]) -> t.Any:
    """The value of the first key that is there; a dotted key also reaches into objects."""
    for key in keys:
        if fields.get(key) not in (None, ""):
            return fields[key]
        if "." in key:
            inner: t.Any = fields
            for part in key.split("."):
                inner = inner.get(part) if isinstance(inner, dict) else None
            if inner not in (None, ""):
                return inner
    return None


def _text(value: t.Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        inner = _first(value, ("message", "msg", "type", "kind"))
        value = value if inner is None else inner
    try:
        return json.dumps(value, sort_keys=True) if isinstance(value, dict) else str(value)
    except RecursionError:
        return ""


# times

_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")


def sortable(stamp: bytes) -> str:
    """A log's time stamp in UTC without its zone; empty for anything else."""
    match = _STAMP.fullmatch(stamp.decode("ascii", "replace"))
    if match is None:
        return ""
    fraction = (match[2] or "")[:9].rstrip("0")
    moment = match[1]
    if match[3] not in ("Z", "+00:00"):
        zoned = datetime.datetime.fromisoformat(moment + match[3])
        moment = zoned.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{moment}.{fraction}" if fraction else moment


def span_of(at: str) -> str:
    """The span of five minutes that a time belongs to."""
    return f"{at[:14]}{int(at[14:16]) // SPAN_MINUTES * SPAN_MINUTES:02d}"


# messages

_FOLD = re.compile(
    r"(?<!\w)(?:"  # everything but numbers begins a word: one test for all, which is what makes this fast
    r"(?P<time>\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?:\s?(?:Z\b|UTC\b|[+-]\d\d:?\d\d))?)?(?!\w)"
    r"|\d{4}/\d\d/\d\d \d\d:\d\d:\d\d(?:\.\d+)?"
    r"|\d{1,2}/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d(?: [+-]\d{4})?"
    r"|(?:[A-Z][a-z]{2} )?[A-Z][a-z]{2} {1,2}\d{1,2} \d\d:\d\d:\d\d(?: \d{4})?"
    r"|\d\d:\d\d:\d\d(?:[.,]\d+)?(?![\w:]))"
    r"|(?P<uuid>[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b)"
    r"|(?P<mail>[\w.+-]{1,64}@[\w-]+\.[\w.-]*\w)"  # no longer: each dash of a ruled line may begin one
    r"|(?P<address>\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?::\d{1,5})?\b"
    r"|\[?(?<![\w:.])(?=[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,8}(?![\w:]))[0-9a-fA-F:]+(?:\]:\d{1,5})?)"
    r"|(?P<hex>0x[0-9a-fA-F]+\b|(?=[a-fA-F]*\d)(?=\d*[a-fA-F])[0-9a-fA-F]{8,}\b))"
    r"|(?P<number>\d+(?:[.,]\d+)*)"
)
_PLACE = {"time": "<time>", "uuid": "<id>", "mail": "<mail>", "address": "<address>", "hex": "<id>", "number": "<n>"}
_WORD = re.compile(r"(?<![\w>])\w*<n>(?:\w|<n>)*")
_BLANKS = re.compile(r"\s+")
_LEADING = re.compile(r"^(?:\[?<time>\]?[\s,:|-]*)+")


def normalise(message: str) -> str:
    """The message with everything that differs from case to case folded, so that equal troubles read the same."""
    text = _FOLD.sub(lambda match: _PLACE[str(match.lastgroup)], message[: 4 * MAX_MESSAGE])
    text = _WORD.sub(lambda match: "<id>" if match[0].count("<n>") > 1 else match[0], text)
    text = _BLANKS.sub(" ", _LEADING.sub("", text)).strip()
    return text[:MAX_MESSAGE] or "(empty)"


# counting


@dataclasses.dataclass
class Group:
    """Lines that say the same. ``pods`` has one bit for each pod."""

    count: int = 0
    first: str = ""
    last: str = ""
    level: str = ""
    pods: int = 0
    sample: str = ""

    def add(self, line: Line, pod: int) -> None:
        """Count a line."""
        self.count += 1
        self.pods |= 1 << pod
        if line.at:
            self.first = min(self.first, line.at) if self.first else line.at
            if line.at >= self.last:
                self.last, self.sample = line.at, line.message[:MAX_SAMPLE]
        self.sample = self.sample or line.message[:MAX_SAMPLE]
        self.level = self.level or line.level

    def merge(self, group: Group) -> None:
        """Count another group's lines without what they say."""
        self.count += group.count
        self.pods |= group.pods
        self.first = min(filter(None, (self.first, group.first)), default="")
        self.last = max(self.last, group.last)


class Tally:
    """Counts lines by message, at most ``keep`` groups for good; several threads may add.

    When twice as many are known, the rarest half is put together under ``other``; from then on a count may be too small by what
    was put there before, which ``folded`` says.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._groups: dict[str, Group] = {}
        self._other = Group()
        self.folded = 0
        self.lines = 0
        self.bytes = 0
        self.matches = 0
        self.oldest = ""
        self.spans: dict[str, int] = {}

    def read(self, lines: int, size: int, oldest: str) -> None:
        """Count what was read, whether it matters or not."""
        with self._lock:
            self.lines += lines
            self.bytes += size
            if oldest and (not self.oldest or oldest < self.oldest):
                self.oldest = oldest

    def add(self, line: Line, pod: int) -> None:
        """Count a line that matters."""
        key = normalise(line.message)
        with self._lock:
            self.matches += 1
            group = self._groups.get(key)
            if group is None:
                if len(self._groups) >= 2 * self._keep:
                    self._fold()
                group = self._groups[key] = Group()
            group.add(line, pod)
            if line.at:
                span = span_of(line.at)
                if span in self.spans or len(self.spans) < MAX_SPANS:
                    self.spans[span] = self.spans.get(span, 0) + 1

    def _fold(self) -> None:
        ranked = sorted(self._groups.items(), key=lambda item: (item[1].count, item[1].last), reverse=True)
        self._groups = dict(ranked[: self._keep])
        for _key, group in ranked[self._keep :]:
            self._other.merge(group)
            self.folded += 1

    def ranked(self, limit: int) -> tuple[list[tuple[str, Group]], Group, int]:
        """The biggest groups first; all others as one, and how many groups those are."""
        ranked = sorted(self._groups.items(), key=lambda item: (-item[1].count, item[0]))
        other = dataclasses.replace(self._other)
        for _key, group in ranked[limit:]:
            other.merge(group)
        return ranked[:limit], other, self.folded + len(ranked[limit:])

    @property
    def busiest(self) -> tuple[str, int]:
        """The five minutes with most lines that matter, and how many; empty and 0 without any."""
        return max(self.spans.items(), key=lambda item: (item[1], item[0]), default=("", 0))


class Scanner:
    """Takes the pieces of one container's log and gives its lines to the tally."""

    def __init__(self, matcher: Matcher, tally: Tally, pod: int) -> None:
        self._matcher = matcher
        self._tally = tally
        self._pod = pod
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._rest = b""
        self._dropping = False
        self.bytes = 0
        self.last = ""
        """Time of the last whole line."""

    def feed(self, piece: bytes) -> None:
        """Take a piece; it is worked on when enough has come together."""
        self.bytes += len(piece)
        self._pieces.append(piece)
        self._waiting += len(piece)
        if self._waiting >= BLOCK:
            self._work()

    def close(self) -> None:
        """The log is over; an unfinished line counts as one."""
        self._work()
        if self._rest:
            self._block(self._rest + b"\n", len(self._rest))
            self._rest = b""

    def _work(self) -> None:
        data = b"".join(self._pieces)
        self._pieces, self._waiting = [], 0
        size = len(data)
        if self._dropping:
            end = data.find(b"\n")
            if end < 0:
                self._tally.read(0, size, "")
                return
            data, self._dropping = data[end:], False
        data = self._rest + data
        cut = data.rfind(b"\n") + 1
        self._rest = data[cut:]
        if len(self._rest) > MAX_LINE:
            self._rest, self._dropping = self._rest[:MAX_LINE], True
        self._block(data[:cut], size)

    def _block(self, block: bytes, size: int) -> None:
        if not block:
            self._tally.read(0, size, "")
            return
        begin = block.rfind(b"\n", 0, len(block) - 1) + 1
        self.last = sortable(block[begin : begin + 40].partition(b" ")[0]) or self.last
        self._tally.read(block.count(b"\n"), size, sortable(block[:40].partition(b" ")[0]))
        for raw in self._matcher.lines(block):
            line = self._matcher.judge(raw)
            if line is not None:
                self._tally.add(line, self._pod)


def group_dicts(ranked: t.Sequence[tuple[str, Group]], pods: t.Sequence[str], shown: int) -> list[dict[str, t.Any]]:
    """Groups for a module's result, secrets hidden; ``pods`` are the names behind the bits."""
    redactor = Redactor()
    return [
        {
            "message": redactor.text(key),
            "level": group.level,
            "count": group.count,
            "first": _utc(group.first),
            "last": _utc(group.last),
            **pods_of(group, pods, shown),
            "sample": redactor.text(group.sample),
        }
        for key, group in ranked
    ]


def pods_of(group: Group, pods: t.Sequence[str], shown: int) -> dict[str, t.Any]:
    """How many pods a group comes from, and the first of their names."""
    names = [name for index, name in enumerate(pods) if group.pods >> index & 1]
    return {"pod_count": len(names), "pods": names[:shown]}


def _utc(at: str) -> str | None:
    return f"{at}Z" if at else None


def times_of(group: Group) -> dict[str, t.Any]:
    """First and last time for a result."""
    return {"first": _utc(group.first), "last": _utc(group.last)}
