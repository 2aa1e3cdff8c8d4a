#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kube_rollout
short_description: Restart or scale a Kubernetes workload and wait until the rollout is complete
version_added: 1.0.0
description:
  - Restarts or scales a Deployment, StatefulSet or DaemonSet, or only waits for it, until its rollout is complete by the same
    rules as C(kubectl rollout status).
  - Waiting ends early when the Deployment exceeds its progress deadline, when nothing progresses any more, or when a new pod has
    a fault that seldom cures itself, such as an image that does not exist.
  - A failure says why. RV(diagnosis) holds the reasons found in container states, conditions and events, and the last log lines.
  - A restart is guarded by O(restart_id) or O(not_within), so that a second run does not restart again. It still waits for the
    rollout that the first one began.
  - In check mode the requests are sent as dry runs, so that a missing permission shows.
author:
  - FileForge operations (@fileforge)
extends_documentation_fragment:
  - fileforge.ops.attributes
  - fileforge.ops.kube
  - fileforge.ops.planned
  - fileforge.ops.planned.progress
attributes:
  idempotent:
    support: partial
    details: A restart without O(restart_id) happens again when O(not_within) has passed.
options:
  namespace:
    description: Namespace of the workload.
    type: str
    default: default
  kind:
    description: Kind of the workload.
    type: str
    choices: [Deployment, StatefulSet, DaemonSet]
    default: Deployment
  name:
    description: Name of the workload.
    type: str
    required: true
  state:
    description:
      - V(restarted) replaces all pods, V(scaled) sets O(replicas), V(ready) changes nothing. Each waits for the rollout.
      - After V(scaled), no surplus pod is left, not even one that is still ending.
    type: str
    choices: [restarted, scaled, ready]
    default: ready
  replicas:
    description: Number of pods for O(state=scaled).
    type: int
  restart_id:
    description:
      - Names one restart, for example the digest of the plan that asks for it. It is kept in the pod template's annotation
        C(fileforge.ops/restart-id); when it stands there already, nothing is restarted.
    type: str
  not_within:
    description:
      - Without O(restart_id), skip the restart when the workload was restarted less than so many seconds ago, by whomever.
      - V(0) always restarts.
    type: int
    default: 300
  timeout:
    description: Seconds to wait for the rollout.
    type: int
    default: 600
  stall_timeout:
    description:
      - Seconds without any progress after which waiting ends.
      - A sixth of it is enough when a new pod has a fault that seldom cures itself.
    type: int
    default: 180
  log_lines:
    description: How many last lines of the log of each failing container to return. V(0) reads no logs.
    type: int
    default: 20
seealso:
  - module: fileforge.ops.http_probe_info
"""

EXAMPLES = r"""
- name: Restart the API after a restore, once for this restore
  fileforge.ops.kube_rollout:
    kube_config: /etc/fileforge/kubeconfig
    namespace: fileforge
    name: fileforge-backend
    state: restarted
    restart_id: "restore-3f9a11c2d4e5b607"
    timeout: 600

- name: Stop everything that writes
  fileforge.ops.kube_rollout:
    namespace: fileforge
    name: fileforge-worker
    state: scaled
    replicas: 0

- name: Wait until the cache is ready
  fileforge.ops.kube_rollout:
    namespace: fileforge
    kind: StatefulSet
    name: redis
    stall_timeout: 60
"""

RETURN = r"""
plan:
  description: What was or would be done, with its digest.
  type: dict
  returned: when the workload could be read
workload:
  description: Kind, namespace, name, uid, generation, revision, images, time and id of the last restart.
  type: dict
  returned: when the workload could be read
rollout:
  description: Whether the rollout is complete, kubectl's message, and the counts (replicas, current, updated, ready, available).
  type: dict
  returned: when the workload could be read
previous:
  description: Replicas, revision and restart time before the module did anything. The revision serves C(kubectl rollout undo).
  type: dict
  returned: when the workload could be read
timings:
  description: Seconds by phase.
  type: list
  elements: dict
  returned: when the workload could be read
reason:
  description:
    - Why it failed, as a stable word. One of V(progress_deadline), V(stalled), V(timeout), V(paused), V(on_delete), V(replaced),
      V(plan_changed), or the code of the finding that ended the wait (V(image_not_found), V(crash_loop), ...).
  type: str
  returned: on failure, when there is one
diagnosis:
  description:
    - C(findings) with code, object, container, summary, restarts, exit code and hint, the worst first; C(events), the warnings of
      the workload and its pods, newest first; C(logs), the last lines of failing containers; C(unseen), what could not be read.
  type: dict
  returned: when a wait failed
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils._argspec import KUBE, PLANNED, PROGRESS, merge
from ansible_collections.fileforge.ops.plugins.module_utils._kube.client import Client, KubeOptions
from ansible_collections.fileforge.ops.plugins.module_utils._kube.rollout import Request, Rollout
from ansible_collections.fileforge.ops.plugins.module_utils._kube.workload import Reference
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress

ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "namespace": {"type": "str", "default": "default"},
    "kind": {"type": "str", "choices": ["Deployment", "StatefulSet", "DaemonSet"], "default": "Deployment"},
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["restarted", "scaled", "ready"], "default": "ready"},
    "replicas": {"type": "int"},
    "restart_id": {"type": "str"},
    "not_within": {"type": "int", "default": 300},
    "timeout": {"type": "int", "default": 600},
    "stall_timeout": {"type": "int", "default": 180},
    "log_lines": {"type": "int", "default": 20},
}
REQUEST_OPTIONS = ("state", "replicas", "restart_id", "not_within", "timeout", "stall_timeout", "log_lines")


def operate(params: dict[str, t.Any], *, check: bool, diff: bool) -> dict[str, t.Any]:
    """Carry out what the options ask for."""
    reference = Reference(params["kind"], params["namespace"], params["name"])
    request = Request(reference=reference, **{name: params[name] for name in REQUEST_OPTIONS})
    rollout = Rollout(Client(KubeOptions.from_params(params)), request, Progress(params["progress_file"]))
    rollout.plan.require(params["plan_digest"])
    result = rollout.rehearse() if check else rollout.apply()
    return {**result, "diff": rollout.plan.as_diff()} if diff else result


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(
        argument_spec=merge(KUBE, PLANNED, PROGRESS, ARGUMENTS),
        supports_check_mode=True,
        required_if=[("state", "scaled", ["replicas"])],
    )
    conclude(module, lambda: operate(module.params, check=module.check_mode, diff=module._diff))


if __name__ == "__main__":
    main()
