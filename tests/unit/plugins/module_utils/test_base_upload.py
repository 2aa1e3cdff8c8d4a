# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Streams in parts, and names that nobody else has."""

from __future__ import annotations

import contextlib
import datetime
import threading
import types

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup import base_upload
from ansible_collections.fileforge.ops.plugins.module_utils._backup.base_upload import Names, PartStream, part_size, reserved
from ansible_collections.fileforge.ops.plugins.module_utils._errors import AccessDenied, Refused, Unavailable
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import RunningUpload

NOON = datetime.datetime(2026, 11, 23, 12, 0, 31, tzinfo=datetime.timezone.utc)


class Upload:
    """Keeps parts; fails on the part that it is told to."""

    def __init__(self, broken: int = 0) -> None:
        self.parts: dict[int, bytes] = {}
        self.broken = broken
        self.completed = False

    def part(self, number: int, data: bytes) -> str:
        if number == self.broken:
            raise Unavailable("no answer")
        self.parts[number] = data
        return ""

    def complete(self) -> str:
        self.completed = True
        return "done"


def test_parts_are_complete_in_order_and_of_a_size(monkeypatch):
    monkeypatch.setattr(base_upload, "part_size", lambda number, expected: 100)
    upload = Upload()
    data = bytes(range(256)) * 5
    with PartStream(upload, 0) as stream:
        for place in range(0, len(data), 33):
            stream.write(data[place : place + 33])
        assert stream.complete() == "done"
    assert b"".join(upload.parts[number] for number in sorted(upload.parts)) == data
    assert all(100 <= len(part) < 133 for number, part in upload.parts.items() if number < max(upload.parts))


def test_an_upload_of_nothing_has_one_part():
    upload = Upload()
    with PartStream(upload, 0) as stream:
        stream.complete()
    assert upload.parts == {1: b""}


def test_a_failed_part_fails_the_stream_and_completes_nothing(monkeypatch):
    monkeypatch.setattr(base_upload, "part_size", lambda number, expected: 10)
    upload = Upload(broken=3)
    with pytest.raises(Unavailable), PartStream(upload, 0) as stream:
        for _number in range(10):
            stream.write(bytes(10))
        stream.complete()
    assert not upload.completed
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("upload")]


@pytest.mark.parametrize("expected", [0, 1 << 30, 1 << 38, 1 << 40, 5 << 40])
def test_all_parts_together_hold_more_than_was_expected(expected):
    sizes = [part_size(number, expected) for number in range(1, 10_001)]
    assert sum(sizes) > 1.3 * expected
    assert min(sizes) >= 16 << 20 and max(sizes) <= 5 << 30
    assert sizes[0] <= max(16 << 20, expected // 2 // 9000)


def test_a_bucket_whose_uploads_cannot_be_listed():
    class Closed(Bucket):
        def running_uploads(self, prefix):
            raise AccessDenied("no")

    with reserved(Closed("base/2026-11-23-1200_base.tar.gz"), "", NOON) as (names, _upload):
        assert names.name == "2026-11-23-1200-2"


def test_keys():
    names = Names("p/", "2026-11-23-1405")
    assert names.data == "p/base/2026-11-23-1405_base.tar.gz"
    assert names.tablespace(16385) == "p/base/2026-11-23-1405_base.tblspc-16385.tar.gz"
    assert names.manifest == "p/base/2026-11-23-1405_base.backup_manifest"
    assert names.index == "p/base/2026-11-23-1405_base.index.json.gz"


class Bucket:
    """Keys and running uploads; another host's upload can begin together with ours."""

    def __init__(self, *keys: str) -> None:
        self.keys = set(keys)
        self.uploads: list[RunningUpload] = []
        self.rival: RunningUpload | None = None

    def list(self, prefix):
        return [key for key in sorted(self.keys) if key.startswith(prefix)]

    def running_uploads(self, prefix):
        return [upload for upload in self.uploads if upload.key.startswith(prefix)]

    @contextlib.contextmanager
    def multipart(self, key, metadata):
        assert metadata == {"fileforge-format": "1"}
        mine = RunningUpload(NOON, key, f"m{len(self.uploads)}")
        self.uploads.append(mine)
        if self.rival is not None and self.rival not in self.uploads:
            self.uploads.append(self.rival)
        try:
            yield types.SimpleNamespace(upload_id=mine.upload_id)
        finally:
            self.uploads.remove(mine)


def test_names_in_one_minute_differ():
    bucket = Bucket()
    for expected in ("2026-11-23-1200", "2026-11-23-1200-2", "2026-11-23-1200-3"):
        with reserved(bucket, "", NOON) as (names, _upload):
            assert names.name == expected
            assert [upload.key for upload in bucket.uploads] == [names.data]
            bucket.keys.add(names.data)
        assert bucket.uploads == []


@pytest.mark.parametrize("left", ["index.json.gz", "tblspc-5.tar.gz", "backup_manifest"])
def test_any_object_of_a_name_takes_it(left):
    with reserved(Bucket(f"base/2026-11-23-1200_base.{left}"), "", NOON) as (names, _upload):
        assert names.name == "2026-11-23-1200-2"


def test_names_below_another_prefix_do_not_matter():
    with reserved(Bucket("base/2026-11-23-1200_base.tar.gz"), "p/", NOON) as (names, _upload):
        assert names.name == "2026-11-23-1200"


@pytest.mark.parametrize("seconds", [-1, 0, 1])
def test_a_name_that_another_upload_has_is_left_to_it(seconds):
    """Also one that seems younger: services date uploads by whole seconds, so the dates of two cannot decide."""
    bucket = Bucket()
    when = NOON + datetime.timedelta(seconds=seconds)
    bucket.rival = RunningUpload(when, "base/2026-11-23-1200_base.tar.gz", "z")
    with reserved(bucket, "", NOON) as (names, _upload):
        assert names.name == "2026-11-23-1200-2"
    assert bucket.uploads == [bucket.rival]


def test_the_names_of_a_minute_run_out():
    class Full(Bucket):
        def list(self, prefix):
            return [prefix]

    with pytest.raises(Refused), reserved(Full(), "", NOON):
        pass


def test_an_error_in_the_body_gives_the_name_back():
    bucket = Bucket()
    with pytest.raises(RuntimeError), reserved(bucket, "", NOON):
        raise RuntimeError
    assert bucket.uploads == []
