# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Indexes of real servers, rebuilt: through Ansible where the module is the matter, else by the engine itself."""

from __future__ import annotations

import contextlib
import re
import threading
import time
import typing as t
import uuid

import psycopg
import pytest
import yaml
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import index_check, index_rebuild, index_run
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_plan import RebuildOptions, Wanted
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_run import run_rebuild
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress

from tests.lab import ROOT
from tests.lab.daemon import wait_until
from tests.lab.postgres import PostgresCluster

if t.TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.conftest import ModuleRunner

HOSTILE = 'we"ird %s\nindex; DROP'
ONE_VERSION = pytest.mark.parametrize("any_server", [15], indirect=True)
STATE = """
SELECT i.relname, x.indisvalid, pg_get_indexdef(x.indexrelid), pg_relation_size(x.indexrelid)
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') ORDER BY 1
"""


@pytest.fixture(scope="module", params=[15, 18])
def any_server(request: pytest.FixtureRequest, session_place: Path) -> t.Iterator[PostgresCluster]:
    """A server of the file, of each version."""
    cluster = PostgresCluster(session_place / f"indexes-{request.param}", version=request.param)
    try:
        yield cluster.create({"autovacuum": "off", "fsync": "off", "max_prepared_transactions": 5}).start()
    finally:
        cluster.destroy()


class Database:
    """A database of its own on the file's server."""

    def __init__(self, cluster: PostgresCluster) -> None:
        self.cluster = cluster
        self.name = f"d{uuid.uuid4().hex[:8]}"
        cluster.execute(f"CREATE DATABASE {self.name}")

    def execute(self, statement: str) -> list[tuple[t.Any, ...]]:
        return self.cluster.execute(statement, self.name)

    def files(self, rows: int = 20000) -> None:
        """A table whose indexes are three quarters empty."""
        self.execute("CREATE TABLE files (id int PRIMARY KEY, path text, updated_at timestamptz, tags int[])")
        self.execute(
            "INSERT INTO files SELECT n, md5(n::text), '2026-11-23'::timestamptz - n * interval '1 s', ARRAY[n % 10]"
            f" FROM generate_series(1, {rows}) n"
        )
        self.execute("CREATE INDEX idx_path ON files (path)")
        self.execute("DELETE FROM files WHERE id % 4 <> 0")
        self.execute("VACUUM ANALYZE files")

    def state(self) -> dict[str, tuple[bool, str, int]]:
        """Each index with its validity, definition and size."""
        return {name: (valid, definition, size) for name, valid, definition, size in self.execute(STATE)}

    def options(self) -> dict[str, t.Any]:
        return {**self.cluster.options(self.name), "bloat_min_bytes": 65536, "create_extension": True}

    def run(self, *, check: bool = False, user: str | None = None, **changes: t.Any) -> dict[str, t.Any]:
        """The engine."""
        values = {"bloat_min_bytes": 65536, "create_extension": True, "lock_timeout": 2, **changes}
        values["indexes"] = tuple(Wanted(**each) for each in values.get("indexes", ()))
        connection = PostgresOptions.from_params({**self.cluster.options(self.name), **({"postgres_user": user} if user else {})})
        return run_rebuild(connection, RebuildOptions(**values), check_mode=check, plan_digest=None, progress=Progress())

    def refused(self, **changes: t.Any) -> str:
        """The reason of the refusal; nothing may have changed."""
        before = self.state()
        with pytest.raises(Refused) as caught:
            self.run(**changes)
        assert self.state() == before
        return str(caught.value.state["reason"])

    def make_invalid(self, name: str) -> None:
        """As a build that was interrupted leaves it."""
        self.execute(f"UPDATE pg_index SET indisvalid = false, indisready = false WHERE indexrelid = '{name}'::regclass")


@pytest.fixture
def database(any_server: PostgresCluster) -> t.Iterator[Database]:
    """A fresh database."""
    made = Database(any_server)
    yield made
    any_server.execute(f"DROP DATABASE {made.name} WITH (FORCE)")


