# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run every Molecule scenario on hosts made for it, or on those of the inventory MOLECULE_HOSTS; exit with Molecule's status."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.molecule import hosts

LIMIT = 1800
"""Seconds for all scenarios; more means that a host hangs."""


def main() -> int:
    own = os.environ.get("MOLECULE_HOSTS")
    environment = {
        **os.environ,
        "MOLECULE_HOSTS": own or str(hosts.INVENTORY),
        "ANSIBLE_COLLECTIONS_PATH": str(hosts.ROOT / "collections"),
        "ANSIBLE_HOME": str(hosts.ROOT / ".cache" / "molecule" / "ansible"),  # a home of its own: no other copy can be found first
    }
    molecule = ["molecule", "test", "--all", "--report", *sys.argv[1:]]
    if own:
        return subprocess.run(molecule, cwd=hosts.ROOT, env=environment, check=False).returncode
    if os.geteuid() != 0:
        print("molecule: not run: making hosts needs root; or give MOLECULE_HOSTS an inventory of your own hosts")
        return 0
    try:
        hosts.up()
        return subprocess.run(hosts.inside(*molecule), cwd=hosts.ROOT, env=environment, check=False, timeout=LIMIT).returncode
    except subprocess.TimeoutExpired:
        print(f"molecule: not done within {LIMIT} s")
        return 1
    finally:
        hosts.down()


if __name__ == "__main__":
    sys.exit(main())
