#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_statement_info
short_description: Which statements cost a PostgreSQL server most, and which became slower
version_added: 1.0.0
description:
  - Reads C(pg_stat_statements) of a server of version 12 to 18, whatever version of the extension it has, and how the tables of
    the connected database are read.
  - With O(state_file) the figures are those since the last review, otherwise those since the last reset. Statements that were
    reset, or dropped and counted anew in between, are noticed.
  - Values in statements are replaced by a question mark, because utility statements keep theirs in the view.
  - Without the extension, without its library, or without the right to see the statements of other roles the checks are
    V(unknown), with what to do about it. The module does not fail for it; use RV(status).
  - The checks are C(statements.collection), C(statements.slowest), C(statements.dealloc), and C(statements.load),
    C(statements.calls), C(statements.rows), C(statements.reads), C(statements.temporary) and C(statements.wal), which only name
    what is first; with O(state_file) also C(statements.regressions), which is V(unknown) the first time, and C(statements.memory)
    when the file cannot be written; with O(tables) also C(tables.sequential_scans) and
    C(tables.hit_ratio).
author:
  - FileForge operations (@fileforge)
extends_documentation_fragment:
  - fileforge.ops.attributes.info_module
  - fileforge.ops.postgres
options:
  databases:
    description: Databases whose statements are looked at. Empty means all of the server.
    type: list
    elements: str
    default: []
  top:
    description: How many statements of each order, and how many tables, are returned at most.
    type: int
    default: 10
  mean_warning:
    description: Mean time of a statement in milliseconds from which on it is a warning.
    type: float
    default: 250
  mean_critical:
    description: The same, for critical.
    type: float
    default: 1000
  minimum_calls:
    description: Statements that were called less often are not judged by their mean time.
    type: int
    default: 5
  regression_factor:
    description: A statement whose mean time grew by this factor since the last review is a warning.
    type: float
    default: 2
  regression_calls:
    description: How often it must have been called, before and since.
    type: int
    default: 20
  regression_ms:
    description: Mean times below so many milliseconds are never a regression.
    type: float
    default: 1
  ignore_roles:
    description: Roles whose statements may take long. They are listed and not judged.
    type: list
    elements: str
    default: []
  ignore:
    description:
      - Regular expressions of statements that may take long, upper and lower case being the same. They are listed and not judged.
      - Without it, maintenance, changes of the schema, C(COPY) and what backups call.
    type: list
    elements: str
  tables:
    description: Whether to look at the tables of the connected database, too.
    type: bool
    default: true
  table_bytes:
    description: Only tables of at least so many bytes are judged.
    type: int
    default: 67108864
  seq_scan_warning:
    description: So many sequential scans of such a table are a warning. Scans that read only a small part do not count.
    type: int
    default: 100
  hit_ratio_warning:
    description: A warning when less than so many percent of such a table's blocks came from memory.
    type: float
    default: 90
  state_file:
    description:
      - File on the host in which the counters of the last reviews are kept. The counters of this run are added, except in check
        mode.
    type: path
  period_hours:
    description:
      - The figures are those since the youngest review that is at least so old, so that looking twice does not shorten the time
        that is reviewed. When none is that old, since the oldest.
    type: float
    default: 144
  timeout:
    description: Seconds for one statement of the look.
    type: float
    default: 30
requirements:
  - psycopg >= 3.1
notes:
  - The role needs C(pg_monitor), of which C(pg_read_all_stats) is a part.
seealso:
  - module: fileforge.ops.postgres_health_info
  - module: fileforge.ops.postgres_size_info
"""

EXAMPLES = r"""
- name: Review the week
  fileforge.ops.postgres_statement_info:
    postgres_host: db1.fileforge.io
    postgres_user: fileforge_monitor
    postgres_password: "{{ monitor_password }}"
    postgres_database: fileforge
    state_file: /var/lib/fileforge/statements.json
  register: review

- name: What cost most since the last reset, of one database
  fileforge.ops.postgres_statement_info:
    postgres_database: fileforge
    databases: [fileforge]
    tables: false
    top: 3
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
statements:
  description:
    - The first O(top) of each order, those that took most time first, each with C(statement) (without its values), C(id),
      C(database), C(role), C(calls), C(mean_ms), C(mean_before_ms) (up to the last review), C(max_ms) (since the entry was made),
      C(total_ms), C(rows), C(read_bytes), C(read_ms) (zero without C(track_io_timing)), C(hit_percent), C(temporary_bytes),
      C(wal_bytes) and C(ranks) (its place by C(load), C(mean), C(calls), C(rows), C(reads), C(temporary) and C(wal)).
    - What the version of the extension does not count is null.
  type: list
  elements: dict
  returned: success
regressions:
  description: Statements that became slower, as RV(statements), those that cost most by it first.
  type: list
  elements: dict
  returned: success
tables:
  description:
    - Tables of the connected database, those of which most rows were read one by one first, with C(table), C(bytes),
      C(live_rows), C(dead_rows), C(sequential_scans), C(sequential_rows), C(index_scans) and C(hit_percent).
  type: list
  elements: dict
  returned: success
window:
  description:
    - What the figures are of, with C(server) and C(extension) (versions), C(entries), C(hidden) (entries of other roles that
      cannot be seen), C(since) (seconds since 1970, null when not known), C(seconds), C(compared) (whether there was an earlier
      review), C(reset) and C(io_timing). Empty when nothing could be read.
  type: dict
  returned: success
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._probes.postgres_statement_info import ARGUMENTS, operate


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: operate(module.params, module.check_mode))


if __name__ == "__main__":
    main()
