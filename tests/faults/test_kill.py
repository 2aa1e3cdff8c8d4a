# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL to Ansible or to the module in each phase of dr-restore; the run after it ends correct."""

from __future__ import annotations

import typing as t

import pytest

from tests.faults.conftest import World
from tests.lab.parts import strays


def extracting(world: World, bytes_there: int) -> t.Callable[[], bool]:
    """Whether the new directory beside the old one holds that much."""
    data = world.drill.cluster.data_directory

    def reached() -> bool:
        total = 0
        for fresh in data.parent.glob(f"{data.name}.restore-*"):
            for path in fresh.rglob("*") if fresh.is_dir() else []:
                try:
                    total += path.stat().st_size
                except OSError:
                    continue
        return total > bytes_there

    return reached


def replaying(world: World) -> t.Callable[[], bool]:
    """Whether a server recovers in the lab's data directory."""
    cluster = world.drill.cluster

    def reached() -> bool:
        signal_file = cluster.data_directory / "recovery.signal"
        return signal_file.exists() and bool(strays(cluster.data_directory, "postgres"))

    return reached


def syncing(world: World) -> t.Callable[[], bool]:
    """Whether some of the files, not all, are back."""

    def reached() -> bool:
        uploads = world.layout.uploads
        return uploads.is_dir() and any(path.is_file() for path in uploads.glob("*/*/*/*"))

    return reached


@pytest.mark.parametrize("victim", ["controller", "module"])
@pytest.mark.parametrize("phase", ["fetch", "extract", "replay", "sync"])
def test_killed_and_run_again(world: World, phase: str, victim: str) -> None:
    if phase == "sync":
        world.lose_files()
    else:
        world.lose_database()
    moment = {
        "fetch": extracting(world, 0),
        "extract": extracting(world, 12 * 2**20),
        "replay": replaying(world),
        "sync": syncing(world),
    }[phase]
    digest = world.plan()
    assert digest
    run = world.start(digest)
    run.wait_for(moment, phase)
    if victim == "controller":
        run.kill_controller()
    else:
        run.kill_module()
    world.complete()
    world.prove()
    assert world.plan() == "", "the completed restore is not recognised"
