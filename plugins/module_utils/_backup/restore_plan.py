# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restore is asked to do, what it chose, and the plan that follows from both. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import datetime
import os
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._archive.index import FILE, Archive, BackupIndex
from ansible_collections.fileforge.ops.plugins.module_utils._backup.catalog import Catalog, RecoveryPlan, plan_recovery
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_layout import Tablespace
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_recover import Limits, Replay
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_state import Request
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, InvalidOption, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import S3Options, Store
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import ServerOptions
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.wal import format_lsn
from ansible_collections.fileforge.ops.plugins.module_utils._time import iso, parse_time

LATEST = "latest"
PER_PLAN = "<digest of this plan>"


@dataclasses.dataclass(frozen=True)
class RestoreOptions:
    """Everything a user can say about a restore."""

    s3: S3Options
    data_directory: str
    target_time: str
    prefix: str = ""
    target_timeline: str = LATEST
    backup: str = "auto"
    tablespace_map: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    bin_directory: str | None = None
    server: ServerOptions = dataclasses.field(default_factory=ServerOptions)
    scratch: bool = False
    stop_running: bool = False
    delta: bool = True
    keep_old: bool = True
    system_identifier: str | None = None
    jobs: int = 4
    limits: Limits = dataclasses.field(default_factory=lambda: Limits(14400, 600, 120))
    interpreter: str = "/usr/bin/python3"
    force: bool = False
    plan_digest: str | None = None

    def target(self) -> datetime.datetime | None:
        """The target as UTC; None for ``latest``. Raises InvalidOption."""
        if self.target_time.strip().lower() == LATEST:
            return None
        return parse_time(self.target_time, "target_time")

    def timeline(self) -> str | int:
        """``latest``, ``current`` or a number."""
        text = self.target_timeline.strip().lower()
        if text in (LATEST, "current"):
            return text
        if not text.isdigit() or int(text) < 1:
            raise InvalidOption("target_timeline", self.target_timeline, "must be latest, current or a positive number")
        return int(text)

    def request(self) -> Request:
        """The identity of this restore."""
        return Request(
            data_directory=self.data_directory,
            target_time=iso(self.target()) or LATEST,
            target_timeline=str(self.timeline()),
            backup=self.backup,
            bucket=self.s3.bucket,
            endpoint=self.s3.endpoint or "",
            prefix=self.prefix,
            scratch=self.scratch,
            tablespaces={str(key): str(value) for key, value in sorted(self.tablespace_map.items())},
        )


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The backup and the WAL that a restore will use."""

    backup: str
    key: str
    size: int
    index: BackupIndex | None
    """None for a plain archive."""
    replay: Replay
    tablespaces: t.Tuple[Tablespace, ...]
    system_identifier: str
    version_num: int | None
    last_transaction: str | None
    histories: t.Tuple[str, ...]
    wal_size: int
    """Bytes of the segments, unpacked."""
    new_timeline: int
    label: str = ""
    """For a plain archive: the backup_label as the backup history file in the WAL archive tells it."""
    warnings: t.Tuple[str, ...] = ()

    @property
    def major(self) -> int | None:
        """Major version; None while only the plain archive itself knows it."""
        return None if self.version_num is None else self.version_num // 10000

    def archives(self) -> list[tuple[Archive, Tablespace | None]]:
        """Archives of an index with the tablespace that each fills; the data directory's first."""
        if self.index is None:
            return []
        by_oid = {tablespace.oid: tablespace for tablespace in self.tablespaces}
        return [(archive, None if archive.oid is None else by_oid[archive.oid]) for archive in self.index.archives]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the plan depends on and the restore itself changes; an unfinished attempt remembers them."""

    old: t.Tuple[str, ...]
    """Directories that are there and will be kept aside."""
    stop: bool
    """Whether a server ran on the data directory."""
    younger: t.Tuple[str, ...] = ()
    """Those of ``old`` that belong to tablespaces which are not in the backup."""

    def as_dict(self) -> dict[str, t.Any]:
        """JSON form."""
        return {"old": list(self.old), "stop": self.stop, "younger": list(self.younger)}


def choose(store: Store, options: RestoreOptions, catalog: Catalog) -> Chosen:
    """Choose the backup and prove the target reachable (see ``plan_recovery`` for what is refused)."""
    plan = plan_recovery(catalog, options.target(), target_timeline=options.timeline(), backup=options.backup)
    index = None if plan.backup.plain else plan.backup.index()
    size = catalog.wal.segment_size
    replay = Replay(
        timeline=plan.timeline,
        target_time=iso(plan.target_time),
        segments=plan.segment_names,
        bytes=plan.wal_bytes,
        segment_size=size,
        end_lsn=None if plan.target_time is not None else format_lsn(_end_of_wal(catalog, plan)),
    )
    header = catalog.wal.header(plan.segments[0]) if plan.segments else None
    system = index.system_identifier if index is not None else header.system_identifier if header is not None else ""
    return Chosen(
        backup=plan.backup.name,
        key=plan.backup.key,
        size=plan.backup.size,
        index=index,
        replay=replay,
        tablespaces=place_tablespaces(options, index),
        system_identifier=system,
        version_num=index.version_num if index is not None else None,
        last_transaction=iso(plan.last_transaction),
        histories=plan.histories,
        wal_size=len(plan.segments) * size,
        new_timeline=next_timeline(catalog, plan.timeline),
        label=_label_of(catalog, plan) if index is None else "",
        warnings=plan.warnings,
    )


def _label_of(catalog: Catalog, plan: RecoveryPlan) -> str:
    """A backup history file is the backup_label with lines about the end added."""
    facts = plan.backup.facts()
    key = catalog.wal.backup_history_keys.get(f"{facts.start_segment}.{facts.start_lsn % catalog.wal.segment_size:08X}")
    if key is None:
        return ""
    lines = catalog.wal.read_small(key).decode("utf-8", "replace").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("STOP "))


def _end_of_wal(catalog: Catalog, plan: RecoveryPlan) -> int:
    """Where PostgreSQL will find the end: before a record that is not all there, even if it began segments ago."""
    for stored in reversed(plan.segments):
        scan = catalog.wal.scan(stored)
        if scan.tail_lsn is not None:
            return scan.tail_lsn
        if scan.end_lsn and not (scan.lead and scan.lead_end is None):
            return scan.end_lsn
    return plan.stop_lsn


def next_timeline(catalog: Catalog, timeline: int) -> int:
    """The timeline that PostgreSQL will choose: it asks the archive for history files until one is not there."""
    newest = timeline
    while newest + 1 in catalog.wal.history_keys:
        newest += 1
    return newest + 1


def version_directory(archive: Archive) -> str:
    """``PG_15_202209061``: the one directory at the top of a tablespace's archive. Raises IntegrityError."""
    tops = {entry.path.split("/")[0] for entry in archive.files}
    if len(tops) != 1 or not next(iter(tops)).startswith("PG_"):
        raise IntegrityError(f"{archive.key}: not the archive of a tablespace: it holds {', '.join(sorted(tops)[:3]) or 'nothing'}")
    return tops.pop()


