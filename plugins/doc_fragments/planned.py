# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules that compute a plan before they act, and long ones that publish their progress."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of module_utils/_argspec.py PLANNED and PROGRESS."""

    DOCUMENTATION = r"""
options:
  plan_digest:
    description:
      - Digest of the plan that was confirmed. When given, the module refuses before it touches anything if the plan that it
        would carry out now has another digest.
      - Check mode returns the plan and its digest as RV(ignore:plan).
    type: str
"""

    PROGRESS = r"""
options:
  progress_file:
    description:
      - File on the host in which the module publishes its progress. The action plugin of the same name sets it and shows the
        progress while the module runs; there is no need to set it by hand.
    type: path
"""
