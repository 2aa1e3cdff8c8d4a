# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Talking to Celery's workers over the broker, without Celery and without the application. PRIVATE to the collection.

Requests go to the control exchange as ``celery inspect`` sends them, and each worker puts its replies into a list of ours. Workers
also send a heartbeat every two seconds to the event exchange, which says that they live even when they are too busy to reply.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import time
import typing as t
import uuid

from ansible_collections.fileforge.ops.plugins.module_utils._celery.broker import Broker, Layout, text_of
from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError

REQUESTS = ("ping", "active_queues", "active", "reserved", "scheduled")
QUIET = 0.3
"""Seconds without a message after which enough is enough, when all who are expected have replied."""
HELD = ("active", "reserved", "scheduled")


@dataclasses.dataclass
class Worker:
    """One worker: what it replied, and what its heartbeat says."""

    name: str
    replied: bool = False
    heartbeat: bool = False
    queues: list[str] | None = None
    active: list[dict[str, t.Any]] | None = None
    held: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    processed: int | None = None
    software: str = ""

    @property
    def complete(self) -> bool:
        """Whether every request was replied to."""
        return self.replied and self.queues is not None and set(HELD) <= set(self.held)

    @property
    def busy(self) -> int | None:
        """Tasks that it runs now; None when it did not say."""
        return None if self.active is None else len(self.active)

    def as_dict(self) -> dict[str, t.Any]:
        """For a module's result. Arguments of tasks stay out of it."""
        return {
            "name": self.name,
            "replied": self.replied,
            "heartbeat": self.heartbeat,
            "queues": self.queues,
            "active": self.active,
            "reserved": len(self.held["reserved"]) if "reserved" in self.held else None,
            "scheduled": len(self.held["scheduled"]) if "scheduled" in self.held else None,
            "processed": self.processed,
            "software": self.software,
        }


@dataclasses.dataclass
class Roll:
    """Who was heard, and what could not be asked."""

    workers: dict[str, Worker] = dataclasses.field(default_factory=dict)
    receivers: int = 0
    """Workers that Redis delivered the requests to; some may have been too busy to reply."""
    asked: bool = False
    listened: bool = False
    problems: list[OpsError] = dataclasses.field(default_factory=list)

    def worker(self, name: str) -> Worker:
        """The worker of a name."""
        return self.workers.setdefault(name, Worker(name))

    @property
    def alive(self) -> list[Worker]:
        """Who replied or has a heartbeat."""
        return [worker for _name, worker in sorted(self.workers.items()) if worker.replied or worker.heartbeat]


