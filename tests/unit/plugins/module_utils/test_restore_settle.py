# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a scratch server must not do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_layout import Layout
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_settle import settle
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import recovery
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import ServerOptions

REACHING_OUT = {
    "archive_mode": "off",
    "archive_command": "",
    "cron.launch_active_jobs": "off",
    "listen_addresses": "",
    "max_logical_replication_workers": "0",
}


def lasting(tmp_path: Path, major: int, *, scratch: bool) -> dict[str, str]:
    """The settings that stay after the promotion of a server whose own configuration reaches out."""
    layout = Layout(str(tmp_path / "data"), "0123456789abcdef")
    os.mkdir(layout.new)
    conf = Path(layout.new) / recovery.AUTO_CONF
    conf.write_text("max_logical_replication_workers = 4\ncron.launch_active_jobs = 'on'\n")
    settings = recovery.RecoverySettings(major, 1, "fetch", archive=not scratch)
    settle(layout, settings, ServerOptions(), owner=None, scratch=scratch)
    recovery.finish(layout.new, settings)
    lines = [line for line in conf.read_text().splitlines() if not line.startswith("#")]
    return {name: value.strip("'") for name, _equals, value in (line.partition(" = ") for line in lines)}


@pytest.mark.parametrize("major", [12, 15, 18])
def test_a_scratch_server_reaches_nobody(tmp_path: Path, major: int) -> None:
    found = lasting(tmp_path, major, scratch=True)
    assert {name: found.get(name) for name in REACHING_OUT} == REACHING_OUT
    assert ("archive_library" in found) == (major >= 15)


def test_a_real_restore_keeps_its_own_settings(tmp_path: Path) -> None:
    assert lasting(tmp_path, 15, scratch=False) == {
        "max_logical_replication_workers": "4",
        "cron.launch_active_jobs": "on",
    }
