# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Removing a scratch server and everything that its restore made. PRIVATE to the collection.

Only what a scratch restore wrote down as its own is ever removed: the record or the attempt beside the data directory must say
``scratch``.
"""

from __future__ import annotations

import dataclasses
import os
import re
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._backup import restore_state as state
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_files import remove_tree
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._files import exclusive_lock
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import (
    Server,
    ServerOptions,
    find_binaries,
    read_version,
    running_server,
)

_MADE = re.compile(r"\.(?:restore-[0-9a-f]{16}|before-[0-9a-f]{16}|recovery-[0-9a-f]{16}|tablespaces)\Z")
_NOTES = (".restore.log", ".restore.json", ".restored.json")
"""Removed last and in this order: as long as one of the last two is there, it is known whose directory this is."""


@dataclasses.dataclass(frozen=True)
class Scratch:
    """A scratch server's data directory."""

    data_directory: str
    owner: str
    bin_directory: str | None = None
    timeout: float = 60.0

    def __post_init__(self) -> None:
        if not os.path.isabs(self.data_directory) or self.data_directory == "/":
            raise InvalidOption("data_directory", self.data_directory, "not the absolute path of a data directory")

    def plan(self) -> Plan:
        """What ``remove`` would do; raises Refused (``not_scratch``) when the directory is not a scratch restore's."""
        plan = Plan(f"removal of the scratch server on {self.data_directory}")
        trees, notes = self._trees(), self._notes()
        if not trees and not notes:
            return plan
        self._require_scratch()
        if running_server(self.data_directory) is not None:
            plan.steps.append(Step("stop", self.data_directory))
        plan.steps += [Step("remove", path, destructive=True) for path in trees]
        plan.steps += [Step("remove", path) for path in notes]
        return plan

    def remove(self) -> Plan:
        """Stop the server and remove its directories; what was done. Can be repeated after any interruption."""
        plan = self.plan()
        if not plan.steps:
            return plan
        lock = state.lock_path(self.data_directory)
        with exclusive_lock(lock, f"the restore of {self.data_directory}"):
            plan = self.plan()
            self._stop()
            for path in self._trees():
                remove_tree(path)
            for path in self._notes():
                os.unlink(path)
        return plan

    def _trees(self) -> list[str]:
        above, name = os.path.split(self.data_directory)
        try:
            found = os.listdir(above)
        except FileNotFoundError:
            return []
        beside = [entry for entry in found if entry.startswith(f"{name}.") and _MADE.match(entry[len(name) :])]
        own = [name] if name in found else []
        return [os.path.join(above, entry) for entry in [*own, *sorted(beside)]]

    def _notes(self) -> list[str]:
        return [path for path in (f"{self.data_directory}{ending}" for ending in _NOTES) if os.path.lexists(path)]

    def _require_scratch(self) -> None:
        attempt = state.load_attempt(self.data_directory)
        record = state.load_record(self.data_directory)
        requests: list[t.Mapping[str, t.Any]] = [attempt.request] if attempt is not None else []
        requests += [record.get("request", {})] if record is not None else []
        if not requests or not all(request.get("scratch") is True for request in requests):
            raise Refused(
                "not_scratch",
                f"{self.data_directory} was not made by a scratch restore, so it is not removed",
                hint="only what postgres_restore made with scratch=true is removed",
            )

    def _stop(self) -> None:
        if running_server(self.data_directory) is None:
            return
        binaries = find_binaries(read_version(self.data_directory) or 0, self.bin_directory)
        log = f"{self.data_directory}.restore.log"
        Server(self.data_directory, binaries, ServerOptions(owner=self.owner), log).stop(timeout=self.timeout)
