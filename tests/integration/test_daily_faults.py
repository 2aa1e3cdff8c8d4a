# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the morning check notices: each fault is done to a real server, and everything else goes on as it was.

A row names the fault, whose look notices it, how it is done, the check that must tell of it, its status, and words of the next
step. ``beside`` are other checks of the same look that the fault explains; ``blind`` those that must be unknown, because they could
not be looked at. All other checks, of this look and of the others, must say what they said before.
"""
# ruff: noqa: SIM905 (names are words)

from __future__ import annotations

import contextlib
import itertools
import os
import typing as t

import pytest

from tests.integration.test_kube_workload_info import grant
from tests.integration.test_postgres_health_info import session, waiting
from tests.integration.watched_platform import PASSWORD, QUEUE, Changes, Check, Platform, platform_below, stamped
from tests.lab import ROOT
from tests.lab.daemon import wait_until
from tests.lab.ports import free_port
from tests.lab.s3 import S3Server
from tests.lab.tls import NAME, self_signed

Done = t.Iterator[Changes]
ALL = ("*",)
PAGE = ROOT / "docs" / "daily-check.md"


class Fault(t.NamedTuple):
    """A row of the table."""

    what: str
    look: str
    do: t.Callable[[Platform], contextlib.AbstractContextManager[Changes]]
    """Does it; yields the options that the look gets because of it. What it did is undone at its end."""
    check: str
    status: str
    hint: str
    beside: tuple[str, ...] = ()
    blind: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    """Other looks at the same server, which can look at nothing either."""
    lasting: bool = False
    """It is not undone before the last row."""


# Kubernetes: all worlds run from the beginning, each in a namespace of its own


def namespace(name: str) -> t.Callable[[Platform], t.Any]:
    return lambda platform: contextlib.nullcontext({"namespace": name})


@contextlib.contextmanager
def killed_for_memory(platform: Platform) -> Done:
    kubectl = platform.kube.kubectl
    running = ("get", "pods", "-n", "oom-kill", "-o", "jsonpath={.items[*].status.phase}")
    wait_until(lambda: kubectl(*running) == "Running", 20, "the pod to run")
    kubectl("annotate", "pod", "-l", "app=web", "lab.fileforge.ops/oom-kill=app", "-n", "oom-kill")
    yield {"namespace": "oom-kill"}


@contextlib.contextmanager
def metrics_broken(platform: Platform) -> Done:
    def be(mode: str) -> None:
        patch = f'{{"data": {{"metrics": "{mode}"}}}}'
        platform.kube.kubectl("patch", "configmap", "lab-controls", "-n", "kube-system", "-p", patch)

    be("broken")
    yield {}
    be("on")


@contextlib.contextmanager
def account_without_rights(platform: Platform) -> Done:
    yield {"kube_token": grant(platform.kube, [{"apiGroups": [""], "resources": ["services"], "verbs": ["list"]}])}


@contextlib.contextmanager
def api_server_down(platform: Platform) -> Done:
    platform.kube.kill()
    yield {"kube_timeout": 2}


# Celery on Redis: the worker is busy and has fetched all that it may


def waiting_messages(count: int, priority: int | None = None) -> t.Callable[[Platform], t.Any]:
    @contextlib.contextmanager
    def do(platform: Platform) -> Done:
        broker = platform.broker
        broker.send(1, headers=stamped(), priority=priority)
        (key,) = broker.client.scan_iter(f"{QUEUE}*")
        broker.client.lpush(key, *[broker.client.lindex(key, 0)] * (count - 1))
        assert (broker.client.llen(QUEUE) == 0) == (priority is not None)
        yield {}
        broker.client.delete(key)

    return do


@contextlib.contextmanager
def dead_worker(platform: Platform) -> Done:
    broker = platform.broker
    victim = broker.worker("victim", "held")
    before = broker.client.hlen("unacked")
    broker.send(3, "held", seconds=60)
    wait_until(lambda: broker.client.hlen("unacked") == before + 3, 20, "the worker to fetch messages")
    victim.kill()
    for tag, score in broker.client.zrange("unacked_index", 0, -1, withscores=True):
        broker.client.zadd("unacked_index", {tag: float(score) - 60})  # a minute passes
    yield {}
    broker.client.delete("unacked", "unacked_index")


@contextlib.contextmanager
def not_consuming(platform: Platform) -> Done:
    broker = platform.broker
    broker.control("cancel_consumer", "main@test", queue=QUEUE)
    broker.send(3, headers=stamped())
    yield {}
    broker.client.delete(QUEUE)
    broker.control("add_consumer", "main@test", queue=QUEUE)


@contextlib.contextmanager
def redis_user_without_rights(platform: Platform) -> Done:
    platform.broker.client.execute_command("ACL", "SETUSER", "nobody", "on", f">{PASSWORD}", "-@all", "+ping", "+hello")
    yield {"redis_username": "nobody"}


@contextlib.contextmanager
def redis_down(platform: Platform) -> Done:
    platform.broker.daemon.kill()
    yield {}


# PostgreSQL


@contextlib.contextmanager
def blocked_sessions(platform: Platform) -> Done:
    with session(platform.server, "BEGIN", "SELECT * FROM users WHERE id = 1 FOR UPDATE"):
        with waiting(platform.server, "UPDATE users SET name = 'other' WHERE id = 1", "wait_event_type = 'Lock'"):
            yield {}


@contextlib.contextmanager
def idle_in_transaction(platform: Platform) -> Done:
    with session(platform.server, "BEGIN", "SELECT 1"):
        yield {}


@contextlib.contextmanager
def standby_lags(platform: Platform) -> Done:
    server = platform.server
    state = "SELECT 1 FROM pg_stat_replication WHERE"
    platform.standby.execute("SELECT pg_wal_replay_pause()")
    server.execute("CREATE TABLE much AS SELECT n, repeat('x', 500) FROM generate_series(1, 4000) AS n", "fileforge")
    wait_until(lambda: server.execute(f"{state} pg_wal_lsn_diff(flush_lsn, replay_lsn) > 1000000"), 20, "the standby to lag")
    yield {}
    platform.standby.execute("SELECT pg_wal_replay_resume()")
    wait_until(lambda: server.execute(f"{state} pg_wal_lsn_diff(flush_lsn, replay_lsn) < 1000"), 20, "the standby to catch up")


@contextlib.contextmanager
def inactive_slot(platform: Platform) -> Done:
    platform.server.execute("SELECT pg_create_physical_replication_slot('abandoned', true)")
    yield {}
    platform.server.execute("SELECT pg_drop_replication_slot('abandoned')")


@contextlib.contextmanager
def archiving_fails(platform: Platform) -> Done:
    platform.server.execute("ALTER SYSTEM SET archive_command = 'false'")
    platform.server.execute("SELECT pg_reload_conf()")
    platform.server.switch_wal()
    yield {}


@contextlib.contextmanager
def role_without_rights(platform: Platform) -> Done:
    yield {"postgres_host": str(platform.server.socket_directory), "postgres_user": "nobody_special"}


@contextlib.contextmanager
def database_down(platform: Platform) -> Done:
    platform.server.stop("immediate")
    yield {}


# Backups


def backups(prefix: str, **how: t.Any) -> t.Callable[[Platform], t.Any]:
    @contextlib.contextmanager
    def do(platform: Platform) -> Done:
        platform.keep_backups(prefix, **how)
        yield {"prefix": prefix}

    return do


@contextlib.contextmanager
def bucket_without_rights(platform: Platform) -> Done:
    yield {"s3_secret_key": "w" * 40}


@contextlib.contextmanager
def bucket_not_reached(platform: Platform) -> Done:
    yield {"s3_endpoint": f"http://127.0.0.1:{free_port()}"}


# Disks


@contextlib.contextmanager
def full_volume(platform: Platform) -> Done:
    file = platform.volume / "data"
    file.write_bytes(b"x" * 870_000)
    yield {}
    file.unlink()


@contextlib.contextmanager
def many_files(platform: Platform) -> Done:
    files = [platform.volume / str(number) for number in range(18)]  # with the root directory, over 90 % of 20
    for file in files:
        file.touch()
    yield {}
    for file in files:
        file.unlink()


# Endpoints and certificates


def endpoint(**state: t.Any) -> t.Callable[[Platform], t.Any]:
    changes = state.pop("changes", {})

    @contextlib.contextmanager
    def do(platform: Platform) -> Done:
        before = {name: getattr(platform.api, name) for name in state}
        vars(platform.api).update(state)
        yield changes
        vars(platform.api).update(before)

    return do


@contextlib.contextmanager
def endpoint_gone(platform: Platform) -> Done:
    yield {"url": f"http://127.0.0.1:{free_port()}/health"}


def certificate(kind: str, **how: t.Any) -> t.Callable[[Platform], t.Any]:
    @contextlib.contextmanager
    def do(platform: Platform) -> Done:
        directory = platform.place / "certificates" / kind
        if how:
            platform.signer.write(directory, **{"names": [NAME], **how})
        else:
            self_signed(directory, [NAME])
        platform.tls.certificate = directory
        yield {}
        platform.tls.certificate = platform.good

    return do


# Prometheus


@contextlib.contextmanager
def target_down(platform: Platform) -> Done:
    platform.watched.node.kill()
    yield {}


@contextlib.contextmanager
def prometheus_down(platform: Platform) -> Done:
    platform.watched.server.kill()
    yield {}


DEPTH, CONSUMPTION = f"queue.{QUEUE}.depth", f"queue.{QUEUE}.consumption"
SUFFERS = ("kube.ready", "kube.restarts", "kube.not_ready", "kube.events")
PODS = tuple(
    f"kube.{aspect}"
    for aspect in ("ready jobs crash_loop oom_killed image_pull container_config unschedulable quota failed_create evicted "
                   "not_ready restarts events cpu memory").split()
)  # fmt: skip
HIDDEN = tuple(
    f"postgres.{name}"
    for name in ("connections long_queries idle_in_transaction long_transactions replicas replication_lag replication_lag_time "
                 "sequences invalid_indexes pending_restart archiver").split()
)  # fmt: skip
HEALTH, LATENCY = "endpoint.api.health", "endpoint.api.latency"
NODE = ("metric.cpu_usage", "metric.memory_usage", "metric.disk_usage")

FAULTS = [
    # the fault, whose look notices it, how it is done, the check, its status, words of the hint
    Fault(
        "a container crashes again and again",
        "Kubernetes",
        namespace("crash-loop"),
        "kube.crash_loop",
        "critical",
        "kube_log_info",
        beside=SUFFERS,
    ),
    Fault(
        "a container is killed for want of memory",
        "Kubernetes",
        killed_for_memory,
        "kube.oom_killed",
        "warning",
        "raise the memory limit",
        beside=SUFFERS,
    ),
    Fault(
        "an image cannot be pulled",
        "Kubernetes",
        namespace("image-not-found"),
        "kube.image_pull",
        "critical",
        "correct image or pull secret",
        beside=SUFFERS,
    ),
    Fault(
        "no node has room for a pod",
        "Kubernetes",
        namespace("unschedulable"),
        "kube.unschedulable",
        "critical",
        "add nodes",
        beside=SUFFERS,
    ),
    Fault("a quota stops new pods", "Kubernetes", namespace("quota"), "kube.quota", "critical", "ResourceQuota", beside=SUFFERS),
    Fault("the metrics API is down", "Kubernetes", metrics_broken, "kube.memory", "unknown", "metrics-server", blind=("kube.cpu",)),
    Fault(
        "the account may not look at Kubernetes",
        "Kubernetes",
        account_without_rights,
        "kube.crash_loop",
        "unknown",
        "kubernetes-checks.md",
        blind=PODS,
    ),
    Fault(
        "many errors in the logs at once",
        "Errors in the logs",
        namespace("burst"),
        "kube.logs.burst",
        "warning",
        "kube_log_info",
        beside=("kube.logs.errors",),
    ),
    Fault(
        "the account may not read logs",
        "Errors in the logs",
        account_without_rights,
        "kube.logs.read",
        "unknown",
        "kubernetes-checks.md",
        blind=ALL,
    ),
    Fault("101 messages wait", "Queue", waiting_messages(101), DEPTH, "warning", "scale the workers up"),
    Fault("1001 messages wait", "Queue", waiting_messages(1001), DEPTH, "critical", "scale the workers up"),
    Fault(
        "messages wait in a key for a priority only",
        "Queue",
        waiting_messages(101, priority=9),
        DEPTH,
        "warning",
        "scale the workers up",
    ),
    Fault("a dead worker holds messages", "Queue", dead_worker, "celery.unacknowledged", "warning", "visibility timeout"),
    Fault("a worker lives but does not consume", "Queue", not_consuming, CONSUMPTION, "critical", "add_consumer"),
    Fault(
        "the user may not look at Redis",
        "Queue",
        redis_user_without_rights,
        "celery.workers",
        "unknown",
        "server-checks.md",
        beside=("redis.connection",),
        blind=ALL,
    ),
    Fault(
        "sessions wait for a lock",
        "Database",
        blocked_sessions,
        "postgres.blocking",
        "warning",
        "end the root",
        beside=("postgres.idle_in_transaction",),
    ),
    Fault(
        "a session is idle in a transaction",
        "Database",
        idle_in_transaction,
        "postgres.idle_in_transaction",
        "warning",
        "idle_in_transaction_session_timeout",
    ),
    Fault(
        "a standby lags",
        "Database",
        standby_lags,
        "postgres.replication_lag",
        "warning",
        "look at the standby",
        beside=("postgres.replication_lag_time",),
    ),
    Fault("nobody uses a replication slot", "Database", inactive_slot, "postgres.slots", "warning", "pg_drop_replication_slot"),
    Fault(
        "the role may not look at PostgreSQL",
        "Database",
        role_without_rights,
        "postgres.blocking",
        "unknown",
        "server-checks.md",
        blind=HIDDEN,
    ),
    Fault("archiving fails", "Database", archiving_fails, "postgres.archiver", "critical", "server's log", lasting=True),
    Fault(
        "the last backup is too old", "Backups", backups("old/", age=3 * 86400), "backup.age", "critical", "playbooks/backup.yml"
    ),
    Fault(
        "the last backup is too small",
        "Backups",
        backups("small/", content=3_000_000),
        "backup.size",
        "critical",
        "what is missing",
    ),
    Fault("a WAL segment is missing", "Backups", backups("gap/", lost=3), "backup.wal_contiguous", "critical", "pg_stat_archiver"),
    Fault("the key may not read the bucket", "Backups", bucket_without_rights, "backup.age", "unknown", "s3_secret_key", blind=ALL),
    Fault("the object store is down", "Backups", bucket_not_reached, "backup.age", "unknown", "s3_endpoint", blind=ALL),
    Fault("a disk is nearly full", "Disks", full_volume, "disk.usage", "warning", "log-rotation.yml"),
    Fault("a disk has hardly any inodes left", "Disks", many_files, "disk.inodes", "critical", "many small files"),
    Fault(
        "a certificate ends in 20 days",
        "Certificate api",
        certificate("20-days", days=20),
        "certificate.api.expiry",
        "warning",
        "cert-renewal.yml",
    ),
    Fault(
        "a certificate has ended",
        "Certificate api",
        certificate("ended", days=-1, begin=-2),
        "certificate.api.expiry",
        "critical",
        "cert-renewal.yml",
        beside=("certificate.api.chain",),
    ),
    Fault(
        "a certificate is for another host",
        "Certificate api",
        certificate("other", names=["other.example"]),
        "certificate.api.hostname",
        "critical",
        "right domains",
    ),
    Fault(
        "a certificate is self-signed",
        "Certificate api",
        certificate("self-signed"),
        "certificate.api.chain",
        "critical",
        "fullchain.pem",
    ),
    Fault("an endpoint answers 500", "Endpoint api", endpoint(status=500), HEALTH, "critical", "API Unavailable", blind=(LATENCY,)),
    Fault("an endpoint is slow", "Endpoint api", endpoint(delay=0.6), LATENCY, "warning", "API Response Time"),
    Fault(
        "an endpoint refuses connections", "Endpoint api", endpoint_gone, HEALTH, "critical", "API Unavailable", blind=(LATENCY,)
    ),
    Fault(
        "an endpoint never answers",
        "Endpoint api",
        endpoint(delay=60, changes={"timeout": 50}),
        "endpoint_api.probe",
        "unknown",
        "http_probe_info",
    ),
    Fault(
        "a target does not answer Prometheus",
        "Key metrics",
        target_down,
        "metric.scrape_targets",
        "warning",
        "",
        beside=NODE,
        lasting=True,
    ),
    Fault(
        "Prometheus is down",
        "Key metrics",
        prometheus_down,
        "prometheus.connection",
        "critical",
        "prometheus_url",
        blind=ALL,
        lasting=True,
    ),
    Fault("Redis is down", "Queue", redis_down, "redis.connection", "critical", "High Queue Backlog", blind=ALL, lasting=True),
    Fault(
        "the database is down",
        "Database",
        database_down,
        "postgres.connection",
        "critical",
        "Database Issues",
        blind=ALL,
        lasting=True,
    ),
    Fault(
        "the Kubernetes API is down",
        "Kubernetes",
        api_server_down,
        "kube.api",
        "critical",
        "API Unavailable",
        blind=PODS,
        also=("Errors in the logs",),
        lasting=True,
    ),
]
MOUNTS = ("Disks",)
"""Looks whose faults need a volume of one's own."""


