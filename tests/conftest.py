# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes ``ansible_collections.fileforge.ops`` and ``tests.lab`` importable from a plain clone."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
for place in (ROOT, ROOT / "collections"):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))
