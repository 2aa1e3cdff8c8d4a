# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carry WAL files between PostgreSQL and an S3 bucket. PRIVATE to the collection.

    archive_command = 'fileforge-wal --config /etc/fileforge/wal.json push "%p"'
    restore_command = 'fileforge-wal --config /etc/fileforge/wal.json fetch --absent 100 "%f" "%p"; s=$?;
        [ $s -ne 100 ] || exit 1; [ $s -eq 0 ] || [ $s -gt 125 ] || exit 126; exit $s'          (in one line)

This file is installed by itself and works without the collection. It needs Python 3.9 and, to reach the bucket, boto3.

Exit status of ``fetch``: 0 the file is there, whole and right; 1, or what ``--absent`` says, the bucket truly has no such object;
126 and more anything else, which makes PostgreSQL stop instead of taking the failure for the end of the WAL. PostgreSQL takes every
status from 1 to 125 for that end, and an interpreter that cannot start has such a status too: hence the shell around it, which lets
only the status of ``--absent`` through as the end. Of ``push``: 0 the file is safely stored; below 126 it is not, so PostgreSQL
counts the failure in pg_stat_archiver, keeps the file and tries again (with 126 and more the archiver process itself would end
uncounted). Messages go to standard error, one line each.
"""

# pylint: disable=ansible-bad-function
# (This is a program of its own, not part of a module: it starts a process, prints and exits.)

from __future__ import annotations

import argparse
import base64
import concurrent.futures
import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import random
import re
import struct
import subprocess
import sys
import time
import typing as t
import zlib

SEGMENT = re.compile(r"[0-9A-F]{24}\Z")
KNOWN = re.compile(r"(?:[0-9A-F]{8}\.history|[0-9A-F]{24}(?:\.[0-9A-F]{8}\.backup|\.partial)?)\Z")
LIST = re.compile(rb"\s*(?:\xef\xbb\xbf)?(?:\s*<(?:\?.*?\?|!--.*?--)>)*\s*<(?:[\w.-]+:)?ListBucketResult[\s/>]", re.DOTALL)
"""How the answer to a request for a list begins."""
LARGEST_SEGMENT = 1 << 30
SMALL = 1 << 20
CHUNK = 1 << 20
CONNECT_TIMEOUT = 10.0
PUSHERS, PREFETCHERS = 4, 3
PREFETCH_IDLE = 20.0
CLAIM_WAIT = 30.0

CONFIGURATION, UNAVAILABLE, DENIED, DAMAGED, NO_BUCKET, DISK, DIFFERENT, TABLESPACE = 126, 150, 151, 152, 153, 154, 155, 156
"""Exit statuses of fetch and check; push takes 100 off (see above). 128 and 143 mean something else to PostgreSQL."""
ABSENT = 1


class Problem(Exception):
    """What went wrong, in one line, and the exit status for it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Config:
    """The configuration file. Only its owner may read it."""

    def __init__(self, path: str) -> None:
        try:
            with open(path, encoding="utf-8") as stream:
                mode = os.fstat(stream.fileno()).st_mode
                values = json.load(stream)
        except (OSError, ValueError) as error:
            raise Problem(CONFIGURATION, f"{path}: {_reason(error)}") from None
        if mode & 0o077:
            raise Problem(CONFIGURATION, f"{path}: others may read it (mode {mode & 0o777:04o}): chmod 0600")
        if not isinstance(values, dict) or not values.get("bucket"):
            raise Problem(CONFIGURATION, f"{path}: names no bucket")
        self.path = os.path.abspath(path)
        self.bucket = str(values["bucket"])
        self.endpoint: str | None = values.get("endpoint") or None
        self.region: str = values.get("region") or "us-east-1"
        self.access_key: str | None = values.get("access_key") or None
        self.secret_key: str | None = values.get("secret_key") or None
        self.session_token: str | None = values.get("session_token") or None
        self.profile: str | None = values.get("profile") or None
        self.ca_bundle: str | None = values.get("ca_bundle") or None
        self.addressing_style: str = values.get("addressing_style") or "auto"
        self.prefix: str = values.get("prefix") or ""
        self.spool: str = values.get("spool") or ""
        self.segment_size = int(values.get("segment_size") or 0)
        self.batch = max(1, int(values.get("batch") or 1))
        self.prefetch = max(0, int(values.get("prefetch") or 0))
        self.timeout = float(values.get("timeout") or 60)
        self.attempts = max(1, int(values.get("attempts") or 6))
        self.tablespaces: dict[str, t.Any] | None = values.get("tablespaces")

    @property
    def place(self) -> str:
        """Which archive this is; spool entries of another one are not ours."""
        text = "\n".join((self.endpoint or f"aws {self.region}", self.bucket, self.prefix))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def key(self, name: str) -> str:
        """The object's key without the suffix of compression."""
        return f"{self.prefix}wal/{name}"

    def spool_directory(self, part: str) -> str | None:
        """A directory below the spool, made when absent; None when there is no usable spool."""
        if not self.spool:
            return None
        directory = os.path.join(self.spool, self.place, part)
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        except OSError as error:
            _say(f"{directory}: {_reason(error)}; going on without the spool")
            return None
        return directory

    def hide(self, text: str) -> str:
        """The text without secrets, in one line."""
        for secret in (self.secret_key, self.session_token, self.access_key):
            if secret:
                text = text.replace(secret, "***")
        return " ".join(text.split())


