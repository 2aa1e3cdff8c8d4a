# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of bloat, and growth from kept samples."""

from __future__ import annotations

import datetime
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import sizes
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.bloat import Bloat
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.sizes import BloatLimits, Sample
from hypothesis import given
from hypothesis import strategies as st

NOON = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.timezone.utc)
LIMITS = BloatLimits(0.3, 1000)


def item(size: int, expected: int | None, method: str = "btree") -> Bloat:
    return Bloat(
        1, "public", "idx", "index", "files", method, size, expected, "estimate" if expected is not None else "none", "why"
    )


def taken(hours: float, tables: dict[str, int], size: int = 1000, identity: str = "1/1") -> Sample:
    return Sample(identity, NOON + datetime.timedelta(hours=hours), size, tables)


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ([item(2000, 1000)], "warning"),
        ([item(2000, 1500)], "ok"),
        ([item(999, 0)], "ok"),
        ([item(2000, None)], "unknown"),
        ([item(2000, None, "gin")], "ok"),
        ([item(2000, None), item(2000, 1000)], "warning"),
        ([], "ok"),
    ],
)
def test_bloat_needs_both_limits(found: list[Bloat], status: str) -> None:
    check = sizes.bloat_check("indexes", found, LIMITS)
    assert check.status == status and bool(check.hint) == (status != "ok")


def test_growth_by_table() -> None:
    before = [taken(0, {"a": 100, "gone": 50}), taken(24, {"a": 150, "gone": 50})]
    found = sizes.growth(before, taken(48, {"a": 400, "b": 70}, 1100))
    assert found is not None and found["bytes"] == 100 and found["bytes_per_day"] == 100
    assert [(row["table"], row["bytes"], row["new"]) for row in found["tables"]] == [
        ("a", 250, False),
        ("b", 70, True),
        ("gone", -50, False),
    ]
    assert sizes.growth_check(found, 1100, 10.0).status == "warning"
    assert sizes.growth_check(found, 1100, 10.1).status == "ok"


def test_other_databases_and_young_samples_are_no_ground() -> None:
    assert sizes.growth([taken(0, {}, identity="1/2"), taken(5, {})], taken(3, {})) is None
    soon = sizes.growth([taken(0, {})], taken(0.5, {}, 2000))
    assert soon is not None and soon["bytes_per_day"] is None
    assert sizes.growth_check(soon, 2000, 1).status == "unknown" and sizes.growth_check(None, 1, 1).status == "unknown"


@given(
    samples=st.lists(st.builds(taken, st.floats(0, 1e4), st.dictionaries(st.text(), st.integers(0, 2**50)), st.integers(0, 2**50)))
)
def test_samples_survive_the_file(tmp_path_factory: pytest.TempPathFactory, samples: list[Sample]) -> None:
    path = str(tmp_path_factory.mktemp("kept") / "deep" / "sizes.json")
    assert sizes.read_samples(path) == []
    sizes.write_samples(path, samples)
    assert sizes.read_samples(path) == samples[-sizes.SAMPLES_KEPT :]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"samples": [1]}', '{"samples": [{"taken": "2026-11-23T12:00:00"}]}', "\x00"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(InvalidOption, match="sample_file"):
        sizes.read_samples(str(path))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidOption, match="sample_file"):
        sizes.write_samples(str(tmp_path / "file" / "below.json"), [])


def test_only_what_looks_bloated_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Bloat] = []

    def measure(connection: t.Any, found: Bloat, deadline: t.Any) -> Bloat:
        asked.append(found)
        return found

    monkeypatch.setattr(sizes, "_measure", measure)
    estimates = [item(2000, 1000), item(2000, 1900), item(10, 0), item(2000, None), item(2000, None, "gin")]
    sizes.measured(t.cast(t.Any, None), estimates, LIMITS, sizes.Deadline(10))
    assert asked == [estimates[0], estimates[3]]
    sizes.measured(t.cast(t.Any, None), estimates, LIMITS, sizes.Deadline(0))
    assert len(asked) == 2, "not when the time is over"
