# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts, stops and kills the server for the tests, and asks it with kubectl."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import typing as t
import uuid
from pathlib import Path

from tests.lab import ROOT
from tests.lab.daemon import Daemon, wait_until
from tests.lab.place import PlaceError
from tests.lab.ports import free_port

from .objects import Object
from .runtime import Places

ADMIN, VIEWER = "admin-token-of-the-tests", "view-token-of-the-tests"


def kubectl_program() -> str:
    """Path of kubectl, in the development environment or on PATH."""
    beside = Path(sys.executable).parent / "kubectl"
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    if found is None:
        raise PlaceError("kubectl is not installed: the development requirements bring it (make)")
    return found


class KubeServer:
    """One server with its state below ``root``, reachable with ADMIN's and VIEWER's tokens."""

    def __init__(self, root: Path, *options: str) -> None:
        self.root = root
        self.state = root / "state"
        self.kubeconfig = root / "kubeconfig"
        self._options = options
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.daemon = Daemon("kube", root)

    def start(self) -> KubeServer:
        self.root.mkdir(parents=True, exist_ok=True)
        tokens = self.tokens
        tokens.touch(0o600)
        if not tokens.read_text(encoding="utf-8"):
            tokens.write_text(f"{ADMIN},admin,admin\n{VIEWER},viewer,view\n", encoding="utf-8")
        self.kubeconfig.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "tests.lab.kube", "--port", str(self.port), "--state", str(self.state), "--tls"]
        argv += ["--token-file", str(tokens), "--kubeconfig", str(self.kubeconfig), *self._options]
        self.daemon.start(argv, cwd=str(ROOT))
        wait_until(self._ready, 30, "the API to answer")
        return self

    @property
    def tokens(self) -> Path:
        return self.root / "tokens"

    def add_token(self, user: str, right: str) -> str:
        """A token for another user; the server reads it with the next request."""
        token = f"token-of-{user.replace(':', '-')}-{uuid.uuid4().hex[:8]}"
        partial = self.tokens.with_suffix(".partial")
        partial.touch(0o600)
        partial.write_text(f"{self.tokens.read_text(encoding='utf-8')}{token},{user},{right}\n", encoding="utf-8")
        partial.replace(self.tokens)
        return token

    def _ready(self) -> bool:
        if self.daemon.pid is None:
            raise RuntimeError(f"the server ended:\n{self.daemon.last_lines()}")
        return self.kubeconfig.exists()

    def stop(self) -> None:
        self.daemon.stop(grace=30)

    def kill(self) -> None:
        """SIGKILL to the server alone: its containers have sessions of their own."""
        self.daemon.kill()

    def destroy(self) -> None:
        self.stop()
        subprocess.run(
            [sys.executable, "-m", "tests.lab.kube", "--state", str(self.state), "--reap"], cwd=ROOT, timeout=60, check=True
        )
        shutil.rmtree(self.root, ignore_errors=True)

    def containers(self) -> list[int]:
        """Pids of the containers' main processes, as they are on disk."""
        return [pid for _unused, process in Places(self.state).processes() if (pid := process.pid) is not None]

    def kubectl(self, *arguments: str, stdin: str | None = None, fails: bool = False, timeout: float = 60) -> str:
        """Run kubectl; its output, standard error included."""
        done = subprocess.run(
            [kubectl_program(), "--kubeconfig", str(self.kubeconfig), *arguments],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            env={**os.environ, "HOME": str(self.root)},
            check=False,
        )
        if (done.returncode != 0) is not fails:
            raise AssertionError(f"kubectl {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def apply(self, *objects: Object) -> None:
        self.kubectl("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, objects)))

    def get(self, *arguments: str) -> Object:
        found: Object = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def options(self, token: str = ADMIN) -> dict[str, t.Any]:
        """The connection options of the collection's modules."""
        return {"kube_host": self.url, "kube_token": token, "kube_ca_cert": str(self.state / "ca.pem"), "kube_timeout": 10}


def workload(kind: str, name: str, namespace: str, container: Object, *, replicas: int | None = 2, **spec: t.Any) -> Object:
    """A Deployment, StatefulSet or DaemonSet with one container; ``spec`` is added to its spec."""
    labels = {"app": name}
    container = {"name": "app", "image": "app:1", **container}
    template = {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 2, "containers": [container]}}
    count = {} if replicas is None else {"replicas": replicas}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**count, "selector": {"matchLabels": labels}, "template": template, **spec},
    }
