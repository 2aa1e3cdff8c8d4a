# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes, bloat, useless indexes and growth of real databases, with a real standby."""

from __future__ import annotations

import datetime
import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import bloat, vacuum
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions, connect
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress
from ansible_collections.fileforge.ops.plugins.modules import postgres_size_info as module

from tests.lab.daemon import wait_until
from tests.lab.postgres import PostgresCluster

if t.TYPE_CHECKING:
    from tests.integration.conftest import ModuleRunner

DAY = datetime.timedelta(days=1)
ROWS = 40_000
SETUP = f"""
CREATE EXTENSION pgstattuple
CREATE TABLE files (id bigint PRIMARY KEY, owner int, path text, note text, at timestamptz, price numeric, done bool)
INSERT INTO files SELECT g, g % 5, 'path/to/file/' || g, CASE WHEN g % 3 = 0 THEN repeat('x', g % 50) END,
  '2026-01-01'::timestamptz + g * interval '1s', g % 1000, g % 2 = 0 FROM generate_series(1, {ROWS}) AS g
CREATE INDEX files_owner ON files (owner)
CREATE INDEX files_owner_twin ON files (owner)
CREATE INDEX files_owner_done ON files (owner, done)
CREATE INDEX files_path ON files (path)
CREATE INDEX files_note ON files (note)
CREATE INDEX files_price ON files (price)
CREATE INDEX files_recent ON files (at) WHERE owner = 1
CREATE INDEX files_lower ON files (lower(path))
CREATE INDEX files_hash ON files USING hash (path)
CREATE TABLE documents (id int, body text) WITH (fillfactor = 80)
ALTER TABLE documents ALTER body SET STORAGE EXTERNAL
INSERT INTO documents SELECT g, repeat('x', 9000) FROM generate_series(1, 300) AS g
CREATE TABLE parts (id int, at date) PARTITION BY RANGE (id)
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (1000)
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (1000) TO (2000)
CREATE INDEX parts_at ON parts (at)
CREATE TABLE empty (id int)
"""


@pytest.fixture(scope="module", params=[15, 18])
def cluster(session_place: Path, request: pytest.FixtureRequest) -> t.Iterator[PostgresCluster]:
    made = PostgresCluster(session_place / f"sizes-{request.param}", version=request.param)
    try:
        made.create({"autovacuum": "off", "fsync": "off", "wal_level": "replica", "max_wal_senders": 4}).start()
        made.execute("CREATE DATABASE app")
        for statement in SETUP.replace("\n  ", " ").strip().splitlines():
            made.execute(statement, "app")
        made.execute("VACUUM ANALYZE", "app")
        yield made
    finally:
        made.destroy()


def options(cluster: PostgresCluster, **changes: t.Any) -> dict[str, t.Any]:
    return {**cluster.options("app"), **changes}


def look(cluster: PostgresCluster, **changes: t.Any) -> dict[str, t.Any]:
    """The module's own function against the server, without Ansible."""
    params = {name: spec.get("default") for name, spec in module.ARGUMENTS.items()}
    return module.operate({**params, **options(cluster, bloat_bytes=8192, **changes)}, False)


def statuses(result: t.Mapping[str, t.Any]) -> dict[str, str]:
    return {check["id"].removeprefix("postgres."): check["status"] for check in result["checks"]}


def check_of(result: t.Mapping[str, t.Any], name: str) -> dict[str, t.Any]:
    return next(check for check in result["checks"] if check["id"] == f"postgres.{name}")


def test_estimates_agree_with_what_is_measured(cluster: PostgresCluster) -> None:
    """Dense after the load, three quarters empty after a deletion: both known without reading a table."""

    def compare() -> dict[str, tuple[float, float]]:
        with connect(PostgresOptions.from_params(options(cluster))) as connection:
            found = [(item, bloat.exact_table) for item in bloat.estimate_tables(connection)]
            found += [(item, bloat.exact_index) for item in bloat.estimate_indexes(connection) if item.method == "btree"]
            result = {}
            for item, measure in found:
                exact = measure(connection, item.oid)
                assert item.source == "estimate" and exact.source == "exact" and item.ratio is not None and exact.ratio is not None
                result["toast" if item.kind == "toast" else item.name] = (item.ratio, exact.ratio)
            return result

    fresh = compare()
    assert {"files", "toast", "documents", "files_recent", "files_lower", "files_owner_done", "empty"} <= set(fresh)
    for name, (estimate, exact) in fresh.items():
        assert estimate <= 0.08 and exact <= 0.05, name
    cluster.execute("DELETE FROM files WHERE id % 4 <> 0", "app")
    cluster.execute("VACUUM ANALYZE files", "app")
    for name, (estimate, exact) in compare().items():
        if name.startswith("files"):
            assert abs(estimate - exact) < 0.06 and estimate > 0.6, (name, estimate, exact)


