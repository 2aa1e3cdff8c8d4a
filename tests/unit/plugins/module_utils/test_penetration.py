# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a penetration test: what people wrote is never touched, and what is overdue is told."""

from __future__ import annotations

import datetime
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._exposure import record
from ansible_collections.fileforge.ops.plugins.module_utils._exposure.record import Item, RecordDamaged, extended, parsed
from hypothesis import given
from hypothesis import strategies as st

TODAY = datetime.date(2026, 11, 24)
ITEMS = (
    Item("object-access", "Read files of others", "Security", 30, ("api",)),
    Item("uploads", "Upload: 'what' is #not allowed", "Platform", 14),
)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=40).filter(str.strip)


def made(text: str = "", items: t.Sequence[Item] = ITEMS) -> str:
    return extended(text, items, "Penetration test 2026-Q4", TODAY, "record.yml")


def test_a_new_record_has_every_item() -> None:
    text = made()
    assert text.startswith("# Penetration test 2026-Q4\n")
    first, second = parsed(text, "record.yml")
    assert first["scope"] == ["api"] and record._due(first["due"]) == datetime.date(2026, 12, 24)
    assert (second["task"], second["status"], second["evidence"]) == ("Upload: 'what' is #not allowed", "open", [])
    assert made(text) == text, "the second time nothing changes"


def test_what_people_wrote_stays_as_it_is() -> None:
    written = made(items=ITEMS[:1]).replace("status: open", "status: done  # at last") + "\n# a remark\n- id: own\n  task: ours"
    text = made(written)
    assert text.startswith(written) and [entry["id"] for entry in parsed(text, "")] == ["object-access", "own", "uploads"]
    assert "# at last" in text and made(text) == text


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5), st.integers(0, 5))
def test_any_text_comes_back_and_any_record_can_be_extended(words: list[tuple[str, str]], before: int) -> None:
    items = [Item(f"item-{number}", task, owner, number) for number, (task, owner) in enumerate(words)]
    text = made(made("", items[:before]), items)
    found = parsed(text, "")
    assert [(entry["task"], entry["owner"]) for entry in found] == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- id: [", "line 1 is not YAML"),
        ("a: b\n", "not a list"),
        ("- x\n", "not a list"),
        ("- id: a\n- id: a\n", "a twice"),
        ("  - id: a\n", "nothing can be added"),
        ("[{id: a}]\n", "nothing can be added"),
        ("- id: a\n  notes: |\n    x\n...\n", "nothing can be added"),
    ],
)
def test_a_file_that_cannot_be_extended_is_named_and_left(text: str, words: str) -> None:
    with pytest.raises(RecordDamaged, match=words) as refused:
        made(text)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({}, "ok", "open, Security until 2026-12-24"),
        ({"due": "2026-11-23"}, "critical", "1 days overdue"),
        ({"due": "2026-11-24", "status": "in progress"}, "ok", "in progress"),
        ({"due": datetime.datetime(2026, 11, 1, 2, 3)}, "critical", "23 days overdue"),
        ({"due": "soon"}, "warning", "no due date"),
        ({"due": "2026-02-30"}, "warning", "no due date"),
        ({"owner": ""}, "warning", "no owner"),
        ({"status": "done"}, "warning", "nothing shows it"),
        ({"status": "done", "evidence": ["report.pdf"], "due": "2020-01-01"}, "ok", "1 of evidence"),
        ({"status": "accepted", "evidence": "a ticket"}, "ok", "1 of evidence"),
        ({"status": "Done"}, "unknown", "none of open"),
    ],
)
def test_entries_are_judged(changes: dict[str, t.Any], status: str, words: str) -> None:
    [check] = record.judge([{**ITEMS[0].as_entry(TODAY), **changes}], TODAY)
    assert (check.status, check.subject, check.id) == (status, "object-access", "penetration.item")
    assert words in check.summary and bool(check.hint) == (status != "ok")


def test_quarters() -> None:
    assert [record.quarter_of(datetime.date(2026, month, 1)) for month in (1, 3, 4, 9, 12)] == [
        "2026-Q1",
        "2026-Q1",
        "2026-Q2",
        "2026-Q3",
        "2026-Q4",
    ]


@pytest.mark.parametrize("changes", [{"id": "A b"}, {"id": "../x"}, {"task": " "}, {"owner": ""}, {"due_days": -1}])
def test_bad_items_are_named(changes: dict[str, t.Any]) -> None:
    with pytest.raises(InvalidOption, match="checklist"):
        Item(**{"id": "a", "task": "t", "owner": "o", "due_days": 1, **changes})
    with pytest.raises(InvalidOption, match="same id"):
        made("", [ITEMS[0], ITEMS[0]])
