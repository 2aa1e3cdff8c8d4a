# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The routine tasks on the lab: they change nothing, name what is wrong, and are scheduled as the list says."""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import threading
import typing as t
from pathlib import Path

import pytest
import yaml

from tests.integration.playbooks.conftest import PlayedLab
from tests.lab import ROOT
from tests.lab.daemon import wait_until
from tests.lab.kube.launch import workload
from tests.lab.manifests import NAMESPACE, PATHS
from tests.lab.parts import Application
from tests.lab.signer import Signer

TASKS = {
    task["key"]: task
    for task in yaml.safe_load((ROOT / "inventories/lab/group_vars/all/schedule.yml").read_text())["fileforge_routine_tasks"]
}
QUARTERLY = {**TASKS["ssl-check"], "key": "quarterly", "task": "Quarterly", "every": "quarterly", "day": "Mon", "at": "08:00"}
FEW = [TASKS["backup-policy"], QUARTERLY, TASKS["log-review"]]
NOISE = (
    "for n in $(seq 400); do echo ERROR cannot read file $n; done; touch $READY; "
    "until [ -e $MORE ]; do sleep 0.1; done; echo FATAL lost connection 17; touch $DONE; trap 'exit 0' TERM; sleep 1000 & wait"
)


def reports(lab: PlayedLab, task: str) -> Path:
    return lab.drill.layout.state / "reports" / task


def checks(lab: PlayedLab, task: str) -> list[dict[str, t.Any]]:
    report = json.loads((reports(lab, task) / "latest" / "report.json").read_text())
    return [check for section in report["sections"] for check in section["checks"]]


def test_schedule_is_predicted_installed_and_follows_the_list(lab: PlayedLab) -> None:
    units, awx = lab.drill.layout.state / "systemd", lab.drill.layout.state / "awx"
    predicted = lab.play_well("routine-schedule", check=True, routine_tasks_list=FEW)
    assert not units.exists() and not awx.exists(), "check mode wrote"
    assert "+OnCalendar=Mon *-01,04,07,10-01..07 08:00:00 UTC" in predicted.output
    done = lab.play_well("routine-schedule", routine_tasks_list=FEW)
    assert done.changed() == predicted.changed() > 0
    assert {path.name for path in units.iterdir()} == {f"fileforge-{t['key']}.{kind}" for t in FEW for kind in ("service", "timer")}
    schedules = yaml.safe_load((awx / "schedules.yml").read_text())["controller_schedules"]
    assert [item["name"] for item in schedules] == [task["task"] for task in FEW]
    assert schedules[0]["extra_data"] == {"fileforge_retention_unattended": True} and schedules[0]["owner"] == "Platform"
    service = (units / "fileforge-backup-policy.service").read_text()
    command = r'-i inventories/lab playbooks/backup-policy.yml -e "{\\"fileforge_retention_unattended\\": true}"$'
    assert re.search(rf"^ExecStart=/\S+/ansible-playbook {command}", service, re.MULTILINE)

    foreign = units / "fileforge-own.service"
    foreign.write_text("[Service]\nExecStart=/bin/true\n")
    fewer = lab.play_well("routine-schedule", routine_tasks_list=FEW[:2])
    assert fewer.changed() == 2, "units are removed and AWX is told"
    assert foreign.exists() and not list(units.glob("fileforge-log-review.*"))
    assert lab.play_well("routine-schedule", routine_tasks_list=FEW[:2]).changed() == 0


@pytest.fixture
def noisy(lab: PlayedLab, place: Path) -> t.Iterator[Path]:
    """A pod of the application that logs many errors, and another one as soon as the file `more` is there."""
    marks = {name: place / name.lower() for name in ("READY", "MORE", "DONE")}
    env = [{"name": name, "value": str(path)} for name, path in marks.items()]
    pod = workload("Deployment", "noisy", NAMESPACE, {"command": ["/bin/sh", "-c", NOISE], "env": env}, replicas=1)
    kube = lab.drill.lab.part(Application).kube
    kube.apply(pod)
    try:
        wait_until(marks["READY"].exists, 30, "the errors to be logged")
        yield place
    finally:
        kube.request("DELETE", f"{PATHS['Deployment']}/noisy")
        wait_until(lambda: not [pod for pod in kube.pods() if "noisy" in pod["metadata"]["name"]], 30, "the pod to be gone")


