# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running programs: argv lists only, always a deadline, optionally as another user. PRIVATE to the collection."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pwd
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    InvalidOption,
    OpsError,
    ProcessFailed,
    WaitTimeout,
)
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline

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


class Piped:
    """A running program that is written to or read from. What it says on standard error waits in a file."""

    def __init__(self, argv: t.Sequence[str], process: subprocess.Popen[bytes], errors: t.IO[bytes]) -> None:
        self._argv = list(argv)
        self.process = process
        self._errors = errors

    @property
    def output(self) -> t.IO[bytes]:
        """What it writes."""
        if self.process.stdout is None:
            raise OpsError(f"{self._argv[0]} was not started to be read from")
        return self.process.stdout

    @property
    def input(self) -> t.IO[bytes]:
        """What it reads."""
        if self.process.stdin is None:
            raise OpsError(f"{self._argv[0]} was not started to be written to")
        return self.process.stdin

    def feed(self, data: bytes, deadline: Deadline) -> None:
        """Write everything. Raises BrokenPipeError when it does not read any more, and WaitTimeout."""
        handle = self.input.fileno()
        os.set_blocking(handle, False)
        view = memoryview(data)
        while view:
            if not select.select([], [handle], [], deadline.left)[1]:
                raise WaitTimeout(f"{self._argv[0]}: was not ready after {deadline.seconds:g} s", argv=self._argv)
            with contextlib.suppress(BlockingIOError):
                view = view[os.write(handle, view[:65536]) :]

    def said(self, limit: int = 65536) -> str:
        """The beginning of its standard error: the first error is the one that counts."""
        self._errors.seek(0)
        return self._errors.read(limit).decode(errors="replace")

    def wait(self, timeout: float) -> int:
        """Its status once it has ended by itself. Raises WaitTimeout."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise WaitTimeout(f"{self._argv[0]}: did not end within {timeout:g} s", argv=self._argv) from error

    def failure(self, returncode: int) -> ProcessFailed:
        """The error for a status that is not 0; a negative one is the signal that killed it."""
        how = f"was killed by {signal.Signals(-returncode).name}" if returncode < 0 else f"ended with status {returncode}"
        said = " / ".join(self.said().strip().splitlines()[:5])
        return ProcessFailed(f"{self._argv[0]} {how}: {said or 'it said nothing'}", argv=self._argv, rc=returncode)


@contextlib.contextmanager
def piped(
    argv: t.Sequence[str],
    *,
    read: bool = False,
    write: bool = False,
    user: str | None = None,
    env: t.Mapping[str, str] | None = None,
    cwd: str = "/",
) -> t.Iterator[Piped]:
    """A program for the body, in a session of its own; ended when the body ends, if it has not ended before.

    Where the system has setpriv, the program also ends when this process dies without a chance to say so. Without one of the
    pipes it reads from, or writes to, nothing.
    """
    if shutil.which(argv[0]) is None:
        raise ProcessFailed(f"{argv[0]}: there is no such program", argv=list(argv))
    setpriv = shutil.which("setpriv")
    command = [setpriv, "--pdeathsig", "TERM", *argv] if setpriv else list(argv)
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(  # pylint: disable=ansible-bad-function
                command,
                stdin=subprocess.PIPE if write else subprocess.DEVNULL,
                stdout=subprocess.PIPE if read else subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, **(env or {}), "LC_ALL": "C"},
                cwd=cwd,
                start_new_session=True,
                **user_arguments(user),
            )
        except OSError as error:
            raise ProcessFailed(f"{argv[0]}: {error.strerror}", argv=list(argv)) from error
        try:
            yield Piped(argv, process, errors)
        finally:
            if process.poll() is None:
                stop(process)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()


class Interrupted(OpsError):
    """This process was told to end."""

    code = "interrupted"


class _Signalled(BaseException):
    """A signal, on its way out; nothing that handles errors holds it up."""


SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def interruptible(afterwards: str) -> t.Iterator[None]:
    """SIGTERM and SIGHUP end the body in good order, with everything cleaned up that it cleans up after an error.

    Raises Interrupted; ``afterwards`` says what a person finds then.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _frame: object) -> t.NoReturn:
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)  # cleaning up is not to be interrupted again
        raise _Signalled(signal.Signals(number).name)

    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    except _Signalled as error:
        raise Interrupted(f"ended by {error}; {afterwards}") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
