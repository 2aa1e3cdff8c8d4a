#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_index_rebuild
short_description: Rebuild the indexes of a PostgreSQL database that need it, while it is in use
version_added: 1.0.0
description:
  - Decides from the state of the database, not from the calendar. An index is rebuilt when it is invalid, when its bloat exceeds
    O(bloat_percent) and O(bloat_min_bytes), or when it is named with O(indexes[].force). It is replaced when its definition is
    not O(indexes[].definition), and created when it is missing.
  - An index that keeps its definition is rebuilt with C(REINDEX CONCURRENTLY). For a new definition, a new index is created
    concurrently, proven, given the name in one transaction with the renaming of the old one, and the old one is dropped. There is
    no moment without a valid index, and none at which reading or writing has to wait.
  - Removes what interrupted rebuilds have left. Those of C(REINDEX CONCURRENTLY) (C(_ccnew), C(_ccold)) are known by being invalid,
    by name, and by having the definition of their original on the same table; those of this module (C(_ffnew_), C(_ffold_)) by a
    digest of name and definition in their names. An index that is merely invalid is rebuilt, not dropped, unless it is the
    duplicate of a valid one, which is reported.
  - When it is killed, or its sessions are ended, at any point, each index is as before or new. Run it again to complete the work.
options:
  indexes:
    description:
      - Indexes that are looked at whatever O(schemas) says, with what is wanted of them.
      - That of a partitioned table stands for those of its partitions.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the index, as it is in the catalog, without quotes.
        type: str
        required: true
      schema:
        description: Schema of the index and its table.
        type: str
        default: public
      force:
        description: Whether the index is rebuilt whatever its state, so that each run rebuilds it.
        type: bool
        default: false
      table:
        description: Table for O(indexes[].definition).
        type: str
      definition:
        description:
          - What follows the table's name in C(CREATE INDEX), for example V((updated_at\)) or V(USING gin (tags\)).
          - It is compared as the server understands it, without the tablespace. It is SQL, so it must not come from strangers.
        type: str
      unique:
        description: Whether the index of O(indexes[].definition) is unique.
        type: bool
        default: false
  only:
    description: Whether only O(indexes) are looked at. Leftovers are removed all the same.
    type: bool
    default: false
  schemas:
    description: Schemas whose indexes are looked at. When empty, all but those of the system.
    type: list
    elements: str
    default: []
  bloat:
    description:
      - How bloat is found. With V(estimate), from the planner's statistics, which reads no index. With V(exact), with the extension
        C(pgstattuple), which reads each index of at least O(bloat_min_bytes) whole. With V(none), not at all.
      - Only btree indexes have either. The result says which it was.
    type: str
    choices: [estimate, exact, none]
    default: estimate
  bloat_percent:
    description: An index is bloated when at least this share of it would be freed by rebuilding it, in percent.
    type: float
    default: 30
  bloat_min_bytes:
    description: An index is bloated when also at least so many bytes would be freed.
    type: int
    default: 10485760
  jobs:
    description:
      - How many indexes are built at the same time, each on another table. Indexes with expressions or a predicate, new definitions
        and, before PostgreSQL 14, all indexes are built one at a time, because the server would let them wait for one another.
    type: int
    default: 1
  window:
    description:
      - Seconds that the run may take. No build is begun that is expected to take longer than what is left, and one that takes
        longer is stopped and its remains are removed, before they have passed. What was not done is in RV(left).
      - When not set, there is no limit.
    type: int
  lock_timeout:
    description:
      - Seconds to wait for a lock, or for transactions that are older, before an attempt is given up. Reading and writing never
        wait for the module at all; C(ALTER TABLE) waits for the end of a build, and others then wait behind it.
    type: float
    default: 5
  attempts:
    description: How often each index is tried when locks cannot be had, with growing pauses.
    type: int
    default: 5
  require_space:
    description:
      - Whether to refuse when the free space of the server's disk is not known, because the server was not reached over a Unix
        socket. When it is known, there must be room for twice the largest index; with O(jobs), for the largest besides all that
        may be built at the same time.
    type: bool
    default: false
  maintenance_work_mem:
    description: Memory for sorting in each build, as in PostgreSQL's configuration, for example V(1GB). When not set, the server's.
    type: str
  verify:
    description: Whether each new index is examined with C(bt_index_check) of the extension C(amcheck), if the database has it.
    type: bool
    default: true
  heapallindexed:
    description: Whether to prove also that each row of the table is in the index, which reads the table.
    type: bool
    default: true
  create_extension:
    description:
      - Whether a missing extension C(amcheck) may be created for the time of the examination, in a transaction that is rolled back.
        That needs a superuser.
    type: bool
    default: false
extends_documentation_fragment:
  - fileforge.ops.attributes
  - fileforge.ops.postgres
  - fileforge.ops.planned
  - fileforge.ops.planned.progress
attributes:
  idempotent:
    support: partial
    details: An index that is named with O(indexes[].force) is rebuilt by each run.
requirements:
  - psycopg >= 3.1
  - PostgreSQL 12 or newer, but not 14.0 to 14.3
notes:
  - The role must own the tables. To see the bloat of all of them it must be able to read them, or be a superuser.
  - One run at a time works on a database; a second one is refused. The sessions of a run that was killed are ended by the next.
  - Connect to the server itself. A pooler that hands out transactions breaks the locks that the module holds.
  - Not rebuilt are indexes of exclusion constraints and of system catalogs, because the server cannot do it concurrently. A new
    definition is refused for the index of a constraint, a replica identity, a clustered table, and for partitioned tables.
  - The server writes as much WAL as the new indexes have bytes.
seealso:
  - module: fileforge.ops.postgres_verify_info
author:
  - FileForge operations (@fileforge)
