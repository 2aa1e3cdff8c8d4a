# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pod states and events become reasons."""

from __future__ import annotations

import datetime
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import AccessDenied
from ansible_collections.fileforge.ops.plugins.module_utils._kube import diagnosis
from ansible_collections.fileforge.ops.plugins.module_utils._kube.client import Object, Rejected
from ansible_collections.fileforge.ops.plugins.module_utils._kube.diagnosis import (
    _HINTS,
    _ORDER,
    classify_image,
    creation_findings,
    diagnose,
    exit_text,
    look,
    pod_findings,
)
from ansible_collections.fileforge.ops.plugins.module_utils._kube.workload import Reference, Workload, parse

NOW = datetime.datetime(2026, 11, 23, 12, 0, tzinfo=datetime.timezone.utc)


def pod(*containers: Object, init: tuple[Object, ...] = (), **status: t.Any) -> Object:
    spec = [{"name": entry["name"], "image": "a", "resources": {"limits": {"memory": "64Mi"}}} for entry in containers]
    return {
        "metadata": {
            "name": "web-1",
            "uid": "p1",
            "labels": {"pod-template-hash": "new"},
            "ownerReferences": [{"controller": True, "uid": "rs1"}],
        },
        "spec": {"containers": spec or [{"name": "app"}]},
        "status": {"phase": "Running", "containerStatuses": list(containers), "initContainerStatuses": list(init), **status},
    }


def container(state: Object, last: Object | None = None, *, restarts: int = 0, ready: bool = False) -> Object:
    return {"name": "app", "image": "app:9", "state": state, "lastState": last or {}, "restartCount": restarts, "ready": ready}


def ended(code: int, reason: str = "Error", message: str = "") -> Object:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message, "finishedAt": "2026-11-23T11:59:00Z"}}


def waiting(reason: str, message: str = "") -> Object:
    return {"waiting": {"reason": reason, "message": message}}


def running(since: str) -> Object:
    return {"running": {"startedAt": since}}


@pytest.mark.parametrize(
    ("reason", "message", "code"),
    [
        ("InvalidImageName", "couldn't parse", "image_invalid"),
        ("ErrImagePull", "manifest unknown", "image_not_found"),
        ("ImagePullBackOff", "docker.io/library/x:1: not found", "image_not_found"),
        ("ErrImagePull", "pull access denied, repository does not exist or may require authorization", "image_unauthorized"),
        ("ErrImagePull", "401 Unauthorized", "image_unauthorized"),
        ("ErrImagePull", "dial tcp 10.0.0.1:443: i/o timeout", "image_unreachable"),
        ("ErrImagePull", "lookup registry: no such host", "image_unreachable"),
        ("RegistryUnavailable", "", "image_unreachable"),
        ("ErrImageNeverPull", "", "image_pull"),
    ],
)
def test_image_classes(reason: str, message: str, code: str) -> None:
    assert classify_image(reason, message) == code
    finding = pod_findings(pod(container(waiting(reason, message))), [], NOW)[0]
    assert (finding.code, finding.container, "app:9" in finding.summary) == (code, "app", True)


@pytest.mark.parametrize(
    ("entry", "code", "text"),
    [
        (container(waiting("CrashLoopBackOff"), ended(1), restarts=4), "crash_loop", "exit code 1"),
        (container(ended(0, "Completed")), "crash_loop", "ended by itself"),
        (container(running("2026-11-23T11:59:30Z"), ended(2), restarts=2, ready=True), "crash_loop", "exit code 2"),
        (container(waiting("CrashLoopBackOff"), ended(137, "OOMKilled"), restarts=3), "oom_killed", "64Mi"),
        (container(ended(137, "OOMKilled")), "oom_killed", "64Mi"),
        (container(waiting("CrashLoopBackOff"), ended(137), restarts=3), "crash_loop", "SIGKILL"),
        (
            container(waiting("CrashLoopBackOff"), ended(128, "StartError", "no such file"), restarts=3),
            "container_config",
            "no such file",
        ),
        (container(waiting("CreateContainerConfigError", 'secret "x" not found')), "container_config", "not found"),
        (container(waiting("RunContainerError", "exec failed")), "container_config", "exec failed"),
    ],
)
def test_container_states(entry: Object, code: str, text: str) -> None:
    finding = pod_findings(pod(entry), [], NOW)[0]
    assert finding.code == code and text in finding.summary and finding.restarts == entry["restartCount"]


