# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""make drill: back the lab up, really destroy it, restore it to a second between two commits with the playbook, prove both sides.

What is proven here is looked up by this program itself, never taken from what the playbook says about its own work.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import typing as t
from pathlib import Path

from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError

from tests.lab import ROOT, configuration
from tests.lab.daemon import wait_until
from tests.lab.facts import BACKEND, DATABASE, PRIMARY, WORKER
from tests.lab.lab import Lab
from tests.lab.parts import Application, Destroyed, ObjectStore, Postgres
from tests.lab.place import PlaceError

PLAYBOOK_TIMEOUT = 900
MARKER_TABLE = "CREATE TABLE IF NOT EXISTS drill_marker (label text PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())"
COMMITTED = "SELECT pg_xact_commit_timestamp(xmin) FROM drill_marker WHERE label = %s"
CONFIRM = re.compile(r"confirm=([0-9a-f]{8,64})\b")
RECAP = re.compile(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


class DrillFailed(Exception):
    """A step did not do, or did not prove, what it should."""


@dataclasses.dataclass(frozen=True)
class Played:
    """How a playbook ended."""

    returncode: int
    output: str
    log: Path

    def changed(self) -> int:
        """Sum of changed tasks over all hosts."""
        found = RECAP.findall(self.output)
        if not found:
            raise DrillFailed(f"the playbook printed no recap; see {self.log}")
        return sum(int(changed) for _host, changed, _unreachable, _failed in found)


class HealthWatch:
    """Asks the API again and again from the disaster on, as a user would; knows when it first answered well."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.first: float | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> HealthWatch:
        self._thread.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._ended.set()
        self._thread.join(15)

    def _watch(self) -> None:
        while not self._ended.wait(0.25):
            if self.application.ask("/health")[0] == 200:
                self.first = time.monotonic()
                return


class Drill:
    """One drill on one lab."""

    def __init__(self, lab: Lab, *, quiet: bool = False) -> None:
        self.lab = lab
        self.layout = lab.layout
        self.quiet = quiet
        self.run_id = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        self.logs = self.layout.state / "drill" / self.run_id
        self.logs.mkdir(parents=True)
        self.step_log: Path | None = None
        self.timings: list[tuple[str, float]] = []
        self.cluster = lab.part(Postgres).cluster
        self.tablespace = lab.part(Postgres).tablespace
        self.application = lab.part(Application)

    # how steps are shown

    def say(self, text: str) -> None:
        """One line for the person who waits."""
        print(text, flush=True)

    @contextlib.contextmanager
    def step(self, title: str) -> t.Iterator[None]:
        """Time a step; a failure names it and its log."""
        began = time.monotonic()
        self.step_log = None
        self.say(f"--- {title}")
        try:
            yield
        except (DrillFailed, OpsError, RuntimeError, TimeoutError, OSError, subprocess.SubprocessError) as error:
            where = f" (log: {self.step_log})" if self.step_log else ""
            raise DrillFailed(f"{title}: {error}{where}") from error
        took = time.monotonic() - began
        self.timings.append((title, took))
        self.say(f"    {took:.1f} s")

    # what it is made of

    def command(self, name: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """How a playbook is run against this lab: arguments and environment."""
        argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "inventories/lab", f"playbooks/{name}.yml", *arguments]
        env = {
            **os.environ,
            "LAB_DIR": str(self.layout.state),
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_HOME": str(self.layout.state / "ansible"),
            "ANSIBLE_REMOTE_TEMP": str(self.layout.state / "ansible" / "tmp"),
            "ANSIBLE_ASYNC_DIR": str(self.layout.state / "ansible" / "async"),
            "FILEFORGE_EVIDENCE_DIR": str(self.layout.evidence),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        }
        return argv, env

    def play(self, name: str, *arguments: str) -> Played:
        """Run a playbook without a terminal, as a job would; its output goes to a log and, unless quiet, to the screen."""
        self.step_log = self.logs / f"{len(list(self.logs.iterdir())):02d}-{name}.log"
        argv, env = self.command(name, *arguments)
        self.say(f"    ansible-playbook {' '.join(argv[1:])}")
        timer = None
        lines = []
        with self.step_log.open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                argv,
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            timer = threading.Timer(PLAYBOOK_TIMEOUT, process.kill)
            timer.start()
            try:
                for line in t.cast(t.IO[str], process.stdout):
                    lines.append(line)
                    log.write(line)
                    log.flush()
                    if not self.quiet:
                        print(f"    | {line}", end="", flush=True)
                process.wait()
            finally:
                timer.cancel()
                if process.poll() is None:
                    process.kill()
                    process.wait()
        return Played(process.returncode, "".join(lines), self.step_log)

    def play_well(self, name: str, *arguments: str) -> Played:
        """Run a playbook that must succeed."""
        played = self.play(name, *arguments)
        if played.returncode != 0:
            tail = "".join(played.output.splitlines(keepends=True)[-25:]) if self.quiet else ""
            raise DrillFailed(f"playbooks/{name}.yml ended with status {played.returncode}\n{tail}")
        return played

    def mark(self, label: str) -> datetime.datetime:
        """Commit a row; the time of its commit as the server noted it."""
        with self.cluster.connect(DATABASE) as connection:
            connection.execute(MARKER_TABLE)
            connection.execute("INSERT INTO drill_marker (label) VALUES (%s)", (f"{self.run_id}-{label}",))
            row = connection.execute(COMMITTED, (f"{self.run_id}-{label}",)).fetchone()
            return t.cast(datetime.datetime, row[0]).astimezone(datetime.timezone.utc)

    def choose_target(self, before: datetime.datetime) -> datetime.datetime:
        """A time after the first marker, past for the server too."""
        target = before + datetime.timedelta(milliseconds=500)
        with self.cluster.connect(DATABASE) as connection:

            def passed() -> bool:
                now = connection.execute("SELECT clock_timestamp()").fetchone()[0]
                return bool(now > target + datetime.timedelta(milliseconds=200))

            wait_until(passed, 30, "the target time to pass")
        return target

    def await_archive(self) -> None:
        """Until what is committed by now is in the bucket."""
        with self.cluster.connect() as connection:
            connection.execute("CHECKPOINT")
            segment = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()[0]
        client = self.lab.part(ObjectStore).server.client()

        def there() -> bool:
            return bool(client.list_objects_v2(Bucket=PRIMARY, Prefix=f"wal/{segment}").get("Contents"))

        wait_until(there, 120, f"WAL segment {segment} to be archived", every=0.2)

    def markers(self) -> datetime.datetime:
        """Commit one marker before and one after a target time, archived; the target."""
        before = self.mark("before")
        target = self.choose_target(before)
        after = self.mark("after")
        if not before < target < after:
            raise DrillFailed(f"markers {before} and {after} do not enclose {target}")
        self.await_archive()
        self.say(f"    before {before.isoformat()}  target {target.isoformat()}  after {after.isoformat()}")
        return target

    def destroy(self) -> None:
        """The disaster: server, its data, its tablespace, uploads, configuration and pods."""
        self.destroy_database()
        shutil.rmtree(self.layout.uploads)
        shutil.rmtree(self.layout.checkout)
        for pod in self.application.kube.pods():
            self.application.kube.delete_pod(pod["metadata"]["name"])
        gone = [self.cluster.data_directory, self.layout.uploads, self.layout.checkout]
        left = [str(place) for place in gone if place.exists()]
        if left:
            raise DrillFailed(f"not destroyed: {left}")
        wait_until(lambda: self.application.ask("/health")[0] != 200, 30, "the API to be down")

    def destroy_database(self) -> None:
        """The server, its data directory and its tablespace."""
        self.cluster.kill()
        shutil.rmtree(self.cluster.data_directory)
        for entry in self.tablespace.iterdir():
            shutil.rmtree(entry)
        if self.cluster.running() or list(self.tablespace.iterdir()):
            raise DrillFailed("the database is not destroyed")

    def fingerprint(self) -> str:
        """What a run that only plans must not change: directories, bucket, workloads."""
        facts: list[t.Any] = []
        for place in (self.layout.postgres, self.layout.uploads.parent, self.layout.repository):
            for path in sorted(place.rglob("*")) if place.exists() else []:
                if self.layout.logs in path.parents:
                    continue  # what the application logs goes on whatever is planned
                status = path.lstat()
                facts.append((str(path), status.st_size, status.st_mtime_ns if path.is_file() else 0))
        pages = self.lab.part(ObjectStore).server.client().get_paginator("list_objects_v2").paginate(Bucket=PRIMARY)
        facts += [(item["Key"], item["ETag"]) for page in pages for item in page.get("Contents", [])]
        for name in (BACKEND, WORKER):
            found = self.application.kube.request("GET", f"/apis/apps/v1/namespaces/fileforge/deployments/{name}") or {}
            facts.append((name, json.dumps(found.get("spec"), sort_keys=True)))
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def settle(self) -> None:
        """Until nothing of the destroyed server still writes to the bucket."""
        seen = ["", ""]

        def quiet() -> bool:
            seen[:] = [self.fingerprint(), seen[0]]
            return seen[0] == seen[1]

        wait_until(quiet, 60, "the archive to come to rest", every=1.5)

    # the proofs

    def labels(self) -> set[str]:
        """The markers of this drill that the restored database holds."""
        rows = self.cluster.execute("SELECT label FROM drill_marker", DATABASE)
        return {str(label).removeprefix(f"{self.run_id}-") for (label,) in rows if str(label).startswith(self.run_id)}

    def prove_both_sides(self, target: datetime.datetime) -> None:
        """The first marker is there, the second is not; the server is writable."""
        if self.labels() != {"before"}:
            raise DrillFailed(
                f"expected the marker before {target.isoformat()} and not the one after, found {sorted(self.labels())}"
            )
        if self.cluster.execute("SELECT pg_is_in_recovery()")[0][0]:
            raise DrillFailed("the restored server is still in recovery")
        late = self.cluster.execute(
            f"SELECT count(*) FROM heartbeat WHERE pg_xact_commit_timestamp(xmin) > '{target.isoformat()}' "
            f"AND written_at < (SELECT pg_postmaster_start_time())",
            DATABASE,
        )
        if late[0][0]:
            raise DrillFailed(f"{late[0][0]} rows committed after {target.isoformat()} are in the restored database")

    def prove_files(self) -> int:
        """Every row has its file with that size and SHA-256, and no file is without a row."""
        rows = {
            path: (size, digest) for path, size, digest in self.cluster.execute("SELECT path, size, sha256 FROM files", DATABASE)
        }
        wrong = []
        for path, (size, digest) in rows.items():
            place = self.layout.uploads / path
            content = place.read_bytes() if place.is_file() else b""
            if (len(content), hashlib.sha256(content).hexdigest()) != (size, digest):
                wrong.append(path)
        found = {str(place.relative_to(self.layout.uploads)) for place in self.layout.uploads.rglob("*") if place.is_file()}
        orphans = sorted(found - set(rows))
        if wrong or orphans or not rows:
            raise DrillFailed(f"files do not match rows: {len(rows)} rows, wrong {wrong[:3]}, without a row {orphans[:3]}")
        return len(rows)

    def prove_configuration(self) -> str:
        """The checkout is at the pinned commit and clean."""
        commit = configuration.git("rev-parse", "HEAD", cwd=self.layout.checkout)
        changes = configuration.git("status", "--porcelain", cwd=self.layout.checkout)
        if commit != configuration.head(self.layout.repository) or changes:
            raise DrillFailed(f"the configuration is at {commit} with changes {changes!r}")
        return commit

    def prove_health(self) -> None:
        """The API answers well from every pod behind it, with the restored configuration."""
        status, body = self.application.ask("/health")
        ready = all(self.application.kube.deployment_ready(name) for name in (BACKEND, WORKER))
        if status != 200 or body.get("down") or not ready:
            raise DrillFailed(f"health answers {status} {body}, deployments ready: {ready}")

    # the whole

    def run(self) -> dict[str, t.Any]:
        """All steps; what was measured."""
        with self.step("the lab is up"):
            self._up()
        with self.step("back everything up"):
            self.play_well("backup")
        with self.step("markers before and after the target time"):
            target = self.markers()
        with self.step("disaster: everything is destroyed"):
            disaster, clock = datetime.datetime.now(datetime.timezone.utc), time.monotonic()
            self.destroy()
            self.settle()
        with HealthWatch(self.application) as watch:
            options = ["-e", f"target_time={target.isoformat()}", "-e", f"disaster_time={disaster.isoformat()}"]
            digest = self._plan(options)
            with self.step(f"restore, confirmed with {digest}"):
                self.play_well("dr-restore", *options, "-e", f"confirm={digest}")
            recovered = self.last_commit_before(target)
            with self.step("the same command again changes nothing"):
                changed = self.play_well("dr-restore", *options, "-e", f"confirm={digest}").changed()
                if changed:
                    raise DrillFailed(f"the second run changed {changed} things")
        with self.step("prove both sides of the target, files, configuration, health"):
            self.prove_both_sides(target)
            count, commit = self.prove_files(), self.prove_configuration()
            self.prove_health()
            self.say(f"    before: present, after: absent; {count} files match their rows; configuration at {commit[:12]}; healthy")
        if watch.first is None:
            raise DrillFailed("the API never answered well after the disaster")
        rpo = (disaster - recovered).total_seconds()
        return {"first_answer": watch.first - clock, "rpo": rpo, **self.reported(rpo)}

    def _up(self) -> None:
        try:
            self.lab.up()
        except Destroyed:
            self.say("    an earlier disaster was never restored: beginning anew")
            self.lab.clean()
            self.lab = Lab(self.layout.state)
            self.logs.mkdir(parents=True, exist_ok=True)
            self.lab.up()
        self.lab.say = lambda _line: None
        self.cluster, self.application = self.lab.part(Postgres).cluster, self.lab.part(Application)
        self.tablespace = self.lab.part(Postgres).tablespace

    def _plan(self, options: list[str]) -> str:
        with self.step("without confirm: the plan, and nothing is touched"):
            untouched = self.fingerprint()
            played = self.play("dr-restore", *options)
            if played.returncode == 0:
                raise DrillFailed("dr-restore ran to its end without confirm")
            found = set(CONFIRM.findall(played.output))
            if len(found) != 1:
                raise DrillFailed(f"expected one digest to confirm, found {sorted(found)}")
            if self.fingerprint() != untouched:
                raise DrillFailed("planning changed something")
        return str(found.pop())

    def last_commit_before(self, target: datetime.datetime) -> datetime.datetime:
        """Commit time of the newest row that was recovered."""
        statement = f"SELECT max(pg_xact_commit_timestamp(xmin)) FROM heartbeat WHERE written_at <= '{target.isoformat()}'"
        found = self.cluster.execute(statement, DATABASE)[0][0]
        if found is None:
            raise DrillFailed("no row of the writer was recovered")
        return t.cast(datetime.datetime, found).astimezone(datetime.timezone.utc)

    def reported(self, rpo: float) -> dict[str, float]:
        """RTO and RPO as the evidence states them; what this program measured itself must agree."""
        report = json.loads((self.layout.evidence / "latest" / "report.json").read_text(encoding="utf-8"))
        found = {name: float(report[name]["seconds"]) for name in ("rto", "rpo")}
        if abs(found["rpo"] - rpo) > 1:
            raise DrillFailed(f"the report states an RPO of {found['rpo']} s, the rows say {rpo:.1f} s")
        return found

    def reports(self) -> list[Path]:
        """The three forms of the evidence."""
        latest = self.layout.evidence / "latest"
        found = [latest / f"report.{form}" for form in ("json", "md", "html")]
        missing = [str(path) for path in found if not path.is_file() or path.stat().st_size == 0]
        if missing:
            raise DrillFailed(f"no evidence: {missing}")
        return found


def duration(seconds: float) -> str:
    """Seconds for people."""
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f} min {rest:.1f} s" if minutes else f"{rest:.1f} s"


def main(arguments: t.Sequence[str] | None = None) -> int:
    """Run one drill; 0 only when everything was proven."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.drill", description=__doc__)
    parser.add_argument("--quiet", action="store_true", help="do not show the playbooks' output, only where it is")
    parser.add_argument("--down", action="store_true", help="stop the lab at the end")
    given = parser.parse_args(arguments)
    began = time.monotonic()
    lab: Lab | None = None
    try:
        lab = Lab()
        drill = Drill(lab, quiet=given.quiet)
        measured = drill.run()
        reports = drill.reports()
    except (DrillFailed, OpsError, PlaceError) as error:
        print(f"\nDRILL FAILED: {error}", file=sys.stderr)
        return 1
    finally:
        if lab is not None and given.down:
            lab.down()
    print(f"\ndrill passed in {duration(time.monotonic() - began)}; logs: {drill.logs}")
    first = duration(measured["first_answer"])
    print(f"  RTO    {duration(measured['rto'])} from the disaster to verified health (objective 4 h); first good answer: {first}")
    print(f"  RPO    {duration(measured['rpo'])} from the last recovered commit to the disaster (objective 1 h)")
    for path in reports:
        shown = path.relative_to(lab.layout.state) if lab.layout.state in path.parents else path
        print(f"  report {(Path('.lab') / shown) if (ROOT / '.lab').resolve() == lab.layout.state else path}")
    if not given.down:
        print("the restored lab is still up: make lab-status, make lab-down")
    return 0


if __name__ == "__main__":
    sys.exit(main())
