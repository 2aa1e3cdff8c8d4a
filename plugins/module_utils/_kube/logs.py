# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The logs of all containers of many pods, read in parallel and counted on the way. PRIVATE to the collection."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import threading
import time
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, UNKNOWN, WARNING, Check, grade
from ansible_collections.fileforge.ops.plugins.module_utils._errors import AccessDenied, InvalidOption, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._kube.client import Client, Object
from ansible_collections.fileforge.ops.plugins.module_utils._kube.labels import parse_selector
from ansible_collections.fileforge.ops.plugins.module_utils._kube.log_lines import (
    SPAN_MINUTES,
    Matcher,
    Rules,
    Scanner,
    Tally,
    group_dicts,
    pods_of,
    sortable,
    times_of,
)
from ansible_collections.fileforge.ops.plugins.module_utils._kube.workload import quoted
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline

NEWEST_LINES = 1000
"""Of a log that is longer than what may be read, so many last lines are read all the same."""
NEWEST_BYTES = 1048576
SHOWN_PODS = 10
SHOWN_UNREAD = 50
ROLE_HINT = "give the account the role of docs/kubernetes-checks.md (pods: list, pods/log: get)"


@dataclasses.dataclass(frozen=True)
class LogRequest:
    """Whose logs, of what time, how much of them, and what is too much."""

    namespace: str
    selector: str = ""
    containers: tuple[str, ...] = ()
    since_hours: float = 24
    rules: Rules = dataclasses.field(default_factory=Rules)
    previous: bool = True
    max_bytes: int = 16777216
    parallel: int = 8
    timeout: int = 300
    groups: int = 20
    kept_groups: int = 500
    min_matches: int = 10
    """With fewer lines that matter, their share says nothing."""
    rate_warning: float = 1
    rate_critical: float = 5
    burst_warning: float = 100
    burst_critical: float = 1000
    name: str = ""

    def __post_init__(self) -> None:
        for option, least in (("max_bytes", 1024), ("parallel", 1), ("timeout", 1), ("groups", 1), ("kept_groups", 1)):
            if getattr(self, option) < least:
                raise InvalidOption(option, getattr(self, option), f"must be at least {least}")
        parse_selector(self.selector)
        if self.since_hours <= 0:
            raise InvalidOption("since_hours", self.since_hours, "must be more than 0")
        if self.parallel > 64:
            raise InvalidOption("parallel", self.parallel, "must be at most 64", hint="the API server limits requests anyway")
        for option in ("rate", "burst"):
            warning, critical = getattr(self, f"{option}_warning"), getattr(self, f"{option}_critical")
            if not 0 < warning <= critical:
                raise InvalidOption(f"{option}_warning", warning, f"must be more than 0 and at most {option}_critical ({critical})")

    def check_id(self, aspect: str) -> str:
        """``kube.logs.errors``, or ``kube.logs.<name>.errors``."""
        return ".".join(filter(None, ("kube.logs", self.name, aspect)))


@dataclasses.dataclass(frozen=True)
class Target:
    """One container's present or previous log."""

    pod: str
    container: str
    previous: bool

    def __str__(self) -> str:
        return f"{self.pod}/{self.container}{' (previous)' if self.previous else ''}"


@dataclasses.dataclass
class Outcome:
    """What was read and what was not."""

    pods: list[str]
    targets: int = 0
    read: int = 0
    cut: list[str] = dataclasses.field(default_factory=list)
    unread: list[dict[str, str]] = dataclasses.field(default_factory=list)
    idle: int = 0
    """Containers that have not run in the window, so that there is nothing to read."""
    problem: OpsError | None = None
    """Why not even the pods could be listed."""


def targets_of(pod: Object, since: str, request: LogRequest) -> tuple[list[Target], int]:
    """The logs of a pod that can hold lines of the window, and how many of its containers have none."""
    status: Object = pod.get("status") or {}
    found: list[Target] = []
    idle = 0
    for field in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"):
        for entry in status.get(field) or []:
            if request.containers and entry["name"] not in request.containers:
                continue
            present, previous = _ran(entry, since)
            name = pod["metadata"]["name"]
            if present:
                found.append(Target(name, entry["name"], False))
            if previous and request.previous:
                found.append(Target(name, entry["name"], True))
            idle += not present
    return found, idle


def _ran(entry: Object, since: str) -> tuple[bool, bool]:
    """Whether the present and the previous run can have logged within the window.

    While a container waits to be started again, the server gives the log of the run that ended last as the present one.
    """
    state: Object = entry.get("state") or {}
    before: Object = (entry.get("lastState") or {}).get("terminated") or {}
    ended_before = bool(before.get("containerID")) and _end(before) >= since
    if "running" in state:
        return True, ended_before
    if "terminated" in state:
        return _end(state["terminated"]) >= since, ended_before
    return ended_before, False