def place_tablespaces(options: RestoreOptions, index: BackupIndex | None) -> tuple[Tablespace, ...]:
    """Where each tablespace goes: as mapped by its oid or location; else where it was, or beside a scratch directory."""
    archives = [archive for archive in index.archives if archive.oid is not None] if index is not None else []
    known = {key for archive in archives for key in (str(archive.oid), archive.location)}
    for key in options.tablespace_map:
        if key not in known:
            raise InvalidOption(
                "tablespace_map",
                key,
                "the backup has no tablespace with this oid or location",
                hint=f"it has: {', '.join(f'{archive.oid} at {archive.location}' for archive in archives) or 'none'}",
            )
    return tuple(_place(options, archive) for archive in archives)


def _place(options: RestoreOptions, archive: Archive) -> Tablespace:
    mapping = options.tablespace_map
    default = f"{options.data_directory}.tablespaces/{archive.oid}" if options.scratch else archive.location
    location = mapping.get(str(archive.oid)) or mapping.get(archive.location or "") or default
    if not location or not os.path.isabs(location):
        raise InvalidOption("tablespace_map", location, f"not an absolute path for tablespace {archive.oid}")
    return Tablespace(int(archive.oid or 0), os.path.realpath(location), version_directory(archive))


def check_overlap(options: RestoreOptions, tablespaces: t.Sequence[Tablespace]) -> None:
    """Raise InvalidOption for places inside one another."""
    places = [options.data_directory, *(tablespace.location for tablespace in tablespaces)]
    for number, place in enumerate(places):
        for other in places[number + 1 :]:
            if place == other or place.startswith(f"{other}/") or other.startswith(f"{place}/"):
                raise InvalidOption("tablespace_map", other, f"overlaps with {place}")


