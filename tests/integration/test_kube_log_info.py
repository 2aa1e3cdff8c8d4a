# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""kube_log_info against the lab's Kubernetes: real processes write the logs."""

from __future__ import annotations

import json
import re
import sys
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.fileforge.ops.plugins.module_utils._probes import kube_log_info as module

from tests.lab import ROOT
from tests.lab.daemon import wait_until
from tests.lab.kube.launch import ADMIN, VIEWER, KubeServer, workload
from tests.lab.kube.objects import Object
from tests.lab.ports import free_port

WAIT = "trap 'exit 0' TERM; sleep 1000 & wait"
READY = {"readinessProbe": {"exec": {"command": ["/bin/true"]}, "periodSeconds": 1}}
WORLD = "world"


def shell(script: str, **more: t.Any) -> Object:
    return {"command": ["/bin/sh", "-c", script], **more}


def printing(code: str) -> Object:
    """A container that prints what a piece of Python says, then waits."""
    return shell(f'"{sys.executable}" -S -c "$CODE"; touch "$DONE"; {WAIT}', env=[{"name": "CODE", "value": code}])


BACKEND = """
import json
for number in range(180):
    print(f"INFO: 10.0.0.{number}:4{number} - GET /api/files/{number} 200, 0 errors")
for number in range(12):
    print(f"2026-11-23 12:00:{number:02d},123 ERROR app.storage: cannot read file {number} for 10.0.0.{number}:40{number}")
for number in range(8):
    print(json.dumps({"level": "critical", "message": f"lost job {number:08x}-0000-4000-8000-00000000000{number}", "n": number}))
"""


@pytest.fixture(scope="module")
def server(session_place: Path) -> t.Iterator[KubeServer]:
    """Two pods of a backend with a side container, one that crashed once, a quiet one, a long log."""
    server = KubeServer(session_place / "kube-logs", "--restart-backoff", "0.3")
    try:
        server.start()
        server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": WORLD}})
        marks = session_place / "kube-logs"
        server.apply(*world(marks))
        wait_until(lambda: ready(server), 30, "all logs to be written", every=0.2)
        yield server
    finally:
        server.destroy()


def world(marks: Path) -> list[Object]:
    def told(name: str, container: Object) -> Object:
        """Ready once it has written its log."""
        mark = str(marks / f"{name}-$(POD)")
        env = [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}, {"name": "DONE", "value": mark}]
        probe = {"exec": {"command": ["/bin/sh", "-c", 'test -e "$DONE"']}, "periodSeconds": 1}
        return {**container, "env": [*env, *container.get("env", [])], "readinessProbe": probe}

    backend = workload("Deployment", "backend", WORLD, told("app", printing(BACKEND)))
    spec = backend["spec"]["template"]["spec"]
    spec["containers"].append({"name": "side", "image": "app:1", **shell(f"echo side failed; {WAIT}")})
    spec["initContainers"] = [{"name": "migrate", "image": "app:1", **shell("echo ERROR migration 17 skipped")}]
    once = f'if [ -e "$DONE" ]; then echo again; {WAIT}; fi; touch "$DONE"; echo FATAL out of order 99; exit 1'
    return [
        backend,
        workload("Deployment", "crashed", WORLD, told("crashed", shell(once)), replicas=1),
        workload("Deployment", "quiet", WORLD, shell(f"echo all is well; {WAIT}", **READY), replicas=1),
        workload("Deployment", "long", WORLD, told("long", printing(LONG)), replicas=1),
    ]


LONG = """
for number in range(9000):
    print(f"ERROR old trouble {number} " + "x" * 60)
for number in range(500):
    print(f"ERROR new trouble {number} " + "x" * 60)
"""


def ready(server: KubeServer) -> bool:
    deployments = server.get("deployments", "-n", WORLD)["items"]
    return len(deployments) == 4 and all(
        item["status"].get("readyReplicas") == item["spec"]["replicas"] == item["status"].get("updatedReplicas")
        for item in deployments
    )


