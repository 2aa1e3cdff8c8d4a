# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names hosts and packages in what was found about security updates."""

from __future__ import annotations

DOCUMENTATION = r"""
name: patch_review
short_description: Name hosts and packages in the checks of security updates
version_added: 1.0.0
author: FileForge operations (@fileforge)
description:
  - Gives each check of M(fileforge.ops.security_updates_info) its host as subject, names every pending security update with its
    versions and its age, and every held package, so that a report of many hosts can be acted on.
positional: _input
options:
  _input:
    description: What M(fileforge.ops.look) returned.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Report the updates
  fileforge.ops.operations_report:
    title: Security patch review
    results: "{{ looked.results | fileforge.ops.patch_review }}"
"""

RETURN = r"""
_value:
  description: The results, with fuller checks.
  type: list
  elements: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError

SHOWN = 60
Found = t.Dict[str, t.Any]


def patch_review(results: t.Sequence[t.Mapping[str, t.Any]]) -> list[Found]:
    """The results with hosts and packages named; raises AnsibleFilterError for what is no list of results."""
    if isinstance(results, (str, t.Mapping)) or not isinstance(results, t.Sequence):
        raise AnsibleFilterError(f"fileforge.ops.patch_review: not a list of results: {results!r}")
    return [_named(source) for source in results]


def _named(source: t.Mapping[str, t.Any]) -> Found:
    result = source.get("result")
    if not isinstance(result, t.Mapping) or not result.get("checks"):
        # Nothing was found out; the report makes a check of the name, and that has to say where.
        return (
            {**source, "name": f"{source['name']} of {source['host']}"}
            if result is not None and source.get("host")
            else dict(source)
        )
    checks = [
        {
            **check,
            "subject": check.get("subject") or source.get("host", ""),
            "summary": check["summary"] + _detail(check["id"], result),
        }
        for check in result["checks"]
    ]
    return {**source, "result": {**result, "checks": checks}}


def _detail(identity: str, result: t.Mapping[str, t.Any]) -> str:
    if identity == "updates.security":
        names = [_fix(fix) for fix in result.get("security_updates") or []]
    elif identity == "updates.held":
        names = [str(name) for name in result.get("held") or []]
    else:
        names = []
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f" ({', '.join(names[:SHOWN])}{rest})" if names else ""


def _fix(fix: t.Mapping[str, t.Any]) -> str:
    age = fix.get("age_days")
    parts = [f"{fix['package']} {fix.get('installed') or '?'} -> {fix.get('candidate') or '?'}"]
    parts += [str(fix[name]) for name in ("advisory", "severity") if fix.get(name)]
    parts += [f"{age:g} days"] if age is not None else []
    parts += ["held"] if fix.get("held") else []
    return ", ".join(parts)


class FilterModule:
    """What this file offers."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"patch_review": patch_review}
