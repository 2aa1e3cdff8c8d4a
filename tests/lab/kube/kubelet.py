# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The node: runs the pods that are bound to it and reports their status."""

from __future__ import annotations

import asyncio
import copy
import logging
import time

from . import resources
from .containers import Container, Host
from .events import Recorder
from .metrics import Meter
from .objects import Object, is_finished, is_terminating, now_text, parse_time, quantity, set_condition
from .runtime import Identity, Places, end
from .settings import POD_NETWORK, Settings
from .store import Store

TICK = 0.1
OOM_ANNOTATION = "lab.fileforge.ops/oom-kill"
EVICT_ANNOTATION = "lab.fileforge.ops/evict"
_LOG = logging.getLogger(__name__)


class Kubelet:
    """One task for each pod."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self.places = Places(settings.state)
        self.meter = Meter()
        events = Recorder(store, "kubelet")
        self._host = Host(store, self.places, Identity.of(settings.run_as), settings, events)
        self._workers: dict[str, tuple[PodWorker, asyncio.Task[None]]] = {}

    def register_node(self) -> None:
        settings = self._host.settings
        capacity = {"cpu": settings.cpu, "memory": settings.memory, "pods": "110"}
        conditions: list[Object] = []
        set_condition(conditions, "Ready", "True", "KubeletReady", "kubelet is posting ready status", lastHeartbeatTime=now_text())
        node: Object = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": settings.node, "labels": {"kubernetes.io/hostname": settings.node, "kubernetes.io/os": "linux"}},
            "spec": {},
            "status": {
                "capacity": capacity,
                "allocatable": capacity,
                "conditions": conditions,
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": settings.node}],
                "nodeInfo": {
                    "kubeletVersion": "v1.36.2",
                    "osImage": "lab",
                    "kernelVersion": "",
                    "containerRuntimeVersion": "lab://1",
                    "operatingSystem": "linux",
                    "architecture": "amd64",
                    "machineID": "",
                    "systemUUID": "",
                    "bootID": "",
                    "kubeProxyVersion": "",
                },
            },
        }
        known = self._store.find(resources.NODES, "", settings.node)
        if known is None:
            self._store.create(resources.NODES, node)
        else:
            self._store.update(resources.NODES, {**known, "status": node["status"]})

    def recover(self) -> None:
        """End containers of pods that no longer exist; those of the others are adopted as their workers start."""
        known = {pod["metadata"]["uid"] for pod in self._store.list(resources.PODS)}
        self.places.remove_strangers(known)

    async def run(self) -> None:
        while True:
            for pod in self._store.list(resources.PODS):
                uid = pod["metadata"]["uid"]
                if pod["spec"].get("nodeName") and uid not in self._workers:
                    worker = PodWorker(self._host, pod, self._free_address(pod), self.meter)
                    self._workers[uid] = (worker, asyncio.get_running_loop().create_task(worker.run()))
            for uid, (_unused, task) in list(self._workers.items()):
                if task.done():
                    task.result()
                    del self._workers[uid]
            if self.meter.due():
                workers = [worker for worker, _unused in self._workers.values()]
                self.meter.sample({key: pid for worker in workers for key, pid in worker.processes().items()})
            await asyncio.sleep(TICK)

    def _free_address(self, pod: Object) -> str:
        if pod["spec"].get("hostNetwork"):
            return "127.0.0.1"
        known = pod["status"].get("podIP")
        if known:
            return str(known)
        taken = {worker.address for worker, _unused in self._workers.values()}
        taken |= {other["status"].get("podIP", "") for other in self._store.list(resources.PODS)}
        return next(address for address in self._host.settings.addresses(POD_NETWORK) if address not in taken)

    def stop(self, grace: float) -> None:
        """End every container; the pods stay in the store and start again with the next server."""
        for _unused, task in self._workers.values():
            task.cancel()
        end([process for _unused, process in self.places.processes()], grace)


class PodWorker:
    """Follows one pod from its binding to its end."""

    def __init__(self, host: Host, pod: Object, address: str, meter: Meter) -> None:
        self._host = host
        self._store = host.store
        self._pod = pod
        self._meter = meter
        self.address = address
        self._init = [Container(host, pod, spec, address, init=True) for spec in pod["spec"].get("initContainers") or []]
        self._main = [Container(host, pod, spec, address, init=False) for spec in pod["spec"]["containers"]]
        self._killing = False

    @property
    def _containers(self) -> list[Container]:
        return self._init + self._main

    def processes(self) -> dict[tuple[str, str], int]:
        """The main process of each running container, by pod uid and container."""
        uid = self._pod["metadata"]["uid"]
        found = {(uid, container.name): container.process for container in self._containers if container.running}
        return {key: pid for key, process in found.items() if process is not None and (pid := process.pid) is not None}

    async def run(self) -> None:
        try:
            while True:
                pod = self._store.latest(resources.PODS, self._pod)
                if pod is None:
                    break
                self._pod = pod
                for container in self._containers:
                    container.pod = pod
                try:
                    if self._step():
                        break
                except Exception:
                    _LOG.exception("pod %s", pod["metadata"]["name"])
                await asyncio.sleep(TICK)
        finally:
            for container in self._containers:
                container.stop_probes()
        await self._clear()

    async def _clear(self) -> None:
        while any(container.running for container in self._containers):
            for container in self._containers:
                container.kill()
                if container.process is not None and container.process.exit() is not None:
                    container.terminated = {"exitCode": 137}
            await asyncio.sleep(0.02)
        self._host.places.forget(self._pod)

    def _step(self) -> bool:
        """One look at everything; whether the pod is over."""
        if is_terminating(self._pod):
            return self._shut_down()
        if self._evicted():
            return False
        if is_finished(self._pod) and all(not container.running for container in self._containers):
            return False
        initialised = self._step_init()
        if initialised:
            for container in self._main:
                container.step()
        self._watch_memory()
        self._report(initialised)
        return False

    def _evicted(self) -> bool:
        """Kill and fail a pod that is to be evicted; what the annotation says is the message."""
        message = (self._pod["metadata"].get("annotations") or {}).get(EVICT_ANNOTATION)
        if message is None:
            return False
        for container in self._containers:
            if container.running:
                container.stop_probes()
                container.kill()
                container.step()
        if any(container.running for container in self._containers):
            return True
        if not is_finished(self._pod):
            self._report(True)
            status: Object = copy.deepcopy(self._pod["status"])
            set_condition(status["conditions"], "DisruptionTarget", "True", "TerminationByKubelet", message)
            status.update(phase="Failed", reason="Evicted", message=message)
            self._host.events.warning(self._pod, "Evicted", message)
            self._pod = self._store.set_status(resources.PODS, self._pod, status) or self._pod
        return True

    def _step_init(self) -> bool:
        for container in self._init:
            if not (container.done and container.succeeded):
                if not container.done:
                    container.step()
                return False
        return True

    def _shut_down(self) -> bool:
        metadata = self._pod["metadata"]
        end_at = parse_time(metadata["deletionTimestamp"])
        for container in self._containers:
            if container.running:
                if not self._killing:
                    container.stop_probes()
                    self._host.events.normal(self._pod, "Killing", f"Stopping container {container.name}", container.name)
                container.terminate()
                if time.time() > end_at + 1:
                    container.kill()
                container.step()
        self._killing = True
        if any(container.running for container in self._containers):
            self._report(True)
            return False
        self._report(True)
        if metadata.get("finalizers"):
            return False
        found = self._store.latest(resources.PODS, self._pod)
        if found is not None:
            self._store.delete(resources.PODS, found)
        return True

    def _watch_memory(self) -> None:
        annotations = self._pod["metadata"].get("annotations") or {}
        asked = annotations.get(OOM_ANNOTATION)
        for container in self._main:
            limit = ((container.spec.get("resources") or {}).get("limits") or {}).get("memory")
            used = self._meter.usage(self._pod["metadata"]["uid"], container.name)
            over = limit is not None and used is not None and used.private > quantity(limit)
            if container.running and (over or asked == container.name):
                container.kill("OOMKilled")
        if asked is not None:
            pod = copy.deepcopy(self._pod)
            del pod["metadata"]["annotations"][OOM_ANNOTATION]
            self._pod = self._store.update(resources.PODS, pod, spec_changes=False)

    # status

    def _phase(self, initialised: bool) -> str:
        if any(container.done and not container.succeeded for container in self._init):
            return "Failed"
        if not initialised or not all(container.begun for container in self._main):
            return "Pending"
        if all(container.done for container in self._main):
            return "Succeeded" if all(container.succeeded for container in self._main) else "Failed"
        return "Running"

    def _report(self, initialised: bool) -> None:
        status: Object = copy.deepcopy(self._pod["status"])
        phase = self._phase(initialised)
        status.update(
            {
                "observedGeneration": self._pod["metadata"].get("generation", 1),
                "phase": phase,
                "hostIP": "127.0.0.1",
                "hostIPs": [{"ip": "127.0.0.1"}],
                "podIP": self.address,
                "podIPs": [{"ip": self.address}],
                "qosClass": _quality(self._pod),
                "containerStatuses": [container.status() for container in self._main],
            }
        )
        status.setdefault("startTime", now_text())
        if self._init:
            status["initContainerStatuses"] = [container.status() for container in self._init]
        conditions = status.setdefault("conditions", [])
        unready = [container.name for container in self._main if not container.ready]
        finished = phase == "Succeeded"
        why = f"containers with unready status: [{' '.join(unready)}]"
        set_condition(conditions, "PodReadyToStartContainers", "True")
        waiting = [container.name for container in self._init if not container.succeeded]
        _state(conditions, "Initialized", initialised, "ContainersNotInitialized", f"containers with incomplete status: {waiting}")
        for kind in ("ContainersReady", "Ready"):
            reason = "PodCompleted" if finished else "ContainersNotReady"
            _state(conditions, kind, not unready and not is_terminating(self._pod), reason, "" if finished else why)
        if status != self._pod["status"]:
            found = self._store.set_status(resources.PODS, self._pod, status)
            self._pod = found if found is not None else self._pod


def _state(conditions: list[Object], kind: str, good: bool, reason: str, message: str) -> None:
    set_condition(conditions, kind, str(good), "" if good else reason, "" if good else message)


def _quality(pod: Object) -> str:
    resources_of = [container.get("resources") or {} for container in pod["spec"]["containers"]]
    if not any(entry.get("requests") or entry.get("limits") for entry in resources_of):
        return "BestEffort"
    wanted = ("cpu", "memory")
    equal = all(
        entry.get("limits")
        and entry.get("requests", entry["limits"]) == entry["limits"]
        and all(n in entry["limits"] for n in wanted)
        for entry in resources_of
    )
    return "Guaranteed" if equal else "Burstable"
