# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated playbooks through the real ansible-playbook, with modules of their own where a test needs one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

from tests.lab import ROOT

Task = t.Dict[str, t.Any]

ACTION = """\
from ansible_collections.fileforge.ops.plugins.plugin_utils._progress_action import ProgressAction


class ActionModule(ProgressAction):
    pass
"""


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a playbook ended."""

    rc: int
    output: str
    registered: dict[str, t.Any]


class Playbook:
    """Tasks on localhost in a directory of their own; whatever a task registers as ``outcome`` is kept."""

    def __init__(self, place: Path, tasks: t.Sequence[Task], *, journal: bool = False, **play: t.Any) -> None:
        self.place = place
        self.journals = place / "journal"
        self.async_directory = place / "async"
        self.path = place / "playbook.json"
        self._kept = place / "outcome.json"
        self._journal = journal
        keep = {
            "name": "Keep",
            "ansible.builtin.copy": {"content": "{{ outcome | default({}) | to_json }}", "dest": str(self._kept), "mode": "0600"},
            "check_mode": False,
            "become": False,
            "vars": {"ansible_connection": "local"},
        }
        whole = {"name": "Play", "hosts": "localhost", "gather_facts": False, "connection": "local", **play}
        whole["tasks"] = [*tasks, keep]
        whole["vars"] = {"ansible_python_interpreter": sys.executable, **whole.get("vars", {})}
        self.path.write_text(json.dumps([whole]), encoding="utf-8")

    def add_module(self, name: str, source: str, *, progress: bool = True) -> Playbook:
        """A module beside the playbook, with or without the progress action."""
        for folder, text in (("library", source), ("action_plugins", ACTION if progress else "")):
            if text:
                (self.place / folder).mkdir(exist_ok=True)
                (self.place / folder / f"{name}.py").write_text(text, encoding="utf-8")
        return self

    def add_plugin(self, kind: str, name: str, source: str) -> Playbook:
        """Another plugin beside the playbook."""
        (self.place / kind).mkdir(exist_ok=True)
        (self.place / kind / f"{name}.py").write_text(source, encoding="utf-8")
        return self

    def argv(self, *arguments: str) -> list[str]:
        """The command."""
        return [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", str(self.path), *arguments]

    def environment(self, env: t.Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of the command: the repository's configuration, nothing in the caller's home."""
        base = {
            name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "FILEFORGE_", "AWX_", "RUNNER_"))
        }
        return {
            **base,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_CALLBACKS_ENABLED": "fileforge.ops.journal" if self._journal else "ansible.builtin.default",
            "FILEFORGE_JOURNAL_DIR": str(self.journals),
            "ANSIBLE_HOME": str(self.place / "ansible"),
            "ANSIBLE_ASYNC_DIR": str(self.async_directory),
            "ANSIBLE_REMOTE_TEMP": str(self.place / "tmp"),
            "ANSIBLE_CONNECTION_PLUGINS": str(self.place / "connection_plugins"),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_NOCOLOR": "true",
            "PYTHONDONTWRITEBYTECODE": "1",
            **(env or {}),
        }

    def start(self, *arguments: str, env: t.Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Run in the background, in a session of its own."""
        return subprocess.Popen(
            self.argv(*arguments),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=self.environment(env),
        )

    def run(self, *arguments: str, env: t.Mapping[str, str] | None = None, timeout: float = 120) -> Ended:
        """Run to the end, with no terminal."""
        process = self.start(*arguments, env=env)
        try:
            output, _none = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return Ended(process.returncode, output, self.outcome())

    def run_on_terminal(
        self, prompt: str, answer: str, *arguments: str, env: t.Mapping[str, str] | None = None, timeout: float = 60
    ) -> Ended:
        """Run on a pseudo terminal and type the answer when the prompt is shown.

        Typed again after a while, as a person would: Ansible throws away what it gets between showing a prompt and reading keys.
        """
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(ROOT)
            command = self.argv(*arguments)
            os.execve(command[0], command, self.environment(env))
        seen, end, again = "", time.monotonic() + timeout, 0.0
        try:
            while time.monotonic() < end:
                if prompt in seen and time.monotonic() >= again and reads_keys(terminal):
                    with contextlib.suppress(OSError):  # it may have ended meanwhile
                        os.write(terminal, f"{answer}\r".encode())
                    again = time.monotonic() + 3
                if not select.select([terminal], [], [], 0.2)[0]:
                    continue
                try:
                    chunk = os.read(terminal, 65536)
                except OSError:
                    break
                if not chunk:
                    break
                seen += chunk.decode(errors="replace")
            else:
                os.kill(pid, signal.SIGKILL)
        finally:
            _pid, status = os.waitpid(pid, 0)
            os.close(terminal)
        return Ended(os.waitstatus_to_exitcode(status), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen), self.outcome())

    def outcome(self) -> dict[str, t.Any]:
        """What was registered as ``outcome``."""
        return t.cast("dict[str, t.Any]", json.loads(self._kept.read_text())) if self._kept.exists() else {}

    def journal_files(self) -> list[Path]:
        """The journals that were written, oldest first."""
        return sorted(self.journals.glob("*.jsonl"))


def reads_keys(terminal: int) -> bool:
    """Whether the program on the terminal has begun to read single keys; what is typed before is thrown away by it."""
    import termios

    end = time.monotonic() + 20
    while time.monotonic() < end:
        if not termios.tcgetattr(terminal)[3] & termios.ICANON:
            return True
        time.sleep(0.02)
    return False


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and what descends from it; what detached itself from it lives on."""
    for number in [pid, *descendants(pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """The processes whose parent is this one, and theirs."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if parent == pid:
                found += [int(entry.name), *descendants(int(entry.name))]
    return found
