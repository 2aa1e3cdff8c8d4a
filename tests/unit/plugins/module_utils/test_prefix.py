# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The prefix of backups is a directory of the bucket, for everything that writes or reads them."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup.base_backup import BackupOptions
from ansible_collections.fileforge.ops.plugins.module_utils._backup.config_bundle import BundleOptions, ConfigBundle
from ansible_collections.fileforge.ops.plugins.module_utils._backup.dump import DumpOptions
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.names import check_prefix
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.policy_rules import PolicyOptions
from ansible_collections.fileforge.ops.plugins.module_utils._probes import postgres_backup_info
from ansible_collections.fileforge.ops.plugins.modules import (
    postgres_backup_expire,
    postgres_backup_verify,
    postgres_restore,
    postgres_wal_archive,
)

WRONG = "site"


def params(spec: t.Mapping[str, t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
    given = {"data_directory": "/d", "target_time": "latest", "scratch_directory": "/s", "s3_bucket": "b", "prefix": WRONG}
    return {**{name: option.get("default") for name, option in spec.items()}, **given}


class Module:
    check_mode = True
    params: t.ClassVar[dict[str, t.Any]] = {**params(postgres_backup_expire.SPEC), "plan_digest": None}


@pytest.mark.parametrize("prefix", ["", "site/", "site/db1/"])
def test_directories(prefix: str) -> None:
    assert check_prefix(prefix) == prefix


@pytest.mark.parametrize("prefix", ["site", "site/db1", "/", "/site/", "site//db1/", "site//"])
def test_what_is_no_directory(prefix: str) -> None:
    with pytest.raises(InvalidOption, match="prefix="):
        check_prefix(prefix)


@pytest.mark.parametrize(
    "use",
    [
        lambda: BackupOptions(prefix=WRONG).check(),
        lambda: DumpOptions(prefix=WRONG).check(),
        lambda: PolicyOptions(prefix=WRONG).check(),
        lambda: ConfigBundle(t.cast(t.Any, None), BundleOptions("/", prefix=WRONG)),
        lambda: postgres_backup_info.operate(
            {**params(postgres_backup_info.ARGUMENTS), "target_time": "2026-11-23T14:05:00Z"}, check_mode=True
        ),
        lambda: postgres_backup_expire.run(t.cast(t.Any, Module())),
        lambda: postgres_backup_verify.options_of(params(postgres_backup_verify.SPEC)),
        lambda: postgres_restore.options_of(params(postgres_restore.SPEC)),
        lambda: postgres_wal_archive.archive_options(params(postgres_wal_archive.ARGUMENTS)),
    ],
)
def test_everything_refuses_a_prefix_without_its_slash(use: t.Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_backup_expire, "Store", lambda options: None)
    with pytest.raises(InvalidOption, match="prefix='site': must end in a slash") as refused:
        use()
    assert refused.value.hint == "use site/"
