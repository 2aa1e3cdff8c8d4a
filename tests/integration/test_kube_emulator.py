# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's Kubernetes answers the official client and kubectl as a real one does, and never loses or leaves a process."""

from __future__ import annotations

import json
import os
import pwd
import signal
import ssl
import subprocess
import sys
import threading
import typing as t
import urllib.request
import uuid
from pathlib import Path

import pytest

from tests.lab import ROOT
from tests.lab.daemon import start_time, wait_until
from tests.lab.kube.launch import ADMIN, VIEWER, KubeServer, workload
from tests.lab.kube.runtime import Places

SLEEPER = {"command": ["/bin/sh", "-c", "trap 'exit 0' TERM; echo up; sleep 1000 & wait"]}
HTTP = {
    "command": [sys.executable, "-u", "-m", "http.server", "8080", "--bind", "$(POD_IP)"],
    "workingDir": "/usr/share",
    "ports": [{"name": "http", "containerPort": 8080}],
    "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
}


@pytest.fixture(scope="module")
def server(session_place: Path) -> t.Iterator[KubeServer]:
    server = KubeServer(session_place / "kube-emulator", "--restart-backoff", "0.3")
    yield server.start()
    server.destroy()


@pytest.fixture
def own(place: Path) -> t.Iterator[KubeServer]:
    """A server that a test may kill."""
    server = KubeServer(place / "kube")
    yield server.start()
    server.destroy()


@pytest.fixture
def namespace(server: KubeServer) -> t.Iterator[str]:
    name = f"t{uuid.uuid4().hex[:8]}"
    server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    server.kubectl("delete", "namespace", name, "--wait=false")


def pods(server: KubeServer, namespace: str, selector: str = "app=web") -> list[dict[str, t.Any]]:
    items = server.get("pods", "-n", namespace, "-l", selector)["items"]
    return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]


