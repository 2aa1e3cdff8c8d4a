# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gate decides, apart from showing and asking. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import json
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError, PlanChanged, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._plan import digest_of, human_bytes, plan_lines

STEP_FIELDS = {
    "action": (str,),
    "object": (str,),
    "count": (int, float),
    "bytes": (int, float),
    "destructive": (bool,),
    "detail": (str,),
}


def untampered(plan: t.Any, position: int) -> dict[str, t.Any]:
    """The plan as plain data; raises Refused unless it has the shape of a plan and the digest of its own content."""
    try:
        plain = json.loads(json.dumps(plan))
        steps = plain["steps"]
        for step in steps:
            wrong = [name for name, value in step.items() if type(value) not in STEP_FIELDS.get(name, ())]
            if wrong or "action" not in step or "object" not in step:
                raise TypeError(f"a step with {wrong or sorted(step)}")
        found = digest_of({"title": plain["title"], "steps": steps})
        claimed = plain["digest"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused(
            "plan_tampered", f"number {position} of the plans is not a plan as modules return it: {type(error).__name__} {error}"
        ) from error
    if claimed != found:
        raise Refused(
            "plan_tampered",
            f"plan {plain['title']!r} claims the digest {claimed}, but its content has {found}: it was altered on the way",
            hint="plan again and hand over the plan exactly as the module returned it",
        )
    return t.cast("dict[str, t.Any]", plain)


def combined_digest(plans: t.Sequence[dict[str, t.Any]]) -> str:
    """The digest of a single plan, or one over the digests of several in their order."""
    digests = [plan["digest"] for plan in plans]
    return str(digests[0]) if len(digests) == 1 else digest_of(digests)


def needs(plan: dict[str, t.Any], always: bool) -> bool:
    """Whether a plan needs confirmation: its steps say so, not what the plan says about them."""
    return any(step.get("destructive") for step in plan["steps"]) or (always and bool(plan["steps"]))


@dataclasses.dataclass(frozen=True)
class Gate:
    """Plans that hold, and what they need to pass."""

    title: str
    plans: tuple[dict[str, t.Any], ...]
    always: bool = False

    @classmethod
    def of(cls, title: str, plans: t.Sequence[t.Any], always: bool) -> Gate:
        """Raises Refused (reason ``plan_tampered``)."""
        return cls(title, tuple(untampered(plan, position) for position, plan in enumerate(plans, start=1)), always)

    @property
    def digest(self) -> str:
        """The digest to confirm."""
        return combined_digest(self.plans)

    @property
    def needed(self) -> bool:
        """Whether confirmation is needed."""
        return any(needs(plan, self.always) for plan in self.plans)

    def lines(self) -> list[str]:
        """The plans for a person, with what to type."""
        lines = [f"{self.title}"]
        for plan in self.plans:
            amount = sum(step.get("bytes", 0) for step in plan["steps"])
            lines += ["", f"  {plan['title']}  [{plan['digest']}]{f'  {human_bytes(amount)} in all' if amount else ''}"]
            lines += [f"  {line}" for line in plan_lines(plan)]
            lines += [f"    note: {note}" for note in plan.get("notes") or []]
        lines += ["", f"  digest: {self.digest}"]
        if self.needed:
            lines += ["  ! replaces or removes something", f"  to carry out exactly this: -e confirm={self.digest}"]
        else:
            lines.append("  no confirmation is needed")
        return ["".join(letter if letter.isprintable() else "?" for letter in line) for line in lines]

    def confirmed_by(self, confirm: str) -> bool:
        """Whether ``confirm`` holds the digest of all plans, or the own digest of each plan that needs it."""
        given = set(confirm.replace(",", " ").split())
        needing = {plan["digest"] for plan in self.plans if needs(plan, self.always)}
        return self.digest in given or (bool(needing) and needing <= given)

    def check(self, confirm: str) -> bool:
        """Whether ``confirm`` confirms these plans; raises PlanChanged when it is for other plans, is false when it is empty."""
        if not confirm or not self.needed:
            return False
        if not self.confirmed_by(confirm):
            raise PlanChanged(confirm, self.digest, confirmed_digest=confirm)
        return True

    def missing(self) -> OpsError:
        """The error for a run without confirmation."""
        return Refused(
            "confirmation_needed",
            f"{self.title}: not confirmed, so nothing was done",
            hint=f"read the plan above and run the same command again with -e confirm={self.digest}",
        )