def test_container_that_has_run_for_long_after_a_crash_is_well() -> None:
    entry = container(running("2026-11-23T11:00:00Z"), ended(2), restarts=1, ready=True)
    assert pod_findings(pod(entry, conditions=[{"type": "Ready", "status": "True"}]), [], NOW) == []


def test_init_container_is_named_and_one_that_succeeded_is_not() -> None:
    failing = pod(init=({**container(waiting("CrashLoopBackOff"), ended(1), restarts=2), "name": "migrate"},))
    assert [(finding.code, finding.container) for finding in pod_findings(failing, [], NOW)] == [("init_failed", "migrate")]
    done = pod(container(waiting("ContainerCreating")), init=({**container(ended(0, "Completed")), "name": "migrate"},))
    assert [finding.code for finding in pod_findings(done, [], NOW)] == ["not_ready"]


def test_conditions_and_pod_reasons() -> None:
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/5 nodes: 2 Insufficient cpu"}
    found = pod_findings(pod(phase="Pending", conditions=[unscheduled]), [], NOW)
    assert (found[0].code, found[0].summary) == ("unschedulable", "0/5 nodes: 2 Insufficient cpu")
    assert pod_findings(pod(phase="Failed", reason="Evicted", message="low on disk"), [], NOW)[0].code == "evicted"


@pytest.mark.parametrize(
    ("reason", "message", "code"),
    [
        ("Unhealthy", "Readiness probe failed: 503", "readiness_probe"),
        ("Unhealthy", "Liveness probe failed: timeout", "liveness_probe"),
        ("FailedMount", "MountVolume failed", "volume"),
        ("FailedCreatePodSandBox", "no network", "sandbox"),
        ("Pulled", "nothing of interest", "not_ready"),
    ],
)
def test_events_explain_what_statuses_do_not(reason: str, message: str, code: str) -> None:
    found = pod_findings(pod(container(running("2026-11-23T11:00:00Z"))), [{"reason": reason, "message": message}], NOW)
    assert [finding.code for finding in found] == [code]


def test_ending_pods_count_when_they_are_overdue() -> None:
    ending = pod(container(running("2026-11-23T11:00:00Z")))
    ending["metadata"]["deletionTimestamp"] = "2026-11-23T11:59:50Z"
    assert pod_findings(ending, [], NOW) == []
    ending["metadata"]["deletionTimestamp"] = "2026-11-23T11:58:00Z"
    assert [finding.code for finding in pod_findings(ending, [], NOW)] == ["stuck_terminating"]


def test_refused_creation() -> None:
    about = {"kind": "ReplicaSet", "name": "web-abc", "uid": "rs1"}
    quota = {"reason": "FailedCreate", "message": "pods is forbidden: exceeded quota: few", "involvedObject": about}
    assert [(finding.code, finding.object) for finding in creation_findings([quota])] == [("quota", "ReplicaSet web-abc")]
    assert creation_findings([{**quota, "message": "admission webhook denied"}])[0].code == "failed_create"
    assert creation_findings([]) == []


@pytest.mark.parametrize(
    ("code", "text"),
    [(0, "by itself"), (1, "an error"), (42, "an error"), (139, "SIGSEGV"), (129, "signal 1"), (126, "cannot be executed")],
)
def test_exit_codes(code: int, text: str) -> None:
    assert text in exit_text({"exitCode": code})


def test_every_code_has_its_place() -> None:
    assert set(_HINTS) <= set(_ORDER)
    assert set(_ORDER) >= diagnosis._HOPELESS


class FakeClient:
    """Answers from dictionaries by the end of the path."""

    def __init__(self, **answers: t.Any) -> None:
        self.answers = answers
        self.logs: list[tuple[str, t.Mapping[str, t.Any]]] = []

    def list(self, path: str, query: t.Any = None) -> list[Object]:
        found = self.answers.get(path.rpartition("/")[2], [])
        if isinstance(found, Exception):
            raise found
        return t.cast("list[Object]", found)

    def get_text(self, path: str, query: t.Mapping[str, t.Any]) -> str:
        self.logs.append((path, query))
        found = self.answers.get("previous" if "previous" in query else "log", "")
        if isinstance(found, Exception):
            raise found
        return str(found)


