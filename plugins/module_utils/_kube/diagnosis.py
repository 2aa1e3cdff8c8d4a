# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why the pods of a workload do not get ready: findings from statuses, conditions, events and logs. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import datetime
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import AccessDenied, NotFound, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._kube.client import Client, Object, Rejected
from ansible_collections.fileforge.ops.plugins.module_utils._kube.workload import (
    DEPLOYMENT,
    Reference,
    Workload,
    pods_of,
    quoted,
    replica_sets_of,
)

MAX_LOGS = 4
MAX_LOG_BYTES = 16384
MAX_EVENTS = 20
MAX_MESSAGE = 500
RECENT = datetime.timedelta(minutes=5)
SETTLED = datetime.timedelta(seconds=10)
HOPELESS_RESTARTS = 3
"""From so many restarts on, a crash loop is not a start that waits for something."""

EXIT_CODES = {
    0: "ended by itself although it should keep running",
    1: "the application ended with an error",
    126: "the command cannot be executed",
    127: "the command was not found",
    128: "the container could not be started",
    134: "aborted (SIGABRT)",
    137: "killed (SIGKILL)",
    139: "crashed (SIGSEGV)",
    143: "terminated (SIGTERM)",
}
_IMAGE_REASONS = frozenset(
    ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError")
)
_CONFIG_REASONS = frozenset(("CreateContainerConfigError", "CreateContainerError", "RunContainerError"))
_ORDER = (
    "quota",
    "failed_create",
    "unschedulable",
    "image_invalid",
    "image_not_found",
    "image_unauthorized",
    "image_unreachable",
    "image_pull",
    "container_config",
    "volume",
    "sandbox",
    "oom_killed",
    "crash_loop",
    "init_failed",
    "evicted",
    "liveness_probe",
    "readiness_probe",
    "not_ready",
    "stuck_terminating",
    "unknown",
)
_HINTS = {
    "quota": "raise the namespace's ResourceQuota or scale something down",
    "failed_create": "read the message: an admission rule or the service account refuses the pod",
    "unschedulable": "lower the requests, add nodes, or look at taints and node selectors",
    "image_invalid": "correct the image's name",
    "image_not_found": "check that the image and its tag exist in the registry",
    "image_unauthorized": "check imagePullSecrets and the registry's permissions",
    "image_unreachable": "check the nodes' network path to the registry",
    "image_pull": "describe the pod for the registry's answer",
    "container_config": "create the ConfigMap or Secret, or correct the reference or command",
    "volume": "check the PersistentVolumeClaim and the node's mounts",
    "oom_killed": "raise the memory limit or find the leak",
    "crash_loop": "read the log lines below",
    "init_failed": "read the init container's log lines below",
    "evicted": "the node ran out of a resource; check its pressure conditions",
    "liveness_probe": "the application hangs or the probe is too strict",
    "readiness_probe": "the application answers that it is not ready: check what it depends on",
    "stuck_terminating": "look at its finalizers and at the node",
}
_HOPELESS = frozenset(("image_invalid", "image_not_found", "image_unauthorized", "image_pull", "container_config"))


@dataclasses.dataclass(frozen=True)
class Finding:
    """One reason. ``code`` is stable."""

    code: str
    object: str
    summary: str
    container: str = ""
    restarts: int = 0
    exit_code: int | None = None

    @property
    def hopeless(self) -> bool:
        """Whether waiting seldom helps."""
        return self.code in _HOPELESS or (self.code in ("crash_loop", "oom_killed") and self.restarts >= HOPELESS_RESTARTS)

    def as_dict(self) -> dict[str, t.Any]:
        """For the module's result."""
        return {**dataclasses.asdict(self), "hint": _HINTS.get(self.code, "")}

    def __str__(self) -> str:
        place = f"{self.object} container {self.container}" if self.container else self.object
        return f"{place}: {self.summary}"


