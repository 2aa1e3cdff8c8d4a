# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL to Ansible or to the module in each phase of dr-restore; the run after it ends correct."""

from __future__ import annotations

import typing as t

import pytest

from tests.faults.conftest import World
from tests.lab.parts import strays


def unpacked(world: World) -> int:
    """Bytes in the new directory beside the old one."""
    data = world.drill.cluster.data_directory
    total = 0
    for fresh in data.parent.glob(f"{data.name}.restore-*"):
        for path in fresh.rglob("*") if fresh.is_dir() else []:
            try:
                total += path.stat().st_size
            except OSError:
                continue
    return total


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


def moment(world: World, phase: str) -> t.Callable[[], bool]:
    """When that phase is at work, seen from the outside."""
    there = unpacked(world)
    return {
        "fetch": lambda: unpacked(world) > there,
        "extract": lambda: unpacked(world) > there + 12 * 2**20,
        "replay": replaying(world),
        "sync": syncing(world),
    }[phase]


def kill_in(world: World, phase: str, victim: str) -> None:
    """Plan, confirm, and kill in that phase."""
    digest = world.plan()
    assert digest
    reached = moment(world, phase)
    run = world.start(digest)
    run.wait_for(reached, phase)
    {"controller": run.kill_controller, "module": run.kill_module, "both": run.kill_both}[victim]()


@pytest.mark.parametrize(
    ("phase", "victim"), [("fetch", "controller"), ("extract", "module"), ("replay", "controller"), ("sync", "module")]
)
def test_killed_and_run_again(world: World, phase: str, victim: str) -> None:
    if phase == "sync":
        world.lose_files()
    else:
        world.lose_database()
    kill_in(world, phase, victim)
    world.complete()
    world.prove()


def test_killed_in_every_phase_of_one_restore(world: World) -> None:
    """Every run but the last is killed, each in the next phase."""
    world.lose_database()
    world.lose_files()
    for phase, victim in (("fetch", "module"), ("extract", "both"), ("replay", "module"), ("sync", "both")):
        kill_in(world, phase, victim)
    world.complete()
    world.prove()
    assert world.plan() == "", "the completed restore is not recognised"
