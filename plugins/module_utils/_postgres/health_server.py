# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server itself: settings, clock, checkpoints, cache. PRIVATE to the collection."""

from __future__ import annotations

import time

from ansible_collections.fileforge.ops.plugins.module_utils._checks import OK, Check
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.health_look import KEPT, Look

CHECKPOINTS = 100
"""Fewer checkpoints than this say nothing about their reasons."""
BLOCKS = 100_000
"""Fewer blocks than this say nothing about the cache."""

_PENDING = (
    "SELECT name, setting, coalesce(unit, '') AS unit FROM pg_settings WHERE pending_restart"
    # What a restore was told is over with it: it stays pending until the next restart, and means nothing to a primary.
    " AND (pg_is_in_recovery() OR NOT starts_with(name, 'recovery_target')) ORDER BY name"
)
_CHECKPOINTS = (
    (
        17,
        "SELECT num_timed::float8 AS timed, num_requested::float8 AS requested, stats_reset::text AS since "
        "FROM pg_stat_checkpointer",
    ),
    (
        0,
        "SELECT checkpoints_timed::float8 AS timed, checkpoints_req::float8 AS requested, stats_reset::text AS since "
        "FROM pg_stat_bgwriter",
    ),
)
"""By the version from which on it is right."""
_CACHE = "SELECT coalesce(sum(blks_hit), 0)::float8 AS hit, coalesce(sum(blks_read), 0)::float8 AS read FROM pg_stat_database"


def pending_restart(look: Look) -> list[Check]:
    """Settings that were changed and wait for a restart: the next one, perhaps after a crash, brings a surprise."""
    rows = look.rows(_PENDING)
    names = [row["name"] for row in rows]
    summary = f"settings wait for a restart: {', '.join(names)}" if names else "no setting waits for a restart"
    hint = "restart in a maintenance window, or take the change back (ALTER SYSTEM RESET)"
    return [look.graded("pending_restart", len(rows), summary, hint=hint, evidence=names[:KEPT])]


def time_sync(look: Look) -> list[Check]:
    """The server's clock against the one of the host that asks; what the question itself took is no difference."""
    look.row("SELECT 1")  # so that a sleeping connection does not count as travel time
    before = time.time()
    theirs = float(look.row("SELECT extract(epoch FROM clock_timestamp())::float8 AS now")["now"])
    after = time.time()
    offset = max(0.0, abs(theirs - (before + after) / 2) - (after - before) / 2)
    summary = f"the server's clock and this host's differ by {offset:.2f} s"
    hint = "look at the time service of both hosts (timedatectl); recovery targets and certificates rely on the clock"
    return [look.graded("time_sync", offset, summary, hint=hint)]


def checkpoints(look: Look) -> list[Check]:
    """Checkpoints that came before their time: too little room for WAL, or too many by hand."""
    row = look.row(next(sql for since, sql in _CHECKPOINTS if look.version >= since))
    total = row["timed"] + row["requested"]
    if total < CHECKPOINTS:
        return [look.graded("checkpoints", None, f"only {total:.0f} checkpoints so far: too few to judge", status=OK)]
    share = 100 * row["requested"] / total
    summary = f"{share:.0f} % of {total:.0f} checkpoints came before their time (since {row['since']})"
    return [look.graded("checkpoints", share, summary, hint="raise max_wal_size", evidence=dict(row))]


def cache_hit(look: Look) -> list[Check]:
    """How many blocks were found in shared buffers; for information."""
    row = look.row(_CACHE)
    total = row["hit"] + row["read"]
    if total < BLOCKS:
        return [look.graded("cache_hit", None, f"only {total:.0f} blocks read so far: too few to judge", status=OK)]
    share = 100 * row["hit"] / total
    return [look.graded("cache_hit", share, f"{share:.1f} % of the blocks were found in shared buffers", status=OK)]
