# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which lines matter, what is folded, and that neither the pieces they come in nor their number changes anything."""

from __future__ import annotations

import json
import time
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._kube import log_lines
from ansible_collections.fileforge.ops.plugins.module_utils._kube.log_lines import (
    MAX_LINE,
    MAX_MESSAGE,
    Line,
    Matcher,
    Rules,
    Scanner,
    Tally,
    group_dicts,
    level_name,
    normalise,
    sortable,
    span_of,
)
from hypothesis import given
from hypothesis import strategies as st

STAMP = "2026-11-23T12:00:00.5Z"


def judge(text: str, **rules: t.Any) -> Line | None:
    """As it goes in reality: only lines that the quick search lets through are judged."""
    matcher = Matcher(Rules(**rules))
    found = [matcher.judge(raw) for raw in matcher.lines(f"{STAMP} {text}\n".encode())]
    return next((line for line in found if line is not None), None)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("ERROR something", "error"),
        ("2026-11-23 12:00:00,123 ERROR app: no", "error"),
        ("[2026-11-23 12:00:00,123: CRITICAL/MainProcess] lost", "critical"),
        ("level=error msg=x", "error"),
        ('level="fatal" msg=x', "fatal"),
        ("ValueError: bad", ""),
        ("caught ValueError('bad')", ""),
        ("last_error=timeout", ""),
        ("Traceback (most recent call last):", ""),
        ("connection failed", ""),
        ("time=x lvl=crit", "critical"),
        ('{"level": "error", "message": "no"}', "error"),
        ('{"level":50,"msg":"no"}', "error"),
        ('{"level": 60, "msg": "no"}', "fatal"),
        ('{"severity":"CRITICAL","message":"no"}', "critical"),
        ('{"log": {"level": "error"}, "message": "no"}', "error"),
        ('{"log.level": "error", "message": "no"}', "error"),
        ('{"message": "it failed"}', ""),
        ('{"level": "error", "broken', ""),
    ],
)
def test_lines_that_matter(text: str, level: str) -> None:
    line = judge(text)
    assert line is not None and line.level == level and line.at == "2026-11-23T12:00:00.5"


@pytest.mark.parametrize(
    "text",
    [
        "all is well",
        "INFO: 0 errors",
        "INFO:     127.0.0.1:1 - GET /error HTTP/1.1 200",
        "[2026-11-23 12:00:00,123: INFO/MainProcess] task failed_cleanup succeeded",
        "WARNING connection failed, trying again",
        "  _warn_or_raise_security_error(egid, euid)",
        "level=info msg=error",
        '{"level": "info", "message": "0 errors"}',
        '{"level": 30, "msg": "no error"}',
        '{"level": "warning", "message": "failed once"}',
        "",
    ],
)
def test_lines_that_do_not(text: str) -> None:
    assert judge(text) is None


def test_a_pattern_looks_at_texts_and_messages_whatever_the_level() -> None:
    for text in ("INFO payment Declined", '{"level":"info","message":"payment declined"}', "payment declined"):
        assert judge(text, pattern="payment declined") is not None
    assert judge("INFO payment Declined", pattern="payment declined", ignore_case=False) is None
    assert judge("ERROR disk", pattern="payment declined") is not None
    assert judge("ERROR disk", pattern="payment declined", levels=()) is None
    assert judge("ERROR Disk", pattern="declined|disk", levels=()) is not None
    assert judge("nothing at all", pattern="a||b", levels=()) is not None  # an empty alternative matches everything


def test_anchors_and_escapes_work_in_a_pattern() -> None:
    assert judge("GET /x 503", pattern=r" 50\d$", levels=()) is not None
    assert judge("GET /x 503 ", pattern=r"^GET .* 50\d", levels=()) is not None
    assert judge('{"msg": "say \\"no\\" now"}', pattern='say "no"', levels=()) is not None
    assert judge('{"msg": "über"}', pattern="ÜBER", levels=()) is not None
    assert judge("x", pattern="y", levels=()) is None


def test_keys_are_options_and_an_error_object_has_its_own_message() -> None:
    line = judge('{"lvl2": "error", "was": "no", "n": 1}', level_keys=("lvl2",), message_keys=("was",))
    assert line is not None and (line.level, line.message) == ("error", "no")
    line = judge('{"level": "error", "err": {"type": "E", "message": "deep"}}')
    assert line is not None and line.message == "deep"
    line = judge('{"level": "error", "code": 7}')
    assert line is not None and '"code": 7' in line.message


def test_bad_pattern_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"pattern='\('"):
        Matcher(Rules(pattern="("))


