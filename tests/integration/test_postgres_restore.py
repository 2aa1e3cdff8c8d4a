# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""postgres_restore with real servers: restores, second runs, refusals that touch nothing, and death at every point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
import uuid
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, OpsError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import running_server

from tests.integration.restore_faults import POINTS
from tests.integration.restore_source import Restored, Source, engine, restore, snapshot
from tests.lab import ROOT
from tests.lab.facts import wal_interpreter
from tests.lab.place import give
from tests.lab.s3 import S3Server


@pytest.fixture(scope="module")
def shared_place(session_place: Path) -> Path:
    place = session_place / f"restore-{uuid.uuid4().hex[:6]}"
    place.mkdir(mode=0o755)
    give(place)
    return place


class Shared(t.NamedTuple):
    source: Source
    oldest: str
    """Before every backup."""
    first: str
    """After mark 1, before mark 2."""
    second: str
    truncated: str
    unindexed: str
    good: str


@pytest.fixture(scope="module")
def shared(shared_place: Path, s3: S3Server) -> t.Iterator[Shared]:
    """A source that the tests only read; its restores are scratch copies."""
    bucket = s3.create_bucket(f"shared-{uuid.uuid4().hex[:10]}")
    source = Source.create(shared_place, s3, bucket)
    try:
        oldest = source.now()
        truncated, unindexed, good = source.backup(), source.backup(), source.backup()
        first = source.mark(1)
        source.archive()
        second = source.mark(2)
        source.mark(3)
        source.archive()
        source.cluster.stop()
        yield Shared(source, oldest, first, second, truncated, unindexed, good)
    finally:
        source.cluster.destroy()


@pytest.fixture
def target(place: Path, shared: Shared) -> t.Iterator[Path]:
    """Where a copy goes; its server is stopped at the end."""
    parent = place / "there"
    parent.mkdir(mode=0o755)
    give(parent)
    directory = parent / "copy"
    yield directory
    Restored(directory, shared.source.cluster.bin_directory).stop()


def copied(shared: Shared, directory: Path) -> Restored:
    return Restored(directory, shared.source.cluster.bin_directory)


# Whole restores through Ansible


@pytest.mark.parametrize("version", [15, 18])
def test_restore_in_place(version: int, place: Path, s3: S3Server, bucket: str, run_module: t.Any) -> None:
    source = Source.create(place, s3, bucket, version)
    cluster = source.cluster
    try:
        source.backup()
        between = source.mark(1)
        source.mark(2)
        source.archive()
        arguments = source.arguments(cluster.data_directory, between, stop_running=True)

        shown = run_module("postgres_restore", arguments, check=True, diff=True)
        assert shown["changed"] is True
        assert shown["plan"]["destructive"] is True
        assert "replay" in shown["diff"]["after"]
        assert cluster.running()
        assert run_module("postgres_restore", arguments, check=True)["plan"]["digest"] == shown["plan"]["digest"]

        refused = run_module("postgres_restore", {**arguments, "plan_digest": "0" * 16}, expect_failure=True)
        assert refused["reason"] == "plan_changed"
        assert cluster.running()

        done = run_module("postgres_restore", {**arguments, "plan_digest": shown["plan"]["digest"]})
        assert done["changed"] is True
        assert done["plan"]["digest"] == shown["plan"]["digest"]
        assert cluster.execute("SELECT array_agg(number) FROM mark")[0][0] == [1]
        assert cluster.execute("SELECT count(*) FROM filling")[0][0] == 20000
        assert done["recovery"]["timeline_new"] == 2
        assert done["recovery"]["last_commit"] <= between
        assert [phase["phase"] for phase in done["timings"]] == ["fetch", "sync", "swap", "replay"]
        assert done["transfer"]["copied"] > done["transfer"]["fetched"]
        assert {Path(path).name.split(".before-")[1] for path in done["kept"]} == {done["plan"]["digest"]}
        assert cluster.execute("SHOW recovery_target_time")[0][0] != ""  # of the running server; the files are clean
        assert "recovery_target" not in (cluster.data_directory / "postgresql.auto.conf").read_text()
        assert not [path for path in cluster.root.iterdir() if ".recovery-" in path.name or path.name.endswith(".restore.json")]

        for check in (False, True):
            again = run_module("postgres_restore", arguments, check=check)
            assert again["changed"] is False
            assert again["plan"]["steps"] == []
            assert again["recovery"] == done["recovery"]

        # a restore of the restore: its timeline is archived, and followed
        later = source.mark(10)
        source.mark(11)
        source.archive()
        done = run_module("postgres_restore", {**arguments, "target_time": later})
        assert cluster.execute("SELECT array_agg(number ORDER BY 1) FROM mark")[0][0] == [1, 10]
        assert (done["recovery"]["timeline_old"], done["recovery"]["timeline_new"]) == (2, 3)

        # and back to the first timeline, at a time that it only shares with nobody
        source.mark(20)
        source.archive()
        done = run_module(
            "postgres_restore", {**arguments, "target_time": "latest", "target_timeline": "1", "keep_old": False, "delta": False}
        )
        assert cluster.execute("SELECT array_agg(number ORDER BY 1) FROM mark")[0][0] == [1, 2]
        assert (done["recovery"]["timeline_old"], done["recovery"]["timeline_new"]) == (1, 4)
        assert done["kept"] == []
        assert done["transfer"]["copied"] == 0
    finally:
        cluster.destroy()


