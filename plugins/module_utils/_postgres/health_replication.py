# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the WAL goes: standbys, slots, and the archive. PRIVATE to the collection."""

from __future__ import annotations

import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, UNKNOWN, WARNING, Check, grade, worst
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import wal
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import Row
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.health_look import INCIDENT, KEPT, MIB, Look, size_text
from ansible_collections.fileforge.ops.plugins.module_utils._time import duration_text

IDLE_WAL = {True: 512, False: 64}
"""Bytes after the last archived segment that count as nothing, by whether archive_timeout is set. With it the server archives the
smallest transaction in time, and what is left are records that an idle server writes by itself (page header, running transactions,
a checkpoint). Without it, only the page header is nothing: a transaction may stay there for ever."""

_HERE = """CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
            ELSE pg_current_wal_lsn() END"""
_SENDERS = """
SELECT coalesce(application_name, '') AS standby, coalesce(client_addr::text, 'local') AS client, state, sync_state,
       pg_wal_lsn_diff({here}, coalesce(replay_lsn, flush_lsn, write_lsn, sent_lsn))::float8 AS bytes,
       extract(epoch FROM replay_lag)::float8 AS seconds
FROM pg_stat_replication WHERE state <> 'backup' ORDER BY 5 DESC NULLS LAST
"""
_STANDBY = """
SELECT pg_last_wal_receive_lsn() IS NOT NULL AS receives,
       greatest(0, pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()))::float8 AS bytes,
       extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 AS seconds,
       pg_is_wal_replay_paused() AS paused, current_setting('primary_conninfo') <> '' AS wants_primary
"""
_RECEIVER = """
SELECT status, coalesce(sender_host, '') AS sender, coalesce(slot_name, '') AS slot,
       extract(epoch FROM clock_timestamp() - last_msg_receipt_time)::float8 AS silent
FROM pg_stat_wal_receiver
"""
_SLOTS = """
SELECT slot_name AS name, slot_type AS type, coalesce(database, '') AS database, active,
       pg_wal_lsn_diff({here}, restart_lsn)::float8 AS retained, {columns}
FROM pg_replication_slots WHERE NOT temporary ORDER BY 5 DESC NULLS LAST
"""
_SLOT_COLUMNS = (
    (13, "coalesce(wal_status, '') AS wal_status", "'' AS wal_status"),
    (16, "coalesce(conflicting, false) AS conflicting", "false AS conflicting"),
    (17, "coalesce(invalidation_reason, '') AS invalidation_reason", "'' AS invalidation_reason"),
    (17, "synced", "false AS synced"),
    (17, "extract(epoch FROM clock_timestamp() - inactive_since)::float8 AS inactive", "NULL::float8 AS inactive"),
)
"""Columns by the version that brought them, and what stands for them before."""
_ARCHIVER = """
SELECT archived_count, failed_count, last_archived_wal, last_failed_wal,
       extract(epoch FROM clock_timestamp() - last_archived_time)::float8 AS archived,
       extract(epoch FROM clock_timestamp() - last_failed_time)::float8 AS failed,
       coalesce(last_failed_time > last_archived_time, last_failed_time IS NOT NULL) AS failing,
       current_setting('archive_mode') AS mode, current_setting('archive_timeout') <> '0' AS timed,
       pg_size_bytes(current_setting('wal_segment_size'))::bigint AS segment,
       extract(epoch FROM clock_timestamp() - greatest(pg_postmaster_start_time(), stats_reset))::float8 AS counting
FROM pg_stat_archiver
"""
_READY = "SELECT count(*)::int AS waiting FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"


def role(look: Look) -> list[Check]:
    """Primary or standby, and whether it should be."""
    found, wanted = look.server.role, look.options.expected_role
    wrong = wanted not in ("any", found)
    summary = f"the server is a {found}" + (f", not a {wanted}" if wrong else "")
    hint = f"{INCIDENT}: find out which server is the primary now; two primaries lose data" if wrong else ""
    return [Check("postgres.role", CRITICAL if wrong else OK, summary, value=found, hint=hint)]


def replication(look: Look) -> list[Check]:
    """What standbys lack, seen from the server that sends, and what this one lacks when it is a standby."""
    senders = look.rows(_SENDERS.format(here=_HERE))
    checks = [_replicas(look, senders)]
    if not look.server.standby:
        return checks + _lag_of_others(look, senders)
    state = look.row(_STANDBY)
    return [*checks, _receiver(look, state), *_lag_of_this(look, state)]


