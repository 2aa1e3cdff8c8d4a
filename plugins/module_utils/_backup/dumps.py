# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dumps in a bucket: their names, manifests, and the pointer to the newest. PRIVATE to the collection.

Below ``database/``: ``<name>.sql.gz`` (plain), ``<name>.dump`` (custom) or ``<name>.dir/...`` (directory), and always
``<name>.manifest.json``: only both together are a dump. ``latest.sql.gz`` and ``latest.dump`` are copies of the newest dump of
their format for people and plain tools; ``latest.json`` names the newest of all. What is called latest is never listed.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, InvalidOption, NotFound, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import ObjectInfo, Store
from ansible_collections.fileforge.ops.plugins.module_utils._time import iso, parse_time

PLACE = "database/"
PLAIN, CUSTOM, DIRECTORY = "plain", "custom", "directory"
FORMATS = {PLAIN: "sql.gz", CUSTOM: "dump", DIRECTORY: "dir"}
"""Format and the ending of its object; of a directory, of the common prefix of its objects."""
MANIFEST = "manifest.json"
LATEST = "latest"
METADATA = {"fileforge-dump": "1"}
"""Marks objects that go with a manifest: without it they are what an unfinished dump left."""
FORMAT_VERSION = 1
_KEY = re.compile(r"(?P<name>[^/]+?)\.(?P<kind>sql\.gz|dump|manifest\.json|dir/.+)\Z")
_NATURAL = re.compile(r"(?P<stamp>\d{4}-\d{2}-\d{2}-\d{4})(?:-(?P<nth>\d+))?\Z")


@dataclasses.dataclass(frozen=True)
class DumpObject:
    """One object of a dump; ``name`` is its key after ``database/``."""

    name: str
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class TableRows:
    """Rows of a table in the dump's snapshot."""

    schema: str
    name: str
    rows: int


@dataclasses.dataclass(frozen=True)
class DumpManifest:
    """What a dump is, and what a restore of it must give."""

    name: str
    format: str
    database: str
    started: str
    finished: str
    """ISO 8601 in UTC."""
    snapshot_time: str
    """When the snapshot was taken: what committed before is in the dump."""
    system_identifier: str
    version_num: int
    """Of the server, as ``server_version_num``."""
    dump_version: str
    """Of pg_dump."""
    encoding: str
    collate: str
    ctype: str
    superuser: str
    """The role that made the cluster; it owns what nobody is named for."""
    roles: t.Tuple[str, ...]
    """Roles that own or may use something in the database; a dump does not bring them."""
    tablespaces: t.Tuple[str, ...]
    database_bytes: int
    content_bytes: int
    """Bytes of a plain dump before compression; 0 for other formats."""
    content_sha256: str
    """Of the same bytes; empty for other formats."""
    large_objects: int
    objects: t.Tuple[DumpObject, ...]
    tables: t.Tuple[TableRows, ...]

    @property
    def size(self) -> int:
        """Bytes of its objects in the bucket."""
        return sum(item.size for item in self.objects)

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.rows for table in self.tables)

    def to_bytes(self) -> bytes:
        """JSON that a person can read, too."""
        value = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> DumpManifest:
        """Raises IntegrityError for anything that ``to_bytes`` did not write."""
        try:
            value = json.loads(data)
            version = value.pop("format_version")
            if version != FORMAT_VERSION:
                raise ValueError(f"its format version is {version}, this program knows {FORMAT_VERSION}")
            value["objects"] = tuple(DumpObject(**item) for item in value["objects"])
            value["tables"] = tuple(TableRows(**item) for item in value["tables"])
            value["roles"], value["tablespaces"] = tuple(value["roles"]), tuple(value["tablespaces"])
            manifest = cls(**value)
            manifest.check()
        except (ValueError, TypeError, KeyError, AttributeError, InvalidOption) as error:
            raise IntegrityError(f"not the manifest of a dump: {error}") from error
        return manifest

    def check(self) -> None:
        """Raise ValueError for what cannot be: a format nobody writes, no objects, names that lead elsewhere."""
        parse_time(self.finished, "finished")
        if self.format not in FORMATS or not self.objects:
            raise ValueError(f"format {self.format!r} with {len(self.objects)} objects")
        ending = f"{self.name}.{FORMATS[self.format]}"
        for item in self.objects:
            inner = item.name[len(ending) + 1 :]
            fits = item.name.startswith(f"{ending}/") and inner.strip(".") and "/" not in inner
            if not (fits if self.format == DIRECTORY else item.name == ending):
                raise ValueError(f"object {item.name!r}")
            if not re.match(r"[0-9a-f]{64}\Z", item.sha256) or item.size < 0:
                raise ValueError(f"object {item.name!r} has no checksum")