@given(
    st.lists(st.sampled_from(["ok", "ERROR a", '{"level":50}', "error", "INFO error", "declined", "Failed x", "", "{", "x" * 40]))
)
def test_quick_search_loses_nothing(texts: list[str]) -> None:
    block = "".join(f"{STAMP} {text}\n" for text in texts).encode()
    for rules in (Rules(), Rules(pattern="declined|Failed"), Rules(pattern="Failed", ignore_case=False)):
        quick = Matcher(rules)
        slow = Matcher(rules)
        slow._quick = None
        found = [line for raw in quick.lines(block) if (line := quick.judge(raw)) is not None]
        wanted = [line for raw in slow.lines(block) if (line := slow.judge(raw)) is not None]
        assert found == wanted


@pytest.mark.parametrize(
    ("value", "name"),
    [(50, "error"), (60.0, "fatal"), (45, "warning"), (0, "trace"), ("ERR", "error"), ("Warn", "warning"), (" crit ", "critical")],
)
def test_levels_have_one_spelling(value: t.Any, name: str) -> None:
    assert level_name(value) == name


@pytest.mark.parametrize(
    ("stamp", "at"),
    [
        ("2026-11-23T12:00:00Z", "2026-11-23T12:00:00"),
        ("2026-11-23T12:00:00.120000000Z", "2026-11-23T12:00:00.12"),
        ("2026-11-23T12:00:00.1+02:00", "2026-11-23T10:00:00.1"),
        ("2026-11-23T12:00:00+00:00", "2026-11-23T12:00:00"),
        ("2026-11-23", ""),
        ("ERROR", ""),
        ("", ""),
        ("\xff", ""),
    ],
)
def test_times(stamp: str, at: str) -> None:
    assert sortable(stamp.encode("latin-1")) == at


def test_spans_are_five_minutes() -> None:
    assert [span_of(f"2026-11-23T12:{minute}:59") for minute in ("00", "04", "05", "59")] == [
        "2026-11-23T12:00",
        "2026-11-23T12:00",
        "2026-11-23T12:05",
        "2026-11-23T12:55",
    ]


@pytest.mark.parametrize(
    ("message", "folded"),
    [
        ("cannot read file 12345", "cannot read file <n>"),
        ("took 1.5s, 3 retries", "took <n>s, <n> retries"),
        ("from 10.0.0.5:51234 and 192.168.1.1", "from <address> and <address>"),
        ("from fe80::1ff:fe23:4567:890a now", "from <address> now"),
        ("to [2001:db8::1]:443", "to <address>"),
        ("job 6f1ed002-ab50-4c30-8a2b-1f0e5b6b2c3d lost", "job <id> lost"),
        ("commit deadbeef01 at 0x7fff12", "commit <id> at <id>"),
        ("2026-11-23 12:00:00,123 ERROR no", "ERROR no"),
        ("[23/Nov/2026:12:00:00 +0000] no", "no"),
        ("Nov  3 12:00:00 host no", "host no"),
        ("at 12:00:01.5 it broke", "at <time> it broke"),
        ("user anna.b+c@example.org unknown", "user <mail> unknown"),
        ("pod web-7f96b75876-2c6vt gone", "pod web-<id>-<id> gone"),
        ("ab:cd:ef:01:02:03 is up", "<address> is up"),
        ("::1 and 1::", "<address> and <address>"),
        ("a  b\tc", "a b c"),
        ("   ", "(empty)"),
        ("std::vector::at bad", "std::vector::at bad"),
    ],
)
def test_folding(message: str, folded: str) -> None:
    assert normalise(message) == folded


@given(st.text(max_size=400), st.integers(0, 10**12), st.integers(0, 10**12), st.uuids(), st.uuids())
def test_numbers_and_ids_never_make_a_difference(text: str, one: int, other: int, first: t.Any, second: t.Any) -> None:
    assert normalise(f"read {one} of {first}: no") == normalise(f"read {other} of {second}: no")
    assert len(normalise(text)) <= MAX_MESSAGE


@given(st.lists(st.text(st.sampled_from("ab 1{}é"), max_size=30)), st.lists(st.integers(1, 40), min_size=1))
def test_pieces_do_not_matter(texts: list[str], sizes: list[int]) -> None:
    data = "".join(f"2026-11-23T12:{index % 60:02d}:00Z error {text}\n" for index, text in enumerate(texts)).encode()

    def scan(pieces: t.Iterable[bytes], block: int) -> t.Any:
        old, log_lines.BLOCK = log_lines.BLOCK, block
        try:
            tally = Tally(1000)
            scanner = Scanner(Matcher(Rules()), tally, 0)
            for piece in pieces:
                scanner.feed(piece)
            scanner.close()
        finally:
            log_lines.BLOCK = old
        return tally.lines, tally.bytes, tally.matches, tally.spans, tally.ranked(1000), scanner.last, tally.oldest

    pieces, position = [], 0
    while position < len(data):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[position : position + size])
        position += size
    whole = scan([data], 10**6)
    assert scan(pieces, 1) == whole == scan(pieces, 50)
    assert whole[:3] == (len(texts), len(data), len(texts))


