# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a long module asynchronously and shows its progress while it runs. PRIVATE to the collection.

The module is started through Ansible's own asynchronous wrapper, which detaches it from the connection: a lost connection or a
killed controller does not stop it half way, and the same task run again continues or is refused while the first still runs.
It publishes its progress in a file beside the wrapper's own status file, in the home of the user that it runs as, so that the
file is readable with the same privilege escalation and nobody else can have put it there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shlex
import time
import typing as t

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.fileforge.ops.plugins.module_utils._progress import ended_line, progress_line

ON_TERMINAL = os.isatty(1)
"""Asked when this file is loaded, in the main process; the worker processes have no terminal."""
TERMINAL_INTERVAL = 1.0
LOG_INTERVAL = 10.0
HEARTBEAT = 60.0
"""A line is shown this often even when nothing moves."""
FIRST_POLL, LAST_POLL = 0.2, 1.0
LIVENESS_INTERVAL = 5.0
TIME_LIMIT = 7 * 24 * 3600
"""The modules have deadlines of their own; this one ends what got stuck for a week. A task's own ``timeout`` goes before it."""
RECONNECT_LIMIT = 300.0
"""Seconds of trying to reach the host again; the variable ``fileforge_reconnect_seconds`` overrides it."""
ASYNC_KEYS = ("ansible_job_id", "started", "finished", "results_file")
SEPARATOR = "--fileforge-job--"
MAX_LINE = 200


