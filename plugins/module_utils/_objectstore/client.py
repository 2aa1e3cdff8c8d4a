# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""One bucket of an S3-compatible service, with errors a person can act on. PRIVATE to the collection.

A ``Store`` may be shared by threads. Requests are retried by botocore ("standard" mode, jittered back-off); a body that breaks
off in the middle is resumed here by a ranged request that names the object's ETag, so bytes of two versions never mix.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import dataclasses
import datetime
import functools
import hashlib
import os
import random
import re
import threading
import time
import typing as t
import urllib.parse

from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    IntegrityError,
    InvalidOption,
    NotFound,
    OpsError,
    Refused,
    Unavailable,
)
from ansible_collections.fileforge.ops.plugins.module_utils._module import require_library
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.faults import Place, translate

MIB = 1024 * 1024
SMALLEST_PART = 5 * MIB
DEFAULT_PART = 16 * MIB
MOST_PARTS = 10_000
LARGEST_COPY = 5 * 1024 * MIB
CHUNK = MIB
DELETE_BATCH = 1000
CONNECT_TIMEOUT = 10
LISTS = {"ListObjectsV2": "ListBucketResult", "ListMultipartUploads": "ListMultipartUploadsResult"}
"""Operations that list, and the root element of their answers."""
LATER = (408, 429)
"""Statuses after which a request is repeated although botocore, depending on its version, does not."""