def one_pod(name: str, namespace: str, container: dict[str, t.Any], **spec: t.Any) -> dict[str, t.Any]:
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name}}
    containers = [{"name": "app", "image": "x:1", **container}]
    spec = {"terminationGracePeriodSeconds": 2, "containers": containers, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def request(
    server: KubeServer, method: str, path: str, body: t.Any = None, token: str | None = ADMIN, kind: str = "application/json"
) -> t.Any:
    """Status code and JSON of a plain request."""
    headers = {"Content-Type": kind, **({"Authorization": f"Bearer {token}"} if token else {})}
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(server.url + path, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(asked, context=tls(server), timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def tls(server: KubeServer) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(server.state / "ca.pem"))


# the official client


@pytest.fixture(scope="module")
def api(server: KubeServer) -> t.Any:
    from kubernetes import client

    configuration = client.Configuration()
    configuration.host = server.url
    configuration.ssl_ca_cert = str(server.state / "ca.pem")
    configuration.api_key = {"authorization": f"Bearer {ADMIN}"}
    return client.ApiClient(configuration)


def two_containers(image: str) -> dict[str, t.Any]:
    found = workload("Deployment", "web", "", {"image": image, "env": [{"name": "A", "value": "1"}]})
    del found["metadata"]["namespace"]
    found["spec"]["template"]["spec"]["containers"].append({"name": "side", "image": "side:1"})
    return found


def test_deployment_through_the_official_client(server: KubeServer, api: t.Any, namespace: str) -> None:
    from kubernetes import client
    from kubernetes.client.rest import ApiException
    from kubernetes.dynamic import DynamicClient

    apps = client.AppsV1Api(api)
    assert client.VersionApi(api).get_code().git_version.startswith("v1.")
    assert apps.create_namespaced_deployment(namespace, two_containers("app:1")).metadata.name == "web"
    read = apps.read_namespaced_deployment("web", namespace)
    assert read.metadata.uid and int(read.metadata.resource_version) > 0 and read.metadata.generation == 1

    stamp = {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}
    patched = apps.patch_namespaced_deployment("web", namespace, {"spec": {"template": {"metadata": {"annotations": stamp}}}})
    assert patched.metadata.generation == 2 and patched.spec.template.metadata.annotations == stamp
    image = {"spec": {"template": {"spec": {"containers": [{"name": "app", "image": "app:2"}]}}}}
    merged = apps.patch_namespaced_deployment("web", namespace, image)
    assert [(entry.name, entry.image) for entry in merged.spec.template.spec.containers] == [("app", "app:2"), ("side", "side:1")]

    assert apps.read_namespaced_deployment_scale("web", namespace).spec.replicas == 2
    assert apps.patch_namespaced_deployment_scale("web", namespace, {"spec": {"replicas": 3}}).spec.replicas == 3
    assert apps.read_namespaced_deployment("web", namespace).spec.replicas == 3

    def counts() -> tuple[t.Any, ...]:
        status = apps.read_namespaced_deployment("web", namespace).status
        return status.observed_generation, status.updated_replicas, status.available_replicas, status.ready_replicas

    wait_until(lambda: counts() == (4, 3, 3, 3), 30, "three ready replicas of the fourth generation")
    assert {item.metadata.owner_references[0].name for item in apps.list_namespaced_replica_set(namespace).items} == {"web"}
    found = client.CoreV1Api(api).list_namespaced_pod(namespace, label_selector="app=web").items
    running = [pod for pod in found if pod.metadata.deletion_timestamp is None]
    assert len(running) == 3 and {pod.status.phase for pod in running} == {"Running"}

    resource = DynamicClient(api).resources.get(api_version="apps/v1", kind="Deployment")
    applied = resource.server_side_apply(
        body=two_containers("app:3"), name="web", namespace=namespace, field_manager="probe", force_conflicts=True
    ).to_dict()
    assert len(applied["metadata"]["managedFields"]) == 3
    assert [entry["image"] for entry in applied["spec"]["template"]["spec"]["containers"]] == ["app:3", "side:1"]

    stale = {**two_containers("app:1"), "metadata": {"name": "web", "resourceVersion": "1"}}
    with pytest.raises(ApiException) as conflict:
        apps.replace_namespaced_deployment("web", namespace, stale)
    assert conflict.value.status == 409 and json.loads(conflict.value.body)["reason"] == "Conflict"
    apps.delete_namespaced_deployment("web", namespace)
    wait_until(lambda: not client.CoreV1Api(api).list_namespaced_pod(namespace).items, 20, "the pods to go with their owner")


def test_pods_and_events_through_the_official_client(server: KubeServer, api: t.Any, namespace: str) -> None:
    from kubernetes import client
    from kubernetes.client.rest import ApiException

    core = client.CoreV1Api(api)
    for name in ("pod-a", "pod-b"):
        assert core.create_namespaced_pod(namespace, one_pod(name, namespace, {})).metadata.name == name
    listed = core.list_namespaced_pod(namespace).items
    assert [(pod.metadata.name, pod.metadata.namespace) for pod in listed] == [("pod-a", namespace), ("pod-b", namespace)]
    assert [pod.metadata.name for pod in core.list_namespaced_pod(namespace, label_selector="app=pod-a").items] == ["pod-a"]
    assert [pod.metadata.name for pod in core.list_namespaced_pod(namespace, field_selector="metadata.name=pod-b").items] == [
        "pod-b"
    ]
    page = core.list_namespaced_pod(namespace, limit=1)
    rest = core.list_namespaced_pod(namespace, limit=1, _continue=page.metadata._continue)
    assert [pod.metadata.name for pod in page.items + rest.items] == ["pod-a", "pod-b"] and not rest.metadata._continue

    wait_until(lambda: core.read_namespaced_pod("pod-a", namespace).status.phase == "Running", 10, "the pod to run")
    wait_until(lambda: core.read_namespaced_pod_log("pod-a", namespace, since_seconds=60, tail_lines=5), 10, "its log")
    assert core.read_namespaced_pod_log("pod-a", namespace) == "app starting, image x:1 mode ok\n"
    about = core.list_namespaced_event(namespace, field_selector="involvedObject.name=pod-a").items
    assert {event.reason for event in about} >= {"Scheduled", "Started"}
    event = {
        "metadata": {"name": "e1"},
        "involvedObject": {"kind": "Pod", "name": "pod-a", "namespace": namespace},
        "reason": "BackOff",
        "message": "m",
        "type": "Warning",
        "lastTimestamp": "2030-01-01T00:00:00Z",
    }
    assert core.create_namespaced_event(namespace, event).metadata.name == "e1"
    selector = "involvedObject.name=pod-a,type=Warning"
    assert [item.reason for item in core.list_namespaced_event(namespace, field_selector=selector).items] == ["BackOff"]
    assert core.list_namespaced_event(namespace, field_selector="involvedObject.name=nope").items == []

    with pytest.raises(ApiException) as missing:
        core.read_namespaced_pod("nope", namespace)
    assert missing.value.status == 404 and json.loads(missing.value.body)["message"] == 'pods "nope" not found'
    core.delete_namespaced_pod("pod-b", namespace)
    wait_until(lambda: len(core.list_namespaced_pod(namespace).items) == 1, 10, "the pod to end")


def test_watch_from_a_list_ends_by_itself(server: KubeServer, api: t.Any, namespace: str) -> None:
    from kubernetes import client, watch

    core = client.CoreV1Api(api)
    core.create_namespaced_pod(namespace, one_pod("pod-a", namespace, SLEEPER))
    wait_until(lambda: core.read_namespaced_pod("pod-a", namespace).status.phase == "Running", 10, "the pod to run")
    version = core.list_namespaced_pod(namespace).metadata.resource_version
    later = threading.Timer(0.5, lambda: core.patch_namespaced_pod("pod-a", namespace, {"metadata": {"labels": {"z": "1"}}}))
    later.start()
    seen = [
        (event["type"], event["object"].metadata.labels.get("z"))
        for event in watch.Watch().stream(
            core.list_namespaced_pod, namespace, resource_version=version, timeout_seconds=2, _request_timeout=8
        )
    ]
    later.join()
    assert ("MODIFIED", "1") in seen and {kind for kind, _unused in seen} == {"MODIFIED"}


# plain requests


def events_of(server: KubeServer, path: str, until: t.Callable[[dict[str, t.Any]], bool]) -> list[dict[str, t.Any]]:
    asked = urllib.request.Request(server.url + path, headers={"Authorization": f"Bearer {ADMIN}"})
    found = []
    with urllib.request.urlopen(asked, context=tls(server), timeout=20) as answer:
        for line in answer:
            found.append(json.loads(line))
            if until(found[-1]):
                break
    return found


def test_watch_follows_objects_into_and_out_of_a_selector(server: KubeServer, namespace: str) -> None:
    base = f"/api/v1/namespaces/{namespace}/configmaps"
    version = request(server, "GET", base)[1]["metadata"]["resourceVersion"]
    request(server, "POST", base, {"metadata": {"name": "a"}})
    for value in ("yes", "no"):
        request(server, "PATCH", f"{base}/a", {"metadata": {"labels": {"in": value}}}, kind="application/merge-patch+json")
    query = f"?watch=true&resourceVersion={version}&labelSelector=in=yes&allowWatchBookmarks=true&timeoutSeconds=1"
    seen = events_of(server, base + query, lambda event: event["type"] == "BOOKMARK")
    assert [event["type"] for event in seen] == ["ADDED", "DELETED", "BOOKMARK"]
    assert int(seen[-1]["object"]["metadata"]["resourceVersion"]) > int(version)


def test_watch_list_and_expired_revisions(server: KubeServer, namespace: str) -> None:
    base = f"/api/v1/namespaces/{namespace}/configmaps"
    request(server, "POST", base, {"metadata": {"name": "a"}})
    query = "?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=5"
    seen = events_of(server, base + query, lambda event: event["type"] == "BOOKMARK")
    assert [event["type"] for event in seen] == ["ADDED", "BOOKMARK"]
    assert seen[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    old = events_of(server, f"{base}?watch=true&resourceVersion=1", lambda event: True)
    assert old[0]["type"] == "ERROR" and old[0]["object"]["code"] == 410


def test_patches_and_conflicts(server: KubeServer, namespace: str) -> None:
    base = f"/api/v1/namespaces/{namespace}/configmaps"
    code, made = request(server, "POST", base, {"metadata": {"name": "a"}, "data": {"x": "1", "y": "2"}})
    assert code == 201 and request(server, "POST", base, {"metadata": {"name": "a"}})[1]["reason"] == "AlreadyExists"
    patch = [{"op": "test", "path": "/data/x", "value": "1"}, {"op": "remove", "path": "/data/y"}]
    code, patched = request(server, "PATCH", f"{base}/a", patch, kind="application/json-patch+json")
    assert code == 200 and patched["data"] == {"x": "1"}
    assert request(server, "PATCH", f"{base}/a", patch, kind="application/json-patch+json")[0] == 422
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"x": "3"}}
    assert request(server, "PATCH", f"{base}/a", stale, kind="application/merge-patch+json")[1]["reason"] == "Conflict"
    code, same = request(server, "PATCH", f"{base}/a", {"data": {"x": "1"}}, kind="application/merge-patch+json")
    assert same["metadata"]["resourceVersion"] == patched["metadata"]["resourceVersion"], "nothing changed"
    assert request(server, "PATCH", f"{base}/a", {}, kind="text/plain")[0] == 415
    dry = request(server, "PATCH", f"{base}/a?dryRun=All", {"data": {"x": "9"}}, kind="application/merge-patch+json")[1]
    assert dry["data"]["x"] == "9" and request(server, "GET", f"{base}/a")[1]["data"]["x"] == "1"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"selector": {"matchLabels": {"app": "other"}}}, "spec.template.metadata.labels"),
        ({"template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}}, "spec.containers"),
        ({"replicas": -1}, "spec.replicas"),
    ],
)
def test_invalid_objects_are_refused(server: KubeServer, namespace: str, change: dict[str, t.Any], field: str) -> None:
    wrong = workload("Deployment", "web", namespace, SLEEPER)
    wrong["spec"].update(change)
    code, status = request(server, "POST", f"/apis/apps/v1/namespaces/{namespace}/deployments", wrong)
    assert code == 422 and status["details"]["causes"][0]["field"] == field
    code, status = request(server, "POST", "/apis/apps/v1/namespaces/absent/deployments", workload("Deployment", "w", "absent", {}))
    assert code == 404 and status["message"] == 'namespaces "absent" not found'