@dataclasses.dataclass
class Diagnosis:
    """Findings with the worst first, warning events with the newest first, last log lines."""

    findings: list[Finding] = dataclasses.field(default_factory=list)
    events: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)
    logs: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)
    unseen: list[str] = dataclasses.field(default_factory=list)
    """What could not be looked at."""

    @property
    def headline(self) -> str:
        """The first finding in a sentence; empty without one."""
        return str(self.findings[0]) if self.findings else ""

    @property
    def hint(self) -> str:
        """What to do about the first finding."""
        return _HINTS.get(self.findings[0].code, "") if self.findings else ""

    def as_dict(self) -> dict[str, t.Any]:
        """For the module's result."""
        return {
            "findings": [finding.as_dict() for finding in self.findings],
            "events": self.events,
            "logs": self.logs,
            "unseen": self.unseen,
        }


def classify_image(reason: str, message: str) -> str:
    """The code for an image that cannot be pulled."""
    text = message.lower()
    if reason == "InvalidImageName":
        return "image_invalid"
    words = (
        ("image_unauthorized", ("unauthorized", "authorization", "denied", "forbidden", "401", "403", "no basic auth")),
        ("image_not_found", ("not found", "manifest unknown", "404", "does not exist", "name unknown")),
        (
            "image_unreachable",
            ("timeout", "no such host", "connection refused", "i/o", "network", "tls", "deadline", "reset"),
        ),
    )
    for code, signs in words:
        if any(sign in text for sign in signs):
            return code
    return "image_unreachable" if reason == "RegistryUnavailable" else "image_pull"


def exit_text(terminated: Object) -> str:
    """``exit code 137: killed (SIGKILL)``."""
    code = int(terminated.get("exitCode", 0))
    meaning = EXIT_CODES.get(code) or (f"ended by signal {code - 128}" if code > 128 else "the application ended with an error")
    text = f"exit code {code}: {meaning}"
    message = str(terminated.get("message") or "").strip()
    return f"{text} ({message[:MAX_MESSAGE]})" if message else text


def _memory_limit(pod: Object, container: str) -> str:
    spec = pod["spec"]
    for entry in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        if entry["name"] == container:
            return str(((entry.get("resources") or {}).get("limits") or {}).get("memory") or "none")
    return "none"


def container_finding(
    pod: Object, status: Object, now: datetime.datetime, *, init: bool = False, doubt: datetime.timedelta = RECENT
) -> Finding | None:
    """What is wrong with one container, from its present and its last state.

    One that runs again counts as failing until it has run for ``doubt``: it may be between two crashes.
    """
    name = status["name"]
    where = f"pod {pod['metadata']['name']}"
    state: Object = status.get("state") or {}
    waiting: Object = state.get("waiting") or {}
    reason = str(waiting.get("reason") or "")
    message = str(waiting.get("message") or "")[:MAX_MESSAGE]
    restarts = int(status.get("restartCount") or 0)
    if reason in _IMAGE_REASONS:
        image = status.get("image") or "?"
        summary = f"the image {image} cannot be pulled: {message or reason}"
        return Finding(classify_image(reason, message), where, summary, name, restarts)
    if reason in _CONFIG_REASONS:
        return Finding("container_config", where, f"{reason}: {message}", name, restarts)
    ended: Object = state.get("terminated") or (status.get("lastState") or {}).get("terminated") or {}
    if not ended or (init and int(ended.get("exitCode", 0)) == 0):
        return None
    if status.get("ready") and "running" in state and not _young(state["running"], now, doubt):
        return None
    code = int(ended.get("exitCode", 0))
    if ended.get("reason") == "OOMKilled":
        summary = f"killed because it used more memory than its limit ({_memory_limit(pod, name)}); {restarts} restarts"
        return Finding("oom_killed", where, summary, name, restarts, code)
    if ended.get("reason") == "StartError":
        return Finding("container_config", where, f"cannot be started: {exit_text(ended)}", name, restarts, code)
    summary = f"{'is restarted again and again' if restarts else 'ended'}, {exit_text(ended)}; {restarts} restarts"
    return Finding("init_failed" if init else "crash_loop", where, summary, name, restarts, code)


def _young(running: Object, now: datetime.datetime, doubt: datetime.timedelta) -> bool:
    stamp = str(running.get("startedAt") or "").replace("Z", "+00:00")
    return bool(stamp) and now - datetime.datetime.fromisoformat(stamp) < doubt


def _pending_finding(pod: Object) -> Finding | None:
    where = f"pod {pod['metadata']['name']}"
    status: Object = pod.get("status") or {}
    if status.get("reason") == "Evicted":
        return Finding("evicted", where, f"evicted: {status.get('message', '')}")
    for entry in status.get("conditions") or []:
        if entry["type"] == "PodScheduled" and entry["status"] == "False":
            return Finding("unschedulable", where, str(entry.get("message") or entry.get("reason") or "not scheduled"))
    return None


