#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_base_backup
short_description: Take a base backup of a running PostgreSQL server into an S3 bucket
version_added: 1.0.0
description:
  - Copies the data directory and all tablespaces of the running server with PostgreSQL's low-level backup functions, reads and
    compresses in parallel, and streams straight into the bucket. Nothing is stored on the host.
  - Each archive is a C(tar.gz) that plain C(tar -xzf) reads, made of members that decompress alone, so that a restore can read it
    in parallel. An index object, written last, makes a backup of what was uploaded. A run that fails, or is killed, leaves nothing
    that a restore would use, and the next run clears away its unfinished uploads.
  - Verifies the checksum of each page on the way when the cluster has data checksums.
  - Waits until the archive has the WAL that the backup needs.
  - A tablespace that is made meanwhile is not in the backup, so the run fails and keeps nothing.
  - Must run on the database's host, as the user that PostgreSQL runs as or as root.
options:
  prefix:
    description: What stands before all keys in the bucket, with its final slash. Give each cluster a bucket or prefix of its own.
    type: str
    default: ''
  label:
    description: Label of the backup, as in C(backup_label).
    type: str
    default: fileforge base backup
  max_age:
    description:
      - When a complete backup ended less than so many seconds ago, nothing is done. With V(0) each run takes a backup.
    type: int
    default: 0
  jobs:
    description: How many threads read and compress. When not set, the number of processors, but at most four.
    type: int
  compression_level:
    description:
      - From V(0) (fastest) to V(9) (smallest). Levels up to 3 are several times faster where the Python library C(isal) is
        installed.
    type: int
    default: 1
  max_rate:
    description: How many bytes a second are read at most. V(0) means no limit.
    type: int
    default: 0
  checkpoint:
    description: Whether the checkpoint at the start is done at once (V(fast)) or spread over time (V(spread)).
    type: str
    choices: [fast, spread]
    default: fast
  verify_checksums:
    description: Whether page checksums are verified. Has no effect on a cluster without data checksums.
    type: bool
    default: true
  accept_checksum_failures:
    description:
      - Whether a backup with damaged pages is kept. They are reported, and recorded in the index. When V(false), the module fails
        and keeps nothing.
    type: bool
    default: false
  wal_timeout:
    description: How many seconds to wait until the WAL that the backup needs is archived.
    type: int
    default: 600
extends_documentation_fragment:
  - fileforge.ops.attributes
  - fileforge.ops.s3
  - fileforge.ops.postgres
  - fileforge.ops.planned.progress
attributes:
  idempotent:
    support: partial
    details: With O(max_age), a second run within that time changes nothing. Without it, each run takes a backup.
requirements:
  - boto3 >= 1.26
  - psycopg >= 3.1
  - PostgreSQL 12 or newer
notes:
  - The role needs to be a superuser, or a member of C(pg_monitor) that may execute C(pg_backup_start) and C(pg_backup_stop)
    (C(pg_start_backup) and C(pg_stop_backup) before PostgreSQL 15).
  - Archiving must be on and working, see M(fileforge.ops.postgres_wal_archive).
  - Memory is bounded by some 150 MB and 50 MB more for each of O(jobs); more for databases above 300 GB, whose parts are larger.
  - Configuration files outside the data directory are not part of the backup.
seealso:
  - module: fileforge.ops.postgres_backup_info
  - module: fileforge.ops.postgres_restore
  - module: fileforge.ops.postgres_wal_archive
author:
  - FileForge operations (@fileforge)
"""

EXAMPLES = r"""
- name: Take the daily base backup, unless there is one already
  fileforge.ops.postgres_base_backup:
    s3_bucket: fileforge-backups-prod
    postgres_host: /var/run/postgresql
    max_age: 72000
  become: true
  become_user: postgres

