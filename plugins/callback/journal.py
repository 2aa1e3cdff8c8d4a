# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes down what a run did, step by step, in a chained journal."""

from __future__ import annotations

DOCUMENTATION = r"""
name: journal
type: notification
short_description: Write one JSON line for each step of a run, chained by hash
version_added: 1.0.0
author:
  - FileForge operations (@fileforge)
description:
  - Writes a journal of each playbook run as JSON lines. It holds who ran what and why, when each task started and ended on each
    host, its status, its inputs without secrets, its key results (plan digest, timings, checks, failure message) and the SHA-256
    of the evidence files that a result names in C(evidence_files).
  - Each line carries the hash of the line before, so that any later edit, removal or reordering is found. The module
    M(fileforge.ops.dr_report) verifies the chain and keeps its last hash.
  - The path of the journal is exported to the run as the environment variable E(FILEFORGE_JOURNAL), which a task finds with the
    P(ansible.builtin.env#lookup) lookup.
  - A full or failing disk never stops the playbook. It is reported once, and the journal ends there.
options:
  directory:
    description:
      - Directory for the journals, one file for each run. It is made when missing.
      - A relative path counts from the working directory.
      - Without it, C($FILEFORGE_EVIDENCE_DIR/journal) or, when that is not set either, C(~/.fileforge/journal).
    type: str
    env:
      - name: FILEFORGE_JOURNAL_DIR
    ini:
      - section: callback_journal
        key: directory
requirements:
  - enabled in the configuration, with C(callbacks_enabled = fileforge.ops.journal)
"""

import contextlib
import getpass
import os
import re
import socket
import time
import typing as t

from ansible.plugins.callback import CallbackBase
from ansible.release import __version__ as core_version
from ansible_collections.fileforge.ops.plugins.module_utils._evidence import journal
from ansible_collections.fileforge.ops.plugins.module_utils._evidence.redaction import Redactor
from ansible_collections.fileforge.ops.plugins.module_utils._time import iso, now

PLAIN_RESULTS = ("digest", "confirmed", "needed", "code", "reason", "status", "timings", "backup", "recovery", "attempts", "report")
FAILURE_RESULTS = ("msg", "hint", "rc")
MAX_HOSTS = 200
"""Hosts whose variables are looked through for secrets at the start of a play."""


def key_results(result: t.Mapping[str, t.Any], failed: bool) -> dict[str, t.Any]:
    """What is worth keeping of a task's result, not yet redacted."""
    kept = {name: result[name] for name in PLAIN_RESULTS if name in result}
    kept.update({name: result[name] for name in FAILURE_RESULTS if failed and name in result})
    plan = result.get("plan")
    if isinstance(plan, t.Mapping):
        kept["plan"] = {"digest": plan.get("digest"), "steps": len(plan.get("steps") or []), "title": plan.get("title")}
    checks = result.get("checks")
    if isinstance(checks, list):
        kept["checks"] = [
            {name: check.get(name) for name in ("id", "status", "summary")} for check in checks if isinstance(check, t.Mapping)
        ]
    items = result.get("results")
    if isinstance(items, list):
        kept["items"] = [
            {"changed": item.get("changed", False), **key_results(item, bool(item.get("failed")))}
            for item in items
            if isinstance(item, t.Mapping)
        ]
    return kept


def evidence_paths(result: t.Mapping[str, t.Any]) -> list[str]:
    """The files that a result, or the results of its loop, name as evidence."""
    paths = [str(path) for path in result.get("evidence_files") or []]
    for item in result.get("results") or []:
        if isinstance(item, t.Mapping):
            paths += evidence_paths(item)
    return paths