def scan(*pieces: bytes, keep: int = 10) -> tuple[Tally, Scanner]:
    tally = Tally(keep)
    scanner = Scanner(Matcher(Rules()), tally, 0)
    for piece in pieces:
        scanner.feed(piece)
    scanner.close()
    return tally, scanner


def test_endless_line_is_cut_and_the_next_one_is_seen() -> None:
    first = b"2026-11-23T12:00:00Z error " + b"x" * log_lines.BLOCK
    tally, scanner = scan(first, b"y" * log_lines.BLOCK, b"z" * 2 * log_lines.BLOCK + b"\n2026-11-23T12:01:00Z error b\n")
    assert (tally.lines, tally.matches, scanner.last) == (2, 2, "2026-11-23T12:01:00")
    assert len(scanner._rest) <= MAX_LINE
    assert tally.bytes == len(first) + 3 * log_lines.BLOCK + 30


def test_line_without_an_end_counts() -> None:
    tally, scanner = scan(b"2026-11-23T12:00:00Z error a")
    assert (tally.lines, tally.matches, scanner.last) == (1, 1, "2026-11-23T12:00:00")


def test_groups_keep_times_pods_level_and_the_newest_sample() -> None:
    tally = Tally(10)
    for minute, pod, number in ((3, 1, 30), (1, 0, 10), (2, 1, 20)):
        tally.add(Line(f"2026-11-23T12:0{minute}:00", "error", f"no {number}"), pod)
    ranked, other, others = tally.ranked(5)
    assert group_dicts(ranked, ["a", "b", "c"], 1) == [
        {
            "message": "no <n>",
            "level": "error",
            "count": 3,
            "first": "2026-11-23T12:01:00Z",
            "last": "2026-11-23T12:03:00Z",
            "pod_count": 2,
            "pods": ["a"],
            "sample": "no 30",
        }
    ]
    assert (other.count, others) == (0, 0)
    assert tally.busiest == ("2026-11-23T12:00", 3)


def test_secrets_do_not_get_into_the_result() -> None:
    tally = Tally(10)
    tally.add(Line("", "", "error: postgresql://app:hunter22@db/x refused, password=hunter22"), 0)
    assert "hunter22" not in json.dumps(group_dicts(tally.ranked(5)[0], ["a"], 1))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3)), max_size=300), st.integers(1, 8), st.integers(1, 8))
def test_groups_are_bounded_and_no_line_is_lost(lines: list[tuple[int, int]], keep: int, shown: int) -> None:
    tally = Tally(keep)
    for word, pod in lines:
        name = "".join(chr(ord("g") + int(digit)) for digit in str(word))  # letters, as numbers would be folded
        tally.add(Line("", "", f"error {name}"), pod)
        assert len(tally._groups) <= 2 * keep
    ranked, other, others = tally.ranked(shown)
    assert sum(group.count for _key, group in ranked) + other.count == len(lines) == tally.matches
    assert len(ranked) <= shown
    pods = other.pods
    for _key, group in ranked:
        pods |= group.pods
    assert pods == sum({1 << pod for _word, pod in lines})
    assert bool(other.count) == bool(others)
    assert tally.ranked(shown)[1].count == other.count  # asking changes nothing


def test_frequent_group_that_comes_late_is_still_seen() -> None:
    tally = Tally(5)
    for number in range(200):
        tally.add(Line("", "", f"error {'q' * (number + 1)}"), 0)
    for _unused in range(50):
        tally.add(Line("", "", "error late"), 0)
    assert tally.ranked(1)[0][0][0] == "error late"
    assert tally.folded > 0


def test_spans_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lines, "MAX_SPANS", 3)
    tally = Tally(5)
    for hour in range(10):
        tally.add(Line(f"2026-11-23T{hour:02d}:00:00", "", "error"), 0)
    assert len(tally.spans) == 3 and tally.matches == 10


@pytest.mark.parametrize("end", ["", "1" + "}" * 2600 + "}"])
def test_a_line_that_is_nested_too_deeply_is_text(end: str) -> None:
    """Python reads nothing that is nested deeper than about a thousand times (up to 3.12): no line may end the review."""
    nested = '{"a":' * 2600 + end
    line = Matcher(Rules()).judge(f'2026-11-23T12:00:00Z {{"level": "error", "message": {nested}'.encode())
    assert line is not None and (line.level == "error" or '"level": "error"' in line.message)


def test_no_rule_of_folding_takes_forever() -> None:
    began = time.monotonic()
    for text in ("a" * 2000, "1" * 2000, ":" * 2000, "1:" * 1000, "a@" * 1000, "<n>" * 600, "-" * 2000, "a." * 1000, "ab:" * 700):
        normalise(text)
    assert time.monotonic() - began < 5
