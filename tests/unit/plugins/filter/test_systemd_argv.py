# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Words for unit files: what systemd reads back is what was given."""

from __future__ import annotations

import re

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.fileforge.ops.plugins.filter.systemd_argv import systemd_argv
from hypothesis import given
from hypothesis import strategies as some


def read(line: str) -> list[str]:
    """The words as systemd.syntax(7) says that they are read: quotes, escapes, then specifiers and variables."""
    words = re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', line)
    escapes = {'"': '"', "\\": "\\"}
    found = []
    for quoted, plain in words:
        word = re.sub(r"\\(?:x([0-9a-f]{2})|(.))", lambda hit: chr(int(hit[1], 16)) if hit[1] else escapes[hit[2]], quoted or plain)
        assert not re.search(r"(?<!%)%(%%)*(?!%)", word), "a specifier"
        found.append(word.replace("%%", "%").replace("$$", "$"))
    return found


@given(some.lists(some.text(some.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)))
def test_words_come_back(words: list[str]) -> None:
    line = systemd_argv(words)
    assert "\n" not in line and "\r" not in line
    assert read(line) == words


def test_plain_words_stay_readable_and_variables_are_for_commands_only() -> None:
    assert systemd_argv(["/usr/bin/ansible-playbook", "-i", "inventories/production"]) == (
        "/usr/bin/ansible-playbook -i inventories/production"
    )
    assert systemd_argv(["A=$b c"], False) == '"A=$b c"'
    assert systemd_argv(["$b"]) == '"$$b"'
    assert systemd_argv([""]) == '""'


@pytest.mark.parametrize("words", ["text", 3, ["a\0b"]])
def test_what_cannot_be_words(words: object) -> None:
    with pytest.raises(AnsibleFilterError, match="systemd_argv"):
        systemd_argv(words)  # type: ignore[arg-type]
