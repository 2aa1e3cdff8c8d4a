# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around the engine of dumps: its options reach the engine, its result reaches Ansible."""

from __future__ import annotations

import dataclasses
import os
import typing as t

import pytest
import yaml
from ansible_collections.fileforge.ops.plugins.module_utils import _argspec
from ansible_collections.fileforge.ops.plugins.module_utils._backup.dump import DumpOptions
from ansible_collections.fileforge.ops.plugins.module_utils._backup.dumps import FORMATS
from ansible_collections.fileforge.ops.plugins.modules import postgres_dump as module


class Ansible:
    """As much of AnsibleModule as the module uses."""

    def __init__(self, check_mode: bool = False, **changes: t.Any) -> None:
        spec = _argspec.merge(module.SPEC, _argspec.S3, _argspec.POSTGRES, _argspec.PROGRESS)
        self.params = {name: option.get("default") for name, option in spec.items()}
        self.params.update({"s3_bucket": "bucket", **changes})
        self.check_mode = check_mode
        self.warnings: list[str] = []
        self.warn = self.warnings.append


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[t.Any, ...]]:
    found: list[tuple[t.Any, ...]] = []

    def run_dump(store: t.Any, postgres: t.Any, options: DumpOptions, **rest: t.Any) -> dict[str, t.Any]:
        found.append((store, postgres, options, rest))
        return {"changed": True, "warnings": ["look here"]}

    monkeypatch.setattr(module, "run_dump", run_dump)
    return found


def test_every_option_reaches_the_engine(runs: list[tuple[t.Any, ...]]) -> None:
    given: dict[str, t.Any] = {
        "prefix": "p/",
        "format": "directory",
        "max_age": 5,
        "jobs": 3,
        "compression_level": 6,
        "spool_directory": "/spool",
        "bin_directory": "/bin",
        "lock_timeout": 7,
        "timeout": 8,
        "read_back": False,
    }
    assert set(given) == set(module.SPEC)
    ansible = Ansible(check_mode=True, s3_endpoint="http://s3.example", postgres_database="app", progress_file="/tmp/p", **given)
    assert module.run(ansible) == {"changed": True}
    ((store, postgres, options, rest),) = runs
    assert dataclasses.asdict(options) == given
    assert (store.bucket, store.options.endpoint, postgres.database) == ("bucket", "http://s3.example", "app")
    assert (rest["check_mode"], rest["progress"]._path) == (True, "/tmp/p")
    assert ansible.warnings == ["look here"]


@pytest.mark.parametrize(("processors", "jobs"), [(1, 1), (2, 2), (64, 4)])
def test_jobs_follow_the_processors(runs, monkeypatch, processors, jobs) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(processors)))
    module.run(Ansible())
    assert runs[0][2].jobs == jobs


def test_defaults_are_those_of_the_engine_and_of_the_documentation() -> None:
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    assert set(documented) == set(module.SPEC)
    assert documented["format"]["choices"] == module.SPEC["format"]["choices"] == list(FORMATS)
    for field in dataclasses.fields(DumpOptions):
        if field.name != "jobs":
            assert module.SPEC[field.name].get("default") == field.default == documented[field.name].get("default")
