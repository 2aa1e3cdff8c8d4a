#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_verify_info
short_description: Verify the data and the structure of a PostgreSQL database
version_added: 1.0.0
description:
  - Runs queries that give one value each and compares the values with what they must be. Each query runs in a read-only
    transaction that is rolled back.
  - Examines with the extension C(amcheck) all valid btree indexes and, from PostgreSQL 14 on, all tables, materialized views
    and TOAST tables of the connected database, system catalogs included.
  - A value that is wrong, a relation that is missing and damage are V(critical). What could not be looked at in time, for lack
    of privilege or for lack of the extension, is V(unknown).
  - The module does not fail for bad data; use RV(status).
author:
  - FileForge operations (@fileforge)
extends_documentation_fragment:
  - fileforge.ops.attributes.info_module
  - fileforge.ops.postgres
options:
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
    description: Whether to examine indexes and tables with C(amcheck).
    type: bool
    default: true
  heapallindexed:
    description: Whether to prove also that each row of a table is found in its indexes, which reads the tables as well.
    type: bool
    default: true
  create_extension:
    description:
      - Whether a missing extension C(amcheck) may be created for the time of the examination. This happens in a transaction
        that is rolled back, so nothing stays behind, but it needs a role with that right and a server that can be written to.
      - Meant for scratch servers. Not done in check mode.
    type: bool
    default: false
  timeout:
    description: Seconds for everything together.
    type: int
    default: 3600
seealso:
  - module: fileforge.ops.postgres_restore
  - module: fileforge.ops.postgres_file_check_info
"""

EXAMPLES = r"""
- name: Prove both sides of the target on the scratch server
  fileforge.ops.postgres_verify_info:
    postgres_host: /var/tmp/drill
    postgres_port: 54329
    postgres_database: fileforge
    create_extension: true
    assertions:
      - name: marker_before_is_there
        query: SELECT count(*) FROM fileforge_drill_marker WHERE label = 'drill-7-before'
        equals: "1"
      - name: marker_after_is_not_there
        query: SELECT count(*) FROM fileforge_drill_marker WHERE label = 'drill-7-after'
        equals: "0"
      - name: files
        query: SELECT count(*) FROM files
        minimum: 1
  register: verified
  failed_when: verified.status != 'ok'
"""

RETURN = r"""
checks:
  description: One check for each assertion, and C(postgres.amcheck.indexes) and C(postgres.amcheck.tables).
  type: list
  elements: dict
  returned: success
status:
  description: The worst status of the checks.
  type: str
  returned: success
findings:
  description: Damage found by C(amcheck), each with C(relation), C(kind) and C(message); at most 200.
  type: list
  elements: dict
  returned: success
found:
  description: The values of the assertions by name.
  type: dict
  returned: success
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils._argspec import POSTGRES, merge
from ansible_collections.fileforge.ops.plugins.module_utils._checks import result_of
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import verify
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions, connect
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline

ARGUMENTS = merge(
    POSTGRES,
    {
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
        "create_extension": {"type": "bool", "default": False},
        "timeout": {"type": "int", "default": 3600},
    },
)


def operate(params: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Verify and return the result of the module."""
    assertions = [verify.Assertion(**item) for item in params["assertions"]]
    deadline = Deadline(params["timeout"])
    with connect(PostgresOptions.from_params(params), lock_timeout_ms=10_000) as connection:
        report = verify.verify_assertions(connection, assertions, deadline)
        if params["amcheck"]:
            structure = verify.verify_structure(
                connection,
                heapallindexed=params["heapallindexed"],
                create_extension=params["create_extension"] and not check_mode,
                deadline=deadline,
            )
            report.checks += structure.checks
            report.findings += structure.findings
    findings = [finding.as_dict() for finding in report.findings]
    return {"changed": False, "findings": findings, "found": report.values, **result_of(report.checks)}


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: operate(module.params, module.check_mode))


if __name__ == "__main__":
    main()
