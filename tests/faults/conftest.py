# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab of its own, backed up, on which dr-restore is killed."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import signal
import subprocess
import time
import typing as t
import uuid
from pathlib import Path

import pytest

from tests.lab import ROOT
from tests.lab.daemon import wait_until
from tests.lab.drill import CONFIRM, Drill
from tests.lab.lab import Lab
from tests.lab.marked import Mark
from tests.lab.place import workplace

RESTORE_SECONDS = 240
REFUSED = re.compile(r"^\s*(reason|code): (plan_changed|locked|server_running)\s*$", re.MULTILINE)


class Run:
    """dr-restore in the background."""

    def __init__(self, drill: Drill, *arguments: str) -> None:
        self.mark = Mark()
        self.log = drill.logs / f"killed-{self.mark.value[:6]}.log"
        argv, env = drill.command("dr-restore", *arguments)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                argv,
                cwd=ROOT,
                env={**env, **self.mark.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        """What it printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, moment: t.Callable[[], object], what: str) -> None:
        """Wait for the moment; the run must not end before."""

        def reached() -> bool:
            if moment():
                return True
            if self.process.poll() is not None:
                raise AssertionError(f"the restore ended before {what}:\n{self.output()[-3000:]}")
            return False

        wait_until(reached, RESTORE_SECONDS, what, every=0.002)

    def kill_controller(self) -> None:
        """Kill Ansible; the module that it started may live on, as after the death of a shell."""
        self.mark.kill(self.mark.controllers())
        self.process.wait(20)

    def kill_module(self) -> None:
        """Kill the module; Ansible notices and stops the rest."""
        victims = self.mark.modules()
        assert victims, "no module runs"
        self.mark.kill(victims)
        assert self.process.wait(RESTORE_SECONDS) != 0, self.output()[-2000:]

    def kill_both(self) -> None:
        """Kill Ansible and the module: the death of the machine that runs them."""
        self.mark.kill([*self.mark.controllers(), *self.mark.modules()])
        self.process.wait(20)

    def close(self) -> None:
        """Leave nothing running but the servers."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        self.mark.kill([*self.mark.controllers(), *self.mark.modules()])


class World:
    """The lab with its drill, and the target of the last complete restore."""

    def __init__(self, lab: Lab) -> None:
        self.drill = Drill(lab, quiet=True)
        self.layout = lab.layout
        self.target: datetime.datetime | None = None
        self.runs: list[Run] = []

    def options(self) -> list[str]:
        """Arguments of dr-restore for the current target."""
        assert self.target is not None
        return ["-e", f"target_time={self.target.isoformat()}"]

    def plan(self) -> str:
        """Digest of what there is to do; empty when nothing."""
        played = self.drill.play("dr-restore", *self.options())
        if played.returncode == 0:
            return ""
        found = set(CONFIRM.findall(played.output))
        assert len(found) == 1, played.output[-3000:]
        return str(found.pop())

    def start(self, digest: str) -> Run:
        """A confirmed restore in the background."""
        run = Run(self.drill, *self.options(), "-e", f"confirm={digest}")
        self.runs.append(run)
        return run

    def complete(self) -> None:
        """Run again, confirming what is left, until it is done: what a person does after a failure.

        A module that has outlived Ansible is still at work: then the run is told so, or the plan changes under the
        confirmation. Both are refusals that touch nothing; any other failure is one of the test.
        """
        deadline = time.monotonic() + RESTORE_SECONDS
        confirm: list[str] = []
        while True:
            played = self.drill.play("dr-restore", *self.options(), *confirm)
            if played.returncode == 0:
                return
            found = set(CONFIRM.findall(played.output))
            asked = bool(found) and not confirm
            assert asked or REFUSED.search(played.output), played.output[-4000:]
            assert time.monotonic() < deadline, f"still refused: {played.output[-4000:]}"
            confirm = ["-e", f"confirm={found.pop()}"] if asked else []

    def prove(self) -> None:
        """Both sides of the target, every file, the configuration and health, each looked up here."""
        assert self.target is not None
        self.drill.prove_both_sides(self.target)
        self.drill.prove_files()
        self.drill.prove_configuration()
        self.drill.prove_health()

    def lose_database(self) -> None:
        """New markers and a new target, then the database is destroyed."""
        self.drill.run_id = uuid.uuid4().hex[:8]
        self.target = self.drill.markers()
        self.drill.destroy_database()
        self.drill.settle()

    def lose_files(self) -> None:
        """The uploads are destroyed; the database stands as it was restored."""
        if self.target is None:
            self.lose_database()
            self.complete()
        shutil.rmtree(self.layout.uploads)


@pytest.fixture(scope="session")
def shared_world() -> t.Iterator[World]:
    """A lab of the session, backed up."""
    place = workplace(f"tests/faults-{uuid.uuid4().hex[:6]}")
    before = {name: os.environ.get(name) for name in ("LAB_DIR", "LAB_ROWS", "LAB_FILES")}
    os.environ.update({"LAB_DIR": str(place), "LAB_ROWS": "600000", "LAB_FILES": "1200"})
    lab = Lab(Path(place), say=lambda _line: None)
    try:
        lab.up()
        world = World(lab)
        world.drill.play_well("backup")
        yield world
    finally:
        lab.clean()
        shutil.rmtree(place, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture
def world(shared_world: World) -> t.Iterator[World]:
    """The session's world; what a test started is gone after it."""
    yield shared_world
    for run in shared_world.runs:
        run.close()
    shared_world.runs.clear()
