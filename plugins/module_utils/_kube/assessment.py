# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks from what there is in a namespace; each says what was seen and what to do next. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import datetime
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, UNKNOWN, WARNING, Check, grade, worst
from ansible_collections.fileforge.ops.plugins.module_utils._errors import AccessDenied, InvalidOption, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._kube.client import Object
from ansible_collections.fileforge.ops.plugins.module_utils._kube.diagnosis import (
    Finding,
    creation_findings,
    event_summary,
    event_time,
    pod_findings,
)
from ansible_collections.fileforge.ops.plugins.module_utils._kube.inventory import (
    EVENTS,
    JOB,
    JOBS,
    METRICS,
    PODS,
    REPLICA_SETS,
    Inventory,
    Owned,
)
from ansible_collections.fileforge.ops.plugins.module_utils._kube.restarts import (
    Restarts,
    Samples,
    last_end,
    moment,
    restarts_of,
    statuses,
)
from ansible_collections.fileforge.ops.plugins.module_utils._kube.rollout import status_of
from ansible_collections.fileforge.ops.plugins.module_utils._kube.usage import CPU, MEMORY, Usage, usages_of
from ansible_collections.fileforge.ops.plugins.module_utils._kube.workload import PLURALS

SHOWN = 20
METRICS_LAG = datetime.timedelta(minutes=3)
"""A container that has run for longer should have been measured."""
ROLE_HINT = "give the account the role of docs/kubernetes-checks.md"
FINDING_CHECKS: dict[str, tuple[tuple[str, ...], str]] = {
    "crash_loop": (("crash_loop", "init_failed"), "read its last lines with kube_log_info; then runbook, API Unavailable, step 1"),
    "oom_killed": (("oom_killed",), "raise the memory limit or find the leak; then runbook, API Unavailable, step 2"),
    "image_pull": (
        ("image_invalid", "image_not_found", "image_unauthorized", "image_unreachable", "image_pull"),
        "correct image or pull secret, or go back with kubectl rollout undo; kube_rollout with state=ready waits for it",
    ),
    "container_config": (("container_config",), "create the ConfigMap or Secret, or correct the reference or command"),
    "unschedulable": (("unschedulable",), "lower the requests or add nodes; runbook, API Unavailable, step 2"),
    "quota": (("quota",), "raise the namespace's ResourceQuota or scale something down; then kube_rollout with state=ready"),
    "failed_create": (("failed_create",), "read the message: an admission rule or the service account refuses the pod"),
    "evicted": (("evicted",), "look at the node's pressure conditions and at the pods' requests; then delete the evicted pods"),
    "not_ready": (
        ("volume", "sandbox", "liveness_probe", "readiness_probe", "not_ready", "stuck_terminating", "unknown"),
        "read the evidence and kube_log_info; then runbook, API Unavailable",
    ),
}
_CALM = frozenset(("evicted", "not_ready"))
"""Checks whose findings are warnings: kube.ready says whether the workload suffers."""
_STARTING = frozenset(("not_ready", "readiness_probe"))


@dataclasses.dataclass(frozen=True)
class Limits:
    """From when on what counts."""

    window_hours: float = 24
    startup_grace: int = 120
    restarts_warning: float = 1
    restarts_critical: float = 5
    events_warning: float = 20
    cpu_warning: float = 70
    cpu_critical: float = 90
    memory_warning: float = 80
    memory_critical: float = 95

    def __post_init__(self) -> None:
        if self.window_hours <= 0:
            raise InvalidOption("window_hours", self.window_hours, "must be more than 0")
        if self.startup_grace < 0:
            raise InvalidOption("startup_grace", self.startup_grace, "must not be negative")
        if self.events_warning <= 0:
            raise InvalidOption("events_warning", self.events_warning, "must be more than 0")
        for option in ("restarts", "cpu", "memory"):
            warning, critical = getattr(self, f"{option}_warning"), getattr(self, f"{option}_critical")
            if not 0 < warning <= critical:
                raise InvalidOption(f"{option}_warning", warning, f"must be more than 0 and at most {option}_critical ({critical})")


@dataclasses.dataclass(frozen=True)
class Judged:
    """A finding with its workload and its weight."""

    finding: Finding
    workload: str
    status: str

    def as_dict(self) -> dict[str, t.Any]:
        """For evidence and results."""
        return {**self.finding.as_dict(), "workload": self.workload, "status": self.status}


