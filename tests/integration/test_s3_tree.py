# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""s3_tree through real Ansible against a real S3 server, and against one that fails at a chosen moment."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import threading
import typing as t
from pathlib import Path

import pytest

from tests.lab.faulty_http import Answer, FaultyServer, Request

MIB = 1024 * 1024
OLD_PYTHON = "/usr/bin/python3"
PATIENCE = 600
"""Seconds that a held transfer may take: a slow machine must not open the gate."""


def content(number: int, size: int = 3000) -> bytes:
    return hashlib.sha256(str(number).encode()).digest() * (size // 32)


def fill(directory: Path, count: int = 30) -> dict[str, bytes]:
    """Files of different depths, sizes and modes."""
    files = {f"{'abc'[n % 3]}/{n % 5}/file {n}.bin": content(n, 500 * n) for n in range(count)}
    files.update({"empty": b"", "ünïcode/+ &%25?.txt": b"odd name", "c/big": content(1000, 20 * MIB)})
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o640 if "a/" in name else 0o755)
        os.utime(path, ns=(10**18 + len(data), 10**18 + len(data)))
    return files


def snapshot(directory: Path) -> dict[str, tuple[t.Any, ...]]:
    """Everything below a directory: content, mode, time; links as links."""
    found: dict[str, tuple[t.Any, ...]] = {}
    for path in sorted(directory.rglob("*")):
        facts = path.lstat()
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_file():
            found[name] = (hashlib.sha256(path.read_bytes()).hexdigest(), facts.st_mode & 0o7777, facts.st_mtime_ns)
        else:
            found[name] = ("folder",)
    return found


def files_of(directory: Path) -> dict[str, tuple[t.Any, ...]]:
    return {name: facts for name, facts in snapshot(directory).items() if facts[0] != "folder"}


def objects(s3: t.Any, bucket: str) -> dict[str, str]:
    pages = s3.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", [])}


def plan_of(result: dict[str, t.Any]) -> list[tuple[str, int | None]]:
    return [(step["action"], step.get("count")) for step in result["plan"]["steps"]]


@pytest.fixture
def source(place: Path, s3: t.Any, bucket: str, run_module: t.Any) -> Path:
    """A directory that was pushed to the prefix ``files`` of the bucket."""
    directory = place / "source"
    directory.mkdir()
    fill(directory)
    run_module("s3_tree", {**s3.options(bucket), "prefix": "files", "path": str(directory), "direction": "push"})
    return directory


@pytest.fixture
def options(s3: t.Any, bucket: str, place: Path) -> dict[str, t.Any]:
    return {**s3.options(bucket), "prefix": "files", "path": str(place / "target"), "s3_attempts": 2}


def touch(s3: t.Any, bucket: str, key: str, data: bytes, **metadata: str) -> None:
    s3.client().put_object(Bucket=bucket, Key=key, Body=data, Metadata=metadata)


# -- the usual course --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpreter", [None, OLD_PYTHON])
def test_pull(source: Path, options: dict[str, t.Any], run_module: t.Any, interpreter: str | None) -> None:
    python = {} if interpreter is None else {"interpreter": interpreter}
    target = Path(options["path"])
    planned = run_module("s3_tree", options, check=True, diff=True, **python)
    assert planned["changed"] and not target.exists() and not Path(f"{target}.aside").exists()
    assert plan_of(planned) == [("create", None), ("fetch", 33)]
    assert "file 7.bin" in planned["output"]

    done = run_module("s3_tree", options, **python)
    assert done["plan"]["digest"] == planned["plan"]["digest"]
    assert files_of(target) == files_of(source)
    assert [timing["phase"] for timing in done["timings"]] == ["list", "compare", "transfer", "aside"]
    assert done["timings"][2]["done"] == sum(path.stat().st_size for path in source.rglob("*") if path.is_file())

    again = run_module("s3_tree", options, **python)
    assert not again["changed"] and again["plan"]["steps"] == []
    verified = run_module("s3_tree", {**options, "verify": True}, **python)
    assert not verified["changed"]


