# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The base backups in a bucket, ours and those of plain ``tar -czf``. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import datetime
import re
import tarfile
import threading
import typing as t
import zlib

from ansible_collections.fileforge.ops.plugins.module_utils._archive.index import METADATA, BackupIndex
from ansible_collections.fileforge.ops.plugins.module_utils._backup.wal_store import WalStore
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, OpsError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import ObjectInfo, Store
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import wal
from ansible_collections.fileforge.ops.plugins.module_utils._time import UTC, iso, parse_time

_KEY = re.compile(r"(?P<name>[^/]+)_base\.(?P<kind>tar\.gz|tblspc-\d+\.tar\.gz|backup_manifest|index\.json\.gz)\Z")
_STAMP = re.compile(r"\d{4}-\d{2}-\d{2}-\d{4}")
LABEL_LIMIT = 512 << 20
"""Packed bytes of a plain archive that are read in search of its backup_label."""
_LABEL_START = re.compile(r"^START WAL LOCATION: (\S+) \(file ([0-9A-F]{24})\)", re.MULTILINE)
_LABEL_FIELDS = {
    "stop": re.compile(r"^STOP WAL LOCATION: (\S+) ", re.MULTILINE),
    "started": re.compile(r"^START TIME: (.+)$", re.MULTILINE),
    "stopped": re.compile(r"^STOP TIME: (.+)$", re.MULTILINE),
    "timeline": re.compile(r"^START TIMELINE: (\d+)", re.MULTILINE),
    "label": re.compile(r"^LABEL: (.*)$", re.MULTILINE),
}
_LABEL_TIME = "%Y-%m-%d %H:%M:%S"


@dataclasses.dataclass(frozen=True)
class BackupFacts:
    """What choosing a backup needs to know; ``None`` where the plain form does not say."""

    label: str
    started: datetime.datetime | None
    stopped: datetime.datetime | None
    start_lsn: int
    stop_lsn: int | None
    timeline: int
    start_segment: str
    system_identifier: str | None
    version_num: int | None
    wal_segment_size: int | None
    source: str
    """``index``, ``history`` (the backup history file in the WAL archive) or ``backup_label``."""


