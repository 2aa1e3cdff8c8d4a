# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dumps of a real server into a real bucket: consistent, whole or not there, and latest only when they are proved."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
import textwrap
import threading
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup import dump, dump_server, dumps
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, OpsError, ProcessFailed, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import Store
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress

from tests.integration.dump_source import DATABASE, FILES, USERS, World
from tests.lab.daemon import wait_until
from tests.lab.s3 import S3Server

MODULE = "postgres_dump"
ROWS = {
    ("public", "files"): FILES,
    ("public", "users"): USERS,
    ("public", "parted_low"): 100,
    ("public", "fleeting"): 1,
    ('Odd "schema', "it's; --"): 0,
}


@pytest.fixture(scope="module")
def shared(session_place: Path, s3: S3Server) -> t.Iterator[World]:
    world = World.create(session_place / "dumped", s3)
    try:
        yield world
    finally:
        world.close()


@pytest.fixture
def world(shared: World) -> t.Iterator[World]:
    """The bucket is empty before each test, and nothing runs after it."""
    shared.store.delete(keys(shared))
    yield shared
    assert uploads(shared) == []
    assert sessions(shared) == 0


def keys(world: World) -> list[str]:
    return [item.key for item in world.store.list("database/")]


def uploads(world: World) -> list[str]:
    return [item.key for item in world.store.running_uploads("database/")]


def sessions(world: World) -> int:
    names = "('fileforge dump', 'pg_dump')"
    counted = world.source.cluster.execute(f"SELECT count(*) FROM pg_stat_activity WHERE application_name IN {names}")
    return int(counted[0][0])


def test_check_real_second_and_by_gunzip(world: World, run_module: t.Any) -> None:
    planned = run_module(MODULE, world.options(max_age=3600), check=True, diff=True)
    assert planned["changed"] and planned["dump"] == {} and keys(world) == []
    assert "database/latest.sql.gz" in planned["diff"]["after"]

    real = run_module(MODULE, world.options(max_age=3600))
    assert real["changed"] and real["plan"]["digest"] == planned["plan"]["digest"]
    made = real["dump"]
    assert [timing["phase"] for timing in real["timings"]] == ["dump", "commit", "read_back", "point"]
    assert "postgres_dump localhost: dump" in real["output"]
    place = f"database/{made['name']}"
    assert keys(world) == [f"{place}.manifest.json", f"{place}.sql.gz", "database/latest.json", "database/latest.sql.gz"]
    assert {(table["schema"], table["name"]): table["rows"] for table in made["tables"]} == ROWS
    assert made["large_objects"] == 1 and made["rows"] == sum(ROWS.values())

    data = world.store.get(made["key"])
    assert world.store.get("database/latest.sql.gz") == data
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (made["sha256"], made["bytes"])
    unpacked = subprocess.run(["gunzip", "-c"], input=data, capture_output=True, check=True).stdout
    assert unpacked == gzip.decompress(data) and dump.TRAILER in unpacked[-200:]
    assert len(unpacked) == made["uncompressed_bytes"]
    manifest = world.manifest(made["name"])
    assert set(manifest.roles) == {"fileforge", "reader"} and manifest.tablespaces == ("far",)
    assert dumps.read_pointer(world.store) == made["name"]

    second = run_module(MODULE, world.options(max_age=3600))
    assert not second["changed"] and second["plan"]["steps"] == [] and second["dump"]["name"] == made["name"]


def test_the_other_formats_are_read_by_pg_restore(world: World) -> None:
    spool = world.place / "spool"
    spool.mkdir(exist_ok=True)
    program = str(world.source.cluster.bin_directory / "pg_restore")
    for kind, jobs in (("custom", 1), ("directory", 3)):
        made = world.dump(format=kind, jobs=jobs, spool_directory=str(spool))["dump"]
        assert dumps.read_pointer(world.store) == made["name"] and made["sha256" if kind == "custom" else "key"]
        manifest = world.manifest(made["name"])
        target = world.place / f"fetched-{kind}"
        target.mkdir()
        for item in manifest.objects:
            data = world.store.get(f"database/{item.name}")
            assert (hashlib.sha256(data).hexdigest(), len(data)) == (item.sha256, item.size)
            (target / item.name.rsplit("/", 1)[-1]).write_bytes(data)
        path = target if kind == "directory" else next(target.iterdir())
        listed = subprocess.run([program, "--file=/dev/null", str(path)], capture_output=True, text=True, check=False)
        assert listed.returncode == 0, listed.stderr
        assert list(spool.iterdir()) == []
    assert [dump.format for dump in dumps.list_dumps(world.store)] == ["custom", "directory"]
    assert "database/latest.dump" in keys(world)


