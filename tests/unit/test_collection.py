# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold for every part of the collection: documentation, tests, groups, wrappers, no shell."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "plugins/modules").glob("*.py"))
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
PLAYBOOKS = sorted((ROOT / "playbooks").glob("*.yml"))
CONNECTIONS = ("postgres", "s3", "kube", "redis", "prometheus")


def strings_of(module: Path) -> dict[str, str]:
    """The module's DOCUMENTATION, EXAMPLES and RETURN as text, without importing it."""
    found = {}
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            found[node.targets[0].id] = node.value.value
    return found


def by_name(paths: list[Path]) -> dict[str, object]:
    return {"argvalues": paths, "ids": [path.stem for path in paths]}


def test_there_is_something_to_check() -> None:
    assert len(MODULES) >= 8
    assert len(ROLES) >= 6
    assert len(PLAYBOOKS) >= 7


@pytest.mark.parametrize("module", **by_name(MODULES))
def test_module_is_documented(module: Path) -> None:
    strings = strings_of(module)
    documentation = yaml.safe_load(strings["DOCUMENTATION"])
    assert documentation["module"] == module.stem
    assert any(name.startswith("fileforge.ops.attributes") for name in documentation["extends_documentation_fragment"])
    tasks = yaml.safe_load(strings["EXAMPLES"])
    assert any(f"fileforge.ops.{module.stem}" in task for task in tasks), "no example calls the module by its full name"
    assert yaml.safe_load(strings["RETURN"])


@pytest.mark.parametrize("module", **by_name(MODULES))
@pytest.mark.parametrize("kind", ["unit/plugins/modules", "integration"])
def test_module_has_tests(module: Path, kind: str) -> None:
    test = ROOT / "tests" / kind / f"test_{module.stem}.py"
    assert test.exists()
    assert re.search(r"^def test_|^    def test_", test.read_text(), re.MULTILINE)


@pytest.mark.parametrize("module", **by_name(MODULES))
def test_module_is_in_the_action_groups_of_its_connections(module: Path) -> None:
    groups = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())["action_groups"]
    fragments = yaml.safe_load(strings_of(module)["DOCUMENTATION"])["extends_documentation_fragment"]
    for name in CONNECTIONS:
        assert (f"fileforge.ops.{name}" in fragments) == (module.stem in groups[name]), name


@pytest.mark.parametrize("role", **by_name(ROLES))
def test_role_defaults_are_its_argument_specs(role: Path) -> None:
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]
    declared = {name: option for entry in specs.values() for name, option in (entry.get("options") or {}).items()}
    defaults_file = role / "defaults/main.yml"
    defaults = (yaml.safe_load(defaults_file.read_text()) or {}) if defaults_file.exists() else {}
    assert set(defaults) <= set(declared)
    for name, option in declared.items():
        assert name.startswith(f"{role.name}_")
        assert option.get("type") and option.get("description"), name
        own = name in defaults and "default(omit)" not in str(defaults[name])
        assert bool(option.get("required")) != own, f"{name}: required options have at most the inventory's value, others a default"
        # A default from the inventory stays out of the spec: Ansible would resolve it for users who give the option themselves.
        from_inventory = "fileforge_" in str(defaults.get(name))
        assert option.get("default") == (None if from_inventory else defaults.get(name)), name


def tasks_in(node: object) -> list[dict[str, object]]:
    """Every mapping in a YAML tree."""
    if isinstance(node, list):
        return [task for item in node for task in tasks_in(item)]
    if isinstance(node, dict):
        return [node] + [task for value in node.values() for task in tasks_in(value)]
    return []


