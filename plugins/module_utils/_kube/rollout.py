# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restart, scale and wait: when a rollout is complete, when waiting is useless, and what a request would change. PRIVATE."""

from __future__ import annotations

import dataclasses
import datetime
import time
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    AccessDenied,
    InvalidOption,
    OpsError,
    Refused,
    Unavailable,
    WaitTimeout,
)
from ansible_collections.fileforge.ops.plugins.module_utils._kube import workload as workloads
from ansible_collections.fileforge.ops.plugins.module_utils._kube.client import Client, Rejected
from ansible_collections.fileforge.ops.plugins.module_utils._kube.diagnosis import Finding, diagnose, look
from ansible_collections.fileforge.ops.plugins.module_utils._kube.workload import (
    DAEMON_SET,
    DEPLOYMENT,
    STATEFUL_SET,
    Reference,
    Workload,
)
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress
from ansible_collections.fileforge.ops.plugins.module_utils._time import UTC, now

RESTARTED, SCALED, READY = "restarted", "scaled", "ready"
TITLES = {RESTARTED: "Restart", SCALED: "Scale", READY: "Wait for"}
INTERVAL = 1.0
HOPELESS_SHARE = 6
"""The part of the stall timeout after which a fault that seldom cures itself ends the wait."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user wants of one workload."""

    reference: Reference
    state: str
    replicas: int | None = None
    restart_id: str | None = None
    not_within: int = 300
    timeout: int = 600
    stall_timeout: int = 180
    log_lines: int = 20

    def __post_init__(self) -> None:
        for option in ("timeout", "stall_timeout"):
            if getattr(self, option) < 1:
                raise InvalidOption(option, getattr(self, option), "must be at least 1 second")
        if self.state == SCALED and (self.replicas is None or self.replicas < 0):
            raise InvalidOption("replicas", self.replicas, "state=scaled needs a number that is not negative")
        if self.state == SCALED and self.reference.kind == DAEMON_SET:
            raise InvalidOption("kind", DAEMON_SET, "runs on every node and cannot be scaled")


# what the state of a rollout is


@dataclasses.dataclass(frozen=True)
class Status:
    """The verdict on one state of a workload, in kubectl's words."""

    complete: bool
    message: str
    failure: str = ""
    """Why waiting longer is useless."""
    reason: str = ""
    """A stable word for the failure."""


def status_of(workload: Workload) -> Status:
    """kubectl's algorithm for ``rollout status``; where that has no answer (paused, OnDelete), our own."""
    if workload.observed_generation < workload.generation:
        return Status(False, "the change has not been seen by the controller yet")
    return {DEPLOYMENT: _deployment, STATEFUL_SET: _stateful_set, DAEMON_SET: _daemon_set}[workload.reference.kind](workload)


def _deployment(workload: Workload) -> Status:
    if workload.progress_failed is not None:
        failure = f"it exceeded its progress deadline ({workload.progress_failed})"
        return Status(False, failure, failure, "progress_deadline")
    incomplete = ""
    if workload.updated < workload.replicas:
        incomplete = f"{workload.updated} out of {workload.replicas} new replicas have been updated"
    elif workload.current > workload.updated:
        incomplete = f"{workload.current - workload.updated} old replicas are pending termination"
    elif workload.available < workload.updated:
        incomplete = f"{workload.available} of {workload.updated} updated replicas are available"
    if not incomplete:
        return Status(True, f"{workload.available} of {workload.replicas} replicas are updated and available")
    if workload.paused and workload.updated < workload.replicas:
        return Status(False, incomplete, f"it is paused ({incomplete})", "paused")
    return Status(False, incomplete)


def _stateful_set(workload: Workload) -> Status:
    if workload.current > workload.replicas:
        return Status(False, f"{workload.current - workload.replicas} surplus pods are pending termination")
    if workload.ready < workload.replicas:
        return Status(False, f"{workload.ready} of {workload.replicas} pods are ready")
    if not workload.rolling:
        return Status(True, f"{workload.ready} of {workload.replicas} pods are ready (strategy OnDelete)")
    if workload.partition:
        wanted = max(0, workload.replicas - workload.partition)
        if workload.updated < wanted:
            return Status(False, f"{workload.updated} of {wanted} pods above partition {workload.partition} are updated")
        return Status(True, f"{workload.updated} pods above partition {workload.partition} are updated")
    if workload.replicas and workload.update_revision != workload.current_revision:
        return Status(False, f"{workload.updated} pods are at revision {workload.update_revision}")
    if workload.available < workload.replicas:
        return Status(False, f"{workload.available} of {workload.replicas} pods are available")
    return Status(True, f"{workload.ready} of {workload.replicas} pods are ready at revision {workload.current_revision}")