class BaseBackup:
    """One base backup. Everything beyond names and sizes is read from the bucket when first asked for."""

    def __init__(self, store: Store, walstore: WalStore, name: str, objects: dict[str, ObjectInfo]) -> None:
        self._store = store
        self._wal = walstore
        self.name = name
        self.objects = objects
        """By kind: ``tar.gz``, ``tblspc-<oid>.tar.gz``, ``backup_manifest``, ``index.json.gz``."""
        self._lock = threading.RLock()
        self._index: BackupIndex | None = None
        self._facts: BackupFacts | None = None
        self._marked: bool | None = None

    @property
    def key(self) -> str:
        """The archive of the data directory, or whatever there is of an incomplete backup."""
        return (self.objects.get("tar.gz") or next(iter(self.objects.values()))).key

    @property
    def size(self) -> int:
        """Bytes of its archives in the bucket."""
        return sum(item.size for kind, item in self.objects.items() if kind.endswith("tar.gz"))

    @property
    def has_index(self) -> bool:
        """Whether the commit marker is there."""
        return "index.json.gz" in self.objects

    @property
    def marked(self) -> bool:
        """Whether the archive's metadata say that it goes with an index."""
        with self._lock:
            if self._marked is None:
                archive = self.objects.get("tar.gz")
                metadata = self._store.head(archive.key).metadata if archive is not None else METADATA
                self._marked = any(metadata.get(name) == value for name, value in METADATA.items())
            return self._marked

    @property
    def plain(self) -> bool:
        """Neither index nor mark: the runbook's own form."""
        return not self.has_index and "tar.gz" in self.objects and not self.marked

    @property
    def complete(self) -> bool:
        """Whether it may be restored: index and archive are there, or it is a plain archive."""
        return "tar.gz" in self.objects and (self.has_index or self.plain)

    @property
    def problem(self) -> str:
        """Why it may not be used; empty when it may."""
        if "tar.gz" not in self.objects:
            return "its archive of the data directory is missing"
        if not self.has_index and not self.plain:
            return "its index is missing: the backup was never finished, or the index was deleted"
        return ""

    @property
    def stamp(self) -> datetime.datetime | None:
        """The minute in its name."""
        match = _STAMP.match(self.name)
        if match is None:
            return None
        try:
            return datetime.datetime.strptime(match[0], "%Y-%m-%d-%H%M").replace(tzinfo=UTC)
        except ValueError:
            return None

    @property
    def content_size(self) -> int | None:
        """Bytes before compression; None for the plain form, which does not tell."""
        return sum(archive.uncompressed_size for archive in self.index().archives) if self.has_index else None

    def index(self) -> BackupIndex:
        """Its index. Raises Refused (index_missing) and IntegrityError."""
        with self._lock:
            if self._index is None:
                item = self.objects.get("index.json.gz")
                if item is None:
                    raise Refused(
                        "index_missing",
                        f"base backup {self.name} has no index",
                        hint="it was never finished, or its index was deleted: choose another backup",
                    )
                try:
                    self._index = BackupIndex.from_bytes(self._store.get(item.key))
                except IntegrityError as error:
                    raise IntegrityError(f"{item.key}: {error.message}", hint="choose another backup") from error
            return self._index

    def facts(self) -> BackupFacts:
        """Where and when it begins and ends, from the index or, for the plain form, from PostgreSQL's own labels."""
        with self._lock:
            if self._facts is None:
                self._facts = self._index_facts(self.index()) if self.has_index else self._plain_facts()
            return self._facts

    @staticmethod
    def _index_facts(index: BackupIndex) -> BackupFacts:
        return BackupFacts(
            index.label,
            parse_time(index.started, "started"),
            parse_time(index.stopped, "stopped"),
            wal.parse_lsn(index.start_lsn),
            wal.parse_lsn(index.stop_lsn),
            index.timeline,
            index.start_segment,
            index.system_identifier,
            index.version_num,
            index.wal_segment_size,
            "index",
        )

    def _plain_facts(self) -> BackupFacts:
        if self.problem:
            raise Refused("index_missing", f"base backup {self.name}: {self.problem}", hint="choose another backup")
        history = self._history_by_name()
        if history is not None:
            return parse_label(history, "history")
        archive = self.objects["tar.gz"]
        label = find_backup_label(self._store.stream(archive.key), LABEL_LIMIT)
        if label is None:
            raise Refused(
                "backup_label_missing",
                f"{archive.key}: no backup_label was found in this archive, and no backup history file in the WAL archive "
                f"matches its name: nothing tells where its recovery must begin",
                hint="an archive of a data directory that was copied without pg_backup_start cannot be recovered; choose another",
            )
        facts = parse_label(label, "backup_label")
        key = self._wal.backup_history_keys.get(self._history_key(facts))
        if key is None:
            return facts
        return parse_label(self._wal.read_small(key).decode("utf-8", "replace"), "history")

    def _history_key(self, facts: BackupFacts) -> str:
        return f"{facts.start_segment}.{facts.start_lsn % self._wal.segment_size:08X}"

    def _history_by_name(self) -> str | None:
        """The one backup history file whose label is this backup's name, or that was running in the minute it is named after."""
        found = []
        stamp = self.stamp
        for key in self._wal.backup_history_keys.values():
            text = self._wal.read_small(key).decode("utf-8", "replace")
            facts = parse_label(text, "history")
            if facts.label == self.name:
                return text
            if stamp is None or facts.started is None or facts.stopped is None:
                continue
            if facts.started.replace(second=0) <= stamp <= facts.stopped:
                found.append(text)
        return found[0] if len(found) == 1 else None

    def as_dict(self) -> dict[str, t.Any]:
        """The shape that modules return; ``problem`` is empty for a backup that may be used."""
        value: dict[str, t.Any] = {
            "name": self.name,
            "key": self.key,
            "bytes": self.size,
            "complete": self.complete,
            "plain": self.plain,
            "problem": self.problem,
        }
        if self.problem:
            return value
        try:
            facts = self.facts()
        except (IntegrityError, Refused) as error:
            return {**value, "complete": False, "problem": error.message}
        value.update(
            label=facts.label,
            started=iso(facts.started),
            stopped=iso(facts.stopped),
            start_lsn=wal.format_lsn(facts.start_lsn),
            stop_lsn=None if facts.stop_lsn is None else wal.format_lsn(facts.stop_lsn),
            timeline=facts.timeline,
            start_segment=facts.start_segment,
            system_identifier=facts.system_identifier,
            version_num=facts.version_num,
            content_bytes=self.content_size,
        )
        return value


