# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks, roles and inventories fit together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
PLAYBOOKS = sorted((ROOT / "playbooks").glob("*.yml"))
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
RESTORING = ("db_restore", "dr_restore")


def ansible(program: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ANSIBLE_CALLBACKS_ENABLED": "ansible.builtin.default", "ANSIBLE_NOCOLOR": "true", **env}
    return subprocess.run(
        [str(PROGRAMS / program), *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, env=environment, check=False
    )


def tasks_of(node: t.Any) -> t.Iterator[dict[str, t.Any]]:
    """Every task below a node, also in blocks."""
    if isinstance(node, list):
        for item in node:
            yield from tasks_of(item)
    elif isinstance(node, dict):
        yield node
        for key in ("tasks", "block", "rescue", "always", "pre_tasks", "post_tasks"):
            yield from tasks_of(node.get(key, []))


@pytest.mark.parametrize("inventory", ["lab", "production"])
def test_syntax(inventory: str) -> None:
    done = ansible("ansible-playbook", "--syntax-check", "-i", f"inventories/{inventory}", *[str(path) for path in PLAYBOOKS])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["db-restore", "dr-restore", "dr-drill"])
def test_runbook_names(name: str) -> None:
    [play] = yaml.safe_load((ROOT / f"playbooks/{name}.yml").read_text())
    assert play["import_playbook"] == f"fileforge.ops.{name.replace('-', '_')}"


def test_playbooks_are_found_by_their_full_names() -> None:
    names = [f"fileforge.ops.{path.stem}" for path in PLAYBOOKS if "-" not in path.stem]
    done = ansible("ansible-playbook", "--syntax-check", "-i", "inventories/production", *names)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("role", ROLES, ids=lambda path: path.name)
def test_defaults_are_what_the_argument_specs_say(role: Path) -> None:
    """A default that comes from the inventory is not repeated there: it would be resolved even when the option is given."""
    defaults = yaml.safe_load((role / "defaults/main.yml").read_text())
    own = {name: value for name, value in defaults.items() if "{{ fileforge_" not in str(value)}
    for entry in yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"].values():
        declared = {name: option["default"] for name, option in entry["options"].items() if "default" in option}
        optional = {name: value for name, value in own.items() if name in declared or "{{" not in str(value)}
        assert declared == optional


@pytest.mark.parametrize("role", ROLES, ids=lambda path: path.name)
def test_each_entry_point_is_specified_and_each_variable_is_in_the_readme(role: Path) -> None:
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]
    assert set(specs) <= {path.stem for path in (role / "tasks").glob("*.yml")}
    readme = (role / "README.md").read_text()
    for name in specs["main"]["options"]:
        assert f"`{name}`" in readme


@pytest.mark.parametrize("path", sorted(ROOT.glob("roles/*/tasks/*.yml")), ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_roles_use_full_names_and_name_their_tasks(path: Path) -> None:
    for task in tasks_of(yaml.safe_load(path.read_text())):
        assert task.get("name"), task
        modules = [key for key in task if "." in key]
        assert len(modules) == 1 or "block" in task, task


def test_what_restores_is_planned_and_confirmed_before() -> None:
    """In each restoring playbook or role the gate stands between plan and deed."""
    for role in ("postgres_restore", "files_restore", "config_restore"):
        tasks = yaml.safe_load((ROOT / f"roles/{role}/tasks/main.yml").read_text())
        order = [str(task.get("ansible.builtin.include_tasks", "gate")) for task in tasks]
        assert order == ["plan.yml", "gate", "apply.yml"]
        assert f"{role}_plan_digest" in tasks[2]["vars"]
    plays = yaml.safe_load((ROOT / "playbooks/dr_restore.yml").read_text())
    kinds = []
    for task in tasks_of(plays):
        if "fileforge.ops.gate" in task:
            kinds.append("gate")
        elif "ansible.builtin.include_role" in task:
            kinds.append(task["ansible.builtin.include_role"].get("tasks_from", "main"))
    assert kinds == ["plan"] * 4 + ["gate"] + ["apply"] * 4
    for play in plays[3:]:
        guard = play["tasks"][0]["ansible.builtin.assert"]
        assert guard["that"] == "hostvars[restore_application_hosts[0]].restore_gate is defined", "a limit may leave the gate out"
    assert all(play["any_errors_fatal"] is True for play in plays)


ROLE_INPUT = {
    "postgres_restore_target_time": "latest",
    "app_restart_id": "x",
}


def values_of(role: Path) -> dict[str, t.Any]:
    """A play that shows all of a role's defaults as the inventory fills them."""
    defaults = yaml.safe_load((role / "defaults/main.yml").read_text())
    values = "{" + ", ".join(f"'{name}': {name}" for name in defaults) + "}"
    return {
        "name": role.name,
        "hosts": "db1",
        "connection": "local",
        "gather_facts": False,
        "vars": ROLE_INPUT,
        "vars_files": [str(role / "defaults/main.yml")],
        "tasks": [{"name": "Show", "ansible.builtin.debug": {"msg": f"{{{{ '{role.name} ' ~ ({values} | to_json) }}}}"}}],
    }


@pytest.fixture(scope="module")
def values_in_production(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, t.Any]]:
    """The defaults of all roles, by one run of Ansible."""
    playbook = tmp_path_factory.mktemp("values") / "plays.json"
    playbook.write_text(json.dumps([values_of(role) for role in ROLES]))
    argv = ["ansible-playbook", "-i", "inventories/production", str(playbook)]
    done = ansible(*argv, FILEFORGE_CONFIG_COMMIT="0" * 40, ANSIBLE_CALLBACK_RESULT_FORMAT="json")
    assert done.returncode == 0, done.stdout + done.stderr
    shown = [json.loads(f"{{{line}}}")["msg"].partition(" ") for line in done.stdout.splitlines() if line.startswith('    "msg": ')]
    return {name: json.loads(values) for name, _blank, values in shown}