def test_tokens_and_roles(server: KubeServer, namespace: str) -> None:
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    assert request(server, "GET", path, token=None)[0] == 401
    assert request(server, "GET", path, token="wrong")[1]["reason"] == "Unauthorized"
    assert request(server, "GET", path, token=VIEWER)[0] == 200
    code, status = request(server, "POST", path, workload("Deployment", "web", namespace, {}), token=VIEWER)
    assert code == 403 and 'User "viewer" cannot create resource "deployments" in API group "apps"' in status["message"]
    assert request(server, "GET", f"/api/v1/namespaces/{namespace}/secrets", token=VIEWER)[0] == 403
    reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    review = {"spec": {"resourceAttributes": {"namespace": namespace, "verb": "delete", "resource": "pods"}}}
    allowed = [request(server, "POST", reviews, review, token=token)[1]["status"]["allowed"] for token in (ADMIN, VIEWER)]
    assert allowed == [True, False]


def test_view_role_reads_neither_nodes_nor_what_grants_rights(server: KubeServer, namespace: str) -> None:
    for path in ("/api/v1/nodes", "/apis/rbac.authorization.k8s.io/v1/clusterroles", "/apis/coordination.k8s.io/v1/leases"):
        assert request(server, "GET", path, token=ADMIN)[0] == 200
        assert request(server, "GET", path, token=VIEWER)[0] == 403
    assert request(server, "GET", f"/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods", token=VIEWER)[0] == 200


