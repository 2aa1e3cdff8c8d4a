# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives: what is written is what plain tar, gzip, Python and our own reader read; damage and hostile content are refused."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import os
import random
import subprocess
import tarfile
import threading
import zlib

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._archive import codec, reader, writer
from ansible_collections.fileforge.ops.plugins.module_utils._archive.index import (
    Archive,
    BackupIndex,
    ChecksumFailure,
    FileEntry,
    safe_path,
)
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError
from hypothesis import given, settings
from hypothesis import strategies as st

SMALL = 64 << 10


def bytes_entry(path: str, content: bytes) -> writer.Entry:
    return writer.Entry(path, lambda: writer.BytesSource(content, 0o600, 1000, 1001, 1_700_000_000), size=len(content))


def other_entry(path: str, kind: str, target: str = "") -> writer.Entry:
    return writer.Entry(path, lambda: writer.BytesSource(b"", 0o700, 1000, 1001, 1_700_000_000), type=kind, target=target)


def write(entries: list[writer.Entry], **options: object) -> tuple[bytes, writer.Written]:
    blob = io.BytesIO()
    with writer.ArchiveWriter(blob.write, **{"member_size": SMALL, **options}) as archive:  # type: ignore[arg-type]
        for entry in entries:
            archive.add(entry)
        written = archive.finish()
    return blob.getvalue(), written


def archive_of(written: writer.Written, key: str = "base/x_base.tar.gz", **changes: object) -> Archive:
    fields = {field.name: getattr(written, field.name) for field in dataclasses.fields(written)}
    return Archive(key=key, oid=None, location=None, etag='"e"', version_id=None, **{**fields, **changes})


def index_of(*archives: Archive) -> BackupIndex:
    return BackupIndex(
        name="2026-11-23-1405",
        label="test",
        started="2026-11-23T14:05:00.000000+00:00",
        stopped="2026-11-23T14:06:00.000000+00:00",
        start_lsn="0/2000028",
        stop_lsn="0/3000028",
        timeline=1,
        start_segment="000000010000000000000002",
        stop_segment="000000010000000000000003",
        system_identifier="7300000000000000001",
        version_num=150020,
        catalog_version=202209061,
        wal_segment_size=16 << 20,
        block_size=8192,
        checksums=True,
        checksum_failures=(ChecksumFailure("base/1/1259", 7),),
        manifest_key="base/x_base.backup_manifest",
        archives=archives,
    )


def sample() -> dict[str, bytes]:
    rng = random.Random(1)
    contents = {f"base/1/{number}": rng.randbytes(rng.choice([0, 1, 511, 512, 513, 8192])) for number in range(40)}
    contents["base/1/big"] = rng.randbytes(5 * SMALL + 77)
    contents["base/1/exact"] = rng.randbytes(3 * SMALL)
    contents["deep/" + "n" * 90 + "/" + "m" * 90] = b"long name"
    contents["tail"] = b"t"
    return contents


def sample_entries(contents: dict[str, bytes]) -> list[writer.Entry]:
    entries = [other_entry("base", "d"), other_entry("base/1", "d")]
    entries += [bytes_entry(path, content) for path, content in contents.items()]
    return [*entries, other_entry("pg_tblspc/16385", "l", "/srv/space")]


def test_plain_tar_and_gzip_read_what_is_written(tmp_path):
    contents = sample()
    blob, written = write(sample_entries(contents))
    path = tmp_path / "x.tar.gz"
    path.write_bytes(blob)
    subprocess.run(["gzip", "-t", path], check=True)
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "-xzf", path, "-C", out, "--no-same-owner"], check=True, stderr=subprocess.PIPE)
    assert {name: (out / name).read_bytes() for name in contents} == contents
    assert os.readlink(out / "pg_tblspc/16385") == "/srv/space"
    with tarfile.open(fileobj=io.BytesIO(blob), mode="r:gz") as archive:
        assert archive.getmember("base/1/big").size == len(contents["base/1/big"])
        assert archive.getmember("tail").mode == 0o600
        assert archive.getmember("tail").gid == 1001
    assert hashlib.sha256(blob).hexdigest() == written.sha256
    assert len(written.members) > 8


