#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_size_info
short_description: What takes room in a PostgreSQL database, and what of it is waste
version_added: 1.0.0
description:
  - Lists the largest tables with the bytes of table, TOAST and indexes, tables and indexes with much empty space, indexes that
    nobody uses or that another one covers, invalid indexes, and what grew since the last run.
  - Bloat is estimated from the planner's statistics and the layout of the pages, which reads no table. With O(exact), what looks
    bloated is measured with the extension C(pgstattuple), which reads it whole. Each number says whether it is an C(estimate) or
    C(exact).
  - An index is only called unused when the counters of the server and of each standby cover O(unused_days) and no scan was
    counted; anything less is V(unknown). Unique, primary, constraint and invalid indexes are never called unused.
  - Waits for no lock; the size of a table that somebody holds exclusively is that of the last C(VACUUM).
author:
  - FileForge operations (@fileforge)
extends_documentation_fragment:
  - fileforge.ops.attributes.info_module
  - fileforge.ops.postgres
options:
  top:
    description: How many tables and how many indexes are returned at most.
    type: int
    default: 20
  bloat_ratio:
    description: The empty part of a table or index, from 0 to 1, that is worth a warning.
    type: float
    default: 0.3
  bloat_bytes:
    description: Only tables and indexes of at least so many bytes are worth a warning.
    type: int
    default: 104857600
  exact:
    description: Whether to measure with C(pgstattuple) what reaches O(bloat_ratio) and O(bloat_bytes), and what has no estimate.
    type: bool
    default: false
  unused_days:
    description: Days without a scan after which an index is called unused. V(0) stands for as long as the counters go back.
    type: float
    default: 30
  replicas:
    description:
      - Every standby, as V(host) or V(host:port), so that indexes that are only used there are not called unused. The other
        connection options are those of the server.
    type: list
    elements: str
    default: []
  sample_file:
    description:
      - File on the host with the sizes of the last runs. It is read to tell the growth, and the sizes of this run are added, except
        in check mode. Without it there is no growth.
    type: path
  growth_warning_percent:
    description: Growth in percent of the database's size by day that is worth a warning.
    type: float
    default: 5
  timeout:
    description: Seconds for everything together.
    type: int
    default: 300
requirements:
  - psycopg >= 3.1
notes:
  - The role needs C(pg_monitor), and for estimates the right to read the columns (C(pg_read_all_data), PostgreSQL 14 and newer).
    O(exact) needs C(pg_stat_scan_tables).
seealso:
  - module: fileforge.ops.postgres_vacuum
  - module: fileforge.ops.postgres_index_rebuild
"""

EXAMPLES = r"""
- name: See what takes room and what grew
  fileforge.ops.postgres_size_info:
    postgres_host: /var/run/postgresql
    postgres_database: fileforge
    sample_file: /var/lib/fileforge/sizes/fileforge.json
    replicas: [db2.fileforge.io]
  register: sizes

- name: Measure what looks bloated
  fileforge.ops.postgres_size_info:
    postgres_host: /var/run/postgresql
    postgres_database: fileforge
    exact: true
"""

RETURN = r"""
checks:
  description:
    - C(postgres.size.database), C(postgres.size.growth) (with O(sample_file)), C(postgres.bloat.tables), C(postgres.bloat.indexes),
      C(postgres.indexes.unused), C(postgres.indexes.duplicate) and C(postgres.indexes.invalid).
  type: list
  elements: dict
  returned: success
status:
  description: The worst status of the checks.
  type: str
  returned: success
tables:
  description:
    - The largest tables with C(schema), C(name), C(rows), C(dead_rows), C(heap_bytes), C(toast_bytes), C(index_bytes),
      C(total_bytes), C(vacuumed) and C(analysed).
  type: list
  elements: dict
  returned: success
bloat:
  description:
    - The tables, TOAST tables and indexes with the most empty space, each with C(kind), C(size_bytes), C(expected_bytes),
      C(bloat_bytes), C(ratio), C(source) (V(estimate), V(exact) or V(none)) and C(note).
  type: list
  elements: dict
  returned: success
unused_indexes:
  description: Indexes without a scan, the largest first. What they are worth is in the check.
  type: list
  elements: dict
  returned: success
duplicate_indexes:
  description:
    - Indexes that another one covers, with C(covered_by) and C(kind), V(same) or V(prefix).
  type: list
  elements: dict
  returned: success
growth:
  description:
    - What grew since the last run, with C(since), C(seconds), C(bytes), C(bytes_per_day) and C(tables). Null without an earlier
      run.
  type: dict
  returned: success
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils._argspec import POSTGRES, merge
from ansible_collections.fileforge.ops.plugins.module_utils._checks import UNKNOWN, Check, result_of
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import bloat, index_use, sizes
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions, connect
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.health_look import INCIDENT
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline

if t.TYPE_CHECKING:
    import psycopg

