# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""python -m tests.lab up|status|down|clean: the lab from the command line (make lab-up, lab-status, lab-down)."""

from __future__ import annotations

import argparse
import sys

from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError

from tests.lab.lab import Lab
from tests.lab.parts import Destroyed
from tests.lab.place import PlaceError


def main() -> int:
    """Run one command; 0 = done, 1 = failed, 3 = not (all) healthy."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab", description="A whole FileForge on loopback; LAB_DIR chooses another state directory."
    )
    parser.add_argument("command", choices=["up", "status", "down", "clean", "facts"])
    command = parser.parse_args().command
    try:
        lab = Lab()
        if command == "up":
            lab.up()
        elif command == "status":
            return 0 if lab.status() else 3
        elif command == "facts":
            print(lab.layout.facts)
        elif command == "down":
            lab.down()
        else:
            lab.clean()
    except Destroyed as error:
        print(f"\n{error}", file=sys.stderr)
        return 3
    except (PlaceError, OpsError, RuntimeError, TimeoutError, OSError) as error:
        print(f"the lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