@dataclasses.dataclass(frozen=True)
class S3Options:
    """How to reach a bucket; secrets stay out of ``repr``."""

    bucket: str
    endpoint: str | None = None
    region: str = "us-east-1"
    access_key: str | None = dataclasses.field(default=None, repr=False)
    secret_key: str | None = dataclasses.field(default=None, repr=False)
    session_token: str | None = dataclasses.field(default=None, repr=False)
    profile: str | None = None
    ca_bundle: str | None = None
    addressing_style: str = "auto"
    timeout: float = 60
    attempts: int = 6

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> S3Options:
        """From module parameters (``s3_bucket``...), missing ones by default. Raises InvalidOption."""
        values = {
            field.name: params[f"s3_{field.name}"]
            for field in dataclasses.fields(cls)
            if params.get(f"s3_{field.name}") not in (None, "")
        }
        if "bucket" not in values:
            raise InvalidOption("s3_bucket", params.get("s3_bucket"), "a bucket must be named")
        options = cls(**values)
        options.check()
        return options

    def check(self) -> None:
        """Raise InvalidOption for what no service could accept."""
        if bool(self.access_key) != bool(self.secret_key):
            given = "s3_access_key" if self.access_key else "s3_secret_key"
            raise InvalidOption(given, "(hidden)", "s3_access_key and s3_secret_key go together: the other one is missing")
        if self.endpoint is not None and urllib.parse.urlsplit(self.endpoint).scheme not in ("http", "https"):
            raise InvalidOption("s3_endpoint", self.endpoint, "not a URL", hint="use for example https://s3.example.com")
        if self.endpoint is not None and "@" in urllib.parse.urlsplit(self.endpoint).netloc:
            raise InvalidOption("s3_endpoint", self.where, "must not hold credentials", hint="use s3_access_key and s3_secret_key")
        for option, value in (("s3_attempts", self.attempts), ("s3_timeout", self.timeout)):
            if value < 1:
                raise InvalidOption(option, value, "must be at least 1")

    @property
    def where(self) -> str:
        """The endpoint as a person knows it, without credentials that its URL may hold."""
        if self.endpoint is None:
            return f"AWS S3 ({self.region})"
        parts = urllib.parse.urlsplit(self.endpoint)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never appear in a message."""
        return tuple(value for value in (self.access_key, self.secret_key, self.session_token) if value)


@dataclasses.dataclass(frozen=True)
class ObjectInfo:
    """An object as a listing shows it; what follows ``last_modified`` is only known from ``head`` and ``stream``."""

    key: str
    size: int
    etag: str
    last_modified: datetime.datetime | None = None
    metadata: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    version_id: str | None = None
    encryption: str | None = None
    """How the service encrypts it; with any but None and AES256 the ETag is no MD5."""


@dataclasses.dataclass(frozen=True, order=True)
class RunningUpload:
    """A multipart upload that is neither completed nor aborted; the earliest sorts first."""

    initiated: datetime.datetime
    key: str
    upload_id: str


class Store:
    """The objects of one bucket. Every failure is an OpsError that names bucket, key and endpoint."""

    def __init__(self, options: S3Options, *, pool: int = 16, sleep: t.Callable[[float], None] = time.sleep) -> None:
        options.check()
        self.options = options
        self.bucket = options.bucket
        self._sleep = sleep
        self._call = threading.local()
        self.client = self._connect(pool)
        self.client.meta.events.register("before-call.s3", self._add_headers)
        self.client.meta.events.register("needs-retry.s3", self._ask_again)
        for operation, root in LISTS.items():
            self.client.meta.events.register(f"response-received.s3.{operation}", functools.partial(self._require_list, root))

    def _connect(self, pool: int) -> t.Any:
        boto3 = require_library("boto3", "boto3", minimum=(1, 26))
        config_class = require_library("botocore.config", "botocore").Config
        options = self.options
        style = options.addressing_style
        if style == "auto" and options.endpoint is not None:
            style = "path"
        settings: dict[str, t.Any] = {
            "connect_timeout": min(CONNECT_TIMEOUT, options.timeout),
            "read_timeout": options.timeout,
            "retries": {"mode": "standard", "total_max_attempts": options.attempts},
            "max_pool_connections": pool,
            "s3": {"addressing_style": style},
            "signature_version": "s3v4",
        }
        known = getattr(config_class, "OPTION_DEFAULTS", {})
        for name in ("request_checksum_calculation", "response_checksum_validation"):
            if name in known:
                settings[name] = "when_required"
        if "tcp_keepalive" in known:
            settings["tcp_keepalive"] = True
        with self._errors("connect to"):
            session = boto3.session.Session(profile_name=options.profile)
            return session.client(
                "s3",
                endpoint_url=options.endpoint,
                region_name=options.region,
                aws_access_key_id=options.access_key,
                aws_secret_access_key=options.secret_key,
                aws_session_token=options.session_token,
                verify=options.ca_bundle,
                config=config_class(**settings),
            )

    def close(self) -> None:
        """Drop the connections."""
        with contextlib.suppress(AttributeError):
            self.client.close()

    # -- looking ------------------------------------------------------------------------------------------------------

    def check_bucket(self) -> None:
        """Raise NotFound (``reason`` bucket), AccessDenied or Unavailable unless the bucket is there and may be listed."""
        with self._errors("look at the bucket"):
            self.client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)

    def keeps_versions(self) -> bool:
        """Whether the bucket keeps objects that are replaced or deleted; no when the service or the credentials do not tell."""
        try:
            with self._errors("look at the versioning of"):
                return bool(self.client.get_bucket_versioning(Bucket=self.bucket).get("Status") == "Enabled")
        except OpsError as error:
            if isinstance(error, (Unavailable, InvalidOption)) and error.state.get("s3_code") != "NotImplemented":
                raise
            return False

    def list(self, prefix: str = "", *, start_after: str = "") -> t.Iterator[ObjectInfo]:
        """Objects whose key begins with ``prefix``, in key order, a page at a time."""
        arguments = {"Bucket": self.bucket, "Prefix": prefix}
        if start_after:
            arguments["StartAfter"] = start_after
        for page in self._pages("list_objects_v2", prefix, arguments):
            for item in page.get("Contents", ()):
                yield ObjectInfo(item["Key"], item["Size"], _plain(item["ETag"]), item.get("LastModified"))

    def list_names(self, prefix: str = "", delimiter: str = "/") -> t.Iterator[str]:
        """Keys directly below ``prefix``, and the common prefixes there (these end in the delimiter)."""
        arguments = {"Bucket": self.bucket, "Prefix": prefix, "Delimiter": delimiter}
        for page in self._pages("list_objects_v2", prefix, arguments):
            for item in page.get("Contents", ()):
                yield item["Key"]
            for item in page.get("CommonPrefixes", ()):
                yield item["Prefix"]

    def _pages(self, operation: str, prefix: str, arguments: dict[str, t.Any]) -> t.Iterator[dict[str, t.Any]]:
        pages = iter(self.client.get_paginator(operation).paginate(**arguments))
        while True:
            with self._errors("list", f"{prefix}*"):
                page = next(pages, None)
            if page is None:
                return
            yield page

    def head(self, key: str, *, version_id: str | None = None) -> ObjectInfo:
        """An object's facts; raises NotFound (``reason`` key) only when it truly does not exist."""
        extra = {} if version_id is None else {"VersionId": version_id}
        with self._errors("look at", key):
            answer = self.client.head_object(Bucket=self.bucket, Key=key, **extra)
        return _described(key, answer["ContentLength"], answer)

    def exists(self, key: str) -> bool:
        """Whether there is such an object; a bucket that is missing or cannot be read is an error, not a no."""
        try:
            self.head(key)
        except NotFound as error:
            if error.state.get("reason") == "key":
                return False
            raise
        return True

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(self, key: str, *, start: int | None = None, length: int | None = None, etag: str | None = None) -> bytes:
        """The object, or ``length`` bytes of it from ``start``; with ``etag``, of exactly that content."""
        return b"".join(self.stream(key, start=start, length=length, etag=etag))

    def stream(
        self,
        key: str,
        *,
        start: int | None = None,
        length: int | None = None,
        etag: str | None = None,
        chunk: int = CHUNK,
        on_info: t.Callable[[ObjectInfo], None] = lambda info: None,
    ) -> t.Iterator[bytes]:
        """Chunks of the object (at most ``chunk`` bytes each), going on where a broken connection left off.

        ``on_info`` gets what the first answer tells about the object (with ``length`` bytes as its size) before the first chunk.
        Raises IntegrityError when the object is replaced meanwhile or is not as long as asked for.
        """
        reading = _Reading(start or 0, length, etag)
        failures = 0
        while not reading.finished:
            before = reading.done
            try:
                yield from self._attempt(key, reading, chunk, on_info)
            except Unavailable as error:
                failures = 1 if reading.done > before else failures + 1
                if failures >= self.options.attempts or not error.state.get("in_body"):
                    raise
                self._sleep(random.uniform(0, min(5.0, 0.2 * 2**failures)))  # noqa: S311 - jitter, not a secret

    def _attempt(self, key: str, reading: _Reading, chunk: int, on_info: t.Callable[[ObjectInfo], None]) -> t.Iterator[bytes]:
        with self._errors("read", key):
            answer = self.client.get_object(Bucket=self.bucket, Key=key, **reading.arguments())
        body = answer["Body"]
        with contextlib.closing(body):
            self._check_answer(key, reading, answer)
            if not reading.done:
                on_info(_described(key, reading.left, answer))
            while not reading.finished:
                with self._errors("read", key, in_body=True):
                    data = body.read(min(chunk, reading.left))
                if not data:
                    raise Unavailable(f"{self._place(key)}: the answer ended {reading.left} bytes early", in_body=True)
                reading.done += len(data)
                yield data

    def _check_answer(self, key: str, reading: _Reading, answer: dict[str, t.Any]) -> None:
        etag, sent = _plain(answer.get("ETag", "")), answer["ContentLength"]
        if reading.etag is not None and etag != reading.etag:
            raise self._replaced(key, reading.etag)
        reading.etag = etag
        if reading.ranged and answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
            raise IntegrityError(
                f"{self._place(key)}: the service ignored the byte range that was asked for",
                hint="look for a proxy between this host and the service that drops the Range header",
            )
        if reading.length is None:
            reading.length = reading.done + sent
        if sent != reading.left:
            raise IntegrityError(
                f"{self._place(key)}: {reading.left} bytes from offset {reading.position} were asked for, "
                f"but there are {sent}: the object is shorter than promised",
                hint="the object was truncated or replaced: look at its versions, or use another copy",
            )

    def _replaced(self, key: str, etag: str | None) -> IntegrityError:
        return IntegrityError(
            f"{self._place(key)}: the object was replaced while it was being read (expected ETag {etag})",
            hint="run again: the new object will be planned and read as a whole",
            reason="replaced",
            **Place(self.options.where, self.bucket, key).state(),
        )

    # -- writing ------------------------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: bytes,
        *,
        metadata: t.Mapping[str, str] | None = None,
        content_type: str | None = None,
        only_if_absent: bool = False,
    ) -> ObjectInfo:
        """Write a whole object in one request; the service verifies its MD5.

        With ``only_if_absent``, raises Refused (reason ``object_exists``) when another object has the key; one with the same
        bytes counts as written, because a repeated request cannot tell it from its own first try.
        """
        md5 = hashlib.md5(data, usedforsecurity=False)
        if only_if_absent:
            found = self._same_or_refuse(key, len(data), md5.hexdigest())
            if found is not None:
                return found
        arguments = self._write_arguments(key, metadata, content_type)
        try:
            with self._errors("write", key), self._headers(self._absent(only_if_absent)):
                answer = self.client.put_object(Body=data, ContentMD5=base64.b64encode(md5.digest()).decode(), **arguments)
        except IntegrityError as error:
            if not (only_if_absent and error.state.get("reason") == "precondition"):
                raise
            found = self._same_or_refuse(key, len(data), md5.hexdigest())
            if found is None:
                raise
            return found
        return ObjectInfo(key, len(data), _plain(answer.get("ETag", "")), None, dict(metadata or {}), answer.get("VersionId"))

    def _same_or_refuse(self, key: str, size: int, md5: str) -> ObjectInfo | None:
        try:
            found = self.head(key)
        except NotFound as error:
            if error.state.get("reason") == "key":
                return None
            raise
        if (found.size, found.etag) == (size, md5):
            return found
        raise Refused(
            "object_exists",
            f"{self._place(key)}: another object already has this key",
            hint="choose another name, or look at the object that is there",
            size=found.size,
            etag=found.etag,
        )

    @staticmethod
    def _absent(only_if_absent: bool) -> dict[str, str]:
        return {"If-None-Match": "*"} if only_if_absent else {}

    def _write_arguments(self, key: str, metadata: t.Mapping[str, str] | None, content_type: str | None) -> dict[str, t.Any]:
        arguments: dict[str, t.Any] = {"Bucket": self.bucket, "Key": key, "Metadata": dict(metadata or {})}
        if content_type is not None:
            arguments["ContentType"] = content_type
        return arguments

    def put_file(
        self,
        path: str,
        key: str,
        *,
        metadata: t.Mapping[str, str] | None = None,
        content_type: str | None = None,
        part_size: int = DEFAULT_PART,
        workers: int = 1,
        on_bytes: t.Callable[[int], None] = lambda count: None,
    ) -> ObjectInfo:
        """Upload a file: in one request up to ``part_size``, else in parts, ``workers`` at a time.

        Raises IntegrityError when the file changes in size meanwhile.
        """
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size <= part_size:
                data = stream.read(part_size + 1)
                self._check_read(path, size, len(data))
                info = self.put(key, data, metadata=metadata, content_type=content_type)
                on_bytes(size)
                return info
            part_size = part_size_for(size, part_size)
            offsets = range(0, size, part_size)
            with self.multipart(key, metadata=metadata, content_type=content_type) as upload:

                def send(number: int) -> None:
                    wanted = min(part_size, size - offsets[number])
                    data = os.pread(stream.fileno(), wanted, offsets[number])
                    self._check_read(path, wanted, len(data))
                    upload.part(number + 1, data)
                    on_bytes(wanted)

                run_all(send, range(len(offsets)), workers)
                self._check_read(path, size, os.fstat(stream.fileno()).st_size)
                return upload.complete()

    def _check_read(self, path: str, wanted: int, found: int) -> None:
        if wanted != found:
            raise IntegrityError(f"{path}: the file changed while it was uploaded", hint="run again when nothing writes to it")

    def copy(self, source: str, target: str) -> ObjectInfo:
        """Copy an object with its metadata inside the bucket, on the service's side."""
        info = self.head(source)
        origin = {"Bucket": self.bucket, "Key": source}
        if info.size <= LARGEST_COPY:
            with self._errors("copy", source):
                self.client.copy_object(Bucket=self.bucket, Key=target, CopySource=origin, CopySourceIfMatch=f'"{info.etag}"')
            return self.head(target)
        with self.multipart(target, metadata=info.metadata) as upload:
            size = part_size_for(info.size, 512 * MIB)
            for number, start in enumerate(range(0, info.size, size), 1):
                upload.copy_part(number, origin, start, min(size, info.size - start), info.etag)
            return upload.complete()

    def delete(self, keys: t.Iterable[str]) -> int:
        """Delete objects (absent ones are fine); how many were named."""
        batch: t.List[str] = []
        count = 0
        for key in keys:
            batch.append(key)
            if len(batch) == DELETE_BATCH:
                count += self._delete_batch(batch)
                batch = []
        return count + self._delete_batch(batch)

    def _delete_batch(self, keys: t.List[str]) -> int:
        if not keys:
            return 0
        with self._errors("delete", keys[0]):
            answer = self.client.delete_objects(
                Bucket=self.bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
            )
        for problem in answer.get("Errors", ()):
            raise OpsError(
                f"{self._place(problem.get('Key', keys[0]))}: could not be deleted: {problem.get('Code')}",
                hint="check that the credentials may delete here and that no object lock holds it",
            )
        return len(keys)

    # -- multipart ----------------------------------------------------------------------------------------------------

    def multipart(self, key: str, metadata: t.Mapping[str, str] | None = None, content_type: str | None = None) -> MultipartUpload:
        """A multipart upload, for use in ``with``: aborted unless completed."""
        return MultipartUpload(self, key, self._write_arguments(key, metadata, content_type))

    def running_uploads(self, prefix: str) -> t.List[RunningUpload]:
        """Multipart uploads below ``prefix`` that are neither completed nor aborted, whoever runs them."""
        found = []
        for page in self._pages("list_multipart_uploads", prefix, {"Bucket": self.bucket, "Prefix": prefix}):
            for upload in page.get("Uploads", ()):
                if upload["Key"].startswith(prefix):
                    found.append(RunningUpload(upload["Initiated"], upload["Key"], upload["UploadId"]))
        return found

    def sweep_uploads(self, prefix: str, older_than_seconds: float, *, keep: t.Container[str] = ()) -> t.List[str]:
        """Abort multipart uploads below ``prefix`` begun longer ago than that; the keys, except those of upload ids to ``keep``."""
        limit = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=older_than_seconds)
        uploads = self.running_uploads(prefix)
        stale = [upload for upload in uploads if upload.upload_id not in keep and upload.initiated <= limit]
        for upload in stale:
            with self._errors("abort the upload of", upload.key), contextlib.suppress(self.client.exceptions.NoSuchUpload):
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=upload.key, UploadId=upload.upload_id)
        return [upload.key for upload in stale]

    # -- errors -------------------------------------------------------------------------------------------------------

    def _place(self, key: str) -> str:
        return str(Place(self.options.where, self.bucket, key))

    @contextlib.contextmanager
    def _errors(self, action: str, key: str | None = None, *, in_body: bool = False) -> t.Iterator[None]:
        """Turn what boto3 raises into OpsErrors."""
        place = Place(self.options.where, self.bucket, key, self.options.secrets)
        try:
            yield
        except OpsError:
            raise
        except Exception as error:
            raise translate(error, action, place, ask_bucket=self._ask_bucket, in_body=in_body) from error

    def _ask_bucket(self) -> None:
        """A request whose error has a code in its body, unlike that of HEAD: tells bucket, key and credentials apart."""
        self.client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)

    @contextlib.contextmanager
    def _headers(self, headers: dict[str, str]) -> t.Iterator[None]:
        """Send extra headers with this thread's requests (older boto3 has no parameter for a conditional write)."""
        self._call.headers = headers
        try:
            yield
        finally:
            self._call.headers = {}

    def _ask_again(self, response: tuple[t.Any, t.Any] | None, attempts: int, **_unused: t.Any) -> float | None:
        """Seconds until botocore repeats a request; None leaves it to botocore."""
        if response is None or response[0].status_code not in LATER or attempts >= self.options.attempts:
            return None
        self._sleep(random.uniform(0, min(20.0, 2.0**attempts)))  # noqa: S311 - jitter, not a secret
        return 0

    def _require_list(self, root: str, response_dict: dict[str, t.Any] | None, **_unused: t.Any) -> None:
        """Raise Unavailable for an answer that only looks like an empty list: botocore takes any XML, and none at all, for one."""
        if response_dict is None or response_dict["status_code"] != 200 or is_answer(response_dict["body"], root):
            return
        raise Unavailable(
            f"cannot list {Place(self.options.where, self.bucket)}: the answer is no list of objects",
            hint="check s3_endpoint, and look for a proxy or a sign-in page between this host and the service",
        )

    def _add_headers(self, params: dict[str, t.Any], **_unused: t.Any) -> None:
        params["headers"].update(getattr(self._call, "headers", {}))


