# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Continuous archiving of one server: set up, proved and taken away. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
import time
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._backup.wal_install import (
    SECRETS,
    archive_command,
    config_text,
    install_file,
    install_program,
    is_installed,
    make_spool,
    owner_ids,
    program_text,
    remove_file,
    spool_is_made,
    write_config,
)
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, OpsError, ProcessFailed, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._module import require_library
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import S3Options, Store
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import Server
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import (
    PostgresOptions,
    connect,
    one,
    query,
    translated,
)
from ansible_collections.fileforge.ops.plugins.module_utils._process import run
from ansible_collections.fileforge.ops.plugins.module_utils._wait import wait_for

if t.TYPE_CHECKING:
    import psycopg

__all__ = ["ArchiveOptions", "Archiving", "Outcome", "install_program", "write_config"]

AFTER_RESTART = ("archive_mode", "wal_level")
PROGRAM_TIMEOUT = 300.0
RESTART_TIMEOUT = 120.0


@dataclasses.dataclass(frozen=True)
class ArchiveOptions:
    """What archiving should be like."""

    s3: S3Options
    prefix: str
    program_path: str
    config_path: str
    spool_directory: str
    interpreter: str
    owner: str
    archive_timeout: int
    batch: int
    prefetch: int

    @property
    def command(self) -> str:
        """The server's ``archive_command``."""
        return archive_command(self.interpreter, self.program_path, self.config_path)

    def config(self) -> bytes:
        """The program's configuration file."""
        return config_text(self.s3, self.prefix, self.spool_directory, batch=self.batch, prefetch=self.prefetch)


