# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around the catalog."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import AccessDenied, InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._probes import postgres_backup_info as module

from tests.unit.plugins.module_utils.test_catalog import simple


def params(**changes: t.Any) -> dict[str, t.Any]:
    return {**{name: spec.get("default") for name, spec in module.ARGUMENTS.items()}, "s3_bucket": "b", **changes}


def test_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Store", lambda options: simple())
    result = module.operate(params(target_time="2026-11-23T14:00:05Z"), False)
    assert result["changed"] is False and result["backups"][0]["name"] == "2026-11-23-1400"
    assert result["restorable"][0]["to"] == "2026-11-23T14:00:07.999999+00:00"
    assert result["last_transaction"] == "2026-11-23T14:00:08.000000+00:00" and result["rpo_seconds"] > 0
    assert [check["id"] for check in result["checks"]][-2:] == ["backup.verified", "backup.target_reachable"]
    assert result["last_verified"] is None
    assert (
        len(module.operate(params(max_verified_age=0, min_size=0), False)["checks"]) == 4
        and result["wal"][0]["ranges"][0]["count"] == 4
    )


def test_could_not_look_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(options: t.Any) -> t.Any:
        raise AccessDenied("no key fits", hint="get one")

    monkeypatch.setattr(module, "Store", denied)
    result = module.operate(params(), False)
    assert result["status"] == "unknown" and {check["status"] for check in result["checks"]} == {"unknown"}
    assert "no key fits" in result["checks"][0]["summary"] and result["backups"] == []
    assert set(module.NOTHING) <= set(result)


@pytest.mark.parametrize(
    "wrong", [{"rpo": 0}, {"max_backup_age": -1}, {"max_verified_age": -1}, {"min_size": 50}, {"target_time": "yesterday"}]
)
def test_wrong_options(wrong: dict[str, t.Any]) -> None:
    with pytest.raises(InvalidOption):
        module.operate(params(**wrong), False)
