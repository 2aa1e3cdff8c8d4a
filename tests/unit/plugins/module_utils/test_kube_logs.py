# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which logs are read, how much of them, and that what was not read is never called ok."""

from __future__ import annotations

import contextlib
import datetime
import threading
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._checks import Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    AccessDenied,
    InvalidOption,
    NotFound,
    OpsError,
    Unavailable,
)
from ansible_collections.fileforge.ops.plugins.module_utils._kube import logs
from ansible_collections.fileforge.ops.plugins.module_utils._kube.client import Object
from ansible_collections.fileforge.ops.plugins.module_utils._kube.log_lines import Rules
from ansible_collections.fileforge.ops.plugins.module_utils._kube.logs import LogReader, LogRequest, Target, targets_of

NOW = datetime.datetime(2026, 11, 23, 12, 0, tzinfo=datetime.timezone.utc)
SINCE = "2026-11-22T12:00:00"
IN, BEFORE = "2026-11-23T11:00:00Z", "2026-11-20T00:00:00Z"


def ended(at: str | None, container_id: str = "x://1") -> Object:
    return {"terminated": {"exitCode": 1, "finishedAt": at, "containerID": container_id}}


def status(state: Object, last: Object | None = None, name: str = "app") -> Object:
    return {"name": name, "state": state, "lastState": last or {}}


def pod(name: str, *statuses: Object, init: tuple[Object, ...] = ()) -> Object:
    return {"metadata": {"name": name}, "status": {"containerStatuses": list(statuses), "initContainerStatuses": list(init)}}


RUNNING = status({"running": {"startedAt": BEFORE}})
P, Q = Target("a", "app", False), Target("a", "app", True)


@pytest.mark.parametrize(
    ("entry", "targets"),
    [
        (RUNNING, [P]),
        (status({"running": {}}, ended(IN)), [P, Q]),
        (status({"running": {}}, ended(BEFORE)), [P]),
        (status({"running": {}}, ended(None)), [P, Q]),
        (status({"running": {}}, ended(IN, "")), [P]),
        (status(ended(IN)), [P]),
        (status(ended(IN), ended(IN)), [P, Q]),
        (status(ended(BEFORE), ended(BEFORE)), []),
        (status({"waiting": {"reason": "CrashLoopBackOff"}}, ended(IN)), [P]),  # the log of the last run, once
        (status({"waiting": {"reason": "CrashLoopBackOff"}}, ended(BEFORE)), []),
        (status({"waiting": {"reason": "ContainerCreating"}}), []),
    ],
)
def test_logs_that_can_hold_lines_of_the_window(entry: Object, targets: list[Target]) -> None:
    found, idle = targets_of(pod("a", entry), SINCE, LogRequest("n"))
    assert found == targets and idle == (P not in targets)


def test_init_containers_and_the_choice_of_containers_and_runs() -> None:
    one = pod("a", status({"running": {}}, ended(IN)), status({"running": {}}, name="side"), init=(status(ended(IN), name="init"),))
    assert [str(target) for target in targets_of(one, SINCE, LogRequest("n"))[0]] == [
        "a/init",
        "a/app",
        "a/app (previous)",
        "a/side",
    ]
    assert [str(target) for target in targets_of(one, SINCE, LogRequest("n", containers=("side",)))[0]] == ["a/side"]
    assert [str(target) for target in targets_of(one, SINCE, LogRequest("n", previous=False, containers=("app",)))[0]] == ["a/app"]
    assert targets_of({"metadata": {"name": "a"}}, SINCE, LogRequest("n")) == ([], 0)


class FakeClient:
    """Pods, and logs by pod, container and run; an exception instead of either is raised."""

    def __init__(self, pods: t.Any, contents: dict[str, t.Any]) -> None:
        self.pods = pods
        self.contents = contents
        self.asked: list[tuple[str, Object]] = []
        self._lock = threading.Lock()

    def list(self, path: str, query: Object) -> t.Iterator[Object]:
        self.asked.append((path, query))
        if isinstance(self.pods, Exception):
            raise self.pods
        yield from self.pods

    def _content(self, path: str, query: Object) -> bytes:
        with self._lock:
            self.asked.append((path, query))
        name = f"{path.split('/')[-2]}/{query['container']}{' (previous)' if query.get('previous') else ''}"
        content = self.contents[name]
        if isinstance(content, Exception):
            raise content
        if "tailLines" in query:
            content = b"".join(content.splitlines(keepends=True)[-query["tailLines"] :])
        return t.cast(bytes, content[: query["limitBytes"]])

    @contextlib.contextmanager
    def stream(self, path: str, query: Object) -> t.Iterator[t.Iterator[bytes]]:
        content = self._content(path, query)
        yield iter([content[:10], content[10:]])

    def get_text(self, path: str, query: Object) -> str:
        return self._content(path, query).decode()


