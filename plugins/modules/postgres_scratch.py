#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_scratch
short_description: Remove a scratch server that postgres_restore made
version_added: 1.0.0
description:
  - Stops the server on the data directory of a scratch restore and removes the directory, its tablespaces beside it, and the
    notes of the restore. Also removes a scratch restore that was cut off.
  - Refuses a directory that was not made by M(fileforge.ops.postgres_restore) with
    O(fileforge.ops.postgres_restore#module:scratch=true), and anything while a restore of it is running.
  - Tablespaces that were mapped elsewhere by O(fileforge.ops.postgres_restore#module:tablespace_map) are left where they are.
  - Can be repeated after any interruption.
author:
  - FileForge operations (@fileforge)
extends_documentation_fragment:
  - fileforge.ops.attributes
  - fileforge.ops.planned
options:
  data_directory:
    description: The data directory, as it was given to M(fileforge.ops.postgres_restore).
    type: path
    required: true
  state:
    description: The only state is V(absent), because the server is made by M(fileforge.ops.postgres_restore).
    type: str
    choices: [absent]
    default: absent
  owner:
    description: The user that the server runs as.
    type: str
    default: postgres
  bin_directory:
    description: Directory of the server's programs. When not set, it is found by the version of the data directory.
    type: path
  timeout:
    description: Seconds that the server may take to stop.
    type: int
    default: 60
seealso:
  - module: fileforge.ops.postgres_restore
"""

EXAMPLES = r"""
- name: Remove the copy that a drill restored
  fileforge.ops.postgres_scratch:
    data_directory: /var/lib/postgresql/drill/data
    state: absent
"""

RETURN = r"""
plan:
  description: What was removed, or in check mode would be.
  type: dict
  returned: success
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils._argspec import PLANNED, merge
from ansible_collections.fileforge.ops.plugins.module_utils._backup.scratch import Scratch
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude

ARGUMENTS = merge(
    PLANNED,
    {
        "data_directory": {"type": "path", "required": True},
        "state": {"type": "str", "choices": ["absent"], "default": "absent"},
        "owner": {"type": "str", "default": "postgres"},
        "bin_directory": {"type": "path"},
        "timeout": {"type": "int", "default": 60},
    },
)


def operate(params: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Remove the scratch server and return the result of the module."""
    directory = os.path.realpath(params["data_directory"])
    scratch = Scratch(directory, params["owner"], params["bin_directory"], params["timeout"])
    plan = scratch.plan()
    plan.require(params["plan_digest"])
    if not check_mode:
        plan = scratch.remove()
    return {"changed": bool(plan.steps), "plan": plan.as_dict(), "diff": plan.as_diff() if plan.steps else {}}


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: operate(module.params, module.check_mode))


if __name__ == "__main__":
    main()
