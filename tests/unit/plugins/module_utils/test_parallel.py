# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls at the same time: an answer for each, in their order, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._parallel import Answer, Call, run_all

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
LONG = 3600.0


def values(answers: t.Sequence[Answer]) -> list[t.Any]:
    return [answer.problem or answer.value for answer in answers]


def constant(value: t.Any) -> t.Callable[[], t.Any]:
    return lambda: value


def fails() -> None:
    raise ValueError("broken probe")


@pytest.mark.parametrize("at_once", [1, 2, 50])
def test_answers_come_in_the_order_of_the_calls(at_once: int) -> None:
    calls = [Call(constant({"number": number}), LONG) for number in range(12)]
    assert values(run_all(calls, at_once)) == [{"number": number} for number in range(12)]


def test_nothing_to_call() -> None:
    assert run_all([], 4) == []


def test_a_broken_call_does_not_hide_the_others() -> None:
    calls = [
        Call(constant("before"), LONG),
        Call(fails, LONG),
        Call(lambda: os._exit(3), LONG),
        Call(lambda: os.kill(os.getpid(), signal.SIGKILL), LONG),
        Call(signal.pause, 0.5),
        Call(constant("after"), LONG),
    ]
    assert values(run_all(calls, 3)) == [
        "before",
        "ValueError: broken probe",
        "its process ended without an answer",
        "its process ended without an answer",
        "no answer within 0.5 s",
        "after",
    ]


def test_an_answer_larger_than_a_pipe_holds() -> None:
    assert values(run_all([Call(constant("x" * 5_000_000), LONG)] * 2, 2)) == ["x" * 5_000_000] * 2


def test_what_json_cannot_hold_becomes_text() -> None:
    assert values(run_all([Call(constant({"path": Path("/srv")}), LONG)], 1)) == [{"path": "/srv"}]


def test_they_run_at_the_same_time(tmp_path: Path) -> None:
    """Each waits for the file that the other makes."""

    def meet(mine: str, other: str) -> t.Callable[[], str]:
        def call() -> str:
            (tmp_path / mine).touch()
            while not (tmp_path / other).exists():
                time.sleep(0.01)
            return mine

        return call

    assert values(run_all([Call(meet("a", "b"), 30), Call(meet("b", "a"), 30)], 2)) == ["a", "b"]


def test_no_more_than_at_once(tmp_path: Path) -> None:
    def count() -> int:
        mark = tmp_path / str(os.getpid())
        mark.touch()
        seen = len(list(tmp_path.iterdir()))
        mark.unlink()
        return seen

    assert max(values(run_all([Call(count, LONG) for _number in range(20)], 2))) <= 2


def test_what_a_late_call_has_started_is_ended_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"

    def start() -> None:
        child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        note.write_text(str(child.pid))
        child.wait()

    [answer] = run_all([Call(start, 2)], 1)
    assert answer.problem == "no answer within 2 s"
    pid = int(note.read_text())
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            break  # dead; whoever adopted it has yet to notice
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{pid}").exists(), "the program lives on"
