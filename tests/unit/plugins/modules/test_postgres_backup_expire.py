# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around expiry: options, warnings, and its one error boundary."""

from __future__ import annotations

import types
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils import _argspec
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, PlanChanged
from ansible_collections.fileforge.ops.plugins.modules import postgres_backup_expire as module

from tests.unit.plugins.module_utils.test_expire_run import NOW, Bucket, history


def fake(check: bool = False, **changes: t.Any) -> t.Any:
    spec = _argspec.merge(module.SPEC, _argspec.S3, _argspec.PLANNED)
    params = {**{name: option.get("default") for name, option in spec.items()}, "s3_bucket": "b", **changes}
    warned: list[str] = []
    return types.SimpleNamespace(params=params, check_mode=check, warn=warned.append, warned=warned)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    made = history()
    monkeypatch.setattr(module, "Store", lambda options: made)
    monkeypatch.setattr(module, "now", lambda: NOW)
    return made


def test_check_mode_plans_what_the_run_does(bucket: Bucket) -> None:
    planned = module.run(fake(check=True))
    assert not bucket.deleted and planned["changed"]
    done = module.run(fake(plan_digest=planned["plan"]["digest"]))
    assert done["plan"] == planned["plan"] and bucket.deleted
    assert not module.run(fake())["changed"]


def test_options_reach_the_rules(bucket: Bucket) -> None:
    assert not [item for item in module.run(fake(check=True, keep_days=100))["backups"] if not item["kept"]]
    with pytest.raises(InvalidOption, match="keep_least"):
        module.run(fake(keep_least=0))
    with pytest.raises(PlanChanged):
        module.run(fake(plan_digest="0123456789abcdef"))
    assert not bucket.deleted


def test_what_stops_expiry_is_a_warning(bucket: Bucket) -> None:
    bucket.objects["base/2026-11-12-0300_base.index.json.gz"] = b"rubbish"
    call = fake(check=True)
    assert "warnings" not in module.run(call)
    assert "cannot be read" in call.warned[0]