class CallbackModule(CallbackBase):
    """The events of a run, as lines of a journal."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "fileforge.ops.journal"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._writer: journal.JournalWriter | None = None
        self._redactor = Redactor()
        self._begin = time.monotonic()
        self._started: dict[tuple[str, str], tuple[str, float]] = {}
        self._playbook = ""
        self._play = ""

    # what happens

    def v2_playbook_on_start(self, playbook: t.Any) -> None:
        self._playbook = str(playbook._file_name)
        self._redactor.learn_mapping(os.environ)
        self._begin = time.monotonic()
        try:
            self._writer = journal.JournalWriter(self._new_path())
        except OSError as error:
            self._lost(error)
            return
        os.environ["FILEFORGE_JOURNAL"] = self._writer.path
        self._write(journal.START, format=1, ansible=core_version, **self._who())

    def v2_playbook_on_play_start(self, play: t.Any) -> None:
        self._play = str(play.get_name())
        if self._writer is None:
            return
        manager = play.get_variable_manager()
        why = {
            name: value for name, value in dict(manager.extra_vars).items() if re.match(r"(?:awx|tower)_|reason$|incident", name)
        }
        with contextlib.suppress(Exception):  # what cannot be read cannot be learned; the other nets still hold
            self._redactor.learn_mapping(manager.extra_vars)
            for host in manager._inventory.get_hosts(play.hosts)[:MAX_HOSTS]:
                self._learn(manager.get_vars(play=play, host=host, include_hostvars=False))
        self._write("play_start", hosts=play.hosts, check_mode=bool(play.check_mode), why=why)

    def v2_playbook_on_task_start(self, task: t.Any, is_conditional: bool) -> None:
        self._write("task_start", **self._task(task))

    def v2_playbook_on_handler_task_start(self, task: t.Any) -> None:
        self._write("task_start", **self._task(task), handler=True)

    def v2_runner_on_start(self, host: t.Any, task: t.Any) -> None:
        self._started[host.name, task._uuid] = (iso(now()) or "", time.monotonic())

    def v2_runner_on_ok(self, result: t.Any) -> None:
        self._end(result, "changed" if result.is_changed() else "ok")

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        self._end(result, "failed", **({"ignored": True} if ignore_errors else {}))

    def v2_runner_on_skipped(self, result: t.Any) -> None:
        self._end(result, "skipped")

    def v2_runner_on_unreachable(self, result: t.Any) -> None:
        self._end(result, "unreachable")

    def v2_playbook_on_no_hosts_matched(self) -> None:
        self._write("no_hosts_matched")

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        hosts = {host: stats.summarize(host) for host in sorted(stats.processed)}
        failed = any(summary["failures"] or summary["unreachable"] for summary in hosts.values())
        self._write(journal.END, status="failed" if failed else "ok", hosts=hosts, seconds=round(time.monotonic() - self._begin, 3))
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    # how it is written

    def _new_path(self) -> str:
        directory = self.get_option("directory")
        if not directory:
            base = os.environ.get("FILEFORGE_EVIDENCE_DIR")
            directory = os.path.join(base, "journal") if base else "~/.fileforge/journal"
        directory = os.path.abspath(os.path.expanduser(os.path.expandvars(directory)))
        os.makedirs(directory, mode=0o750, exist_ok=True)
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", os.path.splitext(os.path.basename(self._playbook))[0])
        return os.path.join(directory, f"{now().strftime('%Y%m%dT%H%M%S.%fZ')}-{name}-{os.getpid()}.jsonl")

    def _who(self) -> dict[str, t.Any]:
        try:
            user = getpass.getuser()
        except (KeyError, OSError):
            user = str(os.geteuid())
        who = {"user": user, "controller": socket.gethostname(), "pid": os.getpid()}
        return {**who, "sudo_user": os.environ["SUDO_USER"]} if os.environ.get("SUDO_USER") else who

    def _learn(self, variables: t.Mapping[str, t.Any]) -> None:
        for name, value in variables.items():
            with contextlib.suppress(Exception):  # for example a vaulted value whose password was not given
                self._redactor.learn_mapping({name: value})

    def _task(self, task: t.Any) -> dict[str, t.Any]:
        module = getattr(task, "resolved_action", None) or task.action
        role = task._role.get_name() if task._role else ""
        return {"task": str(task.get_name()), "task_id": task._uuid, "module": str(module), "role": role}

    def _end(self, result: t.Any, status: str, **more: t.Any) -> None:
        if self._writer is None:
            return
        started, begin = self._started.pop((result._host.name, result._task._uuid), (iso(now()), time.monotonic()))
        facts: t.Mapping[str, t.Any] = result._result
        hidden = "censored" in facts or bool(result._task.no_log is True)
        more = {**more, **self._task(result._task), "host": result._host.name, "status": status, "started": started}
        more["seconds"] = round(time.monotonic() - begin, 3)
        more["no_log"] = hidden
        more["inputs"] = self._inputs(result._task, facts, hidden)
        if not hidden:
            failed = status in ("failed", "unreachable")
            more["results"] = key_results(facts, failed)
            more["evidence"] = [journal.file_evidence(path) for path in evidence_paths(facts)]
        self._write("task_end", **more)

    def _inputs(self, task: t.Any, facts: t.Mapping[str, t.Any], hidden: bool) -> t.Any:
        invocation = facts.get("invocation")
        given = task.args if isinstance(task.args, t.Mapping) else {}
        given = {name: value for name, value in given.items() if not str(name).startswith("_ansible_")}
        if hidden:
            return sorted(str(name) for name in given)
        used = invocation.get("module_args") if isinstance(invocation, t.Mapping) else None
        if not isinstance(used, t.Mapping):
            return given
        return {name: value for name, value in used.items() if value is not None}

    def _write(self, event: str, **fields: t.Any) -> None:
        if self._writer is None:
            return
        line = {"playbook": self._playbook, "play": self._play, **{name: value for name, value in fields.items() if value != ""}}
        try:
            safe = self._redactor.value(line)
            safe.update({"event": event, "time": iso(now()), "elapsed": round(time.monotonic() - self._begin, 3)})
            self._writer.append(safe)
        except (OSError, ValueError) as error:
            self._lost(error)

    def _lost(self, error: Exception) -> None:
        self._writer = None
        os.environ.pop("FILEFORGE_JOURNAL", None)
        reason = getattr(error, "strerror", None) or str(error)
        place = getattr(error, "filename", None)
        where = f" ({place})" if place else ""
        self._display.warning(f"the journal of this run cannot be written{where}: {reason}; the run goes on without")
