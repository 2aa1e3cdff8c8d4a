# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attributes that modules declare."""

from __future__ import annotations


class ModuleDocFragment:
    """C(attributes) for modules; C(attributes.info_module) for those that only look."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return the plan or state that a real run would give, changing nothing.
    support: full
  diff_mode:
    description: Will return what changes (or would change) in diff mode.
    support: full
  idempotent:
    description: When run twice with the same options and nothing else changes, the second run changes nothing.
    support: full
"""

    INFO_MODULE = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode); it only looks, so check mode is the same.
    support: full
  diff_mode:
    description: Will return what changes (or would change) in diff mode.
    support: N/A
    details: Changes nothing.
  idempotent:
    description: When run twice with the same options and nothing else changes, the second run changes nothing.
    support: full
"""
