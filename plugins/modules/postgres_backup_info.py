#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_backup_info
short_description: Tell what PostgreSQL backups a bucket holds and what can be restored from them
version_added: 1.0.0
author:
  - FileForge operations (@fileforge)
description:
  - Lists base backups, WAL and dumps, and works out from when to when a database can be restored on each timeline.
  - Judges them by checks. C(backup.age), C(backup.complete), C(backup.size), C(backup.wal_contiguous), C(backup.rpo),
    C(backup.verified), and with O(target_time) C(backup.target_reachable).
  - The recovery point is measured by the last transaction inside the newest contiguous WAL, not by the times of objects.
  - When the bucket cannot be reached, the checks are C(unknown) and the module does not fail.
  - Needs no database. It reads the bucket only.
options:
  prefix:
    description: What stands before C(base/) and C(wal/) in the names of the objects, with its final slash.
    type: str
    default: ""
  rpo:
    description: Recovery point objective in seconds. At most so much work may be lost.
    type: int
    default: 3600
  max_backup_age:
    description: Age in seconds from which the newest complete base backup is too old. The default is a day and two hours.
    type: int
    default: 93600
  max_verified_age:
    description:
      - Age in seconds from which the last good verdict of M(fileforge.ops.postgres_backup_verify) is too old. The default is eight
        days. With V(0) there is no check of verifications.
    type: int
    default: 691200
  min_size:
    description:
      - The newest complete base backup is suspiciously small when it is smaller than this fraction of the median of the seven
        before it. Smaller than half of that is critical. With V(0) there is no check of the size.
      - Only backups of the same database system are compared, by what they hold before compression, and plain archives only with
        plain archives, by their bytes in the bucket. Without an earlier one to compare with, the check is V(ok) and says so.
    type: float
    default: 0.5
  target_time:
    description: A point in time to be looked at, as an ISO 8601 date and time with an offset from UTC. Could it be restored?
    type: str
extends_documentation_fragment:
  - fileforge.ops.attributes.info_module
  - fileforge.ops.s3
"""

EXAMPLES = r"""
- name: What can be restored?
  fileforge.ops.postgres_backup_info:
    s3_bucket: fileforge-backups
    rpo: 3600
  register: backups

- name: Could this moment be restored?
  fileforge.ops.postgres_backup_info:
    s3_bucket: fileforge-backups
    target_time: "2026-11-23T14:05:00+00:00"
"""

RETURN = r"""
backups:
  description: Base backups, oldest first.
  type: list
  elements: dict
  returned: success
  sample:
    - name: 2026-11-23-1405
      key: base/2026-11-23-1405_base.tar.gz
      bytes: 4213412
      content_bytes: 31457280
      complete: true
      plain: false
      problem: ""
      started: "2026-11-23T14:05:01.000000+00:00"
      stopped: "2026-11-23T14:05:03.000000+00:00"
      start_lsn: 0/3000028
      stop_lsn: 0/3000138
      timeline: 1
wal:
  description: Ranges and gaps of each timeline.
  type: list
  elements: dict
  returned: success
dumps:
  description:
    - Dumps, oldest first, each with C(name), C(key), C(format), C(bytes), C(modified), C(complete) and C(problem), and those with a
      manifest with C(database), C(tables) and C(rows).
  type: list
  elements: dict
  returned: success
last_verified:
  description:
    - The newest verification that found its backup good, however long it took, with C(kind), C(backup), C(finished) and C(host).
      Empty for none.
  type: dict
  returned: success
restorable:
  description: What can be restored to. Any time after C(from) and not after C(to), on this timeline.
  type: list
  elements: dict
  returned: success
  sample:
    - from: "2026-11-23T14:05:03.000000+00:00"
      to: "2026-11-23T15:00:00.123456+00:00"
      timeline: 1
      backup: 2026-11-23-1405
      last_segment: "000000010000000000000009"
rpo_seconds:
  description: Age of the last transaction that could be restored now. Empty when nothing tells.
  type: float
  returned: success
last_transaction:
  description: When that transaction ended.
  type: str
  returned: success
checks:
  description: What was looked at, what was found, and what to do about it.
  type: list
  elements: dict
  returned: success
status:
  description: The worst status of the checks.
  type: str
  returned: success
  sample: ok
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._probes.postgres_backup_info import ARGUMENTS, operate


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: operate(module.params, module.check_mode))


if __name__ == "__main__":
    main()
