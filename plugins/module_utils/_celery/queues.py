# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Celery's queues on Redis: how much waits, for how long, and whether anybody works on it. PRIVATE to the collection.

Two samples with a conversation with the workers in between; then judging, which asks nothing more.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._celery.broker import Broker, Layout, RedisOptions
from ansible_collections.fileforge.ops.plugins.module_utils._celery.judge import (
    BACKLOG,
    Age,
    Facts,
    judge_age,
    judge_consumption,
    judge_depth,
    judge_server,
    judge_unacknowledged,
    judge_workers,
)
from ansible_collections.fileforge.ops.plugins.module_utils._celery.mailbox import Mailbox, Roll
from ansible_collections.fileforge.ops.plugins.module_utils._celery.sample import (
    Consumers,
    QueueSample,
    Unacknowledged,
    sample_consumers,
    sample_queues,
    sample_server,
    sample_unacknowledged,
)
from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, UNKNOWN, Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError, Unavailable
from ansible_collections.fileforge.ops.plugins.module_utils._files import write_whole
from ansible_collections.fileforge.ops.plugins.module_utils._wait import retry

ATTEMPTS = 3
T = t.TypeVar("T")


@dataclasses.dataclass(frozen=True)
class QueueOptions:
    """What to look at, and from when on it is too much."""

    queues: t.Sequence[str]
    layout: Layout = dataclasses.field(default_factory=Layout)
    interval: float = 2.5
    ask_workers: bool = True
    expected_workers: t.Sequence[str] = ()
    minimum_workers: int = 1
    depth_warning: int = 100
    depth_critical: int = 1000
    age_warning: float = 300
    age_critical: float = 3600
    task_seconds: float = 1800
    visibility_timeout: float = 3600
    memory_warning: float = 80
    memory_critical: float = 95
    age_header: str = "fileforge_published_at"
    state_file: str | None = None

    def __post_init__(self) -> None:
        if not self.queues or not all(self.queues):
            raise InvalidOption("queues", list(self.queues), "name at least one queue")
        if len({slug(name) for name in self.queues}) != len(self.queues):
            raise InvalidOption("queues", list(self.queues), "two of them give the same check id")
        if self.interval <= 0:
            raise InvalidOption("sample_interval", self.interval, "must be more than 0")
        for low, high in (
            ("depth_warning", "depth_critical"),
            ("age_warning", "age_critical"),
            ("memory_warning", "memory_critical"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise InvalidOption(low, getattr(self, low), f"must not be above {high} ({getattr(self, high):g})")
        if self.task_seconds > self.visibility_timeout:
            problem = f"must not be above visibility_timeout ({self.visibility_timeout:g}): such tasks would be delivered twice"
            raise InvalidOption("task_seconds", self.task_seconds, problem)


def slug(name: str) -> str:
    """A queue's name as a part of check ids."""
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")


@dataclasses.dataclass
class Report:
    """What the module returns."""

    checks: list[Check] = dataclasses.field(default_factory=list)
    queues: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)
    workers: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)
    unacknowledged: dict[str, t.Any] = dataclasses.field(default_factory=dict)
    redis: dict[str, t.Any] = dataclasses.field(default_factory=dict)


def examine(redis: RedisOptions, options: QueueOptions, *, remember: bool = True) -> Report:
    """Look twice and judge. ``remember``: whether the state file may be written.

    A server that does not answer is ``critical`` in ``redis.connection``: that was seen. What stands in it is ``unknown``.
    """
    report = Report()
    try:
        broker = Broker(redis)
        try:
            retry(
                "Redis", lambda: broker.ask("connecting", lambda client: client.ping()), retry_on=(Unavailable,), attempts=ATTEMPTS
            )
            facts = gather(broker, options, remember=remember)
        finally:
            broker.close()
    except OpsError as error:
        status = CRITICAL if isinstance(error, Unavailable) else UNKNOWN
        hint = f"{BACKLOG}; {error.hint or 'check that Redis runs, and redis_host and redis_port'}"
        report.checks.append(Check("redis.connection", status, error.message, hint=hint))
        report.checks += _unknown(options, "Redis could not be asked", "see redis.connection")
        return report
    report.checks.append(Check("redis.connection", OK, f"Redis at {redis.describe()} answers"))
    _judge_all(report, options, facts)
    return report


def names(options: QueueOptions) -> list[str]:
    """Ids of all checks beside ``redis.connection``."""
    queues = [f"queue.{slug(queue)}.{kind}" for queue in options.queues for kind in ("depth", "age", "consumption")]
    return [*queues, "celery.unacknowledged", "celery.workers", "redis.memory", "redis.eviction", "redis.persistence"]


def _unknown(options: QueueOptions, why: str, hint: str) -> list[Check]:
    return [Check(name, UNKNOWN, why, hint=hint) for name in names(options)]


def gather(broker: Broker, options: QueueOptions, *, remember: bool) -> Facts:
    """Everything there is to know. What has no permission is missing; only a lost connection ends it."""
    layout = options.layout
    facts = Facts()
    header = options.age_header

    def attempt(part: str, call: t.Callable[[], T]) -> T | None:
        try:
            return call()
        except Unavailable:
            raise
        except OpsError as error:
            facts.problems[part] = error
            return None

    def sample() -> list[QueueSample] | None:
        return attempt("queues", lambda: sample_queues(broker, layout, options.queues, header))

    mailbox = Mailbox(broker, layout)
    try:
        mailbox.listen()
        facts.first = sample() or []
        if options.ask_workers:
            mailbox.ask()
        empty = bool(facts.first) and all(queue.depth == 0 for queue in facts.first)
        facts.roll = mailbox.collect(options.interval, lambda roll: empty and complete(roll, options))
    finally:
        mailbox.close()
    facts.second = sample() or []
    facts.unacknowledged = attempt("unacknowledged", lambda: sample_unacknowledged(broker, layout))
    facts.consumers = attempt("clients", lambda: sample_consumers(broker))
    facts.server = attempt("server", lambda: sample_server(broker)) or {}
    facts.tracked = _track(options.state_file, facts.second, remember)
    return facts


