# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is the newest base backup as large as those before it? PRIVATE to the collection.

A backup of a database that has lost its tables is complete, young and restorable, and worth nothing. Like is compared with like:
backups of the same database system by what they hold before compression; plain archives, which do not tell that, with plain
archives by their bytes in the bucket.
"""

from __future__ import annotations

import statistics
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, UNKNOWN, WARNING, Check
from ansible_collections.fileforge.ops.plugins.module_utils._plan import human_bytes

NAME = "backup.size"
COMPARED = 7
"""Backups before the newest that it is compared with."""
HINT = "find out what is missing (playbooks/backup-verify.yml, postgres_size_info) before the older backups expire"
Facts = t.Mapping[str, t.Any]


def measure(facts: Facts) -> tuple[str, int]:
    """What a backup may be compared with, and its bytes."""
    if facts["content_bytes"] is None:
        return "plain archives", facts["bytes"]
    return f"database system {facts['system_identifier']}", facts["content_bytes"]


def earlier_sizes(backups: t.Sequence[Facts]) -> tuple[Facts | None, list[int]]:
    """The newest complete backup of a list that begins with the oldest, and the sizes of those that it compares with."""
    complete = [facts for facts in backups if facts["complete"]]
    if not complete:
        return None, []
    kind = measure(complete[-1])[0]
    alike = [size for found, size in map(measure, complete[:-1]) if found == kind]
    return complete[-1], alike[-COMPARED:]


def size_check(backups: t.Sequence[Facts], fraction: float) -> Check:
    """A warning for less than the fraction of the median of the last seven, critical for less than half of that."""
    newest, earlier = earlier_sizes(backups)
    limits: dict[str, t.Any] = {"unit": "fraction", "warning": fraction, "critical": fraction / 2}
    if newest is None:
        return Check(NAME, UNKNOWN, "there is no complete base backup whose size could be judged", hint=HINT, **limits)
    kind, size = measure(newest)
    if not earlier:
        summary = f"base backup {newest['name']} holds {human_bytes(size)}; there is no earlier one of {kind} to compare it with"
        return Check(NAME, OK, summary, **limits)
    usual = statistics.median(earlier)
    share = size / usual if usual else 1.0
    status = CRITICAL if share < fraction / 2 else WARNING if share < fraction else OK
    summary = f"base backup {newest['name']} holds {human_bytes(size)}, {share:.0%} of the median of {len(earlier)} before it"
    evidence = {"backup": newest["name"], "bytes": size, "median": usual, "compared": len(earlier), "kind": kind}
    return Check(NAME, status, summary, round(share, 4), hint="" if status == OK else HINT, evidence=evidence, **limits)