@dataclasses.dataclass
class _Reading:
    """How far one stream is."""

    start: int
    length: int | None
    etag: str | None
    done: int = 0

    @property
    def position(self) -> int:
        return self.start + self.done

    @property
    def left(self) -> int:
        return 0 if self.length is None else self.length - self.done

    @property
    def finished(self) -> bool:
        return self.length is not None and self.done >= self.length

    @property
    def ranged(self) -> bool:
        return "Range" in self.arguments()

    def arguments(self) -> dict[str, str]:
        """The range and the condition of the next request."""
        arguments = {}
        if self.length is not None:
            arguments["Range"] = f"bytes={self.position}-{self.start + self.length - 1}"
        elif self.start:
            arguments["Range"] = f"bytes={self.position}-"
        if self.etag is not None:
            arguments["IfMatch"] = f'"{self.etag}"'
        return arguments


class MultipartUpload:
    """One multipart upload. ``part`` may be called from several threads; leaving ``with`` without ``complete`` aborts it."""

    def __init__(self, store: Store, key: str, arguments: dict[str, t.Any]) -> None:
        self._store = store
        self.key = key
        self._arguments = arguments
        self._lock = threading.Lock()
        self._parts: dict[int, tuple[str, int]] = {}
        self._completed = False
        self.upload_id = ""

    def __enter__(self) -> MultipartUpload:
        with self._store._errors("begin a multipart upload of", self.key):
            answer = self._store.client.create_multipart_upload(**self._arguments)
        self.upload_id = answer["UploadId"]
        return self

    def __exit__(self, *_error: object) -> None:
        if not self._completed:
            self.abort()

    def _target(self) -> dict[str, str]:
        return {"Bucket": self._store.bucket, "Key": self.key, "UploadId": self.upload_id}

    def part(self, number: int, data: bytes) -> str:
        """Upload part ``number`` (from 1); its ETag. The service verifies its MD5; sending a part again replaces it."""
        md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        with self._store._errors(f"write part {number} of", self.key):
            answer = self._store.client.upload_part(PartNumber=number, Body=data, ContentMD5=md5, **self._target())
        return self._keep(number, answer["ETag"], len(data))

    def copy_part(self, number: int, origin: dict[str, str], start: int, length: int, etag: str) -> str:
        """Make part ``number`` from a range of an object that is there already."""
        with self._store._errors(f"copy part {number} of", self.key):
            answer = self._store.client.upload_part_copy(
                PartNumber=number,
                CopySource=origin,
                CopySourceRange=f"bytes={start}-{start + length - 1}",
                CopySourceIfMatch=f'"{etag}"',
                **self._target(),
            )
        return self._keep(number, answer["CopyPartResult"]["ETag"], length)

    def _keep(self, number: int, etag: str, size: int) -> str:
        with self._lock:
            self._parts[number] = (etag, size)
        return _plain(etag)

    @property
    def size(self) -> int:
        """Bytes of the parts that are there."""
        with self._lock:
            return sum(size for etag, size in self._parts.values())

    def complete(self) -> ObjectInfo:
        """Make the object appear, whole. Raises IntegrityError when it is not as long as its parts."""
        with self._lock:
            parts = [{"PartNumber": number, "ETag": etag} for number, (etag, size) in sorted(self._parts.items())]
        try:
            with self._store._errors("complete the upload of", self.key):
                self._store.client.complete_multipart_upload(MultipartUpload={"Parts": parts}, **self._target())
        except NotFound:
            self._check_completed_before()
        self._completed = True
        info = self._store.head(self.key)
        if info.size != self.size:
            raise IntegrityError(
                f"{self._store._place(self.key)}: has {info.size} bytes after an upload of {self.size}",
                hint="run again; if it happens again, the service loses parts",
            )
        return info

    def _check_completed_before(self) -> None:
        """A repeated request to complete finds no upload when the first one's answer was lost: then the object is there."""
        with self._lock:
            etags = [_plain(etag) for number, (etag, size) in sorted(self._parts.items())]
        found = self._store.head(self.key)
        if (found.etag, found.size) != (multipart_etag(etags), self.size):
            raise Unavailable(
                f"{self._store._place(self.key)}: the multipart upload disappeared before it was completed",
                hint="run again; look for a lifecycle rule or another process that aborts uploads",
            )

    def abort(self) -> None:
        """Drop the parts. Failing to is not an error here: ``sweep_uploads`` finds them later."""
        with contextlib.suppress(OpsError), self._store._errors("abort the upload of", self.key):
            self._store.client.abort_multipart_upload(**self._target())