def dealt(result: dict[str, t.Any]) -> dict[str, tuple[str, str]]:
    assert all(each["status"] == "done" for each in result["indexes"]), result["indexes"]
    return {each["name"]: (each["action"], each["reason"]) for each in result["indexes"]}


def left(result: dict[str, t.Any]) -> dict[str, str]:
    return {each["name"]: each["reason"] for each in result["left"]}


def test_check_run_and_second_run(database: Database, run_module: ModuleRunner) -> None:
    """Bloat, an invalid index, and a new definition, through Ansible."""
    database.files()
    database.execute("CREATE INDEX idx_files_updated_at ON files (path, updated_at)")
    database.execute(f'CREATE INDEX "{HOSTILE.replace(chr(34), chr(34) * 2)}" ON files (lower(path)) WHERE id > 5')
    database.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = (SELECT oid FROM pg_class WHERE relname LIKE 'we%')"
    )
    wanted = {"name": "idx_files_updated_at", "table": "files", "definition": "(updated_at)"}
    arguments = {**database.options(), "indexes": [wanted], "jobs": 2}
    before = database.state()
    planned = run_module("postgres_index_rebuild", arguments, check=True, diff=True)
    assert database.state() == before
    assert planned["changed"] and planned["plan"]["destructive"] and "updated_at" in planned["diff"]["after"]
    arguments["plan_digest"] = planned["plan"]["digest"]
    result = run_module("postgres_index_rebuild", arguments)
    assert dealt(result) == {
        HOSTILE: ("rebuild", "invalid"),
        "idx_files_updated_at": ("replace", "definition"),
        "files_pkey": ("rebuild", "bloat"),
        "idx_path": ("rebuild", "bloat"),
    }
    assert all(each["verified"] is True for each in result["indexes"]), result["indexes"]
    after = database.state()
    assert set(after) == set(before) and all(valid for valid, _definition, _size in after.values())
    assert after["idx_files_updated_at"][1].endswith("USING btree (updated_at)")
    sizes = {each["name"]: (each["bytes_before"], each["bytes_after"], each["bloat_source"]) for each in result["indexes"]}
    assert sizes["idx_path"] == (before["idx_path"][2], after["idx_path"][2], "estimate")
    assert after["idx_path"][2] < before["idx_path"][2] / 2
    assert "rebuild done" in result["output"], "progress is shown"
    del arguments["plan_digest"]
    second = run_module("postgres_index_rebuild", arguments)
    assert not second["changed"] and second["plan"]["steps"] == [] and database.state() == after
    assert database.execute("SELECT 1 FROM pg_extension WHERE extname = 'amcheck'") == []


@ONE_VERSION
def test_the_examples_of_the_documentation(database: Database, run_module: ModuleRunner) -> None:
    """Each task of docs/indexes.md runs; the second time it has nothing to do, unless it is told to."""
    database.files()
    database.make_invalid("idx_path")
    text = (ROOT / "docs/indexes.md").read_text(encoding="utf-8")
    tasks = [task for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) for task in yaml.safe_load(block)]
    assert len(tasks) >= 3
    for task in tasks:
        given = {**task["fileforge.ops.postgres_index_rebuild"], **database.cluster.options(database.name)}
        first = run_module("postgres_index_rebuild", given)
        assert first["indexes"] and all(each["status"] == "done" for each in first["indexes"])
        forced = any(index.get("force") for index in given.get("indexes", []))
        same = {name: given[name] for name in ("indexes", "only", "jobs", "window") if name in given}
        second = database.run(check=True, bloat_min_bytes=RebuildOptions.bloat_min_bytes, **same)
        assert second["changed"] is forced, task["name"]


@ONE_VERSION
def test_failures_reach_the_user(database: Database, run_module: ModuleRunner) -> None:
    database.files()
    before = database.state()
    indexes = [{"name": "one", "table": "files", "definition": "((id % 2))", "unique": True}, {"name": "idx_path", "force": True}]
    result = run_module("postgres_index_rebuild", {**database.options(), "indexes": indexes, "only": True}, expect_failure=True)
    assert "not_unique" in result["msg"] and result["changed"] is True
    assert {each["name"]: each["status"] for each in result["indexes"]} == {"one": "failed", "idx_path": "done"}
    assert set(database.state()) == set(before), "the failed index left nothing"


