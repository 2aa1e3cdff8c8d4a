# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Probes of a list: named after what they look at, with the options of each."""

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.fileforge.ops.plugins.filter.probes import probes


def test_an_item_goes_before_the_defaults() -> None:
    made = probes([{"url": "http://a", "name": "api"}, {"url": "http://b", "probes": 9}], "x.y.z_info", "Endpoint", {"probes": 3})
    assert made == [
        {"name": "Endpoint api", "module": "x.y.z_info", "args": {"url": "http://a", "name": "api", "probes": 3}},
        {"name": "Endpoint http://b", "module": "x.y.z_info", "args": {"url": "http://b", "probes": 9}},
    ]


def test_nothing_gives_nothing() -> None:
    assert probes([], "x.y.z_info", "Endpoint") == []


@pytest.mark.parametrize("item", [{"probes": 3}, "http://a", None])
def test_what_names_nothing_is_refused_with_its_place(item: t.Any) -> None:
    with pytest.raises(AnsibleFilterError, match="item 1"):
        probes([{"url": "http://a"}, item], "x.y.z_info", "Endpoint")
