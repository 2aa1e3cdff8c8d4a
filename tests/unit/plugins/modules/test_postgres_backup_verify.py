# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around the verification: its options reach the engine."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest
import yaml
from ansible_collections.fileforge.ops.plugins.module_utils import _argspec
from ansible_collections.fileforge.ops.plugins.module_utils._backup.verifications import KINDS
from ansible_collections.fileforge.ops.plugins.module_utils._backup.verify_common import VerifyOptions
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.verify import Assertion
from ansible_collections.fileforge.ops.plugins.modules import postgres_backup_verify as module


def params(**changes: t.Any) -> dict[str, t.Any]:
    spec = _argspec.merge(module.SPEC, _argspec.S3, _argspec.PROGRESS)
    values = {name: option.get("default") for name, option in spec.items()}
    return {**values, "s3_bucket": "bucket", "scratch_directory": "/var/lib/verify", **changes}


def test_every_option_reaches_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, t.Any] = {
        "kind": "base",
        "backup": "2026-11-23-1405",
        "prefix": "p/",
        "target_time": "2026-11-23T14:05:00Z",
        "scratch_directory": "/var/lib/verify",
        "database": "app",
        "minimum_rows": {"files": "3"},
        "assertions": [{"name": "a", "query": "SELECT 1", "equals": "1", "minimum": None, "maximum": None}],
        "amcheck": False,
        "heapallindexed": False,
        "page_checksums": False,
        "owner": "pg",
        "bin_directory": "/bin",
        "program_interpreter": "/usr/bin/python",
        "server_options": ["a=b"],
        "jobs": 3,
        "timeout": 4,
        "rto": 5,
        "max_age": 6,
        "record": False,
    }
    assert set(given) == set(module.SPEC)
    runs: list[t.Any] = []
    monkeypatch.setattr(module, "run_verify", lambda *positional, **named: runs.append((positional, named)) or {"changed": False})
    ansible = type("Ansible", (), {"params": params(**given, progress_file="/tmp/p"), "check_mode": True})
    assert module.run(ansible) == {"changed": False}
    (((store, options), rest),) = runs
    expected = {**given, "minimum_rows": {"files": 3}, "assertions": (Assertion("a", "SELECT 1", "1"),), "server_options": ("a=b",)}
    assert {field.name: getattr(options, field.name) for field in dataclasses.fields(options)} == expected
    assert (store.bucket, rest["check_mode"], rest["progress"]._path) == ("bucket", True, "/tmp/p")


@pytest.mark.parametrize("wrong", [{"minimum_rows": {"files": "many"}}, {"assertions": [{"name": "a", "query": "SELECT 1"}]}])
def test_wrong_options(wrong: dict[str, t.Any]) -> None:
    with pytest.raises(InvalidOption):
        module.options_of(params(**wrong))


def test_defaults_are_those_of_the_engine_and_of_the_documentation() -> None:
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    assert set(documented) == set(module.SPEC)
    assert documented["kind"]["choices"] == module.SPEC["kind"]["choices"] == list(KINDS)
    engine = VerifyOptions("/var/lib/verify")
    options = module.options_of(params(jobs=2))
    assert options == engine
    for name, spec in module.SPEC.items():
        assert spec.get("default") == documented[name].get("default"), name
