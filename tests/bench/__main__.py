# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""make bench: backup and restore of a database of some GB, against pg_basebackup, aws s3 cp and tar on the same data; reading the
logs of 1,000 pods; and the morning check against a playbook that does nothing."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import shutil
import sys
import threading
import time
import typing as t
import uuid
from pathlib import Path

from tests.bench.daily_check import DailyCheckBench
from tests.bench.kube_logs import LogBench
from tests.bench.measure import Measured, module, program
from tests.lab.daemon import wait_until
from tests.lab.facts import wal_interpreter
from tests.lab.place import PlaceError, give, state_directory, workplace
from tests.lab.postgres import PostgresCluster
from tests.lab.s3 import S3Server

MEMORY_LIMIT = 300 * 2**20
TABLES = 8
ROW = 144  # bytes of a row on disk, measured with the expression below
FILL = """
CREATE TABLE data_{table} AS
SELECT number, md5(number::text) AS code, repeat(md5((number / 7)::text), 2) AS text, now() AS at
FROM generate_series(1, {rows}) AS number
"""


class Bench:
    """One run on fresh servers in a directory of its own."""

    def __init__(self, root: Path, megabytes: int, version: int) -> None:
        self.root = root
        self.megabytes = megabytes
        self.s3 = S3Server(root / "s3")
        self.cluster = PostgresCluster(root / "live", version=version)
        self.restored: PostgresCluster | None = None
        self.size = 0
        self.lines: list[Measured] = []
        aws = Path(sys.executable).parent / "aws"
        found = str(aws) if aws.exists() else shutil.which("aws")
        if found is None:
            raise PlaceError("aws is not installed: the development requirements bring it (make setup)")
        self.aws = found

    def add(self, line: Measured) -> Measured:
        """Keep and show a measurement."""
        self.lines.append(line)
        print(f"  {line.what:58} {line.seconds:8.1f} s", flush=True)
        return line

    def fill(self) -> None:
        """A database of about the wanted size; its real size is what rates refer to."""
        self.s3.start()
        for name in ("ours", "runbook"):
            self.s3.create_bucket(name)
        settings = {
            "max_wal_size": "8GB",
            "synchronous_commit": "off",
            "fsync": "off",
            "autovacuum": "off",
            "checkpoint_timeout": "1h",
        }
        self.cluster.create(settings).start()
        rows = self.megabytes * 2**20 // TABLES // ROW
        failures: list[BaseException] = []

        def work(tables: range) -> None:
            try:
                for table in tables:
                    self.cluster.execute(FILL.format(table=table, rows=rows))
            except BaseException as error:  # told to the main thread
                failures.append(error)

        threads = [threading.Thread(target=work, args=(range(start, TABLES, 2),)) for start in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise RuntimeError(f"filling the database: {failures[0]}")
        self.cluster.configure({"fsync": "on", "synchronous_commit": "on"})
        self.cluster.execute("CHECKPOINT")
        self.cluster.restart()
        self.size = sum(path.stat().st_size for path in self.cluster.data_directory.rglob("*") if path.is_file())
        self.size -= sum(path.stat().st_size for path in (self.cluster.data_directory / "pg_wal").rglob("*") if path.is_file())

    def archive(self) -> None:
        """Continuous archiving, as the collection sets it up."""
        place = self.cluster.directory("archiving")
        options = {
            **self.s3.options("ours"),
            **self.cluster.options(),
            "program_path": str(place / "fileforge-wal"),
            "config_path": str(place / "wal.json"),
            "spool_directory": str(place / "spool"),
            "program_interpreter": wal_interpreter(),
            "owner": self.cluster.owner,
            "bin_directory": str(self.cluster.bin_directory),
            "restart": True,
        }
        module("archiving", "postgres_wal_archive", options, 0)

    def back_up(self) -> None:
        """Our base backup against pg_basebackup; the latter's archive is then uploaded as the runbook does it."""
        ours, _result = module(
            "backup: postgres_base_backup, straight to S3",
            "postgres_base_backup",
            {**self.s3.options("ours"), **self.cluster.options()},
            self.size,
        )
        self.add(ours)
        place = self.cluster.directory("pg_basebackup")
        argv = [str(self.cluster.bin_directory / "pg_basebackup"), "-h", str(self.cluster.socket_directory)]
        argv += ["-p", str(self.cluster.port), "-U", "postgres", "-D", str(place / "out"), "-Ft", "-z", "-X", "none", "-c", "fast"]
        self.add(self.as_owner("backup: pg_basebackup -Ft -z, to a local file", argv))
        stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d-%H%M")
        self.plain_key = f"base/{stamp}_base.tar.gz"
        target = f"s3://runbook/{self.plain_key}"
        self.add(self.cli("backup: aws s3 cp of that file to S3", [str(place / "out" / "base.tar.gz"), target]))
        shutil.rmtree(place)

    def as_owner(self, what: str, argv: list[str]) -> Measured:
        """Measure a program that runs as the server's user."""
        from ansible_collections.fileforge.ops.plugins.module_utils import _process

        return program(what, argv, self.size, **_process.user_arguments(self.cluster.owner))

    def cli(self, what: str, arguments: list[str]) -> Measured:
        """Measure aws s3 cp."""
        env = {
            "AWS_ACCESS_KEY_ID": self.s3.access_key,
            "AWS_SECRET_ACCESS_KEY": self.s3.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        argv = [self.aws, "--endpoint-url", self.s3.endpoint, "s3", "cp", "--only-show-errors", *arguments]
        return program(what, argv, self.size, env=env)

    def finish_wal(self) -> None:
        """A last commit, archived, so that there is something to recover to."""
        self.cluster.execute("CREATE TABLE last_commit AS SELECT now() AS at")
        segment = self.cluster.switch_wal()
        client = self.s3.client()
        wait_until(lambda: client.list_objects_v2(Bucket="ours", Prefix=f"wal/{segment}").get("Contents"), 120, "the last WAL")
        self.cluster.stop()

    def restore(self) -> None:
        """Our restore against aws s3 cp and tar."""
        plain = self.root / "plain"
        plain.mkdir()
        download = self.cli(
            "restore: aws s3 cp of the runbook's archive", [f"s3://runbook/{self.plain_key}", str(plain / "base.tar.gz")]
        )
        self.add(download)
        unpack = program("restore: tar -xzf of it", ["tar", "-xzf", str(plain / "base.tar.gz"), "-C", str(plain)], self.size)
        self.add(unpack)
        shutil.rmtree(plain)
        self.add(Measured("restore: aws s3 cp + tar -xzf (unverified, no recovery)", download.seconds + unpack.seconds, self.size))
        target = PostgresCluster(self.root / "restored", version=self.cluster.version)
        target.root.mkdir(mode=0o755)
        give(target.root)
        target.socket_directory.mkdir(mode=0o755, exist_ok=True)
        give(target.socket_directory)
        self.restored = target
        options = {
            **self.s3.options("ours"),
            "target_time": "latest",
            "data_directory": str(target.data_directory),
            "owner": target.owner,
            "bin_directory": str(target.bin_directory),
            "socket_directory": str(target.socket_directory),
            "port": target.port,
            "program_interpreter": wal_interpreter(),
            "scratch": True,
        }
        ours, _result = module("restore: postgres_restore, whole, up to promotion", "postgres_restore", options, self.size)
        self.add(ours)
        for phase, seconds in ours.phases.items():
            self.add(Measured(f"restore: ... of it, phase {phase}", seconds, self.size if phase == "fetch" else 0))
        if target.execute("SELECT count(*) FROM last_commit") != [(1,)]:
            raise RuntimeError("the restored database lacks the last commit")

    def close(self) -> None:
        """Leave nothing behind."""
        for cluster in (self.cluster, self.restored):
            if cluster is not None:
                cluster.destroy()
        self.s3.destroy()
        shutil.rmtree(self.root, ignore_errors=True)


def find(lines: t.Sequence[Measured], beginning: str) -> Measured:
    """The line whose name begins like that."""
    return next(line for line in lines if line.what.startswith(beginning))


def verdict(lines: t.Sequence[Measured]) -> dict[str, t.Any]:
    """Ratios against the peers, and memory against its limit."""
    restore = find(lines, "restore: postgres_restore")
    peer = find(lines, "restore: aws s3 cp + tar")
    fetch = restore.phases.get("fetch", restore.seconds)
    backup = find(lines, "backup: postgres_base_backup")
    peers = find(lines, "backup: pg_basebackup").seconds + find(lines, "backup: aws").seconds
    return {
        "restore_fetch_speedup": round(peer.seconds / fetch, 2),
        "restore_whole_speedup": round(peer.seconds / restore.seconds, 2),
        "backup_speedup": round(peers / backup.seconds, 2),
        "restore_memory_mib": round(restore.all_processes / 2**20),
        "restore_largest_process_mib": round(restore.largest_process / 2**20),
        "backup_memory_mib": round(backup.all_processes / 2**20),
        "memory_limit_mib": MEMORY_LIMIT // 2**20,
        "memory_ok": restore.all_processes < MEMORY_LIMIT,
    }


def table(lines: t.Sequence[Measured]) -> str:
    """The measurements for people."""
    rows = [f"{'':58} {'seconds':>9} {'MiB/s':>8} {'MiB peak':>9} {'MiB all':>9}"]
    for line in lines:
        rate = f"{line.rate:8.0f}" if line.bytes else " " * 8
        memory = f"{line.largest_process / 2**20:9.0f} {line.all_processes / 2**20:9.0f}" if line.largest_process else ""
        rows.append(f"{line.what:58} {line.seconds:9.1f} {rate} {memory}".rstrip())
    return "\n".join(rows)


def measure_postgres(given: argparse.Namespace) -> tuple[list[Measured], dict[str, t.Any], int]:
    """Backup and restore: the lines, the verdict, the size of the database."""
    bench = Bench(workplace(f"bench/{uuid.uuid4().hex[:8]}"), given.megabytes, given.version)
    try:
        for what, step in (
            (f"a database of about {given.megabytes} MiB", bench.fill),
            ("archiving", bench.archive),
            ("backups", bench.back_up),
            ("the last WAL", bench.finish_wal),
            ("restores", bench.restore),
        ):
            print(f"{what} ...", flush=True)
            step()
    finally:
        bench.close()
    return bench.lines, verdict(bench.lines), bench.size


def measure_logs() -> tuple[list[Measured], dict[str, t.Any]]:
    """Reading logs: the lines and the verdict."""
    print("logs ...", flush=True)
    bench = LogBench()
    try:
        bench.run()
    finally:
        bench.close()
    return bench.lines, bench.verdict()


def measure_check() -> tuple[list[Measured], dict[str, t.Any]]:
    """The morning check: the lines and the verdict."""
    print("the morning check ...", flush=True)
    bench = DailyCheckBench(f"bench/{uuid.uuid4().hex[:8]}")
    try:
        bench.run()
    finally:
        bench.close()
    return bench.lines, bench.verdict()


MEASURES = {"kube-logs": measure_logs, "daily-check": measure_check}
REQUIRED = ("memory_ok", "logs_memory_ok", "logs_linear", "daily_check_in_time", "daily_check_all_ok")


def main() -> int:
    """Measure, print, write the JSON; 1 when anything that is required does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2048, help="size of the database")
    parser.add_argument("--version", type=int, default=15, choices=[15, 18], help="15: the distribution's, 18: the packaged one")
    parser.add_argument("--output", type=Path, help="where the JSON goes (default: bench.json in the lab's directory)")
    parser.add_argument("--part", default="all", choices=["all", "postgres", *MEASURES], help="what to measure")
    given = parser.parse_args()
    began = time.monotonic()
    lines: list[Measured] = []
    found: dict[str, t.Any] = {}
    size = 0
    try:
        if given.part in ("all", "postgres"):
            lines, found, size = measure_postgres(given)
        for part, measure in MEASURES.items():
            if given.part in ("all", part):
                more, judged = measure()
                lines, found = [*lines, *more], {**found, **judged}
    except PlaceError as error:
        print(f"the bench: {error}", file=sys.stderr)
        return 1
    print(f"\n{table(lines)}\n\n{json.dumps(found, indent=1)}")
    output = given.output or state_directory() / "bench.json"
    content = {
        "database_bytes": size,
        "seconds": round(time.monotonic() - began, 1),
        "lines": [{**dataclasses.asdict(line), "mib_per_second": round(line.rate, 1)} for line in lines],
        "verdict": found,
    }
    output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"written to {output}")
    return 0 if all(found.get(name, True) for name in REQUIRED) else 1


if __name__ == "__main__":
    sys.exit(main())
