# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""One container of a pod: waiting, running or terminated, restarted with back-off."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
import typing as t

from .environment import ConfigError, command_of, environment_of
from .events import Recorder
from .objects import Object
from .probes import Prober
from .runtime import Exit, Identity, Places, Process
from .settings import Settings, pull_problem
from .store import Store

PULL_RETRY = 5.0
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


class Host(t.NamedTuple):
    """What all containers of the node share."""

    store: Store
    places: Places
    identity: Identity
    settings: Settings
    events: Recorder


class Container:
    """Follows one entry of spec.containers or spec.initContainers."""

    def __init__(self, host: Host, pod: Object, spec: Object, address: str, *, init: bool) -> None:
        self._host = host
        self.pod = pod
        self.spec = spec
        self.name: str = spec["name"]
        self._address = address
        self._policy = _policy(pod, init)
        self._env: dict[str, str] = {}
        self._probers: dict[str, Prober] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._retry_at = 0.0
        self._waiting: Object = {"reason": "ContainerCreating" if not init else "PodInitializing"}
        self._failures = 0
        self.last: Object = {}
        self.terminated: Object | None = None
        number = host.places.last_attempt(pod, self.name)
        self.restarts = number or 0
        self.process: Process | None = None
        if number is not None:
            self._adopt(number)

    def _adopt(self, number: int) -> None:
        """Take over what an earlier server started."""
        self.process = Process(self._host.places.attempt(self.pod, self.name, number))
        if number:
            before = Process(self._host.places.attempt(self.pod, self.name, number - 1)).exit()
            self.last = {"terminated": before.as_terminated(self._id(number - 1))} if before is not None else {}
        with contextlib.suppress(ConfigError):
            self._env = environment_of(self._host.store, self.pod, self.spec, self._address, self._host.identity.home)
        if self.process.exit() is None:
            known = {status["name"]: status for status in self.pod["status"].get("containerStatuses") or []}
            self._start_probes(ready=known.get(self.name, {}).get("ready", False))

    # what others ask

    @property
    def running(self) -> bool:
        return self.process is not None and self.terminated is None

    @property
    def done(self) -> bool:
        """Terminated for good."""
        return self.terminated is not None and not self._restarts_after(self.terminated["exitCode"])

    @property
    def succeeded(self) -> bool:
        return self.terminated is not None and self.terminated["exitCode"] == 0

    @property
    def begun(self) -> bool:
        return self.process is not None or bool(self.last)

    @property
    def _is_started(self) -> bool:
        if self.process is None or self.terminated is not None or self.process.started is None:
            return False
        startup = self._probers.get("startupProbe")
        return startup is None or startup.passing

    @property
    def ready(self) -> bool:
        readiness = self._probers.get("readinessProbe")
        return self._is_started and (readiness is None or readiness.passing)

    def status(self) -> Object:
        status: Object = {
            "name": self.name,
            "state": self._state(),
            "lastState": self._last_state(),
            "ready": self.ready or (self.done and self.succeeded and self._policy != "Always"),
            "restartCount": self.restarts,
            "image": self.spec.get("image", ""),
            "imageID": "",
            "started": self._is_started,
        }
        if self.process is not None:
            status["imageID"] = f"lab/{self.spec.get('image', '')}"
            status["containerID"] = self._id(self.restarts)
        return status

    def _state(self) -> Object:
        if self.process is None:
            return {"waiting": self._waiting}
        if self.terminated is None:
            started = self.process.started
            if started is None:
                return {"waiting": {"reason": "ContainerCreating"}}
            return {"running": {"startedAt": f"{started['time'][:19]}Z"}}
        if not self._backing_off:
            return {"terminated": self.terminated}
        wait = self._delay()
        identity = f"{self.pod['metadata']['name']}_{self.pod['metadata']['namespace']}({self.pod['metadata']['uid']})"
        message = f"back-off {wait:g}s restarting failed container={self.name} pod={identity}"
        return {"waiting": {"reason": "CrashLoopBackOff", "message": message}}

    @property
    def _backing_off(self) -> bool:
        """Ended, and waiting to be started again."""
        return self.terminated is not None and not self.done and time.monotonic() < self._retry_at

    def _last_state(self) -> Object:
        """While it waits to be started again, the run that ended last is the last state."""
        return {"terminated": self.terminated} if self._backing_off else self.last

    def _id(self, number: int) -> str:
        return f"lab://{self.pod['metadata']['uid']}/{self.name}/{number}"

    # what happens

    def step(self) -> None:
        """Look at the process; start or restart it when it is time to."""
        now = time.monotonic()
        if self.process is None:
            if now >= self._retry_at:
                self._try_start(0)
        elif self.terminated is None:
            ended = self.process.exit()
            if ended is not None:
                self._ended(ended)
        elif not self.done and now >= self._retry_at:
            self._try_start(self.restarts + 1)

    def _restarts_after(self, code: int) -> bool:
        return self._policy == "Always" or (self._policy == "OnFailure" and code != 0)

    def _delay(self) -> float:
        """The first restart is at once, then the wait doubles."""
        if self._failures <= 1:
            return 0.0
        return float(min(self._host.settings.backoff_limit, self._host.settings.backoff * 2 ** (self._failures - 2)))

    def _try_start(self, number: int) -> None:
        if self._pull_fails():
            return
        try:
            env = environment_of(self._host.store, self.pod, self.spec, self._address, self._host.identity.home)
        except ConfigError as error:
            self._wait("CreateContainerConfigError", str(error))
            self._host.events.warning(self.pod, "Failed", f"Error: {error}", self.name)
            return
        if self.terminated is not None:
            self.last = {"terminated": self.terminated}
        process = Process(self._host.places.attempt(self.pod, self.name, number))
        grace = float(self.pod["spec"].get("terminationGracePeriodSeconds", 30))
        process.start(command_of(self.spec, env), env, self.spec.get("workingDir") or "/", grace, self._host.identity)
        self._env, self.process, self.terminated, self.restarts = env, process, None, number
        self._host.places.forget_attempts_before(self.pod, self.name, number)
        self._host.events.normal(self.pod, "Created", f"Container created: {self.name}", self.name)
        self._host.events.normal(self.pod, "Started", f"Container started: {self.name}", self.name)
        self._start_probes(ready=False)

    def _pull_fails(self) -> bool:
        image = self.spec.get("image", "")
        problem = pull_problem(self._host.store, image)
        if problem is None:
            return False
        events = self._host.events
        if self._waiting["reason"] == "ErrImagePull":
            events.normal(self.pod, "BackOff", f'Back-off pulling image "{image}"', self.name)
            events.warning(self.pod, "Failed", "Error: ImagePullBackOff", self.name)
            self._wait("ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: {problem}')
            self._retry_at = time.monotonic() + PULL_RETRY
            return True
        events.normal(self.pod, "Pulling", f'Pulling image "{image}"', self.name)
        events.warning(self.pod, "Failed", f'Failed to pull image "{image}": {problem}', self.name)
        events.warning(self.pod, "Failed", "Error: ErrImagePull", self.name)
        self._wait("ErrImagePull", f'failed to pull and unpack image "{image}": {problem}')
        return True

    def _wait(self, reason: str, message: str) -> None:
        self._waiting = {"reason": reason, "message": message}
        self._retry_at = time.monotonic() + 1.0

    def _ended(self, ended: Exit) -> None:
        self.stop_probes()
        if ended.reason == "StartError":
            ended = Exit(128, ended.reason, ended.started, ended.finished, f"failed to start: {ended.message}")
        self.terminated = ended.as_terminated(self._id(self.restarts))
        if not self._restarts_after(ended.code) or "deletionTimestamp" in self.pod["metadata"]:
            return
        self._failures += 1
        self._retry_at = time.monotonic() + self._delay()
        if self._delay():
            metadata = self.pod["metadata"]
            where = f"{metadata['name']}_{metadata['namespace']}({metadata['uid']})"
            message = f"Back-off restarting failed container {self.name} in pod {where}"
            self._host.events.warning(self.pod, "BackOff", message, self.name)

    def terminate(self) -> None:
        if self.running and self.process is not None:
            self.process.terminate()

    def kill(self, reason: str = "") -> None:
        if self.running and self.process is not None:
            self.process.kill(reason)

    # probes

    def _start_probes(self, *, ready: bool) -> None:
        self.stop_probes()
        for field in PROBES:
            if self.spec.get(field):
                passing = field == "livenessProbe" or ready
                self._probers[field] = Prober(self.spec[field], self.spec, self._address, self._run, passing=passing)
                self._tasks.append(asyncio.get_running_loop().create_task(self._probe(field)))

    def stop_probes(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks, self._probers = [], {}

    async def _probe(self, field: str) -> None:
        prober = self._probers[field]
        word = field.removesuffix("Probe").capitalize()
        while True:
            if self.process is not None and self.process.started and self._may_probe(field):
                good = await prober.tick()
                if good is False:
                    self._host.events.warning(self.pod, "Unhealthy", f"{word} probe failed: {prober.problem}", self.name)
                    if field != "readinessProbe" and prober.exhausted:
                        message = f"Container {self.name} failed {word.lower()} probe, will be restarted"
                        self._host.events.normal(self.pod, "Killing", message, self.name)
                        self.terminate()
                        return
                if field == "startupProbe" and prober.passing:
                    return
            await asyncio.sleep(0.1)

    def _may_probe(self, field: str) -> bool:
        startup = self._probers.get("startupProbe")
        return field == "startupProbe" or startup is None or startup.passing

    async def _run(self, command: list[str]) -> asyncio.subprocess.Process:
        identity = self._host.identity
        switch: dict[str, t.Any] = {}
        if identity.uid is not None:
            switch = {"user": identity.uid, "group": identity.gid, "extra_groups": list(identity.groups)}
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._env,
            cwd=self.spec.get("workingDir") or "/",
            **switch,
        )


def _policy(pod: Object, init: bool) -> str:
    policy: str = pod["spec"]["restartPolicy"]
    return "OnFailure" if init and policy == "Always" else policy
