# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dumps: pg_dump's output straight into the bucket, with the rows of its snapshot counted beside it. PRIVATE to the collection.

Order of things, so that a run that dies at any point leaves nothing that looks like a backup. A single object is a multipart
upload (an unfinished one is no object): when pg_dump has ended well and all parts are there, the manifest is written, then the
upload is completed, which makes the object appear at once. Of a directory the objects come first and the manifest last. Then
everything is read back, and only after that the newest dump is called latest.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import select
import shutil
import tempfile
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._archive import codec
from ansible_collections.fileforge.ops.plugins.module_utils._backup import dump_server, dumps
from ansible_collections.fileforge.ops.plugins.module_utils._backup.base_upload import PartStream
from ansible_collections.fileforge.ops.plugins.module_utils._backup.dumps import Dump, DumpManifest, DumpObject
from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    IntegrityError,
    InvalidOption,
    OpsError,
    Refused,
    WaitTimeout,
)
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import MultipartUpload, Store, run_all
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.names import check_prefix
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step, human_bytes
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._process import Piped, interruptible, piped
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress
from ansible_collections.fileforge.ops.plugins.module_utils._time import iso, now
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline

if t.TYPE_CHECKING:
    import psycopg

BLOCK = 4 << 20
"""Bytes of the dump in one member of the gzip."""
TAIL = 4096
TRAILER = b"-- PostgreSQL database dump complete"
"""What pg_dump writes last, but for a line that unlocks psql in newer versions."""
MAGIC = b"PGDMP"
NAMES = 100
END = 60.0
"""Seconds that pg_dump has to end when it has written everything."""
FAILS_TOO = 1.0
"""Seconds in which a count that made pg_dump fail has failed itself."""
SPOOL = "fileforge-dump-"
POLL = 0.5


@dataclasses.dataclass(frozen=True)
class DumpOptions:
    """What the user asks for; times in seconds."""

    prefix: str = ""
    format: str = dumps.PLAIN
    max_age: int = 0
    jobs: int = 2
    compression_level: int = 1
    bin_directory: str | None = None
    spool_directory: str | None = None
    lock_timeout: int = 60
    timeout: int = 21600
    read_back: bool = True

    def check(self) -> None:
        """Raise InvalidOption for values that cannot be used."""
        check_prefix(self.prefix)
        limits = {
            "jobs": (1, 64),
            "compression_level": (0, 9),
            "max_age": (0, None),
            "lock_timeout": (1, None),
            "timeout": (1, None),
        }
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if value < least or (most is not None and value > most):
                raise InvalidOption(name, value, f"must be at least {least}" + (f" and at most {most}" if most is not None else ""))
        if self.format not in dumps.FORMATS:
            raise InvalidOption("format", self.format, f"must be one of {', '.join(dumps.FORMATS)}")
        if self.format == dumps.DIRECTORY and not os.path.isdir(self.spool_directory or ""):
            raise InvalidOption(
                "spool_directory",
                self.spool_directory,
                "format=directory needs a directory that is there: pg_dump writes its files to it before they are uploaded",
            )


def run_dump(
    store: Store, postgres: PostgresOptions, options: DumpOptions, *, check_mode: bool, progress: Progress
) -> dict[str, t.Any]:
    """Make a dump unless a young enough one is there; the module's result."""
    options.check()
    store.check_bucket()
    with interruptible("nothing was kept of the dump"), dump_server.session(postgres, options.lock_timeout) as connection:
        server = dump_server.look(connection)
        program, version = dump_server.find_program("pg_dump", server.major, options.bin_directory)
        young = _young(store, options, server)
        plan = _plan(store, options, server, young)
        result: dict[str, t.Any] = {"changed": bool(plan.steps), "plan": plan.as_dict(), "diff": plan.as_diff(), "warnings": []}
        found = {} if young is None else summary(young.manifest(), prefix=options.prefix)
        if check_mode or not plan.steps:
            return {**result, "dump": found, "timings": progress.timings}
        dump_server.lock(connection, f"{store.bucket}/{options.prefix}")
        run = _Run(store, postgres, options, connection, server, (program, version), progress)
        if young is None:
            found = run.take()
        else:
            run.point(young.manifest())
        return {**result, "dump": found, "timings": progress.timings, "warnings": run.warnings}


