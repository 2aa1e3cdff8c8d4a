# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The index of a base backup: what is where in its archives. PRIVATE to the collection.

An archive is one tar, compressed as many gzip members one after the other, so ``tar -xzf`` reads all of it and a reader that
has this index reads any part of it. The index is written after everything else: it is the marker that a backup is complete.

    index = BackupIndex.from_bytes(store.get(key))      # verified; IntegrityError says what is wrong
    for archive in index.archives:                      # the data directory first, then the tablespaces
        for member in archive.members: ...              # ranges of the object that decompress alone
        for entry in archive.files: ...                 # what the tar holds, in tar order

Reading an index trusts nothing in it: paths that could leave the destination, members that do not join up and files outside
their archive are refused, so that code which restores can use every value as it is.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import re
import typing as t
import zlib

from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError

FORMAT = 1
METADATA = {"fileforge-format": str(FORMAT)}
"""User metadata of archive objects: an object that carries it needs its index."""

FILE, DIRECTORY, LINK = "f", "d", "l"
LARGEST_MEMBER = 64 << 20
"""Bytes of one member, packed or not, that a reader must be ready to hold."""
LARGEST_INDEX = 1 << 30
"""Bytes of an unpacked index: a limit against archives made to exhaust memory."""
LONGEST_PATH = 4096

