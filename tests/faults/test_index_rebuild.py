# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rebuild of indexes under a write load: SIGKILL to the module and the end of its sessions, at random points."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import typing as t
import uuid

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_plan import RebuildOptions, Wanted
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_rebuild import APPLICATION
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_run import run_rebuild
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress

from tests.integration.conftest import ModuleRun
from tests.lab import ROOT
from tests.lab.daemon import wait_until
from tests.lab.place import workplace
from tests.lab.postgres import PostgresCluster

if t.TYPE_CHECKING:
    from pathlib import Path

ROWS = 100000
LOCK_TIMEOUT = 1.0
"""Seconds, of the module and of the writers: a writer that waits longer for a lock fails, and the test with it."""
KILLS = 17
MODULE_KILLS = 3
DEFINITIONS = ("USING btree (updated_at)", "USING btree (updated_at DESC, id)")
NAMES = {"files_pkey", "files_token_key", "idx_files_updated_at", "idx_path", "idx_path_lower", "users_pkey", "idx_users_name"}
WRITES = """
\\set n random(1, 24000)
\\set id :n * 4 + :client_id
BEGIN;
UPDATE files SET path = md5(random()::text), updated_at = clock_timestamp() WHERE id = :id;
DELETE FROM files WHERE id = :id + 400000;
INSERT INTO files VALUES (:id + 400000, md5(random()::text), clock_timestamp(), gen_random_uuid());
UPDATE users SET name = md5(random()::text) WHERE id = :id;
END;
SELECT count(*) FROM files WHERE updated_at > now() - interval '1 ms';
"""
CHILD = """
import json, os, sys
from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_plan import RebuildOptions, Wanted
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_run import run_rebuild
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress
import psycopg
given = json.loads(os.environ["GIVEN"])
options = given["options"]
options["indexes"] = tuple(Wanted(**each) for each in options["indexes"])
print("go", flush=True)
try:
    run_rebuild(
        PostgresOptions(**given["postgres"]), RebuildOptions(**options), check_mode=False, plan_digest=None, progress=Progress()
    )
except OpsError as error:
    sys.exit(f"{error.code}: {error}")
"""


