# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is on both sides of a tree, in a temporary database on disk. PRIVATE to the collection.

A million files would be some hundred megabytes of Python objects on each side; SQLite (in its own temporary file, which the kernel
removes with the process) keeps memory flat, sorts by bytes as S3 does, and joins both sides and the cache of checksums.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, OpsError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import Store
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.digests import Fingerprint
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.faults import printable
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.manifest import Entry, read_manifest
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.names import (
    LONGEST_PATH,
    folders,
    hostile,
    key_path,
    path_text,
)

BATCH = 1000
Row = t.Tuple[t.Any, ...]

_SCHEMA = """
CREATE TABLE local (path BLOB PRIMARY KEY, size INT, mtime INT, ctime INT, inode INT, mode INT, uid INT, gid INT) WITHOUT ROWID;
CREATE TABLE local_folder (path BLOB PRIMARY KEY, mode INT) WITHOUT ROWID;
CREATE TABLE odd (path BLOB PRIMARY KEY, kind TEXT) WITHOUT ROWID;
CREATE TABLE listed (path BLOB PRIMARY KEY, size INT, etag TEXT) WITHOUT ROWID;
CREATE TABLE remote_folder (path BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE described (path BLOB PRIMARY KEY, size INT, etag TEXT, sha256 TEXT, mode INT, mtime INT) WITHOUT ROWID;
CREATE VIEW remote AS SELECT l.path, l.size, l.etag, d.sha256, d.mode, d.mtime, d.path IS NOT NULL AS known
    FROM listed l LEFT JOIN described d ON d.path = l.path AND d.size = l.size AND d.etag = l.etag;
CREATE TABLE hashed (path BLOB PRIMARY KEY, size INT, mtime INT, ctime INT, inode INT, sha256 TEXT, etag TEXT) WITHOUT ROWID;
CREATE TABLE cached (path BLOB PRIMARY KEY, size INT, mtime INT, ctime INT, inode INT, sha256 TEXT, etag TEXT) WITHOUT ROWID;
CREATE TABLE action (kind TEXT, path BLOB, size INT, sum TEXT, PRIMARY KEY (kind, path)) WITHOUT ROWID;
"""
_STATE_SCHEMA = """
CREATE TABLE IF NOT EXISTS state.hashes
    (path BLOB PRIMARY KEY, size INT, mtime INT, ctime INT, inode INT, sha256 TEXT, etag TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state.planned (kind TEXT, path BLOB, sum TEXT, PRIMARY KEY (kind, path)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state.running (id INT PRIMARY KEY, plan TEXT);
"""
_VALID = "{0}.size = l.size AND {0}.mtime = l.mtime AND {0}.ctime = l.ctime AND {0}.inode = l.inode"
KNOWN = (
    "LEFT JOIN hashed h ON h.path = l.path AND " + _VALID.format("h") + " LEFT JOIN cached c ON c.path = l.path AND "
    "" + _VALID.format("c")
)
"""Joins to a local row ``l`` the checksums that still hold for it."""


