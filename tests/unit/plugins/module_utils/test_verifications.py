# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records of verifications, and the check that is made of them."""

from __future__ import annotations

import dataclasses
import datetime
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup import verifications
from ansible_collections.fileforge.ops.plugins.module_utils._backup.catalog import Catalog
from ansible_collections.fileforge.ops.plugins.module_utils._backup.report import Limits, Report
from ansible_collections.fileforge.ops.plugins.module_utils._backup.verifications import Verification
from ansible_collections.fileforge.ops.plugins.module_utils._checks import Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError

from tests.unit.plugins.module_utils.test_dumps import bucket, manifest_of
from tests.unit.plugins.module_utils.wal_builder import Place

NOW = datetime.datetime(2026, 11, 23, 20, 0, tzinfo=datetime.timezone.utc)
DAY = 86400


class Bucket(Place):
    """That can be written to."""

    def put(self, key: str, data: bytes, **_options: t.Any) -> None:
        self.objects[key] = data


def record(age: float, status: str = "ok", kind: str = "dump", backup: str = "good") -> Verification:
    ended = (NOW - datetime.timedelta(seconds=age)).isoformat()
    checks = ({"id": "verify.checksum", "status": status, "summary": "what it said"},)
    return Verification(kind, backup, f"database/{backup}.sql.gz", status, ended, ended, "db1", checks, (), {"rows": 7})


def verified(*records: Verification, limit: int = 8 * DAY, dumps: t.Sequence[str] = ("good",)) -> Check | None:
    place = Bucket(bucket(*[manifest_of(name) for name in dumps]).objects)
    store = t.cast("t.Any", place)
    for item in records:
        verifications.save(store, "", item)
    place.objects["verification/9999-strange.json"] = b"no record"
    report = Report(Catalog.load(store, ""), Limits(60, 1000, None, limit), NOW)
    return next((check for check in report.checks() if check.id == "backup.verified"), None)


def test_a_record_is_read_as_it_was_written() -> None:
    item = record(60)
    assert Verification.from_bytes(item.to_bytes()) == item
    assert item.key_below("p/") == "p/verification/2026-11-23T195900.000000Z-dump-good.json"


NO_TIME = dataclasses.replace(record(1), finished="yesterday").to_bytes()
NO_CHECK = dataclasses.replace(record(1), checks=({"id": "verify.checksum"},)).to_bytes()
NO_STATUS = dataclasses.replace(record(1), checks=({"id": "verify.checksum", "status": "fine"},)).to_bytes()


STRANGE = [b"", b"{}", b"[]", record(1).to_bytes().replace(b'"ok"', b'"fine"'), b"\xff", NO_TIME, NO_CHECK, NO_STATUS]


@pytest.mark.parametrize("data", STRANGE)
def test_what_is_no_record(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="not the record of a verification"):
        Verification.from_bytes(data)


def test_newest_first_whatever_else_is_there() -> None:
    place = Bucket()
    store = t.cast("t.Any", place)
    for age in (500, 100, 300):
        verifications.save(store, "", record(age, backup=str(age), kind="base" if age == 100 else "dump"))
    place.objects["verification/2999.json"] = b"strange"
    found = list(verifications.newest_first(store))
    assert [item.backup for item in found] == ["100", "300", "500"]
    newest = verifications.last(found, kind="dump")
    assert newest is not None and newest.backup == "300"


def test_never_verified_is_a_warning_and_can_be_not_asked_for() -> None:
    check = verified()
    assert check is not None and (check.status, check.summary) == ("warning", "no backup was ever verified")
    assert verified(limit=0) is None


def test_young_and_old() -> None:
    young = verified(record(2 * DAY))
    assert young is not None and young.status == "ok" and "of dump good was 48 h 00 min ago" in young.summary
    old = verified(record(9 * DAY))
    assert old is not None and old.status == "warning" and "backup-verify" in old.hint


def test_a_bad_verdict_on_the_newest_backup_is_critical() -> None:
    check = verified(record(3 * DAY), record(DAY, "critical"))
    assert check is not None and check.status == "critical"
    assert "ended critical: what it said; good was 72 h 00 min ago" in check.summary
    assert check.evidence["newest"]["status"] == "critical" and check.evidence["good"]["status"] == "ok"


def test_a_bad_verdict_on_an_older_backup_is_a_warning_until_the_new_one_is_verified() -> None:
    bad = record(DAY, "critical", backup="bad")
    check = verified(bad, dumps=("bad", "good"))
    assert check is not None and check.status == "warning" and "no backup was ever found good" in check.summary
    after = verified(bad, record(60), dumps=("bad", "good"))
    assert after is not None and after.status == "ok"


def slow(age: float, verdict: str = "ok", backup: str = "good") -> Verification:
    late = {"id": "verify.time", "status": "critical", "summary": "restored in 5 h of 4 h that it may take", "hint": "raise jobs"}
    item = record(age, verdict, backup=backup)
    return dataclasses.replace(item, status="critical", checks=(late, *item.checks))


def test_slow_is_not_bad() -> None:
    check = verified(slow(DAY))
    assert check is not None and (check.status, check.hint) == ("warning", "raise jobs")
    assert check.summary.endswith("24 h 00 min ago; the backup is good, but was restored in 5 h of 4 h that it may take")
    assert check.evidence["good"]["finished"] == slow(DAY).finished
    faster = verified(slow(DAY), record(60))
    assert faster is not None and faster.status == "ok"


@pytest.mark.parametrize(("verdict", "status"), [("critical", "critical"), ("unknown", "warning")])
def test_slow_and_bad_is_bad_and_says_why(verdict: str, status: str) -> None:
    check = verified(slow(DAY, verdict))
    assert check is not None and check.status == status
    assert f"ended {verdict}" in check.summary and "may take" not in check.summary


def test_could_not_look_is_no_good_verdict() -> None:
    check = verified(record(DAY, "unknown"))
    assert check is not None and check.status == "warning" and "ended unknown" in check.summary