class Assessment:
    """Judges one look at a namespace."""

    def __init__(self, inventory: Inventory, limits: Limits, samples: Samples, now: datetime.datetime, name: str = "") -> None:
        self._inventory = inventory
        self._limits = limits
        self._samples = samples
        self._now = now
        self._start = now - datetime.timedelta(hours=limits.window_hours)
        self._name = name
        self._by_object: dict[str, list[Object]] = {}
        for event in inventory.events:
            self._by_object.setdefault(str(event["involvedObject"].get("uid")), []).append(event)
        self.findings = self._find()
        self.restarts = self._count_restarts()
        self.usages = self._measure()

    def _id(self, aspect: str) -> str:
        return ".".join(filter(None, ("kube", self._name, aspect)))

    def checks(self) -> list[Check]:
        """All of them, always in the same order."""
        found = [self._api(), self._ready(), self._jobs()]
        found += [self._finding_check(aspect) for aspect in FINDING_CHECKS]
        return [*found, self._restarts(), self._events(), self._usage(CPU), self._usage(MEMORY)]

    # what is unknown

    def _unknown(self, aspect: str, what: str, problem: OpsError, unit: str = "") -> Check:
        return Check(self._id(aspect), UNKNOWN, f"{what} cannot be read: {problem.message}", unit=unit, hint=_hint(problem))

    def _api(self) -> Check:
        problems = self._inventory.problems
        down = self._inventory.unreachable
        if down is not None:
            hint = down.hint or "check the control plane, the network and kube_host or kube_config; runbook, API Unavailable"
            return Check(self._id("api"), CRITICAL, down.message, hint=hint)
        refused = problems.get(PODS)
        if isinstance(refused, AccessDenied) and refused.state.get("status") == 401:
            return Check(self._id("api"), UNKNOWN, refused.message, hint=refused.hint or _hint(refused))
        if not problems:
            return Check(self._id("api"), OK, "the API server answers")
        evidence = {kind: problem.message for kind, problem in problems.items()}
        return Check(self._id("api"), OK, f"the API server answers, but not for {', '.join(problems)}", evidence=evidence)

    # workloads

    def _ready(self) -> Check:
        inventory = self._inventory
        problem = inventory.problem_with(*PLURALS.values())
        rows = [row for row in self.workloads() if row["kind"] != JOB]
        bad = [row for row in rows if row["status"] != OK]
        bad.sort(key=lambda row: str(row["status"] != CRITICAL))
        if problem is not None and not bad:
            return self._unknown("ready", "the workloads", problem, "workloads")
        if not rows:
            summary = f"no Deployment, StatefulSet or DaemonSet in namespace {inventory.namespace}"
            return Check(self._id("ready"), UNKNOWN, summary, unit="workloads", hint="check namespace and selector")
        if not bad:
            return Check(self._id("ready"), OK, f"all {len(rows)} workloads have what they want", 0, "workloads")
        first = bad[0]
        summary = f"{len(bad)} of {len(rows)} workloads: {first['kind']} {first['name']}: {first['message']}"
        hint = "the other kube checks say why; kube_rollout with state=ready waits for it; runbook, API Unavailable"
        status = worst(row["status"] for row in bad)
        return Check(self._id("ready"), status, summary, len(bad), "workloads", hint=hint, evidence=bad[:SHOWN])

    def workloads(self) -> list[dict[str, t.Any]]:
        """Desired, ready, updated of each, and what that means."""
        return [_job_row(owned, self._start) if owned.rollout is None else _row(owned) for owned in self._inventory.workloads]

    def _jobs(self) -> Check:
        problem = self._inventory.problems.get(JOBS)
        if problem is not None:
            return self._unknown("jobs", "the Jobs", problem, "jobs")
        rows = [row for row in self.workloads() if row["kind"] == JOB]
        bad = sorted((row for row in rows if row["status"] != OK), key=lambda row: str(row["status"] != CRITICAL))
        if not bad:
            return Check(self._id("jobs"), OK, f"none of {len(rows)} Jobs failed", 0, "jobs")
        summary = f"{len(bad)} of {len(rows)} Jobs: {bad[0]['name']}: {bad[0]['message']}"
        hint = "read its lines with kube_log_info, correct the cause, then run the Job again"
        status = worst(row["status"] for row in bad)
        return Check(self._id("jobs"), status, summary, len(bad), "jobs", hint=hint, evidence=bad[:SHOWN])

    # findings

    def _find(self) -> list[Judged]:
        found: list[Judged] = []
        for owned, pod in self._inventory.owned_pods():
            found += self._pod(owned, pod)
        for owned in self._inventory.workloads:
            found += self._creation(owned)
        return sorted(found, key=lambda judged: (judged.status != CRITICAL, judged.workload, judged.finding.object))

    def _pod(self, owned: Owned | None, pod: Object) -> list[Judged]:
        events = self._by_object.get(pod["metadata"]["uid"], [])
        finished = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        findings = pod_findings(pod, events, self._now)
        if finished:  # how a Job ended is said by the Job
            findings = [finding for finding in findings if finding.code == "evicted"]
        known = {finding.container for finding in findings}
        findings += [past for past in self._past_oom(pod) if past.container not in known]
        return [
            Judged(finding, str(owned or ""), self._weight(finding, pod))
            for finding in findings
            if not (finding.code in _STARTING and self._starting(pod))
        ]

    def _starting(self, pod: Object) -> bool:
        created = moment(pod["metadata"].get("creationTimestamp"))
        return created is not None and (self._now - created).total_seconds() < self._limits.startup_grace

    def _past_oom(self, pod: Object) -> list[Finding]:
        """Containers that were killed for their memory within the window and run again."""
        found = []
        where = f"pod {pod['metadata']['name']}"
        for entry in statuses(pod):
            ended = last_end(entry)
            at = moment(ended.get("finishedAt"))
            if ended.get("reason") == "OOMKilled" and at is not None and at >= self._start:
                restarts = int(entry.get("restartCount") or 0)
                summary = f"was killed at {ended['finishedAt']} because it used more memory than its limit; {restarts} restarts"
                found.append(Finding("oom_killed", where, summary, entry["name"], restarts, int(ended.get("exitCode", 137))))
        return found

    def _weight(self, finding: Finding, pod: Object) -> str:
        aspect = _aspect(finding.code)
        if aspect in _CALM:
            return WARNING
        if aspect in ("crash_loop", "oom_killed"):
            running = {entry["name"] for entry in statuses(pod) if "running" in (entry.get("state") or {})}
            return WARNING if finding.container in running and not finding.hopeless else CRITICAL
        return CRITICAL

    def _creation(self, owned: Owned) -> list[Judged]:
        """Pods that are missing because they could not be made."""
        if not _lacks_pods(owned):
            return []
        for replica_set in owned.replica_sets:
            for entry in (replica_set.get("status") or {}).get("conditions") or []:
                if entry["type"] == "ReplicaFailure" and entry["status"] == "True":
                    message = str(entry.get("message") or entry.get("reason") or "")
                    code = "quota" if "exceeded quota" in message else "failed_create"
                    finding = Finding(code, f"ReplicaSet {replica_set['metadata']['name']}", message)
                    return [Judged(finding, str(owned), CRITICAL)]
        events = [event for uid in owned.makers for event in self._by_object.get(uid, [])]
        events.sort(key=event_time, reverse=True)
        return [Judged(finding, str(owned), CRITICAL) for finding in creation_findings(events)]

    def _finding_check(self, aspect: str) -> Check:
        codes, hint = FINDING_CHECKS[aspect]
        found = [judged for judged in self.findings if judged.finding.code in codes]
        if found:
            pods = len({judged.finding.object for judged in found})
            summary = f"{found[0].finding}" + (f", and {pods - 1} more" if pods > 1 else "")
            evidence = [judged.as_dict() for judged in found[:SHOWN]]
            status = worst(judged.status for judged in found)
            return Check(self._id(aspect), status, summary, pods, "objects", hint=hint, evidence=evidence)
        needed = (EVENTS, REPLICA_SETS) if aspect in ("quota", "failed_create") else (PODS,)
        problem = self._inventory.problem_with(*needed)
        if problem is not None:
            return self._unknown(aspect, needed[0], problem, "objects")
        return Check(self._id(aspect), OK, "none", 0, "objects")

    # restarts, events, usage

    def _count_restarts(self) -> list[Restarts]:
        counted = [
            restarts_of(pod, entry, self._samples, self._start)
            for _owned, pod in self._inventory.owned_pods()
            for entry in statuses(pod)
        ]
        return sorted((one for one in counted if one.delta), key=lambda one: (-one.delta, one.pod, one.container))

    def _restarts(self) -> Check:
        problem = self._inventory.problems.get(PODS)
        if problem is not None:
            return self._unknown("restarts", "pods", problem, "restarts")
        most = self.restarts[0] if self.restarts else None
        limits = self._limits
        value = most.delta if most is not None else 0
        status = grade(value, limits.restarts_warning, limits.restarts_critical)
        summary = f"none in {limits.window_hours:g} h"
        if most is not None:
            least = "" if most.exact else "at least "
            summary = f"pod {most.pod} container {most.container}: {least}{most.delta} in {limits.window_hours:g} h"
            summary += f", last end: {most.reason or '?'} (exit code {most.exit_code})"
        if self._samples.problem:
            summary += f"; {self._samples.problem}"
        return Check(
            self._id("restarts"),
            status,
            summary,
            value,
            "restarts",
            limits.restarts_warning,
            limits.restarts_critical,
            hint="read the lines before the end with kube_log_info; then runbook, API Unavailable, step 1" if value else "",
            evidence=[one.as_dict() for one in self.restarts[:SHOWN]],
        )

    def warnings(self) -> list[dict[str, t.Any]]:
        """Warning events of the window about the selected objects, newest first, one for each object and reason."""
        mine = {uid for owned in self._inventory.workloads for uid in owned.makers}
        mine |= {pod["metadata"]["uid"] for _owned, pod in self._inventory.owned_pods()}
        prefixes = tuple(f"{owned.name}-" for owned in self._inventory.workloads)
        found: dict[tuple[str, str], dict[str, t.Any]] = {}
        for event in self._inventory.events:
            about = event["involvedObject"]
            related = about.get("uid") in mine or str(about.get("name") or "").startswith(prefixes)
            if not self._inventory.whole and not related:
                continue
            at = moment(event_time(event).partition(".")[0].rstrip("Z") + "Z")
            if at is None or at >= self._start:
                summary = event_summary(event)
                known = found.setdefault((summary["object"], summary["reason"]), {**summary, "count": 0})
                known["count"] += summary["count"]
        return list(found.values())

    def _events(self) -> Check:
        problem = self._inventory.problems.get(EVENTS)
        if problem is not None:
            return self._unknown("events", "events", problem, "events")
        found = self.warnings()
        limit = self._limits.events_warning
        summary = f"{len(found)} warnings" + (f", the newest: {found[0]['object']}: {found[0]['message']}" if found else "")
        status = grade(len(found), limit, None)
        hint = "read the events; kubectl describe shows the objects" if status != OK else ""
        return Check(self._id("events"), status, summary, len(found), "events", limit, hint=hint, evidence=found[:SHOWN])

    def _measure(self) -> list[Usage]:
        metrics = self._inventory.metrics
        return [
            usage
            for _owned, pod in self._inventory.owned_pods()
            if pod["metadata"]["name"] in metrics
            for usage in usages_of(pod, metrics[pod["metadata"]["name"]])
        ]

    def _unmeasured(self) -> list[str]:
        """Containers that have run for long enough but that the metrics API does not know."""
        known = {(usage.pod, usage.container) for usage in self.usages}
        found = []
        for _owned, pod in self._inventory.owned_pods():
            for entry in (pod.get("status") or {}).get("containerStatuses") or []:
                since = moment(((entry.get("state") or {}).get("running") or {}).get("startedAt"))
                place = (pod["metadata"]["name"], entry["name"])
                if since is not None and self._now - since > METRICS_LAG and place not in known:
                    found.append("/".join(place))
        return found

    def _usage(self, resource: str) -> Check:
        problem = self._inventory.problem_with(METRICS, PODS)
        if problem is not None:
            check = self._unknown(resource, "the metrics API", problem, "%")
            own = METRICS in self._inventory.problems and self._inventory.unreachable is None
            if own and not isinstance(problem, AccessDenied):
                return dataclasses.replace(check, hint="install or repair metrics-server (APIService v1beta1.metrics.k8s.io)")
            return check
        limits = self._limits
        warning, critical = getattr(limits, f"{resource}_warning"), getattr(limits, f"{resource}_critical")
        mine = [usage for usage in self.usages if usage.resource == resource]
        ranked = sorted((usage for usage in mine if usage.percent is not None), key=lambda usage: -(usage.percent or 0))
        missing = self._unmeasured()
        value = ranked[0].percent if ranked else None
        status = grade(value, warning, critical) if ranked else OK
        summary = f"no limit set on any of {len(mine)} containers"
        if ranked:
            summary = f"pod {ranked[0].pod} container {ranked[0].container}: {value:g} % of its limit"
        if missing:
            status = worst((status, UNKNOWN))
            summary = f"{len(missing)} containers are not measured, for example {missing[0]}; {summary}"
        hint = _usage_hint(resource, status)
        evidence = [usage.as_dict() for usage in (ranked or mine)[:SHOWN]]
        return Check(self._id(resource), status, summary, value, "%", warning, critical, hint=hint, evidence=evidence)