def test_every_member_decompresses_alone_and_starts_where_the_index_says():
    contents = sample()
    blob, written = write(sample_entries(contents))
    tar = gzip.decompress(blob)
    assert len(tar) == written.uncompressed_size
    for member in written.members:
        data = reader.decode_member(member, blob[member.c_off : member.c_end])
        assert data == tar[member.u_off : member.u_end]
    assert written.members[-1].u_len == 1024
    for entry in written.files:
        if entry.type == "f":
            content = tar[entry.offset : entry.offset + entry.size]
            assert content == contents[entry.path]
            assert hashlib.sha256(content).hexdigest() == entry.sha256


@pytest.mark.parametrize("wanted", [None, {"base/1/big", "tail"}, {"base/1/exact"}, set()])
def test_pieces_rebuild_exactly_the_wanted_files(wanted):
    contents = sample()
    blob, written = write(sample_entries(contents))
    archive = archive_of(written)
    rebuilt: dict[str, bytearray] = {}
    seen = set()
    for piece in reader.pieces_of(archive, wanted):
        assert piece.member not in seen
        seen.add(piece.member)
        data = reader.decode_member(piece.member, blob[piece.member.c_off : piece.member.c_end])
        for part in piece.parts:
            target = rebuilt.setdefault(part.entry.path, bytearray(part.entry.size))
            target[part.position : part.position + part.length] = data[part.start : part.start + part.length]
    expected = {path: content for path, content in contents.items() if content and (wanted is None or path in wanted)}
    assert {path: bytes(content) for path, content in rebuilt.items()} == expected


@given(sizes=st.lists(st.integers(0, 40_000), max_size=12), jobs=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_any_mix_of_sizes_survives_the_round_trip(sizes, jobs):
    contents = {f"f{number}": bytes([number % 251]) * size for number, size in enumerate(sizes)}
    blob, written = write([bytes_entry(*item) for item in contents.items()], member_size=8192, jobs=jobs)
    read = {entry.path: b"".join(entry.chunks()) for entry in reader.read_plain([blob])}
    assert read == contents
    BackupIndex.from_bytes(index_of(archive_of(written)).to_bytes())


def test_a_file_that_is_gone_when_its_turn_comes_is_left_out():
    gone = writer.Entry("gone", lambda: None, size=10)
    gone_big = writer.Entry("gone_big", lambda: None, size=10 * SMALL)
    _blob, written = write([bytes_entry("a", b"1"), gone, gone_big, bytes_entry("b", b"2")])
    assert [entry.path for entry in written.files] == ["a", "b"]


def test_a_file_that_grew_since_it_was_listed_is_whole_or_cut_at_a_page():
    grown = writer.Entry("grown", lambda: writer.BytesSource(b"x" * 9000, 0o600, 0, 0, 0), size=1)
    wild = writer.Entry("wild", lambda: writer.BytesSource(b"y" * (100 * SMALL), 0o600, 0, 0, 0), size=1)
    blob, written = write([grown, wild, bytes_entry("last", b"z")])
    sizes = {entry.path: entry.size for entry in written.files}
    assert sizes["grown"] == 9000
    assert sizes["wild"] % 32768 == 0 and sizes["wild"] < 5 * SMALL
    assert [entry.path for entry in reader.read_plain([blob])] == ["grown", "wild", "last"]


def test_the_threads_end_and_sources_are_closed_when_reading_fails():
    closed = []

    class Broken:
        size, mode, uid, gid, mtime = 10 * SMALL, 0o600, 0, 0, 0

        def read(self, offset, length):
            if offset >= 3 * SMALL:
                raise OSError("disk on fire")
            return bytes(length)

        def close(self):
            closed.append(True)

    with pytest.raises(OSError, match="disk on fire"):
        write([writer.Entry("broken", Broken, size=10 * SMALL), bytes_entry("b", b"2")])
    assert closed == [True]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("archive")]


def test_an_error_of_the_sink_stops_the_writing():
    def full(_data: bytes) -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"), writer.ArchiveWriter(full, member_size=SMALL) as archive:
        for number in range(100):
            archive.add(bytes_entry(str(number), bytes(SMALL)))


def test_levels_without_isal_give_the_same_tar(monkeypatch):
    contents = sample()
    tars = set()
    for level in (0, 1, 6, 9):
        tars.add(gzip.decompress(write(sample_entries(contents), level=level)[0]))
    monkeypatch.setattr(codec, "fast", None)
    monkeypatch.setattr(codec, "best", zlib)
    blob, written = write(sample_entries(contents))
    tars.add(gzip.decompress(blob))
    assert len(tars) == 1
    for member in written.members:
        reader.decode_member(member, blob[member.c_off : member.c_end])


