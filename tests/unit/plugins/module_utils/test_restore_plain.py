# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plain archives, however somebody's tar was called."""

from __future__ import annotations

import io
import random
import struct
import tarfile
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_plain import complete_plain, fill_plain, find_root
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_settle import complete_folders, place_tablespaces
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import ObjectInfo

FILES = {
    "PG_VERSION": b"15\n",
    "backup_label": b"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n",
    "base/1/PG_VERSION": b"15\n",
    "base/1/1259": b"x" * 100_000,
    "global/pg_control": struct.pack("=QIIIxxxxqQQII", 7, 1300, 202209061, 6, 0, 0, 0, 1, 1).ljust(8192, b"\0"),
    "pg_wal/000000010000000000000002": b"old",
}


def tar(top: str, files: t.Mapping[str, bytes] | None = None, links: t.Mapping[str, str] | None = None) -> bytes:
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode="w:gz") as archive:
        if top:
            folder = tarfile.TarInfo(top.rstrip("/"))
            folder.type, folder.mode = tarfile.DIRTYPE, 0o700
            archive.addfile(folder)
        for name, content in (FILES if files is None else files).items():
            entry = tarfile.TarInfo(f"{top}{name}")
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(f"{top}{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return blob.getvalue()


class FakeStore:
    def __init__(self, blob: bytes) -> None:
        self.blob = blob
        self.reads = 0

    def head(self, key: str) -> ObjectInfo:
        return ObjectInfo(key, len(self.blob), "e")

    def stream(self, key: str, *, etag: str) -> t.Iterator[bytes]:
        self.reads += 1
        for offset in range(0, len(self.blob), 1000):
            yield self.blob[offset : offset + 1000]


def fill(blob: bytes, place: Path) -> FakeStore:
    store = FakeStore(blob)
    fill_plain(store, "base/x", str(place / "new"), str(place / "done"), None, lambda count: None)  # type: ignore[arg-type]
    return store


def content(place: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file() and not path.is_symlink()
    }


@pytest.mark.parametrize("top", ["", "./", "main/", "./main/", "var/lib/postgresql/15/main/"])
def test_any_top_directory(top: str, tmp_path: Path) -> None:
    fill(tar(top), tmp_path)
    assert content(tmp_path / "new") == FILES
    assert {path.name for path in tmp_path.iterdir()} == {"new", "done"}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_a_finished_one_is_not_read_again_and_a_half_one_is(tmp_path: Path) -> None:
    fill(tar("main/"), tmp_path)
    assert fill(tar("main/"), tmp_path).reads == 0
    (tmp_path / "done").unlink()
    (tmp_path / "new" / "stranger").write_text("x")
    assert fill(tar("main/"), tmp_path).reads == 1
    assert content(tmp_path / "new") == FILES


@pytest.mark.parametrize("cut", [100, 5000, -30])
def test_a_truncated_archive_leaves_nothing(cut: int, tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        fill(tar("main/", {**FILES, "noise": random.Random(1).randbytes(20_000)})[:cut], tmp_path)
    assert refused.value.state["reason"] == "archive_damaged"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "base/../../outside"])
def test_hostile_names(name: str, tmp_path: Path) -> None:
    place = tmp_path / "deep"
    place.mkdir()
    with pytest.raises(Refused):
        fill(tar("", {**FILES, name: b"x"}), place)
    assert list(place.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_links_are_made_last_and_lead_nothing_astray(tmp_path: Path) -> None:
    fill(tar("main/", FILES, {"pg_wal": "/elsewhere", "log": "/var/log/x"}), tmp_path)
    assert (tmp_path / "new" / "log").is_symlink()
    assert not (tmp_path / "new" / "pg_wal").is_symlink()


@pytest.mark.parametrize("name", ["pg_wal", "pg_wal/archive_status", "pg_replslot", "pg_stat_tmp"])
def test_a_link_leads_no_deletion_outside(name: str, tmp_path: Path) -> None:
    outside = tmp_path / "live"
    outside.mkdir()
    (outside / "precious").write_text("x")
    files = {path: data for path, data in FILES.items() if not path.startswith("pg_wal/")}
    fill(tar("main/", files, {name: str(outside)}), tmp_path)
    root = tmp_path / "new"
    complete_plain(str(root), "", None)
    complete_folders(str(root), None)
    place_tablespaces(str(root), [], None)
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert not any(path.is_symlink() for path in root.rglob("*"))


@pytest.mark.parametrize("name", ["pg_tblspc", "base", "base/1/1259", "global/pg_control", "pg_xact", "pg_logical/mappings"])
def test_links_in_place_of_content_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        fill(tar("main/", FILES, {name: "/elsewhere"}), tmp_path)
    assert refused.value.state["reason"] == "link_inside"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["pg_wal", "pg_wal/archive_status", "pg_tblspc"])
def test_a_link_that_is_there_is_not_followed(name: str, tmp_path: Path) -> None:
    """Whoever made it: nothing is removed or written behind it."""
    outside, root = tmp_path / "live", tmp_path / "new"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (outside / "16384").symlink_to("/srv/space")
    fill(tar(""), tmp_path)
    (root / "pg_wal" / "000000010000000000000002").unlink()
    if name == "pg_wal":
        (root / name).rmdir()
    (root / name).symlink_to(outside)
    complete_plain(str(root), "", None)
    with pytest.raises(IntegrityError, match="is a link to"):
        complete_folders(str(root), None)
    assert sorted(path.name for path in outside.iterdir()) == ["16384", "precious"]


def test_tablespaces_that_are_only_links_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        fill(tar("main/", FILES, {"pg_tblspc/16384": "/srv/space"}), tmp_path)
    assert refused.value.state["reason"] == "tablespace_missing"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"PG_VERSION": b""},
        {"base/1/PG_VERSION": b""},
        {f"{top}/{name}": b"" for top in "ab" for name in ("PG_VERSION", "global/pg_control")},
    ],
)
def test_no_single_data_directory(files: dict[str, bytes]) -> None:
    with pytest.raises(Refused) as refused:
        find_root(files)
    assert refused.value.state["reason"] == "not_a_backup"


def test_completion(tmp_path: Path) -> None:
    fill(tar(""), tmp_path)
    root = tmp_path / "new"
    assert complete_plain(str(root), "", None) == ["1 files in pg_wal were removed: WAL comes from the archive"]
    assert complete_plain(str(root), "", None) == []
    (root / "backup_label").unlink()
    with pytest.raises(Refused) as refused:
        complete_plain(str(root), "", None)
    assert refused.value.state["reason"] == "backup_label_missing"
    complete_plain(str(root), "START WAL LOCATION\n", None)
    assert (root / "backup_label").read_text() == "START WAL LOCATION\n"
