#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When each limit is reached."""

from __future__ import annotations

DOCUMENTATION = r"""
module: capacity_report
short_description: Report what grows and when each limit is reached
version_added: 1.0.0
author:
  - FileForge operations (@fileforge)
description:
  - Continues what was measured in the past, and says for each resource when it reaches its limit, with a drawing of each.
  - The past comes from range queries of M(fileforge.ops.prometheus_metric_info), and from the histories that
    M(fileforge.ops.operations_report) keeps.
  - The trend is the median slope of all pairs of points (Theil and Sen), which single wild values and a clean-up do not move, with
    Sen's interval of 95 percent. A resource grows when the whole interval is above zero; otherwise it is steady.
  - The check C(capacity.<name>) is V(critical) when the limit is expected within O(resources[].critical_days) or is passed, and
    V(warning) when it is expected within O(resources[].warning_days), or possible within O(resources[].critical_days).
  - A past that is too short, that ended, or that could not be had is V(unknown).
  - A report is a record of a look, so the module never says that it has changed anything. In check mode it writes nothing.
options:
  results:
    description: What was looked at, as M(fileforge.ops.look) returns it. What failed there is V(unknown) in the report.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Heading of the section.
        type: str
        required: true
      result:
        description: What the module returned, as C(register) keeps it. Without it the module did not run.
        type: dict
      host:
        description: The host that was looked at, or from.
        type: str
        default: ""
      seconds:
        description: How long the look took.
        type: float
  histories:
    description: Files C(history.jsonl) of reports on the machine where the module runs. A file that is not there yet is empty.
    type: list
    elements: path
    default: []
  resources:
    description: What is planned for.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the resource in the id of its check.
        type: str
        required: true
      title:
        description: Name for people. Without it, O(resources[].name).
        type: str
        default: ""
      metric:
        description: Name of a metric in O(results) whose series are its past. Either this or O(resources[].check) is given.
        type: str
        default: ""
      check:
        description:
          - Pattern of keys in O(histories) (C(host/check/subject)), in which C(*) stands for anything, for example
            V(*/postgres.size.database).
        type: str
        default: ""
      limit:
        description: Value that must not be reached. Without it only the growth is told.
        type: float
      unit:
        description: Unit of the values. V(ratio) is shown as percent, V(bytes) in units of 1024.
        type: str
        default: ""
      hint:
        description: What to do when the limit comes near.
        type: str
        default: ""
      warning_days:
        description: Days ahead from which an expected limit is V(warning).
        type: float
        default: 90
      critical_days:
        description: Days ahead from which an expected limit is V(critical).
        type: float
        default: 30
  minimum_days:
    description: Days that a past must cover to be continued.
    type: float
    default: 14
  minimum_points:
    description: Values that a past must have to be continued.
    type: int
    default: 10
  title:
    description: Heading of the report.
    type: str
    default: Capacity planning
  directory:
    description: Directory for the reports and their history. It is made when missing. Without it nothing is written.
    type: path
  formats:
    description: The forms in which the report is written.
    type: list
    elements: str
    choices: [json, text, markdown, html, junit, prometheus, nagios]
    default: [json, text, markdown, html]
  fail_on:
    description:
      - The module fails, after everything was written, when the worst status is V(critical), or with V(warning) anything but V(ok),
        because not to have looked is not to be well. With V(never) it does not.
    type: str
    choices: [critical, warning, never]
    default: critical
  keep:
    description: Number of reports and of runs in the history that are kept.
    type: int
    default: 400
  width:
    description: Columns of the text for a terminal.
    type: int
    default: 100
seealso:
  - module: fileforge.ops.operations_report
  - module: fileforge.ops.prometheus_metric_info
extends_documentation_fragment:
  - fileforge.ops.attributes.info_module
"""

EXAMPLES = r"""
- name: Ask how full the disks were in the last 90 days
  fileforge.ops.prometheus_metric_info:
    prometheus_url: https://metrics.fileforge.io
    metrics: []
    queries:
      - name: disk_usage
        query: 1 - node_filesystem_avail_bytes{job="node"} / node_filesystem_size_bytes{job="node"}
        range_seconds: 7776000
        step_seconds: 86400
  register: disks
  ignore_errors: true

- name: Say when they are full
  fileforge.ops.capacity_report:
    results:
      - name: Disks
        result: "{{ disks }}"
    resources:
      - name: disk_usage
        title: Disks
        metric: disk_usage
        limit: 0.9
        unit: ratio
        hint: order more room, or move what takes most of it
    directory: /var/lib/fileforge/reports/capacity
  delegate_to: localhost
"""

