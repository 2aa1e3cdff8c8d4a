# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks against a whole lab: what is planned is what is done, nothing unconfirmed, nothing twice, nothing silently.

The tests share one lab and go from a backup through a drill and a disaster to a restore that is continued. Each leaves the lab
healthy for the next one. What they assert is looked up in the lab itself.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import shutil
import typing as t
import uuid
from pathlib import Path

import pytest

from tests.integration.test_lab import LabCommand
from tests.lab.daemon import wait_until
from tests.lab.drill import Drill, Played
from tests.lab.facts import BACKEND, DATABASE, PRIMARY, SECONDARY, WORKER
from tests.lab.parts import ObjectStore, Redis

CONFIRM = re.compile(r"-e confirm=([0-9a-f]{16})\b")
PLAN = re.compile(r"^  \S.*\[([0-9a-f]{16})\]", re.MULTILINE)


@dataclasses.dataclass
class Platform:
    """The lab and what is needed to use and to judge it."""

    command: LabCommand
    drill: Drill

    def play(self, name: str, *arguments: str, **extra: object) -> Played:
        """A playbook without a terminal."""
        options = [word for key, value in extra.items() for word in ("-e", json.dumps({key: value}))]
        return self.drill.play(name, *options, *arguments)

    def planned(self, name: str, *arguments: str, **extra: object) -> tuple[str, Played]:
        """Run without confirmation: it must stop, say what to type, and leave everything as it is. The digest to confirm."""
        before = self.state()
        played = self.play(name, *arguments, **extra)
        assert played.returncode != 0, played.output
        assert "not confirmed, so nothing was done" in played.output
        assert self.state() == before
        found = set(CONFIRM.findall(played.output))
        assert len(found) == 1, played.output
        return found.pop(), played

    def state(self) -> t.Any:
        """What planning must not change: everything, or, while a server lives and writes, what only a restore changes."""
        if not self.drill.cluster.running():
            return self.drill.fingerprint()
        started = self.drill.cluster.execute("SELECT pg_postmaster_start_time(), system_identifier FROM pg_control_system()")
        uploads = sorted((str(path), path.stat().st_mtime_ns) for path in self.drill.layout.uploads.rglob("*"))
        return started, sorted(path.name for path in self.drill.layout.postgres.iterdir()), uploads, self.restarts()

    def restarts(self) -> dict[str, tuple[str, int]]:
        """Restart id and generation of the workloads."""
        found = {}
        for name in (BACKEND, WORKER):
            deployment = self.drill.application.kube.request("GET", f"/apis/apps/v1/namespaces/fileforge/deployments/{name}") or {}
            annotations = deployment["spec"]["template"]["metadata"].get("annotations") or {}
            found[name] = (annotations.get("fileforge.ops/restart-id", ""), deployment["metadata"]["generation"])
        return found

    def target(self, label: str) -> str:
        """Marker before, a time, marker after, all of it archived; the time."""
        target = self.drill.choose_target(self.drill.mark(f"{label}-before"))
        self.drill.mark(f"{label}-after")
        self.drill.await_archive()
        return target.isoformat()

    def report(self) -> dict[str, t.Any]:
        """The latest report; empty when there is none yet."""
        path = self.drill.layout.evidence / "latest" / "report.json"
        return json.loads(path.read_text()) if path.exists() else {}


def plans_of(played: Played) -> list[str]:
    """The digests of the single plans, as the gate showed them."""
    return PLAN.findall(played.output)


@pytest.fixture(scope="module")
def platform(session_place: Path) -> t.Iterator[Platform]:
    """A lab that was backed up."""
    command = LabCommand(session_place / f"dr-{uuid.uuid4().hex[:6]}")
    command.state.mkdir(mode=0o755)
    started = command.run("up")
    try:
        assert started.returncode == 0, started.stderr
        made = Platform(command, Drill(command.lab(), quiet=True))
        predicted = made.play("backup", "--check")
        assert predicted.returncode == 0 and predicted.changed(), predicted.output
        backed_up = made.play("backup")
        assert backed_up.returncode == 0, backed_up.output
        yield made
    finally:
        assert command.run("clean").returncode == 0
        shutil.rmtree(command.state, ignore_errors=True)


def test_a_second_backup_changes_nothing(platform: Platform) -> None:
    again = platform.play("backup")
    assert (again.returncode, again.changed()) == (0, 0), again.output


def test_the_drill_proves_both_sides_and_leaves_nothing(platform: Platform) -> None:
    cluster = platform.drill.cluster
    live = "SELECT pg_postmaster_start_time(), timeline_id, system_identifier FROM pg_control_checkpoint(), pg_control_system()"
    before = cluster.execute(live)
    played = platform.play("dr-drill")
    assert played.returncode == 0, played.output
    report = platform.report()
    held = {assertion["name"]: assertion["ok"] for assertion in report["assertions"]}
    assert all(held.values())
    assert {"postgres.assert.marker_before_is_there", "postgres.assert.marker_after_is_not_there"} <= set(held)
    assert {"postgres.amcheck.indexes", "postgres.amcheck.tables"} <= set(held)
    assert report["rto"]["seconds"] > 0 and report["rto"]["met"] is True
    assert cluster.execute(live) == before
    left = [path for path in (platform.drill.layout.postgres / "drill").iterdir() if not path.name.endswith(".lock")]
    assert left == []


