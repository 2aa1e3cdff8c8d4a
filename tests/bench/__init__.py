# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measurements against the usual tools, in the same run on the same data."""

from __future__ import annotations
