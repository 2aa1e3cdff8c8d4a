# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of a real database against real files."""

from __future__ import annotations

import hashlib
import os
import typing as t
from pathlib import Path

import pytest

if t.TYPE_CHECKING:
    from tests.integration.conftest import ModuleRunner, PostgresFactory
    from tests.lab.postgres import PostgresCluster

QUERY = "SELECT path, size, sha256 FROM files;"
NAMES = [f"{number % 7}/file {number}-é.bin" for number in range(300)] + ["7-", "7.x/a", "7/a"]


@pytest.fixture
def uploads(place: Path) -> Path:
    directory = place / "uploads"
    for name in NAMES:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 50)
    return directory


def described(postgres: PostgresFactory, uploads: Path) -> PostgresCluster:
    """A database that knows the files, in the order of a locale."""
    cluster = postgres()
    cluster.execute("CREATE TABLE files (path text PRIMARY KEY, size bigint, sha256 text)")
    with cluster.connect() as connection:
        for name in NAMES:
            content = (uploads / name).read_bytes()
            connection.execute("INSERT INTO files VALUES (%s, %s, %s)", (name, len(content), hashlib.sha256(content).hexdigest()))
    return cluster


def test_equal_in_check_mode_too(run_module: ModuleRunner, postgres: PostgresFactory, uploads: Path) -> None:
    arguments = {**described(postgres, uploads).options(), "query": QUERY, "path": str(uploads)}
    for check in (True, False, False):
        result = run_module("postgres_file_check_info", arguments, check=check)
        assert (result["status"], result["changed"]) == ("ok", False)
        assert (result["rows"], result["files"], result["hashed"]) == (303, 303, 303)


def test_differences(run_module: ModuleRunner, postgres: PostgresFactory, uploads: Path) -> None:
    cluster = described(postgres, uploads)
    (uploads / NAMES[0]).unlink()
    (uploads / NAMES[1]).write_bytes(b"short")
    changed = uploads / NAMES[2]
    changed.write_bytes(b"X" + changed.read_bytes()[1:])
    (uploads / "orphan").write_bytes(b"")
    secret = uploads.parent / "secret"
    secret.write_text("secret")
    cluster.execute("INSERT INTO files VALUES ('../secret', 6, ''), ('/etc/passwd', 1, ''), (E'a\\nb', 1, '')")
    result = run_module("postgres_file_check_info", {**cluster.options(), "query": QUERY, "path": str(uploads)})
    assert result["status"] == "critical"
    expected = {"missing": 1, "size": 1, "sha256": 1, "orphan": 1, "hostile": 3, "not_regular": 0, "unreadable": 0}
    assert result["counts"] == expected
    found = {finding["kind"]: finding["path"] for finding in result["findings"]}
    assert (found["missing"], found["size"], found["sha256"], found["orphan"]) == (NAMES[0], NAMES[1], NAMES[2], "orphan")
    without = run_module(
        "postgres_file_check_info",
        {**cluster.options(), "query": "SELECT path, size FROM files WHERE size < 0", "path": str(uploads), "max_findings": 5},
    )
    assert without["status"] == "warning" and len(without["findings"]) == 5 and without["counts"]["orphan"] == without["files"]


def test_a_link_is_not_followed(run_module: ModuleRunner, postgres: PostgresFactory, uploads: Path) -> None:
    cluster = described(postgres, uploads)
    target = uploads / NAMES[0]
    content = target.read_bytes()
    outside = uploads.parent / "outside"
    outside.write_bytes(content)
    target.unlink()
    target.symlink_to(outside)
    result = run_module("postgres_file_check_info", {**cluster.options(), "query": QUERY, "path": str(uploads)})
    assert result["counts"]["not_regular"] == 1 and result["status"] == "critical"


def test_rows_can_have_no_size_and_no_sum(run_module: ModuleRunner, postgres: PostgresFactory, uploads: Path) -> None:
    cluster = described(postgres, uploads)
    arguments = {**cluster.options(), "query": "SELECT path FROM files", "path": str(uploads)}
    result = run_module("postgres_file_check_info", arguments)
    assert result["status"] == "ok" and result["hashed"] == 0


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"query": "SELECT path FROM nothing"}, "not_found"),
        ({"query": "SELECT 1 AS number"}, "not_found"),
        ({"query": "SELECT path FROM files, pg_sleep(30)", "timeout": 1}, "timeout"),
        ({"path": "/does/not/exist"}, "not_found"),
        ({"query": "DELETE FROM files RETURNING path"}, "failed"),
    ],
)
def test_failures(run_module: ModuleRunner, postgres: PostgresFactory, uploads: Path, changes: dict[str, t.Any], code: str) -> None:
    cluster = described(postgres, uploads)
    arguments = {**cluster.options(), "query": QUERY, "path": str(uploads), **changes}
    assert run_module("postgres_file_check_info", arguments, expect_failure=True)["code"] == code
    assert cluster.execute("SELECT count(*) FROM files") == [(len(NAMES),)]


def test_a_directory_that_cannot_be_read(run_module: ModuleRunner, postgres: PostgresFactory, uploads: Path) -> None:
    """Root reads everything: then the walk must simply succeed."""
    cluster = described(postgres, uploads)
    (uploads / "0").chmod(0)
    arguments = {**cluster.options(), "query": QUERY, "path": str(uploads)}
    try:
        result = run_module("postgres_file_check_info", arguments, expect_failure=os.geteuid() != 0)
    finally:
        (uploads / "0").chmod(0o755)
    assert result.get("status") == "ok" if os.geteuid() == 0 else result["code"] == "invalid_option"
