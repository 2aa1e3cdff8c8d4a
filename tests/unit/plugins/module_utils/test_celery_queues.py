# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What samples and the workers' words mean."""

from __future__ import annotations

import base64
import json
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._celery import sample as sampling
from ansible_collections.fileforge.ops.plugins.module_utils._celery.broker import Layout
from ansible_collections.fileforge.ops.plugins.module_utils._celery.judge import (
    Age,
    Facts,
    judge_age,
    judge_consumption,
    judge_depth,
    judge_server,
    judge_unacknowledged,
    judge_workers,
)
from ansible_collections.fileforge.ops.plugins.module_utils._celery.mailbox import Roll, Worker, note_reply, unpack
from ansible_collections.fileforge.ops.plugins.module_utils._celery.queues import QueueOptions, age_of, complete, slug
from ansible_collections.fileforge.ops.plugins.module_utils._celery.sample import (
    Consumers,
    Head,
    Held,
    KeySample,
    QueueSample,
    Unacknowledged,
    read_head,
)
from ansible_collections.fileforge.ops.plugins.module_utils._errors import AccessDenied
from hypothesis import given, settings
from hypothesis import strategies as st


def queue(at: float, *keys: tuple[int, str], published: float | None = None, untouched: float | None = None) -> QueueSample:
    """A sample of a queue ``q`` from depth and head of each priority."""
    made = []
    for number, (depth, head) in enumerate(keys):
        message = Head(head, "task", published) if depth else None
        made.append(KeySample(f"q{number}", 3 * number, depth, message, untouched if depth else None))
    return QueueSample("q", at, tuple(made))


def worker(name: str = "w1", queues: list[str] | None = None, active: int = 0, started: float = 100.0, **held: set[str]) -> Worker:
    tasks = [{"id": f"a{number}", "task": "t", "started": started} for number in range(active)]
    known = {"active": {task["id"] for task in tasks}, "reserved": set(), "scheduled": set(), **held}
    return Worker(name, True, True, ["q"] if queues is None else queues, tasks, known)  # type: ignore[arg-type]


def facts(first: QueueSample, second: QueueSample, *workers: Worker, receivers: int | None = None, **more: t.Any) -> Facts:
    roll = Roll({item.name: item for item in workers}, len(workers) if receivers is None else receivers, True, True)
    return Facts([first], [second], roll, **more)


STILL = (queue(100, (3, "m1"), (0, "")), queue(102, (3, "m1"), (0, "")))


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        ([(100, "m"), (0, "")], "ok"),
        ([(101, "m"), (0, "")], "warning"),
        ([(0, ""), (101, "m")], "warning"),
        ([(500, "m"), (501, "n")], "critical"),
        ([(1000, "m"), (0, "")], "warning"),
    ],
)
def test_depth_is_over_all_priorities_and_more_than_the_limit_is_too_much(keys: list[tuple[int, str]], status: str) -> None:
    found = facts(queue(100, *keys), queue(102, *keys))
    check = judge_depth("queue.q.depth", found, 0, 100, 1000)
    assert (check.status, check.value, check.warning, check.critical) == (status, sum(depth for depth, _head in keys), 100, 1000)
    assert check.evidence["by_priority"] == {"0": keys[0][0], "3": keys[1][0]}
    assert ("keys for priorities" in check.summary) == (keys[0][0] == 0)


def test_drain_rate_and_when_it_is_empty() -> None:
    shrinking = facts(queue(100, (30, "m1")), queue(102, (20, "m11")))
    assert (shrinking.drain_rate(0), shrinking.seconds_to_empty(0)) == (5.0, 4.0)
    growing = facts(queue(100, (30, "m1")), queue(102, (40, "m1")))
    assert (growing.drain_rate(0), growing.seconds_to_empty(0)) == (-5.0, None)
    assert facts(queue(100, (30, "m")), queue(100, (30, "m"))).drain_rate(0) is None
    assert facts(queue(100, (1, "m")), queue(102, (0, ""))).seconds_to_empty(0) == 0.0


CONSUMPTION: dict[str, tuple[Facts, str, str]] = {
    "empty": (facts(queue(100, (0, "")), queue(102, (0, ""))), "ok", "empty"),
    "moving": (facts(queue(100, (3, "m1")), queue(102, (5, "m2")), worker()), "ok", "moving"),
    "nobody": (facts(*STILL), "critical", "no_worker"),
    "typo": (facts(*STILL, worker(queues=["other"])), "critical", "no_consumer"),
    "busy": (facts(*STILL, worker(active=1)), "ok", "busy"),
    "long": (facts(*STILL, worker(active=1, started=102 - 2000)), "warning", "stuck_tasks"),
    "endless": (facts(*STILL, worker(active=1, started=102 - 4000)), "critical", "stuck_tasks"),
    "idle": (facts(*STILL, worker(), consumers=Consumers(1, 0)), "critical", "not_consuming"),
    "elsewhere": (facts(*STILL, worker(), consumers=Consumers(1, 1)), "critical", "not_consuming"),
    "paused": (facts(*STILL, receivers=1), "warning", "silent"),
}


