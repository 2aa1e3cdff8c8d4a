# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Removing real scratch servers, also one whose restore was killed."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import running_server

from tests.integration.restore_source import Source
from tests.lab.daemon import wait_until
from tests.lab.place import give, owner

if t.TYPE_CHECKING:
    from tests.integration.conftest import ModuleRunner, ModuleStarter
    from tests.lab.s3 import S3Server


@pytest.fixture
def source(place: Path, s3: S3Server, bucket: str) -> t.Iterator[Source]:
    give(place)
    made = Source.create(place, s3, bucket)
    made.backup()
    made.mark(1)
    made.archive()
    yield made
    made.cluster.destroy()


def arguments(source: Source, directory: Path) -> dict[str, t.Any]:
    return {"data_directory": str(directory), "owner": owner(), "bin_directory": str(source.cluster.bin_directory)}


def left(place: Path) -> list[str]:
    """What is beside the copy, apart from the lock, which is kept on purpose."""
    return sorted(path.name for path in place.glob("copy*") if not path.name.endswith(".lock"))


def test_a_scratch_server_is_stopped_and_removed(run_module: ModuleRunner, source: Source, place: Path) -> None:
    directory = place / "copy"
    run_module("postgres_restore", source.arguments(directory, "latest", scratch=True))
    server = running_server(str(directory))
    assert server is not None
    planned = run_module("postgres_scratch", arguments(source, directory), check=True, diff=True)
    assert planned["changed"] and planned["plan"]["steps"][0]["action"] == "stop"
    assert "remove" in planned["diff"]["after"] and running_server(str(directory)) is not None
    done = run_module("postgres_scratch", {**arguments(source, directory), "plan_digest": planned["plan"]["digest"]})
    assert done["changed"] and done["plan"] == planned["plan"]
    assert left(place) == []
    wait_until(lambda: not Path(f"/proc/{server.pid}").exists(), 30, "end of the scratch server, and its reaping by init")
    assert source.cluster.execute("SELECT count(*) FROM mark") == [(1,)], "the source was not touched"
    assert not run_module("postgres_scratch", arguments(source, directory))["changed"]


def test_what_a_killed_restore_left_is_removed(
    start_module: ModuleStarter, run_module: ModuleRunner, source: Source, place: Path
) -> None:
    directory = place / "copy"
    run = start_module("postgres_restore", source.arguments(directory, "latest", scratch=True))
    run.wait_for(lambda: any(path.is_dir() for path in place.glob("copy.restore-*")), what="the first files")
    run.kill_controller()
    assert left(place)
    assert run_module("postgres_scratch", arguments(source, directory))["changed"]
    assert left(place) == []


def test_the_live_server_is_refused(run_module: ModuleRunner, source: Source) -> None:
    refused = run_module("postgres_scratch", arguments(source, source.cluster.data_directory), expect_failure=True)
    assert refused["reason"] == "not_scratch"
    assert source.cluster.execute("SELECT count(*) FROM mark") == [(1,)]
