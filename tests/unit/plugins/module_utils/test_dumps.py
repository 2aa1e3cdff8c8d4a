# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which dumps a bucket holds, and what counts as one."""

from __future__ import annotations

import dataclasses
import json
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup import dumps
from ansible_collections.fileforge.ops.plugins.module_utils._backup.dumps import DumpManifest, DumpObject, TableRows
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, Refused
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.plugins.module_utils.wal_builder import Place

SUM = "0" * 64


def manifest_of(name: str, kind: str = "plain", size: int = 3, **changes: t.Any) -> DumpManifest:
    ending = {"plain": "sql.gz", "custom": "dump", "directory": "dir/toc.dat"}[kind]
    values: dict[str, t.Any] = {
        "name": name,
        "format": kind,
        "database": "app",
        "started": "2026-11-23T14:05:00+00:00",
        "finished": "2026-11-23T14:06:00+00:00",
        "snapshot_time": "2026-11-23T14:05:01+00:00",
        "system_identifier": "7",
        "version_num": 150020,
        "dump_version": "15.20",
        "encoding": "UTF8",
        "collate": "C.UTF-8",
        "ctype": "C.UTF-8",
        "superuser": "postgres",
        "roles": ("fileforge",),
        "tablespaces": (),
        "database_bytes": 8000,
        "content_bytes": 9,
        "content_sha256": SUM,
        "large_objects": 0,
        "objects": (DumpObject(f"{name}.{ending}", size, SUM),),
        "tables": (TableRows("public", "files", 5), TableRows("public", "users", 2)),
    }
    return DumpManifest(**{**values, **changes})


def bucket(*manifests: DumpManifest, prefix: str = "") -> Place:
    place = Place()
    for manifest in manifests:
        place.objects[f"{prefix}database/{manifest.name}.manifest.json"] = manifest.to_bytes()
        for item in manifest.objects:
            place.objects[f"{prefix}database/{item.name}"] = b"x" * item.size
    return place


def listed(place: Place, prefix: str = "") -> list[dumps.Dump]:
    return dumps.list_dumps(t.cast("t.Any", place), prefix)


TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)


@given(TEXT, TEXT, st.integers(0, 2**60), st.lists(st.tuples(TEXT, TEXT, st.integers(0, 2**40)), max_size=5))
def test_a_manifest_is_read_as_it_was_written(database: str, role: str, size: int, tables: list[tuple[str, str, int]]) -> None:
    rows = tuple(TableRows(*table) for table in tables)
    manifest = manifest_of("2026-11-23-1405", size=size, database=database, roles=(role,), tables=rows)
    assert DumpManifest.from_bytes(manifest.to_bytes()) == manifest
    assert manifest.rows == sum(table[2] for table in tables)


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2},
        {"format": "tar"},
        {"objects": []},
        {"objects": [{"name": "../../base/x.sql.gz", "size": 1, "sha256": SUM}]},
        {"objects": [{"name": "other.sql.gz", "size": 1, "sha256": SUM}]},
        {"objects": [{"name": "n.sql.gz", "size": 1, "sha256": "abc"}]},
        {"objects": [{"name": "n.sql.gz", "size": -1, "sha256": SUM}]},
        {"format": "directory", "objects": [{"name": "n.dir/../../x", "size": 1, "sha256": SUM}]},
        {"format": "directory", "objects": [{"name": "n.dir/..", "size": 1, "sha256": SUM}]},
        {"format": "directory", "objects": [{"name": "n.dir/", "size": 1, "sha256": SUM}]},
        {"finished": "yesterday"},
        {"more": 1},
        {"tables": 5},
    ],
)
def test_what_is_no_manifest(change: dict[str, t.Any]) -> None:
    value = {**json.loads(manifest_of("n").to_bytes()), **change}
    with pytest.raises(IntegrityError, match="not the manifest of a dump"):
        DumpManifest.from_bytes(json.dumps(value).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b"{}"])
