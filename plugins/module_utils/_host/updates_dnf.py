# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pending fixes on the Red Hat family, from dnf's advisories (versions 4 and 5), without the network. PRIVATE."""

from __future__ import annotations

import calendar
import glob
import os
import re
import time

from ansible_collections.fileforge.ops.plugins.module_utils import _process
from ansible_collections.fileforge.ops.plugins.module_utils._errors import ProcessFailed, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._host.updates import Fix, Found, kernel_state

CACHES = ("/var/cache/dnf/*/repodata/repomd.xml", "/var/cache/libdnf5/*/repodata/repomd.xml")
_ROW4 = re.compile(r"(?P<advisory>\S+)\s+(?P<severity>[A-Za-z]+)/Sec\.\s+(?P<package>\S+)\s*$")
_ROW5 = re.compile(
    r"(?P<advisory>\S+)\s+security\s+(?P<severity>\S+)\s+(?P<package>\S+)\s+(?P<issued>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\s*$"
)
_FIELD = re.compile(r"\s*(?P<name>Update ID|Updated|Issued)\s*: (?P<value>.+)$")


def split_name(nevra: str) -> tuple[str, str]:
    """openssl-1:3.0.7-25.el9.x86_64 -> openssl, 1:3.0.7-25.el9.x86_64."""
    parts = nevra.rsplit("-", 2)
    return (parts[0], "-".join(parts[1:])) if len(parts) == 3 else (nevra, "")


def _moment(text: str) -> float | None:
    try:
        return float(calendar.timegm(time.strptime(text.strip(), "%Y-%m-%d %H:%M:%S")))
    except ValueError:
        return None


def parse_dates(text: str) -> dict[str, float]:
    """When each advisory came out, from the long form of version 4."""
    dates: dict[str, float] = {}
    advisory = ""
    for match in filter(None, map(_FIELD.match, text.splitlines())):
        if match["name"] == "Update ID":
            advisory = match["value"].strip()
        elif advisory and (moment := _moment(match["value"])) is not None:
            dates.setdefault(advisory, moment)
    return dates


def parse_list(text: str, dates: dict[str, float]) -> list[Fix]:
    """The fixes; of several advisories for one package, the newest version's comes last and counts."""
    found: dict[str, Fix] = {}
    for line in text.splitlines():
        match = _ROW4.match(line.strip()) or _ROW5.match(line.strip())
        if match is None:
            continue
        fields = match.groupdict()
        name, version = split_name(fields["package"])
        issued = _moment(fields["issued"]) if fields.get("issued") else dates.get(fields["advisory"])
        found[f"{name} {version}"] = Fix(name, "", version, "advisory", fields["severity"].lower(), fields["advisory"], issued)
    return list(found.values())


def look(timeout: float) -> Found:
    """What dnf knows from its cache."""
    found = Found("dnf")
    base = ["dnf", "--quiet", "--cacheonly"]

    def held() -> None:
        found.held = _held(base, timeout)

    def security() -> None:
        listed = _process.run([*base, "updateinfo", "list", "--security", "--updates"], timeout=timeout).stdout
        dates: dict[str, float] = {}
        if any(_ROW4.match(line.strip()) for line in listed.splitlines()):
            dates = parse_dates(_process.run([*base, "updateinfo", "info", "--security", "--updates"], timeout=timeout).stdout)
        fixes = parse_list(listed, dates)
        installed = _installed(sorted({fix.package for fix in fixes}), timeout)
        found.fixes = [
            Fix(**{**vars(fix), "installed": installed.get(fix.package, ""), "held": fix.package in found.held}) for fix in fixes
        ]
        found.other_updates = _count_updates(base, timeout, {fix.package for fix in fixes})

    found.attempt("held", held)
    found.attempt("security", security)
    found.attempt("lists", lambda: _lists(found))
    found.attempt("reboot", lambda: _reboot(found, base, timeout))
    return found


def _installed(names: list[str], timeout: float) -> dict[str, str]:
    if not names:
        return {}
    done = _process.run(["rpm", "-q", "--qf", "%{NAME} %{EVR}\\n", *names], timeout=timeout, check=False)
    return {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in done.stdout.splitlines() if line.count(" ") == 1}


def _count_updates(base: list[str], timeout: float, security: set[str]) -> int:
    """check-update ends with 100 when there are updates."""
    done = _process.run([*base, "check-update"], timeout=timeout, check=False)
    if done.returncode not in (0, 100):
        raise ProcessFailed(f"dnf check-update ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    rows = [line.split() for line in done.stdout.splitlines()]
    names = {row[0].rpartition(".")[0] for row in rows if len(row) == 3 and "." in row[0]}
    return len(names - security)


def _held(base: list[str], timeout: float) -> list[str]:
    """Version locks; without their plugin there are none."""
    done = _process.run([*base, "versionlock", "list"], timeout=timeout, check=False)
    said = done.stdout + done.stderr
    if done.returncode != 0:
        if re.search("no such command|unknown argument", said, re.IGNORECASE):
            return []
        raise ProcessFailed(f"dnf versionlock ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    found = set()
    for line in done.stdout.splitlines():
        named = re.match(r"Package name: (\S+)", line)
        if named:
            found.add(named[1])
        elif re.match(r"!?\S+-\d+:\S+-\S+$|\S+-\S+-\S+\.\*$", line):
            found.add(split_name(line.strip())[0].lstrip("!"))
    return sorted(found)


def _lists(found: Found) -> None:
    files = [path for pattern in CACHES for path in glob.glob(pattern)]
    if not files:
        raise Refused("no_lists", "dnf has no cached metadata on this host", hint="dnf makecache")
    found.lists_refreshed = max(os.stat(path).st_mtime for path in files)


def _reboot(found: Found, base: list[str], timeout: float) -> None:
    """needs-restarting says it in words; its status 1 is also that of a missing plugin."""
    done = _process.run([*base, "needs-restarting", "-r"], timeout=timeout, check=False)
    said = done.stdout + done.stderr
    if "Reboot is required" in said:
        reasons = [line.strip(" *\t") for line in done.stdout.splitlines() if line.strip().startswith("*")]
        found.reboot, found.reboot_reason = True, f"updated since boot: {', '.join(reasons[:5]) or 'core packages'}"
    elif "Reboot should not be necessary" in said:
        found.reboot, found.reboot_reason = False, "nothing that needs one was updated since boot"
    else:
        kernel_state(found)
