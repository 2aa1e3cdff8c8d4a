# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The object store client against a server that misbehaves on request."""

from __future__ import annotations

import hashlib
import socket
import threading
import typing as t

import botocore.retries.standard
import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    AccessDenied,
    IntegrityError,
    InvalidOption,
    NotFound,
    OpsError,
    Refused,
    Unavailable,
)
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore import client as client_module
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import S3Options, Store, part_size_for, run_all
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.transfer import download_file, fetch_ranges, split_ranges

from tests.lab.faulty_http import Answer, FaultyServer, Request, Script, s3_error

DATA = bytes(range(256)) * 4096
ETAG = hashlib.md5(DATA).hexdigest()
SECRET = "do-not-tell-anybody"


def store(server: FaultyServer, attempts: int = 4, **options: t.Any) -> Store:
    values: dict[str, t.Any] = {
        "bucket": "bucket",
        "endpoint": server.endpoint,
        "access_key": "AKIDEXAMPLE",
        "secret_key": SECRET,
        "attempts": attempts,
        "timeout": 5,
        **options,
    }
    return Store(S3Options(**values), sleep=lambda seconds: None)


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore waits between its own attempts: not in these tests."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0)


def whole(request: Request, data: bytes = DATA, etag: str = ETAG) -> Answer:
    """The answer of a well-behaved server."""
    headers = {"ETag": f'"{etag}"', "x-amz-meta-sha256": "feed"}
    if request.headers.get("if-match", f'"{etag}"') != f'"{etag}"':
        return s3_error(412, "PreconditionFailed")
    if request.range_start is None:
        return Answer(200, data, headers)
    end = int(request.headers["range"].rpartition("-")[2] or len(data) - 1)
    return Answer(206, data[request.range_start : end + 1], headers)


def serving(script: Script) -> FaultyServer:
    return FaultyServer(script)


@pytest.mark.parametrize("reset", [False, True])
def test_body_cut_in_the_middle_is_resumed_by_range_with_if_match(reset: bool) -> None:
    def script(request: Request) -> Answer:
        answer = whole(request)
        answer.reset = reset
        answer.cut = 300_000 if len(server.requests) < 3 else None
        return answer

    with serving(script) as server:
        assert store(server).get("key") == DATA
        starts = [request.range_start for request in server.requests]
        assert starts[0] is None and len(starts) == 3
        assert all(start is not None for start in starts[1:])
        assert reset or starts[1:] == [300_000, 600_000]
        assert [request.headers.get("if-match") for request in server.requests] == [None, f'"{ETAG}"', f'"{ETAG}"']


def test_object_replaced_while_it_is_resumed() -> None:
    def script(request: Request) -> Answer:
        if len(server.requests) == 1:
            answer = whole(request)
            answer.cut = 300_000
            return answer
        return whole(request, DATA[::-1], "0" * 32)

    with serving(script) as server, pytest.raises(IntegrityError) as caught:
        store(server).get("key")
    assert caught.value.state["reason"] == "precondition"
    assert "bucket/key" in caught.value.message


def test_replaced_object_is_noticed_where_if_match_is_ignored() -> None:
    with serving(lambda request: Answer(200, DATA, {"ETag": '"other"'})) as server, pytest.raises(IntegrityError) as caught:
        store(server).get("key", etag=ETAG)
    assert caught.value.state["reason"] == "replaced"


def test_resuming_is_bounded() -> None:
    def script(request: Request) -> Answer:
        answer = whole(request)
        answer.cut = 0
        return answer

    with serving(script) as server, pytest.raises(Unavailable, match="bucket/key"):
        store(server, attempts=3).get("key")
    assert len(server.requests) == 3


def test_proxy_that_drops_the_range_header() -> None:
    with serving(lambda request: Answer(200, DATA, {"ETag": f'"{ETAG}"'})) as server, pytest.raises(IntegrityError, match="range"):
        store(server).get("key", start=5, length=10)


def test_object_shorter_than_promised() -> None:
    with serving(whole) as server, pytest.raises(IntegrityError, match="shorter"):
        store(server).get("key", start=len(DATA) - 5, length=10)


