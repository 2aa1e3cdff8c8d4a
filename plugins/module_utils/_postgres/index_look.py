# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the run looks at before it decides: definitions, bloat and room. PRIVATE to the collection."""

from __future__ import annotations

import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import index_space
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.bloat import (
    Bloat,
    estimate_indexes,
    exact_index,
    measuring_schema,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import query
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_inventory import (
    Index,
    Inventory,
    canonical,
    shown,
    take,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_plan import (
    DROP,
    Choice,
    Chooser,
    RebuildOptions,
    Target,
    Wanted,
    in_scope,
)

if t.TYPE_CHECKING:
    import psycopg
    from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline

_TABLE = """
SELECT c.oid::bigint AS oid, c.relkind::text AS kind, c.relpages::bigint * current_setting('block_size')::int AS bytes,
  pg_has_role(c.relowner, 'USAGE') AS is_ours, d.dattablespace::bigint AS tablespace,
  EXISTS (SELECT FROM pg_class o WHERE o.relnamespace = c.relnamespace AND o.relname = %(name)s AND o.relkind NOT IN ('i', 'I'))
    AS name_taken
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_database d ON d.datname = current_database()
WHERE n.nspname = %(schema)s AND c.relname = %(table)s
"""


def choose(
    connection: psycopg.Connection[t.Any], options: RebuildOptions, version: int, deadline: Deadline | None = None
) -> Choice:
    """What is to be done. Raises Refused and InvalidOption for what the user named and cannot have."""
    targets = [_target(connection, wanted) for wanted in options.indexes if wanted.definition is not None]
    inventory = take(connection)
    notes: list[str] = []
    bloats = _bloats(connection, options, inventory, notes, deadline)
    choice = Chooser(inventory, options, targets, bloats, version).choose()
    choice.notes = notes + choice.notes
    return choice


def _target(connection: psycopg.Connection[t.Any], wanted: Wanted) -> Target:
    table = str(wanted.table)
    rows = query(connection, _TABLE, {"schema": wanted.schema, "table": table, "name": wanted.name})
    where = shown(wanted.schema, table)
    if not rows:
        raise Refused("no_such_table", f"there is no table {where} for index {wanted.shown}", hint="check schema and table")
    row = rows[0]
    if row["kind"] not in ("r", "m", "p"):
        raise Refused("not_a_table", f"{where} is neither a table nor a materialized view", hint="check schema and table")
    definition, unsafe = canonical(connection, wanted.schema, table, str(wanted.definition), wanted.unique)
    return Target(
        wanted, row["oid"], row["kind"], row["bytes"], row["tablespace"], row["is_ours"], row["name_taken"], definition, unsafe
    )


def _bloats(
    connection: psycopg.Connection[t.Any],
    options: RebuildOptions,
    inventory: Inventory,
    notes: list[str],
    deadline: Deadline | None,
) -> dict[int, Bloat]:
    """Bloat of the valid indexes that are looked at; what cannot be told is noted."""
    if options.bloat == "none":
        return {}
    looked_at = [index for index in _looked_at(options, inventory) if index.is_valid and index.bytes >= options.bloat_min_bytes]
    if not looked_at:
        return {}
    if options.bloat == "exact":
        measuring_schema(connection)
        found = _measured(connection, looked_at, notes, deadline)
    else:
        found = {bloat.oid: bloat for bloat in estimate_indexes(connection, [index.oid for index in looked_at])}
    for index in looked_at:
        bloat = found.get(index.oid)
        if bloat is not None and bloat.note:
            notes.append(f"{index.shown}: bloat {'unknown' if bloat.ratio is None else 'doubtful'}, {bloat.note}")
    return found


def _looked_at(options: RebuildOptions, inventory: Inventory) -> list[Index]:
    found: dict[int, Index] = {}
    for wanted in options.indexes:
        index = inventory.find(wanted.schema, wanted.name)
        for each in [] if index is None else inventory.leaves(index) if index.kind == "I" else [index]:
            found[each.oid] = each
    if not options.only:
        found.update({index.oid: index for index in inventory.indexes if index.kind == "i" and in_scope(index, options.schemas)})
    return list(found.values())


def _measured(
    connection: psycopg.Connection[t.Any], indexes: t.Sequence[Index], notes: list[str], deadline: Deadline | None
) -> dict[int, Bloat]:
    found = {}
    for index in indexes:
        if index.method != "btree":
            notes.append(f"{index.shown}: bloat unknown, {index.method} indexes cannot be measured")
            continue
        if deadline is not None:
            query(connection, "SELECT set_config('statement_timeout', %s, false)", (str(max(1, int(deadline.left * 1000))),))
        try:
            found[index.oid] = exact_index(connection, index.oid)
        except OpsError as error:
            if error.code == "unavailable":
                raise
            notes.append(f"{index.shown}: bloat unknown, {error.message}")
    return found


def spaces(connection: psycopg.Connection[t.Any], options: RebuildOptions, choice: Choice) -> list[index_space.Space]:
    """The room that there is, and is needed; what it is too small for is left."""
    tablespaces = sorted({task.tablespace for task in choice.tasks if task.kind != DROP})
    spaces = {tablespace: index_space.look(connection, tablespace) for tablespace in tablespaces}
    return index_space.fit(choice, spaces, jobs=options.jobs, required=options.require_space)