def test_scratch_copy(shared: Shared, target: Path, run_module: t.Any) -> None:
    before = snapshot(shared.source.cluster.root)
    keys = shared.source.keys()
    arguments = shared.source.arguments(target, shared.first, scratch=True)
    shown = run_module("postgres_restore", arguments, check=True)
    assert not target.exists()
    done = run_module("postgres_restore", arguments)
    assert done["plan"]["digest"] == shown["plan"]["digest"]
    copy = copied(shared, target)
    assert copy.marks() == [1]
    assert copy.query("SHOW archive_mode") == ["off"]
    assert copy.query("SHOW listen_addresses") == []
    assert copy.query("SHOW max_logical_replication_workers") == ["0"]
    assert copy.query("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'logical replication launcher'") == ["0"]
    assert copy.query("SHOW recovery_target_timeline") != []
    assert (target.parent / "copy.tablespaces").is_dir()
    assert snapshot(shared.source.cluster.root) == before
    assert shared.source.keys() == keys
    assert run_module("postgres_restore", arguments)["changed"] is False
    forced = run_module("postgres_restore", {**arguments, "force": True, "stop_running": True})
    assert forced["changed"] is True
    assert forced["plan"]["digest"] != done["plan"]["digest"]
    assert len(forced["kept"]) == 2
    forced_again = run_module("postgres_restore", {**arguments, "force": True, "stop_running": True, "keep_old": False})
    assert forced_again["kept"] == []
    assert copy.marks() == [1]


def test_latest_reaches_the_end(shared: Shared, target: Path, run_module: t.Any) -> None:
    """With the Python and the libraries of the distribution, where it has them."""
    arguments = shared.source.arguments(target, "latest", scratch=True)
    done = run_module("postgres_restore", arguments, interpreter=wal_interpreter())
    assert copied(shared, target).marks() == [1, 2, 3]
    assert done["recovery"]["target_time"] is None
    assert done["recovery"]["last_commit"] > shared.second


def test_tablespaces_go_where_they_are_mapped(shared: Shared, target: Path) -> None:
    location = target.parent / "elsewhere"
    oid = next(iter(os.listdir(shared.source.cluster.data_directory / "pg_tblspc")))
    restore(shared.source.arguments(target, shared.first, scratch=True, tablespace_map={oid: str(location)}))
    assert os.readlink(target / "pg_tblspc" / oid) == str(location)
    assert copied(shared, target).query("SELECT count(*) FROM filling") == ["20000"]


# Refusals


def deny(run_module: t.Any, arguments: dict[str, t.Any], *places: Path) -> dict[str, t.Any]:
    """Run for real; it must fail and leave every file as it is."""
    before = snapshot(*places)
    result = run_module("postgres_restore", arguments, expect_failure=True)
    assert snapshot(*places) == before
    assert result["msg"]
    assert "Traceback" not in result["msg"]
    return dict(result)