def test_a_drill_that_cannot_succeed_fails_and_cleans_up(platform: Platform) -> None:
    """An assertion that does not hold, as when the restored data is not what it should be."""
    wrong = [{"name": "impossible", "query": "SELECT count(*) FROM users", "equals": "-1"}]
    played = platform.play("dr-drill", fileforge_database_assertions=wrong)
    assert played.returncode != 0 and "impossible is 40 instead of -1" in played.output
    assert platform.report()["status"] == "critical"
    left = [path for path in (platform.drill.layout.postgres / "drill").iterdir() if not path.name.endswith(".lock")]
    assert left == []


def test_from_nothing_to_a_chosen_second(platform: Platform) -> None:
    drill = platform.drill
    target = platform.target("first")
    restarts = platform.restarts()
    disaster = datetime.datetime.now(datetime.timezone.utc).isoformat()
    drill.destroy()
    drill.settle()
    request = {"target_time": target, "disaster_time": disaster}

    digest, shown = platform.planned("dr-restore", **request)
    before = drill.fingerprint()
    checked = platform.play("dr-restore", "--check", **request)
    assert checked.returncode == 0, checked.output
    assert set(CONFIRM.findall(checked.output)) == {digest} and plans_of(checked) == plans_of(shown)
    assert drill.fingerprint() == before and platform.restarts() == restarts

    for wrong in ("0123456789abcdef", plans_of(shown)[0]):
        refused = platform.play("dr-restore", confirm=wrong, **request)
        assert refused.returncode != 0 and "plan_changed" in refused.output
        assert drill.fingerprint() == before

    done = platform.play("dr-restore", confirm=digest, **request)
    assert done.returncode == 0, done.output
    assert plans_of(done) == plans_of(shown)
    assert {"first-before"} == {label for label in drill.labels() if label.startswith("first-")}
    drill.prove_files()
    drill.prove_configuration()
    drill.prove_health()
    restarted = platform.restarts()
    assert all(restarted[name][0] and restarted[name][1] > restarts[name][1] for name in restarts)

    report = platform.report()
    assert report["status"] == "ok", report["checks"]
    assert {plan["digest"] for plan in report["plans"]} == set(plans_of(shown)), "what was shown is what was carried out"
    assert report["rto"]["met"] is True and report["rpo"]["met"] is True
    archived = report["times"]["latest_archived_commit"]
    assert report["times"]["last_commit"] <= target < archived <= disaster, "the archive reached further than what was asked for"
    assert 0 <= report["archive_rpo"]["seconds"] < report["rpo"]["seconds"] and report["archive_rpo"]["met"] is True
    files = {path.name: path.read_bytes() for path in (drill.layout.evidence / "latest").iterdir() if path.is_file()}
    assert {"report.json", "report.md", "report.html"} <= set(files)

    again = platform.play("dr-restore", confirm=digest, **request)
    assert (again.returncode, again.changed()) == (0, 0), again.output
    assert "nothing is left to do" in again.output and platform.restarts() == restarted
    assert {path.name: path.read_bytes() for path in (drill.layout.evidence / "latest").iterdir() if path.is_file()} == files


def test_a_running_server_is_only_stopped_when_told_and_a_changed_world_is_refused(platform: Platform) -> None:
    drill = platform.drill
    target = platform.target("second")
    drill.mark("second-later")
    refused = platform.play("db-restore", target_time=target)
    assert refused.returncode != 0 and "server_running" in refused.output

    request = {"target_time": target, "stop_running": True, "source": "secondary"}
    client = drill.lab.part(ObjectStore).server.client()

    def replicated() -> bool:
        found = []
        for bucket in (PRIMARY, SECONDARY):
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
            found.append({item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])})
        return found[0] == found[1]

    wait_until(replicated, 60, "the second region to have everything")
    digest, shown = platform.planned("db-restore", **request)
    assert f"from {SECONDARY}" in shown.output and f"from {PRIMARY}/" not in shown.output
    drill.cluster.stop()
    stale = platform.play("db-restore", confirm=digest, **request)
    assert stale.returncode != 0 and "plan_changed" in stale.output
    assert not drill.cluster.running(), "nothing was restored and nothing was started"
    digest, _unused = platform.planned("db-restore", **request)
    done = platform.play("db-restore", confirm=digest, **request)
    assert done.returncode == 0, done.output
    labels = drill.labels()
    assert "second-before" in labels and not {"second-after", "second-later"} & labels
    again = platform.play("db-restore", confirm=digest, **request)
    assert (again.returncode, again.changed()) == (0, 0), again.output