# The bucket


class Bucket:
    """The archive's objects. Imports boto3; every failure is a Problem."""

    def __init__(self, config: Config) -> None:
        try:
            import boto3
            import botocore.config
            import botocore.exceptions
        except ImportError as error:
            raise Problem(CONFIGURATION, f"boto3 is needed for {sys.executable}: {error}") from None
        self.config = config
        self._errors = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, OSError)
        self._conditional = True
        style = config.addressing_style
        settings: dict[str, t.Any] = {
            "connect_timeout": min(CONNECT_TIMEOUT, config.timeout),
            "read_timeout": config.timeout,
            "retries": {"mode": "standard", "total_max_attempts": config.attempts},
            "max_pool_connections": PUSHERS + PREFETCHERS,
            "signature_version": "s3v4",
            "s3": {"addressing_style": "path" if style == "auto" and config.endpoint else style},
        }
        for name in ("request_checksum_calculation", "response_checksum_validation"):
            if name in getattr(botocore.config.Config, "OPTION_DEFAULTS", {}):
                settings[name] = "when_required"
        with self._calling("connect to the bucket"):
            session = boto3.session.Session(profile_name=config.profile)
            self.client = session.client(
                "s3",
                endpoint_url=config.endpoint,
                region_name=config.region,
                aws_access_key_id=config.access_key,
                aws_secret_access_key=config.secret_key,
                aws_session_token=config.session_token,
                verify=config.ca_bundle,
                config=botocore.config.Config(**settings),
            )
        events = self.client.meta.events
        events.register("before-call.s3.PutObject", self._only_if_absent)
        events.register("needs-retry.s3", self._ask_again)
        events.register("response-received.s3.ListObjectsV2", self._require_list)

    def _only_if_absent(self, params: dict[str, t.Any], **_unused: t.Any) -> None:
        if self._conditional:
            params["headers"]["If-None-Match"] = "*"

    def _ask_again(self, response: tuple[t.Any, t.Any] | None, attempts: int, **_unused: t.Any) -> float | None:
        """Seconds until a request is repeated for a status after which botocore, depending on its version, does not."""
        if response is None or response[0].status_code not in (408, 429) or attempts >= self.config.attempts:
            return None
        return random.uniform(0, min(5.0, 0.2 * 2**attempts))  # noqa: S311 - jitter, not a secret

    def _require_list(self, response_dict: dict[str, t.Any] | None, **_unused: t.Any) -> None:
        """botocore takes whatever a proxy answers for an empty list, which would be the end of the WAL."""
        if response_dict is not None and response_dict["status_code"] == 200 and not LIST.match(response_dict["body"]):
            raise Problem(
                UNAVAILABLE, f"bucket {self.config.bucket}: the answer is no list of objects: is there a proxy in between?"
            )

    @contextlib.contextmanager
    def _calling(self, what: str) -> t.Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise self._problem(what, error) from None

    def _problem(self, what: str, error: BaseException) -> Problem:
        code = _code(error)
        text = self.config.hide(f"{what}: {type(error).__name__}: {error}")
        where = f"bucket {self.config.bucket}"
        if code == "NoSuchBucket":
            return Problem(NO_BUCKET, f"{what}: {where} does not exist")
        denied = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "403", "401")
        if code in denied or type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"):
            return Problem(DENIED, f"{where}: {text}")
        return Problem(UNAVAILABLE, f"{where}: {text}")

    def find(self, name: str) -> dict[str, t.Any] | None:
        """The object for a WAL file name, packed or not; None when the bucket, which was asked, truly has none."""
        key = self.config.key(name)
        with self._calling(f"look for {key}"):
            answer = self.client.list_objects_v2(Bucket=self.config.bucket, Prefix=key, MaxKeys=20)
        found = {item["Key"]: item for item in answer.get("Contents", ())}
        return found.get(f"{key}.gz") or found.get(key)

    def read(self, key: str) -> tuple[bytes, dict[str, str]]:
        """An object's bytes and metadata; a body that breaks off is asked for again."""
        for attempt in range(1, self.config.attempts + 1):
            try:
                with self._calling(f"read {key}"):
                    answer = self.client.get_object(Bucket=self.config.bucket, Key=key)
                    data = answer["Body"].read()
                if len(data) != answer["ContentLength"]:
                    raise Problem(UNAVAILABLE, f"{key}: the answer ended early")
                return data, {name.lower(): value for name, value in answer.get("Metadata", {}).items()}
            except Problem as problem:
                if problem.status != UNAVAILABLE or attempt == self.config.attempts:
                    raise
                time.sleep(random.uniform(0, min(5.0, 0.2 * 2**attempt)))  # noqa: S311 - jitter, not a secret
        raise Problem(UNAVAILABLE, f"{key}: could not be read")

    def store(self, name: str, data: bytes) -> None:
        """Make sure that the archive holds exactly these bytes under this name; never overwrites."""
        digest = hashlib.sha256(data).hexdigest()
        found = self.find(name)
        if found is not None:
            self._compare(found["Key"], name, data, digest)
            return
        key = f"{self.config.key(name)}.gz"
        packed = gzip.compress(data, 1, mtime=0)
        md5 = hashlib.md5(packed, usedforsecurity=False)
        try:
            self._put(key, packed, md5.digest(), {"sha256": digest, "size": str(len(data))})
        except self._errors as error:
            if _code(error) not in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
                raise self._problem(f"write {key}", error) from None
        self._compare(key, name, data, digest, len(packed))

    def _put(self, key: str, packed: bytes, md5: bytes, metadata: dict[str, str]) -> None:
        arguments = {"Bucket": self.config.bucket, "Key": key, "Body": packed, "Metadata": metadata}
        arguments["ContentMD5"] = base64.b64encode(md5).decode()
        try:
            self.client.put_object(**arguments)
        except self._errors as error:
            if not self._conditional or _code(error) not in ("NotImplemented", "InvalidArgument", "501"):
                raise
            self._conditional = False  # a service that does not know conditional writes
            self.client.put_object(**arguments)

    def _compare(self, key: str, name: str, data: bytes, digest: str, packed_size: int | None = None) -> None:
        """Raise Problem unless the stored object holds the same bytes."""
        with self._calling(f"look at {key}"):
            answer = self.client.head_object(Bucket=self.config.bucket, Key=key)
        metadata = {item.lower(): value for item, value in answer.get("Metadata", {}).items()}
        if "sha256" in metadata:
            same = metadata["sha256"] == digest and metadata.get("size") == str(len(data))
            same = same and (packed_size is None or answer["ContentLength"] == packed_size)
        else:
            stored, _metadata = self.read(key)
            same = (unpack(stored, len(data), key) if key.endswith(".gz") else stored) == data
        if not same:
            raise Problem(
                DIFFERENT,
                f"{key} in bucket {self.config.bucket} already holds other content than {name}: it is not overwritten; "
                "two servers may archive into one place",
            )


