# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole FileForge on one machine, from real parts, for tests and drills."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
if str(ROOT / "collections") not in sys.path:
    sys.path.insert(0, str(ROOT / "collections"))
