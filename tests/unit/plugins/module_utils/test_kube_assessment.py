# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""One fault at a time becomes the right check with the right status and a next step; what was not seen is unknown."""

from __future__ import annotations

import copy
import datetime
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._checks import Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import AccessDenied, InvalidOption, NotFound, Unavailable
from ansible_collections.fileforge.ops.plugins.module_utils._kube.assessment import Assessment, Limits
from ansible_collections.fileforge.ops.plugins.module_utils._kube.client import Object
from ansible_collections.fileforge.ops.plugins.module_utils._kube.inventory import gather
from ansible_collections.fileforge.ops.plugins.module_utils._kube.restarts import Samples

NOW = datetime.datetime(2026, 11, 23, 12, 0, tzinfo=datetime.timezone.utc)
OLD, RECENT, LONG_AGO = "2026-11-23T08:00:00Z", "2026-11-23T11:59:30Z", "2026-11-20T00:00:00Z"
LABELS = {"app": "web"}
ASPECTS = (
    "api",
    "ready",
    "jobs",
    "crash_loop",
    "oom_killed",
    "image_pull",
    "container_config",
    "unschedulable",
    "quota",
    "failed_create",
    "evicted",
    "not_ready",
    "restarts",
    "events",
    "cpu",
    "memory",
)
IDS = [f"kube.{aspect}" for aspect in ASPECTS]
NEED_NO_PODS = frozenset(("api", "ready", "jobs", "quota", "failed_create", "events"))


def metadata(name: str, owner: str = "", kind: str = "", **more: t.Any) -> Object:
    owners = [{"controller": True, "uid": owner, "kind": kind, "name": f"{name.rpartition('-')[0]}"}] if owner else []
    return {"name": name, "uid": f"uid-{name}", "labels": LABELS, "creationTimestamp": OLD, "ownerReferences": owners, **more}


def deployment(**status: t.Any) -> Object:
    counts = {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}
    template = {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "app", "image": "app:1"}]}}
    return {
        "metadata": {**metadata("web"), "generation": 1},
        "spec": {"replicas": 2, "selector": {"matchLabels": LABELS}, "template": template},
        "status": {**counts, **status},
    }


def replica_set(**status: t.Any) -> Object:
    return {"metadata": metadata("web-1", "uid-web", "Deployment"), "spec": {}, "status": status}


def container(state: Object | None = None, last: Object | None = None, restarts: int = 0, ready: bool = True) -> Object:
    return {
        "name": "app",
        "image": "app:1",
        "state": state or {"running": {"startedAt": OLD}},
        "lastState": last or {},
        "restartCount": restarts,
        "ready": ready,
    }


def pod(name: str, entry: Object | None = None, **status: t.Any) -> Object:
    resources = {"limits": {"cpu": "1", "memory": "100Mi"}, "requests": {"memory": "50Mi"}}
    found = {
        "phase": "Running",
        "containerStatuses": [entry or container()],
        "conditions": [{"type": "Ready", "status": "True"}],
        **status,
    }
    return {
        "metadata": metadata(name, "uid-web-1", "ReplicaSet"),
        "spec": {"containers": [{"name": "app", "image": "app:1", "resources": resources}]},
        "status": found,
    }


def aged(obj: Object) -> Object:
    """Made before the window."""
    return {**obj, "metadata": {**obj["metadata"], "creationTimestamp": LONG_AGO}}


def metric(name: str, cpu: str = "100m", memory: str = "20Mi") -> Object:
    return {"metadata": {"name": name}, "containers": [{"name": "app", "usage": {"cpu": cpu, "memory": memory}}]}


def event(reason: str, about: str, message: str = "m", at: str = RECENT, kind: str = "Pod") -> Object:
    involved = {"kind": kind, "name": about, "uid": f"uid-{about}"}
    return {"metadata": {}, "reason": reason, "message": message, "involvedObject": involved, "lastTimestamp": at, "count": 2}


def job(**status: t.Any) -> Object:
    template = {"metadata": {}, "spec": {"containers": [{"name": "app", "image": "app:1"}]}}
    return {"metadata": metadata("dump"), "spec": {"completions": 1, "template": template}, "status": status}


def ended(code: int, reason: str = "Error", at: str = RECENT) -> Object:
    return {"terminated": {"exitCode": code, "reason": reason, "finishedAt": at}}


def waiting(reason: str, message: str = "") -> Object:
    return {"waiting": {"reason": reason, "message": message}}