def list_backups(store: Store, walstore: WalStore, prefix: str) -> list[BaseBackup]:
    """Everything below ``base/``, by name (which is by start time), incomplete ones too."""
    place = f"{prefix}base/"
    groups: dict[str, dict[str, ObjectInfo]] = {}
    for item in store.list(place):
        match = _KEY.match(item.key[len(place) :])
        if match is not None:
            groups.setdefault(match["name"], {})[match["kind"]] = item
    return [BaseBackup(store, walstore, name, groups[name]) for name in sorted(groups, key=_natural)]


def _natural(name: str) -> tuple[t.Any, ...]:
    """2026-11-23-1405, -2, -10 in the order they were made."""
    match = re.match(r"(?P<stamp>\d{4}-\d{2}-\d{2}-\d{4})(?:-(?P<nth>\d+))?\Z", name)
    return (match["stamp"], int(match["nth"] or 1), name) if match else (name, 0, name)


def parse_label(text: str, source: str) -> BackupFacts:
    """A backup_label or backup history file. Raises IntegrityError when it does not say where recovery begins."""
    start = _LABEL_START.search(text)
    if start is None:
        raise IntegrityError("a backup label does not say where its WAL begins")
    found = {name: match[1].strip() for name, match in ((n, p.search(text)) for n, p in _LABEL_FIELDS.items()) if match}
    timeline = int(found["timeline"]) if "timeline" in found else int(start[2][:8], 16)
    stop = found.get("stop")
    return BackupFacts(
        found.get("label", ""),
        _label_time(found.get("started")),
        _label_time(found.get("stopped")),
        wal.parse_lsn(start[1]),
        None if stop is None else wal.parse_lsn(stop),
        timeline,
        start[2],
        None,
        None,
        None,
        source,
    )


def _label_time(text: str | None) -> datetime.datetime | None:
    """The server's log_timezone decides the zone; only UTC is certain, other abbreviations are ambiguous and ignored."""
    if text is None:
        return None
    clock, _blank, zone = text.rpartition(" ")
    if zone not in ("UTC", "GMT", "Etc/UTC", "Z"):
        return None
    try:
        return datetime.datetime.strptime(clock, _LABEL_TIME).replace(tzinfo=UTC)
    except ValueError:
        return None


class _Unpacked:
    """A packed stream as a file that tarfile can read forward; ends quietly after ``limit`` packed bytes."""

    def __init__(self, chunks: t.Iterator[bytes], limit: int) -> None:
        self._chunks = chunks
        self._left = limit
        self._engine = zlib.decompressobj(31)
        self._buffer = b""

    def read(self, count: int) -> bytes:
        """Exactly ``count`` bytes, fewer only at the end."""
        pieces = []
        while count > 0:
            if not self._buffer and not self._fill():
                break
            piece, self._buffer = self._buffer[:count], self._buffer[count:]
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def _fill(self) -> bool:
        while not self._buffer:
            waiting = self._engine.unused_data if self._engine.eof else self._engine.unconsumed_tail
            if self._engine.eof:
                self._engine = zlib.decompressobj(31)
            if not waiting:
                waiting = next(self._chunks, b"") if self._left > 0 else b""
                self._left -= len(waiting)
            if not waiting:
                return False
            self._buffer = self._engine.decompress(waiting, 1 << 20)
        return True


def find_backup_label(chunks: t.Iterator[bytes], limit: int = LABEL_LIMIT) -> str | None:
    """The first backup_label in a packed tar that arrives in chunks; None when it is not in the first ``limit`` packed bytes."""
    source = _Unpacked(chunks, limit)
    try:
        with tarfile.open(fileobj=t.cast("t.IO[bytes]", source), mode="r|") as archive:
            for entry in archive:
                parts = entry.name.split("/")
                if entry.isreg() and parts[-1] == "backup_label" and len(parts) <= 4 and entry.size < 65536:
                    content = archive.extractfile(entry)
                    return None if content is None else content.read().decode("utf-8", "replace")
    except (tarfile.TarError, zlib.error, EOFError) as error:
        if source._left > 0:
            raise OpsError(f"the archive cannot be read: {error}", hint="it is damaged: choose another backup") from error
    return None
