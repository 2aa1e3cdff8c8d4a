# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS on loopback: pebble as certificate authority with its own name server, and nginx in front of the API.

What certbot keeps is worth nothing once pebble has ended, because pebble forgets its accounts and makes new roots. A start of the
authority therefore begins with an empty certbot directory, and nginx goes back to a placeholder certificate.
"""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import json
import os
import shutil
import signal
import ssl
import typing as t
import urllib.request
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.lab.daemon import Daemon, start_time, wait_until
from tests.lab.ports import remembered

NAME = "api.fileforge.test"
"""The name that nginx serves. It is known to pebble's name server only."""
PORTS = ["http", "https", "acme", "acme_management", "alpn", "dns", "dns_management"]


class Paths:
    """What is where below one root, and on which port."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.ports = remembered(root / "ports.json", PORTS)
        self.certbot = root / "certbot"
        self.webroot = root / "webroot"
        self.placeholder = root / "placeholder"
        self.link = root / "current"
        """nginx reads its certificate through this link: to the placeholder, or to what certbot keeps."""
        self.listener = root / "listener"
        """Certificate and key of the ACME server itself."""
        self.trusted = root / "roots.pem"
        """The root that pebble signs with since it started."""
        self.nginx = root / "nginx"

    @property
    def directory_url(self) -> str:
        """The ACME server."""
        return f"https://127.0.0.1:{self.ports['acme']}/dir"

    def reset_link(self) -> None:
        """Serve the placeholder from the next reload on."""
        if not (self.placeholder / "fullchain.pem").exists():
            self_signed(self.placeholder, [NAME])
        fresh = self.link.with_name("current.new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self.placeholder)
        fresh.replace(self.link)


def self_signed(directory: Path, names: list[str], days: float = 365) -> None:
    """fullchain.pem and privkey.pem of a certificate that nobody trusts."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "placeholder of the lab")])
    begin = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(begin)
    builder = builder.not_valid_after(begin + datetime.timedelta(days=days))
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names if not name[0].isdigit()]
    alternatives += [x509.IPAddress(ipaddress.ip_address(name)) for name in names if name[0].isdigit()]
    builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    made = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "privkey.pem").touch(mode=0o600)
    (directory / "privkey.pem").write_bytes(private)
    (directory / "fullchain.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))


class Authority:
    """pebble, and the name server it asks: every name is on loopback."""

    def __init__(self, root: Path, env: t.Mapping[str, str] | None = None) -> None:
        self.paths = Paths(root)
        self.env = dict(env or {})
        self.daemon = Daemon("pebble", root)
        self.names = Daemon("pebble-names", root)

    @property
    def names_url(self) -> str:
        """Where TXT records are set, with a POST to /set-txt."""
        return f"http://127.0.0.1:{self.paths.ports['dns_management']}"

    def start(self) -> Authority:
        """Start both; what the authority issued in its life before is thrown away."""
        paths, ports = self.paths, self.paths.ports
        if self.healthy():
            return self
        self.stop()
        self_signed(paths.listener, ["localhost", "127.0.0.1"])
        shutil.rmtree(paths.certbot, ignore_errors=True)
        paths.reset_link()
        settings = {
            "listenAddress": f"127.0.0.1:{ports['acme']}",
            "managementListenAddress": f"127.0.0.1:{ports['acme_management']}",
            "certificate": str(paths.listener / "fullchain.pem"),
            "privateKey": str(paths.listener / "privkey.pem"),
            "httpPort": ports["http"],
            "tlsPort": ports["alpn"],
        }
        file = paths.root / "pebble.json"
        file.write_text(json.dumps({"pebble": settings}), encoding="utf-8")
        names = ["pebble-challtestsrv", "-dns01", f"127.0.0.1:{ports['dns']}", "-defaultIPv6", ""]
        names += ["-http01", "", "-https01", "", "-tlsalpn01", "", "-management", f"127.0.0.1:{ports['dns_management']}"]
        self.names.start(names, env=self.env, cwd=str(paths.root))
        quick = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "0"}
        argv = ["pebble", "-config", str(file), "-dnsserver", f"127.0.0.1:{ports['dns']}"]
        self.daemon.start(argv, env={**self.env, **quick}, cwd=str(paths.root))
        wait_until(self._answers, 30, "pebble to answer")
        paths.trusted.write_bytes(self._management("/roots/0"))
        return self

    def _answers(self) -> bool:
        for daemon in (self.daemon, self.names):
            if daemon.pid is None:
                raise RuntimeError(f"{daemon.name} ended; the end of {daemon.log}:\n{daemon.last_lines()}")
        return self.healthy()

    def _management(self, path: str) -> bytes:
        context = ssl.create_default_context(cafile=self.paths.listener / "fullchain.pem")
        url = f"https://127.0.0.1:{self.paths.ports['acme_management']}{path}"
        with urllib.request.urlopen(url, timeout=5, context=context) as answer:
            return t.cast(bytes, answer.read())

    def healthy(self) -> bool:
        """Whether both run and pebble has its root."""
        if self.daemon.pid is None or self.names.pid is None:
            return False
        try:
            return b"BEGIN CERTIFICATE" in self._management("/roots/0")
        except (OSError, ValueError):
            return False

    def stop(self) -> None:
        """Stop both."""
        self.daemon.stop(grace=5)
        self.names.stop(grace=5)


