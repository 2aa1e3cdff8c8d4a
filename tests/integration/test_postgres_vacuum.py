# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""VACUUM and ANALYZE by need on a real server. What the weekly script missed or hid is here by name."""

from __future__ import annotations

import contextlib
import json
import typing as t
from pathlib import Path

import psycopg
import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError, PlanChanged, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import vacuum, vacuum_full
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.vacuum_need import Limits
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress

from tests.lab.daemon import wait_until
from tests.lab.postgres import PostgresCluster

if t.TYPE_CHECKING:
    from tests.integration.conftest import ModuleRunner, ModuleStarter, PostgresFactory

ROWS = 4000
DISTRIBUTION = "/usr/bin/python3"
"""An older Python with the distribution's own libraries, as on a database's host."""


@pytest.fixture(scope="module")
def cluster(session_place: Path) -> t.Iterator[PostgresCluster]:
    made = PostgresCluster(session_place / "vacuum")
    settings = {"autovacuum": "off", "autovacuum_freeze_max_age": 100000, "fsync": "off", "synchronous_commit": "off"}
    try:
        yield made.create(settings).start()
    finally:
        made.destroy()


@pytest.fixture
def database(cluster: PostgresCluster, request: pytest.FixtureRequest) -> t.Iterator[str]:
    """A database of the test's own."""
    name = f"db_{abs(hash(request.node.name))}"
    cluster.execute(f"CREATE DATABASE {name}")
    yield name
    cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


def fill(cluster: PostgresCluster, database: str, table: str, deleted: int = 0, analysed: bool = True) -> None:
    cluster.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, path text)", database)
    cluster.execute(f"INSERT INTO {table} SELECT n, 'path ' || n FROM generate_series(1, {ROWS}) AS n", database)
    if analysed:  # in a session of its own: a session reports its rows late, and its own VACUUM at once
        cluster.execute(f"VACUUM (ANALYZE) {table}", database)
    if deleted:
        cluster.execute(f"DELETE FROM {table} WHERE id <= {deleted}", database)


def run(cluster: PostgresCluster, database: str, **changes: t.Any) -> dict[str, t.Any]:
    return run_as(PostgresOptions.from_params(cluster.options(database)), **changes)


def run_as(server: PostgresOptions, check: bool = False, **changes: t.Any) -> dict[str, t.Any]:
    options = vacuum.VacuumOptions(**{"catalogs": False, "cost_delay": 0, **changes})
    return vacuum.maintain(server, options, check_mode=check, plan_digest=None, progress=Progress()).result()


def worked(result: t.Mapping[str, t.Any]) -> dict[str, str]:
    return {item["table"]: item["action"] for item in result["tables"]}


def left(result: t.Mapping[str, t.Any]) -> dict[str, str]:
    return {item["table"]: item["reason"] for item in result["left"]}


@contextlib.contextmanager
def holding(cluster: PostgresCluster, database: str, statement: str) -> t.Iterator[psycopg.Connection[t.Any]]:
    """Another session in an open transaction."""
    with cluster.connect(database) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        connection.execute(statement)
        yield connection
        connection.execute("ROLLBACK")


def test_by_need_the_most_urgent_first(cluster: PostgresCluster, database: str, run_module: ModuleRunner) -> None:
    """The script vacuums everything whatever the need; here each table gets what it needs, and no more."""
    fill(cluster, database, "untouched")
    fill(cluster, database, "some_dead", deleted=600)
    fill(cluster, database, "many_dead", deleted=3000)
    fill(cluster, database, "never_analysed", analysed=False)
    fill(cluster, database, '"Mixed ""Case""; --"', deleted=1000)
    arguments = {**cluster.options(database), "catalogs": False, "jobs": 1}
    checked = run_module("postgres_vacuum", arguments, check=True, diff=True)
    names = [step["object"] for step in checked["plan"]["steps"]]
    assert names == ["public.many_dead", 'public.Mixed "Case"; --', "public.some_dead", "public.never_analysed"]
    assert checked["changed"] and checked["plan"]["destructive"] is False
    assert "vacuum+analyze public.many_dead" in checked["output"], "diff mode shows the plan"
    dead = cluster.execute("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'many_dead'", database)
    assert dead == [(3000,)], "check mode changed nothing"

    result = run_module("postgres_vacuum", {**arguments, "plan_digest": checked["plan"]["digest"]})
    assert result["plan"]["digest"] == checked["plan"]["digest"]
    assert [item["table"] for item in result["tables"]] == names and result["left"] == []
    entry = result["tables"][0]
    assert (entry["dead_before"], entry["dead_after"], entry["held_back"]) == (3000, 0, False)
    assert [need["kind"] for need in entry["needs"]] == ["dead_rows", "stale_statistics"]
    never = cluster.execute("SELECT last_vacuum FROM pg_stat_user_tables WHERE relname = 'never_analysed'", database)
    assert worked(result)["public.never_analysed"] == "vacuum+analyze", "inserted rows make it due for VACUUM, too"
    assert never[0][0] is not None

    again = run_module("postgres_vacuum", arguments, interpreter=DISTRIBUTION)
    assert again["changed"] is False and again["tables"] == [] and again["left"] == []


