# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Probing an HTTP endpoint several times and judging what came back. PRIVATE to the collection.

Each probe is one new connection: name resolution, TCP, TLS, request, whole answer, all within ``timeout``. Proxies of the
environment are not used and redirects are not followed, because the endpoint itself is what is looked at.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import http.client
import json
import math
import re
import socket
import ssl
import threading
import time
import typing as t
import urllib.parse

from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, UNKNOWN, WARNING, Check, grade_over
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._time import UTC, iso, now
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline

MAX_BODY = 1024 * 1024
"""Bytes of an answer that are read and judged; a health answer is small."""
KEPT = 50
"""Probes that are kept in the result; the window that decides is always among them."""
_OWN_FAULTS = (errno.ENETUNREACH, errno.ENETDOWN, errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL)
_OWN_RESOLVER = (socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_SYSTEM, socket.EAI_MEMORY)


@dataclasses.dataclass(frozen=True)
class ProbeOptions:
    """What to ask, how often, and what a good answer is."""

    url: str
    name: str = ""
    method: str = "GET"
    headers: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    bearer_token: str | None = dataclasses.field(default=None, repr=False)
    probes: int = 5
    required: int = 3
    interval: float = 1.0
    timeout: float = 5.0
    retries_for: float = 0.0
    status_codes: t.Sequence[int] = (200,)
    body_regex: str | None = None
    body_json: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)
    latency_warning: float = 0.5
    latency_critical: float = 1.0
    validate_certs: bool = True
    ca_cert: str | None = None

    def __post_init__(self) -> None:
        parts = self.parts()
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidOption("url", self.url, "not an http or https URL with a host")
        if parts.username is not None or parts.password is not None:
            raise InvalidOption("url", f"{parts.scheme}://***@{parts.hostname}", "credentials do not belong into a URL")
        if not 1 <= self.required <= self.probes:
            raise InvalidOption("required", self.required, f"must be between 1 and probes ({self.probes})")
        for option in ("interval", "retries_for"):
            if getattr(self, option) < 0:
                raise InvalidOption(option, getattr(self, option), "must not be negative")
        if self.timeout <= 0:
            raise InvalidOption("timeout", self.timeout, "must be more than 0")
        if self.body_regex is not None:
            try:
                re.compile(self.body_regex)
            except re.error as error:
                raise InvalidOption("body_regex", self.body_regex, f"not a regular expression: {error}") from error

    def parts(self) -> urllib.parse.SplitResult:
        """The URL taken apart; raises InvalidOption when it cannot be."""
        try:
            parts = urllib.parse.urlsplit(self.url)
            _unused = parts.port
        except ValueError as error:
            raise InvalidOption("url", self.url, str(error)) from error
        return parts

    def slug(self) -> str:
        """The name as a part of check ids."""
        return re.sub(r"[^a-z0-9_-]+", "-", (self.name or self.parts().hostname or "").lower()).strip("-")


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One probe. ``problem`` is empty for a good answer; ``ran`` is false when the fault was on this side."""

    at: str
    latency: float
    status: int | None = None
    problem: str = ""
    ran: bool = True
    location: str = ""
    body: str = ""
    tls: t.Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether the answer was as wanted."""
        return self.ran and not self.problem

    def as_dict(self) -> dict[str, t.Any]:
        """For a module's result; the body only as an excerpt."""
        return {
            "at": self.at,
            "ok": self.good,
            "status": self.status,
            "latency": round(self.latency, 4),
            "problem": self.problem,
            "location": self.location,
            "body": self.body[:500],
        }