def _daemon_set(workload: Workload) -> Status:
    if workload.rolling and workload.updated < workload.replicas:
        return Status(False, f"{workload.updated} out of {workload.replicas} new pods have been updated")
    if workload.available < workload.replicas:
        return Status(False, f"{workload.available} of {workload.replicas} updated pods are available")
    return Status(True, f"{workload.available} of {workload.replicas} pods are available")


class StallDetector:
    """Notices that a rollout gets no further: no count has passed its best so far for some time.

    A crash loop makes counts go up and down for ever; that is not progress.
    """

    def __init__(self, clock: t.Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._best: tuple[int, ...] | None = None
        self._generation = -1
        self._since = clock()

    def idle(self, workload: Workload, surplus: int = 0) -> float:
        """Seconds without progress; ``surplus`` counts the pods that still have to go."""
        leaving = max(workload.current - workload.updated, 0)
        counts = (workload.observed_generation, workload.updated, workload.ready, workload.available, -leaving, -surplus)
        if self._best is None or workload.generation != self._generation:
            self._best, self._generation, self._since = counts, workload.generation, self._clock()
        elif any(value > best for value, best in zip(counts, self._best)):
            self._best = tuple(map(max, counts, self._best))
            self._since = self._clock()
        return self._clock() - self._since


# what a request changes


def recently_restarted(workload: Workload, within: int, at: datetime.datetime) -> bool:
    """Whether the template says that it was restarted less than that long ago (a clock that is ahead counts, too)."""
    try:
        then = datetime.datetime.fromisoformat(workload.restarted_at.replace("Z", "+00:00"))
    except ValueError:
        return False
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return abs((at - then).total_seconds()) < within


def plan_of(request: Request, workload: Workload, at: datetime.datetime) -> Plan:
    """What would be done; raises Refused for a restart that could have no effect."""
    plan = Plan(f"{TITLES[request.state]} {request.reference}")
    if request.state == RESTARTED:
        _plan_restart(plan, request, workload, at)
    elif request.state == SCALED and workload.replicas != request.replicas:
        down = t.cast(int, request.replicas) < workload.replicas
        detail = f"from {workload.replicas} to {request.replicas} replicas"
        plan.steps.append(Step("scale", str(request.reference), destructive=down, detail=detail))
    return plan


def _plan_restart(plan: Plan, request: Request, workload: Workload, at: datetime.datetime) -> None:
    if request.restart_id:
        if workload.restart_id == request.restart_id:
            plan.notes.append(f"restarted already at {workload.restarted_at} with restart_id {request.restart_id}")
            return
        detail = f"restart_id {request.restart_id}"
    else:
        if recently_restarted(workload, request.not_within, at):
            plan.notes.append(f"restarted already at {workload.restarted_at}, less than {request.not_within} s ago")
            return
        detail = "rolling replacement of the pods"
    if workload.paused:
        raise Refused("paused", f"{request.reference} is paused: a restart would do nothing", hint="kubectl rollout resume")
    if not workload.rolling:
        raise Refused(
            "on_delete",
            f"{request.reference} has the update strategy OnDelete: a restart would do nothing",
            hint="delete its pods one by one, or use the strategy RollingUpdate",
        )
    plan.steps.append(Step("restart", str(request.reference), count=workload.replicas, destructive=True, detail=detail))


# doing it


class Rollout:
    """One request against one API server."""

    def __init__(self, client: Client, request: Request, progress: Progress) -> None:
        self._client = client
        self._request = request
        self._progress = progress
        self.workload = workloads.read(client, request.reference)
        self.before = self.workload
        self.plan = plan_of(request, self.workload, now())

    def rehearse(self) -> dict[str, t.Any]:
        """Check mode: the same requests as dry runs, so that a missing permission shows now."""
        try:
            self._change(dry_run=True)
        except Rejected as error:
            self.plan.notes.append(f"the API server refuses the dry run: {error.message}")
        return self._result(changed=bool(self.plan.steps))

    def apply(self) -> dict[str, t.Any]:
        """Change what is to be changed, then wait until the rollout is complete."""
        changed = False
        try:
            if self.plan.steps:
                with self._progress.phase(TITLES[self._request.state].lower(), unit=""):
                    self._change(dry_run=False)
                changed = True
            with self._progress.phase("rollout", total=self._goal, unit="pods"):
                self._wait()
        except OpsError as error:
            error.state = {**self._result(changed), **error.state}
            raise
        return self._result(changed)

    def _change(self, *, dry_run: bool) -> None:
        for step in self.plan.steps:
            if step.action == "restart":
                workloads.restart(self._client, self.workload, now(), self._request.restart_id, dry_run=dry_run)
            else:
                workloads.scale(self._client, self.workload, t.cast(int, self._request.replicas), dry_run=dry_run)

    @property
    def _goal(self) -> int:
        return self.workload.replicas if self._request.state != SCALED else t.cast(int, self._request.replicas)

    def _result(self, changed: bool) -> dict[str, t.Any]:
        status = status_of(self.workload)
        latest = self.workload
        return {
            "changed": changed,
            "plan": self.plan.as_dict(),
            "workload": latest.as_dict(),
            "rollout": {
                "complete": status.complete,
                "message": status.message,
                "replicas": latest.replicas,
                "current": latest.current,
                "updated": latest.updated,
                "ready": latest.ready,
                "available": latest.available,
            },
            "previous": {
                "replicas": self.before.replicas,
                "revision": self.before.update_revision,
                "restarted_at": self.before.restarted_at,
            },
            "timings": self._progress.timings,
        }

    def _surplus(self) -> int:
        """Pods beyond the wanted number, ending ones too: after a scale-down nothing may still write."""
        if self._request.state != SCALED:
            return 0
        return max(0, len(workloads.pods_of(self._client, self.workload)) - self.workload.replicas)

    def _wait(self) -> None:
        detector = StallDetector()
        begin = time.monotonic()
        silent_since: float | None = None
        while True:
            try:
                failure = self._observe(detector)
                silent_since = None
                if failure is None:
                    return
            except Unavailable as error:
                silent_since = silent_since if silent_since is not None else time.monotonic()
                if time.monotonic() - silent_since >= self._request.stall_timeout:
                    raise
                failure = ("", error.message)
            if not failure[0] and time.monotonic() - begin >= self._request.timeout:
                failure = ("timeout", f"not complete after {self._request.timeout} s: {failure[1]}")
            if failure[0]:
                raise self._failed(*failure)
            time.sleep(INTERVAL)

    def _observe(self, detector: StallDetector) -> tuple[str, str] | None:
        """Look once: None when all is well, else the reason (empty: go on waiting) and what is missing."""
        latest = workloads.read(self._client, self._request.reference)
        if latest.uid != self.workload.uid:
            return "replaced", "it was deleted and made again meanwhile"
        self.workload = latest
        status = status_of(latest)
        self._progress.set(min(latest.available, latest.updated), latest.replicas, status.message)
        if status.failure:
            return status.reason, status.failure
        surplus = self._surplus() if status.complete else 0
        idle = detector.idle(latest, surplus)
        findings = self._look() if status.complete or idle >= self._patience else []
        if status.complete and not surplus and not findings:
            return None
        message = f"{surplus} pods have not ended yet" if surplus else str(findings[0]) if status.complete else status.message
        hopeless = next((finding for finding in findings if finding.hopeless), None)
        if hopeless is not None and idle >= self._patience:
            return hopeless.code, str(hopeless)
        if idle >= self._request.stall_timeout:
            return "stalled", f"no progress for {self._request.stall_timeout} s: {message}"
        return "", message

    @property
    def _patience(self) -> float:
        return self._request.stall_timeout / HOPELESS_SHARE

    def _look(self) -> list[Finding]:
        """What is wrong with the new pods. Without a readiness probe the counts call a pod available between two crashes."""
        try:
            return look(self._client, self.workload, now())
        except AccessDenied:
            return []  # the counts must do

    def _failed(self, reason: str, what: str) -> WaitTimeout:
        diagnosis = diagnose(self._client, self.workload, now(), self._request.log_lines)
        message = f"{self._request.reference}: {what}"
        if diagnosis.headline and diagnosis.headline not in message:
            message += f"; {diagnosis.headline}"
        return WaitTimeout(message, hint=diagnosis.hint, reason=reason, diagnosis=diagnosis.as_dict())
