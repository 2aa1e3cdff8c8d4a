#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_vacuum
short_description: Vacuum and analyse the tables of a PostgreSQL database that need it
version_added: 1.0.0
description:
  - Looks at each table of the connected database and decides from its state whether it needs C(VACUUM) (dead rows, inserted rows,
    transaction and multixact age, also of its TOAST table) or C(ANALYZE) (stale, missing or lost statistics).
  - The rules are those of autovacuum with limits that are reached earlier, so that the work is done in a quiet hour. A table's
    own storage parameters (C(autovacuum_vacuum_scale_factor) and so on) count when they ask for work still earlier.
  - The most urgent table comes first. Nothing is begun after O(window), and what then still runs is stopped; work that was done
    stays.
  - What needs work and did not get it is returned as RV(left) with the reason. That includes tables that the role may not vacuum,
    about which the server itself only gives a warning.
  - Dead rows that could not be removed because a transaction, a replication slot or a standby still holds them are reported with
    the holder as RV(held_back_by).
  - Reads and writes go on meanwhile. C(VACUUM FULL), which blocks both, is only done for the tables of O(full), and then nothing
    else is done.
author:
  - FileForge operations (@fileforge)
extends_documentation_fragment:
  - fileforge.ops.attributes
  - fileforge.ops.postgres
  - fileforge.ops.planned
  - fileforge.ops.planned.progress
options:
  tables:
    description:
      - Only look at these tables, with names as in SQL. A partitioned table stands for its partitions, too.
      - When empty, all tables are looked at, those of the system included (see O(catalogs)).
    type: list
    elements: str
    default: []
  exclude:
    description: Leave these tables alone, with names as in SQL.
    type: list
    elements: str
    default: []
  catalogs:
    description: Whether to look at the tables of the system, too.
    type: bool
    default: true
  analyze:
    description: Whether to refresh statistics.
    type: bool
    default: true
  dead_threshold:
    description: A table needs C(VACUUM) with this many dead rows and O(dead_scale_factor) of its rows.
    type: int
    default: 50
  dead_scale_factor:
    description: The part of the rows, from 0 to 1, see O(dead_threshold). Autovacuum's default is 0.2.
    type: float
    default: 0.1
  insert_threshold:
    description:
      - A table needs C(VACUUM) with this many rows inserted since the last one and O(insert_scale_factor) of its rows.
      - Servers before PostgreSQL 13 do not count them.
    type: int
    default: 1000
  insert_scale_factor:
    description: The part of the rows, from 0 to 1, see O(insert_threshold).
    type: float
    default: 0.2
  analyze_threshold:
    description: A table needs C(ANALYZE) with this many changed rows and O(analyze_scale_factor) of its rows.
    type: int
    default: 50
  analyze_scale_factor:
    description: The part of the rows, from 0 to 1, see O(analyze_threshold). Autovacuum's default is 0.1.
    type: float
    default: 0.05
  age_fraction:
    description:
      - A table needs C(VACUUM) when its transaction or multixact age reached this part of C(autovacuum_freeze_max_age) or
        C(autovacuum_multixact_freeze_max_age). All its pages are then read so that the age comes down.
    type: float
    default: 0.5
  window:
    description: Seconds after which nothing is begun and what still runs is stopped.
    type: int
    default: 3600
  jobs:
    description: How many tables are worked on at the same time.
    type: int
    default: 2
  cost_limit:
    description:
      - C(vacuum_cost_limit) of all O(jobs) together; each gets its part.
    type: int
    default: 200
  cost_delay:
    description:
      - C(vacuum_cost_delay) in milliseconds, from 0 (no limit) to 100.
      - A table that is half way to the end of its transaction numbers is vacuumed without delay.
    type: float
    default: 2
  parallel_workers:
    description:
      - Workers for the indexes of one table (C(PARALLEL), PostgreSQL 13 and newer). When not set, the server decides.
    type: int
  lock_timeout:
    description: Seconds to wait for the lock on a table before it is left.
    type: float
    default: 5
  full:
    description:
      - Rewrite these tables with C(VACUUM FULL) if at least O(full_min_bloat) of them is empty. Nobody can read or write a table
        while it is rewritten.
      - Needs O(plan_digest), the digest of the plan that check mode returned. Refused without enough room on the disk, when that
        can be seen from the host that the module runs on.
    type: list
    elements: str
    default: []
  full_min_bloat:
    description: The estimated empty part of table and TOAST table, from 0 to 1, from which O(full) rewrites it.
    type: float
    default: 0.3
requirements:
  - psycopg >= 3.1
notes:
  - The server stops a C(VACUUM) within seconds when the module was killed (PostgreSQL 14 and newer). Run it again; it goes on
    with what still needs work.
seealso:
  - module: fileforge.ops.postgres_size_info
"""

EXAMPLES = r"""
- name: Vacuum and analyse what needs it, for half an hour at most
  fileforge.ops.postgres_vacuum:
    postgres_host: /var/run/postgresql
    postgres_database: fileforge
    window: 1800

