# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""kube_log_info over the logs of up to 1,000 pods of 1 MiB each, from a server that does nothing but send them.

Measured are the seconds, which must grow with the volume and no faster, and the memory, which must not grow with it.
"""

from __future__ import annotations

import datetime
import json
import random
import socket
import socketserver
import subprocess
import sys
import threading
import typing as t
import urllib.parse

from tests.bench.measure import Measured, module
from tests.lab import ROOT

SIZES = (250, 500, 1000)
LOG = 2**20
PIECE = 32768
MEMORY_LIMIT = 128 * 2**20
GROWTH_LIMIT = 16 * 2**20
LINEAR = 1.35
"""How much longer than four times as long four times as many pods may take."""
HARD = "hard"
"""The namespace whose every line is an error of its own."""


def log_of(kind: str, size: int) -> bytes:
    """The log of one pod: access lines and lines of JSON with 1 % errors, or nothing but different errors."""
    chance = random.Random(kind)
    at = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=20)
    lines, length = [], 0
    while length < size:
        at += datetime.timedelta(seconds=7)
        stamp = at.strftime("%Y-%m-%dT%H:%M:%S.123456789Z")
        number = chance.randrange(10**9)
        draw = chance.randrange(100)
        if kind == HARD:
            word = "".join(chance.choice("abcdefghijklmnop") for _unused in range(12))
            text = f"ERROR {word} failed: {number} at 10.0.{number % 256}.{number % 250}"
        elif draw == 0:
            text = f"2026-11-23 12:00:00,123 ERROR app.storage: cannot read file {number} of user {number % 1000}"
        elif draw < 50:
            text = json.dumps({"level": "info", "message": f"stored file {number}", "seconds": draw / 100, "user": number % 5000})
        else:
            text = f'10.0.0.{number % 250} - - "GET /api/files/{number} HTTP/1.1" 200 {number % 99999} "-" "Mozilla/5.0"'
        lines.append(f"{stamp} {text}\n".encode())
        length += len(lines[-1])
    return b"".join(lines)


def chunked(body: bytes) -> bytes:
    """As the API server sends a log: in chunks of unknown number."""
    pieces = [body[start : start + PIECE] for start in range(0, len(body), PIECE)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def pod(name: str) -> dict[str, t.Any]:
    """A pod with one running container, as far as the module looks."""
    state = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    return {"metadata": {"name": name}, "status": {"containerStatuses": [{"name": "app", "state": state, "lastState": {}}]}}


class Handler(socketserver.StreamRequestHandler):
    """Pods of the namespace ``NUMBER`` or ``hard-NUMBER``, page by page, and their logs."""

    logs: t.ClassVar[dict[str, bytes]] = {}
    disable_nagle_algorithm = True

    def handle(self) -> None:
        while True:
            request = self.rfile.readline().decode()
            if not request:
                return
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            address = urllib.parse.urlsplit(request.split()[1])
            namespace = address.path.split("/")[4]
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            if address.path.endswith("/log"):
                kind = HARD if namespace.startswith(HARD) else "usual"
                self.wfile.write(head + b"Transfer-Encoding: chunked\r\n\r\n" + self.logs[kind])
            else:
                body = self._pods(int(namespace.rpartition("-")[2]), urllib.parse.parse_qs(address.query))
                self.wfile.write(head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

    def _pods(self, count: int, query: dict[str, list[str]]) -> bytes:
        start, limit = int(query.get("continue", ["0"])[0]), int(query["limit"][0])
        end = min(count, start + limit)
        metadata = {"continue": str(end)} if end < count else {}
        return json.dumps({"metadata": metadata, "items": [pod(f"pod-{number}") for number in range(start, end)]}).encode()


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


def serve() -> None:
    """Print the port, serve until standard input ends."""
    Handler.logs = {kind: chunked(log_of(kind, LOG)) for kind in ("usual", HARD)}
    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_address[1], flush=True)
        sys.stdin.read()
        server.shutdown()


class LogBench:
    """The server as a process of its own, so that its memory and its work are not the module's."""

    def __init__(self) -> None:
        self.lines: list[Measured] = []
        self.totals: list[dict[str, t.Any]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.kube_logs"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        if self._process.stdout is None:
            raise RuntimeError("the server has no output")
        self.port = int(self._process.stdout.readline())

    def measure(self, namespace: str, pods: int) -> None:
        """One run of the module over the logs of so many pods."""
        options = {"kube_host": f"http://127.0.0.1:{self.port}", "namespace": namespace, "timeout": 1200}
        what = f"logs: kube_log_info, {pods} pods of 1 MiB" + (", every line an error" if namespace.startswith(HARD) else "")
        line, result = module(what, "kube_log_info", options, 0)
        totals = result["totals"]
        if totals["read"] != pods or totals["bytes"] < pods * LOG:
            raise RuntimeError(f"not everything was read: {totals}")
        line.bytes = totals["bytes"]
        self.lines.append(line)
        self.totals.append(totals)
        print(f"  {line.what:58} {line.seconds:8.1f} s", flush=True)

    def run(self, sizes: t.Sequence[int] = SIZES, hard: int = 25) -> None:
        """All measurements."""
        for pods in sizes:
            self.measure(str(pods), pods)
        self.measure(f"{HARD}-{hard}", hard)

    def verdict(self) -> dict[str, t.Any]:
        """Whether time is linear and memory bounded."""
        usual, hard = self.lines[:-1], self.lines[-1]
        first, last = self.totals[0], self.totals[-2]
        steepness = (last["seconds"] / first["seconds"]) / (last["bytes"] / first["bytes"])
        growth = usual[-1].all_processes - usual[0].all_processes
        peak = max(line.all_processes for line in self.lines)
        return {
            "logs_mib_per_second": round(last["bytes"] / last["seconds"] / 2**20),
            "logs_hard_mib_per_second": round(hard.bytes / hard.seconds / 2**20),
            "logs_steepness": round(steepness, 2),
            "logs_linear": steepness < LINEAR,
            "logs_memory_mib": round(peak / 2**20),
            "logs_memory_growth_mib": round(growth / 2**20),
            "logs_memory_ok": peak < MEMORY_LIMIT and growth < GROWTH_LIMIT,
        }

    def close(self) -> None:
        """End the server."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(30)


if __name__ == "__main__":
    socket.setdefaulttimeout(600)
    serve()
