# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""postgres_backup_info on a bucket that real servers filled."""

from __future__ import annotations

import datetime
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._probes import postgres_backup_info as module

from tests.lab.daemon import wait_until
from tests.lab.facts import wal_interpreter
from tests.lab.place import give
from tests.lab.postgres import PostgresCluster
from tests.lab.s3 import S3Server

MODULE = "postgres_backup_info"


class Site:
    """A server that archives, and its bucket."""

    def __init__(self, cluster: PostgresCluster, s3: S3Server, bucket: str, place: Path, run_module: t.Any) -> None:
        self.cluster, self.s3, self.bucket = cluster, s3, bucket
        self.client = s3.client()
        self.run_module = run_module
        files = place / "wal"
        files.mkdir()
        give(files)
        run_module(
            "postgres_wal_archive",
            {
                **s3.options(bucket),
                **cluster.options(),
                "program_path": str(files / "fileforge-wal"),
                "config_path": str(files / "wal.json"),
                "spool_directory": str(files / "spool"),
                "program_interpreter": wal_interpreter(),
                "owner": cluster.owner,
                "bin_directory": str(cluster.bin_directory),
                "restart": True,
                "verify": False,
            },
        )

    def info(self, *, ansible: bool = False, **more: t.Any) -> dict[str, t.Any]:
        """The module's result, through Ansible or (in a fraction of the time) by its own function."""
        options = {**self.s3.options(self.bucket), "max_verified_age": 0, **more}
        if ansible:
            result: dict[str, t.Any] = self.run_module(MODULE, options)
        else:
            result = module.operate({**{name: spec.get("default") for name, spec in module.ARGUMENTS.items()}, **options}, False)
        assert result["changed"] is False
        result["by_id"] = {check["id"]: check for check in result["checks"]}
        return result

    def backup(self) -> str:
        result = self.run_module("postgres_base_backup", {**self.s3.options(self.bucket), **self.cluster.options()})
        return str(result["backup"]["name"])

    def commit(self) -> tuple[str, str]:
        """Commit something and archive it; its time and its segment."""
        with self.cluster.connect() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS line (moment timestamptz)")
            connection.execute("INSERT INTO line VALUES (clock_timestamp())")
            row = connection.execute(
                "SELECT max(moment), pg_walfile_name(pg_create_restore_point('x')) FROM line GROUP BY 2"
            ).fetchone()
            moment = row[0].astimezone(datetime.timezone.utc).isoformat()
            connection.execute("SELECT pg_switch_wal()")
        wait_until(lambda: f"wal/{row[1]}.gz" in self.keys("wal/"), 60, "the segment to be archived", every=0.1)
        return moment, row[1]

    def keys(self, prefix: str) -> list[str]:
        listed = self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        return [item["Key"] for item in listed]


@pytest.fixture(params=[15, 18])
def site(request: t.Any, postgres: t.Any, s3: S3Server, bucket: str, place: Path, run_module: t.Any) -> Site:
    return Site(postgres(version=request.param), s3, bucket, place, run_module)


def test_from_nothing_to_a_gap(site: Site) -> None:
    empty = site.info()
    assert empty["status"] == "critical" and empty["backups"] == [] and empty["rpo_seconds"] is None
    name = site.backup()
    inside, _segment = site.commit()
    last, segment = site.commit()
    begin = time.monotonic()
    good = site.info(ansible=True, target_time=inside)
    assert good["status"] == "ok", good["checks"]
    assert [item["name"] for item in good["backups"]] == [name] and good["backups"][0]["complete"]
    assert [item["backup"] for item in good["restorable"]] == [name]
    assert good["restorable"][0]["from"] < inside <= good["restorable"][0]["to"]
    assert good["restorable"][0]["last_segment"] == segment
    assert good["last_transaction"] >= last and 0 <= good["rpo_seconds"] < 60 + time.monotonic() - begin
    again = site.run_module(MODULE, {**site.s3.options(site.bucket), "target_time": inside}, check=True)
    assert again["restorable"] == good["restorable"] and not again["changed"]

    assert site.info(target_time=good["restorable"][0]["to"])["by_id"]["backup.target_reachable"]["status"] == "ok"
    beyond = site.info(target_time=good["last_transaction"])["by_id"]["backup.target_reachable"]
    assert beyond["status"] == "critical" and good["restorable"][0]["to"] in beyond["summary"]
    early = site.info(target_time="2020-01-01T00:00:00Z")["by_id"]["backup.target_reachable"]
    assert early["status"] == "critical" and "base backup" in early["summary"]
    assert site.info(rpo=1, max_backup_age=1)["status"] == "critical"

    lost = next(item["ranges"][0]["last"] for item in good["wal"])
    site.commit()
    site.client.delete_object(Bucket=site.bucket, Key=f"wal/{lost}.gz")
    gap = site.info()
    assert gap["by_id"]["backup.wal_contiguous"]["status"] == "critical"
    assert gap["by_id"]["backup.wal_contiguous"]["value"] == lost
    assert gap["last_transaction"] < last  # what lies behind the gap does not count
    assert gap["wal"][0]["gaps"][0]["first_missing"] == lost

    site.client.delete_object(Bucket=site.bucket, Key=f"base/{name}_base.index.json.gz")
    unfinished = site.info()["by_id"]
    assert unfinished["backup.complete"]["status"] == "critical" and unfinished["backup.age"]["status"] == "critical"


def test_what_cannot_be_looked_at_is_unknown(s3: S3Server, bucket: str, run_module: t.Any) -> None:
    for changes, word in (
        ({"s3_bucket": "there-is-none"}, "there-is-none"),
        ({"s3_secret_key": "w" * 40}, "secret key"),
        ({"s3_endpoint": "http://127.0.0.1:9", "s3_attempts": 1, "s3_timeout": 2}, "127.0.0.1:9"),
    ):
        defaults = {name: spec.get("default") for name, spec in module.ARGUMENTS.items()}
        result = module.operate({**defaults, **s3.options(bucket), **changes, "target_time": "2026-11-23T14:05:00+00:00"}, False)
        assert {check["status"] for check in result["checks"]} == {"unknown"} and len(result["checks"]) == 7
        assert result["status"] == "unknown" and word in result["checks"][0]["summary"]
    wrong = run_module(MODULE, {**s3.options(bucket), "target_time": "2026-11-23T14:05:00"}, expect_failure=True)
    assert "ambiguous" in wrong["msg"]
