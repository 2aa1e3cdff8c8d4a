#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kube_workload_info
short_description: Judge the Deployments, StatefulSets, DaemonSets and Jobs of a Kubernetes namespace
version_added: 1.0.0
description:
  - Looks at the workloads of a namespace, or at those that a selector names, and at their pods, warning events and usage, and
    returns checks that say what is wrong, by which evidence, and what to do next.
  - Every check is always there, with the same id. C(kube.api), C(kube.ready), C(kube.jobs), C(kube.crash_loop), C(kube.oom_killed),
    C(kube.image_pull), C(kube.container_config), C(kube.unschedulable), C(kube.quota), C(kube.failed_create), C(kube.evicted),
    C(kube.not_ready), C(kube.restarts), C(kube.events), C(kube.cpu) and C(kube.memory).
  - What may not be read or does not answer is V(unknown) in its own check and hides no other. The module does not fail for it.
  - It needs a role that may only look. The page C(docs/kubernetes-checks.md) has it.
author:
  - FileForge operations (@fileforge)
extends_documentation_fragment:
  - fileforge.ops.attributes.info_module
  - fileforge.ops.kube
options:
  namespace:
    description: Namespace to look at.
    type: str
    default: default
  selector:
    description:
      - Label selector. A workload counts when its own labels or those of its pods match; a pod that belongs to no workload counts
        when its labels match.
      - Without it, everything in the namespace counts.
    type: str
    default: ""
  name:
    description:
      - Goes into the ids of the checks (C(kube.<name>.ready)), so that reports about several namespaces or selectors keep them
        apart.
    type: str
    default: ""
  window_hours:
    description: Hours for which restarts, memory kills, failed Jobs and warning events count.
    type: float
    default: 24
  samples_file:
    description:
      - File that keeps restart counters from run to run, on the host where the module runs. With it the number of restarts in the
        window is exact for pods older than the window, without it a lower bound.
      - It is written in every run except in check mode, and does not count as a change.
    type: path
  startup_grace:
    description: Seconds after its creation during which a pod may be not ready without C(kube.not_ready) telling so.
    type: int
    default: 120
  restarts_warning:
    description: Restarts of one container in the window that are a warning.
    type: float
    default: 1
  restarts_critical:
    description: Restarts of one container in the window that are critical.
    type: float
    default: 5
  events_warning:
    description: Warning events in the window, counted once for each object and reason, that are a warning.
    type: float
    default: 20
  cpu_warning:
    description: Percent of a container's CPU limit from which its usage is a warning.
    type: float
    default: 70
  cpu_critical:
    description: Percent of a container's CPU limit from which its usage is critical.
    type: float
    default: 90
  memory_warning:
    description: Percent of a container's memory limit from which its usage is a warning.
    type: float
    default: 80
  memory_critical:
    description: Percent of a container's memory limit from which its usage is critical.
    type: float
    default: 95
seealso:
  - module: fileforge.ops.kube_log_info
  - module: fileforge.ops.kube_rollout
"""

EXAMPLES = r"""
- name: Look at everything in the application's namespace
  fileforge.ops.kube_workload_info:
    kube_config: /etc/fileforge/kubeconfig
    namespace: fileforge
    samples_file: /var/lib/fileforge/kube-restarts.json
  register: workloads

- name: Look at the API alone, with stricter limits
  fileforge.ops.kube_workload_info:
    namespace: fileforge
    selector: app=fileforge-backend
    name: backend
    restarts_critical: 2
    memory_warning: 70
"""

RETURN = r"""
workloads:
  description:
    - Each workload with C(kind), C(name), C(desired), C(ready), C(updated), C(available), C(current), C(images), C(status) and
      C(message). Jobs have C(active), C(ready), C(succeeded) and C(failed) instead.
  type: list
  elements: dict
  returned: success
findings:
  description:
    - What is wrong with pods, the worst first, with C(code), C(object), C(container), C(summary), C(restarts), C(exit_code),
      C(hint), C(workload) and C(status). At most 200.
  type: list
  elements: dict
  returned: success
restarts:
  description:
    - Containers that were restarted in the window, the most restarted first, with C(delta), whether it is C(exact), by which
      C(method) it is known (V(sample), V(pod_age), V(last_state)), C(total), and reason, exit code and time of the last end. At
      most 50.
  type: list
  elements: dict
  returned: success
events:
  description: Warning events of the window, newest first, one for each object and reason. At most 50.
  type: list
  elements: dict
  returned: success
usage:
  description:
    - CPU in cores and memory in bytes of each container, with request, limit and percent of both, the highest percentage of a
      limit first. At most 100.
  type: list
  elements: dict
  returned: success
unseen:
  description: Why each kind of object that could not be read could not be read.
  type: dict
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
from ansible_collections.fileforge.ops.plugins.module_utils._probes.kube_workload_info import ARGUMENTS, operate


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: operate(module.params, module.check_mode))


if __name__ == "__main__":
    main()
