# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""postgres_wal_archive and the program that it installs, on real servers."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils import _process

from tests.lab.daemon import wait_until
from tests.lab.facts import wal_interpreter
from tests.lab.place import give
from tests.lab.postgres import PostgresCluster
from tests.lab.s3 import S3Server

ABSENT, NO_BUCKET, DENIED, UNAVAILABLE, DAMAGED = 1, 153, 151, 150, 152
DIFFERENT_PUSHED, UNAVAILABLE_PUSHED, DAMAGED_PUSHED = 55, 50, 52


class Site:
    """A server, its bucket, and where the program goes."""

    def __init__(self, cluster: PostgresCluster, s3: S3Server, bucket: str, place: Path) -> None:
        self.cluster, self.s3, self.bucket = cluster, s3, bucket
        self.place = place / "wal"
        self.place.mkdir()
        give(self.place)
        self.program = self.place / "lib" / "fileforge wal%"  # a name that needs quoting
        self.config = self.place / "etc" / "wal.json"
        self.spool = self.place / "spool"
        self.client = s3.client()
        self.interpreter = wal_interpreter()

    def arguments(self, **changes: t.Any) -> dict[str, t.Any]:
        return {
            **self.s3.options(self.bucket),
            **self.cluster.options(),
            "program_path": str(self.program),
            "config_path": str(self.config),
            "spool_directory": str(self.spool),
            "program_interpreter": self.interpreter,
            "owner": self.cluster.owner,
            "bin_directory": str(self.cluster.bin_directory),
            "restart": True,
            "s3_timeout": 5,
            "s3_attempts": 2,
            **changes,
        }

    def call(self, *arguments: str, config: Path | None = None, cwd: Path | None = None) -> _process.Completed:
        user = self.cluster.owner if os.geteuid() == 0 else None
        argv = [self.interpreter, str(self.program), "--config", str(config or self.config), *arguments]
        return _process.run(argv, timeout=90, check=False, user=user, cwd=str(cwd or self.place))

    def configured(self, **changes: t.Any) -> Path:
        """Another configuration of the program."""
        values = {**json.loads(self.config.read_text()), **changes}
        path = self.place / f"config-{len(list(self.place.iterdir()))}.json"
        path.write_text(json.dumps(values))
        path.chmod(0o600)
        give(path)
        return path

    def file(self, name: str, content: bytes) -> Path:
        path = self.place / name
        path.write_bytes(content)
        give(path)
        return path

    def names(self) -> set[str]:
        listed = self.client.list_objects_v2(Bucket=self.bucket, Prefix="wal/").get("Contents", [])
        return {item["Key"][len("wal/") :] for item in listed}

    def stored(self, name: str) -> bytes:
        return gzip.decompress(self.client.get_object(Bucket=self.bucket, Key=f"wal/{name}.gz")["Body"].read())

    def put(self, name: str, content: bytes, **more: t.Any) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"wal/{name}", Body=content, **more)

    def segments(self, count: int) -> list[str]:
        """Finish so many segments; their names."""
        names = []
        with self.cluster.connect() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS filler (line text)")
            for _number in range(count):
                connection.execute("INSERT INTO filler VALUES ('x')")
                row = connection.execute("SELECT pg_walfile_name(pg_current_wal_insert_lsn()), pg_switch_wal()").fetchone()
                names.append(row[0])
        return names

    def wait_archived(self, name: str, timeout: float = 60) -> None:
        wait_until(lambda: f"{name}.gz" in self.names(), timeout, f"{name} to be archived", every=0.1)


@pytest.fixture
def site(postgres: t.Any, s3: S3Server, bucket: str, place: Path) -> Site:
    return Site(postgres(), s3, bucket, place)


@pytest.fixture
def archiving(site: Site, run_module: t.Any) -> Site:
    run_module("postgres_wal_archive", site.arguments())
    return site


def test_check_run_and_second_run(site: Site, run_module: t.Any) -> None:
    planned = run_module("postgres_wal_archive", site.arguments(), check=True, diff=True)
    assert planned["changed"] and planned["restarted"] and not planned["verified"]
    assert not site.program.exists() and not site.config.exists() and site.names() == set()
    assert planned["diff"]["after"]["settings"]["archive_mode"] == "on"
    assert site.s3.secret_key not in planned["output"] + json.dumps(planned)

    done = run_module("postgres_wal_archive", site.arguments(), diff=True)
    assert done["changed"] and done["verified"] and done["restarted"] and not done["restart_required"]
    assert done["diff"] == planned["diff"]
    assert f"{done['proof']['segment']}.gz" in site.names()
    assert done["archive_timeout"] == 300
    assert site.config.stat().st_mode & 0o777 == 0o600
    assert site.s3.secret_key not in done["output"] + json.dumps(done)

    again = run_module("postgres_wal_archive", site.arguments(), diff=True)
    assert not again["changed"] and again["verified"] and not again["restarted"]
    assert again["proof"]["segment"] != done["proof"]["segment"]

    shorter = run_module("postgres_wal_archive", site.arguments(rpo=600))
    assert shorter["changed"] and shorter["archive_timeout"] == 50 and not shorter["restarted"]


