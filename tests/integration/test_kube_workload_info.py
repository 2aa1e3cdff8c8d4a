# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""kube_workload_info against the lab's Kubernetes with real processes as pods: every fault in a namespace of its own."""

from __future__ import annotations

import json
import re
import sys
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.fileforge.ops.plugins.module_utils._probes import kube_workload_info as module

from tests.lab import ROOT
from tests.lab.daemon import wait_until
from tests.lab.kube.launch import ADMIN, VIEWER, KubeServer, workload
from tests.lab.kube.objects import Object
from tests.lab.ports import free_port

SLEEPER = {"command": ["/bin/sh", "-c", "trap 'exit 0' TERM; echo up; sleep 1000 & wait"]}
CRASH = {"command": ["/bin/sh", "-c", "echo no database >&2; exit 3"]}
NEVER_READY = {**SLEEPER, "readinessProbe": {"exec": {"command": ["/bin/false"]}, "periodSeconds": 1}}
MISSING_SECRET = {**SLEEPER, "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "a"}}}]}
DOC = ROOT / "docs/kubernetes-checks.md"


def web(namespace: str, container: Object | None = None, kind: str = "Deployment", **more: t.Any) -> Object:
    return workload(kind, "web", namespace, container or SLEEPER, **{"replicas": 1, **more})


def with_init(namespace: str) -> Object:
    found = web(namespace)
    found["spec"]["template"]["spec"]["initContainers"] = [{"name": "migrate", "image": "app:1", **CRASH}]
    return found


def job(namespace: str, container: Object, **spec: t.Any) -> Object:
    containers = [{"name": "app", "image": "app:1", **container}]
    template = {"spec": {"restartPolicy": "Never", "containers": containers}}
    metadata = {"name": "dump", "namespace": namespace}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template, **spec}}


def quota(namespace: str, pods: int) -> Object:
    metadata = {"name": "few", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": {"pods": str(pods)}}}


class Fault(t.NamedTuple):
    """A world, the checks that must tell of it, what their evidence and hints must say, and what may be not ok beside them."""

    objects: t.Callable[[str], list[Object]]
    wanted: dict[str, str]
    evidence: str
    hint: str
    beside: frozenset[str] = frozenset(("ready", "restarts", "not_ready", "events"))
    annotation: str = ""


FAULTS = {
    "healthy": Fault(lambda n: [web(n), job(n, {"command": ["/bin/true"]})], {}, "", "", frozenset()),
    "crash-loop": Fault(
        lambda n: [web(n, CRASH)],
        {"crash_loop": "critical", "ready": "critical", "restarts": "warning"},
        "exit code 3",
        "kube_log_info",
    ),
    "init-crash": Fault(lambda n: [with_init(n)], {"crash_loop": "critical", "ready": "critical"}, "migrate", "kube_log_info"),
    "oom-kill": Fault(
        lambda n: [web(n)], {"oom_killed": "warning", "restarts": "warning"}, "memory", "memory limit", annotation="oom-kill=app"
    ),
    "image-not-found": Fault(
        lambda n: [web(n, {**SLEEPER, "image": "gone:2"})], {"image_pull": "critical", "ready": "critical"}, "gone:2", "image"
    ),
    "image-unauthorized": Fault(
        lambda n: [web(n, {**SLEEPER, "image": "secret:2"})], {"image_pull": "critical"}, "image_unauthorized", "pull secret"
    ),
    "missing-secret": Fault(lambda n: [web(n, MISSING_SECRET)], {"container_config": "critical"}, "absent", "Secret"),
    "unschedulable": Fault(
        lambda n: [web(n, {**SLEEPER, "resources": {"requests": {"memory": "1Ti"}}})],
        {"unschedulable": "critical", "ready": "critical"},
        "Insufficient memory",
        "nodes",
    ),
    "quota": Fault(
        lambda n: [quota(n, 1), web(n, replicas=3)],
        {"quota": "critical", "ready": "warning"},
        "exceeded quota: few",
        "ResourceQuota",
    ),
    "quota-of-a-stateful-set": Fault(
        lambda n: [quota(n, 0), web(n, kind="StatefulSet", serviceName="web")],
        {"quota": "critical", "ready": "critical"},
        "exceeded quota: few",
        "ResourceQuota",
    ),
    "evicted": Fault(
        lambda n: [web(n)], {"evicted": "warning"}, "low on memory", "pressure", annotation="evict=The node was low on memory"
    ),
    "not-ready": Fault(lambda n: [web(n, NEVER_READY)], {"not_ready": "warning", "ready": "critical"}, "probe", "kube_log_info"),
    "progress-deadline": Fault(
        lambda n: [web(n, NEVER_READY, progressDeadlineSeconds=2)], {"ready": "critical"}, "progress deadline", "kube_rollout"
    ),
    "failed-job": Fault(
        lambda n: [web(n), job(n, CRASH, backoffLimit=0)], {"jobs": "critical"}, "BackoffLimitExceeded", "kube_log_info"
    ),
    "daemon-set": Fault(
        lambda n: [web(n, CRASH, "DaemonSet", replicas=None)], {"crash_loop": "critical"}, "DaemonSet", "kube_log_info"
    ),
}


@pytest.fixture(scope="module")
def server(session_place: Path) -> t.Iterator[KubeServer]:
    """All faults at once, each in a namespace of its name."""
    server = KubeServer(session_place / "kube-workloads", "--cpu", "64", "--memory", "64Gi", "--restart-backoff", "0.3")
    try:
        server.start()
        controls = {"name": "lab-controls", "namespace": "kube-system"}
        images = {"unpullableImages": "gone:*\nsecret:* unauthorized"}
        server.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": controls, "data": images})
        server.apply(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in FAULTS))
        server.apply(*(obj for name, fault in FAULTS.items() for obj in fault.objects(name)))
        yield server
    finally:
        server.destroy()