_EVENT_CODES = {
    "FailedMount": "volume",
    "FailedAttachVolume": "volume",
    "FailedCreatePodSandBox": "sandbox",
    "FailedScheduling": "unschedulable",
}


def _event_finding(pod: Object, events: t.Sequence[Object]) -> Finding | None:
    """For a pod whose statuses do not say it: the newest telling event."""
    where = f"pod {pod['metadata']['name']}"
    for event in events:
        reason, message = event.get("reason", ""), str(event.get("message") or "")[:MAX_MESSAGE]
        if reason == "Unhealthy":
            code = "liveness_probe" if message.startswith("Liveness") else "readiness_probe"
            return Finding(code, where, message)
        if reason in _EVENT_CODES:
            return Finding(_EVENT_CODES[reason], where, message)
    return None


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def _overdue(pod: Object, now: datetime.datetime) -> bool:
    """Whether an ending pod should have been gone (with half a minute's patience)."""
    stamp = str(pod["metadata"]["deletionTimestamp"]).replace("Z", "+00:00")
    return datetime.datetime.fromisoformat(stamp) + datetime.timedelta(seconds=30) < now


def pod_findings(
    pod: Object, events: t.Sequence[Object], now: datetime.datetime, doubt: datetime.timedelta = RECENT
) -> list[Finding]:
    """What is wrong with one pod; ``events`` are its own, newest first."""
    where = f"pod {pod['metadata']['name']}"
    if "deletionTimestamp" in pod["metadata"]:
        return [Finding("stuck_terminating", where, "should have ended by now")] if _overdue(pod, now) else []
    status: Object = pod.get("status") or {}
    pending = _pending_finding(pod)
    if pending is not None:
        return [pending]
    found = [
        finding
        for field, init in (("initContainerStatuses", True), ("containerStatuses", False))
        for entry in status.get(field) or []
        if (finding := container_finding(pod, entry, now, init=init, doubt=doubt)) is not None
    ]
    if found or _is_ready(pod) or status.get("phase") == "Succeeded":
        return found
    from_events = _event_finding(pod, events)
    return [from_events or Finding("not_ready", where, f"is {status.get('phase', 'Unknown')} but not ready")]


def creation_findings(events: t.Sequence[Object]) -> list[Finding]:
    """Pods that could not even be made: FailedCreate on the workload or its ReplicaSet. Newest first."""
    for event in events:
        if event.get("reason") == "FailedCreate":
            message = str(event.get("message") or "")[:MAX_MESSAGE]
            code = "quota" if "exceeded quota" in message else "failed_create"
            about = event["involvedObject"]
            return [Finding(code, f"{about.get('kind', '')} {about.get('name', '')}", message)]
    return []


def event_time(event: Object) -> str:
    """When it was seen last."""
    series = event.get("series") or {}
    stamp = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return str(stamp or event["metadata"].get("creationTimestamp") or "")


def warning_events(client: Client, namespace: str) -> list[Object]:
    """The namespace's warning events, newest first."""
    path = f"/api/v1/namespaces/{quoted(namespace)}/events"
    found = client.list(path, {"fieldSelector": "type=Warning"})
    return sorted(found, key=event_time, reverse=True)


def new_pods(workload: Workload, pods: t.Sequence[Object], replica_sets: t.Sequence[Object]) -> list[Object]:
    """The pods that the present template made; all that are not ending when that cannot be told."""
    alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    label, value = "controller-revision-hash", workload.update_revision
    if workload.reference.kind == DEPLOYMENT:
        label, value = "pod-template-hash", _newest_hash(replica_sets)
    if not value:
        return alive
    return [pod for pod in alive if (pod["metadata"].get("labels") or {}).get(label) == value]


def _newest_hash(replica_sets: t.Sequence[Object]) -> str:
    def revision(item: Object) -> int:
        return int((item["metadata"].get("annotations") or {}).get("deployment.kubernetes.io/revision") or 0)

    newest = max(replica_sets, key=revision, default=None)
    return str((newest["metadata"].get("labels") or {}).get("pod-template-hash") or "") if newest is not None else ""


