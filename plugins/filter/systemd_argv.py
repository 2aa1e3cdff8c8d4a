# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes a command for a unit file of systemd."""

from __future__ import annotations

DOCUMENTATION = r"""
name: systemd_argv
short_description: Write words for a unit file of systemd
version_added: 1.0.0
author: FileForge operations (@fileforge)
description:
  - Writes words, such as a command and its arguments, so that C(ExecStart) or C(Environment) of systemd reads exactly these words.
    Nothing in them is a specifier or a quote, and, with O(variables) false, nothing a variable.
positional: _input
options:
  _input:
    description: The words.
    type: list
    elements: str
    required: true
  variables:
    description: Whether V($) means a variable where the words stand, as in C(ExecStart), so that it is written twice.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Show a command
  ansible.builtin.debug:
    msg: "ExecStart={{ ['/usr/bin/printf', '100% of $HOME'] | fileforge.ops.systemd_argv }}"
"""

RETURN = r"""
_value:
  description: The words with spaces between.
  type: str
"""

import re
import typing as t

from ansible.errors import AnsibleFilterError

PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./-]+")


def systemd_argv(words: t.Sequence[t.Any], variables: bool = True) -> str:
    """The words in one line, as systemd.syntax(7) and systemd.service(5) quote them."""
    if isinstance(words, (str, bytes)) or not isinstance(words, t.Sequence):
        raise AnsibleFilterError(f"fileforge.ops.systemd_argv: not a list of words: {words!r}")
    return " ".join(_word(str(word), variables) for word in words)


def _word(word: str, variables: bool) -> str:
    if "\0" in word:
        raise AnsibleFilterError("fileforge.ops.systemd_argv: a word with a zero byte cannot be an argument")
    if PLAIN.fullmatch(word):
        return word
    safe = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    safe = safe.replace("$", "$$") if variables else safe
    return '"' + re.sub(r"[\x01-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", safe) + '"'


class FilterModule:
    """What this file offers."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"systemd_argv": systemd_argv}