ARGUMENTS = merge(
    POSTGRES,
    {
        "top": {"type": "int", "default": 20},
        "bloat_ratio": {"type": "float", "default": 0.3},
        "bloat_bytes": {"type": "int", "default": 104857600},
        "exact": {"type": "bool", "default": False},
        "unused_days": {"type": "float", "default": 30},
        "replicas": {"type": "list", "elements": "str", "default": []},
        "sample_file": {"type": "path"},
        "growth_warning_percent": {"type": "float", "default": 5},
        "timeout": {"type": "int", "default": 300},
    },
)


class Look:
    """One look at a database: each probe by itself, so that one that fails hides no other."""

    def __init__(self, connection: psycopg.Connection[t.Any], params: dict[str, t.Any]) -> None:
        self.connection = connection
        self.params = params
        self.deadline = Deadline(params["timeout"])
        self.limits = sizes.BloatLimits(params["bloat_ratio"], params["bloat_bytes"])
        self.checks: list[Check] = []
        self.result: dict[str, t.Any] = {
            "tables": [], "bloat": [], "unused_indexes": [], "duplicate_indexes": [], "growth": None
        }  # fmt: skip

    def probe(self, ids: str, call: t.Callable[[], None]) -> None:
        """Run one probe; when it cannot look, its checks are unknown."""
        try:
            call()
        except OpsError as error:
            known = {check.id for check in self.checks}
            for check_id in ids.split():
                if check_id not in known:
                    self.checks.append(Check(check_id, UNKNOWN, f"could not look: {error.message}", hint=error.hint or INCIDENT))

    def sizes(self, check_mode: bool) -> None:
        """Tables, the database and its growth."""
        found = sizes.tables(self.connection)
        self.result["tables"] = found[: self.params["top"]]
        check = sizes.size_check(self.connection, found)
        self.checks.append(check)
        path = self.params["sample_file"]
        if path:
            now, before = sizes.sample(self.connection, found), sizes.read_samples(path)
            self.result["growth"] = sizes.growth(before, now)
            self.checks.append(sizes.growth_check(self.result["growth"], now.database_bytes, self.params["growth_warning_percent"]))
            if not check_mode:
                sizes.write_samples(path, [*before, now])

    def bloat(self, kind: str, estimate: t.Callable[[psycopg.Connection[t.Any]], list[bloat.Bloat]]) -> None:
        """Empty space of tables or indexes."""
        found = estimate(self.connection)
        if self.params["exact"]:
            found = sizes.measured(self.connection, found, self.limits, self.deadline)
        self.checks.append(sizes.bloat_check(kind, found, self.limits))
        worst = sorted((item for item in found if item.bloat_bytes), key=lambda item: -(item.bloat_bytes or 0))
        self.result["bloat"] += [item.as_dict() for item in worst[: self.params["top"]]]

    def indexes(self, server: PostgresOptions) -> None:
        """Invalid, duplicate and unused indexes."""
        found = index_use.indexes(self.connection)
        self.checks.append(index_use.invalid_check(found))
        double = index_use.duplicates(found)
        self.result["duplicate_indexes"] = double[: self.params["top"]]
        self.checks.append(index_use.duplicate_check(double))
        own = index_use.counters(self.connection, server.describe())
        replicas, problems = index_use.replica_counters(server, self.params["replicas"], own)
        missing = index_use.standbys(self.connection) - len(replicas) - len(problems)
        if missing > 0:
            problems.append(f"{missing} standbys were not asked")
        servers = [own, *replicas]
        idle = index_use.unused(found, servers, self.params["unused_days"])
        self.result["unused_indexes"] = idle[: self.params["top"]]
        self.checks.append(index_use.unused_check(idle, servers, problems, self.params["unused_days"]))


def require_sane(params: dict[str, t.Any]) -> None:
    """Raise InvalidOption before anything is looked at."""
    if not 0 < params["bloat_ratio"] <= 1:
        raise InvalidOption("bloat_ratio", params["bloat_ratio"], "must be more than 0 and at most 1")
    for name in ("top", "bloat_bytes", "unused_days", "growth_warning_percent"):
        if params[name] < 0:
            raise InvalidOption(name, params[name], "must not be negative")
    if params["timeout"] < 1:
        raise InvalidOption("timeout", params["timeout"], "must be at least 1")


def operate(params: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Look and return the result of the module."""
    require_sane(params)
    server = PostgresOptions.from_params(params)
    limit = params["timeout"] * 1000
    with connect(server, statement_timeout_ms=limit, lock_timeout_ms=5_000) as connection:
        look = Look(connection, params)
        look.probe("postgres.size.database postgres.size.growth", lambda: look.sizes(check_mode))
        look.probe("postgres.bloat.tables", lambda: look.bloat("tables", bloat.estimate_tables))
        look.probe("postgres.bloat.indexes", lambda: look.bloat("indexes", bloat.estimate_indexes))
        look.probe("postgres.indexes.invalid postgres.indexes.duplicate postgres.indexes.unused", lambda: look.indexes(server))
    return {"changed": False, **look.result, **result_of(look.checks)}


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: operate(module.params, module.check_mode))


if __name__ == "__main__":
    main()
