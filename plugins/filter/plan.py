# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a plan, with its digest, of steps that a role put together from modules which know no plans."""

from __future__ import annotations

DOCUMENTATION = r"""
name: plan
short_description: Make a plan with a digest of a list of steps
version_added: 1.0.0
author: FileForge operations (@fileforge)
description:
  - Turns a list of steps into a plan of the same form that the modules of this collection return in check mode, so that
    M(fileforge.ops.gate) can show it and hold a run to it.
positional: _input, title
options:
  _input:
    description:
      - The steps in order, each with C(action), C(object) and optionally C(count), C(bytes), C(destructive) and C(detail).
      - An empty list is a plan in which nothing is to be done.
    type: list
    elements: dict
    required: true
  title:
    description: What the plan is for.
    type: str
    required: true
  notes:
    description: What a person should read, but the digest does not cover.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Show a plan of one step
  ansible.builtin.debug:
    msg: "{{ [{'action': 'checkout', 'object': '/app/config', 'destructive': true}] | fileforge.ops.plan('configuration') }}"
"""

RETURN = r"""
_value:
  description: The plan, with C(title), C(steps), C(notes), C(digest) and C(destructive).
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step


def plan(steps: t.Iterable[t.Mapping[str, t.Any]], title: str, notes: t.Sequence[str] = ()) -> dict[str, t.Any]:
    """The plan of these steps."""
    try:
        made = [Step(**{str(name): _plain(value) for name, value in step.items()}) for step in steps]
    except (TypeError, AttributeError) as error:
        raise AnsibleFilterError(f"fileforge.ops.plan: not a list of steps: {error}") from error
    return Plan(str(title), made, [str(note) for note in notes]).as_dict()


def _plain(value: t.Any) -> t.Any:
    if value is None or isinstance(value, bool):
        return value
    return int(value) if isinstance(value, int) else str(value)


class FilterModule:
    """What this file offers."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"plan": plan}
