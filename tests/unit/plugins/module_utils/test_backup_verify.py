# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a verification needs no server: which backup, which checks, where."""

from __future__ import annotations

import gzip
import os
import pwd
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup import (
    scratch_server,
    verify,
    verify_base,
    verify_common,
    verify_dump,
)
from ansible_collections.fileforge.ops.plugins.module_utils._backup.scratch_server import Place as Scratch
from ansible_collections.fileforge.ops.plugins.module_utils._backup.verify_common import Findings, VerifyOptions
from ansible_collections.fileforge.ops.plugins.module_utils._checks import Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    IntegrityError,
    InvalidOption,
    OpsError,
    Refused,
    WaitTimeout,
)
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.plugins.module_utils.test_catalog import simple
from tests.unit.plugins.module_utils.test_dumps import bucket, manifest_of
from tests.unit.plugins.module_utils.test_verifications import Bucket, record, verifications
from tests.unit.plugins.module_utils.wal_builder import Place


def options(**changes: t.Any) -> VerifyOptions:
    return VerifyOptions(**{"scratch_directory": "/nowhere/verify", **changes})


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "tape"}, {"jobs": 0}, {"timeout": 0}, {"rto": -1}, {"max_age": -1}, {"kind": "base", "minimum_rows": {"files": 1}}],
)
def test_wrong_options(wrong: dict[str, t.Any]) -> None:
    with pytest.raises(InvalidOption):
        options(**wrong).check()
    options(kind="base", database="app", minimum_rows={"files": 1}).check()


def chosen(place: Place, **changes: t.Any) -> str:
    return verify_dump.choose(t.cast("t.Any", place), options(**changes)).name


def test_the_newest_dump_is_what_was_called_latest_even_when_it_is_gone() -> None:
    place = bucket(manifest_of("2026-11-23-1405"), manifest_of("2026-11-23-1405-2"))
    assert chosen(place) == "2026-11-23-1405-2"
    assert chosen(place, backup="2026-11-23-1405") == "2026-11-23-1405"
    place.objects["database/latest.json"] = b'{"name": "2026-11-23-1405"}'
    assert chosen(place) == "2026-11-23-1405-2", "a newer one that died before it was called latest"
    place.objects["database/latest.json"] = b'{"name": "2026-11-23-1405-10"}'
    assert chosen(place) == "2026-11-23-1405-10", "all its objects are gone"
    place.objects["database/latest.json"] = b"strange"
    assert chosen(place) == "2026-11-23-1405-2"


def test_unfinished_dumps_are_passed_over_and_foreign_ones_are_better_than_nothing() -> None:
    place = bucket(manifest_of("2026-11-23-1405"))
    place.objects["database/2026-11-23-1406.sql.gz"] = b"x"
    assert chosen(place) == "2026-11-23-1405"
    del place.objects["database/2026-11-23-1405.sql.gz"]
    assert chosen(place) == "2026-11-23-1406"
    place.metadata["database/2026-11-23-1406.sql.gz"] = {"fileforge-dump": "1"}
    with pytest.raises(Refused) as caught:
        chosen(place)
    assert caught.value.state["reason"] == "no_backups"
    with pytest.raises(Refused) as caught:
        chosen(place, backup="other")
    assert caught.value.state["reason"] == "backup_unknown"


def test_the_newest_base_backup_is_one_that_was_finished() -> None:
    place = simple()
    place.objects["base/2026-11-23-1401_base.tar.gz"] = b""
    place.metadata["base/2026-11-23-1401_base.tar.gz"] = {"fileforge-format": "1"}
    subject = verify_base.choose(t.cast("t.Any", place), options(kind="base"))
    assert subject.name == "2026-11-23-1400"
    assert subject.expected()[:4] == ["verify.manifest", "verify.wal", "verify.checksum", "verify.restore"]
    with pytest.raises(Refused) as caught:
        verify_base.choose(t.cast("t.Any", Place()), options(kind="base"))
    assert caught.value.state["reason"] == "no_backups"
    with pytest.raises(Refused) as caught:
        verify_base.choose(t.cast("t.Any", place), options(kind="base", backup="other"))
    assert caught.value.state["reason"] == "backup_unknown"


@pytest.mark.parametrize(
    ("reason", "status"), [("this_host", "unknown"), ("tablespace_created", "unknown"), ("another", "critical")]
)
def test_a_recovery_that_could_not_go_on_here_says_nothing_about_the_backup(reason: str, status: str) -> None:
    subject = verify_base.choose(t.cast("t.Any", simple()), options(kind="base"))
    progress = Progress()
    progress.timings.append({"phase": "replay"})
    findings = Findings(["verify.restore"])
    subject._failed(OpsError("the server ended during recovery", reason=reason), findings, progress)
    assert [check.status for check in findings.complete()] == [status]


def test_what_was_not_reached_is_unknown() -> None:
    findings = Findings(["a", "b", "c"])
    findings.ok("a", "good")
    findings.bad("b", "broken")
    assert [(check.id, check.status) for check in findings.complete()] == [("a", "ok"), ("b", "critical"), ("c", "unknown")]
    assert "older backup" in findings.complete()[1].hint