def _young(store: Store, options: DumpOptions, server: dump_server.DumpServer) -> Dump | None:
    """The newest complete dump of that format when it is younger than ``max_age``; Refused when it is of something else."""
    newest = dumps.newest_complete(dumps.list_dumps(store, options.prefix))
    if newest is None:
        return None
    manifest = newest.manifest()
    if (manifest.system_identifier, manifest.database) != (server.system_identifier, server.database):
        raise Refused(
            "foreign_dumps",
            f"the dumps in {store.bucket}/{options.prefix}{dumps.PLACE} are of the database {manifest.database} of system "
            f"{manifest.system_identifier}, but this is the database {server.database} of system {server.system_identifier}",
            hint="give every database a bucket or prefix of its own",
        )
    if manifest.format != options.format:
        return None
    age = (now() - datetime.datetime.fromisoformat(manifest.finished)).total_seconds()
    return newest if age < options.max_age else None


def _plan(store: Store, options: DumpOptions, server: dump_server.DumpServer, young: Dump | None) -> Plan:
    plan = Plan(f"{options.format} dump of the database {server.database} (system {server.system_identifier}) to {store.bucket}")
    if young is not None:
        plan.notes.append(f"{young.name} is younger than {options.max_age} s")
        if _pointed(store, options, young):
            return plan
    pointer, copy = dumps.latest_keys(options.prefix, options.format)
    if young is None:
        keys = _Keys(options.prefix, options.format, "<stamp>")
        plan.steps.append(Step("upload", keys.content, detail=f"{options.format} dump of {server.database}"))
        plan.steps.append(Step("upload", keys.manifest, detail="manifest: checksums, and rows of each table"))
    if copy:
        plan.steps.append(Step("copy", copy, detail="the newest dump under a fixed name"))
    plan.steps.append(Step("upload", pointer, detail="names the newest dump"))
    plan.notes.append(f"the database has {human_bytes(server.database_bytes)}")
    return plan


def _pointed(store: Store, options: DumpOptions, dump: Dump) -> bool:
    """Whether the dump is called latest; the run that made it may have died before."""
    try:
        return dumps.read_pointer(store, options.prefix) == dump.name
    except IntegrityError:
        return False


def summary(manifest: DumpManifest, prefix: str = "") -> dict[str, t.Any]:
    """What the module returns about a dump."""
    keys = _Keys(prefix, manifest.format, manifest.name)
    return {
        "name": manifest.name,
        "key": keys.content,
        "manifest_key": keys.manifest,
        "format": manifest.format,
        "database": manifest.database,
        "started": manifest.started,
        "finished": manifest.finished,
        "snapshot_time": manifest.snapshot_time,
        "system_identifier": manifest.system_identifier,
        "version_num": manifest.version_num,
        "dump_version": manifest.dump_version,
        "bytes": manifest.size,
        "uncompressed_bytes": manifest.content_bytes or None,
        "sha256": manifest.objects[0].sha256 if manifest.format != dumps.DIRECTORY else "",
        "objects": len(manifest.objects),
        "tables": [dataclasses.asdict(table) for table in manifest.tables],
        "rows": manifest.rows,
        "large_objects": manifest.large_objects,
    }


class _Keys:
    """The keys of one dump."""

    def __init__(self, prefix: str, kind: str, name: str) -> None:
        self.name = name
        self._place = f"{prefix}{dumps.PLACE}"
        self._ending = dumps.FORMATS[kind]

    @property
    def content(self) -> str:
        """The object; of a directory, the common prefix."""
        slash = "/" if self._ending == dumps.FORMATS[dumps.DIRECTORY] else ""
        return f"{self._place}{self.name}.{self._ending}{slash}"

    @property
    def manifest(self) -> str:
        """The manifest."""
        return f"{self._place}{self.name}.{dumps.MANIFEST}"

    def relative(self, key: str) -> str:
        """A key as the manifest has it."""
        return key[len(self._place) :]


class _Content(t.NamedTuple):
    """What was read from pg_dump and what became of it."""

    objects: t.Tuple[DumpObject, ...]
    size: int
    sha256: str


class _Packer:
    """Blocks in, gzip members out in order; several are packed at the same time, because deflate releases the GIL."""

    def __init__(self, sink: t.Callable[[bytes], None], level: int, jobs: int) -> None:
        self._sink, self._level, self._window = sink, level, jobs + 1
        self._pool = concurrent.futures.ThreadPoolExecutor(jobs, "pack")
        self._running: collections.deque[concurrent.futures.Future[bytes]] = collections.deque()

    def __enter__(self) -> _Packer:
        return self

    def __exit__(self, *_details: object) -> None:
        for future in self._running:
            future.cancel()
        self._pool.shutdown(wait=True)

    def write(self, block: bytes) -> None:
        """Take the next block."""
        while len(self._running) >= self._window:
            self._sink(self._running.popleft().result())
        self._running.append(self._pool.submit(codec.pack, block, self._level))

    def finish(self) -> None:
        """Wait for the rest."""
        while self._running:
            self._sink(self._running.popleft().result())


