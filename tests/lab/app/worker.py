# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Celery worker: takes tasks from the queue; /ready answers once it consumes, /metrics counts its tasks."""

from __future__ import annotations

import hashlib
import http.server
import os
import threading
import time
import typing as t

import celery
from celery.signals import task_postrun, task_prerun, worker_ready

from tests.lab.app import metrics
from tests.lab.app.settings import Settings

PORT = 8081
settings = Settings.load()
app = celery.Celery("fileforge", broker=settings.broker(), backend=settings.broker())
app.conf.update(
    task_default_queue=settings.queue,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 3600, "socket_timeout": 5, "socket_connect_timeout": 5},
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    result_expires=3600,
    timezone="UTC",
)


@app.task(name="fileforge.checksum")  # type: ignore[untyped-decorator]
def checksum(path: str) -> dict[str, t.Any]:
    """Size and SHA-256 of an uploaded file, compared with its row."""
    content = (settings.uploads / path).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    with settings.connect() as connection:
        row = connection.execute("SELECT size, sha256 FROM files WHERE path = %s", (path,)).fetchone()
    return {"path": path, "size": len(content), "sha256": digest, "matches": row == (len(content), digest)}


times = metrics.TaskTimes([checksum.name])
started: dict[str, float] = {}


@task_prerun.connect  # type: ignore[untyped-decorator]
def began(task_id: str, **_details: t.Any) -> None:
    """In the process that runs it."""
    started[task_id] = time.monotonic()


@task_postrun.connect  # type: ignore[untyped-decorator]
def ended(task_id: str, task: t.Any, **_details: t.Any) -> None:
    """Well or not."""
    if task_id in started:
        times.count(task.name, time.monotonic() - started.pop(task_id))


class Ready(http.server.BaseHTTPRequestHandler):
    """Answers probes."""

    def do_GET(self) -> None:
        """The worker consumes: this server is started by that event."""
        body = metrics.exposition() if self.path == "/metrics" else b""
        self.send_response(200)
        self.send_header("Content-Type", metrics.CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: t.Any) -> None:
        """Probes are not logged."""


@worker_ready.connect  # type: ignore[untyped-decorator]
def serve(**_details: t.Any) -> None:
    """Open the probe's port when the worker has connected to the broker."""
    metrics.measure_worker(times)
    address = (os.environ.get("POD_IP", "127.0.0.1"), int(os.environ.get("FILEFORGE_PORT", PORT)))
    server = http.server.ThreadingHTTPServer(address, Ready)
    threading.Thread(target=server.serve_forever, daemon=True).start()
