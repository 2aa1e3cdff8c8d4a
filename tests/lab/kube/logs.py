# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The log subresource: tail, since, limit, previous, timestamps and follow."""

from __future__ import annotations

import asyncio
import dataclasses
import typing as t
from pathlib import Path

from . import resources
from .errors import bad_request
from .objects import Object, parse_time
from .runtime import Places, Process
from .store import Store

POLL = 0.1


def _true(text: str | None) -> bool:
    return text in ("true", "1", "True")


@dataclasses.dataclass(frozen=True)
class LogRequest:
    """What the query asks for."""

    container: str
    follow: bool
    previous: bool
    timestamps: bool
    tail: int | None
    since: float | None
    limit: int | None

    @classmethod
    def of(cls, pod: Object, query: t.Mapping[str, str], now: float) -> LogRequest:
        names = [entry["name"] for field in ("initContainers", "containers") for entry in pod["spec"].get(field) or []]
        name = pod["metadata"]["name"]
        container = query.get("container")
        if container is None:
            if len(names) > 1:
                raise bad_request(f"a container name must be specified for pod {name}, choose one of: [{' '.join(names)}]")
            container = names[0]
        if container not in names:
            raise bad_request(f"container {container} is not valid for pod {name}")
        since = parse_time(query["sinceTime"]) if "sinceTime" in query else None
        if "sinceSeconds" in query:
            since = now - int(query["sinceSeconds"])
        return cls(
            container,
            _true(query.get("follow")),
            _true(query.get("previous")),
            _true(query.get("timestamps")),
            int(query["tailLines"]) if "tailLines" in query else None,
            since,
            int(query["limitBytes"]) if "limitBytes" in query else None,
        )

    def render(self, line: bytes) -> bytes:
        return line if self.timestamps else line.partition(b" ")[2]

    def select(self, lines: list[bytes]) -> bytes:
        """The wanted part of complete lines."""
        if self.since is not None:
            lines = [line for line in lines if parse_time(line.partition(b" ")[0].decode()) >= self.since]
        if self.tail is not None:
            lines = lines[len(lines) - min(len(lines), self.tail) :]
        text = b"".join(self.render(line) + b"\n" for line in lines)
        return text if self.limit is None else text[: self.limit]


def _status_of(pod: Object, container: str) -> Object:
    fields = ("initContainerStatuses", "containerStatuses")
    found = [entry for field in fields for entry in pod["status"].get(field) or [] if entry["name"] == container]
    return found[0] if found else {}


def _backing_off(pod: Object, container: str) -> bool:
    """Whether the run that ended last is the previous one, because the next one has not begun."""
    return "waiting" in _status_of(pod, container).get("state", {})


def process_of(places: Places, pod: Object, request: LogRequest) -> Process:
    """The attempt whose log is wanted; raises BadRequest as the server does when there is none."""
    name = pod["metadata"]["name"]
    number = places.last_attempt(pod, request.container)
    if number is None:
        waiting = _status_of(pod, request.container).get("state", {}).get("waiting", {})
        reason = waiting.get("reason", "ContainerCreating")
        if reason in ("ErrImagePull", "ImagePullBackOff"):
            reason = "trying and failing to pull image"
        raise bad_request(f'container "{request.container}" in pod "{name}" is waiting to start: {reason}')
    if request.previous:
        number -= not _backing_off(pod, request.container)
        if number < 0 or not places.attempt(pod, request.container, number).exists():
            raise bad_request(f'previous terminated container "{request.container}" in pod "{name}" not found')
    return Process(places.attempt(pod, request.container, number))


def _read_lines(path: Path) -> tuple[list[bytes], int]:
    """Complete lines and where they end."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    end = data.rfind(b"\n") + 1
    return data[:end].split(b"\n")[:-1], end


async def stream(store: Store, process: Process, pod: Object, request: LogRequest) -> t.AsyncIterator[bytes]:
    """The log, and with ``follow`` what comes until the container ends."""
    lines, position = _read_lines(process.log)
    yield request.select(lines)
    while request.follow:
        ended = process.exit() is not None or store.latest(resources.PODS, pod) is None
        try:
            with process.log.open("rb") as source:
                source.seek(position)
                data = source.read()
        except FileNotFoundError:
            data = b""
        end = data.rfind(b"\n") + 1
        position += end
        if end:
            yield b"".join(request.render(line) + b"\n" for line in data[:end].split(b"\n")[:-1])
        elif ended:
            return
        await asyncio.sleep(POLL)