def _replicas(look: Look, senders: t.Sequence[Row]) -> Check:
    names = sorted(row["standby"] for row in senders if row["state"] in ("streaming", "catchup"))
    expected = look.options.expected_replicas
    status = OK if expected is None or len(names) >= expected else CRITICAL if not names else WARNING
    wanted = "" if expected is None else f" ({expected} expected)"
    summary = f"{len(names)} standbys or receivers are connected{wanted}"
    hint = "" if status == OK else f"{INCIDENT}: look at the standby's log; a missing standby whose slot stays fills the disk"
    return Check("postgres.replicas", status, summary, value=len(names), critical=expected, hint=hint, evidence=names)


def _lag_of_others(look: Look, senders: t.Sequence[Row]) -> list[Check]:
    if not senders:
        nobody = "no standby is connected, so none lags"
        return [look.graded(name, None, nobody, status=OK) for name in ("replication_lag", "replication_lag_time")]
    evidence = [dict(row) for row in senders[:KEPT]]
    hint = f"{INCIDENT}: look at the standby: disk, network, a query that conflicts with replay, replay paused"
    known = [row for row in senders if row["bytes"] is not None]
    most = max((float(row["bytes"]) for row in known), default=None)
    behind = "no standby says where it is" if most is None else f"the standby furthest behind lacks {size_text(most)}"
    checks = [look.graded("replication_lag", most, behind, hint=hint, evidence=evidence)]
    seconds = [float(row["seconds"]) for row in senders if row["seconds"] is not None]
    if seconds:
        text = f"replay is {duration_text(max(seconds))} behind at most"
        return [*checks, look.graded("replication_lag_time", max(seconds), text, hint=hint, evidence=evidence)]
    caught_up = most is not None and most < 16 * MIB
    text = "nothing to measure: the standbys have replayed what there was" if caught_up else "no standby has reported a time"
    return [
        *checks,
        look.graded("replication_lag_time", None, text, status=OK if caught_up else UNKNOWN, hint=hint, evidence=evidence),
    ]


def _lag_of_this(look: Look, state: Row) -> list[Check]:
    hint = f"{INCIDENT}: look for a query that conflicts with replay, and for the disk"
    if state["paused"]:
        hint = "replay is paused: SELECT pg_wal_replay_resume()"
    if not state["receives"]:
        why = "this standby replays an archive; what it lacks is not known here"
        return [look.graded(name, None, why, hint=hint) for name in ("replication_lag", "replication_lag_time")]
    size = float(state["bytes"])
    worse = [WARNING] if state["paused"] else []
    summary = f"{size_text(size)} received and not replayed" + (", replay is paused" if state["paused"] else "")
    limit = look.options.limits["replication_lag"]
    status = worst([grade(size, limit.warning, limit.critical), *worse])
    checks = [look.graded("replication_lag", size, summary, status=status, hint=hint)]
    if size == 0 or state["seconds"] is None:
        return [*checks, look.graded("replication_lag_time", None, "all that was received is replayed", status=OK)]
    seconds = float(state["seconds"])
    text = f"the last replayed transaction is {duration_text(seconds)} old, with more received"
    return [*checks, look.graded("replication_lag_time", seconds, text, hint=hint)]


def _receiver(look: Look, state: Row) -> Check:
    rows = look.rows(_RECEIVER)
    hint = f"{INCIDENT}: look at this standby's log and at the primary; nothing comes in"
    if rows and rows[0]["status"] == "streaming":
        sender = rows[0]["sender"] or "its sender"
        return Check("postgres.wal_receiver", OK, f"WAL streams in from {sender}", value="streaming", evidence=rows[0])
    if rows:
        status = rows[0]["status"] or "not visible"
        return Check("postgres.wal_receiver", WARNING, f"the WAL receiver is {status}", value=status, hint=hint, evidence=rows[0])
    if state["wants_primary"]:
        return Check("postgres.wal_receiver", CRITICAL, "no WAL receiver runs: the primary is not reached", value="none", hint=hint)
    return Check("postgres.wal_receiver", OK, "no primary is configured: WAL comes from an archive", value="archive")


