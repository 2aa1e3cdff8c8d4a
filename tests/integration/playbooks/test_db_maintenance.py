# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The weekly maintenance as docs/maintenance.md gives it, on the lab with its application running."""

from __future__ import annotations

import json
import re
import shlex
import typing as t

import pytest

from tests.lab import ROOT
from tests.lab.facts import DATABASE

if t.TYPE_CHECKING:
    from tests.integration.playbooks.conftest import PlayedLab
    from tests.lab.drill import Played


def documented(playbook: str) -> list[list[str]]:
    """The arguments of each example of the page that runs the playbook."""
    prefix = f"    ansible-playbook -i inventories/production playbooks/{playbook}.yml"
    lines = (ROOT / "docs/maintenance.md").read_text(encoding="utf-8").splitlines()
    return [shlex.split(line[len(prefix) :]) for line in lines if line.startswith(prefix)]


def vacuums(lab: PlayedLab) -> dict[str, int]:
    """How often each table was vacuumed by hand."""
    rows = lab.drill.cluster.execute("SELECT relname, vacuum_count FROM pg_stat_user_tables", DATABASE)
    return {str(name): int(count) for name, count in rows}


def size(lab: PlayedLab, name: str) -> int:
    return int(lab.drill.cluster.execute(f"SELECT pg_relation_size('{name}')", DATABASE)[0][0])


def digest_in(played: Played) -> str:
    found = re.search(r"-e confirm=([0-9a-f]{16})", played.output)
    assert found, played.output[-4000:]
    return found[1]


@pytest.fixture
def worn(lab: PlayedLab) -> t.Iterator[str]:
    """A table that needs vacuuming and is mostly empty after it."""
    cluster = lab.drill.cluster
    cluster.execute("CREATE TABLE worn (id int PRIMARY KEY, filler text) WITH (autovacuum_enabled = off)", DATABASE)
    cluster.execute("INSERT INTO worn SELECT n, repeat('x', 100) FROM generate_series(1, 20000) AS n", DATABASE)
    cluster.execute("VACUUM ANALYZE worn", DATABASE)
    cluster.execute("DELETE FROM worn WHERE id % 5 <> 0", DATABASE)
    yield "worn"
    cluster.execute("DROP TABLE worn", DATABASE)


def test_the_page_as_written(lab: PlayedLab, worn: str) -> None:
    """Check predicts, the run does it for the tables in need and no others, the second run does nothing; FULL only as confirmed."""
    named = [[word.replace("public.files", f"public.{worn}") for word in words] for words in documented("db-maintenance")]
    predict, maintain, rewrite, confirmed = named
    lab.drill.cluster.execute("VACUUM ANALYZE users", DATABASE)
    before, bytes_before = vacuums(lab), size(lab, worn)

    checked = lab.play_well("db-maintenance", *predict)
    assert f"vacuum+analyze public.{worn}" in checked.output and vacuums(lab) == before
    assert not lab.drill.layout.state.joinpath("sizes.json").exists()

    ran = lab.play_well("db-maintenance", *maintain)
    after = vacuums(lab)
    assert checked.changed() and ran.changed()
    assert after[worn] == before[worn] + 1 and after["users"] == before["users"], "only what needs it"
    assert re.search(rf"\[warning\] 1 tables are 30% empty.*public\.{worn}.*\(estimate\)", " ".join(ran.output.split())), "labelled"
    assert f"rebuild     public.{worn}_pkey: bloat" in ran.output, "reindexed because it needs it"
    assert json.loads(lab.drill.layout.state.joinpath("sizes.json").read_text())["samples"]

    stopped = lab.play("db-maintenance", *rewrite)
    assert stopped.returncode != 0 and "confirmation_needed" in stopped.output
    assert stopped.changed() == 0, "the second run had nothing to do"
    assert size(lab, worn) == bytes_before, "nothing is rewritten without a word"

    digest = digest_in(stopped)
    lab.play_well("db-maintenance", *(word.replace("<digest>", digest) for word in confirmed))
    assert size(lab, worn) < bytes_before / 3


def test_a_role_that_may_not_vacuum_is_no_success(lab: PlayedLab, worn: str) -> None:
    """The script says VACUUM and means it was done."""
    cluster = lab.drill.cluster
    cluster.execute("CREATE ROLE stranger LOGIN IN ROLE pg_monitor")
    try:
        connection = {**cluster.options(DATABASE), "postgres_user": "stranger"}
        played = lab.play("db-maintenance", fileforge_postgres=connection)
        assert played.returncode != 0 and "not_allowed" in played.output and f"public.{worn}" in played.output
    finally:
        cluster.execute("DROP ROLE stranger")
