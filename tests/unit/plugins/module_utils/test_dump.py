# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options, plans and the parts of a dump that need no server."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import stat
import sys
import textwrap
import types
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup import dump, dump_server
from ansible_collections.fileforge.ops.plugins.module_utils._backup.dump import DumpOptions
from ansible_collections.fileforge.ops.plugins.module_utils._backup.dump_server import DumpServer
from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    InvalidOption,
    OpsError,
    Refused,
    Unavailable,
    WaitTimeout,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._process import piped
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress
from ansible_collections.fileforge.ops.plugins.module_utils._time import now
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.plugins.module_utils.memory_store import MemoryStore
from tests.unit.plugins.module_utils.test_dumps import bucket, manifest_of
from tests.unit.plugins.module_utils.wal_builder import Place

SERVER = DumpServer(150020, False, "7", "app", "UTF8", "C", "C", "postgres", 8000)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("jobs", 0), ("jobs", 65), ("compression_level", 10), ("max_age", -1), ("lock_timeout", 0), ("timeout", 0)],
        *[("format", "tar"), ("spool_directory", "/nowhere")],
    ],
)
def test_wrong_options(name: str, value: t.Any) -> None:
    changes = {"format": "directory"} if name == "spool_directory" else {}
    with pytest.raises(InvalidOption, match=f"^{name}="):
        DumpOptions(**{**changes, name: value}).check()


@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(1, 4), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_what_is_packed_in_parallel_is_one_gzip_in_order(blocks: list[bytes], jobs: int, level: int) -> None:
    pieces: list[bytes] = []
    with dump._Packer(pieces.append, level, jobs) as packer:
        for block in blocks:
            packer.write(block)
        packer.finish()
    assert len(pieces) == len(blocks)
    assert gzip.decompress(b"".join(pieces)) == b"".join(blocks)


@pytest.mark.parametrize("size", [1, 1000, 99_999, 100_000, 1_000_000])
def test_blocks_are_whole_but_for_the_last(size: int) -> None:
    text = "import sys; [sys.stdout.buffer.write(bytes([n % 251]) * 1000) or sys.stdout.flush() for n in range(100)]"
    with piped([sys.executable, "-c", text], read=True) as program:
        blocks = list(dump.read_blocks(program, Deadline(60), size))
    assert b"".join(blocks) == b"".join(bytes([n % 251]) * 1000 for n in range(100))
    assert {len(block) for block in blocks[:-1]} <= {size} and 0 < len(blocks[-1]) <= size


def test_a_program_that_writes_nothing_is_not_waited_for_forever() -> None:
    with piped([sys.executable, "-c", "import time; time.sleep(600)"], read=True) as program:
        with pytest.raises(WaitTimeout, match="was not ready"):
            next(dump.read_blocks(program, Deadline(0.2), 10))


def young(place: Place, **options: t.Any) -> str | None:
    found = dump._young(t.cast("t.Any", place), DumpOptions(**options), SERVER)
    return None if found is None else found.name


def ended(seconds: int) -> str:
    return (now() - datetime.timedelta(seconds=seconds)).isoformat()


def test_what_is_young_enough() -> None:
    place = bucket(manifest_of("a", finished=ended(5000)), manifest_of("b", finished=ended(100)))
    assert young(place, max_age=3600) == "b"
    assert young(place, max_age=50) is None
    assert young(place, max_age=3600, format="custom") is None
    del place.objects["database/b.sql.gz"]
    assert young(place, max_age=3600) is None
    assert young(place, max_age=36000) == "a"


@pytest.mark.parametrize("change", [{"system_identifier": "8"}, {"database": "other"}])
def test_dumps_of_something_else_are_not_mixed_in(change: dict[str, str]) -> None:
    with pytest.raises(Refused) as caught:
        young(bucket(manifest_of("a", **change)))
    assert caught.value.state["reason"] == "foreign_dumps"


