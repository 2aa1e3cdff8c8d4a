#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: s3_tree
short_description: Make a directory equal to a prefix of an S3 bucket, or the prefix equal to the directory
version_added: 1.0.0
description:
  - Compares a directory with the objects below a prefix by size and checksum and transfers what differs, several files at a time.
  - Each file appears under its name only when it is whole and its checksum is right. A run that was interrupted is resumed by
    running it again.
  - Nothing is deleted outright. Files that are removed or replaced are kept below O(aside); objects that are removed or replaced
    are kept beside the prefix, in C(<prefix>.aside), or as older versions (O(keep_objects)).
  - Checksums come from the manifest beside the prefix (C(<prefix>.tree.jsonl.gz), which a push writes), else from the objects'
    ETags, else from their metadata C(sha256). Local files are only read again when they changed since the last run.
  - Refuses, before it touches anything, an empty source (O(allow_empty)), the removal of more than O(max_delete_percent) of the
    target's files, object keys that cannot safely become files, and trees that another file system is mounted in.
  - Symbolic links and special files are left alone and reported; none is ever followed.
options:
  path:
    description:
      - The directory, as an absolute path. It is created when it does not exist and O(direction=pull).
    type: path
    required: true
  prefix:
    description:
      - The prefix, taken as a directory. V(files) means all objects whose key begins with C(files/).
      - When empty, the whole bucket is meant, which O(direction=push) does not accept.
    type: str
    default: ''
  direction:
    description: Whether the directory is made equal to the prefix (V(pull)) or the prefix equal to the directory (V(push)).
    type: str
    choices: [pull, push]
    default: pull
  delete:
    description:
      - Whether what is only in the target is moved aside. When not set, it is if O(direction=pull), and is not if
        O(direction=push).
    type: bool
  max_delete_percent:
    description: The share of the target's files, in percent, that may be moved aside. With more, the module refuses.
    type: float
    default: 10
  allow_empty:
    description: Whether a source without any file is accepted. O(max_delete_percent) holds all the same.
    type: bool
    default: false
  aside:
    description:
      - Directory for removed and replaced files and for the module's own state. It must be on the same file system as O(path).
      - When not set, it is O(path) with C(.aside) appended. When O(path) is a mount point, give a directory inside it; that
        directory is left out of the comparison.
    type: path
  jobs:
    description: How many files, or ranges of a big file, are transferred at the same time.
    type: int
    default: 8
  owner:
    description: Name or number of the user who is to own the files. When not set, existing files keep theirs.
    type: str
  group:
    description: Name or number of the group that is to own the files. When not set, existing files keep theirs.
    type: str
  verify:
    description: Whether local files are read and hashed even when size, times and inode are those of the last run.
    type: bool
    default: false
  keep_objects:
    description:
      - Where objects are kept that O(direction=push) replaces or removes. With V(aside), beside the prefix.
      - With V(auto), as older versions when the bucket keeps versions, else beside the prefix.
    type: str
    choices: [aside, auto]
    default: aside
extends_documentation_fragment:
  - fileforge.ops.attributes
  - fileforge.ops.s3
  - fileforge.ops.planned
  - fileforge.ops.planned.progress
requirements:
  - boto3 >= 1.26
notes:
  - Permission bits and modification times are kept where the manifest or the objects' metadata (C(mode), C(mtime)) tell them.
    Other new files get mode V(0644), new directories V(0755). Set-user-ID, set-group-ID and sticky bits are never restored.
  - Empty directories have no objects; they are neither created nor removed, unless all of a directory's files are moved aside.
  - Memory does not grow with the number of files; the inventories are kept in a temporary database on disk (some 200 bytes a file).
  - The plan of an interrupted run stays valid, with its digest, as long as all that is left was part of it.
seealso:
  - module: fileforge.ops.postgres_restore
author:
  - FileForge operations (@fileforge)
"""

EXAMPLES = r"""
- name: Restore the uploads
  fileforge.ops.s3_tree:
    s3_bucket: fileforge-backups-prod
    prefix: files
    path: /var/lib/fileforge/uploads
    owner: fileforge
    group: fileforge

