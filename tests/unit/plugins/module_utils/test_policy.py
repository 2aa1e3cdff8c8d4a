# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bucket's policy against a service that refuses what the real one refuses."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, NotFound, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore import policy as policy_module
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import S3Options, Store
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.policy import BucketPolicy
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.policy_checks import PolicyChecks
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.policy_rules import (
    CLASSES,
    PolicyOptions,
    applies,
    dangers,
    merged_rules,
    rule_text,
    shortens,
    wanted_rules,
)

from tests.lab.s3_stub import Bucket, S3Stub, Stored

NOW = datetime.datetime.now(datetime.timezone.utc)
LOCKED = PolicyOptions(object_lock="governance")
ALIEN: dict[str, t.Any] = {
    "ID": "tmp",
    "Status": "Enabled",
    "Filter": {"And": {"Prefix": "tmp/", "Tags": [{"Key": "a", "Value": "b"}]}},
    "Expiration": {"Days": 3},
}
OLD_STYLE = {"ID": "old", "Status": "Disabled", "Prefix": "x/", "Expiration": {"Days": 1}}


@pytest.fixture(scope="module")
def service() -> t.Iterator[S3Stub]:
    with S3Stub() as running:
        yield running


@pytest.fixture
def stub(service: S3Stub) -> S3Stub:
    service.forget()
    service.bucket("backups")
    return service


@functools.lru_cache(None)
def store(stub: S3Stub, name: str) -> Store:
    return Store(S3Options.from_params(stub.options(name)))


def policy(stub: S3Stub, options: PolicyOptions = LOCKED, name: str = "backups") -> BucketPolicy:
    return BucketPolicy(store(stub, name), options)


def bucket(stub: S3Stub) -> Bucket:
    return stub.buckets["backups"]


def checks(stub: S3Stub, options: PolicyOptions = LOCKED, replica: str = "") -> dict[str, t.Any]:
    ours = policy(stub, options)
    second = (lambda: policy(stub, options, replica).store) if replica else None
    return {check.id: check for check in PolicyChecks(ours, ours.look(), NOW, second).all()}


def steps(stub: S3Stub, options: PolicyOptions = LOCKED) -> list[tuple[str, str]]:
    ours = policy(stub, options)
    return [(step.action, step.object) for step in ours.plan(ours.look()).steps]


def test_from_nothing_to_everything_and_then_nothing(stub: S3Stub) -> None:
    ours = policy(stub)
    state = ours.look()
    plan = ours.plan(state)
    assert [step.action for step in plan.steps] == ["enable", "block", *["add_rule"] * 8, "lock"]
    assert plan.destructive and plan.notes == []
    assert not [request for request in stub.requests if request[0] != "GET"], "planning changes nothing"
    after = ours.apply(state)
    assert ours.plan(after).steps == []
    found = bucket(stub).configuration
    assert found["versioning"] == {"Status": "Enabled"}
    assert found["object-lock"]["Rule"] == {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 7}}
    assert set(found["publicAccessBlock"].values()) == {True}
    assert found["lifecycle"]["Rules"] == wanted_rules(LOCKED)
    assert "encryption" not in [kind for method, kind in stub.requests if method == "PUT"], "it was as asked for"
    assert {check.status for name, check in checks(stub).items() if name != "policy.replication"} == {"ok"}


def test_no_rule_of_ours_expires_a_backup_by_age() -> None:
    """The row of the runbook's table, WAL seven days, as a lifecycle rule takes WAL from backups of thirty days."""
    for options in (LOCKED, PolicyOptions(prefix="site/", files_prefix="site/files")):
        rules = wanted_rules(options)
        assert dangers(rules, options) == []
        for place in options.places.values():
            assert not [rule for rule in rules if applies(rule, place) and "Days" in rule.get("Expiration", {})]
        texts = [rule_text(rule) for rule in rules]
        assert f"{options.files}.aside/: expires objects after 90 days, removes older versions after 1 days, " in "\n".join(texts)
        assert f"{options.prefix}base/: moves objects to GLACIER_IR after 7 days" in texts


def test_the_rule_of_the_runbooks_table_is_found() -> None:
    """Whoever sets the retention column up as it stands is told what that would delete."""
    table = [("wal/", 7), ("base/", 30), ("files/", 90), ("", 365), ("config/", 10)]
    for prefix, days in table:
        rule = {"ID": "table", "Status": "Enabled", "Filter": {"Prefix": prefix}, "Expiration": {"Days": days}}
        assert dangers([rule], LOCKED), prefix
        assert not dangers([{**rule, "Status": "Disabled"}], LOCKED)
    slow = {"ID": "s", "Status": "Enabled", "Filter": {"Prefix": "base/"}, "Transitions": [{"Days": 1, "StorageClass": "GLACIER"}]}
    assert "nothing can be read at once" in dangers([slow], LOCKED)[0][1]
    short = {"ID": "v", "Status": "Enabled", "Filter": {}, "NoncurrentVersionExpiration": {"NoncurrentDays": 30}}
    assert "after 30 instead of 90 days" in dangers([short], LOCKED)[0][1]
    assert not dangers([ALIEN, OLD_STYLE], LOCKED)


