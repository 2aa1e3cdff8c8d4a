# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The exchange of directories, cut off at every rename."""

from __future__ import annotations

import contextlib
import os
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_layout import (
    Layout,
    Tablespace,
    nearest_existing,
    swap,
    swapped,
)
from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError, Refused

VERSION = "PG_15_202209061"


class Cut(Exception):
    """The process dies here."""


def make_layout(root: Path, old: bool, tablespaces: int = 2) -> Layout:
    places = tuple(Tablespace(16384 + number, str(root / f"space{number}"), VERSION) for number in range(tablespaces))
    layout = Layout(str(root / "data"), "0123456789abcdef", places)
    for place in layout.exchanges():
        Path(place.new).mkdir(parents=True)
        (Path(place.new) / "marker").write_text(f"new {place.live}")
        if old:
            Path(place.live).mkdir(parents=True)
            (Path(place.live) / "marker").write_text(f"old {place.live}")
    return layout


def content(path: str) -> str:
    return (Path(path) / "marker").read_text()


def cutting(after: int, *, before: bool) -> t.Callable[[str, str], None]:
    count = 0

    def rename(source: str, target: str) -> None:
        nonlocal count
        if before and count == after:
            raise Cut
        os.rename(source, target)
        count += 1
        if not before and count == after + 1:
            raise Cut

    return rename


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("step", range(6))
def test_every_cut_is_carried_on(tmp_path: Path, old: bool, before: bool, step: int) -> None:
    layout = make_layout(tmp_path, old)
    renames = 6 if old else 3
    if step >= renames:
        swap(layout, rename=cutting(step, before=before))  # all renames fit before the cut
    else:
        with pytest.raises(Cut):
            swap(layout, rename=cutting(step, before=before))
        # never a mixture that could be started: the new data directory is in place only when everything else is
        if os.path.isdir(layout.data_directory) and content(layout.data_directory).startswith("new"):
            assert all(content(place.live).startswith("new") for place in layout.exchanges())
        if any(os.path.isdir(place.live) and content(place.live).startswith("new") for place in layout.exchanges()[1:]):
            assert not (os.path.isdir(layout.data_directory) and content(layout.data_directory).startswith("old"))
        swap(layout)
    assert swapped(layout)
    for place in layout.exchanges():
        assert content(place.live) == f"new {place.live}"
        assert not os.path.lexists(place.new)
        assert os.path.isdir(place.kept) == old
        if old:
            assert content(place.kept) == f"old {place.live}"
    assert layout.kept_paths() == ([place.kept for place in layout.exchanges()] if old else [])


def test_again_does_nothing(tmp_path: Path) -> None:
    layout = make_layout(tmp_path, old=True)
    swap(layout)

    def never(source: str, target: str) -> None:
        raise AssertionError(f"{source} was renamed again")

    swap(layout, rename=never)


def test_a_directory_made_in_between_is_not_overwritten(tmp_path: Path) -> None:
    layout = make_layout(tmp_path, old=True)
    with pytest.raises(Cut):
        swap(layout, rename=cutting(0, before=False))
    Path(layout.data_directory).mkdir()
    (Path(layout.data_directory) / "marker").write_text("stranger")
    with pytest.raises(Refused) as refused:
        swap(layout)
    assert refused.value.state["reason"] == "swap_conflict"
    assert content(layout.data_directory) == "stranger"
    assert content(layout.kept) == f"old {layout.data_directory}"
    assert os.path.isdir(layout.new)


def test_an_empty_directory_made_in_between_is_no_obstacle(tmp_path: Path) -> None:
    layout = make_layout(tmp_path, old=True)
    with pytest.raises(Cut):
        swap(layout, rename=cutting(0, before=False))
    Path(layout.data_directory).mkdir()
    swap(layout)
    assert content(layout.data_directory).startswith("new")


def test_nothing_to_place_is_an_error(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "data"), "0123456789abcdef")
    with pytest.raises(OpsError, match="neither"):
        swap(layout)


def test_tablespaces_are_exchanged_below_their_location(tmp_path: Path) -> None:
    layout = make_layout(tmp_path, old=True, tablespaces=1)
    place = layout.exchanges()[1]
    location = tmp_path / "space0"
    other = location / "PG_16_202307071"
    other.mkdir()
    swap(layout)
    assert {path.name for path in location.iterdir()} == {VERSION, f"{VERSION}.before-{layout.digest}", other.name}
    assert place.live == str(location / VERSION)


@pytest.mark.parametrize("step", range(4))
def test_younger_tablespaces_are_kept_aside_before_the_new_directory_is_placed(tmp_path: Path, step: int) -> None:
    younger = tmp_path / "late" / VERSION
    younger.mkdir(parents=True)
    (younger / "marker").write_text("late")
    made = make_layout(tmp_path, old=True, tablespaces=0)
    layout = Layout(made.data_directory, made.digest, (), (str(younger),))
    with contextlib.suppress(Cut):
        swap(layout, rename=cutting(step, before=True))
    assert not (swapped(layout) and younger.exists())
    swap(layout)
    assert not younger.exists()
    assert content(f"{younger}.before-{layout.digest}") == "late"
    assert layout.kept_paths() == [layout.kept, f"{younger}.before-{layout.digest}"]
    younger.mkdir()
    swap(layout)  # replay made it
    assert younger.exists()


def test_a_younger_tablespace_that_is_there_again_is_a_conflict(tmp_path: Path) -> None:
    younger = tmp_path / "late" / VERSION
    made = make_layout(tmp_path, old=True, tablespaces=0)
    layout = Layout(made.data_directory, made.digest, (), (str(younger),))
    for path in (younger, Path(f"{younger}.before-{layout.digest}")):
        path.mkdir(parents=True)
    with pytest.raises(Refused) as refused:
        swap(layout)
    assert refused.value.state["reason"] == "swap_conflict"


def test_nearest_existing(tmp_path: Path) -> None:
    assert nearest_existing(str(tmp_path / "a" / "b")) == str(tmp_path)
    assert nearest_existing(str(tmp_path)) == str(tmp_path)
