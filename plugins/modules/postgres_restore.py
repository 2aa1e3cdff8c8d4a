#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_restore
short_description: Restore a PostgreSQL cluster from S3 to a point in time
version_added: 1.0.0
description:
  - Restores a data directory and its tablespaces from a base backup and archived WAL to O(target_time), and waits until the server
    has recovered and takes writes.
  - Chooses the newest complete base backup that ends before the target and is an ancestor of the wanted timeline. Before anything
    is touched it proves that the WAL is contiguous and that the target can be reached, and checks version, system identifier, disk
    space, the archive objects, that no server runs, and that the restored server will not write over anything in the archive.
  - Fetches into new directories beside the old ones by parallel ranges, verifies the checksum of every file, syncs them to disk and
    puts the control file last. Then old and new are exchanged by renaming. The old directories are kept.
  - A run that was cut off at any point is continued by running it again.
  - Also restores plain C(tar -czf) archives without index, with a warning, because nothing but PostgreSQL's own checks then tells
    whether their files are right.
  - Works for PostgreSQL 12 to 18.
options:
  prefix:
    description: What stands before C(base/) and C(wal/) in the keys of the bucket, with its final slash.
    type: str
    default: ''
  target_time:
    description:
      - The point in time to restore to, as an ISO 8601 date and time with an offset from UTC, such as
        V(2026-11-23T14:05:00+00:00) or V(20261123T160500+0200). Transactions that committed at or before it are there afterwards,
        later ones are not.
      - V(latest) replays all archived WAL.
    type: str
    required: true
  target_timeline:
    description: The timeline to end on, V(latest), V(current) (that of the base backup) or a number.
    type: str
    default: latest
  backup:
    description: Name of a base backup, or V(auto).
    type: str
    default: auto
  data_directory:
    description:
      - The data directory that is replaced or created. It may not be a mount point; a directory below one is fine.
      - The directory in which it lies also holds the new directory, the kept one, and the record and log of the restore.
    type: path
    required: true
  tablespace_map:
    description:
      - Where tablespaces go, by their OID or by their location in the backup. Others go to their location in the backup, or
        for O(scratch) to C(<data_directory>.tablespaces/<OID>).
      - Tablespaces younger than the base backup are made again by replay where they were, so the old server's directories of them
        are kept aside. For O(scratch), replay that would make one is stopped, because it would write into the live server's files.
    type: dict
    default: {}
  bin_directory:
    description: Directory of the server's programs. When not set, it is found by the major version of the backup.
    type: path
  owner:
    description: The user that the server runs as and that the files will belong to.
    type: str
    default: postgres
  control:
    description:
      - Who starts and stops the server. V(pg_ctlcluster) needs O(cluster), V(systemd) needs O(service).
    type: str
    choices: [pg_ctl, pg_ctlcluster, systemd]
    default: pg_ctl
  service:
    description: Name of the systemd unit.
    type: str
  cluster:
    description: Version and name of the cluster as C(pg_ctlcluster) knows it, such as V(15 main).
    type: str
  server_options:
    description: Settings of the form C(name=value) that the server is started with, for O(control=pg_ctl).
    type: list
    elements: str
    default: []
  config_file:
    description: The server's configuration file, when it is not in the data directory, for O(control=pg_ctl).
    type: path
  socket_directory:
    description:
      - Directory of the server's Unix socket, for O(control=pg_ctl). When not set, it is as configured, or the data directory
        itself for O(scratch).
    type: path
  port:
    description: Port of the server, for O(control=pg_ctl). When not set, it is as configured, or 5432 for O(scratch).
    type: int
  scratch:
    description:
      - Whether this is a copy for tests and drills. Its server listens on its Unix socket only, archives nothing, runs no
        subscriptions and no jobs of pg_cron, and lets only root and its own user in.
    type: bool
    default: false
  stop_running:
    description: Whether a server that runs on O(data_directory) is stopped, right before the exchange. It is an error otherwise.
    type: bool
    default: false
  delta:
    description: Whether files in the old directory that have the right checksum are copied instead of fetched.
    type: bool
    default: true
  keep_old:
    description: Whether the old directories are kept. When not, they are removed after the restored server has been verified.
    type: bool
    default: true
  system_identifier:
    description:
      - The system identifier that the backup must have. When not set, it must be that of the cluster that is in
        O(data_directory), if there is one.
    type: str
  jobs:
    description: How many ranges are fetched and unpacked at the same time. When not set, twice the number of processors, at most 8.
    type: int
  recovery_timeout:
    description: Seconds that replay may take. The server goes on by itself when they are over.
    type: int
    default: 14400
  stall_timeout:
    description: Seconds after which a replay that does not advance is an error.
    type: int
    default: 600
  start_timeout:
    description: Seconds within which the server must have started.
    type: int
    default: 120
  program_interpreter:
    description: The Python with boto3 that runs the WAL program during recovery, as the user O(owner).
    type: path
    default: /usr/bin/python3
  force:
    description:
      - Whether a restore that is finished is done again, and one whose recovery failed or ended at the wrong place is begun anew
        instead of carried on. What is there is kept aside like any old directory.
    type: bool
    default: false
