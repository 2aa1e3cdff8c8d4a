# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a data directory is, whether a server runs on it, and how it is controlled."""

from __future__ import annotations

import os
import shlex
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, InvalidOption, NotFound, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import cluster
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import Control, Server, ServerOptions


def control_bytes(state: int = 6, timeline: int = 3) -> bytes:
    head = struct.pack("=QIIIxxxxqQQII", 7300000000000000001, 1300, 202209061, state, 0, 0x3000028, 0x3000000, timeline, timeline)
    return head.ljust(8192, b"\0")


def test_control_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        cluster.read_control(str(tmp_path))
    (tmp_path / "global").mkdir()
    (tmp_path / "global" / "pg_control").write_bytes(control_bytes())
    found = cluster.read_control(str(tmp_path))
    assert (found.system_identifier, found.timeline, found.state) == ("7300000000000000001", 3, "in production")
    assert found.catalog_version == 202209061
    assert not found.clean
    assert cluster.parse_control(control_bytes(state=1), "x").clean


@pytest.mark.parametrize("data", [b"", b"x" * 20, b"\xff" * 8192, bytes(8192)])
def test_not_a_control_file(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        cluster.parse_control(data, "x")


@pytest.mark.parametrize(("text", "major"), [("15\n", 15), ("18", 18), ("9.6\n", None), ("", None)])
def test_version(tmp_path: Path, text: str, major: int | None) -> None:
    assert cluster.read_version(str(tmp_path)) is None
    (tmp_path / "PG_VERSION").write_text(text)
    assert cluster.read_version(str(tmp_path)) == major


def write_pid(directory: Path, pid: int, socket_directory: Path | str = "", port: int = 5432) -> None:
    lines = [str(pid), str(directory), "1700000000", str(port), str(socket_directory), "", "  1 2", "ready   "]
    (directory / "postmaster.pid").write_text("\n".join(lines) + "\n")


def test_no_server(tmp_path: Path) -> None:
    assert cluster.running_server(str(tmp_path)) is None
    (tmp_path / "postmaster.pid").write_text("")
    assert cluster.running_server(str(tmp_path)) is None
    assert cluster.running_server(str(tmp_path / "nothing")) is None


def test_a_stale_pid_file_names_a_process_that_lives_elsewhere(tmp_path: Path) -> None:
    write_pid(tmp_path, os.getpid())
    assert cluster.running_server(str(tmp_path)) is None


def test_a_dead_process(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    write_pid(tmp_path, child.pid)
    assert cluster.running_server(str(tmp_path)) is None


def test_a_process_that_lives_in_the_directory(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], cwd=tmp_path, stdin=subprocess.PIPE) as child:
        write_pid(tmp_path, child.pid)
        found = cluster.running_server(str(tmp_path))
        assert found is not None
        assert (found.pid, found.port, found.status) == (child.pid, 5432, "ready")
        child.communicate(b"\n")


def test_a_server_of_another_process_namespace(tmp_path: Path) -> None:
    """Its pid means nothing here, but its socket answers and the socket's lock names the directory."""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    data, run = tmp_path / "d", tmp_path / "r"
    data.mkdir()
    run.mkdir()
    write_pid(data, child.pid, run)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run / ".s.PGSQL.5432"))
        listener.listen()
        lock = run / ".s.PGSQL.5432.lock"
        lock.write_text(f"{child.pid}\n{tmp_path / 'other'}\n")
        assert cluster.running_server(str(data)) is None
        lock.write_text(f"{child.pid}\n{data}\n")
        assert cluster.running_server(str(data)) is not None
    assert cluster.running_server(str(data)) is None


def fake_postgres(directory: Path, version: str) -> Path:
    directory.mkdir(parents=True)
    program = directory / "postgres"
    program.write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version} (Test)'\n")
    program.chmod(0o755)
    return directory


def test_binaries_by_option(tmp_path: Path) -> None:
    place = fake_postgres(tmp_path / "bin", "16.3")
    assert cluster.find_binaries(16, str(place)) == str(place)
    with pytest.raises(Refused) as refused:
        cluster.find_binaries(15, str(place))
    assert refused.value.state["reason"] == "wrong_version"
    assert "PostgreSQL 16.3" in refused.value.message
    with pytest.raises(InvalidOption):
        cluster.find_binaries(15, str(tmp_path))


