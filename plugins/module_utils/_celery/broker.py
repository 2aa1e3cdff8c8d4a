# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redis as Celery's broker: the connection, and where Celery keeps what. PRIVATE to the collection.

Needs redis 4.3 or newer, imported when the first connection is made. Messages name host, port and database; never the password.
"""

from __future__ import annotations

import dataclasses
import re
import typing as t
import urllib.parse

from ansible_collections.fileforge.ops.plugins.module_utils._errors import AccessDenied, InvalidOption, OpsError, Unavailable
from ansible_collections.fileforge.ops.plugins.module_utils._module import require_library

SEPARATOR = "\x06\x16"
"""What stands between a queue's name and its priority, and between the parts of a binding."""
STEPS = (0, 3, 6, 9)
_DENIED = re.compile(r"NOAUTH|WRONGPASS|invalid username-password|invalid password|without any password configured", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class RedisOptions:
    """The options of ``_argspec.REDIS``."""

    host: str = "localhost"
    port: int = 6379
    db: int = 0
    username: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    url: str | None = dataclasses.field(default=None, repr=False)
    tls: bool = False
    validate_certs: bool = True
    ca_cert: str | None = None
    timeout: float = 5.0

    def __post_init__(self) -> None:
        if self.timeout <= 0:
            raise InvalidOption("redis_timeout", self.timeout, "must be more than 0")

    @classmethod
    def from_params(cls, params: t.Mapping[str, t.Any]) -> RedisOptions:
        """From a module's parameters; other options are ignored. A URL takes the place of host, port, database and credentials."""
        fields = (field.name for field in dataclasses.fields(cls))
        given = {name: params[f"redis_{name}"] for name in fields if params.get(f"redis_{name}") is not None}
        return cls(**{**given, **_from_url(str(given["url"]))}) if given.get("url") else cls(**given)

    def describe(self) -> str:
        """``redis1:6379/0`` for messages."""
        return f"{self.host}:{self.port}/{self.db}"

    def arguments(self) -> dict[str, t.Any]:
        """Keyword arguments of the client."""
        found: dict[str, t.Any] = {
            "host": self.host,
            "port": self.port,
            "db": self.db,
            "username": self.username,
            "password": self.password,
            "socket_timeout": self.timeout,
            "socket_connect_timeout": self.timeout,
        }
        if self.tls:
            required = "required" if self.validate_certs else "none"
            found.update(ssl=True, ssl_cert_reqs=required, ssl_check_hostname=self.validate_certs, ssl_ca_certs=self.ca_cert)
        return found


def _from_url(url: str) -> dict[str, t.Any]:
    """The parts of ``redis[s]://[user][:password]@host[:port][/db]``. Messages do not repeat it: it may hold a password."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port or 6379
        db = int(parts.path.strip("/") or 0)
    except ValueError as error:
        raise InvalidOption("redis_url", "***", "its port or database is not a number") from error
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise InvalidOption("redis_url", "***", "not a redis or rediss URL with a host", hint="use redis://:password@host:6379/0")

    def plain(text: str | None) -> str | None:
        return urllib.parse.unquote(text) if text else None

    found = {"host": parts.hostname, "port": port, "db": db, "username": plain(parts.username), "password": plain(parts.password)}
    return {**found, "tls": parts.scheme == "rediss"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names in the broker: Celery's transport options ``global_keyprefix``, ``priority_steps`` and ``sep``."""

    key_prefix: str = ""
    priority_steps: t.Sequence[int] = STEPS
    separator: str = SEPARATOR
    control_exchange: str = "celery"
    event_exchange: str = "celeryev"

    def __post_init__(self) -> None:
        steps = list(self.priority_steps)
        if not steps or steps[0] != 0 or steps != sorted(set(steps)):
            raise InvalidOption(
                "priority_steps", steps, "must begin with 0 and rise", hint="give what the application gives Celery"
            )
        if not self.separator:
            raise InvalidOption("separator", self.separator, "must not be empty")

    def keys(self, queue: str) -> list[str]:
        """The keys of a queue, in the order in which workers look at them: 0 comes first, and has the name itself."""
        return [self.key(f"{queue}{self.separator}{step}" if step else queue) for step in self.priority_steps]

    def key(self, name: str) -> str:
        """A key with the prefix."""
        return self.key_prefix + name

    def binding(self, *parts: str) -> str:
        """A member of an exchange's binding table."""
        return self.separator.join(parts)


class Broker:
    """A connection whose errors a person can act on. Every call has the timeout of the options and no hidden retries."""

    def __init__(self, options: RedisOptions) -> None:
        self.options = options
        self._library = require_library("redis", "redis", minimum=(4, 3))
        retry = require_library("redis.retry", "redis").Retry(require_library("redis.backoff", "redis").NoBackoff(), 0)
        self.client = self._library.Redis(**options.arguments(), retry=retry, decode_responses=False)

    def close(self) -> None:
        """Leave."""
        self.client.close()

    def ask(self, what: str, call: t.Callable[[t.Any], t.Any]) -> t.Any:
        """The answer to ``call(client)``. Raises AccessDenied, Unavailable, and OpsError for everything else."""
        try:
            return call(self.client)
        except self._library.RedisError as error:
            raise self.error(what, error) from error

    def many(self, what: str, commands: t.Sequence[t.Sequence[t.Any]]) -> list[t.Any]:
        """The answers to several commands in one journey; the exception in the place of an answer that failed."""

        def run(client: t.Any) -> list[t.Any]:
            pipeline = client.pipeline(transaction=False)
            pipeline.response_callbacks = {}  # answers as they come: what the library makes of them differs between its versions
            for command in commands:
                pipeline.execute_command(*command)
            return list(pipeline.execute(raise_on_error=False))

        return [
            self.error(what, answer) if isinstance(answer, self._library.RedisError) else answer for answer in self.ask(what, run)
        ]

    def error(self, what: str, error: Exception) -> OpsError:
        """The OpsError for an error of the library."""
        text = str(error).strip() or type(error).__name__
        place = self.options.describe()
        exceptions = self._library.exceptions
        if isinstance(error, exceptions.NoPermissionError) or "NOPERM" in text or "no permissions" in text.lower():
            return AccessDenied(
                f"{what}: the Redis user has no permission at {place}", hint="grant what docs/server-checks.md lists"
            )
        if isinstance(error, exceptions.AuthenticationError) or _DENIED.search(text):
            return AccessDenied(f"{what}: Redis at {place} does not accept the credentials: {text}", hint="check redis_password")
        if isinstance(error, (exceptions.ConnectionError, exceptions.TimeoutError)):
            return Unavailable(
                f"{what}: Redis at {place} does not answer: {text}", hint="check that it runs, and redis_host, redis_port"
            )
        return OpsError(f"{what}: Redis at {place}: {text}")


def text_of(value: t.Any) -> str:
    """Bytes as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
