# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Expiry of backups that a real server made, in a real bucket; what stays is restored by a real recovery."""

from __future__ import annotations

import datetime
import typing as t
import uuid
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup.catalog import Catalog
from ansible_collections.fileforge.ops.plugins.module_utils._backup.expire_run import ExpireOptions, run_expiry
from ansible_collections.fileforge.ops.plugins.module_utils._errors import Refused
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import Store
from ansible_collections.fileforge.ops.plugins.module_utils._time import now

from tests.integration.restore_source import Restored, Source, restore
from tests.lab.facts import wal_interpreter
from tests.lab.place import give
from tests.lab.s3 import S3Server
from tests.unit.plugins.module_utils.test_expire_run import Bucket

MODULE = "postgres_backup_expire"
DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def source(session_place: Path, s3: S3Server) -> t.Iterator[Source]:
    """Three backups, with marked rows and several WAL segments after each."""
    place = session_place / f"expire-{uuid.uuid4().hex[:6]}"
    place.mkdir(mode=0o755)
    give(place)
    made = Source.create(place, s3, s3.create_bucket(f"expire-{uuid.uuid4().hex[:8]}"), tablespace=False)
    try:
        yield made
    finally:
        made.cluster.destroy()


@pytest.fixture(scope="module")
def history(source: Source) -> dict[str, t.Any]:
    """Names of the backups, and for each a time between the first and the second mark after it."""
    told: dict[str, t.Any] = {"names": [], "times": []}
    number = 0
    for _backup in range(3):
        told["names"].append(source.backup())
        for step in range(4):
            moment = source.mark(number := number + 1)
            if step == 0:
                told["times"].append(moment)
                source.mark(number := number + 1)
            source.archive()
    source.cluster.stop()
    return told


def run_at(source: Source, days: float, **more: t.Any) -> dict[str, t.Any]:
    """The engine as it would run so many days from now."""
    options = ExpireOptions(keep_least=1, dump_least=1, **more)
    return run_expiry(Store(source.options), "", options, now() + days * DAY)


def wal_names(source: Source) -> list[str]:
    return sorted(key[4:28] for key in source.keys("wal/") if len(key.split(".")[0]) == 28)


def test_check_run_and_again(source: Source, history: dict[str, t.Any], run_module: t.Any) -> None:
    """Through Ansible: what is old goes, the plan says so before, and young backups stay."""
    client = source.s3.client()
    rubbish = Bucket()
    for name, age in (("2026-01-01-0400", 80), ("2026-01-02-0400", 79)):
        rubbish.dump(name, age)
    for key, data in rubbish.objects.items():
        client.put_object(Bucket=source.bucket, Key=key, Body=data, Metadata=rubbish.metadata.get(key, {}))
    before = source.keys()
    arguments = {**source.s3.options(source.bucket), "dump_least": 1}
    planned = run_module(MODULE, arguments, check=True, diff=True)
    assert planned["changed"] and source.keys() == before
    assert [step["object"] for step in planned["plan"]["steps"]] == ["database/2026-01-01-0400.sql.gz"]
    assert "expire      database/2026-01-01-0400.sql.gz" in planned["output"]
    refused = run_module(MODULE, {**arguments, "plan_digest": "0" * 16}, expect_failure=True)
    assert refused["reason"] == "plan_changed" and source.keys() == before
    confirmed = {**arguments, "plan_digest": planned["plan"]["digest"]}
    done = run_module(MODULE, confirmed, interpreter=wal_interpreter())  # the distribution's Python and boto3
    assert done["plan"]["digest"] == planned["plan"]["digest"]
    assert set(before) - set(source.keys()) == {"database/2026-01-01-0400.sql.gz", "database/2026-01-01-0400.manifest.json"}
    assert not run_module(MODULE, arguments)["changed"]
    assert [item["name"] for item in done["backups"] if item["kept"]] == history["names"]


def test_a_reader_may_plan_but_not_delete(source: Source, run_module: t.Any) -> None:
    client = source.s3.client()
    for key, data in [(k, v) for b in [Bucket()] for _n in [b.dump("2026-01-01-0300", 90)] for k, v in b.objects.items()]:
        client.put_object(Bucket=source.bucket, Key=key, Body=data)
    arguments = {**source.s3.options(source.bucket, reader=True), "dump_least": 1}
    failed = run_module(MODULE, arguments, expect_failure=True)
    assert failed["code"] in ("access_denied", "failed") and "database/2026-01-01-0300.manifest.json" in failed["msg"]
    assert "database/2026-01-01-0300.sql.gz" in list(source.keys("database/"))


def test_old_backups_lose_the_wal_between_them_and_can_be_restored(source: Source, history: dict[str, t.Any], place: Path) -> None:
    """Twenty days on: all three backups stay, the WAL that only led from one to the next is gone, and the first still recovers."""
    before = wal_names(source)
    found = run_at(source, 20)
    assert not [item for item in found["backups"] if not item["kept"]]
    assert found["wal"]["expired"] == len(before) - len(wal_names(source)) > 2
    assert not run_at(source, 20)["changed"]
    target = place / "there"
    target.mkdir(mode=0o755)
    give(target)
    arguments = source.arguments(target / "copy", history["times"][0], backup=history["names"][0])
    copy = Restored(target / "copy", source.cluster.bin_directory)
    try:
        restore(arguments)
        assert copy.marks() == [1]
    finally:
        copy.stop()
    later = source.arguments(target / "other", history["times"][1], backup=history["names"][0])
    with pytest.raises(Refused) as caught:
        restore(later)
    assert caught.value.state["reason"] == "wal_gap", "and what is gone is refused, not restored to somewhere else"


def test_the_last_good_backup_stays_for_ever(source: Source, history: dict[str, t.Any]) -> None:
    """A year without backups."""
    client = source.s3.client()
    client.put_object(Bucket=source.bucket, Key="base/2026-11-01-0100_base.tar.gz", Body=b"", Metadata={"fileforge-format": "1"})
    found = run_at(source, 400)
    assert [item["name"] for item in found["backups"] if item["kept"]] == history["names"][2:]
    catalog = Catalog.load(Store(source.options))
    assert [backup.name for backup in catalog.backups] == history["names"][2:], "the aborted one is gone, too"
    [stretch] = catalog.restorable()
    assert stretch.backup == history["names"][2] and stretch.end is not None
    assert not run_at(source, 800)["changed"]
