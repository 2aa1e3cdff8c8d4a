# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What two samples and the workers' words mean. Pure: it asks nothing. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import fnmatch
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._celery.mailbox import Roll
from ansible_collections.fileforge.ops.plugins.module_utils._celery.sample import Consumers, Held, QueueSample, Unacknowledged
from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, UNKNOWN, WARNING, Check, grade, worst
from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._time import duration_text

BACKLOG = "runbook: Incident Response, High Queue Backlog"
SETTLED = 5.0
"""Seconds after its delivery from which a worker must know of a message."""
KEPT = 20


@dataclasses.dataclass(frozen=True)
class Age:
    """How old the next message is; ``confidence`` is ``exact`` or ``at_least``. Nothing known: all empty."""

    seconds: float | None = None
    method: str = ""
    confidence: str = ""


@dataclasses.dataclass
class Facts:
    """What was found; ``problems`` says why a part is missing."""

    first: list[QueueSample] = dataclasses.field(default_factory=list)
    second: list[QueueSample] = dataclasses.field(default_factory=list)
    roll: Roll = dataclasses.field(default_factory=Roll)
    unacknowledged: Unacknowledged | None = None
    consumers: Consumers | None = None
    server: dict[str, t.Any] = dataclasses.field(default_factory=dict)
    tracked: dict[str, float] = dataclasses.field(default_factory=dict)
    problems: dict[str, OpsError] = dataclasses.field(default_factory=dict)

    def drain_rate(self, number: int) -> float | None:
        """Messages per second by which a queue shrank (negative: it grew); None when no time passed."""
        first, second = self.first[number], self.second[number]
        elapsed = second.at - first.at
        return round((first.depth - second.depth) / elapsed, 3) if elapsed > 0 else None

    def seconds_to_empty(self, number: int) -> float | None:
        """When it will be empty at this rate; None when it does not shrink."""
        rate, depth = self.drain_rate(number), self.second[number].depth
        if depth == 0:
            return 0.0
        return round(depth / rate, 1) if rate and rate > 0 else None

    def moved(self, number: int) -> bool:
        """Whether a message left the queue between the samples."""
        first, second = self.first[number], self.second[number]
        after = second.heads()
        return second.depth < first.depth or any(after.get(key) != head for key, head in first.heads().items())

    def workers_of(self, queue: str) -> list[str] | None:
        """Workers that say they take from a queue; None when none said what it takes from."""
        told = [worker for worker in self.roll.alive if worker.queues is not None]
        return [worker.name for worker in told if queue in (worker.queues or [])] if told else None

    def silent(self) -> int:
        """Workers that live, by their connection or heartbeat, but did not reply."""
        replied = sum(worker.replied for worker in self.roll.workers.values())
        return max(0, max(self.roll.receivers, len(self.roll.alive)) - replied)


def judge_depth(name: str, facts: Facts, number: int, warning: int, critical: int) -> Check:
    """Depth over all priorities; more than the limit is too much."""
    sample = facts.second[number]
    depth, rate, left = sample.depth, facts.drain_rate(number), facts.seconds_to_empty(number)
    status = grade(depth, warning + 1, critical + 1)
    trend = ""
    if depth:
        trend = f", empty in {duration_text(left)} at this rate" if left else ", not shrinking"
    urgent = [key.depth for key in sample.keys]
    summary = f"{depth} messages wait in {sample.name}{trend}"
    if depth and urgent[0] == 0:
        summary += "; all of them in its keys for priorities"
    hint = f"{BACKLOG}: scale the workers up; find out what slows them down"
    evidence = {"by_priority": sample.by_priority(), "drain_rate": rate, "seconds_to_empty": left}
    return Check(name, status, summary, depth, "messages", warning, critical, "" if status == OK else hint, evidence)


def judge_age(name: str, facts: Facts, number: int, age: Age, warning: float, critical: float) -> Check:
    """Age of the next message, where it can be known; an age that is only a lower bound never proves that all is well."""
    queue = facts.second[number].name
    hint = f"{BACKLOG}: look whether the queue's consumers live and what they do"

    def check(status: str, summary: str, value: float | None = None) -> Check:
        rounded = None if value is None else round(value, 1)
        evidence = {"method": age.method, "confidence": age.confidence}
        return Check(name, status, summary, rounded, "s", warning, critical, "" if status == OK else hint, evidence)

    if facts.second[number].depth == 0:
        return check(OK, f"{queue} is empty")
    if age.seconds is not None:
        status = grade(age.seconds, warning, critical)
        about = "is" if age.confidence == "exact" else "is at least"
        summary = f"the message that is next in {queue} {about} {duration_text(max(0.0, age.seconds))} old (by {age.method})"
        if status != OK or age.confidence == "exact":
            return check(status, summary, age.seconds)
        if facts.moved(number):
            return check(OK, f"{summary}, and messages are taken from it", age.seconds)
        return check(UNKNOWN, f"{summary}; no message was taken meanwhile", age.seconds)
    if facts.moved(number):
        return check(OK, f"messages are taken from {queue}; how old the next one is, is not known")
    hint = "let producers stamp messages, or give state_file, and the age is known (docs/server-checks.md)"
    return check(UNKNOWN, f"how old the next message in {queue} is, is not known, and none was taken meanwhile")


