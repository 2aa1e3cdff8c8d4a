# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around the tree engine: its options reach the engine, its result reaches Ansible."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest
import yaml
from ansible_collections.fileforge.ops.plugins.module_utils import _argspec
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.tree import TreeOptions
from ansible_collections.fileforge.ops.plugins.modules import s3_tree as module


class Ansible:
    """As much of AnsibleModule as the module uses."""

    def __init__(self, check_mode: bool = False, **changes: t.Any) -> None:
        spec = _argspec.merge(module.SPEC, _argspec.S3, _argspec.PLANNED, _argspec.PROGRESS)
        self.params = {name: option.get("default") for name, option in spec.items()}
        self.params.update({"s3_bucket": "bucket", "path": "/srv/tree", **changes})
        self.check_mode = check_mode
        self.warnings: list[str] = []
        self.warn = self.warnings.append


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[t.Any, ...]]:
    found: list[tuple[t.Any, ...]] = []

    def run_tree(store: t.Any, options: TreeOptions, **rest: t.Any) -> dict[str, t.Any]:
        found.append((store, options, rest))
        return {"changed": True, "warnings": ["look here"]}

    monkeypatch.setattr(module, "run_tree", run_tree)
    return found


def test_every_option_reaches_the_engine(runs: list[tuple[t.Any, ...]]) -> None:
    given: dict[str, t.Any] = {
        "path": "/srv/other",
        "prefix": "p",
        "direction": "push",
        "delete": True,
        "max_delete_percent": 5.0,
        "allow_empty": True,
        "aside": "/srv/aside",
        "jobs": 3,
        "owner": "root",
        "group": "root",
        "verify": True,
        "keep_objects": "auto",
    }
    assert set(given) == set(module.SPEC)
    ansible = Ansible(check_mode=True, s3_endpoint="http://s3.example", plan_digest="abc", progress_file="/tmp/p", **given)
    assert module.run(ansible) == {"changed": True}
    ((store, options, rest),) = runs
    assert dataclasses.asdict(options) == given
    assert (store.bucket, store.options.endpoint) == ("bucket", "http://s3.example")
    assert (rest["check_mode"], rest["plan_digest"], rest["progress"]._path) == (True, "abc", "/tmp/p")
    assert ansible.warnings == ["look here"]


def test_bad_options_are_refused_before_connecting(runs: list[tuple[t.Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Store", lambda *args, **kwargs: pytest.fail("connected"))
    with pytest.raises(InvalidOption):
        module.run(Ansible(jobs=0))
    assert not runs


def test_defaults_are_those_of_the_engine_and_of_the_documentation() -> None:
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    assert set(documented) == set(module.SPEC)
    for field in dataclasses.fields(TreeOptions):
        if field.name != "path":
            assert module.SPEC[field.name].get("default") == field.default == documented[field.name].get("default")
