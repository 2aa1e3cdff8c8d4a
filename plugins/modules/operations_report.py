#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renders any checks as one report."""

from __future__ import annotations

DOCUMENTATION = r"""
module: operations_report
short_description: Render checks as one report, with what has changed since yesterday
version_added: 1.0.0
author:
  - FileForge operations (@fileforge)
description:
  - Takes what any modules of this collection returned and makes one report of it, for a person (terminal, Markdown, HTML) and for
    machines (JSON, Prometheus text, JUnit XML, a line for Nagios).
  - Puts what is wrong first, with the next step for each and since when it is so, and says what is worse, better, new or no
    longer looked at since yesterday.
  - A module that failed could not look, and is a check with status V(unknown). A task that was skipped is left out.
  - Each report has a directory of its own below O(directory), named after its time. The link C(latest) points to the newest one,
    and C(history.jsonl) keeps status and value of every check for trends.
  - The HTML page needs nothing from elsewhere, reads well in light and dark and on a small screen, and can be printed.
  - A report is a record of a look, so the module never says that it has changed anything. In check mode it writes nothing.
options:
  results:
    description: What was looked at.
    type: list
    elements: dict
    required: true
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
  directory:
    description: Directory for the reports and their history. It is made when missing. Without it nothing is written.
    type: path
  title:
    description: Heading of the report.
    type: str
    default: Daily check
  formats:
    description: The forms in which the report is written.
    type: list
    elements: str
    choices: [json, text, markdown, html, junit, prometheus, nagios]
    default: [json, text, markdown, html]
  textfile:
    description:
      - File for node exporter's textfile collector, whose name ends in C(.prom). It is replaced as a whole.
      - Needs the Python library C(prometheus_client).
    type: path
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
extends_documentation_fragment:
  - fileforge.ops.attributes.info_module
"""

EXAMPLES = r"""
- name: Look at the endpoint
  fileforge.ops.http_probe_info:
    url: https://api.fileforge.io/health
  register: endpoint
  ignore_errors: true

- name: Report
  fileforge.ops.operations_report:
    directory: /var/lib/fileforge/reports/daily
    results:
      - name: API
        result: "{{ endpoint }}"
  delegate_to: localhost
"""

RETURN = r"""
status:
  description: The worst status of the checks.
  returned: always
  type: str
  sample: warning
summary:
  description: The verdict in a line.
  returned: always
  type: str
  sample: 1 warning of 31 checks
counts:
  description: Number of checks of each status.
  returned: always
  type: dict
  sample: {critical: 0, unknown: 0, warning: 1, ok: 30}
changes:
  description: What is C(worse), C(better), C(appeared) and C(gone) against the run of the time C(reference).
  returned: always
  type: dict
checks:
  description: All checks, with C(section), C(key), C(was) and C(since).
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
  sample: {report.html: /var/lib/fileforge/reports/daily/20261123T060000Z/report.html}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils import _time
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._report import deliver, model, store
from ansible_collections.fileforge.ops.plugins.module_utils._report.history import History


def arguments() -> dict[str, t.Any]:
    """The module's options."""
    return {
        "results": {"type": "list", "elements": "dict", "required": True, "options": deliver.SOURCE},
        "title": {"type": "str", "default": "Daily check"},
        "textfile": {"type": "path"},
        **deliver.ARGUMENTS,
    }


def report_of(params: t.Mapping[str, t.Any], kept: store.Store | None) -> model.Report:
    """The report; raises InvalidOption."""
    if params["textfile"] and not params["textfile"].endswith(".prom"):
        raise InvalidOption("textfile", params["textfile"], "the collector only reads names that end in .prom")
    found = [model.section_of(source, place) for place, source in enumerate(params["results"])]
    sections = [section for section in found if section is not None]
    history = kept.history() if kept else History([])
    return model.build(params["title"], sections, history, _time.now())


def make(params: t.Mapping[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """The module's work."""
    kept = deliver.kept_in(params)
    return deliver.deliver(report_of(params, kept), kept, params, check_mode, params["textfile"])


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=arguments(), supports_check_mode=True)
    conclude(module, lambda: make(module.params, module.check_mode))


if __name__ == "__main__":
    main()
