# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects, their revisions and the history that watches read; kept in SQLite so that SIGKILL loses nothing.

Objects in the store are never changed in place: whoever wants another state copies, changes and calls ``update``.
"""

from __future__ import annotations

import asyncio
import collections
import copy
import dataclasses
import json
import sqlite3
import uuid
from pathlib import Path

from . import errors, managed, resources
from .objects import Object, key_of, now_text
from .resources import Resource

HISTORY = 5000
"""Changes that a watch can start from."""
LINGERING = frozenset((resources.PODS, resources.NAMESPACES))
"""Kinds that somebody else removes in the end: the node its pods, the garbage collector an empty namespace."""


@dataclasses.dataclass(frozen=True)
class Change:
    """One step of the history: ``type`` is ADDED, MODIFIED or DELETED."""

    revision: int
    resource: Resource
    type: str
    object: Object
    previous: Object | None


class Store:
    """All objects of the cluster."""

    def __init__(self, path: Path) -> None:
        self._objects: dict[Resource, dict[tuple[str, str], Object]] = {resource: {} for resource in resources.ALL}
        self._history: collections.deque[Change] = collections.deque(maxlen=HISTORY)
        self._changed = asyncio.Event()
        self._database = sqlite3.connect(path, isolation_level=None)
        path.chmod(0o600)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=OFF")  # survives the process, which is what is promised; not the machine
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS objects (version TEXT, kind TEXT, namespace TEXT, name TEXT, revision INTEGER, body TEXT,"
            " PRIMARY KEY (version, kind, namespace, name))"
        )
        self._database.execute("CREATE TABLE IF NOT EXISTS revision (value INTEGER)")
        self.revision = self._load()
        self._forgotten = self.revision

    def close(self) -> None:
        self._database.close()

    def _load(self) -> int:
        for version, kind, body in self._database.execute("SELECT version, kind, body FROM objects"):
            obj = json.loads(body)
            self._objects[resources.BY_KIND[version, kind]][key_of(obj)] = obj
        row = self._database.execute("SELECT value FROM revision").fetchone()
        if row is None:
            self._database.execute("INSERT INTO revision VALUES (100)")
            return 100
        return int(row[0])

    # reading

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        found = self.find(resource, namespace, name)
        if found is None:
            raise errors.not_found(resource.qualified, name)
        return found

    def find(self, resource: Resource, namespace: str, name: str) -> Object | None:
        return self._objects[resource].get((namespace if resource.namespaced else "", name))

    def list(self, resource: Resource, namespace: str = "") -> list[Object]:
        """Objects in order of namespace and name; all namespaces without one."""
        items = self._objects[resource]
        return [items[key] for key in sorted(items) if not namespace or key[0] == namespace]

    def latest(self, resource: Resource, obj: Object) -> Object | None:
        """The present state of an object seen before; None when it (with this uid) is gone."""
        found = self._objects[resource].get(key_of(obj))
        return found if found is not None and found["metadata"]["uid"] == obj["metadata"]["uid"] else None

    # writing

    def create(self, resource: Resource, obj: Object) -> Object:
        """Add an object; gives it uid, creationTimestamp and generation."""
        obj = copy.deepcopy(obj)
        metadata = obj["metadata"]
        if key_of(obj) in self._objects[resource]:
            raise errors.already_exists(resource.qualified, metadata["name"])
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = now_text()
        if resource.generation:
            metadata["generation"] = 1
        return self._write(resource, "ADDED", obj, None)

    def update(self, resource: Resource, obj: Object, *, spec_changes: bool = True) -> Object:
        """Replace an object, whatever its revision; nothing happens when it is the same. Counts the generation when asked to."""
        current = self.get(resource, *key_of(obj))
        obj = copy.deepcopy(obj)
        obj["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"]
        if resource.generation and spec_changes:
            same = obj.get("spec") == current.get("spec")
            obj["metadata"]["generation"] = current["metadata"]["generation"] + (not same)
        if obj == current:
            return current
        leaving = "deletionTimestamp" in obj["metadata"] and not obj["metadata"].get("finalizers")
        if leaving and resource not in LINGERING:
            return self.delete(resource, obj)
        return self._write(resource, "MODIFIED", obj, current)

    def set_status(self, resource: Resource, obj: Object, status: Object) -> Object | None:
        """Replace the status of an object if it still exists."""
        current = self.latest(resource, obj)
        if current is None:
            return None
        if current.get("status") == status:
            return current
        manager = "kubelet" if resource is resources.PODS else "kube-controller-manager"
        noted = managed.note({**current, "status": status}, manager, "Update", resource.group_version, "status")
        return self.update(resource, noted, spec_changes=False)

    def delete(self, resource: Resource, obj: Object) -> Object:
        """Remove an object at once."""
        current = self.get(resource, *key_of(obj))
        return self._write(resource, "DELETED", copy.deepcopy(current), current)

    def _write(self, resource: Resource, kind: str, obj: Object, previous: Object | None) -> Object:
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        namespace, name = key_of(obj)
        identity = (resource.group_version, resource.kind, namespace, name)
        self._database.execute("BEGIN")
        if kind == "DELETED":
            del self._objects[resource][namespace, name]
            self._database.execute("DELETE FROM objects WHERE version=? AND kind=? AND namespace=? AND name=?", identity)
        else:
            self._objects[resource][namespace, name] = obj
            body = json.dumps(obj)
            self._database.execute("INSERT OR REPLACE INTO objects VALUES (?,?,?,?,?,?)", (*identity, self.revision, body))
        self._database.execute("UPDATE revision SET value=?", (self.revision,))
        self._database.execute("COMMIT")
        if len(self._history) == HISTORY:
            self._forgotten = self._history[0].revision
        self._history.append(Change(self.revision, resource, kind, obj, previous))
        self._changed.set()
        self._changed = asyncio.Event()
        return obj

    # watching

    def changes_since(self, revision: int) -> list[Change]:
        """What happened after a revision; raises Expired when that is no longer known."""
        if revision < self._forgotten:
            raise errors.expired(self._forgotten, revision)
        found: list[Change] = []
        for change in reversed(self._history):
            if change.revision <= revision:
                break
            found.append(change)
        return found[::-1]

    async def wait_for_change(self, since: int, timeout: float) -> None:
        """Return when there is a newer revision, or after the timeout."""
        if self.revision > since:
            return
        try:
            await asyncio.wait_for(self._changed.wait(), timeout)
        except asyncio.TimeoutError:
            return
