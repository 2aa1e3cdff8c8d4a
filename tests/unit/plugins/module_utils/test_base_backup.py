# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is decided before and around a base backup; whole backups of real servers are in the integration tests."""

from __future__ import annotations

import contextlib
import dataclasses
import struct

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup import base_backup, base_files, base_server
from ansible_collections.fileforge.ops.plugins.module_utils._backup.base_backup import BackupOptions
from ansible_collections.fileforge.ops.plugins.module_utils._backup.base_server import Server, Started, Stopped, Tablespace
from ansible_collections.fileforge.ops.plugins.module_utils._backup.base_upload import Names
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError, Refused, WaitTimeout
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress

from tests.unit.plugins.module_utils.memory_store import MemoryStore

SERVER = Server(
    version_num=150020,
    in_recovery=False,
    data_directory="/nowhere",
    archive_mode="on",
    archive_command="true",
    archive_library="",
    checksums=True,
    wal_segment_size=16 << 20,
    block_size=8192,
    segment_pages=131072,
    port=5432,
    server_started=1_700_000_000.4,
    system_identifier="7300000000000000001",
    catalog_version=202209061,
)


@pytest.fixture
def server(tmp_path):
    """A data directory as the running server leaves it."""
    (tmp_path / "global").mkdir()
    (tmp_path / "pg_wal/archive_status").mkdir(parents=True)
    (tmp_path / "global/pg_control").write_bytes(struct.pack("=Q", int(SERVER.system_identifier)) + bytes(8184))
    (tmp_path / "postmaster.pid").write_text(f"1\n{tmp_path}\n1700000000\n5432\n/run\n\n")
    return dataclasses.replace(SERVER, data_directory=str(tmp_path))


@pytest.fixture
def quiet_archiver(monkeypatch):
    archiver = {"failing": False, "last_failed_wal": None, "last_failed_time": None}
    monkeypatch.setattr(base_server, "one", lambda connection, sql: archiver)
    return archiver


@pytest.mark.parametrize(
    "wrong",
    [
        *({"jobs": 0}, {"jobs": 65}, {"compression_level": 10}, {"max_age": -1}, {"max_rate": -1}, {"wal_timeout": 0}),
        *({"label": ""}, {"label": "a\nb"}, {"label": "x" * 1025}),
    ],
)
def test_options_that_cannot_be_used(wrong):
    BackupOptions().check()
    with pytest.raises(InvalidOption) as caught:
        BackupOptions(**wrong).check()
    assert caught.value.state["option"] in wrong


def test_a_good_server_is_accepted(server, quiet_archiver):
    base_server.check_server(None, server)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"in_recovery": True}, "standby"),
        ({"archive_mode": "off"}, "archiving_off"),
        ({"archive_command": ""}, "archiving_off"),
        ({"data_directory": "/nowhere"}, "not_local"),
        ({"system_identifier": "1"}, "not_local"),
        ({"port": 5433}, "not_local"),
        ({"server_started": 1_700_000_100.0}, "not_local"),
    ],
)
def test_a_server_that_cannot_be_backed_up_here(server, quiet_archiver, change, reason):
    with pytest.raises(Refused) as caught:
        base_server.check_server(None, dataclasses.replace(server, **change))
    assert caught.value.state["reason"] == reason


def test_an_archive_library_counts_as_archiving(server, quiet_archiver):
    base_server.check_server(None, dataclasses.replace(server, archive_command="", archive_library="basic_archive"))


def test_failing_archiving_is_refused(server, quiet_archiver):
    quiet_archiver.update(failing=True, last_failed_wal="000000010000000000000007")
    with pytest.raises(Refused, match="000000010000000000000007"):
        base_server.check_server(None, server)


def test_an_old_server_is_refused(monkeypatch):
    monkeypatch.setattr(base_server, "one", lambda connection, sql: {**dataclasses.asdict(SERVER), "version_num": 110022})
    with pytest.raises(Refused, match="11 is too old"):
        base_server.look(None)


LABEL = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\n"


@pytest.mark.parametrize(
    ("version", "start", "stop"),
    [
        (150020, "pg_backup_start(%s, %s)", "pg_backup_stop(false)"),
        (180006, "pg_backup_start(%s, %s)", "pg_backup_stop(false)"),
        (140010, "pg_start_backup(%s, %s, false)", "pg_stop_backup(false, false)"),
        (120022, "pg_start_backup(%s, %s, false)", "pg_stop_backup(false, false)"),
    ],
)
def test_the_functions_of_each_version(monkeypatch, version, start, stop):
    asked = []

    def one(connection, sql, params=None):
        asked.append(sql)
        return {"lsn": "0/2000028", "labelfile": LABEL, "spcmapfile": None}

    monkeypatch.setattr(base_server, "one", one)
    server = dataclasses.replace(SERVER, version_num=version)
    started = base_server.start(None, server, "label", True)
    stopped = base_server.stop(None, server)
    assert start in asked[0] and stop in asked[1]
    assert started == Started(0x2000028)
    assert stopped == Stopped(0x2000028, LABEL, "", "000000010000000000000002", 1)


