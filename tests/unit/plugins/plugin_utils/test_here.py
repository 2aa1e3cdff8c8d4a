# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a module's work is done in Ansible's own process: only where it would run beside it in the same way."""

from __future__ import annotations

import sys
import types
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.plugin_utils._here import as_sent, runs_here

HOST = {"ansible_python_interpreter": sys.executable}


class Templar:
    def template(self, value: str) -> str:
        return value.replace("{{ ansible_playbook_python }}", sys.executable)


def action(**changes: t.Any) -> t.Any:
    made = {"transport": "local", "become_plugin": None, "become": False, "environment": [], "delegate_to": None, **changes}
    return types.SimpleNamespace(
        _task=types.SimpleNamespace(delegate_to=made["delegate_to"], environment=made["environment"]),
        _connection=types.SimpleNamespace(transport=made["transport"], become=made["become_plugin"]),
        _play_context=types.SimpleNamespace(become=made["become"]),
        _templar=Templar(),
    )


def test_beside_this_process() -> None:
    assert runs_here(action(), HOST) and runs_here(action(environment=[{}, None]), HOST)
    assert runs_here(action(), {"ansible_python_interpreter": "{{ ansible_playbook_python }}"})
    assert runs_here(action(delegate_to="localhost"), {"ansible_delegated_vars": {"localhost": HOST}})


@pytest.mark.parametrize(
    "changes",
    [
        {"transport": "ssh"},
        {"become": True},
        {"become_plugin": object()},
        {"environment": [{"HTTPS_PROXY": "http://proxy:3128"}]},
        {"delegate_to": "db1"},
    ],
)
def test_another_place_user_or_environment(changes: dict[str, t.Any]) -> None:
    assert not runs_here(action(**changes), HOST)


@pytest.mark.parametrize("host", [{}, {"ansible_python_interpreter": "/usr/bin/another"}, {"ansible_python_interpreter": "auto"}])
def test_another_interpreter(host: dict[str, str]) -> None:
    assert not runs_here(action(), host)
    assert not runs_here(action(delegate_to="localhost"), {**HOST, "ansible_delegated_vars": {"localhost": host}})


def test_options_are_plain_values() -> None:
    class Tagged(str):
        """A value of which more is known than its letters."""

    sent = as_sent({"body": {"status": Tagged("ok")}, "times": [1, None]})
    assert sent == {"body": {"status": "ok"}, "times": [1, None]} and not isinstance(sent["body"]["status"], Tagged)
