# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Good backups pass; each way in which one can be bad is found; nothing is ever left behind."""

from __future__ import annotations

import json
import os
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup import base_backup, dump, verifications
from ansible_collections.fileforge.ops.plugins.module_utils._backup.dumps import TableRows
from ansible_collections.fileforge.ops.plugins.module_utils._backup.verify import run_verify
from ansible_collections.fileforge.ops.plugins.module_utils._errors import Refused
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import running_server
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.verify import Assertion
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress

from tests.integration.dump_source import DATABASE, FILES, USERS, World
from tests.lab.s3 import S3Server

MODULE = "postgres_backup_verify"


@pytest.fixture(scope="module")
def shared(session_place: Path, s3: S3Server) -> t.Iterator[World]:
    world = World.create(session_place / "verified", s3)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dump, "BLOCK", 256 << 10)  # so that it has several members
            world.good = world.dump()["dump"]["name"]  # type: ignore[attr-defined]
        world.base = world.source.backup()  # type: ignore[attr-defined]
        world.source.mark(1)
        world.source.archive()
        yield world
    finally:
        world.close()


@pytest.fixture
def world(shared: World) -> t.Iterator[World]:
    yield shared
    shared.assert_nothing_is_left()


def statuses(result: dict[str, t.Any]) -> dict[str, str]:
    return {check["id"]: check["status"] for check in result["checks"]}


def said(result: dict[str, t.Any], name: str) -> str:
    [summary] = [check["summary"] for check in result["checks"] if check["id"] == name]
    return str(summary)


def found_bad(result: dict[str, t.Any], name: str, *words: str) -> None:
    """Exactly this check is critical, it says why, and the verdict is in the bucket."""
    assert result["status"] == "critical", result["checks"]
    assert [check for check, status in statuses(result).items() if status == "critical"] == [name], result["checks"]
    for word in words:
        assert word in said(result, name)


def test_a_good_dump_passes(world: World, run_module: t.Any) -> None:
    """Check mode, real run, second run, through Ansible."""
    arguments = world.verify_arguments(
        backup=world.good,
        minimum_rows={"files": FILES, "public.users": USERS},
        assertions=[{"name": "orphans", "query": "SELECT count(*) FROM files WHERE user_id IS NULL", "equals": "0"}],
        rto=3600,
    )
    planned = run_module(MODULE, arguments, check=True, diff=True)
    assert planned["changed"] and planned["status"] == "unknown" and planned["checks"] == []
    assert [step["action"] for step in planned["plan"]["steps"]] == ["fetch", "restore", "verify", "remove", "upload"]
    assert "scratch server" in planned["diff"]["after"]
    world.assert_nothing_is_left()
    assert list(world.store.list(verifications.PLACE)) == []

    real = run_module(MODULE, arguments)
    assert real["changed"] and real["plan"]["digest"] == planned["plan"]["digest"]
    assert real["status"] == "ok", real["checks"]
    assert set(statuses(real)) == {
        *("verify.manifest", "verify.checksum", "verify.restore", "verify.row_counts", "verify.minimum_rows", "verify.time"),
        *("postgres.amcheck.indexes", "postgres.amcheck.tables", "postgres.assert.orphans"),
    }
    assert real["backup"]["rows"] == FILES + USERS + 101
    assert [timing["phase"] for timing in real["timings"]] == ["fetch", "create", "restore", "count", "verify", "remove"]
    assert "postgres_backup_verify localhost: restore" in real["output"]
    world.assert_nothing_is_left()
    record = json.loads(world.store.get(real["record"]))
    assert (record["kind"], record["backup"], record["status"]) == ("dump", world.good, "ok")
    assert record["checks"] == real["checks"]

    second = run_module(MODULE, {**arguments, "max_age": 3600})
    assert not second["changed"] and second["plan"]["steps"] == []
    assert second["status"] == "ok" and second["record"] == real["record"]


def test_other_formats_pass(world: World) -> None:
    spool = world.place / "spool"
    spool.mkdir(exist_ok=True)
    for kind in ("custom", "directory"):
        name = world.dump(format=kind, spool_directory=str(spool))["dump"]["name"]
        result = world.verify(backup=name, amcheck=False)
        assert result["status"] == "ok", result["checks"]
        assert result["backup"]["format"] == kind
    assert list(spool.iterdir()) == []


def test_a_truncated_object(world: World) -> None:
    """Cut where a member of the gzip ends, so that gunzip itself is content."""
    name = world.damage(world.good, "cut", lambda data: data[: data.index(b"\x1f\x8b\x08", 10)])
    found_bad(world.verify(backup=name), "verify.checksum", "cut.sql.gz has", "its manifest promises")


