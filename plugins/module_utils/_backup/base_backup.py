# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Base backups: the running cluster's files, in parallel, straight into the bucket. PRIVATE to the collection.

Order of things, so that a run that dies at any point leaves nothing that looks like a backup: tablespaces and data directory are
streamed as multipart uploads (an unfinished one is no object), then the archiver must have the last WAL, then the manifest is
written, then the index. Only the index makes a backup of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import functools
import grp
import hashlib
import os
import pwd
import time
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._archive.index import (
    FILE,
    METADATA,
    Archive,
    BackupIndex,
    FileEntry,
)
from ansible_collections.fileforge.ops.plugins.module_utils._archive.writer import ArchiveWriter, BytesSource, Entry, Written
from ansible_collections.fileforge.ops.plugins.module_utils._backup import base_files, base_server
from ansible_collections.fileforge.ops.plugins.module_utils._backup.base_backups import BaseBackup, list_backups
from ansible_collections.fileforge.ops.plugins.module_utils._backup.base_upload import Names, PartStream, reserved
from ansible_collections.fileforge.ops.plugins.module_utils._backup.wal_store import WalStore
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, InvalidOption, OpsError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import MultipartUpload, ObjectInfo, Store
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.names import check_prefix
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step, human_bytes
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import wal
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions, query
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.manifest import Manifest, ManifestFile, WalRange
from ansible_collections.fileforge.ops.plugins.module_utils._process import interruptible
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress
from ansible_collections.fileforge.ops.plugins.module_utils._time import iso, now

if t.TYPE_CHECKING:
    import psycopg

SHOWN_FAILURES = 10
MADE_MODE = 0o600
HEARTBEAT = 20.0
"""Seconds between looks whether the server still knows of the backup."""


@dataclasses.dataclass(frozen=True)
class BackupOptions:
    """What the user asks for; ``max_age`` and ``wal_timeout`` in seconds, ``max_rate`` in bytes a second (0 = no limit)."""

    prefix: str = ""
    label: str = "fileforge base backup"
    max_age: int = 0
    jobs: int = 2
    compression_level: int = 1
    max_rate: int = 0
    checkpoint: str = "fast"
    verify_checksums: bool = True
    accept_checksum_failures: bool = False
    wal_timeout: int = 600

    def check(self) -> None:
        """Raise InvalidOption for values that cannot be used."""
        check_prefix(self.prefix)
        limits = {
            "jobs": (1, 64),
            "compression_level": (0, 9),
            "max_age": (0, None),
            "max_rate": (0, None),
            "wal_timeout": (1, None),
        }
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if value < least or (most is not None and value > most):
                raise InvalidOption(name, value, f"must be at least {least}" + (f" and at most {most}" if most is not None else ""))
        if not 0 < len(self.label.encode()) <= 1024 or not self.label.isprintable():
            raise InvalidOption("label", self.label, "must be printable text of 1 to 1024 bytes")


def run_backup(
    store: Store, postgres: PostgresOptions, options: BackupOptions, *, check_mode: bool, progress: Progress
) -> dict[str, t.Any]:
    """Take a backup unless a young enough one is there; the module's result."""
    options.check()
    store.check_bucket()
    with interruptible("nothing was kept of the backup"), base_server.session(postgres) as connection:
        server = base_server.look(connection)
        base_server.check_server(connection, server)
        tablespaces = base_server.tablespaces_of(connection)
        young = _young_backup(store, options, server)
        plan = _plan(store, options, server, tablespaces, young)
        result: dict[str, t.Any] = {"changed": bool(plan.steps), "plan": plan.as_dict(), "diff": plan.as_diff(), "warnings": []}
        if young is not None or check_mode:
            backup = {} if young is None else _summary(young.index(), young.key)
            return {**result, "backup": backup, "timings": progress.timings}
        with _only_one(server.data_directory):
            run = _Run(store, options, connection, server, tablespaces, progress)
            return {**result, "backup": run.take(), "timings": progress.timings, "warnings": run.warnings}