def look(server: KubeServer, token: str = ADMIN, **options: t.Any) -> dict[str, t.Any]:
    """The module's result, without Ansible around it."""
    defaults = {name: entry.get("default") for name, entry in module.ARGUMENTS.items()}
    return module.operate({**defaults, **server.options(token), "namespace": WORLD, **options}, False)


def statuses(result: dict[str, t.Any]) -> dict[str, str]:
    return {check["id"].removeprefix("kube.logs."): check["status"] for check in result["checks"]}


def interpreters() -> list[str]:
    """This one, and the distribution's with its old client library."""
    found = [sys.executable]
    if list(Path("/usr/lib/python3/dist-packages").glob("kubernetes/__init__.py")):
        found.append("/usr/bin/python3")
    return found


BACKEND_GROUPS = {
    "ERROR app.storage: cannot read file <n> for <address>": (24, "error"),
    "lost job <id>": (16, "critical"),
    "side failed": (2, ""),
    "ERROR migration <n> skipped": (2, "error"),
}


def test_through_ansible_with_every_client_library(server: KubeServer, run_module: t.Any) -> None:
    given = {**server.options(VIEWER), "namespace": WORLD, "selector": "app=backend", "name": "backend"}
    checked = run_module("kube_log_info", given, check=True)
    for result in [checked, *(run_module("kube_log_info", given, interpreter=interpreter) for interpreter in interpreters())]:
        assert result["changed"] is False and result["status"] == "critical"
        assert {group["message"]: (group["count"], group["level"]) for group in result["groups"]} == BACKEND_GROUPS
        assert {group["pod_count"] for group in result["groups"]} == {2}
        assert all(group["first"] <= group["last"] and group["sample"] for group in result["groups"])
        totals = result["totals"]
        assert (totals["pods"], totals["logs"], totals["read"], totals["matches"]) == (2, 6, 6, 44)
        assert totals["lines"] == 2 * (200 + 2) and totals["percent"] == round(100 * 44 / 404, 3)
        assert [check["id"] for check in result["checks"]] == [
            f"kube.logs.backend.{aspect}" for aspect in ("read", "errors", "burst")
        ]


def test_error_burst(server: KubeServer) -> None:
    result = look(server, selector="app=backend", rate_warning=50, rate_critical=90, burst_warning=10, burst_critical=20)
    assert statuses(result) == {"read": "ok", "errors": "ok", "burst": "critical"}
    check = result["checks"][2]
    # half of them at least, should a span of five minutes end in between
    assert check["value"] == result["busiest"][0]["count"] >= 22
    assert "kube_log_info" in check["hint"]
    assert statuses(look(server, selector="app=quiet")) == {"read": "ok", "errors": "ok", "burst": "ok"}


def test_previous_run_of_a_restarted_container(server: KubeServer) -> None:
    result = look(server, selector="app=crashed")
    assert [(group["message"], group["level"]) for group in result["groups"]] == [("FATAL out of order <n>", "fatal")]
    assert result["totals"]["logs"] == 2
    assert look(server, selector="app=crashed", previous=False)["groups"] == []


def test_pattern_containers_and_time(server: KubeServer) -> None:
    result = look(server, selector="app in (backend, quiet)", pattern=r"^(INFO|all is)", levels=[])
    assert result["totals"]["matches"] == 2 * 180 + 1
    only = look(server, selector="app=backend", containers=["side"])
    assert [group["message"] for group in only["groups"]] == ["side failed"]
    assert look(server, selector="app=backend", since_hours=0.0001)["totals"]["lines"] == 0


def test_long_log_is_read_in_part_and_its_end_too(server: KubeServer) -> None:
    result = look(server, selector="app=long", max_bytes=20000)
    assert statuses(result)["read"] == "warning"
    counts = {group["message"].split()[1]: group["count"] for group in result["groups"]}
    assert counts["new"] == 500 and 600 <= counts["old"] <= 1000
    assert result["totals"]["bytes"] < 20000 + 2**20
    whole = look(server, selector="app=long")
    assert {group["message"].split()[1]: group["count"] for group in whole["groups"]} == {"old": 9000, "new": 500}
    assert statuses(whole)["read"] == "ok"


