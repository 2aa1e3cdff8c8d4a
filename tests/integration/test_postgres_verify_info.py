# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verification of real databases, also of damaged ones."""

from __future__ import annotations

import typing as t

import pytest

if t.TYPE_CHECKING:
    from tests.integration.conftest import ModuleRunner, PostgresFactory
    from tests.lab.postgres import PostgresCluster

PAGE = 8192


def statuses(result: t.Mapping[str, t.Any]) -> dict[str, str]:
    return {check["id"]: check["status"] for check in result["checks"]}


def filled(postgres: PostgresFactory, version: int = 15, checksums: bool = True) -> PostgresCluster:
    cluster = postgres(version=version, checksums=checksums)
    cluster.execute("CREATE TABLE files (id int PRIMARY KEY, path text)")
    cluster.execute("INSERT INTO files SELECT n, 'path ' || n FROM generate_series(1, 20000) AS n")
    cluster.execute("CHECKPOINT")
    return cluster


def corrupt(cluster: PostgresCluster, relation: str, page: int, change: t.Callable[[bytearray], None]) -> None:
    """Change one page of a relation while the server is stopped."""
    path = cluster.data_directory / cluster.execute(f"SELECT pg_relation_filepath('{relation}')")[0][0]
    cluster.stop()
    with path.open("r+b") as file:
        file.seek(page * PAGE)
        data = bytearray(file.read(PAGE))
        change(data)
        file.seek(page * PAGE)
        file.write(data)
    cluster.start()


@pytest.mark.parametrize("version", [15, 18])
def test_a_sound_database(run_module: ModuleRunner, postgres: PostgresFactory, version: int) -> None:
    cluster = filled(postgres, version)
    assertions = [
        {"name": "files", "query": "SELECT count(*) FROM files", "equals": 20000},
        {"name": "newest", "query": "SELECT max(id) FROM files WHERE path LIKE 'path%'", "minimum": 1, "maximum": 20000},
    ]
    arguments = {**cluster.options(), "assertions": assertions, "create_extension": True}
    result = run_module("postgres_verify_info", arguments)
    assert set(statuses(result)) == {
        "postgres.assert.files",
        "postgres.assert.newest",
        "postgres.amcheck.indexes",
        "postgres.amcheck.tables",
    }
    assert result["status"] == "ok" and result["changed"] is False and result["findings"] == []
    assert result["found"] == {"files": 20000, "newest": 20000}
    assert cluster.execute("SELECT 1 FROM pg_extension WHERE extname = 'amcheck'") == [], "the extension must not stay"


def test_without_the_extension_it_is_unknown(run_module: ModuleRunner, postgres: PostgresFactory) -> None:
    cluster = filled(postgres)
    for arguments, check in (({}, False), ({"create_extension": True}, True)):
        result = run_module("postgres_verify_info", {**cluster.options(), **arguments}, check=check)
        assert set(statuses(result).values()) == {"unknown"} and result["status"] == "unknown"


def test_wrong_values_and_missing_tables_are_critical(run_module: ModuleRunner, postgres: PostgresFactory) -> None:
    assertions = [
        {"name": "right", "query": "SELECT 1", "equals": 1},
        {"name": "wrong", "query": "SELECT count(*) FROM files", "minimum": 20001},
        {"name": "gone", "query": "SELECT count(*) FROM users", "minimum": 0},
        {"name": "late", "query": "SELECT pg_sleep(60)", "equals": 1},
        {"name": "writes", "query": "INSERT INTO files VALUES (0, '') RETURNING id", "equals": 0},
        {"name": "after", "query": "SELECT 1", "equals": 1},
    ]
    cluster = filled(postgres)
    arguments = {**cluster.options(), "assertions": assertions, "amcheck": False, "timeout": 3}
    found = statuses(run_module("postgres_verify_info", arguments))
    assert {name.removeprefix("postgres.assert."): status for name, status in found.items()} == {
        "right": "ok",
        "wrong": "critical",
        "gone": "critical",
        "late": "unknown",
        "writes": "unknown",
        "after": "unknown",
    }
    assert cluster.execute("SELECT count(*) FROM files") == [(20000,)]