WORLD: dict[str, t.Any] = {
    "/api/v1/namespaces/n/pods": [pod("web-1-a"), pod("web-1-b")],
    "/apis/apps/v1/namespaces/n/replicasets": [replica_set()],
    "/apis/apps/v1/namespaces/n/deployments": [deployment()],
    "/apis/apps/v1/namespaces/n/statefulsets": [],
    "/apis/apps/v1/namespaces/n/daemonsets": [],
    "/apis/batch/v1/namespaces/n/jobs": [],
    "/api/v1/namespaces/n/events": [],
    "/apis/metrics.k8s.io/v1beta1/namespaces/n/pods": [metric("web-1-a"), metric("web-1-b")],
}
SHORT = {path.replace("/apis/metrics.k8s.io/v1beta1/namespaces/n/pods", "/metrics").rpartition("/")[2]: path for path in WORLD}


class FakeClient:
    def __init__(self, changes: dict[str, t.Any]) -> None:
        self.world = {**copy.deepcopy(WORLD), **{SHORT[name]: value for name, value in changes.items()}}
        self.asked: list[str] = []

    def list(self, path: str, query: Object | None = None) -> t.Iterator[Object]:
        self.asked.append(path)
        found = self.world[path]
        if isinstance(found, Exception):
            raise found
        yield from found


def assess(
    limits: Limits | None = None, selector: str = "", name: str = "", samples: Samples | None = None, **changes: t.Any
) -> tuple[Assessment, dict[str, Check]]:
    inventory = gather(t.cast(t.Any, FakeClient(changes)), "n", selector)
    assessment = Assessment(inventory, limits or Limits(), samples or Samples(), NOW, name)
    return assessment, {check.id: check for check in assessment.checks()}


def not_ok(checks: dict[str, Check]) -> dict[str, str]:
    return {name.removeprefix("kube."): check.status for name, check in checks.items() if check.status != "ok"}


def test_all_is_well() -> None:
    assessment, checks = assess()
    assert list(checks) == IDS and not_ok(checks) == {}
    assert assessment.workloads() == [
        {
            "kind": "Deployment",
            "name": "web",
            "desired": 2,
            "ready": 2,
            "updated": 2,
            "available": 2,
            "current": 2,
            "images": ["app:1"],
            "status": "ok",
            "message": "2 of 2 replicas are updated and available",
        }
    ]
    assert checks["kube.memory"].value == 20.0 and checks["kube.cpu"].value == 10.0