def test_plans() -> None:
    place = bucket(manifest_of("a"))
    store = t.cast("t.Any", place)
    plan = dump._plan(store, DumpOptions(prefix=""), SERVER, None)
    assert [step.object for step in plan.steps] == [
        "database/<stamp>.sql.gz",
        "database/<stamp>.manifest.json",
        "database/latest.sql.gz",
        "database/latest.json",
    ]
    assert not plan.destructive and plan.digest == dump._plan(store, DumpOptions(), SERVER, None).digest
    made = dump.dumps.list_dumps(store)[0]
    assert [step.object for step in dump._plan(store, DumpOptions(max_age=9), SERVER, made).steps] == [
        "database/latest.sql.gz",
        "database/latest.json",
    ], "a dump that was made and never called latest"
    place.objects["database/latest.json"] = b'{"name": "a"}'
    assert dump._plan(store, DumpOptions(max_age=9), SERVER, made).steps == []


def fake(directory: Path, version: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / "pg_dump"
    program.write_text(f"#!/bin/sh\necho 'pg_dump (PostgreSQL) {version}'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_which_pg_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump_server, "PROGRAM_PLACES", (str(tmp_path / "{}"),))
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    monkeypatch.setattr(dump_server.shutil, "which", lambda name: None)
    with pytest.raises(Refused) as caught:
        dump_server.find_program("pg_dump", 15)
    assert caught.value.state["reason"] == "wrong_version"
    for major in ("14", "17", "16"):
        fake(tmp_path / major, f"{major}.3")
    assert dump_server.find_program("pg_dump", 15) == (str(tmp_path / "16/pg_dump"), "16.3")
    fake(tmp_path / "15", "15.9")
    assert dump_server.find_program("pg_dump", 15)[1] == "15.9"
    with pytest.raises(Refused, match=r"14\.3"):
        dump_server.find_program("pg_dump", 15, str(tmp_path / "14"))
    with pytest.raises(InvalidOption):
        dump_server.find_program("pg_dump", 15, str(tmp_path))


def test_the_password_is_in_the_environment_only() -> None:
    options = PostgresOptions(host="/run", password="secret", database="a b")
    assert dump_server.environment(options)["PGPASSWORD"] == "secret"
    assert dump_server.environment(options)["PGDATABASE"] == "a b"
    assert "PGSSLROOTCERT" not in dump_server.environment(options)


# The order in which a dump appears

PG_DUMP = """
import os, sys
place = next((word[7:] for word in sys.argv if word.startswith("--file=")), "")
if place:
    os.mkdir(place)
    for name in ("toc.dat", "1.dat.gz"):
        open(os.path.join(place, name), "w").write("PGDMP")
else:
    print("PGDMP" if "--format=custom" in sys.argv else "-- PostgreSQL database dump complete")
"""
OLD = {"database/latest.json": b'{"name": "old"}', "database/latest.sql.gz": b"old", "database/latest.dump": b"old"}


class Log(MemoryStore):
    """Writes down each step; fails from the step of that number on, once or (``dead``) for ever."""

    def __init__(self, fails: int | None = None, dead: bool = False) -> None:
        super().__init__(OLD)
        self.steps: list[str] = []
        self.fails, self.dead = fails, dead

    def step(self, what: str, key: str) -> None:
        self.steps.append(f"{what} {key}")
        number = len(self.steps) - 1
        if self.fails is not None and (number == self.fails or (self.dead and number > self.fails)):
            raise Unavailable("the service is gone")

    def put(self, key: str, data: bytes, **options: t.Any) -> t.Any:
        self.step("put", key)
        return super().put(key, data, **options)

    def copy(self, source: str, target: str) -> t.Any:
        self.step("copy", target)
        return super().copy(source, target)

    def stream(self, key: str, **options: t.Any) -> t.Iterator[bytes]:
        self.step("read", key)
        return super().stream(key, **options)

    def get(self, key: str) -> bytes:
        return self.objects[key].data

    def delete(self, keys: t.Iterable[str]) -> int:
        self.step("delete", "")
        return super().delete(keys)

    @contextlib.contextmanager
    def multipart(self, key: str, metadata: t.Mapping[str, str]) -> t.Iterator[t.Any]:
        parts: dict[int, bytes] = {}

        def part(number: int, data: bytes) -> str:
            self.step("part", key)
            parts[number] = data
            upload.size += len(data)
            return ""

        def complete() -> t.Any:
            self.step("complete", key)
            return MemoryStore.put(self, key, b"".join(parts[number] for number in sorted(parts)), metadata=metadata)

        upload = types.SimpleNamespace(part=part, complete=complete, size=0)
        yield upload


@pytest.fixture
def take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Callable[[Log, str], str]:
    """Take a dump with a pg_dump that writes little; its name."""
    program = tmp_path / "pg_dump"
    program.write_text(f"#!{sys.executable} -S\n{textwrap.dedent(PG_DUMP)}")
    program.chmod(0o755)
    found = types.SimpleNamespace(id="1", taken=str(now()), tables=(), roles=(), tablespaces=(), large_objects=0)
    monkeypatch.setattr(dump_server, "snapshot", lambda _connection: contextlib.nullcontext(found))
    monkeypatch.setattr(dump_server, "count_rows", lambda _connection, _tables: ())

    def run(store: Log, kind: str) -> str:
        options = DumpOptions(format=kind, jobs=1, spool_directory=str(tmp_path))
        postgres = PostgresOptions(host="/run", database="app")
        parts: t.Any = (store, postgres, options, None, SERVER, (str(program), "15.9"), Progress())
        return str(dump._Run(*parts).take()["name"])

    return run


ORDER = {
    "plain": ["part .sql.gz", "put .manifest.json", "complete .sql.gz", "read .sql.gz", "copy latest.sql.gz", "put latest.json"],
    "custom": ["part .dump", "put .manifest.json", "complete .dump", "read .dump", "copy latest.dump", "put latest.json"],
    "directory": [
        *["put .dir/1.dat.gz", "put .dir/toc.dat", "read .dir/1.dat.gz", "read .dir/toc.dat"],
        *["put .manifest.json", "put latest.json"],
    ],
}


@pytest.mark.parametrize("kind", ORDER)
def test_a_dump_appears_whole_and_is_called_latest_at_last(take: t.Callable[[Log, str], str], kind: str) -> None:
    store = Log()
    name = take(store, kind)
    assert [step.replace(f"database/{name}", "").replace("database/", "") for step in store.steps] == ORDER[kind]
    [made] = dump.dumps.list_dumps(t.cast("t.Any", store))
    assert made.complete and dump.dumps.read_pointer(t.cast("t.Any", store)) == name


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize(("kind", "number"), [(kind, number) for kind, order in ORDER.items() for number in range(len(order))])
def test_a_failure_at_any_step_leaves_nothing_that_looks_like_a_backup(
    take: t.Callable[[Log, str], str], kind: str, number: int, dead: bool
) -> None:
    """With a service that answers again, nothing at all; with one that does not, nothing that is taken for a dump."""
    store = Log(number, dead)
    with pytest.raises(OpsError, match="gone"):
        take(store, kind)
    found = dump.dumps.list_dumps(t.cast("t.Any", store))
    appeared = "complete" if kind != "directory" else "put .manifest.json"
    whole = number > [step.startswith(appeared) for step in ORDER[kind]].index(True)
    pointing = ORDER[kind][number].endswith(" latest.json") or ORDER[kind][number].startswith("copy")
    assert dump.dumps.read_pointer(t.cast("t.Any", store)) == "old"
    assert [item.complete for item in found] == ([True] if pointing or (whole and dead) else [False] if found else [])
    assert all(item.has_manifest or item.marked for item in found), "else it would be taken for somebody's own"
    if not dead and not pointing:
        assert store.objects.keys() == OLD.keys()
