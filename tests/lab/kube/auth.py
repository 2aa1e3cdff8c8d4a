# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bearer tokens and the two roles that they can have."""

from __future__ import annotations

import dataclasses
import hmac
from pathlib import Path

from . import errors
from .resources import Resource

VIEW_VERBS = frozenset(("get", "list", "watch"))
ROLES = frozenset(("admin", "view"))


@dataclasses.dataclass(frozen=True)
class User:
    """Who asks. ``view`` may read everything but Secrets."""

    name: str
    role: str

    def may(self, verb: str, resource: Resource) -> bool:
        if self.role == "admin" or resource.plural == "selfsubjectaccessreviews":
            return True
        return verb in VIEW_VERBS and resource.plural != "secrets"

    def require(self, verb: str, resource: Resource, subresource: str, namespace: str, name: str) -> None:
        if self.may(verb, resource):
            return
        path = f"{resource.plural}/{subresource}" if subresource else resource.plural
        where = f' in the namespace "{namespace}"' if resource.namespaced and namespace else " at the cluster scope"
        why = f'User "{self.name}" cannot {verb} resource "{path}" in API group "{resource.group}"{where}'
        raise errors.forbidden(resource.qualified, name, why)


ANYBODY = User("system:admin", "admin")


class Tokens:
    """A file of lines ``TOKEN,USER,ROLE``, read again whenever it changes. Without a file everybody is admin."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
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

    def first(self, role: str) -> str | None:
        """A token with a role, for the kubeconfig."""
        if self._path is None:
            return None
        self._refresh(self._path)
        return next((token for token, user in self._users if user.role == role), None)

    def _refresh(self, path: Path) -> None:
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        if stamp == self._stamp:
            return
        users = []
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            token, name, role = (part.strip() for part in line.split(","))
            if role not in ROLES or not token:
                raise ValueError(f"{path}:{number}: expected TOKEN,USER,ROLE with a role of {sorted(ROLES)}")
            users.append((token, User(name, role)))
        self._users, self._stamp = users, stamp
