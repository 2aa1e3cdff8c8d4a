# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scratch servers for verifications: a place of their own, a new empty cluster, programs in it. PRIVATE to the collection.

A scratch server listens on its Unix socket only, archives nothing, and lives in one directory. A record is written before anything
else is made, so that whatever a killed run left is known as its own and removed by the next one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import re
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._backup import restore_state as state
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_layout import Layout
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_settle import (
    check_socket_path,
    make_folder,
    own,
    scratch_settings,
    write_scratch_files,
)
from ansible_collections.fileforge.ops.plugins.module_utils._backup.scratch import Scratch
from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    InvalidOption,
    OpsError,
    ProcessFailed,
    Refused,
    Unavailable,
)
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import (
    PID_FILE,
    Server,
    ServerOptions,
    find_binaries,
    resolve_owner,
    running_server,
    server_failure,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions, connect, one, query
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.recovery import conf_quote
from ansible_collections.fileforge.ops.plugins.module_utils._process import Completed, piped, run
from ansible_collections.fileforge.ops.plugins.module_utils._wait import wait_for

if t.TYPE_CHECKING:
    import psycopg

PORT = 5432
READY = 60.0
INITIALISED = 300.0
STOP = 300
NAME = "data"
_UNNAMED = "0" * 16
_FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "max_locks_per_transaction": "1024",
}
"""What is restored here is thrown away again; a dump of many tables is restored in one transaction."""
_FAILURE = re.compile(r'checksum verification failed in file "(?P<path>[^"]+)", block (?P<block>\d+)')


@dataclasses.dataclass(frozen=True)
class Place:
    """The directory that scratch servers live in, one at a time."""

    directory: str
    owner: str
    bin_directory: str | None = None
    server_options: t.Tuple[str, ...] = ()

    @property
    def data_directory(self) -> str:
        """Of the scratch server."""
        return os.path.join(self.directory, NAME)

    @property
    def fetched(self) -> str:
        """For objects from the bucket; removed with the scratch server."""
        return f"{self.data_directory}.recovery-{_UNNAMED}"

    @property
    def tablespaces(self) -> str:
        """For tablespaces; removed with the scratch server."""
        return f"{self.data_directory}.tablespaces"

    @property
    def ids(self) -> tuple[int, int]:
        """User and group of the owner."""
        return resolve_owner(self.owner)

    def check(self) -> None:
        """Raise InvalidOption and Refused for a place where no scratch server can live."""
        if not os.path.isabs(self.directory) or self.directory == "/":
            raise InvalidOption("scratch_directory", self.directory, "not the absolute path of a directory for scratch servers")
        resolve_owner(self.owner)
        check_socket_path(self.data_directory, PORT)
        parent = os.path.dirname(self.directory)
        if not os.path.isdir(parent):
            raise Refused("parent_missing", f"{parent} does not exist", hint="create it, or set scratch_directory")
        there = self.directory if os.path.isdir(self.directory) else parent
        if not os.access(there, os.W_OK | os.X_OK):
            raise Refused("parent_not_writable", f"{there} cannot be written to", hint="use become, or set scratch_directory")
        if run(["test", "-x", there], timeout=20, user=self.owner, check=False).returncode != 0:
            raise Refused(
                "parent_not_reachable",
                f"user {self.owner} cannot pass through {there}, so a server could not run below it",
                hint="give that user the right to search every directory above it, or set scratch_directory",
            )

    def leftovers(self) -> Plan:
        """What a run that was cut off left here. Raises Refused (``not_scratch``) for what is not a scratch server's."""
        return self._scratch().plan()

    def _scratch(self) -> Scratch:
        return Scratch(self.data_directory, self.owner, self.bin_directory, STOP)

    def _initialising(self) -> bool:
        """Whether a backend of an initdb whose caller was killed still works here: it ends by itself, and cannot be stopped."""
        try:
            with open(os.path.join(self.data_directory, PID_FILE), encoding="utf-8", errors="replace") as stream:
                alone = stream.read(1) == "-"
        except (FileNotFoundError, NotADirectoryError):
            return False
        return alone and running_server(self.data_directory) is not None

    @contextlib.contextmanager
    def held(self) -> t.Iterator[None]:
        """The place for the body alone, empty at its beginning and gone or empty at its end, whatever happens."""
        made = not os.path.isdir(self.directory)
        make_folder(self.directory, self.ids, 0o711)
        handle = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Refused(
                    "locked",
                    f"another verification is running in {self.directory}",
                    hint="wait for it, or look at that process",
                ) from error
            self.clear()
            try:
                yield
            finally:
                self.clear()
                if made:
                    with contextlib.suppress(OSError):
                        os.rmdir(self.directory)
        finally:
            os.close(handle)

    def clear(self) -> None:
        """Stop and remove what is there. The lock file of a restore is not needed while the place is held."""
        wait_for("the end of initdb", self._initialising, lambda busy: not busy, timeout=READY, interval=0.1)
        self._scratch().remove()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(state.lock_path(self.data_directory))