_HEX256 = re.compile(r"[0-9a-f]{64}")
_LSN = re.compile(r"[0-9A-F]{1,8}/[0-9A-F]{1,8}")
_SEGMENT = re.compile(r"[0-9A-F]{24}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def safe_path(path: str) -> str:
    """The path itself when it stays below the place it is joined to; IntegrityError otherwise.

    Refused: empty, absolute, ``.`` and ``..`` components, empty components, control characters, longer than LONGEST_PATH.
    """
    if not path or path.startswith("/") or len(path) > LONGEST_PATH or _CONTROL.search(path):
        raise IntegrityError(f"not an acceptable path in an archive: {path!r}")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise IntegrityError(f"not an acceptable path in an archive: {path!r}")
    return path


@dataclasses.dataclass(frozen=True)
class Member:
    """One gzip member: ``c_*`` say where it is in the object, ``u_*`` which bytes of the tar it holds."""

    c_off: int
    c_len: int
    u_off: int
    u_len: int
    crc32: int

    @property
    def c_end(self) -> int:
        """First byte of the object after it."""
        return self.c_off + self.c_len

    @property
    def u_end(self) -> int:
        """First byte of the tar after it."""
        return self.u_off + self.u_len


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """One entry of the tar. ``offset`` (of the data in the tar) and ``sha256`` only mean something for files."""

    path: str
    type: str
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    offset: int = 0
    sha256: str = ""
    target: str = ""

    def as_dict(self) -> dict[str, t.Any]:
        """The JSON form, without ``target`` where there is none."""
        value = dataclasses.asdict(self)
        if self.type != LINK:
            del value["target"]
        return value


@dataclasses.dataclass(frozen=True)
class Archive:
    """One object: the data directory (``oid`` None) or a tablespace (``location`` is where it was mounted)."""

    key: str
    oid: int | None
    location: str | None
    size: int
    etag: str
    version_id: str | None
    sha256: str
    uncompressed_size: int
    members: tuple[Member, ...]
    files: tuple[FileEntry, ...]

    def as_dict(self) -> dict[str, t.Any]:
        """The JSON form; members as rows of five numbers."""
        value = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        value["members"] = [list(dataclasses.astuple(member)) for member in self.members]
        value["files"] = [entry.as_dict() for entry in self.files]
        return value


@dataclasses.dataclass(frozen=True)
class ChecksumFailure:
    """A page whose checksum did not match its content; ``block`` counts from the start of the relation's fork."""

    path: str
    block: int


@dataclasses.dataclass(frozen=True)
class BackupIndex:
    """A base backup. Times are ISO 8601 in UTC, positions in the WAL are PostgreSQL's ``0/3000028`` form."""

    name: str
    label: str
    started: str
    stopped: str
    start_lsn: str
    stop_lsn: str
    timeline: int
    start_segment: str
    stop_segment: str
    system_identifier: str
    version_num: int
    catalog_version: int
    wal_segment_size: int
    block_size: int
    checksums: bool
    checksum_failures: tuple[ChecksumFailure, ...]
    manifest_key: str
    archives: tuple[Archive, ...]

    def as_dict(self) -> dict[str, t.Any]:
        """The JSON form of the ``backup`` part."""
        value = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        value["checksum_failures"] = [dataclasses.asdict(failure) for failure in self.checksum_failures]
        value["archives"] = [archive.as_dict() for archive in self.archives]
        return value

    def to_bytes(self) -> bytes:
        """The object's content: gzip'd JSON, the same bytes for the same index."""
        backup = self.as_dict()
        text = json.dumps({"format": FORMAT, "sha256": _digest(backup), "backup": backup}, separators=(",", ":"))
        return gzip.compress(text.encode("ascii"), 6, mtime=0)

    @classmethod
    def from_bytes(cls, data: bytes) -> BackupIndex:
        """Read and verify. Raises IntegrityError when anything at all is wrong with it."""
        content = _Fields(_unpack(data), "index")
        if content.integer("format") != FORMAT:
            raise IntegrityError(f"index format {content.integer('format')} is unknown: this release reads format {FORMAT}")
        backup = content.mapping("backup")
        if content.text("sha256") != _digest(backup):
            raise IntegrityError("the index's own checksum does not match its content")
        return _backup(_Fields(backup, "backup"))

    @property
    def data_directory(self) -> Archive:
        """The archive of the data directory."""
        return self.archives[0]


def _digest(value: t.Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def _unpack(data: bytes) -> t.Any:
    engine = zlib.decompressobj(31)
    try:
        text = engine.decompress(data, LARGEST_INDEX)
        if not engine.eof or engine.unused_data:
            raise IntegrityError("the index is cut off, too large or followed by something else")
        return json.loads(text)
    except (zlib.error, ValueError) as error:
        raise IntegrityError(f"the index cannot be read: {error}") from error


def _is_count(value: t.Any) -> bool:
    """JSON's true and false are integers to Python; here they are not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class _Fields:
    """Values of a JSON object, each checked for its type when it is taken."""

    def __init__(self, value: t.Any, what: str) -> None:
        if not isinstance(value, dict):
            raise IntegrityError(f"{what} in the index is not an object")
        self._value: dict[str, t.Any] = value
        self._what = what

    def _wrong(self, name: str) -> IntegrityError:
        return IntegrityError(f"{self._what}.{name} in the index is missing or not acceptable: {self._value.get(name)!r:.200}")

    def text(self, name: str, pattern: re.Pattern[str] | None = None) -> str:
        value = self._value.get(name)
        if not isinstance(value, str) or _CONTROL.search(value) or (pattern and not pattern.fullmatch(value)):
            raise self._wrong(name)
        return value

    def optional_text(self, name: str) -> str | None:
        return None if self._value.get(name) is None else self.text(name)

    def integer(self, name: str) -> int:
        value: t.Any = self._value.get(name)
        if not _is_count(value):
            raise self._wrong(name)
        return int(value)

    def optional_integer(self, name: str) -> int | None:
        return None if self._value.get(name) is None else self.integer(name)

    def boolean(self, name: str) -> bool:
        value = self._value.get(name)
        if not isinstance(value, bool):
            raise self._wrong(name)
        return value

    def mapping(self, name: str) -> dict[str, t.Any]:
        value = self._value.get(name)
        if not isinstance(value, dict):
            raise self._wrong(name)
        return value

    def rows(self, name: str) -> list[t.Any]:
        value = self._value.get(name)
        if not isinstance(value, list):
            raise self._wrong(name)
        return value


def _backup(fields: _Fields) -> BackupIndex:
    failures = [_Fields(row, "checksum_failures") for row in fields.rows("checksum_failures")]
    archives = tuple(_archive(_Fields(row, f"archives[{number}]")) for number, row in enumerate(fields.rows("archives")))
    oids = [archive.oid for archive in archives]
    if not archives or oids[0] is not None or None in oids[1:] or len(set(oids)) != len(oids):
        raise IntegrityError("the index does not name exactly one archive of the data directory, first")
    return BackupIndex(
        name=fields.text("name"),
        label=fields.text("label"),
        started=fields.text("started"),
        stopped=fields.text("stopped"),
        start_lsn=fields.text("start_lsn", _LSN),
        stop_lsn=fields.text("stop_lsn", _LSN),
        timeline=fields.integer("timeline"),
        start_segment=fields.text("start_segment", _SEGMENT),
        stop_segment=fields.text("stop_segment", _SEGMENT),
        system_identifier=fields.text("system_identifier", re.compile(r"\d{1,20}")),
        version_num=fields.integer("version_num"),
        catalog_version=fields.integer("catalog_version"),
        wal_segment_size=fields.integer("wal_segment_size"),
        block_size=fields.integer("block_size"),
        checksums=fields.boolean("checksums"),
        checksum_failures=tuple(ChecksumFailure(row.text("path"), row.integer("block")) for row in failures),
        manifest_key=fields.text("manifest_key"),
        archives=archives,
    )


def _archive(fields: _Fields) -> Archive:
    archive = Archive(
        key=fields.text("key"),
        oid=fields.optional_integer("oid"),
        location=fields.optional_text("location"),
        size=fields.integer("size"),
        etag=fields.text("etag"),
        version_id=fields.optional_text("version_id"),
        sha256=fields.text("sha256", _HEX256),
        uncompressed_size=fields.integer("uncompressed_size"),
        members=tuple(_member(row) for row in fields.rows("members")),
        files=tuple(_file(_Fields(row, "files")) for row in fields.rows("files")),
    )
    _check_members(archive)
    _check_files(archive)
    return archive


def _member(row: t.Any) -> Member:
    if not isinstance(row, list) or len(row) != 5 or not all(_is_count(value) for value in row):
        raise IntegrityError(f"a member in the index is not five numbers: {row!r:.200}")
    return Member(*row)


def _file(fields: _Fields) -> FileEntry:
    kind = fields.text("type", re.compile("[fdl]"))
    return FileEntry(
        path=safe_path(fields.text("path")),
        type=kind,
        mode=fields.integer("mode") & 0o7777,
        uid=fields.integer("uid"),
        gid=fields.integer("gid"),
        mtime=fields.integer("mtime"),
        size=fields.integer("size"),
        offset=fields.integer("offset"),
        sha256=fields.text("sha256", _HEX256 if kind == FILE else None),
        target=fields.text("target") if kind == LINK else "",
    )


def _check_members(archive: Archive) -> None:
    c_off = u_off = 0
    for member in archive.members:
        if (member.c_off, member.u_off) != (c_off, u_off):
            raise IntegrityError(f"{archive.key}: the members in the index do not join up at byte {c_off}")
        if not 0 < member.c_len <= LARGEST_MEMBER or not 0 < member.u_len <= LARGEST_MEMBER:
            raise IntegrityError(f"{archive.key}: the member at byte {c_off} has no acceptable length")
        c_off, u_off = member.c_end, member.u_end
    if (c_off, u_off) != (archive.size, archive.uncompressed_size):
        raise IntegrityError(f"{archive.key}: the members in the index do not add up to the archive")


def _check_files(archive: Archive) -> None:
    paths: set[str] = set()
    links: set[str] = set()
    end = 0
    for entry in archive.files:
        if entry.path in paths:
            raise IntegrityError(f"{archive.key}: {entry.path!r} is in the index twice")
        paths.add(entry.path)
        if entry.type == LINK:
            links.add(entry.path)
        elif entry.type == FILE:
            if entry.offset < end or entry.offset + entry.size > archive.uncompressed_size:
                raise IntegrityError(f"{archive.key}: {entry.path!r} lies outside its archive or over another file")
            end = entry.offset + entry.size
    for path in paths if links else ():
        if any(parent in links for parent in _parents(path)):
            raise IntegrityError(f"{archive.key}: {path!r} in the index lies below a symbolic link")


def _parents(path: str) -> t.Iterator[str]:
    end = path.find("/")
    while end != -1:
        yield path[:end]
        end = path.find("/", end + 1)