def test_rules_of_others_stay_and_a_dangerous_one_is_named(stub: S3Stub) -> None:
    blind = {"ID": "seven days", "Status": "Enabled", "Filter": {"Prefix": "wal/"}, "Expiration": {"Days": 7}}
    bucket(stub).configuration["lifecycle"] = {"Rules": [ALIEN, blind, OLD_STYLE]}
    ours = policy(stub)
    ours.apply(ours.look())
    assert bucket(stub).configuration["lifecycle"]["Rules"] == [ALIEN, blind, OLD_STYLE, *wanted_rules(LOCKED)]
    kept = checks(stub)["policy.kept"]
    assert kept.status == "critical" and "seven days deletes WAL by their age alone" in kept.summary
    assert kept.evidence[0]["does"] == "wal/: expires objects after 7 days"


def test_other_prefixes_of_the_bucket_have_rules_of_their_own(stub: S3Stub) -> None:
    other = PolicyOptions(prefix="site/", files_prefix="site/files", object_lock="governance")
    for options in (LOCKED, other):
        ours = policy(stub, options)
        ours.apply(ours.look())
    assert len(bucket(stub).configuration["lifecycle"]["Rules"]) == 16
    assert steps(stub) == [] and steps(stub, other) == []


def test_a_changed_policy_replaces_and_removes_its_own_rules(stub: S3Stub) -> None:
    ours = policy(stub)
    ours.apply(ours.look())
    changed = dataclasses.replace(LOCKED, files_days=30, archive_class="none")
    assert steps(stub, changed) == [
        ("replace_rule", "fileforge:files"),
        ("replace_rule", "fileforge:files-aside"),
        ("replace_rule", "fileforge:files-manifest"),
        ("remove_rule", "fileforge:base-archive"),
        ("remove_rule", "fileforge:database-archive"),
    ]
    theirs = policy(stub, changed)
    assert theirs.plan(theirs.look()).destructive, "files would be gone sooner"
    longer = policy(stub, dataclasses.replace(LOCKED, files_days=120))
    assert not longer.plan(longer.look()).destructive
    theirs.apply(theirs.look())
    assert steps(stub, changed) == []


def test_what_the_service_does_not_implement_is_unknown(stub: S3Stub) -> None:
    stub.unimplemented |= {"publicAccessBlock", "object-lock", "replication"}
    stub.denied.add("encryption")
    assert {action for action, _object in steps(stub)} == {"enable", "add_rule"}
    ours = policy(stub)
    plan = ours.plan(ours.look())
    assert len(plan.notes) == 4 and any("does not implement this" in note for note in plan.notes)
    ours.apply(ours.look())
    found = checks(stub)
    for name in ("public_access", "object_lock", "encryption", "replication"):
        assert found[f"policy.{name}"].status == "unknown", name
    assert "access denied" in found["policy.encryption"].summary
    assert found["policy.versioning"].status == "ok"
    stub.denied.add("lifecycle")
    found = checks(stub)
    assert found["policy.kept"].status == found["policy.lifecycle"].status == found["policy.archive_class"].status == "unknown"


def test_nothing_set_is_critical_and_not_unknown(stub: S3Stub) -> None:
    bucket(stub).configuration.clear()
    found = checks(stub)
    assert {name: check.status for name, check in found.items()} == {
        "policy.lifecycle": "warning",
        "policy.kept": "ok",
        "policy.versioning": "critical",
        "policy.archive_class": "warning",
        "policy.object_lock": "warning",
        "policy.encryption": "critical",
        "policy.public_access": "critical",
        "policy.replication": "critical",
    }
    assert "backup-policy.yml" in found["policy.versioning"].hint


def test_encryption_that_cannot_be_used_is_put_back(stub: S3Stub) -> None:
    options = dataclasses.replace(LOCKED, encryption="aws:kms", encryption_key="no-such-key")
    before = bucket(stub).configuration["encryption"]
    ours = policy(stub, options)
    with pytest.raises(Refused, match="cannot store an object") as caught:
        ours.apply(ours.look())
    assert caught.value.state["reason"] == "encryption_fails"
    assert bucket(stub).configuration["encryption"] == before and not bucket(stub).objects
    good = dataclasses.replace(options, encryption_key="arn:aws:kms:us-east-1:1:key/2")
    theirs = policy(stub, good)
    theirs.apply(theirs.look())
    assert bucket(stub).configuration["encryption"]["Rules"][0]["BucketKeyEnabled"] is True
    assert not bucket(stub).objects, "the probe is gone"


def test_a_service_that_forgets_is_not_believed(stub: S3Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_module, "SETTLE", 0.0)
    stub.forgets.add("publicAccessBlock")
    ours = policy(stub)
    with pytest.raises(Refused, match="does not show it: public access"):
        ours.apply(ours.look())


