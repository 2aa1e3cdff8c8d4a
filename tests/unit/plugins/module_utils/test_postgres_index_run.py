# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of parallel work, expected durations, progress, and room on the disk."""

from __future__ import annotations

import dataclasses
import threading
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import Refused
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import index_space
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.bloat import Bloat
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_inventory import Index
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_plan import Choice, Task
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_queue import Queue, Speed, fraction
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_rebuild import Outcome, Window
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_run import unshrunk
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_space import Space, fit, needed_for
from hypothesis import given
from hypothesis import strategies as st


def task(name: str = "i", table: int = 1, **changes: t.Any) -> Task:
    return Task(**{"kind": "rebuild", "schema": "s", "name": name, "table": "t", "table_oid": table, "reason": "bloat", **changes})


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=12), st.integers(1, 4))
def test_a_table_has_one_build_and_some_builds_are_alone(rows: list[tuple[int, bool]], jobs: int) -> None:
    queue = Queue([task(str(number), table, alone=alone) for number, (table, alone) in enumerate(rows)])
    running: list[Task] = []
    seen: list[Task] = []
    while True:
        while len(running) < jobs and queue._waiting and any(queue._may_begin(each) for each in queue._waiting):
            given_task = queue.next()
            assert given_task is not None
            running.append(given_task)
            seen.append(given_task)
            assert len({each.table_oid for each in running}) == len(running)
            assert len(running) == 1 or not any(each.alone for each in running)
        if not running:
            break
        queue.done(running.pop(0))
    assert sorted(each.name for each in seen) == sorted(str(number) for number in range(len(rows)))
    assert queue.next() is None


def test_a_waiting_worker_is_released_when_the_rest_is_taken_away() -> None:
    queue = Queue([task("a"), task("b")])
    assert queue.next() is not None
    found: list[t.Any] = []
    waiting = threading.Thread(target=lambda: found.append(queue.next()))
    waiting.start()
    assert [each.name for each in queue.drain()] == ["b"]
    waiting.join(10)
    assert found == [None]


def test_much_smaller_builds_teach_nothing() -> None:
    speed = Speed()
    assert speed.expected(10**9) == 0
    speed.learn(1000, 0.5)
    assert speed.expected(10**9) == 0
    speed.learn(10**8, 10)
    assert speed.expected(10**9) == pytest.approx(100)
    assert speed.expected(2000) == pytest.approx(2000 / 10**7)


def row(phase: str, **counts: int) -> dict[str, t.Any]:
    return {"phase": phase, "blocks_done": 0, "blocks_total": 0, "tuples_done": 0, "tuples_total": 0, **counts}


def test_progress_only_grows() -> None:
    order = [
        row("initializing"),
        row("waiting for writers before build"),
        row("building index: scanning table", blocks_done=1, blocks_total=10),
        row("building index: scanning table", blocks_done=10, blocks_total=10),
        row("building index: sorting live tuples"),
        row("building index: loading tuples in tree", tuples_done=1, tuples_total=2),
        row("waiting for writers before validation"),
        row("index validation: scanning index", blocks_done=1, blocks_total=2),
        row("index validation: sorting tuples"),
        row("index validation: scanning table", blocks_done=9, blocks_total=9),
        row("waiting for old snapshots"),
        row("waiting for readers before marking dead"),
    ]
    found = [fraction(each) for each in order]
    assert found == sorted(found) and found[0] == 0 and found[-1] < 1


@given(st.lists(st.integers(1, 10**12), min_size=1), st.integers(1, 8))
def test_room_for_the_largest(sizes: list[int], jobs: int) -> None:
    needed = needed_for(sizes, jobs)
    assert 2 * max(sizes) <= needed <= (jobs + 1) * max(sizes)
    assert needed_for(sizes, 1) == 2 * max(sizes)


def choice(*sizes: int, **changes: t.Any) -> Choice:
    return Choice([task(str(size), bytes=size, tablespace=7, **changes) for size in sizes])


def test_what_does_not_fit_is_left() -> None:
    found = choice(10, 100, 50)
    (space,) = fit(found, {7: Space("fast", "/fast", 120)}, jobs=1, required=False)
    assert [each.bytes for each in found.tasks] == [10, 50]
    assert [(each.name, each.reason) for each in found.left] == [("100", "disk_space")]
    assert (space.needed, space.free) == (100, 120)


def test_what_was_asked_for_by_name_and_does_not_fit_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        fit(choice(100, reason="force"), {7: Space("fast", "/fast", 199)}, jobs=1, required=False)
    assert caught.value.state["reason"] == "disk_space"


def test_unknown_space_is_said_or_refused() -> None:
    unknown = {7: Space("fast", "/fast", None, "far away")}
    found = choice(100)
    (space,) = fit(found, unknown, jobs=1, required=False)
    assert space.free is None and found.tasks and "far away" in found.notes[0]
    with pytest.raises(Refused) as caught:
        fit(choice(100), unknown, jobs=1, required=True)
    assert caught.value.state["reason"] == "space_unknown"


class Connection:
    """A connection that says where it goes."""

    def __init__(self, host: str) -> None:
        self.info = self
        self.host = host


@pytest.mark.parametrize(
    ("host", "location", "known"),
    [("/run", "/", True), ("db.example", "/", False), ("/run", None, False), ("/run", "/no/such/place", False)],
)
def test_only_a_local_disk_is_looked_at(monkeypatch: pytest.MonkeyPatch, host: str, location: str | None, known: bool) -> None:
    monkeypatch.setattr(index_space, "one", lambda *arguments: {"name": "pg_default", "location": location})
    space = index_space.look(t.cast(t.Any, Connection(host)), 1663)
    assert (space.free is not None, bool(space.problem)) == (known, not known)


def test_building_ends_before_the_window() -> None:
    window = Window(100, 5)
    assert window.work is not None and window.end is not None
    assert 85 < window.work.left <= 90 < window.end.left <= 100
    assert Window(None, 5).end is None


@pytest.mark.parametrize(("after", "wrong"), [(100, False), (500, False), (700, True), (1000, True)])
def test_an_estimate_that_was_wrong_is_noticed(after: int, wrong: bool) -> None:
    there = Index(1, "s", "i", 1, "t", bytes=1000)
    estimated = Bloat(1, "s", "i", "index", "t", "btree", 1000, 100, "estimate")
    outcome = Outcome(task(index=there, bloat=estimated), "done", bytes_after=after)
    assert bool(unshrunk([outcome])) == wrong
    measured = dataclasses.replace(estimated, source="exact")
    assert not unshrunk([Outcome(task(index=there, bloat=measured), "done", bytes_after=after)])
