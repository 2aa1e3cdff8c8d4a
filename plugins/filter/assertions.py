# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns checks into the assertions of a report."""

from __future__ import annotations

DOCUMENTATION = r"""
name: assertions
short_description: Turn checks into assertions for a report
version_added: 1.0.0
author: FileForge operations (@fileforge)
description:
  - Turns the C(checks) that modules of this collection return into the assertions that M(fileforge.ops.dr_report) takes.
positional: _input, accept
options:
  _input:
    description: The checks.
    type: list
    elements: dict
    required: true
  accept:
    description: The statuses with which an assertion holds. What could not be looked at (V(unknown)) should not be among them.
    type: list
    elements: str
    default: [ok]
"""

EXAMPLES = r"""
- name: Write what was verified into the report
  fileforge.ops.dr_report:
    evidence_directory: /var/lib/fileforge/evidence
    assertions: "{{ verified.checks | fileforge.ops.assertions }}"
"""

RETURN = r"""
_value:
  description: The assertions, each with C(name), C(ok) and C(detail).
  type: list
  elements: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError


def assertions(checks: t.Iterable[t.Mapping[str, t.Any]], accept: t.Sequence[str] = ("ok",)) -> list[dict[str, t.Any]]:
    """The assertions of these checks."""
    try:
        return [{"name": check["id"], "ok": check["status"] in accept, "detail": check["summary"]} for check in checks]
    except (TypeError, KeyError) as error:
        raise AnsibleFilterError(f"fileforge.ops.assertions: not a list of checks: {error}") from error


class FilterModule:
    """What this file offers."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"assertions": assertions}
