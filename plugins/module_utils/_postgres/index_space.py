# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is there room for the new indexes beside the old ones. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import os
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._plan import human_bytes
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import one
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_plan import BLOAT, DROP, Choice, Left, Task

if t.TYPE_CHECKING:
    import psycopg


@dataclasses.dataclass(frozen=True)
class Space:
    """What is free where a tablespace lies; ``free`` is None when it could not be looked up, and ``problem`` says why."""

    tablespace: str
    location: str | None
    free: int | None
    problem: str = ""
    needed: int = 0

    def as_dict(self) -> dict[str, t.Any]:
        """For a module's result."""
        return dataclasses.asdict(self)


def look(connection: psycopg.Connection[t.Any], tablespace: int) -> Space:
    """Ask the file system, when the server is reached over a Unix socket and so runs on this host."""
    name = str(tablespace)
    try:
        row = one(
            connection,
            "SELECT spcname AS name, coalesce(nullif(pg_tablespace_location(oid), ''), current_setting('data_directory', true))"
            " AS location FROM pg_tablespace WHERE oid = %s::bigint::oid",
            (tablespace,),
        )
    except OpsError as error:
        return Space(name, None, None, error.message)
    name, location = row["name"], row["location"]
    host = connection.info.host or "/"
    if not host.startswith("/"):
        return Space(
            name, location, None, f"the server was reached over the network ({host}), so its disk cannot be seen from here"
        )
    if not location:
        return Space(name, None, None, "the role may not see data_directory: grant it pg_read_all_settings")
    try:
        found = os.statvfs(location)
    except OSError as error:
        return Space(name, location, None, f"{location}: {error.strerror}")
    return Space(name, location, found.f_bavail * found.f_frsize)


def needed_for(sizes: t.Sequence[int], jobs: int) -> int:
    """Twice the largest; with several jobs, the largest once more than all that may be built at the same time."""
    largest = sorted(sizes, reverse=True)[:jobs]
    return sum(largest) + (largest[0] if largest else 0)


def fit(choice: Choice, spaces: t.Mapping[int, Space], *, jobs: int, required: bool) -> list[Space]:
    """Take out of the choice what there is no room for; returns the spaces with what is needed of each.

    Raises Refused when that was asked for by name, and, where ``required``, when the free space is not known.
    """
    results = []
    for tablespace, space in spaces.items():
        while True:
            mine = [task for task in choice.tasks if task.kind != DROP and task.tablespace == tablespace]
            needed = needed_for([task.bytes for task in mine], jobs)
            if space.free is None or needed <= space.free:
                break
            _leave_out(choice, max(mine, key=lambda task: task.bytes), space, needed)
        if space.free is None and mine:
            if required:
                raise Refused("space_unknown", f"tablespace {space.tablespace}: {space.problem}", hint="run on the server's host")
            choice.notes.append(f"free space of tablespace {space.tablespace} is unknown: {space.problem}")
        results.append(dataclasses.replace(space, needed=needed))
    return results


def _leave_out(choice: Choice, task: Task, space: Space, needed: int) -> None:
    words = f"needs {human_bytes(needed)} in {space.location}, which has {human_bytes(space.free or 0)} free"
    if task.reason not in (BLOAT, "invalid"):
        raise Refused(
            "disk_space", f"{task.shown} {words}", hint="make room, or take the index off the list", needed=needed, free=space.free
        )
    choice.tasks.remove(task)
    choice.left.append(Left(task.schema, task.name, task.table, "disk_space", words))