class ScratchServer:
    """The server of a place."""

    def __init__(self, place: Place, major: int) -> None:
        self.place = place
        self.major = major
        self.programs = find_binaries(major, place.bin_directory)
        self._log = f"{place.data_directory}.restore.log"
        options = ServerOptions(owner=place.owner, settings=place.server_options)
        self._server = Server(place.data_directory, self.programs, options, self._log)

    def claim(self, what: t.Mapping[str, t.Any]) -> None:
        """Write down whose the place is, before anything is made in it."""
        state.save_record(self.place.data_directory, {"request": {"scratch": True, **what}})
        make_folder(self.place.fetched, self.place.ids)

    def create(self, encoding: str) -> None:
        """Make an empty cluster."""
        place = self.place
        argv = [self.program("initdb"), "-D", place.data_directory, "-U", "postgres", f"--encoding={encoding}", "--locale=C"]
        with piped([*argv, "--auth=peer", "--no-sync", "--data-checksums"], user=place.owner) as initdb:
            code = initdb.wait(INITIALISED)
            if code != 0:
                raise initdb.failure(code)
        write_scratch_files(place.data_directory, place.owner, place.ids)
        settings = {**_FAST, **scratch_settings(Layout(place.data_directory, _UNNAMED), ServerOptions(), self.major)}
        with open(os.path.join(place.data_directory, "postgresql.conf"), "a", encoding="utf-8") as stream:
            stream.writelines(f"{name} = {conf_quote(value)}\n" for name, value in settings.items())

    def program(self, name: str) -> str:
        """Path of one of this version's programs. Raises Refused (``wrong_version``) when it is not installed."""
        path = os.path.join(self.programs, name)
        if not os.access(path, os.X_OK):
            raise Refused("wrong_version", f"{path} is not there", hint=f"install all programs of PostgreSQL {self.major}")
        return path

    def start(self) -> None:
        """Start it and wait until it can be asked."""
        handle = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        os.close(handle)
        own(self._log, self.place.ids)
        try:
            self._server.start(timeout=READY)
        except ProcessFailed as error:
            raise server_failure(self._server.log_tail()) from error
        wait_for(
            "the scratch server",
            self._answer,
            lambda problem: problem == "",
            timeout=READY,
            interval=0.1,
            failed=lambda problem: None if running_server(self.place.data_directory) else f"it ended: {problem}",
        )

    def _answer(self) -> str:
        try:
            self.connect("template1").close()
        except Unavailable as error:
            return error.message
        return ""

    def stop(self) -> None:
        """Stop it in good order."""
        self._server.stop(timeout=STOP)

    def options(self, database: str) -> PostgresOptions:
        """How it is reached."""
        return PostgresOptions(host=self.place.data_directory, port=PORT, user="postgres", database=database, sslmode="disable")

    def connect(self, database: str) -> psycopg.Connection[t.Any]:
        """A connection as its superuser."""
        return connect(self.options(database), lock_timeout_ms=60_000, application_name="fileforge verify")

    def databases(self) -> list[str]:
        """Databases that can be connected to."""
        with self.connect("template1") as connection:
            rows = query(connection, "SELECT datname AS name FROM pg_database WHERE datallowconn ORDER BY datname")
        return [str(row["name"]) for row in rows]

    def checksums(self) -> bool:
        """Whether its pages have checksums."""
        with self.connect("template1") as connection:
            return bool(one(connection, "SELECT current_setting('data_checksums') = 'on' AS enabled")["enabled"])

    def wrong_pages(self, timeout: float) -> tuple[int, list[str]]:
        """Number of pages whose checksum is wrong, and the first of them, as pg_checksums sees them; the server must be stopped."""
        argv = [self.program("pg_checksums"), "--check", "-D", self.place.data_directory]
        done = run(argv, timeout=timeout, user=self.place.owner, check=False)
        failures = [
            f"{os.path.relpath(match['path'], self.place.data_directory)} block {match['block']}"
            for match in _FAILURE.finditer(done.stderr)
        ]
        if done.returncode != 0 and not failures:
            raise _unexpected(done)
        return len(failures), failures[:20]


def _unexpected(done: Completed) -> OpsError:
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return ProcessFailed(
        f"{done.argv[0]} ended with status {done.returncode}: {said[-1] if said else 'it said nothing'}", rc=done.returncode
    )
