# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bearer tokens and what their users may do: everything, what the ClusterRole ``view`` allows, or what RBAC objects grant."""

from __future__ import annotations

import dataclasses
import hmac
import typing as t
from pathlib import Path

from . import errors, resources
from .objects import Object
from .resources import Resource
from .store import Store

READ = ["get", "list", "watch"]
VIEW: list[Object] = [
    {
        "apiGroups": [""],
        "resources": [
            "namespaces",
            "pods",
            "pods/log",
            "pods/status",
            "services",
            "services/status",
            "configmaps",
            "events",
            "serviceaccounts",
            "resourcequotas",
            "resourcequotas/status",
            "persistentvolumeclaims",
            "persistentvolumeclaims/status",
        ],
        "verbs": READ,
    },
    {
        "apiGroups": ["apps"],
        "resources": [
            *(f"{kind}{sub}" for kind in ("deployments", "replicasets", "statefulsets") for sub in ("", "/scale", "/status")),
            "daemonsets",
            "daemonsets/status",
            "controllerrevisions",
        ],
        "verbs": READ,
    },
    {"apiGroups": ["batch"], "resources": ["jobs", "jobs/status"], "verbs": READ},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": READ},
    {"apiGroups": ["metrics.k8s.io"], "resources": ["pods", "nodes"], "verbs": READ},
]
"""What the ClusterRole ``view`` holds of the kinds there are here, with what metrics-server adds to it. Neither Secrets nor nodes,
nor RBAC objects."""
RIGHTS = frozenset(("admin", "view", "rbac"))
Granted = t.Callable[["User", str], t.Iterable[Object]]
"""The rules that RBAC objects grant to a user in a namespace."""


@dataclasses.dataclass(frozen=True)
class User:
    """Who asks. The right is ``admin``, ``view`` in every namespace, or ``rbac``: what Roles bound to the name allow."""

    name: str
    right: str
    granted: Granted = dataclasses.field(default=lambda _user, _namespace: (), compare=False, repr=False)

    def may(self, verb: str, resource: Resource, subresource: str = "", namespace: str = "", name: str = "") -> bool:
        if self.right == "admin" or resource.plural == "selfsubjectaccessreviews":
            return True
        rules = VIEW if self.right == "view" else self.granted(self, namespace)
        return any(allows(rule, verb, resource, subresource, name) for rule in rules)

    def require(self, verb: str, resource: Resource, subresource: str, namespace: str, name: str) -> None:
        if self.may(verb, resource, subresource, namespace, name):
            return
        path = f"{resource.plural}/{subresource}" if subresource else resource.plural
        where = f' in the namespace "{namespace}"' if resource.namespaced and namespace else " at the cluster scope"
        why = f'User "{self.name}" cannot {verb} resource "{path}" in API group "{resource.group}"{where}'
        raise errors.forbidden(resource.qualified, name, why)


def allows(rule: Object, verb: str, resource: Resource, subresource: str, name: str) -> bool:
    """Whether one rule of a Role covers a request."""
    path = f"{resource.plural}/{subresource}" if subresource else resource.plural
    names = rule.get("resourceNames")
    return (
        _among(rule.get("verbs"), verb)
        and _among(rule.get("apiGroups"), resource.group)
        and (_among(rule.get("resources"), path) or (bool(subresource) and f"*/{subresource}" in (rule.get("resources") or [])))
        and (not names or name in names)
    )


def _among(known: list[str] | None, wanted: str) -> bool:
    return "*" in (known or []) or wanted in (known or [])


def granted_by(store: Store) -> Granted:
    """Rules of the Roles and ClusterRoles that bindings give to a user or a service account."""

    def granted(user: User, namespace: str) -> t.Iterator[Object]:
        bindings = [*store.list(resources.CLUSTER_ROLE_BINDINGS)]
        bindings += store.list(resources.ROLE_BINDINGS, namespace) if namespace else []
        for binding in bindings:
            if any(_is(subject, user.name, namespace) for subject in binding.get("subjects") or []):
                reference = binding["roleRef"]
                inside = reference["kind"] == "Role"
                kind, place = (resources.ROLES, namespace) if inside else (resources.CLUSTER_ROLES, "")
                role = store.find(kind, place, reference["name"])
                if role is None and reference["name"] == "view" and not inside:
                    yield from VIEW
                yield from (role or {}).get("rules") or []

    return granted


def _is(subject: Object, name: str, namespace: str) -> bool:
    if subject.get("kind") == "ServiceAccount":
        return name == f"system:serviceaccount:{subject.get('namespace') or namespace}:{subject['name']}"
    return bool(subject.get("kind") == "User" and subject["name"] == name)


ANYBODY = User("system:admin", "admin")


class Tokens:
    """A file of lines ``TOKEN,USER,RIGHT``, read again whenever it changes. Without a file everybody is admin."""

    def __init__(self, path: Path | None, store: Store) -> None:
        self._path = path
        self._granted = granted_by(store)
        self._stamp = (0, 0)
        self._users: list[tuple[str, User]] = []

    def user(self, authorization: str) -> User:
        if self._path is None:
            return ANYBODY
        self._refresh(self._path)
        scheme, _unused, token = authorization.partition(" ")
        for known, user in self._users:
            if scheme == "Bearer" and hmac.compare_digest(known.encode(), token.strip().encode()):
                return user
        raise errors.unauthorized()

    def first(self, right: str) -> str | None:
        """A token with a right, for the kubeconfig."""
        if self._path is None:
            return None
        self._refresh(self._path)
        return next((token for token, user in self._users if user.right == right), None)

    def _refresh(self, path: Path) -> None:
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        if stamp == self._stamp:
            return
        users = []
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            token, name, right = (part.strip() for part in line.split(","))
            if right not in RIGHTS or not token:
                raise ValueError(f"{path}:{number}: expected TOKEN,USER,RIGHT with a right of {sorted(RIGHTS)}")
            users.append((token, User(name, right, self._granted)))
        self._users, self._stamp = users, stamp
