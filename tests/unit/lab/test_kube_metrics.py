# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The meter of the lab's Kubernetes: it measures whole trees of processes, and reads no others."""

from __future__ import annotations

import subprocess
import sys
import typing as t

import pytest

from tests.lab.kube import metrics

# Holds 64 MiB, from a thread other than the first starts a child that holds 64 MiB more, and says so.
PARENT = """
import subprocess, sys, threading
held = bytearray(b"x" * (64 << 20))
child = [sys.executable, "-c", "held = bytearray(b'x' * (64 << 20)); print('ready', flush=True); input()"]
def start():
    subprocess.run(child)
threading.Thread(target=start).start()
"""
KEY = ("uid", "api")


@pytest.fixture(name="tree")
def _tree() -> t.Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process


def test_a_tree_is_measured_and_nothing_else_is_read(monkeypatch: pytest.MonkeyPatch, tree: subprocess.Popen[str]) -> None:
    read, looked = set(), metrics._read

    def spy(pid: int, name: str) -> str:
        read.add(pid)
        return looked(pid, name)

    monkeypatch.setattr(metrics, "_read", spy)
    meter = metrics.Meter()
    meter.sample({KEY: tree.pid})
    used = meter.usage(*KEY)
    assert used is not None and used.private >= 128 << 20 and used.memory >= used.private and used.cpu_seconds > 0
    assert tree.pid in read and len(read) == 2


def test_what_has_ended_uses_nothing(tree: subprocess.Popen[str]) -> None:
    meter = metrics.Meter()
    meter.sample({KEY: tree.pid})
    tree.communicate(timeout=30)
    meter.sample({KEY: tree.pid})
    assert meter.usage(*KEY) == metrics.Usage(0, 0, 0.0, 0.0)
    meter.sample({})
    assert meter.usage(*KEY) is None


def test_it_samples_no_oftener_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = metrics.Meter()
    assert meter.due()
    meter.sample({})
    assert not meter.due()
    monkeypatch.setattr(metrics, "INTERVAL", 0.0)
    assert meter.due()