def test_kinds(database: Database) -> None:
    """Whatever the access method, schema, constraint or storage: rebuilt, the same, and valid."""
    database.execute('CREATE SCHEMA "Other Schema"')
    database.execute('SET search_path TO "Other Schema"')
    with database.cluster.connect(database.name) as connection:
        connection.execute('SET search_path TO "Other Schema"')
        connection.execute(
            "CREATE TABLE t (id int PRIMARY KEY, k int UNIQUE, r int4range, tags int[], big text) WITH (fillfactor=50)"
        )
        connection.execute("CREATE TABLE child (t int REFERENCES t (k))")
        connection.execute(
            "INSERT INTO t SELECT n, n, int4range(n, n + 1), ARRAY[n], repeat('x', 10) FROM generate_series(1, 500) n"
        )
        for definition in (
            "USING gin (tags)",
            "USING gist (r)",
            "USING brin (id)",
            "USING hash (k)",
            "USING btree (k) INCLUDE (id)",
        ):
            connection.execute(f"CREATE INDEX ON t {definition}")
        connection.execute("ALTER TABLE t REPLICA IDENTITY USING INDEX t_pkey; CLUSTER t USING t_pkey")
        connection.execute("CREATE UNLOGGED TABLE u (id int PRIMARY KEY)")
        connection.execute("CREATE MATERIALIZED VIEW m AS SELECT id FROM t; CREATE UNIQUE INDEX m_id ON m (id)")
    toast = database.execute("SELECT relname FROM pg_class WHERE oid = (SELECT indexrelid FROM pg_index WHERE indrelid ="
                             " (SELECT reltoastrelid FROM pg_class WHERE relname = 't'))")[0][0]  # fmt: skip
    details = "SELECT count(*), sum(indisreplident::int), sum(indisclustered::int), sum(indisprimary::int) FROM pg_index"
    before, counts = database.state(), database.execute(details)
    indexes = [{"name": name, "schema": "Other Schema", "force": True} for name in before]
    result = database.run(indexes=[*indexes, {"name": toast, "schema": "pg_toast", "force": True}], only=True, jobs=2)
    assert dealt(result) == {name: ("rebuild", "force") for name in [*before, toast]}
    after = database.state()
    assert {name: value[:2] for name, value in after.items()} == {name: value[:2] for name, value in before.items()}
    assert database.execute(details) == counts
    verified = {each["name"]: each["verified"] for each in result["indexes"]}
    assert verified["t_pkey"] and verified["m_id"] and verified[toast]
    assert verified["t_r_idx"] is None and verified["t_tags_idx"] is (True if database.cluster.version >= 18 else None)
    constraints = "SELECT conname FROM pg_constraint WHERE conrelid >= 16384 AND contype IN ('p', 'u', 'f') ORDER BY 1"
    assert [name for (name,) in database.execute(constraints)] == ["child_t_fkey", "t_k_key", "t_pkey", "u_pkey"]


def test_partitions(database: Database) -> None:
    database.execute("CREATE TABLE p (id int, k int) PARTITION BY RANGE (id)")
    database.execute("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)")
    database.execute("CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id)")
    database.execute("CREATE TABLE p2a PARTITION OF p2 FOR VALUES FROM (10) TO (20)")
    database.execute("CREATE INDEX top ON p (k)")
    before = database.state()
    result = database.run(indexes=[{"name": "top", "force": True}], only=True)
    assert set(dealt(result)) == {"p1_k_idx", "p2a_k_idx"}
    assert {name: value[:2] for name, value in database.state().items()} == {name: value[:2] for name, value in before.items()}
    assert database.execute(
        "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE relkind IN ('i', 'I')"
    ) == [(3,)]
    definition = {"name": "top", "table": "p", "definition": "(id, k)"}
    assert database.refused(indexes=[definition]) == "partitioned_table"
    database.execute("CREATE INDEX lonely ON ONLY p (id)")
    assert left(database.run()) == {"lonely": "partition_missing"}


