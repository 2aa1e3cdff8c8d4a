#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_backup_expire
short_description: Delete the base backups, WAL and dumps of PostgreSQL that are not to be kept any longer
version_added: 1.0.0
author:
  - FileForge operations (@fileforge)
description:
  - Deletes base backups and dumps by age, WAL that no backup needs any longer, and what backups left that were never finished.
  - A base backup is kept when it is younger than O(keep_days), or one of the O(keep_least) newest that can be restored, or when the
    WAL of the last O(wal_days) is replayed from it. So backups that are not made any more do not expire until nothing is left.
  - WAL is kept from the last base backup before the last O(wal_days) on, across timelines, so that every moment since can be
    restored. Of older base backups that are kept, the WAL from start to end is kept, without which none can be restored.
  - Segments are judged by timeline and number and are deleted only when they are older than O(wal_days) as well. Neither an
    abandoned timeline nor an upgraded cluster makes backups of another lose what they need.
  - A backup that its last verification (M(fileforge.ops.postgres_backup_verify)) found bad does not count as one that can be
    restored. One that was only slower than its C(rto) does.
  - While no base backup can be restored, neither base backups nor WAL are deleted. While a history file or an index cannot be read,
    no WAL is deleted; a warning says which.
  - The index of a base backup and the manifest of a dump are deleted first, WAL last. A run that was interrupted leaves nothing
    that looks complete and is not; the next run goes on.
  - Where the bucket keeps older versions, deleted objects remain as such until a lifecycle rule removes them
    (M(fileforge.ops.s3_backup_policy)).
options:
  prefix:
    description: What stands before C(base/), C(wal/) and C(database/) in the names of the objects, with its final slash.
    type: str
    default: ""
  keep_days:
    description: Days for which base backups are kept. They cannot be fewer than O(wal_days).
    type: float
    default: 30
  keep_least:
    description: How many of the newest base backups that can be restored are kept, however old they are.
    type: int
    default: 7
  wal_days:
    description: Days of which every moment can be restored.
    type: float
    default: 7
  dump_days:
    description: Days for which dumps are kept.
    type: float
    default: 30
  dump_least:
    description: How many of the newest dumps are kept, however old they are. The one that C(latest.json) names always is.
    type: int
    default: 7
  aborted_days:
    description: Days after which a backup or an upload that was never finished is taken for aborted.
    type: float
    default: 2
extends_documentation_fragment:
  - fileforge.ops.attributes
  - fileforge.ops.s3
  - fileforge.ops.planned
requirements:
  - boto3 >= 1.26
notes:
  - Base backups and dumps whose name does not begin with a date and that have neither index nor manifest are left alone, and so
    are history files.
seealso:
  - module: fileforge.ops.s3_backup_policy
  - module: fileforge.ops.postgres_backup_info
"""

EXAMPLES = r"""
- name: Show what would expire
  fileforge.ops.postgres_backup_expire:
    s3_bucket: fileforge-backups
  check_mode: true
  register: expiry

- name: Delete just that
  fileforge.ops.postgres_backup_expire:
    s3_bucket: fileforge-backups
    plan_digest: "{{ expiry.plan.digest }}"
"""

RETURN = r"""
plan:
  description: What is deleted, or in check mode would be, in that order.
  returned: success
  type: dict
  contains:
    title:
      description: What is done.
      type: str
    steps:
      description: The steps in order, with C(action), C(object), C(count), C(bytes), C(destructive) and C(detail).
      type: list
      elements: dict
    notes:
      description: Why something is kept that could have expired.
      type: list
      elements: str
    digest:
      description: Digest of title and steps.
      type: str
      sample: 1f0c2a9be4d7a653
    destructive:
      description: Whether anything is deleted.
      type: bool
backups:
  description: Each base backup, oldest first, whether it is C(kept), and the C(reason).
  returned: success
  type: list
  elements: dict
  sample: [{name: 2026-11-23-0300, kept: true, reason: younger than 30 days}]
dumps:
  description: The same for dumps.
  returned: success
  type: list
  elements: dict
wal:
  description: How many segments there are, and how many of them expire.
  returned: success
  type: dict
  sample: {segments: 4032, expired: 288}
bytes:
  description: Bytes of the objects that are deleted.
  returned: success
  type: int
timings:
  description: The phase C(expire) with C(seconds), C(done) and C(unit).
  returned: success
  type: list
  elements: dict
"""

import dataclasses
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils import _argspec
from ansible_collections.fileforge.ops.plugins.module_utils._backup.expire_run import ExpireOptions, run_expiry
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import S3Options, Store
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.names import check_prefix
from ansible_collections.fileforge.ops.plugins.module_utils._time import now

SPEC: _argspec.Spec = {
    "prefix": {"type": "str", "default": ""},
    "keep_days": {"type": "float", "default": 30},
    "keep_least": {"type": "int", "default": 7},
    "wal_days": {"type": "float", "default": 7},
    "dump_days": {"type": "float", "default": 30},
    "dump_least": {"type": "int", "default": 7},
    "aborted_days": {"type": "float", "default": 2},
}


def run(module: AnsibleModule) -> dict[str, t.Any]:
    params = module.params
    options = ExpireOptions(**{field.name: params[field.name] for field in dataclasses.fields(ExpireOptions)})
    options.check()
    result = run_expiry(
        Store(S3Options.from_params(params)),
        check_prefix(params["prefix"]),
        options,
        now(),
        check_mode=module.check_mode,
        plan_digest=params["plan_digest"],
    )
    for warning in result.pop("warnings"):
        module.warn(warning)
    return result


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec=_argspec.merge(SPEC, _argspec.S3, _argspec.PLANNED),
        supports_check_mode=True,
    )
    conclude(module, lambda: run(module))


if __name__ == "__main__":
    main()
