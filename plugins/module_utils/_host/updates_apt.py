# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pending fixes on Debian and Ubuntu, from apt-get's own simulation. PRIVATE to the collection."""

from __future__ import annotations

import calendar
import email.utils
import glob
import os
import re
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils import _process
from ansible_collections.fileforge.ops.plugins.module_utils._errors import Refused
from ansible_collections.fileforge.ops.plugins.module_utils._host.updates import Fix, Found, kernel_state

LISTS = "/var/lib/apt/lists"
STAMPS = ("/var/lib/apt/periodic/update-success-stamp", LISTS, f"{LISTS}/partial")
REBOOT = ("/run/reboot-required", "/var/run/reboot-required")
_INST = re.compile(r"Inst (?P<package>\S+)(?: \[(?P<installed>[^\]]*)\])? \((?P<candidate>\S+) (?P<origins>.*?) \[[^\]]*\]\)")
_REMOVED = re.compile(r"Remv (?P<package>\S+)")


def parse_simulation(text: str) -> tuple[list[tuple[str, str, str, str]], list[str]]:
    """Package, installed version (empty when new), candidate and its origins; and packages that would be removed."""
    updates = [
        (match["package"], match["installed"] or "", match["candidate"], match["origins"])
        for match in map(_INST.match, text.splitlines())
        if match
    ]
    return updates, [match["package"] for match in map(_REMOVED.match, text.splitlines()) if match]


def is_security(origins: str) -> bool:
    """Debian-Security:12/oldstable-security, Ubuntu:24.04/noble-security, UbuntuESMApps:24.04/noble-apps-security."""
    for origin in origins.split(", "):
        label, _slash, archive = origin.partition("/")
        if "security" in label.lower() or archive.split(" ")[0].endswith("-security"):
            return True
    return False


def release_fields(text: str) -> dict[str, str]:
    """The fields before the hashes."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith(("MD5Sum:", "SHA256:", "SHA1:", "SHA512:")):
            break
        name, colon, value = line.partition(": ")
        if colon and " " not in name:
            fields[name] = value.strip()
    return fields


def _moment(text: str | None) -> float | None:
    parsed = email.utils.parsedate_tz(text) if text else None
    return float(calendar.timegm(parsed[:9]) - (parsed[9] or 0)) if parsed else None


def look(timeout: float) -> Found:
    """What apt knows, without the network and without locks."""
    found = Found("apt")

    def held() -> None:
        found.held = _process.run(["apt-mark", "showhold"], timeout=timeout).stdout.split()

    def security() -> None:
        argv = [
            "apt-get",
            "--simulate",
            "--ignore-hold",
            "-o",
            "Debug::NoLocking=true",
            "-o",
            "APT::Get::Show-User-Simulation-Note=false",
        ]
        updates, _removed = parse_simulation(_process.run([*argv, "dist-upgrade"], timeout=timeout).stdout)
        pending = [item for item in updates if item[1]]
        found.fixes = [
            Fix(
                package,
                installed,
                candidate,
                origins,
                held=package.partition(":")[0] in {name.partition(":")[0] for name in found.held},
            )
            for package, installed, candidate, origins in pending
            if is_security(origins)
        ]
        found.other_updates = len(pending) - len(found.fixes)

    found.attempt("held", held)
    found.attempt("security", security)
    found.attempt("lists", lambda: _lists(found))
    found.attempt("reboot", lambda: _reboot(found))
    return found


def _lists(found: Found) -> None:
    """When they were fetched, and whether a security archive is among them."""
    releases = [
        path for path in glob.glob(f"{LISTS}/*Release") if path.endswith(("_InRelease", "_Release")) and os.path.isfile(path)
    ]
    if not releases:
        raise Refused("no_lists", f"{LISTS} holds no package lists", hint="apt-get update")
    security: t.List[t.Dict[str, str]] = []
    for path in releases:
        with open(path, encoding="utf-8", errors="replace") as stream:
            fields = release_fields(stream.read(65536))
        if "security" in f"{fields.get('Label', '')} {fields.get('Suite', '')} {fields.get('Codename', '')}".lower():
            security.append(fields)
    if not security:
        raise Refused("no_security_source", "no security archive is among apt's sources, so fixes cannot be seen")
    found.lists_refreshed = max(os.stat(path).st_mtime for path in STAMPS if os.path.exists(path))
    ends = [end for end in (_moment(fields.get("Valid-Until")) for fields in security) if end is not None]
    found.lists_valid_until = min(ends) if ends else None
    dates = [date for date in (_moment(fields.get("Date")) for fields in security) if date is not None]
    found.lists_published = min(dates) if dates else None


def _reboot(found: Found) -> None:
    for path in REBOOT:
        if os.path.exists(path):
            names = ""
            if os.path.exists(f"{path}.pkgs"):
                with open(f"{path}.pkgs", encoding="utf-8", errors="replace") as stream:
                    names = ", ".join(sorted(set(stream.read().split())))
            found.reboot, found.reboot_reason = True, f"{path} is there" + (f" ({names})" if names else "")
            return
    kernel_state(found)
