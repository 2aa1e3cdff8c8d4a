# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files a base backup takes and how it reads them while they change."""

from __future__ import annotations

import os
import struct
import threading
import time
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._archive.index import ChecksumFailure
from ansible_collections.fileforge.ops.plugins.module_utils._backup import base_files
from ansible_collections.fileforge.ops.plugins.module_utils._backup.base_files import PageRules, Reader, Throttle
from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import pages

RULES = PageRules(page_size=8192, segment_pages=131072, start_lsn=1 << 40)


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(name.encode())


def paths(tree: base_files.Tree, kind: str = "f") -> set[str]:
    return {item.path for item in tree.found if item.type == kind}


def test_what_postgresql_leaves_out_is_left_out(tmp_path):
    kept = {
        "PG_VERSION",
        "postgresql.conf",
        "postgresql.auto.conf",
        "base/1/1259",
        "base/1/1259_fsm",
        "base/1/1259.1",
        "base/1/16400_init",
        "base/1/164001",
        "base/1/PG_VERSION",
        "base/1/pg_filenode.map",
        "global/1262",
        "pg_xact/0000",
        "pg_logical/replorigin_checkpoint",
        "pg_stat/pgstat.stat",
        "log/postgresql.log",
        "current_logfiles",
    }
    left = {
        "postmaster.pid",
        "postmaster.opts",
        "backup_label",
        "tablespace_map",
        "backup_manifest",
        "backup_label.old",
        "postgresql.auto.conf.tmp",
        "global/pg_control",
        "global/pg_internal.init",
        "base/1/pg_internal.init.123",
        "base/1/16400",
        "base/1/16400.1",
        "base/1/16400_fsm",
        "base/1/16400_vm",
        "base/1/t3_16500",
        "base/1/t3_16500_fsm",
        "base/1/t3_16500.2",
        "base/pgsql_tmp/pgsql_tmp1.0",
        "pg_wal/000000010000000000000001",
        "pg_wal/archive_status/000000010000000000000001.done",
        "pg_wal/summaries/x",
        "pg_replslot/slot/state",
        "pg_dynshmem/mmap.1",
        "pg_notify/0000",
        "pg_serial/0000",
        "pg_snapshots/x",
        "pg_stat_tmp/global.stat",
        "pg_subtrans/0000",
    }
    make(tmp_path, *kept, *left)
    tree = base_files.data_tree(str(tmp_path))
    assert paths(tree) == kept
    directories = paths(tree, "d")
    assert base_files.EMPTIED | {"pg_wal", "pg_wal/archive_status", "pg_wal/summaries", "base/1", "global"} <= directories
    assert "base/pgsql_tmp" not in directories and "pg_replslot/slot" not in directories
    assert tree.size == sum(len(name) for name in kept)
    checked = {item.path for item in tree.found if item.segment is not None}
    assert checked == {"base/1/1259", "base/1/1259_fsm", "base/1/1259.1", "base/1/16400_init", "base/1/164001", "global/1262"}
    seen: set[str] = set()
    for item in tree.found:  # parents come first
        assert not item.path.count("/") or os.path.dirname(item.path) in seen
        seen.add(item.path)


def test_links_special_files_and_tablespaces(tmp_path):
    root, space, wal = tmp_path / "data", tmp_path / "space", tmp_path / "wal"
    make(root, "pg_tblspc/", "base/1/1", "inside/PG_15_1/5/7")
    make(space, "PG_15_202209061/5/16385", "PG_15_202209061/5/t1_9", "PG_14_202107181/5/16385", "other")
    make(wal, "archive_status/x.done", "seg")
    (root / "pg_tblspc/16384").symlink_to(space)
    (root / "pg_wal").symlink_to(wal)
    (root / "elsewhere").symlink_to("/etc")
    os.mkfifo(root / "pipe")
    tree = base_files.data_tree(str(root), [str(space), str(root / "inside")])
    (link,) = [item for item in tree.found if item.type == "l"]
    assert (link.path, link.target) == ("pg_tblspc/16384", str(space))
    assert sorted(tree.skipped) == ["elsewhere", "pipe"]
    assert {"pg_wal", "pg_wal/archive_status", "inside"} <= paths(tree, "d")
    assert paths(tree) == {"base/1/1"}
    spaced = base_files.tablespace_tree(str(space), "PG_15_202209061")
    assert [item.path for item in spaced.found] == ["PG_15_202209061", "PG_15_202209061/5", "PG_15_202209061/5/16385"]
    assert spaced.found[-1].segment == 0


def opened(root: Path, name: str, rules: PageRules | None = None, on_bytes=lambda count: None):
    reader = Reader(rules, Throttle(0), on_bytes)
    tree = base_files.data_tree(str(root))
    item = next(item for item in tree.found if item.path == name)
    return reader, reader.entry(str(root), item)


def test_a_file_that_vanishes_or_becomes_something_else_is_left_out(tmp_path):
    make(tmp_path, "base/1/1", "base/1/2", "base/1/3")
    for name, change in (("1", lambda path: None), ("2", lambda path: path.symlink_to("/etc/passwd")), ("3", os.mkfifo)):
        _reader, entry = opened(tmp_path, f"base/1/{name}")
        (tmp_path / "base/1" / name).unlink()
        change(tmp_path / "base/1" / name)
        assert entry.open() is None


