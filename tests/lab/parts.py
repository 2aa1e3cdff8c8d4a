# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's services: each can say whether it is healthy, be started and be stopped; a healthy one is left alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import typing as t
import urllib.error
import urllib.request
from pathlib import Path

from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError

from tests.lab import ROOT, configuration, manifests, seed
from tests.lab.daemon import Daemon, start_time, wait_until
from tests.lab.facts import BACKEND, DATABASE, PRIMARY, QUEUE, SECONDARY, TABLESPACE, WORKER, Layout, Remembered
from tests.lab.postgres import PostgresCluster
from tests.lab.s3 import REGION, S3Server
from tests.lab.tls import Authority, WebServer


class Destroyed(Exception):
    """Something that was complete once is gone: only a restore brings it back."""


class Part:
    """One service."""

    name = ""

    def __init__(self, layout: Layout, remembered: Remembered) -> None:
        self.layout = layout
        self.remembered = remembered
        self.made = layout.run / f"{self.name}.made"

    def healthy(self) -> bool:
        """Whether it does its work now."""
        raise NotImplementedError

    def start(self) -> None:
        """Bring it from whatever state to health."""
        raise NotImplementedError

    def stop(self) -> None:
        """Leave nothing of it running."""

    def where(self) -> str:
        """Its address or path."""
        return ""

    def note_made(self) -> None:
        """From now on, missing data means destroyed data."""
        self.made.write_text("", encoding="utf-8")

    def require_not_destroyed(self, *places: Path) -> None:
        """Data that was complete once is never silently made anew."""
        gone = [str(place) for place in places if not place.exists()]
        if self.made.exists() and gone:
            raise Destroyed(
                f"{', '.join(gone)} is gone: restore it (playbooks/dr-restore.yml) or begin anew (python -m tests.lab clean)"
            )


class Postgres(Part):
    """The database server with its role, database, tablespace and first rows."""

    name = "postgresql"

    def __init__(self, layout: Layout, remembered: Remembered) -> None:
        super().__init__(layout, remembered)
        self.cluster = PostgresCluster(layout.postgres, port=remembered.ports["postgres"])
        self.tablespace = layout.postgres / f"tablespace-{TABLESPACE}"

    def healthy(self) -> bool:
        if not self.cluster.running():
            return False
        import psycopg

        try:
            with self.cluster.connect(DATABASE) as connection:
                return seed.is_filled(connection)
        except psycopg.Error:
            return False

    def start(self) -> None:
        self.require_not_destroyed(self.cluster.data_directory / "PG_VERSION", self.tablespace)
        if not self.made.exists():
            self.cluster.kill()
            shutil.rmtree(self.layout.postgres, ignore_errors=True)
            self.cluster.create(
                {
                    "cluster_name": "fileforge-lab",
                    "max_wal_size": "256MB",
                    "track_commit_timestamp": "on",
                    "shared_preload_libraries": "pg_stat_statements",
                    "track_io_timing": "on",
                }
            )
        self.cluster.start()
        if not self.made.exists():
            self._fill()
            self.note_made()

    def _fill(self) -> None:
        from psycopg import sql

        self.cluster.create_tablespace(TABLESPACE)
        with self.cluster.connect() as connection:
            password = sql.Literal(self.remembered.database_password)
            connection.execute(sql.SQL("CREATE ROLE fileforge LOGIN PASSWORD {}").format(password))
            connection.execute("CREATE DATABASE fileforge OWNER fileforge")
            connection.execute("GRANT CREATE ON TABLESPACE fileforge_slow TO fileforge")
        rows, count = seed.sizes()
        files = seed.make_files(self.layout.uploads, count)
        with self.cluster.connect(DATABASE, user="fileforge") as connection:
            seed.fill(connection, files, rows)
        for extension in ("amcheck", "pg_stat_statements"):
            self.cluster.execute(f"CREATE EXTENSION {extension}", DATABASE)
        self.cluster.execute("VACUUM ANALYZE", DATABASE)
        self.cluster.execute("CHECKPOINT", DATABASE)

    def stop(self) -> None:
        try:
            self.cluster.stop(timeout=30)
        except OpsError:  # a shutdown waits for archiving, for ever when there is no S3 server: the next start recovers
            self.cluster.stop("immediate")
        for pid in strays(self.layout.postgres, "postgres"):
            os.kill(pid, signal.SIGQUIT)
            wait_until(lambda pid=pid: start_time(pid) is None, 30, f"PostgreSQL (pid {pid}) to end")

    def where(self) -> str:
        return f"127.0.0.1:{self.cluster.port} {self.cluster.data_directory}"