def test_bound_roles_grant_what_they_say_where_they_are_bound(server: KubeServer, namespace: str) -> None:
    token = server.add_token("reader", "rbac")
    pods_path, log = f"/api/v1/namespaces/{namespace}/pods", f"/api/v1/namespaces/{namespace}/pods/absent/log"
    assert request(server, "GET", pods_path, token=token)[0] == 403
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "reader", "namespace": namespace}}
    subjects = [{"kind": "User", "name": "reader", "apiGroup": "rbac.authorization.k8s.io"}]
    role = {"kind": "Role", "name": "reader", "apiGroup": "rbac.authorization.k8s.io"}
    server.apply({**rbac, "kind": "Role", "rules": rules}, {**rbac, "kind": "RoleBinding", "subjects": subjects, "roleRef": role})
    assert request(server, "GET", pods_path, token=token)[0] == 200
    code, status = request(server, "GET", log, token=token)
    assert code == 403 and 'cannot get resource "pods/log"' in status["message"]
    assert request(server, "DELETE", f"{pods_path}/absent", token=token)[0] == 403
    assert request(server, "GET", "/api/v1/namespaces/default/pods", token=token)[0] == 403
    assert request(server, "GET", "/api/v1/pods", token=token)[0] == 403
    logs = {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]}
    server.apply({**rbac, "kind": "Role", "rules": [*rules, logs]})
    assert request(server, "GET", log, token=token)[0] == 404


# kubectl


