# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bundles of real git repositories, in a bucket in memory."""

from __future__ import annotations

import os
import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup.config_bundle import BundleOptions, run_bundle
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, NotFound, ProcessFailed, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import ObjectInfo

from tests.lab.configuration import check_out, git, head, make_repository


class Bucket:
    """Objects in memory."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.metadata: dict[str, dict[str, str]] = {}

    def head(self, key: str) -> ObjectInfo:
        if key not in self.objects:
            raise NotFound("no such object", reason="key")
        return ObjectInfo(key, len(self.objects[key]), "", None, self.metadata[key])

    def put_file(self, path: str, key: str, *, metadata: dict[str, str], content_type: str) -> ObjectInfo:
        self.objects[key] = Path(path).read_bytes()
        self.metadata[key] = metadata
        return self.head(key)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    make_repository(tmp_path / "config.git", {"name": "app"})
    check_out(tmp_path / "config.git", tmp_path / "checkout")
    return tmp_path


def keep(bucket: Bucket, repository: Path, check_mode: bool = False, **options: t.Any) -> dict[str, t.Any]:
    return run_bundle(t.cast("t.Any", bucket), BundleOptions(str(repository), **options), check_mode=check_mode)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_each_commit_once_and_the_checkout_untouched(place: Path) -> None:
    bucket, before = Bucket(), contents(place)
    planned = keep(bucket, place / "checkout", check_mode=True)
    assert planned["changed"] and planned["bytes"] is None and not bucket.objects
    done = keep(bucket, place / "checkout")
    commit = head(place / "config.git")
    assert done["changed"] and done["key"] == f"config/{commit}.bundle" == next(iter(bucket.objects)) and done["commit"] == commit
    assert bucket.metadata[done["key"]]["commit"] == commit and done["sha256"] == bucket.metadata[done["key"]]["sha256"]
    assert not keep(bucket, place / "checkout")["changed"]
    assert contents(place) == before
    older = git("rev-parse", "HEAD~2", cwd=place / "checkout")
    assert keep(bucket, place / "config.git", commit=older, prefix="site/")["key"] == f"site/config/{older}.bundle"


def test_a_bundle_gives_the_whole_history_back(place: Path) -> None:
    bucket = Bucket()
    done = keep(bucket, place / "checkout")
    (place / "fetched.bundle").write_bytes(bucket.objects[done["key"]])
    git("clone", "--quiet", str(place / "fetched.bundle"), str(place / "again"), cwd=place)
    assert git("rev-parse", "HEAD", cwd=place / "again") == done["commit"]
    assert git("rev-list", "--count", "HEAD", cwd=place / "again") == "4"
    assert (place / "again/application.json").read_bytes() == (place / "checkout/application.json").read_bytes()


def test_local_changes_are_told(place: Path) -> None:
    (place / "checkout/limits.json").write_text("{}")
    (place / "checkout/new.json").write_text("{}")
    found = keep(Bucket(), place / "checkout")
    assert found["modified"] == ["limits.json"] and "limits.json" in found["warnings"][0]


def test_a_shallow_checkout_is_refused(place: Path) -> None:
    git("clone", "--quiet", "--depth=1", f"file://{place}/config.git", str(place / "shallow"), cwd=place)
    with pytest.raises(Refused, match="shallow"):
        keep(Bucket(), place / "shallow")


def test_a_directory_inside_a_repository_is_none(place: Path) -> None:
    with pytest.raises(InvalidOption, match="not a git repository"):
        keep(Bucket(), place / "checkout/logging")


@pytest.mark.parametrize(
    ("repository", "commit"),
    [("nowhere", "HEAD"), (".", "HEAD"), ("checkout", "f" * 40), ("checkout", "--help"), ("checkout", "x y")],
)
def test_wrong_options(place: Path, repository: str, commit: str) -> None:
    with pytest.raises(InvalidOption):
        keep(Bucket(), place / repository, commit=commit)


def test_a_damaged_repository_leaves_no_bundle(place: Path) -> None:
    bucket = Bucket()
    for path in (place / "config.git/objects").rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(path.read_bytes()[:40])
    with pytest.raises((ProcessFailed, InvalidOption)):
        keep(bucket, place / "config.git")
    assert not bucket.objects


def test_what_the_repository_would_run_is_not_run(place: Path) -> None:
    trap = place / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {place}/sprung\n")
    trap.chmod(0o755)
    git("config", "core.fsmonitor", str(trap), cwd=place / "checkout")
    keep(Bucket(), place / "checkout")
    assert not (place / "sprung").exists()
    subprocess.run(["git", "-C", str(place / "checkout"), "status"], env={**os.environ}, check=True, capture_output=True)
    assert (place / "sprung").exists(), "the trap works"
