#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: logrotate_config
short_description: Install a stanza of logrotate that logrotate accepts and that loses no line
version_added: 1.0.0
description:
  - Renders a stanza, lets logrotate itself read it (in debug mode, from a temporary file with a state file of its own), and only
    then installs it, whole.
  - Refuses, before anything is touched, what logrotate or the application would stumble over at night. That is another stanza for
    the same files anywhere in O(main_config), a directory that logrotate finds insecure for root, users and groups that do not
    exist, a new log file that its writer could not write, a command that is missing, not allowed or cannot be reloaded, and a
    pattern that matches rotated files.
  - A failing O(postrotate) command is never hidden. Shell operators such as C(|| true) and redirections are refused, so that
    logrotate reports the failure and what the command printed.
  - Each directive is written also when it is off, so that the defaults of O(main_config) do not matter.
author:
  - FileForge operations (@fileforge)
extends_documentation_fragment:
  - fileforge.ops.attributes
options:
  dest:
    description: File of the stanza, which holds nothing else. Its directory must exist.
    type: path
    required: true
  state:
    description: Whether the stanza is to be there. With V(absent) the file is removed; logs and rotated files stay.
    type: str
    choices: [present, absent]
    default: present
  main_config:
    description:
      - The configuration that logrotate is run with. It must include the directory of O(dest), and with everything that it includes
        it must have no other stanza for the same files.
      - When empty, neither is looked at.
    type: str
    default: /etc/logrotate.conf
  mode:
    description: Mode of O(dest). logrotate ignores files that group or others can write.
    type: str
    default: "0644"
  backup:
    description: Whether to keep the old file beside the new one, under a name that ends in C(~) and that logrotate does not read.
    type: bool
    default: false
  paths:
    description: Absolute paths or patterns of the log files. Required when O(state=present).
    type: list
    elements: str
    default: []
  frequency:
    description: How often to rotate. Either this or O(size) is required when O(state=present).
    type: str
    choices: [hourly, daily, weekly, monthly, yearly]
  size:
    description: Rotate when the file is bigger than this, however long ago it was rotated. Bytes, or with C(k), C(M) or C(G).
    type: str
  minsize:
    description: Do not rotate, although it is time, while the file is smaller than this.
    type: str
  maxsize:
    description: Rotate before it is time when the file is bigger than this.
    type: str
  rotate:
    description: How many rotated files are kept. With V(-1) all are kept.
    type: int
    default: 30
  maxage:
    description: Remove rotated files that are older than so many days.
    type: int
  compress:
    description: Whether rotated files are compressed.
    type: bool
    default: true
  delaycompress:
    description: Whether the newest rotated file stays uncompressed until the next rotation, because it may still be written to.
    type: bool
    default: true
  missingok:
    description: Whether a missing log file is no error.
    type: bool
    default: true
  notifempty:
    description: Whether an empty log file is left alone.
    type: bool
    default: true
  create:
    description: Whether a new log file is made at once. Not done when O(copytruncate=true).
    type: bool
    default: true
  create_mode:
    description: Mode of the new log file. When not set, that of the rotated one.
    type: str
  create_owner:
    description: Owner of the new log file. When not set, that of the rotated one.
    type: str
  create_group:
    description: Group of the new log file. When not set, that of the rotated one.
    type: str
  copytruncate:
    description: Whether to copy and truncate the file in place. It loses lines that are written in between.
    type: bool
    default: false
  su_user:
    description: User that rotates. Needed where others than root can write the log's directory.
    type: str
  su_group:
    description: Group that rotates.
    type: str
  sharedscripts:
    description: Whether the commands run once for all files instead of once for each.
    type: bool
    default: true
  postrotate:
    description:
      - Commands that make the application reopen its log, each a program with plain arguments.
      - The first that fails ends the rest, and logrotate reports it. Programs are written with their absolute path.
    type: list
    elements: str
    default: []
  postrotate_allowed:
    description: Programs, by name or absolute path, that O(postrotate) may run.
    type: list
    elements: str
    default: [systemctl, service, invoke-rc.d, kill, nginx, apachectl, pg_ctlcluster, rsyslog-rotate]
  signal:
    description: Signal that makes the application reopen its log, sent after O(postrotate). A missing process is a failure.
    type: dict
    suboptions:
      pid_file:
        description: File with the number of the process.
        type: str
        required: true
      signal:
        description: Name of the signal, without C(SIG).
        type: str
        default: HUP
  dateext:
    description: Whether rotated files are named by date instead of by number.
    type: bool
    default: false
  dateformat:
    description: Form of that date, with C(%Y), C(%m), C(%d), C(%H), C(%M), C(%S), C(%V) and C(%s).
    type: str
  olddir:
    description: Existing directory for rotated files, on the file system of the logs.
    type: str
  writer:
    description:
      - User that the application runs as. The module refuses when that user could not write the new log file.
      - When not set, the owners of the existing log files, root apart, are looked at.
    type: str
requirements:
  - logrotate >= 3.14
seealso:
  - name: logrotate(8)
    description: Manual page of logrotate.
    link: https://manpages.debian.org/logrotate