def look(server: KubeServer, namespace: str = "healthy", token: str = ADMIN, **options: t.Any) -> dict[str, t.Any]:
    """The module's result, without Ansible around it."""
    defaults = {name: entry.get("default") for name, entry in module.ARGUMENTS.items()}
    given = {**defaults, **server.options(token), "namespace": namespace, "startup_grace": 0, **options}
    return module.operate(given, False)


def statuses(result: dict[str, t.Any]) -> dict[str, str]:
    """Of the checks that are not ok."""
    return {check["id"].removeprefix("kube."): check["status"] for check in result["checks"] if check["status"] != "ok"}


def check_of(result: dict[str, t.Any], aspect: str) -> dict[str, t.Any]:
    found: dict[str, t.Any] = next(check for check in result["checks"] if check["id"] == f"kube.{aspect}")
    return found


@pytest.mark.parametrize("name", FAULTS)
def test_fault(server: KubeServer, name: str) -> None:
    fault = FAULTS[name]
    if fault.annotation:
        wait_until(lambda: statuses(look(server, name)) == {}, 20, "the pod to run", every=0.2)
        server.kubectl("annotate", "pod", "-l", "app=web", f"lab.fileforge.ops/{fault.annotation}", "-n", name)
    result: dict[str, t.Any] = {}
    grown = {"warning": ("warning", "critical"), "critical": ("critical",)}  # restarts go on while the test looks

    def told() -> bool:
        result.update(look(server, name))
        found = statuses(result)
        if not fault.wanted:
            return not found
        return all(found.get(aspect) in grown[status] for aspect, status in fault.wanted.items()) and fault.evidence in main()

    def main() -> str:
        """What the first of the wanted checks shows."""
        check = check_of(result, next(iter(fault.wanted)))
        return json.dumps([check["summary"], check["evidence"]])

    try:
        wait_until(told, 30, "the checks", every=0.2)
    except TimeoutError:
        pytest.fail(f"{statuses(result)} {main() if fault.wanted else ''}")
    assert set(statuses(result)) <= set(fault.wanted) | fault.beside
    assert all(check_of(result, aspect)["hint"] for aspect in fault.wanted)
    assert not fault.wanted or fault.hint in check_of(result, next(iter(fault.wanted)))["hint"]