- name: Show what it would do
  fileforge.ops.postgres_vacuum:
    postgres_host: /var/run/postgresql
    postgres_database: fileforge
  check_mode: true
  register: planned

- name: Plan the rewrite of one bloated table
  fileforge.ops.postgres_vacuum:
    postgres_host: /var/run/postgresql
    postgres_database: fileforge
    full: [public.files]
  check_mode: true
  register: rewrite

- name: Rewrite it as planned
  fileforge.ops.postgres_vacuum:
    postgres_host: /var/run/postgresql
    postgres_database: fileforge
    full: [public.files]
    plan_digest: "{{ rewrite.plan.digest }}"
"""

RETURN = r"""
plan:
  description:
    - The tables in the order of urgency, and as C(notes) the numbers, which the digest does not cover.
  type: dict
  returned: success
tables:
  description:
    - The tables that were worked on, or in check mode would be, each with C(table), C(action), C(heap_bytes) and C(needs) (a list
      of C(kind), C(action), C(value) and C(limit)).
    - After a run also C(seconds), C(warnings), C(held_back) (what was needed is still needed) and, as C(..._before) and
      C(..._after), C(dead), C(toast_dead), C(xid_age), C(mxid_age) and C(heap_bytes).
    - With O(full) C(total_bytes_before), C(total_bytes_after), C(bloat_bytes) and C(bloat_source).
  type: list
  elements: dict
  returned: success
left:
  description:
    - The tables that need work that was not done, with C(reason), C(message) and C(hint).
    - C(reason) is V(window), V(locked), V(busy), V(not_allowed), V(gone), V(skipped) or V(failed), with O(full) also
      V(not_bloated) or V(no_estimate).
  type: list
  elements: dict
  returned: success
held_back_by:
  description:
    - What holds the oldest rows (a session, a prepared transaction, a replication slot, a standby), with C(kind), C(name), C(age)
      in transactions and C(detail). Only when a table is still in need after it was vacuumed.
  type: list
  elements: dict
  returned: success
timings:
  description: Phases of the run with C(seconds), C(done) and C(unit).
  type: list
  elements: dict
  returned: success
reason:
  description: On a refusal, which. One of V(standby), V(not_confirmed), V(not_allowed), V(disk_space) and V(plan_changed).
  type: str
  returned: failure
"""

import dataclasses
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils import _argspec
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import vacuum, vacuum_full
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.vacuum_need import Limits
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress

SPEC: _argspec.Spec = {
    "tables": {"type": "list", "elements": "str", "default": []},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "catalogs": {"type": "bool", "default": True},
    "analyze": {"type": "bool", "default": True},
    "dead_threshold": {"type": "int", "default": 50},
    "dead_scale_factor": {"type": "float", "default": 0.1},
    "insert_threshold": {"type": "int", "default": 1000},
    "insert_scale_factor": {"type": "float", "default": 0.2},
    "analyze_threshold": {"type": "int", "default": 50},
    "analyze_scale_factor": {"type": "float", "default": 0.05},
    "age_fraction": {"type": "float", "default": 0.5},
    "window": {"type": "int", "default": 3600},
    "jobs": {"type": "int", "default": 2},
    "cost_limit": {"type": "int", "default": 200},
    "cost_delay": {"type": "float", "default": 2},
    "parallel_workers": {"type": "int"},
    "lock_timeout": {"type": "float", "default": 5},
    "full": {"type": "list", "elements": "str", "default": []},
    "full_min_bloat": {"type": "float", "default": 0.3},
}
ARGUMENTS = _argspec.merge(SPEC, _argspec.POSTGRES, _argspec.PLANNED, _argspec.PROGRESS)


def options_of(cls: t.Any, params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The parameters that are fields of an options class."""
    return {field.name: params[field.name] for field in dataclasses.fields(cls) if field.name in params}


def operate(params: dict[str, t.Any], check_mode: bool, diff: bool = False) -> dict[str, t.Any]:
    """Do what is needed, or rewrite what was named; the result of the module."""
    server = PostgresOptions.from_params(params)
    progress = Progress(params["progress_file"])
    common: dict[str, t.Any] = {"check_mode": check_mode, "plan_digest": params["plan_digest"], "progress": progress}
    if params["full"]:
        result = vacuum_full.rewrite(server, vacuum_full.FullOptions(**options_of(vacuum_full.FullOptions, params)), **common)
    else:
        limits = Limits(**options_of(Limits, params))
        options = vacuum.VacuumOptions(**options_of(vacuum.VacuumOptions, params), limits=limits)
        result = vacuum.maintain(server, options, **common).result()
    if diff:
        lines = "".join(f"{item['action']} {item['table']}\n" for item in result["tables"])
        result["diff"] = {"before": "", "after": lines, "after_header": result["plan"]["title"]}
    return {**result, "timings": progress.timings}


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: operate(module.params, module.check_mode, module._diff))


if __name__ == "__main__":
    main()