def _code(error: BaseException) -> str:
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def unpack(data: bytes, limit: int, key: str) -> bytes:
    """Every gzip member of the data; more than ``limit`` bytes, damage or an early end is a Problem."""
    pieces: list[bytes] = []
    size = 0
    while data:
        engine = zlib.decompressobj(31)
        try:
            pieces.append(engine.decompress(data, limit + 1 - size))
        except zlib.error as error:
            raise Problem(DAMAGED, f"{key}: damaged: {error}") from None
        size += len(pieces[-1])
        if size > limit or not engine.eof:
            raise Problem(DAMAGED, f"{key}: {'too long' if size > limit else 'cut off'}")
        data = engine.unused_data
    return b"".join(pieces)


# What a file must be


def segment_size_of(data: bytes, config: Config) -> int:
    """The segment size that a segment's own header names, checked against the configuration."""
    if len(data) < 40:
        raise Problem(DAMAGED, f"a WAL segment of {len(data)} bytes is cut off")
    info = struct.unpack_from("<H", data, 2)[0]
    size = int(struct.unpack_from("<I", data, 32)[0])
    if not info & 2 or not 1 << 20 <= size <= LARGEST_SEGMENT or size & (size - 1):
        raise Problem(DAMAGED, "not a WAL segment: its first page has no long header")
    if config.segment_size and config.segment_size != size:
        raise Problem(DAMAGED, f"a WAL segment of a cluster with segments of {size} bytes, not {config.segment_size}")
    return size