def test_a_damaged_member_is_refused():
    blob, written = write([bytes_entry("a", random.Random(2).randbytes(5000))])
    member = written.members[0]
    good = blob[member.c_off : member.c_end]
    reader.decode_member(member, good)
    for place in range(0, len(good), 97):
        bad = bytearray(good)
        bad[place] ^= 0x10
        try:
            assert reader.decode_member(member, bytes(bad)) == reader.decode_member(member, good)
            assert place < 10  # time stamp and system of the gzip header carry no content
        except IntegrityError:
            pass
    with pytest.raises(IntegrityError):
        reader.decode_member(member, good[:-1])
    with pytest.raises(IntegrityError):
        reader.decode_member(dataclasses.replace(member, crc32=member.crc32 ^ 1), good)
    with pytest.raises(IntegrityError):
        reader.decode_member(dataclasses.replace(member, u_len=member.u_len - 1), good)


# The index


def sample_index() -> BackupIndex:
    _blob, written = write(sample_entries(sample()))
    space = archive_of(written, key="base/x_base.tblspc-16385.tar.gz")
    return index_of(archive_of(written), dataclasses.replace(space, oid=16385, location="/srv/space"))


def test_the_index_survives_the_round_trip_and_is_reproducible():
    index = sample_index()
    assert BackupIndex.from_bytes(index.to_bytes()) == index
    assert index.to_bytes() == index.to_bytes()


def resealed(index: BackupIndex, change) -> bytes:
    """The index with a change that its own checksum does not betray."""
    content = json.loads(gzip.decompress(index.to_bytes()))
    change(content["backup"])
    text = json.dumps(content["backup"], sort_keys=True, separators=(",", ":"))
    content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return gzip.compress(json.dumps(content).encode())


def _set(path: str, value: object):
    def change(backup: dict) -> None:
        place = backup
        *parents, last = path.split(".")
        for part in parents:
            place = place[int(part)] if part.isdigit() else place[part]
        if isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("archives.0.files.3.path", "../evil"),
        _set("archives.0.files.3.path", "/etc/passwd"),
        _set("archives.0.files.3.path", "a/../../b"),
        _set("archives.0.files.3.path", "a//b"),
        _set("archives.0.files.3.path", "a\nb"),
        _set("archives.0.files.3.path", ""),
        _set("archives.0.files.3.path", "pg_tblspc/16385/x"),
        _set("archives.0.files.3.path", "base"),
        _set("archives.0.files.3.type", "c"),
        _set("archives.0.files.3.size", -1),
        _set("archives.0.files.3.size", 1 << 50),
        _set("archives.0.files.3.sha256", "beef"),
        _set("archives.0.files.3.offset", 0),
        _set("archives.0.members.1.0", 1),
        _set("archives.0.members.1.3", 1 << 40),
        _set("archives.0.members.1", [1, 2, 3]),
        _set("archives.0.members.1.4", True),
        _set("archives.0.size", 5),
        _set("archives.0.oid", 5),
        _set("archives.1.oid", None),
        _set("archives", []),
        _set("timeline", "1"),
        _set("checksums", 1),
        _set("start_lsn", "zero"),
        _set("start_segment", "../../x"),
        _set("label", None),
    ],
)
def test_a_hostile_index_is_refused(change):
    index = sample_index()
    BackupIndex.from_bytes(resealed(index, lambda backup: None))
    with pytest.raises(IntegrityError):
        BackupIndex.from_bytes(resealed(index, change))


def test_a_damaged_or_foreign_index_is_refused():
    data = sample_index().to_bytes()
    content = json.loads(gzip.decompress(data))
    with pytest.raises(IntegrityError, match="format 2"):
        BackupIndex.from_bytes(gzip.compress(json.dumps({**content, "format": 2}).encode()))
    content["backup"]["label"] = "changed"
    with pytest.raises(IntegrityError, match="checksum"):
        BackupIndex.from_bytes(gzip.compress(json.dumps(content).encode()))
    for bad in (data[:-1], data[:50], b"", b"{}", data + b"x", gzip.compress(b"[]"), gzip.compress(b"\xff")):
        with pytest.raises(IntegrityError):
            BackupIndex.from_bytes(bad)


