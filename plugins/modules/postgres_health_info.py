#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_health_info
short_description: Examine the health of a PostgreSQL server
version_added: 1.0.0
description:
  - Examines a server of version 12 to 18, primary or standby, and returns one check for each thing looked at. The role needs to be
    a member of C(pg_monitor); to see how far sequences are it also needs C(SELECT) on them.
  - Each check has its own time. One that is stuck, fails or lacks a right is V(unknown) and hides no other.
  - A server that refuses connections or does not answer is V(critical) in C(postgres.connection), and all other checks are
    V(unknown). The module does not fail for it; use RV(status).
  - The checks are C(postgres.connection), C(postgres.role), C(postgres.connections), C(postgres.blocking),
    C(postgres.long_queries), C(postgres.idle_in_transaction), C(postgres.long_transactions), C(postgres.prepared_transactions),
    C(postgres.replicas), C(postgres.wal_receiver) (standbys only), C(postgres.replication_lag), C(postgres.replication_lag_time),
    C(postgres.slots), C(postgres.archiver), C(postgres.wraparound), C(postgres.wraparound_multixact), C(postgres.sequences),
    C(postgres.invalid_indexes), C(postgres.vacuum_debt), C(postgres.checksum_failures), C(postgres.pending_restart),
    C(postgres.time_sync), C(postgres.checkpoints) and C(postgres.cache_hit).
  - Sequences, indexes and dead rows are those of the connected database.
author:
  - FileForge operations (@fileforge)
extends_documentation_fragment:
  - fileforge.ops.attributes.info_module
  - fileforge.ops.postgres
options:
  checks:
    description: Names of the checks to run, without C(postgres.). Empty means all.
    type: list
    elements: str
    default: []
  skip:
    description: Names of checks not to run.
    type: list
    elements: str
    default: []
  limits:
    description:
      - From which value on a check is a warning, and critical, by the name of the check. What is not given keeps its default,
        and V(null) switches a limit off.
      - The defaults are C(connections) 75 and 90 (percent of what ordinary roles can take); C(blocking) 30 and 300 (seconds that
        a session waits for a lock); C(long_queries) 300 and 1800; C(idle_in_transaction) 60 and 300; C(long_transactions) 1800 and
        7200; C(prepared_transactions) 60 and 300 (seconds); C(replication_lag) 67108864 and 1073741824 (bytes);
        C(replication_lag_time) 60 and 300 (seconds); C(slots) 5368709120 and 21474836480 (bytes of WAL kept); C(archiver) 1800 and
        3600 (seconds, half and all of the recovery point objective); C(wraparound) and C(wraparound_multixact) 50 and 75
        (percent); C(sequences) 75 and 90 (percent); C(invalid_indexes) 1 and never; C(vacuum_debt) 2 and 10 (dead rows as a
        multiple of the number at which autovacuum comes); C(checksum_failures) never and 1; C(pending_restart) 1 and never;
        C(time_sync) 2 and 5 (seconds); C(checkpoints) 50 (percent that came before their time) and never.
    type: dict
    default: {}
  expected_role:
    description: What the server has to be.
    type: str
    choices: [any, primary, standby]
    default: any
  expected_replicas:
    description: How many standbys or receivers have to be connected. Without it, none is missed.
    type: int
  require_archiving:
    description: Whether it is critical when archiving is off.
    type: bool
    default: false
  ignore_roles:
    description: Roles whose queries and transactions may take long, for example those that make dumps.
    type: list
    elements: str
    default: []
  ignore_applications:
    description: Application names whose queries and transactions may take long.
    type: list
    elements: str
    default: [pg_dump, pg_dumpall, pg_restore, pg_basebackup]
  check_timeout:
    description: Seconds for one statement of a check, waiting for locks included.
    type: float
    default: 5
  timeout:
    description: Seconds for everything together. Checks that are not reached are V(unknown).
    type: float
    default: 60
seealso:
  - module: fileforge.ops.postgres_backup_info
  - module: fileforge.ops.postgres_verify_info
"""

EXAMPLES = r"""
- name: Look at the database as the monitoring role
  fileforge.ops.postgres_health_info:
    postgres_host: db1.fileforge.io
    postgres_user: fileforge_monitor
    postgres_password: "{{ monitor_password }}"
    postgres_database: fileforge
    expected_role: primary
    expected_replicas: 1
    require_archiving: true
    limits:
      replication_lag: {warning: 134217728}
  register: health

- name: Who blocks whom
  fileforge.ops.postgres_health_info:
    postgres_database: fileforge
    checks: [blocking]
  register: locks
"""

RETURN = r"""
checks:
  description: The checks, each with id, status, value, limits, summary, hint and evidence.
  type: list
  elements: dict
  returned: success
status:
  description: The worst status of the checks.
  type: str
  returned: success
server:
  description: Version, role (V(primary) or V(standby)), start, position in the WAL, database and cluster name; empty when unknown.
  type: dict
  returned: success
  sample:
    version: "15.14 (Debian 15.14-0+deb12u1)"
    role: primary
    started: "2026-11-23 08:00:00+00"
    wal_position: 0/3000148
    database: fileforge
    cluster_name: main
blocking:
  description:
    - One tree for each session at the root of blocked ones, most victims first, with C(pid), C(role), C(database),
      C(application), C(state), C(query) (values replaced by a question mark), C(waits) (seconds), C(blocked) (number of
      sessions) and C(blocks) (the trees below).
    - Pid 0 stands for a prepared transaction.
  type: list
  elements: dict
  returned: success
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._probes.postgres_health_info import ARGUMENTS, operate


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: operate(module.params, module.check_mode))


if __name__ == "__main__":
    main()