def test_what_is_refused(database: Database) -> None:
    database.files(1000)
    database.execute("CREATE TABLE booked (during tsrange, EXCLUDE USING gist (during WITH &&))")
    database.execute("CREATE VIEW seen AS SELECT * FROM files")
    cases: list[tuple[dict[str, t.Any], str]] = [
        ({"name": "booked_during_excl", "force": True}, "exclusion_constraint"),
        ({"name": "files_pkey", "table": "files", "definition": "(path)"}, "constraint"),
        ({"name": "absent"}, "no_such_index"),
        ({"name": "x", "table": "absent", "definition": "(id)"}, "no_such_table"),
        ({"name": "x", "table": "seen", "definition": "(id)"}, "not_a_table"),
        ({"name": "seen", "table": "files", "definition": "(id)"}, "name_taken"),
        ({"name": "idx_path", "table": "booked", "definition": "(during)"}, "other_table"),
    ]
    for wanted, reason in cases:
        assert database.refused(indexes=[wanted], only=True) == reason
    assert database.refused(bloat="exact") == "no_pgstattuple"
    for definition in ("(nope)", "(path); DROP TABLE files", "", "(path) x"):
        with pytest.raises(InvalidOption):
            database.run(indexes=[{"name": "x", "table": "files", "definition": definition}])
    assert len(database.state()) == 3
    database.make_invalid("booked_during_excl")
    assert left(database.run(bloat="none")) == {"booked_during_excl": "exclusion_constraint"}


def test_measured_bloat(database: Database) -> None:
    database.files()
    database.execute("CREATE EXTENSION pgstattuple")
    result = database.run(bloat="exact")
    found = {each["name"]: (each["bloat_source"], each["bloat_percent"]) for each in result["indexes"]}
    assert set(found) == {"files_pkey", "idx_path"}
    assert all(source == "exact" and 60 < percent < 90 for source, percent in found.values()), found
    assert not database.run(bloat="exact")["changed"]


def test_a_definition_as_the_server_understands_it(database: Database) -> None:
    """The same index in other words is the same; another one is replaced, with its comment, in each direction."""
    database.files(1000)
    for definition, changed in (("(updated_at)", True), ("USING btree(  updated_at ASC NULLS LAST )", False)):
        result = database.run(indexes=[{"name": "i", "table": "files", "definition": definition}], only=True)
        assert result["changed"] is changed
    database.execute("COMMENT ON INDEX i IS 'it''s kept'")
    for definition in ("(lower(path), updated_at DESC) WITH (fillfactor = 70) WHERE id > 5", "(updated_at)", "USING gin (tags)"):
        wanted = {"name": "i", "table": "files", "definition": definition}
        assert dealt(database.run(indexes=[wanted], only=True)) == {"i": ("replace", "definition")}
        assert not database.run(indexes=[wanted], only=True)["changed"]
        assert database.execute("SELECT obj_description('i'::regclass)") == [("it's kept",)]
        assert len(database.state()) == 3


def test_leftovers_go_and_lookalikes_stay(database: Database) -> None:
    """Indexes made and marked as the server and this module leave them; the names are also long ones."""
    database.files(1000)
    long = "n" * 63
    for name, definition in {
        "idx_path_ccnew": "(path)", "idx_path_ccold1": "(path)", long: "(updated_at)", "n" * 57 + "_ccold": "(updated_at)",
        "else_ccnew": "(id, path)", "idx_path_ccnew2": "(path, id)", "plain": "(id, updated_at)",
    }.items():  # fmt: skip
        database.execute(f"CREATE INDEX {name} ON files {definition}")
        if name not in (long, "idx_path"):
            database.make_invalid(name)
    result = database.run(bloat="none")
    assert dealt(result) == {
        "idx_path_ccnew": ("drop", "leftover"), "idx_path_ccold1": ("drop", "leftover"), "n" * 57 + "_ccold": ("drop", "leftover"),
        "plain": ("rebuild", "invalid"),
    }  # fmt: skip
    assert left(result) == {"else_ccnew": "unknown_leftover", "idx_path_ccnew2": "unknown_leftover"}
    assert set(database.state()) == {"files_pkey", "idx_path", long, "plain", "else_ccnew", "idx_path_ccnew2"}
    again = database.run(bloat="none")
    assert not again["changed"] and left(again) == left(result)