def check_segment(name: str, data: bytes, config: Config) -> None:
    """Raise Problem unless the bytes are a whole segment that belongs under this name."""
    size = segment_size_of(data, config)
    if len(data) != size:
        raise Problem(DAMAGED, f"{name}: {len(data)} bytes instead of {size}")
    timeline, address = struct.unpack_from("<IQ", data, 4)
    high, low = int(name[8:16], 16), int(name[16:24], 16)
    if address != (high * ((1 << 32) // size) + low) * size or timeline > int(name[:8], 16):
        raise Problem(DAMAGED, f"{name}: holds the WAL of another segment (from {address >> 32:X}/{address & 0xFFFFFFFF:X})")


def following(name: str, size: int, count: int) -> list[str]:
    """Names of the segments that follow on the same timeline."""
    each = (1 << 32) // size
    number = int(name[8:16], 16) * each + int(name[16:24], 16)
    return [f"{name[:8]}{later // each:08X}{later % each:08X}" for later in range(number + 1, number + 1 + count)]


# Files


def write_file(path: str, data: bytes, *, durable: bool = True) -> None:
    """Write beside, sync, rename: the file is whole or not there."""
    partial = os.path.join(os.path.dirname(path) or ".", f".{os.path.basename(path)}.{os.getpid()}.partial")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
    if durable:
        sync_directory(os.path.dirname(path) or ".")


def sync_directory(path: str) -> None:
    """Make names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(*paths: str) -> None:
    """Remove files that may be gone."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)


# push


def push(config: Config, path: str) -> int:
    """archive_command: store one file, and others that wait behind it."""
    name = os.path.basename(path)
    if not KNOWN.match(name):
        raise Problem(CONFIGURATION, f"{name}: not the name of a WAL file")
    spool = config.spool_directory("pushed") if config.batch > 1 else None
    if spool is not None and take_record(spool, path):
        return 0
    bucket = Bucket(config)
    waiting = waiting_files(path, spool, config.batch - 1) if spool is not None else []
    with concurrent.futures.ThreadPoolExecutor(min(PUSHERS, 1 + len(waiting))) as pool:
        own = pool.submit(push_file, bucket, path)
        others = [pool.submit(push_recorded, bucket, other, spool) for other in waiting if spool is not None]
        concurrent.futures.wait([own, *others])
    own.result()
    return 0


def push_file(bucket: Bucket, path: str) -> None:
    """Read, check and store one file."""
    name = os.path.basename(path)
    with open(path, "rb") as stream:
        data = stream.read(LARGEST_SEGMENT + 1)
    if SEGMENT.match(name) or name.endswith(".partial"):
        check_segment(name[:24], data, bucket.config)
    elif not data:
        raise Problem(DAMAGED, f"{path}: is empty")
    bucket.store(name, data)


def push_recorded(bucket: Bucket, path: str, spool: str) -> None:
    """Store a file ahead of its turn and write that down; a failure is left for its turn."""
    try:
        before = identity(path)
        push_file(bucket, path)
        if identity(path) == before:
            write_file(os.path.join(spool, os.path.basename(path)), json.dumps(before).encode())
    except (Problem, OSError):
        return


def identity(path: str) -> dict[str, t.Any]:
    """What tells this very file from another one that gets its name later."""
    status = os.stat(path)
    with open(path, "rb") as stream:
        head = stream.read(40)
    return {
        "path": os.path.realpath(path),
        "device": status.st_dev,
        "inode": status.st_ino,
        "size": status.st_size,
        "mtime": status.st_mtime_ns,
        "head": hashlib.sha256(head).hexdigest(),
    }


def take_record(spool: str, path: str) -> bool:
    """Whether this very file was stored ahead; the record is used up."""
    record = os.path.join(spool, os.path.basename(path))
    try:
        with open(record, encoding="utf-8") as stream:
            stored = json.load(stream)
        same = bool(stored == identity(path))
    except (OSError, ValueError):
        same = False
    remove(record)
    return same


def waiting_files(path: str, spool: str, count: int) -> list[str]:
    """Segments that PostgreSQL has marked ready, oldest first, except ``path`` and those already stored; tidies the records."""
    directory = os.path.dirname(path)
    try:
        ready = {entry[:-6] for entry in os.listdir(os.path.join(directory, "archive_status")) if entry.endswith(".ready")}
        recorded = set(os.listdir(spool))
    except OSError:
        return []
    for stale in recorded - ready:
        remove(os.path.join(spool, stale))
    names = sorted(name for name in ready - recorded if SEGMENT.match(name) and name != os.path.basename(path))
    return [os.path.join(directory, name) for name in names[:count]]


# fetch


def fetch(config: Config, name: str, destination: str, absent: int = ABSENT) -> int:
    """restore_command: bring one file; ``absent`` when there is none."""
    if not KNOWN.match(name):
        raise Problem(CONFIGURATION, f"{name}: not the name of a WAL file")
    spool = config.spool_directory("fetched") if config.prefetch and SEGMENT.match(name) else None
    size = fetch_from_spool(config, spool, name, destination) if spool is not None else 0
    if spool is not None and size:
        start_prefetcher(config, spool, name, size)
        return 0
    bucket = Bucket(config)
    data = download(bucket, name)
    if data is None:
        return absent
    deliver(config, name, data, destination)
    if spool is not None:
        start_prefetcher(config, spool, name, len(data))
    return 0


def download(bucket: Bucket, name: str) -> bytes | None:
    """A file's bytes, verified; None when it is truly absent."""
    found = bucket.find(name)
    if found is None:
        return None
    key = str(found["Key"])
    data, metadata = bucket.read(key)
    if key.endswith(".gz"):
        data = unpack(data, LARGEST_SEGMENT if SEGMENT.match(name) else SMALL, key)
    if "size" in metadata and metadata["size"] != str(len(data)):
        raise Problem(DAMAGED, f"{key}: {len(data)} bytes instead of {metadata['size']}")
    if "sha256" in metadata and metadata["sha256"] != hashlib.sha256(data).hexdigest():
        raise Problem(DAMAGED, f"{key}: its content does not match its SHA-256")
    if SEGMENT.match(name):
        check_segment(name, data, bucket.config)
    elif not data:
        raise Problem(DAMAGED, f"{key}: is empty")
    return data


def fetch_from_spool(config: Config, spool: str, name: str, destination: str) -> int:
    """Take a prefetched segment, waiting for one that is on its way; its size, 0 when it has to be fetched."""
    path = os.path.join(spool, name)
    end = time.monotonic() + min(CLAIM_WAIT, config.timeout)
    while not os.path.exists(path):
        if not os.path.exists(f"{path}.claim") or not prefetcher_runs(spool) or time.monotonic() > end:
            return 0
        time.sleep(0.01)
    try:
        with open(path, "rb") as stream:
            content = stream.read(LARGEST_SEGMENT + 100)
    except OSError:
        return 0
    remove(path)
    digest, data = content[:64], content[64:]
    if hashlib.sha256(data).hexdigest().encode() != digest:
        return 0  # cut off or damaged on this disk: the bucket's is right
    try:
        check_segment(name, data, config)
    except Problem:
        return 0
    deliver(config, name, data, destination)
    return len(data)


def deliver(config: Config, name: str, data: bytes, destination: str) -> None:
    """Give PostgreSQL the file."""
    if config.tablespaces is not None and SEGMENT.match(name):
        check_tablespaces(config.tablespaces, name, data)
    try:
        write_file(destination, data)
    except OSError as error:
        raise Problem(DISK, f"{destination}: {_reason(error)}") from None


# Tablespaces that are made during replay: at the place that the WAL names, which is the original server's

_PAGE, _CREATE_LIMIT, _TAIL = 8192, 1200, 2048
_CREATE = re.compile(rb"\x05\x00\x00(?=.{4}[\xfc-\xff])", re.DOTALL)
"""In the header of a record of tablespaces: the resource manager's number, padding, a checksum, the head of what follows."""


def check_tablespaces(rules: dict[str, t.Any], name: str, data: bytes) -> None:
    """Raise Problem when replay of a segment would make a tablespace in a directory that is not this recovery's own.

    Rules: ``copy`` (a copy makes none at all, they would be another server's), ``oids`` and ``own`` (numbers of the restored ones,
    whose records come before those that are replayed, and their locations), ``version_directory`` and ``notes`` (a path for what
    has to be remembered from one call to the next).
    """
    stream = stream_of(data)
    tail = _take_tail(f"{rules['notes']}.tail", name, len(data), stream)
    for oid, location in created_tablespaces(tail + stream):
        if oid in rules["oids"]:
            continue
        what = f"{name}: replay would make the tablespace {oid}, younger than the base backup, at {location}"
        if rules["copy"]:
            raise Problem(TABLESPACE, f"{what}, which this copy must not touch")
        if os.path.realpath(location) not in rules["own"]:
            _claim_location(f"{rules['notes']}.made", location, os.path.join(location, rules["version_directory"]), what)


def _claim_location(notes: str, location: str, directory: str, what: str) -> None:
    """Remember that replay makes this one, when the directory is free; it is not any more when that is replayed again."""
    try:
        with open(notes, encoding="utf-8", errors="surrogateescape") as stream:
            made = json.load(stream)
    except FileNotFoundError:
        made = []
    if location in made:
        return
    with contextlib.suppress(FileNotFoundError):
        if os.listdir(directory):
            raise Problem(TABLESPACE, f"{what}, but {directory} holds files: move it away")
    write_file(notes, json.dumps([*made, location]).encode())


def _take_tail(path: str, name: str, size: int, stream: bytes) -> bytes:
    """The end of the segment before, in which a record may begin; this one's is kept for the next."""
    tail = b""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        wanted, tail = file.read(16).decode(), file.read()
        tail = tail if wanted == name[8:] else b""
    write_file(path, following(name, size, 1)[0][8:].encode() + stream[-_TAIL:], durable=False)
    return tail


def stream_of(data: bytes) -> bytes:
    """The records of a segment: its pages without their headers, up to the first that is left from another segment."""
    begin = struct.unpack_from("<Q", data, 8)[0]
    pieces = []
    for offset in range(0, len(data), _PAGE):
        _magic, info, _timeline, address = struct.unpack_from("<HHIQ", data, offset)
        if address != begin + offset:
            break
        pieces.append(data[offset + (40 if info & 2 else 24) : offset + _PAGE])
    return b"".join(pieces)


def created_tablespaces(stream: bytes) -> list[tuple[int, str]]:
    """Number and location of each tablespace that the records make; those inside the data directory are left out."""
    found = []
    for match in _CREATE.finditer(stream):
        begin = match.start() - 17
        if begin < 0 or begin % 8 or stream[begin + 16]:
            continue
        length = struct.unpack_from("<I", stream, begin)[0]
        record = stream[begin : begin + length]
        if 24 < length <= _CREATE_LIMIT and len(record) == length:
            made = _read_creation(record)
            if made is not None:
                found.append(made)
    return found


def _read_creation(record: bytes) -> tuple[int, str] | None:
    """Number and location in a record; None unless it is one, whole and with the right checksum."""
    place = 24
    sizes = {252: 5, 253: 3}  # top-level transaction, origin
    while place < len(record) and record[place] in sizes:
        place += sizes[record[place]]
    if record[place : place + 1] == b"\xff":
        place += 2
    else:
        place += 5
    oid, path = record[place : place + 4], record[place + 4 :]
    if not path.startswith(b"/") or path.find(b"\0") != len(path) - 1:
        return None
    if crc32c(record[24:] + record[:20]) != struct.unpack_from("<I", record, 20)[0]:
        return None
    return struct.unpack("<I", oid)[0], os.fsdecode(path[:-1])


def crc32c(data: bytes) -> int:
    """The checksum of WAL records."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _bit in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


# prefetch


def start_prefetcher(config: Config, spool: str, name: str, size: int) -> None:
    """Say how far replay is, and start the background process unless it runs. Never fails: it only saves time."""
    with contextlib.suppress(OSError):
        write_file(os.path.join(spool, "position"), f"{name} {size}".encode(), durable=False)
        if not prefetcher_runs(spool):
            subprocess.Popen(
                [sys.executable, os.path.abspath(__file__), "--config", config.path, "prefetch"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
                close_fds=True,
            )


def prefetcher_runs(spool: str) -> bool:
    """Whether a process holds the prefetcher's lock."""
    with lock(spool) as held:
        return not held


@contextlib.contextmanager
def lock(spool: str) -> t.Iterator[bool]:
    """Hold the prefetcher's lock for the body; false when another process does."""
    handle = os.open(os.path.join(spool, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(handle)


def prefetch(config: Config) -> int:
    """The background process: keep the next segments in the spool until replay stands still or there are none."""
    spool = config.spool_directory("fetched")
    if spool is None:
        return 0
    for _attempt in range(5):  # fetch holds the lock for a moment when it looks whether this process runs
        with lock(spool) as held:
            if held:
                try:
                    prefetch_loop(config, spool)
                finally:
                    for entry in os.listdir(spool):
                        if entry != "lock":
                            remove(os.path.join(spool, entry))
                return 0
        time.sleep(0.02)
    return 0


def prefetch_loop(config: Config, spool: str) -> None:
    """See ``prefetch``. Whatever goes wrong ends it: fetch itself will meet the same problem and report it."""
    bucket = Bucket(config)
    moved = time.monotonic()
    before = ""
    with concurrent.futures.ThreadPoolExecutor(PREFETCHERS) as pool:
        while time.monotonic() - moved < PREFETCH_IDLE:
            position, size = read_position(spool)
            if position != before:
                before, moved = position, time.monotonic()
                tidy(spool, position)
                ahead = following(position, size, config.prefetch)
                wanted = [name for name in ahead if not os.path.exists(os.path.join(spool, name))]
                for name in wanted:
                    write_file(os.path.join(spool, f"{name}.claim"), b"", durable=False)
                list(pool.map(lambda name: prefetch_one(bucket, spool, name), wanted))
            time.sleep(0.02)


def prefetch_one(bucket: Bucket, spool: str, name: str) -> None:
    """Bring one segment into the spool, its SHA-256 before it."""
    try:
        if name > read_position(spool)[0]:
            data = download(bucket, name)
            if data is not None:
                content = hashlib.sha256(data).hexdigest().encode() + data
                write_file(os.path.join(spool, name), content, durable=False)
    finally:
        remove(os.path.join(spool, f"{name}.claim"))


def read_position(spool: str) -> tuple[str, int]:
    """The segment that PostgreSQL asked for last, and its size."""
    with open(os.path.join(spool, "position"), encoding="ascii") as stream:
        name, size = stream.read().split()
    return name, int(size)


def tidy(spool: str, position: str) -> None:
    """Drop what replay has passed, and segments of other timelines."""
    for entry in os.listdir(spool):
        if SEGMENT.match(entry[:24]) and (entry[:24] <= position or entry[:8] != position[:8]):
            remove(os.path.join(spool, entry))


# check and main


def check(config: Config) -> int:
    """Whether the bucket answers and the spool can be written."""
    bucket = Bucket(config)
    bucket.find("00000000.history")
    for part in ("pushed", "fetched") if config.spool else ():
        directory = config.spool_directory(part)
        if directory is None:
            return DISK
        probe = os.path.join(directory, f".check-{os.getpid()}")
        write_file(probe, b"")
        remove(probe)
    print("ok")  # noqa: T201 - this is a program
    return 0


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)


def _say(text: str) -> None:
    sys.stderr.write(f"fileforge-wal: {text}\n")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> t.NoReturn:
        raise Problem(CONFIGURATION, message)


def arguments_of(argv: t.Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = _Parser(prog="fileforge-wal", description="Carry WAL files between PostgreSQL and an S3 bucket.")
    parser.add_argument("--config", required=True)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    commands.add_parser("push").add_argument("path")
    bring = commands.add_parser("fetch")
    bring.add_argument("name")
    bring.add_argument("destination")
    bring.add_argument("--alone", action="store_true", help="fetch nothing ahead")
    bring.add_argument("--absent", type=int, default=ABSENT, help="exit status when the bucket has no such object")
    commands.add_parser("check")
    commands.add_parser("prefetch")
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> int:
    """One command."""
    config = Config(arguments.config)
    if arguments.command == "push":
        return push(config, arguments.path)
    if arguments.command == "fetch":
        config.prefetch = 0 if arguments.alone else config.prefetch
        return fetch(config, arguments.name, arguments.destination, arguments.absent)
    return check(config) if arguments.command == "check" else prefetch(config)


def main(argv: t.Sequence[str]) -> int:
    """Run and turn every problem into a line and a status."""
    pushing = "push" in argv[:4]
    try:
        return run(arguments_of(argv))
    except Problem as problem:
        _say(str(problem))
        status = problem.status
    except OSError as error:
        _say(f"{error.filename or ''}: {_reason(error)}".lstrip(": "))
        status = DISK
    except Exception as error:  # pylint: disable=broad-except
        _say(f"defect: {type(error).__name__}: {' '.join(str(error).split())}")
        status = CONFIGURATION
    return status - 100 if pushing else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
