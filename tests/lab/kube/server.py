# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts the parts together: store, controllers, node, services, HTTP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import json
import logging
import os
import time
from pathlib import Path

from aiohttp import web

from . import certificate, creation, deletion, events, resources
from .api import Api
from .auth import Tokens
from .deployments import DeploymentController
from .kubelet import Kubelet
from .scheduler import Scheduler
from .services import ServiceProxy
from .settings import Settings
from .store import Store
from .workloads import DaemonSetController, JobController, ReplicaSetController, StatefulSetController

IDLE = 0.5
"""Seconds between looks at deadlines when nothing changes."""
SETTLE = 0.05
STOP_GRACE = 10.0
_LOG = logging.getLogger(__name__)


class Cluster:
    """The whole emulator in one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _lock(settings.state)
        self.store = Store(settings.state / "objects.sqlite")
        self.kubelet = Kubelet(self.store, settings)
        self.tokens = Tokens(settings.token_file, self.store)
        self._api = Api(self.store, self.kubelet, self.tokens)
        self._proxy = ServiceProxy(self.store, settings)
        self._controllers = (
            DeploymentController(self.store),
            ReplicaSetController(self.store),
            StatefulSetController(self.store),
            DaemonSetController(self.store),
            JobController(self.store),
            Scheduler(self.store),
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None
        self._authority: Path | None = None
        self.port = 0

    async def start(self) -> None:
        for name in ("default", "kube-system"):
            if self.store.find(resources.NAMESPACES, "", name) is None:
                creation.create(self.store, resources.NAMESPACES, "", {"metadata": {"name": name}})
        self.kubelet.register_node()
        self.kubelet.recover()
        application = web.Application(client_max_size=16 * 1024 * 1024)
        application.router.add_route("*", "/{path:.*}", self._api.handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=2.0)
        await self._runner.setup()
        tls, self._authority = certificate.context(self._settings.state) if self._settings.tls else (None, None)
        site = web.TCPSite(self._runner, "127.0.0.1", self._settings.port, ssl_context=tls)
        await site.start()
        self.port = self._runner.addresses[0][1]
        for work in (self._control(), self.kubelet.run()):
            self._tasks.append(asyncio.get_running_loop().create_task(work))

    async def stop(self) -> None:
        """End all pods, then the server. What is in the store starts again with the next one."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(None, self.kubelet.stop, STOP_GRACE)
        self._proxy.stop()
        self._api.stop_streams()
        if self._runner is not None:
            await self._runner.cleanup()
        self.store.close()
        os.close(self._lock)

    async def failed(self) -> None:
        """Return when one of the tasks that must run for ever does not."""
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def _control(self) -> None:
        swept = time.monotonic()
        while True:
            seen = self.store.revision
            for controller in self._controllers:
                with _logged(type(controller).__name__):
                    controller.reconcile()
            with _logged("garbage collector"):
                deletion.collect_garbage(self.store)
            with _logged("service proxy"):
                await self._proxy.reconcile()
            if time.monotonic() - swept > 60:
                swept = time.monotonic()
                events.forget_old(self.store)
            await asyncio.sleep(SETTLE)
            await self.store.wait_for_change(seen, IDLE)

    @property
    def url(self) -> str:
        return f"{'https' if self._settings.tls else 'http'}://127.0.0.1:{self.port}"

    def write_kubeconfig(self, path: Path) -> None:
        """A kubeconfig (JSON is YAML) for the first admin of the token file."""
        token = self.tokens.first("admin")
        cluster = {"server": self.url}
        if self._authority is not None:
            cluster["certificate-authority-data"] = base64.b64encode(self._authority.read_bytes()).decode()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": "lab", "user": {"token": token} if token else {}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab", "namespace": "default"}}],
        }
        partial = path.with_name(f"{path.name}.partial")
        partial.touch(0o600)
        partial.write_text(json.dumps(config, indent=2) + "\n")
        partial.replace(path)


@contextlib.contextmanager
def _logged(what: str):  # type: ignore[no-untyped-def]
    """A defect in one controller must not stop the others."""
    try:
        yield
    except Exception:
        _LOG.exception("%s", what)


def _lock(state: Path) -> int:
    """One server for each state directory; the kernel lets go when it dies."""
    handle = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise SystemExit(f"another server uses {state}") from None
    return handle
