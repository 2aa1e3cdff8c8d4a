# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which progress lines are shown and when, and what is asked of the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress, ended_line
from ansible_collections.fileforge.ops.plugins.plugin_utils._progress_action import Job, Lines, parse_poll, printable
from hypothesis import given
from hypothesis import strategies as st

MIB = 1024 * 1024


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def state(phase: str, done: int, *, ended: t.Sequence[dict[str, t.Any]] = (), running: bool = True) -> dict[str, t.Any]:
    return {
        "phase": phase,
        "done": done * MIB,
        "total": 100 * MIB,
        "unit": "B",
        "rate": 10.0 * MIB,
        "eta": 8.0,
        "elapsed": 1.0,
        "detail": "",
        "running": running,
        "ended": list(ended),
    }


def timing(phase: str) -> dict[str, t.Any]:
    return {"phase": phase, "seconds": 14.0, "done": 100 * MIB, "unit": "B"}


def test_a_line_looks_as_promised() -> None:
    assert Lines(1.0, Clock()).of(state("fetch", 43)) == ["fetch 43% 43.0/100.0 MiB 10.0 MiB/s eta 8s"]
    assert ended_line(timing("fetch")) == "fetch done: 100.0 MiB in 14s (7.1 MiB/s)"


def test_within_a_phase_only_each_interval_and_only_when_something_moved() -> None:
    clock = Clock()
    lines = Lines(10.0, clock)
    assert len(lines.of(state("fetch", 1))) == 1
    clock.now += 9
    assert lines.of(state("fetch", 2)) == []
    clock.now += 1
    assert len(lines.of(state("fetch", 3))) == 1
    clock.now += 30
    assert lines.of(state("fetch", 3)) == []
    clock.now += 31
    assert len(lines.of(state("fetch", 3))) == 1, "a sign of life"


def test_a_new_phase_and_the_end_of_the_old_are_shown_at_once() -> None:
    lines = Lines(10.0, Clock())
    lines.of(state("fetch", 1))
    shown = lines.of(state("replay", 0, ended=[timing("fetch")]))
    assert [line.split()[:2] for line in shown] == [["fetch", "done:"], ["replay", "0%"]]
    assert lines.of(state("replay", 0, ended=[timing("fetch")])) == []


def test_a_phase_of_the_same_name_is_a_new_one() -> None:
    lines = Lines(10.0, Clock())
    lines.of(state("fetch", 1))
    assert len(lines.of(state("fetch", 0, ended=[timing("fetch")]))) == 2


def test_ends_that_no_poll_saw_come_from_the_result() -> None:
    lines = Lines(10.0, Clock())
    lines.of(state("fetch", 100, ended=[timing("fetch")], running=False))
    assert [line.split()[0] for line in lines.rest([timing("fetch"), timing("replay"), timing("promote")])] == ["replay", "promote"]
    assert lines.rest(None) == []


@given(st.dictionaries(st.text(max_size=8), st.recursive(st.none() | st.integers() | st.text(), st.lists), max_size=4))
def test_a_malformed_state_shows_nothing_and_breaks_nothing(broken: dict[str, t.Any]) -> None:
    Lines(1.0, Clock()).of({"running": True, "phase": "x", **broken})


@given(st.text())
def test_lines_are_printable_and_bearable(text: str) -> None:
    shown = printable(text)
    assert len(shown) <= 200
    assert not shown or shown.isprintable()


def test_what_progress_writes_is_what_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    progress = Progress(str(path), clock=Clock())
    lines = Lines(1.0, Clock())
    with progress.phase("fetch", 10, unit="files"):
        assert lines.of(json.loads(path.read_text())) == ["fetch 0% 0/10 files"]
        progress.advance(10)
    assert lines.of(json.loads(path.read_text())) == ["fetch done: 10 files in 0.0s"]
    assert not list(tmp_path.glob("*.partial"))


def shell(command: str) -> str:
    return subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def job(tmp_path: Path) -> Job:
    directory = tmp_path / "a 'quoted' place"
    directory.mkdir()
    return Job("j123456789.42", str(directory / "j123456789.42"), str(directory / "fileforge-x.json"))


def test_a_poll_reads_both_files(job: Job) -> None:
    assert parse_poll(shell(job.poll_command())) == parse_poll("")
    Path(job.status_file).write_text(json.dumps({"started": True, "finished": False, "ansible_job_id": job.id}))
    Path(job.progress_file).write_text('{"phase": "fetch"}')
    seen = parse_poll(shell(job.poll_command()))
    assert seen.running
    assert seen.progress == {"phase": "fetch"}
    Path(job.status_file).write_text('{"changed": true, "msg": "\\"started\\": true"}')
    assert not parse_poll(shell(job.poll_command())).running


def test_only_the_wrapper_itself_is_found_alive(job: Job) -> None:
    assert shell(job.alive_command() + " || true").strip() == "0"
    process = subprocess.Popen(["/bin/sh", "-c", "read x # j123456789"], stdin=subprocess.PIPE)
    try:
        assert shell(job.alive_command()).strip() == "1"
    finally:
        process.communicate(b"\n")


def test_cleaning_up_removes_its_own_files_and_old_ones_only(job: Job) -> None:
    directory = Path(job.directory)
    for name in ("j123456789.42", "fileforge-x.json", "fileforge-old.json", "fileforge-new.json", "j987.1"):
        (directory / name).write_text("")
    long_ago = os.stat(directory).st_mtime - 9 * 86400
    for name in ("fileforge-old.json", "j987.1"):
        os.utime(directory / name, (long_ago, long_ago))
    shell(job.cleanup_command())
    assert sorted(path.name for path in directory.iterdir()) == ["fileforge-new.json", "j987.1"]


def test_a_narrow_terminal_does_not_hide_the_wrapper() -> None:
    """``ps`` abridges its lines to COLUMNS, and the job's number stands far to the right."""
    job = Job("j987654321012.77", "/none/status", "/none/progress")
    padding = "x" * 300
    with subprocess.Popen([sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", padding, job.id],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as wrapper:  # fmt: skip
        wrapper.stdout.readline()
        counted = subprocess.run(["/bin/sh", "-c", job.alive_command()], env={**os.environ, "COLUMNS": "80"}, capture_output=True,
                                 text=True, check=False)  # fmt: skip
        assert counted.stdout.strip() == "1"
    counted = subprocess.run(["/bin/sh", "-c", job.alive_command()], capture_output=True, text=True, check=False)
    assert counted.stdout.strip() == "0"
