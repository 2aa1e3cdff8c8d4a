# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around archiving: options in, result out."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup.wal_archive import Outcome
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import Control
from ansible_collections.fileforge.ops.plugins.modules import postgres_wal_archive as module


def params(**changes: t.Any) -> dict[str, t.Any]:
    return {**{name: spec.get("default") for name, spec in module.ARGUMENTS.items()}, "s3_bucket": "b", **changes}


class Fake:
    """Archiving without a server."""

    outcome = Outcome({"settings": {}}, {"settings": {}})

    def __init__(self, options: t.Any, postgres: t.Any, server: t.Any, check_mode: bool) -> None:
        self.options, self.server = options, server

    def present(self) -> Outcome:
        return self.outcome

    absent = present

    def prove(self, timeout: float) -> dict[str, t.Any]:
        return {"segment": "S"}


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    monkeypatch.setattr(module, "Archiving", Fake)
    monkeypatch.setattr(Fake, "outcome", Outcome({"settings": {}}, {"settings": {}}))
    return Fake


def no_warning(text: str) -> None:
    raise AssertionError(text)


def test_proof_is_no_change() -> None:
    result = module.operate(params(), False, no_warning)
    assert (result["changed"], result["verified"], result["proof"]) == (False, True, {"segment": "S"})
    assert result["archive_command"].endswith('/fileforge-wal --config /etc/fileforge/wal.json push "%p"')


@pytest.mark.parametrize(
    ("changes", "check_mode", "waits"), [({"verify": False}, False, False), ({}, True, False), ({}, False, True)]
)
def test_when_nothing_is_proved(changes: dict[str, t.Any], check_mode: bool, waits: bool, fake: type[Fake]) -> None:
    fake.outcome.restart_required = waits
    result = module.operate(params(**changes), check_mode, no_warning)
    assert not result["verified"] and "proof" not in result and result["restart_required"] is waits


def test_absent_passes_warnings_on(fake: type[Fake]) -> None:
    fake.outcome.warnings.append("left as it is")
    fake.outcome.before["x"] = "file"
    said: list[str] = []
    result = module.operate(params(state="absent"), False, said.append)
    assert result["changed"] and said == ["left as it is"] and "archive_command" not in result


@pytest.mark.parametrize(
    ("rpo", "chosen", "expected"), [(3600, None, 300), (600, None, 50), (60, None, 30), (3600, 5, 5), (36, 35, 35)]
)
def test_archive_timeout(rpo: int, chosen: int | None, expected: int) -> None:
    assert module.archive_timeout_for(rpo, chosen) == expected


@pytest.mark.parametrize(("rpo", "chosen"), [(10, None), (600, 600), (600, 0)])
def test_archive_timeouts_that_cannot_be(rpo: int, chosen: int | None) -> None:
    with pytest.raises(InvalidOption):
        module.archive_timeout_for(rpo, chosen)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"prefetch": -1}, {"verify_timeout": 0}, {"s3_access_key": "a"}])
def test_wrong_options(wrong: dict[str, t.Any]) -> None:
    with pytest.raises(InvalidOption):
        module.operate(params(**wrong), False, no_warning)


def test_restarts_only_when_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.server_maker(params()) is None
    monkeypatch.setattr(module, "read_version", lambda place: 15)
    monkeypatch.setattr(module, "find_binaries", lambda major, place: f"/bin/{major}")
    maker = module.server_maker(params(restart=True, control="pg_ctlcluster", cluster="15 main"))
    assert maker is not None
    server = maker("/data")
    assert (server.bin_directory, server.options.control) == ("/bin/15", Control.PG_CTLCLUSTER)
    with pytest.raises(InvalidOption):
        module.server_maker(params(restart=True, control="systemd"))
