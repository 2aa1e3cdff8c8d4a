# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy of a bucket: what SeaweedFS can do on SeaweedFS, the rest on a service that follows botocore's model."""

from __future__ import annotations

import typing as t

import pytest

from tests.lab.facts import wal_interpreter
from tests.lab.s3 import S3Server
from tests.lab.s3_stub import S3Stub

MODULE = "s3_backup_policy"
PLAIN = {"archive_class": "none", "encryption": "none"}


@pytest.fixture
def stub() -> t.Iterator[S3Stub]:
    with S3Stub() as service:
        service.bucket("backups")
        yield service


def by_id(result: dict[str, t.Any]) -> dict[str, str]:
    return {check["id"]: check["status"] for check in result["checks"]}


def test_check_run_and_again(s3: S3Server, bucket: str, run_module: t.Any) -> None:
    client = s3.client()
    alien = {"ID": "tmp", "Status": "Enabled", "Filter": {"Prefix": "tmp/"}, "Expiration": {"Days": 1}}
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [alien]})
    arguments = {**s3.options(bucket), **PLAIN, "replication": False}
    planned = run_module(MODULE, arguments, check=True, diff=True)
    assert planned["changed"] and "Status" not in client.get_bucket_versioning(Bucket=bucket)
    assert [step["action"] for step in planned["plan"]["steps"]] == ["enable", *["add_rule"] * 6]
    assert "add_rule" in planned["output"]
    done = run_module(MODULE, {**arguments, "plan_digest": planned["plan"]["digest"]})
    assert done["plan"]["digest"] == planned["plan"]["digest"]
    assert client.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    rules = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert rules[0] == alien and len(rules) == 7
    assert not run_module(MODULE, arguments)["changed"]
    states = by_id(done)
    assert states == {
        "policy.lifecycle": "ok",
        "policy.kept": "ok",
        "policy.versioning": "ok",
        "policy.public_access": "unknown",
    }
    assert "does not implement this" in str(done["checks"])


def test_deleted_backups_can_be_brought_back(s3: S3Server, bucket: str, run_module: t.Any) -> None:
    """What the policy is for: a deleted object is an older version, and a locked one cannot be removed at all."""
    client = s3.client()
    arguments = {**s3.options(bucket), **PLAIN, "replication": False, "object_lock": "governance"}
    run_module(MODULE, arguments)
    client.put_object(Bucket=bucket, Key="wal/1", Body=b"wal")
    client.delete_object(Bucket=bucket, Key="wal/1")
    [version] = client.list_object_versions(Bucket=bucket)["Versions"]
    assert client.get_object(Bucket=bucket, Key="wal/1", VersionId=version["VersionId"])["Body"].read() == b"wal"
    with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
        client.delete_object(Bucket=bucket, Key="wal/1", VersionId=version["VersionId"])
    bypass = {"BypassGovernanceRetention": True}
    for item in [version, *client.list_object_versions(Bucket=bucket)["DeleteMarkers"]]:
        client.delete_object(Bucket=bucket, Key="wal/1", VersionId=item["VersionId"], **bypass)


def test_encryption_that_the_service_cannot_do_is_taken_back(s3: S3Server, bucket: str, run_module: t.Any) -> None:
    """SeaweedFS without a key accepts the setting and then refuses every object: backups would stop."""
    arguments = {**s3.options(bucket), **PLAIN, "encryption": "AES256", "replication": False}
    failed = run_module(MODULE, arguments, expect_failure=True)
    assert failed["reason"] == "encryption_fails" and "encryption=none" in failed["hint"]
    s3.client().put_object(Bucket=bucket, Key="base/x", Body=b"still possible")


def test_a_service_without_archive_classes_says_what_to_set(s3: S3Server, bucket: str, run_module: t.Any) -> None:
    arguments = {**s3.options(bucket), "encryption": "none", "replication": False}
    failed = run_module(MODULE, arguments, expect_failure=True)
    assert failed["code"] == "unsupported" and "archive_class=none" in failed["hint"]


def test_the_whole_policy_and_a_blind_rule(stub: S3Stub, run_module: t.Any) -> None:
    arguments = {**stub.options("backups"), "object_lock": "governance", "replica": stub.options("second")}
    stub.bucket("second")
    done = run_module(MODULE, arguments, interpreter=wal_interpreter())  # the distribution's Python and boto3
    assert len(done["plan"]["steps"]) == 11 and not run_module(MODULE, arguments)["changed"]
    assert "stub-secret" not in done["output"]
    blind = {"ID": "wal", "Status": "Enabled", "Filter": {"Prefix": "wal/"}, "Expiration": {"Days": 7}}
    stub.buckets["backups"].configuration["lifecycle"]["Rules"].append(blind)
    found = run_module(MODULE, arguments)
    assert not found["changed"] and by_id(found)["policy.kept"] == found["status"] == "critical"
    assert blind in stub.buckets["backups"].configuration["lifecycle"]["Rules"]


def test_wrong_options(stub: S3Stub, run_module: t.Any) -> None:
    failed = run_module(MODULE, {**stub.options("backups"), "prefix": "site"}, expect_failure=True)
    assert failed["code"] == "invalid_option" and "site/" in failed["hint"] and stub.requests == []