def _usage_hint(resource: str, status: str) -> str:
    if status == UNKNOWN:
        return "look at metrics-server and the nodes of these pods"
    if status == OK:
        return ""
    return f"runbook, API Unavailable, step 2: scale up with kube_rollout, or raise the {resource} limit"


def _hint(problem: OpsError) -> str:
    if isinstance(problem, AccessDenied) and problem.state.get("status") != 401:
        return ROLE_HINT
    return problem.hint or "check the API server and kube_host or kube_config, then run again"


def _aspect(code: str) -> str:
    return next((aspect for aspect, (codes, _hint) in FINDING_CHECKS.items() if code in codes), "not_ready")


def _lacks_pods(owned: Owned) -> bool:
    if owned.rollout is not None:
        return min(owned.rollout.current, owned.rollout.updated) < owned.rollout.replicas
    spec, status = owned.obj["spec"], owned.obj.get("status") or {}
    made = sum(int(status.get(name) or 0) for name in ("active", "succeeded"))
    return made < int(spec.get("completions") or 1) and not spec.get("suspend") and not _condition(owned.obj, "Failed")


def _condition(obj: Object, kind: str) -> Object | None:
    for entry in (obj.get("status") or {}).get("conditions") or []:
        if entry["type"] == kind and entry["status"] == "True":
            return t.cast(Object, entry)
    return None