def lines(count: int, text: str = "ok", hour: int = 11) -> bytes:
    return b"".join(f"2026-11-23T{hour:02d}:{index // 60 % 60:02d}:{index % 60:02d}Z {text}\n".encode() for index in range(count))


def read(pods: t.Any, contents: dict[str, t.Any], **options: t.Any) -> tuple[Object, dict[str, Check], FakeClient]:
    client = FakeClient(pods, contents)
    reader = LogReader(t.cast(t.Any, client), LogRequest("n", **options), NOW)
    reader.read()
    return reader.result(), {check.id: check for check in reader.checks()}, client


def test_everything_is_read_and_counted() -> None:
    pods = [pod("a", status({"running": {}}, ended(IN))), pod("b", RUNNING), pod("c", status({"waiting": {}}))]
    contents = {
        "a/app": lines(100),
        "a/app (previous)": lines(90) + lines(10, "ERROR no 1"),
        "b/app": lines(99) + lines(1, "ERROR no 22"),
    }
    result, checks, client = read(pods, contents, selector="app=x", min_matches=1)
    totals = result["totals"]
    assert {name: totals[name] for name in ("pods", "logs", "read", "cut", "unread", "idle", "lines", "matches", "percent")} == {
        "pods": 3,
        "logs": 3,
        "read": 3,
        "cut": 0,
        "unread": 0,
        "idle": 1,
        "lines": 300,
        "matches": 11,
        "percent": 3.667,
    }
    assert totals["bytes"] == sum(map(len, contents.values())) and totals["oldest"] == "2026-11-23T11:00:00Z"
    assert [(group["message"], group["count"], group["pods"]) for group in result["groups"]] == [("ERROR no <n>", 11, ["a", "b"])]
    assert {name: check.status for name, check in checks.items()} == {
        "kube.logs.read": "ok",
        "kube.logs.errors": "warning",
        "kube.logs.burst": "ok",
    }
    assert checks["kube.logs.errors"].evidence[0]["count"] == 11 and checks["kube.logs.errors"].hint
    assert client.asked[0] == ("/api/v1/namespaces/n/pods", {"labelSelector": "app=x"})
    queries = [query for path, query in client.asked if path.endswith("/log")]
    assert all(query["sinceTime"] == f"{SINCE}Z" and query["timestamps"] == "true" for query in queries)


def test_burst_is_seen_though_the_day_was_quiet() -> None:
    result, checks, _client = read([pod("a", RUNNING)], {"a/app": lines(200000) + lines(250, "ERROR x", 9)})
    assert checks["kube.logs.errors"].status == "ok"
    assert (checks["kube.logs.burst"].status, checks["kube.logs.burst"].value) == ("warning", 250)
    assert result["busiest"][0] == {"start": "2026-11-23T09:00:00Z", "minutes": 5, "count": 250}


def test_few_lines_do_not_make_a_rate() -> None:
    _result, checks, _client = read([pod("a", RUNNING)], {"a/app": lines(9, "ERROR x")})
    assert (checks["kube.logs.errors"].status, checks["kube.logs.errors"].value) == ("ok", 100)
    _result, checks, _client = read([pod("a", RUNNING)], {"a/app": lines(10, "ERROR x")})
    assert checks["kube.logs.errors"].status == "critical"


def test_long_log_is_read_in_part_with_its_newest_lines() -> None:
    content = lines(3000, "ERROR old") + lines(100, "ERROR new", 12)
    result, checks, client = read([pod("a", RUNNING)], {"a/app": content}, max_bytes=2000)
    assert checks["kube.logs.read"].status == "warning" and "max_bytes" in checks["kube.logs.read"].hint
    assert result["cut"] == ["a/app"]
    groups = {group["message"]: group["count"] for group in result["groups"]}
    assert groups["ERROR new"] == 100
    assert 900 <= groups["ERROR old"] <= 1000  # 900 of the last 1000 lines, and those of the first 2000 bytes
    assert client.asked[-1][1]["tailLines"] == logs.NEWEST_LINES


def test_newest_lines_are_not_counted_twice() -> None:
    content = lines(60, "ERROR x")
    result, _checks, _client = read([pod("a", RUNNING)], {"a/app": content}, max_bytes=len(content) - 5)
    assert result["totals"]["matches"] == 60