def test_push(source: Path, s3: t.Any, bucket: str, options: dict[str, t.Any], run_module: t.Any) -> None:
    push = {**options, "path": str(source), "direction": "push"}
    found = objects(s3, bucket)
    assert {key.partition("/")[2] for key in found if key.startswith("files/")} == set(files_of(source))
    head = s3.client().head_object(Bucket=bucket, Key="files/c/big")
    assert head["Metadata"]["sha256"] == hashlib.sha256((source / "c/big").read_bytes()).hexdigest()
    assert head["Metadata"]["mode"] == "0755"
    text = gzip.decompress(s3.client().get_object(Bucket=bucket, Key="files.tree.jsonl.gz")["Body"].read()).decode()
    entries = {entry["path"]: entry for entry in map(json.loads, text.splitlines())}
    assert set(entries) == set(files_of(source))
    assert f'"{entries["c/big"]["etag"]}"' == found["files/c/big"]

    assert not run_module("s3_tree", push)["changed"]
    assert not run_module("s3_tree", {**push, "verify": True})["changed"]
    (source / "new").write_bytes(b"new")
    (source / "empty").write_bytes(b"not any more")
    (source / "a/0/file 0.bin").unlink()
    planned = run_module("s3_tree", push, check=True)
    assert plan_of(planned) == [("upload", 1), ("replace", 1), ("write", 33)]
    assert objects(s3, bucket) == found
    done = run_module("s3_tree", push)
    assert done["plan"]["digest"] == planned["plan"]["digest"]
    now = objects(s3, bucket)
    assert "files/new" in now and "files/a/0/file 0.bin" in now
    assert now[f"{done['kept']}/empty"] == found["files/empty"]
    assert not run_module("s3_tree", push)["changed"]

    deleting = {**push, "delete": True}
    gone = run_module("s3_tree", deleting)
    assert plan_of(gone) == [("move_aside", 1), ("write", 33)]
    now = objects(s3, bucket)
    assert "files/a/0/file 0.bin" not in now and f"{gone['kept']}/a/0/file 0.bin" in now
    assert not run_module("s3_tree", deleting)["changed"]


def test_pull_makes_equal_and_keeps_what_it_removes(
    source: Path, options: dict[str, t.Any], run_module: t.Any, s3: t.Any, bucket: str
) -> None:
    target = Path(options["path"])
    run_module("s3_tree", options)
    (target / "c/big").write_bytes(b"overwritten")
    same_size = target / "b/1/file 1.bin"
    same_size.write_bytes(same_size.read_bytes()[::-1])
    os.utime(same_size, ns=(10**18 + 480, 10**18 + 480))
    (target / "a/0/file 15.bin").chmod(0o777)
    os.utime(target / "empty", ns=(5, 5))
    (target / "only here").mkdir()
    (target / "only here/file").write_bytes(b"kept")
    (target / "link").symlink_to("empty")
    planned = run_module("s3_tree", options, check=True)
    assert plan_of(planned) == [("replace", 2), ("move_aside", 1), ("set", 2)]
    assert planned["plan"]["destructive"]
    before = snapshot(target)
    done = run_module("s3_tree", options)
    assert done["plan"]["digest"] == planned["plan"]["digest"]
    assert "link" in done["output"]
    assert {name: facts for name, facts in files_of(target).items() if name != "link"} == files_of(source)
    assert not (target / "only here").exists() and (target / "link").is_symlink()
    kept = files_of(Path(done["kept"]))
    assert {name: kept[name] for name in kept} == {name: before[name] for name in kept}
    assert set(kept) == {"only here/file", "c/big", "b/1/file 1.bin"}
    assert not run_module("s3_tree", options)["changed"]


def test_without_delete_nothing_is_removed(source: Path, options: dict[str, t.Any], run_module: t.Any) -> None:
    target = Path(options["path"])
    target.mkdir()
    (target / "mine").write_bytes(b"mine")
    done = run_module("s3_tree", {**options, "delete": False})
    assert plan_of(done) == [("fetch", 33)] and (target / "mine").read_bytes() == b"mine"


def test_file_where_a_directory_belongs_and_the_reverse(source: Path, options: dict[str, t.Any], run_module: t.Any) -> None:
    target = Path(options["path"])
    target.mkdir()
    (target / "a").write_bytes(b"in the way")
    (target / "empty/deep/er").mkdir(parents=True)
    (target / "empty/deep/file").write_bytes(b"in the way too")
    done = run_module("s3_tree", {**options, "max_delete_percent": 100, "delete": False})
    assert files_of(target) == files_of(source)
    assert set(files_of(Path(done["kept"]))) == {"a", "empty/deep/file"}
    assert not run_module("s3_tree", options)["changed"]