def _described(key: str, size: int, answer: dict[str, t.Any]) -> ObjectInfo:
    return ObjectInfo(
        key,
        size,
        _plain(answer.get("ETag", "")),
        answer.get("LastModified"),
        {name.lower(): value for name, value in answer.get("Metadata", {}).items()},
        answer.get("VersionId"),
        answer.get("SSECustomerAlgorithm") or answer.get("ServerSideEncryption"),
    )


def is_answer(body: bytes, root: str) -> bool:
    """Whether the first element of a body has this name."""
    pattern = rb"\s*(?:\xef\xbb\xbf)?(?:\s*<(?:\?.*?\?|!--.*?--)>)*\s*<(?:[\w.-]+:)?" + root.encode() + rb"[\s/>]"
    return re.match(pattern, body, re.DOTALL) is not None


def _plain(etag: str) -> str:
    return etag.strip('"')


def multipart_etag(parts: t.Sequence[str]) -> str:
    """The ETag that S3 gives an object of parts with these MD5s (hexadecimal)."""
    joined = b"".join(bytes.fromhex(part) for part in parts)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(parts)}"


def part_size_for(size: int, wanted: int = DEFAULT_PART) -> int:
    """A part size, a whole number of MiB and at least ``wanted``, with which ``size`` bytes fit into the parts S3 allows."""
    wanted = max(wanted, SMALLEST_PART)
    needed = -(-size // MOST_PARTS)
    return max(wanted, -(-needed // MIB) * MIB)


T = t.TypeVar("T")


def run_all(call: t.Callable[[T], None], items: t.Iterable[T], workers: int) -> None:
    """Call for every item, ``workers`` at a time, taking items only as they can be worked on; the first error ends it."""
    if workers <= 1:
        for item in items:
            call(item)
        return
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    running: set[concurrent.futures.Future[None]] = set()
    try:
        for item in items:
            if len(running) >= 2 * workers:
                running = _drain(running)
            running.add(pool.submit(call, item))
        while running:
            running = _drain(running)
    finally:
        for future in running:
            future.cancel()
        pool.shutdown(wait=True)


def _drain(running: set[concurrent.futures.Future[None]]) -> set[concurrent.futures.Future[None]]:
    done, left = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
    for future in done:
        future.result()
    return left
