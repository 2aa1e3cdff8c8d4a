# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes probes of a list of things of one kind."""

from __future__ import annotations

DOCUMENTATION = r"""
name: probes
short_description: Make probes of a list of options
version_added: 1.0.0
author: FileForge operations (@fileforge)
description:
  - Turns the options of a module for several things of one kind into probes for M(fileforge.ops.look), each with a name of its own.
positional: _input, module, title, defaults
options:
  _input:
    description:
      - Options of the module for each thing. Its probe is named after C(name), C(server_name), C(host), C(url) or C(path).
    type: list
    elements: dict
    required: true
  module:
    description: Full name of the module.
    type: str
    required: true
  title:
    description: What kind of thing it is, the first word of each name.
    type: str
    required: true
  defaults:
    description: Options for each of them, where an item does not give its own.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Look at two endpoints at the same time
  fileforge.ops.look:
    probes: "{{ [{'url': 'https://api.fileforge.io/health'}, {'url': 'https://app.fileforge.io'}]
      | fileforge.ops.probes('fileforge.ops.http_probe_info', 'Endpoint', {'probes': 3}) }}"
"""

RETURN = r"""
_value:
  description: The probes, each with C(name), C(module) and C(args).
  type: list
  elements: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError

NAMES = ("name", "server_name", "host", "url", "path")


def probes(
    items: t.Iterable[t.Mapping[str, t.Any]], module: str, title: str, defaults: t.Mapping[str, t.Any] | None = None
) -> list[dict[str, t.Any]]:
    """A probe for each item; raises AnsibleFilterError for one that names nothing."""
    found = []
    for place, item in enumerate(items):
        if not isinstance(item, t.Mapping):
            raise AnsibleFilterError(f"fileforge.ops.probes: item {place} is not a dictionary of options: {item!r}")
        name = next((str(item[key]) for key in NAMES if item.get(key)), None)
        if name is None:
            raise AnsibleFilterError(f"fileforge.ops.probes: item {place} has none of {', '.join(NAMES)}")
        found.append({"name": f"{title} {name}", "module": module, "args": {**(defaults or {}), **item}})
    return found


class FilterModule:
    """What this file offers."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"probes": probes}
