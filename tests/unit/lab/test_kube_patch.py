# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Patches and selectors of the lab's Kubernetes behave as the real server's."""

from __future__ import annotations

import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lab.kube.errors import ApiError
from tests.lab.kube.objects import quantity, scaled
from tests.lab.kube.patch import json_merge, json_patch, strategic_merge
from tests.lab.kube.selectors import fields_predicate, labels_predicate, matches_object

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=5), JSON, max_size=4)


def without_nulls(value: t.Any) -> t.Any:
    if isinstance(value, dict):
        return {key: without_nulls(entry) for key, entry in value.items() if entry is not None}
    return value


@given(OBJECTS, OBJECTS)
def test_json_merge_twice_is_once(original: dict[str, t.Any], patch: dict[str, t.Any]) -> None:
    once = json_merge(original, patch)
    assert json_merge(once, patch) == once


@given(OBJECTS)
def test_json_merge_into_nothing_gives_the_patch_without_nulls(patch: dict[str, t.Any]) -> None:
    assert json_merge({}, patch) == without_nulls(patch)


APP = {"name": "app", "image": "app:1", "env": [{"name": "A", "value": "1"}]}
SIDE = {"name": "side"}
CONTAINERS = {"spec": {"containers": [APP, SIDE]}}


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ([{"name": "app", "image": "app:2"}], [{**APP, "image": "app:2"}, SIDE]),
        ([{"name": "new"}], [APP, SIDE, {"name": "new"}]),
        ([{"name": "app", "$patch": "delete"}], [SIDE]),
        ([{"$patch": "replace"}, {"name": "only"}], [{"name": "only"}]),
        ([{"name": "side", "env": [{"name": "B"}]}], [APP, {"name": "side", "env": [{"name": "B"}]}]),
        ([{"name": "app", "env": None}], [{"name": "app", "image": "app:1"}, SIDE]),
    ],
    ids=["merge", "add", "delete", "replace", "nested", "null"],
)
def test_strategic_merge_of_lists_by_key(patch: list[t.Any], expected: list[t.Any]) -> None:
    assert strategic_merge(CONTAINERS, {"spec": {"containers": patch}})["spec"]["containers"] == expected


def test_strategic_merge_directives() -> None:
    assert strategic_merge({"a": {"x": 1, "y": 2}}, {"a": {"$patch": "replace", "z": 3}}) == {"a": {"z": 3}}
    kept = strategic_merge({"strategy": {"type": "R", "rollingUpdate": 1}}, {"strategy": {"$retainKeys": ["type"], "type": "X"}})
    assert kept == {"strategy": {"type": "X"}}
    ordered = strategic_merge(CONTAINERS, {"spec": {"$setElementOrder/containers": [{"name": "side"}, {"name": "app"}]}})
    assert [entry["name"] for entry in ordered["spec"]["containers"]] == ["side", "app"]
    assert strategic_merge({"finalizers": ["a"]}, {"finalizers": ["b"]}) == {"finalizers": ["a", "b"]}
    removed = strategic_merge({"finalizers": ["a", "b"]}, {"$deleteFromPrimitiveList/finalizers": ["a"]})
    assert removed == {"finalizers": ["b"]}
    assert strategic_merge({"args": ["a"]}, {"args": ["b"]}) == {"args": ["b"]}, "other lists are replaced"


def test_strategic_merge_leaves_the_original_alone() -> None:
    before = repr(CONTAINERS)
    strategic_merge(CONTAINERS, {"spec": {"containers": [{"name": "app", "image": "x", "env": [{"name": "A", "value": "9"}]}]}})
    assert repr(CONTAINERS) == before


def test_strategic_merge_needs_the_merge_key() -> None:
    with pytest.raises(ApiError, match="merge key: name"):
        strategic_merge(CONTAINERS, {"spec": {"containers": [{"image": "x"}]}})


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ([{"op": "add", "path": "/b", "value": 2}], {"a": [1, 2], "b": 2}),
        ([{"op": "add", "path": "/a/-", "value": 3}], {"a": [1, 2, 3]}),
        ([{"op": "add", "path": "/a/0", "value": 0}], {"a": [0, 1, 2]}),
        ([{"op": "remove", "path": "/a/0"}], {"a": [2]}),
        ([{"op": "replace", "path": "/a/1", "value": 9}], {"a": [1, 9]}),
        ([{"op": "move", "from": "/a", "path": "/c"}], {"c": [1, 2]}),
        ([{"op": "copy", "from": "/a/0", "path": "/c~1d"}], {"a": [1, 2], "c/d": 1}),
        ([{"op": "test", "path": "/a/0", "value": 1}], {"a": [1, 2]}),
    ],
)
def test_json_patch(operations: list[t.Any], expected: t.Any) -> None:
    assert json_patch({"a": [1, 2]}, operations) == expected


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/absent"},
        {"op": "replace", "path": "/a/7", "value": 1},
        {"op": "test", "path": "/a/0", "value": 2},
        {"op": "add", "path": "nowhere", "value": 1},
        {"op": "add", "path": "/a/0/b", "value": 1},
        {"op": "jump", "path": "/a"},
    ],
)
def test_json_patch_refuses(operation: dict[str, t.Any]) -> None:
    original = {"a": [1, 2]}
    with pytest.raises(ApiError):
        json_patch(original, [{"op": "add", "path": "/b", "value": 1}, operation])
    assert original == {"a": [1, 2]}


LABELS = {"app": "web", "tier": "front", "empty": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier=front", True),
        ("app=web,tier=back", False),
        ("app!=api", True),
        ("absent!=x", True),
        ("tier in (front, back)", True),
        ("tier notin (front,back),app", False),
        ("!absent,app", True),
        ("!app", False),
        ("empty=", True),
        ("absent", False),
    ],
)
def test_label_selectors(text: str, expected: bool) -> None:
    assert labels_predicate(text)(LABELS) is expected


@pytest.mark.parametrize("text", ["=x", "a=b=c", "in (a)", "a ~ b"])
def test_label_selectors_that_make_no_sense(text: str) -> None:
    with pytest.raises(ApiError):
        labels_predicate(text)(LABELS)


def test_object_selectors() -> None:
    assert matches_object({"matchLabels": {"app": "web"}}, LABELS)
    expressions = [{"key": "tier", "operator": "DoesNotExist"}]
    assert not matches_object({"matchLabels": {"app": "web"}, "matchExpressions": expressions}, LABELS)
    assert matches_object({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["back"]}]}, LABELS)
    assert not matches_object(None, LABELS)


def test_field_selectors() -> None:
    obj = {"metadata": {"name": "a"}, "status": {"phase": "Running"}, "spec": {"unschedulable": True}}
    assert fields_predicate("metadata.name=a,status.phase!=Failed,spec.unschedulable=true")(obj)
    assert not fields_predicate("metadata.name=b")(obj)
    assert fields_predicate("spec.nodeName=")(obj)
    with pytest.raises(ApiError):
        fields_predicate("metadata.name")(obj)


def test_quantities() -> None:
    found = [int(quantity(text) * 1000) for text in ("250m", "2", "1k", "1Ki", "64Mi", 3)]
    assert found == [250, 2000, 10**6, 1024000, 67108864000, 3000]
    assert scaled("25%", 10, round_up=True) == 3
    assert scaled("25%", 10, round_up=False) == 2
    assert scaled(4, 10, round_up=True) == 4