def test_through_ansible_with_every_client_library(server: KubeServer, run_module: t.Any, place: Path) -> None:
    samples = place / "samples.json"
    given = {**server.options(VIEWER), "namespace": "crash-loop", "name": "web", "samples_file": str(samples)}
    checked = run_module("kube_workload_info", given, True)
    assert checked["changed"] is False and checked["status"] == "critical" and not samples.exists()
    assert checked["workloads"][0]["kind"] == "Deployment" and checked["workloads"][0]["desired"] == 1
    for interpreter in interpreters():
        result = run_module("kube_workload_info", given, interpreter=interpreter)
        assert result["changed"] is False and result["checks"][0]["id"] == "kube.web.api"
        assert result["findings"][0]["code"] == "crash_loop" and result["findings"][0]["workload"] == "Deployment web"
        assert samples.exists()


def interpreters() -> list[str]:
    """This one, and the distribution's with its old client library."""
    found = [sys.executable]
    if list(Path("/usr/lib/python3/dist-packages").glob("kubernetes/__init__.py")):
        found.append("/usr/bin/python3")
    return found


def test_restarts_are_counted_from_a_kept_sample(server: KubeServer, place: Path) -> None:
    path = str(place / "samples.json")
    wait_until(lambda: look(server, "crash-loop")["restarts"], 20, "restarts")
    look(server, "crash-loop", samples_file=path)
    pod = server.get("pods", "-n", "crash-loop")["items"][0]
    known = json.loads(Path(path).read_text())["samples"][0]["restarts"]
    assert list(known) == [f"{pod['metadata']['uid']}/app"] and known.popitem()[1] >= 1
    first = look(server, "crash-loop", samples_file=path)["restarts"][0]
    assert first["method"] == "pod_age" and first["exact"] is True  # the pod is younger than the window
    tiny = look(server, "crash-loop", samples_file=path, window_hours=1e-9)["restarts"]
    assert all(one["method"] == "sample" and one["exact"] for one in tiny)


def test_selector(server: KubeServer) -> None:
    assert statuses(look(server, "crash-loop", selector="app=web"))["crash_loop"] == "critical"
    assert statuses(look(server, "crash-loop", selector="app=other")) == {"ready": "unknown"}


def test_usage_is_measured_against_limits(server: KubeServer) -> None:
    bounds = {"limits": {"memory": "500Mi", "cpu": "2"}, "requests": {"memory": "1Mi"}}
    server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bounded"}})
    server.apply(web("bounded", {**SLEEPER, "resources": bounds}))
    wait_until(lambda: look(server, "bounded")["usage"], 20, "metrics", every=0.2)
    result = look(server, "bounded", memory_warning=0.01)
    memory = next(usage for usage in result["usage"] if usage["resource"] == "memory")
    assert memory["limit"] == 500 * 2**20 and 0 < memory["used"] < memory["limit"] and memory["percent_of_request"] > 0
    assert statuses(result)["memory"] in ("warning", "critical")
    check = check_of(result, "memory")
    assert "API Unavailable, step 2" in check["hint"] and check["evidence"][0]["container"] == "app"


@pytest.mark.parametrize("mode", ["missing", "broken"])
def test_metrics_api_that_is_absent_or_down_is_unknown(server: KubeServer, mode: str) -> None:
    patch = json.dumps({"data": {"metrics": mode}})
    server.kubectl("patch", "configmap", "lab-controls", "-n", "kube-system", "-p", patch)
    try:
        result = look(server)
    finally:
        server.kubectl("patch", "configmap", "lab-controls", "-n", "kube-system", "-p", '{"data": {"metrics": "on"}}')
    assert statuses(result) == {"cpu": "unknown", "memory": "unknown"}
    assert all("metrics-server" in check["hint"] for check in result["checks"] if check["status"] == "unknown")


