# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a bucket can be restored to: backups, WAL and timelines together. PRIVATE to the collection.

PostgreSQL stops at a target time when it meets the first commit or abort record that is later; without such a record it does not
stop but fails. So a target is reachable when that record lies in contiguous WAL between the backup and the archive's end, on the
history of the chosen timeline. ``plan_recovery`` finds it and ends the plan there: WAL that arrives later changes nothing.
"""

from __future__ import annotations

import dataclasses
import datetime
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._backup.base_backups import BackupFacts, BaseBackup, list_backups
from ansible_collections.fileforge.ops.plugins.module_utils._backup.dumps import Dump, list_dumps
from ansible_collections.fileforge.ops.plugins.module_utils._backup.wal_chain import Chain, build_chain
from ansible_collections.fileforge.ops.plugins.module_utils._backup.wal_store import StoredSegment, WalStore
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import Store
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import wal
from ansible_collections.fileforge.ops.plugins.module_utils._time import iso

Timeline = t.Union[str, int]
"""``latest``, ``current`` or a number."""


@dataclasses.dataclass(frozen=True)
class Restorable:
    """Any time later than ``begin`` and not later than ``end`` can be restored to, on this timeline."""

    timeline: int
    begin: datetime.datetime | None
    end: datetime.datetime | None
    backup: str
    last_segment: str

    def as_dict(self) -> dict[str, t.Any]:
        """The shape that modules return."""
        return {
            "from": iso(self.begin),
            "to": iso(self.end),
            "timeline": self.timeline,
            "backup": self.backup,
            "last_segment": self.last_segment,
        }


@dataclasses.dataclass(frozen=True)
class RecoveryPlan:
    """What recovery will read and where it will stop."""

    backup: BaseBackup
    target_time: datetime.datetime | None
    """None: replay everything there is."""
    timeline: int
    """A number, to be given to PostgreSQL as such."""
    segments: tuple[StoredSegment, ...]
    """In the order in which they are replayed."""
    end_segment: str
    end_lsn: int
    """With a target, the start of the record at which recovery stops; without one, the end of the WAL."""
    stop_lsn: int
    """Where the backup becomes consistent."""
    stop_time: datetime.datetime | None
    """Time of the transaction at which recovery stops; None when everything is replayed."""
    last_transaction: datetime.datetime | None
    """The last transaction that will be recovered, when it is near the end."""
    latest_reachable_time: datetime.datetime | None
    """The latest target time that the archive allows now; it moves on with new WAL, so it is no part of a digest."""
    histories: tuple[str, ...]
    """History files that PostgreSQL will ask for and must find."""
    warnings: tuple[str, ...] = ()

    @property
    def segment_names(self) -> list[str]:
        """The segments' names."""
        return [segment.name for segment in self.segments]

    @property
    def wal_bytes(self) -> int:
        """Bytes of their objects."""
        return sum(segment.size for segment in self.segments)

    @property
    def stop_reason(self) -> str:
        """``time`` or ``end_of_wal``."""
        return "time" if self.target_time is not None else "end_of_wal"


class Catalog:
    """Everything of one source below one prefix of a bucket, as it was when it was listed."""

    def __init__(self, store: Store, prefix: str, walstore: WalStore, backups: list[BaseBackup], dumps: list[Dump]) -> None:
        self.store = store
        self.prefix = prefix
        self.wal = walstore
        self.backups = backups
        self.dumps = dumps

    @classmethod
    def load(cls, store: Store, prefix: str = "") -> Catalog:
        """List the bucket. Raises NotFound (bucket), AccessDenied or Unavailable: an empty catalog means an empty place."""
        walstore = WalStore.load(store, prefix)
        return cls(store, prefix, walstore, list_backups(store, walstore, prefix), list_dumps(store, prefix))

    @property
    def segments(self) -> dict[int, dict[int, StoredSegment]]:
        """By timeline, then by number."""
        return self.wal.segments

    @property
    def histories(self) -> dict[int, str]:
        """Timelines with a history file, and its key."""
        return self.wal.history_keys

    def ancestry(self, timeline: int) -> tuple[wal.TimelinePart, ...]:
        """See WalStore.ancestry."""
        return self.wal.ancestry(timeline)

    @property
    def usable(self) -> list[BaseBackup]:
        """Backups that may be restored, oldest first."""
        return [backup for backup in self.backups if backup.complete]

    def chain(self, backup: BaseBackup, timeline: int) -> Chain | None:
        """The contiguous WAL from a backup on; None when the backup is not an ancestor of the timeline."""
        facts = backup.facts()
        parts = self.wal.ancestry(timeline)
        own = next((part for part in parts if part.timeline == facts.timeline), None)
        needed = facts.stop_lsn if facts.stop_lsn is not None else facts.start_lsn
        if own is None or needed < own.begin or (own.end is not None and needed > own.end):
            return None
        return build_chain(self.wal, parts, wal.segment_number(facts.start_lsn, self.wal.segment_size))

    def restorable(self) -> list[Restorable]:
        """What can be restored to, per timeline; stretches that join are one."""
        found: list[Restorable] = []
        for timeline in self.wal.timelines:
            try:
                self.wal.history(timeline)
            except OpsError:
                continue
            found.extend(self._restorable_on(timeline))
        return found

    def _restorable_on(self, timeline: int) -> list[Restorable]:
        spans: list[tuple[BaseBackup, Chain]] = []
        for backup in self.usable:
            try:
                chain = self.chain(backup, timeline)
                if chain is None or chain.backup_stop(backup.facts()) is None:
                    continue
            except OpsError:
                continue
            if spans and spans[-1][1].last_number >= chain.last_number:
                continue  # the stretch before reaches as far
            spans.append((backup, chain))
        return [
            Restorable(timeline, backup.facts().stopped, chain.latest_reachable(), backup.name, chain.segments[-1].name)
            for backup, chain in spans
        ]


