# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A data directory and the server that runs on it. PRIVATE to the collection.

What a directory is comes from its own files (``PG_VERSION``, the head of ``global/pg_control``), so that it can be told without
any PostgreSQL program; whether a server runs on it comes from ``postmaster.pid``, the process itself and the socket's lock file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import os
import pwd
import re
import shlex
import shutil
import socket
import struct
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    AccessDenied,
    IntegrityError,
    InvalidOption,
    MissingLibrary,
    NotFound,
    OpsError,
    ProcessFailed,
    Refused,
    Unavailable,
    WaitTimeout,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions, connect, one
from ansible_collections.fileforge.ops.plugins.module_utils._process import run

CONTROL_FILE = "global/pg_control"
PID_FILE = "postmaster.pid"
_CONTROL_HEAD = struct.Struct("=QIIIxxxxqQQII")
_STATES = (
    "starting up",
    "shut down",
    "shut down in recovery",
    "shutting down",
    "in crash recovery",
    "in archive recovery",
    "in production",
)
PROGRAM_PLACES = ("/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin", "/usr/local/pgsql-{}/bin", "/opt/postgresql/{}/bin")


# Identity of a data directory


@dataclasses.dataclass(frozen=True)
class ControlData:
    """The head of ``global/pg_control``, whose layout is the same in PostgreSQL 12 to 18."""

    system_identifier: str
    control_version: int
    catalog_version: int
    state: str
    checkpoint_lsn: int
    redo_lsn: int
    timeline: int

    @property
    def clean(self) -> bool:
        """Whether the server was shut down in order, so that the files need no WAL."""
        return self.state in ("shut down", "shut down in recovery")


def parse_control(data: bytes, where: str) -> ControlData:
    """The head of a control file. Raises IntegrityError when it is none."""
    if len(data) < _CONTROL_HEAD.size:
        raise IntegrityError(f"{where}: too short for a PostgreSQL control file ({len(data)} bytes)")
    identifier, version, catalog, state, _time, checkpoint, redo, timeline, _previous = _CONTROL_HEAD.unpack_from(data)
    if not 900 <= version <= 9999 or state >= len(_STATES):
        raise IntegrityError(f"{where}: not a PostgreSQL control file of this machine's byte order")
    return ControlData(str(identifier), version, catalog, _STATES[state], checkpoint, redo, timeline)


def read_control(data_directory: str) -> ControlData:
    """The control file of a data directory. Raises NotFound and IntegrityError."""
    path = os.path.join(data_directory, CONTROL_FILE)
    try:
        with open(path, "rb") as stream:
            return parse_control(stream.read(_CONTROL_HEAD.size), path)
    except FileNotFoundError as error:
        raise NotFound(f"{path}: there is no control file") from error


def read_version(data_directory: str) -> int | None:
    """The major version in ``PG_VERSION``; None when the directory is not a data directory of PostgreSQL 10 or later."""
    try:
        with open(os.path.join(data_directory, "PG_VERSION"), encoding="ascii") as stream:
            text = stream.read(16).strip()
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() else None


# Programs


def program_version(program: str) -> tuple[int, str] | None:
    """Major version and text of ``postgres --version``; None when it is not there or is not PostgreSQL."""
    if not os.access(program, os.X_OK):
        return None
    output = run([program, "--version"], timeout=20, check=False).stdout
    match = re.search(r"\(PostgreSQL\) ((\d+)\S*)", output)
    return (int(match[2]), match[1]) if match else None


def find_binaries(major: int, bin_directory: str | None = None) -> str:
    """The directory with ``postgres`` and ``pg_ctl`` of a major version. Raises Refused (``wrong_version``) and InvalidOption."""
    if bin_directory is not None:
        found = program_version(os.path.join(bin_directory, "postgres"))
        if found is None:
            raise InvalidOption("bin_directory", bin_directory, "there is no working postgres program in it")
        if found[0] != major:
            raise Refused(
                "wrong_version",
                f"the backup is of PostgreSQL {major}, but {bin_directory} holds PostgreSQL {found[1]}",
                hint=f"set bin_directory to the programs of PostgreSQL {major}",
            )
        return bin_directory
    on_path = shutil.which("postgres")
    candidates = [place.format(major) for place in PROGRAM_PLACES]
    candidates += [os.path.dirname(os.path.realpath(on_path))] if on_path else []
    for candidate in candidates:
        found = program_version(os.path.join(candidate, "postgres"))
        if found is not None and found[0] == major:
            return candidate
    raise Refused(
        "wrong_version",
        f"the backup is of PostgreSQL {major}, and no programs of that version are installed on this host",
        hint=f"install PostgreSQL {major}, or set bin_directory; looked in: {', '.join(candidates)}",
    )


