# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole lab: up, status, down, clean; one at a time, and again at will."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
import typing as t
from pathlib import Path

from tests.lab import configuration
from tests.lab.daemon import start_time, wait_until
from tests.lab.facts import (
    BACKEND,
    DATABASE,
    NAMESPACE,
    PRIMARY,
    QUEUE,
    SECONDARY,
    TABLESPACE,
    WORKER,
    Layout,
    Remembered,
    missing_programs,
    wal_interpreter,
    write_private,
)
from tests.lab.monitoring import Monitoring
from tests.lab.parts import PARTS, Application, Destroyed, Kubernetes, ObjectStore, Part, Postgres, Web, tagged
from tests.lab.place import PlaceError, give, state_directory
from tests.lab.tls import NAME

Say = t.Callable[[str], None]
P = t.TypeVar("P", bound=Part)


class Lab:
    """The lab in one state directory."""

    def __init__(self, state: Path | None = None, *, say: Say = print) -> None:
        self.layout = Layout(state or state_directory())
        self.layout.run.mkdir(exist_ok=True)
        self.remembered = Remembered.load(self.layout)
        self.parts: list[Part] = [part(self.layout, self.remembered) for part in (*PARTS, Monitoring)]
        self.say = say

    def part(self, kind: type[P]) -> P:
        """The part of a class."""
        return next(part for part in self.parts if isinstance(part, kind))

    @contextlib.contextmanager
    def locked(self) -> t.Iterator[None]:
        """Only one command changes the lab at a time; the lock ends with its holder."""
        with (self.layout.state / "lab.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.say("waiting for another command on this lab")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def up(self) -> None:
        """Start what is not healthy; raises Destroyed, at the end, when something is left to restore."""
        problems = missing_programs()
        if problems:
            raise PlaceError("\n".join(problems))
        with self.locked():
            self._wal_directory()
            destroyed = []
            for part in self.parts:
                began = time.monotonic()
                if part.healthy():
                    self.say(f"{part.name:14} healthy   {part.where()}")
                    continue
                if destroyed and isinstance(part, Application):
                    part.apply()
                    self.say(f"{part.name:14} DOWN      waits for what is destroyed")
                    continue
                try:
                    part.start()
                except Destroyed as error:
                    destroyed.append(f"{part.name}: {error}")
                    self.say(f"{part.name:14} DESTROYED {error}")
                    continue
                self.say(f"{part.name:14} started   {part.where()} ({time.monotonic() - began:.1f} s)")
            self.write_facts()
        if destroyed:
            raise Destroyed("\n".join(destroyed))

    def status(self) -> bool:
        """Print what is healthy; whether all is."""
        good = True
        for part in self.parts:
            try:
                state = "healthy" if part.healthy() else "down"
            except RuntimeError:
                state = "down"
            good = good and state == "healthy"
            self.say(f"{part.name:14} {state:9} {part.where()}")
        return good

    def down(self) -> None:
        """Stop everything, in reverse; only processes known to be the lab's."""
        with self.locked():
            for part in reversed(self.parts):
                part.stop()
            self._end_tagged()
        self.say("nothing of the lab runs any more")

    def _end_tagged(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            left = [pid for pid in tagged(self.layout.state) if pid != os.getppid()]
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            try:
                wait_until(lambda left=left: all(start_time(pid) is None for pid in left), 10, "the lab's processes to end")
            except TimeoutError:
                continue
            return

    def clean(self) -> None:
        """Stop everything and remove all data, evidence apart."""
        self.down()
        with self.locked():
            for entry in self.layout.state.iterdir():
                if entry.name in ("evidence", "lab.lock", "programs", "tests"):
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        self.say(f"{self.layout.state} is empty again")

    def _wal_directory(self) -> None:
        self.layout.wal.mkdir(mode=0o755, exist_ok=True)
        self.layout.wal.chmod(0o755)
        give(self.layout.wal)
        self.layout.evidence.mkdir(exist_ok=True)

    def write_facts(self) -> None:
        """What the inventory reads."""
        write_private(self.layout.facts, self.facts())

    def facts(self) -> dict[str, t.Any]:
        """Ports, paths and credentials."""
        layout, ports = self.layout, self.remembered.ports
        cluster, server = self.part(Postgres).cluster, self.part(ObjectStore).server
        redis_url = f"redis://:{self.remembered.redis_password}@127.0.0.1:{ports['redis']}/0"
        return {
            "state": str(layout.state),
            "evidence": str(layout.evidence),
            "python": sys.executable,
            "postgres": {
                "host": str(cluster.socket_directory),
                "port": cluster.port,
                "user": "postgres",
                "owner": cluster.owner,
                "version": int(cluster.bin_directory.parent.name),
                "data_directory": str(cluster.data_directory),
                "bin_directory": str(cluster.bin_directory),
                "log": str(cluster.log),
                "tablespaces": {TABLESPACE: str(self.part(Postgres).tablespace)},
                "database": DATABASE,
                "application_user": "fileforge",
                "application_password": self.remembered.database_password,
            },
            "wal": {
                "program_path": str(layout.wal / "fileforge-wal"),
                "config_path": str(layout.wal / "wal.json"),
                "spool_directory": str(layout.wal / "spool"),
                "interpreter": wal_interpreter(),
            },
            "s3": {
                "endpoint": server.endpoint,
                "region": "us-east-1",
                "access_key": server.access_key,
                "secret_key": server.secret_key,
                "addressing_style": "path",
                "primary_bucket": PRIMARY,
                "secondary_bucket": SECONDARY,
            },
            "redis": {"host": "127.0.0.1", "port": ports["redis"], "url": redis_url, "queue": QUEUE},
            "git": {
                "repository": str(layout.repository),
                "checkout": str(layout.checkout),
                "branch": configuration.BRANCH,
                "commit": configuration.head(layout.repository),
            },
            "uploads": {"path": str(layout.uploads), "owner": _user(), "group": _group()},
            "logs": {
                "directory": str(layout.logs),
                "pid_file": str(layout.log_pid),
                "owner": _user(),
                "group": _group(),
                "logrotate_config": str(layout.logrotate / "logrotate.conf"),
                "logrotate_directory": str(layout.logrotate / "logrotate.d"),
                "logrotate_state": str(layout.logrotate / "status"),
            },
            "kube": {
                "kubeconfig": str(layout.kubeconfig),
                "url": self.part(Kubernetes).url,
                "namespace": NAMESPACE,
                "deployments": [BACKEND, WORKER],
            },
            "prometheus": self.part(Monitoring).facts(),
            "tls": self._tls(),
            "app": {"url": self.part(Application).url, "health_url": f"{self.part(Application).url}/health"},
        }

    def _tls(self) -> dict[str, t.Any]:
        server = self.part(Web).server
        paths = server.paths
        return {
            "name": NAME,
            "host": "127.0.0.1",
            "port": paths.ports["https"],
            "url": server.url,
            "directory_url": paths.directory_url,
            "directory_ca": str(paths.listener / "fullchain.pem"),
            "trusted": str(paths.trusted),
            "certbot_directory": str(paths.certbot),
            "webroot": str(paths.webroot),
            "link": str(paths.link),
            "test_command": server.command("-t", "-q"),
            "reload_command": server.command("-s", "reload"),
        }


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def _group() -> str:
    import grp

    return grp.getgrgid(os.getegid()).gr_name
