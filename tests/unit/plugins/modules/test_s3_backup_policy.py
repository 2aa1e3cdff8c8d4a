# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around the policy: check mode, digest, the second bucket."""

from __future__ import annotations

import types
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils import _argspec
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, PlanChanged
from ansible_collections.fileforge.ops.plugins.modules import s3_backup_policy as module

from tests.lab.s3_stub import S3Stub


@pytest.fixture
def stub() -> t.Iterator[S3Stub]:
    with S3Stub() as service:
        service.bucket("backups")
        yield service


def fake(stub: S3Stub, check: bool = False, **changes: t.Any) -> t.Any:
    spec = _argspec.merge(module.SPEC, _argspec.S3, _argspec.PLANNED)
    defaults = {name: option.get("default") for name, option in spec.items()}
    return types.SimpleNamespace(params={**defaults, **stub.options("backups"), **changes}, check_mode=check)


def test_check_mode_digest_and_second_run(stub: S3Stub) -> None:
    planned = module.run(fake(stub, check=True))
    assert planned["changed"] and planned["status"] == "critical" and "add_rule" in planned["diff"]["after"]
    assert not [request for request in stub.requests if request[0] != "GET"]
    with pytest.raises(PlanChanged):
        module.run(fake(stub, plan_digest="0" * 16))
    stub.bucket("second")
    replica = {**_defaults(), **stub.options("second")}
    done = module.run(fake(stub, plan_digest=planned["plan"]["digest"], replica=replica))
    assert done["plan"] == planned["plan"] and len(done["rules"]) == 8
    assert {check["id"]: check["status"] for check in done["checks"]}["policy.replica"] == "unknown"
    again = module.run(fake(stub, replication=False))
    assert not again["changed"] and again["status"] == "ok"


def _defaults() -> dict[str, t.Any]:
    return {name: option.get("default") for name, option in _argspec.S3.items()}


def test_wrong_options(stub: S3Stub) -> None:
    with pytest.raises(InvalidOption, match="files_days"):
        module.run(fake(stub, files_days=0))
    assert stub.requests == []


def test_secrets_of_the_second_bucket_are_hidden() -> None:
    hidden = {name for name, option in module.SPEC["replica"]["options"].items() if option.get("no_log")}
    assert hidden == {"s3_access_key", "s3_secret_key", "s3_session_token"}
