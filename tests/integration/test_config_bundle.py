# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration's history in a real bucket, and back."""

from __future__ import annotations

import typing as t
from pathlib import Path

from tests.lab.configuration import check_out, git, head, make_repository
from tests.lab.facts import wal_interpreter
from tests.lab.s3 import S3Server

MODULE = "config_bundle"


def test_each_commit_once(s3: S3Server, bucket: str, place: Path, run_module: t.Any) -> None:
    make_repository(place / "config.git", {"name": "app"})
    check_out(place / "config.git", place / "checkout")
    client = s3.client()
    arguments = {**s3.options(bucket), "repository": str(place / "checkout")}

    def keys() -> list[str]:
        return [item["Key"] for item in client.list_objects_v2(Bucket=bucket).get("Contents", [])]

    planned = run_module(MODULE, arguments, check=True, diff=True)
    commit = head(place / "config.git")
    assert planned["changed"] and planned["key"] == f"config/{commit}.bundle" and keys() == []
    done = run_module(MODULE, arguments, interpreter=wal_interpreter())  # the distribution's Python and boto3
    assert done["changed"] and keys() == [planned["key"]]
    again = run_module(MODULE, arguments)
    assert not again["changed"] and again["sha256"] == done["sha256"]

    (place / "checkout/limits.json").write_text("{}\n")
    assert "differ from commit" in run_module(MODULE, arguments)["output"]
    git("commit", "--quiet", "--all", "--message", "Lift the limits", cwd=place / "checkout")
    changed = run_module(MODULE, arguments)
    assert changed["changed"] and len(keys()) == 2

    client.download_file(bucket, changed["key"], str(place / "configuration.bundle"))
    git("clone", "--quiet", str(place / "configuration.bundle"), str(place / "restored"), cwd=place)
    assert git("rev-parse", "HEAD", cwd=place / "restored") == changed["commit"]
    assert git("rev-list", "--count", "HEAD", cwd=place / "restored") == "5"


def test_what_is_no_repository(s3: S3Server, bucket: str, place: Path, run_module: t.Any) -> None:
    failed = run_module(MODULE, {**s3.options(bucket), "repository": str(place)}, expect_failure=True)
    assert failed["code"] == "invalid_option" and "not a git repository" in failed["msg"]