@contextlib.contextmanager
def transaction(database: Database, statement: str) -> t.Iterator[t.Any]:
    """A transaction that stays open."""
    with database.cluster.connect(database.name) as connection:
        connection.autocommit = False
        connection.execute(statement)
        yield connection
        connection.rollback()


def test_an_old_transaction_is_named_and_costs_no_build(database: Database) -> None:
    database.files(1000)
    before = database.state()
    with transaction(database, "UPDATE files SET path = '' WHERE id = 4") as connection:
        pid = connection.info.backend_pid
        connection.execute("SELECT pg_sleep(0.4)")  # from now on it is older than the lock timeout
        with pytest.raises(OpsError, match=rf"process {pid}.*transaction open") as caught:
            database.run(indexes=[{"name": "idx_path", "force": True}], only=True, attempts=2, lock_timeout=0.3)
        (index,) = caught.value.state["indexes"]
        assert (index["reason"], index["status"], index["attempts"]) == ("force", "failed", 2)
        assert caught.value.state["changed"] is False and database.state() == before
        thread = threading.Timer(1.0, connection.rollback)
        thread.start()
        assert dealt(database.run(indexes=[{"name": "idx_path", "force": True}], only=True, attempts=20, lock_timeout=0.3))
        thread.join()


@ONE_VERSION
def test_a_forgotten_prepared_transaction_is_named(database: Database) -> None:
    database.files(400)
    with database.cluster.connect(database.name) as connection:
        connection.execute("BEGIN; UPDATE files SET path = '' WHERE id = 4; PREPARE TRANSACTION 'forgotten'")
        try:
            with pytest.raises(OpsError, match="'forgotten' of postgres"):
                database.run(indexes=[{"name": "idx_path", "force": True}], only=True, attempts=1, lock_timeout=0.2)
        finally:
            connection.execute("ROLLBACK PREPARED 'forgotten'")


@ONE_VERSION
def test_a_tablespace_of_its_own(database: Database) -> None:
    """The disk that counts is that of the index's tablespace, where it stays."""
    database.files(400)
    place = database.cluster.create_tablespace(f"of_{database.name}")
    try:
        database.execute(f"ALTER INDEX idx_path SET TABLESPACE of_{database.name}")
        result = database.run(indexes=[{"name": "idx_path", "force": True}], only=True)
        assert [(space["location"], space["free"] > space["needed"] > 0) for space in result["space"]] == [(str(place), True)]
        assert database.execute(
            "SELECT spcname FROM pg_tablespace s JOIN pg_class c ON c.reltablespace = s.oid AND c.oid >= 16384"
        ) == [(f"of_{database.name}",)]
    finally:
        database.execute("DROP TABLE files")
        database.cluster.execute(f"DROP TABLESPACE of_{database.name}")


def test_a_lock_that_comes_in_the_middle(database: Database) -> None:
    """A lock on the table is not waited for longer than allowed; what was begun is removed."""
    database.files(1000)
    before = database.state()
    with transaction(database, "LOCK TABLE files IN SHARE UPDATE EXCLUSIVE MODE"):
        with pytest.raises(OpsError, match=r"lock timeout|transaction open") as caught:
            database.run(indexes=[{"name": "idx_path", "force": True}], only=True, attempts=2, lock_timeout=0.6)
        assert "given up after 2 attempts" in str(caught.value)
    assert database.state() == before


@ONE_VERSION
def test_two_runs_at_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_run, "LOCK_PATIENCE", 0.3)
    database.files(1000)
    connection = PostgresOptions.from_params(database.cluster.options(database.name))
    inside, go_on = threading.Event(), threading.Event()

    class Held(Progress):
        """Stops the first run while it holds the lock."""

        @contextlib.contextmanager
        def phase(self, name: str, total: int | None = None, unit: str = "B") -> t.Iterator[Progress]:
            inside.set()
            go_on.wait(30)
            with super().phase(name, total, unit) as held:
                yield held

    options = RebuildOptions(indexes=(Wanted("idx_path", force=True),), only=True)
    found: list[dict[str, t.Any]] = []
    first = threading.Thread(
        target=lambda: found.append(run_rebuild(connection, options, check_mode=False, plan_digest=None, progress=Held()))
    )
    first.start()
    try:
        assert inside.wait(30)
        with pytest.raises(Refused, match=r"another run.*process") as caught:
            database.run(indexes=[{"name": "idx_path", "force": True}], only=True)
        assert caught.value.state["reason"] == "locked"
    finally:
        go_on.set()
        first.join(30)
    assert dealt(found[0]) == {"idx_path": ("rebuild", "force")}


