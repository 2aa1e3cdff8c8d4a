# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around bundles."""

from __future__ import annotations

import types
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils import _argspec
from ansible_collections.fileforge.ops.plugins.modules import config_bundle as module

from tests.lab.configuration import make_repository
from tests.unit.plugins.module_utils.test_config_bundle import Bucket


def test_options_warnings_and_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_repository(tmp_path / "config.git", {})
    bucket = Bucket()
    monkeypatch.setattr(module, "Store", lambda options: bucket)
    spec = _argspec.merge(module.SPEC, _argspec.S3)
    params = {name: option.get("default") for name, option in spec.items()}
    params.update(s3_bucket="b", repository=str(tmp_path / "config.git"), prefix="p/")
    warned: list[str] = []
    call: t.Any = types.SimpleNamespace(params=params, check_mode=True, warn=warned.append)
    assert module.run(call)["changed"] and not bucket.objects
    call.check_mode = False
    done = module.run(call)
    assert done["changed"] and "warnings" not in done and list(bucket.objects) == [done["key"]] and warned == []
    assert not module.run(call)["changed"]
