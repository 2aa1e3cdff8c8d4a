# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Talks to a Kubernetes API server in plain JSON. PRIVATE to the collection.

The kubernetes library (22 and later) finds and refreshes the credentials and sets up TLS; the requests themselves are plain HTTP
through its connection pool, because the library's generated classes change between major versions and refuse answers that lack a
field.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import ssl
import threading
import typing as t
import urllib.parse

from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    AccessDenied,
    InvalidOption,
    NotFound,
    OpsError,
    Unavailable,
)
from ansible_collections.fileforge.ops.plugins.module_utils._module import require_library
from ansible_collections.fileforge.ops.plugins.module_utils._wait import retry

Object = t.Dict[str, t.Any]
"""A Kubernetes object as the server sends it."""

FIELD_MANAGER = "fileforge-ops"
ATTEMPTS = 4
CONNECT_TIMEOUT = 10.0
PAGE = 500
CHUNK = 65536
STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"


class Rejected(OpsError):
    """The server understood the request and does not accept it."""

    code = "rejected"


class _Again(Exception):
    """An answer or a failure after which another attempt makes sense."""


@dataclasses.dataclass(frozen=True)
class KubeOptions:
    """The options of doc fragment kube."""

    config: str | None = None
    context: str | None = None
    host: str | None = None
    token: str | None = dataclasses.field(default=None, repr=False)
    ca_cert: str | None = None
    validate_certs: bool = True
    timeout: int = 30

    @classmethod
    def from_params(cls, params: dict[str, t.Any]) -> KubeOptions:
        """From a module's parameters."""
        if params["kube_timeout"] < 1:
            raise InvalidOption("kube_timeout", params["kube_timeout"], "must be at least 1 second")
        return cls(
            config=params["kube_config"],
            context=params["kube_context"],
            host=params["kube_host"],
            token=params["kube_token"],
            ca_cert=params["kube_ca_cert"],
            validate_certs=params["kube_validate_certs"],
            timeout=params["kube_timeout"],
        )


def _load(library: t.Any, options: KubeOptions) -> t.Any:
    """The library's configuration: given host, kubeconfig file, or the pod's own service account."""
    configuration = library.client.Configuration()
    if options.host:
        configuration.host = options.host.rstrip("/")
        token = options.token or os.environ.get("K8S_AUTH_API_KEY")
        if token:
            configuration.api_key = {"authorization": f"Bearer {token}"}
    else:
        _load_file(library, options, configuration)
    if options.ca_cert:
        try:
            ssl.create_default_context(cafile=options.ca_cert)
        except OSError as error:  # the library would fail at the first request only, with less to say
            raise InvalidOption("kube_ca_cert", options.ca_cert, f"cannot be used: {error}") from error
        configuration.ssl_ca_cert = options.ca_cert
    if not options.validate_certs:
        configuration.verify_ssl = False
    return configuration


def _load_file(library: t.Any, options: KubeOptions, configuration: t.Any) -> None:
    default = os.path.expanduser("~/.kube/config")
    place = options.config or os.environ.get("KUBECONFIG") or (default if os.path.exists(default) else None)
    if options.config and not os.path.exists(options.config):
        raise InvalidOption("kube_config", options.config, "there is no such file")
    try:
        if place:
            library.config.load_kube_config(config_file=place, context=options.context, client_configuration=configuration)
        else:
            library.config.load_incluster_config(client_configuration=configuration)
    except Exception as error:  # a malformed file makes the library raise nearly anything
        raise InvalidOption(
            "kube_config",
            place,
            f"cannot be used: {error}",
            hint="give kube_config or kube_host, set KUBECONFIG, or run in a pod with a service account",
        ) from error