class World:
    """A server with two tables, and writers who never stop."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.cluster = PostgresCluster(place / "pg")
        self.random = random.Random()
        self.definition = DEFINITIONS[0]
        self.writers: subprocess.Popen[bytes] | None = None
        self.errors = place / "writers.txt"

    def create(self) -> None:
        """The tables, three quarters of whose indexes are empty, and one index without the definition that it is to have."""
        settings = {"fsync": "off", "log_lock_waits": "on", "deadlock_timeout": "1s", "log_line_prefix": "%m [%p] %a "}
        self.cluster.create(settings).start()
        for statement in (
            "CREATE EXTENSION amcheck",
            "CREATE TABLE files (id int PRIMARY KEY, path text, updated_at timestamptz, token uuid UNIQUE)",
            "CREATE TABLE users (id int PRIMARY KEY, name text)",
            "INSERT INTO files SELECT n, md5(n::text), now() - n * interval '1 s', gen_random_uuid()"
            f" FROM generate_series(1, {4 * ROWS}) n",
            f"INSERT INTO users SELECT n, md5(n::text) FROM generate_series(1, {ROWS}) n",
            "CREATE INDEX idx_path ON files (path)",
            "CREATE INDEX idx_files_updated_at ON files (path, updated_at)",
            "CREATE INDEX idx_path_lower ON files (lower(path)) WHERE id % 2 = 0",
            "CREATE INDEX idx_users_name ON users (name)",
            f"DELETE FROM files WHERE id > {ROWS}",
            "VACUUM ANALYZE",
        ):
            self.cluster.execute(statement)

    def start_writers(self) -> None:
        script = self.place / "writes.sql"
        script.write_text(WRITES, encoding="utf-8")
        arguments = ["-n", "-c", "3", "-j", "1", "-R", "150", "-T", "3600", "-f", str(script), "-p", str(self.cluster.port)]
        with self.errors.open("wb") as errors:
            self.writers = subprocess.Popen(
                [
                    str(self.cluster.bin_directory / "pgbench"),
                    "-h",
                    str(self.cluster.socket_directory),
                    "-U",
                    "postgres",
                    *arguments,
                    "postgres",
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "PGOPTIONS": f"-c lock_timeout={LOCK_TIMEOUT * 1000:.0f}"},
            )
        wait_until(lambda: self.written() > 10, 30, "the writers to write")

    def written(self) -> int:
        """Rows that the writers have added."""
        return int(self.cluster.execute("SELECT count(*) FROM files WHERE id > 400000")[0][0])

    def close(self) -> None:
        if self.writers is not None:
            self.writers.kill()
            self.writers.wait(10)
        self.cluster.destroy()

    def prove_writers(self) -> None:
        """No writer had to wait for longer than the lock timeout, and all still write."""
        assert self.writers is not None and self.writers.poll() is None, self.errors.read_text()
        assert self.errors.read_text() == "", "a writer had an error, such as a lock timeout"
        waits = [line for line in self.cluster.log_text().splitlines() if "pgbench" in line and "still waiting" in line]
        assert waits == []
        before = self.cluster.execute("SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'")[0][0]
        wait_until(
            lambda: self.cluster.execute("SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'")[0][0] > before + 5,
            30,
            "the writers to go on",
        )

    # -- the work ----------------------------------------------------------

    def options(self) -> dict[str, t.Any]:
        """Every index is to be rebuilt, and one is to get the round's definition."""
        wanted = [{"name": name, "force": True} for name in sorted(NAMES - {"idx_files_updated_at"})]
        wanted.append({"name": "idx_files_updated_at", "table": "files", "definition": self.definition})
        return {"indexes": wanted, "bloat": "none", "jobs": 2, "lock_timeout": LOCK_TIMEOUT, "attempts": 20}

    def postgres(self) -> dict[str, t.Any]:
        return {name.removeprefix("postgres_"): value for name, value in self.cluster.options().items()}

    def complete(self) -> dict[str, t.Any]:
        """Run again what was interrupted; what needs no rebuild is spared it, which takes nothing from the demand."""
        given = self.options()
        indexes = tuple(Wanted(**{**each, "force": False}) for each in given["indexes"])
        return run_rebuild(
            PostgresOptions(**self.postgres()),
            RebuildOptions(**{**given, "indexes": indexes}),
            check_mode=False,
            plan_digest=None,
            progress=Progress(),
        )

    def child(self) -> subprocess.Popen[str]:
        """The engine in a process of its own, about to begin."""
        given = json.dumps({"postgres": self.postgres(), "options": self.options()})
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "collections"), "GIVEN": given},
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "go\n"
        return child

    @contextlib.contextmanager
    def module(self) -> t.Iterator[ModuleRun]:
        """The module under a running Ansible; a killed one leaves its temporary files with those of the test."""
        temporary = self.place / "tmp"
        temporary.mkdir(exist_ok=True)
        run = ModuleRun(
            self.place / "runs",
            "postgres_index_rebuild",
            {**self.cluster.options(), **self.options()},
            check=False,
            diff=False,
            interpreter=sys.executable,
            env={"TMPDIR": str(temporary)},
        )
        try:
            yield run
        finally:
            run.close()

    # -- proof -------------------------------------------------------------

    def indexes(self) -> dict[str, tuple[bool, str]]:
        rows = self.cluster.execute(
            "SELECT i.relname, x.indisvalid AND x.indisready AND x.indislive, pg_get_indexdef(i.oid) FROM pg_index x"
            " JOIN pg_class i ON i.oid = x.indexrelid WHERE i.relnamespace = 'public'::regnamespace"
        )
        return {name: (sound, definition) for name, sound, definition in rows}

    def prove_served(self) -> set[str]:
        """After a kill: each name has a valid index, of the old definition or the new; what else there is."""
        found = self.indexes()
        assert {name for name, (sound, _definition) in found.items() if sound} >= NAMES, found
        return set(found) - NAMES

    def prove_complete(self) -> None:
        """Exactly one valid index for each name, and nothing else."""
        found = self.indexes()
        assert set(found) == NAMES and all(sound for sound, _definition in found.values()), found
        assert found["idx_files_updated_at"][1].endswith(self.definition), found
        left = self.cluster.execute(f"SELECT pid FROM pg_stat_activity WHERE application_name = '{APPLICATION}'")
        assert left == [], "sessions of a killed run are still there"

    def prove_structure(self) -> None:
        """Every row is in every index."""
        for name in sorted(NAMES):
            self.cluster.execute(f"SELECT bt_index_check('{name}', true)")


@pytest.fixture(scope="module")
def world() -> t.Iterator[World]:
    place = workplace(f"tests/indexes-{uuid.uuid4().hex[:6]}")
    made = World(place)
    try:
        made.create()
        made.start_writers()
        yield made
    finally:
        made.close()
        shutil.rmtree(place, ignore_errors=True)