def test_a_flipped_bit(world: World) -> None:
    def flip(data: bytes) -> bytes:
        return data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]

    result = world.verify(backup=world.damage(world.good, "flipped", flip))
    found_bad(result, "verify.checksum", "SHA-256")
    assert statuses(result)["verify.restore"] == "unknown"


def test_what_is_missing_or_no_manifest(world: World) -> None:
    name = world.damage(world.good, "gone", lambda data: data)
    world.store.delete(["database/gone.sql.gz"])
    found_bad(world.verify(backup=name), "verify.checksum", "nothing but its manifest")
    world.store.put("database/gone.manifest.json", b"{}")
    found_bad(world.verify(backup=name), "verify.manifest", "not the manifest of a dump")
    world.store.delete(["database/gone.manifest.json"])
    world.store.put("database/gone.sql.gz", b"somebody's own")
    result = world.verify(backup=name)
    assert result["status"] == "unknown" and "has no manifest" in said(result, "verify.manifest")
    world.store.delete(["database/gone.sql.gz"])
    with pytest.raises(Refused) as caught:
        world.verify(backup=name)
    assert caught.value.state["reason"] == "backup_unknown"


def test_a_half_loaded_dump(world: World) -> None:
    """An error in the middle: psql without ON_ERROR_STOP would go on and end well."""
    content = world.sql(world.good)
    broken = content.replace(b"\n500\t", b"\nfive hundred\t", 1)
    assert broken != content
    result = world.verify(backup=world.forge(world.good, "half", broken))
    found_bad(result, "verify.restore", 'invalid input syntax for type integer: "five hundred"')
    assert statuses(result)["verify.row_counts"] == "unknown"


def test_a_dump_that_ends_early(world: World) -> None:
    """Cut within the rows of a table: psql takes the end of its input for the end of the rows."""
    content = world.sql(world.good)
    cut = content[: content.index(b"\n500\t") + 1]
    found_bad(world.verify(backup=world.forge(world.good, "early", cut)), "verify.restore", "its last line is missing")


def test_a_missing_table_and_a_wrong_count(world: World) -> None:
    content = world.sql(world.good) + b"DROP TABLE public.users CASCADE;\n-- PostgreSQL database dump complete\n"
    tables = tuple(
        TableRows(table.schema, table.name, table.rows + (table.name == "files")) for table in world.manifest(world.good).tables
    )
    name = world.forge(world.good, "wanting", content, tables=tables)
    world.store.put("database/latest.json", json.dumps({"name": name}).encode())
    result = world.verify(amcheck=False)  # the newest, as it is called latest
    found_bad(result, "verify.row_counts", "public.users is missing", f"public.files has {FILES} rows instead of {FILES + 1}")
    assert result["backup"]["name"] == name
    world.store.put("database/latest.json", json.dumps({"name": world.good}).encode())
    assert json.loads(world.store.get(result["record"]))["status"] == "critical"


def test_what_the_user_expects(world: World) -> None:
    few = (Assertion("users", "SELECT count(*) FROM users", minimum=USERS + 1),)
    result = world.verify(
        backup=world.good, minimum_rows={"files": FILES + 1, "no.table": 1}, assertions=few, amcheck=False, rto=1, record=False
    )
    assert not result["changed"] and result["record"] == ""
    wrong = {name for name, status in statuses(result).items() if status == "critical"}
    assert wrong - {"verify.time"} == {"verify.minimum_rows", "postgres.assert.users"}
    assert f"files has {FILES} rows, at least {FILES + 1}" in said(result, "verify.minimum_rows")
    assert "no.table" in said(result, "verify.minimum_rows")


def test_a_good_base_backup_passes(world: World) -> None:
    result = world.verify(
        kind="base",
        database="postgres",
        minimum_rows={"filling": 20_000},
        assertions=(Assertion("mark", "SELECT count(*) FROM mark", equals="1"),),
    )
    assert result["status"] == "ok", result["checks"]
    assert statuses(result)["verify.page_checksums"] == "ok"
    assert "app: " in said(result, "postgres.amcheck.indexes") and "postgres: " in said(result, "postgres.amcheck.indexes")
    assert result["backup"]["name"] == world.base and DATABASE in result["backup"]["databases"]


