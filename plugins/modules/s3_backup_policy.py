#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: s3_backup_policy
short_description: Give a bucket of backups its versioning, lifecycle rules, lock, encryption and privacy, and check them
version_added: 1.0.0
author:
  - FileForge operations (@fileforge)
description:
  - Configures a bucket for backups and judges it by checks. C(policy.lifecycle), C(policy.kept), and, where they are asked for,
    C(policy.versioning), C(policy.archive_class), C(policy.object_lock), C(policy.encryption), C(policy.public_access),
    C(policy.replication) and C(policy.replica).
  - Its lifecycle rules move base backups and dumps to a cheaper class, remove deleted and replaced objects for good after some
    days, and drop unfinished uploads. They never delete a current base backup, WAL segment or dump, because a rule that only counts
    days takes WAL that a backup still needs. M(fileforge.ops.postgres_backup_expire) deletes these.
  - Rules that are not its own are kept as they are. When one of them deletes backups by age, the check C(policy.kept) is critical
    and names it.
  - What the service does not implement, or the credentials may not see, is C(unknown) with the reason, and nothing is planned for
    it.
  - Encryption is proven by an object that is written and read. When that fails, the former encryption is put back.
  - Replication is checked and not configured. By the bucket's replication configuration and what it says of the newest objects, and
    by comparing the newest objects with those of O(replica).
options:
  prefix:
    description:
      - What stands before C(base/), C(wal/), C(database/) and C(config/) in the names of the objects, with its final slash.
    type: str
    default: ""
  files_prefix:
    description: Prefix of the uploaded files, as M(fileforge.ops.s3_tree) has it.
    type: str
    default: files
  versioning:
    description: Whether older versions of objects are to be kept. When false, it is left as it is and not checked.
    type: bool
    default: true
  deleted_days:
    description: Days for which deleted or replaced base backups, WAL and dumps can be brought back.
    type: int
    default: 7
  files_days:
    description: Days for which deleted or replaced files can be brought back.
    type: int
    default: 90
  archive_class:
    description:
      - Storage class to which base backups and dumps move, or V(none).
      - Classes from which nothing can be read at once are not offered. A restore would wait for hours.
    type: str
    choices: [none, GLACIER_IR, STANDARD_IA, INTELLIGENT_TIERING]
    default: GLACIER_IR
  archive_after_days:
    description: Days after which they move. Objects of 128 KiB and less stay.
    type: int
    default: 7
  abort_uploads_days:
    description: Days after which uploads that were never finished are dropped.
    type: int
    default: 7
  object_lock:
    description:
      - How new objects are locked, or V(none) to leave that as it is. With V(governance) special permission lifts the lock, with
        V(compliance) nobody can.
      - It needs versioning, and once enabled it cannot be taken off the bucket.
    type: str
    choices: [none, governance, compliance]
    default: none
  object_lock_days:
    description: Days for which a new object is locked.
    type: int
    default: 7
  encryption:
    description: How objects are encrypted by default, or V(none) to leave that as it is.
    type: str
    choices: [none, AES256, 'aws:kms']
    default: AES256
  encryption_key:
    description: Identifier of the KMS key, with O(encryption=aws:kms). When not set, the service's own key is used.
    type: str
  block_public_access:
    description: Whether all public access is to be blocked. When false, it is left as it is and not checked.
    type: bool
    default: true
  replication:
    description: Whether to check that the backups are in a second region as well.
    type: bool
    default: true
  replica:
    description: How to reach the second bucket. The options are those of the first.
    type: dict
    suboptions:
      s3_bucket:
        description: Name of the bucket.
        type: str
        required: true
      s3_endpoint:
        description: URL of an S3-compatible service. Without it, AWS's endpoint of O(s3_region).
        type: str
      s3_region:
        description: Region name used for signing.
        type: str
        default: us-east-1
      s3_access_key:
        description:
          - Access key id. Without it, the standard search of the AWS SDK is used (E(AWS_ACCESS_KEY_ID), profile, instance role).
        type: str
      s3_secret_key:
        description: Secret access key. Goes with O(s3_access_key).
        type: str
      s3_session_token:
        description: Session token of temporary credentials.
        type: str
      s3_profile:
        description: Name of a profile in the AWS configuration files.
        type: str
      s3_ca_bundle:
        description: PEM file of the authorities that the endpoint's certificate may be signed by.
        type: path
      s3_addressing_style:
        description: Whether the bucket's name goes into the host name (V(virtual)) or the path (V(path)).
        type: str
        choices: [auto, path, virtual]
        default: auto
      s3_timeout:
        description: Seconds to wait for a connection or for the next bytes of an answer.
        type: int
        default: 60
      s3_attempts:
        description: How often one request is tried at most, with jittered exponential back-off.
        type: int
        default: 6
  replica_lag:
    description: Seconds after which an object must be in the second region.
    type: int
    default: 900