def test_invalid_and_bloated_are_repaired(world: World) -> None:
    """A killed CREATE INDEX CONCURRENTLY leaves an invalid index; it and the bloated ones are rebuilt, and one is replaced."""
    with world.cluster.connect() as victim:
        victim.autocommit = True
        with world.cluster.connect() as holder, holder.transaction():
            holder.execute("UPDATE users SET name = '' WHERE id = 3")  # the build has to wait for it
            pid = victim.info.backend_pid
            killer = "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index WHERE pid = {} AND phase LIKE 'waiting%'"

            def build() -> None:
                with contextlib.suppress(Exception):
                    victim.execute("CREATE INDEX CONCURRENTLY idx_killed ON users (name, id)")

            thread = threading.Thread(target=build)
            thread.start()
            wait_until(lambda: world.cluster.execute(killer.format(pid)), 30, "the build to be killed")
            thread.join(30)
    assert world.indexes()["idx_killed"][0] is False
    before = dict(world.cluster.execute("SELECT relname, pg_relation_size(oid) FROM pg_class WHERE relkind = 'i'"))
    wanted = (Wanted("idx_files_updated_at", table="files", definition=world.definition),)
    options = RebuildOptions(indexes=wanted, bloat_min_bytes=2**20, jobs=2, lock_timeout=LOCK_TIMEOUT, attempts=20)
    result = run_rebuild(PostgresOptions(**world.postgres()), options, check_mode=False, plan_digest=None, progress=Progress())
    dealt = {each["name"]: (each["action"], each["reason"], each["verified"]) for each in result["indexes"]}
    assert dealt["idx_killed"] == ("rebuild", "invalid", True)
    assert dealt["idx_files_updated_at"] == ("replace", "definition", True)
    for name in ("idx_path", "files_pkey", "files_token_key"):
        assert dealt[name] == ("rebuild", "bloat", True)
        assert world.cluster.execute(f"SELECT pg_relation_size('{name}')")[0][0] < before[name] / 2
    world.cluster.execute("DROP INDEX CONCURRENTLY idx_killed")
    world.prove_complete()
    world.prove_writers()


def killed(world: World, child: subprocess.Popen[str], seconds: float, how: str) -> bool:
    """Hurt the run after so long; whether it was hurt before its end."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(seconds)
    if how == "kill":
        child.kill()
    else:
        sessions = [
            row[0] for row in world.cluster.execute(f"SELECT pid FROM pg_stat_activity WHERE application_name = '{APPLICATION}'")
        ]
        if sessions:
            world.cluster.execute(f"SELECT pg_terminate_backend({world.random.choice(sessions)})")
    _output, errors = child.communicate(timeout=60)
    if child.returncode not in (0, -signal.SIGKILL):
        assert child.returncode == 1 and "Traceback" not in errors, errors
    return child.returncode != 0


def test_killed_at_random_points(world: World) -> None:
    """Run again, each name has exactly one valid index, nothing is left over, and no writer has waited."""
    child = world.child()
    begin = time.monotonic()
    _output, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    usual = time.monotonic() - begin
    hurt = 0
    for attempt in range(3 * KILLS):
        world.definition = DEFINITIONS[(attempt + 1) % 2]
        how = "terminate" if attempt % 3 == 2 else "kill"
        seconds = world.random.uniform(0, usual)
        if killed(world, world.child(), seconds, how):
            hurt += 1
        found = world.prove_served()
        try:
            world.complete()
            world.prove_complete()
        except (AssertionError, OpsError) as error:
            raise AssertionError(f"after {how} at {seconds:.3f} of {usual:.3f} s, which left {found}: {error}") from error
        if hurt == KILLS:
            break
    assert hurt == KILLS, f"only {hurt} runs were hurt before their end"
    world.prove_structure()
    world.prove_writers()


def test_the_module_killed_under_ansible(world: World) -> None:
    """The same with the module itself, which Ansible runs."""
    for number in range(MODULE_KILLS):
        world.definition = DEFINITIONS[number % 2]
        with world.module() as run:
            run.wait_for(lambda: world.cluster.execute("SELECT 1 FROM pg_stat_progress_create_index"), what="a build")
            time.sleep(world.random.uniform(0, 0.3))  # a random point of the builds
            run.kill_module()
            run.kill_controller()
        world.prove_served()
        with world.module() as run:
            result = run.wait()
        assert not result.get("failed"), result
        world.prove_complete()
    world.prove_structure()
    world.prove_writers()
