# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is removed, and what never is."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._backup import restore_state as state
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, PlanChanged, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._files import exclusive_lock
from ansible_collections.fileforge.ops.plugins.modules import postgres_scratch as module

DIGEST = "0123456789abcdef"


def params(directory: Path, **changes: t.Any) -> dict[str, t.Any]:
    return {**{name: spec.get("default") for name, spec in module.ARGUMENTS.items()}, "data_directory": str(directory), **changes}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A finished scratch restore, and things beside it that are not its own."""
    directory = tmp_path / "data"
    for name in ("data", f"data.restore-{DIGEST}", "data.tablespaces", "data2", "data.mine", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "other.restored.json").write_text("{}")
    record(directory, scratch=True)
    (tmp_path / "data.restore.log").write_text("log")
    return directory


def record(directory: Path, scratch: bool) -> None:
    state.save_record(str(directory), {"request": {"scratch": scratch}})


def test_everything_of_the_restore_goes_and_nothing_else(data: Path) -> None:
    planned = module.operate(params(data), True)
    assert planned["changed"] and data.is_dir()
    done = module.operate(params(data, plan_digest=planned["plan"]["digest"]), False)
    assert done["plan"] == planned["plan"] and done["plan"]["destructive"]
    left = {path.name for path in data.parent.iterdir() if not path.name.endswith(".lock")}
    assert left == {"data2", "data.mine", "other", "other.restored.json"}
    again = module.operate(params(data), False)
    assert again["changed"] is False and again["plan"]["steps"] == [] and again["diff"] == {}


@pytest.mark.parametrize("left", [["data"], ["data.tablespaces", "data"], []])
def test_a_removal_that_was_cut_off_is_finished(data: Path, left: list[str]) -> None:
    import shutil

    for name in ("data", f"data.restore-{DIGEST}", "data.tablespaces"):
        if name not in left:
            shutil.rmtree(data.parent / name)
    assert module.operate(params(data), False)["changed"]
    assert not data.exists() and not Path(state.record_path(str(data))).exists()


def test_a_real_restore_is_refused(data: Path) -> None:
    record(data, scratch=False)
    for check in (True, False):
        with pytest.raises(Refused) as caught:
            module.operate(params(data), check)
        assert caught.value.state["reason"] == "not_scratch"
    assert (data / "file").exists()


def test_a_directory_without_a_record_is_refused(data: Path) -> None:
    Path(state.record_path(str(data))).unlink()
    with pytest.raises(Refused, match="not made by a scratch restore"):
        module.operate(params(data), False)
    assert (data / "file").exists()


def test_an_unfinished_real_restore_on_top_is_refused(data: Path) -> None:
    plan = {"title": "t", "steps": [], "notes": [], "digest": DIGEST, "destructive": False}
    attempt = state.Attempt({"scratch": False}, plan, state.FETCHING, "b", {}, {}, "now")
    state.save_attempt(str(data), attempt)
    with pytest.raises(Refused):
        module.operate(params(data), False)


def test_a_running_restore_is_left_alone(data: Path) -> None:
    with exclusive_lock(state.lock_path(str(data)), "restore"):
        with pytest.raises(Refused) as caught:
            module.operate(params(data), False)
    assert caught.value.state["reason"] == "locked" and (data / "file").exists()


def test_another_plan_is_refused(data: Path) -> None:
    with pytest.raises(PlanChanged):
        module.operate(params(data, plan_digest=DIGEST), False)


def test_a_link_in_place_of_the_directory_is_not_followed(data: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    (data / "inside").symlink_to(precious)
    module.operate(params(data), False)
    assert (precious / "file").exists()


@pytest.mark.parametrize("path", ["/", "///"])
def test_impossible_directories(path: str) -> None:
    with pytest.raises(InvalidOption):
        module.operate({**params(Path("/x")), "data_directory": path}, False)


def test_a_record_is_json(data: Path) -> None:
    assert json.loads(Path(state.record_path(str(data))).read_text())["request"] == {"scratch": True}