def plan_recovery(
    catalog: Catalog,
    target_time: datetime.datetime | None,
    *,
    target_timeline: Timeline = "latest",
    backup: str = "auto",
) -> RecoveryPlan:
    """Choose the backup and prove that the target can be reached; touches nothing. ``target_time`` None is the end of WAL.

    Raises Refused with reason no_backups, backup_unknown, index_missing, target_before_backups, target_unreachable, wal_gap,
    timeline_unknown or wal_foreign, and IntegrityError for WAL or an index that is damaged.
    """
    return _Planner(catalog, target_time, target_timeline).plan(backup)


def _not_before(backup: BaseBackup, facts: BackupFacts, target: datetime.datetime) -> bool:
    """Whether the backup holds later transactions than the target, as far as clocks tell; the WAL tells the rest.

    A plain archive may say when it began only, or (in another zone than UTC) not even that: then it was certainly made when the
    object was stored.
    """
    moment = facts.stopped or facts.started or backup.objects["tar.gz"].last_modified
    return moment is not None and moment >= target


class _Planner:
    """One question to one catalog."""

    def __init__(self, catalog: Catalog, target: datetime.datetime | None, timeline: Timeline) -> None:
        self._catalog = catalog
        self._wal = catalog.wal
        self._target = target
        self._timeline = self._known(timeline)
        self._warnings: list[str] = []

    def _known(self, timeline: Timeline) -> Timeline:
        if timeline in ("latest", "current"):
            return timeline
        try:
            number = int(timeline)
        except ValueError:
            raise InvalidOption("target_timeline", timeline, "must be latest, current or a number") from None
        known = sorted({*self._wal.timelines, *(item.facts().timeline for item in self._catalog.usable)})
        if number not in known:
            raise Refused(
                "timeline_unknown",
                f"timeline {number} is not in the archive, which has {', '.join(map(str, known)) or 'none'}",
                hint="choose one of these, or latest",
                timelines=known,
            )
        return number

    def plan(self, name: str) -> RecoveryPlan:
        """The plan with the newest backup that fits."""
        later: list[BaseBackup] = []
        strangers: list[BaseBackup] = []
        for backup in self._candidates(name):
            facts = backup.facts()
            if self._target is not None and _not_before(backup, facts, self._target):
                later.append(backup)
                continue
            chain = self._chain(backup, facts)
            if chain is None:
                strangers.append(backup)
                continue
            found = self._plan_with(backup, facts, chain)
            if found is not None:
                return found
            later.append(backup)
        raise self._nothing_fits(later, strangers)

    def _candidates(self, name: str) -> list[BaseBackup]:
        """Newest first."""
        backups = self._catalog.backups
        place = f"{self._catalog.prefix}base/ of bucket {self._catalog.store.bucket}"
        if name != "auto":
            named = [backup for backup in backups if backup.name == name]
            if not named:
                raise Refused(
                    "backup_unknown",
                    f"there is no base backup {name} below {place}",
                    hint="choose one that postgres_backup_info lists",
                    backups=[backup.name for backup in backups],
                )
            self._require_complete(named[0])
            return named
        if not backups:
            raise Refused("no_backups", f"there is no base backup below {place}", hint="check s3_bucket and prefix")
        usable = [backup for backup in backups if backup.complete]
        if not usable:
            self._require_complete(backups[-1])
        return usable[::-1]

    def _require_complete(self, backup: BaseBackup) -> None:
        if not backup.complete:
            raise Refused(
                "index_missing",
                f"base backup {backup.name} cannot be restored: {backup.problem}",
                hint="choose another backup, or get a deleted index back from the bucket's older versions or the second region",
                backup=backup.name,
            )

    def _chain(self, backup: BaseBackup, facts: BackupFacts) -> Chain | None:
        if self._timeline == "latest":
            return self._latest_chain(backup, facts)
        timeline = facts.timeline if self._timeline == "current" else int(self._timeline)
        return self._catalog.chain(backup, timeline)

    def _latest_chain(self, backup: BaseBackup, facts: BackupFacts) -> Chain | None:
        """On the highest timeline that descends from the backup."""
        for timeline in sorted({*self._wal.timelines, facts.timeline}, reverse=True):
            if timeline < facts.timeline:
                break
            if timeline != facts.timeline and timeline not in self._wal.history_keys:
                self._warnings.append(f"timeline {timeline} was passed over: its history file is missing")
                continue
            chain = self._catalog.chain(backup, timeline)
            if chain is not None:
                return chain
        return None

    def _plan_with(self, backup: BaseBackup, facts: BackupFacts, chain: Chain) -> RecoveryPlan | None:
        """None when this backup becomes consistent only after the target."""
        chain.check_origin(facts)
        stop = chain.backup_stop(facts)
        if stop is None:
            if self._target is None and not chain.beyond:
                self._warnings.append(f"base backup {backup.name} was passed over: the WAL that completes it is not archived yet")
                return None
            raise chain.gap(f"needed to make base backup {backup.name} consistent")
        if self._target is None:
            return self._plan_all(backup, chain, stop)
        hit = chain.first_after(wal.record_microseconds(self._target))
        if hit is None:
            raise self._unreachable(chain)
        place, transaction = hit
        if transaction.lsn < stop:
            return None
        return self._result(
            backup,
            chain,
            stop,
            place,
            transaction.lsn,
            stop_time=wal.record_time(transaction.time),
            last=chain.last_before(place, transaction.lsn),
        )

    def _plan_all(self, backup: BaseBackup, chain: Chain, stop: int) -> RecoveryPlan:
        if chain.beyond or chain.limit is not None:
            raise chain.gap("needed to replay everything that is archived")
        end = max(chain.end_lsn(), stop)
        return self._result(backup, chain, stop, len(chain.segments) - 1, end, stop_time=None, last=chain.last_time())

    def _result(
        self,
        backup: BaseBackup,
        chain: Chain,
        stop: int,
        place: int,
        end_lsn: int,
        *,
        stop_time: datetime.datetime | None,
        last: datetime.datetime | None,
    ) -> RecoveryPlan:
        if backup.plain:
            self._warnings.append(
                f"base backup {backup.name} is a plain archive without index or checksums: only PostgreSQL's own checks apply to it"
            )
        chain.check_origin_of(place)
        return RecoveryPlan(
            backup,
            self._target,
            chain.timeline,
            tuple(chain.segments[: place + 1]),
            chain.segments[place].name,
            end_lsn,
            stop,
            stop_time,
            last,
            chain.latest_reachable(),
            tuple(wal.history_name(part.timeline) for part in chain.parts if part.timeline in self._wal.history_keys),
            tuple(self._warnings),
        )

    def _unreachable(self, chain: Chain) -> OpsError:
        latest = chain.latest_reachable()
        if chain.limit is not None or (chain.beyond and chain.later_than(self._target)):
            return chain.gap(f"between the base backup and {iso(self._target)}", latest)
        return Refused(
            "target_unreachable",
            f"the target time {iso(self._target)} cannot be reached: the last transaction in contiguous WAL of timeline "
            f"{chain.timeline} ended at {iso(chain.last_time())}, and PostgreSQL stops only at one later than the target; "
            f"the latest reachable time is {iso(latest)}",
            hint=f"use {iso(latest)} or earlier, use latest, or wait until later WAL is archived",
            latest_reachable_time=iso(latest),
            last_segment=chain.segments[-1].name,
        )

    def _nothing_fits(self, later: list[BaseBackup], strangers: list[BaseBackup]) -> Refused:
        if not later and strangers:
            facts = strangers[0].facts()
            return Refused(
                "timeline_unknown",
                f"no base backup before the target is an ancestor of timeline {self._timeline}; the newest, {strangers[0].name}, "
                f"was made on timeline {facts.timeline}",
                hint="choose that timeline, or latest",
            )
        if self._target is None:
            return Refused(
                "wal_gap",
                "no base backup has all the WAL that makes it consistent",
                hint="wait until the archive has caught up, or repair archiving",
            )
        oldest = later[-1].facts().stopped if later else None
        return Refused(
            "target_before_backups",
            f"the target time {iso(self._target)} is not after the end of any usable base backup"
            + (f"; the oldest ends at {iso(oldest)}" if oldest else ""),
            hint="choose a later target time, or look for older backups in the second region",
            earliest_reachable_time=iso(oldest),
        )
