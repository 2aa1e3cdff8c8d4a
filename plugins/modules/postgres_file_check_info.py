#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_file_check_info
short_description: Check the files that a database describes against a directory
version_added: 1.0.0
description:
  - Streams the rows of a query that describe files, in one snapshot, and compares them with the files below a directory.
  - Runs on a host that sees the directory. Memory does not grow with the number of rows and files.
  - Missing files, wrong sizes, wrong checksums, files that cannot be read, paths that are not regular files and paths that lead
    out of the directory are V(critical). Files without a row are a V(warning), because a database that was restored to an
    earlier time does not know later files.
  - Files are only ever opened below O(path); a path from the database is never opened.
  - The module does not fail for differences; use RV(status).
author:
  - FileForge operations (@fileforge)
extends_documentation_fragment:
  - fileforge.ops.attributes.info_module
  - fileforge.ops.postgres
options:
  query:
    description:
      - A C(SELECT) with the column C(path) (relative to O(path)) and optionally C(size) (bytes) and C(sha256) (hexadecimal, or
        C(bytea)). A value that is null is not compared.
    type: str
    required: true
  path:
    description: The directory.
    type: path
    required: true
  hash:
    description: Whether to read each file and compare its SHA-256.
    type: bool
    default: true
  jobs:
    description: How many files are read at the same time.
    type: int
    default: 4
  ignore:
    description: Shell patterns of names, of files and of whole directories, that are left out of the comparison.
    type: list
    elements: str
    default: [lost+found]
  max_findings:
    description: How many findings of each kind are returned; all are counted.
    type: int
    default: 20
  timeout:
    description: Seconds that the database may take for one step of the query.
    type: int
    default: 600
seealso:
  - module: fileforge.ops.s3_tree
  - module: fileforge.ops.postgres_restore
"""

EXAMPLES = r"""
- name: Check the uploads against the files table
  fileforge.ops.postgres_file_check_info:
    postgres_host: db1.fileforge.io
    postgres_database: fileforge
    query: SELECT path, size, sha256 FROM files
    path: /app/uploads
  register: compared
  failed_when: compared.status == 'critical'
"""

RETURN = r"""
rows:
  description: Rows of the query.
  type: int
  returned: success
files:
  description: Files in the directory.
  type: int
  returned: success
hashed:
  description: Files that were read and hashed.
  type: int
  returned: success
bytes:
  description: Bytes of those files.
  type: int
  returned: success
counts:
  description:
    - Problems by kind (C(hostile), C(missing), C(not_regular), C(size), C(sha256), C(unreadable), C(orphan)).
  type: dict
  returned: success
findings:
  description: The first problems of each kind, with C(kind), C(path), C(expected) and C(found).
  type: list
  elements: dict
  returned: success
checks:
  description: One check C(files.<kind>) for each kind.
  type: list
  elements: dict
  returned: success
status:
  description: The worst status of the checks.
  type: str
  returned: success
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils._argspec import POSTGRES, merge
from ansible_collections.fileforge.ops.plugins.module_utils._checks import result_of
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions, connect
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.file_check import KINDS, compare, rows_of

ARGUMENTS = merge(
    POSTGRES,
    {
        "query": {"type": "str", "required": True},
        "path": {"type": "path", "required": True},
        "hash": {"type": "bool", "default": True},
        "jobs": {"type": "int", "default": 4},
        "ignore": {"type": "list", "elements": "str", "default": ["lost+found"]},
        "max_findings": {"type": "int", "default": 20},
        "timeout": {"type": "int", "default": 600},
    },
)


def operate(params: dict[str, t.Any]) -> dict[str, t.Any]:
    """Compare and return the result of the module."""
    if params["jobs"] < 1:
        raise InvalidOption("jobs", params["jobs"], "must be at least 1")
    timeout = params["timeout"] * 1000
    with connect(PostgresOptions.from_params(params), statement_timeout_ms=timeout, lock_timeout_ms=10_000) as connection:
        result = compare(
            rows_of(connection, params["query"]),
            params["path"],
            hashing=params["hash"],
            jobs=params["jobs"],
            max_findings=params["max_findings"],
            ignore=params["ignore"],
        )
    return {
        "changed": False,
        "rows": result.rows,
        "files": result.files,
        "hashed": result.hashed,
        "bytes": result.hashed_bytes,
        "counts": {kind: result.counts[kind] for kind in KINDS},
        "findings": result.all_findings(),
        **result_of(result.checks(params["hash"])),
    }


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: operate(module.params))


if __name__ == "__main__":
    main()
