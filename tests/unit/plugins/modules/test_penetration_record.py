# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around the record: where it is, check mode, and what is refused before anything is written."""

from __future__ import annotations

import datetime
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError
from ansible_collections.fileforge.ops.plugins.modules import penetration_record as module

TODAY = datetime.date(2026, 11, 24)


def params(directory: Path, **changes: t.Any) -> dict[str, t.Any]:
    item = {"id": "a", "task": "Try it", "owner": "Security", "due_days": 30, "scope": []}
    return {"directory": str(directory), "quarter": None, "title": "Penetration test", "checklist": [item], **changes}


def test_documentation_is_the_argument_spec() -> None:
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    for words, options in ((documented, module.ARGUMENTS), (documented["checklist"]["suboptions"], module.ITEM)):
        assert set(words) == set(options)
        for name, option in options.items():
            for field in ("type", "default", "required", "elements"):
                assert words[name].get(field) == option.get(field), (name, field)


def test_check_mode_says_what_the_run_writes(tmp_path: Path) -> None:
    directory = tmp_path / "records"
    looked = module.keep(params(directory), True, TODAY)
    assert looked["changed"] and not directory.exists()
    done = module.keep(params(directory), False, TODAY)
    assert done["diff"] == looked["diff"] and Path(done["path"]).read_text() == looked["diff"]["after"]
    assert Path(done["path"]).name == "2026-Q4.yml" and done["entries"][0]["due"] == "2026-12-24"
    assert not module.keep(params(directory), False, TODAY)["changed"]


def test_refusals_leave_the_record(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="quarter"):
        module.keep(params(tmp_path, quarter="../2026-Q4"), False, TODAY)
    (tmp_path / "2026-Q4.yml").write_text("- id: [")
    with pytest.raises(OpsError, match="not YAML"):
        module.keep(params(tmp_path), False, TODAY)
    assert (tmp_path / "2026-Q4.yml").read_text() == "- id: ["
    (tmp_path / "2026-Q4.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidOption, match="cannot be read"):
        module.keep(params(tmp_path), False, TODAY)