def test_no_bucket_is_an_error(stub: S3Stub) -> None:
    with pytest.raises(NotFound):
        policy(stub, name="elsewhere").look()


def test_every_class_is_accepted_by_the_service(stub: S3Stub) -> None:
    for name in CLASSES:
        options = dataclasses.replace(LOCKED, archive_class=name, archive_after_days=30)
        ours = policy(stub, options)
        ours.apply(ours.look())
        assert steps(stub, options) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"deleted_days": 0},
        {"prefix": "site"},
        {"files_prefix": "/"},
        {"encryption_key": "k"},
        {"versioning": False, "object_lock": "compliance"},
        {"archive_class": "STANDARD_IA", "archive_after_days": 7},
    ],
)
def test_wrong_options(wrong: dict[str, t.Any]) -> None:
    with pytest.raises(InvalidOption):
        PolicyOptions(**wrong).check()


def test_too_many_rules() -> None:
    with pytest.raises(InvalidOption, match="1000"):
        merged_rules([{"ID": str(number)} for number in range(993)], LOCKED)


def test_a_rule_that_deletes_sooner_is_destructive() -> None:
    rule = {"Filter": {"Prefix": "a/"}, "Expiration": {"Days": 5}}
    assert shortens(rule, None) and shortens(rule, {**rule, "Expiration": {"Days": 6}})
    assert not shortens(rule, {**rule, "Expiration": {"Days": 4}})
    assert shortens(rule, {**rule, "Filter": {"Prefix": "b/"}})


# The second region

REPLICATES = {
    "Role": "arn:aws:iam::1:role/x",
    "Rules": [{"Status": "Enabled", "Priority": 1, "Filter": {}, "Destination": {"Bucket": "arn:aws:s3:::second"}}],
}


def filled(stub: S3Stub, name: str, *without: str, age: float = 3600) -> Bucket:
    made = stub.bucket(name) if name not in stub.buckets else stub.buckets[name]
    for key in ("base/b_base.tar.gz", "wal/0", "database/d.sql.gz", "files/f", "config/c"):
        if key not in without:
            made.objects[key] = Stored(b"data", modified=NOW - datetime.timedelta(seconds=age))
    return made


def test_no_second_region_is_critical(stub: S3Stub) -> None:
    found = checks(stub)["policy.replication"]
    assert found.status == "critical" and "base backups, WAL, dumps, configuration, files" in found.summary
    assert "policy.replication" not in checks(stub, dataclasses.replace(LOCKED, replication=False))


def test_replication_of_a_part_is_not_enough(stub: S3Stub) -> None:
    rule = {**REPLICATES["Rules"][0], "Filter": {"Prefix": "files/"}}  # type: ignore[dict-item]
    bucket(stub).configuration["replication"] = {**REPLICATES, "Rules": [rule]}
    found = checks(stub)["policy.replication"]
    assert found.status == "critical" and found.summary.endswith("base backups, WAL, dumps, configuration")


@pytest.mark.parametrize(("said", "status"), [("COMPLETED", "ok"), ("PENDING", "warning"), ("FAILED", "critical")])
def test_the_service_is_asked_about_the_newest_objects(stub: S3Stub, said: str, status: str) -> None:
    bucket(stub).configuration["replication"] = REPLICATES
    filled(stub, "backups")
    bucket(stub).objects["wal/0"].replication = said
    found = checks(stub)["policy.replication"]
    assert found.status == status
    assert status == "ok" or "wal/0" in found.summary


def test_the_second_bucket_is_compared(stub: S3Stub) -> None:
    filled(stub, "backups")
    filled(stub, "second")
    found = checks(stub, replica="second")
    assert found["policy.replica"].status == found["policy.replication"].status == "ok"
    del stub.buckets["second"].objects["wal/0"]
    stub.buckets["second"].objects["files/f"].data = b"cut"
    found = checks(stub, replica="second")
    assert found["policy.replica"].status == "critical" and found["policy.replica"].evidence == ["wal/0", "files/f"]
    assert found["policy.replication"].status == "critical"
    filled(stub, "backups", age=10)
    assert checks(stub, replica="second")["policy.replica"].status == "unknown", "too young to be missed"
    del stub.buckets["second"]
    filled(stub, "backups")
    assert checks(stub, replica="second")["policy.replica"].status == "unknown", "could not look"


def test_a_bucket_tells_whether_it_keeps_versions(stub: S3Stub) -> None:
    ours = store(stub, "backups")
    assert not ours.keeps_versions()
    bucket(stub).configuration["versioning"] = {"Status": "Enabled"}
    assert ours.keeps_versions()
    stub.unimplemented.add("versioning")
    assert not ours.keeps_versions()
    stub.unimplemented.clear()
    stub.denied.add("versioning")
    assert not ours.keeps_versions()
