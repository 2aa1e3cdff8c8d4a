# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a restore: what changes its digest, what must not, and what is refused before anything is touched."""

from __future__ import annotations

import dataclasses
import io
import os
import types
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._archive import writer
from ansible_collections.fileforge.ops.plugins.module_utils._archive.index import Archive, BackupIndex
from ansible_collections.fileforge.ops.plugins.module_utils._backup import restore_preflight as preflight
from ansible_collections.fileforge.ops.plugins.module_utils._backup import restore_state as state
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_layout import Layout
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_plan import (
    Chosen,
    Facts,
    RestoreOptions,
    build_plan,
    check_new_timeline,
    check_overlap,
    next_timeline,
    place_tablespaces,
)
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_recover import Replay
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, InvalidOption, NotFound, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import ObjectInfo, S3Options
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import Control, ServerOptions

VERSION = "PG_15_202209061"
SYSTEM = "7300000000000000001"


def archive(key: str, names: t.Sequence[str], oid: int | None = None, location: str | None = None) -> tuple[Archive, bytes]:
    blob = io.BytesIO()
    with writer.ArchiveWriter(blob.write) as made:
        for name in names:
            made.add(writer.Entry(name, lambda: writer.BytesSource(b"x" * 1000, 0o600, 0, 0, 0), size=1000))
        written = made.finish()
    fields = {field.name: getattr(written, field.name) for field in dataclasses.fields(written)}
    return Archive(key=key, oid=oid, location=location, etag="e", version_id=None, **fields), blob.getvalue()


def index(location: str = "/srv/space") -> BackupIndex:
    data, _blob = archive("base/n_base.tar.gz", ["PG_VERSION", "postgresql.conf", "base/1/1", "global/pg_control"])
    space, _blob = archive("base/n_base.tblspc-16384.tar.gz", [f"{VERSION}/5/16390"], 16384, location)
    return BackupIndex(
        name="n",
        label="",
        started="2026-11-23T14:05:00.000000+00:00",
        stopped="2026-11-23T14:06:00.000000+00:00",
        start_lsn="0/2000028",
        stop_lsn="0/3000028",
        timeline=1,
        start_segment="000000010000000000000002",
        stop_segment="000000010000000000000003",
        system_identifier=SYSTEM,
        version_num=150020,
        catalog_version=202209061,
        wal_segment_size=16 << 20,
        block_size=8192,
        checksums=True,
        checksum_failures=(),
        manifest_key="m",
        archives=(data, space),
    )


def options(**changes: t.Any) -> RestoreOptions:
    base: dict[str, t.Any] = {
        "s3": S3Options(bucket="b"),
        "data_directory": "/var/lib/pg/data",
        "target_time": "2026-11-23T14:10:00Z",
        "server": ServerOptions(owner="postgres"),
    }
    return RestoreOptions(**{**base, **changes})


def chosen(made: RestoreOptions | None = None, **changes: t.Any) -> Chosen:
    made = made or options()
    base: dict[str, t.Any] = {
        "backup": "n",
        "key": "base/n_base.tar.gz",
        "size": 1000,
        "index": index(),
        "replay": Replay(1, "2026-11-23T14:10:00.000000+00:00", ["000000010000000000000002"], 100, 16 << 20),
        "tablespaces": place_tablespaces(made, index()),
        "system_identifier": SYSTEM,
        "version_num": 150020,
        "last_transaction": None,
        "histories": (),
        "wal_size": 16 << 20,
        "new_timeline": 2,
    }
    return Chosen(**{**base, **changes})


OLD = Facts(("/var/lib/pg/data",), False)
NONE = Facts((), False)


def digest(made: RestoreOptions, found: Chosen, facts: Facts = OLD) -> str:
    return build_plan(made, found, facts).digest


def test_the_same_world_has_the_same_digest() -> None:
    assert digest(options(), chosen()) == digest(options(), chosen())


@pytest.mark.parametrize(
    "changes",
    [
        {"jobs": 9},
        {"delta": False},
        {"stop_running": True},
        {"force": True},
        {"interpreter": "/opt/python"},
        {"s3": S3Options(bucket="b", access_key="other", secret_key="other")},
    ],
)
def test_how_it_is_done_is_not_in_the_digest(changes: dict[str, t.Any]) -> None:
    assert digest(options(**changes), chosen()) == digest(options(), chosen())


