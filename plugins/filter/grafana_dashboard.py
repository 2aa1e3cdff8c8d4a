# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes Grafana's dashboard model of a short description."""

from __future__ import annotations

DOCUMENTATION = r"""
name: grafana_dashboard
short_description: Make a Grafana dashboard of a short description
version_added: 1.0.0
author: FileForge operations (@fileforge)
description:
  - Turns a list of panels with their queries into the JSON model that Grafana provisions or imports, laid out in rows.
  - The data source is a variable of the dashboard, so that the same file works everywhere.
positional: _input, metrics, thresholds
options:
  _input:
    description:
      - The dashboard with C(uid), C(title) and C(panels). A panel has a C(title) and C(queries), each with C(expr) and
        C(by) (the labels that tell its lines apart) or C(legend), or the name of a C(metric). It may have C(type), C(unit),
        C(width) of 24, C(height), C(threshold) and C(states).
    type: dict
    required: true
  metrics:
    description: By name, C(title), C(unit) and C(expr) of what a panel may name as its C(metric).
    type: dict
    default: {}
  thresholds:
    description: By name, the limits C(warning) and C(critical) that colour a panel.
    type: dict
    default: {}
  tags:
    description: Tags of the dashboard.
    type: list
    elements: str
    default: [fileforge]
"""

EXAMPLES = r"""
- name: Show a dashboard of one panel
  ansible.builtin.debug:
    msg: "{{ {'uid': 'load', 'title': 'Load', 'panels': [{'title': 'Load', 'queries': [{'expr': 'node_load1'}]}]}
      | fileforge.ops.grafana_dashboard }}"
"""

RETURN = r"""
_value:
  description: The dashboard, as Grafana stores it.
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError

COLUMNS = 24
SCHEMA_VERSION = 39
"""Of Grafana 10 and 11; newer ones migrate it."""
COLOURS = {"ok": "green", "warning": "orange", "unknown": "gray", "critical": "red"}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
Panel = t.Dict[str, t.Any]


def grafana_dashboard(
    description: t.Mapping[str, t.Any],
    metrics: t.Mapping[str, t.Any] | None = None,
    thresholds: t.Mapping[str, t.Any] | None = None,
    tags: t.Sequence[str] = ("fileforge",),
) -> dict[str, t.Any]:
    """The model of a dashboard; raises AnsibleFilterError that names the panel which cannot be made."""
    panels: list[Panel] = []
    x = y = row_height = 0
    for number, wanted in enumerate(description.get("panels") or [], start=1):
        try:
            panel = _panel(dict(wanted), metrics or {}, thresholds or {})
        except (KeyError, TypeError, ValueError) as error:
            raise AnsibleFilterError(
                f"fileforge.ops.grafana_dashboard: panel {number} of {description.get('uid')}: {error!r}"
            ) from error
        width, height = int(wanted.get("width") or 12), int(wanted.get("height") or (4 if panel["type"] == "stat" else 8))
        if x + width > COLUMNS:
            x, y, row_height = 0, y + row_height, 0
        panels.append({**panel, "id": number, "gridPos": {"x": x, "y": y, "w": width, "h": height}})
        x, row_height = x + width, max(row_height, height)
    if not panels or not description.get("uid") or not description.get("title"):
        raise AnsibleFilterError("fileforge.ops.grafana_dashboard: a dashboard has a uid, a title and panels")
    return {
        "uid": str(description["uid"]),
        "title": str(description["title"]),
        "tags": [str(tag) for tag in tags],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "timezone": "utc",
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {"list": [{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}]},
        "annotations": {"list": []},
        "panels": panels,
    }


def _panel(wanted: Panel, metrics: t.Mapping[str, t.Any], thresholds: t.Mapping[str, t.Any]) -> Panel:
    if wanted.get("metric"):
        name = str(wanted["metric"])
        metric = metrics[name]
        query = {"expr": metric["expr"], "legend": wanted.get("legend"), "by": wanted.get("by")}
        wanted = {"threshold": name, "title": metric["title"], "unit": metric["unit"], "queries": [query], **wanted}
    if not wanted.get("queries"):
        raise ValueError("it asks nothing")
    kind = str(wanted.get("type") or "timeseries")
    return {
        "type": kind,
        "title": str(wanted["title"]),
        "datasource": SOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": SOURCE,
                "expr": " ".join(str(query["expr"]).split()),
                "legendFormat": _legend(query),
                "instant": kind == "stat",
                "range": kind != "stat",
            }
            for place, query in enumerate(wanted["queries"])
        ],
        "fieldConfig": {"defaults": _defaults(wanted, thresholds), "overrides": []},
        "options": _options(kind),
    }


def _legend(query: t.Mapping[str, t.Any]) -> str:
    labels = query.get("by") or []
    words = [f"{{{{{label}}}}}" for label in ([labels] if isinstance(labels, str) else labels)]
    return " ".join([*words, *([str(query["legend"])] if query.get("legend") else [])]) or "__auto"


def _options(kind: str) -> dict[str, t.Any]:
    if kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background", "graphMode": "none"}
    return {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}, "tooltip": {"mode": "multi"}}


def _defaults(wanted: Panel, thresholds: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    defaults: dict[str, t.Any] = {"unit": str(wanted.get("unit") or "short"), "mappings": []}
    steps: list[dict[str, t.Any]] = [{"color": "green", "value": None}]
    if wanted.get("threshold"):
        limits = thresholds[str(wanted["threshold"])]
        steps += [{"color": COLOURS[status], "value": float(limits[status])} for status in ("warning", "critical")]
        defaults.update(min=0, custom={"thresholdsStyle": {"mode": "dashed"}, "lineWidth": 1, "fillOpacity": 10})
    for value, status in dict(wanted.get("states") or {}).items():
        answer = {"text": str(status), "color": COLOURS[str(status)]}
        defaults["mappings"].append({"type": "value", "options": {str(value): answer}})
    return {**defaults, "thresholds": {"mode": "absolute", "steps": steps}}


class FilterModule:
    """What this file offers."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"grafana_dashboard": grafana_dashboard}
