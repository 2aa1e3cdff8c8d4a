# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP interface: paths, verbs, patches, watches and their answers."""

from __future__ import annotations

import asyncio
import base64
import copy
import dataclasses
import json
import re
import time
import typing as t
import uuid

import yaml
from aiohttp import web

from . import creation, defaults, deletion, discovery, errors, logs, managed, metrics, patch, resources, settings, tables, targets
from .auth import Tokens, User
from .errors import ApiError
from .kubelet import Kubelet
from .objects import Object, now_text
from .resources import Resource
from .selectors import Predicate, predicate_of
from .store import Change, Store

_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+/[^/]+))(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?"
)
_NAMESPACES = re.compile(r"/api/(?P<core>v1)/(?P<plural>namespaces)(?:/(?P<name>[^/]+))?(?:/(?P<sub>status|finalize))?")
_PATCHES: dict[str, t.Callable[[Object, t.Any], Object]] = {
    "application/strategic-merge-patch+json": patch.strategic_merge,
    "application/merge-patch+json": patch.json_merge,
    "application/json-patch+json": patch.json_patch,
    "application/apply-patch+yaml": patch.strategic_merge,
}
APPLY = "application/apply-patch+yaml"
BOOKMARKS = 30.0
_KEPT = (
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "resourceVersion",
    "namespace",
)