def complete(roll: Roll, options: QueueOptions) -> bool:
    """Whether everybody who is expected, and everybody who got the requests, has replied to all of them."""
    done = [worker.name for worker in roll.workers.values() if worker.complete]
    enough = len(done) >= max(options.minimum_workers, roll.receivers, 1)
    return enough and all(name in done for name in options.expected_workers)


def _track(path: str | None, samples: t.Sequence[QueueSample], remember: bool) -> dict[str, float]:
    """Since when each key has had the head that it has now, as far as earlier runs know (by Redis' clock)."""
    if path is None or not samples:
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            known = json.load(file)
    except FileNotFoundError:
        known = {}
    except (OSError, ValueError) as error:
        raise InvalidOption("state_file", path, f"cannot be read: {error}") from error
    found = {}
    for sample in samples:
        for key, head in sample.heads().items():
            before = known.get(key) if isinstance(known, dict) else None
            same = isinstance(before, dict) and before.get("id") == head and isinstance(before.get("since"), (int, float))
            found[key] = {"id": head, "since": before["since"] if same and before else sample.at}
    if remember:
        try:
            write_whole(os.path.abspath(path), json.dumps(found, sort_keys=True).encode(), mode=0o600)
        except OSError as error:
            raise InvalidOption("state_file", path, f"cannot be written: {error.strerror}") from error
    return {key: float(item["since"]) for key, item in found.items()}


def age_of(facts: Facts, number: int) -> Age:
    """How old the oldest message that is next in any of a queue's keys is, and how that is known."""
    first, second = facts.first[number], facts.second[number]
    stamps = [key.head.published for key in second.keys if key.head is not None]
    if stamps and all(stamp is not None for stamp in stamps):
        return Age(max(second.at - t.cast(float, stamp) for stamp in stamps), "header", "exact")
    bounds = [(second.at - facts.tracked[key], "tracked") for key in second.heads() if key in facts.tracked]
    present = second.heads()
    bounds += [
        (key.untouched + second.at - first.at, "idle")
        for key in first.keys
        if key.untouched is not None and key.head is not None and present.get(key.key) == key.head.id
    ]
    bounds += [(second.at - stamp, "header") for stamp in stamps if stamp is not None]
    longest = max(bounds, default=(0.0, ""))
    return Age(longest[0], longest[1], "at_least") if longest[0] >= 1 + second.at - first.at else Age()


def _judge_all(report: Report, options: QueueOptions, facts: Facts) -> None:
    if not facts.second or not facts.first:
        problem = facts.problems["queues"]
        kinds = ("depth", "age", "consumption")
        report.checks += [
            Check(f"queue.{slug(queue)}.{kind}", UNKNOWN, problem.message, hint=problem.hint or BACKLOG)
            for queue in options.queues
            for kind in kinds
        ]
    else:
        for number, queue in enumerate(options.queues):
            age = age_of(facts, number)
            name = f"queue.{slug(queue)}"
            report.checks.append(judge_depth(f"{name}.depth", facts, number, options.depth_warning, options.depth_critical))
            report.checks.append(judge_age(f"{name}.age", facts, number, age, options.age_warning, options.age_critical))
            report.checks.append(judge_consumption(f"{name}.consumption", facts, number, options.task_seconds))
            report.queues.append(_queue(facts, number, age))
    report.checks.append(judge_unacknowledged(facts, options.task_seconds, options.visibility_timeout))
    report.checks.append(judge_workers(facts, options.expected_workers, options.minimum_workers))
    report.checks += judge_server(facts, options.memory_warning, options.memory_critical)
    report.workers = [worker.as_dict() for _name, worker in sorted(facts.roll.workers.items())]
    report.unacknowledged = _unacknowledged(facts.unacknowledged)
    report.redis = _redis(facts.server, facts.consumers)


def _queue(facts: Facts, number: int, age: Age) -> dict[str, t.Any]:
    sample = facts.second[number]
    return {
        "name": sample.name,
        "depth": sample.depth,
        "by_priority": sample.by_priority(),
        "drain_rate": facts.drain_rate(number),
        "seconds_to_empty": facts.seconds_to_empty(number),
        "age": None if age.seconds is None else round(age.seconds, 1),
        "age_method": age.method or None,
        "age_confidence": age.confidence or None,
        "head_tasks": sorted({key.head.task for key in sample.keys if key.head is not None}),
        "consumers": facts.workers_of(sample.name),
    }


def _unacknowledged(found: Unacknowledged | None) -> dict[str, t.Any]:
    if found is None:
        return {}
    oldest = [message for message in found.oldest if not message.eta]
    age = round(found.at - oldest[0].delivered, 1) if oldest else None
    return {"count": found.count, "oldest_age": age, "oldest_task": oldest[0].task if oldest else None}


def _redis(server: t.Mapping[str, t.Any], consumers: Consumers | None) -> dict[str, t.Any]:
    wanted = ("redis_version", "role", "used_memory", "maxmemory", "maxmemory_policy", "connected_clients", "uptime_in_seconds")
    found = {name: server.get(name) for name in wanted} if server else {}
    if consumers is not None:
        found.update(clients_waiting=consumers.waiting, clients_consuming=consumers.fresh)
    return found
