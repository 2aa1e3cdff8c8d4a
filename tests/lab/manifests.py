# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The application's objects in Kubernetes, and the few requests that put them there."""

from __future__ import annotations

import hashlib
import json
import sys
import typing as t
import urllib.error
import urllib.request

from tests.lab import ROOT
from tests.lab.facts import BACKEND, NAMESPACE, WORKER, Layout, Remembered

SPEC_HASH = "lab.fileforge.ops/spec"
Object = dict[str, t.Any]
PATHS = {
    "Namespace": "/api/v1/namespaces",
    "Secret": f"/api/v1/namespaces/{NAMESPACE}/secrets",
    "Service": f"/api/v1/namespaces/{NAMESPACE}/services",
    "Deployment": f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments",
}


class KubeClient:
    """Plain requests to the API of the lab."""

    def __init__(self, url: str) -> None:
        self.url = url

    def request(self, method: str, path: str, body: Object | None = None) -> Object | None:
        """The answer; None for an object that is not there."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return t.cast(Object, json.load(answer))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise RuntimeError(f"{method} {path}: {error.code} {error.read()[:300].decode(errors='replace')}") from error

    def answers(self) -> bool:
        """Whether the API is ready."""
        try:
            return self.request("GET", "/api/v1/namespaces") is not None
        except (OSError, RuntimeError):
            return False

    def apply(self, obj: Object) -> bool:
        """Make the object, or replace it when the lab describes it differently now; whether anything was done."""
        mark = hashlib.sha256(json.dumps(obj, sort_keys=True).encode()).hexdigest()[:16]
        obj["metadata"].setdefault("annotations", {})[SPEC_HASH] = mark
        path = f"{PATHS[obj['kind']]}/{obj['metadata']['name']}"
        there = self.request("GET", path)
        if there is not None and (there["metadata"].get("annotations") or {}).get(SPEC_HASH) == mark:
            return False
        if there is not None:
            obj["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"]
            self.request("PUT", path, obj)
        else:
            self.request("POST", PATHS[obj["kind"]], obj)
        return True

    def deployment_ready(self, name: str) -> bool:
        """Whether all replicas are updated and ready."""
        found = self.request("GET", f"{PATHS['Deployment']}/{name}")
        if found is None:
            return False
        status, wanted = found.get("status", {}), found["spec"].get("replicas", 1)
        seen = status.get("observedGeneration", 0) >= found["metadata"].get("generation", 0)
        return seen and status.get("readyReplicas", 0) == wanted == status.get("updatedReplicas", 0)

    def pods(self) -> list[Object]:
        """The application's pods."""
        found = self.request("GET", f"/api/v1/namespaces/{NAMESPACE}/pods") or {}
        return t.cast(list[Object], found.get("items", []))

    def delete_pod(self, name: str) -> None:
        """Delete a pod without grace."""
        self.request("DELETE", f"/api/v1/namespaces/{NAMESPACE}/pods/{name}?gracePeriodSeconds=0")


def objects(layout: Layout, remembered: Remembered) -> list[Object]:
    """Everything to apply, in order."""
    secret = {"database": remembered.database_password, "redis": remembered.redis_password}
    ports = remembered.ports  # pods of several labs on one machine share addresses, not ports
    port = {"name": "http", "port": ports["backend"], "targetPort": ports["backend"], "nodePort": ports["api"]}
    labels = {"app": BACKEND}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "fileforge", "namespace": NAMESPACE}, "stringData": secret},
        _deployment(layout, BACKEND, 2, [sys.executable, "-m", "tests.lab.app.backend"], "/health", ports["backend"]),
        _deployment(layout, WORKER, 1, _worker_command(), "/ready", ports["worker"]),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": BACKEND, "namespace": NAMESPACE, "labels": labels},
            "spec": {"type": "NodePort", "selector": labels, "ports": [port]},
        },
    ]


def _worker_command() -> list[str]:
    options = ["--concurrency=1", "--loglevel=INFO", "--without-gossip", "--without-mingle"]
    return [sys.executable, "-m", "celery", "--app=tests.lab.app.worker", "worker", *options]


def environment(layout: Layout) -> dict[str, str]:
    """What the application's programs find in their environment, apart from passwords."""
    return {
        "FILEFORGE_CONFIG": str(layout.application),
        "FILEFORGE_LAB": str(layout.state),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _deployment(layout: Layout, name: str, replicas: int, command: list[str], path: str, port: int) -> Object:
    def secret(variable: str, key: str) -> Object:
        return {"name": variable, "valueFrom": {"secretKeyRef": {"name": "fileforge", "key": key}}}

    env = [{"name": key, "value": value} for key, value in environment(layout).items()]
    env.append({"name": "FILEFORGE_PORT", "value": str(port)})
    env += [secret("FILEFORGE_DATABASE_PASSWORD", "database"), secret("FILEFORGE_REDIS_PASSWORD", "redis")]
    probe = {"httpGet": {"path": path, "port": port}, "periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": 2}
    container = {
        "name": name.removeprefix("fileforge-"),
        "image": f"registry.example.org/{name}:1.0.0",
        "command": command,
        "workingDir": str(ROOT),
        "env": env,
        "ports": [{"containerPort": port}],
        "readinessProbe": probe,
    }
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 5},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": template,
            "progressDeadlineSeconds": 120,
        },
    }
