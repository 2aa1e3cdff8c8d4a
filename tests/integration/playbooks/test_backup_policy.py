# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Retention on the lab: the page's own commands in their order, and the runbook's rows on its schedule and its second region."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest

from tests.lab import ROOT
from tests.lab.configuration import head
from tests.lab.daemon import wait_until
from tests.lab.facts import PRIMARY, SECONDARY
from tests.lab.parts import ObjectStore
from tests.unit.plugins.module_utils.test_expire_run import Bucket

if t.TYPE_CHECKING:
    from tests.integration.playbooks.conftest import PlayedLab
    from tests.lab.drill import Played

PAGE = (ROOT / "docs" / "retention.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    ansible-playbook -i inventories/production playbooks/(\S+)\.yml ?(.*)$", PAGE, re.MULTILINE)
CONFIRM = re.compile(r"-e confirm=([0-9a-f]{16})\b")
BLIND = {"ID": "seven days", "Status": "Enabled", "Filter": {"Prefix": "wal/"}, "Expiration": {"Days": 7}}


def test_the_page_shows_four_commands() -> None:
    assert [name for name, _arguments in COMMANDS] == ["backup-policy", "backup-policy", "backup-policy", "backup"]


class Site:
    """The lab's buckets."""

    def __init__(self, lab: PlayedLab) -> None:
        self.lab = lab
        self.client = lab.drill.lab.part(ObjectStore).server.client()
        self.uploads = Path(lab.facts["uploads"]["path"])

    def command(self, number: int, digest: str = "", check: bool = False) -> Played:
        """One of the page's commands."""
        name, arguments = COMMANDS[number]
        return self.lab.play(name, *arguments.replace("<digest>", digest).split(), check=check)

    def keys(self, bucket: str = PRIMARY, prefix: str = "") -> set[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {item["Key"] for page in pages for item in page.get("Contents", [])}

    def rules(self) -> list[dict[str, t.Any]]:
        try:
            return list(self.client.get_bucket_lifecycle_configuration(Bucket=PRIMARY)["Rules"])
        except self.client.exceptions.ClientError:
            return []

    def add_old_dumps(self) -> None:
        """A dump a day, long ago, and more of them than are kept whatever their age."""
        made = Bucket()
        for day in range(1, 10):
            made.dump(f"2026-01-0{day}-0400", 300 - day)
        for key, data in made.objects.items():
            self.client.put_object(Bucket=PRIMARY, Key=key, Body=data, Metadata=made.metadata.get(key, {}))

    def old_dumps(self) -> set[str]:
        return {key for key in self.keys(prefix="database/2026-01-0") if key.endswith(".sql.gz")}


@pytest.fixture(scope="module")
def site(lab: PlayedLab) -> t.Iterator[Site]:
    """A lab that was backed up, with a file that is deleted later."""
    made = Site(lab)
    (made.uploads / "passing.bin").write_bytes(b"soon gone")
    backed_up = made.command(3)
    assert backed_up.returncode == 0, backed_up.output
    yield made
    for key in made.keys(prefix="database/2026-01-0"):
        for bucket in (PRIMARY, SECONDARY):
            made.client.delete_object(Bucket=bucket, Key=key)


def test_the_configuration_is_kept_once_for_each_commit(site: Site) -> None:
    commit = head(Path(site.lab.facts["git"]["repository"]))
    assert site.keys(prefix="config/") == {f"config/{commit}.bundle"}


def test_plan_confirm_and_again(site: Site) -> None:
    site.add_old_dumps()
    before = site.keys()
    predicted = site.command(0, check=True)
    assert predicted.returncode == 0, predicted.output
    stopped = site.command(0)
    assert stopped.returncode != 0 and "not confirmed, so nothing was done" in stopped.output
    assert site.keys() >= before and site.rules() == []
    [digest] = set(CONFIRM.findall(stopped.output))
    done = site.command(1, digest)
    assert done.returncode == 0, done.output
    assert done.changed() == predicted.changed() == 2
    assert len(site.old_dumps()) < 9 and [rule["ID"].partition(":")[0] for rule in site.rules()] == ["fileforge"] * 6
    assert "policy.public_access" in done.output and "does not implement this" in done.output
    again = site.command(0)
    assert (again.returncode, again.changed()) == (0, 0), again.output
    assert "in the second bucket" not in again.output


def test_the_schedule_as_a_rule_and_a_second_region_that_is_behind(site: Site) -> None:
    """Rows `backup schedule` and `cross-region`: what the table alone would do, and what a wish in a table does not notice."""
    rules = site.rules()
    [key] = site.keys(SECONDARY, "config/")
    copied = site.client.get_object(Bucket=SECONDARY, Key=key)["Body"].read()
    lifecycle = {"Rules": [*rules, BLIND]}
    site.client.put_bucket_lifecycle_configuration(Bucket=PRIMARY, LifecycleConfiguration=lifecycle)
    site.client.delete_object(Bucket=SECONDARY, Key=key)
    site.add_old_dumps()
    try:
        played = site.command(2)
    finally:
        site.client.put_bucket_lifecycle_configuration(Bucket=PRIMARY, LifecycleConfiguration={"Rules": rules})
        site.client.put_object(Bucket=SECONDARY, Key=key, Body=copied)
    assert played.returncode != 0
    assert "the lifecycle rule seven days deletes WAL by their age alone" in played.output
    assert re.search(r"newest objects are not in the second bucket after .*" + re.escape(key), played.output)
    assert "not confirmed" not in played.output and len(site.old_dumps()) < 9, "unattended, the old ones expired all the same"


def test_a_deleted_file_is_kept_for_the_retention(site: Site) -> None:
    """The daily increment: only what changed is sent, and what was deleted remains as an older version."""
    (site.uploads / "passing.bin").unlink()
    played = site.command(3)
    assert played.returncode == 0, played.output
    assert "files/passing.bin" not in site.keys(prefix="files/")
    found = site.client.list_object_versions(Bucket=PRIMARY, Prefix="files/passing.bin")
    [version] = found["Versions"]
    kept = site.client.get_object(Bucket=PRIMARY, Key="files/passing.bin", VersionId=version["VersionId"])
    assert kept["Body"].read() == b"soon gone" and found["DeleteMarkers"]
    assert not site.keys(prefix="files.aside/"), "no copies where the bucket keeps versions"
    again = site.command(3)
    assert (again.returncode, again.changed()) == (0, 0), again.output
    wait_until(lambda: site.keys(prefix="config/") <= site.keys(SECONDARY, "config/"), 30, "the second region")