def test_objects_without_manifest_or_metadata(options: dict[str, t.Any], run_module: t.Any, s3: t.Any, bucket: str) -> None:
    """What aws s3 cp wrote: an MD5 as ETag, or that of an upload in parts of a size nobody knows."""
    client = s3.client()
    touch(s3, bucket, "files/plain", b"plain")
    upload = client.create_multipart_upload(Bucket=bucket, Key="files/parts")["UploadId"]
    pieces = [content(1, 5 * MIB + 64), content(2, 6 * MIB), content(3, 100)]
    parts = []
    for number, piece in enumerate(pieces, 1):
        etag = client.upload_part(Bucket=bucket, Key="files/parts", UploadId=upload, PartNumber=number, Body=piece)["ETag"]
        parts.append({"PartNumber": number, "ETag": etag})
    client.complete_multipart_upload(Bucket=bucket, Key="files/parts", UploadId=upload, MultipartUpload={"Parts": parts})
    done = run_module("s3_tree", options)
    assert (Path(options["path"]) / "parts").read_bytes() == b"".join(pieces)
    assert "1 objects have no checksum" in done["output"]
    assert not run_module("s3_tree", options)["changed"]
    assert not run_module("s3_tree", {**options, "verify": True})["changed"]
    (Path(options["path"]) / "plain").write_bytes(b"PLAIN")
    assert plan_of(run_module("s3_tree", options)) == [("replace", 1)]


def test_aside_inside_a_mount_point(source: Path, options: dict[str, t.Any], run_module: t.Any) -> None:
    options = {**options, "aside": f"{options['path']}/.aside"}
    run_module("s3_tree", options)
    target = Path(options["path"])
    (target / "extra").write_bytes(b"extra")
    done = run_module("s3_tree", options)
    assert plan_of(done) == [("move_aside", 1)]
    assert (Path(done["kept"]) / "extra").read_bytes() == b"extra" and done["kept"].startswith(f"{target}/.aside/")
    assert not run_module("s3_tree", options)["changed"]


# -- refusals: nothing may be touched ----------------------------------------------------------------------------------


def refused(run_module: t.Any, options: dict[str, t.Any], reason: str, **run: t.Any) -> dict[str, t.Any]:
    """Run once in check mode and once for real; both must refuse, and the target must stay as it is."""
    target = Path(options["path"])
    before = (target.exists(), snapshot(target), Path(f"{target}.aside").exists())
    for check in (True, False):
        result = run_module("s3_tree", options, check=check, expect_failure=True, **run)
        assert result["reason"] == reason, result
        assert result["msg"] and "Traceback" not in result["output"]
    assert (target.exists(), snapshot(target), Path(f"{target}.aside").exists()) == before
    return t.cast("dict[str, t.Any]", result)


@pytest.fixture
def filled(options: dict[str, t.Any]) -> Path:
    """A target that holds files of its own."""
    target = Path(options["path"])
    target.mkdir()
    for number in range(20):
        (target / f"upload {number}").write_bytes(content(number))
    return target


def test_refuses_an_empty_source(filled: Path, options: dict[str, t.Any], run_module: t.Any, s3: t.Any, bucket: str) -> None:
    touch(s3, bucket, "files-of-others/x", b"x")
    result = refused(run_module, options, "source_empty")
    assert "nothing was touched" in result["msg"] and bucket in result["msg"]
    result = refused(run_module, {**options, "allow_empty": True}, "too_many_removals")
    assert (result["removals"], result["existing"]) == (20, 20)


def test_refuses_to_push_an_empty_directory(
    source: Path, options: dict[str, t.Any], run_module: t.Any, s3: t.Any, bucket: str
) -> None:
    before = objects(s3, bucket)
    Path(options["path"]).mkdir()
    refused(run_module, {**options, "direction": "push", "delete": True}, "source_empty")
    assert objects(s3, bucket) == before


def test_refuses_too_many_removals(source: Path, filled: Path, options: dict[str, t.Any], run_module: t.Any) -> None:
    result = refused(run_module, options, "too_many_removals")
    assert result["removals"] == 20 and "20 of 20" in result["msg"] and "max_delete_percent=10" in result["msg"]
    done = run_module("s3_tree", {**options, "max_delete_percent": 100})
    assert len(files_of(Path(done["kept"]))) == 20