@pytest.mark.parametrize("name", sorted(CONSUMPTION))
def test_consumption(name: str) -> None:
    found, status, verdict = CONSUMPTION[name]
    check = judge_consumption("queue.q.consumption", found, 0, 1800)
    assert (check.status, check.value) == (status, verdict), check.summary
    assert bool(check.hint) == (status != "ok")


def test_workers_that_could_not_be_asked_are_unknown() -> None:
    found = facts(*STILL)
    found.roll.asked, found.roll.problems = False, [AccessDenied("no permission", hint="grant")]
    assert judge_consumption("c", found, 0, 1800).status == "unknown"
    assert judge_workers(found, [], 1).status == "unknown"


@pytest.mark.parametrize(
    ("workers", "receivers", "expected", "minimum", "status"),
    [
        ([worker()], 1, [], 1, "ok"),
        ([worker("celery@a"), worker("celery@b")], 2, ["celery@*"], 2, "ok"),
        ([worker("celery@a")], 1, [], 2, "warning"),
        ([worker("celery@a")], 1, ["mail@*"], 1, "warning"),
        ([worker()], 2, [], 1, "warning"),
        ([], 0, [], 1, "critical"),
    ],
)
def test_workers(workers: list[Worker], receivers: int, expected: list[str], minimum: int, status: str) -> None:
    check = judge_workers(facts(*STILL, *workers, receivers=receivers), expected, minimum)
    assert check.status == status and bool(check.hint) == (status != "ok")


def test_nobody_replies_but_somebody_waits_for_messages() -> None:
    check = judge_workers(facts(*STILL, consumers=Consumers(2, 2)), [], 1)
    assert check.status == "warning" and "2 clients" in check.summary


def held(identity: str, seconds_ago: float, eta: bool = False) -> Held:
    return Held(identity, "task", 1000 - seconds_ago, eta)


UNACKNOWLEDGED: dict[str, tuple[tuple[Worker, ...], tuple[Held, ...], str]] = {
    "none": ((worker(),), (), "ok"),
    "fresh": ((worker(),), (held("m1", 1),), "ok"),
    "known": ((worker(reserved={"m1"}),), (held("m1", 600),), "ok"),
    "old": ((worker(reserved={"m1"}),), (held("m1", 1900),), "warning"),
    "beyond": ((worker(reserved={"m1"}),), (held("m1", 3700),), "critical"),
    "later": ((worker(scheduled={"m1"}),), (held("m1", 9000, eta=True),), "ok"),
    "orphan": ((worker(),), (held("m1", 60),), "warning"),
    "dead": ((), (held("m1", 60),), "critical"),
}


@pytest.mark.parametrize("name", sorted(UNACKNOWLEDGED))
def test_unacknowledged(name: str) -> None:
    workers, messages, status = UNACKNOWLEDGED[name]
    found = facts(*STILL, *workers, unacknowledged=Unacknowledged(len(messages), 1000.0, messages))
    check = judge_unacknowledged(found, 1800, 3600)
    assert check.status == status, check.summary
    assert (check.evidence.get("orphans", 0) > 0) == (name == "orphan")


def test_a_silent_worker_may_hold_what_nobody_knows_of() -> None:
    found = facts(*STILL, worker(), receivers=2, unacknowledged=Unacknowledged(1, 1000.0, (held("m1", 60),)))
    assert judge_unacknowledged(found, 1800, 3600).status == "ok"


@pytest.mark.parametrize(
    ("first", "second", "tracked", "expected"),
    [
        (queue(100, (1, "m"), published=40), queue(102, (1, "m"), published=40), {}, Age(62, "header", "exact")),
        (queue(100, (1, "m"), untouched=500), queue(102, (1, "m")), {}, Age(502, "idle", "at_least")),
        (queue(100, (1, "m"), untouched=500), queue(102, (1, "n")), {}, Age()),
        (queue(100, (1, "m")), queue(102, (1, "m")), {"q0": 52.0}, Age(50, "tracked", "at_least")),
        (queue(100, (1, "m")), queue(102, (1, "m")), {"q0": 102.0}, Age()),
        (queue(100, (1, "m"), untouched=10), queue(102, (1, "m")), {"q0": 52.0}, Age(50, "tracked", "at_least")),
        (*STILL, {}, Age()),
    ],
)
def test_age(first: QueueSample, second: QueueSample, tracked: dict[str, float], expected: Age) -> None:
    assert age_of(facts(first, second, tracked=tracked), 0) == expected


