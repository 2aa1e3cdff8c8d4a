# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions: how many, who waits for whom, and which take too long. PRIVATE to the collection."""

from __future__ import annotations

import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import Check
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import Row
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.health_look import INCIDENT, KEPT, Look, without_literals
from ansible_collections.fileforge.ops.plugins.module_utils._time import duration_text

_USABLE = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
       - coalesce(current_setting('reserved_connections', true), '0')::int AS usable
"""
_CLIENTS = """
SELECT coalesce(usename, '') AS role, coalesce(datname, '') AS database, coalesce(state, '') AS state, count(*)::int AS sessions
FROM pg_stat_activity WHERE backend_type = 'client backend' GROUP BY 1, 2, 3 ORDER BY 4 DESC
"""
_SESSION = """
SELECT pid, coalesce(usename, '') AS role, coalesce(datname, '') AS database, coalesce(application_name, '') AS application,
       coalesce(client_addr::text, 'local') AS client, coalesce(state, '') AS state, coalesce(wait_event, '') AS waits_on,
       extract(epoch FROM clock_timestamp() - xact_start)::float8 AS transaction_seconds,
       extract(epoch FROM clock_timestamp() - query_start)::float8 AS query_seconds,
       extract(epoch FROM clock_timestamp() - state_change)::float8 AS state_seconds,
       backend_type, left(query, 1000) AS query
FROM pg_stat_activity
"""
_WAITING = """
SELECT a.pid, pg_blocking_pids(a.pid) AS blockers,
       extract(epoch FROM clock_timestamp() - coalesce({since}, a.query_start))::float8 AS seconds