class ObjectStore(Part):
    """The S3 server with its two buckets."""

    name = "s3"

    def __init__(self, layout: Layout, remembered: Remembered) -> None:
        super().__init__(layout, remembered)
        self.server = S3Server(layout.s3)

    def healthy(self) -> bool:
        if self.server.daemon.pid is None or not self.server.healthy():
            return False
        names = [bucket["Name"] for bucket in self.server.client().list_buckets()["Buckets"]]
        return PRIMARY in names and SECONDARY in names

    def start(self) -> None:
        self.server.start()
        for name in (PRIMARY, SECONDARY):
            self.server.create_bucket(name)

    def stop(self) -> None:
        self.server.stop()

    def where(self) -> str:
        return self.server.endpoint


class Process(Part):
    """A service that is one daemon."""

    def __init__(self, layout: Layout, remembered: Remembered) -> None:
        super().__init__(layout, remembered)
        self.daemon = Daemon(self.name, layout.run)

    def stop(self) -> None:
        self.daemon.stop()

    def healthy(self) -> bool:
        return self.daemon.pid is not None

    def await_health(self, timeout: float = 30) -> None:
        """Wait until it is healthy; its log's end in the error otherwise."""

        def reached() -> bool:
            if self.daemon.pid is None:
                raise RuntimeError(f"{self.name} ended; the end of {self.daemon.log}:\n{self.daemon.last_lines()}")
            return self.healthy()

        wait_until(reached, timeout, f"{self.name} to be healthy")

    def where(self) -> str:
        return f"log {self.daemon.log}"


class Replicator(Process):
    """The copying from the first region to the second."""

    name = "replicator"

    def start(self) -> None:
        server = S3Server(self.layout.s3)
        connection = {
            "endpoint_url": server.endpoint,
            "region_name": REGION,
            "aws_access_key_id": server.access_key,
            "aws_secret_access_key": server.secret_key,
        }
        env = {**manifests.environment(self.layout), "FILEFORGE_REPLICATOR": json.dumps(connection)}
        self.daemon.start([sys.executable, "-m", "tests.lab.replicator", PRIMARY, SECONDARY], env=env, cwd=str(ROOT))
        self.await_health()


class Redis(Process):
    """The queue's server, in a directory of its own; never the distribution's instance."""

    name = "redis"

    def start(self) -> None:
        place = self.layout.state / "redis"
        place.mkdir(mode=0o700, exist_ok=True)
        configuration_file = place / "redis.conf"
        lines = [
            "bind 127.0.0.1",
            f"port {self.remembered.ports['redis']}",
            f"dir {place}",
            f"requirepass {self.remembered.redis_password}",
            "daemonize no",
            "appendonly yes",
            "supervised no",
            "logfile ''",
        ]
        configuration_file.touch(mode=0o600)
        configuration_file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.daemon.start(["redis-server", str(configuration_file)], env=manifests.environment(self.layout))
        self.await_health()

    def healthy(self) -> bool:
        import redis

        if self.daemon.pid is None:
            return False
        client = redis.Redis(port=self.remembered.ports["redis"], password=self.remembered.redis_password, socket_timeout=3)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def where(self) -> str:
        return f"127.0.0.1:{self.remembered.ports['redis']} queue {QUEUE}"


class Configuration(Part):
    """The repository of the production configuration and its checkout."""

    name = "configuration"

    def healthy(self) -> bool:
        return self.made.exists() and self.layout.repository.is_dir() and self.layout.application.is_file()

    def start(self) -> None:
        self.require_not_destroyed(self.layout.checkout)
        if not self.layout.repository.is_dir():
            configuration.make_repository(self.layout.repository, self._application())
        if not self.layout.application.is_file():
            self.layout.checkout.parent.mkdir(exist_ok=True)
            configuration.check_out(self.layout.repository, self.layout.checkout)
        self.note_made()

    def _application(self) -> dict[str, t.Any]:
        ports = self.remembered.ports
        return {
            "database": {"host": "127.0.0.1", "port": ports["postgres"], "user": "fileforge", "dbname": DATABASE},
            "redis": {"host": "127.0.0.1", "port": ports["redis"], "db": 0},
            "uploads": str(self.layout.uploads),
            "queue": QUEUE,
        }

    def where(self) -> str:
        return str(self.layout.checkout)


class Uploads(Part):
    """The directory of uploaded files; made together with the rows that describe them."""

    name = "uploads"

    def healthy(self) -> bool:
        return self.layout.uploads.is_dir() and any(self.layout.uploads.iterdir())

    def start(self) -> None:
        raise Destroyed(
            f"{self.layout.uploads} is gone: restore it (playbooks/dr-restore.yml) or begin anew (python -m tests.lab clean)"
        )

    def where(self) -> str:
        return str(self.layout.uploads)


class Writer(Process):
    """The process that keeps committing rows."""

    name = "writer"

    def start(self) -> None:
        env = {**manifests.environment(self.layout), "FILEFORGE_DATABASE_PASSWORD": self.remembered.database_password}
        configuration.make_logs(self.layout.logs, self.layout.logrotate)
        env |= {"FILEFORGE_LOG": str(self.layout.logs / "writer.log"), "FILEFORGE_LOG_PID": str(self.layout.log_pid)}
        self.daemon.start([sys.executable, "-m", "tests.lab.app.writer"], env=env, cwd=str(ROOT))
        self.await_health()


