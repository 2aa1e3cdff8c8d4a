# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real file systems: full ones, ones without inodes left, and one whose server does not answer."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._host import disk, growth, mounts

if t.TYPE_CHECKING:
    from tests.integration.conftest import ModuleRunner

LIBC = ctypes.CDLL(None, use_errno=True)
DETACH = 2
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems")


@contextlib.contextmanager
def mounted(place: Path, kind: str, options: str) -> t.Iterator[Path]:
    """A file system of that kind, unmounted whatever happens."""
    place.mkdir()
    if LIBC.mount(b"fileforge-test", bytes(place), kind.encode(), 0, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), f"mount {kind}")
    try:
        yield place
    finally:
        LIBC.umount2(bytes(place), DETACH)
        place.rmdir()


@contextlib.contextmanager
def dead_server(place: Path) -> t.Iterator[Path]:
    """A FUSE file system whose server never says a word: asking for it blocks in the kernel, as with a dead NFS server."""
    device = os.open("/dev/fuse", os.O_RDWR)
    try:
        with mounted(place, "fuse", f"fd={device},rootmode=40000,user_id=0,group_id=0"):
            yield place
            os.close(device)
            device = -1
    finally:
        if device >= 0:
            os.close(device)


def by_id(result: dict[str, t.Any]) -> dict[tuple[str, str], str]:
    return {(check["id"], check["subject"]): check["status"] for check in result["checks"]}


def test_all_real_file_systems_and_their_growth(run_module: ModuleRunner, place: Path) -> None:
    history = place / "notes" / "disk.json"
    arguments = {"history_file": str(history), "usage_warning": 0.99, "usage_critical": 1.0}
    checked = run_module("disk_usage_info", arguments, check=True)
    assert not history.exists() and not checked["changed"]
    root = next(volume for volume in checked["volumes"] if volume["mount_point"] == "/")
    found = os.statvfs("/")
    assert root["total_bytes"] == found.f_blocks * found.f_frsize
    assert not {"proc", "sysfs", "tmpfs", "devtmpfs", "cgroup", "cgroup2"} & {volume["type"] for volume in checked["volumes"]}
    first = run_module("disk_usage_info", arguments)
    assert not first["changed"] and first["volumes"][0]["samples"] == 1 and first["volumes"][0]["growth_bytes_per_day"] is None
    content = json.loads(history.read_text())
    now, used = content["samples"]["/"][0]
    content["samples"]["/"] = [[now - day * growth.DAY, used - day * (root["available_bytes"] / 20)] for day in range(9, 0, -1)]
    history.write_text(json.dumps(content))
    told = run_module("disk_usage_info", arguments)
    assert by_id(told)["disk.days_to_full", "/"] == "warning"
    assert told["volumes"][0]["days_to_full"] == pytest.approx(20, rel=0.3)


@NEEDS_ROOT
def test_a_server_that_does_not_answer_is_unknown_and_holds_nobody_up(run_module: ModuleRunner, place: Path) -> None:
    with dead_server(place / "share"):
        assert str(place / "share") in {mount.mount_point for mount in mounts.read_mounts()}
        began = time.monotonic()
        result = run_module(
            "disk_usage_info", {"timeout": 1, "paths": [str(place / "share"), "/", str(place / "none")]}, timeout=60
        )
        assert time.monotonic() - began < 50
    assert by_id(result)["disk.usage", str(place / "share")] == "unknown"
    assert by_id(result)["disk.usage", str(place / "none")] == "unknown"
    assert by_id(result)["disk.usage", "/"] != "unknown"
    hung = next(check for check in result["checks"] if check["subject"] == str(place / "share"))
    assert "no answer within 1 s" in hung["summary"] and hung["hint"]


@NEEDS_ROOT
def test_full_bytes_full_inodes_and_a_missing_mount(place: Path) -> None:
    with mounted(place / "small", "tmpfs", "size=1m,nr_inodes=20") as small:
        (small / "data").write_bytes(b"x" * 870_000)
        required = disk.DiskOptions(required_mounts=[str(small)])
        _volumes, checks = disk.look(required, record=False)
        assert {check.id: check.status for check in checks} == {"disk.usage": "warning", "disk.inodes": "ok"}
        (small / "data").write_bytes(b"x" * 1_000_000)
        _volumes, checks = disk.look(required, record=False)
        assert {check.id: check.status for check in checks} == {"disk.usage": "critical", "disk.inodes": "ok"}
        (small / "data").write_bytes(b"")
        for number in range(17):
            (small / str(number)).touch()
        _volumes, checks = disk.look(required, record=False)
        assert {check.id: check.status for check in checks} == {"disk.usage": "ok", "disk.inodes": "critical"}
    (place / "small").mkdir()
    _volumes, checks = disk.look(required, record=False)
    assert [(check.id, check.status) for check in checks] == [("disk.mounted", "critical")]


def test_bad_options_are_refused(run_module: ModuleRunner) -> None:
    refused = run_module("disk_usage_info", {"usage_warning": 80}, expect_failure=True)
    assert refused["code"] == "invalid_option" and refused["option"] == "usage_warning" and "0.8" in refused["hint"]
