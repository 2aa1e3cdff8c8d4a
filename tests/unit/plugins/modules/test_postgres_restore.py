# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around the restore engine: options, documentation, check mode, results."""

from __future__ import annotations

import json
import typing as t

import pytest
import yaml
from ansible.module_utils import basic
from ansible.module_utils.common.text.converters import to_bytes
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore import Outcome
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import Control
from ansible_collections.fileforge.ops.plugins.modules import postgres_restore as module

REQUIRED = {"s3_bucket": "b", "data_directory": "/d/data", "target_time": "latest"}


def params(**changes: t.Any) -> dict[str, t.Any]:
    return {**{name: spec.get("default") for name, spec in module.SPEC.items()}, "plan_digest": None, **REQUIRED, **changes}


def outcome(changed: bool = True) -> Outcome:
    plan = Plan("restore", [Step("fetch", "base/x", bytes=5)] if changed else [])
    return Outcome(
        changed, plan, {"name": "x"}, {"timeline_new": 2}, ["/d/data.before"], [], "/d/data.restored.json", ["careful"], {}
    )


def test_options_reach_the_engine() -> None:
    found = module.options_of(
        params(
            data_directory="/d/./data/",
            control="pg_ctlcluster",
            cluster="15 main",
            server_options=["work_mem=1MB"],
            port=5433,
            jobs=3,
            tablespace_map={"16384": "/x"},
            plan_digest="0123",
            recovery_timeout=1,
            stall_timeout=2,
            start_timeout=3,
        )
    )
    assert found.data_directory == "/d/data"
    assert (found.server.control, found.server.cluster, found.server.port) == (Control.PG_CTLCLUSTER, "15 main", 5433)
    assert found.server.settings == ("work_mem=1MB",)
    assert (found.limits.recovery, found.limits.stall, found.limits.start) == (1, 2, 3)
    assert (found.jobs, found.tablespace_map, found.plan_digest) == (3, {"16384": "/x"}, "0123")


def test_defaults() -> None:
    found = module.options_of(params())
    assert 1 <= found.jobs <= 8
    assert (found.delta, found.keep_old, found.scratch, found.force) == (True, True, False, False)
    assert found.target() is None


@pytest.mark.parametrize("changes", [{"jobs": 0}, {"stall_timeout": 0}, {"control": "systemd"}, {"server_options": ["nonsense"]}])
def test_unusable_options(changes: dict[str, t.Any]) -> None:
    with pytest.raises(InvalidOption):
        module.options_of(params(**changes))


def test_documentation_names_the_options_and_results() -> None:
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    assert documented.keys() == module.SPEC.keys()
    for name, spec in module.SPEC.items():
        assert documented[name].get("default") == spec.get("default"), name
        assert documented[name]["type"] == spec["type"], name
    returned = set(yaml.safe_load(module.RETURN))
    assert set(outcome().as_dict()) - {"changed"} == returned


class Ended(Exception):
    """The module has given its result."""


class FakeRestore:
    called: t.ClassVar[list[str]] = []
    results: t.ClassVar[dict[str, t.Any]] = {}

    def __init__(self, *arguments: object) -> None:
        pass

    def _act(self, name: str) -> Outcome:
        self.called.append(name)
        result = self.results["next"]
        if isinstance(result, Exception):
            raise result
        return t.cast("Outcome", result)

    def check(self) -> Outcome:
        return self._act("check")

    def run(self) -> Outcome:
        return self._act("run")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> t.Callable[..., dict[str, t.Any]]:
    def call(result: Outcome | Exception, **arguments: t.Any) -> dict[str, t.Any]:
        FakeRestore.called.clear()
        FakeRestore.results["next"] = result
        monkeypatch.setattr(module, "Restore", FakeRestore)
        monkeypatch.setattr(basic, "_ANSIBLE_ARGS", to_bytes(json.dumps({"ANSIBLE_MODULE_ARGS": {**REQUIRED, **arguments}})))
        monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy", raising=False)
        warned: list[str] = []  # where controller code was imported too, Ansible shows warnings instead of returning them
        monkeypatch.setattr(basic.AnsibleModule, "warn", lambda _module, text: warned.append(text))
        with pytest.raises(SystemExit):
            module.main()
        return {**json.loads(capsys.readouterr().out), "warnings": warned}

    return call


def test_run_and_check(run: t.Callable[..., dict[str, t.Any]]) -> None:
    result = run(outcome())
    assert FakeRestore.called == ["run"]
    assert (result["changed"], result["plan"]["digest"], result["kept"]) == (True, outcome().plan.digest, ["/d/data.before"])
    assert "careful" in json.dumps(result["warnings"])
    assert "diff" not in result
    result = run(outcome(), _ansible_check_mode=True, _ansible_diff=True)
    assert FakeRestore.called == ["check"]
    assert "fetch" in result["diff"]["after"]
    assert "diff" not in run(outcome(changed=False), _ansible_diff=True)


def test_a_refusal_is_a_failure_with_its_reason(run: t.Callable[..., dict[str, t.Any]]) -> None:
    result = run(Refused("wal_gap", "a segment is missing", hint="look for it"))
    assert (result["failed"], result["reason"], result["msg"], result["hint"]) == (
        True,
        "wal_gap",
        "a segment is missing",
        "look for it",
    )


def test_control_needs_its_name(run: t.Callable[..., dict[str, t.Any]]) -> None:
    assert "service" in run(outcome(), control="systemd")["msg"]
    assert FakeRestore.called == []
