# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""kube_rollout through real Ansible, against the lab's Kubernetes with real processes as pods."""

from __future__ import annotations

import subprocess
import sys
import typing as t
import uuid
from pathlib import Path

import pytest

from tests.lab.daemon import wait_until
from tests.lab.kube.launch import VIEWER, KubeServer, workload
from tests.lab.ports import free_port

SHELL = "trap 'exit 0' TERM; sleep 1000 & wait"
SLEEPER = {"command": ["/bin/sh", "-c", f"echo up; {SHELL}"]}
NEVER_READY = {**SLEEPER, "readinessProbe": {"exec": {"command": ["/bin/false"]}, "periodSeconds": 1}}


@pytest.fixture(scope="module")
def server(session_place: Path) -> t.Iterator[KubeServer]:
    server = KubeServer(session_place / "kube", "--cpu", "4", "--memory", "8Gi", "--restart-backoff", "0.3")
    yield server.start()
    server.destroy()


@pytest.fixture
def namespace(server: KubeServer) -> t.Iterator[str]:
    name = f"t{uuid.uuid4().hex[:8]}"
    server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    server.kubectl("delete", "namespace", name, "--wait=false")


class Runner(t.Protocol):
    def __call__(self, check: bool = False, expect_failure: bool = False, **options: t.Any) -> dict[str, t.Any]: ...


@pytest.fixture
def rollout(run_module: t.Any, server: KubeServer, namespace: str) -> Runner:
    def run(check: bool = False, expect_failure: bool = False, **options: t.Any) -> dict[str, t.Any]:
        interpreter = options.pop("interpreter", sys.executable)
        given = {**server.options(), "namespace": namespace, "name": "web", "timeout": 60, **options}
        found: dict[str, t.Any] = run_module(
            "kube_rollout", given, check=check, diff=True, expect_failure=expect_failure, interpreter=interpreter
        )
        return found

    return run


def _uids(server: KubeServer, namespace: str) -> set[str]:
    return {pod["metadata"]["uid"] for pod in server.get("pods", "-n", namespace)["items"]}


def test_restart_check_real_and_second_run(server: KubeServer, namespace: str, rollout: Runner) -> None:
    server.apply(workload("Deployment", "web", namespace, SLEEPER))
    assert rollout()["changed"] is False  # state=ready changes nothing
    before = _uids(server, namespace)

    checked = rollout(check=True, state="restarted", restart_id="drill-1")
    assert checked["changed"] is True
    assert _uids(server, namespace) == before
    assert checked["workload"]["restart_id"] == ""

    done = rollout(state="restarted", restart_id="drill-1", plan_digest=checked["plan"]["digest"])
    assert done["changed"] is True
    assert done["plan"] == checked["plan"]
    assert done["plan"]["destructive"] is True
    assert "restart" in done["diff"]["after"]
    assert done["rollout"] == {**done["rollout"], "complete": True, "replicas": 2, "updated": 2, "available": 2}
    assert done["workload"]["restart_id"] == "drill-1"
    assert done["previous"]["revision"] == "1" and done["workload"]["revision"] == "2"
    after = _uids(server, namespace)
    assert not {pod["metadata"]["uid"] for pod in _alive(server, namespace)} & before

    again = rollout(state="restarted", restart_id="drill-1")
    assert again["changed"] is False
    assert again["plan"]["steps"] == []
    assert {pod["metadata"]["uid"] for pod in _alive(server, namespace)} <= after


def _alive(server: KubeServer, namespace: str) -> list[dict[str, t.Any]]:
    pods = server.get("pods", "-n", namespace)["items"]
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def test_restart_without_id_is_guarded_by_time(server: KubeServer, namespace: str, rollout: Runner) -> None:
    server.apply(workload("Deployment", "web", namespace, SLEEPER, replicas=1))
    server.kubectl("rollout", "restart", "deploy/web", "-n", namespace)  # somebody else's restart counts too
    assert rollout(state="restarted", not_within=300)["changed"] is False
    assert rollout(state="restarted", not_within=0)["changed"] is True