CASES: dict[str, tuple[dict[str, t.Any], str, str]] = {
    "before the oldest backup": ({"target_time": "oldest"}, "target_before_backups", "the oldest ends at"),
    "after the last commit": ({"target_time": "2099-01-01T00:00:00Z"}, "target_unreachable", "the latest reachable time is"),
    "unknown backup": ({"backup": "2020-01-01-0000"}, "backup_unknown", "there is no base backup"),
    "no backups": ({"prefix": "nothing/"}, "no_backups", "there is no base backup"),
    "index missing": ({"backup": "unindexed"}, "index_missing", "index"),
    "truncated archive": ({"backup": "truncated"}, "archive_damaged", "bytes"),
    "unknown timeline": ({"target_timeline": "7"}, "timeline_unknown", "timeline 7"),
    "wrong system": ({"system_identifier": "1234"}, "wrong_system_identifier", "system_identifier says 1234"),
    "bucket missing": ({"s3_bucket": "there-is-no-such-bucket"}, "bucket", "bucket"),
}


@pytest.fixture(scope="module")
def damaged(shared: Shared) -> Shared:
    """Two of its backups are damaged: one lost its index, the archive of the other one was cut at a member's end."""
    client, bucket = shared.source.s3.client(), shared.source.bucket
    client.delete_object(Bucket=bucket, Key=f"base/{shared.unindexed}_base.index.json.gz")
    key = f"base/{shared.truncated}_base.tar.gz"
    found = client.get_object(Bucket=bucket, Key=key)
    content = found["Body"].read()
    end = content.rfind(b"\x1f\x8b\x08")  # the last member: without it the object is still a flawless gzip file
    client.put_object(Bucket=bucket, Key=key, Body=content[:end], Metadata=found["Metadata"])
    return shared


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str, damaged: Shared, target: Path, run_module: t.Any) -> None:
    changes, reason, words = CASES[case]
    names = {"oldest": damaged.oldest, "unindexed": damaged.unindexed, "truncated": damaged.truncated}
    changes = {name: names.get(value, value) for name, value in changes.items()}
    arguments = {**damaged.source.arguments(target, damaged.first, scratch=True), **changes}
    result = deny(run_module, arguments, target.parent, damaged.source.cluster.root)
    assert result.get("reason") == reason, result
    assert words in result["msg"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("2026-11-23T14:05:00", "ambiguous"),
        ("yesterday", "not a date"),
        ("2026-02-30T10:00:00Z", "target_time"),
        ("", "not a date"),
    ],
)
def test_invalid_target(value: str, words: str, shared: Shared, target: Path, run_module: t.Any) -> None:
    result = deny(run_module, shared.source.arguments(target, value, scratch=True), target.parent)
    assert result["code"] == "invalid_option"
    assert words in result["msg"]


def test_bad_credentials(shared: Shared, target: Path, run_module: t.Any) -> None:
    arguments = shared.source.arguments(target, shared.first, scratch=True, s3_secret_key="0" * 40)
    result = deny(run_module, arguments, target.parent)
    assert result["code"] == "access_denied"
    assert "0000000" not in json.dumps({name: value for name, value in result.items() if name != "invocation"})


def test_wal_gap(shared: Shared, target: Path, run_module: t.Any) -> None:
    client, bucket = shared.source.s3.client(), shared.source.bucket
    plan = engine(shared.source.arguments(target, shared.second, scratch=True)).check().plan
    last = next(step for step in plan.steps if step.action == "replay").object.split("..")[1]
    number = int(last[16:], 16) - 1
    missing = f"{last[:16]}{number:08X}"
    found = client.get_object(Bucket=bucket, Key=f"wal/{missing}.gz")
    content, metadata = found["Body"].read(), found["Metadata"]
    client.delete_object(Bucket=bucket, Key=f"wal/{missing}.gz")
    try:
        result = deny(run_module, shared.source.arguments(target, shared.second, scratch=True), target.parent)
    finally:
        client.put_object(Bucket=bucket, Key=f"wal/{missing}.gz", Body=content, Metadata=metadata)
    assert result["reason"] == "wal_gap"
    assert missing in result["msg"]


def test_wrong_version(shared: Shared, target: Path, run_module: t.Any) -> None:
    from tests.lab.postgres import packaged_binaries

    arguments = shared.source.arguments(target, shared.first, scratch=True, bin_directory=str(packaged_binaries()))
    result = deny(run_module, arguments, target.parent)
    assert result["reason"] == "wrong_version"
    assert "PostgreSQL 18" in result["msg"]


