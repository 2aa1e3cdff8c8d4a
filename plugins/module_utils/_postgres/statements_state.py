# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was counted at earlier reviews, and what happened since: a weekly review is of the week. PRIVATE to the collection.

Counters grow until somebody resets them, the server crashes, or an entry is dropped to make room and made anew. Then what is
counted now happened since, and nothing is subtracted from it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._files import write_whole
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.statements_read import COUNTERS, Reading, Statement

Figures = t.Mapping[str, float]
APART = 20 * 3600.0
"""Samples that are nearer to each other than this are thinned out, so that looking often does not push the last week out."""
KEPT = 16
DIGITS = 3


@dataclasses.dataclass(frozen=True)
class Sample:
    """The counters at one time. ``identity`` tells one server from all others."""

    identity: str
    taken: float
    deallocated: int | None
    statements: t.Mapping[str, Figures]
    tables: t.Mapping[str, Figures] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, t.Any]:
        """For the file: thousands of statements, so their figures are lists."""
        statements = {key: [_short(figures.get(name)) for name in COUNTERS] for key, figures in self.statements.items()}
        return {**dataclasses.asdict(self), "statements": statements}

    @classmethod
    def from_dict(cls, value: t.Mapping[str, t.Any]) -> Sample:
        """From the file. Raises ValueError, TypeError or KeyError for anything else."""
        statements = {str(key): _figures(zip(COUNTERS, numbers)) for key, numbers in dict(value["statements"]).items()}
        tables = {str(key): _figures(dict(numbers).items()) for key, numbers in dict(value["tables"]).items()}
        deallocated = value["deallocated"]
        whole = None if deallocated is None else int(deallocated)
        return cls(str(value["identity"]), float(value["taken"]), whole, statements, tables)


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _figures(pairs: t.Iterable[tuple[str, t.Any]]) -> dict[str, float]:
    return {str(name): float(value) for name, value in pairs if value is not None}


def sample_of(reading: Reading, tables: t.Mapping[str, Figures]) -> Sample:
    """What to remember of a look."""
    statements = {statement.key: statement.figures for statement in reading.statements}
    return Sample(reading.identity, reading.taken, reading.deallocated, statements, tables)


def load(path: str) -> list[Sample]:
    """The kept samples, the oldest first; none without a file. Raises InvalidOption for a file that is something else."""
    try:
        with open(path, encoding="utf-8") as stream:
            content = json.load(stream)
        return sorted((Sample.from_dict(item) for item in content["samples"]), key=lambda sample: sample.taken)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InvalidOption("state_file", path, f"cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        hint = "give another path, or remove the file to begin anew"
        raise InvalidOption("state_file", path, f"is no file of samples ({error})", hint=hint) from error


def save(path: str, samples: t.Sequence[Sample]) -> None:
    """Keep the samples that later reviews need. Raises InvalidOption when the place cannot be written to."""
    content = json.dumps({"samples": [sample.as_dict() for sample in thinned(samples)]}, separators=(",", ":")).encode()
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o755, exist_ok=True)
        write_whole(os.path.abspath(path), content, mode=0o640)
    except OSError as error:
        raise InvalidOption("state_file", path, f"cannot be written: {error.strerror}") from error


def thinned(samples: t.Sequence[Sample]) -> list[Sample]:
    """The newest, and before it those that are far enough from each other; no more than ``KEPT``."""
    kept: list[Sample] = []
    for sample in samples[:-1]:
        if not kept or sample.taken - kept[-1].taken >= APART:
            kept.append(sample)
    return [*kept, *samples[-1:]][-KEPT:]


@dataclasses.dataclass(frozen=True)
class Past:
    """The sample to compare with, and the one before it."""

    last: Sample | None = None
    earlier: Sample | None = None


def choose(samples: t.Sequence[Sample], identity: str, now: float, age: float) -> Past:
    """The youngest sample of this server that is at least so many seconds old, or else its oldest; and the same before that."""
    mine = [sample for sample in samples if sample.identity == identity and sample.taken < now]
    last = _aged(mine, now - age)
    if last is None:
        return Past()
    return Past(last, _aged([sample for sample in mine if sample.taken < last.taken], last.taken - age))


def _aged(samples: t.Sequence[Sample], moment: float) -> Sample | None:
    old = [sample for sample in samples if sample.taken <= moment]
    return old[-1] if old else samples[0] if samples else None


def growth(now: Figures, before: Figures | None) -> dict[str, float]:
    """What was counted in between; all of it when there is nothing before, or when a counter is lower than it was."""
    if before is None or any(now.get(name, 0.0) < value - 2 * 10**-DIGITS for name, value in before.items() if name in now):
        return dict(now)
    return {name: max(0.0, value - before.get(name, 0.0)) for name, value in now.items()}


def since_last(reading: Reading, statement: Statement, last: Sample | None) -> dict[str, float]:
    """The figures of a statement since the last sample, or since it was counted anew."""
    if last is None or (reading.reset or 0.0) > last.taken or (statement.since or 0.0) > last.taken:
        return dict(statement.figures)
    return growth(statement.figures, last.statements.get(statement.key))


def before_last(past: Past, key: str) -> dict[str, float]:
    """The figures of a statement up to the last sample: since the one before it when there is one. Empty when it was not there."""
    if past.last is None or key not in past.last.statements:
        return {}
    return growth(past.last.statements[key], past.earlier.statements.get(key) if past.earlier else None)


def begin_of(reading: Reading, last: Sample | None) -> float | None:
    """Since when what is counted as new was counted, in seconds since 1970; None when nobody knows."""
    known = [moment for moment in (reading.reset, last.taken if last else None) if moment is not None]
    return max(known) if known else None


def evictions(reading: Reading, last: Sample | None) -> int | None:
    """How often entries were dropped since the last sample, or since the reset; None where the extension does not tell."""
    if reading.deallocated is None:
        return None
    before = last.deallocated if last and last.deallocated is not None and (reading.reset or 0.0) <= last.taken else 0
    return reading.deallocated - before if reading.deallocated >= before else reading.deallocated
