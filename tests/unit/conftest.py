# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever a unit test makes the judges say: what is not ok says what to do next."""

from __future__ import annotations

import sys
import types
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._checks import OK, Check

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"


def _author(frame: types.FrameType | None) -> Path:
    """The file that made a check, itself or by ``dataclasses.replace``."""
    while frame is not None and frame.f_code.co_filename.endswith("dataclasses.py"):
        frame = frame.f_back
    return Path(frame.f_code.co_filename if frame is not None else "/").resolve()


@pytest.fixture(autouse=True)
def _next_steps(monkeypatch: pytest.MonkeyPatch) -> t.Iterator[None]:
    """Collects checks of the collection's own without a next step: raised at once, an engine could swallow it."""
    without: list[Check] = []
    made = Check.__init__

    def noted(self: Check, *values: t.Any, **named: t.Any) -> None:
        made(self, *values, **named)
        if self.status != OK and not self.hint and PLUGINS in _author(sys._getframe(1)).parents:
            without.append(self)

    monkeypatch.setattr(Check, "__init__", noted)
    yield
    assert not without, f"a check that is not ok says no next step: {without}"