def test_scale_down_leaves_nothing_running(server: KubeServer, namespace: str, rollout: Runner) -> None:
    slow = {"command": ["/bin/sh", "-c", "trap 'sleep 1; exit 0' TERM; echo up; sleep 1000 & wait"]}
    server.apply(workload("Deployment", "web", namespace, slow))
    rollout()
    checked = rollout(check=True, state="scaled", replicas=0)
    assert checked["changed"] is True and len(_uids(server, namespace)) == 2
    done = rollout(state="scaled", replicas=0)
    assert done["changed"] is True and done["plan"] == checked["plan"] and done["plan"]["destructive"] is True
    assert _uids(server, namespace) == set()  # not even one that is still ending
    assert rollout(state="scaled", replicas=0)["changed"] is False
    up = rollout(state="scaled", replicas=3)
    assert up["plan"]["destructive"] is False and up["rollout"]["available"] == 3


def test_another_plan_than_the_confirmed_one_is_refused(server: KubeServer, namespace: str, rollout: Runner) -> None:
    server.apply(workload("Deployment", "web", namespace, SLEEPER, replicas=1))
    digest = rollout(check=True, state="scaled", replicas=2)["plan"]["digest"]
    server.kubectl("scale", "deploy/web", "--replicas=3", "-n", namespace)
    refused = rollout(expect_failure=True, state="scaled", replicas=2, plan_digest=digest)
    assert refused["code"] == "plan_changed"
    assert server.get("deploy", "web", "-n", namespace)["spec"]["replicas"] == 3


@pytest.mark.parametrize(
    ("kind", "spec"),
    [("StatefulSet", {}), ("StatefulSet", {"podManagementPolicy": "Parallel"}), ("DaemonSet", {})],
    ids=["ordered", "parallel", "daemon-set"],
)
def test_other_kinds(server: KubeServer, namespace: str, rollout: Runner, kind: str, spec: dict[str, t.Any]) -> None:
    server.apply(workload(kind, "web", namespace, SLEEPER, replicas=None if kind == "DaemonSet" else 2, **spec))
    rollout(kind=kind)
    before = _uids(server, namespace)
    done = rollout(kind=kind, state="restarted", restart_id="one")
    assert done["changed"] is True and done["rollout"]["complete"] is True
    assert not before & {pod["metadata"]["uid"] for pod in _alive(server, namespace)}
    assert rollout(kind=kind, state="restarted", restart_id="one")["changed"] is False


def test_partition_restarts_only_what_is_above_it(server: KubeServer, namespace: str, rollout: Runner) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}
    server.apply(workload("StatefulSet", "web", namespace, SLEEPER, serviceName="web", updateStrategy=strategy))
    rollout(kind="StatefulSet")
    before = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in _alive(server, namespace)}
    rollout(kind="StatefulSet", state="restarted", restart_id="one")
    after = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in _alive(server, namespace)}
    assert after["web-0"] == before["web-0"]
    assert after["web-1"] != before["web-1"]


def test_restart_that_could_do_nothing_is_refused(server: KubeServer, namespace: str, rollout: Runner) -> None:
    server.apply(workload("Deployment", "web", namespace, SLEEPER, replicas=1, paused=True))
    server.apply(workload("StatefulSet", "web", namespace, SLEEPER, serviceName="web", updateStrategy={"type": "OnDelete"}))
    paused = rollout(expect_failure=True, state="restarted")
    assert (paused["code"], paused["reason"]) == ("refused", "paused")
    on_delete = rollout(expect_failure=True, kind="StatefulSet", state="restarted")
    assert (on_delete["code"], on_delete["reason"]) == ("refused", "on_delete")


def test_image_that_does_not_exist_fails_early_with_the_reason(server: KubeServer, namespace: str, rollout: Runner) -> None:
    controls = {"name": "lab-controls", "namespace": "kube-system"}
    images = {"unpullableImages": "gone:*\nsecret:* unauthorized"}
    server.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": controls, "data": images})
    server.apply(workload("Deployment", "web", namespace, SLEEPER))
    rollout()
    server.kubectl("set", "image", "deploy/web", "app=gone:2", "-n", namespace)
    failed = rollout(expect_failure=True, timeout=120, stall_timeout=30)
    assert failed["reason"] == "image_not_found"
    assert "gone:2" in failed["msg"] and failed["timings"][-1]["seconds"] < 100
    assert failed["changed"] is False
    assert {event["reason"] for event in failed["diagnosis"]["events"]} >= {"Failed"}
    server.kubectl("set", "image", "deploy/web", "app=secret:2", "-n", namespace)
    assert rollout(expect_failure=True, timeout=120, stall_timeout=30)["reason"] == "image_unauthorized"