def test_kubectl_rollout(server: KubeServer, namespace: str) -> None:
    server.apply(workload("Deployment", "web", namespace, SLEEPER))
    ns = ("-n", namespace)
    assert "successfully rolled out" in server.kubectl("rollout", "status", "deploy/web", "--timeout=30s", *ns)
    before = {pod["metadata"]["uid"] for pod in pods(server, namespace)}
    server.kubectl("rollout", "restart", "deploy/web", *ns)
    assert "successfully rolled out" in server.kubectl("rollout", "status", "deploy/web", "--timeout=30s", *ns)
    assert not before & {pod["metadata"]["uid"] for pod in pods(server, namespace)}
    server.kubectl("set", "image", "deploy/web", "app=app:2", *ns)
    server.kubectl("rollout", "status", "deploy/web", "--timeout=30s", *ns)
    history = server.kubectl("rollout", "history", "deploy/web", *ns).splitlines()
    assert [line.split()[0] for line in history[2:5]] == ["1", "2", "3"]
    server.kubectl("rollout", "undo", "deploy/web", *ns)
    server.kubectl("rollout", "status", "deploy/web", "--timeout=30s", *ns)
    assert {pod["spec"]["containers"][0]["image"] for pod in pods(server, namespace)} == {"app:1"}
    assert len(server.get("rs", *ns)["items"]) == 3, "the old replica set was used again"
    server.kubectl("scale", "deploy/web", "--replicas=3", *ns)
    server.kubectl("wait", "deploy/web", "--for=jsonpath={.status.readyReplicas}=3", "--timeout=20s", *ns)
    server.kubectl("rollout", "pause", "deploy/web", *ns)
    assert "can't restart paused deployment" in server.kubectl("rollout", "restart", "deploy/web", *ns, fails=True)


