# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filling a directory from an archive: complete, verified, resumable, and never outside of its root."""

from __future__ import annotations

import dataclasses
import io
import os
import random
import stat
import threading
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._archive import writer
from ansible_collections.fileforge.ops.plugins.module_utils._archive.index import FILE, Archive, FileEntry
from ansible_collections.fileforge.ops.plugins.module_utils._archive.reader import pieces_of
from ansible_collections.fileforge.ops.plugins.module_utils._backup import restore_fetch
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_fetch import Filler, Journal, join_pieces, sync_tree
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_files import Tree, remove_tree
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError
from hypothesis import given, settings
from hypothesis import strategies as st

MEMBER = 64 << 10


class FakeStore:
    """One object; ``damage`` are numbers of reads whose bytes arrive wrong."""

    def __init__(self, blob: bytes, damage: t.Container[int] = ()) -> None:
        self.blob = blob
        self.damage = damage
        self.reads: list[tuple[int, int]] = []
        self._lock = threading.Lock()

    def stream(self, key: str, *, start: int, length: int, etag: str) -> t.Iterator[bytes]:
        assert (key, etag) == ("base/x", "e")
        with self._lock:
            number = len(self.reads)
            self.reads.append((start, length))
        data = bytearray(self.blob[start : start + length])
        if number in self.damage:
            data[len(data) // 2] ^= 0xFF
        for offset in range(0, length, 10_000):
            yield bytes(data[offset : offset + 10_000])


def make(contents: dict[str, bytes], folders: t.Sequence[str] = ("base", "empty")) -> tuple[bytes, Archive]:
    blob = io.BytesIO()
    with writer.ArchiveWriter(blob.write, member_size=MEMBER) as archive:
        for name in folders:
            archive.add(writer.Entry(name, lambda: writer.BytesSource(b"", 0o750, 0, 0, 1_700_000_000), type="d"))
        for name, content in contents.items():
            archive.add(writer.Entry(name, lambda c=content: writer.BytesSource(c, 0o4640, 0, 0, 1_700_000_000), size=len(content)))  # type: ignore[misc]
        archive.add(writer.Entry("pg_tblspc/16384", lambda: writer.BytesSource(b"", 0o777, 0, 0, 0), type="l", target="/elsewhere"))
        written = archive.finish()
    fields = {field.name: getattr(written, field.name) for field in dataclasses.fields(written)}
    return blob.getvalue(), Archive(key="base/x", oid=None, location=None, etag="e", version_id=None, **fields)


def sample(seed: int = 1) -> dict[str, bytes]:
    rng = random.Random(seed)
    contents = {f"base/{number}": rng.randbytes(rng.choice([0, 1, 511, 512, 8192])) for number in range(30)}
    contents["base/big"] = rng.randbytes(9 * MEMBER + 77)
    contents["deep/er/file"] = b"x"
    return contents


def files(archive: Archive) -> list[FileEntry]:
    return [entry for entry in archive.files if entry.type == FILE]


def fill(store: FakeStore, archive: Archive, root: Path, journal: Path, old: Path | None = None) -> dict[str, int]:
    with Journal(str(journal)) as known, Tree(str(root)) as tree:
        filler = Filler(store, archive, tree, known, jobs=3)  # type: ignore[arg-type]
        filler.shape()
        filler.fill(files(archive), None if old is None else str(old))
        return filler.tally.as_dict()


def read(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore_fetch, "BATCH_PACKED", 3 * MEMBER)


def test_everything_arrives(tmp_path: Path) -> None:
    contents = sample()
    blob, archive = make(contents)
    store = FakeStore(blob)
    tally = fill(store, archive, tmp_path / "new", tmp_path / "journal")
    assert read(tmp_path / "new") == contents
    assert len(store.reads) > 2
    assert tally["fetched"] == sum(map(len, contents.values()))
    assert (tmp_path / "new" / "empty").is_dir()
    assert stat.S_IMODE((tmp_path / "new" / "base").stat().st_mode) == 0o750
    state = (tmp_path / "new" / "base" / "big").stat()
    assert stat.S_IMODE(state.st_mode) == 0o640  # without setuid
    assert state.st_mtime == 1_700_000_000
    assert not (tmp_path / "new" / "pg_tblspc").exists()  # links to tablespaces are made elsewhere
    sync_tree(str(tmp_path / "new"), 2)


def test_a_second_run_fetches_nothing_and_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob, archive = make(sample())
    fill(FakeStore(blob), archive, tmp_path / "new", tmp_path / "journal")
    store = FakeStore(blob)

    def never(handle: int, size: int) -> str:
        raise AssertionError("a file in the journal was hashed again")

    monkeypatch.setattr(restore_fetch, "hash_file", never)
    tally = fill(store, archive, tmp_path / "new", tmp_path / "journal")
    assert store.reads == []
    assert tally["present"] == sum(entry.size for entry in files(archive))


def test_without_journal_files_are_hashed_and_kept(tmp_path: Path) -> None:
    blob, archive = make(sample())
    fill(FakeStore(blob), archive, tmp_path / "new", tmp_path / "journal")
    (tmp_path / "journal").write_text("not json\n")
    store = FakeStore(blob)
    fill(store, archive, tmp_path / "new", tmp_path / "journal")
    assert store.reads == []


def test_a_file_changed_after_it_was_verified_is_fetched_again(tmp_path: Path) -> None:
    contents = sample()
    blob, archive = make(contents)
    fill(FakeStore(blob), archive, tmp_path / "new", tmp_path / "journal")
    victim = tmp_path / "new" / "base" / "big"
    with victim.open("r+b") as stream:
        stream.write(b"changed")
    os.utime(victim, (1_700_000_000, 1_700_000_000))
    tally = fill(FakeStore(blob), archive, tmp_path / "new", tmp_path / "journal")
    assert tally["fetched"] == len(contents["base/big"])
    assert read(tmp_path / "new") == contents


@given(seed=st.integers(0, 5), victims=st.sets(st.integers(0, 31)))
@settings(max_examples=25, deadline=None)
def test_any_subset_left_by_a_killed_run_is_completed(
    tmp_path_factory: pytest.TempPathFactory, seed: int, victims: set[int]
) -> None:
    tmp_path = tmp_path_factory.mktemp("subset")
    contents = sample(seed)
    blob, archive = make(contents)
    fill(FakeStore(blob), archive, tmp_path / "new", tmp_path / "journal")
    for number, name in enumerate(sorted(contents)):
        if number in victims:
            path = tmp_path / "new" / name
            path.write_bytes(path.read_bytes()[: len(contents[name]) // 2])
    fill(FakeStore(blob), archive, tmp_path / "new", tmp_path / "journal")
    assert read(tmp_path / "new") == contents


def test_right_files_of_the_old_directory_are_copied(tmp_path: Path) -> None:
    contents = sample()
    blob, archive = make(contents)
    old = tmp_path / "old"
    (old / "base").mkdir(parents=True)
    for name in ("base/big", "base/1"):
        (old / name).write_bytes(contents[name])
    changed = bytearray(contents["base/big"])
    tally = fill(FakeStore(blob), archive, tmp_path / "new", tmp_path / "journal", old)
    assert tally["copied"] == len(contents["base/big"]) + len(contents["base/1"])
    changed[5] ^= 1
    (old / "base" / "big").write_bytes(changed)
    tally = fill(FakeStore(blob), archive, tmp_path / "second", tmp_path / "journal2", old)
    assert tally["copied"] == len(contents["base/1"])
    assert read(tmp_path / "second") == contents


def test_links_in_the_old_directory_are_not_followed(tmp_path: Path) -> None:
    contents = sample()
    blob, archive = make(contents)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "big").write_bytes(contents["base/big"])
    old = tmp_path / "old"
    old.mkdir()
    (old / "base").symlink_to(elsewhere)
    assert fill(FakeStore(blob), archive, tmp_path / "new", tmp_path / "journal", old)["copied"] == 0


def test_links_in_the_new_directory_are_not_followed(tmp_path: Path) -> None:
    blob, archive = make(sample())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    new = tmp_path / "new"
    new.mkdir()
    (new / "deep").symlink_to(elsewhere)
    with pytest.raises(IntegrityError):
        fill(FakeStore(blob), archive, new, tmp_path / "journal")
    assert list(elsewhere.iterdir()) == []
    (new / "deep").unlink()
    (elsewhere / "target").write_text("precious")
    (new / "base").mkdir(exist_ok=True)
    (new / "base" / "big").unlink(missing_ok=True)
    (new / "base" / "big").symlink_to(elsewhere / "target")
    fill(FakeStore(blob), archive, new, tmp_path / "journal")
    assert (elsewhere / "target").read_text() == "precious"


def test_bytes_damaged_on_the_way_are_fetched_again(tmp_path: Path) -> None:
    contents = sample()
    blob, archive = make(contents)
    fill(FakeStore(blob, damage={0, 2}), archive, tmp_path / "new", tmp_path / "journal")
    assert read(tmp_path / "new") == contents


def test_bytes_damaged_in_the_bucket_are_an_error(tmp_path: Path) -> None:
    blob, archive = make(sample())
    with pytest.raises(IntegrityError, match="base/x: the member at byte"):
        fill(FakeStore(blob, damage=range(1000)), archive, tmp_path / "new", tmp_path / "journal")


def test_a_file_that_is_not_what_the_index_says_is_an_error(tmp_path: Path) -> None:
    contents = sample()
    blob, archive = make(contents)
    wrong = tuple(
        dataclasses.replace(entry, sha256="0" * 64) if entry.path in ("base/big", "base/1") else entry for entry in archive.files
    )
    with pytest.raises(IntegrityError, match="SHA-256"):
        fill(FakeStore(blob), dataclasses.replace(archive, files=wrong), tmp_path / "new", tmp_path / "journal")


def test_batches_hold_every_piece_once_and_stay_small() -> None:
    _blob, archive = make(sample())
    pieces = list(pieces_of(archive))
    batches = list(join_pieces(pieces))
    assert [piece for batch in batches for piece in batch] == pieces
    for batch in batches:
        assert len(batch) == 1 or batch[-1].member.c_end - batch[0].member.c_off <= 3 * MEMBER
        for before, after in zip(batch, batch[1:]):
            assert before.member.c_end == after.member.c_off


def test_remove_tree_keeps_what_links_point_to(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    victim = tmp_path / "victim"
    (victim / "sub").mkdir(parents=True)
    (victim / "link").symlink_to(precious)
    remove_tree(str(victim))
    assert not victim.exists()
    assert (precious / "file").exists()
    link = tmp_path / "link"
    link.symlink_to(precious)
    with pytest.raises(IntegrityError):
        remove_tree(str(link))
    remove_tree(str(tmp_path / "nothing"))