@given(st.text(max_size=20))
def test_safe_paths_never_leave_their_root(path):
    try:
        safe_path(path)
    except IntegrityError:
        return
    assert os.path.normpath(os.path.join("/root/of", path)) == os.path.join("/root/of", path)
    assert path != "" and not any(ord(character) < 32 for character in path)


# Plain archives


def plain(*infos: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode="w:gz", format=form) as archive:
        for info, content in infos:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return blob.getvalue()


def info_of(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_an_archive_of_gnu_tar_is_read_in_any_chunks(tmp_path):
    contents = sample()
    for path, content in contents.items():
        (tmp_path / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / path).write_bytes(content)
    os.symlink("/srv/space", tmp_path / "data/link")
    blob = subprocess.run(["tar", "-czf", "-", "-C", tmp_path / "data", "."], check=True, stdout=subprocess.PIPE).stdout
    for size in (len(blob), 1000, 7):
        chunks = [blob[at : at + size] for at in range(0, len(blob), size)]
        entries = {entry.path: (entry.type, entry.target, b"".join(entry.chunks())) for entry in reader.read_plain(chunks)}
        assert {path: data for path, (kind, _target, data) in entries.items() if kind == "f"} == contents
        assert entries["link"] == ("l", "/srv/space", b"")
        assert entries[""][0] == "d"


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_all_tar_forms_are_read(form):
    name = "d" * 60 + "/" + "f" * 90
    longer = name if form == tarfile.USTAR_FORMAT else "é" * 120 + "/" + "f" * 90
    blob = plain((info_of(name), b"1"), (info_of(longer + "2"[:0] + "x"), b"22"), form=form)
    assert [(entry.path, entry.size) for entry in reader.read_plain([blob])] == [(name, 1), (longer + "x", 2)]


def test_content_may_be_left_unread():
    blob = plain((info_of("a"), b"1" * 3_000_000), (info_of("b"), b"2"))
    assert [entry.path for entry in reader.read_plain([blob])] == ["a", "b"]


@pytest.mark.parametrize(
    "info",
    [
        info_of("../x"),
        info_of("/etc/passwd"),
        info_of("a/../../x"),
        info_of("a\x01b"),
        info_of("hard", tarfile.LNKTYPE, "a"),
        info_of("dev", tarfile.CHRTYPE),
        info_of("blk", tarfile.BLKTYPE),
        info_of("fifo", tarfile.FIFOTYPE),
        info_of("sparse", tarfile.GNUTYPE_SPARSE),
        info_of("link", tarfile.SYMTYPE, "a\nb"),
    ],
)
def test_hostile_entries_of_a_plain_archive_are_refused(info):
    with pytest.raises(IntegrityError):
        list(reader.read_plain([plain((info, b""))]))


def test_a_pax_sparse_file_is_refused():
    info = info_of("s")
    info.pax_headers = {"GNU.sparse.major": "1"}
    with pytest.raises(IntegrityError, match="sparse"):
        list(reader.read_plain([plain((info, b"x"), form=tarfile.PAX_FORMAT)]))


def test_every_truncation_of_an_archive_is_noticed():
    blob, written = write(sample_entries(sample()))
    places = {member.c_off for member in written.members} | {member.c_end - 1 for member in written.members} | {1, 9, 700}
    for place in sorted(places - {0}):
        with pytest.raises(IntegrityError):
            for entry in reader.read_plain([blob[:place]]):
                list(entry.chunks())
    with pytest.raises(IntegrityError):
        list(reader.read_plain([]))


def test_a_damaged_header_is_noticed_and_not_taken_for_the_end():
    tar = bytearray(gzip.decompress(plain((info_of("a"), b"1"), (info_of("b"), b"2"))))
    tar[1024 + 5] ^= 1
    with pytest.raises(IntegrityError, match="header"):
        list(reader.read_plain([gzip.compress(bytes(tar))]))


def test_two_tars_one_after_the_other_are_refused():
    blob = plain((info_of("a"), b"1"))
    with pytest.raises(IntegrityError, match="after its end"):
        list(reader.read_plain([blob, blob]))


def test_entries_keep_their_attributes():
    entry = FileEntry("a", "f", 0o640, 1, 2, 3, 4, 5, "0" * 64)
    assert "target" not in entry.as_dict()
    assert FileEntry("a", "l", 0o777, 1, 2, 3, target="/x").as_dict()["target"] == "/x"