def test_the_server_only_warns_when_the_role_may_not(cluster: PostgresCluster, database: str) -> None:
    """As that role the script's VACUUM succeeds and does nothing."""
    fill(cluster, database, "others", deleted=3000)
    with contextlib.suppress(psycopg.errors.DuplicateObject):
        cluster.execute("CREATE ROLE stranger LOGIN")
    with cluster.connect(database, user="stranger") as connection:
        connection.execute("VACUUM ANALYZE")
    assert cluster.execute("SELECT n_dead_tup FROM pg_stat_user_tables", database) == [(3000,)], "it did nothing and said success"
    server = PostgresOptions.from_params({**cluster.options(database), "postgres_user": "stranger"})
    result = run_as(server)
    assert left(result) == {"public.others": "not_allowed"} and result["changed"] is False
    assert left(run_as(server, check=True)) == left(result)


def test_the_privilege_to_maintain(postgres: PostgresFactory) -> None:
    """PostgreSQL 17 and newer: also who does not own a table may vacuum it, if he was granted that."""
    newer = postgres(version=18, settings={"autovacuum": "off", "fsync": "off"})
    for table in ("granted", "others"):
        fill(newer, "postgres", table, deleted=3000)
    newer.execute("CREATE ROLE keeper LOGIN")
    newer.execute("GRANT MAINTAIN ON granted TO keeper")
    result = run_as(PostgresOptions.from_params({**newer.options(), "postgres_user": "keeper"}))
    assert worked(result) == {"public.granted": "vacuum+analyze"} and left(result) == {"public.others": "not_allowed"}
    assert worked(run(newer, "postgres")) == {"public.others": "vacuum+analyze"}
    assert run(newer, "postgres", catalogs=True)["left"] == []
    assert run(newer, "postgres", catalogs=True)["changed"] is False, (
        "the work on other tables leaves nothing to do in the catalogs"
    )


def test_rows_that_an_old_transaction_holds(cluster: PostgresCluster, database: str) -> None:
    fill(cluster, database, "held")
    with holding(cluster, database, "SELECT count(*) FROM held") as holder:
        cluster.execute("DELETE FROM held WHERE id <= 3000", database)
        result = run(cluster, database)
        entry = result["tables"][0]
        assert entry["held_back"] is True and entry["dead_after"] == 3000
        oldest = result["held_back_by"][0]
        assert (oldest["kind"], oldest["name"]) == ("session", str(holder.info.backend_pid))
    result = run(cluster, database)
    assert result["tables"][0]["dead_after"] == 0 and result["held_back_by"] == []


@pytest.mark.parametrize("mode", ["SHARE UPDATE EXCLUSIVE", "ACCESS EXCLUSIVE"])
def test_a_lock_that_somebody_holds(cluster: PostgresCluster, database: str, mode: str) -> None:
    """One locked table hides no other."""
    fill(cluster, database, "busy", deleted=3500)
    fill(cluster, database, "free", deleted=2000)
    with holding(cluster, database, f"LOCK TABLE busy IN {mode} MODE"):
        result = run(cluster, database, lock_timeout=0.2, jobs=1)
    assert left(result) == {"public.busy": "locked"} and worked(result) == {"public.free": "vacuum+analyze"}
    assert worked(run(cluster, database)) == {"public.busy": "vacuum+analyze"}


def slow(cluster: PostgresCluster, database: str) -> dict[str, t.Any]:
    """Options that make a VACUUM of these tables last for minutes."""
    with cluster.connect(database) as connection:
        for name in ("slow_a", "slow_b"):
            connection.execute(f"CREATE TABLE {name} (id int, filler text) WITH (fillfactor = 10)")
            connection.execute(f"INSERT INTO {name} SELECT n, repeat('x', 500) FROM generate_series(1, 3000) AS n")
            connection.execute(f"ANALYZE {name}")
            connection.execute(f"DELETE FROM {name} WHERE id % 2 = 0")
    return {**cluster.options(database), "catalogs": False, "cost_delay": 100, "cost_limit": 1, "jobs": 1}


