#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_marker
short_description: Commit a row at a known time, and wait until its WAL is archived
version_added: 1.0.0
description:
  - Inserts a row with a label into a marker table, which it creates when it is missing, and says when the row was committed.
  - Two markers enclose a recovery target. A restore to a time between them must contain the first and must not contain the
    second.
  - RV(committed_at) is the commit time that the server keeps when its setting C(track_commit_timestamp) is on
    (RV(committed_at_source) is V(commit_timestamp)). Otherwise it is the server's clock right after the commit
    (V(clock_after_commit)), which is never earlier than the commit, so a restore to that time contains the marker.
  - RV(not_before) is the server's clock at the insert, which is never later than the commit, so a restore to an earlier time
    does not contain the marker.
  - A label that is there already is left as it is.
author:
  - FileForge operations (@fileforge)
extends_documentation_fragment:
  - fileforge.ops.attributes
  - fileforge.ops.postgres
options:
  table:
    description: Table of the markers, optionally with its schema. Lower-case letters, digits and underscores only.
    type: str
    default: fileforge_drill_marker
  label:
    description: Label of the marker, unique in the table.
    type: str
    required: true
  wait_archived:
    description:
      - Whether to finish the current WAL segment and wait until the server has archived it.
      - Fails early when the server's archiver fails repeatedly, and at once when C(archive_mode) is off.
    type: bool
    default: false
  timeout:
    description: Seconds to wait for the archiver.
    type: int
    default: 120
seealso:
  - module: fileforge.ops.postgres_verify_info
  - module: fileforge.ops.postgres_wal_archive
"""

EXAMPLES = r"""
- name: Commit a marker before the target of a drill
  fileforge.ops.postgres_marker:
    label: drill-2026-11-23-before
    postgres_database: fileforge
  register: before

- name: Commit a marker after the target and wait until its WAL is archived
  fileforge.ops.postgres_marker:
    label: drill-2026-11-23-after
    postgres_database: fileforge
    wait_archived: true
"""

RETURN = r"""
label:
  description: The label.
  type: str
  returned: success
committed_at:
  description: When the marker was committed; see the description for its source. Empty in check mode for a new marker.
  type: str
  returned: success
  sample: "2026-11-23T14:05:00.123456+00:00"
committed_at_source:
  description:
    - V(commit_timestamp), V(clock_after_commit), or V(row) for a marker that was there already on a server that does not keep
      commit times (then it is the same as RV(not_before)).
  type: str
  returned: success
not_before:
  description: The server's clock when the row was inserted.
  type: str
  returned: success
lsn:
  description: WAL position after the commit.
  type: str
  returned: success
  sample: 0/3000148
segment:
  description: WAL segment of that position.
  type: str
  returned: success
  sample: "000000010000000000000003"
archived:
  description: The segment that was waited for. Empty when nothing was waited for.
  type: str
  returned: success
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils._argspec import POSTGRES, merge
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import marker
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions, connect

ARGUMENTS = merge(
    POSTGRES,
    {
        "table": {"type": "str", "default": "fileforge_drill_marker"},
        "label": {"type": "str", "required": True},
        "wait_archived": {"type": "bool", "default": False},
        "timeout": {"type": "int", "default": 120},
    },
)
NOT_YET: dict[str, t.Any] = dict.fromkeys(("committed_at", "committed_at_source", "not_before", "lsn", "segment"), "")


def operate(params: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Find or create the marker and return the result of the module."""
    table, label = params["table"], params["label"]
    marker.table_name(table)
    with connect(PostgresOptions.from_params(params), statement_timeout_ms=30_000, lock_timeout_ms=10_000) as connection:
        found = marker.find(connection, table, label)
        changed = found is None
        if found is None and not check_mode:
            found = marker.create(connection, table, label)
            changed = found.created
        waits = params["wait_archived"] and not check_mode
        archived = marker.wait_archived(connection, params["timeout"]) if waits else ""
    row = {"before": "", "after": f"{table}: {label}\n"} if changed else {"before": "", "after": ""}
    facts = found.as_dict() if found is not None else {"label": label, **NOT_YET}
    return {"changed": changed, **facts, "archived": archived, "diff": row}


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: operate(module.params, module.check_mode))


if __name__ == "__main__":
    main()
