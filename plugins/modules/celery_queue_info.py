#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_queue_info
short_description: Examine Celery's queues and workers on a Redis broker
version_added: 1.0.0
description:
  - Looks at queues as Celery keeps them in Redis, that is at the keys of all priorities and at the messages that are delivered and
    not acknowledged, and asks the workers over the broker. Neither Celery nor the application is needed on the host.
  - Takes two samples O(sample_interval) seconds apart; with empty queues and all workers heard it ends sooner.
  - To ask the workers, the module adds a list of its own to the broker for the time of the question, as C(celery inspect) does.
    Nothing stays behind. With O(ask_workers=false) it only reads, and knows the workers by their heartbeats.
  - For each queue there are the checks C(queue.<name>.depth), C(queue.<name>.age) and C(queue.<name>.consumption). The others are
    C(celery.unacknowledged), C(celery.workers), C(redis.connection), C(redis.memory), C(redis.eviction) and C(redis.persistence).
  - C(queue.<name>.consumption) is V(critical) when messages wait, none is taken, and no worker is busy. Its value tells why, for
    example V(no_worker), V(no_consumer) (workers live but none takes from this queue) or V(not_consuming).
  - A server that refuses connections or does not answer is V(critical) in C(redis.connection), and all other checks are V(unknown).
    What the Redis user has no permission for is V(unknown). The module does not fail for it; use RV(status).
author:
  - FileForge operations (@fileforge)
extends_documentation_fragment:
  - fileforge.ops.attributes.info_module
  - fileforge.ops.redis
options:
  queues:
    description: Names of the queues.
    type: list
    elements: str
    required: true
  key_prefix:
    description: Celery's transport option C(global_keyprefix).
    type: str
    default: ""
  priority_steps:
    description: Celery's transport option C(priority_steps).
    type: list
    elements: int
    default: [0, 3, 6, 9]
  separator:
    description: Celery's transport option C(sep). Without it, Celery's default, the two bytes 06 and 16 (hexadecimal).
    type: str
  control_exchange:
    description: Celery's setting C(control_exchange).
    type: str
    default: celery
  event_exchange:
    description: Celery's setting C(event_exchange).
    type: str
    default: celeryev
  sample_interval:
    description: Seconds between the two samples, during which heartbeats and replies are heard. Heartbeats come every two seconds.
    type: float
    default: 2.5
  ask_workers:
    description: Whether to ask the workers what they do.
    type: bool
    default: true
  expected_workers:
    description: Names that have to be among the workers that live. V(*) stands for any characters, as in V(mail@*).
    type: list
    elements: str
    default: []
  minimum_workers:
    description: How many workers have to live.
    type: int
    default: 1
  depth_warning:
    description: More messages than this in a queue are a warning.
    type: int
    default: 100
  depth_critical:
    description: More messages than this in a queue are critical.
    type: int
    default: 1000
  age_warning:
    description: Age of the next message, in seconds, from which on it is a warning.
    type: float
    default: 300
  age_critical:
    description: Age of the next message, in seconds, from which on it is critical.
    type: float
    default: 3600
  task_seconds:
    description: How long a task may take. A message that is unacknowledged, or a task that runs, for longer is a warning.
    type: float
    default: 1800
  visibility_timeout:
    description: Celery's transport option of this name, in seconds. A message that is unacknowledged for longer is critical.
    type: float
    default: 3600
  memory_warning:
    description: Percent of Redis' memory limit, or of the machine's memory without one, from which on it is a warning.
    type: float
    default: 80
  memory_critical:
    description: The same, for critical.
    type: float
    default: 95
  age_header:
    description:
      - Message header in which producers put the time, as seconds since 1970 or in ISO 8601. With it the age of the next message
        is exact.
    type: str
    default: fileforge_published_at
  state_file:
    description:
      - File on the host in which the next message of each queue is remembered, so that the following run knows at least how long
        it has been the next one. Not written in check mode.
    type: path
seealso:
  - module: fileforge.ops.kube_rollout
"""

EXAMPLES = r"""
- name: Look at the queue with the rights that docs/server-checks.md lists
  fileforge.ops.celery_queue_info:
    redis_host: redis.fileforge.io
    redis_username: fileforge_monitor
    redis_password: "{{ monitor_password }}"
    queues: [fileforge-tasks]
    minimum_workers: 2
    state_file: /var/lib/fileforge/queues.json
  register: queue

- name: Only read, and demand certain workers
  fileforge.ops.celery_queue_info:
    redis_url: "{{ broker_url }}"
    queues: [fileforge-tasks, mail]
    ask_workers: false
    expected_workers: ["worker@*", "mail@*"]
"""

RETURN = r"""
checks:
  description: The checks.
  type: list
  elements: dict
  returned: success
status:
  description: The worst status of the checks.
  type: str
  returned: success
queues:
  description:
    - For each queue its C(name), C(depth), C(by_priority), C(drain_rate) (messages per second by which it shrank, negative when it
      grew),
      C(seconds_to_empty) (null when it does not shrink), C(age) of the next message in seconds (null when not known),
      C(age_method) (V(header), V(tracked) or V(idle)), C(age_confidence) (V(exact) or V(at_least)), C(head_tasks) and
      C(consumers) (workers that take from it; null when none said).
  type: list
  elements: dict
  returned: success
workers:
  description: The workers that were heard, each with what it replied. Arguments of tasks are left out.
  type: list
  elements: dict
  returned: success
unacknowledged:
  description: How many messages are delivered and not acknowledged (C(count)), and age and task of the oldest.
  type: dict
  returned: success
redis:
  description: Version, role, memory, eviction policy and clients of the server.
  type: dict
  returned: success
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._probes.celery_queue_info import ARGUMENTS, operate


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: operate(module.params, module.check_mode))


if __name__ == "__main__":
    main()
