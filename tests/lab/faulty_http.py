# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""An HTTP server on loopback that misbehaves on request: alone, or in front of a real S3 server."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import http.server
import socket
import struct
import threading
import typing as t
import urllib.parse

SHUT_DOWN_WAIT = 10


@dataclasses.dataclass(frozen=True)
class Request:
    """What a client sent."""

    method: str
    path: str
    """Decoded, without the query."""
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes = b""

    @property
    def range_start(self) -> int | None:
        """The first byte asked for, if a range was."""
        value = self.headers.get("range")
        return None if value is None else int(value.partition("=")[2].partition("-")[0])


@dataclasses.dataclass
class Answer:
    """What to answer. ``cut`` ends the connection after so many bytes of the body; status 0 resets it at once.

    A ``reset`` after a cut may overtake the bytes sent before it; without, the client gets them all.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    cut: int | None = None
    reset: bool = False


def s3_error(status: int, code: str) -> Answer:
    """An error as S3 words it."""
    return Answer(status, f"<Error><Code>{code}</Code><Message>scripted</Message></Error>".encode())


Script = t.Callable[[Request], t.Optional[Answer]]


class FaultyServer:
    """Answers by ``script``; what that leaves (None) goes to the server at ``upstream_port``, whose answer can be bent too."""

    def __init__(self, script: Script, upstream_port: int | None = None) -> None:
        self.script = script
        self.bend: t.Callable[[Request, Answer], Answer] = lambda request, answer: answer
        self.upstream_port = upstream_port
        self.requests: list[Request] = []
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self.port = self._http.server_port
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> FaultyServer:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(SHUT_DOWN_WAIT)

    def answer(self, request: Request, raw_path: str) -> Answer:
        """By the script, or from upstream."""
        self.requests.append(request)
        found = self.script(request)
        if found is None:
            if self.upstream_port is None:
                return s3_error(404, "NoSuchKey")
            found = self._upstream(request, raw_path)
        return self.bend(request, found)

    def _upstream(self, request: Request, raw_path: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream_port, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(request.method, raw_path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(request.body)
            response = connection.getresponse()
            headers = {
                name: value for name, value in response.getheaders() if name.lower() not in ("connection", "transfer-encoding")
            }
            return Answer(response.status, response.read(), headers)


class _Server(http.server.ThreadingHTTPServer):
    owner: FaultyServer
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: t.Any, client_address: t.Any) -> None:
        """A client that goes away is what these tests are about."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        split = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = dict(urllib.parse.parse_qsl(split.query, keep_blank_values=True))
        request = Request(self.command, urllib.parse.unquote(split.path), query, headers, body)
        answer = self.server.owner.answer(request, self.path)
        if answer.status == 0:
            self._reset()
            return
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if answer.cut is None:
            self.wfile.write(answer.body)
            return
        self.wfile.write(answer.body[: answer.cut])
        self.wfile.flush()
        self.close_connection = True
        if answer.reset:
            self._reset()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RD)
        self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def log_message(self, format: str, *args: t.Any) -> None:
        """Keep the tests' output clean."""