def test_what_the_archive_knows_later_is_not_in_the_digest() -> None:
    later = chosen(last_transaction="2026-11-23T14:09:00.000000+00:00", warnings=("w",), histories=("00000001.history",))
    assert digest(options(), later) == digest(options(), chosen())


@pytest.mark.parametrize(
    ("made", "found", "facts"),
    [
        ({"data_directory": "/other"}, {}, OLD),
        ({"scratch": True}, {}, OLD),
        ({"keep_old": False}, {}, OLD),
        ({"server": ServerOptions(port=5433)}, {}, OLD),
        ({"server": ServerOptions(control=Control.SYSTEMD, service="pg")}, {}, OLD),
        ({}, {"replay": Replay(1, "2026-11-23T14:11:00.000000+00:00", ["000000010000000000000002"], 100, 16 << 20)}, OLD),
        ({}, {"replay": Replay(2, "2026-11-23T14:10:00.000000+00:00", ["000000010000000000000002"], 100, 16 << 20)}, OLD),
        ({}, {"new_timeline": 3}, OLD),
        ({}, {"backup": "m"}, OLD),
        ({}, {}, NONE),
        ({}, {}, Facts(("/var/lib/pg/data",), True)),
    ],
)
def test_another_world_has_another_digest(made: dict[str, t.Any], found: dict[str, t.Any], facts: Facts) -> None:
    assert digest(options(**made), chosen(**found), facts) != digest(options(), chosen())


def test_steps() -> None:
    plan = build_plan(options(keep_old=False), chosen(), Facts(("/var/lib/pg/data", f"/srv/space/{VERSION}"), True))
    actions = [step.action for step in plan.steps]
    assert actions == [*["fetch"] * 2, "stop", *["keep"] * 2, *["replace"] * 2, "start", "replay", "promote", *["remove"] * 2]
    assert plan.destructive
    assert not build_plan(options(), chosen(), NONE).destructive
    fetch = plan.steps[0]
    assert (fetch.object, fetch.count) == ("base/n_base.tar.gz", 4)
    assert build_plan(options(), chosen(), OLD, 1).digest != build_plan(options(), chosen(), OLD).digest


def test_a_plan_survives_being_written_down() -> None:
    plan = build_plan(options(), chosen(), OLD)
    attempt = state.Attempt({}, plan.as_dict(), state.SWAPPING, "n", {}, {}, "now")
    assert attempt.restored_plan().digest == plan.digest == attempt.digest
    assert attempt.irrevocable


def test_state_files(tmp_path: Path) -> None:
    directory = str(tmp_path / "data")
    assert state.load_attempt(directory) is None
    attempt = state.Attempt({"a": 1}, build_plan(options(), chosen(), OLD).as_dict(), state.FETCHING, "n", {}, {}, "now")
    state.save_attempt(directory, attempt)
    assert state.load_attempt(directory) == attempt
    assert not attempt.irrevocable
    for damage in ("{", "[]", '{"a": 1}', Path(state.attempt_path(directory)).read_text().replace("fetching", "dancing")):
        Path(state.attempt_path(directory)).write_text(damage)
        with pytest.raises(IntegrityError, match=r"restore\.json"):
            state.load_attempt(directory)
    state.drop_attempt(directory)
    state.drop_attempt(directory)
    assert state.load_attempt(directory) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [("2026-11-23 14:05", "ambiguous"), ("now", "not a date"), ("2026-13-01T00:00:00Z", "month")],
)
def test_bad_target(text: str, problem: str) -> None:
    with pytest.raises(InvalidOption, match=problem):
        options(target_time=text).request()


@pytest.mark.parametrize("text", ["0", "-1", "newest", "1.5"])
def test_bad_timeline(text: str) -> None:
    with pytest.raises(InvalidOption):
        options(target_timeline=text).request()