def test_namespace_as_a_whole(server: KubeServer) -> None:
    result = look(server, groups=2)
    assert result["totals"]["pods"] == 5 and result["totals"]["unread"] == 0
    assert [group["count"] for group in result["groups"]] == [9000, 500]
    assert result["other"]["count"] == 45 and result["other"]["groups"] == 5 and result["other"]["exact"] is True


def documented_role() -> list[Object]:
    text = re.search(r"```yaml\n(apiVersion: v1\nkind: ServiceAccount.*?)```", doc(), re.DOTALL)
    assert text is not None
    return list(yaml.safe_load_all(text[1].replace("namespace: fileforge", f"namespace: {WORLD}")))


def doc() -> str:
    return (ROOT / "docs/kubernetes-checks.md").read_text(encoding="utf-8")


def test_documented_rights_and_their_absence(server: KubeServer) -> None:
    objects = documented_role()
    role = next(obj for obj in objects if obj["kind"] == "Role")
    everything = role["rules"]
    token = server.add_token(f"system:serviceaccount:{WORLD}:fileforge-checks", "rbac")
    role["rules"] = [rule for rule in everything if rule["resources"] == ["pods/log"]]
    server.apply(*objects)
    blind = look(server, token, selector="app=quiet")
    assert set(statuses(blind).values()) == {"unknown"} and "kubernetes-checks.md" in blind["checks"][0]["hint"]
    role["rules"] = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    server.apply(role)
    refused = look(server, token, selector="app=quiet")
    assert set(statuses(refused).values()) == {"unknown"} and refused["totals"]["unread"] == 1
    assert "pods/log" in refused["unread"][0]["reason"] and "kubernetes-checks.md" in refused["checks"][0]["hint"]
    role["rules"] = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    ]
    server.apply(role)  # what the documentation says is enough for this module
    assert set(statuses(look(server, token, selector="app=quiet")).values()) == {"ok"}
    role["rules"] = everything
    server.apply(role)
    assert set(statuses(look(server, token, selector="app=quiet")).values()) == {"ok"}


def test_api_down_wrong_token_and_nothing_there(server: KubeServer) -> None:
    for result in (
        look(server, kube_host=f"https://127.0.0.1:{free_port()}", kube_timeout=2),
        look(server, "wrong-token-value"),
        look(server, selector="app=absent"),
        look(server, namespace="absent"),
    ):
        assert set(statuses(result).values()) == {"unknown"} and all(check["hint"] for check in result["checks"])
        assert "wrong-token-value" not in json.dumps(result)


def test_waiting_container_has_no_log_and_is_no_trouble(server: KubeServer) -> None:
    needs = shell(WAIT, env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "a"}}}])
    server.apply(workload("Deployment", "waiting", WORLD, needs, replicas=1))
    try:
        wait_until(lambda: look(server, selector="app=waiting")["totals"]["idle"], 10, "the pod", every=0.2)
        result = look(server, selector="app=waiting")
        assert set(statuses(result).values()) == {"ok"} and result["totals"]["logs"] == 0
    finally:
        server.kubectl("delete", "deployment", "waiting", "-n", WORLD, "--cascade=foreground", "--timeout=20s")


def test_bad_options_name_themselves(server: KubeServer, run_module: t.Any) -> None:
    failed = run_module("kube_log_info", {**server.options(), "namespace": WORLD, "pattern": "("}, expect_failure=True)
    assert failed["code"] == "invalid_option" and failed["option"] == "pattern" and "pattern='('" in failed["msg"]


def test_example_of_the_documentation_runs(server: KubeServer) -> None:
    examples = re.findall(r"```yaml\n(- name: .*?)```", doc(), re.DOTALL)
    options = [
        task["fileforge.ops.kube_log_info"]
        for text in examples
        for task in yaml.safe_load(text)
        if "fileforge.ops.kube_log_info" in task
    ]
    assert len(options) == 1
    result = look(server, **{**options[0], "namespace": WORLD, "selector": options[0]["selector"].replace("fileforge-", "")})
    assert result["totals"]["matches"] == 44
    assert "cannot read file <n> for <address>" in doc() and any(
        "<n> for <address>" in group["message"] for group in result["groups"]
    )