def test_a_query_cannot_write(run_module: ModuleRunner, postgres: PostgresFactory) -> None:
    cluster = filled(postgres)
    demand = {"name": "writes", "query": "DELETE FROM files WHERE id = 1 RETURNING id", "equals": 1}
    result = run_module("postgres_verify_info", {**cluster.options(), "assertions": [demand], "amcheck": False})
    assert result["status"] == "critical" and "read-only" in result["checks"][0]["summary"]
    assert cluster.execute("SELECT count(*) FROM files") == [(20000,)]


def test_an_index_that_lacks_rows(run_module: ModuleRunner, postgres: PostgresFactory) -> None:
    """Only heapallindexed sees it: each page of the index is sound."""
    cluster = filled(postgres)
    cluster.execute("ALTER TABLE files SET (autovacuum_enabled = off)")
    name = "files_pkey"
    cluster.execute(f"UPDATE pg_index SET indisready = false WHERE indexrelid = '{name}'::regclass")
    cluster.execute("INSERT INTO files VALUES (30001, 'not indexed')")
    cluster.execute(f"UPDATE pg_index SET indisready = true WHERE indexrelid = '{name}'::regclass")
    arguments = {**cluster.options(), "create_extension": True}
    result = run_module("postgres_verify_info", arguments)
    assert statuses(result) == {"postgres.amcheck.indexes": "critical", "postgres.amcheck.tables": "ok"}
    assert [(finding["relation"], finding["kind"]) for finding in result["findings"]] == [(name, "index")]
    assert run_module("postgres_verify_info", {**arguments, "heapallindexed": False})["status"] == "ok"


def test_a_damaged_heap(run_module: ModuleRunner, postgres: PostgresFactory) -> None:
    cluster = filled(postgres, checksums=False)

    def break_tuple(page: bytearray) -> None:
        """Make the first tuple say that it has far more attributes than fit."""
        line_pointer = int.from_bytes(page[24:28], "little")
        tuple_offset = line_pointer & 0x7FFF
        page[tuple_offset + 22] = 0xFF  # t_hoff

    corrupt(cluster, "files", 2, break_tuple)
    result = run_module("postgres_verify_info", {**cluster.options(), "create_extension": True, "heapallindexed": False})
    assert statuses(result)["postgres.amcheck.tables"] == "critical"
    assert {finding["relation"] for finding in result["findings"]} == {"files"}
    assert "block 2" in result["findings"][0]["message"]


def test_a_page_with_a_wrong_checksum(run_module: ModuleRunner, postgres: PostgresFactory) -> None:
    cluster = filled(postgres)

    def flip(page: bytearray) -> None:
        page[5000] ^= 0xFF

    corrupt(cluster, "files_pkey", 3, flip)
    result = run_module("postgres_verify_info", {**cluster.options(), "create_extension": True})
    assert statuses(result)["postgres.amcheck.indexes"] == "critical"
    assert [finding["relation"] for finding in result["findings"]] == ["files_pkey"]


def test_the_time_is_over(run_module: ModuleRunner, postgres: PostgresFactory) -> None:
    result = run_module("postgres_verify_info", {**filled(postgres).options(), "create_extension": True, "timeout": 0})
    assert set(statuses(result).values()) == {"unknown"}


def test_a_role_without_the_right_sees_unknown(run_module: ModuleRunner, postgres: PostgresFactory) -> None:
    cluster = filled(postgres)
    cluster.execute("CREATE ROLE reader LOGIN")
    arguments = {**cluster.options(), "postgres_user": "reader", "create_extension": True}
    demand = {"name": "files", "query": "SELECT count(*) FROM files", "equals": 20000}
    result = run_module("postgres_verify_info", {**arguments, "assertions": [demand]})
    assert set(statuses(result).values()) == {"unknown"}


def test_no_such_database(run_module: ModuleRunner, postgres: PostgresFactory) -> None:
    result = run_module("postgres_verify_info", postgres().options("nothing"), expect_failure=True)
    assert result["code"] == "not_found" and "nothing" in result["msg"]