def judge_consumption(name: str, facts: Facts, number: int, task_seconds: float) -> Check:
    """Whether somebody takes messages from a queue that has some; the reasons are told."""
    queue = facts.second[number].name
    if facts.second[number].depth == 0:
        return Check(name, OK, f"{queue} is empty", value="empty")
    if facts.moved(number):
        return Check(name, OK, f"messages are taken from {queue}", value="moving")
    verdict, status, reasons = _standstill(facts, queue, task_seconds)
    summary = f"no message was taken from {queue}: {'; '.join(reasons)}"
    hint = f"{BACKLOG}: check for stuck workers and restart them (playbook role fileforge.ops.app_restart)"
    if verdict == "no_consumer":
        hint = f"{BACKLOG}: start workers for this queue, or correct their list of queues (-Q), or add_consumer"
    return Check(name, status, summary, value=verdict, hint="" if status == OK else hint, evidence={"reasons": reasons})


def _standstill(facts: Facts, queue: str, task_seconds: float) -> tuple[str, str, list[str]]:
    """Verdict, status and reasons for a queue with messages of which none was taken between the samples."""
    roll, takers = facts.roll, facts.workers_of(queue)
    if not roll.alive and not roll.receivers:
        if roll.problems or not (roll.asked or roll.listened):
            return "unknown", UNKNOWN, ["the workers could not be asked"]
        return "no_worker", CRITICAL, ["no worker lives"]
    if takers == [] and not facts.silent():
        return "no_consumer", CRITICAL, [f"{len(roll.alive)} workers live, none of them takes from this queue"]
    busy = [worker for worker in roll.alive if worker.busy]
    if busy:
        longest = _longest(facts)
        reasons = [f"{len(busy)} workers are busy", f"the longest task has run for {duration_text(longest)}"]
        status = grade(longest, task_seconds, 2 * task_seconds)
        return ("busy" if status == OK else "stuck_tasks"), status, reasons
    if facts.silent():
        return (
            "silent",
            WARNING,
            [f"{facts.silent()} workers are connected but do not reply: paused, stuck, or busy in a solo pool"],
        )
    if facts.consumers is not None and facts.consumers.fresh:
        reasons = [f"{facts.consumers.fresh} clients wait for messages of other keys", "the workers are idle"]
        return "not_consuming", CRITICAL, reasons
    return "not_consuming", CRITICAL, ["workers live and are idle, but none waits for messages in Redis"]


def _longest(facts: Facts) -> float:
    """Seconds that the longest running task has run, by Redis' clock."""
    now = facts.second[0].at
    began = [float(task["started"]) for worker in facts.roll.alive for task in worker.active or [] if task.get("started")]
    return max(0.0, now - min(began)) if began else 0.0


def judge_unacknowledged(facts: Facts, task_seconds: float, visibility_timeout: float) -> Check:
    """Messages that were delivered and not acknowledged: held by the living, or by the dead?"""
    name, found = "celery.unacknowledged", facts.unacknowledged
    limits: dict[str, t.Any] = {"unit": "s", "warning": task_seconds, "critical": visibility_timeout}
    hint = f"{BACKLOG}: the dead worker's messages come back after the visibility timeout, and only while another worker lives"
    if found is None:
        problem = facts.problems["unacknowledged"]
        return Check(name, UNKNOWN, problem.message, hint=problem.hint or BACKLOG, **limits)
    due = [message for message in found.oldest if not message.eta]
    age = max(0.0, found.at - due[0].delivered) if due else None
    if found.count == 0:
        return Check(name, OK, "no message is unacknowledged", value=0, evidence={"count": 0}, **limits)
    orphans = _orphans(facts, found)
    evidence = {"count": found.count, "orphans": len(orphans), "tasks": sorted({message.task for message in orphans})[:KEPT]}
    status = grade(age, task_seconds, visibility_timeout) if age is not None else OK
    oldest = "all wait for their time" if age is None else f"the oldest since {duration_text(age)}"
    summary = f"{found.count} messages are delivered and not acknowledged, {oldest}"
    roll = facts.roll
    if due and roll.asked and not roll.alive and not roll.receivers:
        status = CRITICAL
        summary += "; no worker lives that could hold them"
    elif orphans:
        status = worst([status, WARNING])
        summary += f"; {len(orphans)} of them are held by no worker that lives"
    value = None if age is None else round(age, 1)
    return Check(name, status, summary, value=value, hint="" if status == OK else hint, evidence=evidence, **limits)


