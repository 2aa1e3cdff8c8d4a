# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every playbook in check mode, on a platform that runs: it leaves the database, buckets, workloads and files as they were."""

from __future__ import annotations

import hashlib
import os
import typing as t
from pathlib import Path

import pytest

from tests.integration.playbooks.conftest import PlayedLab
from tests.lab import ROOT
from tests.lab.facts import DATABASE, PRIMARY
from tests.lab.manifests import PATHS, KubeClient
from tests.lab.parts import Kubernetes, ObjectStore, Postgres

PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml") if "import_playbook" not in path.read_text())
REFUSING = {"dr_restore", "db_restore"}
"""They end with the plan and an error: the server runs, and nobody confirmed."""
LOOKING = {
    "capacity_planning",
    "daily_check",
    "log_review",
    "penetration_test",
    "performance_review",
    "security_patch_review",
    "ssl_check",
}
"""They may end with an error that says what they found."""
LIVING = ("evidence", "ansible", "drill", "run", "postgres", "s3", "kube", "wal", "prometheus", "redis", "tests")
"""What changes by itself: data of servers, logs, evidence. What stands in the servers is asked from them."""
SERVERS = """
SELECT 'relation', c.oid::text, c.relname, c.relfilenode::text FROM pg_class c WHERE c.relpersistence = 'p'
UNION ALL SELECT 'table', relid::text, coalesce(last_vacuum::text, ''), coalesce(last_analyze::text, '') FROM pg_stat_user_tables
UNION ALL SELECT 'setting', name, setting, '' FROM pg_settings WHERE source = 'configuration file'
ORDER BY 1, 2
"""


def digest(path: Path) -> str:
    return os.readlink(path) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()


def world(lab: PlayedLab) -> dict[str, t.Any]:
    """What must not change; the application's own log, the archive of WAL and the copy in the second region go on meanwhile."""
    state = lab.drill.layout.state
    found: dict[str, t.Any] = {}
    for folder, names, files in os.walk(state):
        if Path(folder) == state:
            names[:] = [name for name in names if name not in LIVING]
        for name in files:
            path = Path(folder) / name
            if path.suffix != ".log" and not path.is_relative_to(lab.drill.layout.logs):
                found[str(path)] = (digest(path), path.lstat().st_mode)
    pages = lab.drill.lab.part(ObjectStore).server.client().get_paginator("list_objects_v2").paginate(Bucket=PRIMARY)
    objects = (item for page in pages for item in page.get("Contents", []))
    found[PRIMARY] = {item["Key"]: item["ETag"] for item in objects if not item["Key"].startswith("wal/")}
    found["database"] = lab.drill.lab.part(Postgres).cluster.execute(SERVERS, DATABASE)
    for kind in ("Deployment", "Secret", "Service"):
        listed = KubeClient(lab.drill.lab.part(Kubernetes).url).request("GET", PATHS[kind]) or {}
        found[kind] = [item.get("spec") or item.get("data") for item in listed["items"]]
    return found


@pytest.fixture(scope="module")
def backed_up(lab: PlayedLab) -> PlayedLab:
    """A platform with something to verify and to restore."""
    lab.play_well("backup")
    return lab


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_check_mode_changes_nothing(backed_up: PlayedLab, name: str) -> None:
    before = world(backed_up)
    played = backed_up.play(name, check=True)
    after = world(backed_up)
    assert {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} == set()
    assert (played.returncode != 0) == (name in REFUSING) or name in LOOKING, played.output[-4000:]
    assert "unexpected " not in played.output