RETURN = r"""
forecasts:
  description:
    - One for each series of each resource, with C(points), C(limit), C(check) and C(trend) (values by day; C(slope) from C(low) to
      C(high), C(level) at C(time)). C(trend) is none when nothing can be said.
  returned: always
  type: list
  elements: dict
status:
  description: The worst status of the checks.
  returned: always
  type: str
  sample: warning
summary:
  description: The verdict in a line.
  returned: always
  type: str
  sample: 1 warning of 8 checks
counts:
  description: Number of checks of each status.
  returned: always
  type: dict
  sample: {critical: 0, unknown: 0, warning: 1, ok: 7}
changes:
  description: What is C(worse), C(better), C(appeared) and C(gone) against the report before.
  returned: always
  type: dict
checks:
  description: All checks. The value of C(capacity.<name>) is the number of days until the limit is reached, or none.
  returned: always
  type: list
  elements: dict
text:
  description: The report for a terminal.
  returned: always
  type: str
nagios:
  description: The report as a line for Nagios.
  returned: always
  type: str
nagios_code:
  description: The exit status that goes with it.
  returned: always
  type: int
  sample: 1
files:
  description: The files that were written, by name. Empty without O(directory) and in check mode.
  returned: always
  type: dict
  sample: {report.html: /var/lib/fileforge/reports/capacity/20261123T060000Z/report.html}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils import _time
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._report import capacity, deliver, model, store
from ansible_collections.fileforge.ops.plugins.module_utils._report.history import History

RESOURCE: dict[str, dict[str, t.Any]] = {
    "name": {"type": "str", "required": True},
    "title": {"type": "str", "default": ""},
    "metric": {"type": "str", "default": ""},
    "check": {"type": "str", "default": ""},
    "limit": {"type": "float"},
    "unit": {"type": "str", "default": ""},
    "hint": {"type": "str", "default": ""},
    "warning_days": {"type": "float", "default": 90},
    "critical_days": {"type": "float", "default": 30},
}


def arguments() -> dict[str, t.Any]:
    """The module's options."""
    return {
        "results": {"type": "list", "elements": "dict", "default": [], "options": deliver.SOURCE},
        "histories": {"type": "list", "elements": "path", "default": []},
        "resources": {"type": "list", "elements": "dict", "required": True, "options": RESOURCE},
        "minimum_days": {"type": "float", "default": 14},
        "minimum_points": {"type": "int", "default": 10},
        "title": {"type": "str", "default": "Capacity planning"},
        **deliver.ARGUMENTS,
    }


def report_of(params: t.Mapping[str, t.Any], kept: store.Store | None) -> model.Report:
    """The report with its forecasts; raises InvalidOption and HistoryError."""
    resources = [capacity.Resource(**item) for item in params["resources"]]
    if len({resource.id for resource in resources}) != len(resources):
        raise InvalidOption("resources", [resource.name for resource in resources], "two names give the same check id")
    enough = capacity.Enough(params["minimum_days"], params["minimum_points"])
    looked = [model.section_of(source, place) for place, source in enumerate(params["results"])]
    now, forecasts, found = _time.now(), [], []
    results = [source["result"] for source in params["results"] if isinstance(source.get("result"), dict)]
    histories = [History.load(path) for path in params["histories"]]
    for resource in resources:
        if resource.metric:
            lines = capacity.lines_of_metrics(results, resource.metric)
        else:
            lines = capacity.lines_of_history(histories, resource.check)
        made = capacity.forecast(resource, lines, now, enough)
        forecasts += made
        found.append(model.section_of(capacity.section_of(resource, made), 0))
    found += [trimmed(section) for section in looked if section is not None]
    sections = [section for section in found if section is not None and section.checks]
    history = kept.history() if kept else History([])
    return {**model.build(params["title"], sections, history, now), "forecasts": forecasts}


def trimmed(section: model.Section) -> model.Section:
    """Whether it could be looked; what was found there is in the forecasts."""
    checks = [check for check in section.checks if not check["id"].startswith("metric.")]
    return model.Section(section.name, checks, section.host, section.seconds)


def make(module: AnsibleModule) -> dict[str, t.Any]:
    """The module's work."""
    kept = deliver.kept_in(module.params)
    report = report_of(module.params, kept)
    return {**deliver.deliver(report, kept, module.params, module.check_mode), "forecasts": report["forecasts"]}


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=arguments(), supports_check_mode=True)
    conclude(module, lambda: make(module))


if __name__ == "__main__":
    main()
