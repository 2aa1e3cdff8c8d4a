# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalog as checks: is what is in the bucket enough? PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._backup import verifications
from ansible_collections.fileforge.ops.plugins.module_utils._backup.backup_size import size_check
from ansible_collections.fileforge.ops.plugins.module_utils._backup.base_backups import BaseBackup
from ansible_collections.fileforge.ops.plugins.module_utils._backup.catalog import Catalog, Restorable, plan_recovery
from ansible_collections.fileforge.ops.plugins.module_utils._backup.wal_chain import Chain
from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, UNKNOWN, WARNING, Check, grade
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, OpsError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._time import duration_text, iso

BACKUP_HINT = "make one: playbooks/backup.yml"
VERIFY_HINT = "verify one: playbooks/backup-verify.yml"
ARCHIVE_HINT = "look at pg_stat_archiver and the server's log, and prove archiving: postgres_wal_archive"
GAP_HINT = "no time within a gap can be restored to: find out why archiving stopped then, before it does again"
TARGET_HINT = "choose another target_time: postgres_backup_info lists what can be restored from when to when"
BUCKET_HINT = "check the bucket, the credentials and s3_endpoint_url, then look again"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is asked of the backups; seconds."""

    rpo: int
    max_backup_age: int
    target_time: datetime.datetime | None = None
    max_verified_age: int = 691200
    """0 asks for no verification."""
    min_size: float = 0.5
    """A fraction of the usual size; 0 does not ask for the size."""


class Report:
    """Questions to one catalog at one moment."""

    def __init__(self, catalog: Catalog, limits: Limits, now: datetime.datetime) -> None:
        self._catalog = catalog
        self._limits = limits
        self._now = now
        self.backups = [backup.as_dict() for backup in catalog.backups]
        self._newest = self._newest_complete()
        self._chain, self._problem = self._newest_chain()
        self.last_transaction = self._last_transaction()

    def _newest_complete(self) -> tuple[BaseBackup, dict[str, t.Any]] | None:
        for backup, facts in zip(reversed(self._catalog.backups), reversed(self.backups)):
            if facts["complete"]:
                return backup, facts
        return None

    def _newest_chain(self) -> tuple[Chain | None, str]:
        """The WAL after the newest complete backup, on the newest timeline that descends from it."""
        if self._newest is None:
            return None, "there is no complete base backup"
        backup = self._newest[0]
        own = backup.facts().timeline
        problem = "no timeline descends from the newest base backup"
        for timeline in sorted({*self._catalog.wal.timelines, own}, reverse=True):
            try:
                chain = self._catalog.chain(backup, timeline)
            except (Refused, IntegrityError) as error:
                problem = error.message
                continue
            if chain is not None:
                return chain, ""
        return None, problem

    def _last_transaction(self) -> datetime.datetime | None:
        if self._chain is None or not self._chain.segments:
            return None
        try:
            return self._chain.last_time()
        except IntegrityError as error:
            self._problem = error.message
            return None

    @property
    def rpo_seconds(self) -> float | None:
        """Age of the last transaction that could be restored now."""
        if self.last_transaction is None:
            return None
        return max(0.0, (self._now - self.last_transaction).total_seconds())

    def restorable(self) -> list[Restorable]:
        """See Catalog.restorable."""
        return self._catalog.restorable()

    def wal(self) -> list[dict[str, t.Any]]:
        """Ranges and gaps of each timeline."""
        store = self._catalog.wal
        return [
            {
                "timeline": timeline,
                "ranges": [item.as_dict() for item in store.ranges(timeline)],
                "gaps": [item.as_dict() for item in store.gaps(timeline)],
                "history": store.history_keys.get(timeline, ""),
            }
            for timeline in store.timelines
        ]

    def dumps(self) -> list[dict[str, t.Any]]:
        """Dumps, newest last."""
        return sorted((dump.as_dict() for dump in self._catalog.dumps), key=lambda item: str(item["modified"]))

    def checks(self) -> list[Check]:
        """All of them; what could not be looked at is unknown."""
        found = [self._age(), self._complete(), self._contiguous(), self._rpo()]
        if self._limits.min_size:
            found.insert(2, size_check(self.backups, self._limits.min_size))
        if self._limits.max_verified_age:
            found.append(self._verified())
        if self._limits.target_time is not None:
            found.append(self._reachable(self._limits.target_time))
        return found

    def _age(self) -> Check:
        limit = self._limits.max_backup_age
        if self._newest is None:
            return Check("backup.age", CRITICAL, "there is no complete base backup", unit="s", critical=limit, hint=BACKUP_HINT)
        backup, facts = self._newest
        stopped = backup.facts().stopped or backup.stamp
        if stopped is None:
            summary = f"nothing tells when base backup {backup.name} was made"
            return Check("backup.age", UNKNOWN, summary, unit="s", critical=limit, hint=BACKUP_HINT)
        age = max(0.0, (self._now - stopped).total_seconds())
        return Check(
            "backup.age",
            grade(age, None, limit),
            f"the newest complete base backup, {backup.name}, is {duration_text(age)} old",
            round(age, 1),
            "s",
            None,
            limit,
            BACKUP_HINT,
            {"backup": facts["name"], "stopped": iso(stopped)},
        )

    def _complete(self) -> Check:
        broken = [facts for facts in self.backups if not facts["complete"]]
        if not self.backups:
            return Check("backup.complete", CRITICAL, "there is no base backup", 0, "backups", hint=BACKUP_HINT)
        if not broken:
            return Check("backup.complete", OK, f"all {len(self.backups)} base backups are complete", 0, "backups")
        newest = not self.backups[-1]["complete"]
        return Check(
            "backup.complete",
            CRITICAL if len(broken) == len(self.backups) else WARNING,
            f"{len(broken)} of {len(self.backups)} base backups cannot be restored"
            + (", the newest among them" if newest else "")
            + f": {broken[-1]['name']}: {broken[-1]['problem']}",
            len(broken),
            "backups",
            hint="one that is still being made is not complete either; otherwise look at the last run of playbooks/backup.yml",
            evidence=[{"name": facts["name"], "problem": facts["problem"]} for facts in broken],
        )

    def _contiguous(self) -> Check:
        """From the newest complete backup to the end; gaps before it are told, but matter only for older targets."""
        name = "backup.wal_contiguous"
        gaps = [item.as_dict() for timeline in self._catalog.wal.timelines for item in self._catalog.wal.gaps(timeline)]
        if self._chain is None:
            return Check(name, CRITICAL if self._newest is None else UNKNOWN, self._problem, hint=BACKUP_HINT, evidence=gaps)
        chain = self._chain
        backup = self._newest[0].name if self._newest else ""
        try:
            whole = chain.backup_stop(self._newest[0].facts()) is not None if self._newest else False
        except IntegrityError as error:
            return Check(name, CRITICAL, error.message, hint=error.hint or BACKUP_HINT, evidence=gaps)
        if chain.beyond or chain.limit is not None or not whole:
            summary = f"after base backup {backup}, WAL segment {chain.missing} is missing"
            return Check(name, CRITICAL, summary, chain.missing, hint=f"{ARCHIVE_HINT}; then {BACKUP_HINT}", evidence=gaps)
        summary = f"{len(chain.segments)} segments follow each other from base backup {backup} to {chain.segments[-1].name}"
        if gaps:
            summary += f"; there are {len(gaps)} older gaps"
            return Check(name, WARNING, summary, len(gaps), "gaps", hint=GAP_HINT, evidence=gaps)
        return Check(name, OK, summary, 0, "gaps")

    def _rpo(self) -> Check:
        limit = self._limits.rpo
        age = self.rpo_seconds
        if age is None or self._chain is None:
            why = self._problem or "there is no transaction in the archived WAL"
            status = CRITICAL if self._newest is None else UNKNOWN
            hint = BACKUP_HINT if self._newest is None else ARCHIVE_HINT
            return Check("backup.rpo", status, f"nothing tells what could be restored: {why}", unit="s", critical=limit, hint=hint)
        last = self._chain.segments[-1]
        idle = last.last_modified is not None and (self._now - last.last_modified).total_seconds() >= limit
        summary = f"the last transaction that could be restored is {duration_text(age)} old"
        if idle and age >= limit:
            summary += f"; the newest segment, {last.name}, was stored at {iso(last.last_modified)}: archiving stands still or the "
            summary += "database was idle"
        return Check(
            "backup.rpo",
            grade(age, limit / 2, limit),
            summary,
            round(age, 1),
            "s",
            limit / 2,
            limit,
            ARCHIVE_HINT,
            {"last_transaction": iso(self.last_transaction), "newest_segment": last.name, "stored": iso(last.last_modified)},
        )

    @functools.cached_property
    def _records(self) -> list[verifications.Verification]:
        """Newest first, up to the newest good one."""
        records = []
        for record in verifications.newest_first(self._catalog.store, self._catalog.prefix):
            records.append(record)
            if record.verdict == OK:
                break
        return records

    @property
    def last_verified(self) -> dict[str, t.Any] | None:
        """The newest verification that found its backup good, however long it took."""
        good = verifications.last(self._records, good=True)
        return None if good is None else good.as_dict()

    def _verified(self) -> Check:
        """When a backup was last proved to be good. A bad verdict on what is still the newest of its kind is critical.

        A good one that took longer than it may is a warning about time.
        """
        name, limit = "backup.verified", self._limits.max_verified_age
        if not self._records:
            return Check(name, WARNING, "no backup was ever verified", None, "s", limit, None, VERIFY_HINT)
        newest, good = self._records[0], verifications.last(self._records, good=True)
        age = None if good is None else max(0.0, (self._now - good.finished_at).total_seconds())
        since = "no backup was ever found good" if good is None or age is None else f"{good.backup} was {duration_text(age)} ago"
        value = None if age is None else round(age, 1)
        evidence = {"newest": newest.as_dict(), "good": None if good is None else good.as_dict()}
        if newest.verdict != OK:
            bad = [check["summary"] for check in newest.checks if check["status"] == CRITICAL and check["id"] != verifications.TIME]
            summary = f"the verification of {newest.kind} {newest.backup} at {newest.finished} ended {newest.verdict}"
            summary += f": {bad[0]}" if bad else ""
            status = CRITICAL if newest.verdict == CRITICAL and self._newest_of(newest.kind) == newest.backup else WARNING
            return Check(name, status, f"{summary}; {since}", value, "s", limit, None, VERIFY_HINT, evidence)
        summary = f"the last good verification, of {newest.kind} {since}"
        slow = [check for check in newest.checks if check["id"] == verifications.TIME and check["status"] != OK]
        if slow:
            summary += f"; the backup is good, but was {slow[0]['summary']}"
            hint = slow[0].get("hint") or VERIFY_HINT
            return Check(name, WARNING, summary, value, "s", limit, None, hint, evidence)
        return Check(name, grade(age, limit, None), summary, value, "s", limit, None, VERIFY_HINT, evidence)

    def _newest_of(self, kind: str) -> str:
        """Name of the newest backup of a kind that was finished."""
        if kind == verifications.DUMP:
            names = [dump.name for dump in self._catalog.dumps if dump.has_manifest]
        else:
            names = [backup.name for backup in self._catalog.backups if backup.has_index or backup.plain]
        return names[-1] if names else ""

    def _reachable(self, target: datetime.datetime) -> Check:
        name = "backup.target_reachable"
        try:
            plan = plan_recovery(self._catalog, target)
        except (Refused, IntegrityError) as error:
            return Check(name, CRITICAL, error.message, iso(target), hint=error.hint or TARGET_HINT, evidence=error.state)
        except OpsError as error:
            return Check(name, UNKNOWN, error.message, iso(target), hint=error.hint or BUCKET_HINT)
        return Check(
            name,
            OK,
            f"{iso(target)} can be reached with base backup {plan.backup.name} and {len(plan.segments)} WAL segments",
            iso(target),
            evidence={"backup": plan.backup.name, "timeline": plan.timeline, "end_segment": plan.end_segment},
        )


def unknown_checks(error: OpsError, limits: Limits) -> list[Check]:
    """What is known when the bucket could not be looked at: nothing."""
    names = ["backup.age", "backup.complete", "backup.wal_contiguous", "backup.rpo"]
    if limits.min_size:
        names.insert(2, "backup.size")
    if limits.max_verified_age:
        names.append("backup.verified")
    if limits.target_time is not None:
        names.append("backup.target_reachable")
    hint = error.hint or BUCKET_HINT
    return [Check(name, UNKNOWN, f"could not look: {error.message}", hint=hint) for name in names]
