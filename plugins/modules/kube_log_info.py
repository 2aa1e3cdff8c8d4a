#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kube_log_info
short_description: Find and group the errors in the logs of all pods of a Kubernetes selector
version_added: 1.0.0
description:
  - Reads the logs of all containers of all pods that a selector names, init containers and previous runs too, in parallel and as a
    stream, and counts the lines that matter.
  - Lines that differ only in numbers, ids, addresses or times are one group, with its count, first and last time, pods and one
    sample. Secrets in messages are masked.
  - Lines of JSON are understood. Their level decides, and their message is what is grouped.
  - Memory is bounded whatever the volume, because pieces of logs are dropped once counted and the number of groups is limited.
  - C(kube.logs.read) is V(ok) only when every log could be read. C(kube.logs.errors) grades the percentage of all lines read,
    C(kube.logs.burst) the worst five minutes. As long as a log could not be read, neither is V(ok).
  - The module does not fail for logs that cannot be read, nor for a server that does not answer.
author:
  - FileForge operations (@fileforge)
extends_documentation_fragment:
  - fileforge.ops.attributes.info_module
  - fileforge.ops.kube
options:
  namespace:
    description: Namespace of the pods.
    type: str
    default: default
  selector:
    description: Label selector of the pods. Without it, all pods of the namespace.
    type: str
    default: ""
  containers:
    description: Names of the containers to read. Without any, all.
    type: list
    elements: str
    default: []
  name:
    description:
      - Goes into the ids of the checks (C(kube.logs.<name>.errors)), so that reports about several selectors keep them apart.
    type: str
    default: ""
  since_hours:
    description: Hours to look back. Nodes keep only the end of a log that grows fast, whatever is asked here.
    type: float
    default: 24
  pattern:
    description:
      - Regular expression of text lines that matter, and of messages of JSON lines.
      - Without it, what matters is a line with one of O(levels), or a text line without a level that says error, exception, fatal,
        critical, panic, traceback, failed, failure or emerg.
    type: str
  ignore_case:
    description: Whether O(pattern) takes small letters for capital ones.
    type: bool
    default: true
  levels:
    description: Levels whose lines matter whatever they say. Numeric levels count as in bunyan and pino (50 is an error, 60 fatal).
    type: list
    elements: str
    default: [error, critical, fatal, alert, emergency, panic]
  level_keys:
    description: Keys of the level in a line of JSON, the first that is there counts. A dotted key reaches into objects.
    type: list
    elements: str
    default: [level, severity, levelname, log.level, loglevel, lvl]
  message_keys:
    description: Keys of the message in a line of JSON, the first that is there counts. A dotted key reaches into objects.
    type: list
    elements: str
    default: [message, msg, event, log, error, err, exception]
  previous:
    description: Whether to read also the previous run of containers that were restarted since.
    type: bool
    default: true
  max_bytes:
    description:
      - Bytes to read of each log, from the beginning of the time looked at. Of a longer log, the last 1000 lines are read as well,
        and C(kube.logs.read) is a warning.
    type: int
    default: 16777216
  parallel:
    description: How many logs to read at the same time.
    type: int
    default: 8
  timeout:
    description: Seconds for everything. Logs not read by then count as not readable.
    type: int
    default: 300
  groups:
    description: How many groups to return. The others are counted together in RV(other).
    type: int
    default: 20
  kept_groups:
    description: How many groups to keep in memory. When twice as many are known, the rarest half is put together.
    type: int
    default: 500
  min_matches:
    description: With fewer lines that matter than this, C(kube.logs.errors) does not grade their percentage.
    type: int
    default: 10
  rate_warning:
    description: Percentage of the lines read from which C(kube.logs.errors) is a warning.
    type: float
    default: 1
  rate_critical:
    description: Percentage of the lines read from which C(kube.logs.errors) is critical.
    type: float
    default: 5
  burst_warning:
    description: Lines in five minutes from which C(kube.logs.burst) is a warning.
    type: float
    default: 100
  burst_critical:
    description: Lines in five minutes from which C(kube.logs.burst) is critical.
    type: float
    default: 1000
seealso:
  - module: fileforge.ops.kube_workload_info
"""

EXAMPLES = r"""
- name: What went wrong in the API since yesterday
  fileforge.ops.kube_log_info:
    kube_config: /etc/fileforge/kubeconfig
    namespace: fileforge
    selector: app=fileforge-backend
    name: backend
    since_hours: 24
  register: errors

- name: Who was refused in the last hour
  fileforge.ops.kube_log_info:
    namespace: fileforge
    selector: app in (fileforge-backend, fileforge-worker)
    since_hours: 1
    pattern: permission denied|access denied
    levels: []
"""

RETURN = r"""
groups:
  description:
    - Groups of lines that say the same, the biggest first, with C(message), C(level), C(count), C(first), C(last), C(pod_count),
      C(pods) (at most ten) and C(sample).
  type: list
  elements: dict
  returned: success
other:
  description:
    - Lines that matter but are in none of RV(groups), with C(count), C(groups), C(first), C(last), C(pod_count) and C(pods).
      C(exact) is V(false) when the number of groups was more than could be kept; then counts of groups may be too small by what
      is counted here.
  type: dict
  returned: success
busiest:
  description: The spans of five minutes with most lines that matter, with C(start), C(minutes) and C(count). At most ten.
  type: list
  elements: dict
  returned: success
totals:
  description:
    - C(pods), C(logs) (containers and previous runs), how many of them were C(read), C(cut) and C(unread), C(idle) containers
      without a log in the time looked at, C(lines), C(bytes), C(matches), C(percent), C(since), C(oldest) line and C(seconds).
  type: dict
  returned: success
unread:
  description: Logs that could not be read, with C(pod), C(container), C(previous) and C(reason). At most 50.
  type: list
  elements: dict
  returned: success
cut:
  description: Logs that were read in part. At most 50.
  type: list
  elements: str
  returned: success
checks:
  description: The checks.
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
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._probes.kube_log_info import ARGUMENTS, operate


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: operate(module.params, module.check_mode))


if __name__ == "__main__":
    main()
