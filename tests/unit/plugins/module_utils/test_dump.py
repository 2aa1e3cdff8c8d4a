# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options, plans and the parts of a dump that need no server."""

from __future__ import annotations

import datetime
import gzip
import stat
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup import dump, dump_server
from ansible_collections.fileforge.ops.plugins.module_utils._backup.dump import DumpOptions
from ansible_collections.fileforge.ops.plugins.module_utils._backup.dump_server import DumpServer
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, Refused, WaitTimeout
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._process import piped
from ansible_collections.fileforge.ops.plugins.module_utils._time import now
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline
from hypothesis import given, settings
from hypothesis import strategies as st

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