@pytest.mark.parametrize("role", ROLES, ids=lambda path: path.name)
def test_the_production_inventory_gives_every_role_what_it_needs(
    role: Path, values_in_production: dict[str, dict[str, t.Any]]
) -> None:
    """The defaults' templates hold with nothing but the inventory, and keep their types."""
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    kinds = {"str": str, "path": str, "int": int, "float": (int, float), "bool": bool, "dict": dict, "list": list}
    values = values_in_production[role.name]
    assert set(values) == set(yaml.safe_load((role / "defaults/main.yml").read_text()))
    for name, value in values.items():
        assert isinstance(value, kinds[specs[name]["type"]]), (name, value)


ASKS = {
    "app_restart": ["id", "namespace", "workloads"],
    "backup_policy": ["s3"],
    "backup_verify": ["directory", "s3"],
    "capacity_planning": ["prometheus", "resources"],
    "certificates": ["list"],
    "config_backup": ["repository", "s3"],
    "config_restore": ["checkout", "commit", "repository"],
    "files_backup": ["path", "s3"],
    "files_restore": ["path", "s3"],
    "log_rotation": ["stanzas"],
    "monitoring": ["rules_directory", "thresholds"],
    "penetration_test": ["targets"],
    "postgres_backup": ["s3"],
    "postgres_restore": ["data_directory", "s3", "target_time"],
    "routine_tasks": ["command", "inventory", "list", "project", "user"],
}
"""What each role cannot know without an inventory; the others need nothing."""
LOOKING = ("log_review", "ssl_check", "security_patch_review")
"""Entry points of routine_tasks that schedule nothing."""


def lacking(role: Path, entry: str) -> list[str]:
    """What the entry point says when nothing but the role's own defaults is there, as Ansible validates it."""
    loader = DataLoader()
    options = loader.load_from_file(str(role / "meta/argument_specs.yml"))["argument_specs"][entry]["options"]
    defaults = loader.load_from_file(str(role / "defaults/main.yml"), trusted_as_template=True)
    variables = {name: value for name, value in defaults.items() if "lookup(" not in str(value)}
    values = {name: variables[name] for name in options if name in variables}
    given = Templar(loader, {"ansible_play_hosts_all": ["db1"], **variables}).template(values)
    return list(ArgumentSpecValidator(options).validate(given, validate_role_argument_spec=True).error_messages)


@pytest.mark.parametrize("role", ROLES, ids=lambda path: path.name)
def test_without_the_inventory_a_role_asks_for_what_it_cannot_know(role: Path) -> None:
    for entry in yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]:
        asks = [] if entry in LOOKING else ASKS.get(role.name, [])
        expected = [f"missing required arguments: {', '.join(f'{role.name}_{name}' for name in asks)}"] if asks else []
        assert lacking(role, entry) == expected, entry


def test_no_secret_is_written_into_an_inventory() -> None:
    for path in (ROOT / "inventories").glob("*/group_vars/all/*.yml"):
        for line in path.read_text().splitlines():
            name, _unused, value = line.strip().partition(":")
            if name.endswith(("password", "_key", "token", "secret")) and not name.startswith("#"):
                assert "lookup('ansible.builtin.env'" in value or "lab." in value, f"{path}: {line}"
