#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: prometheus_metric_info
short_description: Judge metrics of a Prometheus server
version_added: 1.0.0
description:
  - Asks Prometheus, or a server with the same API, and returns one check C(metric.<name>) for each query. The worst series decides.
  - The runbook's key metrics are shipped as queries, which O(application_selector), O(node_selector) and O(window) fit to the
    platform. They are V(api_response_seconds) (the 95th percentile), V(error_rate), V(queue_length), V(cpu_usage),
    V(memory_usage), V(disk_usage) and V(scrape_targets) (how many are down).
  - A series that is absent and a value that is not a number are V(unknown), because then nothing was measured.
  - A server that refuses connections or does not answer is V(critical) in C(prometheus.connection), and all metrics are
    V(unknown). The module does not fail for it; use RV(status).
  - Warnings of the API, for example that an answer is partial, become warnings of the task and part of the check's summary.
author:
  - FileForge operations (@fileforge)
extends_documentation_fragment:
  - fileforge.ops.attributes.info_module
  - fileforge.ops.prometheus
options:
  metrics:
    description: Names of the shipped queries to ask.
    type: list
    elements: str
    default: [api_response_seconds, error_rate, queue_length, cpu_usage, memory_usage, disk_usage, scrape_targets]
  thresholds:
    description:
      - From when on a metric is a warning and critical, by its name, each with C(warning) and C(critical). More than the limit is
        too much; less, when C(warning) is above C(critical).
      - What is not given keeps its default, which is the runbook's.
    type: dict
    default: {}
  application_selector:
    description: Label matchers of the application's series.
    type: str
    default: job="fileforge-backend"
  node_selector:
    description: Label matchers of the node exporter's series.
    type: str
    default: job="node"
  window:
    description: The time over which the shipped queries take rates, as Prometheus writes it.
    type: str
    default: 5m
  queries:
    description: Further queries. One with the name of a shipped query that is asked takes its place and its limits.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name, part of the check's id.
        type: str
        required: true
      query:
        description: The query, in PromQL.
        type: str
        required: true
      warning:
        description: More than this is a warning.
        type: float
      critical:
        description: More than this is critical.
        type: float
      unit:
        description: Unit of the value. A V(ratio) is shown as percent; its limits stay as they are.
        type: str
        default: ""
      hint:
        description: What to do when it is not ok.
        type: str
        default: ""
      range_seconds:
        description: Ask for the values over this time up to now instead of the value now. The points are returned, too.
        type: float
      step_seconds:
        description: Time between two points of a range.
        type: float
        default: 60
      reduce:
        description: What becomes of the points of a range. Points that are not numbers are left out while there are others.
        type: str
        choices: [last, max, min, average]
        default: last
      absent:
        description: Status when there is no series.
        type: str
        choices: [ok, warning, unknown, critical]
        default: unknown
seealso:
  - module: fileforge.ops.http_probe_info
"""

EXAMPLES = r"""
- name: The runbook's key metrics
  fileforge.ops.prometheus_metric_info:
    prometheus_url: https://metrics.fileforge.io
    prometheus_token: "{{ metrics_token }}"
    thresholds:
      cpu_usage: {warning: 0.8}
  register: metrics

- name: Only a query of our own, over a day
  fileforge.ops.prometheus_metric_info:
    prometheus_url: https://metrics.fileforge.io
    metrics: []
    queries:
      - name: uploads
        query: sum(rate(http_requests_total{handler="/api/files",method="POST"}[5m]))
        warning: 0.1
        critical: 0.01
        unit: requests/s
        range_seconds: 86400
        step_seconds: 300
        reduce: average
"""

RETURN = r"""
checks:
  description: C(prometheus.connection) and one check for each query.
  type: list
  elements: dict
  returned: success
status:
  description: The worst status of the checks.
  type: str
  returned: success
metrics:
  description:
    - For each query that was answered its C(name), C(query), C(unit) and C(series), each with C(labels), C(value) and, for a range,
      C(points) (pairs of seconds since 1970 and value).
  type: list
  elements: dict
  returned: success
api_warnings:
  description: What the API warned of, by query.
  type: list
  elements: str
  returned: success
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._probes.prometheus_metric_info import ARGUMENTS, operate


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    conclude(module, lambda: operate(module.params, module.check_mode))


if __name__ == "__main__":
    main()
