#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_dump
short_description: Dump a PostgreSQL database into an S3 bucket
version_added: 1.0.0
description:
  - Runs C(pg_dump) on an exported snapshot, streams what it writes into the bucket, and counts the rows of each table in the same
    snapshot. Nothing goes through a shell, and nothing is stored on the host, except for O(format=directory).
  - Writes a manifest with the SHA-256 and size of each object, the version of the server and the row counts, so that a restore
    can be compared with what was dumped. See M(fileforge.ops.postgres_backup_verify).
  - An object appears only when C(pg_dump) has ended well and wrote its last line. A dump that fails, or is killed, leaves nothing
    that looks like a backup, and the next run clears away what it left unfinished.
  - When everything has been read back and compared, the newest dump is copied to C(database/latest.sql.gz) (C(latest.dump) for
    O(format=custom)), and C(database/latest.json) names it.
options:
  prefix:
    description:
      - What stands before C(database/) in all keys in the bucket, with its final slash. Give each database a prefix of its own.
    type: str
    default: ''
  format:
    description:
      - V(plain) is SQL, compressed in parallel into C(database/<stamp>.sql.gz), which C(gunzip) reads.
      - V(custom) is C(database/<stamp>.dump) for C(pg_restore), compressed by C(pg_dump) itself.
      - V(directory) is dumped in parallel by O(jobs) sessions into O(spool_directory) and uploaded to C(database/<stamp>.dir/).
    type: str
    choices: [plain, custom, directory]
    default: plain
  max_age:
    description:
      - When a complete dump of this format ended less than so many seconds ago, nothing is done. With V(0) each run makes a dump.
    type: int
    default: 0
  jobs:
    description: How many threads compress, or sessions dump. When not set, the number of processors, but at most four.
    type: int
  compression_level:
    description:
      - From V(0) (fastest) to V(9) (smallest). For O(format=plain), levels up to 3 are several times faster where the Python
        library C(isal) is installed.
    type: int
    default: 1
  spool_directory:
    description: Directory on the host for the files of O(format=directory), which needs it. They are always removed.
    type: path
  bin_directory:
    description:
      - Directory with C(pg_dump). When not set, one of the server's major version is looked for, then a newer one.
    type: path
  lock_timeout:
    description: How many seconds to wait for a table that somebody changes the definition of.
    type: int
    default: 60
  timeout:
    description: How many seconds C(pg_dump) may take.
    type: int
    default: 21600
  read_back:
    description: Whether the dump is read back from the bucket and compared with what was written before it is called latest.
    type: bool
    default: true
extends_documentation_fragment:
  - fileforge.ops.attributes
  - fileforge.ops.s3
  - fileforge.ops.postgres
  - fileforge.ops.planned.progress
attributes:
  idempotent:
    support: partial
    details: With O(max_age), a second run within that time changes nothing. Without it, each run makes a dump.
requirements:
  - boto3 >= 1.26
  - psycopg >= 3.1
  - PostgreSQL 12 or newer, and its C(pg_dump) on the host
notes:
  - The role must be able to read all tables, for example as a member of C(pg_read_all_data), and to bypass row security.
  - A dump holds one database. Roles and tablespaces are not in it, but the manifest names those that it needs.
  - Runs anywhere that reaches the database, also against a standby.
  - Memory is bounded by some 150 MB and 10 MB more for each of O(jobs).
seealso:
  - module: fileforge.ops.postgres_backup_verify
  - module: fileforge.ops.postgres_backup_info
  - module: fileforge.ops.postgres_base_backup
author:
  - FileForge operations (@fileforge)
"""

EXAMPLES = r"""
- name: Make the daily dump, unless there is one already
  fileforge.ops.postgres_dump:
    s3_bucket: fileforge-backups-prod
    postgres_host: /var/run/postgresql
    postgres_database: fileforge
    max_age: 72000
  become: true
  become_user: postgres

- name: Dump in parallel
  fileforge.ops.postgres_dump:
    s3_bucket: fileforge-backups-prod
    postgres_host: /var/run/postgresql
    postgres_database: fileforge
    format: directory
    jobs: 8
    spool_directory: /var/spool/fileforge
  become: true
  become_user: postgres