def vacuuming(cluster: PostgresCluster) -> int:
    return int(cluster.execute("SELECT count(*) FROM pg_stat_progress_vacuum")[0][0])


def test_the_window_ends(cluster: PostgresCluster, database: str, run_module: ModuleRunner) -> None:
    arguments = slow(cluster, database)
    result = run_module("postgres_vacuum", {**arguments, "window": 2})
    assert result["tables"] == [] and result["changed"] is False
    reasons = [(item["reason"], item["message"].split(" ")[0]) for item in result["left"]]
    assert reasons == [("window", "stopped"), ("window", "the")], "one was stopped, one not begun"
    assert "postgres_vacuum localhost: vacuum" in result["output"]
    assert vacuuming(cluster) == 0
    done = run(cluster, database)
    assert set(worked(done)) == {"public.slow_a", "public.slow_b"} and done["left"] == []


def test_killed_it_stops_and_goes_on_later(
    cluster: PostgresCluster, database: str, start_module: ModuleStarter, place: Path
) -> None:
    published = place / "progress.json"
    module = start_module("postgres_vacuum", {**slow(cluster, database), "progress_file": str(published)})

    def shown() -> bool:
        return published.exists() and json.loads(published.read_text())["detail"] == "slow_a: scanning heap"

    module.wait_for(shown, what="the running VACUUM to be seen")
    state = json.loads(published.read_text())
    assert state["phase"] == "vacuum" and state["total"] > 0 and vacuuming(cluster) == 1
    module.kill_controller()
    wait_until(lambda: vacuuming(cluster) == 0, 20, "the server to stop the VACUUM of a client that is gone")
    result = run(cluster, database)
    assert set(worked(result)) == {"public.slow_a", "public.slow_b"} and result["left"] == []


def test_a_terminated_backend_is_a_failure_with_names(cluster: PostgresCluster, database: str, start_module: ModuleStarter) -> None:
    module = start_module("postgres_vacuum", slow(cluster, database))
    module.wait_for(lambda: vacuuming(cluster), what="a running VACUUM")
    cluster.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_progress_vacuum")
    module.wait_for(lambda: vacuuming(cluster), what="the VACUUM of the next table")
    cluster.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_progress_vacuum")
    result = module.wait()
    assert result["failed"] and "public.slow_a" in result["msg"]
    assert left(result) == {"public.slow_a": "failed", "public.slow_b": "failed"}


def test_counters_that_a_crash_lost(cluster: PostgresCluster, database: str) -> None:
    """Without counters autovacuum and every query of n_dead_tup are blind: ANALYZE first, then VACUUM in the same run."""
    fill(cluster, database, "files", deleted=3000)
    cluster.execute("SELECT pg_stat_reset_single_table_counters('files'::regclass)", database)
    assert cluster.execute("SELECT n_dead_tup FROM pg_stat_user_tables", database) == [(0,)]
    result = run(cluster, database)
    assert [item["action"] for item in result["tables"]] == ["analyze", "vacuum"]
    assert result["tables"][1]["dead_after"] == 0
    assert run(cluster, database)["changed"] is False


def test_the_age_of_transaction_numbers(cluster: PostgresCluster, database: str) -> None:
    fill(cluster, database, "old")
    assert run(cluster, database)["changed"] is False
    loop = "DO $$ BEGIN FOR n IN 1..55000 LOOP PERFORM txid_current(); COMMIT; END LOOP; END $$"
    cluster.execute(loop, database)
    result = run(cluster, database)
    entry = result["tables"][0]
    assert [need["kind"] for need in entry["needs"]] == ["transaction_age"]
    assert entry["xid_age_before"] > 50000 > entry["xid_age_after"] and not entry["held_back"]
    assert run(cluster, database)["changed"] is False


