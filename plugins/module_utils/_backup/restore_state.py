# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restore remembers between runs. PRIVATE to the collection.

``<data_directory>.restore.json`` (the attempt) exists while a restore is unfinished: what was asked for, the plan, and how far it
got. ``<data_directory>.restored.json`` (the record) says what the directory was restored from; it is how a second run of the same
request knows that nothing is to be done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError
from ansible_collections.fileforge.ops.plugins.module_utils._files import fsync_directory, write_whole
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step

FETCHING, SWAPPING, RECOVERING, PROMOTED, SPOILED = "fetching", "swapping", "recovering", "promoted", "spoiled"
PHASES = (FETCHING, SWAPPING, RECOVERING, PROMOTED, SPOILED)
"""Spoiled: recovery is over and ended at the wrong place, so there is nothing to carry on."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What was asked for: the identity of a restore. Two runs with equal requests ask for the same thing."""

    data_directory: str
    target_time: str
    """ISO 8601 in UTC, or ``latest``."""
    target_timeline: str
    backup: str
    bucket: str
    endpoint: str
    prefix: str
    scratch: bool
    tablespaces: t.Dict[str, str]

    def as_dict(self) -> dict[str, t.Any]:
        """JSON form."""
        return dataclasses.asdict(self)


@dataclasses.dataclass
class Attempt:
    """An unfinished restore."""

    request: dict[str, t.Any]
    plan: dict[str, t.Any]
    phase: str
    backup: str
    facts: dict[str, t.Any]
    """What was true when the plan was made and is not any more (the server ran, there was an old directory)."""
    recovery: dict[str, t.Any]
    """The part of the recovery plan that replay needs."""
    begun: str
    timings: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)
    """Phases of runs that ended before."""
    failed: str = ""
    """Why its recovery failed, as far as anybody saw; then ``force`` gives it up."""

    @property
    def digest(self) -> str:
        """Of its plan."""
        return str(self.plan["digest"])

    @property
    def irrevocable(self) -> bool:
        """Whether the exchange of directories has begun, so that the plan is carried to its end as it is."""
        return PHASES.index(self.phase) >= PHASES.index(SWAPPING)

    def restored_plan(self) -> Plan:
        """The plan as it was made."""
        return Plan(self.plan["title"], [Step(**step) for step in self.plan["steps"]], list(self.plan["notes"]))


def attempt_path(data_directory: str) -> str:
    """Where the attempt is."""
    return f"{data_directory}.restore.json"


def record_path(data_directory: str) -> str:
    """Where the record is."""
    return f"{data_directory}.restored.json"


def lock_path(data_directory: str) -> str:
    """What restores of one directory lock."""
    return f"{data_directory}.restore.lock"


def _load(path: str) -> dict[str, t.Any] | None:
    try:
        with open(path, encoding="utf-8") as stream:
            value = json.load(stream)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise IntegrityError(f"{path}: cannot be read: {error}", hint="look at it; remove it to begin anew") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{path}: not what a restore writes", hint="look at it; remove it to begin anew")
    return value


def load_attempt(data_directory: str) -> Attempt | None:
    """The unfinished restore of a directory, if there is one."""
    path = attempt_path(data_directory)
    value = _load(path)
    if value is None:
        return None
    try:
        attempt = Attempt(**value)
        attempt.restored_plan()
        PHASES.index(attempt.phase)
    except (TypeError, KeyError, ValueError) as error:
        raise IntegrityError(f"{path}: not what a restore writes: {error}", hint="look at it; remove it to begin anew") from error
    return attempt


def save_attempt(data_directory: str, attempt: Attempt) -> None:
    """Write it whole."""
    content = json.dumps(dataclasses.asdict(attempt), indent=1, sort_keys=True)
    write_whole(attempt_path(data_directory), content.encode(), mode=0o600)


def drop_attempt(data_directory: str) -> None:
    """The restore is finished."""
    path = attempt_path(data_directory)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
        fsync_directory(os.path.dirname(path))


def load_record(data_directory: str) -> dict[str, t.Any] | None:
    """What the directory was restored from, if it was."""
    return _load(record_path(data_directory))


def save_record(data_directory: str, record: t.Mapping[str, t.Any]) -> None:
    """Write it whole."""
    write_whole(record_path(data_directory), json.dumps(record, indent=1, sort_keys=True).encode(), mode=0o600)