def test_rows_are_counted_in_the_snapshot_of_the_dump(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written once the snapshot is taken, before anything is read, is in neither."""
    taken = dump_server._take

    def take_and_write(connection: t.Any) -> t.Any:
        snapshot = taken(connection)
        world.source.cluster.execute("INSERT INTO users VALUES (1000000, 'late')", DATABASE)
        return snapshot

    monkeypatch.setattr(dump_server, "_take", take_and_write)
    try:
        made = world.dump()["dump"]
    finally:
        world.source.cluster.execute("DELETE FROM users WHERE id = 1000000", DATABASE)
    rows = {(table["schema"], table["name"]): table["rows"] for table in made["tables"]}
    assert rows["public", "users"] == USERS
    assert b"1000000\tlate" not in world.sql(made["name"])


def alive(pid: int) -> bool:
    """Whether a process runs (one that nobody has waited for yet does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def nothing_new(world: World, before: list[str]) -> None:
    assert keys(world) == before
    assert uploads(world) == []


def fake_program(world: World, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A pg_dump that behaves in another way; ``REAL`` in the text is the real one."""
    program = world.place / "pg_dump"
    real, version = dump_server.find_program("pg_dump", 15)
    program.write_text(f"#!{sys.executable}\nimport os, subprocess, sys, time\nREAL = {real!r}\n{text}")
    program.chmod(0o755)
    monkeypatch.setattr(dump_server, "find_program", lambda *_arguments: (str(program), version))


BAD_ENDS = {
    "status": "subprocess.run([REAL, *sys.argv[1:]]); print('pg_dump: error: no more', file=sys.stderr); sys.exit(1)",
    "killed": "sys.stdout.write('-- half'); sys.stdout.flush(); os.kill(os.getpid(), 9)",
    "silent": "sys.exit(0)",
    "short": "out = subprocess.run([REAL, *sys.argv[1:]], stdout=subprocess.PIPE).stdout; sys.stdout.buffer.write(out[:-500])",
}
SAID = {
    "status": "status 1: pg_dump: error: no more",
    "killed": "SIGKILL",
    "silent": "not a whole dump",
    "short": "not a whole dump",
}


@pytest.mark.parametrize("end", BAD_ENDS)
def test_a_failing_pg_dump_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """In the runbook's pipe each of these would be a gzip that is in order, and status 0."""
    good = world.dump()["dump"]["name"]
    before = keys(world)
    fake_program(world, monkeypatch, BAD_ENDS[end])
    with pytest.raises((ProcessFailed, IntegrityError)) as caught:
        world.dump()
    assert SAID[end] in caught.value.message
    nothing_new(world, before)
    assert dumps.read_pointer(world.store) == good


def test_damaged_rows_fail_the_dump(world: World) -> None:
    """A page whose checksum is wrong: pg_dump meets it, and there is no dump."""
    cluster = world.source.cluster
    cluster.execute("CREATE TABLE victim AS SELECT n, md5(n::text) AS text FROM generate_series(1, 5000) n", DATABASE)
    path = cluster.data_directory / cluster.execute("SELECT pg_relation_filepath('victim')", DATABASE)[0][0]
    cluster.stop()
    with path.open("r+b") as file:
        file.seek(2 * 8192 + 4000)
        byte = file.read(1)[0]
        file.seek(2 * 8192 + 4000)
        file.write(bytes([byte ^ 1]))
    cluster.start()
    try:
        with pytest.raises(OpsError, match="invalid page in block 2"):
            world.dump()
        nothing_new(world, [])
    finally:
        cluster.execute("DROP TABLE victim", DATABASE)


class Failing(Store):
    """A bucket that refuses one kind of request at its nth time."""

    nth = 0

    def fail(self) -> None:
        type(self).nth -= 1
        if type(self).nth < 0:
            raise OpsError("the service is gone")


class NoManifest(Failing):
    def put(self, key: str, *rest: t.Any, **more: t.Any) -> t.Any:
        self.fail()
        return super().put(key, *rest, **more)


class NoCopy(Failing):
    def copy(self, source: str, target: str) -> t.Any:
        self.fail()
        return super().copy(source, target)


class OtherBytes(Failing):
    def stream(self, key: str, **more: t.Any) -> t.Iterator[bytes]:
        for chunk in super().stream(key, **more):
            yield chunk[:-1] + bytes([chunk[-1] ^ 1])


def run_with(world: World, store: Store, **options: t.Any) -> dict[str, t.Any]:
    postgres = PostgresOptions.from_params(world.source.cluster.options(DATABASE))
    return dump.run_dump(store, postgres, dump.DumpOptions(**options), check_mode=False, progress=Progress())


@pytest.mark.parametrize("kind", [NoManifest, OtherBytes])
def test_a_bucket_that_fails_leaves_nothing_that_looks_like_a_backup(world: World, kind: type[Failing]) -> None:
    kind.nth = 0
    with pytest.raises(OpsError):
        run_with(world, kind(world.source.options))
    nothing_new(world, [])


def test_a_dump_that_could_not_be_called_latest_is_called_so_by_the_next_run(world: World) -> None:
    NoCopy.nth = 0
    with pytest.raises(OpsError, match="gone"):
        run_with(world, NoCopy(world.source.options))
    [made] = dumps.list_dumps(world.store)
    assert made.complete and dumps.read_pointer(world.store) is None
    again = world.dump(max_age=3600)
    assert again["changed"] and again["dump"]["name"] == made.name
    assert [step["action"] for step in again["plan"]["steps"]] == ["copy", "upload"]
    assert dumps.read_pointer(world.store) == made.name
    assert not world.dump(max_age=3600)["changed"]


def test_killed_in_the_middle(world: World, start_module: t.Any) -> None:
    """SIGKILL: nothing that looks like a backup, pg_dump ends too, and the next run clears the unfinished upload away."""
    programs = world.place / "programs"
    programs.mkdir()
    version = dump_server.find_program("pg_dump", 15)[1]
    begun = world.place / "begun"
    text = f"""
        import os, sys, time
        if "--version" in sys.argv:
            print("pg_dump (PostgreSQL) {version}")
            sys.exit(0)
        sys.stdout.write("-- half")
        sys.stdout.flush()
        open({str(begun)!r}, "w").write(str(os.getpid()))
        time.sleep(600)
    """
    (programs / "pg_dump").write_text(f"#!{sys.executable}\n{textwrap.dedent(text)}")
    (programs / "pg_dump").chmod(0o755)
    run = start_module(MODULE, world.options(bin_directory=str(programs)))
    run.wait_for(lambda: begun.exists() and begun.read_text() and uploads(world), what="pg_dump to write")
    pid = int(begun.read_text())
    run.kill_controller()
    wait_until(lambda: sessions(world) == 0, 30, "the sessions of the dump to end")
    wait_until(lambda: not alive(pid), 30, "pg_dump to end, too")
    assert keys(world) == [] and len(uploads(world)) == 1
    after = world.dump()
    assert any("dumps that died" in warning for warning in after["warnings"])
    assert [item.name for item in dumps.list_dumps(world.store)] == [after["dump"]["name"]]


def test_what_died_between_manifest_and_object_is_cleared_away(world: World) -> None:
    world.store.put("database/2026-01-01-0000.manifest.json", b"{}")
    world.store.put("database/2026-01-01-0001.sql.gz", b"somebody's own")
    world.store.put("database/2026-01-01-0002.dir/toc.dat", b"x", metadata=dumps.METADATA)
    after = world.dump()
    assert any("2026-01-01-0002.dir/" in warning for warning in after["warnings"])
    assert [item.name for item in dumps.list_dumps(world.store)] == ["2026-01-01-0001", after["dump"]["name"]]


def test_one_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    go = world.place / "go"
    go.unlink(missing_ok=True)
    wait = f"while not os.path.exists({str(go)!r}): time.sleep(0.05)\nos.execv(REAL, [REAL, *sys.argv[1:]])"
    fake_program(world, monkeypatch, wait)
    made: list[dict[str, t.Any]] = []
    slow = threading.Thread(target=lambda: made.append(world.dump()))
    slow.start()
    try:
        wait_until(lambda: uploads(world), 30, "the first dump to upload")
        with pytest.raises(Refused) as caught:
            world.dump()
        assert caught.value.state["reason"] == "locked"
    finally:
        go.touch()
        slow.join(60)
    assert made[0]["dump"]["name"] == dumps.read_pointer(world.store)


def test_refusals_touch_nothing(world: World, run_module: t.Any) -> None:
    assert run_module(MODULE, world.options(jobs=0), expect_failure=True)["code"] == "invalid_option"
    world.dump()
    before = keys(world)
    postgres = PostgresOptions.from_params(world.source.cluster.options("postgres"))
    with pytest.raises(Refused) as caught:
        dump.run_dump(world.store, postgres, dump.DumpOptions(), check_mode=True, progress=Progress())
    assert caught.value.state["reason"] == "foreign_dumps"
    with pytest.raises(OpsError):
        world.dump(format="directory", spool_directory="/nowhere")
    nothing_new(world, before)


def test_the_password_is_nowhere_to_be_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = world.place / "arguments"
    text = f"open({str(arguments)!r}, 'w').write(repr(sys.argv))\nos.execv(REAL, [REAL, *sys.argv[1:]])"
    fake_program(world, monkeypatch, text)
    postgres = PostgresOptions.from_params({**world.source.cluster.options(DATABASE), "postgres_password": "hush-hush"})
    result = dump.run_dump(world.store, postgres, dump.DumpOptions(), check_mode=False, progress=Progress())
    assert "hush" not in arguments.read_text() and "hush" not in repr(result)
    assert not any(b"hush" in world.store.get(key) for key in keys(world) if key.endswith(".json"))
    assert os.path.exists(arguments)