@pytest.mark.parametrize(
    "error", [Unavailable("the node does not answer"), NotFound("pod gone"), OpsError("odd")], ids=["node", "gone", "odd"]
)
def test_log_that_cannot_be_read_is_unknown(error: OpsError) -> None:
    result, checks, _client = read([pod("a", RUNNING), pod("b", RUNNING)], {"a/app": lines(10), "b/app": error})
    assert {check.status for check in checks.values()} == {"unknown"}
    assert result["unread"] == [{"pod": "b", "container": "app", "previous": "false", "reason": error.message}]
    assert result["totals"]["read"] == 1 and result["totals"]["lines"] == 10
    assert all(check.hint for check in checks.values())


def test_errors_that_were_seen_are_told_though_not_all_was_read() -> None:
    _result, checks, _client = read(
        [pod("a", RUNNING), pod("b", RUNNING)], {"a/app": lines(2000, "ERROR"), "b/app": Unavailable("no")}
    )
    assert [check.status for check in checks.values()] == ["unknown", "critical", "warning"]


def test_refusal_is_asked_for_once_and_names_the_role() -> None:
    pods = [pod(f"p{number}", RUNNING) for number in range(50)]
    contents = {f"p{number}/app": AccessDenied("cannot get pods/log") for number in range(50)}
    result, checks, client = read(pods, contents, parallel=1)
    assert result["totals"]["unread"] == 50
    assert len([path for path, _query in client.asked if path.endswith("/log")]) == 1
    assert "docs/kubernetes-checks.md" in checks["kube.logs.read"].hint


@pytest.mark.parametrize(
    ("pods", "hint"),
    [
        (Unavailable("refused"), "API server"),
        (AccessDenied("cannot list pods"), "role"),
        ([], "selector"),
    ],
    ids=["down", "no-right", "nothing"],
)
def test_nothing_seen_is_unknown(pods: t.Any, hint: str) -> None:
    result, checks, _client = read(pods, {})
    assert {check.status for check in checks.values()} == {"unknown"}
    assert hint in checks["kube.logs.read"].hint and result["groups"] == []


def test_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Over:
        left = 0.0

        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

    monkeypatch.setattr(logs, "Deadline", Over)
    result, checks, _client = read([pod("a", RUNNING)], {"a/app": lines(5)}, timeout=7)
    assert "7 s" in result["unread"][0]["reason"] and checks["kube.logs.read"].status == "unknown"


def test_time_limit_in_the_middle_of_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    class Soon:
        def __init__(self, seconds: float) -> None:
            self._answers = [5.0]

        @property
        def left(self) -> float:
            return self._answers.pop() if self._answers else 0.0

    monkeypatch.setattr(logs, "Deadline", Soon)
    result, checks, _client = read([pod("a", RUNNING)], {"a/app": lines(5)})
    assert "10 bytes" in result["unread"][0]["reason"] and checks["kube.logs.errors"].status == "unknown"


def test_name_is_part_of_the_ids() -> None:
    _result, checks, _client = read([pod("a", RUNNING)], {"a/app": b""}, name="backend")
    assert list(checks) == ["kube.logs.backend.read", "kube.logs.backend.errors", "kube.logs.backend.burst"]


def test_more_groups_than_wanted_are_one_other() -> None:
    content = b"".join(f"2026-11-23T11:00:00Z ERROR {'x' * (index + 1)}\n".encode() * (index + 1) for index in range(10))
    result, _checks, _client = read([pod("a", RUNNING)], {"a/app": content}, groups=3)
    assert [group["count"] for group in result["groups"]] == [10, 9, 8]
    assert {**result["other"], "first": 0, "last": 0} == {
        "count": 28,
        "groups": 7,
        "exact": True,
        "first": 0,
        "last": 0,
        "pod_count": 1,
        "pods": ["a"],
    }


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_bytes", 10),
        ("parallel", 0),
        ("parallel", 65),
        ("timeout", 0),
        ("groups", 0),
        ("kept_groups", 0),
        ("since_hours", 0),
        ("rate_warning", 6),
        ("burst_warning", 0),
        ("selector", "a b"),
    ],
)
def test_bad_options_are_refused(option: str, value: t.Any) -> None:
    with pytest.raises(InvalidOption, match=f"^{option}="):
        LogRequest("n", **{option: value})


def test_bad_pattern_is_refused_before_anything_is_asked() -> None:
    client = FakeClient([], {})
    with pytest.raises(InvalidOption, match="pattern"):
        LogReader(t.cast(t.Any, client), LogRequest("n", rules=Rules(pattern="*")), NOW)
    assert client.asked == []