NOT_READY: Object = {"conditions": [{"type": "Ready", "status": "False"}]}
UNSCHEDULED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: Insufficient cpu"}
REPLICA_FAILURE = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}
QUOTA = "pods is forbidden: exceeded quota: few"
DENIED = AccessDenied("cannot list", status=403)
FAULTS: dict[str, tuple[dict[str, t.Any], dict[str, str], str]] = {
    # what is wrong: the world, the checks that say so, a word of the hint of the first one
    "crash loop": (
        {"pods": [pod("web-1-a", container(waiting("CrashLoopBackOff"), ended(1), 4, False), **NOT_READY), pod("web-1-b")]},
        {"crash_loop": "critical", "restarts": "warning"},
        "kube_log_info",
    ),
    "between two crashes": (
        {"pods": [pod("web-1-a", container({"running": {"startedAt": RECENT}}, ended(1), 7))]},
        {"crash_loop": "critical", "restarts": "critical"},
        "kube_log_info",
    ),
    "one crash": (
        {"pods": [pod("web-1-a", container({"running": {"startedAt": RECENT}}, ended(1), 1))]},
        {"crash_loop": "warning", "restarts": "warning"},
        "kube_log_info",
    ),
    "one crash hours ago": (
        {"pods": [pod("web-1-a", container(None, ended(1, at=OLD), 1))]},
        {"restarts": "warning"},
        "kube_log_info",
    ),
    "a crash days ago": ({"pods": [aged(pod("web-1-a", container(None, ended(137, "OOMKilled", LONG_AGO), 1)))]}, {}, ""),
    "memory kill": (
        {"pods": [pod("web-1-a", container(waiting("CrashLoopBackOff"), ended(137, "OOMKilled"), 3, False), **NOT_READY)]},
        {"oom_killed": "critical", "restarts": "warning"},
        "memory limit",
    ),
    "memory kill hours ago": (
        {"pods": [pod("web-1-a", container(None, ended(137, "OOMKilled", OLD), 1))]},
        {"oom_killed": "warning", "restarts": "warning"},
        "memory limit",
    ),
    "image not found": (
        {"pods": [pod("web-1-a", container(waiting("ErrImagePull", "not found"), ready=False), **NOT_READY)]},
        {"image_pull": "critical"},
        "image",
    ),
    "image back-off": (
        {"pods": [pod("web-1-a", container(waiting("ImagePullBackOff", "unauthorized"), ready=False), **NOT_READY)]},
        {"image_pull": "critical"},
        "pull secret",
    ),
    "configuration": (
        {"pods": [pod("web-1-a", container(waiting("CreateContainerConfigError", "no secret"), ready=False), **NOT_READY)]},
        {"container_config": "critical"},
        "ConfigMap",
    ),
    "init container": (
        {
            "pods": [
                pod("web-1-a", initContainerStatuses=[container(waiting("CrashLoopBackOff"), ended(1), 3)], containerStatuses=[])
            ]
        },
        {"crash_loop": "critical", "restarts": "warning"},
        "kube_log_info",
    ),
    "unschedulable": (
        {"pods": [pod("web-1-a", phase="Pending", conditions=[UNSCHEDULED], containerStatuses=[])]},
        {"unschedulable": "critical"},
        "nodes",
    ),
    "quota, by condition": (
        {
            "deployments": [deployment(replicas=1, updatedReplicas=1, readyReplicas=1, availableReplicas=1)],
            "replicasets": [replica_set(conditions=[{**REPLICA_FAILURE, "message": QUOTA}])],
        },
        {"ready": "warning", "quota": "critical"},
        "kube_rollout",
    ),
    "quota, by event": (
        {
            "deployments": [deployment(replicas=0, updatedReplicas=0, readyReplicas=0, availableReplicas=0)],
            "events": [event("FailedCreate", "web-1", f"Error creating: {QUOTA}", kind="ReplicaSet")],
        },
        {"ready": "critical", "quota": "critical"},
        "kube_rollout",
    ),
    "admission": (
        {
            "deployments": [deployment(replicas=1, updatedReplicas=1, readyReplicas=1, availableReplicas=1)],
            "replicasets": [replica_set(conditions=[{**REPLICA_FAILURE, "message": "denied by policy"}])],
        },
        {"ready": "warning", "failed_create": "critical"},
        "kube_rollout",
    ),
    "a quota event that was overcome": ({"events": [event("FailedCreate", "web-1", QUOTA, kind="ReplicaSet")]}, {}, ""),
    "evicted": (
        {"pods": [pod("web-1-a", phase="Failed", reason="Evicted", message="low on memory"), pod("web-1-b")]},
        {"evicted": "warning"},
        "pressure",
    ),
    "not ready": (
        {
            "pods": [pod("web-1-a", container(ready=False), **NOT_READY), pod("web-1-b")],
            "events": [event("Unhealthy", "web-1-a", "Readiness probe failed: 503")],
        },
        {"not_ready": "warning"},
        "kube_log_info",
    ),
    "terminating for ever": (
        {"pods": [{**pod("web-1-a"), "metadata": {**pod("web-1-a")["metadata"], "deletionTimestamp": OLD}}]},
        {"not_ready": "warning"},
        "kube_log_info",
    ),
    "progress deadline": (
        {
            "deployments": [
                deployment(
                    updatedReplicas=1,
                    conditions=[
                        {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "late"}
                    ],
                )
            ]
        },
        {"ready": "critical"},
        "kube_rollout",
    ),
    "rollout under way": ({"deployments": [deployment(updatedReplicas=1)]}, {"ready": "warning"}, "kube_rollout"),
    "one pod short": ({"deployments": [deployment(readyReplicas=1, availableReplicas=1)]}, {"ready": "warning"}, "kube_rollout"),
    "no pod ready": ({"deployments": [deployment(readyReplicas=0, availableReplicas=0)]}, {"ready": "critical"}, "kube_rollout"),
    "nothing there": (
        {"deployments": [], "replicasets": [], "pods": [], "metrics": []},
        {"ready": "unknown"},
        "selector",
    ),
    "failed job": (
        {
            "jobs": [
                job(
                    failed=1,
                    conditions=[{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "lastTransitionTime": OLD}],
                )
            ]
        },
        {"jobs": "critical"},
        "kube_log_info",
    ),
    "job that failed days ago": (
        {"jobs": [job(failed=1, conditions=[{"type": "Failed", "status": "True", "reason": "x", "lastTransitionTime": LONG_AGO}])]},
        {},
        "",
    ),
    "job tried again": ({"jobs": [job(failed=1, active=1)]}, {"jobs": "warning"}, "kube_log_info"),
    "job done": ({"jobs": [job(succeeded=1, conditions=[{"type": "Complete", "status": "True"}])]}, {}, ""),
    "many events": ({"events": [event(f"R{number}", "web-1-a") for number in range(20)]}, {"events": "warning"}, "describe"),
    "old events": ({"events": [event(f"R{number}", "web-1-a", at=LONG_AGO) for number in range(20)]}, {}, ""),
    "memory near its limit": (
        {"metrics": [metric("web-1-a", memory="96Mi"), metric("web-1-b")]},
        {"memory": "critical"},
        "memory limit",
    ),
    "cpu high": ({"metrics": [metric("web-1-a", cpu="750m"), metric("web-1-b")]}, {"cpu": "warning"}, "cpu limit"),
    "a pod without metrics": ({"metrics": [metric("web-1-a")]}, {"cpu": "unknown", "memory": "unknown"}, "metrics-server"),
    "no metrics API": (
        {"metrics": NotFound("no such path", status=404)},
        {"cpu": "unknown", "memory": "unknown"},
        "metrics-server",
    ),
    "metrics API down": ({"metrics": Unavailable("503")}, {"cpu": "unknown", "memory": "unknown"}, "metrics-server"),
    "no right to metrics": ({"metrics": DENIED}, {"cpu": "unknown", "memory": "unknown"}, "kubernetes-checks.md"),
    "no right to events": (
        {"events": DENIED},
        {"quota": "unknown", "failed_create": "unknown", "events": "unknown"},
        "kubernetes-checks.md",
    ),
    "no right to replica sets": ({"replicasets": DENIED}, {"quota": "unknown", "failed_create": "unknown"}, "kubernetes-checks.md"),
    "no right to jobs": ({"jobs": DENIED}, {"jobs": "unknown"}, "kubernetes-checks.md"),
    "no right to stateful sets": ({"statefulsets": DENIED}, {"ready": "unknown"}, "kubernetes-checks.md"),
    "no right to pods": (
        {"pods": DENIED},
        {aspect: "unknown" for aspect in ASPECTS if aspect not in NEED_NO_PODS},
        "kubernetes-checks.md",
    ),
}


