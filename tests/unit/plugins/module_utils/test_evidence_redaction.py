# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets stay out of what is written down, and what is no secret stays readable."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils import _argspec
from ansible_collections.fileforge.ops.plugins.module_utils._evidence.redaction import MASK, Redactor, sounds_secret
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[4]


@pytest.mark.parametrize(
    "name",
    [
        "password", "postgres_password", "PGPASSWORD", "passphrase", "s3_secret_key", "s3_access_key", "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID", "s3_session_token", "kube_token", "api_key", "apikey", "client_secret", "private_key", "Authorization",
        "slack_webhook_url", "routing_key", "db_passwd", "become_pass", "ansible_ssh_pass", "key", "vault_key", "account_key",
        "SECRET", "sentry_dsn",
    ],
)  # fmt: skip
def test_names_that_sound_secret(name: str) -> None:
    assert sounds_secret(name)


@pytest.mark.parametrize(
    "name",
    ["target_time", "prefix", "manifest_key", "path", "keep_old", "s3_bucket", "digest", "passes", "compass", "bypass_host_loop",
     "monkey", "update_password"],
)  # fmt: skip
def test_names_that_do_not(name: str) -> None:
    assert not sounds_secret(name)


def test_every_hidden_option_of_the_collection_sounds_secret() -> None:
    hidden = {
        name
        for group in (_argspec.S3, _argspec.POSTGRES, _argspec.KUBE, _argspec.PLANNED)
        for name, option in group.items()
        if option.get("no_log")
    }
    for module in (ROOT / "plugins/modules").glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values):
                    if isinstance(key, ast.Constant) and isinstance(value, ast.Dict):
                        options = {k.value: v for k, v in zip(value.keys, value.values) if isinstance(k, ast.Constant)}
                        if isinstance(options.get("no_log"), ast.Constant) and options["no_log"].value is True:
                            hidden.add(key.value)
    assert {"s3_secret_key", "postgres_password", "kube_token"} <= hidden
    assert [name for name in sorted(hidden) if not sounds_secret(name)] == []


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("postgresql://app:s3cr3t@db/x", "s3cr3t"),
        ("redis://:s3cr3t@cache:6379/0", "s3cr3t"),
        ("Authorization: Bearer abc.def-ghi", "abc.def-ghi"),
        ("key AKIAIOSFODNN7EXAMPLE used", "AKIAIOSFODNN7EXAMPLE"),
        ("PGPASSWORD=s3cr3t psql", "s3cr3t"),
        ('{"password": "s3 cr3t"}', "s3 cr3t"),
        ("token: xyzzy-plugh", "xyzzy-plugh"),
        ("curl -H 'Authorization: Digest s3cr3t' https://host", "s3cr3t"),
        ('Authorization: Digest username="a", response="s3cr3t"', "s3cr3t"),
        ("{'Authorization': 'own s3cr3t', 'Accept': '*'}", "s3cr3t"),
        ("{'Cookie': 'session=s3cr3t; other=1'}", "s3cr3t"),
        ("sent X-Api-Key: s3cr3t", "s3cr3t"),
        ("set-cookie: session=s3cr3t; other=s3cr3t\nvary: *", "s3cr3t"),
        ("https://b/k?X-Amz-Signature=deadbeef&x=1", "deadbeef"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----", "MIIabc"),
        ("xoxb-1234567890-abcdef", "xoxb-1234567890-abcdef"),
    ],
)
def test_text_that_looks_like_a_credential(text: str, secret: str) -> None:
    shown = Redactor().text(text)
    assert secret not in shown
    assert MASK in shown


@pytest.mark.parametrize(
    "text",
    [
        *["base/2026-11-23-1405_base.tar.gz", "the token bucket is full", "https://host/path", "password={{ db_password }}"],
        *["authorization: the user may not do this", "cookie: it was not sent", "Authorization: {{ header }}", "Cookie: {{ jar }}"],
    ],
)
def test_text_that_does_not_is_left_alone(text: str) -> None:
    assert Redactor().text(text) == text


WORDS = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\n{"), min_size=6, max_size=20).filter(
    lambda text: len(text.strip()) >= 6 and text not in MASK
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=8,
)


@given(secret=WORDS, before=st.text(max_size=5), after=st.text(max_size=5), value=VALUES)
def test_a_known_secret_is_nowhere(secret: str, before: str, after: str, value: object) -> None:
    redactor = Redactor()
    redactor.learn_mapping({"outer": {"db_password": secret}})
    text = f"{before}{secret}{after}"
    shown = redactor.value({"a": text, "b": [text, {"c": (text,)}], text: value})
    assert secret not in json.dumps(shown, ensure_ascii=False).replace(MASK, "")


@given(VALUES)
def test_anything_becomes_json(value: object) -> None:
    json.dumps(Redactor(["whatever-secret"]).value({"x": value, "y": [value, object()], "z": {1: value}}), allow_nan=False)


def test_a_secret_of_several_lines_and_in_a_url() -> None:
    redactor = Redactor(["first-line-of-it\nsecond-line-of-it", "a/b+c=d e"])
    assert redactor.text("xx second-line-of-it a%2Fb%2Bc%3Dd%20e") == f"xx {MASK} {MASK}"


def test_short_values_and_templates_are_no_known_secrets() -> None:
    redactor = Redactor()
    redactor.learn_mapping(
        {
            "password": "x",
            "token": "{{ lookup('env', 'TOKEN') }}",
            "secret": True,
            "api_key": None,
            "keys_secret": ["listed-secret"],
        }
    )
    assert redactor.text("x lookup True listed-secret") == f"x lookup True {MASK}"


def test_long_texts_and_lists_are_cut_after_redaction() -> None:
    redactor = Redactor(["needle-needle"])
    assert "needle" not in redactor.text(f"{'x' * 1995}needle-needle{'y' * 100}")
    assert redactor.value(list(range(60)))[-1] == "(10 more)"


def test_headers_of_requests_are_hidden_but_for_what_is_no_secret() -> None:
    redactor = Redactor()
    headers = {"Authorization": "Digest abc", "X-Api-Key": "k", "Cookie": "a=b", "X-Auth": "own-way-in", "X-Scope": 7, "X-No": ""}
    plain = {"Accept": "application/json", "Content-Type": "text/plain", "User-Agent": "ops"}
    for name in ("headers", "prometheus_headers", "http_header"):
        shown = redactor.value({"url": "https://host/", name: {**headers, **plain}})
        assert shown == {"url": "https://host/", name: {**dict.fromkeys(headers, MASK), **plain, "X-No": ""}}
    listed = [{"name": "X-Api-Key", "value": "k"}, {"key": "Cookie", "value": "c"}, {"name": "Accept", "value": "a"}]
    assert [item["value"] for item in redactor.value({"pairs": listed})["pairs"]] == [MASK, MASK, "a"]
    assert redactor.value({"name": "files", "value": 3, "key": "base/x"})["value"] == 3
    redactor.learn_mapping({"probe": {"headers": {"X-Auth": "own-way-in", "Accept": "application/json"}}})
    assert redactor.text("own-way-in for application/json") == f"{MASK} for application/json"
