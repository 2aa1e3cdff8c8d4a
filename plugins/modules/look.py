#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at many things at once; the action plugin of the same name adds the modules of other collections."""

from __future__ import annotations

DOCUMENTATION = r"""
module: look
short_description: Look at many things at the same time
version_added: 1.0.0
author:
  - FileForge operations (@fileforge)
description:
  - Runs modules that only look (those whose names end in C(_info)) on the host at the same time, each with a deadline of its own.
  - A probe that fails, or does not answer in time, is a failed result among the others. It never hides them nor fails the task.
  - What it returns is what M(fileforge.ops.operations_report) takes.
  - Defaults of the modules given by C(module_defaults) do not apply to probes. Give all options in C(args).
options:
  probes:
    description: What to look at.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: What it looks at, for people.
        type: str
        required: true
      module:
        description: Full name of the module.
        type: str
        required: true
      args:
        description: The module's options.
        type: dict
        default: {}
      timeout:
        description: Seconds until it is given up. Without it O(timeout).
        type: float
  timeout:
    description: Seconds until a probe without its own deadline is given up.
    type: float
    default: 60
  at_once:
    description: Number of probes that run at the same time.
    type: int
    default: 8
extends_documentation_fragment:
  - fileforge.ops.attributes.info_module
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.conn
  - ansible.builtin.action_common_attributes.flow
attributes:
  action:
    support: full
  async:
    support: none
  become:
    support: full
  bypass_host_loop:
    support: none
  check_mode:
    description: Can run in C(check_mode); it only looks, so check mode is the same.
    support: full
  connection:
    support: full
  delegation:
    support: full
  diff_mode:
    description: Will return what changes (or would change) in diff mode.
    support: N/A
    details: Changes nothing.
  platform:
    platforms: posix
"""

EXAMPLES = r"""
- name: Look at the API and at the disks at the same time
  fileforge.ops.look:
    probes:
      - name: API
        module: fileforge.ops.http_probe_info
        args:
          url: https://api.fileforge.io/health
        timeout: 10
      - name: Backups
        module: fileforge.ops.postgres_backup_info
        args:
          s3_bucket: fileforge-backups
  register: looked

- name: Report
  fileforge.ops.operations_report:
    results: "{{ looked.results }}"
  delegate_to: localhost
"""

RETURN = r"""
results:
  description: For each probe, in their order, its C(name), the C(host), the C(seconds) that it took, and the module's C(result).
  returned: success
  type: list
  elements: dict
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._probes.run import run_probes

PROBE = {
    "name": {"type": "str", "required": True},
    "module": {"type": "str", "required": True},
    "args": {"type": "dict", "default": {}},
    "timeout": {"type": "float"},
}
ARGUMENTS = {
    "probes": {"type": "list", "elements": "dict", "required": True, "options": PROBE},
    "timeout": {"type": "float", "default": 60},
    "at_once": {"type": "int", "default": 8},
}


def main() -> t.NoReturn:
    """Entry point."""
    # Which of the probes' options are secrets, their modules know: nothing of them is logged or returned.
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True, no_log=True)
    look = module.params
    conclude(module, lambda: {"results": run_probes(look["probes"], look["at_once"], module.check_mode), "invocation": {}})


if __name__ == "__main__":
    main()
