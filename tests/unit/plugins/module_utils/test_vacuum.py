# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options and plans of VACUUM; the work itself is tested on real servers."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import vacuum, vacuum_full, vacuum_watch
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.vacuum_need import Need, TableFacts, Work


def work(dead: float = 500, name: str = "files") -> Work:
    return Work(TableFacts(1, "public", name, "r", heap_bytes=8192), (Need("dead_rows", "vacuum", dead, 100, 1),))


@pytest.mark.parametrize(
    "changes",
    [
        {"jobs": 0},
        {"jobs": 33},
        {"cost_limit": 0},
        {"cost_delay": 101},
        {"lock_timeout": 0},
        {"window": 0},
        {"parallel_workers": -1},
    ],
)
def test_options_that_make_no_sense(changes: dict[str, t.Any]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(changes))):
        vacuum.VacuumOptions(**changes).check()


@pytest.mark.parametrize("changes", [{"full_min_bloat": 1}, {"full_min_bloat": -0.1}, {"window": 0}, {"lock_timeout": 0}])
def test_options_of_a_rewrite_that_make_no_sense(changes: dict[str, t.Any]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(changes))):
        vacuum_full.FullOptions(full=["files"], **changes).check()


def test_numbers_change_by_themselves_and_are_not_in_the_digest() -> None:
    first, second = vacuum.plan_for("app", [work(500)]), vacuum.plan_for("app", [work(900)])
    assert first.digest == second.digest and first.notes != second.notes
    assert first.digest != vacuum.plan_for("app", [work(500, "users")]).digest
    assert not first.destructive


def test_a_failure_names_the_tables_and_keeps_what_was_done() -> None:
    vacuumed = vacuum.Vacuumed(vacuum.plan_for("app", []), done=[{"table": "public.users"}])
    vacuumed.left.append(vacuum.Left(work(), "locked", "busy"))
    vacuum._raise_failures(vacuumed)
    vacuumed.left.append(vacuum.Left(work(), "failed", "page 7 is broken"))
    with pytest.raises(OpsError, match=r"public\.files.*page 7") as failure:
        vacuum._raise_failures(vacuumed)
    assert failure.value.state["tables"] == [{"table": "public.users"}] and failure.value.state["changed"] is True


def test_every_reason_has_a_hint() -> None:
    for reason in vacuum.HINTS:
        assert set(vacuum.Left(work(), reason, "m").as_dict()) >= {"table", "reason", "message", "hint", "needs", "action"}


def test_free_space_is_only_known_on_the_servers_own_host(tmp_path: t.Any) -> None:
    table = vacuum_full.Table(1, "public", "files", 100, 100, 50, "", str(tmp_path))
    assert vacuum_full._free(table, PostgresOptions(host="/run/postgresql"))
    assert vacuum_full._free(table, PostgresOptions(host="db1.example.com")) is None
    gone = vacuum_full.Table(1, "public", "files", 100, 100, 50, "", str(tmp_path / "gone"))
    assert vacuum_full._free(gone, PostgresOptions()) is None


def test_progress_counts_finished_and_running_tables() -> None:
    rows = [{"name": "files", "phase": "scanning heap", "blocks": 10}, {"name": "users", "phase": "vacuuming indexes", "blocks": 0}]
    assert vacuum_watch._seen(rows, 8192) == (11 * 8192, None, "files: scanning heap, users: vacuuming indexes")