def test_partitions_toast_and_materialized_views(cluster: PostgresCluster, database: str) -> None:
    with cluster.connect(database) as connection:
        connection.execute("CREATE TABLE events (id int, at date) PARTITION BY RANGE (id)")
        connection.execute("CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (500)")
        connection.execute("CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (500) TO (9000)")
        connection.execute("INSERT INTO events SELECT n, '2026-11-23' FROM generate_series(0, 8999) AS n")
        connection.execute("CREATE MATERIALIZED VIEW summary AS SELECT count(*) FROM events")
        connection.execute("CREATE TABLE documents (id int, body text)")
        connection.execute("ALTER TABLE documents ALTER body SET STORAGE EXTERNAL")
        connection.execute("INSERT INTO documents SELECT n, repeat('x', 20000) FROM generate_series(1, 60) AS n")
        connection.execute("VACUUM ANALYZE documents")
        connection.execute("UPDATE documents SET body = body || 'y'")
    result = run(cluster, database)
    assert worked(result) == {
        "public.events": "analyze",
        "public.events_1": "analyze",
        "public.events_2": "vacuum+analyze",
        "public.summary": "analyze",
        "public.documents": "vacuum+analyze",
    }
    documents = next(item for item in result["tables"] if item["table"] == "public.documents")
    assert "toast_dead_rows" in [need["kind"] for need in documents["needs"]] and documents["toast_dead_after"] == 0
    assert run(cluster, database)["changed"] is False
    strict = Limits(0, 0, 0, 0, 0, 0)
    selected = run(cluster, database, tables=["events"], exclude=["events_2"], limits=strict)
    assert worked(selected) == {"public.events_1": "vacuum"}, "a partitioned table stands for its partitions"


def test_a_tables_own_parameters_count_when_they_are_earlier(cluster: PostgresCluster, database: str) -> None:
    fill(cluster, database, "eager", deleted=100)
    assert run(cluster, database, check=True)["tables"] == []
    cluster.execute("ALTER TABLE eager SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_enabled = off)", database)
    assert worked(run(cluster, database, check=True)) == {"public.eager": "vacuum"}
    cluster.execute("ALTER TABLE eager SET (autovacuum_vacuum_scale_factor = 0.9)", database)
    assert run(cluster, database, check=True)["tables"] == []


def full(
    cluster: PostgresCluster, database: str, digest: str | None = None, check: bool = False, **changes: t.Any
) -> dict[str, t.Any]:
    server = PostgresOptions.from_params(cluster.options(database))
    options = vacuum_full.FullOptions(**{"full": ["files"], "lock_timeout": 0.2, **changes})
    return vacuum_full.rewrite(server, options, check_mode=check, plan_digest=digest, progress=Progress())


def test_full_only_as_planned(cluster: PostgresCluster, database: str, run_module: ModuleRunner) -> None:
    fill(cluster, database, "files", deleted=3000)
    fill(cluster, database, "dense")
    cluster.execute("VACUUM ANALYZE files", database)
    arguments = {**cluster.options(database), "full": ["files", "dense"]}
    checked = run_module("postgres_vacuum", arguments, check=True)
    assert checked["plan"]["destructive"] and [step["object"] for step in checked["plan"]["steps"]] == ["public.files"]
    assert left(checked) == {"public.dense": "not_bloated"}
    with pytest.raises(Refused) as refusal:
        full(cluster, database, full=arguments["full"])
    assert refusal.value.state["reason"] == "not_confirmed" and checked["plan"]["digest"] in refusal.value.hint
    with pytest.raises(PlanChanged):
        full(cluster, database, "0000000000000000")
    with holding(cluster, database, "SELECT count(*) FROM files"):
        blocked = full(cluster, database, full(cluster, database, check=True)["plan"]["digest"])
        assert left(blocked) == {"public.files": "locked"} and not blocked["changed"]
    result = run_module("postgres_vacuum", {**arguments, "plan_digest": checked["plan"]["digest"]})
    entry = result["tables"][0]
    assert entry["total_bytes_after"] < entry["total_bytes_before"] * 0.5 and entry["bloat_source"] == "estimate"
    again = full(cluster, database, full=arguments["full"])
    assert again["changed"] is False and left(again) == {"public.files": "not_bloated", "public.dense": "not_bloated"}


def test_full_refuses_what_does_not_fit(cluster: PostgresCluster, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(cluster, database, "files", deleted=3000)
    cluster.execute("VACUUM ANALYZE files", database)
    digest = full(cluster, database, check=True)["plan"]["digest"]
    monkeypatch.setattr(vacuum_full, "FREE_FACTOR", 1e12)
    with pytest.raises(Refused) as refusal:
        full(cluster, database, digest)
    assert refusal.value.state["reason"] == "disk_space"


def test_names_that_cannot_be_used(cluster: PostgresCluster, database: str) -> None:
    cluster.execute("CREATE VIEW looks AS SELECT 1", database)
    for names in (["missing"], ["looks"], ["files; DROP TABLE x"], ['"unfinished'], [""]):
        for option in ("tables", "exclude"):
            with pytest.raises(InvalidOption, match=option):
                run(cluster, database, **{option: names})
        with pytest.raises(OpsError):
            full(cluster, database, full=names)
    for system in ("pg_class", "pg_catalog.pg_toast_1255"):
        with pytest.raises(InvalidOption):
            full(cluster, database, full=[system])