@pytest.mark.parametrize(
    "key, words",
    [
        ("x/../../../etc/cron.d/evil", "'..'"),
        ("/etc/passwd", "absolute"),
        ("a//b", "empty component"),
        ("a/./b", "'.'"),
        ("line\nbreak", "control character"),
        ("esc\x1b[31m", "control character"),
        ("n" * 300, "longer than 255"),
        ("both/below", "directory"),
    ],
)
def test_refuses_hostile_keys(filled: Path, options: dict[str, t.Any], run_module: t.Any, key: str, words: str) -> None:
    """Listed by a scripted server: real ones refuse to store some of these."""
    keys = ["fine", "both", key]

    def script(request: Request) -> Answer:
        if request.method == "HEAD":
            return Answer(404)
        escaped = [item.encode("unicode_escape").decode().replace("\\n", "&#10;").replace("\\x1b", "%1B") for item in keys]
        contents = "".join(f"<Contents><Key>files/{item}</Key><Size>1</Size><ETag>e</ETag></Contents>" for item in escaped)
        head = '<?xml version="1.0"?><ListBucketResult><EncodingType>url</EncodingType>'
        return Answer(200, f"{head}{contents}</ListBucketResult>".encode())

    with FaultyServer(script) as server:
        result = refused(run_module, {**options, "s3_endpoint": server.endpoint}, "hostile_key")
    assert words in result["msg"]
    assert "\x1b" not in result["msg"] and "\n" not in result["msg"]


def test_refuses_links_in_the_way(source: Path, options: dict[str, t.Any], run_module: t.Any, place: Path) -> None:
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    target = Path(options["path"])
    target.mkdir()
    (target / "a").symlink_to(elsewhere)
    result = refused(run_module, options, "link_in_way")
    assert "symbolic link" in result["msg"] and list(elsewhere.iterdir()) == []


def test_refuses_what_is_not_a_directory(source: Path, options: dict[str, t.Any], run_module: t.Any, place: Path) -> None:
    (place / "file").write_bytes(b"")
    (place / "real").mkdir()
    (place / "link").symlink_to(place / "real")
    for name, reason in (("file", "not_a_directory"), ("link", "symbolic_link")):
        result = run_module("s3_tree", {**options, "path": str(place / name)}, expect_failure=True)
        assert result["reason"] == reason
    assert list((place / "real").iterdir()) == []
    shared_memory = {**options, "aside": "/dev/shm/fileforge-aside"}
    assert refused(run_module, shared_memory, "aside_other_file_system")["hint"]
    assert not Path("/dev/shm/fileforge-aside").exists()


def test_refuses_a_plan_that_changed(source: Path, options: dict[str, t.Any], run_module: t.Any, s3: t.Any, bucket: str) -> None:
    digest = run_module("s3_tree", options, check=True)["plan"]["digest"]
    touch(s3, bucket, "files/one more", b"one more")
    result = refused(run_module, {**options, "plan_digest": digest}, "plan_changed")
    assert result["plan"]["digest"] != digest
    done = run_module("s3_tree", {**options, "plan_digest": result["plan"]["digest"]})
    assert done["changed"]


@pytest.mark.parametrize(
    "wrong, code, words",
    [
        ({"s3_bucket": "no-such-bucket"}, "not_found", "no-such-bucket"),
        ({"s3_access_key": "WRONG"}, "access_denied", "access key"),
        ({"s3_secret_key": "wrong-secret"}, "access_denied", "secret key"),
        ({"s3_endpoint": "http://127.0.0.1:9"}, "unavailable", "http://127.0.0.1:9"),
    ],
)
def test_refuses_when_the_bucket_cannot_be_read(
    filled: Path, options: dict[str, t.Any], run_module: t.Any, wrong: dict[str, str], code: str, words: str
) -> None:
    before = snapshot(filled)
    result = run_module("s3_tree", {**options, **wrong}, expect_failure=True)
    assert result["code"] == code and words in result["msg"] and result["hint"]
    assert "wrong-secret" not in json.dumps(result)
    assert snapshot(filled) == before


def test_reader_cannot_push(s3: t.Any, bucket: str, place: Path, run_module: t.Any) -> None:
    directory = place / "source"
    directory.mkdir()
    (directory / "file").write_bytes(b"x")
    args = {**s3.options(bucket, reader=True), "prefix": "files", "path": str(directory), "direction": "push"}
    result = run_module("s3_tree", args, expect_failure=True)
    assert result["code"] == "access_denied" and "files/file" in result["msg"]


# -- failures in the middle --------------------------------------------------------------------------------------------


