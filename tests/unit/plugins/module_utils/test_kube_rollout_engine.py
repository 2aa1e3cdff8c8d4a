# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a rollout is complete, stalled or hopeless, and what a request would change."""

from __future__ import annotations

import datetime
import types
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    AccessDenied,
    InvalidOption,
    Refused,
    Unavailable,
    WaitTimeout,
)
from ansible_collections.fileforge.ops.plugins.module_utils._kube import rollout as engine
from ansible_collections.fileforge.ops.plugins.module_utils._kube import workload as workloads
from ansible_collections.fileforge.ops.plugins.module_utils._kube.client import Rejected
from ansible_collections.fileforge.ops.plugins.module_utils._kube.diagnosis import Diagnosis, Finding
from ansible_collections.fileforge.ops.plugins.module_utils._kube.rollout import (
    Request,
    Rollout,
    StallDetector,
    plan_of,
    recently_restarted,
    status_of,
)
from ansible_collections.fileforge.ops.plugins.module_utils._kube.workload import Reference, Workload, parse, selector_text
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime.datetime(2026, 11, 23, 12, 0, tzinfo=datetime.timezone.utc)


def reference(kind: str = "Deployment") -> Reference:
    return Reference(kind, "default", "web")


def deployment(spec: dict[str, t.Any] | None = None, status: dict[str, t.Any] | None = None, **metadata: t.Any) -> Workload:
    return workload("Deployment", spec, status, **metadata)


def workload(kind: str, spec: dict[str, t.Any] | None, status: dict[str, t.Any] | None, **metadata: t.Any) -> Workload:
    template = {"metadata": {}, "spec": {"containers": [{"name": "app", "image": "app:1"}]}}
    given_spec = {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template, **(spec or {})}
    obj = {"metadata": {"uid": "u1", "generation": 2, **metadata}, "spec": given_spec}
    if status is not None:
        obj["status"] = {"observedGeneration": 2, **status}
    return parse(reference(kind), obj)


DONE = {"replicas": 3, "updatedReplicas": 3, "readyReplicas": 3, "availableReplicas": 3}
LATE = [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out"}]
SET_DONE = {**DONE, "currentRevision": "web-1", "updateRevision": "web-1"}
DAEMON_DONE = {"desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 2, "numberReady": 2}


@pytest.mark.parametrize(
    ("kind", "spec", "status", "complete", "message"),
    [
        ("Deployment", {}, DONE, True, "3 of 3 replicas are updated and available"),
        ("Deployment", {}, None, False, "not been seen"),
        ("Deployment", {}, {**DONE, "observedGeneration": 1}, False, "not been seen"),
        ("Deployment", {}, {**DONE, "updatedReplicas": 2}, False, "2 out of 3 new replicas"),
        ("Deployment", {}, {**DONE, "replicas": 4}, False, "1 old replicas are pending termination"),
        ("Deployment", {}, {**DONE, "availableReplicas": 1}, False, "1 of 3 updated replicas are available"),
        ("Deployment", {"replicas": 0}, {}, True, "0 of 0"),
        ("Deployment", {"paused": True}, DONE, True, "3 of 3"),
        ("StatefulSet", {}, SET_DONE, True, "revision web-1"),
        ("StatefulSet", {}, {**SET_DONE, "readyReplicas": 2}, False, "2 of 3 pods are ready"),
        ("StatefulSet", {}, {**SET_DONE, "updateRevision": "web-2", "updatedReplicas": 1}, False, "1 pods are at revision web-2"),
        ("StatefulSet", {}, {**SET_DONE, "availableReplicas": 2}, False, "2 of 3 pods are available"),
        ("StatefulSet", {"replicas": 1}, SET_DONE, False, "2 surplus pods"),
        ("StatefulSet", {"replicas": 0}, {"updateRevision": "web-2", "currentRevision": "web-1"}, True, "0 of 0"),
        (
            "StatefulSet",
            {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}},
            {**SET_DONE, "updatedReplicas": 0, "updateRevision": "web-2"},
            False,
            "0 of 1 pods above partition 2",
        ),
        (
            "StatefulSet",
            {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}},
            {**SET_DONE, "updatedReplicas": 1, "updateRevision": "web-2"},
            True,
            "above partition 2 are updated",
        ),
        ("StatefulSet", {"updateStrategy": {"type": "OnDelete"}}, {**SET_DONE, "updateRevision": "web-2"}, True, "OnDelete"),
        ("DaemonSet", {}, DAEMON_DONE, True, "2 of 2 pods are available"),
        ("DaemonSet", {}, {**DAEMON_DONE, "updatedNumberScheduled": 1}, False, "1 out of 2 new pods"),
        ("DaemonSet", {}, {**DAEMON_DONE, "numberAvailable": 0}, False, "0 of 2 updated pods are available"),
        ("DaemonSet", {"updateStrategy": {"type": "OnDelete"}}, {**DAEMON_DONE, "updatedNumberScheduled": 0}, True, "2 of 2"),
    ],
)
def test_status(kind: str, spec: dict[str, t.Any], status: dict[str, t.Any] | None, complete: bool, message: str) -> None:
    found = status_of(workload(kind, spec, status))
    assert (found.complete, found.failure) == (complete, "")
    assert message in found.message


