# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which indexes are rebuilt, replaced, created or dropped, which are left, and why. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step, human_bytes
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.bloat import Bloat
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_inventory import (
    NEW,
    SYSTEM_SCHEMAS,
    Index,
    Inventory,
    Leftover,
    definition_digest,
    looks_like_leftover,
    shown,
    with_unique,
)

DROP, REBUILD, REPLACE, CREATE = "drop", "rebuild", "replace", "create"
BLOAT = "bloat"
OLDEST = 120000
PARALLEL = 140000
"""From here on, a concurrent build does not wait for another one of an index without expressions and predicate."""
DEFECTIVE = range(140000, 140004)
"""Concurrent builds of these versions could lose rows from the index."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """An index that the user names."""

    name: str
    schema: str = "public"
    table: str | None = None
    definition: str | None = None
    unique: bool = False
    force: bool = False

    @property
    def shown(self) -> str:
        """``schema.name`` for people."""
        return shown(self.schema, self.name)


@dataclasses.dataclass(frozen=True)
class RebuildOptions:
    """What the user asks for."""

    indexes: tuple[Wanted, ...] = ()
    only: bool = False
    schemas: tuple[str, ...] = ()
    bloat: str = "estimate"
    bloat_percent: float = 30
    bloat_min_bytes: int = 10 * 2**20
    jobs: int = 1
    window: int | None = None
    lock_timeout: float = 5
    attempts: int = 5
    require_space: bool = False
    maintenance_work_mem: str | None = None
    verify: bool = True
    heapallindexed: bool = True
    create_extension: bool = False

    def check(self) -> None:
        """Raise InvalidOption for what cannot be meant."""
        limits: list[tuple[str, float, float, float]] = [
            ("bloat_percent", self.bloat_percent, 1, 100),
            ("bloat_min_bytes", self.bloat_min_bytes, 0, 2**62),
            ("jobs", self.jobs, 1, 64),
            ("lock_timeout", self.lock_timeout, 0.1, 3600),
            ("attempts", self.attempts, 1, 1000),
            ("window", 1 if self.window is None else self.window, 1, 7 * 24 * 3600),
        ]
        for option, value, least, most in limits:
            if not least <= value <= most:
                raise InvalidOption(option, value, "out of range", hint=f"give a number from {least:g} to {most:g}")
        if self.only and not self.indexes:
            raise InvalidOption("only", True, "no index is named", hint="name some in indexes, or leave only out")
        seen: set[tuple[str, str]] = set()
        for wanted in self.indexes:
            _check_wanted(wanted)
            if (wanted.schema, wanted.name) in seen:
                raise InvalidOption("indexes", wanted.shown, "named twice", hint="name each index once")
            seen.add((wanted.schema, wanted.name))
        for schema in self.schemas:
            if schema in SYSTEM_SCHEMAS:
                raise InvalidOption("schemas", schema, "belongs to the system", hint="name a schema of your own")


def _check_wanted(wanted: Wanted) -> None:
    if not wanted.name or "\0" in wanted.name + wanted.schema or len(wanted.name.encode()) > 63:
        raise InvalidOption("indexes", wanted.name, "not a name of an index", hint="a name has from 1 to 63 bytes")
    if wanted.schema in ("pg_catalog", "information_schema"):
        hint = "REINDEX SYSTEM in single-user mode, or REINDEX INDEX when nobody works"
        raise InvalidOption("indexes", wanted.shown, "the server cannot rebuild indexes of system catalogs concurrently", hint=hint)
    if wanted.definition is None and (wanted.table is not None or wanted.unique):
        raise InvalidOption("indexes", wanted.shown, "has table or unique, but no definition", hint="add definition")
    if wanted.definition is not None and not (wanted.table and wanted.definition.strip()):
        hint = "give the table, and what follows its name in CREATE INDEX, for example (updated_at)"
        raise InvalidOption("indexes", wanted.shown, "a definition needs a table and must not be empty", hint=hint)


@dataclasses.dataclass(frozen=True)
class Target:
    """A wanted definition, with what the server knows of its table."""

    wanted: Wanted
    table_oid: int
    table_kind: str
    """``r``, ``m`` or ``p``."""
    table_bytes: int
    tablespace: int
    is_ours: bool
    name_taken: bool
    """Whether something else than an index has the index's name."""
    definition: str
    """As the server writes it."""
    unsafe: bool

    @property
    def digest(self) -> str:
        """See ``Index.digest``."""
        return definition_digest(self.definition, self.wanted.unique)

    @property
    def shown_definition(self) -> str:
        """See ``Index.shown_definition``."""
        return with_unique(self.definition, self.wanted.unique)