@ONE_VERSION
def test_what_a_killed_run_still_builds_is_ended(database: Database) -> None:
    """The server goes on with a session whose process is gone; the next run ends it instead of waiting for it."""
    database.files(400)
    slow_function(database, 60)
    with database.cluster.connect(database.name) as orphan:
        pid = orphan.info.backend_pid
        orphan.execute("SELECT pg_advisory_lock_shared(%s, %s)", (index_rebuild.LOCK_CLASS, index_rebuild.WORK_LOCK))

        def build() -> None:
            with contextlib.suppress(psycopg.Error):
                orphan.execute("CREATE INDEX CONCURRENTLY idx_slow ON files (slow(id))")

        thread = threading.Thread(target=build)
        thread.start()
        building = f"SELECT 1 FROM pg_stat_progress_create_index WHERE pid = {pid} AND phase LIKE 'building%'"
        wait_until(lambda: database.execute(building), 30, "the build")
        slow_function(database, 0)
        planned = database.run(check=True)
        assert "idx_slow" in left(planned) and database.execute(building), "check mode ends nobody"
        assert dealt(database.run(bloat="none")) == {"idx_slow": ("rebuild", "invalid")}
        thread.join(30)
        assert database.execute(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid}") == []


def slow_function(database: Database, seconds: float) -> None:
    """A function that makes the build of an index on it as slow as wanted."""
    database.execute(
        "CREATE OR REPLACE FUNCTION slow(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS"
        f" $$ BEGIN PERFORM pg_catalog.pg_sleep({seconds}); RETURN i; END $$"
    )


@ONE_VERSION
def test_the_window(database: Database) -> None:
    """The small index is built; the slow one is stopped in time, and its remains are gone before the window is over."""
    slow_function(database, 0)
    for statement in (
        "CREATE TABLE s (id int)",
        "CREATE TABLE f (id int)",
        "CREATE INDEX s_slow ON s (slow(id))",
        "CREATE INDEX f_id ON f (id)",
        "INSERT INTO s SELECT generate_series(1, 400)",
    ):
        database.execute(statement)
    slow_function(database, 0.1)
    indexes = [{"name": "s_slow", "force": True}, {"name": "f_id", "force": True}]
    begin = time.monotonic()
    result = database.run(indexes=indexes, only=True, window=3, lock_timeout=1)
    assert time.monotonic() - begin < 3
    assert dealt(result) == {"f_id": ("rebuild", "force")}
    assert left(result) == {"s_slow": "window"}
    assert {name: valid for name, (valid, _definition, _size) in database.state().items()} == {"s_slow": True, "f_id": True}


@ONE_VERSION
def test_a_cancelled_build_is_tidied_up(database: Database) -> None:
    database.execute("CREATE TABLE s (id int)")
    database.execute("INSERT INTO s SELECT generate_series(1, 400)")
    slow_function(database, 0.05)
    before = database.state()
    found: list[OpsError] = []

    def run() -> None:
        try:
            database.run(indexes=[{"name": "s_slow", "table": "s", "definition": "(slow(id))"}], only=True)
        except OpsError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    # On this table: the look builds an index too, on an empty copy, to learn how the server writes the definition.
    building = f"SELECT pid FROM pg_stat_progress_create_index WHERE datname = '{database.name}' AND relid = 's'::regclass"
    wait_until(lambda: database.execute(building), 30, "the build")
    database.execute(f"SELECT pg_cancel_backend(pid) FROM ({building}) AS b")
    thread.join(30)
    assert found and found[0].state["indexes"][0]["status"] == "failed" and "cancel" in found[0].message
    assert database.state() == before