def test_log_review_names_a_burst_and_then_what_is_new(lab: PlayedLab, noisy: Path) -> None:
    ours = {"routine_tasks_log_selector": "app=noisy"}
    looked = lab.play("log-review", check=True, **ours)
    assert looked.changed() == 0 and not reports(lab, "log-review").exists()
    assert "FileForge log review: CRITICAL" in looked.output and "kube.logs.burst" in looked.output
    first = lab.play("log-review", **ours)
    assert first.returncode != 0 and first.changed() == 0, "a share of errors over the limit fails the run"
    [group] = [check for check in checks(lab, "log-review") if check["id"] == "logs.group"]
    assert (group["value"], group["status"]) == (400, "warning") and "not reviewed before" in group["summary"]
    (noisy / "more").touch()
    wait_until((noisy / "done").exists, 30, "the new error to be logged")
    second = lab.play_well("log-review", **ours, routine_tasks_fail_on="never")
    assert second.changed() == 0 and "new since the last review: 1" in second.output
    groups = {check["subject"]: check["status"] for check in checks(lab, "log-review") if check["id"] == "logs.group"}
    assert sorted(groups.values()) == ["ok", "warning"]
    assert next(name for name, status in groups.items() if status == "warning").startswith("FATAL lost connection")


@contextlib.contextmanager
def served(certificate: Path) -> t.Iterator[int]:
    """A TLS server with this certificate; its port."""
    import http.server

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "fullchain.pem", certificate / "privkey.pem")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def test_ssl_check_names_an_expired_certificate_and_one_of_a_stranger(lab: PlayedLab, place: Path) -> None:
    signer = Signer()
    signer.write(place / "good", ["good.test"], days=60)
    signer.write(place / "old", ["old.test"], days=-1)
    Signer().write(place / "strange", ["strange.test"], days=60)
    with contextlib.ExitStack() as servers:
        endpoints = [
            {"host": "127.0.0.1", "server_name": f"{name}.test", "port": servers.enter_context(served(place / name))}
            for name in ("good", "strange")
        ]
        asked = {
            "routine_tasks_certificates": endpoints,
            "routine_tasks_certificate_files": [{"path": str(place / "old" / "fullchain.pem"), "name": "old.test"}],
            "routine_tasks_ca_cert": str(place / "good" / "root.pem"),
        }
        looked = lab.play("ssl-check", check=True, **asked)
        assert looked.changed() == 0 and not reports(lab, "ssl-check").exists()
        assert "FileForge SSL certificate check: CRITICAL" in looked.output
        found = lab.play("ssl-check", **asked)
    assert found.returncode != 0 and found.changed() == 0
    bad = {check["id"]: check for check in checks(lab, "ssl-check") if check["status"] == "critical"}
    assert set(bad) == {"certificate.old-test.expiry", "certificate.strange-test.chain"}
    assert "cert-renewal.yml" in bad["certificate.old-test.expiry"]["hint"]


def test_security_patch_review_names_each_host_and_one_that_is_not_reached(lab: PlayedLab, place: Path) -> None:
    looked = lab.play("security-patch-review", check=True, patch_hosts="app1")
    assert looked.changed() == 0 and not reports(lab, "security-patch-review").exists()
    assert not (lab.drill.layout.state / "patches").exists()
    assert "FileForge security patch review:" in looked.output
    inventory = place / "nowhere.yml"
    nowhere = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}
    inventory.write_text(json.dumps({"all": {"hosts": {"nowhere": nowhere}}}))
    found = lab.play("security-patch-review", "-i", str(inventory), patch_hosts="app1:nowhere")
    assert found.changed() == 0
    said = {(check["id"], check["subject"]): check for check in checks(lab, "security-patch-review")}
    for name in ("security", "security_age", "reboot", "held", "lists"):
        assert said[f"updates.{name}", "app1"]["summary"]
    assert said["security_updates_of_nowhere.probe", ""]["status"] == "unknown"
