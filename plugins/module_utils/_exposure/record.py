# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a penetration test: who does what until when, and what shows it. PRIVATE to the collection.

People write into the file. It is therefore never rewritten: what the checklist gained since is added at the end, and what stands
there stays as it is, comments and all.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, UNKNOWN, WARNING, Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._module import require_library

STATES = ("open", "in progress", "done", "accepted")
_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


class RecordDamaged(OpsError):
    """The file is not a record, or nothing can be added to it."""

    code = "record"


@dataclasses.dataclass(frozen=True)
class Item:
    """Something to be tested."""

    id: str
    task: str
    owner: str
    due_days: int
    """Days after the test began."""
    scope: t.Sequence[str] = ()

    def __post_init__(self) -> None:
        if not _SLUG.fullmatch(self.id):
            raise InvalidOption("checklist", self.id, "an id is of lower-case letters, digits and single dashes")
        for name in ("task", "owner"):
            if not str(getattr(self, name)).strip():
                raise InvalidOption(f"checklist.{self.id}.{name}", getattr(self, name), "must not be empty")
        if self.due_days < 0:
            raise InvalidOption(f"checklist.{self.id}.due_days", self.due_days, "must not be negative")

    def as_entry(self, begun: datetime.date) -> dict[str, t.Any]:
        """As it stands in a new record."""
        due = begun + datetime.timedelta(days=self.due_days)
        return {
            "id": self.id,
            "task": self.task,
            "owner": self.owner,
            "scope": list(self.scope),
            "due": due.isoformat(),
            "status": "open",
            "evidence": [],
            "notes": "",
        }


def quarter_of(day: datetime.date) -> str:
    """``2026-Q4``."""
    return f"{day.year}-Q{(day.month + 2) // 3}"


def parsed(text: str, path: str) -> list[dict[str, t.Any]]:
    """The entries of a record. Raises RecordDamaged naming the place."""
    yaml = require_library("yaml", "yaml")
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = f"{path}{where} is not YAML: {getattr(error, 'problem', None) or error}"
        raise RecordDamaged(problem, hint="mend the file; nothing was written") from error
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(entry, dict) and isinstance(entry.get("id"), str) for entry in found):
        raise RecordDamaged(f"{path} is not a list of entries with an id", hint="mend the file; nothing was written")
    ids = [entry["id"] for entry in found]
    twice = sorted({each for each in ids if ids.count(each) > 1})
    if twice:
        raise RecordDamaged(f"{path} has {twice[0]} twice", hint="leave one of them")
    return found


def extended(text: str, items: t.Sequence[Item], title: str, today: datetime.date, path: str) -> str:
    """The record with the items that it does not have yet at its end; all that stood there is unchanged. Raises RecordDamaged."""
    ids = [item.id for item in items]
    if len(set(ids)) != len(ids):
        raise InvalidOption("checklist", ids, "two items have the same id")
    known = {entry["id"] for entry in parsed(text, path)}
    missing = [item.as_entry(today) for item in items if item.id not in known]
    if not missing:
        return text
    yaml = require_library("yaml", "yaml")
    parts = [text if not text or text.endswith("\n") else f"{text}\n"] if text else [header(title)]
    parts += ["\n" + yaml.safe_dump([entry], sort_keys=False, allow_unicode=True, width=120) for entry in missing]
    whole = "".join(parts)
    hint = "write the list without indentation, or add the items by hand: " + ", ".join(entry["id"] for entry in missing)
    try:
        after = parsed(whole, path)
    except RecordDamaged as error:
        raise RecordDamaged(f"{path}: nothing can be added at its end", hint=hint) from error
    if {entry["id"] for entry in after} != known | {entry["id"] for entry in missing}:
        raise RecordDamaged(f"{path}: nothing can be added at its end", hint=hint)
    return whole


def header(title: str) -> str:
    """The first lines of a new record."""
    return (
        f"# {title}\n"
        f"# status: {', '.join(STATES)}. What is done or accepted has evidence: a report, a ticket, a commit.\n"
        "# Items that the checklist gains are added at the end. Nothing else is ever changed here.\n"
    )


def judge(entries: t.Sequence[t.Mapping[str, t.Any]], today: datetime.date) -> list[Check]:
    """One check for each entry."""
    return [_judged(entry, today) for entry in entries]


def _judged(entry: t.Mapping[str, t.Any], today: datetime.date) -> Check:
    state, owner, due = entry.get("status"), entry.get("owner"), _due(entry.get("due"))
    title = str(entry.get("task") or entry["id"])

    def check(status: str, text: str, hint: str = "", value: float | None = None) -> Check:
        evidence = {name: entry.get(name) for name in ("owner", "scope", "status", "evidence")}
        evidence["due"] = due.isoformat() if due else None
        return Check(
            "penetration.item", status, f"{title}: {text}", value, "days", hint=hint, evidence=evidence, subject=entry["id"]
        )

    if state not in STATES:
        return check(UNKNOWN, f"status {state!r} is none of {', '.join(STATES)}", "correct it in the record")
    if state in ("done", "accepted"):
        if not entry.get("evidence"):
            return check(WARNING, f"{state}, but nothing shows it", "write into evidence where the report, ticket or commit is")
        return check(OK, f"{state}, {len(entry['evidence']) if isinstance(entry['evidence'], list) else 1} of evidence")
    if not owner or due is None:
        return check(WARNING, "has no owner" if not owner else "has no due date", "write it into the record")
    left = (due - today).days
    if left < 0:
        return check(CRITICAL, f"{-left} days overdue, {owner} has it", "do it, or agree on another date and write it down", left)
    return check(OK, f"{state}, {owner} until {due.isoformat()}", value=left)


def _due(value: t.Any) -> datetime.date | None:
    """YAML reads a date as one; in quotes it is text."""
    if isinstance(value, datetime.datetime):
        return value.date()
    if isinstance(value, datetime.date):
        return value
    if isinstance(value, str) and _DAY.fullmatch(value):
        try:
            return datetime.date.fromisoformat(value)
        except ValueError:
            return None
    return None