@pytest.mark.parametrize(("changes", "wanted", "hint"), FAULTS.values(), ids=list(FAULTS))
def test_faults(changes: dict[str, t.Any], wanted: dict[str, str], hint: str) -> None:
    _assessment, checks = assess(**changes)
    assert list(checks) == IDS
    assert not_ok(checks) == wanted
    for aspect in wanted:
        assert checks[f"kube.{aspect}"].hint, aspect
    if wanted:
        assert hint in checks[f"kube.{next(iter(wanted))}"].hint


def test_server_down_is_asked_once_and_everything_is_unknown() -> None:
    client = FakeClient({"pods": Unavailable("GET: refused")})
    inventory = gather(t.cast(t.Any, client), "n")
    checks = {check.id: check for check in Assessment(inventory, Limits(), Samples(), NOW).checks()}
    assert len(client.asked) == 1
    assert checks["kube.api"].status == "critical" and "control plane" in checks["kube.api"].hint
    assert {check.status for name, check in checks.items() if name != "kube.api"} == {"unknown"}
    assert all(check.hint for check in checks.values())


def test_credentials_not_accepted() -> None:
    refused = AccessDenied("401", hint="they may be expired", status=401)
    _assessment, checks = assess(**dict.fromkeys(SHORT, refused))
    assert {check.status for check in checks.values()} == {"unknown"}
    assert {check.hint for check in checks.values()} == {"they may be expired"}


def test_evidence_names_object_container_and_workload() -> None:
    changes, _wanted, _hint = FAULTS["memory kill"]
    assessment, checks = assess(**changes)
    evidence = checks["kube.oom_killed"].evidence[0]
    assert (evidence["object"], evidence["container"], evidence["workload"], evidence["exit_code"]) == (
        "pod web-1-a",
        "app",
        "Deployment web",
        137,
    )
    assert "100Mi" in checks["kube.oom_killed"].summary
    assert assessment.restarts[0].reason == "OOMKilled"