def test_api_down_and_wrong_token(server: KubeServer) -> None:
    result = look(server, kube_host=f"https://127.0.0.1:{free_port()}", kube_timeout=2)
    assert statuses(result).pop("api") == "critical" and set(statuses(result).values()) == {"critical", "unknown"}
    assert "runbook" in result["checks"][0]["hint"] and all(check["hint"] for check in result["checks"])
    refused = look(server, token="wrong-token-value")
    assert set(statuses(refused).values()) == {"unknown"} and len(statuses(refused)) == len(refused["checks"])
    assert "wrong-token-value" not in json.dumps(refused)


# rights: the role of the documentation, and what is lost with each part of it


def documented_role(namespace: str, rules: list[Object] | None = None) -> list[Object]:
    """The objects of the documentation, in another namespace."""
    text = re.search(r"```yaml\n(apiVersion: v1\nkind: ServiceAccount.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    assert text is not None
    objects: list[Object] = list(yaml.safe_load_all(text[1]))
    for obj in objects:
        obj["metadata"]["namespace"] = namespace
        for subject in obj.get("subjects", []):
            subject["namespace"] = namespace
        if rules is not None and "rules" in obj:
            obj["rules"] = rules
    return objects


def grant(server: KubeServer, rules: list[Object] | None = None) -> str:
    """A token of the documentation's service account, with its rules or others."""
    server.apply(*documented_role("healthy", rules))
    return server.add_token("system:serviceaccount:healthy:fileforge-checks", "rbac")


def test_documented_role_is_enough_and_no_more(server: KubeServer) -> None:
    result = look(server, token=grant(server))
    assert statuses(result) == {} and result["unseen"] == {}
    rules = next(obj["rules"] for obj in documented_role("healthy") if "rules" in obj)
    assert {verb for rule in rules for verb in rule["verbs"]} == {"get", "list"}
    assert statuses(look(server, token=VIEWER)) == {}


@pytest.mark.parametrize(
    ("missing", "unknown"),
    [
        ("events", {"quota", "failed_create", "events"}),
        ("jobs", {"jobs"}),
        ("deployments", {"ready"}),
        ("replicasets", {"quota", "failed_create"}),
        ("metrics", {"cpu", "memory"}),
        (
            "pods",
            {
                "crash_loop",
                "oom_killed",
                "image_pull",
                "container_config",
                "unschedulable",
                "evicted",
                "not_ready",
                "restarts",
                "cpu",
                "memory",
            },
        ),
    ],
)
def test_each_missing_right_is_unknown_in_its_own_checks(server: KubeServer, missing: str, unknown: set[str]) -> None:
    rules: list[Object] = []
    for rule in next(obj["rules"] for obj in documented_role("healthy") if "rules" in obj):
        of_metrics = rule["apiGroups"] == ["metrics.k8s.io"]
        keep = [name for name in rule["resources"] if (missing != "metrics" if of_metrics else name != missing)]
        rules += [{**rule, "resources": keep}] if keep else []
    result = look(server, token=grant(server, rules))
    found = statuses(result)
    assert set(found) == unknown and set(found.values()) == {"unknown"}
    assert all("kubernetes-checks.md" in check["hint"] for check in result["checks"] if check["status"] == "unknown")
    assert list(result["unseen"]) == [missing] and "cannot list" in result["unseen"][missing]


def test_example_of_the_documentation_runs(server: KubeServer, place: Path) -> None:
    for name, text in re.findall(r"```yaml\n- name: (.*?)\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL):
        task = yaml.safe_load(f"- name: {name}\n{text}")[0]
        options = task.get("fileforge.ops.kube_workload_info")
        if options is not None:
            assert look(server, **{**options, "namespace": "healthy", "samples_file": str(place / "s.json")})["status"] == "ok"
            break
    else:
        pytest.fail("the documentation has no example")
