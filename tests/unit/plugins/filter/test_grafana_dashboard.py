# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dashboards of short descriptions: laid out, coloured by limits, and refused with the number of the panel."""

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.fileforge.ops.plugins.filter.grafana_dashboard import grafana_dashboard

METRICS = {"load": {"title": "Load", "unit": "short", "expr": "node_load1\n  * 1"}}


def dashboard(*panels: dict[str, t.Any]) -> dict[str, t.Any]:
    return grafana_dashboard({"uid": "x", "title": "X", "panels": panels}, METRICS, {"load": {"warning": 1, "critical": 2}})


def test_metric_gives_query_unit_and_colours() -> None:
    [panel] = dashboard({"metric": "load", "by": ["instance", "cpu"], "legend": "now"})["panels"]
    assert panel["title"] == "Load"
    assert panel["targets"][0]["expr"] == "node_load1 * 1"
    assert panel["targets"][0]["legendFormat"] == "{{instance}} {{cpu}} now"
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert [(step["color"], step["value"]) for step in steps] == [("green", None), ("orange", 1.0), ("red", 2.0)]


def test_rows_break_where_the_width_is_used_up() -> None:
    query = {"title": "q", "queries": [{"expr": "up"}]}
    panels = dashboard({**query, "type": "stat", "width": 6}, {**query, "width": 12}, {**query, "width": 8})["panels"]
    assert [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels] == [(0, 0), (6, 0), (0, 8)]


def test_states_are_words_with_colours() -> None:
    [panel] = dashboard({"title": "s", "type": "stat", "states": {0: "ok", 3: "critical"}, "queries": [{"expr": "up"}]})["panels"]
    mappings = panel["fieldConfig"]["defaults"]["mappings"]
    assert [mapping["options"] for mapping in mappings] == [
        {"0": {"text": "ok", "color": "green"}},
        {"3": {"text": "critical", "color": "red"}},
    ]


@pytest.mark.parametrize(
    "panel",
    [{"metric": "unknown"}, {"title": "nothing asked"}, {"queries": [{"expr": "up"}]}, {"metric": "load", "threshold": "x"}],
)
def test_a_panel_that_cannot_be_made_is_named(panel: dict[str, t.Any]) -> None:
    with pytest.raises(AnsibleFilterError, match="panel 2 of x"):
        dashboard({"metric": "load"}, panel)


def test_a_dashboard_without_panels_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="panels"):
        dashboard()
