# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Expiry in a bucket: facts for the rules, the plan, and carrying it out. PRIVATE to the collection.

What makes a backup complete (the index of a base backup, the manifest of a dump) is deleted first, and WAL last. So whatever
interrupts it, nothing that looks like a backup is left without something that it needs; the next run removes the rest.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._backup import verifications
from ansible_collections.fileforge.ops.plugins.module_utils._backup.base_backups import BaseBackup, list_backups
from ansible_collections.fileforge.ops.plugins.module_utils._backup.dumps import Dump, list_dumps, read_pointer
from ansible_collections.fileforge.ops.plugins.module_utils._backup.expire import Archive, Backup, Decision, Policy, by_age, decide
from ansible_collections.fileforge.ops.plugins.module_utils._backup.wal_store import StoredSegment, WalStore
from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, UNKNOWN
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, InvalidOption, OpsError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import RunningUpload, Store
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress
from ansible_collections.fileforge.ops.plugins.module_utils._time import iso

_DATED = re.compile(r"\d{4}-?\d{2}-?\d{2}")
_FOREIGN = "its name does not begin with a date, so somebody made it for a purpose: remove it by hand"
_PLACES = ("base/", "database/")
DAY = 86400


@dataclasses.dataclass(frozen=True)
class ExpireOptions:
    """What the module's options say; days."""

    keep_days: float = 30
    keep_least: int = 7
    wal_days: float = 7
    dump_days: float = 30
    dump_least: int = 7
    aborted_days: float = 2

    def check(self) -> None:
        """Raise InvalidOption for what would give up everything."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value < 1:
                raise InvalidOption(field.name, value, "must be at least 1")
        if self.keep_days < self.wal_days:
            raise InvalidOption(
                "keep_days",
                self.keep_days,
                f"is less than wal_days={self.wal_days:g}: WAL is of no use without the backup before it",
            )

    def policy(self) -> Policy:
        """The rules for base backups and WAL."""
        return Policy(_days(self.keep_days), self.keep_least, _days(self.wal_days), _days(self.aborted_days))


def _days(count: float) -> datetime.timedelta:
    return datetime.timedelta(days=count)


@dataclasses.dataclass(frozen=True)
class Removal:
    """One step: keys in the order in which they go."""

    step: Step
    keys: tuple[str, ...]


class Expiry:
    """One look at a bucket, one decision, one run. Use ``plan`` before ``apply``."""

    def __init__(self, store: Store, prefix: str, options: ExpireOptions, now: datetime.datetime) -> None:
        options.check()
        self._store = store
        self._prefix = prefix
        self._options = options
        self._now = now
        self._wal = WalStore.load(store, prefix)
        self._backups = {item.name: item for item in list_backups(store, self._wal, prefix)}
        self._dumps = {item.name: item for item in list_dumps(store, prefix)}
        self.problems: list[str] = []
        self._failed = self._failed_verifications()
        self.decision = self._decide()
        self.dumps, self.dumps_kept = self._decide_dumps()
        self._uploads = self._stale_uploads()
        self._removals = [*self._of_backups(), *self._of_dumps(), *self._of_wal()]

    def _failed_verifications(self) -> set[tuple[str, str]]:
        """Kind and name of backups whose last verification found them bad: they do not count as what must stay.

        One that could not look (unknown) takes nothing back of what an earlier one found.
        """
        last: dict[tuple[str, str], str] = {}
        for record in verifications.newest_first(self._store, self._prefix):
            if record.verdict != UNKNOWN:
                last.setdefault((record.kind, record.backup), record.verdict)
        return {subject for subject, status in last.items() if status == CRITICAL}

    # -- facts --------------------------------------------------------------------------------------------------------

    def _decide(self) -> Decision:
        backups = [self._facts(item) for item in self._backups.values()]
        found = decide(backups, self._archive(), self._options.policy(), self._now, self._has_transaction)
        self.problems += found.problems
        return found

    def _facts(self, item: BaseBackup) -> Backup:
        stored = _newest(entry.last_modified for entry in item.objects.values())
        hold = "" if item.has_index or _DATED.match(item.name) else _FOREIGN
        if item.problem:
            return Backup(item.name, stored, complete=False, readable=False, hold=hold)
        try:
            facts = item.facts()
        except (IntegrityError, Refused):
            return Backup(item.name, stored, readable=False, hold=hold)
        return Backup(
            item.name,
            facts.stopped or facts.started or stored,
            timeline=facts.timeline,
            start=facts.start_lsn,
            stop=facts.stop_lsn,
            system=facts.system_identifier,
            segment_size=facts.wal_segment_size,
            failed=(verifications.BASE, item.name) in self._failed,
            hold=hold,
        )

    def _archive(self) -> Archive:
        ancestries = {}
        for timeline in self._wal.timelines:
            try:
                ancestries[timeline] = self._wal.ancestry(timeline)
            except (IntegrityError, Refused):
                continue
        segments = {
            timeline: {number: item.last_modified for number, item in stored.items() if self._whole(item)}
            for timeline, stored in self._wal.segments.items()
        }
        return Archive(segments, ancestries, self._wal.segment_size)

    def _has_transaction(self, timeline: int, number: int) -> bool:
        stored = self._wal.segment(timeline, number)
        try:
            return stored is not None and self._wal.latest_time(stored) is not None
        except IntegrityError:
            return False

    def _whole(self, item: StoredSegment) -> bool:
        return self._wal.segment(item.timeline, item.number) is not None

    def _decide_dumps(self) -> tuple[list[Dump], dict[str, str]]:
        """Dumps that go, oldest first, and why the others stay. A dump and its manifest are one."""
        try:
            pointed = read_pointer(self._store, self._prefix)
        except IntegrityError:
            pointed = None
        made = {name: item.made for name, item in self._dumps.items()}
        whole = [name for name, item in self._dumps.items() if item.complete or item.plain]
        good = [name for name in whole if (verifications.DUMP, name) not in self._failed]
        newest = sorted((name for name in good if made[name]), key=lambda name: (str(iso(made[name])), name))
        least = {*newest[-self._options.dump_least :], *([pointed] if pointed else [])}
        kept = {}
        for name, item in self._dumps.items():
            reason = self._dump_reason(item, made[name], name in least, name in whole)
            if reason:
                kept[name] = reason
        gone = [Backup(name, made[name]) for name in self._dumps if name not in kept]
        return [self._dumps[item.name] for item in by_age(gone)], kept

    def _dump_reason(self, item: Dump, made: datetime.datetime | None, least: bool, whole: bool) -> str:
        """Why it stays; empty when it goes."""
        if not (item.has_manifest or _DATED.match(item.name)):
            return _FOREIGN
        if made is None:
            return "nothing tells how old it is"
        limit = self._options.dump_days if whole else self._options.aborted_days
        if self._now - made <= _days(limit):
            return f"younger than {limit:g} days"
        return f"one of the {self._options.dump_least} newest dumps" if least else ""

    def _stale_uploads(self) -> list[RunningUpload]:
        """Uploads of backups that were begun long ago and are neither completed nor aborted."""
        limit = self._now - _days(self._options.aborted_days)
        found = []
        for part in _PLACES:
            try:
                running = self._store.running_uploads(f"{self._prefix}{part}")
            except OpsError as error:
                self.problems.append(f"unfinished uploads below {self._prefix}{part} were not looked for: {error.message}")
                continue
            found += [upload for upload in running if upload.initiated <= limit]
        return sorted(found)

    # -- the plan -----------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """What would be deleted, in the order in which it would be."""
        plan = Plan(f"expire backups below {self._prefix or 'the top'} of bucket {self._store.bucket}")
        plan.steps = [removal.step for removal in self._removals]
        if self._uploads:
            plan.steps.append(
                Step("abort", f"{len(self._uploads)} unfinished uploads", count=len(self._uploads), detail=self._uploads[0].key)
            )
        plan.notes = list(self.problems)
        return plan

    def _of_backups(self) -> t.Iterator[Removal]:
        for backup in self.decision.expired:
            yield self._of_backup(backup, "expire", f"made {_date(backup.made)}, older than {self._options.keep_days:g} days")
        for backup in self.decision.aborted:
            yield self._of_backup(backup, "remove", f"{self._backups[backup.name].problem}; stored {_date(backup.made)}")

    def _of_backup(self, backup: Backup, action: str, detail: str) -> Removal:
        item = self._backups[backup.name]
        order = sorted(item.objects, key=lambda kind: (kind != "index.json.gz", kind != "tar.gz", kind))
        keys = tuple(item.objects[kind].key for kind in order)
        size = sum(entry.size for entry in item.objects.values())
        return Removal(Step(action, f"{self._prefix}base/{item.name}", len(keys), size, True, detail), keys)

    def _of_dumps(self) -> t.Iterator[Removal]:
        for item in self.dumps:
            manifest = [item.manifest_key] if item.has_manifest else []
            keys = tuple([*manifest, *sorted(entry.key for entry in item.content.values())])
            whole = item.complete or item.plain
            detail = f"made {_date(item.made)}, older than {self._options.dump_days:g} days" if whole else item.problem
            size = sum(entry.size for entry in item.objects.values())
            yield Removal(Step("expire" if whole else "remove", item.key, len(keys), size, True, detail), keys)

    def _of_wal(self) -> t.Iterator[Removal]:
        for timeline in sorted(self.decision.wal):
            for run in _runs(self.decision.wal[timeline]):
                stored = [self._wal.segments[timeline][number] for number in run]
                labels = [
                    key for name, key in sorted(self._wal.backup_history_keys.items()) if name[:24] in {s.name for s in stored}
                ]
                keys = tuple([*labels, *(item.key for item in stored)])
                place = f"{self._prefix}wal/{stored[0].name}"
                if len(stored) > 1:
                    place += f" to {stored[-1].name}"
                detail = "no backup that stays needs it, and it is not needed for the last days"
                yield Removal(Step("expire", place, len(keys), sum(item.size for item in stored), True, detail), keys)

    # -- doing it -----------------------------------------------------------------------------------------------------

    def apply(self, progress: Progress) -> None:
        """Delete in the order of the plan; interrupted, it is continued by the next run."""
        total = sum(len(removal.keys) for removal in self._removals)
        with progress.phase("expire", total, unit="objects") as phase:
            for removal in self._removals:
                self._store.delete(removal.keys[:1])
                self._store.delete(removal.keys[1:])
                phase.advance(len(removal.keys))
        if self._uploads:
            for part in _PLACES:
                self._store.sweep_uploads(f"{self._prefix}{part}", self._options.aborted_days * DAY)

    # -- results ------------------------------------------------------------------------------------------------------

    def result(self) -> dict[str, t.Any]:
        """What the module returns besides the plan."""
        gone = sum(len(numbers) for numbers in self.decision.wal.values())
        kept = self.decision.kept
        return {
            "backups": [{"name": name, "kept": name in kept, "reason": kept.get(name, "")} for name in self._backups],
            "dumps": [{"name": n, "kept": n in self.dumps_kept, "reason": self.dumps_kept.get(n, "")} for n in self._dumps],
            "wal": {"segments": self._wal.count, "expired": gone},
            "bytes": sum(removal.step.bytes or 0 for removal in self._removals),
        }


def _newest(times: t.Iterable[datetime.datetime | None]) -> datetime.datetime | None:
    """The latest; None when one of them is not known."""
    found = list(times)
    return max((time for time in found if time is not None), default=None) if None not in found else None


def _date(time: datetime.datetime | None) -> str:
    return (iso(time) or "at an unknown time")[:16]


def _runs(numbers: t.Sequence[int]) -> list[list[int]]:
    """Consecutive numbers together."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def run_expiry(
    store: Store,
    prefix: str,
    options: ExpireOptions,
    now: datetime.datetime,
    *,
    check_mode: bool = False,
    plan_digest: str | None = None,
    progress: Progress | None = None,
) -> dict[str, t.Any]:
    """Plan, compare with what was confirmed, delete; the keys of the module's result."""
    progress = progress or Progress()
    expiry = Expiry(store, prefix, options, now)
    plan = expiry.plan()
    plan.require(plan_digest)
    if not check_mode:
        expiry.apply(progress)
    return {
        "changed": bool(plan.steps),
        "plan": plan.as_dict(),
        "diff": plan.as_diff(),
        **expiry.result(),
        "warnings": expiry.problems,
        "timings": progress.timings,
    }
