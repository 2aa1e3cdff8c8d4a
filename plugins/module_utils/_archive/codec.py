# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The deflate implementation: Intel's ISA-L where python3-isal is installed (several times faster), else zlib. PRIVATE.

Both release the GIL while they work.
"""

from __future__ import annotations

import importlib
import typing as t
import zlib

FAST_LEVELS = 4
"""Levels 0 to 3 exist in ISA-L."""


def _isal() -> t.Any:
    try:
        return importlib.import_module("isal.isal_zlib")
    except ImportError:
        return None


fast: t.Any = _isal()
"""The module isal_zlib, or None."""
best: t.Any = fast or zlib
"""What decompresses and sums up; has zlib's interface."""


def pack(data: bytes, level: int) -> bytes:
    """One gzip member. Levels above 3 are zlib's: smaller and slower."""
    engine = fast if fast is not None and level < FAST_LEVELS else zlib
    stream = engine.compressobj(level, zlib.DEFLATED, 31)
    packed: bytes = stream.compress(data) + stream.flush()
    return packed