def test_progress_deadline_and_pause_end_the_wait() -> None:
    late = status_of(deployment(status={**DONE, "updatedReplicas": 1, "conditions": LATE}))
    assert (late.complete, late.reason) == (False, "progress_deadline") and "timed out" in late.failure
    paused = status_of(deployment({"paused": True}, {**DONE, "updatedReplicas": 1}))
    assert (paused.complete, paused.reason) == (False, "paused")
    ending = status_of(deployment({"paused": True}, {**DONE, "availableReplicas": 1}))
    assert ending.failure == ""  # nothing is held back by the pause


COUNTS = st.integers(min_value=0, max_value=5)


@given(
    replicas=COUNTS,
    current=COUNTS,
    updated=COUNTS,
    ready=COUNTS,
    available=COUNTS,
    kind=st.sampled_from(["Deployment", "StatefulSet"]),
)
def test_complete_means_that_every_wanted_pod_is_new_and_available(
    replicas: int, current: int, updated: int, ready: int, available: int, kind: str
) -> None:
    status = {
        "replicas": current,
        "updatedReplicas": updated,
        "readyReplicas": ready,
        "availableReplicas": available,
        "currentRevision": "a",
        "updateRevision": "a" if updated >= replicas else "b",
    }
    if status_of(workload(kind, {"replicas": replicas}, status)).complete:
        assert available >= replicas and updated >= replicas and current <= max(updated, replicas)


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_stall_needs_time_without_a_new_best() -> None:
    clock = Clock()
    detector = StallDetector(clock)
    steps = [(1, 0), (1, 1), (1, 0), (1, 1), (1, 0)]  # a crash loop: up and down
    idle = []
    for updated, available in steps:
        status = {"replicas": 3, "updatedReplicas": updated, "availableReplicas": available, "readyReplicas": available}
        idle.append(detector.idle(deployment(status=status)))
        clock.time += 10
    assert idle == [0, 0, 10, 20, 30]
    further = {"replicas": 3, "updatedReplicas": 2, "availableReplicas": 1, "readyReplicas": 1}
    assert detector.idle(deployment(status=further)) == 0
    clock.time += 5
    assert detector.idle(deployment(status=further)) == 5
    assert detector.idle(deployment(status=further, generation=3)) == 0, "another change begins another rollout"
    assert detector.idle(deployment(status=further, generation=3), surplus=2) == 0
    clock.time += 5
    assert detector.idle(deployment(status=further, generation=3), surplus=1) == 5
    clock.time += 5
    assert detector.idle(deployment(status=further, generation=3), surplus=0) == 10


@given(st.lists(st.tuples(COUNTS, COUNTS, COUNTS), min_size=1, max_size=30))
def test_stall_time_only_resets_finitely_often(counts: list[tuple[int, int, int]]) -> None:
    clock = Clock()
    detector = StallDetector(clock)
    resets = 0
    for updated, ready, available in counts * 3:
        clock.time += 1
        status = {"replicas": 5, "updatedReplicas": updated, "readyReplicas": ready, "availableReplicas": available}
        resets += detector.idle(deployment(status=status)) == 0
    assert resets <= 1 + 4 * 5  # each of the four counts can pass its best at most five times


# the plan


def request(state: str, **options: t.Any) -> Request:
    return Request(reference=options.pop("reference", reference()), state=state, **options)