def test_without_leave_to_restart_it_says_so(site: Site, run_module: t.Any) -> None:
    first = run_module("postgres_wal_archive", site.arguments(restart=False))
    assert first["changed"] and first["restart_required"] and not first["verified"]
    second = run_module("postgres_wal_archive", site.arguments(restart=False))
    assert not second["changed"] and second["restart_required"]
    site.cluster.restart()
    third = run_module("postgres_wal_archive", site.arguments(restart=False))
    assert not third["changed"] and not third["restart_required"] and third["verified"]


def test_absent(archiving: Site, run_module: t.Any) -> None:
    kept = run_module("postgres_wal_archive", archiving.arguments(state="absent", restart=False))
    assert kept["changed"] and kept["restart_required"] and archiving.program.exists()
    archiving.wait_archived(archiving.segments(1)[0])  # a running server goes on archiving until it is restarted
    gone = run_module("postgres_wal_archive", archiving.arguments(state="absent"))
    assert gone["changed"] and gone["restarted"] and not archiving.program.exists() and not archiving.config.exists()
    with archiving.cluster.connect() as connection:
        rows = connection.execute("SELECT setting FROM pg_settings WHERE name LIKE 'archive_%' ORDER BY name").fetchall()
    assert rows[2][0] == "off" or ("off",) in rows
    again = run_module("postgres_wal_archive", archiving.arguments(state="absent"))
    assert not again["changed"] and not again["restarted"]


def test_a_wrong_bucket_fails_with_its_name(site: Site, run_module: t.Any) -> None:
    result = run_module("postgres_wal_archive", site.arguments(s3_bucket="there-is-none"), expect_failure=True)
    assert "there-is-none does not exist" in result["msg"]


def test_wrong_credentials_fail(site: Site, run_module: t.Any) -> None:
    result = run_module("postgres_wal_archive", site.arguments(s3_secret_key="wrong" * 8), expect_failure=True)
    assert "SignatureDoesNotMatch" in result["msg"] and "wrongwrong" not in json.dumps(result)


def test_version_18_with_small_segments_is_archived_and_read_back(
    postgres: t.Any, s3: S3Server, bucket: str, place: Path, run_module: t.Any
) -> None:
    site = Site(postgres(version=18), s3, bucket, place)
    done = run_module("postgres_wal_archive", site.arguments())
    assert done["verified"]


def test_identical_is_fine_and_different_is_refused(archiving: Site) -> None:
    name = archiving.segments(1)[0]
    archiving.wait_archived(name)
    content = archiving.stored(name)
    same = archiving.file(name, content)
    assert archiving.call("push", str(same)).returncode == 0
    damaged = bytearray(content)
    damaged[5000] ^= 1
    archiving.file(name, bytes(damaged))
    answer = archiving.call("push", str(same))
    assert answer.returncode == DIFFERENT_PUSHED
    assert answer.stderr.count("\n") == 1 and "already holds other content" in answer.stderr
    assert archiving.stored(name) == content


def test_identical_to_a_plain_uncompressed_object_is_fine(archiving: Site) -> None:
    content = b"1\t0/3000000\tno recovery target specified\n"
    archiving.put("00000009.history", content)
    assert archiving.call("push", str(archiving.file("00000009.history", content))).returncode == 0
    assert archiving.call("push", str(archiving.file("00000009.history", b"2" + content[1:]))).returncode == DIFFERENT_PUSHED
    assert "00000009.history.gz" not in archiving.names()


def test_short_foreign_and_unknown_files_are_not_pushed(archiving: Site) -> None:
    name = archiving.segments(1)[0]
    archiving.wait_archived(name)
    content = archiving.stored(name)
    other = "0000000100000000000000F0"
    assert archiving.call("push", str(archiving.file(other, content[:-8192]))).returncode == DAMAGED_PUSHED
    assert archiving.call("push", str(archiving.file(other, content))).returncode == DAMAGED_PUSHED  # another segment's content
    assert archiving.call("push", str(archiving.file(other, b""))).returncode == DAMAGED_PUSHED
    assert archiving.call("push", str(archiving.file("notes.txt", b"x"))).returncode not in (0, 126, 127)
    assert not [item for item in archiving.names() if item.startswith((other, "notes"))]


