# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore from the exchange of directories on: recovery that fails or ends at the wrong place, and how it is given up."""

from __future__ import annotations

import os
import types
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup import restore
from ansible_collections.fileforge.ops.plugins.module_utils._backup import restore_state as state
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore import Restore
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_layout import Layout
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_plan import RestoreOptions
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_recover import Replay
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, OpsError, Refused, WaitTimeout
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import S3Options
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import PidFile, Server
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress

SIZE = 16 << 20
REPLAY = Replay(1, None, [f"0000000100000000{number:08X}" for number in (2, 3, 4)], 1000, SIZE, "0/4000100")


class Anew(Exception):
    """The engine looks into the bucket for a new plan."""


class World:
    """One data directory that is being recovered, and its server."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = path / "data"
        (self.directory / "pg_wal").mkdir(parents=True)
        self.layout = Layout(str(self.directory), self.plan().digest)
        Path(self.layout.private).mkdir()
        self.running = False
        self.ending = "0/4000100"
        self.error: OpsError | None = None
        monkeypatch.setattr(restore, "find_binaries", lambda *_unused: "/bin")
        monkeypatch.setattr(restore.preflight, "check_host", lambda _options: (0, 0))
        monkeypatch.setattr(restore.Catalog, "load", self.look_anew)
        monkeypatch.setattr(Restore, "_store", lambda _engine: None)
        monkeypatch.setattr(Restore, "_recover", lambda _engine, _server, _work: self.recover())
        monkeypatch.setattr(Server, "running", lambda _server: PidFile(7, "", 1, "", "", "ready") if self.running else None)
        monkeypatch.setattr(Server, "stop", lambda _server, timeout: self.stop())
        attempt = state.Attempt(
            request=self.options().request().as_dict(),
            plan=self.plan().as_dict(),
            phase=state.RECOVERING,
            backup="b",
            facts={"backup": {}, "major": 15, "system_identifier": "7", "inode": os.stat(self.directory).st_ino},
            recovery=REPLAY.as_dict(),
            begun="2026-11-23T15:00:00+00:00",
        )
        state.save_attempt(str(self.directory), attempt)

    def plan(self) -> Plan:
        return Plan("restore")

    def options(self, **more: t.Any) -> RestoreOptions:
        return RestoreOptions(S3Options("bucket"), str(self.directory), **{"target_time": "latest", **more})

    def recover(self) -> str | None:
        if self.error is not None:
            raise self.error
        self.running = True
        (self.directory / "pg_wal" / "00000002.history").write_text(f"1\t{self.ending}\tno recovery target specified\n")
        return None

    def stop(self) -> None:
        self.running = False

    def look_anew(self, *_unused: t.Any) -> t.NoReturn:
        raise Anew

    def run(self, **more: t.Any) -> restore.Outcome:
        return Restore(self.options(**more), Progress()).run()

    def attempt(self) -> state.Attempt:
        found = state.load_attempt(str(self.directory))
        assert found is not None
        return found


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_a_right_ending_is_left_running(world: World) -> None:
    assert world.run().recovery["end_lsn"] == "0/4000100"
    assert world.running
    assert state.load_attempt(str(world.directory)) is None


def test_a_wrong_ending_is_stopped_and_not_carried_on(world: World) -> None:
    world.ending = "0/2000100"
    with pytest.raises(IntegrityError, match=r"recovery ended at 0/2000100.*the server was stopped") as ended:
        world.run()
    assert "force" in ended.value.hint
    assert not world.running
    assert not os.path.exists(world.layout.private)  # the credentials of the WAL program
    for call in (world.run, Restore(world.options(), Progress()).check):
        with pytest.raises(Refused, match="recovery ended at 0/2000100") as refused:
            call()
        assert refused.value.state["reason"] == "spoiled"
    for change in ({"force": True}, {"target_time": "2026-11-23T14:05:00Z"}, {"backup": "other"}):
        with pytest.raises(Anew):
            world.run(**change)
    assert world.attempt().phase == state.SPOILED  # until the new plan is carried out


def test_a_server_that_cannot_be_stopped_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_server: Server, timeout: float) -> t.NoReturn:
        raise Refused("server_running", f"it runs on after {timeout} s")

    monkeypatch.setattr(Server, "stop", refuse)
    world.ending = "0/2000100"
    with pytest.raises(IntegrityError, match="could not be stopped, stop it at once: it runs on"):
        world.run()
    assert world.attempt().phase == state.SPOILED


def test_a_failed_recovery_is_carried_on_or_given_up(world: World) -> None:
    world.error = OpsError("the server ended during recovery")
    with pytest.raises(OpsError, match="ended during recovery"):
        world.run(force=True)
    assert (world.attempt().phase, world.attempt().failed) == (state.RECOVERING, "the server ended during recovery")
    with pytest.raises(Anew):
        world.run(force=True)
    world.error = None
    assert world.run().changed


def test_a_recovery_that_takes_long_is_watched_again(world: World) -> None:
    world.error = WaitTimeout("not there after 4 h")
    with pytest.raises(WaitTimeout):
        world.run(force=True)
    world.error = None
    assert world.run(force=True).changed


def test_what_is_planned_anew_is_fetched_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a given up attempt had reached; its times are not this one's."""
    attempt = world.attempt()
    attempt.timings = [{"phase": "replay"}]
    layout = Layout(str(world.directory), "f" * 16)
    Path(layout.new).mkdir()
    chosen = types.SimpleNamespace(index=None)
    work = restore.Work(Plan("another"), layout, REPLAY, {"name": "b"}, {"major": 15}, t.cast(t.Any, chosen), attempt)
    phases = []
    monkeypatch.setattr(Restore, "_look", lambda engine, _store: setattr(engine, "_seen", engine._situation()) or work)
    monkeypatch.setattr(Restore, "_fetch_plain", lambda *_unused: phases.append(world.attempt()))
    monkeypatch.setattr(Restore, "_carry_on", lambda *_unused: phases.append(world.attempt()))
    world.run(target_time="2026-11-23T14:05:00Z")
    assert [found.phase for found in phases] == [state.FETCHING, state.SWAPPING]
    assert [found.timings for found in phases] == [[], []]


def test_what_is_given_up_leaves_no_credentials(world: World) -> None:
    attempt = world.attempt()
    engine = Restore(world.options(), Progress())
    layout = Layout(str(world.directory), "f" * 16)
    work = restore.Work(Plan("another"), layout, REPLAY, {"name": "b"}, {}, None, attempt)
    engine._adopt(work)
    assert os.path.isdir(world.layout.private)  # its server may still be recovering
    attempt.failed = "the server ended"
    engine._adopt(work)
    assert not os.path.exists(world.layout.private)
    assert world.directory.is_dir()
