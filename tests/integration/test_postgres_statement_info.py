# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Statements of real servers, 15 and 18, with the documented role; what cannot be seen is told with how to see it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import typing as t
import uuid
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.statements import Check, Report, StatementOptions, examine
from ansible_collections.fileforge.ops.plugins.module_utils._probes.postgres_statement_info import ARGUMENTS, operate

from tests.integration.documented import examples
from tests.lab.postgres import PostgresCluster

if t.TYPE_CHECKING:
    from tests.integration.conftest import ModuleRunner

SLOW = """CREATE FUNCTION slow(seconds float8) RETURNS bigint LANGUAGE sql
AS 'SELECT count(*) FROM files, (SELECT pg_sleep(seconds)) AS rest'"""
OPTIONS = {"mean_warning": 20.0, "mean_critical": 5000.0, "table_bytes": 8192, "seq_scan_warning": 5, "regression_calls": 5}


@dataclasses.dataclass
class Server:
    """A cluster, and what was found there before the library was loaded."""

    cluster: PostgresCluster
    unloaded: Report

    def options(self, user: str = "fileforge_monitor", database: str = "fileforge") -> dict[str, t.Any]:
        """For the module; local connections are trusted."""
        return {**self.cluster.options(database), "postgres_user": user}

    def call(self, times: int, seconds: float) -> None:
        """Run the slow statement."""
        with self.cluster.connect("fileforge", user="fileforge") as connection:
            for _number in range(times):
                connection.execute("SELECT slow(%s)", (seconds,))


def look(options: dict[str, t.Any], remember: bool = False, **more: t.Any) -> Report:
    return examine(PostgresOptions.from_params(options), StatementOptions(**{**OPTIONS, **more}), remember=remember)


def by_id(report: Report) -> dict[str, Check]:
    return {check.id: check for check in report.checks}


@pytest.fixture(scope="module", params=[15, 18])
def server(session_place: Path, request: pytest.FixtureRequest) -> t.Iterator[Server]:
    """A server with the documented role, first without the library and then with it."""
    place = session_place / uuid.uuid4().hex[:8]
    place.mkdir()
    place.chmod(0o755)
    cluster = PostgresCluster(place / "statements", version=request.param)
    try:
        cluster.create().start()
        cluster.execute("CREATE ROLE fileforge LOGIN")
        cluster.execute("CREATE ROLE fileforge_monitor LOGIN")
        cluster.execute("CREATE DATABASE fileforge OWNER fileforge")
        with cluster.connect("fileforge") as connection:
            connection.execute(examples("performance-review.md", "sql")[0])
        found = Server(cluster, Report())
        found.unloaded = look(found.options())
        setting = examples("performance-review.md", "ini")[0].partition("=")
        cluster.configure({setting[0].strip(): setting[2].strip().strip("'")})
        cluster.restart()
        with cluster.connect("fileforge", user="fileforge") as connection:
            connection.execute("CREATE TABLE files AS SELECT n, md5(n::text) AS name FROM generate_series(1, 2000) AS n")
            connection.execute(SLOW)
        cluster.execute("ALTER ROLE fileforge PASSWORD 'hunter2hunter2'")
        yield found
    finally:
        cluster.destroy()
        shutil.rmtree(place)


