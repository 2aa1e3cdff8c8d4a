# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab itself: idempotent, killed at any point, never making anew what only a restore may bring back."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest

from tests.lab import ROOT
from tests.lab.daemon import wait_until
from tests.lab.facts import DATABASE, PRIMARY, SECONDARY
from tests.lab.lab import Lab
from tests.lab.parts import Application, ObjectStore, Postgres, Uploads, tagged


class LabCommand:
    """The command line of a lab in its own directory."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.env = {**os.environ, "LAB_DIR": str(state), "LAB_ROWS": "200", "LAB_FILES": "60"}

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        argv = [sys.executable, "-m", "tests.lab", command]
        return subprocess.run(argv, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=180, check=False)

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Run in the background."""
        argv = [sys.executable, "-m", "tests.lab", command]
        return subprocess.Popen(argv, cwd=ROOT, env=self.env, stdout=subprocess.DEVNULL, start_new_session=True)

    def lab(self) -> Lab:
        """The same lab, from inside."""
        return Lab(self.state, say=lambda _line: None)


@pytest.fixture
def command(place: Path) -> t.Iterator[LabCommand]:
    """A lab's command line; the lab is down and gone afterwards."""
    lab = LabCommand(place / "lab")
    yield lab
    ended = lab.run("clean")
    assert ended.returncode == 0, ended.stderr


def states(completed: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Part to state, from the command's output."""
    lines = [line.split() for line in completed.stdout.splitlines()]
    return {line[0]: line[1] for line in lines if len(line) > 1 and line[1] in ("healthy", "started", "down", "DESTROYED", "DOWN")}


def test_life_of_a_lab(command: LabCommand) -> None:
    """Up, up again, rows and files agree, health tells what is down, crash and return, down."""
    first = command.run("up")
    assert first.returncode == 0, first.stderr
    assert (command.state / "lab.json").stat().st_mode & 0o077 == 0
    again = command.run("up")
    assert set(states(again).values()) == {"healthy"}
    assert command.run("status").returncode == 0
    lab = command.lab()
    cluster, application = lab.part(Postgres).cluster, lab.part(Application)

    rows = cluster.execute("SELECT path, size, sha256 FROM files", DATABASE)
    assert len(rows) == 60
    for path, size, digest in rows:
        content = (lab.layout.uploads / path).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (size, digest)

    def written() -> int:
        return int(cluster.execute("SELECT count(*) FROM heartbeat", DATABASE)[0][0])

    before = written()
    wait_until(lambda: written() > before + 2, 20, "the writer to write")

    client = lab.part(ObjectStore).server.client()
    client.put_object(Bucket=PRIMARY, Key="some/object", Body=b"content", Metadata={"fileforge-format": "1"})

    def replicated() -> bool:
        listed = client.list_objects_v2(Bucket=SECONDARY).get("Contents", [])
        return "some/object" in [item["Key"] for item in listed]

    wait_until(replicated, 20, "the object to be replicated")
    assert client.head_object(Bucket=SECONDARY, Key="some/object")["Metadata"] == {"fileforge-format": "1"}

    cluster.kill()
    wait_until(lambda: not application.healthy(), 30, "the application to notice")
    before_crash = command.run("status")
    assert before_crash.returncode == 3
    assert states(before_crash)["postgresql"] == "down"
    back = command.run("up")
    assert back.returncode == 0, back.stderr
    assert states(back)["postgresql"] == "started"
    assert states(back)["s3"] == "healthy"
    count = written()
    assert count > before
    wait_until(lambda: written() > count, 20, "the writer to reconnect")

    assert command.run("down").returncode == 0
    assert tagged(command.state) == []
    assert not cluster.running()
    assert lab.part(ObjectStore).server.daemon.pid is None


def test_health_names_what_is_down(command: LabCommand) -> None:
    assert command.run("up").returncode == 0
    lab = command.lab()
    application = lab.part(Application)
    hidden = lab.layout.uploads.with_name("hidden")
    pod = application.kube.pods()[0]
    address = f"http://{pod['status']['podIP']}:{lab.remembered.ports['backend']}"
    application.url = address  # one pod itself: behind the service, none is left that is ready
    lab.layout.uploads.rename(hidden)
    lab.part(Postgres).cluster.stop("immediate")
    status, body = application.ask("/health")
    assert (status, body["down"]) == (503, ["database", "uploads"])
    hidden.rename(lab.layout.uploads)
    lab.part(Postgres).cluster.start()
    assert application.ask("/health")[0] == 200


def test_destroyed_data_waits_for_a_restore(command: LabCommand) -> None:
    assert command.run("up").returncode == 0
    lab = command.lab()
    lab.part(Postgres).cluster.kill()
    shutil.rmtree(lab.part(Postgres).cluster.data_directory)
    shutil.rmtree(lab.part(Uploads).layout.uploads)
    ended = command.run("up")
    assert ended.returncode == 3
    assert "restore it" in ended.stderr
    assert states(ended)["postgresql"] == states(ended)["uploads"] == "DESTROYED"
    assert not lab.part(Postgres).cluster.data_directory.exists()
    assert not lab.layout.uploads.exists()


@pytest.mark.parametrize("reached", ["postgres/data/PG_VERSION", "s3/s3.pid", "run/kubernetes.pid"])
def test_killed_half_way(command: LabCommand, reached: str) -> None:
    """SIGKILL when it has come to that point; the next one completes what was begun."""
    process = command.start("up")
    try:
        wait_until((command.state / reached).exists, 60, f"{reached} to appear", every=0.002)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
    began = time.monotonic()
    ended = command.run("up")
    assert ended.returncode == 0, ended.stderr
    assert time.monotonic() - began < 90
    assert command.run("status").returncode == 0
