# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A healthy platform of real servers, everything that the morning check looks at, and the same look as the check's own."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import importlib
import os
import shutil
import ssl
import threading
import time
import typing as t
import uuid
from pathlib import Path

from ansible_collections.fileforge.ops.plugins.module_utils._backup.verifications import Verification
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import wal
from ansible_collections.fileforge.ops.plugins.module_utils._probes.run import run_probes
from ansible_collections.fileforge.ops.plugins.module_utils._report.model import section_of

from tests.integration.test_celery_queue_info import PASSWORD, QUEUE, Broker
from tests.integration.test_disk_usage_info import mounted
from tests.integration.test_kube_workload_info import FAULTS as KUBE_FAULTS
from tests.integration.test_kube_workload_info import web
from tests.integration.test_postgres_health_info import monitor, monitored, standby_of
from tests.integration.test_prometheus_metric_info import Watched
from tests.lab.kube.launch import VIEWER, KubeServer
from tests.lab.s3 import S3Server
from tests.lab.signer import Signer
from tests.lab.tls import NAME
from tests.unit.plugins.module_utils.wal_builder import SMALL, Place, Wal

Check = dict[str, t.Any]
Changes = dict[str, t.Any]
MB = 1_000_000
NAMESPACES = ("healthy", "crash-loop", "oom-kill", "image-not-found", "unschedulable", "quota")
NOISY = {
    "command": [
        "/bin/sh",
        "-c",
        "for n in $(seq 400); do echo ERROR cannot read file $n; done; trap 'exit 0' TERM; sleep 1000 & wait",
    ]
}
LIMITS = {
    "blocking": {"warning": 0.1},
    "idle_in_transaction": {"warning": 0.1},
    "replication_lag": {"warning": MB},
}
"""Those that would take minutes to reach, or gigabytes; the healthy platform keeps within these, too."""
BUSY_MACHINE = {name: {"warning": 1.1, "critical": 1.2} for name in ("cpu_usage", "memory_usage", "disk_usage")}
"""How busy and full the machine of the tests is, is not theirs to say."""


class Site(http.server.ThreadingHTTPServer):
    """An API's health endpoint; with a directory of certificate and key it speaks TLS. The tests decide how well it is."""

    daemon_threads = True

    def __init__(self, certificate: Path | None = None) -> None:
        self.status, self.delay, self.certificate = 200, 0.0, certificate
        self.closing = threading.Event()
        site = self

        class Health(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.closing.wait(site.delay)
                self.send_response(site.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_details: object) -> None:
                """Stay quiet."""

        super().__init__(("127.0.0.1", 0), Health)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def get_request(self) -> tuple[t.Any, t.Any]:
        connection, address = super().get_request()
        if self.certificate is None:
            return connection, address
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate / "fullchain.pem", self.certificate / "privkey.pem")
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, *_details: object) -> None:
        """A client that hangs up."""

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


