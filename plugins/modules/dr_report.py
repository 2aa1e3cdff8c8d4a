#!/usr/bin/python
# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the evidence of a recovery."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dr_report
short_description: Write the evidence of a recovery, with measured RTO and RPO
version_added: 1.0.0
author:
  - FileForge operations (@fileforge)
description:
  - Turns what a recovery or a drill found out into C(report.json), C(report.md) and C(report.html) in a directory of its own below
    O(evidence_directory), and points the link C(latest) there. Each file is replaced as a whole, and so is the link.
  - Measures the RTO from the disaster to the first verified probe, and the RPO from the last recovered commit to the disaster,
    and compares both with the objectives.
  - Forecasts the largest database and the largest WAL backlog that still meet the RTO at the measured rates, and states
    the formula.
  - The HTML page needs nothing from elsewhere, reads well in light and dark and on a small screen, and can be printed.
  - The same facts give the same files, so a second run changes nothing.
  - The module does not fail when an objective was missed or an assertion failed. It returns RV(status) and RV(checks) for that.
options:
  evidence_directory:
    description: Directory for the reports of all runs. It is made when missing.
    type: path
    required: true
  run_id:
    description:
      - Name of this run's directory. Letters, digits, dots, dashes and underscores.
      - Without it, a name from the time of the run and the digest of its facts.
    type: str
  title:
    description: Heading of the report.
    type: str
    default: Disaster recovery
  plans:
    description: The plans that were carried out, as modules return them.
    type: list
    elements: dict
    default: []
  phases:
    description: The timings of the phases, in order, as modules return them in C(timings).
    type: list
    elements: dict
    default: []
    suboptions:
      step:
        description: What the phase belongs to, for example V(database) or V(files).
        type: str
        default: ""
      phase:
        description: Name of the phase.
        type: str
        required: true
      seconds:
        description: How long it took.
        type: float
        required: true
      done:
        description: How much was done, in O(phases[].unit).
        type: float
        default: 0
      unit:
        description: The unit of O(phases[].done). V(B) is bytes.
        type: str
        default: ""
  assertions:
    description: What was asserted about the restored state.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What should hold.
        type: str
        required: true
      ok:
        description: Whether it holds.
        type: bool
        required: true
      detail:
        description: What was found.
        type: str
        default: ""
  rto:
    description: The recovery time objective in seconds.
    type: int
    default: 14400
  rpo:
    description: The recovery point objective in seconds.
    type: int
    default: 3600
  disaster_time:
    description: When the disaster happened. All times are ISO 8601 with an offset.
    type: str
  run_started:
    description:
      - When the recovery began. The RTO counts from here when O(disaster_time) is not known.
      - Without it, the start of the O(journal).
    type: str
  restored_time:
    description: When the service was first verified to work again.
    type: str
  target_time:
    description: The point in time that was asked for. V(latest) is allowed.
    type: str
  last_commit:
    description: Time of the last commit that was recovered.
    type: str
  latest_archived_commit:
    description: Time of the last commit that the archive held, whatever target was chosen.
    type: str
  database_bytes:
    description: Size of the restored database. Without it, the bytes of the fetch phases.
    type: int
  wal_segment_size:
    description: Bytes of a WAL segment, for phases that count segments.
    type: int
    default: 16777216
  fetch_phases:
    description: Names of the phases whose time grows with the size of the database.
    type: list
    elements: str
    default: [fetch]
  replay_phases:
    description: Names of the phases whose time grows with the WAL to replay.
    type: list
    elements: str
    default: [replay]
  journal:
    description:
      - The journal of the run, as the callback P(fileforge.ops.journal#callback) writes it. Its chain is verified and its steps are
        listed. Empty means none.
    type: path
  evidence_files:
    description: Further files on this host that prove something. Their size and SHA-256 go into the report.
    type: list
    elements: path
    default: []
extends_documentation_fragment:
  - fileforge.ops.attributes
"""

EXAMPLES = r"""
- name: Write the evidence of the recovery
  fileforge.ops.dr_report:
    evidence_directory: /var/lib/fileforge/evidence
    title: Recovery of the production database
    journal: "{{ lookup('ansible.builtin.env', 'FILEFORGE_JOURNAL') }}"
    plans:
      - "{{ restored.plan }}"
    phases: "{{ restored.timings }}"
    assertions:
      - name: the last order before the disaster is there
        ok: true
        detail: order 4711
    disaster_time: "2026-11-23T14:05:00+00:00"
    restored_time: "2026-11-23T14:51:12+00:00"
    last_commit: "{{ restored.recovery.last_commit }}"
  delegate_to: localhost
"""

RETURN = r"""
report:
  description: The report's files and directory, and the link to the latest report.
  returned: success
  type: dict
  sample:
    run_id: 20261123T145112Z-6f1d2a0c9b8e4f37
    directory: /var/lib/fileforge/evidence/20261123T145112Z-6f1d2a0c9b8e4f37
    json: /var/lib/fileforge/evidence/20261123T145112Z-6f1d2a0c9b8e4f37/report.json
    markdown: /var/lib/fileforge/evidence/20261123T145112Z-6f1d2a0c9b8e4f37/report.md
    html: /var/lib/fileforge/evidence/20261123T145112Z-6f1d2a0c9b8e4f37/report.html
    latest: /var/lib/fileforge/evidence/latest
rto:
  description: The measured RTO (C(seconds), null when not known), its objective, what it was measured from, and whether it was met.
  returned: success
  type: dict
rpo:
  description: The measured RPO, from the last recovered commit.
  returned: success
  type: dict
archive_rpo:
  description: What the archive alone would have lost.
  returned: success
  type: dict
forecast:
  description: The largest database and WAL backlog that still meet the RTO (null when no rate was measured), formula and inputs.
  returned: success
  type: dict
checks:
  description: The verdicts, as checks.
  returned: success
  type: list
  elements: dict
status:
  description: The worst status of the checks.
  returned: success
  type: str
  sample: ok
evidence_files:
  description: The three files of the report.
  returned: success
  type: list
  elements: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._evidence import journal as journals
from ansible_collections.fileforge.ops.plugins.module_utils._evidence import store
from ansible_collections.fileforge.ops.plugins.module_utils._evidence.report import Facts, build
from ansible_collections.fileforge.ops.plugins.module_utils._module import conclude
from ansible_collections.fileforge.ops.plugins.module_utils._time import parse_time

TIMES = ("disaster_time", "run_started", "restored_time", "target_time", "last_commit", "latest_archived_commit")
PHASE = {
    "step": {"type": "str", "default": ""},
    "phase": {"type": "str", "required": True},
    "seconds": {"type": "float", "required": True},
    "done": {"type": "float", "default": 0},
    "unit": {"type": "str", "default": ""},
}
ASSERTION = {
    "name": {"type": "str", "required": True},
    "ok": {"type": "bool", "required": True},
    "detail": {"type": "str", "default": ""},
}


def arguments() -> dict[str, t.Any]:
    """The module's options."""
    dicts = {"type": "list", "elements": "dict", "default": []}
    return {
        "evidence_directory": {"type": "path", "required": True},
        "run_id": {"type": "str"},
        "title": {"type": "str", "default": "Disaster recovery"},
        "plans": dicts,
        "phases": {**dicts, "options": PHASE},
        "assertions": {**dicts, "options": ASSERTION},
        "rto": {"type": "int", "default": 14400},
        "rpo": {"type": "int", "default": 3600},
        **{name: {"type": "str"} for name in TIMES},
        "database_bytes": {"type": "int"},
        "wal_segment_size": {"type": "int", "default": 16777216},
        "fetch_phases": {"type": "list", "elements": "str", "default": ["fetch"]},
        "replay_phases": {"type": "list", "elements": "str", "default": ["replay"]},
        "journal": {"type": "path"},
        "evidence_files": {"type": "list", "elements": "path", "default": []},
    }


def facts_of(params: t.Mapping[str, t.Any]) -> Facts:
    """The options as facts; raises InvalidOption."""
    for name in ("rto", "rpo", "wal_segment_size"):
        if params[name] <= 0:
            raise InvalidOption(name, params[name], "must be above zero")
    for phase in params["phases"]:
        if phase["seconds"] < 0 or phase["done"] < 0:
            raise InvalidOption("phases", phase, "neither seconds nor done can be negative")
    given = {name: params[name] for name in TIMES if params[name] and (name, params[name]) != ("target_time", "latest")}
    return Facts(
        title=params["title"],
        plans=params["plans"],
        phases=[{**phase, "done": int(phase["done"])} for phase in params["phases"]],
        assertions=params["assertions"],
        rto=params["rto"],
        rpo=params["rpo"],
        **{name: parse_time(value, name) for name, value in given.items()},
        database_bytes=params["database_bytes"],
        wal_segment_size=params["wal_segment_size"],
        fetch_phases=tuple(params["fetch_phases"]),
        replay_phases=tuple(params["replay_phases"]),
        files=[journals.file_evidence(path) for path in params["evidence_files"]],
    )


def write_report(module: AnsibleModule) -> dict[str, t.Any]:
    """The module's work."""
    facts = facts_of(module.params)
    path = module.params["journal"] or None
    facts = store.with_start_of_journal(facts, path)
    place = store.Place.of(module.params["evidence_directory"], module.params["run_id"] or facts.run_id())
    report = store.guarded(lambda: build(facts, place.run_id, path), path or "")
    change = place.compare(report)
    if change.needed and not module.check_mode:
        place.write(change)
    return {
        "changed": change.needed,
        "diff": change.as_diff(),
        "report": place.as_dict(),
        "evidence_files": place.files(),
        **{name: change.report[name] for name in ("rto", "rpo", "archive_rpo", "forecast", "checks", "status")},
    }


def main() -> t.NoReturn:
    """Entry point."""
    module = AnsibleModule(argument_spec=arguments(), supports_check_mode=True)
    conclude(module, lambda: write_report(module))


if __name__ == "__main__":
    main()
