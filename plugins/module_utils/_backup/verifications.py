# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records of verified backups in the bucket beside the backups, so that anybody can ask when one was last proved. PRIVATE.

``verification/<time>-<kind>-<backup>.json``: by name, the newest comes last.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import OK, STATUSES, worst
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import Store
from ansible_collections.fileforge.ops.plugins.module_utils._time import parse_time

PLACE = "verification/"
DUMP, BASE = "dump", "base"
KINDS = (DUMP, BASE)
FORMAT_VERSION = 1
TIME = "verify.time"
"""The check that says nothing about the backup: how long it took to restore it."""
LOOK_BACK = 200
"""Newest records that are read in search of one."""


@dataclasses.dataclass(frozen=True)
class Verification:
    """One run: what was verified, and what came out."""

    kind: str
    backup: str
    key: str
    status: str
    started: str
    finished: str
    host: str
    checks: t.Tuple[t.Dict[str, t.Any], ...]
    timings: t.Tuple[t.Dict[str, t.Any], ...]
    facts: t.Dict[str, t.Any]

    @property
    def ok(self) -> bool:
        """Whether everything was looked at and found good, and took no longer than it may."""
        return self.status == OK

    @property
    def verdict(self) -> str:
        """The status of the backup itself: slow is not bad."""
        others = [check["status"] for check in self.checks if check["id"] != TIME]
        return worst(others) if others else self.status

    @property
    def finished_at(self) -> datetime.datetime:
        """When it ended."""
        return parse_time(self.finished, "finished")

    def key_below(self, prefix: str) -> str:
        """Where it is kept."""
        stamp = self.finished_at.strftime("%Y-%m-%dT%H%M%S.%fZ")
        return f"{prefix}{PLACE}{stamp}-{self.kind}-{self.backup}.json"

    def to_bytes(self) -> bytes:
        """JSON that a person can read, too."""
        return (
            json.dumps({"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}, indent=1, sort_keys=True) + "\n"
        ).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Verification:
        """Raises IntegrityError for anything that ``to_bytes`` did not write."""
        try:
            value = json.loads(data)
            if value.pop("format_version") != FORMAT_VERSION:
                raise ValueError("its format version is not known")
            value["checks"], value["timings"] = tuple(value["checks"]), tuple(value["timings"])
            record = cls(**value)
            parse_time(record.finished, "finished")
            if record.kind not in KINDS or record.status not in STATUSES or record.verdict not in STATUSES:
                raise ValueError(f"kind {record.kind!r}, status {record.status!r}")
        except (ValueError, TypeError, KeyError, AttributeError, InvalidOption) as error:
            raise IntegrityError(f"not the record of a verification: {error}") from error
        return record

    def as_dict(self) -> dict[str, t.Any]:
        """What a module says of it in few words."""
        names = ("kind", "backup", "key", "status", "started", "finished", "host")
        return {name: getattr(self, name) for name in names}


def save(store: Store, prefix: str, record: Verification) -> str:
    """Write it; its key."""
    key = record.key_below(prefix)
    store.put(key, record.to_bytes(), content_type="application/json", only_if_absent=True)
    return key


def newest_first(store: Store, prefix: str = "", limit: int = LOOK_BACK) -> t.Iterator[Verification]:
    """The newest records; what is none is passed over, because a stranger's object must not hide the others."""
    keys = [item.key for item in store.list(f"{prefix}{PLACE}") if item.key.endswith(".json")]
    for key in sorted(keys, reverse=True)[:limit]:
        try:
            yield Verification.from_bytes(store.get(key))
        except IntegrityError:
            continue


def last(records: t.Iterable[Verification], *, kind: str | None = None, good: bool = False) -> Verification | None:
    """The first of the records (newest first) of that kind; with ``good``, the first that found its backup good."""
    for record in records:
        if kind in (None, record.kind) and (record.verdict == OK or not good):
            return record
    return None