@pytest.mark.parametrize("cluster", [15], indirect=True)
def test_what_takes_room_and_what_is_waste(cluster: PostgresCluster, run_module: ModuleRunner) -> None:
    result = run_module("postgres_size_info", options(cluster, bloat_bytes=8192), interpreter="/usr/bin/python3")
    assert result["changed"] is False
    sizes = {table["name"]: table for table in result["tables"]}
    assert next(iter(sizes)) == "files" and set(sizes) == {"files", "documents", "parts_1", "parts_2", "empty"}
    for name, table in sizes.items():
        real = cluster.execute(f"SELECT pg_total_relation_size('{name}'), pg_indexes_size('{name}')", "app")[0]
        assert (table["total_bytes"], table["index_bytes"]) == real, name
    assert sizes["documents"]["toast_bytes"] > sizes["documents"]["heap_bytes"]
    assert statuses(result) == {
        "size.database": "ok",
        "bloat.tables": "warning",
        "bloat.indexes": "warning",
        "indexes.unused": "unknown",
        "indexes.duplicate": "warning",
        "indexes.invalid": "ok",
    }
    assert check_of(result, "bloat.tables")["hint"] == "playbooks/db-maintenance.yml"
    assert check_of(result, "bloat.indexes")["hint"] == "playbooks/index-rebuild.yml"
    assert {item["source"] for item in result["bloat"]} == {"estimate"}
    measured = look(cluster, exact=True)
    assert {item["source"] for item in measured["bloat"] if item["ratio"] >= 0.3} == {"exact"}


def test_duplicates(cluster: PostgresCluster) -> None:
    found = {row["name"]: (row["kind"], row["covered_by"]) for row in look(cluster)["duplicate_indexes"]}
    assert found == {"files_owner": ("prefix", "files_owner_done"), "files_owner_twin": ("same", "files_owner")}
    try:
        cluster.execute("CREATE TABLE ranks (place int, CONSTRAINT ranks_late UNIQUE (place) DEFERRABLE)", "app")
        cluster.execute("CREATE UNIQUE INDEX ranks_place ON ranks (place)", "app")
        cluster.execute("CREATE UNIQUE INDEX ranks_nulls ON ranks (place) NULLS NOT DISTINCT", "app")
        assert {row["name"] for row in look(cluster)["duplicate_indexes"]} == set(found)
        cluster.execute("CREATE UNIQUE INDEX ranks_again ON ranks (place) NULLS NOT DISTINCT", "app")
        assert {row["name"] for row in look(cluster)["duplicate_indexes"]} == {*found, "ranks_again"}
    finally:
        cluster.execute("DROP TABLE IF EXISTS ranks", "app")


def test_unused_needs_old_counters_and_every_standby(cluster: PostgresCluster, place: Path) -> None:
    """The same index: young counters, a standby that was not asked, a standby that uses it, and at last really unused."""
    young = check_of(look(cluster), "indexes.unused")
    assert young["status"] == "unknown" and "younger than 30 days" in young["summary"]
    cluster.execute("SELECT count(*) FROM (SELECT price FROM files WHERE price = 5 OFFSET 0) AS used", "app")
    for name in (
        "id = 4",
        "path = 'x'",
        "note = 'x'",
        "owner = 9 AND done",
        "at > '2030-01-01' AND owner = 1",
        "lower(path) = 'x'",
    ):
        cluster.execute(f"SET enable_seqscan = off; SELECT count(*) FROM files WHERE {name}", "app")
    idle = {row["name"] for row in look(cluster, unused_days=0)["unused_indexes"]}
    assert "parts_at" in idle and "files_pkey" not in idle and "files_price" not in idle

    standby = PostgresCluster(place / "standby", version=cluster.version)
    standby.root.mkdir()
    for name in ("log", "data"):
        standby.directory(name)
    standby.directory("run")
    try:
        target = ["-h", str(cluster.socket_directory), "-p", str(cluster.port), "-U", "postgres"]
        standby.run("pg_basebackup", *target, "-D", str(standby.data_directory), "-c", "fast", "-X", "stream")
        source = f"host={cluster.socket_directory} port={cluster.port} user=postgres"
        standby.configure({"port": standby.port, "unix_socket_directories": standby.socket_directory, "primary_conninfo": source})
        (standby.data_directory / "standby.signal").touch()
        standby.start()
        replicating = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
        wait_until(lambda: cluster.execute(replicating) == [(1,)], 30, "the standby to follow")
        with pytest.raises(Refused, match="standby"):
            server = PostgresOptions.from_params(standby.options("app"))
            vacuum.maintain(server, vacuum.VacuumOptions(), check_mode=True, plan_digest=None, progress=Progress())

        alone = check_of(look(cluster, unused_days=0), "indexes.unused")
        assert alone["status"] == "unknown" and "standbys were not asked" in alone["summary"]
        address = f"{standby.socket_directory}:{standby.port}"
        both = look(cluster, unused_days=0, replicas=[address])
        assert check_of(both, "indexes.unused")["status"] == "warning" and check_of(both, "indexes.unused")["hint"]
        assert "parts_at" in {row["name"] for row in both["unused_indexes"]}
        standby.execute("SET enable_seqscan = off; SELECT count(*) FROM parts WHERE at = '2026-01-01'", "app")
        used = look(cluster, unused_days=0, replicas=[address])
        assert "parts_at" not in {row["name"] for row in used["unused_indexes"]}, "it is used on the standby"
        gone = check_of(look(cluster, unused_days=0, replicas=[address, "/nonexistent:1"]), "indexes.unused")
        assert gone["status"] == "unknown" and "/nonexistent" in gone["summary"]
    finally:
        standby.destroy()


