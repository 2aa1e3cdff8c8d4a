# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daily check looks at on each kind of host of the production inventory."""

from __future__ import annotations

import json
import sys
import typing as t
import urllib.parse
from pathlib import Path

import pytest
import yaml

from tests.unit.test_playbooks import ROOT, ansible

ROLE = ROOT / "roles/daily_check"
KINDS: dict[str, dict[str, t.Any]] = {
    "any": {},
    "forgetful": {"daily_check_disk_history": ""},
    "database": {"daily_check_is_database": True},
    "platform": {"daily_check_is_platform": True},
    "web": {"daily_check_is_web": True},
}
RUNBOOK = {
    "api": "https://api.fileforge.io",
    "frontend": "https://app.fileforge.io",
    "prometheus": "https://metrics.fileforge.io",
    "grafana": "https://grafana.fileforge.io",
}
"""The table Service Endpoints."""
WANTED = ("__daily_check_probes", "fileforge_certificates", "fileforge_endpoints", "fileforge_disk_history_file")
Values = dict[str, dict[str, t.Any]]


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Values:
    """Variables by kind of host; the probes as options by name."""
    place = tmp_path_factory.mktemp("daily-check")
    tasks = [
        {
            "name": kind,
            "ansible.builtin.copy": {
                "content": "{{ {" + ", ".join(f"'{name}': {name}" for name in WANTED) + "} | to_json }}",
                "dest": str(place / f"{kind}.json"),
                "mode": "0600",
            },
            "vars": variables,
            "become": False,
        }
        for kind, variables in KINDS.items()
    ]
    files = [str(ROLE / part / "main.yml") for part in ("defaults", "vars")]
    play = {"name": "Look", "hosts": "web1", "connection": "local", "gather_facts": False, "vars_files": files, "tasks": tasks}
    (place / "play.json").write_text(json.dumps([play]))
    interpreter = f"ansible_python_interpreter={sys.executable}"
    done = ansible("ansible-playbook", "-i", "inventories/production", "-e", interpreter, str(place / "play.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    found: Values = {kind: json.loads(Path(place / f"{kind}.json").read_text()) for kind in KINDS}
    for each in found.values():
        looks = each.pop("__daily_check_probes")
        each["looks"] = {look["name"]: look["args"] for look in looks}
        assert len(each["looks"]) == len(looks), "names tell the looks apart"
    return found


def test_every_host_is_asked_for_its_disks_which_are_remembered(values: Values) -> None:
    assert list(values["any"]["looks"]) == ["Disks"]
    for kind, each in values.items():
        kept = None if kind == "forgetful" else each["fileforge_disk_history_file"]
        assert each["looks"]["Disks"].get("history_file") == kept
    assert values["any"]["fileforge_disk_history_file"].startswith("/var/lib/")
    assert set(values["database"]["looks"]) == {"Disks", "Database"}


def test_every_endpoint_of_the_runbook_is_looked_at(values: Values) -> None:
    assert values["any"]["fileforge_endpoints"] == RUNBOOK
    looks = values["platform"]["looks"]
    for name, place in RUNBOOK.items():
        assert f"{looks[f'Endpoint {name}']['url']}/".startswith(f"{place}/")
        host = urllib.parse.urlsplit(place).hostname
        assert looks[f"Certificate public {host}"]["host"] == host, "what everybody sees ends, too"


def test_certificates_are_looked_at_where_they_are_served(values: Values) -> None:
    certificates, listed = values["web"]["looks"], values["web"]["fileforge_certificates"]
    del certificates["Disks"]
    assert [options for options in certificates.values() if "path" not in options] == [
        place for entry in listed for place in entry["endpoints"]
    ]
    files = [options["path"] for options in certificates.values() if "path" in options]
    assert files == [f"/etc/letsencrypt/live/{entry['name']}/fullchain.pem" for entry in listed]
    assert not set(certificates) & set(values["platform"]["looks"]), "127.0.0.1 of another host serves nothing"
    [play] = yaml.safe_load((ROOT / "playbooks/daily_check.yml").read_text())
    assert "certificate_hosts | default('web')" in play["hosts"]
    assert "certificate_hosts | default('web')" in play["tasks"][0]["vars"]["daily_check_is_web"]