@pytest.mark.parametrize(
    ("age", "moving", "status"),
    [
        (Age(10, "header", "exact"), False, "ok"),
        (Age(301, "header", "exact"), True, "warning"),
        (Age(4000, "idle", "at_least"), False, "critical"),
        (Age(10, "tracked", "at_least"), False, "unknown"),
        (Age(10, "tracked", "at_least"), True, "ok"),
        (Age(), True, "ok"),
        (Age(), False, "unknown"),
    ],
)
def test_only_a_known_age_or_movement_is_ok(age: Age, moving: bool, status: str) -> None:
    second = queue(102, (3, "m2" if moving else "m1"), (0, ""))
    assert judge_age("queue.q.age", facts(STILL[0], second), 0, age, 300, 3600).status == status


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ({"used_memory": 50, "maxmemory": 100, "maxmemory_policy": "noeviction", "rdb_last_bgsave_status": "ok"}, "ok ok ok"),
        ({"used_memory": 85, "maxmemory": 100, "maxmemory_policy": "allkeys-lru", "aof_last_write_status": "err"},
         "warning critical critical"),
        ({"used_memory": 96, "total_system_memory": 100, "maxmemory_policy": "allkeys-lru", "aof_last_write_status": "ok"},
         "critical warning ok"),
        ({"redis_version": "7"}, "unknown unknown unknown"),
    ],
)  # fmt: skip
def test_the_server(server: dict[str, t.Any], expected: str) -> None:
    assert " ".join(check.status for check in judge_server(Facts(server=server), 80, 95)) == expected


def message(headers: dict[str, t.Any]) -> bytes:
    return json.dumps({"body": base64.b64encode(b"[[1], {}, {}]").decode(), "headers": headers}).encode()


@pytest.mark.parametrize(
    ("stamp", "published"),
    [
        (12.5, 12.5),
        ("1970-01-01T00:00:12.5", 12.5),
        ("1970-01-01T01:00:00+01:00", 0.0),
        ("1970-01-01T00:00:01Z", 1.0),
        ("soon", None),
        (True, None),
    ],
)
def test_heads(stamp: t.Any, published: float | None) -> None:
    head = read_head(message({"id": "m1", "task": "app.work", "at": stamp}), "at")
    assert head == Head("m1", "app.work", published)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_in_a_queue_are_survived(raw: bytes) -> None:
    assert read_head(raw, "at").published is None
    unpack(raw)
    sampling._held(raw, 1.0, 2.0)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.text(max_size=3) | st.integers(), lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x)
    )
)
def test_any_json_in_a_queue_is_survived(content: t.Any) -> None:
    raw = json.dumps(content).encode()
    read_head(raw, "at")
    unpack(raw)
    sampling._held(raw, 1.0, 2.0)


def test_replies_make_a_worker_complete_and_hold_no_arguments() -> None:
    found = Worker("w1")
    task = {"id": "m1", "name": "app.work", "args": ["secret"], "time_start": 5.0}
    for method, content in [
        ("ping", {"ok": "pong"}),
        ("active_queues", [{"name": "b"}, {"name": "a"}]),
        ("active", [task]),
        ("reserved", []),
    ]:
        note_reply(found, method, content)
        assert not found.complete
    note_reply(found, "scheduled", [{"eta": "later", "request": {"id": "m2", "args": ["secret"]}}])
    assert found.complete and found.queues == ["a", "b"] and found.busy == 1
    assert found.held == {"active": {"m1"}, "reserved": set(), "scheduled": {"m2"}}
    assert "secret" not in json.dumps(found.as_dict())


def test_an_error_of_a_worker_is_no_answer() -> None:
    found = Worker("w1")
    note_reply(found, "active", {"error": "KeyError()"})
    assert found.replied and found.busy is None and not found.complete


def test_everybody_who_got_the_question_is_waited_for() -> None:
    roll = Roll({"w1": worker("w1")}, receivers=2, asked=True)
    assert not complete(roll, QueueOptions(["q"]))
    roll.workers["w2"] = worker("w2")
    assert complete(roll, QueueOptions(["q"])) and not complete(roll, QueueOptions(["q"], minimum_workers=3))
    assert not complete(roll, QueueOptions(["q"], expected_workers=["w3"]))


def test_names() -> None:
    assert slug("File Forge:tasks") == "file-forge-tasks"
    assert Layout("ff:", (0, 9), "~").keys("q") == ["ff:q", "ff:q~9"]
