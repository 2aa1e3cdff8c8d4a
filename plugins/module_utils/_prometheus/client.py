# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP API of Prometheus, and of what speaks the same: queries with a deadline and bounded retries. PRIVATE to the collection.

Proxies of the environment are not used and redirects are not followed: a login page is not a measurement.
"""

from __future__ import annotations

import base64
import dataclasses
import http.client
import json
import ssl
import typing as t
import urllib.error
import urllib.parse
import urllib.request

from ansible_collections.fileforge.ops.plugins.module_utils._errors import AccessDenied, InvalidOption, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline, retry

MAX_BODY = 32 * 1024 * 1024
"""Bytes of an answer that are taken; a query whose answer is larger asks for too much."""
RETRIED = (429, 500, 502, 503, 504)


@dataclasses.dataclass(frozen=True)
class PrometheusOptions:
    """The options of ``_argspec.PROMETHEUS``."""

    url: str
    token: str | None = dataclasses.field(default=None, repr=False)
    username: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    headers: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    validate_certs: bool = True
    ca_cert: str | None = None
    timeout: float = 10.0
    attempts: int = 3

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidOption("prometheus_url", self.url, "not an http or https URL with a host")
        if parts.username is not None or parts.password is not None:
            place = f"{parts.scheme}://***@{parts.hostname}"
            raise InvalidOption("prometheus_url", place, "credentials do not belong into a URL", hint="use prometheus_username")
        if self.timeout <= 0:
            raise InvalidOption("prometheus_timeout", self.timeout, "must be more than 0")
        if self.attempts < 1:
            raise InvalidOption("prometheus_attempts", self.attempts, "must be at least 1")

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> PrometheusOptions:
        """From a module's parameters; other options are ignored."""
        fields = (field.name for field in dataclasses.fields(cls))
        return cls(**{name: params[f"prometheus_{name}"] for name in fields if params.get(f"prometheus_{name}") is not None})


@dataclasses.dataclass(frozen=True)
class Series:
    """One series: its labels and its points in time (seconds since 1970) and value."""

    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a query gave, and what the server said about it."""

    series: tuple[Series, ...]
    notes: tuple[str, ...] = ()


class _Refuse(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_arguments: t.Any, **_more: t.Any) -> None:
        """Make a redirect an error."""


class Prometheus:
    """A server."""

    def __init__(self, options: PrometheusOptions) -> None:
        self.options = options
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _Refuse()]
        if urllib.parse.urlsplit(options.url).scheme == "https":
            handlers.append(urllib.request.HTTPSHandler(context=_context(options)))
        self._opener = urllib.request.build_opener(*handlers)

    def instant(self, query: str, at: float | None = None) -> Answer:
        """The values now, or at a time."""
        return self._ask("query", {"query": query, **({} if at is None else {"time": f"{at:.3f}"})})

    def span(self, query: str, begin: float, end: float, step: float) -> Answer:
        """The values over a time."""
        times = {"start": f"{begin:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
        return self._ask("query_range", {"query": query, **times})

    def _ask(self, path: str, form: t.Mapping[str, str]) -> Answer:
        data = urllib.parse.urlencode({**form, "timeout": f"{max(1, round(self.options.timeout))}s"}).encode()
        url = f"{self.options.url.rstrip('/')}/api/v1/{path}"
        request = urllib.request.Request(  # noqa: S310 - the options allow http and https only
            url, data=data, method="POST", headers=self._headers()
        )
        answer = retry(
            f"Prometheus at {self.options.url}", lambda: self._once(request), retry_on=(_Again,), attempts=self.options.attempts
        )
        return parse(answer, self.options.url)

    def _headers(self) -> dict[str, str]:
        options = self.options
        found = {
            "User-Agent": "fileforge.ops",
            "Accept": "application/json",
            **{str(k): str(v) for k, v in options.headers.items()},
        }
        if options.token:
            found["Authorization"] = f"Bearer {options.token}"
        elif options.username is not None:
            pair = f"{options.username}:{options.password or ''}".encode()
            found["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        return found

    def _once(self, request: urllib.request.Request) -> bytes:
        deadline = Deadline(self.options.timeout)
        try:
            with self._opener.open(request, timeout=self.options.timeout) as answer:
                return _read(answer, deadline)
        except urllib.error.HTTPError as error:
            with error:
                body = _read(error, deadline)
            raise _refusal(self.options.url, error.code, body) from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise _Again(f"its certificate is not trusted: {error.reason.verify_message}") from error
            raise _Again(str(getattr(error.reason, "strerror", None) or error.reason)) from error
        except (OSError, http.client.HTTPException) as error:
            raise _Again(str(error) or type(error).__name__) from error


class _Again(Exception):
    """Worth another attempt."""


def _context(options: PrometheusOptions) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.ca_cert)
    except (OSError, ssl.SSLError) as error:
        raise InvalidOption("prometheus_ca_cert", options.ca_cert, f"cannot be used: {error}") from error
    if not options.validate_certs:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _read(answer: t.Any, deadline: Deadline) -> bytes:
    """The body, within the deadline: a server that sends a byte now and then does not hold us."""
    parts: list[bytes] = []
    size = 0
    while deadline.left:
        part = answer.read1(65536) if hasattr(answer, "read1") else answer.read(65536)
        if not part:
            return b"".join(parts)
        size += len(part)
        if size > MAX_BODY:
            raise OpsError("the answer is too large", hint="ask for fewer series, a shorter range or a longer step")
        parts.append(part)
    raise _Again(f"no whole answer within {deadline.seconds:g} s")


def _refusal(url: str, code: int, body: bytes) -> Exception:
    """What an answer that is not 2xx means."""
    try:
        document = json.loads(body)
        told = f"{document.get('errorType', 'error')}: {document.get('error', '')}"
    except (ValueError, AttributeError):
        told = body[:200].decode(errors="replace").strip()
    if code in (401, 403):
        return AccessDenied(f"Prometheus at {url} does not accept the credentials (status {code})", hint="check prometheus_token")
    if code in RETRIED:
        return _Again(f"status {code}: {told}")
    return OpsError(f"Prometheus at {url} refuses the query (status {code}): {told}", hint="check the query")


def parse(body: bytes, url: str) -> Answer:
    """An answer's document."""
    try:
        document = json.loads(body)
        data = document["data"]
        notes = tuple(str(note) for kind in ("warnings", "infos") for note in document.get(kind) or [])
        return Answer(tuple(_series(data["resultType"], data["result"])), notes)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"what answers at {url} is not the API of Prometheus"
        raise OpsError(problem, hint="check prometheus_url: a proxy's login page, or another service?") from error


def _series(kind: str, result: t.Any) -> t.Iterator[Series]:
    if kind == "scalar":
        yield Series({}, (_point(result),))
    elif kind == "vector":
        for item in result:
            if "value" in item:  # a native histogram has none
                yield Series(dict(item["metric"]), (_point(item["value"]),))
    elif kind == "matrix":
        for item in result:
            yield Series(dict(item["metric"]), tuple(_point(pair) for pair in item.get("values") or []))
    else:
        raise ValueError(kind)


def _point(pair: t.Sequence[t.Any]) -> tuple[float, float]:
    """Time and value; the API writes values as text, also NaN and +Inf."""
    return float(pair[0]), float(pair[1])
