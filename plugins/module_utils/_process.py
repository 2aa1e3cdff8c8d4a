# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running programs: argv lists only, always a deadline, optionally as another user. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import os
import pwd
import signal
import subprocess
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, ProcessFailed, WaitTimeout

GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL for a program that outlives its deadline."""


@dataclasses.dataclass(frozen=True)
class Completed:
    """How a program ended; output as text, undecodable bytes replaced."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


def user_arguments(user: str | None) -> dict[str, t.Any]:
    """Popen arguments that switch to ``user`` (name) with its own groups; none needed when it is the caller already."""
    if user is None:
        return {}
    try:
        entry = pwd.getpwnam(user)
    except KeyError as error:
        raise InvalidOption("user", user, "there is no such user on this host") from error
    if entry.pw_uid == os.geteuid():
        return {}
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": os.getgrouplist(user, entry.pw_gid)}


def run(
    argv: t.Sequence[str],
    *,
    timeout: float,
    check: bool = True,
    user: str | None = None,
    env: t.Mapping[str, str] | None = None,
    stdin: str | None = None,
    cwd: str = "/",
) -> Completed:
    """Run a program to its end in its own session; ``env`` is added to the caller's environment.

    Raises ProcessFailed (status not 0, unless ``check`` is false; or it cannot be started) and WaitTimeout. Secrets belong in
    ``env`` or ``stdin``: argv appears in messages.
    """
    environment = {**os.environ, **(env or {}), "LC_ALL": "C"}
    try:
        # AnsibleModule.run_command has no deadline and cannot switch user; engines have no AnsibleModule.
        process = subprocess.Popen(  # pylint: disable=ansible-bad-function
            list(argv),
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
            cwd=cwd,
            start_new_session=True,
            **user_arguments(user),
        )
    except OSError as error:
        raise ProcessFailed(f"{argv[0]}: {error.strerror}", argv=list(argv)) from error
    try:
        stdout, stderr = process.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        stop(process)
        raise WaitTimeout(f"{argv[0]}: did not end within {timeout:g} s", argv=list(argv)) from error
    except BaseException:
        stop(process)
        raise
    completed = Completed(tuple(argv), process.returncode, stdout, stderr)
    if check and process.returncode != 0:
        last = (stderr.strip() or stdout.strip()).splitlines()[-5:]
        raise ProcessFailed(
            f"{argv[0]} ended with status {process.returncode}: {' / '.join(last)}", argv=list(argv), rc=process.returncode
        )
    return completed


def stop(process: subprocess.Popen[t.Any]) -> None:
    """End a program started in its own session, and its children: SIGTERM, GRACE seconds, SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