- name: Take a base backup now, reading 50 MiB a second at most
  fileforge.ops.postgres_base_backup:
    s3_bucket: fileforge-backups-prod
    label: before the upgrade
    max_rate: 52428800
    checkpoint: spread
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
      description: Which server is backed up, and where to.
      type: str
    steps:
      description: The steps in order, with C(action), C(object) and C(detail). Empty when a young enough backup is there.
      type: list
      elements: dict
    notes:
      description: What the digest does not cover, such as the number of bytes to read.
      type: list
      elements: str
    digest:
      description: Digest of title and steps.
      type: str
      sample: 1f0c2a9be4d7a653
    destructive:
      description: Always V(false).
      type: bool
backup:
  description: The backup that was taken, or the one that O(max_age) accepted. Empty in check mode.
  returned: success
  type: dict
  contains:
    name:
      description: Its name, the minute of its start in UTC, with a number where that was taken.
      type: str
      sample: 2026-11-23-1405
    key:
      description: Key of the data directory's archive.
      type: str
      sample: base/2026-11-23-1405_base.tar.gz
    label:
      description: Its label.
      type: str
    started:
      description: When it started.
      type: str
    stopped:
      description: When all files were copied.
      type: str
    start_lsn:
      description: WAL position from which recovery replays.
      type: str
      sample: 0/3000028
    stop_lsn:
      description: WAL position that recovery must reach.
      type: str
      sample: 0/3000138
    start_segment:
      description: First WAL segment that it needs.
      type: str
    stop_segment:
      description: Last WAL segment that it needs.
      type: str
    timeline:
      description: Timeline of the server.
      type: int
    system_identifier:
      description: Identifier of the database system.
      type: str
    version_num:
      description: Version of the server, as C(server_version_num).
      type: int
    bytes:
      description: Bytes of all archives in the bucket.
      type: int
    uncompressed_bytes:
      description: Bytes of all archives before compression.
      type: int
    files:
      description: Number of files in all archives.
      type: int
    tablespaces:
      description: The archives of tablespaces, with C(oid), C(location) and C(key).
      type: list
      elements: dict
    checksum_failures:
      description: Pages with wrong checksums that were accepted, with C(path) and C(block).
      type: list
      elements: dict
timings:
  description: Phases of the run (C(start), C(copy), C(wait_wal), C(commit)) with C(seconds), C(done) and C(unit).
  returned: success
  type: list
  elements: dict
reason:
  description:
    - On a refusal, which. One of V(version), V(standby), V(not_local), V(data_directory_unreadable), V(archiving_off),
      V(archiver_failing), V(foreign_backups), V(locked), V(no_name) and V(object_exists).
    - V(page_checksums) when pages are damaged.
  returned: failure
  type: str
checksum_failures:
  description: The damaged pages, with C(path) and C(block), at most 1000.
  returned: when pages are damaged
  type: list
  elements: dict
"""

import dataclasses
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils import _argspec
from ansible_collections.fileforge.ops.plugins.module_utils._backup.base_backup import BackupOptions, run_backup
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import S3Options, Store
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress

MOST_JOBS = 4
SPEC: _argspec.Spec = {
    "prefix": {"type": "str", "default": ""},
    "label": {"type": "str", "default": "fileforge base backup"},
    "max_age": {"type": "int", "default": 0},
    "jobs": {"type": "int"},
    "compression_level": {"type": "int", "default": 1},
    "max_rate": {"type": "int", "default": 0},
    "checkpoint": {"type": "str", "choices": ["fast", "spread"], "default": "fast"},
    "verify_checksums": {"type": "bool", "default": True},
    "accept_checksum_failures": {"type": "bool", "default": False},
    "wal_timeout": {"type": "int", "default": 600},
}


def run(module: AnsibleModule) -> dict[str, t.Any]:
    params = {**module.params}
    if params["jobs"] is None:
        params["jobs"] = min(MOST_JOBS, len(os.sched_getaffinity(0)))
    options = BackupOptions(**{field.name: params[field.name] for field in dataclasses.fields(BackupOptions)})
    result = run_backup(
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
        supports_check_mode=True,
    )
    conclude(module, lambda: run(module))


if __name__ == "__main__":
    main()
