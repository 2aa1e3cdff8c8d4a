# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The harness itself: what every other integration test stands on."""

from __future__ import annotations

import pwd

import pytest
from botocore.exceptions import ClientError

from tests.lab.s3 import S3Server


def test_bucket_is_real(s3: S3Server, bucket: str) -> None:
    client = s3.client()
    client.put_object(Bucket=bucket, Key="a/b", Body=b"content", Metadata={"fileforge-format": "1"})
    answer = client.get_object(Bucket=bucket, Key="a/b", Range="bytes=1-3")
    assert answer["Body"].read() == b"ont"
    assert answer["Metadata"] == {"fileforge-format": "1"}


def test_reader_cannot_write(s3: S3Server, bucket: str) -> None:
    import boto3

    options = s3.options(bucket, reader=True)
    client = boto3.client(
        "s3",
        endpoint_url=options["s3_endpoint"],
        region_name=options["s3_region"],
        aws_access_key_id=options["s3_access_key"],
        aws_secret_access_key=options["s3_secret_key"],
    )
    with pytest.raises(ClientError) as caught:
        client.put_object(Bucket=bucket, Key="x", Body=b"")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


@pytest.mark.parametrize("version", [15, 18])
def test_cluster_survives_a_crash(postgres, version: int) -> None:
    cluster = postgres(version=version)
    assert cluster.execute("SHOW data_checksums") == [("on",)]
    location = cluster.create_tablespace("slow")
    cluster.execute("CREATE TABLE kept TABLESPACE slow AS SELECT 1 AS one")
    assert pwd.getpwuid(location.stat().st_uid).pw_name == cluster.owner
    cluster.kill()
    assert not cluster.running()
    cluster.start()
    assert cluster.execute("SELECT one FROM kept") == [(1,)]
    cluster.stop()
    assert not cluster.running()


def test_unknown_module_is_a_failure(run_module) -> None:
    with pytest.raises(AssertionError, match="no_such_module"):
        run_module("no_such_module", {})
