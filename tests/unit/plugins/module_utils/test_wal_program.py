# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The WAL program and its installation, as far as they need no bucket (the integration tests have one)."""

from __future__ import annotations

import ast
import gzip
import json
import os
import shlex
import subprocess
import sys
import threading
import typing as t
from pathlib import Path

import botocore.retries.standard
import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup import wal_install, wal_program
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import S3Options
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import wal
from hypothesis import given
from hypothesis import strategies as st

from tests.lab.faulty_http import Answer, FaultyServer
from tests.unit.plugins.module_utils.wal_builder import SMALL, Wal

OPTIONS = S3Options("bucket", "http://127.0.0.1:9", access_key="key", secret_key="very secret", attempts=1, timeout=1)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "wal.json"
    wal_install.write_config(str(path), OPTIONS, "db1/", str(tmp_path / "spool"))
    return path


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    made = Wal()
    made.fill()
    path = tmp_path / made.name(1)
    path.write_bytes(made.segment(1))
    return path


class Bucket:
    """Objects in memory under the program's own interface."""

    def __init__(self, config: wal_program.Config) -> None:
        self.config = config
        self.lock = threading.Lock()

    files: t.ClassVar[dict[str, bytes]] = {}
    problem: t.ClassVar[wal_program.Problem | None] = None

    def store(self, name: str, data: bytes) -> None:
        if self.problem is not None:
            raise self.problem
        with self.lock:
            self.files[name] = data

    def find(self, name: str) -> dict[str, t.Any] | None:
        if self.problem is not None:
            raise self.problem
        return {"Key": f"db1/wal/{name}.gz"} if name in self.files else None

    def read(self, key: str) -> tuple[bytes, dict[str, str]]:
        return gzip.compress(self.files[key[len("db1/wal/") : -3]]), {}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> type[Bucket]:
    monkeypatch.setattr(wal_program, "Bucket", Bucket)
    monkeypatch.setattr(Bucket, "files", {})
    monkeypatch.setattr(Bucket, "problem", None)
    return Bucket


def test_it_stands_alone() -> None:
    """Nothing but the standard library at the top; boto3 only where the bucket is reached."""
    tree = ast.parse(wal_install.program_source())
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
    assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, "__future__"}
    assert "ansible_collections" not in "".join(ast.dump(node) for node in tree.body if isinstance(node, ast.ImportFrom))