@pytest.fixture(scope="module")
def platform(session_place: t.Any, s3: S3Server) -> t.Iterator[Platform]:
    """A platform that is well."""
    with platform_below(session_place, s3) as made:
        wait_until(lambda: not troubles(note(made)), 30, "everything to be well")
        yield made


def note(platform: Platform) -> dict[str, dict[str, Check]]:
    found = platform.look({})
    platform.expected = {name: {key: check["status"] for key, check in checks.items()} for name, checks in found.items()}
    return found


def troubles(found: dict[str, dict[str, Check]]) -> list[str]:
    return [f"{key}: {item['summary']}" for checks in found.values() for key, item in checks.items() if item["status"] != "ok"]


def test_a_healthy_platform_is_well(platform: Platform) -> None:
    assert list(platform.expected) == list(platform.probes)
    assert {status for checks in platform.expected.values() for status in checks.values()} == {"ok"}
    assert sum(map(len, platform.expected.values())) > 60


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.what for fault in FAULTS])
def test_fault(platform: Platform, fault: Fault) -> None:
    if fault.look in MOUNTS and os.geteuid() != 0:
        pytest.skip("mounts a file system")
    wrong: list[str] = []
    found: dict[str, dict[str, Check]] = {}
    with contextlib.ExitStack() as undone:
        stack = platform.stack if fault.lasting else undone
        changes = stack.enter_context(fault.do(platform))

        def told() -> bool:
            found.update(platform.look({fault.look: changes}, timeout=2 if fault.check.endswith(".probe") else 30))
            wrong[:] = differences(platform, fault, found)
            return not wrong

        with contextlib.suppress(TimeoutError):  # told below, when everything is undone
            wait_until(told, 20, fault.what)
    assert not wrong, "\n".join(wrong)
    if fault.lasting:
        platform.expected[fault.look] = {key: check["status"] for key, check in found[fault.look].items()}


