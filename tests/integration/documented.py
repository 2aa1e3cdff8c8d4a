# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Examples of a page of the documentation, so that the tests run what people read."""

from __future__ import annotations

import re

from tests.lab import ROOT


def examples(page: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