class Gate:
    """Lets ``free`` transfers through and holds the others until told."""

    def __init__(self, method: str, free: int) -> None:
        self._method = method
        self._free = free
        self._lock = threading.Lock()
        self.open = threading.Event()
        self.passed = 0
        self.held = 0

    def __call__(self, request: Request) -> Answer | None:
        data = "/files/" in request.path and not request.query.get("list-type")
        if request.method == self._method and data and not self.open.is_set():
            with self._lock:
                hold = self.passed >= self._free
                self.passed += not hold
                self.held += hold
            if hold:
                self.open.wait(PATIENCE)
        return None


@pytest.mark.parametrize("who", ["module", "controller"])
def test_killed_pull_goes_on(
    source: Path, options: dict[str, t.Any], start_module: t.Any, run_module: t.Any, s3: t.Any, who: str
) -> None:
    target = Path(options["path"])
    target.mkdir()
    for number in range(5):
        (target / f"extra {number}").write_bytes(content(number))
    (target / "empty").write_bytes(b"replaced")
    options = {**options, "max_delete_percent": 90, "jobs": 3}
    gate = Gate("GET", 10)
    with FaultyServer(gate, s3.port) as server:
        slow = {**options, "s3_endpoint": server.endpoint, "s3_timeout": PATIENCE}
        planned = run_module("s3_tree", slow, check=True)["plan"]
        running = start_module("s3_tree", slow)
        running.wait_for(lambda: gate.held, timeout=PATIENCE, what="the gate to hold a transfer")
        locked = run_module("s3_tree", slow, expect_failure=True)
        assert locked["reason"] == "locked"
        running.kill_module() if who == "module" else running.kill_controller()
        gate.open.set()
        half = files_of(target)
        whole = files_of(source)
        assert 0 < sum(name in half and half[name] == whole[name] for name in whole) < len(whole)
        assert all(half[name] == whole[name] for name in half if name in whole and name != "empty")
        resumed = run_module("s3_tree", {**slow, "plan_digest": planned["digest"]})
    assert resumed["plan"]["digest"] == planned["digest"]
    assert "did not end" in resumed["plan"]["notes"][0]
    fetched = next(timing["done"] for timing in resumed["timings"] if timing["phase"] == "transfer")
    assert fetched < sum(step.get("bytes", 0) for step in planned["steps"] if step["action"] in ("fetch", "replace"))
    assert files_of(target) == whole
    kept = files_of(Path(resumed["kept"]))
    assert set(kept) == {"empty", *(f"extra {number}" for number in range(5))}
    assert not Path(f"{target}.aside/partial").exists()
    assert not run_module("s3_tree", options)["changed"]


def test_interrupted_plan_is_not_taken_over_by_another_world(
    source: Path, options: dict[str, t.Any], start_module: t.Any, run_module: t.Any, s3: t.Any, bucket: str
) -> None:
    gate = Gate("GET", 5)
    with FaultyServer(gate, s3.port) as server:
        slow = {**options, "s3_endpoint": server.endpoint, "s3_timeout": PATIENCE}
        digest = run_module("s3_tree", slow, check=True)["plan"]["digest"]
        running = start_module("s3_tree", slow)
        running.wait_for(lambda: gate.held, timeout=PATIENCE, what="the gate to hold a transfer")
        running.kill_module()
        gate.open.set()
        touch(s3, bucket, "files/new meanwhile", b"new")
        result = run_module("s3_tree", {**slow, "plan_digest": digest}, expect_failure=True)
        assert result["reason"] == "plan_changed"
        run_module("s3_tree", {**slow, "plan_digest": result["plan"]["digest"]})
    assert (Path(options["path"]) / "new meanwhile").read_bytes() == b"new"


def test_killed_push_goes_on(
    options: dict[str, t.Any], start_module: t.Any, run_module: t.Any, s3: t.Any, bucket: str, place: Path
) -> None:
    directory = place / "source"
    directory.mkdir()
    fill(directory)
    gate = Gate("PUT", 10)
    push = {**options, "path": str(directory), "direction": "push", "jobs": 3}
    with FaultyServer(gate, s3.port) as server:
        slow = {**push, "s3_endpoint": server.endpoint, "s3_timeout": PATIENCE}
        planned = run_module("s3_tree", slow, check=True)["plan"]
        running = start_module("s3_tree", slow)
        running.wait_for(lambda: gate.held, timeout=PATIENCE, what="the gate to hold a transfer")
        running.kill_module()
        gate.open.set()
        assert "files.tree.jsonl.gz" not in objects(s3, bucket)
        resumed = run_module("s3_tree", {**slow, "plan_digest": planned["digest"]})
    assert resumed["plan"]["digest"] == planned["digest"]
    assert not run_module("s3_tree", push)["changed"]
    run_module("s3_tree", options)
    assert files_of(Path(options["path"])) == files_of(directory)