def test_kubectl_get_describe_top_and_delete(server: KubeServer, namespace: str) -> None:
    server.apply(workload("Deployment", "web", namespace, HTTP, replicas=1))
    ns = ("-n", namespace)
    server.kubectl("wait", "deploy/web", "--for=condition=Available", "--timeout=20s", *ns)
    table = server.kubectl("get", "po", *ns).splitlines()
    assert table[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert table[1].split()[1:4] == ["1/1", "Running", "0"]
    wide = server.kubectl("get", "deploy,rs,po", "-o", "wide", *ns)
    assert "app:1" in wide and "127." in wide
    assert server.kubectl("get", "deploy", "web", "-o", "jsonpath={.status.readyReplicas}", *ns) == "1"
    assert "web" in server.kubectl("get", "pods", "-A")
    described = server.kubectl("describe", "deploy", "web", *ns)
    assert "NewReplicaSetAvailable" in described and "Scaled up replica set" in described
    assert "http-get http://:http/" in server.kubectl("describe", "pod", "-l", "app=web", *ns)
    assert "lab" in server.kubectl("get", "nodes")

    def usage() -> list[str]:
        done = server.kubectl("top", "pods", *ns).splitlines()
        return done[1].split() if len(done) > 1 else []

    wait_until(lambda: (found := usage()) and int(found[2].removesuffix("Mi")) > 5, 10, "metrics", every=0.5)
    assert "lab" in server.kubectl("top", "nodes")
    events = server.kubectl("get", "events", "--field-selector", "reason=ScalingReplicaSet", *ns)
    assert "deployment/web" in events
    pids = [pid for pid in server.containers() if _command(pid, "http.server")]
    server.kubectl("delete", "deploy", "web", "--cascade=foreground", "--timeout=30s", *ns)
    assert not pods(server, namespace) and all(start_time(pid) is None for pid in pids) and pids


def _command(pid: int, fragment: str) -> bool:
    try:
        return fragment.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_kubectl_logs(server: KubeServer, namespace: str) -> None:
    talk = "i=0; while [ $i -lt 5 ]; do echo line $i; i=$((i+1)); done; echo error >&2; sleep 1; echo last; exit 4"
    talker = one_pod("talker", namespace, {"command": ["/bin/sh", "-c", talk]}, restartPolicy="Never")
    talker["spec"]["containers"].append({"name": "side", "image": "x", "command": ["/bin/sh", "-c", "echo from the side"]})
    server.apply(talker)
    ns = ("-n", namespace)
    wait_until(lambda: "containerStatuses" in server.get("pod", "talker", *ns)["status"], 10, "the pod to start")
    followed = server.kubectl("logs", "talker", "-c", "app", "-f", *ns)
    assert followed.splitlines() == [*(f"line {number}" for number in range(5)), "error", "last"]
    assert server.kubectl("logs", "talker", "-c", "app", "--tail=2", *ns).splitlines() == ["error", "last"]
    assert server.kubectl("logs", "talker", "-c", "side", *ns) == "from the side\n"
    assert server.kubectl("logs", "talker", "-c", "app", "--since=1h", "--limit-bytes=6", *ns) == "line 0"
    assert server.kubectl("logs", "talker", "-c", "app", "--since-time=2040-01-01T00:00:00Z", *ns) == ""
    stamped = server.kubectl("logs", "talker", "-c", "app", "--timestamps", "--tail=1", *ns).split()
    assert stamped[0].startswith("20") and stamped[1] == "last"
    assert "is not valid" in server.kubectl("logs", "talker", "-c", "absent", *ns, fails=True)
    assert "previous terminated container" in server.kubectl("logs", "talker", "-c", "app", "--previous", *ns, fails=True)
    wait_until(lambda: server.get("pod", "talker", *ns)["status"]["phase"] == "Failed", 10, "the pod to fail")
    ended = server.get("pod", "talker", *ns)["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (4, "Error")


# pods


def status_of(server: KubeServer, namespace: str, name: str) -> dict[str, t.Any]:
    found: dict[str, t.Any] = (server.get("pod", name, "-n", namespace)["status"].get("containerStatuses") or [{}])[0]
    return found


def test_crash_loop_backs_off_and_keeps_the_previous_log(server: KubeServer, namespace: str) -> None:
    server.apply(one_pod("crash", namespace, {"command": ["/bin/sh", "-c", "echo attempt; exit 7"]}))

    def looping() -> bool:
        status = status_of(server, namespace, "crash")
        return status.get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff" and status["restartCount"] >= 2

    wait_until(looping, 20, "a crash loop")
    status = status_of(server, namespace, "crash")
    assert status["lastState"]["terminated"]["exitCode"] == 7
    assert status["lastState"]["terminated"]["containerID"].endswith(f"/{status['restartCount']}")  # the run that ended last
    assert server.kubectl("logs", "crash", "--previous", "-n", namespace) == "attempt\n"
    wait_until(
        lambda: "CrashLoopBackOff" in server.kubectl("get", "pods", "-n", namespace), 20, "kubectl to show it between two starts"
    )


def test_liveness_probe_restarts_and_out_of_memory_is_named(server: KubeServer, namespace: str, place: Path) -> None:
    mark = place / "alive"
    mark.touch()
    place.chmod(0o755)
    alive = {"exec": {"command": ["/bin/ls", str(mark)]}, "periodSeconds": 1, "failureThreshold": 1}
    server.apply(one_pod("living", namespace, {**SLEEPER, "livenessProbe": alive}))
    wait_until(lambda: status_of(server, namespace, "living").get("ready"), 10, "the pod to be ready")
    mark.unlink()
    wait_until(lambda: status_of(server, namespace, "living").get("restartCount"), 15, "a restart")
    assert "failed liveness probe" in server.kubectl("get", "events", "-n", namespace)
    mark.touch()
    server.apply(one_pod("big", namespace, SLEEPER))
    wait_until(lambda: status_of(server, namespace, "big").get("ready"), 10, "the pod to be ready")
    server.kubectl("annotate", "pod", "big", "lab.fileforge.ops/oom-kill=app", "-n", namespace)
    wait_until(lambda: status_of(server, namespace, "big").get("restartCount"), 10, "a restart")
    assert status_of(server, namespace, "big")["lastState"]["terminated"]["reason"] == "OOMKilled"


def test_evicted_pod_stays_failed_and_is_replaced(server: KubeServer, namespace: str) -> None:
    server.apply(workload("Deployment", "web", namespace, SLEEPER, replicas=1))
    ns = ("-n", namespace)
    wait_until(lambda: [pod for pod in pods(server, namespace) if pod["status"]["phase"] == "Running"], 10, "the pod to run")
    name = pods(server, namespace)[0]["metadata"]["name"]
    message = "The node was low on resource: memory."
    server.kubectl("annotate", "pod", name, f"lab.fileforge.ops/evict={message}", *ns)
    wait_until(
        lambda: server.get("deploy", "web", *ns)["status"].get("readyReplicas") and len(pods(server, namespace)) == 2, 15, "another"
    )
    status = server.get("pod", name, *ns)["status"]
    assert (status["phase"], status["reason"], status["message"]) == ("Failed", "Evicted", message)
    assert status["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137
    assert "Evicted" in server.kubectl("get", "events", *ns)


def test_environment_init_containers_and_jobs(server: KubeServer, namespace: str, place: Path) -> None:
    place.chmod(0o777)
    config: dict[str, t.Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf", "namespace": namespace}}
    config["data"] = {"COLOUR": "blue"}
    secret: dict[str, t.Any] = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "sec", "namespace": namespace}}
    secret["stringData"] = {"word": "s3cret"}
    env = [
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "word"}}},
        {"name": "BOTH", "value": "$(NAME)/$(WORD)/$$(NAME)"},
    ]
    show: dict[str, t.Any] = {"command": ["/bin/sh", "-c"], "args": ["echo $BOTH $COLOUR"], "env": env}
    show["envFrom"] = [{"configMapRef": {"name": "conf"}}]
    init = [{"name": "first", "image": "i", "command": ["/bin/sh", "-c", f"echo one > {place}/order"]}]
    server.apply(config, secret, one_pod("env", namespace, show, initContainers=init, restartPolicy="Never"))
    wait_until(lambda: server.get("pod", "env", "-n", namespace)["status"]["phase"] == "Succeeded", 15, "the pod to end")
    assert server.kubectl("logs", "env", "-c", "app", "-n", namespace) == "env/s3cret/$(NAME) blue\n"
    assert (place / "order").read_text() == "one\n"
    true = {"name": "app", "image": "j", "command": ["/bin/true"]}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "job", "namespace": namespace},
        "spec": {
            "completions": 2,
            "template": {"spec": {"restartPolicy": "Never", "containers": [true]}},
        },
    }
    server.apply(job)
    server.kubectl("wait", "job/job", "--for=condition=Complete", "--timeout=20s", "-n", namespace)
    failing = {**job, "metadata": {"name": "bad", "namespace": namespace}}
    failing["spec"] = json.loads(json.dumps(job["spec"]).replace("/bin/true", "/bin/false")) | {"backoffLimit": 1}
    server.apply(failing)
    server.kubectl("wait", "job/bad", "--for=condition=Failed", "--timeout=20s", "-n", namespace)


