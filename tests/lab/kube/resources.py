# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kinds that the server knows."""

from __future__ import annotations

import dataclasses

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
READ_VERBS = ("get", "list")


@dataclasses.dataclass(frozen=True)
class Resource:
    """One kind under one group and version."""

    group: str
    version: str
    kind: str
    plural: str
    short: tuple[str, ...] = ()
    namespaced: bool = True
    subresources: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    generation: bool = False
    """Whether metadata.generation counts the changes of the spec."""

    @property
    def group_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """``deployments.apps``: how messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def singular(self) -> str:
        return self.kind.lower()


NAMESPACES = Resource("", "v1", "Namespace", "namespaces", ("ns",), namespaced=False, subresources=("status", "finalize"))
NODES = Resource("", "v1", "Node", "nodes", ("no",), namespaced=False, subresources=("status",))
PODS = Resource("", "v1", "Pod", "pods", ("po",), subresources=("log", "status"), categories=("all",), generation=True)
SERVICES = Resource("", "v1", "Service", "services", ("svc",), subresources=("status",), categories=("all",))
CONFIG_MAPS = Resource("", "v1", "ConfigMap", "configmaps", ("cm",))
SECRETS = Resource("", "v1", "Secret", "secrets")
EVENTS = Resource("", "v1", "Event", "events", ("ev",))
SERVICE_ACCOUNTS = Resource("", "v1", "ServiceAccount", "serviceaccounts", ("sa",))
QUOTAS = Resource("", "v1", "ResourceQuota", "resourcequotas", ("quota",), subresources=("status",))
CLAIMS = Resource("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", ("pvc",), subresources=("status",))
DEPLOYMENTS = Resource(
    "apps", "v1", "Deployment", "deployments", ("deploy",), subresources=("scale", "status"), categories=("all",), generation=True
)
REPLICA_SETS = Resource(
    "apps", "v1", "ReplicaSet", "replicasets", ("rs",), subresources=("scale", "status"), categories=("all",), generation=True
)
STATEFUL_SETS = Resource(
    "apps", "v1", "StatefulSet", "statefulsets", ("sts",), subresources=("scale", "status"), categories=("all",), generation=True
)
DAEMON_SETS = Resource(
    "apps", "v1", "DaemonSet", "daemonsets", ("ds",), subresources=("status",), categories=("all",), generation=True
)
REVISIONS = Resource("apps", "v1", "ControllerRevision", "controllerrevisions")
JOBS = Resource("batch", "v1", "Job", "jobs", subresources=("status",), categories=("all",), generation=True)
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
LEASES = Resource("coordination.k8s.io", "v1", "Lease", "leases")
POD_METRICS = Resource("metrics.k8s.io", "v1beta1", "PodMetrics", "pods", verbs=READ_VERBS)
NODE_METRICS = Resource("metrics.k8s.io", "v1beta1", "NodeMetrics", "nodes", namespaced=False, verbs=READ_VERBS)
ROLES = Resource("rbac.authorization.k8s.io", "v1", "Role", "roles")
ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings")
CLUSTER_ROLES = Resource("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", namespaced=False)
CLUSTER_ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False)
ACCESS_REVIEWS = Resource(
    "authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", namespaced=False, verbs=("create",)
)

ALL = (
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
    CONFIG_MAPS,
    SECRETS,
    EVENTS,
    SERVICE_ACCOUNTS,
    QUOTAS,
    CLAIMS,
    DEPLOYMENTS,
    REPLICA_SETS,
    STATEFUL_SETS,
    DAEMON_SETS,
    REVISIONS,
    JOBS,
    ENDPOINT_SLICES,
    LEASES,
    ROLES,
    ROLE_BINDINGS,
    CLUSTER_ROLES,
    CLUSTER_ROLE_BINDINGS,
    POD_METRICS,
    NODE_METRICS,
    ACCESS_REVIEWS,
)
BY_PATH = {(resource.group_version, resource.plural): resource for resource in ALL}
BY_KIND = {(resource.group_version, resource.kind): resource for resource in ALL}
VIRTUAL = frozenset((POD_METRICS, NODE_METRICS, ACCESS_REVIEWS))
"""Answered from elsewhere than the store."""