class WebServer:
    """nginx: TLS for the API on one port, ACME challenges on another."""

    def __init__(self, root: Path, backend: str = "", env: t.Mapping[str, str] | None = None) -> None:
        self.paths = Paths(root)
        self.backend = backend
        self.env = dict(env or {})
        self.configuration = self.paths.nginx / "nginx.conf"
        self.daemon = Daemon("nginx", root)

    @property
    def url(self) -> str:
        """What clients ask; its name is not in the name service, its certificate says NAME."""
        return f"https://127.0.0.1:{self.paths.ports['https']}"

    def command(self, *words: str) -> list[str]:
        """nginx with its own configuration."""
        return ["/usr/sbin/nginx", "-c", str(self.configuration), *words]

    def write_configuration(self, extra: str = "") -> None:
        """nginx.conf; ``extra`` goes into the TLS server."""
        paths, ports = self.paths, self.paths.ports
        temporary = paths.nginx / "temporary"
        temporary.mkdir(mode=0o755, parents=True, exist_ok=True)
        paths.webroot.mkdir(mode=0o755, exist_ok=True)
        user = "user www-data;" if os.geteuid() == 0 else ""
        places = "".join(
            f"  {kind}_temp_path {temporary}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        answer = f"proxy_pass {self.backend};" if self.backend else 'return 200 "served\\n";'
        text = f"""\
daemon off;
worker_processes 1;
{user}
pid {paths.nginx}/nginx.pid;
error_log stderr;
events {{ worker_connections 512; }}
http {{
  access_log off;
{places}
  server {{
    listen 127.0.0.1:{ports["http"]};
    server_name {NAME};
    location /.well-known/acme-challenge/ {{ root {paths.webroot}; }}
    location / {{ return 404; }}
  }}
  server {{
    listen 127.0.0.1:{ports["https"]} ssl;
    server_name {NAME};
    ssl_certificate {paths.link}/fullchain.pem;
    ssl_certificate_key {paths.link}/privkey.pem;
{extra}
    location = /nginx-lives {{ return 204; }}
    location / {{ {answer} }}
  }}
}}
"""
        self.configuration.write_text(text, encoding="utf-8")

    def start(self) -> WebServer:
        """Start it unless it runs, and wait until it answers."""
        if not (self.paths.link / "fullchain.pem").exists():
            self.paths.reset_link()
        self.write_configuration()
        self.end_strays()
        self.daemon.start(self.command(), env=self.env, cwd=str(self.paths.nginx))
        wait_until(self._answers, 30, "nginx to answer")
        return self

    def _answers(self) -> bool:
        if self.daemon.pid is None:
            raise RuntimeError(f"nginx ended; the end of {self.daemon.log}:\n{self.daemon.last_lines()}")
        return self.healthy()

    def healthy(self) -> bool:
        """Whether it answers over TLS."""
        if self.daemon.pid is None:
            return False
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", self.paths.ports["https"], timeout=5, context=context)
        try:
            connection.request("GET", "/nginx-lives")
            return connection.getresponse().status == 204
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def end_strays(self) -> None:
        """Workers outlive a master that was killed; they are known by their working directory."""
        if self.daemon.pid is not None:
            return
        for entry in Path("/proc").iterdir():
            try:
                mine = Path(os.readlink(entry / "cwd")) == self.paths.nginx and Path(os.readlink(entry / "exe")).name == "nginx"
            except OSError:
                continue
            if entry.name.isdigit() and mine:
                os.kill(int(entry.name), signal.SIGKILL)
                wait_until(lambda pid=int(entry.name): start_time(pid) is None, 10, f"nginx (pid {entry.name}) to end")

    def stop(self) -> None:
        """Stop it and what a killed master left."""
        self.daemon.stop(grace=5)
        self.end_strays()