def printable(text: str) -> str:
    """One bearable line: names from a bucket must not speak to the terminal."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= MAX_LINE else f"{text[: MAX_LINE - 3]}..."


class Lines:
    """Decides which lines to show for the states that are read, and when."""

    def __init__(self, interval: float, clock: t.Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        self._phase: tuple[int, str] | None = None
        self._shown = float("-inf")
        self._amount: t.Any = None
        self._ended = 0

    def of(self, state: dict[str, t.Any]) -> list[str]:
        """What to show for a state just read; malformed states show nothing."""
        try:
            return [printable(line) for line in self._of(state)]
        except (KeyError, TypeError, ValueError, AttributeError):
            return []

    def rest(self, timings: t.Any) -> list[str]:
        """The last line of each phase whose end was not seen while polling."""
        return self.of({"phase": "", "running": False, "ended": timings}) if isinstance(timings, list) else []

    def _of(self, state: dict[str, t.Any]) -> t.Iterator[str]:
        ended = state.get("ended") or []
        for timing in ended[self._ended :]:
            yield ended_line(timing)
        self._ended = max(self._ended, len(ended))
        if not state.get("running") or not state.get("phase"):
            return
        now = self._clock()
        phase = (len(ended), state["phase"])
        amount = (state.get("done"), state.get("total"), state.get("detail"))
        waited = now - self._shown
        if phase != self._phase or (waited >= self._interval and amount != self._amount) or waited >= HEARTBEAT:
            self._phase, self._shown, self._amount = phase, now, amount
            yield progress_line(state)


@dataclasses.dataclass
class Job:
    """A module that runs on the host."""

    id: str
    status_file: str
    progress_file: str

    @property
    def directory(self) -> str:
        """Where both files are."""
        return os.path.dirname(self.status_file)

    def poll_command(self) -> str:
        """Shows the progress and the beginning of the wrapper's status."""
        progress, status = shlex.quote(self.progress_file), shlex.quote(self.status_file)
        return f"cat {progress} 2>/dev/null; echo; echo {SEPARATOR}; head -c 200 {status} 2>/dev/null || true"

    def alive_command(self) -> str:
        """Counts the wrapper's processes by the job's number, unabridged; the brackets keep the command from finding itself."""
        pattern = shlex.quote(f"[{self.id[0]}]{self.id[1:].split('.')[0]}")
        return f'if p=$(ps -e -ww -o args= 2>/dev/null); then printf "%s\\n" "$p" | grep -c {pattern}; else echo unknown; fi'

    def cleanup_command(self) -> str:
        """Removes the job's files, and those that killed runs left a week ago."""
        files = " ".join(shlex.quote(path) for path in (self.status_file, self.progress_file, f"{self.progress_file}.partial"))
        old = f"find {shlex.quote(self.directory)} -maxdepth 1 -name 'fileforge-*' -mtime +7 -exec rm -f {{}} +"
        return f"rm -f {files}; {old} 2>/dev/null || true"


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one poll found."""

    progress: dict[str, t.Any] | None
    running: bool


def parse_poll(output: str) -> Seen:
    """The two files as ``Job.poll_command`` shows them."""
    first, _separator, second = output.partition(SEPARATOR)
    try:
        progress = json.loads(first)
    except ValueError:
        progress = None
    status = second.strip()
    running = status.startswith("{") and '"started": true' in status and '"finished": false' in status
    return Seen(progress if isinstance(progress, dict) else None, running)


class ProgressAction(ActionBase):
    """The base of the action plugins of long modules; each is named as its module."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = True
    _supports_diff = True

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        if self._task.async_val or self._task.check_mode:
            result.update(self._execute_module(task_vars=task_vars, wrap_async=bool(self._task.async_val)))
            return result
        self._host = str(task_vars.get("inventory_hostname", ""))
        self._name = str(self._task.action).rsplit(".", 1)[-1]
        self._lines = Lines(TERMINAL_INTERVAL if ON_TERMINAL else LOG_INTERVAL)
        self._limit = int(self._task.timeout or TIME_LIMIT)
        self._reconnect = float(task_vars.get("fileforge_reconnect_seconds", RECONNECT_LIMIT))
        started, job = self._start(task_vars)
        if job is None:
            return {**result, **started}
        answer = self._follow(job, task_vars)
        self._show(self._lines.rest(answer.get("timings")))
        return {**result, **self._as_plain(answer)}

    def _start(self, task_vars: dict[str, t.Any]) -> tuple[dict[str, t.Any], Job | None]:
        name = f"fileforge-{self._name}-{secrets.token_hex(8)}.json"
        directory = str(self.get_shell_option("async_dir", default="~/.ansible_async"))
        given = dict(self._task.args)
        self._own_file = not given.get("progress_file")
        if self._own_file:
            given["progress_file"] = f"{directory}/{name}"
        self._task.async_val = self._limit
        try:
            started: dict[str, t.Any] = self._execute_module(module_args=given, task_vars=task_vars, wrap_async=True)
        finally:
            self._task.async_val = 0
            self._cleanup_remote_tmp = True  # of directories made from now on; the wrapper removes the module's own
        if started.get("failed") or not started.get("ansible_job_id"):
            started.pop("changed", None)
            return started, None
        status_file = str(started["results_file"])
        progress = os.path.join(os.path.dirname(status_file), name) if self._own_file else str(given["progress_file"])
        return started, Job(str(started["ansible_job_id"]), status_file, progress)

    def _follow(self, job: Job, task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        """Poll until the job has a result; returns it."""
        begin = checked = time.monotonic()
        pause, missing = FIRST_POLL, 0
        while True:
            time.sleep(pause)
            pause = min(LAST_POLL, pause * 1.4)
            seen = parse_poll(self._reach(job, lambda: self._command(job.poll_command())))
            self._show(self._lines.of(seen.progress) if seen.progress else [])
            now = time.monotonic()
            if not seen.running:
                answer = self._reach(job, lambda: self._status(job, task_vars))
                if answer.get("finished") or answer.get("failed"):
                    self._reach(job, lambda: self._command(job.cleanup_command()))
                    return answer
            elif now - checked >= LIVENESS_INTERVAL:
                checked = now
                missing = missing + 1 if self._reach(job, lambda: self._command(job.alive_command())).strip() == "0" else 0
                if missing > 1:
                    self._reach(job, lambda: self._command(job.cleanup_command()))
                    return self._no_result("the process that watched over it is gone")
            if now - begin > self._limit + HEARTBEAT:
                return self._no_result(f"it is still not over after its limit of {self._limit} s")

    def _reach(self, job: Job, call: t.Callable[[], t.Any]) -> t.Any:
        """Call; when the connection is lost, try again for a while and then say that the module goes on."""
        deadline = time.monotonic() + self._reconnect
        pause = 1.0
        while True:
            try:
                return call()
            except AnsibleConnectionFailure as error:
                if time.monotonic() + pause > deadline:
                    raise AnsibleConnectionFailure(
                        f"lost the connection to {self._host} while {self._name} runs there, and could not reach it again for"
                        f" {self._reconnect:g} s ({error}). The module goes on by itself (job {job.id}, status in"
                        f" {job.status_file}). Run the same playbook again when the host can be reached: it continues"
                        " from what is done, or is refused as locked while this one still runs"
                    ) from error
                self._show([f"connection lost, trying again in {pause:g} s; the module goes on"])
            time.sleep(pause)
            pause = min(15.0, pause * 2)
            reset = getattr(self._connection, "reset", None)
            if reset is not None:
                try:
                    reset()
                except Exception as error:  # pylint: disable=broad-except
                    self._display.vvv(f"reset of the connection: {error}")

    def _command(self, command: str) -> str:
        return str(self._low_level_execute_command(command, sudoable=True).get("stdout", ""))

    def _status(self, job: Job, task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        answer: dict[str, t.Any] = self._execute_module(
            module_name="ansible.legacy.async_status",
            module_args={"jid": job.id, "_async_dir": job.directory},
            task_vars=task_vars,
            wrap_async=False,
        )
        if answer.get("module_stdout") is not None and answer.get("rc") == 255:
            raise AnsibleConnectionFailure(str(answer.get("msg", "")))
        return answer

    def _as_plain(self, answer: dict[str, t.Any]) -> dict[str, t.Any]:
        """The result as the module gave it, without the traces of having run asynchronously."""
        if answer.get("failed"):
            if "child_pid" in answer:
                return self._no_result(f"it was stopped at its time limit of {self._limit} s", code="timeout")
            if "cmd" in answer and ("data" in answer or "outdata" in answer):
                said = str(answer.get("stderr") or answer.get("data") or "").strip().splitlines()
                last = f": {said[-1]}" if said else ""
                return {**self._no_result(f"its process ended{last}"), "module_stderr": "\n".join(said)}
            if answer.get("msg") == "could not find job":
                return self._no_result("its status file was removed")
        else:
            answer.pop("stderr", None)  # what libraries print there is no part of a module's result
            answer.pop("stderr_lines", None)
        plain = {key: value for key, value in answer.items() if key not in ASYNC_KEYS}
        arguments = (plain.get("invocation") or {}).get("module_args")
        if self._own_file and isinstance(arguments, dict):
            arguments.pop("progress_file", None)
        return plain

    def _no_result(self, reason: str, code: str = "no_result") -> dict[str, t.Any]:
        return {
            "failed": True,
            "changed": True,
            "code": code,
            "msg": f"{self._name} on {self._host} gave no result: {reason}. What it did until then stays",
            "hint": "look at the host (out of memory? killed?), then run the same playbook again: it continues from what is done",
        }

    def _show(self, lines: t.Iterable[str]) -> None:
        for line in lines:
            if not self._task.no_log:
                self._display.display(f"{self._name} {self._host}: {line}")
