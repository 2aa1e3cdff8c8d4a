# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Watching a recovery, and judging where it ended."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup import restore_recover
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_recover import (
    Ending,
    Limits,
    Moment,
    Replay,
    Watch,
    check_ending,
    logged_commit,
    read_ending,
)
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, OpsError, WaitTimeout
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import PidFile, RecoveryState, Server, ServerOptions
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress

SIZE = 16 << 20
SEGMENTS = [f"0000000100000000{number:08X}" for number in (2, 3, 4)]
PID = PidFile(7, "/d", 5432, "/s", "", "ready")


def replay(target: str | None = "2026-11-23T14:05:00+00:00", end: str | None = None) -> Replay:
    return Replay(1, target, SEGMENTS, 1000, SIZE, end)


def moment(segment: str | None = None, *, sql: RecoveryState | None = None, waits: bool = True, **more: t.Any) -> Moment:
    return Moment(**{"found": PID, "waits": waits, "state": "in archive recovery", "sql": sql, "segment": segment, **more})


DONE = moment(waits=False, sql=RecoveryState(False, "0/4000100", "2026-11-23T14:04:00.000000+00:00"))


def test_promoted() -> None:
    assert DONE.promoted
    assert not moment().promoted
    assert not moment(waits=False, sql=RecoveryState(True, None, None)).promoted
    assert moment(waits=False, state="in production").promoted  # the server does not let us in
    assert not moment(waits=False, state="in production", found=None).promoted


class Script(Watch):
    """Sees what it is told."""

    def __init__(self, moments: list[Moment], limits: Limits, path: Path, log: str = "") -> None:
        (path / "log").write_text(log)
        self.progress = Progress()
        self.seen: list[tuple[int, str]] = []
        super().__init__(
            Server(str(path), "/bin", ServerOptions(), str(path / "log")), replay(), limits, self.progress, log_begin=0
        )
        self._moments = iter(moments)
        self._latest = moments[0]

    def look(self) -> Moment:
        self._latest = next(self._moments, self._latest)
        return self._latest

    def note(self, moment: Moment) -> None:
        super().note(moment)
        snapshot = self.progress.snapshot()
        self.seen.append((snapshot["done"], snapshot["detail"]))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore_recover, "INTERVAL", 0.001)


def test_progress_counts_segments_and_shows_time(tmp_path: Path) -> None:
    replaying = RecoveryState(True, "0/4000000", "2026-11-23T14:03:00.000000+00:00")
    watch = Script([moment(), moment(SEGMENTS[1]), moment(sql=replaying), DONE], Limits(5, 5, 5), tmp_path)
    watch.run()
    assert watch.seen == [
        (0, ""),
        (1, ""),
        (2, "recovered to 2026-11-23T14:03:00Z"),
        (3, "recovered to 2026-11-23T14:04:00Z"),
    ]
    assert watch.last_commit == "2026-11-23T14:04:00.000000+00:00"


def test_a_server_that_ends_is_an_error_at_once(tmp_path: Path) -> None:
    watch = Script(
        [moment(), moment(found=None)], Limits(60, 60, 60), tmp_path, "x FATAL:  requested timeline 3 is not a child of this\n"
    )
    with pytest.raises(OpsError, match="requested timeline 3"):
        watch.run()


def test_a_server_may_take_its_time_to_appear(tmp_path: Path) -> None:
    assert Script([moment(found=None)] * 5 + [DONE], Limits(60, 60, 60), tmp_path).run() is DONE


def test_a_server_that_never_appears(tmp_path: Path) -> None:
    with pytest.raises(OpsError, match="FATAL"):
        Script([moment(found=None)], Limits(60, 60, 0), tmp_path).run()


def test_a_stall_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(WaitTimeout, match=rf"has not advanced.*{SEGMENTS[1]}") as stalled:
        Script([moment(SEGMENTS[1])], Limits(60, 0.05, 60), tmp_path).run()
    assert stalled.value.state["segment"] == SEGMENTS[1]
    assert "run this again" in stalled.value.hint


def test_a_pause_is_explained(tmp_path: Path) -> None:
    log = "WARNING: hot standby is not possible because of insufficient parameter settings\n"
    with pytest.raises(WaitTimeout, match="a setting is lower"):
        Script([moment()], Limits(60, 0.05, 60), tmp_path, log).run()


def test_the_time_is_over(tmp_path: Path) -> None:
    steps = [moment(sql=RecoveryState(True, f"0/{number:07X}", None)) for number in range(0x2000000, 0x2001000)]
    with pytest.raises(WaitTimeout, match="not there after"):
        Script(steps, Limits(0.1, 60, 60), tmp_path).run()


def history(path: Path, name: str, text: str) -> None:
    (path / "pg_wal").mkdir(exist_ok=True)
    (path / "pg_wal" / name).write_text(text)


def test_the_ending_is_in_the_newest_history(tmp_path: Path) -> None:
    history(tmp_path, "00000002.history", "1\t0/3000000\told\n")
    with pytest.raises(IntegrityError, match="newer than 2"):
        read_ending(str(tmp_path), Replay(2, None, SEGMENTS, 0, SIZE), None)
    history(tmp_path, "00000003.history", "1\t0/3000000\told\n2\t0/4000100\tbefore 2026\n")
    assert read_ending(str(tmp_path), Replay(2, None, SEGMENTS, 0, SIZE), "x") == Ending(3, "0/4000100", "x")
    with pytest.raises(IntegrityError, match="left timeline 2, not 1"):
        read_ending(str(tmp_path), replay(), None)


@pytest.mark.parametrize(
    ("target", "planned", "end", "good"),
    [
        ("t", None, "0/4000100", True),
        ("t", None, "0/5000000", True),  # the record after the target begins the next page
        ("t", None, "0/3FFFFF0", True),  # the record after the target begins in the segment before
        ("t", None, "0/2FFFFF0", False),
        ("t", None, "0/5000008", False),
        (None, "0/4000100", "0/4000100", True),
        (None, "0/4000100", "0/5000000", True),
        (None, "0/4000100", "0/9000000", True),  # a server that was stopped for the restore archived more
        (None, "0/4000100", "0/40000F8", False),
        (None, "0/3FFFF00", "0/3FFFF00", True),  # the last segment only holds a part of a record
        (None, "0/4000100", "0/3000000", False),
    ],
)
def test_where_recovery_may_end(target: str | None, planned: str | None, end: str, good: bool) -> None:
    plan, ending = replay(target, planned), Ending(2, end, None)
    if good:
        check_ending(ending, plan)
        return
    with pytest.raises(IntegrityError, match="recovery ended at"):
        check_ending(ending, plan)


def test_the_last_commit_in_the_log() -> None:
    line = "2026-11-23 14:05:01.1 UTC [9] LOG:  last completed transaction was at log time 2026-11-23 14:04:59.123456"
    assert logged_commit(f"{line}+00\n") == "2026-11-23T14:04:59.123456+00"
    assert logged_commit(f"{line} UTC\n") == "2026-11-23T14:04:59.123456+00:00"
    assert logged_commit(f"{line} CET\n") is None
    assert logged_commit("") is None
