# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans: what a destructive module will do, computed before it does anything. PRIVATE to the collection.

A plan is an ordered list of steps. Its digest is the SHA-256 of the canonical JSON (sorted keys, no white space) of title and
steps, so the digest of check mode is the digest of the real run as long as the world is the same. Facts that change by
themselves (free disk, now) go to ``notes``, which the digest does not cover.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import PlanChanged

DIGEST_LENGTH = 16
"""Hexadecimal digits of a digest that a person reads and types (64 bits: an accident guard, not a signature)."""


def digest_of(value: t.Any) -> str:
    """The short SHA-256 of any JSON value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing that will be done, on what, and how much of it there is."""

    action: str
    """A verb in field terms: fetch, replace, keep, replay, promote, upload, move_aside, restart..."""
    object: str
    """What it is done to: a path, a key, a workload."""
    count: int | None = None
    bytes: int | None = None
    destructive: bool = False
    detail: str = ""

    def as_dict(self) -> dict[str, t.Any]:
        """The step without its empty fields; action and object are always there."""
        fields = dataclasses.asdict(self)
        return {key: value for key, value in fields.items() if key in ("action", "object") or value not in (None, "", False)}


@dataclasses.dataclass
class Plan:
    """An ordered list of steps with one digest. No steps means that nothing is to be done."""

    title: str
    steps: list[Step] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def digest(self) -> str:
        """See the module's own description."""
        return digest_of({"title": self.title, "steps": [step.as_dict() for step in self.steps]})

    @property
    def destructive(self) -> bool:
        """Whether any step replaces or removes something."""
        return any(step.destructive for step in self.steps)

    def as_dict(self) -> dict[str, t.Any]:
        """The shape that modules return as ``plan``."""
        return {
            "title": self.title,
            "steps": [step.as_dict() for step in self.steps],
            "notes": list(self.notes),
            "digest": self.digest,
            "destructive": self.destructive,
        }

    def require(self, expected: str | None) -> None:
        """Raise PlanChanged unless ``expected`` (a confirmed digest, or None for no demand) is this plan's digest."""
        if expected and expected != self.digest:
            raise PlanChanged(expected, self.digest, plan=self.as_dict())

    def as_diff(self) -> dict[str, str]:
        """The plan for Ansible's diff mode."""
        return {"before": "", "after": "".join(f"{line}\n" for line in plan_lines(self.as_dict())), "after_header": self.title}


def plan_lines(plan: dict[str, t.Any]) -> list[str]:
    """A plan (as ``as_dict`` gives it) as lines for a person."""
    lines = []
    for step in plan["steps"]:
        amount = []
        if step.get("count") is not None:
            amount.append(f"{step['count']} objects")
        if step.get("bytes") is not None:
            amount.append(human_bytes(step["bytes"]))
        text = f"{'!' if step.get('destructive') else ' '} {step['action']:<11} {step['object']}"
        if amount:
            text += f" ({', '.join(amount)})"
        if step.get("detail"):
            text += f": {step['detail']}"
        lines.append(text)
    return lines or ["  nothing to do"]


def human_bytes(count: float) -> str:
    """1536 -> '1.5 KiB' (IEC 80000-13 units)."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
