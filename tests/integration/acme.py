# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""For the tests of certificates: clients that never rest, a way to the authority that fails as told, certificates of any age."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
import typing as t
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.lab.daemon import wait_until
from tests.lab.signer import Signer
from tests.lab.tls import NAME, Authority, WebServer


class Clients:
    """Connects, shakes hands, asks and reads, again and again: what a user would have seen during the body."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.good = 0
        self.broken: list[str] = []
        self.seen: list[str] = []
        """Fingerprints in the order in which they first appeared."""
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _number in range(2)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        self._await(self.good + 4)
        return self

    def __exit__(self, *_details: object) -> None:
        self._await(self.good + 4)
        self._end.set()
        for thread in self._threads:
            thread.join(30)
        assert not self.broken, self.broken[:5]

    def _await(self, count: int) -> None:
        wait_until(lambda: self.good >= count or self.broken, 30, "clients to be served")

    def _run(self) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        while not self._end.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=20) as plain:
                    with context.wrap_socket(plain, server_hostname=NAME) as tls:
                        der = tls.getpeercert(True) or b""
                        tls.sendall(f"GET / HTTP/1.0\r\nHost: {NAME}\r\n\r\n".encode())
                        answer = b"".join(iter(lambda: tls.recv(4096), b""))
                        if not answer.startswith(b"HTTP/1.1 200") or not answer.endswith(b"served\n"):
                            raise OSError(f"answered {answer[:80]!r}")
            except OSError as error:
                self.broken.append(f"{type(error).__name__}: {error}")
                continue
            self.good += 1
            self._end.wait(0.02)
            print_of_it = hashlib.sha256(der).hexdigest()
            if print_of_it not in self.seen:
                self.seen.append(print_of_it)


class Way:
    """The way to the authority, which certbot is told instead of it: open, closed, or answering by itself."""

    def __init__(self, authority: Authority) -> None:
        self.ports = authority.paths.ports
        self.files = authority.paths.listener
        self.state = "open"
        self.orders = 0
        """New orders that came this far."""
        self.window: dict[str, str] | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}/dir"
        self._server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server_side.load_cert_chain(self.files / "fullchain.pem", self.files / "privkey.pem")
        self._client_side = ssl.create_default_context(cafile=self.files / "fullchain.pem")
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _address = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ssl.SSLError, ValueError), connection:
            if self.state == "closed":
                return
            with self._server_side.wrap_socket(connection, server_side=True) as tls:
                stream = tls.makefile("rwb")
                while self._answer(stream):
                    pass

    def _answer(self, stream: t.Any) -> bool:
        words = stream.readline().split()
        if not words:
            return False
        headers = http.client.parse_headers(stream)
        body = stream.read(int(headers.get("Content-Length") or 0))
        method, path = words[0].decode(), words[1].decode()
        self.orders += method == "POST" and path == "/order-plz"
        status, kind, more, content = self._result(method, path, dict(headers.items()), body)
        lines = [f"HTTP/1.1 {status} Told", f"Content-Type: {kind}", f"Content-Length: {len(content)}", *more]
        stream.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if method == "HEAD" else content))
        stream.flush()
        return True

    def _result(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, str, list[str], bytes]:
        if self.state == "rate_limited" and method == "POST" and path == "/order-plz":
            problem = {
                "type": "urn:ietf:params:acme:error:rateLimited",
                "detail": "too many certificates already issued",
                "status": 429,
            }
            return 429, "application/problem+json", ["Retry-After: 3600", "Replay-Nonce: bm90aGluZw"], json.dumps(problem).encode()
        if path.startswith("/renewal-info/"):
            return 200, "application/json", [], json.dumps({"suggestedWindow": self.window}).encode()
        connection = http.client.HTTPSConnection("127.0.0.1", self.ports["acme"], timeout=20, context=self._client_side)
        try:
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if path == "/dir" and self.window is not None:
            address = self.url.replace("/dir", "/renewal-info")
            content = json.dumps({**json.loads(content), "renewalInfo": address}).encode()
        skipped = ("content-length", "content-type", "transfer-encoding", "connection")
        more = [f"{name}: {value}" for name, value in answer.getheaders() if name.lower() not in skipped]
        return answer.status, answer.getheader("Content-Type") or "text/plain", more, content


class Site:
    """nginx in front of nothing, the authority, and the way to it."""

    def __init__(self, root: Path) -> None:
        self.web, self.authority = WebServer(root), Authority(root)
        self.paths = self.web.paths
        self.signer = Signer()
        self.name = "api"

    def start(self) -> Site:
        """Start both."""
        self.authority.start()
        self.web.start()
        self.way = Way(self.authority)
        return self

    def stop(self) -> None:
        """Stop both."""
        for part in (self.web, self.authority):
            part.stop()
        if hasattr(self, "way"):
            self.way.close()

    def fresh(self) -> None:
        """As before the first certificate; the account stays."""
        for place in ("live", "archive", "renewal"):
            path = self.paths.certbot / place
            if path.exists():
                shutil.rmtree(path)
        self.way.state, self.way.window, self.way.orders = "open", None, 0
        self.web.write_configuration()
        self.paths.reset_link()
        self.reload()

    def reload(self) -> None:
        """Let nginx read everything anew, and wait until it serves it."""
        subprocess.run(self.web.command("-s", "reload"), check=True, capture_output=True, timeout=30)
        wanted = fingerprint(self.paths.link / "fullchain.pem")
        row, end = 0, time.monotonic() + 30
        while row < 3:
            row = row + 1 if self.served() == wanted else 0
            assert time.monotonic() < end, "nginx does not reload"

    def served(self) -> str:
        """Fingerprint of what nginx serves."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", self.paths.ports["https"]), timeout=20) as plain:
            with context.wrap_socket(plain, server_hostname=NAME) as tls:
                return hashlib.sha256(tls.getpeercert(True) or b"").hexdigest()

    def plant(self, days: float) -> str:
        """A lineage as certbot would have left it, with a certificate of the tests; served. Its fingerprint."""
        self.fresh()
        archive, live = self.paths.certbot / "archive" / self.name, self.paths.certbot / "live" / self.name
        made = self.signer.write(archive, [NAME], days=days, begin=-90)
        (archive / "root.pem").unlink()
        leaf, chain = (made / "fullchain.pem").read_text().split("-----END CERTIFICATE-----\n", 1)
        (archive / "cert1.pem").write_text(f"{leaf}-----END CERTIFICATE-----\n")
        (archive / "chain1.pem").write_text(chain)
        (archive / "fullchain.pem").rename(archive / "fullchain1.pem")
        (archive / "privkey.pem").rename(archive / "privkey1.pem")
        live.mkdir(parents=True)
        for kind in ("cert", "chain", "fullchain", "privkey"):
            (live / f"{kind}.pem").symlink_to(f"../../archive/{self.name}/{kind}1.pem")
        (self.paths.certbot / "renewal").mkdir()
        lines = ["version = 2.1.0", f"archive_dir = {archive}"]
        lines += [f"{kind} = {live}/{kind}.pem" for kind in ("cert", "privkey", "chain", "fullchain")]
        lines += ["[renewalparams]", f"server = {self.way.url}", "authenticator = webroot", f"webroot_path = {self.paths.webroot},"]
        (self.paths.certbot / "renewal" / f"{self.name}.conf").write_text("\n".join(lines) + "\n")
        self.paths.link.unlink()
        self.paths.link.symlink_to(live)
        self.reload()
        return fingerprint(live / "fullchain.pem")

    def options(self, **changes: t.Any) -> dict[str, t.Any]:
        """Options of the module for this site."""
        return {
            "cert_name": self.name,
            "domains": [NAME],
            "authenticator": "webroot",
            "webroot_path": str(self.paths.webroot),
            "agree_tos": True,
            "acme_server": self.way.url,
            "acme_ca_cert": str(self.paths.listener / "fullchain.pem"),
            "config_directory": str(self.paths.certbot),
            "work_directory": str(self.paths.root / "work"),
            "logs_directory": str(self.paths.root / "logs"),
            "link": str(self.paths.link),
            "test_command": self.web.command("-t", "-q"),
            "reload_command": self.web.command("-s", "reload"),
            "reload_timeout": 20,
            "endpoints": [{"host": "127.0.0.1", "port": self.paths.ports["https"], "server_name": NAME}],
            **changes,
        }


def fingerprint(file: Path) -> str:
    """Of the first certificate in a PEM file."""
    return x509.load_pem_x509_certificate(file.read_bytes()).fingerprint(hashes.SHA256()).hex()