class Kubernetes(Process):
    """The Kubernetes API whose pods are processes."""

    name = "kubernetes"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.remembered.ports['kube']}"

    def start(self) -> None:
        argv = [sys.executable, "-m", "tests.lab.kube", "--port", str(self.remembered.ports["kube"])]
        argv += ["--state", str(self.layout.kube), "--kubeconfig", str(self.layout.kubeconfig)]
        self.daemon.start(argv, env=manifests.environment(self.layout), cwd=str(ROOT))
        self.await_health()

    def healthy(self) -> bool:
        return self.daemon.pid is not None and manifests.KubeClient(self.url).answers()

    def stop(self) -> None:
        self.daemon.stop(grace=30)
        reap = [sys.executable, "-m", "tests.lab.kube", "--state", str(self.layout.kube), "--reap"]
        subprocess.run(reap, cwd=ROOT, capture_output=True, timeout=60, check=False)

    def where(self) -> str:
        return f"{self.url} KUBECONFIG={self.layout.kubeconfig}"


class Application(Part):
    """The backend and the worker, as Deployments."""

    name = "application"

    def __init__(self, layout: Layout, remembered: Remembered) -> None:
        super().__init__(layout, remembered)
        self.kube = manifests.KubeClient(f"http://127.0.0.1:{remembered.ports['kube']}")
        self.url = f"http://127.0.0.1:{remembered.ports['api']}"

    def healthy(self) -> bool:
        if not self.kube.answers() or not all(self.kube.deployment_ready(name) for name in (BACKEND, WORKER)):
            return False
        status, _body = self.ask("/health")
        return status == 200

    def ask(self, path: str) -> tuple[int, dict[str, t.Any]]:
        """Ask the API as a client does; status 0 when it does not answer."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")
        except (OSError, ValueError):
            return 0, {}

    def apply(self) -> None:
        """Tell Kubernetes what should run, without waiting for it."""
        for obj in manifests.objects(self.layout, self.remembered):
            self.kube.apply(obj)

    def start(self) -> None:
        self.apply()
        try:
            wait_until(self.healthy, 60, "the application to be healthy", every=0.2)
        except TimeoutError as error:
            states = [f"{pod['metadata']['name']}: {pod.get('status', {}).get('phase')}" for pod in self.kube.pods()]
            raise TimeoutError(f"{error}: {self.ask('/health')}; pods {states}; their logs are below {self.layout.kube}") from error

    def where(self) -> str:
        return f"{self.url}/health"


class CertificateAuthority(Part):
    """The ACME server and the name server that it asks."""

    name = "authority"

    def __init__(self, layout: Layout, remembered: Remembered) -> None:
        super().__init__(layout, remembered)
        self.server = Authority(layout.tls, manifests.environment(layout))

    def healthy(self) -> bool:
        return self.server.healthy()

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.stop()

    def where(self) -> str:
        return self.server.paths.directory_url


class Web(Part):
    """nginx, which serves the API over TLS."""

    name = "nginx"

    def __init__(self, layout: Layout, remembered: Remembered) -> None:
        super().__init__(layout, remembered)
        self.server = WebServer(layout.tls, f"http://127.0.0.1:{remembered.ports['api']}", manifests.environment(layout))

    def healthy(self) -> bool:
        return self.server.healthy()

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.stop()

    def where(self) -> str:
        return self.server.url


PARTS: tuple[type[Part], ...] = (  # stopped in reverse: PostgreSQL archives its last WAL while it stops
    ObjectStore,
    Replicator,
    Postgres,
    Redis,
    Configuration,
    Uploads,
    Writer,
    Kubernetes,
    CertificateAuthority,
    Web,
    Application,
)


def strays(below: Path, program: str = "") -> list[int]:
    """Processes whose working directory is below a directory: servers that something else started on the lab's data."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            cwd, name = Path(os.readlink(entry / "cwd")), Path(os.readlink(entry / "exe")).name
            leader = not program or _parent_is_not(entry, program)
        except OSError:
            continue
        if (cwd == below or below in cwd.parents) and (not program or name == program) and leader:
            found.append(int(entry.name))
    return found


def _parent_is_not(entry: Path, program: str) -> bool:
    parent = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
    try:
        return Path(os.readlink(f"/proc/{parent}/exe")).name != program
    except OSError:
        return True


def tagged(state: Path) -> list[int]:
    """Processes that carry the lab's mark in their environment."""
    needle = f"FILEFORGE_LAB={state}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            mine = needle in (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if mine and start_time(int(entry.name)) is not None:
            found.append(int(entry.name))
    return found


def listening(port: int) -> bool:
    """Whether something accepts connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