@ONE_VERSION
def test_others_rights(database: Database) -> None:
    """A role that owns one table maintains that one, and says what it leaves."""
    database.files(1000)
    role = f"r{uuid.uuid4().hex[:8]}"
    database.execute(f"CREATE ROLE {role} LOGIN")
    try:
        database.execute("CREATE TABLE mine (id int PRIMARY KEY)")
        database.execute(f"ALTER TABLE mine OWNER TO {role}")
        database.execute(f"GRANT ALL ON SCHEMA public TO {role}")
        for name in ("mine_pkey", "idx_path"):
            database.make_invalid(name)
        result = database.run(user=role)
        assert dealt(result) == {"mine_pkey": ("rebuild", "invalid")} and left(result) == {"idx_path": "not_owner"}
        assert any("data_directory" in space["problem"] for space in result["space"])
        assert database.refused(user=role, indexes=[{"name": "idx_path", "force": True}], only=True) == "not_owner"
    finally:
        database.execute(f"DROP OWNED BY {role}")
        database.execute(f"DROP ROLE {role}")


def test_a_damaged_new_index_is_not_trusted(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What amcheck finds fails the run; a replacement does not get as far as the name."""
    database.files(1000)
    wrong = (
        "bt_index_check(%(oid)s::bigint::oid::regclass, true) FROM (SELECT set_config('x.y', '1', true)) s WHERE slow(%(oid)s) = 0"
    )
    database.execute(
        "CREATE FUNCTION slow(i bigint) RETURNS int LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'item order invariant violated' USING ERRCODE = 'XX002'; END $$"
    )
    monkeypatch.setattr(index_check.Checker, "_statement", lambda self, index: wrong)
    before = database.state()
    with pytest.raises(OpsError, match=r"damaged: .*invariant"):
        database.run(indexes=[{"name": "idx_path", "table": "files", "definition": "(path, id)"}], only=True)
    assert database.state() == before
    with pytest.raises(OpsError, match=r"damaged: .*invariant") as caught:
        database.run(indexes=[{"name": "idx_path", "force": True}], only=True)
    assert caught.value.state["indexes"][0]["verified"] is False


class Death:
    """The end of a session before its nth statement, as if the process had been killed there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.countdown = 0
        self.struck = False
        execute = psycopg.Connection.execute

        def counted(connection: t.Any, *arguments: t.Any, **options: t.Any) -> t.Any:
            if threading.current_thread() is not threading.main_thread() and not connection.closed:
                self.countdown -= 1
                if self.countdown == 0:
                    self.struck = True
                    connection.close()
            return execute(connection, *arguments, **options)

        monkeypatch.setattr(psycopg.Connection, "execute", counted)


@ONE_VERSION
@pytest.mark.parametrize("kind", ["rebuild", "replace"])
def test_death_before_every_statement(database: Database, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Wherever it ends, the name has a valid index; the next run has nothing left to do but to complete."""
    database.files(400)
    death = Death(monkeypatch)
    definitions = ("(path)", "(path, id)")
    seen = set()
    for number in range(1, 200):
        definition = definitions[number % 2]
        wanted = {"name": "idx_path", **({"force": True} if kind == "rebuild" else {"table": "files", "definition": definition})}
        death.countdown, death.struck = number, False
        with contextlib.suppress(OpsError):
            database.run(indexes=[wanted], only=True, bloat="none", verify=number % 5 == 0)
        struck, death.countdown = death.struck, 0
        found = database.state()
        assert found["idx_path"][0] is True and found["files_pkey"][0] is True, (number, found)
        seen.update(name.removeprefix("idx_path")[:6] for name in found)
        result = database.run(indexes=[{**wanted, "force": False}], only=True, bloat="none", verify=False)
        assert not result["left"] and {name for name, value in database.state().items() if value[0]} == {"files_pkey", "idx_path"}
        assert set(database.state()) == {"files_pkey", "idx_path"}, (number, database.state())
        if not struck:
            break
    else:
        raise AssertionError("the work has no end")
    assert kind == "rebuild" or {"_ffnew", "_ffold"} <= seen, seen
