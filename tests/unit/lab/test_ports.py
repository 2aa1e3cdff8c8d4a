# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports of labs that start at the same time: nobody is given one that another was given."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.lab import ROOT, ports

MANY = "from tests.lab.ports import free_port; print(*(free_port() for number in range(60)))"


def test_processes_that_choose_at_the_same_time_choose_differently(tmp_path: Path) -> None:
    environment = {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin"}
    started = [
        subprocess.Popen([sys.executable, "-c", MANY], stdout=subprocess.PIPE, text=True, env=environment) for _turn in range(4)
    ]
    chosen = [port for process in started for port in process.communicate(timeout=60)[0].split()]
    assert len(chosen) == len(set(chosen)) == 240


def test_a_claim_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert ports.claim(20001) and not ports.claim(20001)
    monkeypatch.setattr(ports, "CLAIMED_SECONDS", 0.0)
    assert ports.claim(20001)


def test_a_registry_cut_short_is_begun_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert ports.claim(20001)
    [registry] = tmp_path.iterdir()
    registry.write_text('{"2000')
    assert ports.claim(20002)
