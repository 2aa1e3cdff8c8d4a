# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Expiry of a bucket in memory: what is read from it, the plan, the order of deletion, and every interruption."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import json
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup.base_backups import list_backups
from ansible_collections.fileforge.ops.plugins.module_utils._backup.catalog import Catalog, plan_recovery
from ansible_collections.fileforge.ops.plugins.module_utils._backup.dumps import DumpManifest, DumpObject, list_dumps
from ansible_collections.fileforge.ops.plugins.module_utils._backup.expire_run import ExpireOptions, Expiry, run_expiry
from ansible_collections.fileforge.ops.plugins.module_utils._backup.verifications import Verification
from ansible_collections.fileforge.ops.plugins.module_utils._backup.wal_store import WalStore
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, PlanChanged, Unavailable
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import ObjectInfo, RunningUpload
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import wal

from tests.unit.plugins.module_utils.wal_builder import SMALL, Place, Wal

NOW = datetime.datetime(2026, 11, 23, 14, tzinfo=datetime.timezone.utc)
DAY = datetime.timedelta(days=1)


class Bucket(Place):
    """A bucket in memory with a clock, deletion that can break off, and unfinished uploads."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: dict[str, datetime.datetime] = {}
        self.deleted: list[str] = []
        self.left = 10_000
        self.uploads: list[RunningUpload] = []

    def _info(self, key: str) -> ObjectInfo:
        return dataclasses.replace(super()._info(key), last_modified=self.stored.get(key, self.modified))

    head = _info

    def delete(self, keys: t.Iterable[str]) -> int:
        count = 0
        for key in keys:
            if not self.left:
                raise Unavailable("the line is cut")
            self.left -= 1
            self.objects.pop(key, None)
            self.deleted.append(key)
            count += 1
        return count

    def running_uploads(self, prefix: str) -> list[RunningUpload]:
        return [item for item in self.uploads if item.key.startswith(prefix)]

    def sweep_uploads(self, prefix: str, older_than_seconds: float) -> list[str]:
        limit = NOW - datetime.timedelta(seconds=older_than_seconds)
        gone = [item for item in self.running_uploads(prefix) if item.initiated <= limit]
        self.uploads = [item for item in self.uploads if item not in gone]
        return [item.key for item in gone]

    # what is put there

    def store(self, key: str, age: float, data: bytes = b"x") -> str:
        self.objects[key] = data
        self.stored[key] = NOW - age * DAY
        return key

    def backup(self, name: str, number: int, age: float) -> None:
        """A backup that begins and ends in one segment."""
        self.add_backup(name, number * SMALL + 40, number * SMALL + 140, NOW - age * DAY)
        for key in [key for key in self.objects if f"/{name}_" in key]:
            self.stored[key] = NOW - age * DAY

    def dump(self, name: str, age: float) -> None:
        """A dump with its manifest."""
        key = f"database/{name}.sql.gz"
        self.store(key, age)
        self.metadata[key] = {"fileforge-dump": "1"}
        item = DumpObject(f"{name}.sql.gz", 1, "0" * 64)
        blank = {field.name: "" for field in dataclasses.fields(DumpManifest)}
        numbers = dict.fromkeys(("version_num", "database_bytes", "content_bytes", "large_objects"), 0)
        lists: dict[str, t.Any] = {"roles": (), "tablespaces": (), "tables": (), "objects": (item,)}
        finished = (NOW - age * DAY).isoformat()
        manifest = DumpManifest(**{**blank, **numbers, **lists, "name": name, "format": "plain", "finished": finished})
        self.store(f"database/{name}.manifest.json", age, manifest.to_bytes())


def history() -> Bucket:
    """A backup every fifth day for 45 days, a segment a day, dumps, and rubbish of each kind."""
    bucket = Bucket()
    made = Wal()
    for day in range(46):
        made.transaction(wal.record_microseconds(NOW - (45.5 - day) * DAY))
        made.fill()
    for number in made.complete:
        bucket.add_wal({made.name(number): made.segment(number)})
        bucket.stored[f"wal/{made.name(number)}.gz"] = NOW - (46 - number) * DAY
    for day in range(1, 46, 5):
        bucket.backup(f"2026-{10 + day // 30}-{1 + day % 30:02d}-0300", day, 46 - day)
    bucket.store(f"wal/{made.name(1)}.00000028.backup", 45)
    for name, age in (("2026-10-01-0400", 50), ("2026-10-02-0400", 49), ("2026-11-20-0400", 3)):
        bucket.dump(name, age)
    return bucket


OPTIONS = ExpireOptions(keep_least=2, dump_least=1)


def expire(bucket: Bucket, options: ExpireOptions = OPTIONS, **more: t.Any) -> dict[str, t.Any]:
    return run_expiry(t.cast("t.Any", bucket), "", options, NOW, **more)


def names(bucket: Bucket) -> list[str]:
    walstore = WalStore.load(t.cast("t.Any", bucket))
    return [item.name for item in list_backups(t.cast("t.Any", bucket), walstore, "")]


def whole(bucket: Bucket) -> None:
    """Every backup that looks complete has its WAL, every dump that looks complete its content."""
    walstore = WalStore.load(t.cast("t.Any", bucket))
    for item in list_backups(t.cast("t.Any", bucket), walstore, ""):
        if item.complete:
            number = item.facts().start_lsn // SMALL
            assert walstore.segment(1, number) is not None, f"{item.name} looks complete but has no WAL"
    for dump in list_dumps(t.cast("t.Any", bucket)):
        assert dump.complete or not dump.has_manifest


def test_plan_and_deed() -> None:
    bucket = history()
    before = dict(bucket.objects)
    planned = expire(bucket, check_mode=True)
    assert bucket.objects == before and planned["changed"]
    kinds = [(step["action"], step["object"].split("/")[0]) for step in planned["plan"]["steps"]]
    assert kinds == [("expire", "base")] * 3 + [("expire", "database")] * 2 + [("expire", "wal")] * len(kinds[5:])
    assert len(kinds) > 7 and planned["plan"]["destructive"]
    done = expire(bucket, plan_digest=planned["plan"]["digest"])
    assert done["plan"] == planned["plan"] and done["bytes"] == sum(
        len(before[key]) for key in bucket.deleted if not key.endswith(".backup")
    )
    assert len(names(bucket)) == 6 and [d.name for d in list_dumps(t.cast("t.Any", bucket))] == ["2026-11-20-0400"]
    assert not [key for key in bucket.objects if key.endswith(".backup")]
    assert done["wal"]["expired"] == len([key for key in bucket.deleted if key.startswith("wal/") and "backup" not in key])
    whole(bucket)
    again = expire(bucket)
    assert not again["changed"] and again["plan"]["steps"] == []


def test_every_backup_that_stays_can_still_be_restored() -> None:
    """Also those whose WAL does not lead to today any more: to the moments right after their end."""
    bucket = history()
    expire(bucket)
    catalog = Catalog.load(t.cast("t.Any", bucket))
    assert len(catalog.usable) == 6
    for backup in catalog.usable:
        stopped = backup.facts().stopped
        assert stopped is not None
        found = plan_recovery(catalog, stopped + DAY / 48, backup=backup.name)
        assert found.backup.name == backup.name and found.segments


def test_what_marks_a_backup_as_complete_goes_first_and_wal_last() -> None:
    bucket = history()
    expire(bucket)
    for key in bucket.deleted:
        place = bucket.deleted.index(key)
        if key.endswith("_base.tar.gz"):
            assert bucket.deleted[place - 1] == key.replace(".tar.gz", ".index.json.gz")
        if key.endswith(".sql.gz"):
            assert bucket.deleted[place - 1] == key.replace(".sql.gz", ".manifest.json")
    kinds = [key.split("/")[0] for key in bucket.deleted]
    assert kinds == sorted(kinds), "base, database, wal"


def test_cut_off_anywhere_nothing_looks_like_a_backup_that_is_none() -> None:
    untouched, total = history(), history()
    expire(total)
    for left in range(len(total.deleted)):
        bucket = copy.deepcopy(untouched)
        bucket.left = left
        with pytest.raises(Unavailable):
            expire(bucket)
        whole(bucket)
        bucket.left = 10_000
        expire(bucket)
        assert bucket.objects.keys() == total.objects.keys(), f"the run after {left} deletions did not finish the work"


def test_another_plan_than_the_confirmed_one_is_refused() -> None:
    bucket = history()
    before = dict(bucket.objects)
    with pytest.raises(PlanChanged):
        expire(bucket, plan_digest="0" * 16)
    assert bucket.objects == before


def test_aborted_backups_and_uploads_go_when_they_are_old() -> None:
    bucket = history()
    for name, age in (("2026-11-20-0100", 3), ("2026-11-23-0100", 0.5)):
        key = bucket.store(f"base/{name}_base.tar.gz", age)
        bucket.metadata[key] = {"fileforge-format": "1"}
        key = bucket.store(f"database/{name}.sql.gz", age)
        bucket.metadata[key] = {"fileforge-dump": "1"}
        bucket.uploads.append(RunningUpload(NOW - age * DAY, f"base/{name}_base.tblspc-1.tar.gz", name))
    found = expire(bucket)
    removed = [step for step in found["plan"]["steps"] if step["action"] in ("remove", "abort")]
    assert [step["object"] for step in removed] == [
        "base/2026-11-20-0100",
        "database/2026-11-20-0100.sql.gz",
        "1 unfinished uploads",
    ]
    assert "never finished" in removed[0]["detail"] and "never finished" in removed[1]["detail"]
    assert [item.upload_id for item in bucket.uploads] == ["2026-11-23-0100"]
    assert "base/2026-11-23-0100_base.tar.gz" in bucket.objects and "database/2026-11-23-0100.sql.gz" in bucket.objects


def test_what_somebody_named_by_hand_is_left_alone() -> None:
    bucket = history()
    bucket.store("base/golden_base.tar.gz", 400)
    bucket.store("database/before-migration.sql.gz", 400)
    bucket.store("database/latest.sql.gz", 400)
    bucket.store("base/notes.txt", 400)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "ansible_collections.fileforge.ops.plugins.module_utils._backup.base_backups.find_backup_label", lambda *_: None
        )
        found = expire(bucket)
    for key in ("base/golden_base.tar.gz", "database/before-migration.sql.gz", "database/latest.sql.gz", "base/notes.txt"):
        assert key in bucket.objects
    reasons = {item["name"]: item["reason"] for item in [*found["backups"], *found["dumps"]]}
    assert "remove it by hand" in reasons["golden"] and "remove it by hand" in reasons["before-migration"]


def test_the_dump_that_latest_names_stays() -> None:
    bucket = history()
    bucket.store("database/latest.json", 49, json.dumps({"name": "2026-10-02-0400"}).encode())
    expire(bucket)
    assert [dump.name for dump in list_dumps(t.cast("t.Any", bucket))] == ["2026-10-02-0400", "2026-11-20-0400"]


def test_dumps_that_stopped_do_not_expire_to_nothing() -> None:
    bucket = Bucket()
    for day in range(5):
        bucket.dump(f"2026-01-0{day + 1}-0400", 300 - day)
    expire(bucket, ExpireOptions(dump_least=2))
    assert [dump.name for dump in list_dumps(t.cast("t.Any", bucket))] == ["2026-01-04-0400", "2026-01-05-0400"]


def verified(bucket: Bucket, kind: str, name: str, status: str, age: float, *checks: dict[str, t.Any]) -> None:
    time = (NOW - age * DAY).isoformat()
    record = Verification(kind, name, "", status, time, time, "host", checks, (), {})
    bucket.store(record.key_below(""), age, record.to_bytes())


def test_what_its_last_verification_found_bad_is_not_what_stays() -> None:
    bucket = history()
    verified(bucket, "base", "2026-11-12-0300", "unknown", 0.5)  # it could not look
    verified(bucket, "base", "2026-11-12-0300", "critical", 1)
    verified(bucket, "base", "2026-11-12-0300", "ok", 3)
    verified(bucket, "base", "2026-11-07-0300", "ok", 1)
    verified(bucket, "base", "2026-11-07-0300", "critical", 3)
    verified(bucket, "dump", "2026-11-20-0400", "critical", 1)
    later = NOW + 300 * DAY
    found = run_expiry(t.cast("t.Any", bucket), "", ExpireOptions(keep_least=1, dump_least=1), later, check_mode=True)
    kept = {item["name"] for item in [*found["backups"], *found["dumps"]] if item["kept"]}
    reasons = {item["name"]: item["reason"] for item in found["backups"]}
    assert kept == {"2026-11-07-0300", "2026-11-12-0300", "2026-10-02-0400"}
    assert reasons["2026-11-12-0300"] == "made after 2026-11-07-0300, which stays"
    assert reasons["2026-11-07-0300"] == "one of the 1 newest good backups"


def test_what_was_only_slow_to_restore_is_what_stays() -> None:
    bucket = history()
    checks = ({"id": "verify.checksum", "status": "ok"}, {"id": "verify.time", "status": "critical"})
    for kind, name in (("base", "2026-11-12-0300"), ("dump", "2026-11-20-0400")):
        verified(bucket, kind, name, "critical", 1, *checks)
    later = NOW + 300 * DAY
    found = run_expiry(t.cast("t.Any", bucket), "", ExpireOptions(keep_least=1, dump_least=1), later, check_mode=True)
    assert {item["name"] for item in [*found["backups"], *found["dumps"]] if item["kept"]} == {"2026-11-12-0300", "2026-11-20-0400"}


def test_an_index_that_cannot_be_read_stops_wal_expiry_and_says_so() -> None:
    bucket = history()
    bucket.objects["base/2026-11-12-0300_base.index.json.gz"] = b"rubbish"
    found = expire(bucket)
    assert found["wal"]["expired"] == 0 and "2026-11-12-0300" in found["warnings"][0]
    assert found["plan"]["notes"] == found["warnings"]
    assert not [key for key in bucket.deleted if key.startswith("wal/")]


def test_credentials_that_may_not_list_uploads_are_no_reason_to_fail() -> None:
    bucket = history()

    def denied(prefix: str) -> list[RunningUpload]:
        raise Unavailable("not today")

    bucket.running_uploads = denied  # type: ignore[method-assign]
    assert "unfinished uploads below base/ were not looked for" in expire(bucket)["warnings"][0]


@pytest.mark.parametrize("wrong", [{"keep_least": 0}, {"wal_days": 0.5}, {"dump_days": -1}, {"keep_days": 3, "wal_days": 7}])
def test_wrong_options(wrong: dict[str, t.Any]) -> None:
    with pytest.raises(InvalidOption):
        Expiry(t.cast("t.Any", Bucket()), "", ExpireOptions(**wrong), NOW)


def test_an_empty_bucket() -> None:
    found = expire(Bucket())
    assert not found["changed"] and found["warnings"] == []
