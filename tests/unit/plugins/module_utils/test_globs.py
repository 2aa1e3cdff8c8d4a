# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Patterns against a plain enumeration of names."""

from __future__ import annotations

import fnmatch
import itertools
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._host import globs
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = ["".join(letters) for length in range(7) for letters in itertools.product("ab", repeat=length)]
PIECES = st.sampled_from(["a", "b", "*", "?", "[a]", "[!a]", "[ab]"])
PATTERNS = st.lists(PIECES, min_size=1, max_size=3).map("".join)


@settings(max_examples=300, deadline=None)
@given(PATTERNS, PATTERNS)
def test_overlap_is_that_some_name_matches_both(one: str, other: str) -> None:
    common = any(fnmatch.fnmatchcase(name, one) and fnmatch.fnmatchcase(name, other) for name in NAMES)
    # [!a] also matches letters that are not enumerated, so only a common name is conclusive there
    if common or "!" not in one + other:
        assert globs.overlap(f"/log/{one}", f"/log/{other}") is common
    assert globs.overlap(f"/x/{one}", f"/x/{other}") is globs.overlap(f"/x/{other}", f"/x/{one}")


@settings(max_examples=200, deadline=None)
@given(PATTERNS, st.sampled_from([name for name in NAMES if name]))
def test_a_name_matches_as_in_the_shell(pattern: str, name: str) -> None:
    assert globs.matches(f"/log/{pattern}", f"/log/{name}") is fnmatch.fnmatchcase(name, pattern)


@given(PATTERNS)
def test_an_example_matches(pattern: str) -> None:
    example = globs.example_of(f"/log/{pattern}")
    assert globs.matches(f"/log/{pattern}", example) or "[!a]" in pattern


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("/var/log/app/*.log", "/var/log/app/app.log", True),
        ("/var/log/*/app.log", "/var/log/app/*.log", True),
        ("/var/log/*.log", "/var/log/app/app.log", False),
        ("/var/log/app//a.log", "/var/log/app/a.log", True),
        ("/var/log/app/*", "/var/log/app/.hidden", False),
        ("/var/log/app/a*.log", "/var/log/app/*b.log", True),
        ("/var/log/app/error*.log", "/var/log/app/access*.log", False),
        ("/v/[ab].log", "/v/[bc].log", True),
        ("/v/[ab].log", "/v/[cd].log", False),
        ("/v/[^a].log", "/v/a.log", False),
        (r"/v/a\*.log", "/v/axx.log", False),
        (r"/v/a\*.log", "/v/a*.log", True),
        ("/v/a[.log", "/v/a[.log", True),
    ],
)
def test_cases(one: str, other: str, expected: bool) -> None:
    assert globs.overlap(one, other) is expected


def test_expand_finds_what_the_shell_would(tmp_path: Path) -> None:
    for name in ("a.log", "b.log", ".c.log", "d.txt", "e[1].log"):
        (tmp_path / name).touch()
    assert [Path(path).name for path in globs.expand(f"{tmp_path}/*.log")] == ["a.log", "b.log", "e[1].log"]
    assert [Path(path).name for path in globs.expand(f"{tmp_path}/[^b].log")] == ["a.log"]
    assert globs.expand(rf"{tmp_path}/e\[1\].log") == [f"{tmp_path}/e[1].log"]
    assert globs.expand(f"{tmp_path}/none.log") == []
    assert not globs.is_pattern("/v/a.log") and globs.is_pattern("/v/*.log")