"""

RETURN = r"""
plan:
  description: What is uploaded, or in check mode would be. C(<stamp>) in the keys stands for the time of the start.
  returned: success
  type: dict
  contains:
    title:
      description: Which database is dumped, and where to.
      type: str
    steps:
      description: The steps in order, with C(action), C(object) and C(detail). Empty when a young enough dump is there.
      type: list
      elements: dict
    notes:
      description: What the digest does not cover, such as the size of the database.
      type: list
      elements: str
    digest:
      description: Digest of title and steps.
      type: str
      sample: 1f0c2a9be4d7a653
    destructive:
      description: Always V(false).
      type: bool
dump:
  description: The dump that was made, or the one that O(max_age) accepted. Empty in check mode.
  returned: success
  type: dict
  contains:
    name:
      description: Its name, the minute of its start in UTC, with a number where that was taken.
      type: str
      sample: 2026-11-23-1405
    key:
      description: Key of its object; for a directory, what the keys of its objects begin with.
      type: str
      sample: database/2026-11-23-1405.sql.gz
    manifest_key:
      description: Key of its manifest.
      type: str
      sample: database/2026-11-23-1405.manifest.json
    format:
      description: Its format.
      type: str
    database:
      description: The database that was dumped.
      type: str
    started:
      description: When it was started.
      type: str
    finished:
      description: When everything was in the bucket.
      type: str
    snapshot_time:
      description: What committed before this moment is in the dump.
      type: str
    system_identifier:
      description: Identifier of the database system.
      type: str
    version_num:
      description: Version of the server, as C(server_version_num).
      type: int
    dump_version:
      description: Version of C(pg_dump).
      type: str
    bytes:
      description: Bytes in the bucket.
      type: int
    uncompressed_bytes:
      description: Bytes of a plain dump before compression.
      type: int
    sha256:
      description: SHA-256 of the object; empty for a directory.
      type: str
    objects:
      description: Number of objects.
      type: int
    tables:
      description: The tables, each with C(schema), C(name) and C(rows).
      type: list
      elements: dict
    rows:
      description: Rows of all tables.
      type: int
    large_objects:
      description: Number of large objects.
      type: int
timings:
  description: Phases of the run (C(dump), C(upload), C(commit), C(read_back), C(point)) with C(seconds), C(done) and C(unit).
  returned: success
  type: list
  elements: dict
reason:
  description:
    - On a refusal, which. One of V(version), V(wrong_version), V(foreign_dumps), V(locked), V(no_name) and V(object_exists).
  returned: failure
  type: str
"""

import dataclasses
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils import _argspec
from ansible_collections.fileforge.ops.plugins.module_utils._backup.dump import DumpOptions, run_dump
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import S3Options, Store
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress

MOST_JOBS = 4
SPEC: _argspec.Spec = {
    "prefix": {"type": "str", "default": ""},
    "format": {"type": "str", "choices": ["plain", "custom", "directory"], "default": "plain"},
    "max_age": {"type": "int", "default": 0},
    "jobs": {"type": "int"},
    "compression_level": {"type": "int", "default": 1},
    "spool_directory": {"type": "path"},
    "bin_directory": {"type": "path"},
    "lock_timeout": {"type": "int", "default": 60},
    "timeout": {"type": "int", "default": 21600},
    "read_back": {"type": "bool", "default": True},
}


def run(module: AnsibleModule) -> dict[str, t.Any]:
    params = {**module.params}
    if params["jobs"] is None:
        params["jobs"] = min(MOST_JOBS, len(os.sched_getaffinity(0)))
    options = DumpOptions(**{field.name: params[field.name] for field in dataclasses.fields(DumpOptions)})
    result = run_dump(
        Store(S3Options.from_params(params)),
        PostgresOptions.from_params(params),
        options,
        check_mode=module.check_mode,
        progress=Progress(params["progress_file"]),
    )
    for warning in result.pop("warnings"):
        module.warn(warning)
    return result


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec=_argspec.merge(SPEC, _argspec.S3, _argspec.POSTGRES, _argspec.PROGRESS),
        required_if=[("format", "directory", ["spool_directory"])],
        supports_check_mode=True,
    )
    conclude(module, lambda: run(module))


if __name__ == "__main__":
    main()