def test_the_checks_of_several_databases_are_one() -> None:
    good = Check("x", "ok", "3 of 3 indexes examined", 0, "indexes", evidence=[])
    bad = Check("x", "critical", "1 damaged", 1, "indexes", evidence=[{"relation": "r"}])
    joined = verify_common._joined("x", [("app", good), ("postgres", bad)])
    assert (joined.status, joined.value, joined.summary) == ("critical", 1, "postgres: 1 damaged")
    assert joined.evidence == [{"database": "postgres", "relation": "r"}]
    both = verify_common._joined("x", [("app", good), ("postgres", good)])
    assert (both.status, both.summary) == ("ok", "app: 3 of 3 indexes examined; postgres: 3 of 3 indexes examined")


@pytest.mark.parametrize(("rto", "status"), [(0, "ok"), (1000, "ok"), (10, "critical")])
def test_the_time_it_took(rto: int, status: str) -> None:
    progress = Progress()
    progress.timings += [{"phase": "fetch", "seconds": 8}, {"phase": "restore", "seconds": 2}, {"phase": "verify", "seconds": 5000}]
    findings = Findings([])
    verify_common.time_taken(progress, rto, findings)
    assert (findings.checks[0].status, findings.checks[0].value) == (status, 10)


@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=6), st.data())
@settings(max_examples=80, deadline=None)
def test_a_gzip_is_unpacked_whole_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[bytes], data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "packed.gz"
    members = [gzip.compress(block) for block in blocks]
    packed = b"".join(members)
    path.write_bytes(packed)
    assert b"".join(verify_dump.unpacked(str(path))) == b"".join(blocks)
    ends = {sum(map(len, members[:number])) for number in range(len(members) + 1)}
    cut = data.draw(st.integers(1, len(packed) - 1).filter(lambda number: number not in ends))
    path.write_bytes(packed[:cut])
    with pytest.raises(IntegrityError, match="cannot be unpacked"):
        list(verify_dump.unpacked(str(path)))


def test_what_is_no_gzip(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"not packed")
    with pytest.raises(IntegrityError, match="cannot be unpacked"):
        list(verify_dump.unpacked(str(tmp_path / "x")))


ME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    tmp_path.chmod(0o755)
    return Scratch(str(tmp_path / "verify"), "postgres" if os.geteuid() == 0 else ME)


def test_the_place_is_held_once_and_empty_before_and_after(scratch: Scratch) -> None:
    made = scratch_server.Place(scratch.directory, scratch.owner)
    with scratch.held():
        scratch_server.state.save_record(scratch.data_directory, {"request": {"scratch": True}})
        os.mkdir(scratch.data_directory)
        with pytest.raises(Refused) as caught, made.held():
            pass
        assert caught.value.state["reason"] == "locked"
        assert os.path.isdir(scratch.data_directory)
    assert not os.path.exists(scratch.directory)


def test_what_a_killed_run_left_is_removed(scratch: Scratch) -> None:
    os.mkdir(scratch.directory)
    scratch_server.state.save_record(scratch.data_directory, {"request": {"scratch": True}})
    for path in (scratch.data_directory, scratch.fetched, scratch.tablespaces):
        os.mkdir(path)
    Path(f"{scratch.data_directory}.restore.log").write_text("log")
    assert len(scratch.leftovers().steps) == 5
    with scratch.held():
        assert os.listdir(scratch.directory) == []
    assert os.listdir(scratch.directory) == []


def test_an_error_leaves_nothing_either(scratch: Scratch) -> None:
    with pytest.raises(WaitTimeout), scratch.held():
        scratch_server.state.save_record(scratch.data_directory, {"request": {"scratch": True}})
        os.mkdir(scratch.fetched)
        raise WaitTimeout("too late")
    assert not os.path.exists(scratch.directory)


def test_what_is_not_a_scratch_servers_stays(scratch: Scratch) -> None:
    os.makedirs(scratch.data_directory)
    with pytest.raises(Refused) as caught, scratch.held():
        pass
    assert caught.value.state["reason"] == "not_scratch" and os.path.isdir(scratch.data_directory)


@pytest.mark.parametrize("directory", ["/", "relative"])
def test_impossible_places(directory: str) -> None:
    with pytest.raises(InvalidOption):
        Scratch(directory, ME).check()


def test_a_place_whose_parent_is_missing(tmp_path: Path, scratch: Scratch) -> None:
    with pytest.raises(Refused) as caught:
        Scratch(str(tmp_path / "no" / "verify"), scratch.owner).check()
    assert caught.value.state["reason"] == "parent_missing"


class Subject:
    kind, name, key, size = "dump", "good", "database/good.sql.gz", 3

    def expected(self) -> list[str]:
        return ["verify.manifest"]


def test_a_good_verdict_is_good_for_a_while() -> None:
    place = Bucket()
    store = t.cast("t.Any", place)
    subject = t.cast("t.Any", Subject())
    recent = (verify.now() - record(0).finished_at).total_seconds()

    def young(**changes: t.Any) -> str | None:
        found = verify._young(store, options(**changes), subject)
        return None if found is None else found.backup

    assert young(max_age=100) is None
    verifications.save(store, "", record(-recent + 50))
    assert young(max_age=100) == "good" and young(max_age=40) is None and young() is None
    assert young(max_age=100, kind="base") is None
    assert young(max_age=100, backup="good") == "good" and young(max_age=100, backup="other") is None
    verifications.save(store, "", record(-recent + 10, "critical"))
    assert young(max_age=100) is None, "a bad one after it"
