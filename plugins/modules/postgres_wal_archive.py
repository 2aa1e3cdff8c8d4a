#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_wal_archive
short_description: Archive the WAL of a PostgreSQL server continuously to S3
version_added: 1.0.0
author:
  - FileForge operations (@fileforge)
description:
  - Installs a small program that stands alone, and has the server call it as its C(archive_command) for every finished WAL segment.
  - Proves the round trip. A segment is finished, must arrive in the bucket, and what comes back must be what was sent.
  - The program never overwrites a segment by another one of the same name, sends several waiting segments at once, and tells
    PostgreSQL that a segment is archived only when the bucket holds all of it.
  - Runs on the database host. Servers from version 12 on.
options:
  prefix:
    description:
      - What stands before C(wal/) in the names of the objects, with its final slash. Each server needs a place of its own.
    type: str
    default: ""
  state:
    description:
      - V(present) archives. V(absent) turns archiving off and removes program and configuration, but keeps what was archived.
      - With V(absent), a running server keeps its C(archive_command) until it was restarted, because WAL would pile up otherwise.
    type: str
    choices: [present, absent]
    default: present
  program_path:
    description: Where the program is installed.
    type: path
    default: /usr/local/lib/fileforge/fileforge-wal
  config_path:
    description: Where its configuration is written. Only O(owner) may read it, because it holds the credentials.
    type: path
    default: /etc/fileforge/wal.json
  spool_directory:
    description: Directory for what the program remembers and what it fetches ahead.
    type: path
    default: /var/spool/fileforge-wal
  program_interpreter:
    description: Python 3.9 or newer that runs the program. It needs boto3.
    type: path
    default: /usr/bin/python3
  owner:
    description: The user that the server runs as.
    type: str
    default: postgres
  rpo:
    description: Recovery point objective in seconds. At most so much work may be lost.
    type: int
    default: 3600
  archive_timeout:
    description:
      - Seconds after which an unfinished segment is archived, too. By default a twelfth of O(rpo), but at least 30 and at most 300.
    type: int
  batch:
    description: How many waiting segments one call of the program sends at most.
    type: int
    default: 8
  prefetch:
    description: How many segments are fetched ahead of replay when the program serves as C(restore_command).
    type: int
    default: 8
  restart:
    description:
      - Whether the server may be restarted when a change needs it. Otherwise RV(restart_required) says so.
    type: bool
    default: false
  control:
    description:
      - What restarts the server. V(pg_ctlcluster) needs O(cluster), V(systemd) needs O(service).
    type: str
    choices: [pg_ctl, pg_ctlcluster, systemd]
    default: pg_ctl
  service:
    description: Name of the systemd unit.
    type: str
  cluster:
    description: Version and name of the cluster as C(pg_ctlcluster) knows it, such as V(15 main).
    type: str
  bin_directory:
    description: Directory of the server's programs, for O(control=pg_ctl). When not set, it is found by the server's version.
    type: path
  verify:
    description: Whether the round trip is proved. It finishes a segment, which is no change.
    type: bool
    default: true
  verify_timeout:
    description: Seconds that the segment may take to arrive in the bucket.
    type: int
    default: 120
extends_documentation_fragment:
  - fileforge.ops.attributes
  - fileforge.ops.s3
  - fileforge.ops.postgres
"""

EXAMPLES = r"""
- name: Archive continuously
  fileforge.ops.postgres_wal_archive:
    s3_bucket: fileforge-backups
    postgres_host: /var/run/postgresql
    rpo: 3600
    restart: true
    control: pg_ctlcluster
    cluster: 15 main

- name: Archive to another S3 service, and have somebody restart the server later
  fileforge.ops.postgres_wal_archive:
    s3_bucket: fileforge-backups
    s3_endpoint: https://s3.example.com
    s3_access_key: "{{ backup_access_key }}"
    s3_secret_key: "{{ backup_secret_key }}"
    prefix: db1/
    archive_timeout: 60
  register: archiving
"""

RETURN = r"""
archive_command:
  description: The server's C(archive_command).
  type: str
  returned: success with O(state=present)
archive_timeout:
  description: Its C(archive_timeout) in seconds.
  type: int
  returned: success with O(state=present)
restart_required:
  description: Whether archiving begins (or ends) only with a restart that was not allowed.
  type: bool
  returned: success
restarted:
  description: Whether the server was (or in check mode would be) restarted.
  type: bool
  returned: success
verified:
  description: Whether the round trip was proved in this run.
  type: bool
  returned: success
