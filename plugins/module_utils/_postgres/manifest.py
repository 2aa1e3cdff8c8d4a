# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backup manifest of PostgreSQL 13 and later, as pg_verifybackup and pg_combinebackup read it. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import re
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError

UTC = datetime.timezone.utc
_LAST = re.compile(rb'"Manifest-Checksum": "([0-9a-f]{64})"\}\n?\Z')


@dataclasses.dataclass(frozen=True)
class ManifestFile:
    """A file of the backup; paths of tablespaces begin with ``pg_tblspc/<oid>/``."""

    path: str
    size: int
    mtime: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class WalRange:
    """WAL that must be replayed."""

    timeline: int
    start_lsn: str
    end_lsn: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a backup consists of. Version 2 (PostgreSQL 17) also names the system."""

    files: tuple[ManifestFile, ...]
    ranges: tuple[WalRange, ...]
    system_identifier: str | None = None

    def to_bytes(self) -> bytes:
        """The manifest file. Its last line is the SHA-256 of all lines before it."""
        lines = [f'{{ "PostgreSQL-Backup-Manifest-Version": {1 if self.system_identifier is None else 2},']
        if self.system_identifier is not None:
            lines.append(f'"System-Identifier": {int(self.system_identifier)},')
        lines.append('"Files": [')
        lines += _joined(_file_line(file) for file in self.files)
        lines += ["],", '"WAL-Ranges": [']
        lines += _joined(_range_line(part) for part in self.ranges)
        lines.append("],")
        text = "".join(f"{line}\n" for line in lines).encode("ascii")
        return text + f'"Manifest-Checksum": "{hashlib.sha256(text).hexdigest()}"}}\n'.encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read and verify a manifest whose checksums are SHA-256. Raises IntegrityError."""
        last = _LAST.search(data)
        if last is None or hashlib.sha256(data[: last.start()]).hexdigest() != last[1].decode():
            raise IntegrityError("the backup manifest's own checksum does not match its content")
        try:
            content = json.loads(data)
            version = content["PostgreSQL-Backup-Manifest-Version"]
            if version not in (1, 2):
                raise IntegrityError(f"backup manifest version {version} is unknown")
            return cls(
                tuple(_file(row) for row in content["Files"]),
                tuple(WalRange(row["Timeline"], row["Start-LSN"], row["End-LSN"]) for row in content["WAL-Ranges"]),
                str(content["System-Identifier"]) if version == 2 else None,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"the backup manifest cannot be read: {error!r}") from error


def _joined(lines: t.Iterable[str]) -> list[str]:
    """Every line but the last ends in a comma."""
    found = list(lines)
    return [f"{line}," for line in found[:-1]] + found[-1:]


def _file_line(file: ManifestFile) -> str:
    raw = file.path.encode("utf-8", "surrogateescape")
    try:
        name = f'"Path": {json.dumps(raw.decode("utf-8"))}'
    except UnicodeDecodeError:
        name = f'"Encoded-Path": "{raw.hex()}"'
    modified = datetime.datetime.fromtimestamp(file.mtime, UTC).strftime("%Y-%m-%d %H:%M:%S GMT")
    return (
        f'{{ {name}, "Size": {file.size}, "Last-Modified": "{modified}", '
        f'"Checksum-Algorithm": "SHA256", "Checksum": "{file.sha256}" }}'
    )


def _range_line(part: WalRange) -> str:
    return f'{{ "Timeline": {part.timeline}, "Start-LSN": "{part.start_lsn}", "End-LSN": "{part.end_lsn}" }}'


def _file(row: dict[str, t.Any]) -> ManifestFile:
    encoded = row.get("Encoded-Path")
    path = row["Path"] if encoded is None else bytes.fromhex(encoded).decode("utf-8", "surrogateescape")
    if row["Checksum-Algorithm"] != "SHA256":
        raise IntegrityError(f"{path!r} in the backup manifest has a {row['Checksum-Algorithm']} checksum; only SHA256 is read")
    modified = datetime.datetime.strptime(row["Last-Modified"], "%Y-%m-%d %H:%M:%S GMT").replace(tzinfo=UTC)
    return ManifestFile(path, row["Size"], int(modified.timestamp()), row["Checksum"])