def test_a_base_backup_whose_objects_are_wrong(world: World) -> None:
    key = f"base/{world.base}_base.tar.gz"
    data = world.store.get(key)
    metadata = world.store.head(key).metadata
    index = world.store.get(f"base/{world.base}_base.index.json.gz")
    try:
        world.store.put(key, data[:-1000], metadata=metadata)
        found_bad(world.verify(kind="base"), "verify.checksum", "bytes, the index promises")
        world.store.put(f"base/{world.base}_base.index.json.gz", b"no index")
        found_bad(world.verify(kind="base"), "verify.manifest", "index.json.gz")
    finally:
        world.store.put(key, data, metadata=metadata)
        world.store.put(f"base/{world.base}_base.index.json.gz", index)


def test_missing_wal(world: World) -> None:
    world.source.mark(2)
    segment = world.source.archive()
    world.source.mark(3)
    world.source.archive()
    key = next(key for key in world.source.keys("wal/") if segment in key)
    world.store.copy(key, f"kept/{segment}")
    world.store.delete([key])
    try:
        found_bad(world.verify(kind="base"), "verify.wal", segment)
    finally:
        world.store.copy(f"kept/{segment}", key)


def test_a_corrupted_index_and_a_damaged_page(world: World) -> None:
    """An index that lacks rows, with pages that are whole; and a page of a table whose checksum is wrong."""
    cluster = world.source.cluster
    for statement in (
        "CREATE TABLE victim AS SELECT n, md5(n::text) AS text FROM generate_series(1, 5000) n",
        "CREATE TABLE lacking (n int)",
        "CREATE INDEX lacking_n ON lacking (n)",
        "UPDATE pg_index SET indisready = false WHERE indexrelid = 'lacking_n'::regclass",
        "INSERT INTO lacking SELECT n FROM generate_series(1, 100) n",
        "UPDATE pg_index SET indisready = true WHERE indexrelid = 'lacking_n'::regclass",
        "VACUUM victim",
        "CHECKPOINT",
    ):
        cluster.execute(statement, DATABASE)
    path = cluster.execute("SELECT pg_relation_filepath('victim')", DATABASE)[0][0]
    cluster.stop()
    with (cluster.data_directory / path).open("r+b") as file:
        file.seek(3 * 8192 + 5000)
        byte = file.read(1)[0]
        file.seek(3 * 8192 + 5000)
        file.write(bytes([byte ^ 4]))
    cluster.start()
    options = base_backup.BackupOptions(accept_checksum_failures=True)
    postgres = PostgresOptions.from_params(cluster.options())
    taken = base_backup.run_backup(world.store, postgres, options, check_mode=False, progress=Progress())["backup"]["name"]
    try:
        result = world.verify(kind="base", backup=taken)
    finally:
        world.store.delete([item.key for item in world.store.list(f"base/{taken}_")])
    bad = {name for name, status in statuses(result).items() if status == "critical"}
    assert bad == {"verify.page_checksums", "postgres.amcheck.indexes", "postgres.amcheck.tables"}, result["checks"]
    assert f"{path} block 3" in said(result, "verify.page_checksums")
    findings = {(finding["relation"], finding["kind"]): finding["message"] for finding in result["findings"]}
    assert "lacks matching index tuple" in findings["lacking_n", "index"]
    assert "invalid page in block 3" in findings["victim", "table"]


def first_of(path: Path) -> str:
    """The first character of a file; of ``postmaster.pid`` it tells a backend of initdb from a server."""
    try:
        return path.read_text(errors="replace")[:1]
    except OSError:
        return ""


def test_killed_and_run_again(world: World, start_module: t.Any) -> None:
    """SIGKILL while the cluster is made, and while its server restores: the next run removes what it left, and passes."""
    pid_file = world.scratch / "data" / "postmaster.pid"
    moments = {
        "initdb": lambda: first_of(pid_file) == "-",
        "the scratch server": lambda: first_of(pid_file).isdigit() and running_server(str(pid_file.parent)),
    }
    for what, moment in moments.items():
        run = start_module(MODULE, world.verify_arguments(backup=world.good))
        run.wait_for(moment, what=what)
        run.kill_controller()
        assert list(world.scratch.iterdir()) != []
    result = world.verify(backup=world.good)
    assert result["status"] == "ok", result["checks"]


def test_a_directory_of_somebody_else_is_left_alone(world: World) -> None:
    data = world.scratch / "data"
    data.mkdir(parents=True)
    (data / "precious").write_text("x")
    with pytest.raises(Refused, match="not made by a scratch restore"):
        run_verify(world.store, world.verify_options(backup=world.good), check_mode=False, progress=Progress())
    assert (data / "precious").read_text() == "x"
    os.unlink(data / "precious")
    data.rmdir()
    world.scratch.rmdir()