def test_fetch_statuses(archiving: Site) -> None:
    name = archiving.segments(1)[0]
    archiving.wait_archived(name)
    content = archiving.stored(name)
    packed = archiving.client.get_object(Bucket=archiving.bucket, Key=f"wal/{name}.gz")
    body, metadata = packed["Body"].read(), packed["Metadata"]
    target = archiving.place / "RECOVERYXLOG"
    size = len(content)

    def fetch(wanted: str = name, config: Path | None = None) -> int:
        target.unlink(missing_ok=True)
        answer = archiving.call("fetch", wanted, str(target), config=config)
        assert answer.stderr.count("\n") == (0 if answer.returncode in (0, ABSENT) else 1), answer.stderr
        assert target.exists() == (answer.returncode == 0)
        assert archiving.s3.secret_key not in answer.stderr
        return answer.returncode

    assert fetch() == 0 and target.read_bytes() == content
    assert fetch("0000000100000000000000F1") == ABSENT
    assert fetch("00000002.history") == ABSENT
    assert fetch(config=archiving.configured(bucket="there-is-none")) == NO_BUCKET
    assert fetch("00000002.history", archiving.configured(bucket="there-is-none")) == NO_BUCKET
    assert fetch(config=archiving.configured(secret_key="w" * 40)) == DENIED
    assert fetch(config=archiving.configured(access_key="nobody")) == DENIED
    assert fetch(config=archiving.configured(endpoint="http://127.0.0.1:9")) == UNAVAILABLE
    assert fetch(config=archiving.configured(bucket="")) == 126

    other = "0000000100000000000000F2"
    for damaged in (body[: len(body) // 2], b"", body + b"trailing", gzip.compress(content[: size // 2])):
        archiving.put(f"{other}.gz", damaged)
        assert fetch(other) == DAMAGED
    flipped = bytearray(content)
    flipped[size // 2] ^= 4
    archiving.put(f"{name}.gz", gzip.compress(bytes(flipped), 1), Metadata=metadata)
    assert fetch() == DAMAGED  # a whole gzip with another content than was pushed
    archiving.put(f"{name}.gz", gzip.compress(b"\0" * size))
    assert fetch() == DAMAGED  # no metadata, but no segment either
    archiving.put(f"{other}.gz", gzip.compress(content))
    assert fetch(other) == DAMAGED  # a right segment under a wrong name
    archiving.client.delete_object(Bucket=archiving.bucket, Key=f"wal/{name}.gz")
    archiving.put(name, content)  # the runbook's plain form
    assert fetch() == 0 and target.read_bytes() == content
    archiving.put(name, content[:-1])
    assert fetch() == DAMAGED


def test_configuration_that_others_can_read_is_refused(archiving: Site) -> None:
    path = archiving.configured()
    path.chmod(0o644)
    assert archiving.call("check", config=path).returncode == 126
    assert archiving.call("fetch", "00000002.history", "x", config=archiving.place / "none.json").returncode == 126
    assert archiving.call("fetch", "only-one-argument").returncode == 126
    assert archiving.call("check").stdout == "ok\n"


def test_server_down_keeps_the_segment_and_counts_the_failure(archiving: Site, place: Path) -> None:
    """The archive is away while segments are finished; they arrive when it is back."""
    away = archiving.configured(endpoint="http://127.0.0.1:9", attempts=1, timeout=1)
    right = archiving.config.read_text()
    archiving.config.write_text(away.read_text())
    try:
        name = archiving.segments(2)[0]
        with archiving.cluster.connect() as connection:

            def failing() -> bool:
                row = connection.execute("SELECT failed_count, last_failed_wal FROM pg_stat_archiver").fetchone()
                return bool(row[0]) and row[1] == name

            wait_until(failing, 60, "the failure to be counted", every=0.1)
        kept = archiving.cluster.data_directory / "pg_wal"
        assert (kept / name).exists() and (kept / "archive_status" / f"{name}.ready").exists()
        answer = archiving.call("push", str(kept / name))
        assert answer.returncode == UNAVAILABLE_PUSHED and answer.stderr.count("\n") == 1
        assert archiving.call("fetch", name, str(archiving.place / "x")).returncode == UNAVAILABLE
    finally:
        archiving.config.write_text(right)
    archiving.cluster.restart()  # the archiver itself would wait a minute before it tries again
    archiving.wait_archived(name, 90)


def test_waiting_segments_go_together(archiving: Site) -> None:
    """One call sends the segments behind it, writes that down, and their own calls end without the bucket."""
    with archiving.cluster.connect() as connection:
        connection.execute("ALTER SYSTEM SET archive_command = 'false'")
        connection.execute("SELECT pg_reload_conf()")
    names = archiving.segments(5)
    waldir = archiving.cluster.data_directory / "pg_wal"
    wait_until((waldir / "archive_status" / f"{names[-1]}.ready").exists, 30, "segments to be ready")
    ready = sorted(path.name[:-6] for path in (waldir / "archive_status").glob("*.ready"))
    begin = time.monotonic()
    assert archiving.call("push", f"pg_wal/{ready[0]}", cwd=waldir.parent).returncode == 0
    slow = time.monotonic() - begin
    assert {f"{name}.gz" for name in ready[:8]} <= archiving.names()
    records = list(archiving.spool.glob("*/pushed/*"))
    assert sorted(path.name for path in records) == ready[1:8]

    away = archiving.configured(endpoint="http://127.0.0.1:9", attempts=1, timeout=1)
    elsewhere = archiving.call("push", f"pg_wal/{ready[1]}", cwd=waldir.parent, config=away)
    assert elsewhere.returncode == UNAVAILABLE_PUSHED  # a record of one archive says nothing about another
    begin = time.monotonic()
    assert archiving.call("push", f"pg_wal/{ready[1]}", cwd=waldir.parent).returncode == 0
    assert time.monotonic() - begin < slow
    assert not list(archiving.spool.glob(f"*/pushed/{ready[1]}"))  # used up

    changed = waldir / ready[2]
    content = bytearray(changed.read_bytes())
    content[9000] ^= 1
    replaced = archiving.file(ready[2], bytes(content))
    os.replace(replaced, changed)
    assert archiving.call("push", f"pg_wal/{ready[2]}", cwd=waldir.parent).returncode == DIFFERENT_PUSHED


def test_killed_push_leaves_nothing_wrong(archiving: Site) -> None:
    """SIGKILL at any moment: what is in the bucket is whole, and pushing again ends well."""
    name = archiving.segments(1)[0]
    archiving.wait_archived(name)
    content = archiving.stored(name)
    path = archiving.file(name, content)
    user = _process.user_arguments(archiving.cluster.owner if os.geteuid() == 0 else None)
    argv = [archiving.interpreter, str(archiving.program), "--config", str(archiving.config), "push", str(path)]
    for delay in (0.05, 0.2, 0.4, 0.5, 0.6, 0.7):
        archiving.client.delete_object(Bucket=archiving.bucket, Key=f"wal/{name}.gz")
        process = subprocess.Popen(argv, cwd=archiving.place, stderr=subprocess.DEVNULL, **user)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if f"{name}.gz" in archiving.names():
            assert archiving.stored(name) == content
        assert archiving.call("push", str(path)).returncode == 0
        assert archiving.stored(name) == content


def prefetched(site: Site) -> set[str]:
    return {path.name for path in site.spool.glob("*/fetched/*") if len(path.name) == 24}


def test_segments_are_fetched_ahead(archiving: Site) -> None:
    names = archiving.segments(6)
    archiving.wait_archived(names[-1])
    target = archiving.place / "RECOVERYXLOG"
    config = archiving.configured(prefetch=3)
    assert archiving.call("fetch", names[0], str(target), config=config).returncode == 0
    wait_until(lambda: prefetched(archiving) == set(names[1:4]), 30, "segments to be fetched ahead", every=0.05)
    expected = archiving.stored(names[1])
    archiving.client.delete_object(Bucket=archiving.bucket, Key=f"wal/{names[1]}.gz")
    assert archiving.call("fetch", names[1], str(target), config=config).returncode == 0
    assert target.read_bytes() == expected  # it can only come from the spool
    wait_until(lambda: prefetched(archiving) == set(names[2:5]), 30, "the next one", every=0.05)

    spooled = next(archiving.spool.glob(f"*/fetched/{names[2]}"))
    content = bytearray(spooled.read_bytes())
    content[-1] ^= 1
    spooled.write_bytes(bytes(content))
    assert archiving.call("fetch", names[2], str(target), config=config).returncode == 0
    assert target.read_bytes() == archiving.stored(names[2])  # damaged in the spool: taken from the bucket
    wait_until(lambda: not prefetched(archiving), 60, "the background process to end and tidy up", every=0.2)


@pytest.mark.parametrize("interpreter", sorted({sys.executable, "/usr/bin/python3"}))
def test_old_and_new_boto3(archiving: Site, interpreter: str) -> None:
    """The development environment's boto3, and the one that a database host has from its distribution."""
    name = archiving.segments(1)[0]
    archiving.wait_archived(name)
    content = archiving.stored(name)
    archiving.client.delete_object(Bucket=archiving.bucket, Key=f"wal/{name}.gz")
    config = archiving.configured(spool=str(archiving.place / "spool of the test"))
    path, target = archiving.file(name, content), archiving.place / "RECOVERYXLOG"
    for arguments in (["push", str(path)], ["push", str(path)], ["fetch", name, str(target)]):
        argv = [interpreter, str(archiving.program), "--config", str(config), *arguments]
        done = _process.run(argv, timeout=60, check=False, cwd=str(archiving.place))
        assert done.returncode == 0, done.stderr
    assert target.read_bytes() == archiving.stored(name) == content