extends_documentation_fragment:
  - fileforge.ops.attributes
  - fileforge.ops.s3
  - fileforge.ops.planned
  - fileforge.ops.planned.progress
requirements:
  - boto3 >= 1.26 (also for O(program_interpreter))
  - psycopg >= 3.1, to show how far the recovery is; without it only files and processes tell
notes:
  - The WAL program's configuration holds the credentials and is readable by O(owner) only. It is removed at the end.
  - A second run of the same request changes nothing as long as the restored cluster is in place, also with V(latest). Use
    O(force) to restore again.
seealso:
  - module: fileforge.ops.postgres_base_backup
  - module: fileforge.ops.postgres_wal_archive
  - module: fileforge.ops.postgres_backup_info
author:
  - FileForge operations (@fileforge)
"""

EXAMPLES = r"""
- name: Show what a restore to five past two would do
  fileforge.ops.postgres_restore:
    s3_bucket: fileforge-backups-prod
    target_time: "2026-11-23T14:05:00+00:00"
    data_directory: /var/lib/postgresql/15/main
    control: pg_ctlcluster
    cluster: 15 main
  check_mode: true
  register: shown

- name: Do exactly that
  fileforge.ops.postgres_restore:
    s3_bucket: fileforge-backups-prod
    target_time: "2026-11-23T14:05:00+00:00"
    data_directory: /var/lib/postgresql/15/main
    control: pg_ctlcluster
    cluster: 15 main
    stop_running: true
    plan_digest: "{{ shown.plan.digest }}"

- name: Restore a copy for a drill
  fileforge.ops.postgres_restore:
    s3_bucket: fileforge-backups-prod
    target_time: latest
    data_directory: /var/lib/postgresql/drill/data
    scratch: true
    force: true
"""

RETURN = r"""
plan:
  description: What is done, or in check mode would be done. Without steps when the restore was finished before.
  returned: success
  type: dict
  contains:
    title:
      description: What is restored to where and when.
      type: str
    steps:
      description: The steps in order, with C(action), C(object), C(count), C(bytes), C(destructive) and C(detail).
      type: list
      elements: dict
    notes:
      description: What the digest does not cover, such as free disk space.
      type: list
      elements: str
    digest:
      description: Digest of title and steps.
      type: str
      sample: 1f0c2a9be4d7a653
    destructive:
      description: Whether a step replaces or removes anything.
      type: bool
backup:
  description: The base backup that was chosen.
  returned: success
  type: dict
  sample: {name: 2026-11-23-1200, key: base/2026-11-23-1200_base.tar.gz, bytes: 734003200, plain: false}
recovery:
  description: Where recovery ended, or in check mode is expected to end.
  returned: success
  type: dict
  contains:
    target_time:
      description: The target in UTC; null for V(latest).
      type: str
    timeline_old:
      description: The timeline that was recovered.
      type: int
    timeline_new:
      description: The timeline that the restored server is on.
      type: int
    last_commit:
      description: Time of the last transaction that was recovered.
      type: str
    end_lsn:
      description: Position in the WAL at which recovery ended; null in check mode.
      type: str
    segments:
      description: Number of WAL segments in the plan.
      type: int
kept:
  description: Old directories that were kept.
  returned: success
  type: list
  elements: str
timings:
  description: Seconds, and bytes, segments or files, of each phase (fetch, sync, swap, replay), also of runs that were cut off.
  returned: success
  type: list
  elements: dict
  sample: [{phase: fetch, seconds: 8.2, done: 2147483648, unit: B}]
