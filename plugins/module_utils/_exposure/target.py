# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""One endpoint looked at as a stranger would: its ports, TLS, headers and paths. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import re
import typing as t
import urllib.parse

from ansible_collections.fileforge.ops.plugins.module_utils._checks import UNKNOWN, Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._exposure import ports, versions, web

ACCEPTED = re.compile(r"(port|tls|cipher|header|path):\S+|debug")


@dataclasses.dataclass(frozen=True)
class Target:
    """What is looked at. ``accepted`` are findings that somebody decided to live with: ``header:server``, ``port:22``."""

    url: str
    name: str = ""
    address: str = ""
    expected_ports: t.Sequence[int] | None = None
    ports: t.Sequence[str] = ("1-65535",)
    minimum_tls: str = "TLSv1.2"
    paths: t.Sequence[t.Mapping[str, str]] = ()
    accepted: t.Sequence[str] = ()
    timeout: float = 5.0
    port_timeout: float = 1.0
    at_once: int = 400

    def __post_init__(self) -> None:
        parts = self._parts()
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise InvalidOption(
                "url", f"{parts.scheme}://{parts.hostname}", "not an http or https URL with a host and no credentials"
            )
        for item in self.accepted:
            if not ACCEPTED.fullmatch(item):
                raise InvalidOption(
                    "accepted", item, "not a finding", hint="use for example header:server, port:22 or path:/metrics"
                )
        for option, least in (("timeout", 0), ("port_timeout", 0), ("at_once", 0)):
            if getattr(self, option) <= least:
                raise InvalidOption(option, getattr(self, option), "must be more than 0")
        ports.ports_of(self.ports)
        self.fingerprints()

    def _parts(self) -> urllib.parse.SplitResult:
        try:
            parts = urllib.parse.urlsplit(self.url)
            _unused = parts.port, (parts.hostname or "").encode("idna")
        except ValueError as error:  # UnicodeError is one
            raise InvalidOption("url", self.url, str(error)) from error
        return parts

    def site(self) -> web.Site:
        """Where is asked."""
        parts = self._parts()
        host = t.cast(str, parts.hostname)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return web.Site(parts.scheme, host, port, self.address or host, self.timeout, parts.netloc)

    def fingerprints(self) -> list[web.Fingerprint]:
        """The paths that are looked for, the user's last."""
        own = []
        for item in self.paths:
            if not item["path"].startswith("/"):
                raise InvalidOption("paths", item["path"], "a path begins with /")
            try:
                re.compile(item["pattern"].encode())
            except re.error as error:
                raise InvalidOption("paths", item["pattern"], f"not a regular expression: {error}") from error
            own.append(web.Fingerprint(item["path"], item["pattern"], item["what"], item["status"]))
        return [*web.FINGERPRINTS, *own]


def examine(target: Target) -> list[Check]:
    """All checks, each of this target; one that could not look hides no other."""
    site, name = target.site(), target.name or str(urllib.parse.urlsplit(target.url).hostname)
    looks: dict[str, t.Callable[[], Check]] = {}
    if target.expected_ports is not None:
        looks["ports"] = lambda: _ports(target, site)
    if site.scheme == "https":
        looks["tls"] = lambda: versions.judge(
            versions.look((site.address, site.port), site.host, target.timeout), target.minimum_tls, target.accepted
        )
    looks["headers"] = lambda: web.judge_headers(web.get(site, _path(target)), site.scheme, target.accepted)
    looks["paths"] = lambda: _paths(target, site)
    return [dataclasses.replace(_looked(f"exposure.{area}", look), subject=name) for area, look in looks.items()]


def _path(target: Target) -> str:
    parts = urllib.parse.urlsplit(target.url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _ports(target: Target, site: web.Site) -> Check:
    looked = ports.ports_of(target.ports)
    expected = target.expected_ports or []
    found = ports.scan(site.address, looked, target.port_timeout, target.at_once)
    return ports.judge(site.host, found, expected, looked, target.accepted)


def _paths(target: Target, site: web.Site) -> Check:
    fingerprints = target.fingerprints()
    return web.judge_paths(web.found_paths(site, fingerprints), len(fingerprints), target.accepted)


def _looked(check_id: str, look: t.Callable[[], Check]) -> Check:
    try:
        return look()
    except OpsError as error:
        return Check(check_id, UNKNOWN, f"could not look: {error.message}", hint=error.hint or "look from another host")