class Platform:
    """The servers, how each is looked at, and how it was when it was well."""

    def __init__(self, place: Path, s3: S3Server, stack: contextlib.ExitStack) -> None:
        self.place, self.s3, self.stack = place, s3, stack
        self.signer = Signer()
        self.probes: dict[str, tuple[str, Changes]] = {}
        self.expected: dict[str, dict[str, str]] = {}
        """By probe, the status of each check, as long as nothing new is wrong."""
        for library in ("boto3", "kubernetes.client", "psycopg", "redis"):
            importlib.import_module(library)  # once, not in the process of each look

    def begin(self) -> Platform:
        """Start everything; what takes its time first."""
        self._kubernetes()
        self._metrics()
        self._database()
        self._queue()
        self._backups()
        self._disks()
        self._endpoints()
        return self

    def look(self, changes: t.Mapping[str, Changes], timeout: float = 30) -> dict[str, dict[str, Check]]:
        """All looks at the same time, as the morning check makes them; for each its checks by id."""
        probes = [
            {"name": name, "module": f"fileforge.ops.{module}", "args": {**args, **changes.get(name, {})}, "timeout": timeout}
            for name, (module, args) in self.probes.items()
        ]
        sections = [section_of(result, place) for place, result in enumerate(run_probes(probes, 12, False))]
        return {section.name: {check["id"]: check for check in section.checks} for section in sections if section is not None}

    def _kubernetes(self) -> None:
        self.kube = KubeServer(self.place / "kube", "--cpu", "64", "--memory", "64Gi", "--restart-backoff", "0.3")
        self.stack.callback(self.kube.destroy)
        self.kube.start()
        controls = {"name": "lab-controls", "namespace": "kube-system"}
        data = {"unpullableImages": "gone:*"}
        names = [*NAMESPACES, "burst"]
        self.kube.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": controls, "data": data},
            *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names),
        )
        self.kube.apply(web("burst", NOISY), *(obj for name in NAMESPACES for obj in KUBE_FAULTS[name].objects(name)))
        plain = {**self.kube.options(VIEWER), "namespace": "healthy"}
        self.probes["Kubernetes"] = ("kube_workload_info", {**plain, "startup_grace": 0})
        self.probes["Errors in the logs"] = ("kube_log_info", plain)

    def _metrics(self) -> None:
        directory = self.place / "prometheus"
        directory.mkdir()
        self.watched = Watched(directory)
        self.stack.callback(self.watched.close)
        self.watched.start()
        asked = {"prometheus_url": self.watched.url, "prometheus_attempts": 1, "window": "10s", "thresholds": BUSY_MACHINE}
        self.probes["Key metrics"] = ("prometheus_metric_info", asked)

    def _database(self) -> None:
        self.server = monitored(self.place, 15)
        self.stack.callback(self.server.destroy)
        self.standby = standby_of(self.server)
        self.stack.callback(self.standby.destroy)
        self.server.execute("CREATE ROLE nobody_special LOGIN")
        wanted = {"expected_role": "primary", "expected_replicas": 1, "require_archiving": True, "limits": LIMITS}
        self.probes["Database"] = ("postgres_health_info", {**monitor(self.server), **wanted})

    def _queue(self) -> None:
        directory = self.place / "redis"
        directory.mkdir()
        self.broker = Broker(directory)
        self.stack.callback(self.broker.close)
        self.broker.start().worker("main")
        self.broker.send(4, seconds=3600)  # all that it fetches at a time: it is busy, and what the tests publish stays
        connection = {"redis_port": self.broker.port, "redis_username": "fileforge_monitor", "redis_password": PASSWORD}
        self.probes["Queue"] = ("celery_queue_info", {**connection, "queues": [QUEUE], "sample_interval": 0.2})

    def _backups(self) -> None:
        self.bucket = self.s3.create_bucket(f"faults-{uuid.uuid4().hex[:12]}")
        self.stack.callback(self.s3.client().delete_bucket, Bucket=self.bucket)
        self.stack.callback(self.s3.empty_bucket, self.bucket)
        self.keep_backups("healthy/")
        plain = {**self.s3.options(self.bucket, reader=True), "prefix": "healthy/", "s3_attempts": 1, "s3_timeout": 5}
        self.probes["Backups"] = ("postgres_backup_info", plain)

    def keep_backups(self, prefix: str, *, age: float = 3600, content: int = 40 * MB, lost: int = 0) -> None:
        """Eight base backups, one a day, and WAL: real objects, whose contents nobody has to restore here.

        ``age`` and ``content`` are the newest one's; ``lost`` is the number of a missing segment.
        """
        now = datetime.datetime.now(datetime.timezone.utc)
        made, place = Wal(), Place()
        for number in range(4):
            made.filler(5000)
            made.transaction(wal.record_microseconds(now - datetime.timedelta(seconds=50 - 10 * number)))
            made.fill()
        place.add_wal({made.name(number): made.segment(number) for number in made.complete if number != lost}, prefix)
        for days in range(7, -1, -1):
            stopped = now - datetime.timedelta(days=days, seconds=age)
            name = f"{stopped:%Y-%m-%d-%H%M}"
            size = content if days == 0 else 40 * MB + days * MB
            place.add_backup(name, SMALL + 40, SMALL + 140, stopped, prefix=prefix, content=size)
        ended = now.isoformat()
        record = Verification("base", name, f"{prefix}base/{name}_base.tar.gz", "ok", ended, ended, "db1", (), (), {})
        place.objects[record.key_below(prefix)] = record.to_bytes()
        client = self.s3.client()
        for key, body in place.objects.items():
            client.put_object(Bucket=self.bucket, Key=key, Body=body, Metadata=place.metadata.get(key, {}))

    def _disks(self) -> None:
        """A small volume of its own where tests may mount; else the one they are on, which is never full enough."""
        self.volume = self.place / "volume"
        limits: Changes = {}
        if os.geteuid() == 0:
            self.stack.enter_context(mounted(self.volume, "tmpfs", "size=1m,nr_inodes=20"))
        else:
            self.volume.mkdir()
            limits = {f"{what}_{status}": 1.0 for what in ("usage", "inodes") for status in ("warning", "critical")}
        self.probes["Disks"] = ("disk_usage_info", {"paths": [str(self.volume)], **limits})

    def _endpoints(self) -> None:
        self.api = Site()
        self.stack.callback(self.api.close)
        url = f"http://127.0.0.1:{self.api.server_port}/health"
        self.probes["Endpoint api"] = ("http_probe_info", {"name": "api", "url": url, "probes": 1, "required": 1})
        self.good = self.signer.write(self.place / "certificates" / "good", [NAME])
        self.tls = Site(self.good)
        self.stack.callback(self.tls.close)
        where = {"host": "127.0.0.1", "port": self.tls.server_port, "server_name": NAME, "name": "api"}
        self.probes["Certificate api"] = ("tls_certificate_info", {**where, "ca_cert": str(self.good / "root.pem")})


@contextlib.contextmanager
def platform_below(session_place: Path, s3: S3Server) -> t.Iterator[Platform]:
    """One platform; nothing of it is left afterwards."""
    place = session_place / uuid.uuid4().hex[:8]
    place.mkdir(mode=0o755)
    place.chmod(0o755)
    try:
        with contextlib.ExitStack() as stack:
            yield Platform(place, s3, stack).begin()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def stamped() -> dict[str, float]:
    """Headers of a message that says when it was published."""
    return {"fileforge_published_at": time.time()}
