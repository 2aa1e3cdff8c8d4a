# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server says about itself: versions, groups, kinds, and as much OpenAPI as kubectl asks for."""

from __future__ import annotations

from . import resources
from .objects import Object, now_text
from .resources import Resource

VERSION: Object = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.2",
    "gitCommit": "emulated",
    "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": "none",
    "compiler": "none",
    "platform": "linux/amd64",
}
_AGGREGATED = "apidiscovery.k8s.io"


def _group_versions(hidden: frozenset[Resource]) -> dict[str, list[Resource]]:
    found: dict[str, list[Resource]] = {}
    for resource in resources.ALL:
        if resource not in hidden:
            found.setdefault(resource.group_version, []).append(resource)
    return found


def _subresource_kind(resource: Resource, subresource: str) -> tuple[str, str, str]:
    return ("autoscaling", "v1", "Scale") if subresource == "scale" else (resource.group, resource.version, resource.kind)


def _subresource_verbs(subresource: str) -> list[str]:
    return ["get"] if subresource == "log" else ["get", "patch", "update"]


def api_versions(address: str) -> Object:
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def api_groups(hidden: frozenset[Resource]) -> Object:
    groups: list[Object] = []
    for group_version in _group_versions(hidden):
        if "/" in group_version:
            name, version = group_version.split("/")
            entry = {"groupVersion": group_version, "version": version}
            groups.append({"name": name, "versions": [entry], "preferredVersion": entry})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def api_group(name: str, hidden: frozenset[Resource]) -> Object | None:
    for group in api_groups(hidden)["groups"]:
        if group["name"] == name:
            return {"kind": "APIGroup", "apiVersion": "v1", **group}
    return None


def api_resources(group_version: str, hidden: frozenset[Resource]) -> Object | None:
    known = _group_versions(hidden).get(group_version)
    if known is None:
        return None
    entries: list[Object] = []
    for resource in known:
        entry: Object = {
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": list(resource.verbs),
        }
        if resource.short:
            entry["shortNames"] = list(resource.short)
        if resource.categories:
            entry["categories"] = list(resource.categories)
        entries.append(entry)
        for subresource in resource.subresources:
            group, version, kind = _subresource_kind(resource, subresource)
            entries.append(
                {
                    "name": f"{resource.plural}/{subresource}",
                    "singularName": "",
                    "namespaced": resource.namespaced,
                    "group": group,
                    "version": version,
                    "kind": kind,
                    "verbs": _subresource_verbs(subresource),
                }
            )
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": entries}


def wants_aggregated(accept: str) -> bool:
    return f"g={_AGGREGATED}" in accept and "v=v2" in accept


AGGREGATED_TYPE = f"application/json;g={_AGGREGATED};v=v2;as=APIGroupDiscoveryList"


def aggregated(core: bool, hidden: frozenset[Resource]) -> Object:
    """The whole of ``/api`` or ``/apis`` in one answer."""
    items: list[Object] = []
    for group_version, known in _group_versions(hidden).items():
        group, _unused, version = group_version.rpartition("/")
        if core is not (group == ""):
            continue
        entry = {"version": version, "freshness": "Current", "resources": [_aggregated_entry(resource) for resource in known]}
        items.append({"metadata": {"name": group, "creationTimestamp": None} if group else {}, "versions": [entry]})
    return {"kind": "APIGroupDiscoveryList", "apiVersion": f"{_AGGREGATED}/v2", "metadata": {}, "items": items}


def _aggregated_entry(resource: Resource) -> Object:
    entry: Object = {
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short:
        entry["shortNames"] = list(resource.short)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    if resource.subresources:
        entry["subresources"] = []
        for name in resource.subresources:
            group, version, kind = _subresource_kind(resource, name)
            reply = {"group": group, "version": version, "kind": kind}
            entry["subresources"].append({"subresource": name, "responseKind": reply, "verbs": _subresource_verbs(name)})
    return entry


def openapi_index() -> Object:
    """``/openapi/v3``: where the document of each group and version is."""
    paths: Object = {}
    for group_version in _group_versions(resources.VIRTUAL):
        path = f"apis/{group_version}" if "/" in group_version else f"api/{group_version}"
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={now_text()[:10]}"}
    return {"paths": paths}


def openapi_document(group_version: str) -> Object | None:
    """Paths with their kinds and the fieldValidation parameter: enough for kubectl to leave validation to the server."""
    known = _group_versions(resources.VIRTUAL).get(group_version)
    if known is None:
        return None
    prefix = f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}"
    paths: Object = {}
    for resource in known:
        place = "/namespaces/{namespace}" if resource.namespaced else ""
        kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
        parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in ("dryRun", "fieldValidation")]
        operation = {"x-kubernetes-group-version-kind": kind, "parameters": parameters, "responses": {}}
        paths[f"{prefix}{place}/{resource.plural}"] = {"post": {**operation, "x-kubernetes-action": "post"}}
        paths[f"{prefix}{place}/{resource.plural}/{{name}}"] = {"patch": {**operation, "x-kubernetes-action": "patch"}}
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION["gitVersion"]},
        "paths": paths,
        "components": {"schemas": {}},
    }