FROM pg_stat_activity AS a WHERE a.wait_event_type = 'Lock'
"""
_SINCE = "(SELECT min(l.waitstart) FROM pg_locks AS l WHERE l.pid = a.pid AND NOT l.granted)"
_PREPARED = """
SELECT gid, database, owner, extract(epoch FROM clock_timestamp() - prepared)::float8 AS seconds
FROM pg_prepared_xacts ORDER BY prepared
"""


def connections(look: Look) -> list[Check]:
    """Client sessions against the places that ordinary roles can take."""
    usable = int(look.row(_USABLE)["usable"])
    groups = look.rows(_CLIENTS)
    used = sum(group["sessions"] for group in groups)
    share = 100 * used / max(usable, 1)
    summary = f"{used} of {usable} connections are in use ({share:.0f} %)"
    hint = f"{INCIDENT}: look at the connection pools of the roles in the evidence; idle sessions of one role are a leak"
    return [look.graded("connections", share, summary, hint=hint, evidence=groups[:KEPT])]


def blocking(look: Look) -> list[Check]:
    """Who waits for a lock, how long, and who is at the root of it."""
    since = _SINCE if look.version >= 14 else "NULL"
    waiting = {row["pid"]: row for row in look.rows(_WAITING.format(since=since)) if row["blockers"]}
    if not waiting:
        return [look.graded("blocking", 0, "no session waits for a lock of another")]
    pids = set(waiting) | {pid for row in waiting.values() for pid in row["blockers"]}
    sessions = {row["pid"]: row for row in look.rows(f"{_SESSION} WHERE pid = ANY(%s)", (sorted(pids),))}
    look.blocking = blocking_trees(waiting, sessions)
    longest = max(float(row["seconds"] or 0) for row in waiting.values())
    roots = ", ".join(_root_text(tree) for tree in look.blocking[:5])
    summary = f"{len(waiting)} sessions wait for locks, the longest for {duration_text(longest)}; at the root: {roots}"
    pids_text = ", ".join(str(tree["pid"]) for tree in look.blocking[:5] if tree["pid"])
    hint = (
        f"{INCIDENT}: end the root, not its victims: SELECT pg_cancel_backend(pid), then pg_terminate_backend(pid), for {pids_text}"
    )
    return [look.graded("blocking", longest, summary, hint=hint, evidence=look.blocking[:KEPT])]


def blocking_trees(waiting: t.Mapping[int, Row], sessions: t.Mapping[int, Row]) -> list[dict[str, t.Any]]:
    """One tree for each root blocker, most victims first. Pid 0 stands for prepared transactions, which have no session.

    A victim of several blockers is in the tree of each; a cycle (a deadlock not yet found) gets one of its sessions as root.
    """
    victims: dict[int, list[int]] = {}
    for pid, row in sorted(waiting.items()):
        for blocker in sorted(set(row["blockers"])):
            victims.setdefault(blocker, []).append(pid)

    def node(pid: int, path: tuple[int, ...]) -> dict[str, t.Any]:
        below = [node(victim, (*path, pid)) for victim in victims.get(pid, []) if victim not in path and victim != pid]
        return {**_describe(pid, sessions.get(pid)), "waits": _seconds(waiting.get(pid)), "blocks": below}

    roots = sorted(pid for pid in victims if pid not in waiting)
    reached = {found for root in roots for found in _below(root, victims)}
    for pid in sorted(waiting):
        if pid not in reached:
            roots.append(pid)
            reached |= _below(pid, victims)
    trees = [{**node(root, ()), "blocked": len(_below(root, victims) - {root})} for root in roots]
    return sorted(trees, key=lambda tree: (-tree["blocked"], tree["pid"]))


def _below(root: int, victims: t.Mapping[int, list[int]]) -> set[int]:
    found, todo = {root}, [root]
    while todo:
        fresh = [pid for pid in victims.get(todo.pop(), []) if pid not in found]
        found.update(fresh)
        todo += fresh
    return found


def _seconds(row: Row | None) -> float | None:
    return None if row is None or row["seconds"] is None else round(float(row["seconds"]), 1)


def _describe(pid: int, session: Row | None) -> dict[str, t.Any]:
    if pid == 0:
        return {"pid": 0, "role": "", "database": "", "application": "", "state": "prepared transaction", "query": ""}
    if session is None:
        return {"pid": pid, "role": "", "database": "", "application": "", "state": "ended meanwhile", "query": ""}
    found = {name: session[name] for name in ("pid", "role", "database", "application", "state")}
    age = session["transaction_seconds"]
    return {**found, "transaction": None if age is None else round(age, 1), "query": without_literals(session["query"])}


def _root_text(tree: t.Mapping[str, t.Any]) -> str:
    if not tree["pid"]:
        return f"a prepared transaction (blocks {tree['blocked']})"
    who = f"{tree['role']}/{tree['application']}" if tree["application"] else tree["role"]
    return f"pid {tree['pid']} ({who}, {tree['state']}, blocks {tree['blocked']})"


def slow_sessions(look: Look) -> list[Check]:
    """Long queries, sessions idle in a transaction, and long transactions."""
    sessions = look.rows(f"{_SESSION} WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")
    mine = [row for row in sessions if _counts(look, row)]
    idle = [row for row in sessions if str(row["state"]).startswith("idle in transaction")]
    active = [row for row in mine if row["state"] == "active"]
    long = [row for row in mine if row["transaction_seconds"] is not None]
    return [
        _oldest(
            look, "long_queries", active, "query_seconds", "query", f"{INCIDENT}: kill it if it is not needed (pg_cancel_backend)"
        ),
        _oldest(
            look,
            "idle_in_transaction",
            idle,
            "state_seconds",
            "session idle in a transaction",
            f"{INCIDENT}: it holds locks and stops vacuum; look at the application, set idle_in_transaction_session_timeout, "
            "end it with pg_terminate_backend",
        ),
        _oldest(
            look,
            "long_transactions",
            long,
            "transaction_seconds",
            "transaction",
            f"{INCIDENT}: vacuum removes nothing newer than it",
        ),
    ]


def _counts(look: Look, row: Row) -> bool:
    return row["role"] not in look.options.ignore_roles and row["application"] not in look.options.ignore_applications


def _oldest(look: Look, name: str, rows: t.Sequence[Row], key: str, what: str, hint: str) -> Check:
    found = sorted((row for row in rows if row[key] is not None), key=lambda row: -float(row[key]))
    if not found:
        return look.graded(name, 0, f"no {what}")
    first = found[0]
    age = max(0.0, float(first[key]))
    who = f"pid {first['pid']}, role {first['role']}, database {first['database']}, application {first['application'] or '-'}"
    evidence = [
        {**{part: row[part] for part in ("pid", "role", "database", "application", "client", "state", "waits_on")},
         "seconds": round(float(row[key]), 1), "query": without_literals(row["query"])}
        for row in found[:KEPT]
    ]  # fmt: skip
    return look.graded(name, age, f"the oldest {what} is {duration_text(age)} old ({who})", hint=hint, evidence=evidence)


def prepared_transactions(look: Look) -> list[Check]:
    """Transactions prepared and forgotten: they hold locks for ever, through restarts."""
    rows = look.rows(_PREPARED)
    if not rows:
        return [look.graded("prepared_transactions", 0, "no prepared transaction")]
    oldest = float(rows[0]["seconds"])
    summary = f"{len(rows)} prepared transactions, the oldest ({rows[0]['gid']}) {duration_text(oldest)} old"
    hint = f"{INCIDENT}: ask its owner, then COMMIT PREPARED or ROLLBACK PREPARED in its database"
    return [look.graded("prepared_transactions", oldest, summary, hint=hint, evidence=rows[:KEPT])]