def test_what_is_no_json(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        DumpManifest.from_bytes(data)


def test_the_dumps_of_a_bucket_in_the_order_they_were_made() -> None:
    names = ["2026-11-23-1405", "2026-11-23-1405-2", "2026-11-23-1405-10", "2026-11-23-1406"]
    kinds = ["plain", "custom", "directory", "plain"]
    place = bucket(*[manifest_of(name, kind) for name, kind in zip(names, kinds)], prefix="p/")
    place.objects["p/database/latest.sql.gz"] = place.objects["p/database/latest.json"] = b"copy"
    found = listed(place, "p/")
    assert [dump.name for dump in found] == names
    assert [dump.format for dump in found] == kinds
    assert all(dump.complete for dump in found)
    assert found[2].key == "p/database/2026-11-23-1405-10.dir/"
    assert found[0].as_dict() == {
        "name": "2026-11-23-1405",
        "key": "p/database/2026-11-23-1405.sql.gz",
        "format": "plain",
        "bytes": 3,
        "modified": "2026-11-23T14:06:00.000000+00:00",
        "complete": True,
        "problem": "",
        "database": "app",
        "finished": "2026-11-23T14:06:00+00:00",
        "snapshot_time": "2026-11-23T14:05:01+00:00",
        "version_num": 150020,
        "system_identifier": "7",
        "tables": 2,
        "rows": 7,
    }
    assert dumps.newest_complete(found) is found[3]


def test_what_counts_and_what_does_not() -> None:
    place = bucket(*[manifest_of(name) for name in ("bare", "cut", "foreign", "gone", "good", "swapped")])
    place.objects["database/cut.sql.gz"] = b"x"
    del place.objects["database/gone.sql.gz"]
    place.objects["database/swapped.manifest.json"] = manifest_of("good").to_bytes()
    del place.objects["database/bare.manifest.json"]
    place.metadata["database/bare.sql.gz"] = dumps.METADATA
    del place.objects["database/foreign.manifest.json"]
    problems = {dump.name: dump.problem for dump in listed(place)}
    assert problems == {
        "bare": "its manifest is missing: the dump was never finished",
        "cut": "cut.sql.gz has 1 bytes, its manifest promises 3",
        "foreign": "it has no manifest",
        "gone": "there is nothing but its manifest: the dump was never finished",
        "good": "",
        "swapped": "database/swapped.manifest.json: it is the manifest of another dump",
    }
    plain = {dump.name: dump.plain for dump in listed(place)}
    assert [name for name, is_plain in plain.items() if is_plain] == ["foreign"]
    with pytest.raises(Refused) as caught:
        next(dump for dump in listed(place) if dump.name == "bare").manifest()
    assert caught.value.state["reason"] == "manifest_missing"


def test_a_directory_that_lacks_a_file() -> None:
    manifest = manifest_of("d", "directory")
    two = dataclasses.replace(manifest, objects=(*manifest.objects, DumpObject("d.dir/1.dat.gz", 2, SUM)))
    place = bucket(two)
    assert listed(place)[0].complete and listed(place)[0].size == 5
    del place.objects["database/d.dir/1.dat.gz"]
    assert listed(place)[0].problem == "d.dir/1.dat.gz is missing"


def test_the_pointer() -> None:
    place = Place()
    store = t.cast("t.Any", place)
    assert dumps.read_pointer(store, "p/") is None
    place.objects["p/database/latest.json"] = b'{"name": "x"}'
    assert dumps.read_pointer(store, "p/") == "x"
    place.objects["p/database/latest.json"] = b"[]"
    with pytest.raises(IntegrityError, match=r"latest\.json"):
        dumps.read_pointer(store, "p/")
    assert dumps.latest_keys("p/", "plain") == ("p/database/latest.json", "p/database/latest.sql.gz")
    assert dumps.latest_keys("", "directory") == ("database/latest.json", "")
