# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is decided once and remembered: ports and passwords; and what the inventory reads: lab.json."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import secrets
import shutil
import subprocess
import sys
import typing as t
from pathlib import Path

from tests.lab.place import PlaceError, owner
from tests.lab.ports import remembered

NAMESPACE = "fileforge"
BACKEND = "fileforge-backend"
WORKER = "fileforge-worker"
QUEUE = "fileforge-tasks"
DATABASE = "fileforge"
TABLESPACE = "fileforge_slow"
PRIMARY = "fileforge-backups"
SECONDARY = "fileforge-backups-secondary"
PORTS = ["postgres", "redis", "kube", "api", "backend", "worker", "prometheus", "node_exporter"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where everything is, below the state directory."""

    state: Path

    @property
    def postgres(self) -> Path:
        return self.state / "postgres"

    @property
    def s3(self) -> Path:
        return self.state / "s3"

    @property
    def run(self) -> Path:
        """Pid files and logs of the other services."""
        return self.state / "run"

    @property
    def uploads(self) -> Path:
        return self.state / "app" / "uploads"

    @property
    def logs(self) -> Path:
        """The application's logs."""
        return self.state / "app" / "log"

    @property
    def log_pid(self) -> Path:
        """The process that writes them."""
        return self.run / "writer-log.pid"

    @property
    def logrotate(self) -> Path:
        """A configuration of logrotate as /etc has one."""
        return self.state / "logrotate"

    @property
    def repository(self) -> Path:
        return self.state / "git" / "production-config.git"

    @property
    def checkout(self) -> Path:
        return self.state / "app" / "production-config"

    @property
    def kube(self) -> Path:
        return self.state / "kube"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def tls(self) -> Path:
        """Of pebble, nginx and certbot."""
        return self.state / "tls"

    @property
    def wal(self) -> Path:
        return self.state / "wal"

    @property
    def evidence(self) -> Path:
        return self.state / "evidence"

    @property
    def facts(self) -> Path:
        return self.state / "lab.json"

    @property
    def application(self) -> Path:
        """The application's configuration file."""
        return self.checkout / "application.json"


@dataclasses.dataclass(frozen=True)
class Remembered:
    """Ports and passwords."""

    ports: dict[str, int]
    database_password: str
    redis_password: str

    @classmethod
    def load(cls, layout: Layout) -> Remembered:
        """From the state directory; chosen at the first time."""
        file = layout.state / "passwords.json"
        if not file.exists():
            write_private(file, {"database": secrets.token_hex(16), "redis": secrets.token_hex(16)})
        passwords = json.loads(file.read_text(encoding="utf-8"))
        ports = remembered(layout.state / "ports.json", PORTS)
        return cls(ports, passwords["database"], passwords["redis"])


def write_private(file: Path, content: t.Any) -> None:
    """A JSON file that only its owner reads; whole or not at all."""
    fresh = file.with_name(file.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=1, sort_keys=True)
        stream.write("\n")
    fresh.replace(file)


@functools.cache
def wal_interpreter() -> str:
    """A Python with boto3 that PostgreSQL's user can run: archive_command starts it."""
    from ansible_collections.fileforge.ops.plugins.module_utils import _errors, _process

    for candidate in ("/usr/bin/python3", sys.executable):
        try:
            _process.run([candidate, "-c", "import boto3"], timeout=60, user=owner())
        except _errors.OpsError:
            continue
        return candidate
    raise PlaceError(f"user {owner()} has no Python with boto3: install the distribution's package python3-boto3")


PROGRAMS = (
    ("redis-server", "redis-server"),
    ("git", "git"),
    ("/usr/sbin/nginx", "nginx"),
    ("certbot", "certbot"),
    ("pebble", "pebble"),
    ("pebble-challtestsrv", "pebble"),
    ("prometheus", "prometheus"),
    ("prometheus-node-exporter", "prometheus-node-exporter"),
)
"""Programs and their packages."""


def missing_programs() -> list[str]:
    """What the lab needs and this machine does not have; a sentence for each."""
    problems = []
    for program, package in PROGRAMS:
        if shutil.which(program) is None:
            problems.append(f"{program} is not installed: apt-get install {package}")
    if not any(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        problems.append("PostgreSQL is not installed: apt-get install postgresql")
    for module in ("boto3", "psycopg", "redis", "celery", "aiohttp", "ansible", "prometheus_client"):
        if subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, check=False).returncode != 0:
            problems.append(f"{sys.executable} has no {module}: run make setup, and start the lab with make lab-up")
    return problems
