# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around the index engine: its options reach the engine, its result reaches Ansible."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest
import yaml
from ansible_collections.fileforge.ops.plugins.module_utils import _argspec
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_plan import RebuildOptions, Wanted
from ansible_collections.fileforge.ops.plugins.modules import postgres_index_rebuild as module

NAMED = {"name": "i", "schema": "s", "table": "t", "definition": "(a)", "unique": True, "force": False}


class Ansible:
    """As much of AnsibleModule as the module uses."""

    def __init__(self, check_mode: bool = False, **changes: t.Any) -> None:
        spec = _argspec.merge(module.SPEC, _argspec.POSTGRES, _argspec.PLANNED, _argspec.PROGRESS)
        self.params = {name: option.get("default") for name, option in spec.items()}
        self.params.update(changes)
        self.check_mode = check_mode
        self.warnings: list[str] = []
        self.warn = self.warnings.append


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[t.Any, ...]]:
    found: list[tuple[t.Any, ...]] = []

    def run_rebuild(postgres: t.Any, options: RebuildOptions, **rest: t.Any) -> dict[str, t.Any]:
        found.append((postgres, options, rest))
        return {"changed": True, "warnings": ["look here"]}

    monkeypatch.setattr(module, "run_rebuild", run_rebuild)
    return found


def test_every_option_reaches_the_engine(runs: list[tuple[t.Any, ...]]) -> None:
    given: dict[str, t.Any] = {
        "indexes": [NAMED],
        "only": True,
        "schemas": ["s"],
        "bloat": "exact",
        "bloat_percent": 40.0,
        "bloat_min_bytes": 5,
        "jobs": 2,
        "window": 7,
        "lock_timeout": 1.5,
        "attempts": 2,
        "require_space": True,
        "maintenance_work_mem": "1GB",
        "verify": False,
        "heapallindexed": False,
        "create_extension": True,
    }
    assert set(given) == set(module.SPEC)
    ansible = Ansible(check_mode=True, postgres_port=5433, plan_digest="abc", progress_file="/tmp/p", **given)
    assert module.run(ansible) == {"changed": True}
    ((postgres, options, rest),) = runs
    assert dataclasses.asdict(options) == {**given, "indexes": (NAMED,), "schemas": ("s",)}
    assert postgres.port == 5433
    assert (rest["check_mode"], rest["plan_digest"], rest["progress"]._path) == (True, "abc", "/tmp/p")
    assert ansible.warnings == ["look here"]


def test_defaults_are_those_of_the_engine_and_of_the_documentation() -> None:
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    assert set(documented) == set(module.SPEC)
    for field in dataclasses.fields(RebuildOptions):
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        assert module.SPEC[field.name].get("default") == default == documented[field.name].get("default")
    assert set(documented["indexes"]["suboptions"]) == {field.name for field in dataclasses.fields(Wanted)}


def test_reasons_of_refusals_are_documented() -> None:
    """Each word that the engine gives as the reason of a refusal stands in the documentation."""
    import ast
    from pathlib import Path

    from ansible_collections.fileforge.ops.plugins.module_utils._postgres import index_run

    found = set()
    for path in Path(index_run.__file__).parent.glob("index_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refused" and isinstance(node.args[0], ast.Constant):
                found.add(node.args[0].value)
    assert len(found) > 5
    documented = str(yaml.safe_load(module.RETURN)["reason"]["description"])
    assert {reason for reason in found if f"V({reason})" not in documented} == set()
