# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions for VACUUM and ANALYZE, and a watch over them from a connection of its own. PRIVATE to the collection."""

from __future__ import annotations

import contextlib
import threading
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions, Row, connect, query
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress

if t.TYPE_CHECKING:
    import psycopg

INTERVAL = 0.5
APPLICATION = "fileforge.ops"

_RUNNING = """
SELECT c.oid::regclass::text AS name, v.phase, v.heap_blks_scanned AS blocks
FROM pg_stat_progress_vacuum v JOIN pg_stat_activity a USING (pid) JOIN pg_class c ON c.oid = v.relid
WHERE v.datname = current_database() AND a.application_name = %(application)s
UNION ALL
SELECT c.oid::regclass::text, v.phase, v.heap_blks_scanned
FROM pg_stat_progress_cluster v JOIN pg_stat_activity a USING (pid) JOIN pg_class c ON c.oid = v.relid
WHERE v.datname = current_database() AND a.application_name = %(application)s
"""
_ANALYZING = """
UNION ALL
SELECT c.oid::regclass::text, 'analyzing: ' || v.phase, 0
FROM pg_stat_progress_analyze v JOIN pg_stat_activity a USING (pid) JOIN pg_class c ON c.oid = v.relid
WHERE v.datname = current_database() AND a.application_name = %(application)s
"""


@contextlib.contextmanager
def session(server: PostgresOptions, lock_timeout: float) -> t.Iterator[psycopg.Connection[t.Any]]:
    """A connection for maintenance: from 14 on the server stops within seconds when the module was killed."""
    with connect(server, lock_timeout_ms=int(lock_timeout * 1000), application_name=APPLICATION) as connection:
        if connection.info.server_version >= 140000:
            query(connection, "SET client_connection_check_interval = '2s'")
        yield connection


@contextlib.contextmanager
def watching(server: PostgresOptions, progress: Progress, finished: t.Callable[[], int]) -> t.Iterator[None]:
    """Publish what runs while the body does: ``finished()`` bytes and those that the running commands have read."""
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(server, progress, finished, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _watch(server: PostgresOptions, progress: Progress, finished: t.Callable[[], int], ended: threading.Event) -> None:
    with contextlib.suppress(OpsError):  # a lost view must not stop the work
        with connect(
            server, statement_timeout_ms=5000, lock_timeout_ms=1000, application_name=f"{APPLICATION}.watch"
        ) as connection:
            sql = _RUNNING + (_ANALYZING if connection.info.server_version >= 130000 else "")
            while not ended.wait(INTERVAL):
                progress.set(*_seen(query(connection, sql, {"application": APPLICATION}), finished()))


def _seen(rows: t.Sequence[Row], finished: int) -> tuple[int, None, str]:
    """Bytes so far, no new total, and the running commands in words."""
    done = finished + sum(row["blocks"] * 8192 for row in rows)
    return done, None, ", ".join(f"{row['name']}: {row['phase']}" for row in rows[:4])
