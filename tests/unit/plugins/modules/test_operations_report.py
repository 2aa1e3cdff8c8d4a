# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module around the report: its options reach the engine, and bad ones are refused before anything is written."""

from __future__ import annotations

import typing as t

import pytest
import yaml
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._report import deliver
from ansible_collections.fileforge.ops.plugins.module_utils._report.store import RENDERERS
from ansible_collections.fileforge.ops.plugins.modules import operations_report as module


def params(**changes: t.Any) -> dict[str, t.Any]:
    defaults = {name: option.get("default") for name, option in module.arguments().items()}
    return {**defaults, "results": [], **changes}


def test_documentation_is_the_argument_spec() -> None:
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    specified = module.arguments()
    assert set(documented) == set(specified)
    for name, option in specified.items():
        for field in ("type", "default", "required", "choices", "elements"):
            assert documented[name].get(field) == option.get(field), (name, field)
    assert set(documented["results"]["suboptions"]) == set(deliver.SOURCE)
    assert documented["formats"]["choices"] == list(RENDERERS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"textfile": "/tmp/x.txt"}, "textfile='?/tmp/x.txt"),
        ({"results": [{"name": "", "result": {}}]}, r"results\[0\]"),
    ],
)
def test_bad_options_are_named(changes: dict[str, t.Any], words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        module.report_of(params(**changes), None)


def test_nothing_looked_at_is_unknown() -> None:
    report = module.report_of(params(title="Empty"), None)
    assert (report["status"], report["summary"], report["title"]) == ("unknown", "nothing was looked at", "Empty")


@pytest.mark.parametrize(("changes", "words"), [({"keep": 1}, "keep=1"), ({"width": 10}, "width=10")])
def test_what_is_kept_is_at_least_a_run_to_compare_with(changes: dict[str, t.Any], words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        deliver.kept_in(params(**changes))
