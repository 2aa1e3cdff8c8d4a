# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Command line: see the package."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from pathlib import Path

from .runtime import Places, end
from .server import STOP_GRACE, Cluster, _lock
from .settings import Settings


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.kube", description="A small Kubernetes API with local pods.")
    parser.add_argument("--state", type=Path, required=True, help="directory for objects, containers and their logs")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--token-file", type=Path, help="lines TOKEN,USER,admin|view|rbac; without it everybody is admin")
    parser.add_argument("--tls", action="store_true", help="serve HTTPS: kubectl sends tokens over TLS only")
    parser.add_argument("--kubeconfig", type=Path, help="write a kubeconfig for the first admin to this file")
    parser.add_argument("--run-as", help="user that containers run as (the server must be root)")
    parser.add_argument("--node", default="lab", help="name of the one node")
    parser.add_argument("--cpu", default="8", help="what the node can allocate")
    parser.add_argument("--memory", default="16Gi", help="what the node can allocate")
    parser.add_argument("--restart-backoff", type=float, default=1.0, help="seconds before a container's second restart; doubles")
    parser.add_argument("--restart-backoff-limit", type=float, default=30.0, help="longest wait between restarts")
    parser.add_argument("--reap", action="store_true", help="end the containers that a killed server has left, and exit")
    return parser.parse_args()


async def serve(settings: Settings, kubeconfig: Path | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    cluster = Cluster(settings)
    await cluster.start()
    if kubeconfig is not None:
        cluster.write_kubeconfig(kubeconfig)
    print(f"ready {cluster.url}", flush=True)
    stopping = asyncio.get_running_loop().create_task(stop.wait())
    failing = asyncio.get_running_loop().create_task(cluster.failed())
    try:
        await asyncio.wait((stopping, failing), return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            failing.result()
    finally:
        failing.cancel()
        stopping.cancel()
        await cluster.stop()


def main() -> None:
    given = arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    if given.reap:
        if given.state.exists():
            _lock(given.state)
            end([process for _unused, process in Places(given.state).processes()], STOP_GRACE)
        return
    settings = Settings(
        state=given.state.absolute(),
        port=given.port,
        token_file=given.token_file,
        tls=given.tls,
        run_as=given.run_as,
        node=given.node,
        cpu=given.cpu,
        memory=given.memory,
        backoff=given.restart_backoff,
        backoff_limit=given.restart_backoff_limit,
    )
    asyncio.run(serve(settings, given.kubeconfig))


if __name__ == "__main__":
    main()