@pytest.mark.parametrize("path", sorted([*ROOT.glob("roles/**/*.yml"), *PLAYBOOKS]), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_shell_or_command(path: Path) -> None:
    for task in tasks_in(yaml.safe_load(path.read_text())):
        assert not {"shell", "command", "raw"} & {str(key).rsplit(".", 1)[-1] for key in task if str(key).startswith("ansible.")}
        assert not {"shell", "command", "raw"} & set(task)


@pytest.mark.parametrize("playbook", **by_name([path for path in PLAYBOOKS if "-" in path.stem]))
def test_wrapper_imports_its_addressable_twin(playbook: Path) -> None:
    twin = playbook.stem.replace("-", "_")
    assert (playbook.parent / f"{twin}.yml").exists()
    plays = yaml.safe_load(playbook.read_text())
    assert [play["import_playbook"] for play in plays] == [f"fileforge.ops.{twin}"]


# How AWX knows a playbook: by any of its lines, and up to version 21 without the full name of import_playbook.
AWX_PLAYBOOK = re.compile(r"^\s*?-?\s*?(?:hosts|include|import_playbook):\s*?.*?$")


@pytest.mark.parametrize("playbook", **by_name(PLAYBOOKS))
def test_awx_lists_every_playbook(playbook: Path) -> None:
    assert any(AWX_PLAYBOOK.match(line) for line in playbook.read_text().splitlines())


def test_both_inventories_define_the_same_variables() -> None:
    names = {}
    for inventory in ("lab", "production"):
        names[inventory] = {
            name
            for path in (ROOT / "inventories" / inventory).glob("group_vars/all/*.yml")
            for name in yaml.safe_load(path.read_text()) or {}
            if name.startswith("fileforge_") and not name.startswith("fileforge_lab")
        }
    assert names["lab"] == names["production"]


def test_every_variable_of_the_production_inventory_is_explained() -> None:
    for path in (ROOT / "inventories/production/group_vars/all").glob("*.yml"):
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            if re.match(r"fileforge_\w+:", line):
                assert number and lines[number - 1].startswith("#"), f"{path.name}:{number + 1}: {line}"


DISTRIBUTIONS = {"botocore": "boto3", "prometheus_client": "prometheus-client", "yaml": "PyYAML"}
"""Names of packages that are not those of what is imported from them."""


def imported(node: ast.AST) -> list[tuple[str, tuple[int, ...]]]:
    """What a statement imports, or a call imports when it is needed, with the oldest version that will do."""
    if isinstance(node, ast.Import):
        return [(alias.name, ()) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [(str(node.module), ())]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("require_library", "importlib.import_module"):
        minimum = next((ast.literal_eval(item.value) for item in node.keywords if item.arg == "minimum"), ())
        return [(node.args[0].value, minimum)] if isinstance(node.args[0], ast.Constant) else []
    return []


def libraries() -> dict[str, tuple[int, ...]]:
    """Every library that the plugins use, by the name of its package."""
    found: dict[str, tuple[int, ...]] = {}
    for path in (ROOT / "plugins").rglob("*.py"):
        for name, minimum in [item for node in ast.walk(ast.parse(path.read_text())) for item in imported(node)]:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top not in ("ansible", "ansible_collections"):
                package = DISTRIBUTIONS.get(top, top)
                found[package] = max(minimum, found.get(package, ()))
    return found


def test_an_execution_environment_has_every_library() -> None:
    place = yaml.safe_load((ROOT / "meta/execution-environment.yml").read_text())["dependencies"]
    named = {}
    for line in (ROOT / place["python"]).read_text().splitlines():
        name, _sign, version = line.partition(">=")
        named[name.partition("[")[0]] = tuple(int(part) for part in version.split(".") if part)
    assert named == libraries()
    system = (ROOT / place["system"]).read_text()
    for program in ("git", "openssh-client", "openssh-clients"):
        assert re.search(rf"^{program} \[platform:", system, re.MULTILINE)


def test_the_artifact_holds_what_users_need_and_nothing_else(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "ansible-galaxy"
    done = subprocess.run(
        [program, "collection", "build", ROOT, "--output-path", tmp_path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    [artifact] = tmp_path.glob("*.tar.gz")
    with tarfile.open(artifact) as archive:
        files = {member.name for member in archive.getmembers() if member.isfile()}
    assert {name.partition("/")[0] for name in files} == {
        *("CONTRIBUTING.md", "FILES.json", "LICENSE", "MANIFEST.json", "README.md"),
        *("changelogs", "docs", "inventories", "meta", "playbooks", "plugins", "requirements", "roles"),
    }
    assert {name.split("/")[1] for name in files if name.startswith("inventories/")} == {"production"}
    needed = [
        path
        for place in ("docs", "inventories/production", "meta", "playbooks", "plugins", "roles")
        for path in (ROOT / place).rglob("*")
    ]
    names = {str(path.relative_to(ROOT)) for path in needed if path.is_file() and path.suffix != ".pyc"}
    assert names <= files, "what users need"
