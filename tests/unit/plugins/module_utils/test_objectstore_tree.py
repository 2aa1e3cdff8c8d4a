# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees: carrying a plan out makes both sides equal and loses nothing, whatever the sides are and wherever it is cut off."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sqlite3
import tempfile
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    IntegrityError,
    InvalidOption,
    OpsError,
    Refused,
    Unavailable,
)
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore import tree as tree_module
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import Store, multipart_etag
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.digests import PartHash, hash_file, part_sizes
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.inventory import Inventory
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.manifest import (
    Entry,
    parse_mode,
    parse_time,
    read_manifest,
    time_text,
    write_manifest,
)
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.names import folders, hostile, key_path, path_text
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.place import Folder, Ground
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.tree import Tree, TreeOptions
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.tree_run import run_tree
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.plugins.module_utils.memory_store import MemoryStore, nothing_is_lost

NAMES = st.sampled_from(["a", "b", "a.txt", "ü", "é b"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
CONTENTS = st.sampled_from([b"", b"one", b"two", b"three", b"3hree"])
SIDES = st.dictionaries(PATHS, CONTENTS, max_size=8)


def consistent(side: dict[str, bytes]) -> dict[str, bytes]:
    """Without files that are directories of others, as on any file system."""
    above = {folder for path in side for folder in folders(path.encode())}
    return {path: data for path, data in side.items() if path.encode() not in above}


CONSISTENT = SIDES.map(consistent)
RUNS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def fill(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def read(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@dataclasses.dataclass
class World:
    """A directory, a bucket, and runs over them."""

    place: Path
    store: MemoryStore

    @property
    def root(self) -> Path:
        return self.place / "tree"

    def options(self, **changes: t.Any) -> TreeOptions:
        values = {"path": str(self.root), "prefix": "files", "max_delete_percent": 100, "allow_empty": True, "jobs": 2, **changes}
        return TreeOptions(**values)

    def run(self, *, check: bool = False, digest: str | None = None, **changes: t.Any) -> dict[str, t.Any]:
        return run_tree(t.cast(Store, self.store), self.options(**changes), check_mode=check, plan_digest=digest)

    def contents(self) -> t.Iterator[bytes]:
        """Everything that is anywhere."""
        yield from self.store.contents()
        for path in self.place.rglob("*"):
            if path.is_file() and path.name != "state.sqlite":
                yield path.read_bytes()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, MemoryStore())


def made(local: dict[str, bytes], remote: dict[str, bytes], place: str, budget: int | None = None) -> World:
    world = World(Path(place), MemoryStore({f"files/{path}": data for path, data in remote.items()}, budget))
    world.root.mkdir()
    fill(world.root, local)
    return world


@RUNS
@given(local=CONSISTENT, remote=CONSISTENT)
@example(local={"a": b"one"}, remote={"a/b": b"two"})
@example(local={"a/b": b"one", "a/a.txt": b""}, remote={"a": b"two"})
def test_pull_makes_equal_and_loses_nothing(local: dict[str, bytes], remote: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as place:
        world = made(local, remote, place)
        planned = world.run(check=True)
        assert read(world.root) == local and not Path(f"{world.root}.aside").exists()
        with nothing_is_lost(world.contents(), world.contents):
            done = world.run(digest=planned["plan"]["digest"])
        assert done["plan"] == planned["plan"]
        assert done["changed"] == (local != remote)
        assert read(world.root) == remote
        again = world.run()
        assert not again["changed"] and not again["plan"]["steps"]


@RUNS
@given(local=CONSISTENT, remote=CONSISTENT)
@example(local={"a": b"one"}, remote={"a/b": b"two"})
def test_pull_without_delete_only_adds_and_replaces(local: dict[str, bytes], remote: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as place:
        world = made(local, remote, place)
        with nothing_is_lost(world.contents(), world.contents):
            world.run(delete=False)
        found = read(world.root)
        assert remote.items() <= found.items()
        in_way = {folder.decode() for path in remote for folder in folders(path.encode())}
        below = tuple(f"{path}/" for path in remote)
        assert set(found) == set(remote) | {path for path in local if path not in in_way and not path.startswith(below)}
        assert not world.run(delete=False)["changed"]


@RUNS
@given(local=CONSISTENT, remote=CONSISTENT)
@example(local={"a": b"one"}, remote={"a/b": b"two"})
def test_push_makes_equal_and_loses_nothing(local: dict[str, bytes], remote: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as place:
        world = made(local, remote, place)
        planned = world.run(check=True, direction="push", delete=True)
        assert world.store.below("files/") == remote
        with nothing_is_lost(world.contents(), world.contents):
            done = world.run(direction="push", delete=True, digest=planned["plan"]["digest"])
        assert done["plan"] == planned["plan"]
        assert world.store.below("files/") == local and read(world.root) == local
        assert not world.run(direction="push", delete=True)["changed"]
        other = World(world.place / "other", world.store)
        other.place.mkdir()
        other.run()
        assert read(other.root) == local


@pytest.mark.parametrize("versions", [True, False])
def test_push_leaves_keeping_to_a_bucket_with_versions(world: World, monkeypatch: pytest.MonkeyPatch, versions: bool) -> None:
    world.store = MemoryStore({f"files/{path}": b"1" for path in ("same", "changed", "gone")})
    fill(world.root, {"same": b"1", "changed": b"22"})
    monkeypatch.setattr(world.store, "keeps_versions", lambda: versions, raising=False)
    done = world.run(direction="push", delete=True, max_delete_percent=100, keep_objects="auto")
    aside = [key for key in world.store.objects if ".aside/" in key]
    actions = [step["action"] for step in done["plan"]["steps"]]
    if versions:
        assert aside == [] and done["kept"] is None and actions == ["replace", "delete", "write"]
        assert all("older versions" in step["detail"] for step in done["plan"]["steps"][:2])
    else:
        assert len(aside) == 2 and done["kept"] and actions == ["replace", "move_aside", "write"]
    assert "files/gone" not in world.store.objects
    assert not world.run(direction="push", delete=True, keep_objects="auto")["changed"]


@RUNS
@given(local=CONSISTENT, remote=CONSISTENT, budget=st.integers(0, 6), direction=st.sampled_from(["pull", "push"]))
def test_cut_off_anywhere_it_goes_on(local: dict[str, bytes], remote: dict[str, bytes], budget: int, direction: str) -> None:
    """The plan that was confirmed before stays confirmed."""
    with tempfile.TemporaryDirectory() as place:
        world = made(local, remote, place, budget)
        options = {"direction": direction, "delete": True}
        digest = world.run(check=True, **options)["plan"]["digest"]
        with nothing_is_lost(world.contents(), world.contents):
            try:
                world.run(digest=digest, **options)
            except Unavailable:
                world.store.budget = None
                left = world.run(check=True, **options)["plan"]
                if left["steps"]:
                    assert left["digest"] == digest
                    world.run(digest=digest, **options)
        assert read(world.root) == world.store.below("files/") == (remote if direction == "pull" else local)


@RUNS
@given(before=CONSISTENT, after=CONSISTENT, local=CONSISTENT)
def test_a_changed_source_changes_the_digest(before: dict[str, bytes], after: dict[str, bytes], local: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as place:
        world = made(local, before, place)
        first = world.run(check=True)["plan"]["digest"]
        world.store.objects = MemoryStore({f"files/{path}": data for path, data in after.items()}).objects
        assert (world.run(check=True)["plan"]["digest"] == first) == (before == after)


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/../../b", "a/./b", "\x00", "a\nb", "\x7f", "a\x85b", "n" * 256],
)
def test_hostile_keys(key: str) -> None:
    assert hostile(key_path(key)) is not None


@pytest.mark.parametrize("key", ["a", "..a", "a..", "...", "a/b/c", "-rf", " ", "ü/é", "a b", "*", "n" * 255, "\\", "\u202eevil"])
def test_harmless_keys(key: str) -> None:
    assert hostile(key_path(key)) is None


def test_path_that_is_too_long_where_it_goes() -> None:
    assert hostile(b"a/" * 50 + b"a", room=100) is not None
    assert hostile(b"a/" * 49 + b"a", room=100) is None


@given(st.text(min_size=1, max_size=40))
def test_a_key_that_is_accepted_stays_below_the_root(key: str) -> None:
    if hostile(key.encode("utf-8", "replace")) is None:
        assert os.path.normpath(os.path.join("/root", key)).startswith("/root/")


@given(st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name))
def test_any_file_name_survives_the_way_to_text_and_back(name: bytes) -> None:
    assert key_path(path_text(name)) == name


# -- checksums ---------------------------------------------------------------------------------------------------------


@given(data=st.binary(max_size=500), part=st.integers(1, 60), chunk=st.integers(1, 70))
def test_multipart_etag_is_that_of_its_parts(data: bytes, part: int, chunk: int) -> None:
    running = PartHash(part)
    for start in range(0, len(data), chunk):
        running.update(data[start : start + chunk])
    pieces = [data[start : start + part] for start in range(0, len(data), part)] or [b""]
    assert running.etag() == multipart_etag([hashlib.md5(piece).hexdigest() for piece in pieces])


@pytest.mark.parametrize("part", [5 << 20, 8 << 20, 7 << 20, 16 << 20])
def test_multipart_etag_of_a_file(tmp_path: Path, part: int) -> None:
    data = os.urandom(1 << 20) * 33 + b"end"
    file = tmp_path / "file"
    file.write_bytes(data)
    etag = multipart_etag([hashlib.md5(data[start : start + part]).hexdigest() for start in range(0, len(data), part)])
    found = hash_file(os.fsencode(file), etag)
    assert (found.etag, found.sha256, found.stable) == (etag, hashlib.sha256(data).hexdigest(), True)
    file.write_bytes(data[:-1] + b"!")
    assert hash_file(os.fsencode(file), etag).etag != etag


def test_files_are_never_hashed_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(OSError):
        hash_file(os.fsencode(tmp_path / "link"))


@given(size=st.integers(1, 1 << 40), part=st.sampled_from([5, 8, 16, 64, 100]))
def test_the_usual_part_sizes_are_tried(size: int, part: int) -> None:
    count = -(-size // (part << 20))
    options = part_sizes(f"{'0' * 32}-{count}", size)
    assert len(options) <= 4 and all(max(1, -(-size // option)) == count for option in options)
    if count > 40:
        assert part << 20 in options


# -- manifest ----------------------------------------------------------------------------------------------------------

ENTRIES = st.lists(
    st.builds(
        Entry,
        path=st.binary(min_size=1, max_size=9),
        size=st.integers(0, 1 << 50),
        etag=st.text("0123456789abcdef-", max_size=40),
        sha256=st.one_of(st.none(), st.text("0123456789abcdef", min_size=64, max_size=64)),
        mode=st.one_of(st.none(), st.integers(0, 0o777)),
        mtime=st.one_of(st.none(), st.integers(-(10**19), 10**19)),
    ),
    max_size=20,
)


@given(ENTRIES)
def test_manifest_comes_back_as_it_was_written(entries: list[Entry]) -> None:
    with tempfile.TemporaryFile() as stream:
        assert write_manifest(t.cast(t.BinaryIO, stream), entries) == len(entries)
        stream.seek(0)
        data = stream.read()
    assert list(read_manifest([data[start : start + 7] for start in range(0, len(data), 7)])) == entries
    for cut in sorted({0, len(data) // 2, len(data) - 1}):
        with pytest.raises(ValueError):
            list(read_manifest([data[:cut]]))


@pytest.mark.parametrize("line", [b"[]", b"nonsense", b'{"path": 1, "size": 1, "etag": ""}', b'{"path": "a"}', b"1" * 100_000])
def test_manifest_with_a_bad_line(line: bytes) -> None:
    import gzip

    with pytest.raises(ValueError):
        list(read_manifest([gzip.compress(line + b"\n")]))


@pytest.mark.parametrize(
    "value, mode", [("0644", 0o644), ("100755", 0o755), ("4755", 0o755), (420, None), ("rw-", None), (None, None)]
)
def test_modes(value: t.Any, mode: int | None) -> None:
    assert parse_mode(value) == mode


@pytest.mark.parametrize(
    "value, time", [("1.5", 15 * 10**8), (1, 10**9), (1.25, 125 * 10**7), ("-1.000000001", -1000000001), ("x", None)]
)
def test_times(value: t.Any, time: int | None) -> None:
    assert parse_time(value) == time


@given(st.integers(-(10**19), 10**19))
def test_time_text_is_exact(nanoseconds: int) -> None:
    assert parse_time(time_text(nanoseconds)) == nanoseconds


def test_damaged_manifest_does_no_harm(world: World) -> None:
    world.store.objects.update(MemoryStore({"files/a": b"one", "files.tree.jsonl.gz": b"not gzip"}).objects)
    done = world.run()
    assert read(world.root) == {"a": b"one"} and "damaged" in done["warnings"][0]


def test_manifest_of_other_objects_does_no_harm(world: World) -> None:
    """An entry whose ETag is not the object's is out of date."""
    world.root.mkdir()
    fill(world.root, {"a": b"old"})
    world.run(direction="push")
    world.store.put("files/a", b"new")
    world.run()
    assert read(world.root) == {"a": b"new"}


# -- refusals and defences -----------------------------------------------------------------------------------------------


def refusal(world: World, **options: t.Any) -> str:
    with pytest.raises(Refused) as caught:
        world.run(**options)
    return str(caught.value.state["reason"])


@pytest.mark.parametrize(
    "limit, existing, removed, refuses", [(10, 10, 1, False), (10, 9, 1, True), (0, 9, 0, False), (0, 9, 1, True)]
)
def test_removals_up_to_the_limit(world: World, limit: float, existing: int, removed: int, refuses: bool) -> None:
    world.root.mkdir()
    fill(world.root, {str(number): b"x" for number in range(existing)})
    world.store.objects.update(MemoryStore({f"files/{number}": b"x" for number in range(existing - removed)}).objects)
    if refuses:
        assert refusal(world, max_delete_percent=limit) == "too_many_removals"
        assert len(read(world.root)) == existing
    else:
        world.run(max_delete_percent=limit)


def test_no_space(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.store.objects.update(MemoryStore({"files/a": b"one"}).objects)
    monkeypatch.setattr(Ground, "free", lambda self: (1000, -1))
    assert refusal(world) == "disk_space"
    monkeypatch.setattr(Ground, "free", lambda self: (10**12, 0))
    assert refusal(world) == "disk_space"
    assert not world.root.exists()


def test_directory_markers_are_no_files(world: World) -> None:
    world.store.objects.update(MemoryStore({"files/": b"", "files/a/": b"", "files/a/b": b"x"}).objects)
    world.run()
    assert read(world.root) == {"a/b": b"x"}
    world.store.objects.update(MemoryStore({"files/c/": b"content"}).objects)
    assert refusal(world) == "hostile_key"


def test_only_markers_is_an_empty_source(world: World) -> None:
    world.store.objects.update(MemoryStore({"files/": b""}).objects)
    assert refusal(world, allow_empty=False) == "source_empty"


@pytest.mark.parametrize("name", [b"bad\xff", b"line\nbreak"])
def test_file_names_that_cannot_be_keys(world: World, name: bytes) -> None:
    world.root.mkdir()
    Path(os.fsdecode(os.fsencode(world.root) + b"/" + name)).write_bytes(b"x")
    assert refusal(world, direction="push") == "hostile_name"
    assert not world.store.objects


def test_bucket_keys_below_a_file_without_delete(world: World) -> None:
    world.root.mkdir()
    fill(world.root, {"a": b"x"})
    world.store.objects.update(MemoryStore({"files/a/b": b"x"}).objects)
    assert refusal(world, direction="push") == "hostile_key"


def test_a_directory_swapped_for_a_link_leads_nowhere(tmp_path: Path) -> None:
    """What a run as root must not fall for: the owner of the tree replaces a directory by a link after the listing."""
    for name in ("tree", "kept", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "tree/folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "partial").write_bytes(b"x")
    with Folder(str(tmp_path / "tree")) as root, Folder(str(tmp_path / "kept")) as kept:
        with pytest.raises(Refused):
            root.place(str(tmp_path / "partial"), b"folder/passwd", kept)
        with pytest.raises(Refused):
            root.set_facts(b"folder/passwd", 0o777, None, None)
        with pytest.raises(Refused):
            root.move_to(b"folder/passwd", kept)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_versions_kept_aside_do_not_replace_each_other(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "kept").mkdir()
    with Folder(str(tmp_path / "tree")) as root, Folder(str(tmp_path / "kept")) as kept:
        for data in (b"one", b"two"):
            fill(tmp_path / "tree", {"a/b": data})
            assert root.move_to(b"a/b", kept)
        assert not root.move_to(b"a/b", kept)
    assert read(tmp_path / "kept") == {"a/b": b"one", "a/b.1": b"two"}


def test_unreadable_state_is_replaced(world: World) -> None:
    world.store.objects.update(MemoryStore({"files/a": b"one"}).objects)
    world.run()
    state = Path(f"{world.root}.aside/state.sqlite")
    state.write_bytes(b"garbage" * 1000)
    assert not world.run()["changed"]
    world.store.put("files/b", b"two")
    world.run()
    assert sqlite3.connect(state).execute("SELECT count(*) FROM hashes").fetchone() == (2,)


def test_files_are_not_read_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.store.objects.update(MemoryStore({"files/a": b"one", "files/b": b"two"}).objects)
    world.run()
    hashed: list[bytes] = []
    compare = "ansible_collections.fileforge.ops.plugins.module_utils._objectstore.compare.hash_file"
    monkeypatch.setattr(compare, lambda path, *rest: (hashed.append(path), hash_file(path, *rest))[1])
    world.run()
    assert not hashed
    file = world.root / "a"
    facts = file.stat()
    file.write_bytes(b"eno")
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert world.run()["changed"], "same size and time stamp, but written to"
    assert file.read_bytes() == b"one" and len(hashed) == 1
    world.run(verify=True)
    assert len(hashed) == 3


def test_damaged_objects_are_counted_and_nothing_is_removed(world: World) -> None:
    world.root.mkdir()
    fill(world.root, {"extra": b"stays"})
    world.store.objects.update(MemoryStore({"files/a": b"one", "files/b": b"two"}).objects)
    world.store.objects["files/a"].metadata = {"sha256": "0" * 64}
    with pytest.raises(IntegrityError) as caught:
        world.run()
    assert caught.value.state["damaged_keys"] == ["files/a"]
    assert read(world.root) == {"extra": b"stays", "b": b"two"}


def test_push_of_a_file_that_changes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.root.mkdir()
    fill(world.root, {"a": b"one"})
    monkeypatch.setattr(world.store, "sweep_uploads", lambda *args: (world.root / "a").write_bytes(b"two") and [])
    with pytest.raises(IntegrityError) as caught:
        world.run(direction="push")
    assert caught.value.state["reason"] == "changed" and not world.store.objects


def test_push_of_a_tree_in_use_forgets_files_that_are_gone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.root.mkdir()
    fill(world.root, {"a": b"one", "gone": b"two"})

    def hash_late(path: bytes, *rest: t.Any) -> t.Any:
        if path.endswith(b"gone"):
            os.unlink(path)
        return hash_file(path, *rest)

    monkeypatch.setattr("ansible_collections.fileforge.ops.plugins.module_utils._objectstore.compare.hash_file", hash_late)
    world.run(direction="push")
    assert world.store.below("files/") == {"a": b"one"}


def test_a_run_that_was_killed_after_its_last_file_is_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plan must not come back when one of its files is missing again later."""
    world.store.objects.update(MemoryStore({f"files/{number}": b"one" for number in range(5)}).objects)
    with monkeypatch.context() as patched:
        patched.setattr(Inventory, "end", lambda self, file: None)
        first = world.run()["plan"]
    assert not world.run()["changed"]
    (world.root / "1").unlink()
    later = world.run()["plan"]
    assert [step["count"] for step in later["steps"]] == [1] and later["digest"] != first["digest"]


def test_other_file_systems_inside_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mounted").mkdir()
    with pytest.raises(Refused) as caught:
        Inventory()._scan_folder(os.fsencode(tmp_path), b"", -1, b"", [], lambda count: None)
    assert caught.value.state["reason"] == "mount_inside"


def test_second_run_at_the_same_time_is_refused(world: World) -> None:
    world.store.objects.update(MemoryStore({"files/a": b"one"}).objects)
    world.run()
    with world_lock(world):
        assert refusal(world) == "locked"
        world.run(check=True)
    world.run()


def world_lock(world: World) -> t.ContextManager[None]:
    return Ground(str(world.root), None).locked()


@pytest.mark.parametrize(
    "option, value",
    [
        ("path", "relative"),
        ("path", "/"),
        ("aside", "/"),
        ("aside", "relative"),
        ("prefix", "/files"),
        ("prefix", "a//b"),
        ("direction", "sideways"),
        ("max_delete_percent", 101),
        ("max_delete_percent", -1),
        ("jobs", 0),
        ("owner", "no-such-user-here"),
        ("group", "no-such-group-here"),
    ],
)
def test_options_that_cannot_be_meant(world: World, option: str, value: t.Any) -> None:
    with pytest.raises(InvalidOption) as caught:
        world.run(**{option: value})
    assert caught.value.state["option"] == option


def test_aside_must_not_hold_the_tree(world: World) -> None:
    for aside in (world.root, world.place):
        with pytest.raises(InvalidOption):
            world.run(aside=str(aside))


def test_pushing_needs_a_prefix(world: World) -> None:
    with pytest.raises(InvalidOption):
        world.run(direction="push", prefix="")


def test_rows_come_in_batches_of_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible_collections.fileforge.ops.plugins.module_utils._objectstore.inventory.BATCH", 3)
    for count in range(8):
        inventory = Inventory()
        inventory.insert("listed", [(b"%d" % number, number, "e") for number in range(count)])
        assert [row[1] for row in inventory.rows("SELECT path, size FROM listed WHERE true")] == list(range(count))
        inventory.close()


def test_operating_system_errors_are_explained(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.store.objects.update(MemoryStore({"files/a": b"one"}).objects)

    def full(*args: t.Any, **kwargs: t.Any) -> None:
        raise OSError(28, "No space left on device", "partial/0")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OpsError, match="No space left") as caught:
        world.run()
    assert "free some space" in caught.value.hint and read(world.root) == {}


def test_owner_only_by_root(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module.os, "geteuid", lambda: 4711)
    assert refusal(world, owner="0") == "not_privileged"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_owner_and_group(world: World) -> None:
    world.store.objects.update(MemoryStore({"files/a/b": b"one"}).objects)
    world.run()
    done = world.run(owner="12345", group="23456")
    assert done["changes"] == {"set": ["a/b"]}
    facts = (world.root / "a/b").stat()
    assert (facts.st_uid, facts.st_gid) == (12345, 23456)
    assert not world.run(owner="12345", group="23456")["changed"]
    world.store.put("files/a/b", b"new")
    world.store.put("files/c/d", b"new")
    world.run(owner="12345", group="23456")
    for name in ("a/b", "c", "c/d"):
        assert (world.root / name).stat().st_uid == 12345
    world.store.put("files/a/b", b"newer")
    world.run()
    assert (world.root / "a/b").stat().st_uid == 12345, "a replaced file keeps its owner"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("made", [1, 2], ids=["the tree", "a folder in it"])
def test_a_killed_run_leaves_no_folder_that_its_owner_cannot_use(world: World, made: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kill falls between the directory's making and its giving away."""
    world.store.objects.update(MemoryStore({"files/a/b": b"one"}).objects)
    given = os.fchown
    calls = []

    def killed(handle: int, *owner: int) -> None:
        calls.append(handle)
        if len(calls) == made:
            raise KeyboardInterrupt
        given(handle, *owner)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "fchown", killed)
        world.run(owner="12345")
    assert len(calls) == made and not (world.root / "a/b").exists()
    world.run(owner="12345")
    for path in (world.root, world.root / "a", world.root / "a/b"):
        assert path.stat().st_uid == 12345
    assert (world.root / "a").stat().st_mode & 0o7777 == 0o755


def test_tree_closes_its_database(world: World) -> None:
    with Tree(t.cast(Store, world.store), world.options()) as tree:
        pass
    with pytest.raises(sqlite3.ProgrammingError):
        tree.inventory.count("local")
