#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_backup_verify
short_description: Verify a PostgreSQL backup by restoring it on a scratch server
version_added: 1.0.0
description:
  - Fetches a dump, or a base backup with its WAL, compares every byte with the checksums that were written when the backup was
    made, restores it on a scratch server of its own, and examines what came out.
  - The scratch server lives in one directory, listens on its Unix socket only and archives nothing. It is removed in every case.
    What a killed run left is removed by the next one.
  - Of a dump, it is restored at the first error or not at all, a plain one in one transaction, and the rows of each table are
    compared with those that were counted in the dump's own snapshot.
  - Of a base backup, WAL is proved to be contiguous and replayed, and the checksum of each page is verified.
  - In both, all btree indexes and, from PostgreSQL 14 on, all tables are examined with C(amcheck), and the queries of
    O(assertions) must give what they must.
  - The verdict is written into the bucket as C(verification/<time>-<kind>-<name>.json), from which
    M(fileforge.ops.postgres_backup_info) tells when a backup was last found good.
  - The module does not fail for a bad backup; use RV(status). It fails when this host cannot look, and then writes no verdict.
options:
  kind:
    description: Whether a dump of M(fileforge.ops.postgres_dump) or a base backup is verified.
    type: str
    choices: [dump, base]
    default: dump
  backup:
    description: Name of the backup, or V(latest) for the newest that was finished.
    type: str
    default: latest
  prefix:
    description: What stands before C(database/), C(base/) and C(wal/) in the keys of the bucket, with its final slash.
    type: str
    default: ''
  target_time:
    description:
      - For O(kind=base), the point in time to restore to, as an ISO 8601 date and time with an offset from UTC. V(latest) replays
        all archived WAL.
    type: str
    default: latest
  scratch_directory:
    description:
      - Directory for the scratch server on this host, with room for the restored database. It is created when it is missing, and
        must hold nothing else.
    type: path
    required: true
  database:
    description:
      - For O(kind=base), the database in which O(minimum_rows) and O(assertions) are looked for. Of a dump, it is the one that was
        dumped.
    type: str
  minimum_rows:
    description: Tables, and how many rows each must have at least.
    type: dict
    default: {}
  assertions:
    description: Queries and what their value must be.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the assertion, part of the id of its check (C(postgres.assert.<name>)).
        type: str
        required: true
      query:
        description: A statement that gives one row with one column.
        type: str
        required: true
      equals:
        description: The value must be equal to this. Numbers are compared as numbers.
        type: str
      minimum:
        description: The value must not be less than this.
        type: float
      maximum:
        description: The value must not be more than this.
        type: float
  amcheck:
    description: Whether to examine indexes and tables with C(amcheck). The extension is created on the scratch server only.
    type: bool
    default: true
  heapallindexed:
    description: Whether to prove also that each row of a table is found in its indexes.
    type: bool
    default: true
  page_checksums:
    description: For O(kind=base), whether the checksum of each page is verified, if the cluster has data checksums.
    type: bool
    default: true
  owner:
    description: The user that the scratch server runs as.
    type: str
    default: postgres
  bin_directory:
    description: Directory of the server's programs. When not set, it is found by the major version of the backup.
    type: path
  program_interpreter:
    description: The Python with boto3 that runs the WAL program during recovery, as the user O(owner).
    type: path
    default: /usr/bin/python3
  server_options:
    description: Settings of the form C(name=value) that the scratch server is started with, such as libraries to preload.
    type: list
    elements: str
    default: []
  jobs:
    description: How many objects are fetched, or tables restored, at once. When not set, the number of processors, at most 8.
    type: int
  timeout:
    description: Seconds that everything may take.
    type: int
    default: 14400
  rto:
    description: Seconds that fetching and restoring may take before the check C(verify.time) is critical. V(0) means no limit.
    type: int
    default: 0
  max_age:
    description:
      - When a backup of this kind (or the one that O(backup) names) was found good less than so many seconds ago, nothing is done
        and that verdict is returned. With V(0) each run verifies.
    type: int
    default: 0
  record:
    description: Whether the verdict is written into the bucket.
    type: bool
    default: true
extends_documentation_fragment:
  - fileforge.ops.attributes
  - fileforge.ops.s3
  - fileforge.ops.planned.progress
attributes:
  idempotent:
    support: partial
    details: With O(max_age), a second run within that time changes nothing. Without it, each run verifies and writes a verdict.
requirements:
  - boto3 >= 1.26 (also for O(program_interpreter))
  - psycopg >= 3.1
  - the programs of PostgreSQL of the backup's major version, with its extension C(amcheck)
notes:
  - Must run as root or as O(owner).
  - A dump needs room for its objects and 1.2 times the size that its database had; a base backup what a restore needs.
  - Roles and tablespaces that a dump refers to are created on the scratch server. Libraries of extensions must be installed.
seealso:
  - module: fileforge.ops.postgres_dump
  - module: fileforge.ops.postgres_base_backup
  - module: fileforge.ops.postgres_backup_info
  - module: fileforge.ops.postgres_scratch
author:
  - FileForge operations (@fileforge)
"""

EXAMPLES = r"""
- name: Verify the newest dump
  fileforge.ops.postgres_backup_verify:
    s3_bucket: fileforge-backups-prod
    scratch_directory: /var/lib/postgresql/verify
    minimum_rows:
      files: 1
      users: 1
  register: verified
  failed_when: verified.status != 'ok'

