# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documented playbook with the documented credentials, against the whole lab."""

from __future__ import annotations

import json
import subprocess
import typing as t
from pathlib import Path

import pytest
import redis
import yaml

from tests.integration.documented import examples
from tests.integration.playbooks.conftest import PlayedLab
from tests.lab import ROOT
from tests.lab.daemon import wait_until
from tests.lab.facts import DATABASE
from tests.lab.monitoring import Monitoring

USERS = ("fileforge_monitor", "fileforge_reader")
MACHINE = {"metric.cpu_usage", "metric.memory_usage", "metric.disk_usage"}
"""How busy and full this machine is, is not the test's to say."""


@pytest.fixture
def granted(lab: PlayedLab) -> t.Iterator[PlayedLab]:
    """The lab with the documented users; they are gone afterwards."""
    cluster, facts = lab.drill.cluster, lab.facts
    broker = redis.Redis.from_url(facts["redis"]["url"])
    with cluster.connect(DATABASE) as connection:
        connection.execute(examples("server-checks.md", "sql")[0])
    for line in examples("server-checks.md", "redis"):
        broker.execute_command(*line.split())
    yield lab
    broker.acl_deluser(*USERS)
    broker.close()
    cluster.execute("DROP OWNED BY fileforge_monitor", DATABASE)
    cluster.execute("DROP ROLE fileforge_monitor")


def run(lab: PlayedLab, place: Path, *arguments: str) -> dict[str, t.Any]:
    """Run the example; what its tasks registered."""
    (play,) = yaml.safe_load(examples("server-checks.md", "yaml")[0])
    kept = place / "kept.json"
    content = "{{ {'database': database, 'queue': queue, 'metrics': metrics} | to_json }}"
    keep = {"ansible.builtin.copy": {"content": content, "dest": str(kept), "mode": "0600"}, "check_mode": False}
    thresholds = {name.removeprefix("metric."): {"warning": 1.1, "critical": 1.2} for name in MACHINE}
    play["tasks"].insert(-1, keep)
    facts = lab.facts
    play["vars"] = {
        "database_host": "127.0.0.1",
        "database_port": facts["postgres"]["port"],
        "redis_host": facts["redis"]["host"],
        "redis_port": facts["redis"]["port"],
        "prometheus_url": facts["prometheus"]["url"],
        "monitor_password": "choose-one",
    }
    playbook = place / "looking.json"
    playbook.write_text(json.dumps([play]))
    argv, env = lab.drill.command("backup", *arguments, "-e", json.dumps({"fileforge_thresholds": thresholds}))
    argv[argv.index("playbooks/backup.yml")] = str(playbook)
    ended = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: dict[str, t.Any] = json.loads(kept.read_text())
    return found


def test_the_documented_playbook_on_a_healthy_lab(granted: PlayedLab, place: Path) -> None:
    monitoring = granted.drill.lab.part(Monitoring)
    for job, targets in {"fileforge-backend": 2, "fileforge-worker": 1, "node": 1, "prometheus": 1}.items():
        wait_until(lambda job=job, n=targets: len(monitoring.query(f'up{{job="{job}"}} == 1')) == n, 60, f"{job} to be scraped")
    wait_until(lambda: monitoring.query('rate(http_requests_total{handler="/health"}[1m]) > 0'), 60, "requests to be counted")
    wait_until(lambda: monitoring.query('rate(node_cpu_seconds_total{mode="idle"}[1m]) > 0'), 60, "the machine to be measured")
    for arguments in ((), ("--check",)):
        found = run(granted, place, *arguments)
        checks = [check for part in found.values() for check in part["checks"]]
        assert {check["id"]: (check["status"], check["summary"]) for check in checks if check["status"] != "ok"} == {}
        assert {part["changed"] for part in found.values()} == {False}
    assert found["queue"]["queues"][0]["consumers"] and found["database"]["server"]["role"] == "primary"
    values = {check["id"]: check["value"] for check in found["metrics"]["checks"]}
    assert all(values[f"metric.{name}"] is not None for name in ("api_response_seconds", "error_rate", "queue_length"))
    assert all(values[name] is not None for name in MACHINE)