def test_crash_loop_fails_with_exit_code_and_log(server: KubeServer, namespace: str, rollout: Runner) -> None:
    crash = {"command": ["/bin/sh", "-c", "echo connecting; echo no such database >&2; exit 3"]}
    server.apply(workload("Deployment", "web", namespace, crash, replicas=1))
    failed = rollout(expect_failure=True, timeout=120, stall_timeout=30, log_lines=1)
    assert failed["reason"] == "crash_loop"
    finding = failed["diagnosis"]["findings"][0]
    assert (finding["code"], finding["container"], finding["exit_code"]) == ("crash_loop", "app", 3)
    assert finding["restarts"] >= 3
    assert failed["diagnosis"]["logs"][0]["lines"] == ["no such database"]


def test_memory_limit(server: KubeServer, namespace: str, rollout: Runner) -> None:
    greedy = {
        "command": [sys.executable, "-c", "import time; x = b'x' * 90_000_000; time.sleep(600)"],
        "readinessProbe": {"exec": {"command": ["/bin/true"]}, "initialDelaySeconds": 2},
        "resources": {"limits": {"memory": "40Mi"}, "requests": {"memory": "10Mi"}},
    }
    server.apply(workload("Deployment", "web", namespace, greedy, replicas=1))
    failed = rollout(expect_failure=True, timeout=120, stall_timeout=30)
    assert failed["reason"] == "oom_killed"
    assert failed["diagnosis"]["findings"][0]["exit_code"] == 137 and "40Mi" in failed["msg"]


def test_progress_deadline_fails_before_the_timeout(server: KubeServer, namespace: str, rollout: Runner) -> None:
    server.apply(workload("Deployment", "web", namespace, NEVER_READY, replicas=1, progressDeadlineSeconds=3))
    failed = rollout(expect_failure=True, timeout=120, stall_timeout=100)
    assert failed["reason"] == "progress_deadline"
    assert failed["timings"][-1]["seconds"] < 100
    assert failed["diagnosis"]["findings"][0]["code"] == "readiness_probe"
    assert failed["diagnosis"]["logs"][0]["lines"] == ["up"]


def test_stalled_stateful_set(server: KubeServer, namespace: str, rollout: Runner) -> None:
    server.apply(workload("StatefulSet", "web", namespace, NEVER_READY, serviceName="web"))
    failed = rollout(expect_failure=True, kind="StatefulSet", timeout=120, stall_timeout=4)
    assert failed["reason"] == "stalled"
    assert "0 of 2 pods are ready" in failed["msg"] and "Readiness probe failed" in failed["msg"]


def test_timeout_when_it_goes_on_but_takes_too_long(server: KubeServer, namespace: str, rollout: Runner) -> None:
    server.apply(workload("StatefulSet", "web", namespace, NEVER_READY, serviceName="web"))
    failed = rollout(expect_failure=True, kind="StatefulSet", timeout=3, stall_timeout=100)
    assert failed["reason"] == "timeout" and failed["rollout"]["complete"] is False


def test_quota(server: KubeServer, namespace: str, rollout: Runner) -> None:
    quota = {"metadata": {"name": "few", "namespace": namespace}, "spec": {"hard": {"pods": "1"}}}
    server.apply({"apiVersion": "v1", "kind": "ResourceQuota", **quota})
    server.apply(workload("Deployment", "web", namespace, SLEEPER))
    failed = rollout(expect_failure=True, timeout=120, stall_timeout=4)
    assert failed["diagnosis"]["findings"][0]["code"] == "quota"
    assert "exceeded quota: few" in failed["msg"]


def test_unschedulable(server: KubeServer, namespace: str, rollout: Runner) -> None:
    huge = {**SLEEPER, "resources": {"requests": {"memory": "1Ti"}}}
    server.apply(workload("Deployment", "web", namespace, huge, replicas=1))
    failed = rollout(expect_failure=True, timeout=120, stall_timeout=4)
    assert failed["diagnosis"]["findings"][0]["code"] == "unschedulable"
    assert "Insufficient memory" in failed["msg"]