@dataclasses.dataclass(frozen=True)
class Call:
    """One request to a resource, parsed."""

    http: web.Request
    user: User
    resource: Resource
    namespace: str
    name: str
    subresource: str

    @property
    def query(self) -> t.Mapping[str, str]:
        return self.http.query

    @property
    def dry(self) -> bool:
        return "All" in self.http.query.getall("dryRun", [])

    @property
    def watching(self) -> bool:
        return self.query.get("watch") in ("true", "1", "True")

    @property
    def manager(self) -> str:
        agent = self.http.headers.get("User-Agent", "unknown").partition("/")[0]
        return self.query.get("fieldManager") or agent

    @property
    def verb(self) -> str:
        method = self.http.method
        if method == "GET":
            return "get" if self.name else ("watch" if self.watching else "list")
        verbs = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete" if self.name else "deletecollection"}
        if method not in verbs:
            raise errors.not_allowed()
        return verbs[method]

    async def body(self) -> Object:
        kind = self.http.content_type
        if "protobuf" in kind or "cbor" in kind:
            raise ApiError(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {kind}")
        text = await self.http.text()
        try:
            found = yaml.safe_load(text) if "yaml" in kind else json.loads(text or "{}")
        except (ValueError, yaml.YAMLError) as error:
            raise errors.bad_request(f"the object provided is unrecognized: {error}") from error
        return t.cast(Object, found)


def _json(obj: Object, status: int = 200, content_type: str = "application/json") -> web.Response:
    return web.Response(body=json.dumps(obj).encode(), status=status, headers={"Content-Type": content_type})


class Api:
    """Answers requests from the store."""

    def __init__(self, store: Store, kubelet: Kubelet, tokens: Tokens) -> None:
        self._store = store
        self._kubelet = kubelet
        self._tokens = tokens
        self._streams: set[asyncio.Task[t.Any]] = set()

    def stop_streams(self) -> None:
        """End watches and followed logs, so that the server can stop."""
        for task in self._streams:
            task.cancel()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        try:
            if request.path in ("/healthz", "/readyz", "/livez"):
                return web.Response(text="ok")
            if request.path == targets.PATH:
                return web.json_response(targets.targets(self._store))
            user = self._tokens.user(request.headers.get("Authorization", ""))
            about = self._about(request)
            if about is not None:
                return about
            return await self._dispatch(self._parse(request, user))
        except ApiError as error:
            return _json(error.status(), error.code)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            status = ApiError(422, "Invalid", f"the object is not well formed: {type(error).__name__}: {error}")
            return _json(status.status(), status.code)

    # what the server says about itself

    def _hidden(self) -> frozenset[Resource]:
        missing = settings.metrics_mode(self._store) == "missing"
        return frozenset((resources.POD_METRICS, resources.NODE_METRICS)) if missing else frozenset()

    def _about(self, request: web.Request) -> web.Response | None:
        path = request.path.rstrip("/")
        hidden = self._hidden()
        if path in ("/api", "/apis"):
            if discovery.wants_aggregated(request.headers.get("Accept", "")):
                return _json(discovery.aggregated(path == "/api", hidden), content_type=discovery.AGGREGATED_TYPE)
            return _json(discovery.api_versions(request.host) if path == "/api" else discovery.api_groups(hidden))
        if path == "/version":
            return _json(discovery.VERSION)
        if path == "/openapi/v3":
            return _json(discovery.openapi_index())
        match = re.fullmatch(r"(?P<open>/openapi/v3)?/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+/[^/]+))", path)
        if match is not None:
            group = match["core"] or match["group"]
            found = discovery.openapi_document(group) if match["open"] else discovery.api_resources(group, hidden)
            if found is None:
                raise errors.no_such_path()
            return _json(found)
        match = re.fullmatch(r"/apis/([^/]+)", path)
        if match is not None:
            found = discovery.api_group(match[1], hidden)
            if found is None:
                raise errors.no_such_path()
            return _json(found)
        return None

    # resources

    def _parse(self, request: web.Request, user: User) -> Call:
        path = request.path.rstrip("/")
        match = _NAMESPACES.fullmatch(path) or _PATH.fullmatch(path)
        if match is None:
            raise errors.no_such_path()
        parts = match.groupdict(default="")
        resource = resources.BY_PATH.get((parts.get("group") or "v1", parts["plural"]))
        if resource is None or resource in self._hidden():
            raise errors.no_such_path()
        if parts["sub"] and parts["sub"] not in resource.subresources:
            raise errors.no_such_path()
        if resource.namespaced and parts["name"] and not parts.get("namespace"):
            raise errors.no_such_path()
        call = Call(request, user, resource, parts.get("namespace", ""), parts["name"], parts["sub"])
        user.require(call.verb, resource, call.subresource, call.namespace, call.name)
        if call.verb not in resource.verbs:
            raise errors.not_allowed()
        return call

    async def _dispatch(self, call: Call) -> web.StreamResponse:
        if call.resource in resources.VIRTUAL:
            return await self._virtual(call)
        if call.subresource == "log":
            return await self._log(call)
        if call.subresource == "scale":
            return await self._scale(call)
        if call.verb == "list":
            return self._list(call)
        if call.verb == "watch":
            return await self._streaming(self._watch(call))
        if call.verb == "get":
            found = self._store.get(call.resource, call.namespace, call.name)
            if tables.wanted(call.http.headers.get("Accept", "")):
                return _json(self._table(call, [found], {"resourceVersion": found["metadata"]["resourceVersion"]}))
            return _json(found)
        action = {
            "create": self._create,
            "update": self._replace,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }[call.verb]
        return await action(call)

    async def _virtual(self, call: Call) -> web.Response:
        if call.resource is resources.ACCESS_REVIEWS:
            review = await call.body()
            asked = review["spec"].get("resourceAttributes") or {}
            group_version = f"{asked['group']}/v1" if asked.get("group") else "v1"
            resource = resources.BY_PATH.get((group_version, asked.get("resource", "")))
            place = (asked.get("subresource", ""), asked.get("namespace", ""), asked.get("name", ""))
            allowed = resource is not None and call.user.may(asked.get("verb", ""), resource, *place)
            review.update(apiVersion=call.resource.group_version, kind=call.resource.kind, status={"allowed": allowed})
            return _json(review, 201)
        if settings.metrics_mode(self._store) == "broken":
            raise ApiError(
                503, "ServiceUnavailable", "the server is currently unable to handle the request (get pods.metrics.k8s.io)"
            )
        if call.resource is resources.NODE_METRICS:
            items = metrics.node_metrics(self._store)
        else:
            items = metrics.pod_metrics(self._store, self._kubelet.meter, call.namespace)
        if call.name:
            items = [item for item in items if item["metadata"]["name"] == call.name]
            if not items:
                raise errors.not_found(call.resource.qualified, call.name)
            return _json(items[0])
        matches = predicate_of(call.query)
        return _json(self._list_object(call.resource, [item for item in items if matches(item)], {}))

    def _list_object(self, resource: Resource, items: list[Object], metadata: Object) -> Object:
        return {"kind": f"{resource.kind}List", "apiVersion": resource.group_version, "metadata": metadata, "items": items}

    def _table(self, call: Call, items: list[Object], metadata: Object) -> Object:
        return tables.table(call.resource, items, metadata, call.query.get("includeObject", "Metadata"))

    def _list(self, call: Call) -> web.Response:
        matches = predicate_of(call.query)
        items = [item for item in self._store.list(call.resource, call.namespace) if matches(item)]
        metadata: Object = {"resourceVersion": str(self._store.revision)}
        limit = int(call.query.get("limit") or 0)
        start = _decode_continue(call.query.get("continue", ""))
        if start is not None:
            items = [item for item in items if _position(item) > start]
        if limit and len(items) > limit:
            metadata["continue"] = _encode_continue(items[limit - 1])
            metadata["remainingItemCount"] = len(items) - limit
            items = items[:limit]
        if tables.wanted(call.http.headers.get("Accept", "")):
            return _json(self._table(call, items, metadata))
        return _json(self._list_object(call.resource, items, metadata))

    async def _create(self, call: Call) -> web.Response:
        if call.name:
            raise errors.not_allowed()
        obj = creation.prepare(self._store, call.resource, call.namespace, await call.body())
        obj = managed.note(obj, call.manager, "Update", call.resource.group_version)
        if call.dry:
            if self._store.find(call.resource, call.namespace, obj["metadata"]["name"]) is not None:
                raise errors.already_exists(call.resource.qualified, obj["metadata"]["name"])
            return _json(_imagined(obj), 201)
        return _json(self._store.create(call.resource, obj), 201)

    async def _replace(self, call: Call) -> web.Response:
        current = self._store.get(call.resource, call.namespace, call.name)
        return _json(self._change(call, current, await call.body(), "Update"))

    async def _patch(self, call: Call) -> web.Response:
        kind = call.http.content_type
        if kind not in _PATCHES:
            raise ApiError(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {kind}")
        body = await call.body()
        current = self._store.find(call.resource, call.namespace, call.name)
        if current is None:
            if kind != APPLY:
                raise errors.not_found(call.resource.qualified, call.name)
            body.setdefault("metadata", {})["name"] = call.name
            obj = creation.prepare(self._store, call.resource, call.namespace, body)
            obj = managed.note(obj, call.manager, "Apply", call.resource.group_version)
            return _json(_imagined(obj) if call.dry else self._store.create(call.resource, obj), 201)
        changed = _PATCHES[kind](copy.deepcopy(current), body)
        return _json(self._change(call, current, changed, "Apply" if kind == APPLY else "Update"))

    def _change(self, call: Call, current: Object, wanted: Object, operation: str) -> Object:
        """Store a new state of an object: metadata that only the server sets stay, spec and status go their own ways."""
        resource, name = call.resource, call.name
        if wanted["metadata"].get("name", name) != name:
            raise errors.bad_request(
                f"the name of the object ({wanted['metadata']['name']}) does not match the name on the URL ({name})"
            )
        revision = wanted["metadata"].get("resourceVersion")
        if revision and revision != current["metadata"]["resourceVersion"]:
            raise errors.changed_meanwhile(resource.qualified, name)
        uid = wanted["metadata"].get("uid")
        if uid and uid != current["metadata"]["uid"]:
            raise errors.conflict(resource.qualified, name, f"Precondition failed: UID in precondition: {uid}")
        if call.subresource == "status":
            new = {**current, "status": wanted.get("status") or {}}
        else:
            new = copy.deepcopy(wanted)
            new["metadata"]["name"] = name
            for key in _KEPT:
                new["metadata"].pop(key, None)
                if key in current["metadata"]:
                    new["metadata"][key] = current["metadata"][key]
            if "status" in resource.subresources:
                new["status"] = current.get("status", {})
            new["metadata"]["managedFields"] = current["metadata"].get("managedFields", [])
            defaults.complete(resource, new)
            defaults.check(resource, new, current)
        if new != current:
            new = managed.note(new, call.manager, operation, resource.group_version, call.subresource)
        if call.dry:
            return new
        return self._store.update(resource, new, spec_changes=call.subresource != "status")

    async def _delete(self, call: Call) -> web.Response:
        obj = self._store.get(call.resource, call.namespace, call.name)
        options = await call.body() if call.http.can_read_body else {}
        conditions = options.get("preconditions") or {}
        for field, value in (("uid", conditions.get("uid")), ("resourceVersion", conditions.get("resourceVersion"))):
            if value and value != obj["metadata"][field]:
                raise errors.conflict(call.resource.qualified, call.name, f"Precondition failed: {field} in precondition: {value}")
        if call.dry or "All" in (options.get("dryRun") or []):
            return _json(obj)
        grace = options.get("gracePeriodSeconds", call.query.get("gracePeriodSeconds"))
        policy = options.get("propagationPolicy") or call.query.get("propagationPolicy", "")
        left = deletion.request(self._store, call.resource, obj, None if grace is None else int(grace), policy)
        if call.resource is resources.PODS or self._store.latest(call.resource, obj) is not None:
            return _json(left)
        details = {"name": call.name, "kind": call.resource.plural, "uid": obj["metadata"]["uid"]}
        if call.resource.group:
            details["group"] = call.resource.group
        return _json({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})

    async def _delete_collection(self, call: Call) -> web.Response:
        matches = predicate_of(call.query)
        items = [item for item in self._store.list(call.resource, call.namespace) if matches(item)]
        for item in items:
            deletion.request(self._store, call.resource, item)
        return _json(self._list_object(call.resource, items, {"resourceVersion": str(self._store.revision)}))

    async def _scale(self, call: Call) -> web.Response:
        current = self._store.get(call.resource, call.namespace, call.name)
        if call.verb == "get":
            return _json(_scale_of(current))
        body = await call.body()
        if call.verb == "patch":
            kind = call.http.content_type
            body = _PATCHES.get(kind, patch.json_merge)(_scale_of(current), body)
        replicas = (body.get("spec") or {}).get("replicas", 0)
        revision = (body.get("metadata") or {}).get("resourceVersion")
        wanted = {**current, "spec": {**current["spec"], "replicas": replicas}}
        if revision:
            wanted["metadata"] = {**current["metadata"], "resourceVersion": revision}
        return _json(_scale_of(self._change(dataclasses.replace(call, subresource=""), current, wanted, "Update")))

    # streams

    async def _streaming(self, work: t.Coroutine[t.Any, t.Any, web.StreamResponse]) -> web.StreamResponse:
        task = asyncio.get_running_loop().create_task(work)
        self._streams.add(task)
        try:
            return await task
        finally:
            task.cancel()
            self._streams.discard(task)

    async def _log(self, call: Call) -> web.StreamResponse:
        pod = self._store.get(resources.PODS, call.namespace, call.name)
        request = logs.LogRequest.of(pod, call.query, time.time())
        process = logs.process_of(self._kubelet.places, pod, request)

        async def send() -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/plain"})
            await response.prepare(call.http)
            async for chunk in logs.stream(self._store, process, pod, request):
                await response.write(chunk)
            await response.write_eof()
            return response

        return await self._streaming(send())

    async def _watch(self, call: Call) -> web.StreamResponse:
        stream = WatchStream(self._store, call)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(call.http)
        async for event in stream.events():
            await response.write(json.dumps(event).encode() + b"\n")
        await response.write_eof()
        return response


class WatchStream:
    """The events of one watch until its timeout."""

    def __init__(self, store: Store, call: Call) -> None:
        self._store = store
        self._call = call
        self._matches: Predicate = predicate_of(call.query)
        self._table = tables.wanted(call.http.headers.get("Accept", ""))
        self._bookmarks = call.query.get("allowWatchBookmarks") in ("true", "1", "True")
        self._initial = call.query.get("sendInitialEvents") in ("true", "1", "True")
        self._end = time.monotonic() + float(call.query.get("timeoutSeconds") or 1800)

    async def events(self) -> t.AsyncIterator[Object]:
        position = int(self._call.query.get("resourceVersion") or 0)
        if self._initial or not position:
            position = self._store.revision
            for event in self._present(position):
                yield event
        marked = time.monotonic()
        while time.monotonic() < self._end:
            try:
                changes = self._store.changes_since(position)
            except ApiError as error:
                yield {"type": "ERROR", "object": error.status()}
                return
            for event in filter(None, map(self._translate, changes)):
                yield event
            position = changes[-1].revision if changes else position
            if self._bookmarks and time.monotonic() - marked > BOOKMARKS:
                marked = time.monotonic()
                yield self._bookmark(position)
            await self._store.wait_for_change(position, min(5.0, max(0.0, self._end - time.monotonic())))
        if self._bookmarks:
            yield self._bookmark(position)

    def _present(self, revision: int) -> list[Object]:
        """What there is when the watch begins, as events."""
        objects = self._store.list(self._call.resource, self._call.namespace)
        found = [self._event("ADDED", obj) for obj in objects if self._matches(obj)]
        return [*found, self._bookmark(revision, initial=True)] if self._initial else found

    def _translate(self, change: Change) -> Object | None:
        """The event as this watch's selectors see it: an object can come into view and leave it."""
        if change.resource is not self._call.resource:
            return None
        if self._call.namespace and change.object["metadata"].get("namespace") != self._call.namespace:
            return None
        if self._call.name and change.object["metadata"]["name"] != self._call.name:
            return None
        before = change.previous is not None and self._matches(change.previous)
        after = change.type != "DELETED" and self._matches(change.object)
        if after:
            return self._event("MODIFIED" if before else "ADDED", change.object)
        return self._event("DELETED", change.object) if before else None

    def _event(self, kind: str, obj: Object) -> Object:
        if self._table:
            include = self._call.query.get("includeObject", "Metadata")
            metadata = {"resourceVersion": obj["metadata"]["resourceVersion"]}
            obj = tables.table(self._call.resource, [obj], metadata, include)
        return {"type": kind, "object": obj}

    def _bookmark(self, revision: int, *, initial: bool = False) -> Object:
        metadata: Object = {"resourceVersion": str(revision), "creationTimestamp": None}
        if initial:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        resource = self._call.resource
        obj: Object = {"kind": resource.kind, "apiVersion": resource.group_version, "metadata": metadata}
        if self._table:
            obj = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": [], "rows": []}
        return {"type": "BOOKMARK", "object": obj}


def _imagined(obj: Object) -> Object:
    """What a dry run answers for an object that does not exist."""
    return {**obj, "metadata": {**obj["metadata"], "uid": str(uuid.uuid4()), "creationTimestamp": now_text()}}


def _position(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _encode_continue(obj: Object) -> str:
    return base64.urlsafe_b64encode(json.dumps(_position(obj)).encode()).decode().rstrip("=")


def _decode_continue(token: str) -> tuple[str, str] | None:
    if not token:
        return None
    try:
        namespace, name = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except ValueError as error:
        raise errors.bad_request("continue key is not valid") from error
    return namespace, name


def _scale_of(obj: Object) -> Object:
    metadata = {key: obj["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")}
    labels = (obj["spec"].get("selector") or {}).get("matchLabels") or {}
    selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": obj["spec"]["replicas"]},
        "status": {"replicas": (obj.get("status") or {}).get("replicas", 0), "selector": selector},
    }
