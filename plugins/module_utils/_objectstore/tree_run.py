# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole run over a tree: lock, plan, check what was confirmed, apply. PRIVATE to the collection."""

from __future__ import annotations

import contextlib
import json
import os
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._files import make_directory
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import Store
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.place import PRIVATE_FOLDER, os_errors
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.tree import Tree, TreeOptions
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.tree_pull import Pull
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.tree_push import Push
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress


def run_tree(
    store: Store,
    options: TreeOptions,
    *,
    check_mode: bool = False,
    plan_digest: str | None = None,
    progress: Progress | None = None,
) -> dict[str, t.Any]:
    """Make one side equal to the other; the keys of the module's result. In check mode nothing is written anywhere."""
    progress = progress or Progress()
    with Tree(store, options, progress) as tree, contextlib.ExitStack() as locks:
        if not check_mode and tree.ground.exists:
            with os_errors(tree.ground.path):
                tree.ground.check()
                locks.enter_context(tree.ground.locked())
        plan = tree.make_plan()
        plan.require(plan_digest)
        result: dict[str, t.Any] = {
            "changed": bool(plan.steps),
            "plan": plan.as_dict(),
            "changes": tree.changes(),
            "diff": tree.as_diff(),
            "kept": None,
        }
        warnings = list(tree.warnings)
        if not check_mode:
            with os_errors(tree.ground.path):
                result["kept"], said = _apply(tree, locks)
            warnings += [said] if said else []
        result["warnings"] = warnings
        result["timings"] = progress.timings
        return result


def _apply(tree: Tree, locks: contextlib.ExitStack) -> tuple[str | None, str]:
    """Carry the plan out; where removed files were kept, and what is left to be said."""
    ground, inventory = tree.ground, tree.inventory
    if not tree.plan.steps:
        if ground.exists and (inventory.count("hashed") or tree.unfinished is not None):
            os.makedirs(ground.aside, PRIVATE_FOLDER, exist_ok=True)
            inventory.end(ground.state_file)
        return None, ""
    exists = ground.exists
    os.makedirs(os.path.dirname(ground.path), 0o755, exist_ok=True)
    make_directory(ground.path, 0o755, tree.owner)
    if not exists:
        locks.enter_context(ground.locked())
    os.makedirs(ground.aside, PRIVATE_FOLDER, exist_ok=True)
    inventory.begin(ground.state_file, json.dumps(tree.plan.as_dict()))
    work = Pull(tree) if tree.pull else Push(tree)
    work.run()
    inventory.end(ground.state_file)
    keeps = os.path.isdir(work.kept_path) if tree.pull else tree.plan.destructive and not tree.versions
    return work.kept_path if keeps else None, work.summary()
