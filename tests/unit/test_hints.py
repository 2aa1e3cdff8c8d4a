# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every check that is not ok says the next step, and every playbook that a step names is there.

Here by the source; ``conftest.py`` looks at what the judges really say in all unit tests.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._checks import Check

ROOT = Path(__file__).resolve().parents[2]
FIELDS = [field.name for field in dataclasses.fields(Check)]
NAMED = re.compile(r"playbooks/([\w-]+)\.yml|playbook fileforge\.ops\.(\w+)|playbook role fileforge\.ops\.(\w+)")


def calls(tree: ast.AST) -> t.Iterator[dict[str, ast.expr]]:
    """The arguments of each check that a source makes; those behind an asterisk stand for the limits."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "Check":
            given: list[ast.expr] = []
            for argument in node.args:
                given += [argument, argument] if isinstance(argument, ast.Starred) else [argument]
            yield dict(zip(FIELDS, given)) | {word.arg: word.value for word in node.keywords if word.arg}


def says_nothing(hint: ast.expr | None) -> bool:
    """A hint that is missing, empty, or an error's, which may have none."""
    if isinstance(hint, ast.Constant):
        return not hint.value
    return hint is None or (isinstance(hint, ast.Attribute) and hint.attr == "hint")


def silent(source: str) -> list[str]:
    """Checks that may be something else than ok and say no next step."""
    return [
        ast.unparse(given["summary"])
        for given in calls(ast.parse(source))
        if ast.unparse(given["status"]).rpartition(".")[2] != "OK" and says_nothing(given.get("hint"))
    ]


@pytest.mark.parametrize("hint", ["", ", hint=''", ", hint=error.hint", ", None, '', None, None, ''"])
def test_the_look_sees_what_says_nothing(hint: str) -> None:
    assert silent(f"Check('a', UNKNOWN, text{hint})") == ["text"]
    assert not silent(f"Check('a', OK, text{hint})")
    assert not silent("Check('a', CRITICAL, text, hint=error.hint or INCIDENT)")
    assert not silent("Check('a', status, text, None, '', *limits, HINT)")


def test_every_check_that_may_be_bad_says_the_next_step() -> None:
    sources = sorted((ROOT / "plugins").rglob("*.py"))
    assert sum(len(list(calls(ast.parse(path.read_text())))) for path in sources) > 200
    assert not {str(path): found for path in sources if (found := silent(path.read_text()))}


def test_every_playbook_that_is_named_is_there() -> None:
    missing, found = {}, 0
    for folder in ("plugins", "roles", "inventories", "playbooks"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yml", ".j2", ".md"):
                for match in NAMED.finditer(path.read_text()):
                    found += 1
                    place = f"roles/{match[3]}" if match[3] else f"playbooks/{match[1] or match[2]}.yml"
                    if not (ROOT / place).exists():
                        missing[str(path.relative_to(ROOT))] = place
    assert found > 40 and not missing