def test_equal_times_are_the_same_request() -> None:
    one, other = options(target_time="2026-11-23T14:10:00Z"), options(target_time="2026-11-23 16:10:00+02:00")
    assert one.request() == other.request()
    assert options(target_time="LATEST").request().target_time == "latest"
    assert options().request() != options(scratch=True).request()


# Tablespaces


def test_tablespaces_stay_where_they_were_but_not_for_a_copy() -> None:
    assert place_tablespaces(options(), index())[0].live == f"/srv/space/{VERSION}"
    assert place_tablespaces(options(scratch=True), index())[0].location == "/var/lib/pg/data.tablespaces/16384"


@pytest.mark.parametrize("key", ["16384", "/srv/space"])
def test_tablespaces_are_mapped_by_oid_or_location(key: str) -> None:
    assert place_tablespaces(options(tablespace_map={key: "/new"}), index())[0].location == "/new"


@pytest.mark.parametrize("mapping", [{"7": "/new"}, {"16384": "relative"}])
def test_wrong_mappings(mapping: dict[str, str]) -> None:
    with pytest.raises(InvalidOption):
        place_tablespaces(options(tablespace_map=mapping), index())


@pytest.mark.parametrize("place", ["/var/lib/pg/data", "/var/lib/pg/data/x", "/var/lib/pg"])
def test_overlapping_places(place: str) -> None:
    made = options(tablespace_map={"16384": place})
    with pytest.raises(InvalidOption, match="overlaps"):
        check_overlap(made, place_tablespaces(made, index()))


# Timelines


def catalog(histories: t.Iterable[int], segments: t.Mapping[int, t.Any] = types.MappingProxyType({})) -> t.Any:
    return types.SimpleNamespace(wal=types.SimpleNamespace(history_keys=dict.fromkeys(histories, "k"), segments=dict(segments)))


@pytest.mark.parametrize(
    ("histories", "timeline", "following"),
    [((), 1, 2), ((2,), 1, 3), ((2, 3, 5), 1, 4), ((2, 3), 3, 4), ((3,), 1, 2)],
)
def test_the_timeline_that_postgresql_will_choose(histories: tuple[int, ...], timeline: int, following: int) -> None:
    assert next_timeline(catalog(histories), timeline) == following


def test_an_occupied_timeline_is_refused_unless_nothing_is_archived() -> None:
    world = catalog((), {2: {7: object()}})
    with pytest.raises(Refused) as refused:
        check_new_timeline(world, options(), chosen())
    assert refused.value.state["reason"] == "archive_has_timeline"
    check_new_timeline(world, options(scratch=True), chosen())
    check_new_timeline(catalog((), {1: {7: object()}}), options(), chosen())


# Preflight


class OneObject:
    def __init__(self, blob: bytes, size: int | None = None, etag: str = "e") -> None:
        self.blob, self.size, self.etag = blob, len(blob) if size is None else size, etag

    def head(self, key: str) -> ObjectInfo:
        return ObjectInfo(key, self.size, self.etag)

    def get(self, key: str, *, start: int, length: int, etag: str) -> bytes:
        return self.blob[start : start + length]


class NoObject:
    def head(self, key: str) -> ObjectInfo:
        raise NotFound("no", reason="key")


def one_archive() -> tuple[Chosen, bytes]:
    made, blob = archive("k", ["a"])
    return chosen(index=dataclasses.replace(index(), archives=(made,)), tablespaces=()), blob


@pytest.mark.parametrize(
    ("store", "words"),
    [
        (lambda blob: OneObject(blob, size=3), "has 3 bytes"),
        (lambda blob: OneObject(blob, etag="other"), "not the one that was indexed"),
        (lambda blob: OneObject(blob[:-20] + b"\0" * 20), "k: the member"),
        (lambda blob: NoObject(), "not there"),
    ],
)
def test_damaged_archives(store: t.Callable[[bytes], t.Any], words: str) -> None:
    found, blob = one_archive()
    preflight.check_archives(t.cast(t.Any, OneObject(blob)), found)
    with pytest.raises(Refused, match=words) as refused:
        preflight.check_archives(store(blob), found)
    assert refused.value.state["reason"] == "archive_damaged"