class Dump:
    """One dump. Beyond names and sizes, everything is read from the bucket when first asked for."""

    def __init__(self, store: Store, prefix: str, name: str, objects: dict[str, ObjectInfo]) -> None:
        self._store = store
        self._prefix = prefix
        self.name = name
        self.objects = objects
        """By name after ``database/``."""
        self._manifest: DumpManifest | None = None
        self._marked: bool | None = None

    @property
    def manifest_key(self) -> str:
        """Key of its manifest."""
        return f"{self._prefix}{PLACE}{self.name}.{MANIFEST}"

    @property
    def has_manifest(self) -> bool:
        """Whether its manifest is there."""
        return f"{self.name}.{MANIFEST}" in self.objects

    @property
    def content(self) -> dict[str, ObjectInfo]:
        """Its objects without the manifest."""
        return {name: item for name, item in self.objects.items() if not name.endswith(f".{MANIFEST}")}

    @property
    def format(self) -> str:
        """By the names of its objects."""
        for kind, ending in FORMATS.items():
            if any(name.startswith(f"{self.name}.{ending}") for name in self.content):
                return kind
        return ""

    @property
    def key(self) -> str:
        """Key of its object; of a directory, their common prefix."""
        ending = f"{FORMATS[self.format]}{'/' if self.format == DIRECTORY else ''}" if self.format else MANIFEST
        return f"{self._prefix}{PLACE}{self.name}.{ending}"

    @property
    def size(self) -> int:
        """Bytes of its objects."""
        return sum(item.size for item in self.content.values())

    @property
    def marked(self) -> bool:
        """Whether it was made by this collection, so that without a manifest it was never finished."""
        if self._marked is None:
            first = next(iter(self.content.values()), None)
            metadata = self._store.head(first.key).metadata if first is not None else METADATA
            self._marked = any(metadata.get(name) == value for name, value in METADATA.items())
        return self._marked

    @property
    def plain(self) -> bool:
        """Neither manifest nor mark: somebody else's, such as the runbook's own."""
        return not self.has_manifest and not self.marked

    @property
    def problem(self) -> str:
        """Why it cannot be verified against a manifest; empty when it can, as far as its objects tell."""
        if not self.has_manifest:
            return "it has no manifest" if self.plain else "its manifest is missing: the dump was never finished"
        if not self.content:
            return "there is nothing but its manifest: the dump was never finished"
        try:
            manifest = self.manifest()
        except IntegrityError as error:
            return error.message
        for item in manifest.objects:
            found = self.objects.get(item.name)
            if found is None:
                return f"{item.name} is missing"
            if found.size != item.size:
                return f"{item.name} has {found.size} bytes, its manifest promises {item.size}"
        return ""

    @property
    def complete(self) -> bool:
        """Whether manifest and objects are there."""
        return not self.problem

    def manifest(self) -> DumpManifest:
        """Raises Refused (``manifest_missing``) and IntegrityError."""
        if self._manifest is None:
            if not self.has_manifest:
                raise Refused(
                    "manifest_missing",
                    f"the dump {self.key} has no manifest",
                    hint="it was never finished, or was not made by postgres_dump: choose another dump",
                )
            try:
                self._manifest = DumpManifest.from_bytes(self._store.get(self.manifest_key))
            except IntegrityError as error:
                raise IntegrityError(f"{self.manifest_key}: {error.message}", hint="choose another dump") from error
            if self._manifest.name != self.name:
                self._manifest = None
                raise IntegrityError(f"{self.manifest_key}: it is the manifest of another dump", hint="choose another dump")
        return self._manifest

    @property
    def made(self) -> datetime.datetime | None:
        """When it was finished, or else when its object was stored."""
        if self.has_manifest:
            try:
                return parse_time(self.manifest().finished, "finished")
            except IntegrityError:
                pass
        times = [item.last_modified for item in self.objects.values() if item.last_modified is not None]
        return max(times, default=None)

    def as_dict(self) -> dict[str, t.Any]:
        """The shape that modules return."""
        problem = self.problem
        value: dict[str, t.Any] = {
            "name": self.name,
            "key": self.key,
            "format": self.format,
            "bytes": self.size,
            "modified": iso(self.made),
            "complete": not problem,
            "problem": problem,
        }
        if not problem:
            manifest = self.manifest()
            value.update(
                database=manifest.database,
                finished=manifest.finished,
                snapshot_time=manifest.snapshot_time,
                version_num=manifest.version_num,
                system_identifier=manifest.system_identifier,
                tables=len(manifest.tables),
                rows=manifest.rows,
            )
        return value


def list_dumps(store: Store, prefix: str = "") -> list[Dump]:
    """Everything below ``database/`` but what is called latest, by name (which is by start time), unfinished ones too."""
    place = f"{prefix}{PLACE}"
    groups: dict[str, dict[str, ObjectInfo]] = {}
    for item in store.list(place):
        match = _KEY.match(item.key[len(place) :])
        if match is not None and match["name"] != LATEST:
            groups.setdefault(match["name"], {})[item.key[len(place) :]] = item
    return [Dump(store, prefix, name, groups[name]) for name in sorted(groups, key=natural)]


def natural(name: str) -> tuple[t.Any, ...]:
    """Sorts 2026-11-23-1405, -2, -10 in the order in which they were made."""
    match = _NATURAL.match(name)
    return (match["stamp"], int(match["nth"] or 1), name) if match else (name, 0, name)


def newest_complete(dumps: t.Sequence[Dump]) -> Dump | None:
    """The newest that has all it needs."""
    return next((dump for dump in reversed(dumps) if dump.has_manifest and dump.complete), None)


def latest_keys(prefix: str, kind: str) -> tuple[str, str]:
    """Key of the pointer, and key of the copy of the newest dump of that format (empty for directories)."""
    copy = "" if kind == DIRECTORY else f"{prefix}{PLACE}{LATEST}.{FORMATS[kind]}"
    return f"{prefix}{PLACE}{LATEST}.json", copy


def read_pointer(store: Store, prefix: str = "") -> str | None:
    """Name of the dump that ``latest.json`` names; None when there is no pointer. Raises IntegrityError."""
    key, _copy = latest_keys(prefix, PLAIN)
    try:
        value = json.loads(store.get(key))
        return str(value["name"])
    except NotFound as error:
        if error.state.get("reason") == "bucket":
            raise
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{key}: not the pointer to a dump: {error}") from error