class Inventory:
    """Both sides of one tree. Used from one thread, but for ``remember`` and ``rows``."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", uri=True, check_same_thread=False, isolation_level=None)
        self._lock = threading.RLock()
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN")
        self.markers = 0
        """Objects that only stand for a directory."""
        self.asked = 0
        """Objects whose own metadata had to be asked for."""

    def close(self) -> None:
        """Drop everything that was not saved."""
        with self._lock:
            self._db.close()

    def execute(self, sql: str, values: t.Sequence[t.Any] = ()) -> list[Row]:
        """Run one statement; its rows."""
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def insert(self, table: str, rows: t.Iterable[Row]) -> None:
        """Add rows to a table, replacing those with the same key; ``table`` is always a name in this file's schema."""
        iterator = iter(rows)
        first = next(iterator, None)
        if first is None:
            return
        marks = ", ".join("?" * len(first))
        statement = f"INSERT OR REPLACE INTO {table} VALUES ({marks})"  # noqa: S608 - names and marks only
        with self._lock:
            self._db.execute(statement, first)
            self._db.executemany(statement, iterator)

    def rows(self, sql: str, values: t.Sequence[t.Any] = (), column: str = "path") -> t.Iterator[Row]:
        """Rows of a query in the order of its first column, a path named ``column``, in batches.

        The query ends in its WHERE clause. Other statements may run between two rows; what they add behind the current path is
        not seen.
        """
        after: bytes | None = None
        while True:
            condition = f" AND {column} > ?" if after is not None else ""
            query = f"{sql}{condition} ORDER BY {column} LIMIT {BATCH}"
            found = self.execute(query, [*values, after] if after is not None else values)
            yield from found
            if len(found) < BATCH:
                return
            after = found[-1][0]

    def count(self, table: str) -> int:
        """How many rows a table of the schema has."""
        return int(self.execute(f"SELECT count(*) FROM {table}")[0][0])  # noqa: S608 - a name of the schema

    # -- the local side -----------------------------------------------------------------------------------------------

    def scan(self, root: bytes, exclude: bytes, on_count: t.Callable[[int], None]) -> None:
        """Read the directory tree. Symbolic links and special files are noted as odd and never followed.

        Raises Refused (reason ``mount_inside``) when another file system is mounted below ``root``.
        """
        try:
            device = os.stat(root).st_dev
        except FileNotFoundError:
            return
        waiting = [b""]
        while waiting:
            self._scan_folder(root, waiting.pop(), device, exclude, waiting, on_count)

    def _scan_folder(
        self, root: bytes, folder: bytes, device: int, exclude: bytes, waiting: list[bytes], on_count: t.Callable[[int], None]
    ) -> None:
        files: list[Row] = []
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                path = os.path.join(folder, entry.name)
                if entry.path == exclude:
                    continue
                facts = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(facts.st_mode):
                    _same_device(facts.st_dev, device, entry.path)
                    self.insert("local_folder", [(path, stat.S_IMODE(facts.st_mode))])
                    waiting.append(path)
                elif stat.S_ISREG(facts.st_mode):
                    _same_device(facts.st_dev, device, entry.path)
                    files.append((path, *facts_of(facts), stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid))
                else:
                    kind = "symbolic link" if stat.S_ISLNK(facts.st_mode) else "special file"
                    self.insert("odd", [(path, kind)])
        self.insert("local", files)
        on_count(len(files))

    # -- the bucket's side --------------------------------------------------------------------------------------------

    def read_listing(self, store: Store, prefix: str, room: int, reserved: bytes | None, on_count: t.Callable[[int], None]) -> None:
        """Read the listing. Raises Refused (reason ``hostile_key``) for keys that must not become files."""
        batch: list[Row] = []
        for item in store.list(prefix):
            path = key_path(item.key[len(prefix) :])
            if (not path or path.endswith(b"/")) and item.size == 0 and not hostile(path.rstrip(b"/") or b"-", room):
                self.markers += 1
                continue
            reason = hostile(path, room) or _taken(path, reserved)
            if reason is not None:
                raise hostile_key(item.key, reason)
            batch.append((path, item.size, item.etag))
            if len(batch) == BATCH:
                self._add_listed(batch, on_count)
                batch = []
        self._add_listed(batch, on_count)
        for (path,) in self.execute("SELECT path FROM listed JOIN remote_folder USING (path) ORDER BY path LIMIT 1"):
            raise hostile_key(prefix + path_text(path), "other keys need it as a directory")

    def _add_listed(self, batch: list[Row], on_count: t.Callable[[int], None]) -> None:
        self.insert("listed", batch)
        above = {folder for row in batch for folder in folders(row[0])}
        self.insert("remote_folder", [(folder,) for folder in above])
        on_count(len(batch))

    def load_manifest(self, store: Store, key: str) -> str | None:
        """Read the manifest, as far as there is one; why it cannot be used, or None."""
        info = store.head(key)
        try:
            self.describe(read_manifest(store.stream(key, etag=info.etag)))
        except (ValueError, IntegrityError) as error:
            self.execute("DELETE FROM described")
            return f"the manifest {printable(key)} is damaged and was not used ({error})"
        return None

    def describe(self, entries: t.Iterable[Entry]) -> None:
        """Note what is known of objects, from a manifest or from their metadata."""
        rows = ((entry.path, entry.size, entry.etag, entry.sha256, entry.mode, entry.mtime) for entry in entries)
        self.insert("described", rows)

    # -- checksums and the state that outlives a run ------------------------------------------------------------------

    def remember(self, path: bytes, facts: os.stat_result, found: Fingerprint) -> None:
        """Note the checksum of a file as it is now."""
        self.insert("hashed", [(path, *facts_of(facts), found.sha256, found.etag)])

    def read_state(self, file: str) -> str | None:
        """Take the checksums that earlier runs left in ``file``; the plan (JSON) of a run that did not end, or None.

        Changes nothing. An unreadable state is as good as none: it only saves work.
        """
        if not os.path.exists(file):
            return None
        try:
            with _attached(self._db, file, "ro"):
                self.execute("INSERT OR REPLACE INTO cached SELECT * FROM state.hashes")
                plans = self.execute("SELECT plan FROM state.running")
                self.execute("CREATE TABLE earlier AS SELECT path, sum FROM state.planned")
        except sqlite3.Error:
            return None
        return str(plans[0][0]) if plans else None

    def continues(self) -> bool:
        """Whether every action that is left was part of the plan of the run that did not end."""
        return not self.execute("SELECT path, sum FROM action EXCEPT SELECT path, sum FROM earlier LIMIT 1")

    def begin(self, file: str, plan: str) -> None:
        """Write down the plan that is now carried out."""
        with self._writing(file):
            self.execute("DELETE FROM state.planned")
            self.execute("INSERT INTO state.planned SELECT kind, path, sum FROM action")
            self.execute("INSERT OR REPLACE INTO state.running VALUES (1, ?)", [plan])

    def save_hashes(self, file: str) -> None:
        """Keep the checksums found so far for later runs."""
        with self._writing(file):
            self.execute("INSERT OR REPLACE INTO state.hashes SELECT * FROM hashed")

    def end(self, file: str) -> None:
        """Write down that the plan was carried out to its end."""
        with self._writing(file):
            self.execute("INSERT OR REPLACE INTO state.hashes SELECT * FROM hashed")
            self.execute("DELETE FROM state.hashes WHERE path NOT IN (SELECT path FROM local UNION SELECT path FROM hashed)")
            self.execute("DELETE FROM state.planned")
            self.execute("DELETE FROM state.running")

    def _writing(self, file: str) -> _attached:
        try:
            with _attached(self._db, file, "rwc"):
                self._db.executescript(_STATE_SCHEMA)
                self._db.execute("SELECT count(*) FROM state.hashes")
        except sqlite3.DatabaseError:
            os.unlink(file)  # not ours to read any more, and only a cache
            with _attached(self._db, file, "rwc"):
                self._db.executescript(_STATE_SCHEMA)
        return _attached(self._db, file, "rwc")


