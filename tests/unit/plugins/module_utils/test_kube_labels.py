# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Label selectors mean what the server takes them to mean."""

from __future__ import annotations

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._kube.labels import parse_selector

LABELS = {"app": "web", "tier": "front", "app.kubernetes.io/name": "x"}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("app=web", True),
        ("app==web", True),
        ("app=db", False),
        ("app!=db", True),
        ("app!=web", False),
        ("other!=a", True),
        ("app", True),
        ("other", False),
        ("!other", True),
        ("!app", False),
        ("app in (db, web)", True),
        ("app in (db)", False),
        ("app notin (db)", True),
        ("app notin (web,db)", False),
        ("other notin (web)", True),
        ("other in (web)", False),
        ("app=web,tier=front", True),
        (" app = web , tier in (front,back) ", True),
        ("app=web,tier=back", False),
        ("app.kubernetes.io/name=x", True),
        ("app=", False),
    ],
)
def test_selectors(selector: str, matches: bool) -> None:
    assert parse_selector(selector)(LABELS) is matches


@pytest.mark.parametrize("selector", ["app=web,", "=web", "app in web", "app=a b", "app in (a", ",", "app ? b"])
def test_what_is_no_selector_is_refused(selector: str) -> None:
    with pytest.raises(InvalidOption, match="selector="):
        parse_selector(selector)