def test_a_file_that_shrinks_is_filled_up_and_one_that_grows_is_cut(tmp_path):
    make(tmp_path, "base/1/1")
    path = tmp_path / "base/1/1"
    path.write_bytes(b"x" * 20000)
    counted: list[int] = []
    _reader, entry = opened(tmp_path, "base/1/1", on_bytes=counted.append)
    source = entry.open()
    os.truncate(path, 5000)
    assert source.size == 20000
    assert source.read(0, 20000) == b"x" * 5000 + bytes(15000)
    path.write_bytes(b"y" * 50000)
    assert source.read(8192, 1000) == b"y" * 1000
    source.close()
    assert sum(counted) == 21000


def good_page(block: int, fill: bytes = b"a") -> bytes:
    content = bytearray(fill * 8192)
    content[:16] = struct.pack("<IIHHHH", 0, 5, 0, 0, 24, 4000)
    (total,) = pages._sums(memoryview(bytes(content)).cast("Q"), 1, 1024)
    content[8:10] = struct.pack("<H", (total ^ block) % 65535 + 1)
    return bytes(content)


def test_a_page_that_is_wrong_twice_is_reported_with_its_block_in_the_fork(tmp_path):
    make(tmp_path, "base/1/1259.2")
    first = 2 * 131072
    bad = bytearray(good_page(first + 1))
    bad[4000] ^= 1
    (tmp_path / "base/1/1259.2").write_bytes(good_page(first) + bad + good_page(first + 2))
    reader, entry = opened(tmp_path, "base/1/1259.2", RULES)
    source = entry.open()
    source.read(0, 3 * 8192)
    assert reader.failures == [ChecksumFailure("base/1/1259.2", first + 1)]
    source.read(8192, 8192)
    assert reader.failure_count == 2
    source.read(16384, 8192)
    assert reader.failure_count == 2


def test_a_page_that_was_being_written_is_read_again(tmp_path, monkeypatch):
    """The first look sees half of the new page; the archive gets the whole one."""
    make(tmp_path, "base/1/1")
    whole = good_page(0, b"b")
    (tmp_path / "base/1/1").write_bytes(whole)
    torn = whole[:4096] + b"a" * 4096
    reads = iter([torn])
    real = os.pread
    monkeypatch.setattr(base_files.os, "pread", lambda *arguments: next(reads, None) or real(*arguments))
    reader, entry = opened(tmp_path, "base/1/1", RULES)
    assert entry.open().read(0, 8192) == whole
    assert reader.failures == []


def test_files_that_are_no_relations_or_no_whole_pages_are_not_judged(tmp_path):
    make(tmp_path, "base/1/PG_VERSION", "base/1/7")
    (tmp_path / "base/1/PG_VERSION").write_bytes(b"z" * 8192)
    (tmp_path / "base/1/7").write_bytes(b"z" * 8193)
    for name in ("PG_VERSION", "7"):
        reader, entry = opened(tmp_path, f"base/1/{name}", RULES)
        source = entry.open()
        source.read(0, source.size)
        assert reader.failures == []


def test_reported_failures_are_bounded(monkeypatch):
    monkeypatch.setattr(base_files, "REPORTED_FAILURES", 3)
    reader = Reader(None, Throttle(0), lambda count: None)
    for block in range(10):
        reader.failed("p", block)
    assert len(reader.failures) == 3 and reader.failure_count == 10


def test_a_directory_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    def forbidden(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(base_files.os, "listdir", forbidden)
    with pytest.raises(OpsError) as caught:
        base_files.data_tree(str(tmp_path))
    assert caught.value.state["reason"] == "data_directory_unreadable"


def test_the_throttle_bounds_the_rate():
    throttle = Throttle(1000)
    begin = time.monotonic()
    for _number in range(5):
        throttle.take(100)
    assert 0.38 <= time.monotonic() - begin < 5


def test_stopping_the_throttle_ends_the_waits():
    throttle = Throttle(1)
    throttle.take(1000)
    failed = []

    def wait():
        try:
            throttle.take(1)
        except OpsError as error:
            failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    throttle.stop()
    thread.join(10)
    assert failed and not thread.is_alive()
    with pytest.raises(OpsError):
        Throttle.take(throttle, 1)


def test_the_control_file_is_read_until_it_is_the_same_twice(tmp_path, monkeypatch):
    path = tmp_path / "global/pg_control"
    path.parent.mkdir()
    contents = iter([b"torn", b"whole", b"whole"])
    real = open

    def changing(name, *arguments, **more):
        path.write_bytes(next(contents))
        return real(name, *arguments, **more)

    monkeypatch.setattr(base_files, "open", changing, raising=False)
    content, state = base_files.control_file(str(tmp_path))
    assert content == b"whole" and state.st_size == 5
    endless = iter(range(1000))
    contents = iter(lambda: str(next(endless)).encode(), b"")
    with pytest.raises(OpsError, match="changes all the time"):
        base_files.control_file(str(tmp_path))
