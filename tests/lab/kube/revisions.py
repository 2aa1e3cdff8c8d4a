# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that follow from a pod template, and the revisions that StatefulSets and DaemonSets keep of it."""

from __future__ import annotations

import copy
import hashlib
import json

from . import resources
from .objects import Object, owned_by, reference_to
from .store import Store

HASH_LABEL = "pod-template-hash"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def template_hash(template: Object) -> str:
    """Ten letters and digits that are the same for the same template."""
    number = int.from_bytes(hashlib.sha256(json.dumps(bare(template), sort_keys=True).encode()).digest()[:8], "big")
    text = ""
    for _unused in range(10):
        number, rest = divmod(number, len(_ALPHABET))
        text += _ALPHABET[rest]
    return text


def bare(template: Object) -> Object:
    """The template without the label that controllers add, and without nulls."""
    template = copy.deepcopy(template)
    metadata = template.get("metadata") or {}
    labels = metadata.get("labels") or {}
    labels.pop(HASH_LABEL, None)
    template["metadata"] = {key: value for key, value in metadata.items() if value}
    return template


def of(store: Store, owner: Object) -> list[Object]:
    """The owner's ControllerRevisions, oldest first."""
    found = store.list(resources.REVISIONS, owner["metadata"]["namespace"])
    return sorted((item for item in found if owned_by(item, owner["metadata"]["uid"])), key=lambda item: int(item["revision"]))


def ensure(store: Store, owner: Object) -> Object:
    """The revision of the owner's present template; one that comes back becomes the newest."""
    template = owner["spec"]["template"]
    name = f"{owner['metadata']['name']}-{template_hash(template)}"
    history = of(store, owner)
    newest = int(history[-1]["revision"]) if history else 0
    for known in history:
        if known["metadata"]["name"] == name:
            if int(known["revision"]) == newest:
                return known
            return store.update(resources.REVISIONS, {**known, "revision": newest + 1})
    created = {
        "apiVersion": resources.REVISIONS.group_version,
        "kind": resources.REVISIONS.kind,
        "metadata": {
            "name": name,
            "namespace": owner["metadata"]["namespace"],
            "labels": {**(template["metadata"].get("labels") or {}), "controller-revision-hash": name},
            "annotations": dict(owner["metadata"].get("annotations") or {}),
            "ownerReferences": [reference_to(owner)],
        },
        "data": {"spec": {"template": {**copy.deepcopy(template), "$patch": "replace"}}},
        "revision": newest + 1,
    }
    _trim(store, owner, history)
    return store.create(resources.REVISIONS, created)


def _trim(store: Store, owner: Object, history: list[Object]) -> None:
    limit = owner["spec"].get("revisionHistoryLimit", 10)
    used = {pod["metadata"].get("labels", {}).get("controller-revision-hash") for pod in store.list(resources.PODS)}
    spare = [item for item in history if item["metadata"]["name"] not in used]
    for item in spare[: max(0, len(history) - limit)]:
        store.delete(resources.REVISIONS, item)