def slots(look: Look) -> list[Check]:
    """Slots keep WAL for somebody: for how much, for whom, and whether it is too late."""
    columns = ", ".join(new if look.version >= since else old for since, new, old in _SLOT_COLUMNS)
    rows = [
        dict(row) for row in look.rows(_SLOTS.format(here=_HERE, columns=columns)) if not (look.server.standby and row["synced"])
    ]
    limit = look.options.limits["slots"]
    judged = [(row, *_judge_slot(row, limit.warning, limit.critical)) for row in rows]
    bad = [(row, status, why) for row, status, why in judged if status != OK]
    most = max((float(row["retained"]) for row in rows if row["retained"] is not None), default=0.0)
    if not bad:
        summary = f"{len(rows)} slots, all in use; at most {size_text(most)} of WAL kept for one" if rows else "no replication slot"
        return [look.graded("slots", most, summary, status=OK, evidence=rows[:KEPT])]
    status = worst(status for _row, status, _why in bad)
    summary = "; ".join(f"slot {row['name']}: {why}" for row, _status, why in bad[:5])
    hint = f"{INCIDENT}: bring its consumer back, or, when it is gone for good, SELECT pg_drop_replication_slot(name)"
    return [look.graded("slots", most, summary, status=status, hint=hint, evidence=[row for row, _status, _why in bad[:KEPT]])]


def _judge_slot(row: Row, warning: float | None, critical: float | None) -> tuple[str, str]:
    if row["invalidation_reason"] or row["conflicting"]:
        return CRITICAL, f"invalidated ({row['invalidation_reason'] or 'conflict with recovery'})"
    if row["wal_status"] in ("unreserved", "lost"):
        return CRITICAL, f"WAL it needs is {'gone' if row['wal_status'] == 'lost' else 'about to go'} ({row['wal_status']})"
    retained = row["retained"]
    size = 0.0 if retained is None else float(retained)
    status, why = grade(size, warning, critical), f"keeps {size_text(size)} of WAL"
    if row["wal_status"] == "extended":
        status, why = worst([status, WARNING]), f"{why}, more than max_wal_size"
    if not row["active"]:
        status, why = worst([status, WARNING]), f"inactive, {why}"
    return status, why


def archiver(look: Look) -> list[Check]:
    """Whether WAL reaches the archive now: by what happened last, never by counters that remember for ever."""
    row = look.row(_ARCHIVER)
    hint = f"{INCIDENT}: the archive command's message is in the server's log; playbook fileforge.ops.backup sets archiving up"
    if row["mode"] == "off":
        bad = look.options.require_archiving
        summary = "archiving is off" + (": what is written since the last base backup can be lost" if bad else "")
        return [look.graded("archiver", None, summary, status=CRITICAL if bad else OK, hint=hint, evidence={"archive_mode": "off"})]
    if look.server.standby and row["mode"] != "always":
        return [look.graded("archiver", None, "the primary archives", status=OK, evidence={"archive_mode": row["mode"]})]
    waiting = look.row(_READY)["waiting"]
    evidence = {
        "archive_mode": row["mode"],
        "waiting": waiting,
        "last_archived": row["last_archived_wal"],
        "last_failed": row["last_failed_wal"],
        "seconds_since_success": row["archived"],
        "seconds_since_failure": row["failed"],
    }
    age, why = _archive_age(look, row)
    if row["failing"]:
        since = "never succeeded" if row["archived"] is None else f"last success {duration_text(row['archived'])} ago"
        summary = f"archiving fails: {row['last_failed_wal']} {duration_text(row['failed'])} ago; {since}; {waiting} files wait"
        return [look.graded("archiver", age, summary, status=CRITICAL, hint=hint, evidence=evidence)]
    summary = f"{why}; {waiting} files wait"
    return [look.graded("archiver", age, summary, hint=hint, evidence=evidence, status=None if age is not None else OK)]


def _archive_age(look: Look, row: Row) -> tuple[float | None, str]:
    """How old the oldest WAL that is not archived may be; None when there is none worth archiving."""
    if row["archived"] is None:
        return float(row["counting"]), f"nothing was archived in the {duration_text(row['counting'])} since its statistics begin"
    since = float(row["archived"])
    end = _archived_end(str(row["last_archived_wal"]), int(row["segment"]))
    if end is not None and not look.server.standby:
        here = wal.parse_lsn(str(look.row("SELECT pg_current_wal_insert_lsn()::text AS here")["here"]))
        if here - end <= IDLE_WAL[row["timed"]]:
            return None, f"all is archived; the last segment {duration_text(since)} ago, and nothing was written since"
    timed = "" if row["timed"] else ", and archive_timeout is 0: what is written now waits until a segment is full"
    return since, f"the last segment was archived {duration_text(since)} ago{timed}"


def _archived_end(name: str, size: int) -> int | None:
    """The position at which the WAL in the archive ends, from the name of the last archived file."""
    match = wal.SEGMENT_NAME.match(name)
    if match is None:
        return None
    _timeline, number = wal.split_segment_name(name, size)
    return (number + 1) * size