class _attached:
    """The state file attached to the temporary database as ``state``; one transaction."""

    def __init__(self, db: sqlite3.Connection, file: str, mode: str) -> None:
        self._db, self._file, self._mode = db, file, mode

    def __enter__(self) -> None:
        if self._db.in_transaction:
            self._db.execute("COMMIT")
        self._db.execute("ATTACH ? AS state", [self._uri()])
        self._db.execute("BEGIN")

    def _uri(self) -> str:
        return f"file:{self._file.replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?mode={self._mode}"

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._db.in_transaction:
            self._db.execute("COMMIT" if kind is None else "ROLLBACK")
        self._db.execute("DETACH state")
        self._db.execute("BEGIN")


def facts_of(facts: os.stat_result) -> Row:
    """Size, mtime, ctime (nanoseconds) and inode: what tells that a file is still the one that was read."""
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino


def hostile_key(key: str, reason: str) -> Refused:
    """The refusal for a key that must not become a file."""
    return Refused(
        "hostile_key",
        f"the object key {printable(key)!r} cannot become a file: {reason}",
        hint="nothing was touched; look at who wrote that object, and move or rename it in the bucket",
        key=printable(key),
    )


def _taken(path: bytes, reserved: bytes | None) -> str | None:
    if reserved is not None and (path == reserved or path.startswith(reserved + b"/")):
        return "its place is that of the files kept aside"
    return None


def _same_device(found: int, wanted: int, path: bytes) -> None:
    if found != wanted:
        raise Refused(
            "mount_inside",
            f"{printable(path_text(path))}: another file system is mounted inside the tree",
            hint="handle each file system as a tree of its own, or unmount it",
        )


def room_below(root: bytes) -> int:
    """Bytes that are left for a path below ``root``."""
    room = LONGEST_PATH - len(root) - 1
    if room < 1:
        raise OpsError(f"{path_text(root)}: the path is too long")
    return room