def test_starting_pod_is_not_told_as_not_ready() -> None:
    young = pod("web-1-a", container(ready=False), **NOT_READY)
    young["metadata"]["creationTimestamp"] = RECENT
    assert not_ok(assess(pods=[young])[1]) == {}
    assert not_ok(assess(Limits(startup_grace=10), pods=[young])[1]) == {"not_ready": "warning"}


def test_selector_takes_workloads_by_their_pods_labels_and_leaves_others_out() -> None:
    other = copy.deepcopy(deployment(readyReplicas=0))
    other["metadata"].update(name="other", uid="uid-other", labels={})
    other["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
    stray = pod("stray", container(waiting("ErrImagePull")))
    stray["metadata"].update(ownerReferences=[], labels={"app": "other"})
    changes = {
        "deployments": [deployment(), other],
        "pods": [pod("web-1-a"), stray],
        "metrics": [metric("web-1-a"), metric("stray")],
    }
    assert not_ok(assess(selector="app=web", **changes)[1]) == {}
    found = not_ok(assess(selector="app=other", **changes)[1])
    assert found == {"ready": "critical", "image_pull": "critical"}


def test_events_of_others_do_not_count_with_a_selector() -> None:
    noise = [event(f"R{number}", "alien") for number in range(30)]
    assert not_ok(assess(events=noise)[1]) == {"events": "warning"}
    assert not_ok(assess(selector="app=web", events=noise)[1]) == {}
    gone = [event(f"R{number}", "web-1-gone") for number in range(30)]
    assert not_ok(assess(selector="app=web", events=gone)[1]) == {"events": "warning"}


def test_pods_find_their_deployment_when_replica_sets_may_not_be_listed() -> None:
    entry = container(waiting("CrashLoopBackOff"), ended(1), 4, False)
    named = pod("web-5d9c-a", entry, **NOT_READY)
    named["metadata"]["ownerReferences"][0]["name"] = "web-5d9c"
    assessment, _checks = assess(replicasets=DENIED, pods=[named])
    assert [judged.workload for judged in assessment.findings] == ["Deployment web"]


def test_samples_make_the_number_exact() -> None:
    entry = container({"running": {"startedAt": OLD}}, ended(1, at=OLD), 9)
    one = aged(pod("web-1-a", entry))
    _assessment, checks = assess(pods=[one])
    assert checks["kube.restarts"].status == "warning" and "at least 1" in checks["kube.restarts"].summary
    samples = Samples([(NOW - datetime.timedelta(hours=25), {"uid-web-1-a/app": 2})])
    _assessment, checks = assess(samples=samples, pods=[one])
    assert (checks["kube.restarts"].status, checks["kube.restarts"].value) == ("critical", 7)
    _assessment, checks = assess(samples=Samples(problem="the file is broken"), pods=[one])
    assert "the file is broken" in checks["kube.restarts"].summary


def test_name_is_part_of_the_ids() -> None:
    assert next(iter(assess(name="backend")[1])) == "kube.backend.api"


def test_container_without_limit_is_not_graded() -> None:
    bare = pod("web-1-a")
    bare["spec"]["containers"][0]["resources"] = {"requests": {"memory": "1Mi"}}
    assessment, checks = assess(pods=[bare], metrics=[metric("web-1-a")])
    assert (checks["kube.memory"].status, checks["kube.memory"].value) == ("ok", None)
    assert "no limit" in checks["kube.memory"].summary
    assert [usage.percent_of_request for usage in assessment.usages if usage.resource == "memory"] == [2000.0]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("window_hours", 0),
        ("startup_grace", -1),
        ("restarts_warning", 9),
        ("cpu_warning", 95),
        ("memory_warning", 0),
        ("events_warning", 0),
    ],
)
def test_bad_limits_are_refused(option: str, value: float) -> None:
    with pytest.raises(InvalidOption, match=f"^{option}="):
        Limits(**{option: value})


def test_bad_selector_is_refused_before_anything_is_asked() -> None:
    client = FakeClient({})
    with pytest.raises(InvalidOption, match="selector"):
        gather(t.cast(t.Any, client), "n", "a b")
    assert client.asked == []


def test_bad_connection_options_are_not_taken_for_a_silent_server() -> None:
    with pytest.raises(InvalidOption):
        gather(t.cast(t.Any, FakeClient({"pods": InvalidOption("kube_host", "x", "not a URL")})), "n")