"""

EXAMPLES = r"""
- name: Rotate the application's logs daily and keep thirty of them
  fileforge.ops.logrotate_config:
    dest: /etc/logrotate.d/fileforge
    paths: [/var/log/fileforge/*.log]
    frequency: daily
    rotate: 30
    create_mode: "0640"
    create_owner: fileforge
    create_group: fileforge
    writer: fileforge
    postrotate: [systemctl reload fileforge]
    backup: true

- name: Rotate by size in a directory that the application owns
  fileforge.ops.logrotate_config:
    dest: /etc/logrotate.d/worker
    paths: [/srv/worker/log/worker.log]
    size: 100M
    rotate: 10
    maxage: 90
    su_user: worker
    su_group: worker
    signal:
      pid_file: /run/worker/worker.pid
      signal: USR1

- name: Remove a stanza
  fileforge.ops.logrotate_config:
    dest: /etc/logrotate.d/worker
    state: absent
"""

RETURN = r"""
dest:
  description: File of the stanza.
  type: str
  returned: success
stanza:
  description: The stanza's text; empty when O(state=absent).
  type: str
  returned: success
files:
  description: Log files that the stanza is for now.
  type: list
  elements: str
  returned: success
notes:
  description: What is accepted but worth knowing, such as a directory that does not exist yet. Also shown as warnings.
  type: list
  elements: str
  returned: success
possible_conflicts:
  description: Patterns of other stanzas that could match a common name although no such file exists.
  type: list
  elements: dict
  returned: success
backup_file:
  description: Copy of the old file; null when none was made.
  type: str
  returned: success
reason:
  description:
    - On a refusal, which. One of V(conflict), V(not_read), V(not_accepted), V(insecure_directory), V(su_cannot_write),
      V(su_cannot_create), V(writer_locked_out), V(no_olddir), V(olddir_other_file_system), V(postrotate_missing),
      V(postrotate_not_allowed), V(postrotate_insecure), V(postrotate_unit), V(no_logrotate), V(backup_read), V(cannot_read)
      and V(include_depth).
  type: str
  returned: failure
conflicts:
  description: The other stanzas, each with C(file), C(line), C(pattern), C(ours), C(files) and C(certain).
  type: list
  elements: dict
  returned: when another stanza is for the same files
"""

import dataclasses
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._host import logrotate
from ansible_collections.fileforge.ops.plugins.module_utils._host.logrotate_stanza import StanzaOptions
from ansible_collections.fileforge.ops.plugins.module_utils._host.postrotate import ALLOWED, Signal
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude

ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "dest": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "main_config": {"type": "str", "default": "/etc/logrotate.conf"},
    "mode": {"type": "str", "default": "0644"},
    "backup": {"type": "bool", "default": False},
    "paths": {"type": "list", "elements": "str", "default": []},
    "frequency": {"type": "str", "choices": ["hourly", "daily", "weekly", "monthly", "yearly"]},
    "size": {"type": "str"},
    "minsize": {"type": "str"},
    "maxsize": {"type": "str"},
    "rotate": {"type": "int", "default": 30},
    "maxage": {"type": "int"},
    "compress": {"type": "bool", "default": True},
    "delaycompress": {"type": "bool", "default": True},
    "missingok": {"type": "bool", "default": True},
    "notifempty": {"type": "bool", "default": True},
    "create": {"type": "bool", "default": True},
    "create_mode": {"type": "str"},
    "create_owner": {"type": "str"},
    "create_group": {"type": "str"},
    "copytruncate": {"type": "bool", "default": False},
    "su_user": {"type": "str"},
    "su_group": {"type": "str"},
    "sharedscripts": {"type": "bool", "default": True},
    "postrotate": {"type": "list", "elements": "str", "default": []},
    "postrotate_allowed": {"type": "list", "elements": "str", "default": list(ALLOWED)},
    "signal": {
        "type": "dict",
        "options": {"pid_file": {"type": "str", "required": True}, "signal": {"type": "str", "default": "HUP"}},
    },
    "dateext": {"type": "bool", "default": False},
    "dateformat": {"type": "str"},
    "olddir": {"type": "str"},
    "writer": {"type": "str"},
}


def mode_of(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError as error:
        raise InvalidOption("mode", text, "not a mode such as '0644'", hint="quote it, so that YAML keeps it") from error


def operate(params: dict[str, t.Any], check_mode: bool, warn: t.Callable[[str], None]) -> dict[str, t.Any]:
    """Install or remove the stanza and return the result of the module."""
    target = logrotate.Target(params["dest"], params["main_config"], mode_of(params["mode"]), params["backup"])
    if params["state"] == "absent":
        outcome = logrotate.remove(target, check_mode=check_mode)
    else:
        given = {field.name: params[field.name] for field in dataclasses.fields(StanzaOptions)}
        given["signal"] = Signal(**given["signal"]) if given["signal"] else None
        outcome = logrotate.install(StanzaOptions(**given), target, check_mode=check_mode)
    for note in outcome.notes:
        warn(note)
    return {
        "changed": outcome.changed,
        "dest": target.dest,
        "stanza": outcome.after,
        "files": outcome.matched,
        "notes": outcome.notes,
        "possible_conflicts": outcome.possible,
        "backup_file": outcome.backup_file,
        "diff": {
            "before": outcome.before,
            "after": outcome.after,
            "before_header": target.dest,
            "after_header": target.dest,
        },
    }


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: operate(module.params, module.check_mode, module.warn))


if __name__ == "__main__":
    main()