class Client:
    """Requests with a deadline each and bounded retries. Threads may share it; ``connections`` is how many of them there are."""

    def __init__(self, options: KubeOptions, *, connections: int = 4) -> None:
        library = require_library("kubernetes", "kubernetes", minimum=(22,))
        self._http = require_library("urllib3", "urllib3")
        self._options = options
        self._configuration = _load(library, options)
        self._configuration.connection_pool_maxsize = connections
        self._refreshing = threading.Lock()
        self.host = str(self._configuration.host).rstrip("/")
        self._pool = library.client.ApiClient(self._configuration).rest_client.pool_manager

    def get(self, path: str, query: t.Mapping[str, t.Any] | None = None) -> Object:
        """One object, or one page of a list."""
        return _parsed(self._request("GET", path, query), path)

    @contextlib.contextmanager
    def stream(self, path: str, query: t.Mapping[str, t.Any] | None = None) -> t.Iterator[t.Iterator[bytes]]:
        """A body in pieces, as it arrives; the connection is closed when the reader stops early.

        Only the beginning is tried again; a body that breaks off raises Unavailable.
        """
        answer = self._open("GET", path, query, None, "", False)
        what = f"GET {path} at {self.host}"
        try:
            yield self._pieces(answer, what)
        finally:
            answer.close()
            answer.release_conn()

    def _pieces(self, answer: t.Any, what: str) -> t.Iterator[bytes]:
        try:
            yield from answer.stream(CHUNK)
        except (self._http.exceptions.HTTPError, OSError) as error:
            raise Unavailable(f"{what}: broke off: {_short(error)}") from error

    def get_text(self, path: str, query: t.Mapping[str, t.Any] | None = None) -> str:
        """A body that is not JSON: a log."""
        return self._request("GET", path, query).decode(errors="replace")

    def list(self, path: str, query: t.Mapping[str, t.Any] | None = None) -> t.Iterator[Object]:
        """All items of a list, page by page."""
        token = ""
        while True:
            paged = {**(query or {}), "limit": PAGE, **({"continue": token} if token else {})}
            page = self.get(path, paged)
            yield from page.get("items") or []
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return

    def patch(self, path: str, body: Object, *, kind: str = STRATEGIC, dry_run: bool = False) -> Object:
        """The patched object. Sent again after a lost answer, so the patch must say what shall be, not what shall change."""
        query = {"fieldManager": FIELD_MANAGER, **({"dryRun": "All"} if dry_run else {})}
        return _parsed(self._request("PATCH", path, query, json.dumps(body).encode(), kind), path)

    def _request(
        self, method: str, path: str, query: t.Mapping[str, t.Any] | None, body: bytes | None = None, kind: str = ""
    ) -> bytes:
        return t.cast(bytes, self._open(method, path, query, body, kind, True).data)

    def _open(
        self, method: str, path: str, query: t.Mapping[str, t.Any] | None, body: bytes | None, kind: str, whole: bool
    ) -> t.Any:
        what = f"{method} {path} at {self.host}"
        address = f"{self.host}{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        return retry(what, lambda: self._once(method, address, what, body, kind, whole), retry_on=(_Again,), attempts=ATTEMPTS)

    def _once(self, method: str, address: str, what: str, body: bytes | None, kind: str, whole: bool) -> t.Any:
        """The answer, its body read if ``whole``."""
        timeout = self._http.Timeout(connect=min(CONNECT_TIMEOUT, self._options.timeout), read=self._options.timeout)
        headers = {**self._headers(), **({"Content-Type": kind} if kind else {})}
        settings = {"timeout": timeout, "retries": False, "redirect": False, "preload_content": whole}
        errors = self._http.exceptions
        try:
            answer = self._pool.request(method, address, body=body, headers=headers, enforce_content_length=True, **settings)
            if answer.status < 300:
                return answer
            data = answer.data
        except errors.SSLError as error:
            raise Unavailable(f"{what}: {error}", hint="check kube_ca_cert; the certificate must be for that host name") from error
        except (errors.LocationValueError, UnicodeError) as error:
            raise InvalidOption("kube_host", self.host, f"not a URL: {error}") from error
        except errors.HTTPError as error:
            raise _Again(_short(error)) from error
        raise _error(answer.status, data, what)

    def _headers(self) -> dict[str, str]:
        """Fresh for every request: tokens of kubeconfig plugins and service accounts expire."""
        headers = {"Accept": "application/json", "User-Agent": "fileforge-ops"}
        with self._refreshing:
            known = self._configuration.auth_settings()
        for setting in known.values():
            if setting["in"] == "header" and setting["value"]:
                headers[setting["key"]] = setting["value"]
        return headers


def _short(error: Exception) -> str:
    """urllib3 wraps its connection object into the message; leave it out."""
    text = str(error)
    return text.partition(": ")[2] if text.startswith(("<", "HTTPConnection", "HTTPSConnection")) else text


def _parsed(data: bytes, path: str) -> Object:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise Rejected(f"{path}: the answer is not JSON: is this the URL of a Kubernetes API server?") from error
    if not isinstance(found, dict):
        raise Rejected(f"{path}: the answer is not an object")
    return found


def message_of(data: bytes) -> str:
    """What a Status object says, or the first line of another body."""
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return data.decode(errors="replace").strip().partition("\n")[0][:200]


def _error(status: int, data: bytes, what: str) -> Exception:
    message = message_of(data)
    if status == 401:
        return AccessDenied(
            f"{what}: the credentials are not accepted (401 {message})", hint="they may be missing, wrong or expired", status=status
        )
    if status == 403:
        return AccessDenied(f"{what}: {message}", hint="the account needs a role that allows this", status=status)
    if status == 404:
        return NotFound(f"{what}: {message}", status=status)
    if status == 429 or status >= 500:
        return _Again(f"{status} {message}")
    return Rejected(f"{what}: {status} {message}", status=status)
