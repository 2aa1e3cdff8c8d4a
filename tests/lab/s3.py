# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""An S3 server on loopback: SeaweedFS, all its parts in one process."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sys
import typing as t
from pathlib import Path

from tests.lab.daemon import Daemon, wait_until
from tests.lab.place import PlaceError
from tests.lab.ports import free_port

PARTS = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
REGION = "us-east-1"


def program() -> str:
    """Path of the server's program, in the development environment or on PATH."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise PlaceError("SeaweedFS (weed) is not installed: the development requirements bring it (make)")
    return found


class S3Server:
    """One server below ``root``; identities: an administrator (access_key) and a reader (reader_access_key)."""

    def __init__(self, root: Path, port: int | None = None) -> None:
        self.root = root
        self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._facts = self._remember(port)
        self.port = int(self._facts["ports"]["s3"])
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.access_key = str(self._facts["access_key"])
        self.secret_key = str(self._facts["secret_key"])
        self.reader_access_key = str(self._facts["reader_access_key"])
        self.reader_secret_key = str(self._facts["reader_secret_key"])
        self.daemon = Daemon("s3", root)

    def _remember(self, port: int | None) -> dict[str, t.Any]:
        file = self.root / "s3-facts.json"
        if file.exists():
            facts: dict[str, t.Any] = json.loads(file.read_text(encoding="utf-8"))
            return facts
        facts = {"ports": {part: free_port() for part in PARTS}}
        if port is not None:
            facts["ports"]["s3"] = port
        for who in ("", "reader_"):
            facts[f"{who}access_key"] = "LAB" + secrets.token_hex(8).upper()
            facts[f"{who}secret_key"] = secrets.token_hex(20)
        _write_private(file, facts)
        return facts

    def _identities(self) -> Path:
        def identity(name: str, who: str, actions: list[str]) -> dict[str, t.Any]:
            keys = {"accessKey": self._facts[f"{who}access_key"], "secretKey": self._facts[f"{who}secret_key"]}
            return {"name": name, "credentials": [keys], "actions": actions}

        file = self.root / "s3-identities.json"
        everything = ["Admin", "Read", "Write", "List", "Tagging"]
        _write_private(file, {"identities": [identity("lab", "", everything), identity("reader", "reader_", ["Read", "List"])]})
        return file

    def start(self, timeout: float = 60) -> S3Server:
        """Start it unless it runs, and wait until it lists buckets."""
        if self.daemon.pid is None:
            self._launch()
        try:
            wait_until(self.healthy, timeout, "S3 server to answer")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; the end of {self.daemon.log}:\n{self.daemon.last_lines()}") from error
        return self

    def _launch(self) -> None:
        for part in ("data", "tmp"):
            (self.root / part).mkdir(exist_ok=True)
        ports = self._facts["ports"]
        argv = [program(), "-logtostderr=true", "server", f"-dir={self.root / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        argv += [f"-{part.replace('.grpc', '')}.port{'.grpc' if '.grpc' in part else ''}={ports[part]}" for part in PARTS]
        argv += ["-master.telemetry=false", "-master.electionTimeout=1s", "-master.heartbeatInterval=100ms"]
        argv += ["-master.volumeSizeLimitMB=1024", "-volume.max=300", "-volume.preStopSeconds=0", "-volume.minFreeSpace=100MiB"]
        argv += ["-filer", f"-filer.localSocket={self.root / 'tmp' / 'filer.sock'}"]
        argv += ["-s3", f"-s3.localSocket={self.root / 'tmp' / 's3.sock'}", f"-s3.config={self._identities()}"]
        argv += ["-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"]
        self.daemon.start(argv, env={"TMPDIR": str(self.root / "tmp"), "HOME": str(self.root)})

    def healthy(self) -> bool:
        """Whether it runs and answers; an ended process is an error at once."""
        if self.daemon.pid is None:
            raise RuntimeError(f"the S3 server ended; the end of {self.daemon.log}:\n{self.daemon.last_lines()}")
        try:
            self._probe()
        except Exception:  # every client error means: not yet
            return False
        return True

    def _probe(self) -> None:
        client = self.client(attempts=1, timeout=5)
        name = "fileforge-lab-probe"
        if name not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=name)
        client.put_object(Bucket=name, Key="probe", Body=b"ready")

    def stop(self) -> None:
        """Stop it by pid. It takes its time over idle streams and keeps no unwritten data, so it is not waited for long."""
        self.daemon.stop(grace=2.0)
        for part in PARTS:
            with contextlib.suppress(OSError):
                os.unlink(f"/tmp/seaweedfs-{part.replace('.', '-')}-{self._facts['ports'][part]}.sock")

    def destroy(self) -> None:
        """Stop it and remove all its data."""
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def client(self, *, attempts: int = 4, timeout: int = 60) -> t.Any:
        """A boto3 client of the administrator."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(
                retries={"max_attempts": attempts, "mode": "standard"},
                connect_timeout=timeout,
                read_timeout=timeout,
                s3={"addressing_style": "path"},
            ),
        )

    def create_bucket(self, name: str) -> str:
        """Make a bucket unless it is there; its name."""
        client = self.client()
        if name not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=name)
        return name

    def empty_bucket(self, name: str) -> None:
        """Delete every object of a bucket."""
        client = self.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
            for item in page.get("Contents", []):
                client.delete_object(Bucket=name, Key=item["Key"])

    def options(self, bucket: str, *, reader: bool = False) -> dict[str, t.Any]:
        """The connection options of the collection's modules for one bucket."""
        return {
            "s3_bucket": bucket,
            "s3_endpoint": self.endpoint,
            "s3_region": REGION,
            "s3_access_key": self.reader_access_key if reader else self.access_key,
            "s3_secret_key": self.reader_secret_key if reader else self.secret_key,
            "s3_addressing_style": "path",
        }


def _write_private(file: Path, content: object) -> None:
    fresh = file.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=1)
    fresh.replace(file)
