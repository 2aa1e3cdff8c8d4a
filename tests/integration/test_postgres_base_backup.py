# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Base backups of real servers into a real bucket, brought back by tar and PostgreSQL alone."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._archive.index import BackupIndex
from ansible_collections.fileforge.ops.plugins.module_utils._backup.base_upload import reserved
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import S3Options, Store

from tests.lab.daemon import wait_until
from tests.lab.place import give
from tests.lab.postgres import PostgresCluster
from tests.lab.s3 import S3Server

MODULE = "postgres_base_backup"
ROWS = 20_000


class Source:
    """A server with archiving into a directory, data in and out of a tablespace, and its bucket."""

    def __init__(self, factory: t.Any, s3: S3Server, bucket: str, version: int = 15, checksums: bool = True) -> None:
        self.s3, self.bucket = s3, bucket
        self.cluster: PostgresCluster = factory(version=version, start=False, checksums=checksums)
        self.archive = self.cluster.directory("archive")
        self.cluster.configure({"archive_mode": "on", "archive_command": f"cp %p {self.archive}/%f", "wal_level": "replica"})
        self.cluster.start()
        self.space = self.cluster.create_tablespace("slow")
        self.cluster.execute("CREATE TABLE plain AS SELECT n, md5(n::text) AS text FROM generate_series(1, 20000) n")
        self.cluster.execute(
            "CREATE TABLE spaced TABLESPACE slow AS SELECT n, md5(n::text) AS text FROM generate_series(1, 20000) n"
        )
        self.cluster.execute("CREATE UNLOGGED TABLE fleeting AS SELECT n FROM generate_series(1, 1000) n")

    def options(self, **more: object) -> dict[str, t.Any]:
        return {**self.cluster.options(), **self.s3.options(self.bucket), **more}

    def objects(self) -> list[str]:
        pages = self.s3.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def uploads(self) -> list[str]:
        answer = self.s3.client().list_multipart_uploads(Bucket=self.bucket)
        return [item["Key"] for item in answer.get("Uploads", ())]

    def read(self, key: str) -> bytes:
        content: bytes = self.s3.client().get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return content

    def index(self, name: str) -> BackupIndex:
        return BackupIndex.from_bytes(self.read(f"base/{name}_base.index.json.gz"))

    def extract(self, index: BackupIndex) -> None:
        """By plain tar, into the places everything came from."""
        for archive in index.archives:
            place = Path(archive.location) if archive.location else self.cluster.data_directory
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(mode=0o700)
            blob = self.cluster.root / "blob.tar.gz"
            blob.write_bytes(self.read(archive.key))
            subprocess.run(["gzip", "-t", blob], check=True)
            subprocess.run(["tar", "-xzf", blob, "-C", place], check=True)
            give(place)

    def recover(self) -> None:
        """By PostgreSQL alone, to the end of the archived WAL."""
        self.cluster.configure({"restore_command": f"cp {self.archive}/%f %p", "recovery_target_action": "promote"})
        signal = self.cluster.data_directory / "recovery.signal"
        signal.touch()
        give(signal)
        self.cluster.start()
        wait_until(lambda: self.cluster.execute("SELECT pg_is_in_recovery()") == [(False,)], 60, "promotion")

    def backup_running(self) -> bool:
        """Whether a session of a backup is open in the server."""
        activity = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'fileforge base backup'"
        return self.cluster.execute(activity) != [(0,)]


@pytest.fixture
def source(postgres: t.Any, s3: S3Server, bucket: str) -> Source:
    return Source(postgres, s3, bucket)