def test_binaries_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = fake_postgres(tmp_path / "bin", "17beta1")
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setattr(cluster, "PROGRAM_PLACES", (str(tmp_path / "{}" / "bin"),))
    assert cluster.find_binaries(17) == str(place)
    with pytest.raises(Refused) as refused:
        cluster.find_binaries(14)
    assert refused.value.state["reason"] == "wrong_version"


def test_control_options() -> None:
    with pytest.raises(InvalidOption):
        ServerOptions(control=Control.SYSTEMD)
    with pytest.raises(InvalidOption):
        ServerOptions(control=Control.PG_CTLCLUSTER, cluster="main")
    with pytest.raises(InvalidOption):
        ServerOptions(settings=("shared_buffers 1GB",))
    options = ServerOptions(config_file="/etc/a b.conf", port=5433, settings=("work_mem=1MB",))
    assert options.postgres_arguments() == ["-c", "config_file=/etc/a b.conf", "-c", "port=5433", "-c", "work_mem=1MB"]


@pytest.mark.parametrize(
    ("options", "argv"),
    [
        (ServerOptions(control=Control.PG_CTLCLUSTER, cluster="15 main"), ["pg_ctlcluster", "15", "main", "start"]),
        (ServerOptions(control=Control.SYSTEMD, service="pg"), ["systemctl", "start", "--no-block", "pg"]),
    ],
)
def test_start_commands(options: ServerOptions, argv: list[str]) -> None:
    assert Server("/d", "/bin", options, "/l")._start_argv() == argv


def test_pg_ctl_passes_settings_through_a_shell() -> None:
    options = ServerOptions(port=5433, settings=("application_name=it's",))
    argv = Server("/d", "/bin", options, "/l")._start_argv()
    assert argv[:-1] == ["/bin/pg_ctl", "start", "-D", "/d", "-w", "-t", "2", "-s", "-l", "/l", "-o"]
    assert shlex.split(argv[-1]) == ["-c", "port=5433", "-c", "application_name=it's"]


def test_owner() -> None:
    with pytest.raises(InvalidOption, match="no such user"):
        cluster.resolve_owner("there-is-no-such-user")
    if os.geteuid() == 0:
        with pytest.raises(InvalidOption, match="root"):
            cluster.resolve_owner("root")
        assert cluster.resolve_owner("daemon")[0] > 0
    else:
        with pytest.raises(InvalidOption, match="by root"):
            cluster.resolve_owner("root")


@pytest.mark.parametrize(
    ("log", "words", "hint"),
    [
        (
            "LOG:  starting\n2026 UTC [1] FATAL:  recovery ended before configured recovery target was reached\nLOG:  shut down",
            "FATAL: recovery ended before configured recovery target was reached",
            "earlier target_time",
        ),
        ("x FATAL:  the database system is starting up\n", "no FATAL line", "log"),
        ('x FATAL:  could not restore file "00000001000000000000000A" from archive: command', "could not restore", "it continues"),
        ("x FATAL:  could not write to file: No space left on device", "No space left", "make room"),
        ("", "no FATAL line", "log"),
    ],
)
def test_what_the_log_says(log: str, words: str, hint: str) -> None:
    failure = cluster.server_failure(log)
    assert words in failure.message
    assert hint in failure.hint


def test_the_wal_program_is_quoted() -> None:
    log = "fileforge-wal: the bucket denies access\nx FATAL:  could not restore file"
    assert "the bucket denies access" in cluster.server_failure(log).message


def test_a_younger_tablespace_has_a_reason_of_its_own() -> None:
    line = "fileforge-wal: 0A: replay would make the tablespace 7, younger than the base backup, at /x"
    failure = cluster.server_failure(f"{line}\nx FATAL:  could not restore file")
    assert failure.state["reason"] == "tablespace_created"
    assert "newer base backup" in failure.hint


@pytest.mark.parametrize(
    ("fatal", "reason"),
    [
        ('could not access file "pg_cron": No such file or directory', cluster.HOST),
        ("could not write to file: No space left on device", cluster.HOST),
        ("recovery ended before configured recovery target was reached", None),
        ("something nobody knows", None),
    ],
)
def test_what_this_host_lacks_says_nothing_about_the_backup(fatal: str, reason: str | None) -> None:
    assert cluster.server_failure(f"x FATAL:  {fatal}").state.get("reason") == reason