@pytest.mark.parametrize("cluster", [15], indirect=True)
def test_growth_since_the_last_run(cluster: PostgresCluster, run_module: ModuleRunner, place: Path) -> None:
    path = place / "kept" / "sizes.json"
    arguments = options(cluster, sample_file=str(path))
    checked = run_module("postgres_size_info", arguments, check=True)
    assert statuses(checked)["size.growth"] == "unknown" and not path.exists(), "check mode keeps no sample"
    assert look(cluster, sample_file=str(path))["growth"] is None
    soon = look(cluster, sample_file=str(path))
    assert soon["growth"]["bytes_per_day"] is None and statuses(soon)["size.growth"] == "unknown", "seconds make no rate"

    content = json.loads(path.read_text())
    for sample in content["samples"]:
        sample["taken"] = (datetime.datetime.fromisoformat(sample["taken"]) - 2 * DAY).isoformat()
    path.write_text(json.dumps(content))
    cluster.execute("INSERT INTO documents SELECT g, repeat('y', 9000) FROM generate_series(1, 600) AS g", "app")
    later = look(cluster, sample_file=str(path))
    assert later["growth"]["tables"][0]["table"] == "public.documents" and later["growth"]["tables"][0]["bytes"] > 5_000_000
    check = check_of(later, "size.growth")
    assert check["status"] == "warning" and "documents" in check["summary"]
    assert statuses(look(cluster, sample_file=str(path)))["size.growth"] == "unknown"
    assert len(json.loads(path.read_text())["samples"]) == 4


@pytest.mark.parametrize("cluster", [15], indirect=True)
def test_one_probe_that_fails_hides_no_other(cluster: PostgresCluster, place: Path) -> None:
    broken = place / "broken.json"
    broken.write_text("[]")
    result = look(cluster, sample_file=str(broken))
    assert statuses(result)["size.growth"] == "unknown" and statuses(result)["size.database"] == "ok"
    assert broken.read_text() == "[]", "what is no file of samples is not overwritten"
    with cluster.connect("app") as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE documents")
        locked = look(cluster)
        other.execute("ROLLBACK")
    assert locked["tables"] and "documents" in {table["name"] for table in locked["tables"]}, "an exclusive lock blocks nothing"


def test_what_could_not_be_judged_is_unknown(cluster: PostgresCluster) -> None:
    cluster.execute("CREATE TABLE unseen AS SELECT g AS id, 'text ' || g AS words FROM generate_series(1, 2000) AS g", "app")
    try:
        with connect(PostgresOptions.from_params(options(cluster))) as connection:
            oid = cluster.execute("SELECT 'unseen'::regclass::oid::bigint", "app")[0][0]
            item = bloat.estimate_tables(connection, [oid])[0]
            assert item.source == "none" and item.ratio is None and "analyse" in item.note
            hashed = next(found for found in bloat.estimate_indexes(connection) if found.name == "files_hash")
            assert hashed.source == "none" and hashed.bloat_bytes is None
            with pytest.raises(InvalidOption, match="hash"):
                bloat.exact_index(connection, hashed.oid)
        with connect(PostgresOptions.from_params(cluster.options())) as other, pytest.raises(Refused, match="pgstattuple"):
            bloat.exact_index(other, 1)
    finally:
        cluster.execute("DROP TABLE unseen", "app")


def test_a_role_that_only_watches(cluster: PostgresCluster) -> None:
    """pg_monitor sees every size; what it may not read has no estimate, and that is said."""
    cluster.execute("CREATE ROLE watcher LOGIN IN ROLE pg_monitor")
    result = look(cluster, postgres_user="watcher")
    assert {table["name"]: table["total_bytes"] for table in result["tables"]}["files"] > 1_000_000
    found = statuses(result)
    assert found["size.database"] == found["indexes.invalid"] == "ok" and found["indexes.duplicate"] == "warning"
    assert found["bloat.tables"] == "unknown" and "may not read" in check_of(result, "bloat.tables")["summary"]
    if cluster.version >= 14:
        cluster.execute("GRANT pg_read_all_data TO watcher")
        assert check_of(look(cluster, postgres_user="watcher"), "bloat.tables")["status"] in ("ok", "warning")
