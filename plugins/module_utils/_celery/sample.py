# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in the broker at one moment: waiting and unacknowledged messages, clients, memory. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import datetime
import json
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._celery.broker import Broker, Layout, text_of
from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._time import UTC

OLDEST = 200
"""Unacknowledged messages that are looked at one by one, oldest first."""
FRESH = 2
"""A client that waits in BRPOP begins anew about each second; one that does not is not consuming."""
BLOCKING = ("brpop", "blpop", "bzmpop", "blmove", "brpoplpush")


@dataclasses.dataclass(frozen=True)
class Head:
    """The message that is next in one key."""

    id: str
    task: str
    published: float | None


@dataclasses.dataclass(frozen=True)
class KeySample:
    """One key of a queue. ``untouched``: seconds since anybody read or wrote it; None when Redis does not say."""

    key: str
    priority: int
    depth: int
    head: Head | None = None
    untouched: float | None = None


@dataclasses.dataclass(frozen=True)
class QueueSample:
    """One queue at one moment of Redis' clock."""

    name: str
    at: float
    keys: tuple[KeySample, ...]

    @property
    def depth(self) -> int:
        """Messages over all priorities."""
        return sum(key.depth for key in self.keys)

    def by_priority(self) -> dict[str, int]:
        """Messages by step of priority."""
        return {str(key.priority): key.depth for key in self.keys}

    def heads(self) -> dict[str, str]:
        """Ids of the next messages by key."""
        return {key.key: key.head.id for key in self.keys if key.head is not None}


@dataclasses.dataclass(frozen=True)
class Held:
    """A message that was delivered and not acknowledged."""

    id: str
    task: str
    delivered: float
    eta: bool


@dataclasses.dataclass(frozen=True)
class Unacknowledged:
    """How many there are, and the oldest of them."""

    count: int
    at: float
    oldest: tuple[Held, ...] = ()


def sample_queues(broker: Broker, layout: Layout, queues: t.Sequence[str], header: str) -> list[QueueSample]:
    """Length and head of every key. The idle time is asked first: everything else resets it."""
    keys = [(queue, key, step) for queue in queues for step, key in zip(layout.priority_steps, layout.keys(queue))]
    commands: list[tuple[t.Any, ...]] = [("TIME",)]
    commands += [("OBJECT", "IDLETIME", key) for _queue, key, _step in keys]
    for _queue, key, _step in keys:
        commands += [("LLEN", key), ("LINDEX", key, -1)]
    answers = broker.many("reading the queues", commands)
    at = _clock(_good(answers[0]))
    idle, rest = answers[1 : 1 + len(keys)], answers[1 + len(keys) :]
    found: dict[str, list[KeySample]] = {queue: [] for queue in queues}
    for number, (queue, key, step) in enumerate(keys):
        depth, raw = int(_good(rest[2 * number])), _good(rest[2 * number + 1])
        untouched = idle[number] if isinstance(idle[number], int) else None
        head = None if raw is None else read_head(raw, header)
        found[queue].append(KeySample(key, step, depth, head, untouched))
    return [QueueSample(queue, at, tuple(samples)) for queue, samples in found.items()]


def _good(answer: t.Any) -> t.Any:
    if isinstance(answer, OpsError):
        raise answer
    return answer


def _clock(answer: t.Any) -> float:
    seconds, microseconds = answer
    return int(seconds) + int(microseconds) / 1_000_000


def read_head(raw: t.Any, header: str) -> Head:
    """What a message in a queue says about itself; its body, which holds the arguments, is not looked at."""
    headers = _headers(_json(raw))
    return Head(str(headers.get("id", "")), str(headers.get("task", "")), _moment(headers.get(header)))


def _json(raw: t.Any) -> t.Any:
    try:
        return json.loads(text_of(raw))
    except (ValueError, RecursionError):
        return None


def _headers(message: t.Any) -> dict[str, t.Any]:
    headers = message.get("headers") if isinstance(message, dict) else None
    return headers if isinstance(headers, dict) else {}


def _moment(value: t.Any) -> float | None:
    """A header's time: seconds since 1970, or ISO 8601 (without an offset: UTC)."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return None
    try:
        found = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def sample_unacknowledged(broker: Broker, layout: Layout) -> Unacknowledged:
    """Messages that workers hold: fetched ahead, waiting for their time, or, with late acknowledgement, running."""
    index, table = layout.key("unacked_index"), layout.key("unacked")
    commands = [("TIME",), ("HLEN", table), ("ZRANGE", index, 0, OLDEST - 1, "WITHSCORES")]
    clock, count, ranked = (_good(answer) for answer in broker.many("reading unacknowledged messages", commands))
    pairs = _pairs(ranked)
    if not pairs:
        return Unacknowledged(int(count), _clock(clock))
    raws = _good(broker.many("reading unacknowledged messages", [("HMGET", table, *(tag for tag, _score in pairs))])[0])
    at = _clock(clock)
    held = tuple(_held(raw, score, at) for (_tag, score), raw in zip(pairs, raws) if raw is not None)
    return Unacknowledged(int(count), at, held)


def _pairs(ranked: t.Sequence[t.Any]) -> list[tuple[t.Any, float]]:
    """Members with scores, flat or in pairs as the library has it."""
    if ranked and isinstance(ranked[0], (list, tuple)):
        return [(member, float(score)) for member, score in ranked]
    return [(ranked[number], float(ranked[number + 1])) for number in range(0, len(ranked) - 1, 2)]


def _held(raw: t.Any, delivered: float, at: float) -> Held:
    content = _json(raw)
    message = content[0] if isinstance(content, list) and content else None
    headers = _headers(message)
    eta = _moment(headers.get("eta"))
    return Held(str(headers.get("id", "")), str(headers.get("task", "")), delivered, eta is not None and eta > at)


@dataclasses.dataclass(frozen=True)
class Consumers:
    """Clients that wait for messages in this database; ``fresh`` of them began a moment ago, so they do take messages."""

    waiting: int
    fresh: int


def sample_consumers(broker: Broker) -> Consumers:
    """Count the blocked clients."""
    clients = broker.ask("listing clients", lambda client: client.client_list())
    mine = [
        int(client.get("idle") or 0)
        for client in clients
        if str(client.get("cmd", "")).lower() in BLOCKING and str(client.get("db")) == str(broker.options.db)
    ]
    return Consumers(len(mine), sum(idle <= FRESH for idle in mine))


def sample_server(broker: Broker) -> dict[str, t.Any]:
    """Redis' own figures."""
    found: dict[str, t.Any] = broker.ask("reading INFO", lambda client: client.info())
    return found