@pytest.mark.parametrize("code, status", [("SlowDown", 503), ("InternalError", 500), ("ServiceUnavailable", 503)])
def test_busy_service_is_asked_again(code: str, status: int) -> None:
    def script(request: Request) -> Answer:
        return s3_error(status, code) if len(server.requests) < 3 else whole(request)

    with serving(script) as server:
        assert store(server).get("key") == DATA
        assert len(server.requests) == 3


@pytest.fixture
def old_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not know these statuses."""
    checker = getattr(botocore.retries.standard, "ThrottlingStatusCodeChecker", None)
    if checker is not None:
        monkeypatch.setattr(checker, "_THROTTLING_STATUS_CODES", [])


@pytest.mark.parametrize("status", [408, 429])
@pytest.mark.parametrize("body", [b"", b"<html>slow down</html>"])
@pytest.mark.usefixtures("old_botocore")
def test_a_proxy_that_asks_for_patience_is_asked_again(status: int, body: bytes) -> None:
    def script(request: Request) -> Answer:
        return Answer(status, body) if len(server.requests) < 3 else whole(request)

    with serving(script) as server:
        assert store(server).get("key") == DATA
        assert len(server.requests) == 3
    with serving(lambda request: Answer(status, body)) as server, pytest.raises(Unavailable, match=str(status)):
        store(server, attempts=3).put("key", b"data")
    assert [request.method for request in server.requests].count("PUT") == 3


NO_LISTS = [
    b"",
    b"<html><body>Please sign in</body></html>",
    b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'><body>Maintenance</body></html>",
    b"<Error><Code>InternalError</Code></Error>",
    b"<ListAllMyBucketsResult/>",
    b"<ListBucketResultOfAnother/>",
    b"not even XML",
]


@pytest.mark.parametrize("body", NO_LISTS)
def test_an_answer_that_is_no_list_is_not_an_empty_one(body: bytes) -> None:
    calls: list[t.Callable[[Store], object]] = [
        lambda s: list(s.list("base/")),
        lambda s: list(s.list_names("base/")),
        lambda s: s.running_uploads("base/"),
        lambda s: s.check_bucket(),
    ]
    with serving(lambda request: Answer(200, body)) as server:
        asked = store(server, attempts=1)
        for call in calls:
            with pytest.raises(OpsError, match="bucket"):
                call(asked)


@pytest.mark.parametrize(
    "body",
    [
        b"<ListBucketResult/>",
        b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- x -->\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>',
        b"<s3:ListBucketResult xmlns:s3='http://s3.amazonaws.com/doc/2006-03-01/'></s3:ListBucketResult>",
    ],
)
def test_a_list_may_be_empty(body: bytes) -> None:
    with serving(lambda request: Answer(200, body)) as server:
        assert list(store(server).list("base/")) == []


@pytest.mark.parametrize("code, status", [("SlowDown", 503), ("InternalError", 500)])
def test_busy_service_is_not_asked_for_ever(code: str, status: int) -> None:
    with serving(lambda request: s3_error(status, code)) as server, pytest.raises(Unavailable, match=code) as caught:
        store(server, attempts=3).get("key")
    assert len(server.requests) == 3
    assert "finished work is kept" in caught.value.hint


@pytest.mark.parametrize(
    "code, status, words",
    [
        ("ExpiredToken", 400, "expired"),
        ("InvalidAccessKeyId", 403, "does not know this access key"),
        ("SignatureDoesNotMatch", 403, "secret key does not belong"),
        ("RequestTimeTooSkewed", 403, "clock"),
        ("AccessDenied", 403, "access denied"),
    ],
)
@pytest.mark.parametrize("method", ["get", "head", "list", "put"])
def test_credentials_that_do_not_work(code: str, status: int, words: str, method: str) -> None:
    """HEAD answers have no body, so their cause must be found by another request."""

    def script(request: Request) -> Answer:
        return Answer(status) if request.method == "HEAD" else s3_error(status, code)

    calls: dict[str, t.Callable[[Store], object]] = {
        "get": lambda s: s.get("key"),
        "head": lambda s: s.head("key"),
        "list": lambda s: list(s.list("")),
        "put": lambda s: s.put("key", b""),
    }
    with serving(script) as server, pytest.raises(AccessDenied, match=words) as caught:
        calls[method](store(server))
    assert server.endpoint in caught.value.message
    assert SECRET not in repr(caught.value.result()) and "AKIDEXAMPLE" not in repr(caught.value.result())


@pytest.mark.parametrize("bucket_there", [True, False])
def test_head_tells_a_missing_object_from_a_missing_bucket(bucket_there: bool) -> None:
    def script(request: Request) -> Answer:
        if request.method == "HEAD":
            return Answer(404)
        return Answer(200, b"<ListBucketResult/>") if bucket_there else s3_error(404, "NoSuchBucket")

    with serving(script) as server:
        with pytest.raises(NotFound) as caught:
            store(server).head("key")
        assert caught.value.state["reason"] == ("key" if bucket_there else "bucket")
        if bucket_there:
            assert store(server).exists("key") is False
        else:
            with pytest.raises(NotFound, match="no bucket bucket"):
                store(server).exists("key")


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        options = S3Options("bucket", endpoint, access_key="a", secret_key=SECRET, attempts=2)
        with pytest.raises(Unavailable, match=endpoint) as caught:
            Store(options).check_bucket()
    assert "s3_endpoint" in caught.value.hint


def test_answer_that_never_comes() -> None:
    release = threading.Event()

    def script(request: Request) -> Answer:
        release.wait(20)
        return whole(request)

    with serving(script) as server:
        with pytest.raises(Unavailable, match="imeout"):
            store(server, attempts=1, timeout=1).get("key")
        release.set()


def test_conditional_write_header_and_refusal() -> None:
    def script(request: Request) -> Answer:
        if request.method == "PUT":
            return Answer(200, b"", {"ETag": '"x"'})
        return Answer(404) if request.method == "HEAD" else Answer(200, b"<ListBucketResult/>")

    with serving(script) as server:
        store(server).put("key", b"data", only_if_absent=True)
        put = next(request for request in server.requests if request.method == "PUT")
        assert put.headers["if-none-match"] == "*"
        server.requests.clear()
        store(server).put("key", b"data")
        assert "if-none-match" not in server.requests[0].headers


def test_conditional_write_that_lost_the_race() -> None:
    heads: list[Answer] = [Answer(404), Answer(200, b"", {"Content-Length": "5", "ETag": '"other"'})]

    def script(request: Request) -> Answer:
        if request.method == "HEAD":
            return heads.pop(0)
        return s3_error(412, "PreconditionFailed") if request.method == "PUT" else Answer(200, b"<ListBucketResult/>")

    with serving(script) as server, pytest.raises(Refused) as caught:
        store(server).put("key", b"data", only_if_absent=True)
    assert caught.value.state["reason"] == "object_exists"


def test_conditional_write_whose_first_answer_was_lost() -> None:
    md5 = hashlib.md5(b"data").hexdigest()
    heads = [Answer(404), Answer(200, b"", {"Content-Length": "4", "ETag": f'"{md5}"'})]

    def script(request: Request) -> Answer:
        if request.method == "HEAD":
            return heads.pop(0)
        return s3_error(412, "PreconditionFailed") if request.method == "PUT" else Answer(200, b"<ListBucketResult/>")

    with serving(script) as server:
        assert store(server).put("key", b"data", only_if_absent=True).etag == md5


def multipart_script(failing_part: int | None, log: list[str]) -> Script:
    def script(request: Request) -> Answer:
        if request.method == "POST" and "uploads" in request.query:
            return Answer(200, b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>")
        if request.method == "PUT":
            if request.query["partNumber"] == str(failing_part):
                return s3_error(403, "AccessDenied")
            return Answer(200, b"", {"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})
        log.append(request.method)
        if request.method == "DELETE":
            return Answer(204)
        if request.method == "POST":
            return Answer(200, b"<CompleteMultipartUploadResult><ETag>e-2</ETag></CompleteMultipartUploadResult>")
        return Answer(200, b"", {"Content-Length": "7", "ETag": '"e-2"'})

    return script


def test_multipart_is_completed_in_order_of_its_parts() -> None:
    log: list[str] = []
    with serving(multipart_script(None, log)) as server, store(server).multipart("key") as upload:
        upload.part(2, b"456")
        upload.part(1, b"0123")
        assert upload.complete().size == 7
        body = next(request for request in server.requests if request.method == "POST" and "uploadId" in request.query).body
    assert body.index(b"<PartNumber>1<") < body.index(b"<PartNumber>2<")
    assert "DELETE" not in log


def test_multipart_is_aborted_when_a_part_fails() -> None:
    log: list[str] = []
    with serving(multipart_script(2, log)) as server, pytest.raises(AccessDenied):
        with store(server).multipart("key") as upload:
            upload.part(1, b"0123")
            upload.part(2, b"456")
    assert log == ["DELETE"]


def test_multipart_of_the_wrong_length_is_an_error() -> None:
    with serving(multipart_script(None, [])) as server, pytest.raises(IntegrityError, match="after an upload of 4"):
        with store(server).multipart("key") as upload:
            upload.part(1, b"0123")
            upload.complete()


def test_ranges_arrive_in_order_and_memory_is_bounded() -> None:
    with serving(whole) as server:
        ranges = list(split_ranges(len(DATA), 100_000))
        chunks = fetch_ranges(store(server), "key", ETAG, iter(ranges), workers=3, ahead=4)
        first = next(chunks)
        assert first == DATA[:100_000]
        assert len(server.requests) <= 5
        assert first + b"".join(chunks) == DATA


def test_download_that_is_damaged_leaves_nothing(tmp_path: t.Any) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with serving(lambda request: whole(request, DATA[:-1] + b"!")) as server:
        info = client_module.ObjectInfo("key", len(DATA), ETAG)
        with pytest.raises(IntegrityError, match="MD5"):
            download_file(store(server), "key", str(target), info=info)
        with pytest.raises(IntegrityError, match="SHA-256"):
            download_file(store(server), "key", str(target), info=info, sha256=hashlib.sha256(DATA).hexdigest())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert target.read_bytes() == b"old"


def test_download_is_whole(tmp_path: t.Any) -> None:
    with serving(whole) as server:
        info = client_module.ObjectInfo("key", len(DATA), ETAG)
        download_file(store(server), "key", str(tmp_path / "file"), info=info, piece=70_000, mode=0o640, mtime_ns=5)
    found = tmp_path / "file"
    assert found.read_bytes() == DATA
    assert (found.stat().st_mode & 0o777, found.stat().st_mtime_ns) == (0o640, 5)


@pytest.mark.parametrize(
    "params, option",
    [
        ({"s3_bucket": ""}, "s3_bucket"),
        ({"s3_bucket": "b", "s3_access_key": "a"}, "s3_access_key"),
        ({"s3_bucket": "b", "s3_secret_key": SECRET}, "s3_secret_key"),
        ({"s3_bucket": "b", "s3_endpoint": "s3.example.com"}, "s3_endpoint"),
        ({"s3_bucket": "b", "s3_attempts": 0}, "s3_attempts"),
    ],
)
def test_options_that_cannot_work(params: dict[str, t.Any], option: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        S3Options.from_params(params)
    assert caught.value.state["option"] == option
    assert SECRET not in repr(caught.value.result())


def test_secrets_are_not_shown() -> None:
    options = S3Options("b", access_key="AKID", secret_key=SECRET, session_token="tok-en")
    assert not any(secret in repr(options) for secret in ("AKID", SECRET, "tok-en"))
    with pytest.raises(InvalidOption, match="credentials") as caught:
        S3Options("b", "https://user:hush@s3.example.com").check()
    assert "hush" not in repr(caught.value.result())


def test_control_characters_in_a_key_do_not_reach_the_terminal() -> None:
    with serving(lambda request: s3_error(404, "NoSuchKey")) as server, pytest.raises(NotFound) as caught:
        store(server).get("a\n\x1b[31mb")
    assert caught.value.message.isprintable()


def test_part_sizes_fit_what_the_service_allows() -> None:
    for size in (1, 16 << 20, 160 << 30, 5 << 40):
        part = part_size_for(size)
        assert part >= 5 << 20 and -(-size // part) <= 10_000 and part % (1 << 20) == 0


def test_first_error_of_parallel_work_ends_it() -> None:
    taken: list[int] = []

    def items() -> t.Iterator[int]:
        for number in range(10_000):
            taken.append(number)
            yield number

    def work(number: int) -> None:
        if number == 5:
            raise OpsError("five")

    with pytest.raises(OpsError, match="five"):
        run_all(work, items(), 3)
    assert len(taken) < 100