def test_too_little_room(shared: Shared, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.fileforge.ops.plugins.module_utils._backup import restore_preflight

    monkeypatch.setattr(restore_preflight, "free_bytes", lambda path: 1 << 20)
    before = snapshot(target.parent)
    with pytest.raises(Refused) as refused:
        restore(shared.source.arguments(target, shared.first, scratch=True))
    assert refused.value.state["reason"] == "disk_space"
    assert snapshot(target.parent) == before


def test_running_server_and_foreign_cluster(shared: Shared, postgres: t.Any, run_module: t.Any) -> None:
    other = postgres()
    arguments = shared.source.arguments(other.data_directory, shared.first)
    result = deny(run_module, arguments)
    assert result["reason"] == "wrong_system_identifier"
    result = deny(run_module, {**arguments, "system_identifier": shared_identifier(shared)})
    assert result["reason"] == "server_running"
    assert other.running()
    other.stop()
    before = snapshot(other.root)
    result = deny(run_module, arguments, other.root)
    assert result["reason"] == "wrong_system_identifier"
    assert snapshot(other.root) == before


def shared_identifier(shared: Shared) -> str:
    from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import read_control

    return read_control(str(shared.source.cluster.data_directory)).system_identifier


def test_a_directory_that_is_something_else(shared: Shared, target: Path, run_module: t.Any) -> None:
    target.mkdir()
    (target / "letter.txt").write_text("precious")
    result = deny(run_module, shared.source.arguments(target, shared.first, scratch=True), target.parent)
    assert result["reason"] == "not_a_data_directory"


def test_archive_has_the_timeline(shared: Shared, target: Path, run_module: t.Any) -> None:
    client, bucket = shared.source.s3.client(), shared.source.bucket
    key = "wal/000000020000000000000007.gz"
    client.put_object(Bucket=bucket, Key=key, Body=b"x")
    try:
        result = deny(run_module, shared.source.arguments(target, shared.first, target_timeline="1"), target.parent)
    finally:
        client.delete_object(Bucket=bucket, Key=key)
    assert result["reason"] == "archive_has_timeline"


# Death


def killed_at(point: str, arguments: dict[str, t.Any]) -> None:
    """Run the engine in a process of its own that kills itself at the point."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.restore_source"],
        input=json.dumps({"arguments": arguments, "point": point}),
        text=True,
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'collections'}"},
        timeout=120,
        check=False,
    )
    assert done.returncode == -9, f"{point}: ended with {done.returncode} instead of dying\n{done.stdout}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def used_copy(shared: Shared, shared_place: Path) -> t.Iterator[Path]:
    """A place for a scratch copy with a tablespace: an old directory for restores to replace."""
    directory = shared_place / "used"
    yield directory
    copied(shared, directory).stop()


@pytest.mark.parametrize("point", POINTS)
def test_death_and_resumption(point: str, shared: Shared, used_copy: Path) -> None:
    """The old directory is a scratch copy of another time; whatever was done before the death, the next run ends right."""
    copy = copied(shared, used_copy)
    if running_server(str(used_copy)) is None:
        restore(shared.source.arguments(used_copy, "latest", scratch=True, force=True, keep_old=False))
    target, marks = (shared.first, [1]) if copy.marks() == [1, 2, 3] else ("latest", [1, 2, 3])
    assert copy.marks() != marks
    arguments = shared.source.arguments(used_copy, target, scratch=True, stop_running=True, keep_old=False, delta=False)
    shown = engine(arguments).check()
    killed_at(point, arguments)
    if point != "record":
        assert engine(arguments).check().plan.digest == shown.plan.digest
    outcome = restore({**arguments, "plan_digest": shown.plan.digest})
    assert outcome.changed
    assert outcome.plan.digest == shown.plan.digest
    assert copy.marks() == marks
    assert copy.query("SELECT count(*) FROM filling") == ["20000"]
    assert outcome.recovery["last_commit"] is not None
    user = used_copy.stat().st_uid
    assert [str(path) for path in used_copy.rglob("*") if path.lstat().st_uid != user or path.lstat().st_mode & 0o700 < 0o600] == []
    left = [path.name for path in used_copy.parent.iterdir() if path.name.startswith("used")]
    assert sorted(left) == ["used", "used.restore.lock", "used.restore.log", "used.restored.json", "used.tablespaces"]
    assert restore(arguments).changed is False


def test_latest_takes_what_the_stopped_server_archives(place: Path, s3: S3Server, bucket: str) -> None:
    """The plan is made while the server still holds its newest segments; its stop archives them.

    They make a tablespace that the backup does not know: at the place where the old server's is.
    """
    source = Source.create(place, s3, bucket, tablespace=False)
    try:
        source.backup()
        late = source.cluster.create_tablespace("late")
        source.cluster.execute("CREATE TABLE late TABLESPACE late AS SELECT generate_series(1, 5) AS number")
        source.mark(1)
        source.archive()
        source.cluster.execute("CHECKPOINT")
        before, files = snapshot(late), {path.name for path in late.rglob("*") if path.is_file()}
        copy = source.cluster.directory("copies") / "copy"
        with pytest.raises(OpsError, match="which this copy must not touch") as failed:
            restore(source.arguments(copy, "latest", scratch=True))
        assert failed.value.state["reason"] == "tablespace_created"
        assert snapshot(late) == before
        for number in (2, 3):
            source.cluster.execute("SELECT pg_switch_wal()")
            source.mark(number)
        arguments = source.arguments(source.cluster.data_directory, "latest", stop_running=True)
        planned = engine(arguments).check().plan
        outcome = restore(arguments)
        assert outcome.plan.as_dict()["steps"][0] == planned.as_dict()["steps"][0]
        assert source.cluster.execute("SELECT array_agg(number ORDER BY 1) FROM mark")[0][0] == [1, 2, 3]
        assert source.cluster.execute("SELECT sum(number) FROM late")[0][0] == 15
        (kept,) = (Path(path) for path in outcome.kept if path.startswith(f"{late}/"))
        assert {path.name for path in kept.rglob("*") if path.is_file()} == files
    finally:
        source.cluster.destroy()


def test_a_resumed_fetch_fetches_only_the_rest(shared: Shared, target: Path) -> None:
    arguments = shared.source.arguments(target, shared.first, scratch=True)
    killed_at("sync", arguments)
    outcome = restore(arguments)
    assert outcome.transfer["present"] > 20 * outcome.transfer["fetched"]
    assert copied(shared, target).marks() == [1]


@pytest.mark.parametrize("moment", ["fetch", "replay"])
def test_a_killed_module_is_carried_on(moment: str, shared: Shared, target: Path, start_module: t.Any, run_module: t.Any) -> None:
    """SIGKILL from outside, to the module that Ansible runs."""
    arguments = shared.source.arguments(target, shared.first, scratch=True)
    shown = run_module("postgres_restore", arguments, check=True)
    run = start_module("postgres_restore", arguments)
    awaited = {"fetch": f"copy.recovery-{shown['plan']['digest']}/verified.jsonl", "replay": "copy/postmaster.pid"}[moment]
    run.wait_for((target.parent / awaited).exists, 120, moment)
    run.kill_module()
    assert run.wait()["failed"]
    done = run_module("postgres_restore", {**arguments, "plan_digest": shown["plan"]["digest"]})
    assert done["changed"] is True
    assert copied(shared, target).marks() == [1]
    assert run_module("postgres_restore", arguments)["changed"] is False


def test_a_run_whose_controller_died_is_waited_for(shared: Shared, target: Path, start_module: t.Any, run_module: t.Any) -> None:
    """SIGKILL to the controller only: the module goes on by itself, and the next run ends when it has ended."""
    arguments = shared.source.arguments(target, shared.first, scratch=True)
    run = start_module("postgres_restore", arguments)
    run.wait_for((target.parent / "copy.restore.json").exists, 120, "the restore to begin")
    run.process.kill()
    run.process.wait(10)
    done = run_module("postgres_restore", arguments)
    assert copied(shared, target).marks() == [1]
    assert done["recovery"]["timeline_new"] == 2
    assert not (target.parent / "copy.restore.json").exists()


def test_a_restore_of_something_else_is_not_waited_for(shared: Shared, target: Path) -> None:
    from ansible_collections.fileforge.ops.plugins.module_utils._files import exclusive_lock

    arguments = shared.source.arguments(target, shared.first, scratch=True)
    killed_at("sync", arguments)
    with exclusive_lock(f"{target}.restore.lock", "test"), pytest.raises(Refused) as refused:
        restore({**arguments, "target_time": shared.second})
    assert refused.value.state["reason"] == "locked"


def test_a_failing_archive_is_named_and_then_carried_on(shared: Shared, target: Path) -> None:
    """The WAL is damaged after the plan was made: the server ends, says why, and a repaired archive lets it go on."""

    client, bucket = shared.source.s3.client(), shared.source.bucket
    arguments = shared.source.arguments(target, shared.first, scratch=True)
    plan = engine(arguments).check().plan
    killed_at("program", arguments)
    name = next(step for step in plan.steps if step.action == "replay").object.removeprefix("wal/").split("..")[0]
    found = client.get_object(Bucket=bucket, Key=f"wal/{name}.gz")
    content, metadata = found["Body"].read(), found["Metadata"]
    client.put_object(Bucket=bucket, Key=f"wal/{name}.gz", Body=content[:-100] + bytes(100), Metadata=metadata)
    try:
        with pytest.raises(OpsError) as failed:
            restore(arguments)
    finally:
        client.put_object(Bucket=bucket, Key=f"wal/{name}.gz", Body=content, Metadata=metadata)
    assert "the server ended during recovery" in failed.value.message
    assert name in failed.value.message
    outcome = restore(arguments)
    assert outcome.plan.digest == plan.digest
    assert copied(shared, target).marks() == [1]


def test_recovery_that_ended_too_early_is_given_up(shared: Shared, target: Path) -> None:
    """The last segment is lost after the plan was made: what was promoted is stopped, and force begins anew beside it."""

    client, bucket = shared.source.s3.client(), shared.source.bucket
    arguments = shared.source.arguments(target, "latest", scratch=True)
    plan = engine(arguments).check().plan
    killed_at("program", arguments)
    last = next(step for step in plan.steps if step.action == "replay").object.split("..")[1]
    found = client.get_object(Bucket=bucket, Key=f"wal/{last}.gz")
    content, metadata = found["Body"].read(), found["Metadata"]
    client.delete_object(Bucket=bucket, Key=f"wal/{last}.gz")
    try:
        with pytest.raises(IntegrityError, match="the server was stopped"):
            restore(arguments)
    finally:
        client.put_object(Bucket=bucket, Key=f"wal/{last}.gz", Body=content, Metadata=metadata)
    assert running_server(str(target)) is None
    with pytest.raises(Refused) as refused:
        restore(arguments)
    assert refused.value.state["reason"] == "spoiled"
    outcome = restore({**arguments, "force": True})
    assert len(outcome.kept) == 2
    assert copied(shared, target).marks() == [1, 2, 3]


def test_an_attempt_given_up_for_another_target_is_reused(shared: Shared, target: Path) -> None:
    killed_at("fetched", shared.source.arguments(target, shared.first, scratch=True))
    outcome = restore(shared.source.arguments(target, shared.second, scratch=True))
    assert outcome.transfer["present"] > 20 * outcome.transfer["fetched"]
    assert copied(shared, target).marks() == [1, 2]
    assert not [path.name for path in target.parent.iterdir() if ".restore-" in path.name or ".recovery-" in path.name]


# The runbook's own form


@pytest.mark.parametrize("top", [".", "main"])
def test_plain_archive(top: str, shared: Shared, place: Path, s3: S3Server, bucket: str, run_module: t.Any) -> None:
    """Made by tar of a stopped backup of pg_basebackup, without index and mark, as ``aws s3 cp`` stores it."""
    source = Source.create(place, s3, bucket, tablespace=False)
    directory = place / "copy"
    give(place)
    try:
        copy = source.cluster.directory("made") / "main"
        connection = ["-h", str(source.cluster.socket_directory), "-p", str(source.cluster.port), "-U", "postgres"]
        source.cluster.run("pg_basebackup", *connection, "-D", str(copy), "-X", "none", "-c", "fast", "--no-manifest")
        packed = place / "base.tar.gz"
        where = ["-C", str(copy), "."] if top == "." else ["-C", str(copy.parent), "main"]
        subprocess.run(["tar", "-czf", str(packed), *where], check=True)
        s3.client().upload_file(str(packed), bucket, "base/2026-11-23-1405_base.tar.gz")
        between = source.mark(1)
        source.mark(2)
        source.archive()
        source.cluster.stop()
        arguments = source.arguments(directory, between, scratch=True)
        shown = run_module("postgres_restore", arguments, check=True)
        done = run_module("postgres_restore", arguments)
        assert shown["plan"]["digest"] == done["plan"]["digest"]
        assert done["backup"]["plain"] is True
        assert any("plain archive" in str(warning) for warning in done["warnings"])
        assert Restored(directory, source.cluster.bin_directory).marks() == [1]
        assert run_module("postgres_restore", arguments)["changed"] is False
    finally:
        Restored(directory, source.cluster.bin_directory).stop()
        source.cluster.destroy()
