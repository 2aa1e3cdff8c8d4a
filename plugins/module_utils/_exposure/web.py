# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an endpoint's answers give away: headers that are missing, and paths that should not be there. PRIVATE to the collection.

A path counts as found only when the content is what such a file or page holds: many applications answer every path with the same
page. What was found is never kept; only that it is there.
"""

from __future__ import annotations

import dataclasses
import http.client
import re
import secrets
import socket
import ssl
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, UNKNOWN, WARNING, Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError, Unavailable

HALF_A_YEAR = 15_552_000
MOST = 65536
"""Bytes of an answer that are looked at."""
_MAX_AGE = re.compile(r"max-age\s*=\s*\"?(\d+)", re.IGNORECASE)
_VERSIONED = re.compile(r"/\d|\d+\.\d+")


@dataclasses.dataclass(frozen=True)
class Site:
    """Where is asked: ``address`` is connected to, ``host`` is the name that is asked for."""

    scheme: str
    host: str
    port: int
    address: str
    timeout: float = 5.0
    host_header: str = ""


@dataclasses.dataclass(frozen=True)
class Page:
    """An answer."""

    status: int
    headers: t.Mapping[str, str]
    body: bytes


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """A path, what its content looks like when it is what it seems, and how bad that is."""

    path: str
    pattern: str
    what: str
    status: str = CRITICAL


FINGERPRINTS = (
    Fingerprint("/.git/HEAD", r"\A(ref: refs/|[0-9a-f]{40}\s*\Z)", "the history of the source"),
    Fingerprint("/.git/config", r"(?m)^\[core\]", "the history of the source"),
    Fingerprint("/.svn/wc.db", r"\ASQLite format 3\0", "the history of the source"),
    Fingerprint(
        "/.env", r"(?m)^\s*(export )?[A-Z][A-Z0-9_]*(KEY|SECRET|PASSWORD|TOKEN|URL|DSN|DATABASE|HOST)[A-Z0-9_]*\s*=", "secrets"
    ),
    Fingerprint("/.aws/credentials", r"(?mi)^\s*aws_access_key_id\s*=", "keys of the object store"),
    Fingerprint("/.kube/config", r"(?m)^clusters:", "access to Kubernetes"),
    Fingerprint("/.ssh/id_rsa", r"-----BEGIN [A-Z ]*PRIVATE KEY-----", "a private key"),
    Fingerprint("/id_rsa", r"-----BEGIN [A-Z ]*PRIVATE KEY-----", "a private key"),
    Fingerprint("/privkey.pem", r"-----BEGIN [A-Z ]*PRIVATE KEY-----", "a private key"),
    Fingerprint("/.htpasswd", r"(?m)^[^:\s<]+:(\$(apr1|2[aby]|5|6)\$|\{SHA\})", "passwords"),
    Fingerprint("/.pgpass", r"(?m)^[^:\s<]+:(\d+|\*):[^:\s]+:[^:\s]+:", "passwords"),
    Fingerprint("/backup.sql", r"(?m)^(-- PostgreSQL database dump|CREATE TABLE |INSERT INTO |COPY )", "a dump of the database"),
    Fingerprint("/dump.sql", r"(?m)^(-- PostgreSQL database dump|CREATE TABLE |INSERT INTO |COPY )", "a dump of the database"),
    Fingerprint("/database.dump", r"\APGDMP", "a dump of the database"),
    Fingerprint("/docker-compose.yml", r"(?m)^services:", "how the platform is built"),
    Fingerprint("/actuator/env", r"\"propertySources\"", "settings of the application"),
    Fingerprint("/console", r"(?i)<title>[^<]*(interactive console|werkzeug)", "a console that runs code"),
    Fingerprint("/debug/pprof/", r"Types of profiles available", "a debug page", WARNING),
    Fingerprint("/phpinfo.php", r"<title>(PHP \S+ - )?phpinfo\(\)", "a debug page", WARNING),
    Fingerprint("/server-status", r"(?i)Apache Server Status|\AActive connections: \d", "a debug page", WARNING),
    Fingerprint("/flower/", r"<title>Flower", "the console of the workers", WARNING),
    Fingerprint("/metrics", r"(?m)^# (HELP|TYPE) \S+ ", "metrics of the application", WARNING),
)
_DEBUG = re.compile(
    rb"Traceback \(most recent call last\)|DEBUG = True|<title>[^<]*Werkzeug Debugger|Whoops, looks like something went wrong"
)


def get(site: Site, path: str) -> Page:
    """The answer to one GET, on a connection of its own; redirects are not followed. Raises Unavailable.

    Certificates are not judged here: ``tls_certificate_info`` does.
    """
    connection = http.client.HTTPConnection(site.host, site.port, timeout=site.timeout)
    try:
        connection.sock = _connected(site)
        connection.request(
            "GET", path, headers={"Host": site.host_header or site.host, "User-Agent": "fileforge.ops", "Connection": "close"}
        )
        answer = connection.getresponse()
        return Page(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read(MOST))
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unavailable(f"{site.scheme}://{site.host}:{site.port}{path}: {reason}", hint="is the server running?") from error
    finally:
        connection.close()


def _connected(site: Site) -> socket.socket:
    plain = socket.create_connection((site.address, site.port), timeout=site.timeout)
    if site.scheme != "https":
        return plain
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = (
        ssl.TLSVersion.MINIMUM_SUPPORTED
    )  # what is too old is told by exposure.tls, and looked at all the same
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    try:
        return context.wrap_socket(plain, server_hostname=site.host)
    except BaseException:
        plain.close()
        raise


def header_problems(page: Page, scheme: str) -> dict[str, str]:
    """What is wrong with the headers of an answer, by a short name (OWASP Secure Headers; RFC 6797 for the first)."""
    headers = page.headers
    policy = headers.get("content-security-policy", "")
    found: dict[str, str] = {}
    if scheme == "https":
        match = _MAX_AGE.search(headers.get("strict-transport-security", ""))
        if match is None or int(match[1]) < HALF_A_YEAR:
            found["strict-transport-security"] = "does not say for half a year that only TLS is spoken"
    if headers.get("x-content-type-options", "").lower() != "nosniff":
        found["x-content-type-options"] = "lets browsers guess what a file is"
    if "frame-ancestors" not in policy and headers.get("x-frame-options", "").upper() not in ("DENY", "SAMEORIGIN"):
        found["x-frame-options"] = "may be framed by other sites"
    if "text/html" in headers.get("content-type", "") and not policy:
        found["content-security-policy"] = "lets a page load scripts from anywhere"
    if "referrer-policy" not in headers:
        found["referrer-policy"] = "tells other sites where a visitor came from"
    for name in ("server", "x-powered-by", "x-aspnet-version"):
        if _VERSIONED.search(headers.get(name, "")) or (name == "x-powered-by" and headers.get(name)):
            found[name] = f"tells what runs here: {headers[name][:60]}"
    return found


def judge_headers(page: Page, scheme: str, accepted: t.Collection[str]) -> Check:
    """``exposure.headers``."""
    problems = {name: text for name, text in header_problems(page, scheme).items() if f"header:{name}" not in accepted}
    if not problems:
        return Check("exposure.headers", OK, "the headers are as they should be", 0, "headers")
    first, text = next(iter(problems.items()))
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    hint = f"set or remove {', '.join(problems)} in the web server; what cannot be changed goes into accepted (header:{first})"
    summary = f"{len(problems)} headers: {first} {text}{more}"
    return Check("exposure.headers", WARNING, summary, len(problems), "headers", hint=hint, evidence=problems)


def found_paths(site: Site, fingerprints: t.Sequence[Fingerprint]) -> tuple[list[Fingerprint], bool, list[str]]:
    """What is there, whether a debug page answers what does not exist, and the paths that could not be asked."""
    nowhere = get(site, f"/{secrets.token_hex(12)}")
    there, failed = [], []
    for item in fingerprints:
        try:
            page = get(site, item.path)
        except OpsError:
            failed.append(item.path)
            continue
        pattern = re.compile(item.pattern.encode())
        if page.status == 200 and pattern.search(page.body) and not pattern.search(nowhere.body):
            there.append(item)
    return there, bool(_DEBUG.search(nowhere.body)), failed


def judge_paths(found: tuple[t.Sequence[Fingerprint], bool, t.Sequence[str]], looked: int, accepted: t.Collection[str]) -> Check:
    """``exposure.paths``: what is there is as bad as its content; a path that could not be asked hides something, maybe."""
    there = [item for item in found[0] if f"path:{item.path}" not in accepted]
    debug = found[1] and "debug" not in accepted
    evidence = {"found": [{"path": item.path, "what": item.what} for item in there], "debug": found[1], "not_asked": list(found[2])}
    told = [f"{item.path} ({item.what})" for item in there] + (["the error page is a debug page"] if debug else [])
    if told:
        status = CRITICAL if debug or any(item.status == CRITICAL for item in there) else WARNING
        hint = "take it away, then change every secret that was in it: it has been readable; see the access log for who did"
        return Check(
            "exposure.paths", status, f"readable for everyone: {', '.join(told)}", len(told), "paths", hint=hint, evidence=evidence
        )
    if found[2]:
        summary = f"{len(found[2])} of {looked} paths could not be asked, {found[2][0]} among them"
        return Check(
            "exposure.paths", UNKNOWN, summary, None, "paths", hint="run again; is a rate limit between?", evidence=evidence
        )
    return Check("exposure.paths", OK, f"none of {looked} paths that give something away is there", 0, "paths", evidence=evidence)