def test_space_is_added_up_per_file_system(tmp_path: Path) -> None:
    wanted = [preflight.Need(str(tmp_path / "a"), 600), preflight.Need(str(tmp_path / "b" / "c"), 500)]
    assert preflight.check_space(wanted, free=lambda path: 1100) == [f"{tmp_path}: 1.1 KiB needed, 1.1 KiB free"]
    with pytest.raises(Refused) as refused:
        preflight.check_space(wanted, free=lambda path: 1099)
    assert (refused.value.state["reason"], refused.value.state["needed"]) == ("disk_space", 1100)


def test_what_is_fetched_already_needs_no_room(tmp_path: Path) -> None:
    made = options(data_directory=str(tmp_path / "data"), tablespace_map={"16384": str(tmp_path / "space")})
    found = chosen(made)
    layout = Layout(made.data_directory, "d", found.tablespaces)
    before = sum(need.bytes for need in preflight.needs(made, found, layout))
    new = Path(layout.new)
    new.mkdir()
    (new / "file").write_bytes(os.urandom(3000))
    assert before - sum(need.bytes for need in preflight.needs(made, found, layout)) >= 3000


def test_tablespaces_that_the_backup_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, restored, late = tmp_path / "data" / "pg_tblspc", tmp_path / "space", tmp_path / "late"
    folder.mkdir(parents=True)
    (tmp_path / "data" / "PG_VERSION").write_text("15\n")
    made = options(data_directory=str(tmp_path / "data"), tablespace_map={"16384": str(restored)})
    for place in (restored, late):
        for name in (VERSION, "PG_14_202107181", "PG_15_1.before-0"):
            (place / name / "5").mkdir(parents=True)
    (late / "PG_15_2").mkdir()
    for oid, target in (("16384", tmp_path / "elsewhere"), ("16400", late), ("16401", tmp_path / "gone"), ("16402", restored)):
        (folder / oid).symlink_to(target)
    (folder / "16403").mkdir()
    assert preflight.younger_tablespaces(made, chosen(made)) == (str(late / VERSION),)
    assert preflight.younger_tablespaces(dataclasses.replace(made, scratch=True), chosen(made)) == ()
    assert preflight.younger_tablespaces(options(), chosen()) == ()
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    with pytest.raises(Refused) as refused:
        preflight.younger_tablespaces(made, chosen(made))
    assert refused.value.state["reason"] == "data_directory_mount"


def test_identity(tmp_path: Path) -> None:
    preflight.check_identity(options(data_directory=str(tmp_path / "none")), chosen())
    preflight.check_identity(options(system_identifier=SYSTEM), chosen())
    with pytest.raises(Refused) as refused:
        preflight.check_identity(options(system_identifier="7"), chosen())
    assert refused.value.state["reason"] == "wrong_system_identifier"
    (tmp_path / "PG_VERSION").write_text("15")
    preflight.check_identity(options(data_directory=str(tmp_path)), chosen())  # its control file is gone: nothing to compare


def test_a_backup_without_configuration_needs_one() -> None:
    data, _blob = archive("k", ["PG_VERSION"])
    with pytest.raises(Refused) as refused:
        preflight._check_configuration(options(), data)
    assert refused.value.state["reason"] == "config_missing"
    with pytest.raises(InvalidOption):
        preflight._check_configuration(options(server=ServerOptions(config_file="/there/is/none")), data)
    preflight._check_configuration(options(), index().data_directory)


@pytest.mark.parametrize("path", ["relative", "/"])
def test_impossible_data_directories(path: str) -> None:
    with pytest.raises(InvalidOption):
        preflight._check_data_directory(path)


def test_other_things_are_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preflight._check_data_directory(str(tmp_path))  # empty
    (tmp_path / "letter").write_text("x")
    for path in (tmp_path, tmp_path / "letter"):
        with pytest.raises(Refused) as refused:
            preflight._check_data_directory(str(path))
        assert refused.value.state["reason"] == "not_a_data_directory"
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    with pytest.raises(Refused) as refused:
        preflight._check_data_directory(str(tmp_path))
    assert refused.value.state["reason"] == "data_directory_mount"