def test_service_forwards_to_ready_pods(server: KubeServer, namespace: str) -> None:
    from tests.lab.ports import free_port

    port = free_port()
    spec = {"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http", "nodePort": port}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": namespace}, "spec": spec}
    server.apply(workload("Deployment", "web", namespace, HTTP), service)
    server.kubectl("rollout", "status", "deploy/web", "--timeout=30s", "-n", namespace)

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    wait_until(answers, 10, "the service to answer")
    for _unused in range(4):
        assert answers()
    logs = [server.kubectl("logs", pod["metadata"]["name"], "-n", namespace) for pod in pods(server, namespace)]
    addresses = {pod["status"]["podIP"] for pod in pods(server, namespace)}
    assert len(addresses) == 2 and all("GET /" in log for log in logs)
    server.kubectl("scale", "deploy/web", "--replicas=0", "-n", namespace)
    wait_until(lambda: not pods(server, namespace), 15, "the pods to end")
    assert not answers()


def test_metrics_can_fail(server: KubeServer, namespace: str) -> None:
    controls = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "lab-controls", "namespace": "kube-system"}}
    path = f"/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods"
    for mode, code in (("missing", 404), ("broken", 503), ("on", 200)):
        server.apply({**controls, "data": {"metrics": mode}})
        assert request(server, "GET", path)[0] == code


def test_namespace_takes_its_pods_along(server: KubeServer, namespace: str) -> None:
    server.apply(workload("Deployment", "web", namespace, SLEEPER))
    server.kubectl("rollout", "status", "deploy/web", "--timeout=60s", "-n", namespace)
    names = {str(server.state / "pods" / f"{namespace}_{pod['metadata']['name']}") for pod in pods(server, namespace)}
    shims = [pid for pid in _shims(server) if any(_command(pid, name) for name in names)]
    assert len(shims) == 2
    server.kubectl("delete", "namespace", namespace, "--timeout=60s")
    assert all(start_time(pid) is None for pid in shims)
    server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    assert not pods(server, namespace)


# life and death of the server