def build_plan(options: RestoreOptions, chosen: Chosen, facts: Facts, repetition: int = 0) -> Plan:
    """The steps. What this restore changes by itself, the clock, free space and later WAL are not in them."""
    target = chosen.replay.target_time or "the end of the archived WAL"
    kind = "scratch copy" if options.scratch else "restore"
    plan = Plan(f"{kind} of {chosen.backup} from {options.s3.bucket}/{options.prefix} to {options.data_directory} as of {target}")
    if repetition:
        plan.title += f", repeated {repetition} times" if repetition > 1 else ", repeated"
    steps = plan.steps
    steps.extend(_fetch_steps(options, chosen))
    if facts.stop:
        steps.append(Step("stop", options.data_directory, detail="a server runs on it"))
    for path in facts.old:
        steps.append(Step("keep", path, detail=f"as {path}.before-{PER_PLAN}"))
    for path in (options.data_directory, *(tablespace.live for tablespace in chosen.tablespaces)):
        steps.append(Step("replace" if path in facts.old else "create", path, destructive=path in facts.old))
    steps.append(Step("start", options.data_directory, detail=_start_detail(options, chosen)))
    steps.append(_replay_step(chosen, target))
    archiving = "archiving off" if options.scratch else "archiving as its own settings say"
    steps.append(Step("promote", options.data_directory, detail=f"to timeline {chosen.new_timeline}, {archiving}"))
    if not options.keep_old:
        steps.extend(Step("remove", f"{path}.before-{PER_PLAN}", destructive=True) for path in facts.old)
    return plan


def _fetch_steps(options: RestoreOptions, chosen: Chosen) -> t.Iterator[Step]:
    if chosen.index is None:
        detail = f"to {options.data_directory}.restore-{PER_PLAN}: a plain archive without index, read as one stream"
        yield Step("fetch", chosen.key, bytes=chosen.size, detail=detail)
        return
    for archive, tablespace in chosen.archives():
        place = options.data_directory if tablespace is None else tablespace.live
        count = sum(1 for entry in archive.files if entry.type == FILE)
        yield Step(
            "fetch",
            archive.key,
            count=count,
            bytes=archive.size,
            detail=f"to {place}.restore-{PER_PLAN}, SHA-256 {archive.sha256[:16]}",
        )


def _start_detail(options: RestoreOptions, chosen: Chosen) -> str:
    words = [f"PostgreSQL {chosen.major}" if chosen.major else "PostgreSQL", f"by {options.server.control.value}"]
    if options.server.port:
        words.append(f"on port {options.server.port}")
    if options.scratch:
        words.append("without network")
    return " ".join(words)


def _replay_step(chosen: Chosen, target: str) -> Step:
    replay = chosen.replay
    first, last = (replay.segments[0], replay.segments[-1]) if replay.segments else ("none", "none")
    detail = f"on timeline {replay.timeline} to {target}"
    return Step("replay", f"wal/{first}..{last}", count=len(replay.segments), bytes=replay.bytes, detail=detail)


def check_new_timeline(catalog: Catalog, options: RestoreOptions, chosen: Chosen) -> None:
    """Raise Refused (``archive_has_timeline``) when the restored server would write over what is in the archive."""
    if options.scratch:
        return
    if catalog.wal.segments.get(chosen.new_timeline):
        raise Refused(
            "archive_has_timeline",
            f"the restored server would become timeline {chosen.new_timeline}, of which the archive already holds "
            f"{len(catalog.wal.segments[chosen.new_timeline])} segments without a history file",
            hint=f"put {chosen.new_timeline:08X}.history back into the archive, so that PostgreSQL chooses a higher timeline",
        )