class Mailbox:
    """One conversation; ``close`` removes what it put into the broker."""

    def __init__(self, broker: Broker, layout: Layout) -> None:
        self._broker = broker
        self._layout = layout
        self._me = str(uuid.uuid4())
        self._replies = f"reply.{layout.control_exchange}.pidbox"
        self._queue = f"{self._me}.{self._replies}"
        self._tickets: dict[str, str] = {}
        self._subscription: t.Any = None
        self.roll = Roll()

    def _channel(self, name: str) -> str:
        return self._layout.key(f"/{self._broker.options.db}.{name}")

    def _table(self) -> tuple[str, str]:
        return self._layout.key(f"_kombu.binding.{self._replies}"), self._layout.binding(self._me, "", self._queue)

    def listen(self) -> None:
        """Hear the heartbeats from now on."""
        channel = self._channel(f"{self._layout.event_exchange}/worker.heartbeat")

        def subscribe(client: t.Any) -> t.Any:
            subscription = client.pubsub(ignore_subscribe_messages=True)
            subscription.subscribe(channel)
            subscription.get_message(timeout=1.0)  # the confirmation, or the refusal
            return subscription

        try:
            self._subscription = self._broker.ask("listening to heartbeats", subscribe)
            self.roll.listened = True
        except OpsError as error:
            self.roll.problems.append(error)

    def ask(self) -> None:
        """Send the requests."""
        table, member = self._table()
        channel = self._channel(f"{self._layout.control_exchange}.pidbox")
        commands: list[tuple[t.Any, ...]] = [("SADD", table, member)]
        for method in REQUESTS:
            ticket = str(uuid.uuid4())
            self._tickets[ticket] = method
            commands.append(("PUBLISH", channel, self._request(method, ticket)))
        try:
            answers = self._broker.many("asking the workers", commands)
            refused = [answer for answer in answers if isinstance(answer, OpsError)]
            self.roll.receivers = max((answer for answer in answers[1:] if isinstance(answer, int)), default=0)
        except OpsError as error:
            refused = [error]
        self.roll.asked = not refused
        self.roll.problems += refused[:1]

    def _request(self, method: str, ticket: str) -> str:
        body = {
            "method": method,
            "arguments": {},
            "destination": None,
            "pattern": None,
            "matcher": None,
            "ticket": ticket,
            "reply_to": {"exchange": self._replies, "routing_key": self._me},
        }
        return json.dumps(
            {
                "body": base64.b64encode(json.dumps(body).encode()).decode(),
                "content-type": "application/json",
                "content-encoding": "utf-8",
                "headers": {"clock": 0, "expires": 0},
                "properties": {
                    "delivery_mode": 1,
                    "delivery_info": {"exchange": f"{self._layout.control_exchange}.pidbox", "routing_key": ""},
                    "priority": 0,
                    "body_encoding": "base64",
                    "delivery_tag": str(uuid.uuid4()),
                },
            }
        )

    def collect(self, seconds: float, enough: t.Callable[[Roll], bool]) -> Roll:
        """Take in replies and heartbeats for that long; shorter when it is ``enough`` and nothing more comes."""
        end = time.monotonic() + seconds
        heard = time.monotonic()
        while time.monotonic() < end:
            if self._take_replies() + self._take_heartbeats(min(0.05, max(0.0, end - time.monotonic()))):
                heard = time.monotonic()
            elif time.monotonic() - heard >= QUIET and enough(self.roll):
                break
        return self.roll

    def _take_heartbeats(self, seconds: float) -> int:
        if self._subscription is None:
            time.sleep(seconds)
            return 0
        message = self._broker.ask("listening to heartbeats", lambda _client: self._subscription.get_message(timeout=seconds))
        body = unpack(message["data"]) if message else None
        if not isinstance(body, dict) or "hostname" not in body:
            return 0
        worker = self.roll.worker(str(body["hostname"]))
        worker.heartbeat = True
        worker.processed = int(body.get("processed") or 0)
        worker.software = f"{body.get('sw_ident', '')} {body.get('sw_ver', '')}".strip()
        return 1

    def _take_replies(self) -> int:
        taken = 0
        while self.roll.asked:
            raw = self._broker.ask("reading replies", lambda client: client.rpop(self._layout.key(self._queue)))
            if raw is None:
                break
            taken += 1
            ticket = _headers(raw).get("ticket", "")
            reply = unpack(raw)
            if isinstance(reply, dict):
                for name, content in reply.items():
                    note_reply(self.roll.worker(str(name)), self._tickets.get(str(ticket), ""), content)
        return taken

    def close(self) -> None:
        """Stop listening, and take our list and its binding away."""
        if self._subscription is not None:
            self._subscription.close()
        table, member = self._table()
        if self._tickets:
            self._broker.many("tidying up", [("SREM", table, member), ("DEL", self._layout.key(self._queue))])


def note_reply(worker: Worker, method: str, content: t.Any) -> None:
    """Add one reply to what is known of a worker."""
    worker.replied = True
    if method == "active_queues" and isinstance(content, list):
        worker.queues = sorted(str(queue.get("name", "")) for queue in content if isinstance(queue, dict))
    if method in HELD and isinstance(content, list):
        tasks = [item.get("request", item) for item in content if isinstance(item, dict)]
        worker.held[method] = {str(task.get("id", "")) for task in tasks}
        if method == "active":
            worker.active = [{"id": task.get("id"), "task": task.get("name"), "started": task.get("time_start")} for task in tasks]


def unpack(raw: t.Any) -> t.Any:
    """The body of a message in kombu's JSON form; None for what is not one."""
    try:
        message = json.loads(text_of(raw))
        body = message["body"]
        if message.get("properties", {}).get("body_encoding") == "base64":
            body = base64.b64decode(body).decode(errors="replace")
        return json.loads(body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _headers(raw: t.Any) -> dict[str, t.Any]:
    try:
        found = json.loads(text_of(raw)).get("headers")
    except (ValueError, AttributeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