def test_check_mode_real_run_and_the_next_review(run_module: ModuleRunner, server: Server, place: Path) -> None:
    state = place / "statements.json"
    arguments = {**server.options(), **OPTIONS, "state_file": str(state), "period_hours": 0.0001}
    server.call(6, 0.03)
    interpreter = {"interpreter": "/usr/bin/python3"} if server.cluster.version == 18 else {}
    if server.cluster.version < 18:
        looked = run_module("postgres_statement_info", arguments, check=True)
        assert not state.exists() and looked["changed"] is False
    first = run_module("postgres_statement_info", arguments, **interpreter)
    found = {check["id"]: check for check in first["checks"]}
    slowest = found["statements.slowest"]
    assert slowest["status"] == "warning" and "SELECT slow($1)" in slowest["summary"] and "EXPLAIN" in slowest["hint"]
    assert found["statements.collection"]["status"] == found["statements.dealloc"]["status"] == "ok"
    assert found["statements.regressions"]["status"] == "unknown", "there was nothing to compare with"
    assert "public.files" in found["tables.sequential_scans"]["summary"] and found["tables.sequential_scans"]["status"] == "warning"
    mine = next(item for item in first["statements"] if item["statement"] == "SELECT slow($1)")
    assert (mine["calls"], mine["database"], mine["role"], mine["mean_before_ms"]) == (6, "fileforge", "fileforge", None)
    assert mine["mean_ms"] >= 30 and mine["ranks"]["mean"] >= 1 and mine["hit_percent"] is not None
    assert "hunter2" not in json.dumps(first) and any("PASSWORD ?" in item["statement"] for item in first["statements"])

    server.call(5, 0.15)
    second = look(server.options(), state_file=str(state), period_hours=0.0001)
    slower = by_id(second)["statements.regressions"]
    assert slower.status == "warning" and "SELECT slow($1)" in slower.summary
    assert [(item["calls"], item["mean_ms"] >= 150, item["mean_before_ms"] < 150) for item in second.regressions] == [
        (5, True, True)
    ]
    assert second.window["compared"] is True

    server.cluster.execute("SELECT pg_stat_statements_reset()", "fileforge")
    server.call(7, 0.0)
    fresh = look(server.options(), state_file=str(state), period_hours=0.0001)
    mine = next(item for item in fresh.statements if item["statement"] == "SELECT slow($1)")
    assert mine["calls"] == 7, "what is counted after a reset is all new"
    assert "reset after the last review" in by_id(fresh)["statements.collection"].summary


def test_the_documented_look(server: Server) -> None:
    task = yaml.safe_load(examples("performance-review.md", "yaml")[0])[0]
    given = ArgumentSpecValidator(ARGUMENTS).validate({**task["fileforge.ops.postgres_statement_info"], **server.options()})
    assert not given.error_messages
    found = operate(given.validated_parameters, False)
    assert found["status"] in ("ok", "warning") and found["statements"]


def test_without_the_library_or_the_extension(server: Server) -> None:
    for report, words in (
        (server.unloaded, "shared_preload_libraries"),
        (look(server.options(database="postgres")), "CREATE EXTENSION"),
    ):
        found = by_id(report)
        assert found["statements.collection"].status == "unknown" and words in found["statements.collection"].hint
        assert {check.status for name, check in found.items() if name.startswith("statements.")} == {"unknown"}
        assert found["tables.sequential_scans"].status == "ok", "another look is not hidden"


def test_without_the_right_to_see_others(server: Server) -> None:
    server.call(1, 0.0)
    server.cluster.execute("CREATE ROLE nobody_special LOGIN")
    report = look(server.options(user="nobody_special"))
    found = by_id(report)
    assert found["statements.collection"].status == "unknown" and "pg_monitor" in found["statements.collection"].hint
    assert {found[f"statements.{name}"].status for name in ("slowest", "load", "calls")} == {"unknown"}
    assert report.window["hidden"] > 0 and all(item["role"] == "nobody_special" for item in report.statements)


def test_nothing_is_recorded(server: Server) -> None:
    server.cluster.execute("ALTER DATABASE fileforge SET pg_stat_statements.track = 'none'")
    try:
        check = by_id(look(server.options()))["statements.collection"]
    finally:
        server.cluster.execute("ALTER DATABASE fileforge RESET pg_stat_statements.track")
    assert check.status == "unknown" and "records nothing" in check.summary


def test_entries_that_were_dropped(server: Server) -> None:
    server.cluster.configure({"pg_stat_statements.max": 100})
    server.cluster.restart()
    with server.cluster.connect("fileforge") as connection:
        for number in range(130):
            connection.execute(
                f"SELECT n AS column_{number} FROM files WHERE n = 0 AND {' AND '.join(['true'] * number) or 'true'}"
            )
            connection.execute(f"SELECT 1 AS a{number}, {', '.join(['n'] * (number + 1))} FROM files LIMIT 0")
    check = by_id(look(server.options()))["statements.dealloc"]
    assert check.status == "warning" and "raise pg_stat_statements.max (now 100)" in check.hint


def test_the_server_is_down(place: Path) -> None:
    found = by_id(look({"postgres_host": str(place), "postgres_port": 5499}))
    assert found.pop("statements.collection").status == "critical" and {check.status for check in found.values()} == {"unknown"}
