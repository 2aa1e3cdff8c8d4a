# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP API: /health looks at everything it stands on, /live only at itself, /api/files lists and serves files.

/metrics tells Prometheus how many requests were answered with what, how long that took, and how long the queue is.
"""

from __future__ import annotations

import http.server
import json
import os
import sys
import time
import typing as t
import urllib.parse

from tests.lab.app import metrics
from tests.lab.app.settings import Settings

PORT = 8080
FILES = "SELECT path, size, sha256 FROM files ORDER BY updated_at DESC LIMIT %s"


def database(settings: Settings) -> str:
    """Read a row; raises when the database cannot."""
    with settings.connect() as connection:
        connection.execute("SET statement_timeout = '3s'")
        row = connection.execute("SELECT count(*) FROM (SELECT 1 FROM users LIMIT 1) AS users").fetchone()
        return f"{row[0]} row read"


def redis(settings: Settings) -> str:
    """Ask for the length of the queue; raises when Redis does not answer."""
    return f"{settings.redis_client().llen(settings.queue)} tasks queued"


def uploads(settings: Settings) -> str:
    """Read the uploads directory; raises when it is not there or empty."""
    with os.scandir(settings.uploads) as entries:
        if next(iter(entries), None) is None:
            raise OSError(f"{settings.uploads} is empty")
    return "readable"


def health(settings: Settings) -> tuple[int, dict[str, t.Any]]:
    """Every dependency with its state; status 503 when one is down."""
    checks = {}
    for name, look in (("database", database), ("redis", redis), ("uploads", uploads)):
        started = time.monotonic()
        try:
            state, detail = "ok", look(settings)
        except Exception as error:  # whatever is wrong with it, it is down
            state, detail = "down", f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        checks[name] = {"status": state, "detail": detail, "seconds": round(time.monotonic() - started, 4)}
    down = sorted(name for name, check in checks.items() if check["status"] != "ok")
    body = {"status": "down" if down else "ok", "down": down, "checks": checks, "revision": settings.revision}
    return (503 if down else 200), {**body, "pod": os.environ.get("HOSTNAME", "")}


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    settings: t.ClassVar[Settings]
    answered = 500

    def do_GET(self) -> None:
        """Answer a request, and count it."""
        address = urllib.parse.urlsplit(self.path)
        if address.path == "/metrics":
            self._answer(200, metrics.CONTENT_TYPE, metrics.exposition())
            return
        started = time.monotonic()
        self.answered = 500
        try:
            self._route(address)
        finally:
            metrics.count(self.command, address.path, self.answered, time.monotonic() - started)

    def _route(self, address: urllib.parse.SplitResult) -> None:
        if address.path == "/live":
            self._json(200, {"status": "ok"})
        elif address.path == "/health":
            self._json(*health(self.settings))
        elif address.path == "/api/files":
            self._list()
        elif address.path.startswith("/api/files/"):
            self._file(urllib.parse.unquote(address.path.removeprefix("/api/files/")))
        else:
            self._json(404, {"error": "no such resource"})

    def _list(self) -> None:
        try:
            with self.settings.connect() as connection:
                rows = connection.execute(FILES, (100,)).fetchall()
        except Exception as error:  # an API must answer, and says what is wrong
            self._json(503, {"error": type(error).__name__})
            return
        self._json(200, {"files": [{"path": path, "size": size, "sha256": digest} for path, size, digest in rows]})

    def _file(self, path: str) -> None:
        root = self.settings.uploads.resolve()
        wanted = (root / path).resolve()
        if root not in wanted.parents or not wanted.is_file():
            self._json(404, {"error": "no such file"})
            return
        self._answer(200, "application/octet-stream", wanted.read_bytes())

    def _json(self, status: int, body: dict[str, t.Any]) -> None:
        self._answer(status, "application/json", json.dumps(body).encode())

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.answered = status
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: t.Any) -> None:
        """Log failures only; probes would fill the log."""
        if len(args) > 1 and not str(args[1]).startswith("2"):
            print(f"{self.log_date_time_string()} {self.client_address[0]} {format % args}", flush=True)


class Server(http.server.ThreadingHTTPServer):
    """Threads end with the server."""

    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: t.Any, client_address: t.Any) -> None:
        """A client that hangs up is no error of the application's."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main() -> None:
    """Serve until killed."""
    Handler.settings = Settings.load()
    metrics.measure_queue(Handler.settings)
    address = (os.environ.get("POD_IP", "127.0.0.1"), int(os.environ.get("FILEFORGE_PORT", PORT)))
    with Server(address, Handler) as server:
        print(f"listening on {address[0]}:{server.server_address[1]}, revision {Handler.settings.revision}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