def test_a_failed_step_stops_the_rest_and_the_next_run_continues(platform: Platform) -> None:
    """The first workload cannot become ready: the second is not restarted, nothing is verified, nothing is reported."""
    drill = platform.drill
    redis = drill.lab.part(Redis)
    target = platform.target("third")
    drill.destroy()
    drill.settle()
    lost = datetime.datetime.now(datetime.timezone.utc).isoformat()
    restarts = platform.restarts()
    old = platform.report().get("run_id")
    digest, _shown = platform.planned("dr-restore", target_time=target)
    redis.stop()  # no API pod is ready without it
    try:
        failed = platform.play("dr-restore", target_time=target, confirm=digest, app_restart_timeout=4)
    finally:
        redis.start()
    assert failed.returncode != 0 and "not complete after 4 s" in failed.output, failed.output
    assert "third-before" in drill.labels(), "the database was restored before"
    drill.prove_files()
    drill.prove_configuration()
    assert platform.restarts()[WORKER] == restarts[WORKER] and platform.report().get("run_id") == old

    outdated = platform.play("dr-restore", target_time=target, confirm=digest)
    assert outdated.returncode != 0 and "plan_changed" in outdated.output
    wait_until(lambda: drill.application.kube.deployment_ready(BACKEND), 60, "the API to be ready with Redis back")
    rest, shown = platform.planned("dr-restore", target_time=target)
    assert "continued: the database is restored already" in shown.output
    assert shown.output.count("    nothing to do") == 4, "all but the second workload"
    done = platform.play("dr-restore", target_time=target, confirm=rest)
    assert done.returncode == 0, done.output
    drill.prove_health()
    assert {name: generation for name, (_id, generation) in platform.restarts().items()} == {
        name: generation + 1 for name, (_id, generation) in restarts.items()
    }, "each was restarted once"
    assert platform.report()["run_id"] != old and platform.report()["status"] != "critical"
    times = platform.report()["times"]
    assert times["last_commit"] <= target < times["latest_archived_commit"] < lost, "of the timeline that was restored"
    again = platform.play("dr-restore", target_time=target)
    assert (again.returncode, again.changed()) == (0, 0), again.output


def test_a_limit_cannot_leave_the_gate_out(platform: Platform) -> None:
    """The gate runs on the application's host; a run without that host must not restore the database unconfirmed."""
    request = {"target_time": platform.target("limited"), "stop_running": True}
    before = platform.drill.cluster.execute("SELECT pg_postmaster_start_time()")
    played = platform.play("dr-restore", "--limit", "db1", **request)
    assert played.returncode != 0 and "was not confirmed in this run" in played.output
    assert platform.drill.cluster.execute("SELECT pg_postmaster_start_time()") == before


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"source": "tertiary"}, "source=tertiary is not one of primary, secondary"),
        ({"target_time": "2026-11-23T14:05:00"}, "no offset"),
        ({"target_time": "yesterday"}, "not a date and time"),
        ({"target_time": "2020-01-01T00:00:00Z"}, "target_before_backups"),
        ({"target_time": "2099-01-01T00:00:00Z"}, "target_unreachable"),
        ({"config_commit": "f" * 40, "stop_running": True, "target_time": "latest"}, "not our ref"),
        ({"config_commit": "main", "stop_running": True, "target_time": "latest"}, "is not a full commit"),
    ],
)
def test_what_cannot_be_restored_is_refused_and_touches_nothing(platform: Platform, extra: dict[str, t.Any], words: str) -> None:
    before = platform.restarts()
    refused = platform.play("dr-restore", **extra)
    assert refused.returncode != 0 and words in refused.output, refused.output
    assert platform.restarts() == before
    assert platform.drill.cluster.execute("SELECT 1", DATABASE) == [(1,)]


def test_a_directory_in_place_of_the_checkout_is_refused(platform: Platform) -> None:
    git = platform.drill.layout.checkout / ".git"
    away = git.rename(platform.drill.layout.state / "git-away")
    try:
        refused = platform.play("dr-restore", target_time=platform.target("fifth"), stop_running=True)
    finally:
        away.rename(git)
    assert refused.returncode != 0 and "is not a git checkout" in refused.output


def test_local_changes_of_the_configuration_are_refused_or_kept(platform: Platform) -> None:
    drill = platform.drill
    changed = drill.layout.checkout / "limits.json"
    changed.write_text('{"requests_per_minute": 1}\n')
    target = platform.target("fourth")
    request = {"target_time": target, "stop_running": True}
    refused = platform.play("dr-restore", **request)
    assert refused.returncode != 0 and "Local modifications exist" in refused.output
    digest, shown = platform.planned("dr-restore", config_restore_local_changes="aside", **request)
    assert "files were modified" in shown.output
    done = platform.play("dr-restore", config_restore_local_changes="aside", confirm=digest, **request)
    assert done.returncode == 0, done.output
    commit = drill.prove_configuration()
    kept = drill.layout.checkout.with_name(f"{drill.layout.checkout.name}.before-{commit[:12]}")
    assert (kept / "limits.json").read_text() == '{"requests_per_minute": 1}\n'
    again = platform.play("dr-restore", config_restore_local_changes="aside", **request)
    assert (again.returncode, again.changed()) == (0, 0), again.output
