# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units of all routine tasks of the production inventory, as systemd reads them."""

from __future__ import annotations

import json
import re
import subprocess
import typing as t
from pathlib import Path

import jinja2
import pytest
import yaml
from ansible_collections.fileforge.ops.plugins.filter.routine_schedule import routine_schedule
from ansible_collections.fileforge.ops.plugins.filter.systemd_argv import systemd_argv

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/routine_tasks"
MARKER = yaml.safe_load((ROLE / "vars/main.yml").read_text())["__routine_tasks_marker"]
INVENTORY = yaml.safe_load((ROOT / "inventories/production/group_vars/all/schedule.yml").read_text())
OPTIONS: dict[str, t.Any] = {
    "__routine_tasks_marker": MARKER,
    "__routine_tasks_state": "fileforge-ops",
    "routine_tasks_on_failure": "tell-someone@%n.service",
    "routine_tasks_user": "root",
    "routine_tasks_project": "/",
    "routine_tasks_environment_file": "/etc/fileforge/ops.env",
    "routine_tasks_vault_password_file": "/etc/fileforge/vault-password",
    "routine_tasks_environment": {"NOTE": '50% of $HOME, "quoted" \\ it\'s'},
    "routine_tasks_command": "/bin/true",
    "routine_tasks_inventory": "inventories/production",
    "routine_tasks_run_timeout": 3600,
    "routine_tasks_delay": 300,
    "routine_tasks_writable": ["/srv/with space"],
}


def render(name: str, task: dict[str, t.Any]) -> str:
    """The template as Ansible renders it."""
    engine = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined, autoescape=False)
    engine.filters["fileforge.ops.systemd_argv"] = systemd_argv
    engine.filters["to_json"] = lambda value, sort_keys=False: json.dumps(value, sort_keys=sort_keys)
    return engine.from_string((ROLE / "templates" / name).read_text()).render(OPTIONS, routine_tasks_item=task)


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("units")
    strange = {**INVENTORY["fileforge_routine_tasks"][0], "key": "strange", "extra_vars": {"note": '100% $HOME "x" \\ it\'s\n'}}
    for task in routine_schedule([*INVENTORY["fileforge_routine_tasks"], strange]):
        for kind in ("service", "timer"):
            (place / f"{task['unit']}.{kind}").write_text(render(f"{kind}.j2", task))
    return place


def test_systemd_accepts_every_unit(units: Path) -> None:
    paths = sorted(str(path) for path in units.iterdir())
    argv = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *paths]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "fileforge-" in line]
    assert not ours and done.returncode == 0, done.stdout + done.stderr
    assert len(paths) == 2 * (len(INVENTORY["fileforge_routine_tasks"]) + 1)


def test_systemd_would_say_what_is_wrong(units: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "fileforge-wrong.timer"
    wrong.write_text((units / "fileforge-log-review.timer").read_text().replace("*-*-*", "*-*-x"))
    argv = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(wrong)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert "fileforge-wrong.timer" in done.stdout + done.stderr


def test_each_is_marked_hardened_owned_and_bounded(units: Path) -> None:
    for path in units.glob("*.service"):
        text = path.read_text()
        assert text.startswith(MARKER)
        for line in ("Type=oneshot", "NoNewPrivileges=true", "ProtectSystem=strict", "CapabilityBoundingSet=", "UMask=0077"):
            assert f"\n{line}\n" in text
        assert "\nX-Owner=" in text and "\nTimeoutStartSec=" in text
        assert "\nEnvironmentFile=/etc/fileforge/ops.env\n" in text
        assert "\nLoadCredential=vault-password:/etc/fileforge/vault-password\n" in text
    for path in units.glob("*.timer"):
        text = path.read_text()
        assert text.startswith(MARKER) and "\nPersistent=true\n" in text and "\nRandomizedDelaySec=300\n" in text


def test_what_the_inventory_keeps_on_the_controller_lies_where_the_units_may_write(units: Path) -> None:
    """Homes are read-only to them, so each directory is one of those that the environment moves into the state directory."""
    found = []
    for path in (ROOT / "inventories/production/group_vars/all").glob("*.yml"):
        for name, value in yaml.safe_load(path.read_text()).items():
            if name.endswith("_directory") and "~/" in str(value):
                moved = re.search(r"lookup\('ansible\.builtin\.env', '(\w+)'\)", str(value))
                assert moved, f"{name} is in a home"
                found.append(moved[1])
    assert len(found) >= 3
    for unit in units.glob("*.service"):
        for variable in found:
            assert f"\nEnvironment={variable}=%S/fileforge-ops/" in unit.read_text(), unit.name


def test_every_task_has_a_playbook() -> None:
    """Under the name that people and AWX use, and by its full name."""
    missing = [
        task["playbook"] for task in INVENTORY["fileforge_routine_tasks"] if not (ROOT / "playbooks" / task["playbook"]).exists()
    ]
    assert not missing
