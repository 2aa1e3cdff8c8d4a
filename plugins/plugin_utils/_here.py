# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a module of a task would run beside this process, and its options then. PRIVATE to the collection.

There a look or a report needs no copy of its code and no second start of Python, which take longer than what it does.
"""

from __future__ import annotations

import json
import sys
import typing as t

if t.TYPE_CHECKING:
    from ansible.plugins.action import ActionBase

LOCAL = ("local", "ansible.builtin.local")


def runs_here(action: ActionBase, task_vars: t.Mapping[str, t.Any]) -> bool:
    """Whether the task's host is this machine, by the same user, interpreter and environment as this process has."""
    task, connection = action._task, action._connection
    if (
        connection.transport not in LOCAL
        or connection.become is not None
        or action._play_context.become
        or any(task.environment or ())
    ):
        return False
    of_host = task_vars.get("ansible_delegated_vars", {}).get(task.delegate_to, {}) if task.delegate_to else task_vars
    return bool(action._templar.template(of_host.get("ansible_python_interpreter", "")) == sys.executable)


def as_sent(options: t.Any) -> t.Any:
    """The options as they would reach a host: plain values, without what Ansible knows of their origin."""
    return json.loads(json.dumps(options, default=str))
