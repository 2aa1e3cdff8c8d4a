# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's options are documented as they are, and reach the engine."""

from __future__ import annotations

import typing as t

import yaml
from ansible_collections.fileforge.ops.plugins.module_utils._exposure.target import Target
from ansible_collections.fileforge.ops.plugins.module_utils._exposure.versions import VERSIONS
from ansible_collections.fileforge.ops.plugins.module_utils._probes.exposure_info import ARGUMENTS, PATH, operate
from ansible_collections.fileforge.ops.plugins.modules import exposure_info as module


def test_documentation_is_the_argument_spec() -> None:
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    for words, options in ((documented, ARGUMENTS), (documented["paths"]["suboptions"], PATH)):
        assert set(words) == set(options)
        for name, option in options.items():
            for field in ("type", "default", "required", "choices", "elements"):
                assert words[name].get(field) == option.get(field), (name, field)
    assert set(ARGUMENTS["minimum_tls"]["choices"]) <= set(VERSIONS)


def test_every_option_reaches_the_engine() -> None:
    assert set(ARGUMENTS) == set(Target.__dataclass_fields__)
    params: dict[str, t.Any] = {name: option.get("default") for name, option in ARGUMENTS.items()}
    found = operate({**params, "url": "https://nobody.invalid/", "name": "nobody", "timeout": 1.0}, True)
    assert (found["changed"], found["status"]) == (False, "unknown")
    assert {check["subject"] for check in found["checks"]} == {"nobody"}