def verify(source: Source) -> subprocess.CompletedProcess[str]:
    """PostgreSQL's own verdict on the data directory as it is."""
    return subprocess.run(
        [source.cluster.bin_directory / "pg_verifybackup", "-n", source.cluster.data_directory],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("version", [15, 18])
def test_check_real_second_and_back_by_plain_tar(postgres, s3, bucket, run_module, version):
    source = Source(postgres, s3, bucket, version)
    planned = run_module(MODULE, source.options(), check=True, diff=True)
    assert planned["changed"]
    assert planned["backup"] == {}
    assert source.objects() == [] and source.uploads() == []
    assert "_base.index.json.gz" in planned["diff"]["after"]

    real = run_module(MODULE, source.options(label="before the storm", max_age=3600))
    assert real["changed"]
    assert real["plan"]["digest"] == planned["plan"]["digest"]
    assert [timing["phase"] for timing in real["timings"]] == ["start", "copy", "wait_wal", "commit"]
    backup = real["backup"]
    assert backup["tablespaces"][0]["location"] == str(source.space)
    assert backup["checksum_failures"] == []
    assert source.uploads() == []
    assert set(os.listdir(source.archive)) >= {backup["start_segment"], backup["stop_segment"]}

    second = run_module(MODULE, source.options(max_age=3600))
    assert not second["changed"]
    assert second["plan"]["steps"] == []
    assert second["backup"]["name"] == backup["name"]
    assert not run_module(MODULE, source.options(max_age=3600), check=True)["changed"]

    index = source.index(backup["name"])
    assert index.version_num // 10000 == version
    assert index.label == "before the storm"
    head = source.s3.client().head_object(Bucket=bucket, Key=backup["key"])
    assert head["Metadata"] == {"fileforge-format": "1"}
    assert head["ContentLength"] == index.data_directory.size
    assert head["ETag"].strip('"') == index.data_directory.etag
    files = [entry.path for entry in index.data_directory.files if entry.type == "f"]
    assert files[-1] == "global/pg_control"
    assert {"backup_label", "tablespace_map", "backup_manifest"} <= set(files[-4:])
    assert not [path for path in files if path.startswith(("pg_wal/", "pg_replslot/", "postmaster."))]

    source.cluster.execute("INSERT INTO plain VALUES (0, 'after the backup')")
    source.cluster.execute("INSERT INTO spaced VALUES (0, 'after the backup')")
    last = source.cluster.switch_wal()
    wait_until((source.archive / last).exists, 30, "the last segment to be archived")
    source.cluster.stop()
    source.extract(index)
    verdict = verify(source)
    assert verdict.stdout.startswith("backup successfully verified"), verdict.stderr
    assert source.read(index.manifest_key) == (source.cluster.data_directory / "backup_manifest").read_bytes()
    source.recover()
    assert source.cluster.execute("SELECT count(*), sum(length(text)) FROM plain") == [(ROWS + 1, 32 * ROWS + 16)]
    assert source.cluster.execute("SELECT count(*) FROM spaced WHERE text = md5(n::text) OR n = 0") == [(ROWS + 1,)]
    assert source.cluster.execute("SELECT count(*) FROM fleeting") == [(0,)]
    source.cluster.execute("INSERT INTO fleeting VALUES (1)")


def test_written_to_while_it_is_copied(source, run_module, start_module):
    """Rows come, relations grow, are cut and vanish during the copy; all committed rows are there after recovery."""
    source.cluster.execute("CREATE TABLE busy (n int, filler text)")
    run = start_module(MODULE, source.options(max_rate=12 << 20))
    run.wait_for(source.backup_running, what="the start of the backup")
    rounds = 0
    while source.backup_running():
        source.cluster.execute("INSERT INTO busy SELECT n, repeat('x', 500) FROM generate_series(1, 2000) n")
        source.cluster.execute(f"CREATE TABLE short{rounds} AS SELECT n FROM generate_series(1, 20000) n")
        source.cluster.execute(f"DROP TABLE short{rounds}")
        source.cluster.execute("DELETE FROM plain WHERE n > 10000")
        source.cluster.execute("VACUUM plain")
        source.cluster.execute("CHECKPOINT")
        rounds += 1
    result = run.wait()
    assert not result.get("failed"), result
    assert rounds > 2
    last = source.cluster.switch_wal()
    wait_until((source.archive / last).exists, 30, "the last segment to be archived")
    source.cluster.stop()
    source.extract(source.index(result["backup"]["name"]))
    assert verify(source).returncode == 0, verify(source).stderr
    source.recover()
    assert source.cluster.execute("SELECT count(*) FROM busy") == [(2000 * rounds,)]
    assert source.cluster.execute("SELECT count(*) FROM plain") == [(10000,)]
    source.cluster.execute("CREATE EXTENSION amcheck")
    source.cluster.execute("SELECT bt_index_check(c.oid, false) FROM pg_class c WHERE c.relkind = 'i' AND c.relpersistence = 'p'")


def test_a_damaged_page_is_found_and_named(source, run_module):
    path = Path(source.cluster.execute("SELECT current_setting('data_directory') || '/' || pg_relation_filepath('plain')")[0][0])
    shown = str(path.relative_to(source.cluster.data_directory))
    spaced = source.cluster.execute("SELECT pg_relation_filepath('spaced')")[0][0]
    source.cluster.stop()
    for place, block in ((path, 3), (source.cluster.data_directory / spaced, 5)):
        with place.open("r+b") as file:
            file.seek(block * 8192 + 5000)
            byte = file.read(1)[0]
            file.seek(block * 8192 + 5000)
            file.write(bytes([byte ^ 0x04]))
    source.cluster.start()
    failed = run_module(MODULE, source.options(), expect_failure=True)
    assert failed["reason"] == "page_checksums"
    expected = [{"path": shown, "block": 3}, {"path": spaced, "block": 5}]
    assert sorted(failed["checksum_failures"], key=lambda row: row["path"]) == sorted(expected, key=lambda row: row["path"])
    assert source.objects() == [] and source.uploads() == []

    kept = run_module(MODULE, source.options(accept_checksum_failures=True))
    assert len(kept["backup"]["checksum_failures"]) == 2
    assert len(source.index(kept["backup"]["name"]).checksum_failures) == 2
    assert any("wrong checksums" in warning for warning in kept["warnings"])
    unseen = run_module(MODULE, source.options(verify_checksums=False))
    assert unseen["backup"]["checksum_failures"] == []


def test_killed_in_the_middle(source, run_module, start_module):
    """SIGKILL: nothing that could be restored, no backup session left, and the next run clears the unfinished upload away."""
    run = start_module(MODULE, source.options(max_rate=4 << 20))
    run.wait_for(source.uploads, what="the start of the upload")
    run.wait_for(source.backup_running, what="the start of the backup")
    run.kill_module()
    run.wait()
    assert len(source.uploads()) >= 1
    assert not [key for key in source.objects() if "index" in key]
    wait_until(lambda: not source.backup_running(), 30, "the server to notice")
    after = run_module(MODULE, source.options())
    assert any("backups that died" in warning for warning in after["warnings"])
    assert source.uploads() == []
    source.index(after["backup"]["name"])


def test_terminated_in_the_middle(source, start_module):
    run = start_module(MODULE, source.options(max_rate=4 << 20))
    run.wait_for(source.uploads, what="the start of the upload")
    run.wait_for(source.backup_running, what="the start of the backup")
    modules = [pid for pid in run.module_processes() if is_worker(pid)]
    for pid in modules:
        os.kill(pid, 15)
    result = run.wait()
    assert result["failed"] and result["code"] == "interrupted", result
    assert source.uploads() == [] and source.objects() == []
    wait_until(lambda: not source.backup_running(), 30, "the server to notice")


def is_worker(pid: int) -> bool:
    """Whether the process holds a connection, so is the module and not what waits for it."""
    try:
        return any(os.readlink(handle).startswith("socket:") for handle in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def test_one_after_the_other_and_two_at_a_time(source, run_module, start_module):
    first = run_module(MODULE, source.options())["backup"]
    slow = start_module(MODULE, source.options(max_rate=2 << 20))
    slow.wait_for(source.uploads, what="the start of the upload")
    refused = run_module(MODULE, source.options(), expect_failure=True)
    assert refused["reason"] == "locked"
    second = slow.wait()["backup"]
    third = run_module(MODULE, source.options())["backup"]
    names = [first["name"], second["name"], third["name"]]
    assert len(set(names)) == 3
    for name in names:
        source.index(name)


def test_names_in_one_minute(s3, bucket):
    """With the real service's listing of objects and unfinished uploads: one after the other, and at the same time."""
    store = Store(S3Options.from_params(s3.options(bucket)))
    minute = datetime.datetime(2026, 11, 23, 12, 0, 31, tzinfo=datetime.timezone.utc)
    with reserved(store, "", minute) as (first, upload):
        upload.part(1, b"content")
        upload.complete()
    with contextlib.ExitStack() as stack:
        stack.enter_context(reserved(store, "", minute))  # runs, and does not finish
        third, _upload = stack.enter_context(reserved(store, "", minute))
        assert [first.name, third.name] == ["2026-11-23-1200", "2026-11-23-1200-3"]
        keys = sorted(running.key for running in store.running_uploads("base/"))
        assert keys == ["base/2026-11-23-1200-2_base.tar.gz", "base/2026-11-23-1200-3_base.tar.gz"]
    assert store.running_uploads("base/") == []
    assert [item.key for item in store.list("base/")] == ["base/2026-11-23-1200_base.tar.gz"]


def test_refusals_touch_nothing(source, postgres, s3, bucket, run_module):
    def refused(reason: str, **options: object) -> None:
        result = run_module(MODULE, source.options(**options), expect_failure=True)
        assert result.get("reason") == reason, result
        assert source.objects() == [] and source.uploads() == []

    assert run_module(MODULE, source.options(s3_bucket="no-such-bucket"), expect_failure=True)["code"] == "not_found"
    assert run_module(MODULE, source.options(s3_secret_key="wrong"), expect_failure=True)["code"] == "access_denied"
    assert run_module(MODULE, source.options(jobs=0), expect_failure=True)["code"] == "invalid_option"
    assert run_module(MODULE, source.options(postgres_port=1), expect_failure=True)["code"] == "unavailable"
    source.cluster.execute("ALTER SYSTEM SET archive_command = 'false'")
    source.cluster.execute("SELECT pg_reload_conf()")
    source.cluster.switch_wal()
    failing = "SELECT last_failed_time > coalesce(last_archived_time, '-infinity') FROM pg_stat_archiver"
    wait_until(lambda: source.cluster.execute(failing) == [(True,)], 30, "archiving to fail")
    refused("archiver_failing")
    source.cluster.execute("ALTER SYSTEM SET archive_mode = 'off'")
    source.cluster.restart()
    refused("archiving_off")


def test_archiving_stops_during_the_backup(source, run_module, start_module):
    """The WAL never arrives: the run fails in time, says so, and keeps nothing."""
    run = start_module(MODULE, source.options(max_rate=8 << 20, wal_timeout=3))
    run.wait_for(source.backup_running, what="the start of the backup")
    source.cluster.execute("ALTER SYSTEM SET archive_command = 'false'")
    source.cluster.execute("SELECT pg_reload_conf()")
    result = run.wait()
    assert result["failed"] and result["code"] == "timeout", result
    assert source.objects() == [] and source.uploads() == []


def test_backups_of_another_system_are_not_mixed_in(source, postgres, s3, bucket, run_module):
    run_module(MODULE, source.options())
    other = Source(postgres, s3, bucket)
    result = run_module(MODULE, other.options(), expect_failure=True)
    assert result["reason"] == "foreign_backups"
    assert run_module(MODULE, other.options(prefix="other/"))["backup"]["key"].startswith("other/base/")


def test_a_backup_with_a_damaged_index_does_not_count(source, run_module):
    first = run_module(MODULE, source.options())["backup"]
    source.s3.client().put_object(Bucket=source.bucket, Key=f"base/{first['name']}_base.index.json.gz", Body=b"damaged")
    second = run_module(MODULE, source.options(max_age=3600))
    assert second["changed"] and second["backup"]["name"] != first["name"]
    assert not run_module(MODULE, source.options(max_age=3600))["changed"]


def test_without_data_checksums(postgres, s3, bucket, run_module):
    source = Source(postgres, s3, bucket, checksums=False)
    backup = run_module(MODULE, source.options())["backup"]
    assert not source.index(backup["name"]).checksums


def test_the_distributions_python_and_libraries(source, run_module):
    """Older psycopg and boto3, and no isal: the same archive, only slower."""
    backup = run_module(MODULE, source.options(), interpreter="/usr/bin/python3")["backup"]
    index = source.index(backup["name"])
    source.cluster.stop()
    source.extract(index)
    assert verify(source).returncode == 0, verify(source).stderr