"""

EXAMPLES = r"""
- name: Rebuild what is invalid or bloated, for an hour at most
  fileforge.ops.postgres_index_rebuild:
    postgres_host: /var/run/postgresql
    postgres_database: fileforge
    jobs: 2
    window: 3600
  become: true
  become_user: postgres

- name: Have an index of this definition, whatever it was before
  fileforge.ops.postgres_index_rebuild:
    postgres_host: /var/run/postgresql
    postgres_database: fileforge
    only: true
    indexes:
      - name: idx_files_updated_at
        table: files
        definition: (updated_at)
  become: true
  become_user: postgres

- name: Rebuild one index now, after the collation has changed
  fileforge.ops.postgres_index_rebuild:
    postgres_host: /var/run/postgresql
    postgres_database: fileforge
    only: true
    indexes:
      - name: users_email_key
        force: true
  become: true
  become_user: postgres
"""

RETURN = r"""
plan:
  description: What is done, or in check mode would be done.
  returned: success
  type: dict
  contains:
    title:
      description: Which database it is about.
      type: str
    steps:
      description: The steps, with C(action) (V(drop), V(rebuild), V(replace), V(create)), C(object), C(destructive) and C(detail).
      type: list
      elements: dict
    notes:
      description: What the digest does not cover, such as sizes, bloat, and what is left and why.
      type: list
      elements: str
    digest:
      description: Digest of title and steps.
      type: str
      sample: 1f0c2a9be4d7a653
    destructive:
      description: Whether an index is replaced by one of another definition.
      type: bool
indexes:
  description: What was done. Empty in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    schema:
      description: Schema of the index.
      type: str
    name:
      description: Its name.
      type: str
    table:
      description: Its table.
      type: str
    action:
      description: As in the plan.
      type: str
    reason:
      description: V(leftover), V(invalid), V(bloat), V(force), V(definition) or V(missing).
      type: str
    status:
      description: V(done) or V(failed).
      type: str
    message:
      description: Why it failed.
      type: str
    attempts:
      description: How often it was tried.
      type: int
    seconds:
      description: How long it took.
      type: float
    bytes_before:
      description: Size before.
      type: int
    bytes_after:
      description: Size after.
      type: int
    bloat_percent:
      description: Bloat before; null when it is not known.
      type: float
    bloat_source:
      description: V(estimate), V(exact) or V(none).
      type: str
    verified:
      description: Whether C(amcheck) found the new index sound; null when it was not examined.
      type: bool
    verify_note:
      description: Why it was not examined, or what was found.
      type: str
left:
  description: Indexes that need something and did not get it, with C(schema), C(name), C(table), C(reason) and C(detail).
  returned: success
  type: list
  elements: dict
  sample: [{schema: public, name: idx_big, table: files, reason: window, detail: the window is over}]
space:
  description: For each tablespace, C(location), C(free) and C(needed) bytes, and a C(problem) when C(free) is not known.
  returned: success
  type: list
  elements: dict
bytes_before:
  description: Size of all indexes that were dealt with, before.
  returned: success
  type: int
bytes_after:
  description: Their size after.
  returned: success
  type: int
timings:
  description: Phases of the run (C(look), C(rebuild), C(verify)) with C(seconds), C(done) and C(unit).
  returned: success
  type: list
  elements: dict
reason:
  description:
    - On a refusal, which. One of V(version), V(server_defect), V(standby), V(locked), V(no_such_index), V(no_such_table),
      V(not_a_table), V(no_pgstattuple), V(exclusion_constraint), V(not_owner), V(name_taken), V(partitioned_table), V(other_table),
      V(constraint), V(replica_identity), V(clustered), V(partition), V(disk_space), V(space_unknown) and V(plan_changed).
  returned: failure
  type: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils import _argspec
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_plan import RebuildOptions, Wanted
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_run import run_rebuild
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress

SPEC: _argspec.Spec = {
    "indexes": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "schema": {"type": "str", "default": "public"},
            "force": {"type": "bool", "default": False},
            "table": {"type": "str"},
            "definition": {"type": "str"},
            "unique": {"type": "bool", "default": False},
        },
    },
    "only": {"type": "bool", "default": False},
    "schemas": {"type": "list", "elements": "str", "default": []},
    "bloat": {"type": "str", "choices": ["estimate", "exact", "none"], "default": "estimate"},
    "bloat_percent": {"type": "float", "default": 30},
    "bloat_min_bytes": {"type": "int", "default": 10485760},
    "jobs": {"type": "int", "default": 1},
    "window": {"type": "int"},
    "lock_timeout": {"type": "float", "default": 5},
    "attempts": {"type": "int", "default": 5},
    "require_space": {"type": "bool", "default": False},
    "maintenance_work_mem": {"type": "str"},
    "verify": {"type": "bool", "default": True},
    "heapallindexed": {"type": "bool", "default": True},
    "create_extension": {"type": "bool", "default": False},
}


def options_of(params: t.Mapping[str, t.Any]) -> RebuildOptions:
    """The engine's options for the module's."""
    given = {name: params[name] for name in SPEC}
    given["indexes"] = tuple(Wanted(**item) for item in given["indexes"])
    given["schemas"] = tuple(given["schemas"])
    return RebuildOptions(**given)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    result = run_rebuild(
        PostgresOptions.from_params(module.params),
        options_of(module.params),
        check_mode=module.check_mode,
        plan_digest=module.params["plan_digest"],
        progress=Progress(module.params["progress_file"]),
    )
    for warning in result.pop("warnings"):
        module.warn(warning)
    return result


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec=_argspec.merge(SPEC, _argspec.POSTGRES, _argspec.PLANNED, _argspec.PROGRESS),
        supports_check_mode=True,
    )
    conclude(module, lambda: run(module))


if __name__ == "__main__":
    main()
