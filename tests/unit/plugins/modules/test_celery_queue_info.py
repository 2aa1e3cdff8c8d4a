# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module's options reach the engine, and wrong ones are refused before a connection is made."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._celery.queues import QueueOptions, Report
from ansible_collections.fileforge.ops.plugins.module_utils._checks import Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._probes import celery_queue_info as module


def params(**changes: t.Any) -> dict[str, t.Any]:
    return {**{name: spec.get("default") for name, spec in module.ARGUMENTS.items()}, "queues": ["q"], **changes}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[t.Any, ...]]:
    calls: list[tuple[t.Any, ...]] = []

    def fake(redis: t.Any, options: t.Any, *, remember: bool) -> Report:
        calls.append((redis, options, remember))
        return Report([Check("queue.q.depth", "critical", "many")], [{"name": "q"}])

    monkeypatch.setattr(module, "examine", fake)
    return calls


def test_defaults_are_the_engines_and_the_runbooks(seen: list[tuple[t.Any, ...]]) -> None:
    result = module.operate(params(), False)
    redis, options, remember = seen[0]
    assert (redis.host, redis.port, redis.db) == ("localhost", 6379, 0)
    plain = QueueOptions(queues=["q"])
    found = {**vars(options), "layout": {**vars(options.layout), "priority_steps": tuple(options.layout.priority_steps)}}
    assert {**found, "expected_workers": ()} == {**vars(plain), "layout": vars(plain.layout)}
    assert (options.depth_warning, options.depth_critical) == (100, 1000)
    assert remember is True and result["status"] == "critical" and result["queues"] == [{"name": "q"}]
    assert options.layout.keys("q") == ["q", "q\x06\x163", "q\x06\x166", "q\x06\x169"]


def test_layout_and_url(seen: list[tuple[t.Any, ...]]) -> None:
    changes = {"key_prefix": "ff:", "priority_steps": [0, 5], "separator": ":", "redis_url": "rediss://me:p%40ss@r1:6380/3"}
    module.operate(params(**changes), True)
    redis, options, remember = seen[0]
    assert options.layout.keys("q") == ["ff:q", "ff:q:5"]
    assert (redis.host, redis.port, redis.db, redis.username, redis.password, redis.tls) == ("r1", 6380, 3, "me", "p@ss", True)
    assert "p@ss" not in repr(redis) and "p%40ss" not in repr(redis)
    assert remember is False, "check mode must not write"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"queues": []}, "at least one"),
        ({"queues": ["a b", "a_b", "a-b"]}, "same check id"),
        ({"priority_steps": [3, 0]}, "must begin with 0"),
        ({"separator": ""}, "must not be empty"),
        ({"depth_warning": 2000}, "must not be above depth_critical"),
        ({"sample_interval": 0}, "more than 0"),
        ({"task_seconds": 7200}, "delivered twice"),
        ({"redis_timeout": 0}, "more than 0"),
        ({"redis_url": "http://:secret@r1"}, "not a redis"),
        ({"redis_url": "redis://:secret@r1/zero"}, "not a number"),
    ],
)
def test_wrong_options_are_refused(seen: list[tuple[t.Any, ...]], changes: dict[str, t.Any], words: str) -> None:
    with pytest.raises(InvalidOption, match=words) as caught:
        module.operate(params(**changes), False)
    assert "secret" not in str(caught.value) and not seen


def test_passwords_are_secrets() -> None:
    assert {name for name, spec in module.ARGUMENTS.items() if spec.get("no_log")} == {"redis_password", "redis_url"}