@dataclasses.dataclass(frozen=True)
class Task:
    """One thing to do, which succeeds or fails by itself."""

    kind: str
    schema: str
    name: str
    table: str
    table_oid: int
    reason: str
    bytes: int = 0
    weight: int = 0
    """What its duration is expected to be proportional to."""
    tablespace: int = 0
    alone: bool = False
    """Whether no other build may run beside it: they would wait for one another."""
    index: Index | None = None
    target: Target | None = None
    detail: str = ""
    bloat: Bloat | None = None

    @property
    def shown(self) -> str:
        """``schema.name`` for people."""
        return shown(self.schema, self.name)

    @property
    def urgency(self) -> tuple[t.Any, ...]:
        """What is broken or asked for comes before what is only large, smaller before larger."""
        return (self.reason == BLOAT, self.bytes, self.schema, self.name)


@dataclasses.dataclass(frozen=True)
class Left:
    """An index that needs something and does not get it now."""

    schema: str
    name: str
    table: str
    reason: str
    detail: str

    def as_dict(self) -> dict[str, str]:
        """For a module's result."""
        return dataclasses.asdict(self)


@dataclasses.dataclass
class Choice:
    """What is to be done, what is left, and what is worth saying."""

    tasks: list[Task] = dataclasses.field(default_factory=list)
    left: list[Left] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def leave(self, index: Index, reason: str, detail: str) -> None:
        """Note an index that is left."""
        self.left.append(Left(index.schema, index.name, index.table, reason, detail))


def require_version(version: int) -> None:
    """Raise Refused for servers that cannot do it, or not without damage."""
    if version < OLDEST:
        raise Refused(
            "version", f"the server's version is {version}: REINDEX CONCURRENTLY came with PostgreSQL 12", hint="upgrade the server"
        )
    if version in DEFECTIVE:
        raise Refused(
            "server_defect",
            f"PostgreSQL 14.{version - 140000} can leave rows out of an index that is built concurrently",
            hint="install the newest minor version of PostgreSQL 14 first",
        )


