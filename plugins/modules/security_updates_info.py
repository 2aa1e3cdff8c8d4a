#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: security_updates_info
short_description: Pending security updates, held packages, and whether a reboot is needed
version_added: 1.0.0
description:
  - Asks C(apt-get) in a simulation, or C(dnf) from its cache, which updates of security archives or advisories this host does not
    have yet. Nothing is fetched, installed or locked, and no privilege is needed for apt.
  - What the package manager says is worth as much as its lists are. C(updates.lists) is a warning when they are older than
    O(lists_warning_hours); when they are older than O(lists_unknown_hours), have expired or hold no security archive, it and
    C(updates.security) are V(unknown), never V(ok).
  - C(updates.security_age) grades how long the oldest fix waits, from the date of its advisory or from the day it was first
    seen (O(history_file)). C(updates.reboot) and C(updates.held) are warnings when a reboot is needed, and when a held package
    has a security fix.
  - The module does not fail when the package manager is missing or does not work; that is V(unknown).
author:
  - FileForge operations (@fileforge)
extends_documentation_fragment:
  - fileforge.ops.attributes.info_module
options:
  manager:
    description: The package manager to ask. With V(auto), the one that the host's packages are installed with.
    type: str
    choices: [auto, apt, dnf]
    default: auto
  security_warning:
    description: So many pending security updates are a warning.
    type: int
    default: 1
  security_critical:
    description: So many pending security updates are critical. When not set, no number is.
    type: int
  age_warning_days:
    description: A fix that waits for so many days is a warning.
    type: float
    default: 7
  age_critical_days:
    description: A fix that waits for so many days is critical.
    type: float
    default: 30
  lists_warning_hours:
    description: Package lists that were refreshed so many hours ago are a warning.
    type: float
    default: 48
  lists_unknown_hours:
    description: Package lists that were refreshed so many hours ago tell nothing any more.
    type: float
    default: 168
  history_file:
    description:
      - File that keeps when each pending fix was first seen. Check mode does not write it.
      - It is the module's own notebook and not counted as a change. apt does not tell when a fix came out, so without this file
        ages are V(unknown) there.
    type: path
  timeout:
    description: Seconds for each program that is asked.
    type: float
    default: 120
"""

EXAMPLES = r"""
- name: Review the security patches
  fileforge.ops.security_updates_info:
    history_file: /var/lib/fileforge/security-updates.json
  register: patches

- name: Fail when a fix waits for a month, or when nobody knows
  fileforge.ops.security_updates_info:
    history_file: /var/lib/fileforge/security-updates.json
  register: patches
  failed_when: patches.status in ['critical', 'unknown']
"""

RETURN = r"""
manager:
  description: The package manager that was asked; null when there is none.
  type: str
  returned: success
security_updates:
  description:
    - Pending security updates, each with C(package), C(installed), C(candidate), C(source), C(severity), C(advisory), C(issued),
      C(age_days) and C(held).
  type: list
  elements: dict
  returned: success
other_updates:
  description: How many other updates are pending; null when not known.
  type: int
  returned: success
held:
  description: Packages that are held or locked to a version.
  type: list
  elements: str
  returned: success
reboot_required:
  description: Whether a reboot is needed; null when not known.
  type: bool
  returned: success
lists_refreshed:
  description: When the package lists were refreshed; null when there are none.
  type: str
  returned: success
newest_fix_age_days:
  description: How long the newest unapplied fix waits; null when none is pending or not known.
  type: float
  returned: success
oldest_fix_age_days:
  description: How long the oldest unapplied fix waits; null when none is pending or not known.
  type: float
  returned: success
checks:
  description: The checks C(updates.security), C(updates.security_age), C(updates.lists), C(updates.reboot) and C(updates.held).
  type: list
  elements: dict
  returned: success
status:
  description: The worst status of the checks.
  type: str
  returned: success
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._probes.security_updates_info import ARGUMENTS, operate


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: operate(module.params, module.check_mode))


if __name__ == "__main__":
    main()