def deployment() -> Workload:
    template = {"metadata": {}, "spec": {"containers": [{"name": "app", "image": "a"}]}}
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    status = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1}
    return parse(
        Reference("Deployment", "default", "web"), {"metadata": {"uid": "d1", "generation": 1}, "spec": spec, "status": status}
    )


REPLICA_SET = {
    "metadata": {
        "uid": "rs1",
        "labels": {"pod-template-hash": "new"},
        "annotations": {"deployment.kubernetes.io/revision": "2"},
        "ownerReferences": [{"controller": True, "uid": "d1"}],
    }
}
CRASHING = container(waiting("CrashLoopBackOff"), ended(3), restarts=4)


def event(uid: str, reason: str, message: str, last: str, **extra: t.Any) -> Object:
    about = {"kind": "Pod", "name": "web-1", "uid": uid}
    return {"metadata": {}, "involvedObject": about, "reason": reason, "message": message, "lastTimestamp": last, **extra}


def test_diagnosis_puts_everything_together() -> None:
    events = [
        event("p1", "BackOff", "restarting", "2026-11-23T11:58:00Z", count=7),
        event("rs1", "FailedCreate", "exceeded quota: few", "2026-11-23T11:59:00Z"),
        event("stranger", "Failed", "not ours", "2026-11-23T11:59:30Z"),
    ]
    client = FakeClient(pods=[pod(CRASHING)], replicasets=[REPLICA_SET], events=events, previous="one\ntwo\nthree\n")
    found = diagnose(t.cast(t.Any, client), deployment(), NOW, 2)
    assert [finding.code for finding in found.findings] == ["quota", "crash_loop"]
    assert [entry["reason"] for entry in found.events] == ["FailedCreate", "BackOff"] and found.events[1]["count"] == 7
    assert found.logs == [{"pod": "web-1", "container": "app", "previous": True, "lines": ["two", "three"]}]
    assert client.logs[0][1]["limitBytes"] == diagnosis.MAX_LOG_BYTES
    assert "quota" in found.headline and found.hint


def test_present_log_is_read_when_the_previous_is_gone() -> None:
    client = FakeClient(pods=[pod(CRASHING)], replicasets=[REPLICA_SET], previous=Rejected("not found"), log="now\n")
    assert diagnose(t.cast(t.Any, client), deployment(), NOW, 5).logs[0]["lines"] == ["now"]


def test_what_may_not_be_seen_is_listed() -> None:
    denied = AccessDenied("events are forbidden")
    client = FakeClient(pods=[pod(CRASHING)], replicasets=[REPLICA_SET], events=denied, previous=AccessDenied("logs are forbidden"))
    found = diagnose(t.cast(t.Any, client), deployment(), NOW, 5)
    assert found.unseen == ["events are forbidden", "logs are forbidden"] and found.findings[0].code == "crash_loop"
    assert diagnose(t.cast(t.Any, FakeClient(replicasets=AccessDenied("no"))), deployment(), NOW, 5).unseen == ["no"]


def test_no_logs_when_none_are_wanted() -> None:
    client = FakeClient(pods=[pod(CRASHING)], replicasets=[REPLICA_SET], previous="secret")
    assert diagnose(t.cast(t.Any, client), deployment(), NOW, 0).logs == [] and client.logs == []


def test_only_pods_of_the_present_template_are_looked_at() -> None:
    old = pod(CRASHING)
    old["metadata"] = {**old["metadata"], "name": "web-0", "uid": "p0", "labels": {"pod-template-hash": "old"}}
    client = FakeClient(pods=[old], replicasets=[REPLICA_SET])
    assert look(t.cast(t.Any, client), deployment(), NOW) == []
    strange = pod(CRASHING)
    strange["metadata"] = {**strange["metadata"], "ownerReferences": []}
    assert look(t.cast(t.Any, FakeClient(pods=[strange], replicasets=[REPLICA_SET])), deployment(), NOW) == []