proof:
  description: The segment that was sent and brought back.
  type: dict
  returned: when RV(verified) is true
  contains:
    segment:
      description: Its name.
      type: str
      returned: always
    key:
      description: Its object.
      type: str
      returned: always
    sha256:
      description: SHA-256 of its content, on the server and in the archive.
      type: str
      returned: always
    archived_after:
      description: Seconds until it was in the bucket.
      type: float
      returned: always
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils._argspec import POSTGRES, S3, merge
from ansible_collections.fileforge.ops.plugins.module_utils._backup.wal_archive import ArchiveOptions, Archiving, Outcome
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import S3Options
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.names import check_prefix
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import (
    Control,
    Server,
    ServerOptions,
    find_binaries,
    read_version,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions

ARGUMENTS = merge(
    S3,
    POSTGRES,
    {
        "prefix": {"type": "str", "default": ""},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "program_path": {"type": "path", "default": "/usr/local/lib/fileforge/fileforge-wal"},
        "config_path": {"type": "path", "default": "/etc/fileforge/wal.json"},
        "spool_directory": {"type": "path", "default": "/var/spool/fileforge-wal"},
        "program_interpreter": {"type": "path", "default": "/usr/bin/python3"},
        "owner": {"type": "str", "default": "postgres"},
        "rpo": {"type": "int", "default": 3600},
        "archive_timeout": {"type": "int"},
        "batch": {"type": "int", "default": 8},
        "prefetch": {"type": "int", "default": 8},
        "restart": {"type": "bool", "default": False},
        "control": {"type": "str", "choices": ["pg_ctl", "pg_ctlcluster", "systemd"], "default": "pg_ctl"},
        "service": {"type": "str"},
        "cluster": {"type": "str"},
        "bin_directory": {"type": "path"},
        "verify": {"type": "bool", "default": True},
        "verify_timeout": {"type": "int", "default": 120},
    },
)
SHORTEST = 30
LONGEST = 300


def archive_timeout_for(rpo: int, chosen: int | None) -> int:
    """The archive_timeout: as chosen, or a twelfth of the objective within bounds. Raises InvalidOption."""
    if rpo < SHORTEST:
        raise InvalidOption("rpo", rpo, f"archiving by segments cannot promise less than {SHORTEST} s")
    timeout = chosen if chosen is not None else min(LONGEST, max(SHORTEST, rpo // 12))
    if not 1 <= timeout < rpo:
        raise InvalidOption("archive_timeout", timeout, f"must be at least 1 and below rpo ({rpo})")
    return timeout


def archive_options(params: dict[str, t.Any]) -> ArchiveOptions:
    """From the module's parameters."""
    for name, least in (("batch", 1), ("prefetch", 0), ("verify_timeout", 1)):
        if params[name] < least:
            raise InvalidOption(name, params[name], f"must be at least {least}")
    return ArchiveOptions(
        s3=S3Options.from_params(params),
        prefix=check_prefix(params["prefix"]),
        program_path=params["program_path"],
        config_path=params["config_path"],
        spool_directory=params["spool_directory"],
        interpreter=params["program_interpreter"],
        owner=params["owner"],
        archive_timeout=archive_timeout_for(params["rpo"], params["archive_timeout"]),
        batch=params["batch"],
        prefetch=params["prefetch"],
    )


def server_maker(params: dict[str, t.Any]) -> t.Callable[[str], Server] | None:
    """Makes the server of a data directory for a restart; None when no restart is allowed."""
    if not params["restart"]:
        return None
    options = ServerOptions(
        owner=params["owner"], control=Control(params["control"]), service=params["service"], cluster=params["cluster"]
    )

    def make(data_directory: str) -> Server:
        binaries = find_binaries(read_version(data_directory) or 0, params["bin_directory"])
        return Server(data_directory, binaries, options, f"{data_directory}.log")

    return make


def operate(params: dict[str, t.Any], check_mode: bool, warn: t.Callable[[str], None]) -> dict[str, t.Any]:
    """Do it and return the result of the module."""
    options = archive_options(params)
    archiving = Archiving(options, PostgresOptions.from_params(params), server_maker(params), check_mode)
    if params["state"] == "absent":
        outcome = archiving.absent()
        for text in outcome.warnings:
            warn(text)
        return result_of(outcome, {})
    outcome = archiving.present()
    if params["verify"] and not check_mode and not outcome.restart_required:
        outcome.proof = archiving.prove(params["verify_timeout"])
    return result_of(outcome, {"archive_command": options.command, "archive_timeout": options.archive_timeout})


def result_of(outcome: Outcome, facts: dict[str, t.Any]) -> dict[str, t.Any]:
    """The result of the module."""
    result: dict[str, t.Any] = {
        **facts,
        "changed": outcome.changed,
        "restart_required": outcome.restart_required,
        "restarted": outcome.restarted,
        "verified": outcome.proof is not None,
        "diff": {"before": outcome.before, "after": outcome.after},
    }
    if outcome.proof is not None:
        result["proof"] = outcome.proof
    return result


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: operate(module.params, module.check_mode, module.warn))


if __name__ == "__main__":
    main()