def look(client: Client, workload: Workload, now: datetime.datetime) -> list[Finding]:
    """A quick look at the new pods' own statuses, for while waiting; a container that was restarted is given SETTLED."""
    replica_sets = replica_sets_of(client, workload) if workload.reference.kind == DEPLOYMENT else []
    pods = new_pods(workload, pods_of(client, workload), replica_sets)
    return _sorted([finding for pod in pods for finding in pod_findings(pod, [], now, SETTLED)])


def diagnose(client: Client, workload: Workload, now: datetime.datetime, log_lines: int) -> Diagnosis:
    """Everything that can be found out. Never raises for what it may not see: that is listed as unseen."""
    result = Diagnosis()
    try:
        replica_sets = replica_sets_of(client, workload) if workload.reference.kind == DEPLOYMENT else []
        all_pods = pods_of(client, workload)
    except OpsError as error:
        result.unseen.append(error.message)
        return result
    pods = new_pods(workload, all_pods, replica_sets) or all_pods
    ending = [pod for pod in all_pods if "deletionTimestamp" in pod["metadata"] and pod not in pods]
    events: list[Object] = []
    try:
        events = warning_events(client, workload.reference.namespace)
    except OpsError as error:
        result.unseen.append(error.message)
    makers = {workload.uid, *(item["metadata"]["uid"] for item in replica_sets)}
    about = {pod["metadata"]["uid"]: pod for pod in [*pods, *ending]}
    mine = [event for event in events if event["involvedObject"].get("uid") in makers | about.keys()]
    findings = []
    if workload.current < workload.replicas or workload.updated < workload.replicas:
        findings += creation_findings([event for event in mine if event["involvedObject"].get("uid") in makers])
    for uid, pod in about.items():
        findings += pod_findings(pod, [event for event in mine if event["involvedObject"].get("uid") == uid], now)
    result.findings = _sorted(findings)
    result.events = [event_summary(event) for event in mine[:MAX_EVENTS]]
    if log_lines > 0:
        _add_logs(client, workload, result, pods, log_lines)
    return result


def _sorted(findings: list[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: _ORDER.index(finding.code) if finding.code in _ORDER else len(_ORDER))


def event_summary(event: Object) -> dict[str, t.Any]:
    """For a module's result."""
    about = event["involvedObject"]
    return {
        "reason": event.get("reason", ""),
        "object": f"{about.get('kind', '')}/{about.get('name', '')}",
        "message": str(event.get("message") or "")[:MAX_MESSAGE],
        "count": int(event.get("count") or 1),
        "last": event_time(event),
    }


def _add_logs(client: Client, workload: Workload, result: Diagnosis, pods: t.Sequence[Object], lines: int) -> None:
    """The last lines of the containers with findings, at most MAX_LOGS of them."""
    wanted: dict[tuple[str, str], bool] = {}
    for finding in result.findings:
        if finding.code in ("crash_loop", "oom_killed", "init_failed", "liveness_probe", "readiness_probe", "not_ready"):
            name = finding.object.partition(" ")[2]
            for container in [finding.container] if finding.container else _container_names(pods, name):
                wanted.setdefault((name, container), finding.restarts > 0)
    for (name, container), previous in list(wanted.items())[:MAX_LOGS]:
        try:
            text = _log(client, workload.reference, name, container, lines, previous)
        except OpsError as error:
            result.unseen.append(error.message)
            if isinstance(error, AccessDenied):
                return
            continue
        result.logs.append({"pod": name, "container": container, "previous": previous, "lines": text.splitlines()[-lines:]})


def _container_names(pods: t.Sequence[Object], name: str) -> list[str]:
    return [entry["name"] for pod in pods if pod["metadata"]["name"] == name for entry in pod["spec"]["containers"]]


def _log(client: Client, reference: Reference, pod: str, container: str, lines: int, previous: bool) -> str:
    path = f"{reference.pods_path}/{quoted(pod)}/log"
    query: Object = {"container": container, "tailLines": lines, "limitBytes": MAX_LOG_BYTES}
    if previous:
        try:
            return client.get_text(path, {**query, "previous": "true"})
        except (Rejected, NotFound):
            pass  # it runs again already, and the old log is gone
    return client.get_text(path, query)
