# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which package manager this host is made with, and what it says about fixes. PRIVATE to the collection."""

from __future__ import annotations

import os
import shutil

from ansible_collections.fileforge.ops.plugins.module_utils._host import updates_apt, updates_dnf
from ansible_collections.fileforge.ops.plugins.module_utils._host.updates import Found

DPKG_STATUS = "/var/lib/dpkg/status"
LOOKS = {"apt": updates_apt.look, "dnf": updates_dnf.look}
PROGRAMS = {"apt": "apt-get", "dnf": "dnf"}


def chosen(manager: str) -> str:
    """The manager to ask; empty when there is none. Debian's packages decide where both programs are installed."""
    if manager != "auto":
        return manager if shutil.which(PROGRAMS[manager]) else ""
    if shutil.which("apt-get") and os.path.exists(DPKG_STATUS) and os.path.getsize(DPKG_STATUS):
        return "apt"
    return "dnf" if shutil.which("dnf") else ""


def look(manager: str, timeout: float) -> Found:
    """What it says; without one, everything is unknown."""
    name = chosen(manager)
    if name:
        return LOOKS[name](timeout)
    missing = "neither apt-get nor dnf is" if manager == "auto" else f"{PROGRAMS[manager]} is not"
    return Found(problems=dict.fromkeys(("security", "lists", "reboot", "held"), f"{missing} installed on this host"))