def test_installation(tmp_path: Path) -> None:
    program = tmp_path / "lib" / "fileforge-wal"
    assert wal_install.install_program(str(program), sys.executable)
    assert not wal_install.install_program(str(program), sys.executable)
    assert program.read_text().startswith(f"#!{sys.executable}\n") and program.stat().st_mode & 0o777 == 0o755
    program.chmod(0o777)
    assert wal_install.install_program(str(program), sys.executable)
    done = subprocess.run(
        [str(program), "--config", str(tmp_path / "none"), "fetch", "x", "y"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 126 and done.stderr.startswith("fileforge-wal: ")


def test_configuration_is_private(config: Path, tmp_path: Path) -> None:
    assert config.stat().st_mode & 0o777 == 0o600
    assert not wal_install.write_config(str(config), OPTIONS, "db1/", str(tmp_path / "spool"))
    assert json.loads(config.read_text())["prefix"] == "db1/"
    config.chmod(0o640)
    with pytest.raises(wal_program.Problem):
        wal_program.Config(str(config))
    assert wal_install.write_config(str(config), OPTIONS, "db1/", str(tmp_path / "spool"))


def test_the_command_survives_the_shell_and_postgresql() -> None:
    command = wal_install.archive_command("/usr/bin/python3", "/lib dir/it's 100%", "/etc/a b.json")
    said = command.replace("%%", "\0").replace("%p", "pg_wal/0").replace("\0", "%")
    assert shlex.split(said) == ["/usr/bin/python3", "/lib dir/it's 100%", "--config", "/etc/a b.json", "push", "pg_wal/0"]
    for wrong in ("relative", "/new\nline"):
        with pytest.raises(InvalidOption):
            wal_install.archive_command(wrong, "/a", "/b")


@given(st.sampled_from([1 << power for power in range(20, 31)]), st.integers(0, 1 << 30), st.integers(0, 9))
def test_following_segments(size: int, number: int, count: int) -> None:
    number %= (1 << 64) // size - 10
    expected = [wal.segment_name(3, number + step, size) for step in range(1, count + 1)]
    assert wal_program.following(wal.segment_name(3, number, size), size, count) == expected


@given(st.binary(max_size=3000), st.integers(0, 3000))
def test_unpacking_is_whole_or_fails(data: bytes, cut: int) -> None:
    packed = gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :])
    assert wal_program.unpack(packed, 3000, "k") == data
    if 0 < cut < len(packed) and cut != len(gzip.compress(data[: len(data) // 2])):
        with pytest.raises(wal_program.Problem):
            wal_program.unpack(packed[:cut], 3000, "k")
    if data:
        with pytest.raises(wal_program.Problem):
            wal_program.unpack(packed, len(data) - 1, "k")


def test_statuses(config: Path, segment: Path, bucket: type[Bucket], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "target"
    fetch = ["--config", str(config), "fetch", segment.name, str(target)]
    assert wal_program.main(fetch) == 1 and capsys.readouterr().err == ""
    assert wal_program.main([*fetch, "--absent", "100"]) == 100 and capsys.readouterr().err == ""
    assert wal_program.main(["--config", str(config), "push", str(segment)]) == 0
    assert wal_program.main([*fetch, "--alone"]) == 0 and target.read_bytes() == segment.read_bytes()
    bucket.problem = wal_program.Problem(wal_program.UNAVAILABLE, "away")
    target.unlink()
    assert wal_program.main([*fetch, "--alone"]) == 150 and not target.exists()
    assert wal_program.main(["--config", str(config), "push", str(segment)]) == 50
    bucket.problem = None
    assert wal_program.main(["--config", str(config), "fetch", segment.name, str(tmp_path / "none" / "x"), "--alone"]) == 154
    assert wal_program.main(["--config", str(config), "fetch", "../etc/passwd", str(target)]) == 126
    assert wal_program.main([]) == 126 and wal_program.main(["--config", str(config), "dance"]) == 126
    bucket.files[segment.name] = segment.read_bytes()[:-1]
    assert wal_program.main([*fetch, "--alone"]) == 152


def test_the_restore_command_in_a_shell(config: Path, segment: Path, tmp_path: Path) -> None:
    """Nothing but an answer of the bucket is the end of WAL: not an interpreter that is missing, or cannot start."""
    program, broken = tmp_path / "fileforge-wal", tmp_path / "broken"
    program.write_text(f"import sys\nsys.exit(0 if sys.argv[-2] == {segment.name!r} else int(sys.argv[-3]))\n")
    broken.write_text("import there_is_no_such_module\n")

    def status(interpreter: str, path: Path, name: str) -> int:
        command = wal_install.restore_command(interpreter, str(path), str(config)).replace("%f", name).replace("%p", "x")
        return subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, capture_output=True, check=False).returncode

    assert status(sys.executable, program, segment.name) == 0
    assert status(sys.executable, program, "00000002.history") == 1
    for interpreter, path in (
        ("/bin/false", program),
        ("/nonexistent/python3", program),
        (sys.executable, broken),
        (sys.executable, tmp_path / "gone"),
        (sys.executable, tmp_path),
    ):
        assert status(interpreter, path, segment.name) > 125
    wal_install.install_program(str(program), sys.executable)
    assert status(sys.executable, program, "no name of a WAL file") == 126


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        ([Answer(200, b"<ListBucketResult/>")], 1),
        ([Answer(200, b"<html>Please sign in</html>")], 150),
        ([Answer(200, b"")], 150),
        ([Answer(429), Answer(408, b"<html/>"), Answer(200, b"<ListBucketResult/>")], 1),
        ([Answer(429), Answer(429), Answer(429), Answer(200, b"<ListBucketResult/>")], 150),
    ],
)
def test_only_a_list_can_be_empty(answers: list[Answer], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a proxy answers for the bucket is not the end of the WAL."""
    checker = getattr(botocore.retries.standard, "ThrottlingStatusCodeChecker", None)  # older ones do not know these statuses
    if checker is not None:
        monkeypatch.setattr(checker, "_THROTTLING_STATUS_CODES", [])
    monkeypatch.setattr(wal_program.random, "uniform", lambda least, most: 0)
    left = iter(answers)
    with FaultyServer(lambda request: next(left)) as server:
        options = S3Options("bucket", server.endpoint, access_key="key", secret_key="very secret", attempts=3, timeout=5)
        wal_install.write_config(str(tmp_path / "wal.json"), options, "", "")
        fetch = ["--config", str(tmp_path / "wal.json"), "fetch", "00000002.history", str(tmp_path / "x")]
        assert wal_program.main(fetch) == status


def test_a_defect_is_no_end_of_wal(config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(wal_program, "Bucket", lambda config: 1 / 0)
    assert wal_program.main(["--config", str(config), "fetch", "00000002.history", "x"]) == 126
    assert capsys.readouterr().err.count("\n") == 1
    assert wal_program.main(["--config", str(config), "push", "/pg_wal/00000002.history"]) == 26


def test_batches_and_their_records(config: Path, tmp_path: Path, bucket: type[Bucket]) -> None:
    made = Wal()
    for _number in range(4):
        made.fill()
    waldir = tmp_path / "pg_wal"
    (waldir / "archive_status").mkdir(parents=True)
    for name, data in made.segments().items():
        (waldir / name).write_bytes(data)
        (waldir / "archive_status" / f"{name}.ready").touch()
    names = sorted(made.segments())
    (waldir / names[3]).write_bytes(b"not yet whole")
    push = ["--config", str(config), "push"]
    assert wal_program.main([*push, str(waldir / names[0])]) == 0
    assert sorted(bucket.files) == names[:3]
    bucket.problem = wal_program.Problem(wal_program.UNAVAILABLE, "away")
    assert wal_program.main([*push, str(waldir / names[1])]) == 0  # remembered
    assert wal_program.main([*push, str(waldir / names[1])]) == 50  # once
    content = (waldir / names[2]).read_bytes()
    (waldir / "new").write_bytes(content)
    os.replace(waldir / "new", waldir / names[2])
    assert wal_program.main([*push, str(waldir / names[2])]) == 50  # another file under the same name
    assert wal_program.main([*push, str(waldir / names[3])]) == 52


def test_segments_are_what_their_names_say(config: Path) -> None:
    made = Wal()
    made.fill()
    data, settings = made.segment(1), wal_program.Config(str(config))
    wal_program.check_segment(made.name(1), data, settings)
    wal_program.check_segment(wal.segment_name(2, 1, SMALL), data, settings)  # a newer timeline's copy begins like this
    settings.segment_size = 1 << 24
    for name, wrong in ((made.name(1), data), (made.name(2), data), (made.name(1), data[:-1]), (made.name(1), bytes(SMALL))):
        with pytest.raises(wal_program.Problem):
            wal_program.check_segment(name, wrong, settings)
        settings.segment_size = 0


def test_the_checksum_of_records() -> None:
    assert wal_program.crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("left", [0, 8, 16, 24, 56, 4000])
def test_tablespaces_in_a_segment(left: int) -> None:
    """Wherever a record lies, also across pages."""
    made, long = Wal(), "/" + "x" * 300
    made.filler(8192 - 40 - left if left < 4000 else left)
    made.tablespace(16400, "/srv/one")
    made.tablespace(16401, long)
    made.tablespace(16402, "/srv/wrong", right=False)
    made.tablespace(16403, "pg_tblspc/in_place")
    made.fill()
    stream = wal_program.stream_of(made.segment(1))
    assert wal_program.created_tablespaces(stream) == [(16400, "/srv/one"), (16401, long)]


def test_what_a_recycled_segment_held_is_not_read() -> None:
    older, newer = Wal(first=1), Wal(first=2)
    older.filler(20000)
    older.tablespace(16400, "/srv/one")
    older.fill()
    newer.filler(9000)
    recycled = newer.segment(2)[: 2 * 8192] + older.segment(1)[2 * 8192 :]
    assert wal_program.created_tablespaces(wal_program.stream_of(older.segment(1))) == [(16400, "/srv/one")]
    assert wal_program.created_tablespaces(wal_program.stream_of(recycled)) == []


class Replayed:
    """A recovery for which segments are fetched by the rules for tablespaces."""

    def __init__(self, path: Path, bucket: type[Bucket], copy: bool) -> None:
        self.location, self.own, self.bucket = path / "space", path / "own", bucket
        self.directory = self.location / "PG_15_202209061"
        self.directory.mkdir(parents=True)
        rules = {
            "copy": copy,
            "oids": [16399],
            "own": [str(self.own)],
            "version_directory": self.directory.name,
            "notes": str(path / "notes"),
        }
        self.config, self.target = str(path / "replay.json"), path / "target"
        wal_install.write_config(self.config, OPTIONS, "db1/", "", tablespaces=rules)

    def fetch(self, made: Wal, number: int) -> int:
        self.bucket.files[made.name(number)] = made.segment(number)
        self.target.unlink(missing_ok=True)
        status = wal_program.main(["--config", self.config, "fetch", made.name(number), str(self.target)])
        assert self.target.exists() == (status == 0)
        return status


def created(location: Path, before: int = 1000, oid: int = 16400) -> Wal:
    made = Wal()
    made.fill(before)
    made.tablespace(oid, str(location))
    made.fill()
    return made


def test_a_copy_makes_no_tablespace(tmp_path: Path, bucket: type[Bucket], capsys: pytest.CaptureFixture[str]) -> None:
    replayed = Replayed(tmp_path, bucket, copy=True)
    assert replayed.fetch(created(replayed.location), 1) == wal_program.TABLESPACE > 125
    said = capsys.readouterr().err
    assert f"tablespace 16400, younger than the base backup, at {replayed.location}" in said and said.count("\n") == 1
    other = Wal()
    other.fill()
    assert replayed.fetch(other, 1) == 0
    assert replayed.fetch(created(replayed.location, oid=16399), 1) == 0  # the backup has it


def test_a_record_that_two_segments_share(tmp_path: Path, bucket: type[Bucket]) -> None:
    for left in (8, 40):
        replayed = Replayed(tmp_path / str(left), bucket, copy=True)
        made = created(replayed.location, left)
        assert replayed.fetch(made, 1) == 0
        assert replayed.fetch(made, 2) == wal_program.TABLESPACE


def test_replay_makes_no_tablespace_over_files(tmp_path: Path, bucket: type[Bucket]) -> None:
    replayed = Replayed(tmp_path, bucket, copy=False)
    precious = replayed.directory / "precious"
    precious.touch()
    made = created(replayed.location)
    assert replayed.fetch(made, 1) == wal_program.TABLESPACE
    precious.unlink()
    assert replayed.fetch(made, 1) == 0
    precious.touch()  # now it is replay's own, which may be started again
    assert replayed.fetch(made, 1) == 0
    (replayed.own / replayed.directory.name).mkdir(parents=True)
    (replayed.own / replayed.directory.name / "restored").touch()
    assert replayed.fetch(created(replayed.own), 1) == 0


def test_secrets_are_hidden(config: Path) -> None:
    text = wal_program.Config(str(config)).hide("a key and\nvery secret")
    assert text == "a *** and ***"