transfer:
  description: Bytes that were present from an earlier run, copied from the old directory, and fetched; and bytes downloaded.
  returned: success
  type: dict
  sample: {present: 0, copied: 1073741824, fetched: 1073741824, downloaded: 357913941}
record:
  description: File that says what the data directory was restored from.
  returned: success
  type: str
warnings:
  description: What is not as it should be but did not prevent the restore.
  returned: when there are any
  type: list
  elements: str
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils import _argspec
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore import Outcome, Restore
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_plan import RestoreOptions
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_recover import Limits
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import S3Options
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.names import check_prefix
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import Control, ServerOptions
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress

SPEC: _argspec.Spec = {
    "prefix": {"type": "str", "default": ""},
    "target_time": {"type": "str", "required": True},
    "target_timeline": {"type": "str", "default": "latest"},
    "backup": {"type": "str", "default": "auto"},
    "data_directory": {"type": "path", "required": True},
    "tablespace_map": {"type": "dict", "default": {}},
    "bin_directory": {"type": "path"},
    "owner": {"type": "str", "default": "postgres"},
    "control": {"type": "str", "choices": ["pg_ctl", "pg_ctlcluster", "systemd"], "default": "pg_ctl"},
    "service": {"type": "str"},
    "cluster": {"type": "str"},
    "server_options": {"type": "list", "elements": "str", "default": []},
    "config_file": {"type": "path"},
    "socket_directory": {"type": "path"},
    "port": {"type": "int"},
    "scratch": {"type": "bool", "default": False},
    "stop_running": {"type": "bool", "default": False},
    "delta": {"type": "bool", "default": True},
    "keep_old": {"type": "bool", "default": True},
    "system_identifier": {"type": "str"},
    "jobs": {"type": "int"},
    "recovery_timeout": {"type": "int", "default": 14400},
    "stall_timeout": {"type": "int", "default": 600},
    "start_timeout": {"type": "int", "default": 120},
    "program_interpreter": {"type": "path", "default": "/usr/bin/python3"},
    "force": {"type": "bool", "default": False},
}


def positive(params: t.Mapping[str, t.Any], name: str) -> int:
    """A number of at least 1."""
    value = int(params[name])
    if value < 1:
        raise InvalidOption(name, value, "must be at least 1")
    return value


def options_of(params: t.Mapping[str, t.Any]) -> RestoreOptions:
    """The engine's options from the module's. Raises InvalidOption."""
    return RestoreOptions(
        s3=S3Options.from_params(params),
        data_directory=os.path.realpath(params["data_directory"]),
        target_time=params["target_time"],
        prefix=check_prefix(params["prefix"]),
        target_timeline=params["target_timeline"],
        backup=params["backup"],
        tablespace_map=params["tablespace_map"],
        bin_directory=params["bin_directory"],
        server=ServerOptions(
            owner=params["owner"],
            control=Control(params["control"]),
            service=params["service"],
            cluster=params["cluster"],
            config_file=params["config_file"],
            socket_directory=params["socket_directory"],
            port=params["port"],
            settings=tuple(params["server_options"]),
        ),
        scratch=params["scratch"],
        stop_running=params["stop_running"],
        delta=params["delta"],
        keep_old=params["keep_old"],
        system_identifier=params["system_identifier"],
        jobs=min(8, 2 * (os.cpu_count() or 1)) if params["jobs"] is None else positive(params, "jobs"),
        limits=Limits(*(positive(params, f"{name}_timeout") for name in ("recovery", "stall", "start"))),
        interpreter=params["program_interpreter"],
        force=params["force"],
        plan_digest=params["plan_digest"],
    )


def result_of(module: AnsibleModule, outcome: Outcome) -> dict[str, t.Any]:
    """The module's result; warnings go where Ansible shows them."""
    result = outcome.as_dict()
    for warning in result.pop("warnings"):
        module.warn(warning)
    if module._diff and outcome.changed:
        result["diff"] = outcome.plan.as_diff()
    return result


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec=_argspec.merge(_argspec.S3, _argspec.PLANNED, _argspec.PROGRESS, SPEC),
        required_if=[("control", "systemd", ["service"]), ("control", "pg_ctlcluster", ["cluster"])],
        supports_check_mode=True,
    )

    def operation() -> dict[str, t.Any]:
        restore = Restore(options_of(module.params), Progress(module.params["progress_file"]))
        return result_of(module, restore.check() if module.check_mode else restore.run())

    conclude(module, operation)


if __name__ == "__main__":
    main()