def _orphans(facts: Facts, found: Unacknowledged) -> list[Held]:
    """Messages that no worker knows of, when every worker that lives has told all that it holds."""
    alive = facts.roll.alive
    if not alive or facts.silent() or not all(worker.complete for worker in alive):
        return []
    known = {identity for worker in alive for ids in worker.held.values() for identity in ids}
    return [message for message in found.oldest if message.id not in known and found.at - message.delivered > SETTLED]


def judge_workers(facts: Facts, expected: t.Sequence[str], minimum: int) -> Check:
    """Who lives, and who is missing."""
    name, roll = "celery.workers", facts.roll
    alive = roll.alive
    listed = [worker.name for worker in alive]
    living = max(len(alive), roll.receivers)
    absent = [pattern for pattern in expected if not any(fnmatch.fnmatchcase(found, pattern) for found in listed)]
    evidence = {"alive": listed[:KEPT], "missing": absent, "connected": roll.receivers, "silent": facts.silent()}
    hint = f"{BACKLOG}: check the worker pods (kubectl get pods -l app=fileforge-worker) and their logs"
    if not living and (roll.problems or not (roll.asked or roll.listened)):
        problem = roll.problems[0] if roll.problems else OpsError("the workers were not asked")
        return Check(name, UNKNOWN, problem.message, hint=problem.hint or hint, evidence=evidence)
    if not living:
        connected = facts.consumers.fresh if facts.consumers is not None else 0
        summary = "no worker replied or sent a heartbeat" + (f", though {connected} clients wait for messages" if connected else "")
        return Check(name, WARNING if connected else CRITICAL, summary, value=0, critical=minimum, hint=hint, evidence=evidence)
    problems = []
    if living < minimum:
        problems.append("too few")
    if absent:
        problems.append(f"missing: {', '.join(absent)}")
    if facts.silent() and roll.asked:
        problems.append(f"{facts.silent()} did not reply (busy in a solo pool, paused or stuck)")
    summary = "; ".join([f"{living} of at least {minimum} workers live", *problems])
    status = WARNING if problems else OK
    return Check(name, status, summary, value=living, critical=minimum, hint=hint if problems else "", evidence=evidence)


def judge_server(facts: Facts, warning: float, critical: float) -> list[Check]:
    """Memory, what happens when it is full, and whether writes reach the disk."""
    server = facts.server
    if not server:
        problem = facts.problems["server"]
        hint = problem.hint or "look at INFO by hand (redis-cli)"
        return [Check(f"redis.{name}", UNKNOWN, problem.message, hint=hint) for name in ("memory", "eviction", "persistence")]
    return [_memory(server, warning, critical), _eviction(server), _persistence(server)]


def _memory(server: t.Mapping[str, t.Any], warning: float, critical: float) -> Check:
    used, limit = float(server.get("used_memory") or 0), float(server.get("maxmemory") or 0)
    whole = limit or float(server.get("total_system_memory") or 0)
    hint = "raise maxmemory, or find what fills Redis: results that do not expire (result_expires), or a queue nobody consumes"
    if not whole:
        return Check("redis.memory", UNKNOWN, "Redis does not say how much memory it may use", unit="%", hint=hint)
    share = 100 * used / whole
    of = "maxmemory" if limit else "the machine's memory"
    status = grade(share, warning, critical)
    evidence = {"used": used, "limit": whole}
    summary = f"Redis uses {share:.1f} % of {of}"
    return Check("redis.memory", status, summary, round(share, 2), "%", warning, critical, "" if status == OK else hint, evidence)


def _eviction(server: t.Mapping[str, t.Any]) -> Check:
    policy = str(server.get("maxmemory_policy") or "")
    if not policy:
        return Check(
            "redis.eviction", UNKNOWN, "Redis does not say its eviction policy", hint="look at CONFIG GET maxmemory-policy"
        )
    if policy == "noeviction":
        return Check("redis.eviction", OK, "nothing is evicted when memory is full", value=policy)
    limited = bool(server.get("maxmemory"))
    summary = f"maxmemory-policy is {policy}: " + ("messages are dropped when memory is full" if limited else "no limit is set yet")
    hint = "CONFIG SET maxmemory-policy noeviction, and in redis.conf: a broker must not forget"
    return Check("redis.eviction", CRITICAL if limited else WARNING, summary, value=policy, hint=hint)


def _persistence(server: t.Mapping[str, t.Any]) -> Check:
    states = {name: server.get(name) for name in ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")}
    bad = sorted(name for name, state in states.items() if state not in (None, "ok"))
    if not any(states.values()):
        return Check(
            "redis.persistence", UNKNOWN, "Redis does not say whether its writes reach the disk", hint="look at INFO persistence"
        )
    summary = f"writing to disk fails: {', '.join(bad)}" if bad else "the last writes to disk went well"
    hint = "look at Redis' log and its disk: after a failed save Redis refuses writes"
    return Check(
        "redis.persistence",
        CRITICAL if bad else OK,
        summary,
        value="err" if bad else "ok",
        hint=hint if bad else "",
        evidence=states,
    )
