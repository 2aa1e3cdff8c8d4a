#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a penetration test."""

from __future__ import annotations

DOCUMENTATION = r"""
module: penetration_record
short_description: Keep the record of a penetration test, and say what is overdue
version_added: 1.0.0
author:
  - FileForge operations (@fileforge)
description:
  - Makes a record for each quarter from a checklist, a YAML file in which people write who did what and what shows it.
  - A record that is there is never rewritten. Items that the checklist gained since are added at its end; all else stays as
    people left it, comments and items that the checklist no longer has among it.
  - The check C(penetration.item) of each item is V(critical) when it is overdue, V(warning) when it has no owner, no due date, or
    is done without evidence, and V(unknown) when its status is none.
options:
  directory:
    description: Directory of the records. It is made when missing.
    type: path
    required: true
  quarter:
    description: Quarter of the record, as V(2026-Q4). Without it, that of today (UTC).
    type: str
  title:
    description: First line of a new record.
    type: str
    default: Penetration test
  checklist:
    description: What is to be tested.
    type: list
    elements: dict
    required: true
    suboptions:
      id:
        description: Name that stays the same; lower-case letters, digits and dashes.
        type: str
        required: true
      task:
        description: What is to be done, in a line.
        type: str
        required: true
      owner:
        description: Who does it, or sees that it is done.
        type: str
        required: true
      due_days:
        description: Days from the day on which it comes into the record until it is due.
        type: int
        default: 30
      scope:
        description: What is tested.
        type: list
        elements: str
        default: []
seealso:
  - module: fileforge.ops.exposure_info
  - module: fileforge.ops.operations_report
extends_documentation_fragment:
  - fileforge.ops.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Keep the record of this quarter
  fileforge.ops.penetration_record:
    directory: /srv/security/penetration
    checklist:
      - id: object-access
        task: Try to read files of another user
        owner: Security
        scope: [https://api.fileforge.io]
"""

RETURN = r"""
path:
  description: The record.
  returned: success
  type: str
  sample: /srv/security/penetration/2026-Q4.yml
entries:
  description: What stands in the record.
  returned: success
  type: list
  elements: dict
checks:
  description: The check C(penetration.item) of each entry, whose C(subject) is the entry's id.
  returned: success
  type: list
  elements: dict
status:
  description: The worst status of the checks.
  returned: success
  type: str
  sample: ok
"""

import datetime
import os
import re
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils import _time
from ansible_collections.fileforge.ops.plugins.module_utils._checks import result_of
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._exposure import record
from ansible_collections.fileforge.ops.plugins.module_utils._files import exclusive_lock, write_whole
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude

ITEM: dict[str, dict[str, t.Any]] = {
    "id": {"type": "str", "required": True},
    "task": {"type": "str", "required": True},
    "owner": {"type": "str", "required": True},
    "due_days": {"type": "int", "default": 30},
    "scope": {"type": "list", "elements": "str", "default": []},
}
ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "directory": {"type": "path", "required": True},
    "quarter": {"type": "str"},
    "title": {"type": "str", "default": "Penetration test"},
    "checklist": {"type": "list", "elements": "dict", "required": True, "options": ITEM},
}


def keep(params: t.Mapping[str, t.Any], check_mode: bool, today: datetime.date) -> dict[str, t.Any]:
    """Add to the record what is missing, and judge it. Raises InvalidOption, RecordDamaged, MissingLibrary."""
    quarter = params["quarter"] or record.quarter_of(today)
    if not re.fullmatch(r"\d{4}-Q[1-4]", quarter):
        raise InvalidOption("quarter", quarter, "is no quarter", hint="use for example 2026-Q4")
    items = [record.Item(**item) for item in params["checklist"]]
    path = os.path.join(params["directory"], f"{quarter}.yml")

    def extend() -> tuple[str, str]:
        before = _read(path)
        return before, record.extended(before, items, f"{params['title']} {quarter}", today, path)

    before, after = extend()
    if after != before and not check_mode:
        try:
            os.makedirs(params["directory"], mode=0o750, exist_ok=True)
            with exclusive_lock(os.path.join(params["directory"], ".lock"), "record"):
                before, after = extend()  # another run may have written meanwhile
                if after != before:
                    write_whole(path, after.encode(), mode=0o640)
        except OSError as error:
            raise InvalidOption("directory", params["directory"], f"cannot be written to: {error.strerror}") from error
    entries = record.parsed(after, path)
    shown = [{**entry, "due": str(entry["due"])} if "due" in entry else entry for entry in entries]
    diff = {"before": before, "after": after, "before_header": path, "after_header": path}
    return {"changed": after != before, "path": path, "entries": shown, "diff": diff, **result_of(record.judge(entries, today))}


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption("directory", path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: keep(module.params, module.check_mode, _time.now().date()))


if __name__ == "__main__":
    main()
