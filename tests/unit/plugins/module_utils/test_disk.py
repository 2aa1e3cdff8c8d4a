# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems: which hold data, how full they are, how fast they fill; silence is unknown."""

from __future__ import annotations

import json
import os
import random
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._host import disk, growth, mounts
from ansible_collections.fileforge.ops.plugins.module_utils._host.mounts import Mount, Usage
from hypothesis import given
from hypothesis import strategies as st

FILESYSTEMS = (
    "nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\toverlay\nnodev\tnfs4\nnodev\tfuse\n\text4\n\tsquashfs\n\tfuseblk\n\txfs\n"
)
MOUNTINFO = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:5 / /proc rw - proc proc rw
24 22 0:22 / /dev/shm rw - tmpfs tmpfs rw
25 22 254:16 / /srv/with\040blank rw - xfs /dev/vdb rw
26 22 254:16 /uploads /app/uploads rw - xfs /dev/vdb rw
27 22 0:50 / /mnt/share rw - nfs4 server:/share rw
28 22 7:1 / /snap/x/1 ro - squashfs /dev/loop1 ro
29 22 254:0 /etc/resolv.conf /etc/resolv.conf rw - ext4 /dev/vda rw
30 22 0:60 / /mnt/s3 rw - fuse.s3fs s3fs rw
31 22 254:32 / /hidden rw - ext4 /dev/vdc rw
32 22 254:48 / /hidden rw - ext4 /dev/vdd rw
33 22 0:4 net:[4026532167] /run/netns/blue rw shared:9 - nsfs nsfs rw
"""
GIB = 1 << 30


def test_file_systems_that_hold_data_are_found_once() -> None:
    table = mounts.parse_mountinfo(MOUNTINFO)
    real = mounts.real_mounts(table, FILESYSTEMS)
    assert [mount.mount_point for mount in real] == ["/", "/hidden", "/mnt/s3", "/mnt/share", "/srv/with blank"]
    assert next(mount for mount in real if mount.mount_point == "/hidden").device == "/dev/vdd", "the last one hides the others"


def test_a_container_sees_its_own_root() -> None:
    table = mounts.parse_mountinfo("1 0 0:33 / / rw - overlay overlay rw\n2 1 254:0 /x /data rw - ext4 /dev/vda rw\n")
    assert [mount.mount_point for mount in mounts.real_mounts(table, FILESYSTEMS)] == ["/", "/data"]


def test_the_mount_of_a_path() -> None:
    table = mounts.parse_mountinfo(MOUNTINFO)
    for path, point in (("/app/uploads/2026/x", "/app/uploads"), ("/app/uploads2", "/"), ("/", "/"), ("/mnt/share", "/mnt/share")):
        found = mounts.mount_of(path, table)
        assert found is not None and found.mount_point == point


def test_lines_that_are_none_are_left_out() -> None:
    assert mounts.parse_mountinfo("\nnonsense\n1 2 3\n") == []


def test_the_kernel_is_asked_for_real(tmp_path: Path) -> None:
    [found] = mounts.measure_all([str(tmp_path)], 5)
    expected = os.statvfs(tmp_path)
    assert found.total_bytes == expected.f_blocks * expected.f_frsize and not found.problem
    assert found.used_fraction is not None and 0 < found.used_fraction < 1


def test_one_that_hangs_does_not_keep_the_others_waiting() -> None:
    def ask(path: str) -> Usage:
        if path == "/hangs":
            time.sleep(60)
        if path == "/crashes":
            raise RuntimeError
        return Usage(path, path, 100, 10, 90)

    began = time.monotonic()
    hung, fine, crashed = mounts.measure_all(["/hangs", "/fine", "/crashes"], 0.5, ask)
    assert time.monotonic() - began < 20
    assert "hangs" in hung.problem and not fine.problem and fine.used_bytes == 10 and crashed.problem


def test_a_path_that_is_not_there_is_unknown() -> None:
    [found] = mounts.measure_all(["/no/such/path"], 5)
    assert found.problem == "No such file or directory"
    [check] = disk.checks_of(disk.Volume(found, None), disk.DiskOptions())
    assert (check.id, check.subject, check.status) == ("disk.usage", "/no/such/path", "unknown")


# Thresholds


def volume(used: float, *, inodes: float = 0.1, **changes: t.Any) -> disk.Volume:
    usage = Usage("/data", "/data", 100 * GIB, int(used * 100) * GIB, 100 * GIB - int(used * 100) * GIB, 1000, int(inodes * 1000))
    usage = Usage(**{**vars(usage), "available_inodes": 1000 - int(inodes * 1000)})
    return disk.Volume(usage, Mount("/data", "8:1", "/", "ext4", "/dev/sda1", ()), **changes)


@pytest.mark.parametrize(
    ("used", "status"), [(0.79, "ok"), (0.8, "ok"), (0.81, "warning"), (0.9, "warning"), (0.91, "critical"), (1.0, "critical")]
)
def test_thresholds_of_bytes_and_inodes(used: float, status: str) -> None:
    options = disk.DiskOptions()
    found = {check.id: check for check in disk.checks_of(volume(used), options)}
    assert found["disk.usage"].status == status and found["disk.inodes"].status == "ok"
    assert bool(found["disk.usage"].hint) == (status != "ok")
    found = {check.id: check for check in disk.checks_of(volume(0.1, inodes=used), options)}
    assert found["disk.inodes"].status == status and found["disk.usage"].status == "ok"


def test_reserved_blocks_count_as_df_counts() -> None:
    usage = Usage("/", "/", total_bytes=100, used_bytes=80, available_bytes=15)
    assert usage.used_fraction == pytest.approx(80 / 95)
    assert Usage("/").used_fraction is None and usage.used_inode_fraction is None


def test_a_file_system_without_inodes_has_no_such_check() -> None:
    plain = disk.Volume(Usage("/data", "/data", 100, 10, 90), None)
    assert [check.id for check in disk.checks_of(plain, disk.DiskOptions())] == ["disk.usage"]
    empty = disk.Volume(Usage("/data", "/data"), None)
    assert [check.status for check in disk.checks_of(empty, disk.DiskOptions())] == ["unknown"]


@pytest.mark.parametrize(("days", "status"), [(100, "ok"), (30, "warning"), (8, "warning"), (7, "critical"), (0.5, "critical")])
def test_days_to_full(days: float, status: str) -> None:
    filling = volume(0.5, samples=9, rate=50 * GIB / days / growth.DAY)
    check = disk.checks_of(filling, disk.DiskOptions())[-1]
    assert (check.id, check.status) == ("disk.days_to_full", status) and check.value == pytest.approx(days, abs=0.1)
    shrinking = volume(0.5, samples=9, rate=-1.0)
    assert disk.checks_of(shrinking, disk.DiskOptions())[-1].status == "ok"


def test_a_mount_that_is_missing_is_critical() -> None:
    unmounted = disk.Volume(Usage("/app/uploads", "/app/uploads", 100, 10, 90), Mount("/", "8:1", "/", "ext4", "x", ()), True)
    [check] = disk.checks_of(unmounted, disk.DiskOptions())
    assert (check.id, check.status) == ("disk.mounted", "critical") and "fills /" in check.summary
    assert disk.checks_of(volume(0.1, required=True), disk.DiskOptions())[0].status == "ok"


@pytest.mark.parametrize(
    "changes",
    [
        {"usage_warning": 80},
        {"usage_warning": 0.95},
        {"inodes_critical": 1.1},
        {"days_warning": 3},
        {"timeout": 0},
        {"history_days": 1},
        {"paths": ["relative"]},
    ],
)
def test_options_that_make_no_sense(changes: dict[str, t.Any]) -> None:
    with pytest.raises(InvalidOption):
        disk.DiskOptions(**changes).check()


# Growth


@given(
    st.floats(-1e6, 1e6),
    st.floats(0, 1e12),
    st.lists(st.floats(0, 30), min_size=5, max_size=40, unique=True),
)
def test_the_slope_of_a_line_is_its_slope(rate: float, start: float, days: list[float]) -> None:
    samples = sorted((day * growth.DAY, start + rate * day * growth.DAY) for day in days)
    found = growth.slope(samples)
    if samples[-1][0] - samples[0][0] < growth.DAY:
        assert found is None
    else:
        assert found == pytest.approx(rate, rel=1e-2, abs=1)


def test_wild_samples_do_not_move_it() -> None:
    chance = random.Random(7)
    samples = [(day * growth.DAY, 1e9 + 5e6 * day) for day in range(30)]
    for number in chance.sample(range(30), 8):
        samples[number] = (samples[number][0], samples[number][1] * chance.uniform(0, 10))
    assert (growth.slope(samples) or 0) * growth.DAY == pytest.approx(5e6, rel=0.25)


def test_too_little_is_nothing() -> None:
    assert growth.slope([]) is None
    assert growth.slope([(0, 1), (growth.DAY, 2)]) is None
    assert growth.slope([(0, 1), (60, 2), (120, 3)]) is None
    assert growth.slope([(0, 0), (growth.DAY / 2, 1), (growth.DAY, 2)]) == pytest.approx(2 / growth.DAY)
    assert growth.days_until(10, None) is None and growth.days_until(10, 0) is None


def test_many_samples_are_thinned_and_the_last_stays() -> None:
    samples = [(float(number), float(number)) for number in range(1000)]
    few = growth.thinned(samples)
    assert len(few) <= growth.MOST_SAMPLES and few[-1] == samples[-1] and few == sorted(few)


def test_history_keeps_one_an_hour_and_forgets(tmp_path: Path) -> None:
    history = growth.History(str(tmp_path / "deep" / "h.json"), 30)
    for minute in range(0, 600, 10):
        history.add("/", 1_000_000 + minute * 60, minute)
    assert len(history.samples["/"]) <= 12 and history.samples["/"][0] == (1_000_000, 0) and history.samples["/"][-1][1] == 590
    history.write()
    again = growth.History(str(tmp_path / "deep" / "h.json"), 30)
    assert again.samples == history.samples
    again.add("/", 1_000_000 + 31 * growth.DAY, 1)
    assert again.samples["/"] == [(1_000_000 + 31 * growth.DAY, 1)]
    again.add("/", 1_000_000, 2)
    assert again.samples["/"] == [(1_000_000, 2)], "the clock went back: what is in the future is dropped"


@pytest.mark.parametrize("content", ["", "[]", '{"samples": {"/": [[1]]}}', '{"samples": {"/": "x"}}', "{"])
def test_a_history_that_is_none_hides_nothing(tmp_path: Path, content: str) -> None:
    file = tmp_path / "h.json"
    file.write_text(content)
    with pytest.raises(Refused):
        growth.History(str(file), 30)
    volumes, checks = disk.look(disk.DiskOptions(paths=[str(tmp_path)], history_file=str(file)), record=True)
    assert {check.id: check.status for check in checks}["disk.history"] == "unknown"
    assert any(check.id.endswith(".usage") and check.status != "unknown" for check in checks) and volumes
    assert file.read_text() == content


def test_a_filling_disk_is_told_days_before(tmp_path: Path) -> None:
    file = tmp_path / "h.json"
    options = disk.DiskOptions(paths=[str(tmp_path)], history_file=str(file), usage_warning=0.99, usage_critical=1.0)
    real = os.statvfs(tmp_path)
    used, left = (real.f_blocks - real.f_bfree) * real.f_frsize, real.f_bavail * real.f_frsize
    now = time.time()
    daily = left / 5
    old = [[now - day * growth.DAY, used - daily * day] for day in range(10, 0, -1)]
    file.write_text(json.dumps({"version": 1, "samples": {str(tmp_path): old}}))
    volumes, checks = disk.look(options, record=False)
    [check] = [check for check in checks if check.id.endswith("days_to_full")]
    assert check.status == "critical" and check.value == pytest.approx(5, abs=1) and volumes[0].samples == 11
    assert len(json.loads(file.read_text())["samples"][str(tmp_path)]) == 10, "without record nothing is written"
    disk.look(options, record=True)
    assert len(json.loads(file.read_text())["samples"][str(tmp_path)]) == 11
