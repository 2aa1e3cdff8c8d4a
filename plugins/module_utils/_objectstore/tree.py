# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a directory equal to a prefix of a bucket, or the prefix equal to the directory. PRIVATE to the collection.

Planning reads both sides and changes nothing; tree_run.py carries the plan out. Nothing is ever deleted: files that are removed
or replaced are kept in ``<aside>/<digest of the plan>/``, objects below ``<prefix>.aside/<digest>/``. A run that was killed is
resumed by the next, whose plan is the unfinished one's as long as all that is left was part of it.

Memory does not grow with the number of files: both inventories are in a temporary database on disk (inventory.py), and what is in
flight is at most two ranges per job.
"""

from __future__ import annotations

import dataclasses
import grp
import hashlib
import json
import os
import pwd
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, NotFound, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import Store
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.compare import Comparison
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.faults import printable
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.inventory import Inventory, Row, hostile_key, room_below
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.manifest import manifest_key
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.names import hostile, path_text
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.place import Ground, os_errors
from ansible_collections.fileforge.ops.plugins.module_utils._plan import DIGEST_LENGTH, Plan, Step, human_bytes
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress

SHOWN = 200
"""Paths of each kind that a result lists."""
SAME_TIME = 1_000_000
"""Nanoseconds that a modification time may differ: some file systems keep it less exactly."""
SPARE = 64 * 1024 * 1024
"""Bytes that must stay free on the file system."""


ASIDE, AUTO = "aside", "auto"
"""Where objects are kept that a push replaces or removes: in a prefix, or wherever the bucket itself keeps them."""


@dataclasses.dataclass(frozen=True)
class TreeOptions:
    """What to make equal to what. ``owner`` and ``group`` are names or numbers."""

    path: str
    prefix: str = ""
    direction: str = "pull"
    delete: bool | None = None
    max_delete_percent: float = 10
    allow_empty: bool = False
    aside: str | None = None
    jobs: int = 8
    owner: str | None = None
    group: str | None = None
    verify: bool = False
    keep_objects: str = ASIDE

    @property
    def removes(self) -> bool:
        """Whether what is only on the target side is moved aside; by default when pulling."""
        return self.direction == "pull" if self.delete is None else self.delete

    @property
    def folder(self) -> str:
        """The prefix with its slash; empty for the whole bucket."""
        return f"{self.prefix.rstrip('/')}/" if self.prefix else ""

    def check(self) -> None:
        """Raise InvalidOption for what cannot be meant."""
        if self.direction not in ("pull", "push"):
            raise InvalidOption("direction", self.direction, "must be pull or push")
        if self.prefix.startswith("/") or "//" in self.prefix or self.prefix == "/":
            raise InvalidOption("prefix", self.prefix, "keys do not begin with a slash and have no empty components")
        if self.direction == "push" and not self.folder:
            raise InvalidOption("prefix", self.prefix, "pushing needs one: the manifest has its place beside it")
        if not 0 <= self.max_delete_percent <= 100:
            raise InvalidOption("max_delete_percent", self.max_delete_percent, "must be between 0 and 100")
        if self.keep_objects not in (ASIDE, AUTO):
            raise InvalidOption("keep_objects", self.keep_objects, f"must be {ASIDE} or {AUTO}")
        if not 1 <= self.jobs <= 64:
            raise InvalidOption("jobs", self.jobs, "must be between 1 and 64")

    def ids(self) -> tuple[int, int] | None:
        """User and group id for new files, -1 for not to be changed; None when neither is given."""
        if self.owner is None and self.group is None:
            return None
        uid = _identity("owner", self.owner, lambda name: pwd.getpwnam(name).pw_uid)
        gid = _identity("group", self.group, lambda name: grp.getgrnam(name).gr_gid)
        if os.geteuid() != 0 and (uid not in (-1, os.geteuid()) or gid not in (-1, os.getegid(), *os.getgroups())):
            raise Refused("not_privileged", "only root can give files to another owner", hint="run the task with become")
        return uid, gid


def _identity(option: str, name: str | None, look_up: t.Callable[[str], int]) -> int:
    if name is None:
        return -1
    try:
        return int(name) if name.isdigit() else look_up(name)
    except KeyError as error:
        raise InvalidOption(option, name, "is not known on this host") from error


@dataclasses.dataclass
class Outcome:
    """What a run found and did."""

    changed: bool = False
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    bytes: int = 0
    kept: str | None = None
    warnings: list[str] = dataclasses.field(default_factory=list)


class Tree:
    """One tree and one run over it. Use as a context manager; ``make_plan`` decides what there is to do."""

    def __init__(self, store: Store, options: TreeOptions, progress: Progress | None = None) -> None:
        options.check()
        self.store = store
        self.options = options
        self.progress = progress or Progress()
        self.ground = Ground(options.path, options.aside)
        self.inventory = Inventory()
        self.owner = options.ids()
        self.plan = Plan("")
        self.warnings: list[str] = []
        self.pull = options.direction == "pull"
        self.manifest_key = manifest_key(options.folder)
        self.manifest_etag: str | None = None
        self.unfinished: str | None = None
        self.versions = False
        """Whether the bucket keeps what a push replaces or removes as older versions."""

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_error: object) -> None:
        self.inventory.close()

    # -- planning -----------------------------------------------------------------------------------------------------

    def make_plan(self) -> Plan:
        """Look at both sides and decide. Raises Refused when the difference is not one to carry out."""
        self.versions = not self.pull and self.options.keep_objects == AUTO and self.store.keeps_versions()
        with os_errors(self.ground.path):
            self.ground.check()
            self._list()
            self._refuse_empty()
            self._compare()
        if self.pull:
            self._plan_pull()
        else:
            self._plan_push()
        self._refuse_removals()
        self.plan = self._as_plan()
        self._resume()
        if self.pull:
            self._refuse_space()
        return self.plan

    def _list(self) -> None:
        inventory, ground, store, folder = self.inventory, self.ground, self.store, self.options.folder
        exclude = os.fsencode(ground.aside)
        with self.progress.phase("list", unit="objects") as phase:
            inventory.read_listing(store, folder, room_below(ground.root), ground.reserved if self.pull else None, phase.advance)
            inventory.scan(ground.root, exclude, phase.advance)
            self._load_manifest()
            self.unfinished = inventory.read_state(ground.state_file)
        odd = inventory.count("odd")
        if odd:
            shown = ", ".join(printable(path_text(row[0])) for row in inventory.execute("SELECT path FROM odd LIMIT 5"))
            self.warnings.append(f"{odd} symbolic links or special files in {ground.path} are left alone ({shown})")

    def _load_manifest(self) -> None:
        if self.manifest_key is None:
            return
        try:
            self.manifest_etag = self.store.head(self.manifest_key).etag
            problem = self.inventory.load_manifest(self.store, self.manifest_key)
        except NotFound as error:
            if error.state.get("reason") != "key":
                raise
            return
        if problem is not None:
            self.manifest_etag = None
            self.warnings.append(problem)

    def _refuse_empty(self) -> None:
        table, source = ("listed", self._remote_name()) if self.pull else ("local", self.ground.path)
        if self.inventory.count(table) or self.options.allow_empty:
            return
        raise Refused(
            "source_empty",
            f"{source} has no files: nothing was touched",
            hint="check bucket, prefix and path; set allow_empty if it is meant to be empty",
        )

    def _compare(self) -> None:
        options, inventory = self.options, self.inventory
        total = int(inventory.execute("SELECT count(*) FROM local JOIN listed USING (path, size)")[0][0])
        compare = Comparison(
            inventory, self.store, self.ground.root, options.folder, verify=options.verify, workers=min(options.jobs, _cpus())
        )
        with self.progress.phase("compare", total, unit="files") as phase:
            differing = (("replace", pair.path, pair.size, "") for pair in compare.differing(phase.advance))
            inventory.insert("action", list(differing))
            if not self.pull:
                compare.hash_rest(phase.advance)

    def _plan_pull(self) -> None:
        inventory = self.inventory
        self._refuse_links()
        add = "INSERT OR REPLACE INTO action SELECT {}, r.path, r.size, 'get:' || coalesce(r.sha256, r.etag) FROM remote r "
        inventory.execute(add.format("'fetch'") + "LEFT JOIN local l ON l.path = r.path WHERE l.path IS NULL")
        inventory.execute(add.format("'replace'") + "JOIN local l ON l.path = r.path WHERE l.size <> r.size")
        inventory.execute(add.format("'replace'") + "JOIN action a ON a.path = r.path AND a.kind = 'replace'")
        gone = "INSERT OR REPLACE INTO action SELECT {}, l.path, l.size, 'aside:' || l.size FROM local l "
        inventory.execute(gone.format("'clear'") + "JOIN remote_folder f ON f.path = l.path")
        for (folder,) in inventory.execute("SELECT d.path FROM local_folder d JOIN listed r ON r.path = d.path"):
            below = (folder + b"/", folder + b"0")
            inventory.execute(gone.format("'clear'") + "WHERE l.path > ? AND l.path < ?", below)
        if self.options.removes:
            inventory.execute(
                gone.format("'aside'") + "LEFT JOIN listed r ON r.path = l.path LEFT JOIN action a ON a.path = l.path "
                "WHERE r.path IS NULL AND a.path IS NULL"
            )
        self._plan_facts()

    def _plan_facts(self) -> None:
        uid, gid = self.owner or (-1, -1)
        self.inventory.execute(
            "INSERT INTO action SELECT 'set', l.path, 0, 'set:' || coalesce(r.mode, '') || ':' || coalesce(r.mtime, '') || ? "
            "FROM local l JOIN remote r ON r.path = l.path LEFT JOIN action a ON a.path = l.path WHERE a.path IS NULL AND ("
            "(r.mode IS NOT NULL AND r.mode <> (l.mode & 511)) OR (r.mtime IS NOT NULL AND abs(r.mtime - l.mtime) > ?) "
            "OR (? >= 0 AND ? <> l.uid) OR (? >= 0 AND ? <> l.gid))",
            [f":{uid}:{gid}", SAME_TIME, uid, uid, gid, gid],
        )

    def _refuse_links(self) -> None:
        """Refuse when a symbolic link or special file is where a file or directory belongs."""
        inventory = self.inventory
        in_way = "SELECT path, kind FROM odd WHERE path IN (SELECT path FROM listed UNION SELECT path FROM remote_folder)"
        found = inventory.execute(in_way + " ORDER BY path LIMIT 1")
        for (folder,) in inventory.execute("SELECT d.path FROM local_folder d JOIN listed r ON r.path = d.path"):
            below = (folder + b"/", folder + b"0")
            found += inventory.execute("SELECT path, kind FROM odd WHERE path > ? AND path < ? LIMIT 1", below)
        for path, kind in found:
            raise Refused(
                "link_in_way",
                f"{self.ground.path}: {printable(path_text(path))} is a {kind} where a file of the bucket belongs",
                hint="move it away, then run again; links are never followed or replaced",
            )

    def _plan_push(self) -> None:
        inventory = self.inventory
        self._refuse_names()
        known = "(SELECT sha256 FROM hashed h WHERE h.path = l.path UNION ALL SELECT sha256 FROM cached c WHERE c.path = l.path)"
        add = f"INSERT OR REPLACE INTO action SELECT {{}}, l.path, l.size, 'put:' || {known} FROM local l "  # noqa: S608
        inventory.execute(add.format("'upload'") + "LEFT JOIN listed r ON r.path = l.path WHERE r.path IS NULL")
        inventory.execute(add.format("'replace'") + "JOIN listed r ON r.path = l.path WHERE l.size <> r.size")
        inventory.execute(add.format("'replace'") + "JOIN action a ON a.path = l.path AND a.kind = 'replace'")
        if self.options.removes:
            gone = "INSERT OR REPLACE INTO action SELECT {}, r.path, r.size, 'aside:' || r.etag FROM listed r "
            inventory.execute(gone.format("'clear'") + "JOIN local_folder d ON d.path = r.path")
            for (file,) in inventory.execute("SELECT path FROM local JOIN remote_folder USING (path)"):
                inventory.execute(gone.format("'clear'") + "WHERE r.path > ? AND r.path < ?", (file + b"/", file + b"0"))
            inventory.execute(
                gone.format("'aside'") + "LEFT JOIN local l ON l.path = r.path LEFT JOIN action a ON a.path = r.path "
                "WHERE l.path IS NULL AND a.path IS NULL"
            )
        if self.manifest_key is not None and self._manifest_stale():
            inventory.insert("action", [("manifest", b"", inventory.count("local"), "manifest")])

    def _refuse_names(self) -> None:
        for (path,) in self.inventory.rows("SELECT path FROM local WHERE true"):
            reason = hostile(path)
            if reason is not None:
                raise Refused(
                    "hostile_name",
                    f"{self.ground.path}: the file name {printable(path_text(path))!r} cannot become an object key: {reason}",
                    hint="nothing was touched; rename the file, then run again",
                )
        for (path,) in self.inventory.execute("SELECT path FROM local JOIN remote_folder USING (path) ORDER BY path LIMIT 1"):
            if not self.options.removes:
                raise hostile_key(self.options.folder + path_text(path), "the bucket has keys below it, as if it were a directory")
        if not self.options.removes:
            for (path,) in self.inventory.execute("SELECT path FROM listed JOIN local_folder USING (path) ORDER BY path LIMIT 1"):
                raise hostile_key(self.options.folder + path_text(path), "it is a directory here")

    def _manifest_stale(self) -> bool:
        if self.manifest_etag is None or self.inventory.execute("SELECT 1 FROM action LIMIT 1") or self.inventory.asked:
            return True
        differs = (
            "SELECT 1 FROM local l LEFT JOIN remote r ON r.path = l.path WHERE r.sha256 IS NULL "
            "OR r.mode IS NULL OR r.mode <> (l.mode & 511) OR r.mtime IS NULL OR abs(r.mtime - l.mtime) > ? LIMIT 1"
        )
        left_over = "SELECT 1 FROM described d LEFT JOIN listed r ON r.path = d.path WHERE r.path IS NULL LIMIT 1"
        return bool(self.inventory.execute(differs, [SAME_TIME]) or self.inventory.execute(left_over))

    def _refuse_removals(self) -> None:
        table = "local" if self.pull else "listed"
        existing = self.inventory.count(table)
        removed = int(self.inventory.execute("SELECT count(*) FROM action WHERE kind IN ('aside', 'clear')")[0][0])
        limit = self.options.max_delete_percent
        if removed * 100 <= existing * limit:
            return
        target = self.ground.path if self.pull else self._remote_name()
        raise Refused(
            "too_many_removals",
            f"{removed} of {existing} files in {target} would be moved aside ({100 * removed / existing:.1f} %), "
            f"more than max_delete_percent={limit:g}: nothing was touched",
            hint="check that this is the right source; raise max_delete_percent if it is",
            removals=removed,
            existing=existing,
            examples=self.paths("aside")[:10] or self.paths("clear")[:10],
        )

    def _refuse_space(self) -> None:
        needed, count = self.inventory.execute(
            "SELECT coalesce(sum(size), 0), count(*) FROM action WHERE kind IN ('fetch', 'replace')"
        )[0]
        with os_errors(self.ground.path):
            free, inodes = self.ground.free()
        if (needed and needed + SPARE > free) or 0 <= inodes < count:
            raise Refused(
                "disk_space",
                f"{self.ground.path}: {human_bytes(needed)} in {count} files are needed, "
                f"{human_bytes(free)} are free{f' and {inodes} inodes' if inodes >= 0 else ''}: nothing was touched",
                hint="free some space (older directories aside, perhaps), then run again",
                needed=needed,
                free=free,
            )

    # -- the plan as data ---------------------------------------------------------------------------------------------

    def _remote_name(self) -> str:
        return f"s3://{self.store.bucket}/{printable(self.options.folder)} at {self.store.options.where}"

    def _as_plan(self) -> Plan:
        source, target = (self._remote_name(), self.ground.path) if self.pull else (self.ground.path, self._remote_name())
        plan = Plan(f"make {target} equal to {source}")
        if self.pull and not self.ground.exists:
            plan.steps.append(Step("create", self.ground.path))
        for kind, action, destructive in _KINDS:
            step = self._step(kind, action, target, destructive)
            if step is not None:
                plan.steps.append(step)
        return plan

    def _step(self, kind: str, action: str, target: str, destructive: bool) -> Step | None:
        found = hashlib.sha256()
        count = size = 0
        for path, length, total in self.actions(kind):
            found.update(b"%d %d %s %s\n" % (len(path), length, path, total.encode()))
            count, size = count + 1, size + length
        if not count:
            return None
        if kind == "manifest":
            return Step(action, self.manifest_key or "", count=size)
        detail = f"sha256 of the list {found.hexdigest()[:DIGEST_LENGTH]}"
        if self.versions and destructive:
            action = "delete" if action == "move_aside" else action
            detail += ", kept as older versions"
        return Step(action, target, count, None if kind == "set" else size, destructive, detail)

    def actions(self, kind: str, *, below: int | None = None, least: int = 0) -> t.Iterator[Row]:
        """Planned actions of a kind: path, size and checksum; only files of ``least`` bytes and more, but ``below`` that."""
        sql = "SELECT path, size, sum FROM action WHERE kind = ? AND size >= ?"
        if below is None:
            return self.inventory.rows(sql, [kind, least])
        return self.inventory.rows(sql + " AND size < ?", [kind, least, below])

    def paths(self, kind: str) -> list[str]:
        """The first paths that an action of this kind is planned for."""
        rows = self.inventory.execute("SELECT path FROM action WHERE kind = ? ORDER BY path LIMIT ?", [kind, SHOWN])
        return [printable(path_text(row[0])) for row in rows]

    def changes(self) -> dict[str, list[str]]:
        """The first paths of each kind that has any."""
        return {action: self.paths(kind) for kind, action, _destructive in _KINDS if kind != "manifest" and self.paths(kind)}

    def _resume(self) -> None:
        """Take over the plan of a run that did not end, if all that is left was part of it: what was confirmed stays confirmed."""
        if self.unfinished is None or not self.plan.steps:
            return
        try:
            earlier = json.loads(self.unfinished)
            plan = Plan(earlier["title"], [Step(**step) for step in earlier["steps"]])
        except (ValueError, TypeError, KeyError):
            return
        if plan.title != self.plan.title or not self.inventory.continues():
            return
        left = int(self.inventory.execute("SELECT count(*) FROM action")[0][0])
        done = int(self.inventory.execute("SELECT count(*) FROM earlier")[0][0]) - left
        plan.notes.append(f"goes on with a run that did not end: {done} of {done + left} files are done")
        self.plan = plan

    def as_diff(self) -> dict[str, str]:
        """The plan for diff mode, with the first paths of each kind."""
        diff = self.plan.as_diff()
        for action, paths in self.changes().items():
            diff["after"] += "".join(f"    {action} {path}\n" for path in paths)
        return diff


_KINDS = (
    ("clear", "move_aside", True),
    ("fetch", "fetch", False),
    ("upload", "upload", False),
    ("replace", "replace", True),
    ("aside", "move_aside", True),
    ("set", "set", False),
    ("manifest", "write", False),
)
"""Kinds of actions as the inventory has them, the verb in the plan, and whether something is replaced or removed."""


def _cpus() -> int:
    return len(os.sched_getaffinity(0))