def differences(platform: Platform, fault: Fault, found: dict[str, dict[str, Check]]) -> list[str]:
    """What is not as the row says, in words."""
    mine = found[fault.look]
    told = mine.get(fault.check)
    if told is None or told["status"] != fault.status or fault.hint not in told["hint"]:
        return [f"{fault.check} is {told} among {mine}"]
    wrong = [f"{check['id']} has no hint: {check}" for check in mine.values() if check["status"] != "ok" and not check["hint"]]
    if not fault.check.endswith(".probe"):
        wrong += list(itertools.chain.from_iterable(own(fault, check, platform) for check in mine.values()))
        wrong += [f"{key} is gone" for key in platform.expected[fault.look].keys() - mine.keys()]
    for name, before in platform.expected.items():
        now = {key: check["status"] for key, check in found[name].items()}
        before = dict.fromkeys(before, "unknown") if name in fault.also else before
        if name != fault.look and now != before:
            wrong.append(f"{name} has nothing to do with it: {[item for item in found[name].values() if item['status'] != 'ok']}")
    return wrong


def own(fault: Fault, check: Check, platform: Platform) -> list[str]:
    """What is wrong with another check of the same look."""
    key, status = check["id"], check["status"]
    if key == fault.check or key in fault.beside:
        return []
    wanted = "unknown" if fault.blind == ALL or key in fault.blind else platform.expected[fault.look].get(key)
    return [] if status == wanted else [f"{key} is {status}, not {wanted}: {check['summary']}"]


def test_the_page_lists_what_is_noticed() -> None:
    rows = [f"| {fault.what} | `{fault.check}` | {fault.status} |" for fault in FAULTS]
    listed = [
        line
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.endswith(("| critical |", "| warning |", "| unknown |"))
    ]
    assert listed == rows, "the table in docs/daily-check.md should be:\n" + "\n".join(rows)
