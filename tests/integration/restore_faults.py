# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Points at which a restore kills its own process with SIGKILL, as exactly as an outside observer never could."""

from __future__ import annotations

import functools
import os
import signal
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._backup import restore, restore_layout, restore_state
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import Server


def die() -> t.NoReturn:
    """Without any clean-up."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL does not return")


def before(owner: t.Any, name: str, nth: int = 0) -> None:
    """Die when ``owner.name`` is called for the ``nth`` time."""
    original = getattr(owner, name)
    calls = 0

    @functools.wraps(original)
    def wrapper(*arguments: t.Any, **named: t.Any) -> t.Any:
        nonlocal calls
        calls += 1
        if calls > nth:
            die()
        return original(*arguments, **named)

    setattr(owner, name, wrapper)


def after(owner: t.Any, name: str, nth: int = 0) -> None:
    """Die when ``owner.name`` has returned for the ``nth`` time."""
    original = getattr(owner, name)
    calls = 0

    @functools.wraps(original)
    def wrapper(*arguments: t.Any, **named: t.Any) -> t.Any:
        nonlocal calls
        result = original(*arguments, **named)
        calls += 1
        if calls > nth:
            die()
        return result

    setattr(owner, name, wrapper)


def in_swap(nth: int) -> None:
    """Die after the ``nth`` rename of the exchange."""
    renames = 0

    def rename(source: str, target: str) -> None:
        nonlocal renames
        os.rename(source, target)
        renames += 1
        if renames > nth:
            die()

    restore.swap = functools.partial(restore_layout.swap, rename=rename)  # type: ignore[assignment]


def in_sync() -> None:
    """Die when some files are synced."""
    original = restore.sync_tree

    def wrapper(root: str, jobs: int, on_file: t.Callable[[int], None]) -> None:
        count = 0

        def counting(done: int) -> None:
            nonlocal count
            count += done
            if count > 100:
                die()

        original(root, jobs, counting)

    restore.sync_tree = wrapper  # type: ignore[assignment]


def made(word: str) -> None:
    """Die when the directory with the word in its name is made, before anything else is done to it."""
    original = os.mkdir

    def mkdir(path: t.Any, *arguments: t.Any, **named: t.Any) -> None:
        original(path, *arguments, **named)
        if word in str(path):
            die()

    os.mkdir = mkdir  # type: ignore[assignment]


POINTS: dict[str, t.Callable[[], None]] = {
    "private folder": lambda: made(".recovery-"),
    "folder": lambda: made("offsets"),
    "fetch begins": lambda: before(restore.Filler, "fill"),
    "fetch": lambda: after(restore.Filler, "_batch", 1),
    "settle": lambda: before(restore, "settle"),
    "sync": in_sync,
    "control file": lambda: before(restore.Restore, "_place_control"),
    "fetched": lambda: after(restore.Restore, "_fetch"),
    "stopped": lambda: before(restore, "swap"),
    "swap 0": lambda: in_swap(0),
    "swap 1": lambda: in_swap(1),
    "swap 2": lambda: in_swap(2),
    "swap 3": lambda: in_swap(3),
    "program": lambda: before(restore, "install_program"),
    "start": lambda: before(Server, "start"),
    "started": lambda: after(Server, "start"),
    "replay": lambda: after(restore.Watch, "look"),
    "promoted": lambda: after(restore.Watch, "run"),
    "verified": lambda: after(restore.Restore, "_verify"),
    "settings gone": lambda: before(restore_state, "save_record"),
    "record": lambda: after(restore_state, "save_record"),
}


def arm(point: str) -> None:
    """Prepare the death."""
    POINTS[point]()
