# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restarts within a window, from samples and from what statuses tell."""

from __future__ import annotations

import datetime
import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._kube import restarts
from ansible_collections.fileforge.ops.plugins.module_utils._kube.client import Object
from ansible_collections.fileforge.ops.plugins.module_utils._kube.restarts import SAMPLES, Samples, counters, moment, restarts_of
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime.datetime(2026, 11, 23, 12, 0, tzinfo=datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
START = NOW - DAY
IN, BEFORE = "2026-11-23T11:00:00Z", "2026-11-20T00:00:00Z"


def pod(count: int, ended: str | None = None, created: str = BEFORE) -> Object:
    last = {"terminated": {"finishedAt": ended, "reason": "Error", "exitCode": 3}} if ended else {}
    entry = {"name": "app", "restartCount": count, "state": {"running": {}}, "lastState": last}
    return {"metadata": {"name": "web", "uid": "u", "creationTimestamp": created}, "status": {"containerStatuses": [entry]}}


def samples(**counts: int) -> Samples:
    """``h30=2``: the counter 30 hours ago."""
    taken = [(NOW - datetime.timedelta(hours=int(name[1:])), {"u/app": count}) for name, count in counts.items()]
    return Samples(sorted(taken))


@pytest.mark.parametrize(
    ("one", "known", "delta", "exact", "method"),
    [
        (pod(0), samples(), 0, True, "no_restart"),
        (pod(4, IN, created=IN), samples(), 4, True, "pod_age"),
        (pod(4, IN), samples(), 1, False, "last_state"),
        (pod(4, BEFORE), samples(), 0, True, "last_state"),
        (pod(4), samples(), 1, False, "last_state"),
        (pod(9, IN), samples(h48=1, h30=2, h10=8), 7, True, "sample"),
        (pod(9, IN), samples(h24=3), 6, True, "sample"),
        (pod(2, BEFORE), samples(h30=2), 0, True, "sample"),
        (pod(9, IN), samples(h10=6, h5=8), 3, False, "sample"),
        (pod(9, IN), samples(h10=9), 1, False, "sample"),
        (pod(9, BEFORE), samples(h10=9), 0, True, "sample"),
        (pod(2, IN), samples(h30=5), 1, False, "last_state"),  # a counter that went back is not this one's
    ],
)
def test_restarts_in_the_window(one: Object, known: Samples, delta: int, exact: bool, method: str) -> None:
    found = restarts_of(one, one["status"]["containerStatuses"][0], known, START)
    assert (found.delta, found.exact, found.method) == (delta, exact, method)
    assert found.total == one["status"]["containerStatuses"][0]["restartCount"]


def test_last_end_is_told() -> None:
    one = pod(1, IN)
    found = restarts_of(one, one["status"]["containerStatuses"][0], Samples(), START).as_dict()
    assert (found["reason"], found["exit_code"], found["ended"], found["pod"]) == ("Error", 3, IN, "web")


def test_samples_go_round_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "samples.json")
    assert Samples.load(path) == Samples() and Samples.load(None) == Samples()
    Samples().keep(path, counters([pod(3)]), START - datetime.timedelta(hours=1), DAY)
    known = Samples.load(path)
    assert known.baseline("u/app", START) == (3, True)
    known.keep(path, {"u/app": 5}, NOW, DAY)
    assert [counts for _at, counts in Samples.load(path).taken] == [{"u/app": 3}, {"u/app": 5}]
    assert Path(path).stat().st_mode & 0o777 == 0o600


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=150))
def test_samples_stay_few_and_one_older_than_the_window_is_kept(gaps: list[int]) -> None:
    written: list[t.Any] = []
    at = NOW
    taken: list[datetime.datetime] = []
    known = Samples()
    for index, minutes in enumerate(gaps):
        at += datetime.timedelta(minutes=minutes)
        taken.append(at)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(restarts, "write_whole", lambda path, content, mode: written.append(json.loads(content)["samples"]))
            known.keep("x", {"u/app": index}, at, DAY)
        known = Samples([(t.cast(datetime.datetime, moment(entry["at"])), entry["restarts"]) for entry in written[-1]])
        assert len(known.taken) <= SAMPLES + 3
        assert known.taken[-1] == (at, {"u/app": index})
        assert (known.taken[0][0] <= at - DAY) == (taken[0] <= at - DAY)


@pytest.mark.parametrize("content", ["", "[]", '{"samples": [{"at": "x", "restarts": {}}]}', '{"samples": 3}', '{"samples": [[]]}'])
def test_broken_file_is_no_samples_and_says_so(tmp_path: Path, content: str) -> None:
    path = tmp_path / "samples.json"
    path.write_text(content)
    known = Samples.load(str(path))
    assert known.taken == [] and str(path) in known.problem


def test_file_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    known = Samples()
    known.keep(str(tmp_path / "absent" / "samples.json"), {}, NOW, DAY)
    assert "cannot be written" in known.problem