def test_killed_server_adopts_its_pods(own: KubeServer) -> None:
    own.apply(workload("Deployment", "web", "default", SLEEPER))
    own.kubectl("rollout", "status", "deploy/web", "--timeout=30s")
    before = {pod["metadata"]["uid"]: own.get("pod", pod["metadata"]["name"])["status"]["podIP"] for pod in pods(own, "default")}
    pids = set(own.containers())
    assert len(pids) == 2
    own.kill()
    assert set(own.containers()) == pids, "containers do not depend on the server"
    victim = pids.pop()
    os.kill(victim, signal.SIGKILL)
    own.start()

    def restarted() -> bool:
        counts = [pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods(own, "default")]
        return sorted(counts) == [0, 1] and len(own.containers()) == 2

    wait_until(restarted, 15, "the one that died meanwhile to be started again")
    assert pids < set(own.containers()), "the other one was adopted"
    assert {pod["metadata"]["uid"]: pod["status"]["podIP"] for pod in pods(own, "default")} == before
    own.kubectl("scale", "deploy/web", "--replicas=0")
    wait_until(lambda: not own.containers(), 15, "adopted containers to end, too")


def test_graceful_stop_ends_all_pods_and_a_new_server_starts_them_again(own: KubeServer) -> None:
    own.apply(workload("Deployment", "web", "default", SLEEPER))
    own.kubectl("rollout", "status", "deploy/web", "--timeout=30s")
    pids = own.containers()
    own.stop()
    assert pids and all(start_time(pid) is None for pid in pids)
    assert not _shims(own)
    own.start()
    own.kubectl("rollout", "status", "deploy/web", "--timeout=30s")
    wait_until(lambda: len(own.containers()) == 2, 10, "both containers")


def _shims(server: KubeServer) -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _command(int(entry), str(server.state / "pods"))]


def test_nothing_is_left_of_a_server_that_does_not_come_back(own: KubeServer) -> None:
    stubborn = {"command": ["/bin/sh", "-c", "trap '' TERM; setsid sleep 1000 & sleep 1000"]}
    own.apply(workload("Deployment", "web", "default", stubborn, replicas=1))
    own.kubectl("rollout", "status", "deploy/web", "--timeout=30s")
    (process,) = [process for _unused, process in Places(own.state).processes()]
    wait_until(lambda: len(process.tree()) >= 2, 10, "the container's own background process")
    tree = process.tree()
    own.kill()
    reap = [sys.executable, "-m", "tests.lab.kube", "--state", str(own.state), "--reap"]
    subprocess.run(reap, cwd=ROOT, check=True, timeout=60)
    assert [pid for pid in tree if start_time(pid) is not None] == [] and not _shims(own)


def test_containers_of_pods_that_are_no_longer_known_are_ended(own: KubeServer) -> None:
    own.apply(one_pod("lost", "default", SLEEPER))
    wait_until(own.containers, 10, "the container")
    pids = own.containers()
    own.kill()
    for file in own.state.glob("objects.sqlite*"):
        file.unlink()
    own.start()
    assert all(start_time(pid) is None for pid in pids)


def test_container_does_not_outlive_its_killed_parent(own: KubeServer) -> None:
    own.apply(one_pod("web", "default", SLEEPER))
    wait_until(own.containers, 10, "the container")
    (pid,) = own.containers()
    (shim,) = _shims(own)
    os.kill(shim, signal.SIGKILL)
    wait_until(lambda: start_time(pid) is None, 10, "the container to end with its parent")
    wait_until(lambda: status_of(own, "default", "web").get("restartCount") == 1 and own.containers(), 10, "its restart")
    assert status_of(own, "default", "web")["lastState"]["terminated"]["reason"] == "ContainerStatusUnknown"


def test_second_server_on_the_same_state_is_refused(own: KubeServer) -> None:
    argv = [sys.executable, "-m", "tests.lab.kube", "--state", str(own.state)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0 and "another server" in done.stderr


def test_containers_run_as_the_wanted_user(place: Path) -> None:
    user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    server = KubeServer(place / "kube", "--run-as", user).start()
    try:
        server.apply(one_pod("who", "default", {"command": ["/usr/bin/id", "-un"]}, restartPolicy="Never"))
        wait_until(lambda: server.get("pod", "who")["status"]["phase"] == "Succeeded", 10, "the pod to end")
        assert server.kubectl("logs", "who").strip() == user
    finally:
        server.destroy()


def test_tokens_are_not_readable_for_others(server: KubeServer) -> None:
    for path in (server.kubeconfig, server.state / "objects.sqlite", server.state / "server.pem"):
        assert path.stat().st_mode & 0o077 == 0