def test_missing_configuration(server: KubeServer, namespace: str, rollout: Runner) -> None:
    needs = {**SLEEPER, "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "a"}}}]}
    server.apply(workload("Deployment", "web", namespace, needs, replicas=1))
    failed = rollout(expect_failure=True, timeout=120, stall_timeout=12)
    assert failed["reason"] == "container_config" and 'secret "absent" not found' in failed["msg"]


def test_permissions(server: KubeServer, namespace: str, rollout: Runner) -> None:
    server.apply(workload("Deployment", "web", namespace, SLEEPER, replicas=1))
    assert rollout(kube_token=VIEWER)["rollout"]["complete"] is True
    for check in (True, False):  # check mode shows it, too
        denied = rollout(check=check, expect_failure=True, kube_token=VIEWER, state="restarted")
        assert denied["code"] == "access_denied" and "cannot patch" in denied["msg"]
    assert server.get("deploy", "web", "-n", namespace)["metadata"]["generation"] == 1
    wrong = rollout(expect_failure=True, kube_token="wrong-token-value")
    assert wrong["code"] == "access_denied" and "401" in wrong["msg"]
    assert "wrong-token-value" not in wrong["output"]


def test_missing_workload(rollout: Runner) -> None:
    failed = rollout(expect_failure=True)
    assert failed["code"] == "not_found" and "does not exist" in failed["msg"]


def test_api_down(rollout: Runner) -> None:
    failed = rollout(expect_failure=True, kube_host=f"https://127.0.0.1:{free_port()}")
    assert failed["code"] == "unavailable" and "refused" in failed["msg"]


def test_api_that_comes_back_while_waiting(server: KubeServer, namespace: str, start_module: t.Any) -> None:
    slow = {**SLEEPER, "readinessProbe": {"exec": {"command": ["/bin/true"]}, "initialDelaySeconds": 6}}
    server.apply(workload("Deployment", "web", namespace, slow, replicas=1))
    options = {**server.options(), "namespace": namespace, "name": "web", "timeout": 120, "stall_timeout": 60}
    run = start_module("kube_rollout", options)
    run.wait_for(run.module_processes, what="the module to run")
    server.kill()
    server.start()
    result = run.wait()
    assert not result.get("failed"), result
    assert result["rollout"]["complete"] is True


def test_killed_while_waiting_the_next_run_does_not_restart_again(server: KubeServer, namespace: str, start_module: t.Any) -> None:
    slow = {**SLEEPER, "readinessProbe": {"exec": {"command": ["/bin/true"]}, "initialDelaySeconds": 3}}
    server.apply(workload("Deployment", "web", namespace, slow, replicas=1))
    server.kubectl("rollout", "status", "deploy/web", "-n", namespace)
    options = {**server.options(), "namespace": namespace, "name": "web", "state": "restarted", "restart_id": "once"}
    run = start_module("kube_rollout", options)

    def restarted() -> bool:
        return bool(server.get("deploy", "web", "-n", namespace)["spec"]["template"]["metadata"].get("annotations"))

    run.wait_for(restarted, what="the restart")
    run.kill_controller()
    result = start_module("kube_rollout", options).wait()
    assert result["changed"] is False and result["rollout"]["complete"] is True
    assert result["workload"]["revision"] == "2"


def _has_kubernetes(interpreter: str) -> bool:
    if not Path(interpreter).exists():
        return False
    return subprocess.run([interpreter, "-c", "import kubernetes"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("interpreter", [one for one in (sys.executable, "/usr/bin/python3") if _has_kubernetes(one)])
def test_every_installed_client_library(server: KubeServer, namespace: str, rollout: Runner, interpreter: str) -> None:
    server.apply(workload("Deployment", "web", namespace, SLEEPER, replicas=1))
    assert rollout(state="restarted", restart_id="a", interpreter=interpreter)["changed"] is True
    options: dict[str, t.Any] = {"kube_host": None, "kube_token": None, "kube_config": str(server.kubeconfig)}
    assert rollout(state="restarted", restart_id="a", interpreter=interpreter, **options)["changed"] is False
    wait_until(lambda: len(_alive(server, namespace)) == 1, 10, "one pod")