def _end(terminated: Object) -> str:
    """When it ended; an unknown end counts as just now."""
    return sortable(str(terminated.get("finishedAt") or "").encode()) or "9"


class LogReader:
    """Reads everything that a request asks for; memory does not depend on how much there is."""

    def __init__(self, client: Client, request: LogRequest, now: datetime.datetime) -> None:
        self._client = client
        self._request = request
        self._since = now - datetime.timedelta(hours=request.since_hours)
        self._matcher = Matcher(request.rules)
        self._deadline = Deadline(request.timeout)
        self._lock = threading.Lock()
        self._refused: AccessDenied | None = None
        self._began = time.monotonic()
        self.tally = Tally(request.kept_groups)
        self.outcome = Outcome([])

    @property
    def _base(self) -> str:
        return f"/api/v1/namespaces/{quoted(self._request.namespace)}/pods"

    def read(self) -> None:
        """Read all logs; never raises for what could not be read."""
        query = {"labelSelector": self._request.selector} if self._request.selector else {}
        since = self._since.strftime("%Y-%m-%dT%H:%M:%S")
        targets: list[tuple[int, Target]] = []
        try:
            for index, pod in enumerate(self._client.list(self._base, query)):
                self.outcome.pods.append(pod["metadata"]["name"])
                found, idle = targets_of(pod, since, self._request)
                self.outcome.idle += idle
                targets += [(index, target) for target in found]
        except OpsError as error:
            if isinstance(error, InvalidOption):
                raise
            self.outcome.problem = error
            return
        self.outcome.targets = len(targets)
        with concurrent.futures.ThreadPoolExecutor(self._request.parallel, "log") as pool:
            for result in pool.map(lambda item: self._one(*item), targets):
                if result is not None:
                    self.outcome.unread.append(result)

    def _one(self, index: int, target: Target) -> dict[str, str] | None:
        """Read one log; what hindered it, or None."""
        if self._refused is not None:
            return self._unread(target, self._refused.message)
        if not self._deadline.left:
            return self._unread(target, f"the time limit of {self._request.timeout} s was reached before it")
        scanner = Scanner(self._matcher, self.tally, index)
        try:
            whole = self._stream(target, scanner)
            if not whole:
                self._newest(target, scanner, index)
        except AccessDenied as error:
            self._refused = error
            return self._unread(target, error.message)
        except OpsError as error:
            return self._unread(target, error.message)
        finally:
            scanner.close()
        with self._lock:
            self.outcome.read += 1
            if not whole:
                self.outcome.cut.append(str(target))
        return None

    @staticmethod
    def _unread(target: Target, why: str) -> dict[str, str]:
        return {"pod": target.pod, "container": target.container, "previous": str(target.previous).lower(), "reason": why[:300]}

    def _query(self, target: Target, since: str, size: int) -> Object:
        query: Object = {"container": target.container, "timestamps": "true", "sinceTime": since, "limitBytes": size}
        return {**query, "previous": "true"} if target.previous else query

    def _path(self, target: Target) -> str:
        return f"{self._base}/{quoted(target.pod)}/log"

    def _stream(self, target: Target, scanner: Scanner) -> bool:
        """From the beginning of the window; False when it is longer than what may be read."""
        query = self._query(target, self._since.strftime("%Y-%m-%dT%H:%M:%SZ"), self._request.max_bytes)
        with self._client.stream(self._path(target), query) as pieces:
            for piece in pieces:
                scanner.feed(piece)
                if not self._deadline.left:
                    raise OpsError(f"the time limit of {self._request.timeout} s was reached after {scanner.bytes} bytes of it")
        return scanner.bytes < self._request.max_bytes

    def _newest(self, target: Target, scanner: Scanner, index: int) -> None:
        """The last lines of a long log: what happens now matters more than what lies between."""
        scanner.close()
        query = self._query(target, self._since.strftime("%Y-%m-%dT%H:%M:%SZ"), NEWEST_BYTES)
        text = self._client.get_text(self._path(target), {**query, "tailLines": NEWEST_LINES}).encode()
        last = Scanner(self._matcher, self.tally, index)
        for line in text.splitlines(keepends=True):
            if sortable(line[:40].partition(b" ")[0]) > scanner.last:
                last.feed(line)
        last.close()

    def result(self) -> dict[str, t.Any]:
        """What was counted; call it after ``read``."""
        tally, outcome = self.tally, self.outcome
        ranked, other, others = tally.ranked(self._request.groups)
        spans = sorted(tally.spans.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_PODS]
        return {
            "groups": group_dicts(ranked, outcome.pods, SHOWN_PODS),
            "other": {
                "count": other.count,
                "groups": others,
                "exact": not tally.folded,
                **times_of(other),
                **pods_of(other, outcome.pods, SHOWN_PODS),
            },
            "busiest": [{"start": f"{span}:00Z", "minutes": SPAN_MINUTES, "count": count} for span, count in spans],
            "unread": outcome.unread[:SHOWN_UNREAD],
            "cut": outcome.cut[:SHOWN_UNREAD],
            "totals": {
                "pods": len(outcome.pods),
                "logs": outcome.targets,
                "read": outcome.read,
                "cut": len(outcome.cut),
                "unread": len(outcome.unread),
                "idle": outcome.idle,
                "lines": tally.lines,
                "bytes": tally.bytes,
                "matches": tally.matches,
                "percent": _percent(tally),
                "since": self._since.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "oldest": f"{tally.oldest}Z" if tally.oldest else None,
                "seconds": round(time.monotonic() - self._began, 3),
            },
        }

    # checks

    def checks(self) -> list[Check]:
        """Whether all could be read, the share of lines that matter, the worst five minutes."""
        return [self._coverage(), self._errors(), self._burst()]

    def _coverage(self) -> Check:
        outcome, request = self.outcome, self._request
        check_id = request.check_id("read")
        where = f"namespace {request.namespace}" + (f", selector {request.selector}" if request.selector else "")
        if outcome.problem is not None:
            hint = ROLE_HINT if isinstance(outcome.problem, AccessDenied) else outcome.problem.hint
            hint = hint or "check the API server and kube_host or kube_config, then run again"
            return Check(check_id, UNKNOWN, f"the pods of {where} cannot be listed: {outcome.problem.message}", hint=hint)
        if not outcome.pods:
            return Check(check_id, UNKNOWN, f"no pod in {where}", 0, hint="check namespace and selector; then kube_workload_info")
        if outcome.unread:
            refused = self._refused is not None
            summary = f"{len(outcome.unread)} of {outcome.targets} logs could not be read: {outcome.unread[0]['reason']}"
            hint = ROLE_HINT if refused else "look at the node of these pods, or give more time, then run again"
            evidence = outcome.unread[:SHOWN_PODS]
            return Check(check_id, UNKNOWN, summary, len(outcome.unread), "logs", hint=hint, evidence=evidence)
        if outcome.cut:
            summary = f"{len(outcome.cut)} of {outcome.targets} logs are longer than {request.max_bytes} bytes: read in part"
            hint = "raise max_bytes, or lower since_hours"
            return Check(check_id, WARNING, summary, len(outcome.cut), "logs", hint=hint, evidence=outcome.cut[:SHOWN_PODS])
        return Check(check_id, OK, f"all {outcome.targets} logs of {len(outcome.pods)} pods were read", 0, "logs")

    @property
    def _blind(self) -> bool:
        """Whether something was not looked at, so that nothing found is no good news."""
        return bool(self.outcome.problem or self.outcome.unread or not self.outcome.pods)

    def _judged(self, status: str) -> str:
        return UNKNOWN if status == OK and self._blind else status

    def _errors(self) -> Check:
        tally, request = self.tally, self._request
        percent = _percent(tally)
        summary = f"{tally.matches} of {tally.lines} lines in {request.since_hours:g} h"
        enough = tally.matches >= request.min_matches
        status = self._judged(grade(percent, request.rate_warning, request.rate_critical) if enough else OK)
        if status == UNKNOWN:
            summary += "; not all logs could be read"
        return Check(
            request.check_id("errors"),
            status,
            summary,
            percent,
            "%",
            request.rate_warning,
            request.rate_critical,
            hint=_advice(status),
            evidence=group_dicts(tally.ranked(3)[0], self.outcome.pods, SHOWN_PODS),
        )

    def _burst(self) -> Check:
        request = self._request
        start, count = self.tally.busiest
        status = self._judged(grade(count, request.burst_warning, request.burst_critical))
        summary = f"{count} lines in the {SPAN_MINUTES} minutes from {start}:00Z" if count else "no burst"
        if status == UNKNOWN:
            summary += "; not all logs could be read"
        return Check(
            request.check_id("burst"),
            status,
            summary,
            count,
            f"lines/{SPAN_MINUTES} min",
            request.burst_warning,
            request.burst_critical,
            hint=_advice(status),
            evidence={"start": f"{start}:00Z"} if count else None,
        )


def _advice(status: str) -> str:
    if status in (WARNING, CRITICAL):
        return "read the groups of kube_log_info; then runbook, API Unavailable or High Queue Backlog"
    return "make all logs readable first (check kube.logs.read)" if status == UNKNOWN else ""


def _percent(tally: Tally) -> float:
    return round(100 * tally.matches / tally.lines, 3) if tally.lines else 0.0
