# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Queues and workers of a real Celery on a real Redis, with the documented rights; faults are injected one by one."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
import typing as t
import uuid
from pathlib import Path

import celery
import pytest
import redis
from ansible_collections.fileforge.ops.plugins.module_utils._celery.broker import Layout, RedisOptions
from ansible_collections.fileforge.ops.plugins.module_utils._celery.queues import QueueOptions, Report, examine, names
from ansible_collections.fileforge.ops.plugins.module_utils._checks import Check

from tests.integration.documented import examples
from tests.lab.daemon import Daemon, wait_until
from tests.lab.ports import free_port

if t.TYPE_CHECKING:
    from tests.integration.conftest import ModuleRunner

QUEUE = "fileforge-tasks"
PASSWORD = "choose-one"  # as in the documentation
APPLICATION = """
import os, time
import celery

options = eval(os.environ["WORKER_TRANSPORT"])
app = celery.Celery("app", broker=os.environ["WORKER_BROKER"])
app.conf.update(task_default_queue="fileforge-tasks", task_acks_late=True, worker_prefetch_multiplier=4,
                broker_connection_retry_on_startup=True, broker_transport_options=options)

@app.task(name="app.nap")
def nap(seconds):
    time.sleep(seconds)
"""


class Broker:
    """A Redis of its own with workers of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.port = free_port()
        self.daemon = Daemon("redis", place)
        self.workers: list[Daemon] = []
        (place / "application.py").write_text(APPLICATION)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis(port=self.port)
        self.app = celery.Celery("producer", broker=self.url)

    def start(self) -> Broker:
        """Start Redis with the documented users."""
        argv = [
            "redis-server",
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self.place),
            "--save",
            "",
            "--daemonize",
            "no",
        ]
        self.daemon.start(argv)
        wait_until(self.answers, 20, "redis to answer")
        for line in examples("server-checks.md", "redis"):
            assert self.client.execute_command(*line.split()) in (b"OK", "OK", True)
        return self

    def answers(self) -> bool:
        """Whether Redis is there."""
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def worker(self, name: str, queues: str = QUEUE, **transport: t.Any) -> Daemon:
        """A worker that consumes."""
        daemon = Daemon(f"worker-{name}", self.place)
        self.workers.append(daemon)
        env = {
            "WORKER_BROKER": self.url,
            "WORKER_TRANSPORT": repr(transport),
            "PYTHONPATH": str(self.place),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        argv = [sys.executable, "-m", "celery", "--app=application", "worker", f"--hostname={name}@test", f"--queues={queues}"]
        argv += ["--concurrency=1", "--without-gossip", "--without-mingle", "--loglevel=INFO"]
        daemon.start(argv, env=env, cwd=str(self.place))
        wait_until(lambda: "ready." in daemon.last_lines(50) or daemon.pid is None, 60, f"worker {name} to be ready")
        assert daemon.pid is not None, daemon.last_lines(30)
        return daemon

    def send(self, count: int, queue: str = QUEUE, seconds: float = 0, **options: t.Any) -> list[str]:
        """Publish tasks; their ids."""
        return [self.app.send_task("app.nap", (seconds,), queue=queue, **options).id for _number in range(count)]

    def fill(self, count: int, queue: str, **options: t.Any) -> None:
        """Many messages that nobody takes: copies of one."""
        self.send(1, queue, **options)
        (key,) = self.client.scan_iter(f"{queue}*")
        message = t.cast(bytes, self.client.lindex(key, 0))
        if count > 1:
            self.client.lpush(key, *[message] * (count - 1))

    def control(self, command: str, worker: str, **details: t.Any) -> None:
        """Tell a worker, and wait for its reply."""
        assert self.app.control.broadcast(command, arguments=details, destination=[worker], reply=True, timeout=20, limit=1)

    def close(self) -> None:
        """Leave nothing running."""
        for worker in self.workers:
            worker.kill()
        self.client.close()
        self.daemon.kill()


@pytest.fixture(scope="module")
def broker(session_place: Path) -> t.Iterator[Broker]:
    """The broker of this file."""
    place = session_place / uuid.uuid4().hex[:8]
    place.mkdir()
    made = Broker(place)
    try:
        yield made.start()
    finally:
        made.close()
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def worker(broker: Broker) -> Daemon:
    """The worker of this file, which lives."""
    return broker.worker("main")


@pytest.fixture(autouse=True)
def tidy(broker: Broker) -> t.Iterator[None]:
    """No test inherits messages."""
    yield
    for key in broker.client.scan_iter("*"):
        if not key.startswith(b"_kombu"):
            broker.client.delete(key)
    leftovers = [key for key in broker.client.scan_iter("*reply.celery.pidbox") if b"_kombu" not in key]
    assert leftovers == [] and broker.client.smembers("_kombu.binding.reply.celery.pidbox") == set(), "the questions left something"


def look(broker: Broker, queue: str = QUEUE, **options: t.Any) -> Report:
    """The engine, with the monitoring user unless told otherwise."""
    connection = {"port": broker.port, "username": "fileforge_monitor", "password": PASSWORD, **options.pop("connection", {})}
    return examine(RedisOptions(host="127.0.0.1", **connection), QueueOptions(**{"queues": [queue], "interval": 0.7, **options}))


def bad(report: Report) -> dict[str, str]:
    """What is not ok."""
    return {check.id: check.status for check in report.checks if check.status != "ok"}


def arguments(broker: Broker, **changes: t.Any) -> dict[str, t.Any]:
    """Options of the module for the monitoring user."""
    plain = {"redis_port": broker.port, "redis_username": "fileforge_monitor", "redis_password": PASSWORD, "queues": [QUEUE]}
    return {**plain, **changes}


def test_healthy_with_the_documented_rights(run_module: ModuleRunner, broker: Broker, worker: Daemon) -> None:
    for check, interpreter in ((True, sys.executable), (False, sys.executable), (False, "/usr/bin/python3")):
        result = run_module("celery_queue_info", arguments(broker), check=check, interpreter=interpreter)
        assert {item["id"]: item["status"] for item in result["checks"] if item["status"] != "ok"} == {}
        assert [item["id"] for item in result["checks"]] == ["redis.connection", *names(QueueOptions([QUEUE]))]
        assert result["changed"] is False and result["queues"][0]["consumers"] == ["main@test"]
        assert result["workers"][0]["replied"] and PASSWORD not in str(result["checks"])
    reading = arguments(broker, redis_username="fileforge_reader", ask_workers=False)
    result = run_module("celery_queue_info", reading)
    assert result["status"] == "ok" and result["workers"][0]["heartbeat"] and result["workers"][0]["replied"] is False


@pytest.mark.parametrize("count", [100, 101, 1001])
def test_depth(broker: Broker, worker: Daemon, count: int) -> None:
    broker.fill(count, "bulk")
    broker.client.execute_command("ACL", "SETUSER", "fileforge_monitor", "%R~bulk*")
    report = look(broker, "bulk")
    found = bad(report)
    assert found.pop("queue.bulk.depth", "ok") == {100: "ok", 101: "warning", 1001: "critical"}[count]
    assert found == {"queue.bulk.consumption": "critical", "queue.bulk.age": "unknown"}, "no worker takes from this queue"
    depth, _age, consumption = report.checks[1:4]
    assert depth.value == count and consumption.value == "no_consumer" and "-Q" in consumption.hint
    assert (report.queues[0]["drain_rate"], report.queues[0]["seconds_to_empty"]) == (0.0, None)


def test_messages_only_in_a_priority_key(broker: Broker, worker: Daemon) -> None:
    broker.client.execute_command("ACL", "SETUSER", "fileforge_monitor", "%R~urgent*")
    broker.fill(101, "urgent", priority=9)
    assert broker.client.llen("urgent") == 0
    report = look(broker, "urgent")
    depth = report.checks[1]
    assert (depth.id, depth.status, depth.value) == ("queue.urgent.depth", "warning", 101)
    assert report.queues[0]["by_priority"] == {"0": 0, "3": 0, "6": 0, "9": 101} and "keys for priorities" in depth.summary


def test_age_by_header_and_by_what_was_there_before(broker: Broker, worker: Daemon, place: Path) -> None:
    broker.client.execute_command("ACL", "SETUSER", "fileforge_monitor", "%R~aged*")
    broker.send(1, "aged", headers={"fileforge_published_at": time.time() - 301})
    stamped = look(broker, "aged")
    assert stamped.checks[2].status == "warning" and stamped.queues[0]["age_confidence"] == "exact"
    assert 300 < stamped.queues[0]["age"] < 400
    broker.client.delete("aged")
    broker.send(1, "aged")
    state = place / "queues.json"
    first = look(broker, "aged", state_file=str(state))
    assert first.queues[0]["age"] is None and first.checks[2].status == "unknown"
    text = state.read_text()
    remembered = text.replace('"since": ', '"since": -')
    state.write_text(remembered)  # as if that had been long ago
    second = look(broker, "aged", state_file=str(state))
    assert (second.queues[0]["age_method"], second.checks[2].status) == ("tracked", "critical")
    assert state.read_text() == remembered, "since when it is the next one does not change"


def test_a_worker_that_lives_but_does_not_consume(broker: Broker, worker: Daemon) -> None:
    broker.control("cancel_consumer", "main@test", queue=QUEUE)
    try:
        broker.send(3)
        report = look(broker)
        consumption = report.checks[3]
        assert (consumption.id, consumption.status, consumption.value) == (f"queue.{QUEUE}.consumption", "critical", "no_consumer")
        assert next(check for check in report.checks if check.id == "celery.workers").status == "ok", "it does live"
    finally:
        broker.control("add_consumer", "main@test", queue=QUEUE)
    wait_until(lambda: broker.client.llen(QUEUE) == 0, 20, "the messages to be consumed")


def test_a_busy_worker_is_no_fault_and_a_task_that_never_ends_is_one(broker: Broker, worker: Daemon) -> None:
    ids = broker.send(8, seconds=60)
    try:
        wait_until(lambda: look(broker).unacknowledged["count"] >= 4, 20, "the worker to fetch messages")
        report = look(broker)
        assert report.checks[3].value == "busy" and report.workers[0]["active"][0]["task"] == "app.nap"
        assert bad(report) == {f"queue.{QUEUE}.age": "unknown"}, "nothing moves, and nobody knows how old the next message is"
        assert look(broker, task_seconds=0.1).checks[3].value == "stuck_tasks"
    finally:
        broker.control("revoke", "main@test", task_id=ids, terminate=True, signal="SIGKILL")
        wait_until(lambda: not broker.client.exists("unacked", QUEUE), 30, "the worker to be free")


def worker_check(broker: Broker) -> Check:
    return next(check for check in look(broker, minimum_workers=1).checks if check.id == "celery.workers")


def test_a_paused_worker_is_silent(broker: Broker) -> None:
    paused = broker.worker("paused", "paused")
    wait_until(lambda: "paused" in str(worker_check(broker).evidence["alive"]), 30, "the worker to reply")
    os.killpg(t.cast(int, paused.pid), signal.SIGSTOP)
    try:
        workers = worker_check(broker)
        assert workers.status == "warning" and "did not reply" in workers.summary
    finally:
        paused.kill()


def test_a_dead_worker_that_held_messages(broker: Broker) -> None:
    victim = broker.worker("victim", "held")
    ids = broker.send(3, "held", seconds=60)
    wait_until(lambda: broker.client.hlen("unacked") == len(ids), 20, "the worker to fetch messages")
    assert "celery.unacknowledged" not in bad(look(broker)), "a living worker holds them"
    victim.kill()
    for tag, score in broker.client.zrange("unacked_index", 0, -1, withscores=True):
        broker.client.zadd("unacked_index", {tag: float(score) - 60})  # a minute passes
    others = any(daemon.pid for daemon in broker.workers)
    check = next(check for check in look(broker).checks if check.id == "celery.unacknowledged")
    assert (check.status, check.evidence["count"]) == ("warning" if others else "critical", 3)
    assert ("held by no worker that lives" in check.summary) == others and "visibility timeout" in check.hint
    with stopped(broker):
        alone = look(broker)
        assert {"celery.unacknowledged": "critical", "celery.workers": "critical"}.items() <= bad(alone).items()


@contextlib.contextmanager
def stopped(broker: Broker) -> t.Iterator[None]:
    """No worker lives meanwhile; the main one is there again afterwards."""
    for daemon in broker.workers:
        daemon.kill()
    wait_until(lambda: broker.client.pubsub_numpat() == 0, 20, "the workers to be gone")
    yield
    broker.worker("main")


def test_prefix_steps_and_separator(broker: Broker) -> None:
    options = {"global_keyprefix": "ff:", "priority_steps": [0, 5], "sep": ":"}
    broker.worker("other", "jobs", **options)
    admin = {"username": None, "password": None}
    layout = Layout("ff:", (0, 5), ":")
    report = look(broker, "jobs", layout=layout, connection=admin)
    assert bad(report) == {} and report.queues[0]["consumers"] == ["other@test"]
    producer = celery.Celery("prefixed", broker=broker.url)
    producer.conf.broker_transport_options = options
    producer.send_task("app.nap", (0,), queue="elsewhere", priority=7)
    assert look(broker, "elsewhere", layout=layout, connection=admin).queues[0]["by_priority"] == {"0": 0, "5": 1}
    broker.workers[-1].kill()


def test_redis_itself(broker: Broker) -> None:
    broker.client.config_set("maxmemory-policy", "allkeys-lru")
    broker.client.config_set("maxmemory", int(broker.client.info()["used_memory"] * 1.1))
    try:
        found = bad(look(broker, ask_workers=False, interval=0.1))
        assert found["redis.eviction"] == "critical" and found["redis.memory"] in ("warning", "critical")
    finally:
        broker.client.config_set("maxmemory", 0)
        broker.client.config_set("maxmemory-policy", "noeviction")


def test_no_permission_is_unknown(run_module: ModuleRunner, broker: Broker) -> None:
    broker.client.execute_command("ACL", "SETUSER", "nobody", "on", f">{PASSWORD}", "-@all", "+ping", "+hello")
    result = run_module("celery_queue_info", arguments(broker, redis_username="nobody"))
    found = {item["id"]: item["status"] for item in result["checks"]}
    assert found.pop("redis.connection") == "ok" and set(found.values()) == {"unknown"} and result["status"] == "unknown"
    assert all("server-checks" in item["hint"] for item in result["checks"][1:])
    denied = look(broker, connection={"password": "wrong"})
    assert {check.status for check in denied.checks} == {"unknown"} and "credentials" in denied.checks[0].summary


def test_redis_is_down(run_module: ModuleRunner, broker: Broker) -> None:
    url = f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0"
    result = run_module("celery_queue_info", {"redis_url": url, "queues": [QUEUE]})
    found = {item["id"]: item["status"] for item in result["checks"]}
    assert found.pop("redis.connection") == "critical" and set(found.values()) == {"unknown"}
    assert PASSWORD not in str(result["checks"]) and "High Queue Backlog" in result["checks"][0]["hint"]
    refused = run_module("celery_queue_info", {"queues": [QUEUE], "depth_warning": 5000}, expect_failure=True)
    assert refused["code"] == "invalid_option"
    os.kill(t.cast(int, broker.daemon.pid), signal.SIGSTOP)
    try:
        frozen = look(broker, connection={"timeout": 0.5})
    finally:
        os.kill(t.cast(int, broker.daemon.pid), signal.SIGCONT)
    assert frozen.checks[0].status == "critical" and {check.status for check in frozen.checks[1:]} == {"unknown"}
