# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal's chain: whatever is done to a finished journal is found."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._evidence import journal
from hypothesis import given
from hypothesis import strategies as st

TEXTS = st.text(max_size=12)
FIELDS = st.dictionaries(
    st.sampled_from(["task", "host", "msg", "n"]), st.one_of(TEXTS, st.integers(), st.floats(0, 1e6)), max_size=3
)
BODIES = st.lists(FIELDS, min_size=1, max_size=6)


def written(tmp_path: Path, bodies: list[dict[str, object]], *, end: bool = True) -> bytes:
    path = tmp_path / "run.jsonl"
    path.unlink(missing_ok=True)
    writer = journal.JournalWriter(str(path))
    writer.append({"event": journal.START})
    for body in bodies:
        writer.append({"event": "task_end", **body})
    if end:
        writer.append({"event": journal.END})
    writer.close()
    return path.read_bytes()


def holds(data: bytes) -> bool:
    found = journal.read_bytes(data)[1]
    return found.ok and found.complete


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journal")


@given(bodies=BODIES)
def test_what_was_written_holds(shared: Path, bodies: list[dict[str, object]]) -> None:
    data = written(shared, bodies)
    entries, found = journal.read_bytes(data)
    assert found.ok
    assert found.complete
    assert found.lines == len(bodies) + 2 == data.count(b"\n")
    assert found.head == entries[-1]["hash"]
    assert [entry["seq"] for entry in entries] == list(range(1, len(entries) + 1))


@given(bodies=BODIES, data=st.data())
def test_any_changed_byte_is_found_and_its_line_named(shared: Path, bodies: list[dict[str, object]], data: st.DataObject) -> None:
    whole = written(shared, bodies)
    place = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != whole[place]))
    found = journal.read_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])[1]
    assert not (found.ok and found.complete)
    assert found.broken_line == whole[:place].count(b"\n") + 1


@given(bodies=BODIES, data=st.data())
def test_any_removed_line_is_found(shared: Path, bodies: list[dict[str, object]], data: st.DataObject) -> None:
    lines = written(shared, bodies).splitlines(keepends=True)
    gone = data.draw(st.integers(0, len(lines) - 1))
    assert not holds(b"".join(lines[:gone] + lines[gone + 1 :]))


@given(bodies=BODIES, data=st.data())
def test_any_other_order_is_found(shared: Path, bodies: list[dict[str, object]], data: st.DataObject) -> None:
    lines = written(shared, bodies).splitlines(keepends=True)
    other = data.draw(st.permutations(lines).filter(lambda order: order != lines))
    assert not holds(b"".join(other))


@given(bodies=BODIES, data=st.data())
def test_any_repeated_line_is_found(shared: Path, bodies: list[dict[str, object]], data: st.DataObject) -> None:
    lines = written(shared, bodies).splitlines(keepends=True)
    source, place = data.draw(st.integers(0, len(lines) - 1)), data.draw(st.integers(0, len(lines)))
    assert not holds(b"".join([*lines[:place], lines[source], *lines[place:]]))


@given(bodies=BODIES, data=st.data())
def test_any_cut_is_found(shared: Path, bodies: list[dict[str, object]], data: st.DataObject) -> None:
    whole = written(shared, bodies)
    assert not holds(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_an_edit_with_its_own_hash_made_right_is_found_in_the_next_line(tmp_path: Path) -> None:
    lines = written(tmp_path, [{"n": 1}, {"n": 2}]).decode().splitlines()
    fields = json.loads(lines[1])
    fields["n"] = 9
    fields["hash"] = journal.line_hash(fields["prev"], fields)
    lines[1] = journal.canonical(fields)
    found = journal.read_bytes("".join(f"{line}\n" for line in lines).encode())[1]
    assert found.broken_line == 3
    assert "does not follow" in found.problem


def test_a_running_or_killed_journal_holds_but_is_not_complete(tmp_path: Path) -> None:
    found = journal.read_bytes(written(tmp_path, [{"n": 1}], end=False))[1]
    assert found.ok
    assert not found.complete


def test_an_empty_file_is_not_complete() -> None:
    assert journal.read_bytes(b"")[1] == journal.Verification(0, journal.GENESIS, False)


def test_a_journal_is_never_overwritten_and_no_link_is_followed(tmp_path: Path) -> None:
    written(tmp_path, [])
    with pytest.raises(FileExistsError):
        journal.JournalWriter(str(tmp_path / "run.jsonl"))
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        journal.JournalWriter(str(tmp_path / "link.jsonl"))
    assert not (tmp_path / "elsewhere").exists()


def test_the_hash_is_what_the_description_says() -> None:
    body = '{"event":"x","prev":"0","seq":1}'
    assert journal.line_hash("0", {"event": "x", "seq": 1, "prev": "0"}) == hashlib.sha256(f"0{body}".encode()).hexdigest()


def test_evidence_of_a_file_a_missing_one_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    os.mkfifo(tmp_path / "pipe")
    assert journal.file_evidence(str(tmp_path / "a")) == {
        "path": str(tmp_path / "a"),
        "size": 3,
        "sha256": hashlib.sha256(b"abc").hexdigest(),
    }
    assert journal.file_evidence(str(tmp_path / "none"))["error"] == "No such file or directory"
    assert journal.file_evidence(str(tmp_path / "pipe"))["error"] == "not a regular file"
    assert journal.file_evidence(str(tmp_path))["error"] == "not a regular file"
