# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks: what was looked at, what was found, and what to do about it. PRIVATE to the collection.

Every ``*_info`` and verifying module returns ``checks`` (a list of these) and one ``status``. A check that could not look is
``unknown``, never ``ok``. The worst of several is taken in the order critical > unknown > warning > ok.
"""

from __future__ import annotations

import dataclasses
import typing as t

OK, WARNING, UNKNOWN, CRITICAL = "ok", "warning", "unknown", "critical"
STATUSES = (OK, WARNING, UNKNOWN, CRITICAL)
"""From best to worst."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One answer. ``id`` is stable (``backup.rpo``); ``hint`` names the runbook step or playbook to run next, unless it is ok.

    Several checks may have one id: ``subject`` then says of what each is (a mount, a queue, a certificate's endpoint).
    """

    id: str
    status: str
    summary: str
    value: float | str | None = None
    unit: str = ""
    warning: float | None = None
    critical: float | None = None
    hint: str = ""
    evidence: t.Any = None
    subject: str = ""

    def as_dict(self) -> dict[str, t.Any]:
        """All fields, empty ones too: consumers rely on the shape."""
        return dataclasses.asdict(self)


def worst(statuses: t.Iterable[str]) -> str:
    """The worst status; ``unknown`` when there is none, because nobody looked."""
    found = [STATUSES.index(status) for status in statuses]
    return STATUSES[max(found)] if found else UNKNOWN


def grade_over(value: float | None, warning: float, critical: float) -> str:
    """Status of a value against the runbook's Key Metrics: a limit that is only just reached is none yet (``>80%``)."""
    if value is None:
        return UNKNOWN
    return CRITICAL if value > critical else WARNING if value > warning else OK


def grade(value: float | None, warning: float | None, critical: float | None) -> str:
    """Status of a value against upper limits (reached = over), or lower ones where ``warning > critical``."""
    if value is None:
        return UNKNOWN
    falling = warning is not None and critical is not None and warning > critical
    for limit, status in ((critical, CRITICAL), (warning, WARNING)):
        if limit is not None and (value <= limit if falling else value >= limit):
            return status
    return OK


def result_of(checks: t.Sequence[Check]) -> dict[str, t.Any]:
    """The two keys that every checking module returns."""
    return {"checks": [check.as_dict() for check in checks], "status": worst(check.status for check in checks)}