class Chooser:
    """Decides for each index."""

    def __init__(
        self,
        inventory: Inventory,
        options: RebuildOptions,
        targets: t.Sequence[Target],
        bloats: t.Mapping[int, Bloat],
        version: int,
    ) -> None:
        self._inventory = inventory
        self._options = options
        self._targets = {(target.wanted.schema, target.wanted.name): target for target in targets}
        self._bloats = bloats
        self._version = version
        self._done: set[int] = set()
        self._choice = Choice()

    def choose(self) -> Choice:
        """The choice. Raises Refused when what the user named cannot be done."""
        for leftover in self._inventory.leftovers():
            self._done.add(leftover.index.oid)
            self._clean(leftover)
        for wanted in self._options.indexes:
            self._named(wanted)
        if not self._options.only:
            for index in self._inventory.indexes:
                if index.oid not in self._done and in_scope(index, self._options.schemas):
                    self._look(index)
        self._choice.tasks.sort(key=lambda task: (task.kind != DROP, task.urgency))
        return self._choice

    def _clean(self, leftover: Leftover) -> None:
        index = leftover.index
        target = self._targets.get((index.schema, leftover.of))
        original = self._inventory.find(index.schema, leftover.of)
        standing = original is not None and original.is_valid and original.table_oid == index.table_oid
        adopted = target is not None and target.digest == index.digest and target.table_oid == index.table_oid
        worker = self._inventory.worker_on(index)
        served = standing and original is not None and original.digest == index.digest
        if leftover.kind == NEW and index.is_valid and adopted and not served:
            return  # the replacement goes on with it
        if worker is not None:
            self._choice.leave(index, "in_progress", f"process {worker} works on the table")
        elif not index.is_ours:
            self._choice.leave(index, "not_owner", "the role does not own the table")
        elif index.is_valid and not standing:
            detail = f"left by a replacement of {shown(index.schema, leftover.of)}, which is not there or not valid"
            self._choice.leave(index, "only_index", detail)
        else:
            detail = f"left by an interrupted rebuild of {shown(index.schema, leftover.of)}"
            self._choice.tasks.append(self._task(DROP, index, "leftover", detail=detail))

    def _named(self, wanted: Wanted) -> None:
        index = self._inventory.find(wanted.schema, wanted.name)
        target = self._targets.get((wanted.schema, wanted.name))
        if index is not None and index.oid in self._done:
            return
        if target is not None and (index is None or index.digest != target.digest or index.table_oid != target.table_oid):
            self._require_replaceable(target, index)
            self._replace(target, index)
        elif index is None:
            raise Refused(
                "no_such_index",
                f"there is no index {wanted.shown}, and no definition is given to create it",
                hint="check schema and name, or give table and definition",
            )
        elif index.kind == "I":
            self._partitioned(index, wanted.force)
        else:
            self._look(index, force=wanted.force, named=True)
        if index is not None:
            self._done.add(index.oid)

    def _partitioned(self, index: Index, force: bool) -> None:
        """The index of a partitioned table has no storage of its own: its partitions' indexes are what is rebuilt."""
        self._invalid_parent(index)
        for leaf in self._inventory.leaves(index):
            if leaf.oid not in self._done:
                self._done.add(leaf.oid)
                self._look(leaf, force=force, named=True)

    def _invalid_parent(self, index: Index) -> None:
        if not index.is_valid:
            detail = "not all partitions have their index attached: create the missing ones concurrently, then ALTER INDEX ATTACH"
            self._choice.leave(index, "partition_missing", detail)

    def _look(self, index: Index, *, force: bool = False, named: bool = False) -> None:
        """Rebuild an index that is there with the right definition, if it needs it."""
        if index.kind == "I":
            self._invalid_parent(index)
            return
        reason, detail = ("force", "") if force else self._need(index)
        if not reason:
            return
        obstacle, words = self._obstacle(index, forced=force)
        if not obstacle:
            self._choice.tasks.append(self._task(REBUILD, index, reason, detail=detail))
        elif named and force:
            raise Refused(obstacle, f"index {index.shown} cannot be rebuilt: {words}", hint="take it off the list")
        else:
            self._choice.leave(index, obstacle, words)

    def _need(self, index: Index) -> tuple[str, str]:
        if not index.is_valid:
            return "invalid", ""
        found = self._bloats.get(index.oid)
        if found is None or found.ratio is None or found.bloat_bytes is None:
            return "", ""
        if found.ratio * 100 < self._options.bloat_percent or found.bloat_bytes < self._options.bloat_min_bytes:
            return "", ""
        return BLOAT, f"{found.ratio * 100:.0f}% of {human_bytes(found.size_bytes)} ({found.source})"

    def _obstacle(self, index: Index, *, forced: bool) -> tuple[str, str]:
        """Why the index cannot, or should not, be rebuilt; two empty strings when it can."""
        if index.is_exclusion:
            return "exclusion_constraint", "the server cannot rebuild the index of an exclusion constraint concurrently"
        if not index.is_ours:
            return "not_owner", "the role does not own the table"
        if index.is_valid or forced:
            return "", ""
        worker = self._inventory.worker_on(index)
        if worker is not None:
            return "in_progress", f"process {worker} works on the table and may be building it"
        twin = self._inventory.twin(index)
        if twin is not None and self._inventory.leftover(twin) is None:
            return "duplicate", f"invalid, and {twin.shown} is the same: drop it, or name it with force"
        if looks_like_leftover(index.name):
            words = "named as if REINDEX CONCURRENTLY had left it, but its original is not there: drop it, or name it with force"
            return "unknown_leftover", words
        return "", ""

    def _require_replaceable(self, target: Target, index: Index | None) -> None:
        """Raise Refused with the reason when the definition cannot be given to an index of that name."""
        where = shown(target.wanted.schema, target.wanted.table or "")
        obstacles = [
            ("name_taken", target.name_taken, "something else than an index has this name"),
            ("not_owner", not target.is_ours, f"the role does not own {where}"),
            (
                "partitioned_table",
                target.table_kind == "p",
                f"{where} is partitioned: create the index on each partition, then ATTACH",
            ),
        ]
        if index is not None:
            kept = ", ".join(index.constraints)
            obstacles += [
                ("other_table", index.table_oid != target.table_oid, f"an index of this name is on {index.table}"),
                ("constraint", bool(index.constraints), f"it belongs to a constraint ({kept}), whose definition it has"),
                ("replica_identity", index.is_replica_identity, "it is the table's replica identity"),
                ("clustered", index.is_clustered, "the table is clustered on it: ALTER TABLE SET WITHOUT CLUSTER first"),
                ("partition", index.is_partition, "it is a part of the index of a partitioned table"),
            ]
        for reason, holds, words in obstacles:
            if holds:
                raise Refused(
                    reason,
                    f"index {target.wanted.shown} cannot be given the definition {target.definition}: {words}",
                    hint="take the definition off the list, or change the table first",
                )

    def _replace(self, target: Target, index: Index | None) -> None:
        wanted = target.wanted
        size = index.bytes if index else 0
        self._choice.tasks.append(
            Task(
                REPLACE if index else CREATE,
                wanted.schema,
                wanted.name,
                str(wanted.table),
                target.table_oid,
                "definition" if index else "missing",
                bytes=size or target.table_bytes,
                weight=target.table_bytes + size,
                tablespace=target.tablespace,
                alone=True,
                index=index,
                target=target,
                detail=f"{index.shown_definition} becomes {target.shown_definition}" if index else target.shown_definition,
            )
        )

    def _task(self, kind: str, index: Index, reason: str, *, detail: str = "") -> Task:
        return Task(
            kind,
            index.schema,
            index.name,
            index.table,
            index.table_oid,
            reason,
            bytes=index.bytes,
            weight=index.bytes + index.table_bytes,
            tablespace=index.tablespace,
            alone=kind != DROP and (not index.safe or self._version < PARALLEL),
            index=index,
            detail=detail,
            bloat=self._bloats.get(index.oid),
        )


def in_scope(index: Index, schemas: t.Sequence[str]) -> bool:
    """Whether an index that nobody named is looked at."""
    return index.schema in schemas if schemas else index.schema not in SYSTEM_SCHEMAS


def plan_of(title: str, choice: Choice) -> Plan:
    """The plan, ordered by name: the order of the work depends on sizes, which change by themselves."""
    plan = Plan(title)
    for task in sorted(choice.tasks, key=lambda task: (task.kind != DROP, task.schema, task.name)):
        stable = task.detail if task.kind in (DROP, REPLACE, CREATE) else task.reason
        plan.steps.append(Step(task.kind, task.shown, detail=stable, destructive=task.kind == REPLACE))
        if task.reason == BLOAT:
            plan.notes.append(f"{task.shown}: bloat {task.detail}")
    plan.notes += choice.notes
    plan.notes += [f"{shown(left.schema, left.name)} is left ({left.reason}): {left.detail}" for left in choice.left]
    return plan
