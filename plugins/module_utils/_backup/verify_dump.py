# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verifying a dump: fetched and compared with its manifest, restored in one transaction, counted. PRIVATE to the collection.

Nothing is given to psql before its checksum is known to be right: a plain dump is a program.
"""

from __future__ import annotations

import hashlib
import os
import typing as t
import zlib

from ansible_collections.fileforge.ops.plugins.module_utils._archive import codec
from ansible_collections.fileforge.ops.plugins.module_utils._backup import dump_server, dumps
from ansible_collections.fileforge.ops.plugins.module_utils._backup.dump import TAIL, TRAILER
from ansible_collections.fileforge.ops.plugins.module_utils._backup.dumps import Dump, DumpManifest
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_preflight import SPARE, Need, check_space
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_settle import make_folder, own
from ansible_collections.fileforge.ops.plugins.module_utils._backup.scratch_server import Place, ScratchServer
from ansible_collections.fileforge.ops.plugins.module_utils._backup.verifications import DUMP
from ansible_collections.fileforge.ops.plugins.module_utils._backup.verify_common import (
    LATEST,
    SHOWN,
    Bad,
    Findings,
    VerifyOptions,
    ask,
    could_not,
    examine,
)
from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    IntegrityError,
    NotFound,
    OpsError,
    ProcessFailed,
    Refused,
)
from ansible_collections.fileforge.ops.plugins.module_utils._module import require_library
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import Store, run_all
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import one, query
from ansible_collections.fileforge.ops.plugins.module_utils._process import Piped, piped
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline

if t.TYPE_CHECKING:
    import psycopg

GROWTH = 1.2
"""A restored database may be larger than the one that was dumped: pages are filled by their fillfactor again."""
BLOCK = 1 << 20
_UNPACKING: t.Tuple[t.Type[Exception], ...] = (zlib.error, getattr(codec.best, "error", zlib.error))


def choose(store: Store, options: VerifyOptions) -> DumpSubject:
    """The dump of that name, or the newest. Raises Refused (``no_backups``, ``backup_unknown``).

    The newest is what was called latest, even when its objects are gone, unless a newer one is there.
    """
    found = dumps.list_dumps(store, options.prefix)
    place = f"{options.prefix}{dumps.PLACE} of bucket {store.bucket}"
    if options.backup != LATEST:
        named = [dump for dump in found if dump.name == options.backup]
        if not named:
            raise Refused("backup_unknown", f"there is no dump {options.backup} below {place}", dumps=[dump.name for dump in found])
        return DumpSubject(store, options, named[0])
    try:
        pointed = dumps.read_pointer(store, options.prefix)
    except IntegrityError:
        pointed = None
    finished = [dump for dump in found if dump.name == pointed or (dump.has_manifest and dump.content)]
    if pointed is not None and all(dump.name != pointed for dump in found):
        finished.append(Dump(store, options.prefix, pointed, {}))
    if not finished:
        finished = [dump for dump in found if dump.plain and dump.content]
    if not finished:
        raise Refused(
            "no_backups", f"there is no dump below {place}", hint="make one: postgres_dump, or check s3_bucket and prefix"
        )
    return DumpSubject(store, options, max(finished, key=lambda dump: dumps.natural(dump.name)))


class DumpSubject:
    """A dump that is to be verified."""

    kind = DUMP

    def __init__(self, store: Store, options: VerifyOptions, dump: Dump) -> None:
        self._store = store
        self._options = options
        self._dump = dump
        self.name = dump.name
        self.key = dump.key
        self.size = dump.size

    def expected(self) -> list[str]:
        """See Subject."""
        options = self._options
        names = ["verify.manifest", "verify.checksum", "verify.restore", "verify.row_counts"]
        names += ["verify.minimum_rows"] if options.minimum_rows else []
        names += [f"postgres.assert.{assertion.name}" for assertion in options.assertions]
        return names + (["postgres.amcheck.indexes", "postgres.amcheck.tables"] if options.amcheck else [])

    def run(self, place: Place, findings: Findings, progress: Progress, deadline: Deadline) -> dict[str, t.Any]:
        """See Subject."""
        manifest = self._manifest(findings)
        facts = _facts(manifest)
        server = ScratchServer(place, manifest.version_num // 10000)
        check_space([Need(place.directory, int(manifest.size + GROWTH * manifest.database_bytes) + SPARE)])
        server.claim({"dump": self.key, "bucket": self._store.bucket})
        with progress.phase("fetch", manifest.size):
            self._fetch(place, manifest, findings, progress)
        with progress.phase("create", None, ""):
            server.create(manifest.encoding)
            server.start()
            notes = self._prepare(place, server, manifest)
        with progress.phase("restore", manifest.content_bytes or manifest.size):
            _Restoring(place, server, manifest, self._options.jobs, progress, deadline).run(findings, notes)
        with progress.phase("count", len(manifest.tables), "tables"):
            self._count(server, manifest, findings, progress)
        with progress.phase("verify", None, ""):
            ask(server, manifest.database, self._options, findings, deadline)
            examine(server, [manifest.database], self._options, findings, deadline)
        return facts

    # -- the objects ---------------------------------------------------------------------------------------------------

    def _manifest(self, findings: Findings) -> DumpManifest:
        dump = self._dump
        if not dump.has_manifest:
            if dump.content and dump.plain:
                findings.unknown(
                    "verify.manifest",
                    f"{dump.key} has no manifest: nothing tells what it must hold",
                    hint="make dumps with postgres_dump",
                )
            else:
                findings.bad("verify.manifest", f"{dump.manifest_key} is missing")
            raise Bad
        try:
            manifest = dump.manifest()
        except IntegrityError as error:
            findings.bad("verify.manifest", error.message)
            raise Bad from error
        findings.ok(
            "verify.manifest",
            f"{dump.name} is a {manifest.format} dump of {manifest.database}, PostgreSQL {manifest.version_num // 10000}, with"
            f" {len(manifest.tables)} tables",
            evidence=_facts(manifest),
        )
        if dump.problem:
            findings.bad("verify.checksum", dump.problem)
            raise Bad
        return manifest

    def _fetch(self, place: Place, manifest: DumpManifest, findings: Findings, progress: Progress) -> None:
        """Download everything; every byte is compared before any is used."""

        def one_object(item: dumps.DumpObject) -> None:
            digest = hashlib.sha256()
            key = f"{self._options.prefix}{dumps.PLACE}{item.name}"
            path = local_path(place, item.name)
            with open(path, "wb") as stream:
                for chunk in self._store.stream(key):
                    digest.update(chunk)
                    stream.write(chunk)
                    progress.advance(len(chunk))
            own(path, place.ids)
            if digest.hexdigest() != item.sha256:
                raise IntegrityError(f"{item.name}: its SHA-256 is {digest.hexdigest()}, the manifest says {item.sha256}")

        make_folder(os.path.join(place.fetched, "objects"), place.ids)
        try:
            run_all(one_object, manifest.objects, self._options.jobs)
        except IntegrityError as error:
            findings.bad("verify.checksum", error.message)
            raise Bad from error
        except NotFound as error:
            if error.state.get("reason") == "bucket":
                raise
            findings.bad("verify.checksum", error.message)
            raise Bad from error
        except OSError as error:
            raise OpsError(f"writing below {place.directory} failed: {error.strerror}", hint="make room, then run again") from error
        count = len(manifest.objects)
        what = f"{count} objects have" if count > 1 else f"{manifest.objects[0].name} has"
        findings.ok("verify.checksum", f"{what} the size and SHA-256 of the manifest", value=manifest.size, unit="B")

    # -- the database --------------------------------------------------------------------------------------------------

    def _prepare(self, place: Place, server: ScratchServer, manifest: DumpManifest) -> list[str]:
        """What a dump expects to be there: roles, tablespaces, and its database; notes about what is not as it was."""
        sql = require_library("psycopg.sql", "psycopg")
        with server.connect("template1") as connection:
            for role in dict.fromkeys((manifest.superuser, *manifest.roles)):
                if role != "postgres":
                    _execute(connection, sql.SQL("CREATE ROLE {} SUPERUSER NOLOGIN").format(sql.Identifier(role)))
            for number, name in enumerate(manifest.tablespaces):
                make_folder(place.tablespaces, place.ids)
                location = os.path.join(place.tablespaces, str(number))
                make_folder(location, place.ids)
                _execute(
                    connection, sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(sql.Identifier(name), sql.Literal(location))
                )
            name = sql.Identifier(manifest.database)
            _execute(connection, sql.SQL("DROP DATABASE IF EXISTS {}").format(name))
            create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {}").format(name, sql.Literal(manifest.encoding))
            try:
                locale = sql.SQL(" LC_COLLATE {} LC_CTYPE {}").format(sql.Literal(manifest.collate), sql.Literal(manifest.ctype))
                _execute(connection, create + locale)
            except OpsError as error:
                _execute(connection, create)
                return [f"the locale {manifest.collate} is not on this host ({error.message}), so C is used"]
        return []

    def _count(self, server: ScratchServer, manifest: DumpManifest, findings: Findings, progress: Progress) -> None:
        problems: list[str] = []
        with server.connect(manifest.database) as connection:
            for table in manifest.tables:
                name = f"{table.schema}.{table.name}"
                try:
                    rows = dump_server.count_rows(connection, [(table.schema, table.name)])[0].rows
                except NotFound:
                    problems.append(f"{name} is missing")
                    continue
                if rows != table.rows:
                    problems.append(f"{name} has {rows} rows instead of {table.rows}")
                progress.advance(1)
            known = {(table.schema, table.name) for table in manifest.tables}
            strangers = [table for table in dump_server.tables_of(connection) if table not in known]
            objects = one(connection, "SELECT count(*) AS number FROM pg_largeobject_metadata")["number"]
        problems += [f"{schema}.{name} was not dumped" for schema, name in strangers]
        if objects != manifest.large_objects:
            problems.append(f"there are {objects} large objects instead of {manifest.large_objects}")
        if problems:
            findings.bad(
                "verify.row_counts", "; ".join(problems[:SHOWN]), value=len(problems), unit="tables", evidence=problems[:100]
            )
        else:
            summary = f"{len(manifest.tables)} tables have the {manifest.rows} rows that they had in the dump's snapshot"
            findings.ok("verify.row_counts", summary, value=0, unit="tables")


def local_path(place: Place, name: str) -> str:
    """Where an object of a dump is put: its name has been checked when the manifest was read."""
    return os.path.join(place.fetched, "objects", name.rsplit("/", 1)[-1])


def _execute(connection: psycopg.Connection[t.Any], statement: t.Any) -> None:
    query(connection, statement.as_string(connection))


def _facts(manifest: DumpManifest) -> dict[str, t.Any]:
    return {
        "database": manifest.database,
        "format": manifest.format,
        "finished": manifest.finished,
        "snapshot_time": manifest.snapshot_time,
        "system_identifier": manifest.system_identifier,
        "version_num": manifest.version_num,
        "bytes": manifest.size,
        "rows": manifest.rows,
    }


def unpacked(path: str) -> t.Iterator[bytes]:
    """What a gzip of any number of members holds. Raises IntegrityError for one that is cut or is none."""
    engine = codec.best.decompressobj(31)
    begun = False
    with open(path, "rb") as stream:
        while True:
            data = stream.read(BLOCK)
            if not data:
                break
            while data:
                try:
                    piece = engine.decompress(data)
                except _UNPACKING as error:
                    raise IntegrityError(f"it cannot be unpacked: {error}") from error
                begun = True
                if piece:
                    yield piece
                data = b""
                if engine.eof:
                    data, engine, begun = engine.unused_data, codec.best.decompressobj(31), False
    if begun:
        raise IntegrityError("it cannot be unpacked: it ends in the middle")


class _Restoring:
    """The restore of the fetched objects into the empty database."""

    def __init__(
        self, place: Place, server: ScratchServer, manifest: DumpManifest, jobs: int, progress: Progress, deadline: Deadline
    ) -> None:
        self._place = place
        self._server = server
        self._manifest = manifest
        self._jobs = jobs
        self._progress = progress
        self._deadline = deadline

    def run(self, findings: Findings, notes: list[str]) -> None:
        """``verify.restore``; raises Bad when there is nothing to look at."""
        manifest = self._manifest
        try:
            if manifest.format == dumps.PLAIN:
                self._plain()
            else:
                self._archive()
        except (IntegrityError, ProcessFailed) as error:
            findings.bad("verify.restore", error.message)
            raise Bad from error
        except OpsError as error:
            if not could_not(error):
                raise
            findings.unknown("verify.restore", error.message, hint=error.hint)
            raise Bad from error
        summary = "; ".join([f"restored to an empty database of PostgreSQL {self._server.major} without an error", *notes])
        findings.ok("verify.restore", summary)

    def _environment(self) -> dict[str, str]:
        return dump_server.environment(self._server.options(self._manifest.database))

    def _plain(self) -> None:
        """psql, stopping at the first error, in one transaction."""
        argv = [self._server.program("psql"), "--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1"]
        argv += ["--single-transaction", "--file=-"]
        path = local_path(self._place, self._manifest.objects[0].name)
        with piped(argv, write=True, user=self._place.owner, env=self._environment()) as psql:
            try:
                self._feed(psql, path)
            except BrokenPipeError:
                pass  # it stopped at an error and says at which
            else:
                psql.input.close()
            code = psql.wait(self._deadline.left)
            if code != 0:
                raise psql.failure(code)

    def _feed(self, psql: Piped, path: str) -> None:
        digest, tail, size = hashlib.sha256(), b"", 0
        for piece in unpacked(path):
            digest.update(piece)
            size += len(piece)
            tail = (tail + piece[-TAIL:])[-TAIL:]
            psql.feed(piece, self._deadline)
            self._progress.advance(len(piece))
        if TRAILER not in tail:
            raise IntegrityError("the dump is not whole: its last line is missing")
        if (size, digest.hexdigest()) != (self._manifest.content_bytes, self._manifest.content_sha256):
            raise IntegrityError("what it holds, unpacked, is not what the manifest says")

    def _archive(self) -> None:
        """pg_restore, stopping at the first error; the database was empty and is thrown away."""
        objects = os.path.join(self._place.fetched, "objects")
        path = objects if self._manifest.format == dumps.DIRECTORY else local_path(self._place, self._manifest.objects[0].name)
        argv = [self._server.program("pg_restore"), "--exit-on-error", "--no-password", f"--jobs={self._jobs}"]
        argv += [f"--dbname={self._manifest.database}", path]
        with piped(argv, user=self._place.owner, env=self._environment()) as program:
            code = program.wait(self._deadline.left)
            if code != 0:
                raise program.failure(code)