def _young_backup(store: Store, options: BackupOptions, server: base_server.Server) -> BaseBackup | None:
    """The newest complete backup when it is younger than ``max_age``; raises Refused when it is another system's."""
    newest = _newest(list_backups(store, WalStore(store, options.prefix, ()), options.prefix))
    if newest is None:
        return None
    backup, index = newest
    if index.system_identifier != server.system_identifier:
        raise Refused(
            "foreign_backups",
            f"the backups in {store.bucket}/{options.prefix}base/ are of system {index.system_identifier}, "
            f"but this server is {server.system_identifier}",
            hint="give every cluster a bucket or prefix of its own",
        )
    age = (now() - datetime.datetime.fromisoformat(index.stopped)).total_seconds()
    return backup if age < options.max_age else None


def _newest(backups: t.Sequence[BaseBackup]) -> tuple[BaseBackup, BackupIndex] | None:
    """The newest backup that can be used; one whose index is damaged is a reason to take another, not an obstacle."""
    for backup in reversed(backups):
        if backup.has_index and backup.complete:
            try:
                return backup, backup.index()
            except IntegrityError:
                continue
    return None


def _plan(
    store: Store,
    options: BackupOptions,
    server: base_server.Server,
    tablespaces: t.Sequence[base_server.Tablespace],
    young: BaseBackup | None,
) -> Plan:
    names = Names(options.prefix, "<stamp>")
    plan = Plan(f"base backup of {server.data_directory} (system {server.system_identifier}) to {store.bucket}")
    if young is not None:
        plan.notes.append(f"{young.name} is younger than {options.max_age} s")
        return plan
    for space in tablespaces:
        plan.steps.append(Step("upload", names.tablespace(space.oid), detail=f"tablespace {space.location}"))
    plan.steps.append(Step("upload", names.data, detail=f"data directory {server.data_directory}"))
    plan.steps.append(Step("upload", names.manifest, detail="manifest"))
    plan.steps.append(Step("upload", names.index, detail="index: makes the backup complete"))
    size = sum(tree.size for _space, tree in _trees(server, tablespaces))
    plan.notes.append(f"about {human_bytes(size)} of files to read")
    return plan


def _trees(
    server: base_server.Server, tablespaces: t.Sequence[base_server.Tablespace]
) -> list[tuple[base_server.Tablespace | None, base_files.Tree]]:
    """All trees; the data directory is the last."""
    trees: list[tuple[base_server.Tablespace | None, base_files.Tree]] = [
        (space, base_files.tablespace_tree(space.location, server.version_directory)) for space in tablespaces
    ]
    return [*trees, (None, base_files.data_tree(server.data_directory, [space.location for space in tablespaces]))]


