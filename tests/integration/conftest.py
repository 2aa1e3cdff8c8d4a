# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the integration tests: real servers on loopback, and the collection's modules through real Ansible."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import typing as t
import uuid
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.lab import ROOT
from tests.lab.daemon import wait_until
from tests.lab.marked import Mark
from tests.lab.place import workplace
from tests.lab.postgres import PostgresCluster
from tests.lab.s3 import S3Server

Arguments = t.Mapping[str, t.Any]

LONGEST = (
    *("test_postgres_restore", "playbooks", "test_kill", "test_dr_restore", "test_drill", "test_kube_rollout"),
    *("test_postgres_base_backup", "test_s3_tree", "test_postgres_wal_archive", "test_lab", "test_index_rebuild"),
)
"""Groups of tests that begin first, so that none of them is alone at the end."""


def group_of(nodeid: str) -> str:
    """Tests that share fixtures, and so run one after the other in one process: those of a file, and all playbooks of one lab."""
    path = Path(nodeid.split("::")[0])
    return "playbooks" if path.parent.name == "playbooks" else path.stem


class Groups(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a process a whole group at a time."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: t.Any) -> Groups:
    """The groups, whatever ``--dist`` says."""
    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest groups come first."""
    rank = {group: place for place, group in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(group_of(item.nodeid), len(rank)))


@pytest.fixture(scope="session")
def session_place() -> t.Iterator[Path]:
    """A directory of this test session that PostgreSQL's user can reach; removed at the end."""
    place = workplace(f"tests/{os.getpid()}-{uuid.uuid4().hex[:6]}")
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def place(session_place: Path) -> t.Iterator[Path]:
    """A directory of one test that PostgreSQL's user can reach."""
    directory = session_place / uuid.uuid4().hex[:8]
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def s3(session_place: Path) -> t.Iterator[S3Server]:
    """The session's S3 server."""
    server = S3Server(session_place / "s3")
    try:
        yield server.start()
    finally:
        server.destroy()


@pytest.fixture
def bucket(s3: S3Server) -> t.Iterator[str]:
    """A fresh bucket."""
    name = s3.create_bucket(f"test-{uuid.uuid4().hex[:12]}")
    yield name
    s3.empty_bucket(name)
    s3.client().delete_bucket(Bucket=name)


class PostgresFactory(t.Protocol):
    """Makes clusters that are destroyed after the test."""

    def __call__(
        self, *, version: int = 15, settings: Arguments | None = None, checksums: bool = True, start: bool = True
    ) -> PostgresCluster:
        """A new cluster, started unless told otherwise."""


@pytest.fixture
def postgres(place: Path) -> t.Iterator[PostgresFactory]:
    """Factory of PostgreSQL clusters."""
    made: list[PostgresCluster] = []

    def factory(
        *, version: int = 15, settings: Arguments | None = None, checksums: bool = True, start: bool = True
    ) -> PostgresCluster:
        cluster = PostgresCluster(place / f"pg{len(made)}", version=version)
        made.append(cluster)
        cluster.create(settings or {}, checksums)
        return cluster.start() if start else cluster

    yield factory
    for cluster in made:
        cluster.destroy()


class ModuleRun:
    """One module under a running Ansible, in the background."""

    def __init__(
        self, place: Path, name: str, arguments: Arguments, *, check: bool, diff: bool, interpreter: str, env: Arguments
    ) -> None:
        self.name = name
        self.mark = Mark()
        self.directory = place / self.mark.value[:8]
        self.directory.mkdir(parents=True)
        self.result_file = self.directory / "result.json"
        self.output_file = self.directory / "output.txt"
        playbook = self.directory / "playbook.json"
        playbook.write_text(json.dumps(self._playbook(arguments, interpreter)), encoding="utf-8")
        playbook.chmod(0o600)
        argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", str(playbook)]
        argv += ["--check"] if check else []
        argv += ["--diff"] if diff else []
        with self.output_file.open("wb") as output:
            self.process = subprocess.Popen(
                argv,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **self._environment(), **env},
            )

    def _playbook(self, arguments: Arguments, interpreter: str) -> list[dict[str, t.Any]]:
        run = {"name": "Run", f"fileforge.ops.{self.name}": dict(arguments), "ignore_errors": True}
        play = {"name": "One module", "hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [run]}
        return [{**play, "vars": {"ansible_python_interpreter": interpreter}}]

    def _environment(self) -> dict[str, str]:
        return {
            **self.mark.environment,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callback"),
            "ANSIBLE_CALLBACKS_ENABLED": "keep_result",  # no journal
            "KEEP_RESULT": str(self.result_file),
            "ANSIBLE_HOME": str(self.directory / "ansible"),
            "ANSIBLE_ASYNC_DIR": str(self.directory / "async"),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_NOCOLOR": "true",
            "ANSIBLE_FORCE_COLOR": "false",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def module_processes(self) -> list[int]:
        """Pids of the module itself, wherever it runs."""
        return [pid for pid in self.mark.modules() if pid != self.process.pid]

    def wait_for(self, condition: t.Callable[[], object], timeout: float = 60, what: str = "the awaited moment") -> None:
        """Wait until the condition holds; fails at once when the run ends before."""

        def reached() -> bool:
            if condition():
                return True
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended before {what}:\n{self.output()}")
            return False

        wait_until(reached, timeout, what, every=0.01)

    def kill_module(self) -> None:
        """SIGKILL to the module and its helpers; Ansible itself lives on and reports the failure."""
        self.mark.kill(self.module_processes())

    def kill_controller(self) -> None:
        """SIGKILL to Ansible and to the module."""
        self.mark.kill([*self.mark.controllers(), *self.module_processes()])
        self.process.wait(10)

    def output(self) -> str:
        """What Ansible printed so far."""
        return self.output_file.read_text(encoding="utf-8", errors="replace")

    def wait(self, timeout: float = 300) -> dict[str, t.Any]:
        """Wait for the end; the module's result. A run without a result fails the test."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill_controller()
            raise AssertionError(f"{self.name} did not end within {timeout} s:\n{self.output()}") from None
        if not self.result_file.exists():
            raise AssertionError(f"{self.name} gave no result:\n{self.output()}")
        result: dict[str, t.Any] = json.loads(self.result_file.read_text(encoding="utf-8"))
        return result

    def close(self) -> None:
        """Leave nothing running."""
        if self.process.poll() is None:
            self.kill_controller()
        self.mark.kill(self.module_processes())


class ModuleStarter(t.Protocol):
    """Starts a module in the background."""

    def __call__(
        self,
        name: str,
        args: Arguments,
        *,
        check: bool = False,
        diff: bool = False,
        interpreter: str = sys.executable,
        env: Arguments | None = None,
    ) -> ModuleRun:
        """The running module."""


class ModuleRunner(t.Protocol):
    """Runs a module to its end."""

    def __call__(
        self,
        name: str,
        args: Arguments,
        check: bool = False,
        diff: bool = False,
        expect_failure: bool = False,
        *,
        timeout: float = 300,
        interpreter: str = sys.executable,
        env: Arguments | None = None,
    ) -> dict[str, t.Any]:
        """The module's result; ``output`` in it is what Ansible printed."""


@pytest.fixture
def start_module(place: Path) -> t.Iterator[ModuleStarter]:
    """Start a module through real Ansible in the background; kill it at will."""
    runs: list[ModuleRun] = []

    def start(
        name: str,
        args: Arguments,
        *,
        check: bool = False,
        diff: bool = False,
        interpreter: str = sys.executable,
        env: Arguments | None = None,
    ) -> ModuleRun:
        run = ModuleRun(place / "runs", name, args, check=check, diff=diff, interpreter=interpreter, env=env or {})
        runs.append(run)
        return run

    yield start
    for run in runs:
        run.close()


@pytest.fixture
def run_module(start_module: ModuleStarter) -> ModuleRunner:
    """Run a module through real Ansible with the repository's configuration and return its result."""

    def run(
        name: str,
        args: Arguments,
        check: bool = False,
        diff: bool = False,
        expect_failure: bool = False,
        *,
        timeout: float = 300,
        interpreter: str = sys.executable,
        env: Arguments | None = None,
    ) -> dict[str, t.Any]:
        started = time.monotonic()
        module = start_module(name, args, check=check, diff=diff, interpreter=interpreter, env=env)
        result = module.wait(timeout)
        result["output"] = module.output()
        result["seconds"] = time.monotonic() - started
        failed = bool(result.get("failed"))
        if failed != expect_failure:
            raise AssertionError(
                f"{name}: failed={failed}: {result.get('msg')}\n{result.get('exception', '')}\n{result['output'][-4000:]}"
            )
        return result

    return run
