# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""An S3 service in memory, on loopback, for what SeaweedFS does not implement: archive classes, public access, replication.

Requests and answers follow botocore's own model of the service: a configuration with an element, a value or a type that the model
does not know, or without one that it requires, is refused as the real service refuses it. What the model does not say and the real
service enforces all the same is in ``_RULES``.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import http.server
import threading
import typing as t
import urllib.parse
import uuid
from xml.etree import ElementTree

import botocore.session

XML = "http://s3.amazonaws.com/doc/2006-03-01/"
CONFIGURATIONS = {
    "versioning": ("BucketVersioning", ""),
    "lifecycle": ("BucketLifecycleConfiguration", "NoSuchLifecycleConfiguration"),
    "object-lock": ("ObjectLockConfiguration", "ObjectLockConfigurationNotFoundError"),
    "encryption": ("BucketEncryption", "ServerSideEncryptionConfigurationNotFoundError"),
    "publicAccessBlock": ("PublicAccessBlock", "NoSuchPublicAccessBlockConfiguration"),
    "replication": ("BucketReplication", "ReplicationConfigurationNotFoundError"),
}


class Refusal(Exception):
    """An error answer."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclasses.dataclass
class Stored:
    """An object."""

    data: bytes
    encryption: str = ""
    replication: str = ""
    modified: datetime.datetime = dataclasses.field(default_factory=lambda: datetime.datetime.now(datetime.timezone.utc))


@dataclasses.dataclass
class Bucket:
    """Objects, and what each configuration was set to, as boto3 gives it."""

    objects: dict[str, Stored] = dataclasses.field(default_factory=dict)
    configuration: dict[str, dict[str, t.Any]] = dataclasses.field(default_factory=dict)


class S3Stub:
    """The service. ``denied`` and ``unimplemented`` are names of configurations; ``requests`` what was asked of them."""

    def __init__(self) -> None:
        self.model = botocore.session.get_session().get_service_model("s3")
        self.buckets: dict[str, Bucket] = {}
        self.denied: set[str] = set()
        self.unimplemented: set[str] = set()
        self.forgets: set[str] = set()
        """Configurations that are accepted and then not shown."""
        self.requests: list[tuple[str, str]] = []
        stub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            disable_nagle_algorithm = True

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                try:
                    status, headers, data = stub.answer(self.command, self.path, body)
                except Refusal as refusal:
                    data = f"<Error><Code>{refusal.code}</Code><Message>{refusal.message}</Message></Error>".encode()
                    status, headers = refusal.status, {}
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_PUT = do_HEAD = do_DELETE = answer

            def log_message(self, *_arguments: t.Any) -> None:
                """Nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> S3Stub:
        self._thread.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def forget(self) -> None:
        """Begin anew."""
        for part in (self.buckets, self.denied, self.unimplemented, self.forgets, self.requests):
            part.clear()

    def bucket(self, name: str) -> Bucket:
        """A new bucket, encrypted as the real service encrypts every bucket."""
        self.buckets[name] = Bucket()
        default = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
        self.buckets[name].configuration["encryption"] = default
        return self.buckets[name]

    def options(self, name: str) -> dict[str, t.Any]:
        """The connection options of the modules."""
        return {
            "s3_bucket": name,
            "s3_endpoint": self.endpoint,
            "s3_access_key": "stub",
            "s3_secret_key": "stub-secret",
            "s3_attempts": 1,
        }

    # -- requests -------------------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """One request."""
        parts = urllib.parse.urlsplit(path)
        query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        name, _slash, key = urllib.parse.unquote(parts.path).lstrip("/").partition("/")
        bucket = self.buckets.get(name)
        if bucket is None:
            raise Refusal(404, "NoSuchBucket", "The specified bucket does not exist")
        kind = next((kind for kind in CONFIGURATIONS if kind in query), "")
        if kind and not key:
            self.requests.append((method, kind))
            return self._configure(bucket, method, kind, body)
        return self._object(bucket, method, key, query, body)

    def _configure(self, bucket: Bucket, method: str, kind: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        name, absent = CONFIGURATIONS[kind]
        if kind in self.unimplemented:
            raise Refusal(501, "NotImplemented", "A header you provided implies functionality that is not implemented")
        if kind in self.denied:
            raise Refusal(403, "AccessDenied", "Access Denied")
        if method == "DELETE":
            bucket.configuration.pop(kind, None)
            return 204, {}, b""
        if method == "PUT":
            shape = self.model.operation_model(f"Put{name}").input_shape
            value = read(ElementTree.fromstring(body), shape.members[shape.serialization["payload"]])
            _RULES.get(kind, lambda bucket, value: None)(bucket, value)
            if kind not in self.forgets:
                bucket.configuration[kind] = value
            return 200, {}, b""
        if kind not in bucket.configuration:
            if absent:
                raise Refusal(404, absent, "There is no such configuration")
            return 200, {}, f'<VersioningConfiguration xmlns="{XML}"/>'.encode()
        shape = self.model.operation_model(f"Get{name}").output_shape
        payload = shape.serialization.get("payload")
        member = shape.members[payload] if payload else shape
        root = ElementTree.Element(f"{{{XML}}}Configuration")
        write(root, member, bucket.configuration[kind])
        return 200, {}, ElementTree.tostring(root)

    def _object(
        self, bucket: Bucket, method: str, key: str, query: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if not key:
            return 200, {}, listing(bucket, query)
        if method == "PUT":
            rules = bucket.configuration.get("encryption", {}).get("Rules", [])
            algorithm = rules[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] if rules else ""
            if rules and rules[0]["ApplyServerSideEncryptionByDefault"].get("KMSMasterKeyID") == "no-such-key":
                raise Refusal(400, "KMS.NotFoundException", "Key does not exist")
            bucket.objects[key] = Stored(body, algorithm)
            return 200, {"ETag": etag(body), "x-amz-version-id": uuid.uuid4().hex}, b""
        stored = bucket.objects.get(key)
        if stored is None and method != "DELETE":
            raise Refusal(404, "NoSuchKey", "The specified key does not exist.")
        if method == "DELETE" or stored is None:
            bucket.objects.pop(key, None)
            return 204, {}, b""
        headers = {"ETag": etag(stored.data), "Last-Modified": stored.modified.strftime("%a, %d %b %Y %H:%M:%S GMT")}
        headers["Content-Length"] = str(len(stored.data))
        if stored.encryption:
            headers["x-amz-server-side-encryption"] = stored.encryption
        if stored.replication:
            headers["x-amz-replication-status"] = stored.replication
        return 200, headers, stored.data


def etag(data: bytes) -> str:
    """As the service computes it."""
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def listing(bucket: Bucket, query: dict[str, str]) -> bytes:
    """All in one page."""
    rows = []
    for key in sorted(bucket.objects):
        if key.startswith(query.get("prefix", "")):
            stored = bucket.objects[key]
            time = stored.modified.strftime("%Y-%m-%dT%H:%M:%S.000Z")
            tag = etag(stored.data).strip('"')
            rows.append(
                f"<Contents><Key>{key}</Key><LastModified>{time}</LastModified><ETag>{tag}</ETag>"
                f"<Size>{len(stored.data)}</Size></Contents>"
            )
    return f'<ListBucketResult xmlns="{XML}"><IsTruncated>false</IsTruncated>{"".join(rows)}</ListBucketResult>'.encode()


# XML and the model


def read(element: ElementTree.Element, shape: t.Any) -> t.Any:
    """An element as the model says it must be. Raises Refusal (MalformedXML) for anything else."""
    if shape.type_name == "structure":
        found: dict[str, t.Any] = {}
        names = {member.serialization.get("name", name): name for name, member in shape.members.items()}
        for child in element:
            tag = child.tag.partition("}")[2] or child.tag
            if tag not in names:
                raise Refusal(400, "MalformedXML", f"{shape.name} has no element {tag}")
            member = shape.members[names[tag]]
            if member.type_name == "list" and member.serialization.get("flattened"):
                found.setdefault(names[tag], []).append(read(child, member.member))
            else:
                found[names[tag]] = read(child, member)
        missing = set(shape.required_members) - set(found)
        if missing:
            raise Refusal(400, "MalformedXML", f"{shape.name} lacks {sorted(missing)}")
        return found
    if shape.type_name == "list":
        return [read(child, shape.member) for child in element]
    return _scalar(element.text or "", shape)


def _scalar(text: str, shape: t.Any) -> t.Any:
    if shape.type_name == "boolean":
        if text not in ("true", "false"):
            raise Refusal(400, "MalformedXML", f"{shape.name}: {text!r} is not a boolean")
        return text == "true"
    if shape.type_name in ("integer", "long"):
        try:
            return int(text)
        except ValueError:
            raise Refusal(400, "MalformedXML", f"{shape.name}: {text!r} is not a number") from None
    if getattr(shape, "enum", None) and text not in shape.enum:
        raise Refusal(400, "MalformedXML", f"{shape.name}: {text!r} is none of {', '.join(shape.enum)}")
    return text


def write(element: ElementTree.Element, shape: t.Any, value: t.Any) -> None:
    """The reverse."""
    if shape.type_name == "structure":
        for name, member in shape.members.items():
            if name in value:
                tag = f"{{{XML}}}{member.serialization.get('name', name)}"
                many = member.type_name == "list" and member.serialization.get("flattened")
                for item in value[name] if many else [value[name]]:
                    write(ElementTree.SubElement(element, tag), member.member if many else member, item)
    elif shape.type_name == "list":
        tag = f"{{{XML}}}{shape.member.serialization.get('name', 'member')}"
        for item in value:
            write(ElementTree.SubElement(element, tag), shape.member, item)
    else:
        element.text = str(value).lower() if isinstance(value, bool) else str(value)


# What the service enforces beyond its model


def _check_lifecycle(_bucket: Bucket, value: dict[str, t.Any]) -> None:
    rules = value["Rules"]
    names = [rule.get("ID") for rule in rules]
    if len(set(names)) != len(names):
        raise Refusal(400, "InvalidArgument", "Rule ID must be unique")
    for rule in rules:
        if "Filter" not in rule and "Prefix" not in rule:
            raise Refusal(400, "MalformedXML", "a rule needs a filter")
        expiration = rule.get("Expiration", {})
        if len(expiration) > 1:
            raise Refusal(400, "MalformedXML", "one of Days, Date and ExpiredObjectDeleteMarker")
        sized = "ObjectSizeGreaterThan" in (rule.get("Filter") or {}).get("And", {})
        if sized and "AbortIncompleteMultipartUpload" in rule:
            raise Refusal(400, "InvalidRequest", "AbortIncompleteMultipartUpload cannot be specified with Object Size.")
        days = [move["Days"] for move in rule.get("Transitions", [])]
        if any(move["StorageClass"].endswith("_IA") and move["Days"] < 30 for move in rule.get("Transitions", [])):
            raise Refusal(
                400, "InvalidArgument", "'Days' in Transition action must be greater than or equal to 30 for storage class"
            )
        if days and expiration.get("Days", max(days) + 1) <= max(days):
            raise Refusal(400, "InvalidArgument", "'Days' in the Expiration action must be greater than in the Transition action")


def _check_lock(bucket: Bucket, value: dict[str, t.Any]) -> None:
    if bucket.configuration.get("versioning", {}).get("Status") != "Enabled":
        raise Refusal(409, "InvalidBucketState", "Versioning must be 'Enabled' on the bucket to apply a Object Lock configuration")
    if value.get("ObjectLockEnabled") != "Enabled":
        raise Refusal(400, "MalformedXML", "ObjectLockEnabled")


_RULES: dict[str, t.Callable[[Bucket, dict[str, t.Any]], None]] = {
    "lifecycle": _check_lifecycle,
    "object-lock": _check_lock,
}