- name: Show what a restore from the second region would change
  fileforge.ops.s3_tree:
    s3_bucket: fileforge-backups-dr
    s3_region: us-west-2
    prefix: files
    path: /var/lib/fileforge/uploads
  check_mode: true
  register: uploads

- name: Back the uploads up, adding and replacing only
  fileforge.ops.s3_tree:
    s3_bucket: fileforge-backups-prod
    prefix: files
    path: /var/lib/fileforge/uploads
    direction: push
"""

RETURN = r"""
plan:
  description: What is done, or in check mode would be done.
  returned: success
  type: dict
  contains:
    title:
      description: What is made equal to what.
      type: str
    steps:
      description: The steps in order, with C(action), C(object), C(count), C(bytes), C(destructive) and C(detail).
      type: list
      elements: dict
    notes:
      description: What the digest does not cover, such as how much of an interrupted run is done already.
      type: list
      elements: str
    digest:
      description: Digest of title and steps. It covers each path, size and checksum.
      type: str
      sample: 1f0c2a9be4d7a653
    destructive:
      description: Whether a step replaces or moves anything aside.
      type: bool
changes:
  description: The first 200 paths of each action.
  returned: success
  type: dict
  sample: {fetch: [2026/11/a.pdf], move_aside: [2024/old.pdf]}
kept:
  description:
    - Directory, or prefix of the bucket, in which removed and replaced files are kept. Null when there were none, or when the
      bucket keeps them as older versions.
  returned: success
  type: str
  sample: /var/lib/fileforge/uploads.aside/1f0c2a9be4d7a653
timings:
  description: Phases of the run (C(list), C(compare), C(transfer), C(aside)) with C(seconds), C(done) and C(unit).
  returned: success
  type: list
  elements: dict
reason:
  description:
    - On a refusal, which. One of V(source_empty), V(too_many_removals), V(hostile_key), V(hostile_name), V(link_in_way),
      V(disk_space), V(symbolic_link), V(not_a_directory), V(aside_other_file_system), V(mount_inside), V(not_privileged),
      V(locked) and V(plan_changed).
    - When bytes are wrong, V(damaged) (the object's content is not what was stored), V(replaced) or V(precondition) (it was
      replaced meanwhile), or V(changed) (a local file changed while it was uploaded).
  returned: failure
  type: str
damaged_keys:
  description: Keys of the damaged objects. All other files were written.
  returned: when objects are damaged
  type: list
  elements: str
"""

import dataclasses
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils import _argspec
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import S3Options, Store
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.tree import TreeOptions
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.tree_run import run_tree
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress

SPEC: _argspec.Spec = {
    "path": {"type": "path", "required": True},
    "prefix": {"type": "str", "default": ""},
    "direction": {"type": "str", "choices": ["pull", "push"], "default": "pull"},
    "delete": {"type": "bool"},
    "max_delete_percent": {"type": "float", "default": 10},
    "allow_empty": {"type": "bool", "default": False},
    "aside": {"type": "path"},
    "jobs": {"type": "int", "default": 8},
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "verify": {"type": "bool", "default": False},
    "keep_objects": {"type": "str", "choices": ["aside", "auto"], "default": "aside"},
}


def run(module: AnsibleModule) -> dict[str, t.Any]:
    options = TreeOptions(**{field.name: module.params[field.name] for field in dataclasses.fields(TreeOptions)})
    options.check()
    store = Store(S3Options.from_params(module.params), pool=options.jobs + 2)
    result = run_tree(
        store,
        options,
        check_mode=module.check_mode,
        plan_digest=module.params["plan_digest"],
        progress=Progress(module.params["progress_file"]),
    )
    for warning in result.pop("warnings"):
        module.warn(warning)
    return result


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec=_argspec.merge(SPEC, _argspec.S3, _argspec.PLANNED, _argspec.PROGRESS),
        supports_check_mode=True,
    )
    conclude(module, lambda: run(module))


if __name__ == "__main__":
    main()
