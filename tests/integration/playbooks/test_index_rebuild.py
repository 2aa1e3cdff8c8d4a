# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The monthly rebuild of indexes as docs/maintenance.md gives it, on the lab with its application running."""

from __future__ import annotations

import contextlib
import threading
import typing as t

from tests.integration.playbooks.test_db_maintenance import digest_in, documented
from tests.lab.facts import DATABASE

if t.TYPE_CHECKING:
    from tests.integration.playbooks.conftest import PlayedLab

RIGHT = "CREATE INDEX idx_files_updated_at ON public.files USING btree (updated_at)"


def indexes(lab: PlayedLab) -> dict[str, tuple[str, bool, int]]:
    """Definition, validity and file of each index."""
    sql = """SELECT c.relname, pg_get_indexdef(c.oid), x.indisvalid, c.relfilenode::bigint FROM pg_index x
        JOIN pg_class c ON c.oid = x.indexrelid WHERE c.relnamespace = 'public'::regnamespace"""
    return {str(name): (definition, valid, node) for name, definition, valid, node in lab.drill.cluster.execute(sql, DATABASE)}


@contextlib.contextmanager
def never_without(lab: PlayedLab, column: str) -> t.Iterator[None]:
    """Look all the time: a valid index that begins with the column must be there. The script drops the old one unseen."""
    sql = """SELECT count(*) FROM pg_index x JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0]
        WHERE x.indisvalid AND a.attname = %s AND x.indrelid = 'files'::regclass"""
    ended = threading.Event()
    seen: list[int] = []

    def look() -> None:
        with lab.drill.cluster.connect(DATABASE) as connection:
            while not ended.wait(0.02):
                seen.append(connection.execute(sql, (column,)).fetchone()[0])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert len(seen) > 10 and min(seen) >= 1, seen


def test_the_page_as_written(lab: PlayedLab) -> None:
    """A wrong definition is replaced as confirmed, an invalid index is repaired, others stay; a name that is given is rebuilt."""
    rebuild, forced = documented("index-rebuild")
    cluster = lab.drill.cluster
    cluster.execute("DROP INDEX idx_files_updated_at", DATABASE)
    cluster.execute("CREATE INDEX idx_files_updated_at ON files (updated_at, id)", DATABASE)
    cluster.execute("CREATE INDEX idx_broken ON file_events (at)", DATABASE)
    cluster.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_broken'::regclass", DATABASE)
    try:
        before = indexes(lab)
        checked = lab.play_well("index-rebuild", *rebuild, check=True)
        assert checked.changed() and indexes(lab) == before

        stopped = lab.play("index-rebuild", *rebuild)
        assert stopped.returncode != 0 and "confirmation_needed" in stopped.output and indexes(lab) == before
        with never_without(lab, "updated_at"):
            lab.play_well("index-rebuild", *rebuild, confirm=digest_in(stopped))
        after = indexes(lab)
        assert set(after) == set(before), "no leftovers, nothing lost"
        assert after["idx_files_updated_at"][:2] == (RIGHT, True) and after["idx_broken"][1]
        changed = {name for name in after if after[name][2] != before[name][2]}
        assert changed == {"idx_files_updated_at", "idx_broken"}

        settled = lab.play_well("index-rebuild", *rebuild)
        assert settled.changed() == 0, settled.output
        lab.play_well("index-rebuild", *forced)
        again = indexes(lab)
        assert {name for name in again if again[name][2] != after[name][2]} == {"files_path_key"}
    finally:
        cluster.execute("DROP INDEX IF EXISTS idx_broken", DATABASE)