def test_object_replaced_after_the_listing(
    source: Path, options: dict[str, t.Any], run_module: t.Any, s3: t.Any, bucket: str
) -> None:
    replaced = threading.Event()

    def script(request: Request) -> Answer | None:
        if request.method == "GET" and request.path.endswith("/files/c/big") and not replaced.is_set():
            replaced.set()
            touch(s3, bucket, "files/c/big", content(7, 20 * MIB))
        return None

    with FaultyServer(script, s3.port) as server:
        result = run_module("s3_tree", {**options, "s3_endpoint": server.endpoint}, expect_failure=True)
    assert result["reason"] in ("replaced", "precondition") and "files/c/big" in result["msg"]
    assert not (Path(options["path"]) / "c/big").exists()
    run_module("s3_tree", options)
    assert (Path(options["path"]) / "c/big").read_bytes() == content(7, 20 * MIB)


def test_damaged_objects_are_not_written_and_the_others_are(
    options: dict[str, t.Any], run_module: t.Any, s3: t.Any, bucket: str
) -> None:
    target = Path(options["path"])
    target.mkdir()
    (target / "bad").write_bytes(b"the last good copy")
    (target / "extra").write_bytes(b"stays while anything is wrong")
    touch(s3, bucket, "files/bad", b"rotten", sha256=hashlib.sha256(b"fresh").hexdigest())
    for number in range(5):
        touch(s3, bucket, f"files/good {number}", content(number), sha256=hashlib.sha256(content(number)).hexdigest())
    result = run_module("s3_tree", {**options, "max_delete_percent": 100}, expect_failure=True)
    assert result["reason"] == "damaged" and result["damaged_keys"] == ["files/bad"] and result["files"] == 5
    assert (target / "bad").read_bytes() == b"the last good copy" and (target / "extra").exists()
    assert all((target / f"good {number}").read_bytes() == content(number) for number in range(5))


def test_damaged_object_that_the_manifest_knows(source: Path, options: dict[str, t.Any], run_module: t.Any, s3: t.Any) -> None:
    """The service answers with other bytes under the same ETag."""

    def bend(request: Request, answer: Answer) -> Answer:
        if request.method == "GET" and request.path.endswith("/files/a/0/file 15.bin"):
            answer.body = answer.body[::-1]
        return answer

    with FaultyServer(lambda request: None, s3.port) as server:
        server.bend = bend
        result = run_module("s3_tree", {**options, "s3_endpoint": server.endpoint}, expect_failure=True)
    assert result["damaged_keys"] == ["files/a/0/file 15.bin"]
    assert not (Path(options["path"]) / "a/0/file 15.bin").exists()
    run_module("s3_tree", options)
    assert files_of(Path(options["path"])) == files_of(source)


def test_connections_that_break_are_resumed(source: Path, options: dict[str, t.Any], run_module: t.Any, s3: t.Any) -> None:
    broken: set[str] = set()

    def bend(request: Request, answer: Answer) -> Answer:
        if request.method == "GET" and "/files/" in request.path and len(answer.body) > 2000 and request.path not in broken:
            broken.add(request.path)
            answer.cut = len(answer.body) // 2
        return answer

    with FaultyServer(lambda request: None, s3.port) as server:
        server.bend = bend
        run_module("s3_tree", {**options, "s3_endpoint": server.endpoint})
    assert len(broken) > 20
    assert files_of(Path(options["path"])) == files_of(source)


def test_server_that_goes_down_in_the_middle(source: Path, options: dict[str, t.Any], run_module: t.Any, s3: t.Any) -> None:
    count = iter(range(1000))
    down = threading.Event()

    def script(request: Request) -> Answer | None:
        """From the ninth transfer on, nobody answers anything."""
        if request.method == "GET" and "/files/" in request.path and next(count) >= 8:
            down.set()
        return Answer(0) if down.is_set() else None

    target = Path(options["path"])
    with FaultyServer(script, s3.port) as server:
        result = run_module("s3_tree", {**options, "s3_endpoint": server.endpoint}, expect_failure=True)
    assert result["code"] == "unavailable" and "run again" in result["hint"]
    half, whole = files_of(target), files_of(source)
    assert 0 < len(half) < len(whole) and all(whole[name] == half[name] for name in half)
    run_module("s3_tree", options)
    assert files_of(target) == whole
