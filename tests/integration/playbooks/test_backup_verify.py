# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dumps and their verification as docs/backup-verification.md gives them, on the lab with its application running."""

from __future__ import annotations

import shlex
import typing as t
from pathlib import Path

from ansible_collections.fileforge.ops.plugins.module_utils._backup import dumps, verifications
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import S3Options, Store

from tests.lab import ROOT

if t.TYPE_CHECKING:
    from tests.integration.playbooks.conftest import PlayedLab


def documented(playbook: str) -> list[list[str]]:
    """The arguments of each example of the page that runs the playbook."""
    prefix = f"    ansible-playbook -i inventories/production playbooks/{playbook}.yml"
    lines = (ROOT / "docs/backup-verification.md").read_text(encoding="utf-8").splitlines()
    return [shlex.split(line[len(prefix) :]) for line in lines if line.startswith(prefix)]


def bucket(lab: PlayedLab) -> Store:
    s3 = lab.facts["s3"]
    names = ("endpoint", "region", "access_key", "secret_key", "addressing_style")
    return Store(S3Options(bucket=s3["primary_bucket"], **{name: s3[name] for name in names}))


def records(store: Store) -> list[verifications.Verification]:
    return list(verifications.newest_first(store))


def scratch(lab: PlayedLab) -> Path:
    return lab.drill.cluster.data_directory.parent / "verify"


def left(lab: PlayedLab) -> list[Path]:
    return list(scratch(lab).rglob("*"))


def test_the_page_as_written(lab: PlayedLab) -> None:
    """Backup with a dump; the check changes nothing; both kinds are verified; the second run does nothing; a bad dump is found."""
    store = bucket(lab)
    [backup] = documented("backup")
    due, always = documented("backup-verify")
    lab.play_well("backup", *backup)
    [dump, *_earlier] = reversed(dumps.list_dumps(store))
    assert dump.complete and store.head("database/latest.sql.gz").size == dump.size
    before = len(records(store))

    checked = lab.play_well("backup-verify", *due, check=True)
    assert checked.changed() and len(records(store)) == before and left(lab) == []

    ran = lab.play_well("backup-verify", *due)
    assert ran.changed() == checked.changed()
    made = {record.kind: record for record in records(store)[: len(records(store)) - before]}
    assert {kind: record.status for kind, record in made.items()} == {"dump": "ok", "base": "ok"}
    assert made["dump"].backup == dump.name and left(lab) == []
    assert "postgres.assert.files" in {check["id"] for check in made["base"].checks}

    again = lab.play_well("verify-backup", *due)
    assert again.changed() == 0 and len(records(store)) == before + 2

    good = store.get(dump.key)
    try:
        store.put(dump.key, good[:-100] + bytes([good[-100] ^ 1]) + good[-99:], metadata=dumps.METADATA)
        found = lab.play("backup-verify", *always, fileforge_verify_kinds=["dump"])
        assert found.returncode != 0 and f"dump {dump.name} is critical" in " ".join(found.output.split())
        assert "SHA-256" in found.output and left(lab) == []
        told = lab.play("backup", *backup)
        assert told.returncode != 0 and "ended critical" in " ".join(told.output.split()), "the schedule's own run says so, too"
    finally:
        store.put(dump.key, good, metadata=dumps.METADATA)
        store.delete([record.key_below("") for record in records(store) if not record.ok])
    assert lab.play_well("backup", *backup).changed() == 0