extends_documentation_fragment:
  - fileforge.ops.attributes
  - fileforge.ops.s3
  - fileforge.ops.planned
requirements:
  - boto3 >= 1.26
seealso:
  - module: fileforge.ops.postgres_backup_expire
"""

EXAMPLES = r"""
- name: Show what is not as it should be
  fileforge.ops.s3_backup_policy:
    s3_bucket: fileforge-backups
    object_lock: governance
    replica:
      s3_bucket: fileforge-backups-secondary
      s3_region: us-west-2
  check_mode: true
  register: policy

- name: Make it so
  fileforge.ops.s3_backup_policy:
    s3_bucket: fileforge-backups
    object_lock: governance
    plan_digest: "{{ policy.plan.digest }}"
"""

RETURN = r"""
plan:
  description: What is changed, or in check mode would be.
  returned: success
  type: dict
  contains:
    title:
      description: What is configured.
      type: str
    steps:
      description: The steps in order, with C(action), C(object), C(destructive) and C(detail).
      type: list
      elements: dict
    notes:
      description: What could not be looked at, and why.
      type: list
      elements: str
    digest:
      description: Digest of title and steps.
      type: str
      sample: 1f0c2a9be4d7a653
    destructive:
      description: Whether a step deletes objects sooner than before, or cannot be taken back.
      type: bool
rules:
  description: All lifecycle rules of the bucket, in words.
  returned: success
  type: list
  elements: str
  sample: ["files/: removes older versions after 90 days, drops unfinished uploads after 7 days"]
checks:
  description: What was looked at (after the changes, if there were any), what was found, and what to do about it.
  returned: success
  type: list
  elements: dict
status:
  description: The worst status of the checks.
  returned: success
  type: str
  sample: ok
"""

import dataclasses
import functools
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils import _argspec
from ansible_collections.fileforge.ops.plugins.module_utils._checks import result_of
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import S3Options, Store
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.policy import BucketPolicy
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.policy_checks import PolicyChecks
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.policy_rules import (
    CLASSES,
    ENCRYPTIONS,
    LOCKS,
    PolicyOptions,
    rule_text,
)
from ansible_collections.fileforge.ops.plugins.module_utils._time import now

SPEC: _argspec.Spec = {
    "prefix": {"type": "str", "default": ""},
    "files_prefix": {"type": "str", "default": "files"},
    "versioning": {"type": "bool", "default": True},
    "deleted_days": {"type": "int", "default": 7},
    "files_days": {"type": "int", "default": 90},
    "archive_class": {"type": "str", "choices": list(CLASSES), "default": "GLACIER_IR"},
    "archive_after_days": {"type": "int", "default": 7},
    "abort_uploads_days": {"type": "int", "default": 7},
    "object_lock": {"type": "str", "choices": list(LOCKS), "default": "none"},
    "object_lock_days": {"type": "int", "default": 7},
    "encryption": {"type": "str", "choices": list(ENCRYPTIONS), "default": "AES256"},
    "encryption_key": {"type": "str", "no_log": False},
    "block_public_access": {"type": "bool", "default": True},
    "replication": {"type": "bool", "default": True},
    "replica": {"type": "dict", "options": _argspec.S3},
    "replica_lag": {"type": "int", "default": 900},
}


def replica_of(params: t.Mapping[str, t.Any]) -> t.Callable[[], Store] | None:
    """How to open the second bucket."""
    return functools.partial(Store, S3Options.from_params(params["replica"])) if params["replica"] else None


def run(module: AnsibleModule) -> dict[str, t.Any]:
    params = module.params
    options = PolicyOptions(**{field.name: params[field.name] for field in dataclasses.fields(PolicyOptions)})
    options.check()
    replica = replica_of(params)
    policy = BucketPolicy(Store(S3Options.from_params(params)), options)
    state = policy.look()
    plan = policy.plan(state)
    plan.require(params["plan_digest"])
    if plan.steps and not module.check_mode:
        state = policy.apply(state)
    return {
        "changed": bool(plan.steps),
        "plan": plan.as_dict(),
        "diff": plan.as_diff(),
        "rules": [rule_text(rule) for rule in state.rules],
        **result_of(PolicyChecks(policy, state, now(), replica).all()),
    }


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec=_argspec.merge(SPEC, _argspec.S3, _argspec.PLANNED),
        supports_check_mode=True,
    )
    conclude(module, lambda: run(module))


if __name__ == "__main__":
    main()