@dataclasses.dataclass
class Outcome:
    """What was found, what was (or in check mode would be) changed, and what is proved."""

    before: dict[str, t.Any]
    after: dict[str, t.Any]
    restart_required: bool = False
    restarted: bool = False
    proof: dict[str, t.Any] | None = None
    warnings: list[str] = dataclasses.field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether files or settings are not what they were."""
        return self.before != self.after or self.restarted


class Archiving:
    """One server and its archive. ``server`` is needed when it may be restarted."""

    def __init__(
        self,
        options: ArchiveOptions,
        postgres: PostgresOptions,
        server: t.Callable[[str], Server] | None = None,
        check_mode: bool = False,
    ) -> None:
        self._options = options
        self._postgres = postgres
        self._server = server
        self._check_mode = check_mode
        self._owner = owner_ids(options.owner)

    # -- present ------------------------------------------------------------------------------------------------------

    def present(self) -> Outcome:
        """Install, configure, reload or restart."""
        with connect(self._postgres) as connection:
            self._require_primary(connection)
            found = _settings(connection)
            wanted = self._wanted(found)
            outcome = self._install(found, wanted)
            if not self._check_mode:
                self._apply(connection, wanted)
            running = {name: found.get(name, {}).get("running") for name in AFTER_RESTART}
            waits = [name for name in AFTER_RESTART if running[name] not in _acceptable(name)]
        outcome.restart_required = bool(waits)
        if waits and self._server is not None:
            outcome.restarted = True
            outcome.restart_required = False
            self._restart()
        return outcome

    def _require_primary(self, connection: psycopg.Connection[t.Any]) -> None:
        if one(connection, "SELECT pg_is_in_recovery() AS standby")["standby"]:
            raise Refused(
                "standby",
                f"{self._postgres.describe()} is a standby: it archives nothing, and its settings follow after a promotion",
                hint="run this on the primary",
            )

    def _wanted(self, found: dict[str, dict[str, t.Any]]) -> dict[str, str]:
        """Settings to be changed."""
        wanted = {name: _acceptable(name)[0] for name in AFTER_RESTART if found[name]["configured"] not in _acceptable(name)}
        plain = {"archive_command": self._options.command, "archive_timeout": str(self._options.archive_timeout)}
        if found.get("archive_library", {}).get("running"):
            plain["archive_library"] = ""
        for name, value in plain.items():
            if found[name]["running"] != value:
                wanted[name] = value
        fixed = sorted(name for name in wanted if found[name]["source"] == "command line")
        if fixed:
            raise Refused(
                "setting_fixed",
                f"the server was started with {', '.join(fixed)} on its command line, which no configuration file can change",
                hint="remove it from the service's start options and start the server without it",
            )
        return wanted

    def _install(self, found: dict[str, dict[str, t.Any]], wanted: dict[str, str]) -> Outcome:
        """Program, configuration and spool; before and after for the diff, without secrets."""
        options = self._options
        program, config = program_text(options.interpreter), options.config()
        files = {
            options.program_path: (program, 0o755, (0, 0)),
            options.config_path: (config, 0o600, self._owner),
        }
        before: dict[str, t.Any] = {"settings": {name: found[name]["configured"] for name in wanted}}
        after: dict[str, t.Any] = {"settings": dict(wanted)}
        for path, (content, mode, owner) in files.items():
            if is_installed(path, content, mode, owner):
                continue
            secret = path == options.config_path
            before[path] = _config_view(path) if secret else _digest_of_file(path)
            after[path] = _config_view(content) if secret else hashlib.sha256(content).hexdigest()
            if secret and before[path] == after[path]:
                after[path] = {**after[path], "note": "a secret, mode or owner changes"}
            if not self._check_mode:
                install_file(path, content, mode, owner)
        if not spool_is_made(options.spool_directory, self._owner):
            before[options.spool_directory], after[options.spool_directory] = "", "directory"
            if not self._check_mode:
                make_spool(options.spool_directory, self._owner)
        return Outcome(before, after)

    def _apply(self, connection: psycopg.Connection[t.Any], wanted: t.Mapping[str, str | None]) -> None:
        """ALTER SYSTEM (None resets) and reload; the archive_command last, when the rest is in place."""
        if not wanted:
            return
        sql = require_library("psycopg.sql", "psycopg")
        for name in sorted(wanted, key=lambda item: (item == "archive_command", item)):
            value = wanted[name]
            statement = (
                sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name))
                if value is None
                else sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value))
            )
            with translated(f"{self._postgres.describe()}: ALTER SYSTEM {name}"):
                connection.execute(statement)
        query(connection, "SELECT pg_reload_conf()")
        now = {name: value for name, value in wanted.items() if name not in AFTER_RESTART and value is not None}
        wait_for(
            "the new settings to take effect",
            lambda: {name: row["running"] for name, row in _settings(connection).items() if name in now},
            lambda settings: settings == now,
            timeout=30,
            interval=0.05,
        )

    def _restart(self) -> None:
        if self._check_mode or self._server is None:
            return
        with connect(self._postgres) as connection:
            directory = one(connection, "SELECT current_setting('data_directory') AS place")["place"]
        server = self._server(directory)
        server.stop(timeout=RESTART_TIMEOUT)
        server.start(timeout=RESTART_TIMEOUT)
        wait_for("the server to accept connections", self._answers, lambda answer: answer, timeout=RESTART_TIMEOUT)

    def _answers(self) -> bool:
        try:
            with connect(self._postgres) as connection:
                return not one(connection, "SELECT pg_is_in_recovery() AS standby")["standby"]
        except OpsError:
            return False

    # -- proof --------------------------------------------------------------------------------------------------------

    def prove(self, timeout: float) -> dict[str, t.Any]:
        """Send one segment through the archive and compare what comes back. Raises what is wrong."""
        options = self._options
        begin = time.monotonic()
        self._program("check")
        with connect(self._postgres) as connection:
            before = one(connection, "SELECT failed_count FROM pg_stat_archiver")["failed_count"]
            label = f"fileforge archive proof {secrets.token_hex(4)}"
            segment = one(connection, "SELECT pg_walfile_name(pg_create_restore_point(%s)) AS name", (label,))["name"]
            digest = one(
                connection,
                "SELECT encode(sha256(pg_read_binary_file('pg_wal/' || %s)), 'hex') AS digest FROM pg_switch_wal()",
                (segment,),
            )["digest"]
            store = Store(options.s3)
            key = f"{options.prefix}wal/{segment}.gz"
            wait_for(
                f"segment {segment} to arrive in bucket {options.s3.bucket}",
                lambda: (store.exists(key), one(connection, "SELECT * FROM pg_stat_archiver")),
                lambda state: state[0],
                timeout=timeout,
                interval=0.2,
                failed=lambda state: _archiver_failure(state[1], before),
            )
        waited = round(time.monotonic() - begin, 3)
        place = os.path.join(options.spool_directory, f".proof-{segment}")
        try:
            self._program("fetch", "--alone", segment, place)
            fetched = _digest_of_file(place)
        finally:
            remove_file(place)
        if fetched != digest:
            raise IntegrityError(
                f"segment {segment} came back from the archive with other content than pg_wal holds",
                hint="another server archives into the same place: give each its own bucket or prefix",
            )
        return {"segment": segment, "key": key, "sha256": digest, "archived_after": waited}

    def _program(self, *arguments: str) -> None:
        """Run the installed program as PostgreSQL would."""
        options = self._options
        argv = [options.interpreter, options.program_path, "--config", options.config_path, *arguments]
        user = options.owner if os.geteuid() == 0 else None
        try:
            done = run(argv, timeout=PROGRAM_TIMEOUT, check=False, user=user)
        except ProcessFailed as error:
            raise ProcessFailed(
                f"user {options.owner} cannot run {options.interpreter}: {error.message}",
                hint="choose a program_interpreter that this user can reach, for example /usr/bin/python3 with python3-boto3",
            ) from error
        if done.returncode != 0:
            words = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise ProcessFailed(
                f"the WAL program failed ({arguments[0]}, status {done.returncode}): {words[0]}",
                hint=f"the program runs as user {options.owner}: check what it names, then run again",
                rc=done.returncode,
            )

    # -- absent -------------------------------------------------------------------------------------------------------

    def absent(self) -> Outcome:
        """Turn archiving off, and when the server no longer archives, take the command and the program away.

        With archiving on, an empty command would let WAL pile up, so everything stays until the restart.
        """
        with connect(self._postgres) as connection:
            found = _settings(connection)
            command = found["archive_command"]["running"] or ""
            ours = self._options.program_path in command
            steps: dict[str, str | None] = {}
            if ours and found["archive_mode"]["configured"] != "off":
                steps["archive_mode"] = "off"
                if not self._check_mode:
                    self._apply(connection, steps)
        outcome = Outcome({}, {})
        if ours and found["archive_mode"]["running"] != "off":
            outcome.restart_required = self._server is None
            outcome.restarted = self._server is not None
            self._restart()
        if not outcome.restart_required:
            if ours:
                self._reset(steps)
            self._remove_files(outcome)
        outcome.before["settings"] = {name: found[name]["configured"] for name in steps}
        outcome.after["settings"] = {name: value or "" for name, value in steps.items()}
        if command and not ours:
            outcome.warnings.append("archive_command calls another program and was left as it is")
        return outcome

    def _remove_files(self, outcome: Outcome) -> None:
        for path in (self._options.program_path, self._options.config_path):
            if os.path.lexists(path):
                outcome.before[path], outcome.after[path] = "file", ""
                if not self._check_mode:
                    remove_file(path)

    def _reset(self, steps: dict[str, str | None]) -> None:
        """The command and its timeout."""
        steps.update(archive_command=None, archive_timeout=None)
        if not self._check_mode:
            with connect(self._postgres) as connection:
                self._apply(connection, {"archive_command": None, "archive_timeout": None})


def _acceptable(name: str) -> tuple[str, ...]:
    """Values that archiving works with, the one to set first."""
    return {"archive_mode": ("on", "always"), "wal_level": ("replica", "logical")}[name]


def _settings(connection: psycopg.Connection[t.Any]) -> dict[str, dict[str, t.Any]]:
    """Settings by name: ``running`` now, and ``configured`` for after a restart.

    With archiving off, the server shows ``(disabled)`` in place of the archive_command.
    """
    rows = query(
        connection,
        """
        SELECT s.name, s.source, coalesce(f.setting, s.setting) AS configured,
            CASE WHEN s.setting = '(disabled)' THEN coalesce(f.setting, '') ELSE s.setting END AS running
        FROM pg_settings s
        LEFT JOIN LATERAL (
            SELECT setting FROM pg_file_settings WHERE pg_file_settings.name = s.name ORDER BY seqno DESC LIMIT 1
        ) f ON s.context = 'postmaster' OR s.setting = '(disabled)'
        WHERE s.name IN ('archive_mode', 'wal_level', 'archive_command', 'archive_timeout', 'archive_library')
        """,
    )
    return {row["name"]: row for row in rows}


def _archiver_failure(state: t.Mapping[str, t.Any], before: int) -> str | None:
    """Why waiting is useless, from pg_stat_archiver: three failures in a row are the archiver's own measure."""
    failed = int(state["failed_count"])
    if failed < before + 3:
        return None
    return f"archive_command failed for {state['last_failed_wal']} at {state['last_failed_time']}: the server's log has its message"


def _config_view(source: str | bytes) -> dict[str, t.Any]:
    """A configuration as the diff may show it."""
    try:
        if isinstance(source, str):
            with open(source, "rb") as stream:
                source = stream.read()
        values = dict(json.loads(source))
    except (OSError, ValueError):
        return {}
    return {name: "(hidden)" if name in SECRETS and value else value for name, value in values.items()}


def _digest_of_file(path: str) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            for piece in iter(lambda: stream.read(1 << 20), b""):
                digest.update(piece)
    except OSError:
        return ""
    return digest.hexdigest()