def test_the_wal_that_is_needed():
    stopped = Stopped(0x4000000, "", "", "000000030000000000000002", 3)
    last, history = base_server.needed_wal(SERVER, stopped, Started(0x2000028))
    assert last == "000000030000000000000003"  # the end is exclusive
    assert history == "000000030000000000000002.00000028.backup"


def test_when_wal_counts_as_archived(server, tmp_path):
    status = tmp_path / "pg_wal/archive_status"
    assert base_server.archived(server.data_directory, "recycled")
    (tmp_path / "pg_wal/current").touch()
    assert not base_server.archived(server.data_directory, "current")
    (status / "current.ready").touch()
    assert not base_server.archived(server.data_directory, "current")
    (status / "current.ready").rename(status / "current.done")
    assert base_server.archived(server.data_directory, "current")


def test_wal_that_is_never_archived_is_named(server, tmp_path, quiet_archiver, monkeypatch):
    monkeypatch.setattr(base_server, "POLL", 0.01)
    (tmp_path / "pg_wal/stuck").touch()
    quiet_archiver.update(failing=True, last_failed_wal="stuck")
    with pytest.raises(WaitTimeout, match="stuck; archiving stuck fails"):
        base_server.wait_archived(None, server, ["fine", "stuck"], 0.05)


def test_only_one_backup_of_a_directory_at_a_time(tmp_path):
    with base_backup._only_one(str(tmp_path)):
        with pytest.raises(Refused) as caught, base_backup._only_one(str(tmp_path)):
            pass
        assert caught.value.state["reason"] == "locked"
    with base_backup._only_one(str(tmp_path)):
        pass
    assert list(tmp_path.iterdir()) == []


class Bucket:
    bucket = "backups"


def test_the_plan_is_the_same_whenever_it_is_made(server, tmp_path):
    spaces = [Tablespace(16385, str(tmp_path / "space"))]
    (tmp_path / "space" / server.version_directory).mkdir(parents=True)
    first = base_backup._plan(Bucket(), BackupOptions(prefix="p/"), server, spaces, None)
    (tmp_path / "grown").write_bytes(b"x" * 5000)
    second = base_backup._plan(Bucket(), BackupOptions(prefix="p/"), server, spaces, None)
    assert first.digest == second.digest
    assert first.notes != second.notes
    assert [step.object for step in first.steps] == [
        "p/base/<stamp>_base.tblspc-16385.tar.gz",
        "p/base/<stamp>_base.tar.gz",
        "p/base/<stamp>_base.backup_manifest",
        "p/base/<stamp>_base.index.json.gz",
    ]
    assert not first.destructive


@pytest.mark.parametrize("when", ["before the copy", "during the copy"])
def test_a_tablespace_that_appears_leaves_no_backup(server, monkeypatch, when):
    """The list of tablespaces is as old as the plan; what a restore would not have is no backup."""
    store, spaces = MemoryStore(), [Tablespace(16385, "/old")]
    names = Names("", "2026-11-23-1405")

    def start(connection, server, label, fast):
        if when == "before the copy":
            spaces.append(Tablespace(16400, "/appeared"))
        return Started(0x2000028)

    def copy(run, names, *_unused):
        run._written.append(names.data)
        store.put(names.data, b"copied")
        spaces.append(Tablespace(16400, "/appeared"))
        return None, b"", Stopped(0x3000028, LABEL, "", "000000010000000000000002", 1)

    monkeypatch.setattr(base_server, "start", start)
    monkeypatch.setattr(base_server, "tablespaces_of", lambda connection: list(spaces))
    monkeypatch.setattr(base_backup, "reserved", lambda *_unused: contextlib.nullcontext((names, None)))
    monkeypatch.setattr(base_backup, "_trees", lambda *_unused: [(None, base_files.Tree("/"))])
    monkeypatch.setattr(base_backup._Run, "_data_directory", copy)
    run = base_backup._Run(store, BackupOptions(), None, server, list(spaces), Progress())
    with pytest.raises(OpsError, match="made while the backup was taken: /appeared; it was not kept") as caught:
        run.take()
    assert caught.value.state["reason"] == "tablespace_appeared"
    assert store.objects == {}


def test_the_version_directory_of_a_tablespace():
    assert SERVER.version_directory == "PG_15_202209061"
    assert dataclasses.replace(SERVER, version_num=180006, catalog_version=202506291).version_directory == "PG_18_202506291"