def read_blocks(program: Piped, deadline: Deadline, size: int) -> t.Iterator[bytes]:
    """What a program writes, in blocks of ``size``. Raises WaitTimeout when the deadline passes."""
    handle = program.output.fileno()
    pieces: list[bytes] = []
    held = 0
    while True:
        if not select.select([handle], [], [], deadline.left)[0]:
            raise _too_slow(deadline)
        piece = os.read(handle, min(size - held, 1 << 20))
        pieces.append(piece)
        held += len(piece)
        if held == size or (not piece and held):
            yield b"".join(pieces)
            pieces, held = [], 0
        if not piece:
            return


def _too_slow(deadline: Deadline) -> WaitTimeout:
    return WaitTimeout(f"pg_dump was not ready after {deadline.seconds:g} s", hint="raise timeout")


class _Run:
    """One dump, from its snapshot to its pointer."""

    def __init__(
        self,
        store: Store,
        postgres: PostgresOptions,
        options: DumpOptions,
        connection: psycopg.Connection[t.Any],
        server: dump_server.DumpServer,
        program: tuple[str, str],
        progress: Progress,
    ) -> None:
        self._store = store
        self._postgres = postgres
        self._options = options
        self._connection = connection
        self._server = server
        self._program, self._version = program
        self._progress = progress
        self._deadline = Deadline(options.timeout)
        self._written: list[str] = []
        self.warnings: list[str] = []

    def take(self) -> dict[str, t.Any]:
        """Everything; on any error nothing is left that was written here."""
        self._sweep()
        begun = now()
        keys = self._name(begun)
        try:
            with dump_server.snapshot(self._connection) as snapshot:
                manifest = self._take(begun, keys, snapshot)
            self._written.clear()
            self.point(manifest)
        except BaseException:
            with contextlib.suppress(OpsError):
                self._store.delete(self._written)
            raise
        return summary(manifest, prefix=self._options.prefix)

    # -- what dead runs left -------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Drop what killed dumps left. No other dump to this place runs now: the lock says so."""
        place = f"{self._options.prefix}{dumps.PLACE}"
        try:
            swept = self._store.sweep_uploads(place, 0)
        except OpsError as error:
            swept = []
            self.warnings.append(f"uploads of dumps that died could not be looked for: {error.message}")
        for dump in dumps.list_dumps(self._store, self._options.prefix):
            if not (dump.has_manifest and dump.content) and not dump.plain:
                keys = [item.key for item in dump.objects.values()]
                self._store.delete(keys)
                swept.append(dump.key)
        if swept:
            self.warnings.append(f"removed what dumps that died left: {', '.join(sorted(set(swept)))}")
        self._sweep_spool()

    def _sweep_spool(self) -> None:
        """Directories of dead runs, whose pg_dump ended with them; their name tells whose they are."""
        spool = self._options.spool_directory
        if not spool or not os.path.isdir(spool):
            return
        for name in os.listdir(spool):
            if name.startswith(self._spool_name()):
                shutil.rmtree(os.path.join(spool, name), ignore_errors=True)

    def _spool_name(self) -> str:
        place = hashlib.sha256(f"{self._store.bucket}/{self._options.prefix}".encode()).hexdigest()[:12]
        return f"{SPOOL}{self._server.system_identifier}-{place}-"

    def _name(self, begun: datetime.datetime) -> _Keys:
        stamp = begun.strftime("%Y-%m-%d-%H%M")
        taken = {dump.name for dump in dumps.list_dumps(self._store, self._options.prefix)}
        for number in range(1, NAMES):
            name = stamp if number == 1 else f"{stamp}-{number}"
            if name not in taken:
                return _Keys(self._options.prefix, self._options.format, name)
        raise Refused("no_name", f"{self._options.prefix}{dumps.PLACE}{stamp}: {NAMES} dumps were started in this minute")

    # -- the dump itself -----------------------------------------------------------------------------------------------

    def _take(self, begun: datetime.datetime, keys: _Keys, snapshot: dump_server.Snapshot) -> DumpManifest:
        with self._counting(snapshot) as counts:

            def manifest_of(content: _Content) -> DumpManifest:
                return self._manifest(keys.name, begun, snapshot, content, counts.result())

            if self._options.format == dumps.DIRECTORY:
                return self._take_directory(keys, snapshot, manifest_of)
            return self._take_stream(keys, snapshot, manifest_of)

    @contextlib.contextmanager
    def _counting(self, snapshot: dump_server.Snapshot) -> t.Iterator[concurrent.futures.Future[t.Any]]:
        """Count rows in the snapshot while the body dumps it; the server is told to stop when the body fails.

        A count that fails ends the transaction and with it the snapshot: then its error is the one that counts.
        """
        pool = concurrent.futures.ThreadPoolExecutor(1, "count")
        future = pool.submit(dump_server.count_rows, self._connection, snapshot.tables)
        try:
            yield future
        except OpsError as error:
            first = _failure(future)
            if first is not None and first is not error:
                raise first from error
            raise
        finally:
            if not future.done():
                self._connection.cancel()
            pool.shutdown(wait=True)

    def _argv(self, snapshot: dump_server.Snapshot) -> list[str]:
        options = self._options
        argv = [self._program, f"--format={options.format}", f"--snapshot={snapshot.id}", "--no-password"]
        argv.append(f"--lock-wait-timeout={options.lock_timeout * 1000}")
        if options.format != dumps.PLAIN:
            argv.append(f"--compress={options.compression_level}")
        if self._server.in_recovery:
            argv.append("--no-unlogged-table-data")
        return argv

    def _end(self, program: Piped) -> None:
        """Raise ProcessFailed unless pg_dump ended well, and keep what it warned of."""
        code = program.wait(END)
        if code != 0:
            raise program.failure(code)
        self.warnings += [line for line in program.said().splitlines() if "warning" in line.lower()][:10]

    def _take_stream(
        self, keys: _Keys, snapshot: dump_server.Snapshot, manifest_of: t.Callable[[_Content], DumpManifest]
    ) -> DumpManifest:
        expected = self._server.database_bytes
        with self._store.multipart(keys.content, metadata=dumps.METADATA) as upload:
            with PartStream(upload, expected) as stream:
                with self._progress.phase("dump", expected):
                    content = self._stream(stream, snapshot, keys)
                    stream.flush()
                with self._progress.phase("commit", None, ""):
                    manifest = manifest_of(content)
                    self._put_manifest(keys, manifest)
                    self._complete(keys, stream, upload)
        self._read_back(keys, manifest)
        return manifest

    def _complete(self, keys: _Keys, stream: PartStream, upload: MultipartUpload) -> None:
        self._written.insert(0, keys.content)
        info = stream.complete()
        if info.size != upload.size:
            raise IntegrityError(f"{info.key}: has {info.size} bytes after {upload.size} were uploaded")

    def _stream(self, stream: PartStream, snapshot: dump_server.Snapshot, keys: _Keys) -> _Content:
        packed = hashlib.sha256()
        size = 0

        def sink(data: bytes) -> None:
            nonlocal size
            packed.update(data)
            size += len(data)
            stream.write(data)

        plain = self._options.format == dumps.PLAIN
        content, length, head, tail = hashlib.sha256(), 0, b"", b""
        environment = dump_server.environment(self._postgres)
        with contextlib.ExitStack() as stack:
            packer = stack.enter_context(_Packer(sink, self._options.compression_level, self._options.jobs)) if plain else None
            program = stack.enter_context(piped(self._argv(snapshot), read=True, env=environment))
            for block in read_blocks(program, self._deadline, BLOCK):
                content.update(block)
                length += len(block)
                head, tail = head or block[:TAIL], (tail + block[-TAIL:])[-TAIL:]
                (packer.write if packer is not None else sink)(block)
                self._progress.advance(len(block))
            self._end(program)
            if packer is not None:
                packer.finish()
        if not (TRAILER in tail if plain else head.startswith(MAGIC)):
            raise IntegrityError("pg_dump ended well, but what it wrote is not a whole dump", hint="look at the pg_dump program")
        item = DumpObject(keys.relative(keys.content), size, packed.hexdigest())
        return _Content((item,), length if plain else 0, content.hexdigest() if plain else "")

    def _take_directory(
        self, keys: _Keys, snapshot: dump_server.Snapshot, manifest_of: t.Callable[[_Content], DumpManifest]
    ) -> DumpManifest:
        spool = tempfile.mkdtemp(prefix=self._spool_name(), dir=self._options.spool_directory)
        try:
            place = os.path.join(spool, "dump")
            with self._progress.phase("dump", self._server.database_bytes):
                self._dump_directory(place, snapshot)
            names = sorted(os.listdir(place))
            sizes = [os.path.getsize(os.path.join(place, name)) for name in names]
            with self._progress.phase("upload", sum(sizes)):
                content = _Content(tuple(self._upload(keys, place, names)), 0, "")
        finally:
            shutil.rmtree(spool, ignore_errors=True)
        with self._progress.phase("commit", None, ""):
            manifest = manifest_of(content)
        self._read_back(keys, manifest)
        self._put_manifest(keys, manifest)
        return manifest

    def _dump_directory(self, place: str, snapshot: dump_server.Snapshot) -> None:
        argv = [*self._argv(snapshot), f"--jobs={self._options.jobs}", f"--file={place}"]
        with piped(argv, env=dump_server.environment(self._postgres)) as program:
            while True:
                try:
                    program.wait(min(POLL, self._deadline.left))
                    break
                except WaitTimeout:
                    if not self._deadline.left:
                        raise WaitTimeout(
                            f"pg_dump was not ready after {self._deadline.seconds:g} s", hint="raise timeout"
                        ) from None
                    self._progress.set(_tree_size(place))
            self._end(program)

    def _upload(self, keys: _Keys, place: str, names: t.Sequence[str]) -> list[DumpObject]:
        found: list[DumpObject] = []

        def send(name: str) -> None:
            path, key = os.path.join(place, name), f"{keys.content}{name}"
            digest = hashlib.sha256()
            with open(path, "rb") as stream:
                for block in iter(lambda: stream.read(1 << 20), b""):
                    digest.update(block)
            self._written.append(key)
            info = self._store.put_file(path, key, metadata=dumps.METADATA, on_bytes=self._progress.advance)
            found.append(DumpObject(keys.relative(key), info.size, digest.hexdigest()))

        run_all(send, names, self._options.jobs)
        return sorted(found, key=lambda item: item.name)

    def _manifest(
        self, name: str, begun: datetime.datetime, snapshot: dump_server.Snapshot, content: _Content, rows: t.Any
    ) -> DumpManifest:
        server = self._server
        return DumpManifest(
            name=name,
            format=self._options.format,
            database=server.database,
            started=str(iso(begun)),
            finished=str(iso(now())),
            snapshot_time=snapshot.taken,
            system_identifier=server.system_identifier,
            version_num=server.version_num,
            dump_version=self._version,
            encoding=server.encoding,
            collate=server.collate,
            ctype=server.ctype,
            superuser=server.superuser,
            roles=snapshot.roles,
            tablespaces=snapshot.tablespaces,
            database_bytes=server.database_bytes,
            content_bytes=content.size,
            content_sha256=content.sha256,
            large_objects=snapshot.large_objects,
            objects=content.objects,
            tables=rows,
        )

    def _put_manifest(self, keys: _Keys, manifest: DumpManifest) -> None:
        self._written.append(keys.manifest)
        self._store.put(keys.manifest, manifest.to_bytes(), metadata=dumps.METADATA, only_if_absent=True)

    def _read_back(self, keys: _Keys, manifest: DumpManifest) -> None:
        """Read what is in the bucket now; raises IntegrityError when it is not what was written."""
        if not self._options.read_back:
            return
        with self._progress.phase("read_back", manifest.size):
            for item in manifest.objects:
                digest = hashlib.sha256()
                key = f"{self._options.prefix}{dumps.PLACE}{item.name}"
                for chunk in self._store.stream(key):
                    digest.update(chunk)
                    self._progress.advance(len(chunk))
                if digest.hexdigest() != item.sha256:
                    raise IntegrityError(
                        f"{self._store.bucket}/{key}: what was read back is not what was written; the dump was not kept",
                        hint="run again; if it happens again, the service changes objects",
                    )

    def point(self, manifest: DumpManifest) -> None:
        """Call it latest. A failure here does not take the dump back: it is whole, and the next run does this again."""
        keys = _Keys(self._options.prefix, manifest.format, manifest.name)
        pointer, copy = dumps.latest_keys(self._options.prefix, manifest.format)
        with self._progress.phase("point", None, ""):
            if copy:
                info = self._store.copy(keys.content, copy)
                if info.size != manifest.size:
                    raise IntegrityError(f"{copy}: has {info.size} bytes instead of {manifest.size}", hint="run again")
            value = {"name": manifest.name, "format": manifest.format, "manifest": keys.manifest, "finished": manifest.finished}
            self._store.put(pointer, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode(), content_type="application/json")


def _failure(future: concurrent.futures.Future[t.Any]) -> BaseException | None:
    """What made it fail, if it has failed or is about to."""
    try:
        return future.exception(timeout=FAILS_TOO)
    except concurrent.futures.TimeoutError:
        return None


def _tree_size(place: str) -> int:
    total = 0
    for folder, _names, files in os.walk(place):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.path.getsize(os.path.join(folder, name))
    return total