@dataclasses.dataclass
class Outcome:
    """All probes of one endpoint."""

    options: ProbeOptions
    attempts: list[Attempt] = dataclasses.field(default_factory=list)

    @property
    def window(self) -> list[Attempt]:
        """The last M probes."""
        return self.attempts[-self.options.probes :]

    @property
    def good(self) -> int:
        """Good ones among the last M."""
        return sum(attempt.good for attempt in self.window)

    @property
    def healthy(self) -> bool:
        """N of the last M good, the newest among them."""
        return bool(self.attempts) and self.good >= self.options.required and self.attempts[-1].good

    def latency(self) -> dict[str, float]:
        """Percentiles (nearest rank) over the good probes of the window, in seconds."""
        times = sorted(attempt.latency for attempt in self.window if attempt.good)
        if not times:
            return {}
        ranks = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
        result = {name: times[max(0, math.ceil(rank * len(times)) - 1)] for name, rank in ranks.items()}
        result.update(minimum=times[0], maximum=times[-1])
        return {name: round(value, 4) for name, value in result.items()}

    def as_dict(self) -> dict[str, t.Any]:
        """What the module returns beside the checks."""
        last = self.attempts[-1]
        return {
            "name": self.options.slug(),
            "url": self.options.url,
            "healthy": self.healthy,
            "good": self.good,
            "made": len(self.attempts),
            "latency": self.latency(),
            "probes": [attempt.as_dict() for attempt in self.attempts[-max(KEPT, self.options.probes) :]],
            "tls": dict(last.tls),
        }

    def checks(self) -> list[Check]:
        """``endpoint.<name>.health`` and ``endpoint.<name>.latency``."""
        return [self._health(), self._latency()]

    def _health(self) -> Check:
        options, window = self.options, self.window
        problems = [attempt.problem for attempt in window if attempt.problem]
        summary = f"{self.good} of {len(window)} probes of {options.url} were good ({options.required} needed)"
        if problems:
            summary += f"; last problem: {problems[-1]}"
        if not any(attempt.ran for attempt in window):
            status = UNKNOWN
        elif not self.healthy:
            status = CRITICAL
        else:
            status = OK if self.good == len(window) else WARNING
        hint = "" if status == OK else "runbook: Incident Response, API Unavailable"
        return Check(
            f"endpoint.{options.slug()}.health", status, summary, value=self.good, unit="probes", hint=hint, evidence=problems
        )

    def _latency(self) -> Check:
        options = self.options
        value = self.latency().get("p95")
        text = (
            "no good answer to measure" if value is None else f"95 % of the good answers of {options.url} came within {value:.3f} s"
        )
        status = grade_over(value, options.latency_warning, options.latency_critical)
        return Check(
            f"endpoint.{options.slug()}.latency",
            status,
            text,
            value=value,
            unit="s",
            warning=options.latency_warning,
            critical=options.latency_critical,
            hint="" if status == OK else "runbook: Key Metrics, API Response Time",
        )


def probe(options: ProbeOptions, sleep: t.Callable[[float], None] = time.sleep) -> Outcome:
    """Probe M times; while not healthy and ``retries_for`` has not passed, go on with the window of the last M."""
    outcome = Outcome(options)
    try:
        context = _tls_context(options)
    except (OSError, ssl.SSLError) as error:
        problem = f"the authorities file {options.ca_cert} cannot be used: {getattr(error, 'strerror', None) or error}"
        outcome.attempts.append(Attempt(str(iso(now())), 0.0, problem=problem, ran=False))
        return outcome
    deadline = Deadline(options.retries_for)
    while True:
        outcome.attempts.append(attempt(options, context))
        enough = len(outcome.attempts) >= options.probes
        if enough and (outcome.healthy or not deadline.left):
            return outcome
        sleep(options.interval)


def attempt(options: ProbeOptions, context: ssl.SSLContext | None) -> Attempt:
    """One probe."""
    at, begin = str(iso(now())), time.monotonic()
    alarm = _Alarm(options.timeout)
    connection = _connection(options, context)
    status, location, body, tls, problem, ran = None, "", "", {}, "", True
    try:
        with alarm:
            connection.connect()
            alarm.watch(connection.sock)
            tls = _tls_facts(connection.sock)
            connection.request(options.method, _target(options), headers=_headers(options))
            response = connection.getresponse()
            status, location = response.status, response.getheader("Location") or ""
            body = response.read(MAX_BODY).decode(errors="replace")
    except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
        problem, ran = _explain(error, alarm), _ran(error)
    finally:
        connection.close()
    latency = time.monotonic() - begin
    if not problem:
        problem = f"no whole answer within {options.timeout:g} s" if alarm.rang else judge(options, status, location, body)
    return Attempt(at, latency, status, problem, ran, location, body, tls)


