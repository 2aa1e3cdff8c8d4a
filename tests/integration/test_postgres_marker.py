# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Markers on real servers, with real archiving."""

from __future__ import annotations

import datetime
import typing as t
from pathlib import Path

import pytest

if t.TYPE_CHECKING:
    from tests.integration.conftest import ModuleRunner, PostgresFactory


def moment(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


@pytest.mark.parametrize("version", [15, 18])
def test_check_mode_create_and_again(run_module: ModuleRunner, postgres: PostgresFactory, version: int) -> None:
    cluster = postgres(version=version, settings={"track_commit_timestamp": "on"})
    arguments = {**cluster.options(), "label": "before"}
    planned = run_module("postgres_marker", arguments, check=True, diff=True)
    assert planned["changed"] and planned["committed_at"] == "" and "before" in planned["diff"]["after"]
    assert cluster.execute("SELECT to_regclass('fileforge_drill_marker')") == [(None,)]
    created = run_module("postgres_marker", arguments)
    assert created["changed"] and created["committed_at_source"] == "commit_timestamp"
    exact = cluster.execute("SELECT pg_xact_commit_timestamp(xmin) FROM fileforge_drill_marker WHERE label = 'before'")[0][0]
    assert moment(created["committed_at"]) == exact
    assert moment(created["not_before"]) <= exact
    assert cluster.execute(f"SELECT '{created['lsn']}'::pg_lsn <= pg_current_wal_insert_lsn()") == [(True,)]
    again = run_module("postgres_marker", arguments)
    assert not again["changed"] and again["committed_at"] == created["committed_at"]
    assert cluster.execute("SELECT count(*) FROM fileforge_drill_marker") == [(1,)]


def test_the_clock_encloses_the_commit_when_the_server_keeps_no_times(run_module: ModuleRunner, postgres: PostgresFactory) -> None:
    cluster = postgres()
    first = run_module("postgres_marker", {**cluster.options(), "label": "one"})
    second = run_module("postgres_marker", {**cluster.options(), "label": "two"})
    assert first["committed_at_source"] == "clock_after_commit"
    times = [moment(item[name]) for item in (first, second) for name in ("not_before", "committed_at")]
    assert times == sorted(times)


def test_waits_until_the_segment_is_archived(run_module: ModuleRunner, postgres: PostgresFactory) -> None:
    cluster = postgres(start=False)
    archive = cluster.directory("archive")
    cluster.configure({"archive_mode": "on", "archive_command": f"test ! -f {archive}/%f && cp %p {archive}/%f"})
    cluster.start()
    result = run_module("postgres_marker", {**cluster.options(), "label": "x", "wait_archived": True, "timeout": 60})
    assert result["archived"] == result["segment"] and (archive / result["archived"]).is_file()
    again = run_module("postgres_marker", {**cluster.options(), "label": "x", "wait_archived": True, "timeout": 60})
    assert not again["changed"] and (archive / again["archived"]).is_file()


def test_archiving_is_off(run_module: ModuleRunner, postgres: PostgresFactory) -> None:
    result = run_module("postgres_marker", {**postgres().options(), "label": "x", "wait_archived": True}, expect_failure=True)
    assert result["reason"] == "archive_mode_off"


def test_a_failing_archiver_ends_the_wait_early(run_module: ModuleRunner, postgres: PostgresFactory) -> None:
    cluster = postgres(settings={"archive_mode": "on", "archive_command": "false"})
    arguments = {**cluster.options(), "label": "x", "wait_archived": True, "timeout": 200}
    result = run_module("postgres_marker", arguments, expect_failure=True)
    # The archiver tries three times and then rests for a minute: the wait may begin in that rest.
    assert "failed" in result["msg"] and result["waited"] < 100 and result["last"]["last_failed_wal"]


def test_an_archiver_that_does_nothing_is_given_up(run_module: ModuleRunner, postgres: PostgresFactory) -> None:
    cluster = postgres(settings={"archive_mode": "on", "archive_command": "sleep 600"})
    arguments = {**cluster.options(), "label": "x", "wait_archived": True, "timeout": 2}
    result = run_module("postgres_marker", arguments, expect_failure=True)
    assert "not there after 2 s" in result["msg"] and result["code"] == "timeout"


def test_wrong_password_is_not_shown(run_module: ModuleRunner, postgres: PostgresFactory) -> None:
    cluster = postgres()
    cluster.execute("CREATE ROLE app LOGIN PASSWORD 'right'")
    options = {**cluster.options(), "postgres_host": "127.0.0.1", "postgres_user": "app", "postgres_password": "g3heimnis"}
    result = run_module("postgres_marker", {**options, "label": "x"}, expect_failure=True)
    assert result["code"] == "access_denied" and "app@127.0.0.1" in result["msg"]
    assert "g3heimnis" not in str(result)


def test_no_server(run_module: ModuleRunner, place: Path) -> None:
    result = run_module("postgres_marker", {"postgres_host": str(place), "label": "x"}, expect_failure=True)
    assert result["code"] == "unavailable" and result["hint"]