def annotated(**annotations: str) -> dict[str, t.Any]:
    return {"template": {"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "app", "image": "a"}]}}}


def test_restart_is_destructive_and_its_plan_does_not_depend_on_the_time() -> None:
    first = plan_of(request("restarted"), deployment(status=DONE), NOW)
    assert first.destructive and first.steps[0].count == 3
    assert plan_of(request("restarted"), deployment(status=DONE), NOW + datetime.timedelta(days=1)).digest == first.digest


def test_restart_id_that_stands_there_already_means_nothing_to_do() -> None:
    spec = annotated(**{workloads.RESTART_ID: "a", workloads.RESTARTED_AT: "2026-11-23T11:59:00Z"})
    assert plan_of(request("restarted", restart_id="a"), deployment(spec, DONE), NOW).steps == []
    assert len(plan_of(request("restarted", restart_id="b"), deployment(spec, DONE), NOW).steps) == 1


@pytest.mark.parametrize(
    ("stamp", "within", "expected"),
    [
        ("2026-11-23T11:59:00Z", 300, True),
        ("2026-11-23T11:54:00Z", 300, False),
        ("2026-11-23T12:54:00+01:00", 300, False),
        ("2026-11-23T12:01:00Z", 300, True),  # a clock ahead of ours
        ("2026-11-23T11:59:00", 300, True),
        ("2026-11-23T11:59:59Z", 0, False),
        ("", 300, False),
        ("yesterday", 300, False),
    ],
)
def test_recently_restarted(stamp: str, within: int, expected: bool) -> None:
    spec = annotated(**{workloads.RESTARTED_AT: stamp})
    assert recently_restarted(deployment(spec, DONE), within, NOW) is expected
    assert (plan_of(request("restarted", not_within=within), deployment(spec, DONE), NOW).steps == []) is expected


def test_restart_that_could_do_nothing_is_refused() -> None:
    with pytest.raises(Refused, match="paused"):
        plan_of(request("restarted"), deployment({"paused": True}, DONE), NOW)
    on_delete = workload("StatefulSet", {"updateStrategy": {"type": "OnDelete"}}, SET_DONE)
    with pytest.raises(Refused, match="OnDelete"):
        plan_of(request("restarted", reference=reference("StatefulSet")), on_delete, NOW)


@pytest.mark.parametrize(("replicas", "steps", "destructive"), [(3, 0, False), (5, 1, False), (1, 1, True)])
def test_scale_plan(replicas: int, steps: int, destructive: bool) -> None:
    plan = plan_of(request("scaled", replicas=replicas), deployment(status=DONE), NOW)
    assert (len(plan.steps), plan.destructive) == (steps, destructive)


def test_ready_changes_nothing() -> None:
    assert plan_of(request("ready"), deployment(status={}), NOW).steps == []


@pytest.mark.parametrize(
    "options",
    [
        {"state": "scaled"},
        {"state": "scaled", "replicas": -1},
        {"state": "scaled", "replicas": 1, "reference": Reference("DaemonSet", "a", "b")},
        {"state": "ready", "timeout": 0},
        {"state": "ready", "stall_timeout": 0},
    ],
)
def test_invalid_requests(options: dict[str, t.Any]) -> None:
    with pytest.raises(InvalidOption):
        request(**options)


def test_selector_text() -> None:
    expressions = [
        {"key": "tier", "operator": "In", "values": ["a", "b"]},
        {"key": "old", "operator": "DoesNotExist"},
        {"key": "app", "operator": "Exists"},
        {"key": "env", "operator": "NotIn", "values": ["test"]},
    ]
    text = selector_text({"matchLabels": {"b": "2", "a": "1"}, "matchExpressions": expressions})
    assert text == "a=1,b=2,tier in (a,b),!old,app,env notin (test)"


def test_paths_cannot_be_escaped() -> None:
    assert Reference("Deployment", "a/../b", "c?d").path == "/apis/apps/v1/namespaces/a%2F..%2Fb/deployments/c%3Fd"


# waiting


class World:
    """Plays a list of states; the last one stays. An exception in the list is raised instead."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, states: list[Workload | Exception], findings: t.Sequence[Finding] = ()
    ) -> None:
        self.states = states
        self.clock = Clock()
        self.changes: list[tuple[t.Any, ...]] = []
        self.findings = list(findings)
        self.pods = 0
        monkeypatch.setattr(workloads, "read", self.read)
        monkeypatch.setattr(workloads, "restart", lambda *args, dry_run: self.changes.append(("restart", args[3], dry_run)))
        monkeypatch.setattr(workloads, "scale", lambda *args, dry_run: self.changes.append(("scale", args[2], dry_run)))
        monkeypatch.setattr(workloads, "pods_of", lambda *args: [{}] * self.pods)
        monkeypatch.setattr(engine, "look", lambda *args: self.findings)
        monkeypatch.setattr(engine, "diagnose", lambda *args: Diagnosis(findings=self.findings))
        monkeypatch.setattr(engine, "time", types.SimpleNamespace(monotonic=self.clock, sleep=self.sleep))
        monkeypatch.setattr(StallDetector.__init__, "__defaults__", (self.clock,))

    def sleep(self, seconds: float) -> None:
        self.clock.time += seconds
        self.pods = max(0, self.pods - 1)

    def read(self, *_args: t.Any) -> Workload:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, Exception):
            raise state
        return state

    def rollout(self, state: str, **options: t.Any) -> Rollout:
        return Rollout(t.cast(t.Any, None), request(state, **options), Progress())


HALF = {**DONE, "updatedReplicas": 1}


def test_waits_until_it_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, [deployment(status=HALF), deployment(status=HALF), deployment(status=DONE)])
    result = world.rollout("restarted", restart_id="a").apply()
    assert world.changes == [("restart", "a", False)]
    assert result["changed"] is True and result["rollout"]["complete"] is True
    assert [entry["phase"] for entry in result["timings"]] == ["restart", "rollout"]


def test_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, [deployment(status=HALF)])
    with pytest.raises(WaitTimeout) as caught:
        world.rollout("restarted", stall_timeout=30).apply()
    assert caught.value.state["reason"] == "stalled"
    assert caught.value.state["changed"] is True, "the restart itself was done"
    assert 30 <= world.clock.time <= 32


def test_hopeless_fault_ends_the_wait_after_a_sixth_of_the_stall_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, [deployment(status=HALF)], [Finding("image_not_found", "pod web-1", "no such image", "app")])
    with pytest.raises(WaitTimeout, match="no such image") as caught:
        world.rollout("ready", stall_timeout=60).apply()
    assert caught.value.state["reason"] == "image_not_found" and 10 <= world.clock.time <= 12
    assert caught.value.state["changed"] is False


def test_fault_that_may_cure_itself_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, [deployment(status=HALF)], [Finding("crash_loop", "pod web-1", "crashes", "app", restarts=1)])
    with pytest.raises(WaitTimeout):
        world.rollout("ready", stall_timeout=60).apply()
    assert world.clock.time >= 60


def test_counts_that_look_complete_between_two_crashes_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, [deployment(status=DONE)], [Finding("crash_loop", "pod web-1", "crashes", "app", restarts=5)])
    with pytest.raises(WaitTimeout) as caught:
        world.rollout("ready", stall_timeout=60).apply()
    assert caught.value.state["reason"] == "crash_loop"


def test_scale_down_waits_for_pods_that_are_still_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = deployment({"replicas": 0}, {})
    world = World(monkeypatch, [deployment(status=DONE), gone])
    world.pods = 3
    world.rollout("scaled", replicas=0).apply()
    assert world.changes == [("scale", 0, False)] and world.clock.time == 3


def test_silence_of_the_api_is_borne_for_the_stall_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, [deployment(status=HALF), Unavailable("down"), Unavailable("down"), deployment(status=DONE)])
    assert world.rollout("ready").apply()["rollout"]["complete"] is True
    world = World(monkeypatch, [deployment(status=HALF), Unavailable("down")])
    with pytest.raises(Unavailable):
        world.rollout("ready", stall_timeout=20).apply()
    assert 20 <= world.clock.time <= 22


def test_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, [deployment(status=HALF)])
    with pytest.raises(WaitTimeout, match="not complete after 5 s") as caught:
        world.rollout("ready", timeout=5).apply()
    assert caught.value.state["reason"] == "timeout"


def test_namesake_made_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, [deployment(status=HALF), deployment(status=DONE, uid="u2")])
    with pytest.raises(WaitTimeout, match="deleted and made again"):
        world.rollout("ready").apply()


def test_rehearsal_sends_dry_runs_and_says_what_would_change(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, [deployment(status=DONE)])
    rollout = world.rollout("scaled", replicas=1)
    assert rollout.rehearse()["changed"] is True and world.changes == [("scale", 1, True)]

    def refuse(*_args: t.Any, **_options: t.Any) -> None:
        raise Rejected("a webhook has side effects")

    monkeypatch.setattr(workloads, "scale", refuse)
    result = world.rollout("scaled", replicas=1).rehearse()
    assert "webhook" in result["plan"]["notes"][0] and result["plan"]["digest"] == rollout.plan.digest

    def deny(*_args: t.Any, **_options: t.Any) -> None:
        raise AccessDenied("no")

    monkeypatch.setattr(workloads, "scale", deny)
    with pytest.raises(AccessDenied):
        world.rollout("scaled", replicas=1).rehearse()
