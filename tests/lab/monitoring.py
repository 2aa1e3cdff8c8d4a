# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prometheus and its node exporter: scraping the application's pods, this machine and themselves; little and not for long."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from tests.lab import manifests
from tests.lab.daemon import Daemon
from tests.lab.facts import BACKEND, WORKER, Layout, Remembered
from tests.lab.kube.targets import PATH as TARGETS
from tests.lab.parts import Part, wait_until

INTERVAL = "2s"
RETENTION = "2h"
NODE = "node"


class Monitoring(Part):
    """Two daemons: the exporter of this machine's figures, and the server that collects all."""

    name = "prometheus"

    def __init__(self, layout: Layout, remembered: Remembered) -> None:
        super().__init__(layout, remembered)
        self.place = layout.state / "prometheus"
        self.exporter = Daemon("node-exporter", layout.run)
        self.server = Daemon("prometheus", layout.run)
        self.url = f"http://127.0.0.1:{remembered.ports['prometheus']}"
        self.exporter_url = f"http://127.0.0.1:{remembered.ports['node_exporter']}"

    def healthy(self) -> bool:
        running = self.exporter.pid is not None and self.server.pid is not None
        return running and answers(f"{self.url}/-/ready") and answers(f"{self.exporter_url}/")

    def start(self) -> None:
        ports = self.remembered.ports
        for directory in (self.rules, self.textfiles, self.dashboards):
            directory.mkdir(parents=True, exist_ok=True)
        self._configure()
        env = manifests.environment(self.layout)
        self.exporter.start(
            [
                "prometheus-node-exporter",
                f"--web.listen-address=127.0.0.1:{ports['node_exporter']}",
                f"--collector.textfile.directory={self.textfiles}",
                *_collectors(),
            ],
            env=env,
        )
        argv = ["prometheus", f"--config.file={self.configuration}", f"--storage.tsdb.path={self.place / 'data'}"]
        argv += [f"--storage.tsdb.retention.time={RETENTION}", "--web.enable-lifecycle", "--log.level=warn"]
        argv += [f"--web.listen-address=127.0.0.1:{ports['prometheus']}"]
        self.server.start(argv, env=env)
        self._await()

    def _await(self) -> None:
        def reached() -> bool:
            for daemon in (self.exporter, self.server):
                if daemon.pid is None:
                    raise RuntimeError(f"{daemon.name} ended; the end of {daemon.log}:\n{daemon.last_lines()}")
            return self.healthy()

        wait_until(reached, 30, "prometheus to be ready")

    def stop(self) -> None:
        self.server.stop()
        self.exporter.stop()

    def where(self) -> str:
        return self.url

    @property
    def rules(self) -> Path:
        """Rule files (*.yml) that are put here count after ``reload``."""
        return self.place / "rules"

    @property
    def textfiles(self) -> Path:
        """Metrics (*.prom) that are put here are exported with those of the machine."""
        return self.place / "textfiles"

    @property
    def dashboards(self) -> Path:
        """Where a Grafana would be provisioned from."""
        return self.place / "dashboards"

    def facts(self) -> dict[str, str]:
        """For the inventory."""
        return {
            "url": self.url,
            "node_exporter_url": self.exporter_url,
            "rules_directory": str(self.rules),
            "textfile_directory": str(self.textfiles),
            "dashboards_directory": str(self.dashboards),
        }

    @property
    def configuration(self) -> Path:
        """The server's configuration file; JSON is YAML."""
        return self.place / "prometheus.yml"

    def reload(self) -> None:
        """Read the configuration and the rules anew."""
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/-/reload", method="POST"), timeout=10).close()

    def _configure(self) -> None:
        ports = self.remembered.ports
        pods = {
            "job_name": "pods",
            "http_sd_configs": [{"url": f"http://127.0.0.1:{ports['kube']}{TARGETS}", "refresh_interval": INTERVAL}],
            "relabel_configs": [{"source_labels": ["job"], "regex": f"{BACKEND}|{WORKER}", "action": "keep"}],
        }
        document = {
            "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
            "rule_files": [str(self.rules / "*.yml")],
            "scrape_configs": [
                {"job_name": "prometheus", "static_configs": [{"targets": [f"127.0.0.1:{ports['prometheus']}"]}]},
                {"job_name": NODE, "static_configs": [{"targets": [f"127.0.0.1:{ports['node_exporter']}"]}]},
                pods,
            ],
        }
        self.configuration.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    def query(self, expression: str) -> list[dict[str, object]]:
        """The result of an instant query."""
        target = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expression, 'time': time.time()})}"
        with urllib.request.urlopen(target, timeout=10) as answer:
            result: list[dict[str, object]] = json.load(answer)["data"]["result"]
        return result


def _collectors() -> list[str]:
    """Only what the runbook's metrics need: the others read much and say nothing here."""
    wanted = ("cpu", "diskstats", "filesystem", "loadavg", "meminfo", "netdev", "pressure", "stat", "textfile", "time", "uname")
    return ["--collector.disable-defaults", *(f"--collector.{name}" for name in wanted)]


def answers(url: str) -> bool:
    """Whether a page is there."""
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
