# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""daily-check.yml on a healthy lab, against a playbook that does nothing: what the check itself takes beyond Ansible's start."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import time
import typing as t

from tests.bench.measure import Measured
from tests.lab import ROOT
from tests.lab.drill import Drill
from tests.lab.lab import Lab
from tests.lab.place import workplace

LIMIT = 3.0
"""Seconds that the check may take beyond the start of ansible-playbook."""
RUNS = 5
BUSY = {"daily_check_thresholds": "{{ fileforge_thresholds | combine({'cpu_usage': {'warning': 1.1, 'critical': 1.2}}) }}"}
"""The bench itself keeps the processor busy."""
NOTHING = [{"name": "Nothing", "hosts": "database:application", "gather_facts": False, "tasks": []}]


class DailyCheckBench:
    """A lab of its own, with everything that a platform in good order has."""

    def __init__(self, name: str) -> None:
        self.root = workplace(name)
        state = self.root / "lab"
        state.mkdir(mode=0o755)
        self.lab = Lab(state, say=lambda _line: None)
        self.lines: list[Measured] = []
        self.problems: dict[str, str] = {}

    def run(self) -> None:
        """Start, prepare, measure both in turn."""
        self.lab.up()
        drill = Drill(self.lab, quiet=True)
        for name in ("backup", "backup-verify", "cert-renewal"):
            drill.play_well(name)
        argv, env = drill.command("daily-check")
        empty = self.root / "nothing.json"
        empty.write_text(json.dumps(NOTHING), encoding="utf-8")
        commands = {"start": [*argv[:-1], str(empty)], "check": [*argv, "-e", json.dumps(BUSY)]}
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _turn in range(RUNS):
            for name, command in commands.items():
                began = time.monotonic()
                subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, timeout=120, check=False)
                seconds[name].append(time.monotonic() - began)
        report = json.loads((self.lab.layout.state / "reports" / "daily" / "latest" / "report.json").read_text(encoding="utf-8"))
        self.problems = {check["id"]: check["summary"] for check in report["problems"]}
        checks = sum(len(section["checks"]) for section in report["sections"])
        for what, name in (("ansible-playbook of nothing", "start"), (f"daily-check.yml, {checks} checks", "check")):
            line = Measured(f"morning check: {what} (median of {RUNS})", statistics.median(seconds[name]), 0)
            self.lines.append(line)
            print(f"  {line.what:58} {line.seconds:8.1f} s", flush=True)

    def verdict(self) -> dict[str, t.Any]:
        """What the check takes by itself, and whether all was well."""
        start, check = (line.seconds for line in self.lines)
        return {
            "daily_check_start_seconds": round(start, 2),
            "daily_check_seconds_beyond_start": round(check - start, 2),
            "daily_check_in_time": check - start < LIMIT,
            "daily_check_problems": self.problems,
            "daily_check_all_ok": not self.problems,
        }

    def close(self) -> None:
        """Leave nothing."""
        self.lab.clean()
        shutil.rmtree(self.root, ignore_errors=True)