def judge(options: ProbeOptions, status: int | None, location: str, body: str) -> str:
    """What is wrong with an answer; empty when nothing is."""
    if status not in options.status_codes:
        wanted = ", ".join(map(str, options.status_codes))
        return f"status {status} instead of {wanted}" + (f", redirects to {location}" if location else "")
    if options.body_regex is not None and not re.search(options.body_regex, body, re.MULTILINE):
        return f"the body does not match {options.body_regex!r}"
    if not options.body_json:
        return ""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return "the body is not JSON"
    for path, expected in options.body_json.items():
        problem = _differs(document, str(path), expected)
        if problem:
            return problem
    return ""


def _differs(document: t.Any, path: str, expected: t.Any) -> str:
    value = document
    for word in path.split("."):
        if isinstance(value, dict) and word in value:
            value = value[word]
        elif isinstance(value, list) and word.isdigit() and int(word) < len(value):
            value = value[int(word)]
        else:
            return f"the body has no {path}"
    same = type(value) is type(expected) and value == expected
    numbers = all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in (value, expected)) and value == expected
    text = isinstance(expected, str) and not isinstance(value, str) and json.dumps(value) == expected.lower()
    return "" if same or numbers or text else f"{path} is {json.dumps(value)[:100]} instead of {json.dumps(expected, default=str)}"


class _Alarm:
    """Shuts a socket down when the time of a whole probe is over: socket timeouts alone start anew with every byte."""

    def __init__(self, seconds: float) -> None:
        self.rang = False
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._ring)
        self._timer.daemon = True

    def __enter__(self) -> _Alarm:
        self._timer.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._timer.cancel()

    def watch(self, watched: socket.socket) -> None:
        """From now on, this socket."""
        self._socket = watched
        if self.rang:
            self._ring()

    def _ring(self) -> None:
        self.rang = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _tls_context(options: ProbeOptions) -> ssl.SSLContext | None:
    if options.parts().scheme != "https":
        return None
    context = ssl.create_default_context(cafile=options.ca_cert)
    if not options.validate_certs:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _connection(options: ProbeOptions, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
    parts = options.parts()
    host = t.cast(str, parts.hostname)
    if context is not None:
        return http.client.HTTPSConnection(host, parts.port, timeout=options.timeout, context=context)
    return http.client.HTTPConnection(host, parts.port, timeout=options.timeout)


def _target(options: ProbeOptions) -> str:
    parts = options.parts()
    return urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))


def _headers(options: ProbeOptions) -> dict[str, str]:
    headers = {"User-Agent": "fileforge.ops", "Connection": "close", **{str(k): str(v) for k, v in options.headers.items()}}
    if options.bearer_token:
        headers["Authorization"] = f"Bearer {options.bearer_token}"
    return headers


def _tls_facts(connected: socket.socket) -> dict[str, str]:
    if not isinstance(connected, ssl.SSLSocket):
        return {}
    facts = {"version": connected.version() or ""}
    certificate = connected.getpeercert() or {}
    if "notAfter" in certificate:
        end = datetime.datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
        facts["not_after"] = str(iso(end))
    return facts


def _ran(error: BaseException) -> bool:
    if isinstance(error, socket.gaierror):
        return error.errno not in _OWN_RESOLVER
    return not (isinstance(error, OSError) and error.errno in _OWN_FAULTS)


def _explain(error: BaseException, alarm: _Alarm) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted: {error.verify_message}"
    if alarm.rang or isinstance(error, (TimeoutError, socket.timeout)):
        return "timed out"
    if isinstance(error, socket.gaierror):
        return f"name not resolved: {error.strerror}"
    if isinstance(error, http.client.RemoteDisconnected):
        return "closed the connection without an answer"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return f"not an HTTP answer: {type(error).__name__} {error}".strip()
