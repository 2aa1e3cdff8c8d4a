#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: disk_usage_info
short_description: Bytes and inodes of file systems, their growth, and the days until they are full
version_added: 1.0.0
description:
  - Asks the kernel for bytes and inodes of given paths, or of all file systems that hold data, each once. Pseudo file systems,
    read-only images and single files mounted into a container are left out.
  - Each file system is asked by a process of its own. One that does not answer within O(timeout), such as that of a file server
    that is gone, is V(unknown) and does not keep the others waiting.
  - With O(history_file), growth is the median slope of the kept samples, which single wild samples do not move. It is told from
    three samples over at least a day on; until then there is no check of the days until full.
  - The checks are C(disk.usage), C(disk.inodes), C(disk.days_to_full) and, for a missing mount of O(required_mounts),
    C(disk.mounted); the C(subject) of each is the path.
  - The module does not fail for a full disk; use RV(status).
author:
  - FileForge operations (@fileforge)
extends_documentation_fragment:
  - fileforge.ops.attributes.info_module
options:
  paths:
    description: Absolute paths whose file systems are looked at. When neither these nor O(required_mounts) are given, all.
    type: list
    elements: str
    default: []
  required_mounts:
    description: Absolute paths that must be mount points themselves. Critical when one is only a directory of another file system.
    type: list
    elements: str
    default: []
  exclude:
    description: Mount points or types of file systems that are left out when all are looked at.
    type: list
    elements: str
    default: []
  usage_warning:
    description: Fraction of 1 over which used bytes are a warning, as C(df) counts them.
    type: float
    default: 0.8
  usage_critical:
    description: Fraction of 1 over which used bytes are critical.
    type: float
    default: 0.9
  inodes_warning:
    description: Fraction of 1 over which used inodes are a warning.
    type: float
    default: 0.8
  inodes_critical:
    description: Fraction of 1 over which used inodes are critical.
    type: float
    default: 0.9
  days_warning:
    description: A file system that is full in so many days or less is a warning.
    type: float
    default: 30
  days_critical:
    description: A file system that is full in so many days or less is critical.
    type: float
    default: 7
  timeout:
    description: Seconds that all file systems together have to answer.
    type: float
    default: 5
  history_file:
    description:
      - File that keeps the samples. Each run adds one, of which one an hour is kept; check mode adds none.
      - It is the module's own notebook and not counted as a change.
    type: path
  history_days:
    description: Days that samples are kept and looked at.
    type: float
    default: 30
seealso:
  - module: fileforge.ops.logrotate_config
"""

EXAMPLES = r"""
- name: Look at the uploads' volume, which must be mounted
  fileforge.ops.disk_usage_info:
    required_mounts: [/app/uploads]
    paths: [/var/log, /var/lib/postgresql]
    history_file: /var/lib/fileforge/disk-usage.json
  register: disks

- name: Look at every file system of the host
  fileforge.ops.disk_usage_info:
    exclude: [vfat, /mnt/scratch]
"""

RETURN = r"""
volumes:
  description: What was looked at.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The path that was asked for.
      type: str
    mount_point:
      description: Where its file system is mounted.
      type: str
    device:
      description: Device or source of the file system.
      type: str
    type:
      description: Type of the file system.
      type: str
    total_bytes:
      description: Size of the file system.
      type: int
    used_bytes:
      description: Bytes that are used.
      type: int
    available_bytes:
      description: Bytes that users other than root can still use.
      type: int
    used_fraction:
      description: Used bytes as a fraction of what can be used.
      type: float
    total_inodes:
      description: Inodes; 0 for file systems without a fixed number.
      type: int
    used_inode_fraction:
      description: Used inodes as a fraction; null for file systems without a fixed number.
      type: float
    read_only:
      description: Whether it is mounted read-only.
      type: bool
    growth_bytes_per_day:
      description: Growth; null while it is not known.
      type: int
    days_to_full:
      description: Days until it is full at that growth; null when it does not grow or is not known.
      type: float
    samples:
      description: Samples that growth is told from.
      type: int
    problem:
      description: Why nothing is known about it; empty when all is well.
      type: str
checks:
  description: The checks of all volumes.
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
from ansible_collections.fileforge.ops.plugins.module_utils._probes.disk_usage_info import ARGUMENTS, operate


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: operate(module.params, module.check_mode))


if __name__ == "__main__":
    main()
