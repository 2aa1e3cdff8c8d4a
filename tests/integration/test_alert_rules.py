# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each alert of the runbook's Key Metrics fires just over its limit and not at it, as Prometheus itself reckons."""

from __future__ import annotations

import subprocess
import typing as t
from pathlib import Path

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.lab import ROOT

ROLE = ROOT / "roles/monitoring"
Series = t.Dict[str, str]


def rendered() -> str:
    """The rules of the role with the limits of the production inventory."""
    variables = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    thresholds = yaml.safe_load((ROOT / "inventories/production/group_vars/all/thresholds.yml").read_text())
    variables["monitoring_thresholds"] = thresholds["fileforge_thresholds"]
    variables |= {"monitoring_labels": {}, "monitoring_report_age": 93600}
    return str(
        Templar(DataLoader(), variables=variables).template(trust_as_template((ROLE / "templates/rules.yml.j2").read_text()))
    )


def steady(value: float) -> str:
    return f"{value}+0x30"


def growing(per_second: float) -> str:
    return f"0+{60 * per_second}x30"


def slow(seconds: float) -> Series:
    """All answers take longer than the last bucket's edge, which then is the quantile."""
    bucket = "http_request_duration_seconds_bucket"
    return {f'{bucket}{{le="{seconds}"}}': growing(0), f'{bucket}{{le="+Inf"}}': growing(10)}


def failing(percent: float) -> Series:
    return {'http_requests_total{code="500"}': growing(percent), 'http_requests_total{code="200"}': growing(100 - percent)}


def waiting(messages: float) -> Series:
    return {'fileforge_queue_length{queue="q"}': steady(messages)}


def busy(percent: float) -> Series:
    return {'node_cpu_seconds_total{instance="a", cpu="0", mode="idle"}': growing((100 - percent) / 100)}


def remembering(percent: float) -> Series:
    return {"node_memory_MemAvailable_bytes": steady(100 - percent), "node_memory_MemTotal_bytes": steady(100)}


def stored(percent: float) -> Series:
    """A disk of which root keeps a tenth for itself: ``df`` does not count that, and neither does the daily check."""
    labels = '{instance="a", mountpoint="/data", fstype="ext4"}'
    sizes = {"size": 110, "free": 110 - percent, "avail": 100 - percent}
    return {f"node_filesystem_{name}_bytes{labels}": steady(size) for name, size in sizes.items()}


METRICS: list[tuple[str, t.Callable[[float], Series], float, float, float]] = [
    ("ApiResponseSeconds", slow, 0.5, 1.0, 0.001),
    ("ErrorRate", failing, 1, 5, 0.1),
    ("QueueLength", waiting, 100, 1000, 1),
    ("CpuUsage", busy, 70, 90, 0.1),
    ("MemoryUsage", remembering, 80, 95, 0.1),
    ("DiskUsage", stored, 80, 90, 0.1),
]


def expectation(series: Series, alert: str, fires: bool) -> dict[str, t.Any]:
    return {
        "name": f"{alert} {'over' if fires else 'at'} its limit",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})',
                "eval_time": "25m",
                "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
            }
        ],
    }


def test_every_key_metric_fires_over_its_limit_and_not_at_it(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(rendered())
    tests = []
    for name, series, warning, critical, step in METRICS:
        for severity, limit in (("Warning", warning), ("Critical", critical)):
            for over in (False, True):
                tests.append(expectation(series(limit + step * over), f"FileForge{name}{severity}", over))
    assert len(tests) == 24
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run(
        ["promtool", "test", "rules", str(tmp_path / "test.yml")], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