@contextlib.contextmanager
def _only_one(data_directory: str) -> t.Iterator[None]:
    """Hold a lock on the directory itself: it needs no file, whoever runs the backup, and ends with the process."""
    handle = os.open(data_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Refused(
                "locked", f"another base backup of {data_directory} is running", hint="wait for it, or look at that process"
            ) from error
        yield
    finally:
        os.close(handle)


@functools.lru_cache(maxsize=64)
def _owner_names(uid: int, gid: int) -> tuple[str, str]:
    user = group = ""
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(gid).gr_name
    return user, group


class _Run:
    """One backup, from its start to its index."""

    def __init__(
        self,
        store: Store,
        options: BackupOptions,
        connection: psycopg.Connection[t.Any],
        server: base_server.Server,
        tablespaces: t.Sequence[base_server.Tablespace],
        progress: Progress,
    ) -> None:
        self._store = store
        self._options = options
        self._connection = connection
        self._server = server
        self._tablespaces = tablespaces
        self._progress = progress
        self._throttle = base_files.Throttle(options.max_rate)
        self._written: list[str] = []
        self._looked = time.monotonic()
        self.warnings: list[str] = []

    def take(self) -> dict[str, t.Any]:
        """Everything; on any error nothing is left that was written here."""
        self._sweep()
        begun = now()
        try:
            with reserved(self._store, self._options.prefix, begun) as (names, upload):
                return self._take(begun, names, upload)
        except BaseException:
            with contextlib.suppress(OpsError):
                self._store.delete(reversed(self._written))  # the index first
            raise
        finally:
            self._throttle.stop()

    def _sweep(self) -> None:
        """Drop what killed backups left. No other backup of this server runs now, and a prefix belongs to one server."""
        try:
            swept = self._store.sweep_uploads(f"{self._options.prefix}base/", 0)
        except OpsError as error:
            self.warnings.append(f"uploads of backups that died could not be looked for: {error.message}")
            return
        if swept:
            self.warnings.append(f"aborted {len(swept)} uploads of backups that died: {', '.join(sorted(set(swept)))}")

    def _take(self, begun: datetime.datetime, names: Names, upload: MultipartUpload) -> dict[str, t.Any]:
        with self._progress.phase("start", unit=""):
            fast = self._options.checkpoint == "fast"
            started = base_server.start(self._connection, self._server, self._options.label, fast)
            self._look_for_tablespaces()
            trees = _trees(self._server, self._tablespaces)
        reader = self._reader(started)
        archives: list[Archive] = []
        with self._progress.phase("copy", total=sum(tree.size for _space, tree in trees)):
            for space, tree in trees[:-1]:
                archives.append(self._tablespace(names, t.cast("base_server.Tablespace", space), tree, reader))
            data, manifest, stopped = self._data_directory(names, upload, trees[-1][1], reader, archives, started)
            archives.insert(0, data)
        stopped_at = now()
        self._look_for_tablespaces()
        self._judge_pages(reader)
        for _space, tree in trees:
            if tree.skipped:
                self.warnings.append(f"not archived, being special files or links: {', '.join(tree.skipped[:SHOWN_FAILURES])}")
        last, history = base_server.needed_wal(self._server, stopped, started)
        with self._progress.phase("wait_wal", unit=""):
            base_server.wait_archived(self._connection, self._server, [last, history], self._options.wal_timeout)
            self._look_for_wal(last)
        index = self._index(names, (begun, stopped_at), started, stopped, archives, reader)
        with self._progress.phase("commit", unit=""):
            self._put(names.manifest, manifest)
            self._put(names.index, index.to_bytes())
        return _summary(index, names.data)

    def _look_for_tablespaces(self) -> None:
        """Raise OpsError for a tablespace that is not in the backup, which would be lost or made over the live one by a restore."""
        known = {space.oid for space in self._tablespaces}
        appeared = [space.location for space in base_server.tablespaces_of(self._connection) if space.oid not in known]
        if appeared:
            raise OpsError(
                f"tablespaces were made while the backup was taken: {', '.join(appeared)}; it was not kept",
                hint="run it again, and do not let CREATE TABLESPACE run meanwhile",
                reason="tablespace_appeared",
            )

    def _look_for_wal(self, segment: str) -> None:
        place = f"{self._options.prefix}wal/"
        if not any(True for _item in self._store.list(f"{place}{segment}")):
            self.warnings.append(
                f"the server's archiver reports {segment} as archived, but it is not below {place} in {self._store.bucket}: "
                f"restoring this backup needs the archive that archive_command writes to"
            )

    def _alive(self) -> None:
        """Raise Unavailable soon after the server ended the backup's session, not hours later."""
        if time.monotonic() - self._looked > HEARTBEAT:
            self._looked = time.monotonic()
            query(self._connection, "SELECT 1")

    def _reader(self, started: base_server.Started) -> base_files.Reader:
        rules = None
        if self._options.verify_checksums and self._server.checksums:
            rules = base_files.PageRules(self._server.block_size, self._server.segment_pages, started.start_lsn)
        return base_files.Reader(rules, self._throttle, self._progress.advance)

    def _writer(self, stream: PartStream) -> ArchiveWriter:
        options = self._options
        return ArchiveWriter(stream.write, level=options.compression_level, jobs=options.jobs, names=_owner_names)

    @contextlib.contextmanager
    def _stopping(self) -> t.Iterator[None]:
        """Wake readers that wait for the throttle before their threads are waited for."""
        try:
            yield
        except BaseException:
            self._throttle.stop()
            raise

    def _tablespace(self, names: Names, space: base_server.Tablespace, tree: base_files.Tree, reader: base_files.Reader) -> Archive:
        key = names.tablespace(space.oid)
        with self._store.multipart(key, metadata=METADATA) as upload:
            with PartStream(upload, tree.size) as stream, self._writer(stream) as writer, self._stopping():
                for item in tree.found:
                    self._alive()
                    writer.add(reader.entry(tree.root, item, f"pg_tblspc/{space.oid}/{item.path}"))
                written = writer.finish()
                info = self._complete(key, stream)
        return _archive(info, space, written)

    def _complete(self, key: str, stream: PartStream) -> ObjectInfo:
        self._written.append(key)
        return stream.complete()

    def _data_directory(
        self,
        names: Names,
        upload: MultipartUpload,
        tree: base_files.Tree,
        reader: base_files.Reader,
        archives: t.Sequence[Archive],
        started: base_server.Started,
    ) -> tuple[Archive, bytes, base_server.Stopped]:
        """The data directory; ends the backup when all else is copied, then adds what the end brings, the control file last."""
        with PartStream(upload, tree.size) as stream, self._writer(stream) as writer, self._stopping():
            for item in tree.found:
                self._alive()
                writer.add(reader.entry(tree.root, item))
            writer.drain()
            content, state = base_files.control_file(tree.root)
            stopped = base_server.stop(self._connection, self._server)
            made = functools.partial(_made, state)
            writer.add(made("backup_label", stopped.label.encode()))
            if stopped.tablespace_map:
                writer.add(made("tablespace_map", stopped.tablespace_map.encode()))
            files = [("", entry) for entry in writer.drain()]
            files += [(f"pg_tblspc/{archive.oid}/", entry) for archive in archives for entry in archive.files]
            manifest = self._manifest(files, _control_entry(content, state), started, stopped)
            writer.add(made("backup_manifest", manifest))
            writer.add(made(base_files.CONTROL_FILE, content))
            written = writer.finish()
            info = self._complete(names.data, stream)
        return _archive(info, None, written), manifest, stopped

    def _manifest(
        self,
        files: t.Iterable[tuple[str, FileEntry]],
        control: FileEntry,
        started: base_server.Started,
        stopped: base_server.Stopped,
    ) -> bytes:
        rows = [
            ManifestFile(f"{place}{entry.path}", entry.size, entry.mtime, entry.sha256)
            for place, entry in (*files, ("", control))
            if entry.type == FILE
        ]
        part = WalRange(stopped.timeline, wal.format_lsn(started.start_lsn), wal.format_lsn(stopped.stop_lsn))
        identifier = self._server.system_identifier if self._server.version_num >= 170000 else None
        return Manifest(tuple(rows), (part,), identifier).to_bytes()

    def _judge_pages(self, reader: base_files.Reader) -> None:
        """Raise IntegrityError for pages with wrong checksums, unless they are accepted: then they are recorded."""
        if not reader.failure_count:
            return
        shown = [f"{failure.path} block {failure.block}" for failure in reader.failures[:SHOWN_FAILURES]]
        more = f" and {reader.failure_count - len(shown)} more" if reader.failure_count > len(shown) else ""
        message = f"{reader.failure_count} pages have wrong checksums: {', '.join(shown)}{more}"
        if not self._options.accept_checksum_failures:
            raise IntegrityError(
                f"{message}; the backup was not kept",
                hint="the data on disk is damaged: keep the older backups. accept_checksum_failures=true backs it up as it is",
                reason="page_checksums",
                checksum_failures=[dataclasses.asdict(failure) for failure in reader.failures],
            )
        self.warnings.append(message)

    def _put(self, key: str, data: bytes) -> None:
        self._written.append(key)
        try:
            self._store.put(key, data, metadata=METADATA, only_if_absent=True)
        except Refused:
            self._written.remove(key)  # it is somebody else's
            raise

    def _index(
        self,
        names: Names,
        times: tuple[datetime.datetime, datetime.datetime],
        started: base_server.Started,
        stopped: base_server.Stopped,
        archives: t.Sequence[Archive],
        reader: base_files.Reader,
    ) -> BackupIndex:
        server = self._server
        return BackupIndex(
            name=names.name,
            label=self._options.label,
            started=str(iso(times[0])),
            stopped=str(iso(times[1])),
            start_lsn=wal.format_lsn(started.start_lsn),
            stop_lsn=wal.format_lsn(stopped.stop_lsn),
            timeline=stopped.timeline,
            start_segment=stopped.start_segment,
            stop_segment=base_server.needed_wal(server, stopped, started)[0],
            system_identifier=server.system_identifier,
            version_num=server.version_num,
            catalog_version=server.catalog_version,
            wal_segment_size=server.wal_segment_size,
            block_size=server.block_size,
            checksums=server.checksums,
            checksum_failures=tuple(reader.failures),
            manifest_key=names.manifest,
            archives=tuple(archives),
        )


def _made(state: os.stat_result, path: str, content: bytes) -> Entry:
    """A file that the backup brings itself, with owner and time of the control file."""
    source = BytesSource(content, MADE_MODE | (state.st_mode & 0o040), state.st_uid, state.st_gid, int(state.st_mtime))
    return Entry(path, lambda: source, size=len(content))


def _control_entry(content: bytes, state: os.stat_result) -> FileEntry:
    digest = hashlib.sha256(content).hexdigest()
    return FileEntry(base_files.CONTROL_FILE, FILE, 0, 0, 0, int(state.st_mtime), len(content), 0, digest)


def _archive(info: ObjectInfo, space: base_server.Tablespace | None, written: Written) -> Archive:
    if info.size != written.size:
        raise IntegrityError(f"{info.key}: has {info.size} bytes after {written.size} were uploaded")
    return Archive(
        key=info.key,
        oid=None if space is None else space.oid,
        location=None if space is None else space.location,
        size=info.size,
        etag=info.etag,
        version_id=info.version_id,
        sha256=written.sha256,
        uncompressed_size=written.uncompressed_size,
        members=written.members,
        files=written.files,
    )


def _summary(index: BackupIndex, key: str) -> dict[str, t.Any]:
    """What the module returns about a backup."""
    return {
        "name": index.name,
        "key": key,
        "label": index.label,
        "started": index.started,
        "stopped": index.stopped,
        "start_lsn": index.start_lsn,
        "stop_lsn": index.stop_lsn,
        "start_segment": index.start_segment,
        "stop_segment": index.stop_segment,
        "timeline": index.timeline,
        "system_identifier": index.system_identifier,
        "version_num": index.version_num,
        "bytes": sum(archive.size for archive in index.archives),
        "uncompressed_bytes": sum(archive.uncompressed_size for archive in index.archives),
        "files": sum(1 for archive in index.archives for entry in archive.files if entry.type == FILE),
        "tablespaces": [{"oid": archive.oid, "location": archive.location, "key": archive.key} for archive in index.archives[1:]],
        "checksum_failures": [dataclasses.asdict(failure) for failure in index.checksum_failures],
    }
