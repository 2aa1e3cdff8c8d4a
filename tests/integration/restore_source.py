# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster that archives its WAL, its base backups, and marked points in time: what restores are tested with."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import pwd
import sys
import typing as t
from pathlib import Path

from ansible_collections.fileforge.ops.plugins.module_utils._backup import base_backup, wal_install
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore import Outcome, Restore
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import S3Options, Store
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import running_server
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._process import run
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress
from ansible_collections.fileforge.ops.plugins.modules.postgres_restore import SPEC, options_of

from tests.lab.daemon import wait_until
from tests.lab.facts import wal_interpreter
from tests.lab.place import give, owner
from tests.lab.postgres import PostgresCluster
from tests.lab.s3 import S3Server

Arguments = t.Dict[str, t.Any]


@dataclasses.dataclass
class Source:
    """``mark`` commits a numbered row and returns a time between it and the next one."""

    cluster: PostgresCluster
    s3: S3Server
    bucket: str
    prefix: str = ""

    @classmethod
    def create(cls, place: Path, s3: S3Server, bucket: str, version: int = 15, *, tablespace: bool = True) -> Source:
        """A running cluster with a table, another one in a tablespace, and archiving to the bucket."""
        source = cls(PostgresCluster(place / "source", version=version), s3, bucket)
        source.cluster.root.mkdir(parents=True, exist_ok=True)
        command = source.install_archiving()
        source.cluster.create({"archive_mode": "on", "archive_command": command, "archive_timeout": "3600"}).start()
        where = ""
        if tablespace:
            source.cluster.create_tablespace("far")
            where = " TABLESPACE far"
        source.cluster.execute("CREATE TABLE mark (number int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())")
        source.cluster.execute(f"CREATE TABLE filling (number int, text text){where}")
        source.cluster.execute("INSERT INTO filling SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 20000) n")
        return source

    @property
    def options(self) -> S3Options:
        """The bucket, for engines."""
        return S3Options.from_params(self.s3.options(self.bucket))

    def install_archiving(self) -> str:
        """Install the WAL program for the cluster; its archive_command."""
        place = self.cluster.root / "archiving"
        spool = place / "spool"
        spool.mkdir(parents=True, exist_ok=True)
        for path in (place, spool):
            give(path)
        entry = pwd.getpwnam(owner())
        ids = (entry.pw_uid, entry.pw_gid)
        wal_install.install_program(str(place / "fileforge-wal"), wal_interpreter(), ids)
        wal_install.write_config(str(place / "wal.json"), self.options, self.prefix, str(spool), ids)
        return wal_install.archive_command(wal_interpreter(), str(place / "fileforge-wal"), str(place / "wal.json"))

    def backup(self, label: str = "test") -> str:
        """Take a base backup; its name."""
        store = Store(self.options)
        postgres = PostgresOptions.from_params(self.cluster.options())
        options = base_backup.BackupOptions(prefix=self.prefix, label=label)
        result = base_backup.run_backup(store, postgres, options, check_mode=False, progress=Progress())
        return str(result["backup"]["name"])

    def mark(self, number: int) -> str:
        """Commit a row; a time at which it is committed and no later one is."""
        self.cluster.execute(f"INSERT INTO mark VALUES ({number})")
        return self.now()

    def now(self) -> str:
        """The server's clock, after which it ticks on before anything else happens."""
        with self.cluster.connect() as connection:
            moment: datetime.datetime = connection.execute("SELECT clock_timestamp()").fetchone()[0]
            wait_until(lambda: connection.execute("SELECT clock_timestamp()").fetchone()[0] > moment, 10, "the clock to tick")
        return moment.astimezone(datetime.timezone.utc).isoformat()

    def archive(self) -> str:
        """Finish the current WAL segment and wait until it is in the bucket; its name."""
        name = self.cluster.switch_wal()
        client = self.s3.client()

        def arrived() -> bool:
            found = client.list_objects_v2(Bucket=self.bucket, Prefix=f"{self.prefix}wal/{name}").get("Contents", [])
            return bool(found)

        wait_until(arrived, 60, f"{name} to be archived")
        return name

    def keys(self, prefix: str = "") -> dict[str, str]:
        """Objects of the bucket and their ETags."""
        pages = self.s3.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", [])}

    def arguments(self, directory: Path | str, target: str, **more: t.Any) -> Arguments:
        """Arguments of postgres_restore."""
        base: Arguments = {
            **self.s3.options(self.bucket),
            "prefix": self.prefix,
            "data_directory": str(directory),
            "target_time": target,
            "bin_directory": str(self.cluster.bin_directory),
            "owner": owner(),
            "program_interpreter": wal_interpreter(),
            "recovery_timeout": 120,
            "stall_timeout": 60,
            "start_timeout": 60,
        }
        return {**base, **more}


def engine(arguments: Arguments) -> Restore:
    """The engine with a module's arguments, in this process."""
    defaults = {name: value.get("default") for name, value in SPEC.items()}
    return Restore(options_of({**defaults, "plan_digest": None, **arguments}), Progress(arguments.get("progress_file")))


def restore(arguments: Arguments) -> Outcome:
    """Run it."""
    return engine(arguments).run()


def snapshot(*places: Path) -> dict[str, tuple[t.Any, ...]]:
    """Every file below the places with what would show that it was touched."""
    found: dict[str, tuple[t.Any, ...]] = {}
    for place in places:
        for folder, names, files in os.walk(place):
            for name in [*names, *files]:
                path = os.path.join(folder, name)
                try:
                    state = os.lstat(path)
                except FileNotFoundError:
                    continue
                directory = name in names
                found[path] = (state.st_ino, state.st_mode, state.st_uid, 0 if directory else state.st_size, state.st_mtime_ns)
    return found


class Restored:
    """A restored cluster, asked through its own socket."""

    def __init__(self, directory: Path | str, bin_directory: Path) -> None:
        self.directory = str(directory)
        self.bin_directory = bin_directory

    def query(self, statement: str) -> list[str]:
        """Rows of a statement, by psql as the server's user (a scratch server lets nobody else in)."""
        found = running_server(self.directory)
        assert found is not None, f"no server runs on {self.directory}"
        argv = [str(self.bin_directory / "psql"), "-h", str(found.socket_directory), "-p", str(found.port), "-U", "postgres"]
        done = run([*argv, "-XAtq", "-c", statement, "postgres"], timeout=60, user=owner())
        return done.stdout.split()

    def marks(self) -> list[int]:
        """Numbers of the rows that are there."""
        return [int(number) for number in self.query("SELECT number FROM mark ORDER BY 1")]

    def stop(self) -> None:
        """Stop its server, if it runs."""
        if running_server(self.directory) is not None:
            argv = [str(self.bin_directory / "pg_ctl"), "stop", "-D", self.directory, "-m", "immediate", "-w"]
            run(argv, timeout=60, user=owner())


def main() -> None:
    """Restore with arguments from standard input and die at a chosen point: ``{"arguments": {...}, "point": "swap:1"}``."""
    from tests.integration import restore_faults

    request = json.load(sys.stdin)
    subject = engine(request["arguments"])
    restore_faults.arm(request["point"])
    subject.run()
    print("survived")


if __name__ == "__main__":
    main()
