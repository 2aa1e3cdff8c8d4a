# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes checks of the groups of messages in logs: what is new since the last review stands out."""

from __future__ import annotations

DOCUMENTATION = r"""
name: log_review
short_description: Make a check of each group of messages, with what is new since the last review
version_added: 1.0.0
author: FileForge operations (@fileforge)
description:
  - Adds to what M(fileforge.ops.kube_log_info) found a check C(logs.group) for each group of messages, with its count, its first
    and last time, its pods and a sample. A group that the last review did not have, or that has grown much, is a warning.
positional: _input, previous, growth
options:
  _input:
    description: What M(fileforge.ops.look) returned.
    type: list
    elements: dict
    required: true
  previous:
    description: The last review, as M(fileforge.ops.operations_report) wrote it in JSON. Empty when there is none.
    type: dict
    default: {}
  growth:
    description: So many times as many messages as in the last review are a warning, once there are ten of them.
    type: float
    default: 3
"""

EXAMPLES = r"""
- name: Report the logs
  fileforge.ops.operations_report:
    title: Log review
    results: "{{ looked.results | fileforge.ops.log_review }}"
"""

RETURN = r"""
_value:
  description: The results, with further checks.
  type: list
  elements: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError

ENOUGH = 10
SUBJECT = 160
SAMPLE = 400
IDENTITY = "logs.group"
HINT = "find out what it means, fix it or open a ticket with its owner; then runbook, Incident Response, when users are concerned"
Found = t.Dict[str, t.Any]


def log_review(results: t.Sequence[t.Mapping[str, t.Any]], previous: t.Any = None, growth: float = 3) -> list[Found]:
    """The results with a check for each group; raises AnsibleFilterError for what is no list of results."""
    if isinstance(results, (str, t.Mapping)) or not isinstance(results, t.Sequence):
        raise AnsibleFilterError(f"fileforge.ops.log_review: not a list of results: {results!r}")
    if growth <= 1:
        raise AnsibleFilterError(f"fileforge.ops.log_review: growth is {growth}; give more than 1")
    known = counts_of(previous or {})
    return [_reviewed(source, known, float(growth)) for source in results]


def counts_of(report: t.Any) -> dict[str, float] | None:
    """How often each group came in a report; None when there is no report."""
    if not isinstance(report, t.Mapping) or not report.get("sections"):
        return None
    checks = [check for section in report["sections"] for check in section["checks"]]
    return {check["subject"]: float(check["value"] or 0) for check in checks if check["id"] == IDENTITY}


def _reviewed(source: t.Mapping[str, t.Any], known: dict[str, float] | None, growth: float) -> Found:
    result = source.get("result")
    groups = result.get("groups") if isinstance(result, t.Mapping) else None
    if not isinstance(result, t.Mapping) or not groups:
        return dict(source)
    made = [_check(group, known, growth) for group in groups]
    return {**source, "result": {**result, "checks": [*result.get("checks", []), *made]}}


def _check(group: t.Mapping[str, t.Any], known: dict[str, float] | None, growth: float) -> Found:
    subject, count = str(group["message"])[:SUBJECT], group["count"]
    before = (known or {}).get(subject)
    status, said = "ok", "as in the last review"
    if before is None:
        status, said = "warning", "not reviewed before" if known is None else "new since the last review"
    elif count >= ENOUGH and count >= growth * before:
        status, said = "warning", f"{before:g} in the last review"
    pods = ", ".join(group.get("pods") or []) or "no pod"
    more = int(group.get("pod_count") or 0) - len(group.get("pods") or [])
    where = f"{pods}{f' and {more} more' if more > 0 else ''}"
    sample = str(group.get("sample") or "")[:SAMPLE]
    return {
        "id": IDENTITY,
        "status": status,
        "subject": subject,
        "value": count,
        "unit": "lines",
        "summary": f"{said}: {count} from {group.get('first')} to {group.get('last')} in {where}: {sample}",
        "hint": HINT if status != "ok" else "",
        "evidence": dict(group),
    }


class FilterModule:
    """What this file offers."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"log_review": log_review}