- name: Verify the newest base backup and all WAL since, unless that was done this week
  fileforge.ops.postgres_backup_verify:
    s3_bucket: fileforge-backups-prod
    kind: base
    scratch_directory: /var/lib/postgresql/verify
    database: fileforge
    assertions:
      - name: no_file_without_owner
        query: SELECT count(*) FROM files WHERE user_id IS NULL
        equals: "0"
    rto: 14400
    max_age: 604800
  register: verified
  failed_when: verified.status != 'ok'
"""

RETURN = r"""
plan:
  description: What is fetched, restored, verified and removed, or in check mode would be.
  returned: success
  type: dict
backup:
  description: The backup with C(kind), C(name), C(key), and what it is; C(rows) for a dump, C(recovery) for a base backup.
  returned: success
  type: dict
  sample: {kind: dump, name: 2026-11-23-1405, key: database/2026-11-23-1405.sql.gz, bytes: 1091281, rows: 41000}
checks:
  description:
    - C(verify.manifest), C(verify.checksum), C(verify.restore), C(verify.row_counts) (dump), C(verify.wal) (base),
      C(verify.minimum_rows), C(verify.page_checksums) (base), C(verify.time), C(postgres.amcheck.indexes),
      C(postgres.amcheck.tables) and one C(postgres.assert.<name>) for each of O(assertions).
    - What could not be reached because the backup was found bad before is C(unknown). Empty in check mode.
  returned: success
  type: list
  elements: dict
status:
  description: The worst status of the checks; C(unknown) in check mode.
  returned: success
  type: str
  sample: ok
findings:
  description: Damage that C(amcheck) found, each with C(database), C(relation), C(kind) and C(message).
  returned: success
  type: list
  elements: dict
record:
  description: Key of the verdict in the bucket.
  returned: success
  type: str
  sample: verification/2026-11-23T140501.000000Z-dump-2026-11-23-1405.json
begun:
  description: When the verification began.
  returned: when something was verified
  type: str
ended:
  description: When it ended.
  returned: when something was verified
  type: str
timings:
  description: Phases of the run with C(seconds), C(done) and C(unit).
  returned: success
  type: list
  elements: dict
reason:
  description:
    - On a refusal, which. One of V(no_backups), V(backup_unknown), V(locked), V(not_scratch), V(disk_space), V(wrong_version),
      V(parent_missing), V(parent_not_writable) and V(parent_not_reachable).
  returned: failure
  type: str
"""

import dataclasses
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils import _argspec
from ansible_collections.fileforge.ops.plugins.module_utils._backup.verify import run_verify
from ansible_collections.fileforge.ops.plugins.module_utils._backup.verify_common import VerifyOptions
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import S3Options, Store
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.names import check_prefix
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.verify import Assertion
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress

MOST_JOBS = 8
SPEC: _argspec.Spec = {
    "kind": {"type": "str", "choices": ["dump", "base"], "default": "dump"},
    "backup": {"type": "str", "default": "latest"},
    "prefix": {"type": "str", "default": ""},
    "target_time": {"type": "str", "default": "latest"},
    "scratch_directory": {"type": "path", "required": True},
    "database": {"type": "str"},
    "minimum_rows": {"type": "dict", "default": {}},
    "assertions": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "query": {"type": "str", "required": True},
            "equals": {"type": "str"},
            "minimum": {"type": "float"},
            "maximum": {"type": "float"},
        },
    },
    "amcheck": {"type": "bool", "default": True},
    "heapallindexed": {"type": "bool", "default": True},
    "page_checksums": {"type": "bool", "default": True},
    "owner": {"type": "str", "default": "postgres"},
    "bin_directory": {"type": "path"},
    "program_interpreter": {"type": "path", "default": "/usr/bin/python3"},
    "server_options": {"type": "list", "elements": "str", "default": []},
    "jobs": {"type": "int"},
    "timeout": {"type": "int", "default": 14400},
    "rto": {"type": "int", "default": 0},
    "max_age": {"type": "int", "default": 0},
    "record": {"type": "bool", "default": True},
}


def rows_of(minimum: t.Mapping[str, t.Any]) -> dict[str, int]:
    """Tables and numbers. Raises InvalidOption."""
    found = {}
    for table, least in minimum.items():
        try:
            found[str(table)] = int(least)
        except (TypeError, ValueError):
            raise InvalidOption("minimum_rows", least, f"not a number of rows for {table}") from None
    return found


def options_of(params: t.Mapping[str, t.Any]) -> VerifyOptions:
    """The engine's options from the module's. Raises InvalidOption."""
    values = {field.name: params[field.name] for field in dataclasses.fields(VerifyOptions)}
    jobs = params["jobs"]
    values.update(
        prefix=check_prefix(params["prefix"]),
        scratch_directory=os.path.realpath(params["scratch_directory"]),
        minimum_rows=rows_of(params["minimum_rows"]),
        assertions=tuple(Assertion(**item) for item in params["assertions"]),
        server_options=tuple(params["server_options"]),
        jobs=min(MOST_JOBS, len(os.sched_getaffinity(0))) if jobs is None else jobs,
    )
    return VerifyOptions(**values)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    return run_verify(
        Store(S3Options.from_params(module.params)),
        options_of(module.params),
        check_mode=module.check_mode,
        progress=Progress(module.params["progress_file"]),
    )


def main() -> t.NoReturn:
    module = AnsibleModule(argument_spec=_argspec.merge(SPEC, _argspec.S3, _argspec.PROGRESS), supports_check_mode=True)
    conclude(module, lambda: run(module))


if __name__ == "__main__":
    main()
