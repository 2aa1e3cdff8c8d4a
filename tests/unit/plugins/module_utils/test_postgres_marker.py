# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of marker tables and what the archiver's statistics prove."""

from __future__ import annotations

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.marker import _covers, table_name

SEGMENT = "000000010000000000000005"


@pytest.mark.parametrize("name", ["marker", "ops.marker", "_m1", "a" * 63])
def test_table_names(name: str) -> None:
    assert ".".join(table_name(name)) == name


@pytest.mark.parametrize("name", ["", "a.b.c", "Marker", 'a"; DROP TABLE files; --', "a b", "1a", "a.", "a" * 64, "a\n"])
def test_refused_table_names(name: str) -> None:
    with pytest.raises(InvalidOption):
        table_name(name)


@pytest.mark.parametrize(
    ("archived", "proves"),
    [
        (None, False),
        ("000000010000000000000004", False),
        (SEGMENT, True),
        ("000000010000000000000006", True),
        ("000000020000000000000001", True),
        ("000000010000000000000005.00000028.backup", True),
        ("000000010000000000000004.00000028.backup", False),
        ("00000002.history", False),
    ],
)
def test_what_the_last_archived_file_proves(archived: str | None, proves: bool) -> None:
    assert _covers(archived, SEGMENT) is proves
