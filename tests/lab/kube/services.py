# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services: an address and ports that forward to the ready pods."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import typing as t

from . import resources
from .objects import Object, is_ready, is_terminating
from .selectors import matches_object
from .settings import SERVICE_NETWORK, Settings
from .store import Store

_LOG = logging.getLogger(__name__)
Place = tuple[str, int]


class ServiceProxy:
    """Keeps one listener for every port of every Service."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._listeners: dict[Place, tuple[str, t.Any, asyncio.Server]] = {}
        self._turn = itertools.count()
        self._connections: set[asyncio.Task[None]] = set()

    async def reconcile(self) -> None:
        wanted: dict[Place, tuple[str, t.Any, Object]] = {}
        for service in self._store.list(resources.SERVICES):
            if is_terminating(service) or not service["spec"].get("selector"):
                continue
            address = self._address(service)
            for port in service["spec"].get("ports") or []:
                entry = (service["metadata"]["uid"], port["targetPort"], service)
                if address:
                    wanted[address, port["port"]] = entry
                if port.get("nodePort"):
                    wanted["127.0.0.1", port["nodePort"]] = entry
        for place, (uid, target, server) in list(self._listeners.items()):
            if place not in wanted or wanted[place][:2] != (uid, target):
                server.close()
                del self._listeners[place]
        for place, (uid, target, service) in wanted.items():
            if place not in self._listeners:
                await self._listen(place, uid, target, service)

    async def _listen(self, place: Place, uid: str, target: t.Any, service: Object) -> None:
        try:
            server = await asyncio.start_server(lambda r, w: self._forward(service, target, r, w), *place, reuse_address=True)
        except OSError as error:
            _LOG.warning("service %s: cannot listen on %s:%s: %s", service["metadata"]["name"], *place, error)
            return
        self._listeners[place] = (uid, target, server)

    def _address(self, service: Object) -> str:
        """The service's address; gives one to a new service."""
        address = service["spec"].get("clusterIP")
        if address == "None" or service["spec"]["type"] == "ExternalName":
            return ""
        if not address:
            taken = {other["spec"].get("clusterIP") for other in self._store.list(resources.SERVICES)}
            address = next(candidate for candidate in self._settings.addresses(SERVICE_NETWORK) if candidate not in taken)
            spec = {**service["spec"], "clusterIP": address, "clusterIPs": [address]}
            self._store.update(resources.SERVICES, {**service, "spec": spec})
        return str(address)

    def endpoints(self, service: Object, target: t.Any) -> list[Place]:
        selector = {"matchLabels": service["spec"].get("selector") or {}}
        found = []
        for pod in self._store.list(resources.PODS, service["metadata"]["namespace"]):
            if is_ready(pod) and not is_terminating(pod) and matches_object(selector, pod["metadata"].get("labels") or {}):
                found.append((pod["status"]["podIP"], _port(pod, target)))
        return found

    async def _forward(self, seen: Object, target: t.Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
        service = self._store.latest(resources.SERVICES, seen) or seen
        places = self.endpoints(service, target)
        try:
            for _unused in places:
                place = places[next(self._turn) % len(places)]
                try:
                    upstream = await asyncio.open_connection(*place)
                except OSError:
                    continue
                await asyncio.gather(_pump(reader, upstream[1]), _pump(upstream[0], writer))
                return
        finally:
            writer.close()
            if task is not None:
                self._connections.discard(task)

    def stop(self) -> None:
        for _unused, _unused, server in self._listeners.values():
            server.close()
        for task in self._connections:
            task.cancel()


def _port(pod: Object, target: t.Any) -> int:
    for container in pod["spec"]["containers"]:
        for port in container.get("ports") or []:
            if port.get("name") == target:
                return int(port["containerPort"])
    return int(target)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
            return
    sink.close()
