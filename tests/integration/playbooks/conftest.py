# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""One lab for all tests of playbooks that leave it healthy; what breaks a lab brings its own."""

from __future__ import annotations

import dataclasses
import json
import shutil
import typing as t
import uuid
from pathlib import Path

import pytest

from tests.integration.test_lab import LabCommand
from tests.lab.drill import Drill, Played


@dataclasses.dataclass
class PlayedLab:
    """A healthy lab and its playbooks. ``drill.lab.part(...)`` are its servers, ``facts`` is what its inventory reads."""

    command: LabCommand
    drill: Drill

    @property
    def facts(self) -> dict[str, t.Any]:
        """lab.json."""
        facts: dict[str, t.Any] = json.loads(self.drill.layout.facts.read_text(encoding="utf-8"))
        return facts

    def play(self, name: str, *arguments: str, check: bool = False, **extra: object) -> Played:
        """Run a playbook without a terminal; ``extra`` are extra variables."""
        options = [word for key, value in extra.items() for word in ("-e", json.dumps({key: value}))]
        return self.drill.play(name, *options, *(["--check", "--diff"] if check else []), *arguments)

    def play_well(self, name: str, *arguments: str, check: bool = False, **extra: object) -> Played:
        """Run a playbook that must succeed."""
        played = self.play(name, *arguments, check=check, **extra)
        assert played.returncode == 0, played.output[-8000:]
        return played


@pytest.fixture(scope="session")
def lab(session_place: Path) -> t.Iterator[PlayedLab]:
    """A healthy lab, shared: every test leaves it as it would want to find it."""
    command = LabCommand(session_place / f"plays-{uuid.uuid4().hex[:6]}")
    command.state.mkdir(mode=0o755)
    try:
        started = command.run("up")
        assert started.returncode == 0, started.stderr
        yield PlayedLab(command, Drill(command.lab(), quiet=True))
    finally:
        assert command.run("clean").returncode == 0
        shutil.rmtree(command.state, ignore_errors=True)