def _row(owned: Owned) -> dict[str, t.Any]:
    rollout = owned.rollout
    if rollout is None:
        raise ValueError("a Job has no rollout")
    found = status_of(rollout)
    status, message = (OK, found.message) if found.complete else (WARNING, found.message)
    if rollout.ready < rollout.replicas:
        status = CRITICAL if rollout.ready == 0 else WARNING
        message = f"{rollout.ready} of {rollout.replicas} pods are ready ({message})"
    if found.failure and found.reason == "progress_deadline":
        status = CRITICAL
    return {
        "kind": owned.kind,
        "name": owned.name,
        "desired": rollout.replicas,
        "ready": rollout.ready,
        "updated": rollout.updated,
        "available": rollout.available,
        "current": rollout.current,
        "images": list(rollout.images),
        "status": status,
        "message": message,
    }


def _job_row(owned: Owned, start: datetime.datetime) -> dict[str, t.Any]:
    spec, status = owned.obj["spec"], owned.obj.get("status") or {}
    failed = _condition(owned.obj, "Failed")
    counts = {name: int(status.get(name) or 0) for name in ("active", "ready", "succeeded", "failed")}
    verdict, message = OK, "complete" if _condition(owned.obj, "Complete") else "running"
    if failed is not None:
        at = moment(failed.get("lastTransitionTime"))
        verdict = CRITICAL if at is None or at >= start else OK
        message = f"failed at {failed.get('lastTransitionTime')}: {failed.get('reason')}: {failed.get('message') or ''}".rstrip(
            ": "
        )
    elif message == "running" and counts["failed"]:
        verdict, message = WARNING, f"{counts['failed']} pods failed, it is tried again"
    elif spec.get("suspend"):
        message = "suspended"
    ends = [last_end(entry) for pod in owned.pods for entry in statuses(pod)]
    bad = next((end for end in ends if end and int(end.get("exitCode", 0))), {})
    if verdict != OK and bad:
        message += f" (last end: {bad.get('reason')}, exit code {bad.get('exitCode')})"
    template: Object = spec["template"]["spec"]
    return {
        "kind": JOB,
        "name": owned.name,
        "desired": int(spec.get("completions") or 1),
        **counts,
        "images": [entry.get("image", "") for entry in template["containers"]],
        "status": verdict,
        "message": message,
    }
