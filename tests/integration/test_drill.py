# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The drill as a test: `make drill` on a lab of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.lab import ROOT
from tests.lab.parts import tagged


def test_drill(place: Path) -> None:
    state = place / "lab"
    env = {**os.environ, "LAB_DIR": str(state), "LAB_ROWS": "500", "LAB_FILES": "80"}
    argv = [sys.executable, "-m", "tests.lab.drill", "--quiet", "--down"]
    try:
        ended = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900, check=False)
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
        assert re.search(r"RTO +\S.* from the disaster", ended.stdout)
        assert re.search(r"RPO +\S.* from the last recovered commit", ended.stdout)
        for form in ("json", "md", "html"):
            assert f"report.{form}" in ended.stdout
        report = json.loads((state / "evidence" / "latest" / "report.json").read_text(encoding="utf-8"))
        assert report["rto"]["met"] is True
        assert report["rpo"]["met"] is True
        assert tagged(state) == []
    finally:
        clean = [sys.executable, "-m", "tests.lab", "clean"]
        subprocess.run(clean, cwd=ROOT, env=env, capture_output=True, timeout=180, check=True)