# The running server


@dataclasses.dataclass(frozen=True)
class PidFile:
    """The lines of ``postmaster.pid``."""

    pid: int
    data_directory: str
    port: int | None
    socket_directory: str | None
    listen_address: str
    status: str


def read_pid_file(data_directory: str) -> PidFile | None:
    """The pid file of a data directory; None when there is none, or it is not complete enough to name a process."""
    try:
        with open(os.path.join(data_directory, PID_FILE), encoding="utf-8", errors="replace") as stream:
            lines = [line.strip() for line in stream.read(8192).splitlines()]
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not lines or not lines[0].lstrip("-").isdigit():
        return None
    lines += [""] * (8 - len(lines))
    port = int(lines[3]) if lines[3].isdigit() else None
    return PidFile(abs(int(lines[0])), lines[1], port, lines[4] or None, lines[5], lines[7])


def running_server(data_directory: str) -> PidFile | None:
    """The server that runs on a directory; None when there is none (a stale pid file whose number was reused is none)."""
    found = read_pid_file(data_directory)
    if found is None:
        return None
    if _is_server_process(found.pid, data_directory) or _socket_is_held(found, data_directory):
        return found
    return None


def _is_server_process(pid: int, data_directory: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        return os.path.samefile(f"/proc/{pid}/cwd", data_directory)
    except OSError:
        pass
    try:  # another user's process: its directory cannot be read, its name can
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as stream:
            return stream.read().strip() in ("postgres", "postmaster")
    except FileNotFoundError:
        return not os.path.isdir("/proc/self")
    except OSError:
        return True


def _socket_is_held(found: PidFile, data_directory: str) -> bool:
    """Whether somebody answers on the socket that the pid file names, and its lock file names this directory.

    This sees a server in another process namespace, whose process number means nothing here.
    """
    if found.socket_directory is None or found.port is None:
        return False
    path = os.path.join(found.socket_directory, f".s.PGSQL.{found.port}")
    try:
        with open(f"{path}.lock", encoding="utf-8", errors="replace") as stream:
            lines = stream.read(8192).splitlines()
    except OSError:
        return False
    if len(lines) < 2 or os.path.realpath(lines[1].strip()) != os.path.realpath(data_directory):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def startup_segment(pid: int) -> str | None:
    """The WAL segment that the startup process of server ``pid`` works on, from its process title; None when not told."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as stream:
            children = stream.read().split()
    except OSError:
        return None
    for child in children:
        try:
            with open(f"/proc/{child}/cmdline", "rb") as stream:
                title = stream.read(256).decode(errors="replace")
        except OSError:
            continue
        match = re.search(r"startup\s+(?:recovering|waiting for) ([0-9A-F]{24})", title)
        if match:
            return match[1]
    return None


@contextlib.contextmanager
def effective_user(user: str | None) -> t.Iterator[None]:
    """Be ``user`` for the body, so that peer authentication on a socket sees that user. Not for use beside other threads."""
    uid, gid = os.geteuid(), os.getegid()
    entry = pwd.getpwnam(user) if user is not None and uid == 0 else None
    if entry is None:
        yield
        return
    os.setegid(entry.pw_gid)
    os.seteuid(entry.pw_uid)
    try:
        yield
    finally:
        os.seteuid(uid)
        os.setegid(gid)


@dataclasses.dataclass(frozen=True)
class RecoveryState:
    """What a server says about its recovery."""

    in_recovery: bool
    replay_lsn: str | None
    last_commit: str | None
    """Time of the last transaction replayed, ISO 8601 in UTC; kept by the server until its next start."""


_RECOVERY_QUERY = """
select pg_catalog.pg_is_in_recovery() as in_recovery,
       pg_catalog.pg_last_wal_replay_lsn()::text as replay_lsn,
       pg_catalog.to_char(pg_catalog.pg_last_xact_replay_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')
           as last_commit
"""


@functools.lru_cache(maxsize=1)
def _can_connect() -> bool:
    """Whether psycopg is there. Loads all of it, because ``effective_user`` may not be able to read this user's files."""
    try:
        connect(PostgresOptions(host="/nonexistent", connect_timeout=2)).close()
    except MissingLibrary:
        return False
    except OpsError:
        pass
    return True


def recovery_state(found: PidFile, owner: str | None) -> RecoveryState | None:
    """Ask the server through its socket; None when it does not answer (yet) or does not let us in, or without psycopg."""
    if found.socket_directory is None or found.port is None or not _can_connect():
        return None
    for role in dict.fromkeys(("postgres", owner or "postgres")):
        options = PostgresOptions(host=found.socket_directory, port=found.port, user=role, connect_timeout=5)
        try:
            with effective_user(owner):
                connection = connect(options, statement_timeout_ms=5000)
            with connection:
                row = one(connection, _RECOVERY_QUERY)
        except (AccessDenied, NotFound):
            continue
        except (Unavailable, WaitTimeout):
            return None
        return RecoveryState(bool(row["in_recovery"]), row["replay_lsn"], row["last_commit"])
    return None


# Starting and stopping


class Control(str, enum.Enum):
    """Who starts and stops the server."""

    PG_CTL = "pg_ctl"
    PG_CTLCLUSTER = "pg_ctlcluster"
    SYSTEMD = "systemd"


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """How the server of a data directory is started and stopped."""

    owner: str | None = None
    control: Control = Control.PG_CTL
    service: str | None = None
    cluster: str | None = None
    config_file: str | None = None
    socket_directory: str | None = None
    port: int | None = None
    settings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.control is Control.SYSTEMD and not self.service:
            raise InvalidOption("service", self.service, "needed with control=systemd", hint="for example postgresql@15-main")
        if self.control is Control.PG_CTLCLUSTER and len((self.cluster or "").split()) != 2:
            raise InvalidOption("cluster", self.cluster, "needed with control=pg_ctlcluster", hint="for example '15 main'")
        for setting in self.settings:
            if not re.match(r"[A-Za-z_][A-Za-z0-9_.]*=", setting):
                raise InvalidOption("server_options", setting, "not of the form name=value")

    def postgres_arguments(self) -> list[str]:
        """Arguments for ``postgres`` itself."""
        pairs: list[str] = []
        if self.config_file:
            pairs.append(f"config_file={self.config_file}")
        if self.socket_directory:
            pairs.append(f"unix_socket_directories={self.socket_directory}")
        if self.port:
            pairs.append(f"port={self.port}")
        return [argument for pair in [*pairs, *self.settings] for argument in ("-c", pair)]


@dataclasses.dataclass(frozen=True)
class Server:
    """The server of one data directory, with the programs to run it."""

    data_directory: str
    bin_directory: str
    options: ServerOptions
    log_path: str
    """Where ``pg_ctl`` sends what the server writes before (or instead of) its own logging."""

    def running(self) -> PidFile | None:
        """See ``running_server``."""
        return running_server(self.data_directory)

    def start(self, *, timeout: float) -> None:
        """Start it without waiting for readiness: a recovery may take hours. Raises ProcessFailed when it died at once."""
        argv = self._start_argv()
        user = self.options.owner if self.options.control is Control.PG_CTL else None
        done = run(argv, timeout=timeout, check=False, user=user)
        if done.returncode != 0 and self.running() is None:
            words = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
            raise ProcessFailed(
                f"the server on {self.data_directory} did not start: {' / '.join(words)}", argv=argv, rc=done.returncode
            )

    def _start_argv(self) -> list[str]:
        control = self.options.control
        if control is Control.SYSTEMD:
            return ["systemctl", "start", "--no-block", str(self.options.service)]
        if control is Control.PG_CTLCLUSTER:
            return ["pg_ctlcluster", *str(self.options.cluster).split(), "start"]
        argv = [
            os.path.join(self.bin_directory, "pg_ctl"),
            "start",
            "-D",
            self.data_directory,
            "-w",
            "-t",
            "2",
            "-s",
            "-l",
            self.log_path,
        ]
        arguments = self.options.postgres_arguments()
        return [*argv, "-o", shlex.join(arguments)] if arguments else argv

    def stop(self, *, timeout: float) -> None:
        """Stop it (mode fast) and wait until it is gone. Raises Refused (``server_running``) when it runs on regardless."""
        control = self.options.control
        if control is Control.SYSTEMD:
            run(["systemctl", "stop", str(self.options.service)], timeout=timeout)
        elif control is Control.PG_CTLCLUSTER:
            run(["pg_ctlcluster", *str(self.options.cluster).split(), "stop", "-m", "fast"], timeout=timeout, check=False)
        else:
            argv = [os.path.join(self.bin_directory, "pg_ctl"), "stop", "-D", self.data_directory, "-m", "fast", "-w", "-s"]
            run([*argv, "-t", str(int(timeout))], timeout=timeout + 10, user=self.options.owner, check=False)
        found = self.running()
        if found is not None:
            raise Refused(
                "server_running",
                f"the server on {self.data_directory} (process {found.pid}) still runs after it was told to stop",
                hint="something else may have started it again: stop that first (a service manager, Patroni)",
            )

    def reload(self) -> None:
        """Read the configuration files again."""
        argv = [os.path.join(self.bin_directory, "pg_ctl"), "reload", "-D", self.data_directory, "-s"]
        run(argv, timeout=30, user=self.options.owner)

    def log_tail(self, *, since: int = 0, limit: int = 65536) -> str:
        """The end of what the server logged: its own log file when it collects, else what ``pg_ctl`` caught from ``since`` on."""
        texts = []
        for path, begin in ((self._collected_log(), 0), (self.log_path, since), (self._cluster_log(), 0)):
            if path is None:
                continue
            with contextlib.suppress(OSError), open(path, "rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(min(begin, size), size - limit))
                texts.append(stream.read(limit).decode(errors="replace"))
        return "\n".join(texts)

    def _collected_log(self) -> str | None:
        with contextlib.suppress(OSError), open(os.path.join(self.data_directory, "current_logfiles"), encoding="utf-8") as stream:
            for line in stream:
                kind, _blank, path = line.strip().partition(" ")
                if kind == "stderr" and path:
                    return os.path.join(self.data_directory, path)
        return None

    def _cluster_log(self) -> str | None:
        if self.options.control is not Control.PG_CTLCLUSTER:
            return None
        version, name = str(self.options.cluster).split()
        return f"/var/log/postgresql/postgresql-{version}-{name}.log"


def resolve_owner(owner: str) -> tuple[int, int]:
    """User and group ids of the owner of the files. Raises InvalidOption: unknown, or not one we can become."""
    try:
        entry = pwd.getpwnam(owner)
    except KeyError as error:
        raise InvalidOption("owner", owner, "there is no such user on this host", hint="create it, or set owner") from error
    if os.geteuid() not in (0, entry.pw_uid):
        raise InvalidOption(
            "owner", owner, "the files can only be given to another user by root", hint="use become, or set owner to this user"
        )
    if entry.pw_uid == 0:
        raise InvalidOption("owner", owner, "PostgreSQL refuses to run as root", hint="set owner to the server's user")
    return entry.pw_uid, entry.pw_gid


def server_failure(log: str) -> OpsError:
    """What the log says about a server that ended during recovery, with the remedy where there is one."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    fatal = next((line for line in reversed(lines) if re.search(r"\b(FATAL|PANIC):", line) and not _ordinary(line)), "")
    errors = [line for line in lines[-80:] if "fileforge-wal" in line and " LOG:" not in line]
    text = re.sub(r"^.*?\b(FATAL|PANIC):\s*", r"\1: ", fatal) or "it left no FATAL line in its log"
    hint, reason = next((found[1:] for found in _REMEDIES if re.search(found[0], fatal)), ("read the server's log", ""))
    if errors and "younger than the base backup" in errors[-1]:
        hint = "take a newer base backup, or choose a target_time before it; in place: move the files away, then run this again"
        reason = "tablespace_created"
    detail = f" ({errors[-1]})" if errors else ""
    more = {"reason": reason} if reason else {}
    return OpsError(f"the server ended during recovery: {text}{detail}", hint=hint, log=lines[-20:], **more)


def _ordinary(line: str) -> bool:
    return bool(
        re.search(r"the database system is (starting up|shutting down|not yet accepting)|terminating .* due to administrator", line)
    )


HOST = "this_host"
"""Reason of failures that another host, or this one with other settings, would not have: they say nothing about the backup."""
_REMEDIES: tuple[tuple[str, str, str], ...] = (
    (r"recovery ended before configured recovery target", "WAL up to the target is missing: choose an earlier target_time", ""),
    (r"requested recovery stop point is before consistent", "choose an older backup, or a later target_time", ""),
    (
        r"could not restore file|restore_command|terminated by signal",
        "the WAL program failed: see its line, then run this again; it continues",
        "",
    ),
    (r"requested timeline .* is not a child", "choose a backup of an ancestor timeline, or another target_timeline", ""),
    (r"insufficient parameter settings|is a lower setting than", "raise the named setting with server_options", HOST),
    (r"No space left on device", "make room on the file system, then run this again; it continues", HOST),
    (
        r"could not (bind|create lock file)|Address already in use",
        "another server uses the port or socket: set port or socket_directory",
        HOST,
    ),
    (
        r"could not create shared memory|could not map anonymous",
        "the host has too little memory: lower shared_buffers with server_options",
        HOST,
    ),
    (
        r"could not access file|could not load library",
        "an extension's library is missing: install it, or set shared_preload_libraries with server_options",
        HOST,
    ),
    (r"could not access the server configuration file", "set config_file", HOST),
    (r"archive_mode|wal_level", "set the named setting with server_options", HOST),
)
