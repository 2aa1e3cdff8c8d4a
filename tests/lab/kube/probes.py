# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Readiness, liveness and startup probes, really performed."""

from __future__ import annotations

import asyncio
import contextlib
import time
import typing as t

import aiohttp

from .objects import Object

Runner = t.Callable[[list[str]], t.Awaitable[asyncio.subprocess.Process]]
"""Starts a program in the container's environment, as the container's user."""


class Prober:
    """One probe of one container: its thresholds and its last verdict."""

    def __init__(self, probe: Object, container: Object, address: str, run: Runner, *, passing: bool) -> None:
        self._probe = probe
        self._container = container
        self._address = address
        self._run = run
        self._next = time.monotonic() + float(probe.get("initialDelaySeconds", 0))
        self._streak = 0
        self._last: bool | None = None
        self.passing = passing
        self.problem = ""

    async def tick(self) -> bool | None:
        """Probe if it is time to; the single result (not the verdict), or None when it was not."""
        if time.monotonic() < self._next:
            return None
        good = await self._once()
        self._next = time.monotonic() + float(self._probe["periodSeconds"])
        self._streak = self._streak + 1 if good is self._last else 1
        self._last = good
        threshold = self._probe["successThreshold"] if good else self._probe["failureThreshold"]
        if self._streak >= threshold:
            self.passing = good
        return good

    @property
    def exhausted(self) -> bool:
        """Whether the failure threshold has been reached."""
        return self._last is False and self._streak >= int(self._probe["failureThreshold"])

    async def _once(self) -> bool:
        timeout = float(self._probe["timeoutSeconds"])
        try:
            async with asyncio.timeout(timeout):
                if "httpGet" in self._probe:
                    return await self._http(self._probe["httpGet"])
                if "tcpSocket" in self._probe:
                    return await self._tcp(self._probe["tcpSocket"])
                return await self._exec(self._probe["exec"]["command"])
        except TimeoutError:
            self.problem = f"probe timed out after {timeout:g}s"
        except (OSError, aiohttp.ClientError) as error:
            self.problem = f"{type(error).__name__}: {error}"
        return False

    def _port(self, port: t.Any) -> int:
        for known in self._container.get("ports") or []:
            if known.get("name") == port:
                return int(known["containerPort"])
        return int(port)

    async def _http(self, get: Object) -> bool:
        host = get.get("host") or self._address
        path = get["path"] if get["path"].startswith("/") else f"/{get['path']}"
        url = f"{get['scheme'].lower()}://{host}:{self._port(get['port'])}{path}"
        headers = {"User-Agent": "kube-probe/1.36"}
        headers.update({header["name"]: header["value"] for header in get.get("httpHeaders") or []})
        async with aiohttp.ClientSession() as session:
            async with session.get(url, headers=headers, ssl=False, allow_redirects=False) as response:
                if 200 <= response.status < 400:
                    return True
                body = (await response.content.read(200)).decode(errors="replace")
                self.problem = f"HTTP probe failed with statuscode: {response.status}"
                if body:
                    self.problem += f" ({body.strip()})"
                return False

    async def _tcp(self, socket: Object) -> bool:
        _unused, writer = await asyncio.open_connection(socket.get("host") or self._address, self._port(socket["port"]))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True

    async def _exec(self, command: list[str]) -> bool:
        process = await self._run(command)
        try:
            output, _unused = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode == 0:
            return True
        self.problem = f"command exited with {process.returncode}: {output.decode(errors='replace').strip()[:200]}"
        return False
