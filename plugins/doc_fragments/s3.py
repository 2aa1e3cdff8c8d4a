# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connection to an S3 bucket."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of module_utils/_argspec.py S3."""

    DOCUMENTATION = r"""
options:
  s3_bucket:
    description: Name of the bucket.
    type: str
    required: true
  s3_endpoint:
    description: URL of an S3-compatible service. Without it, AWS's endpoint of O(s3_region).
    type: str
  s3_region:
    description: Region name used for signing.
    type: str
    default: us-east-1
  s3_access_key:
    description:
      - Access key id. Without it, the standard search of the AWS SDK is used (E(AWS_ACCESS_KEY_ID), profile, instance role).
    type: str
  s3_secret_key:
    description: Secret access key. Goes with O(s3_access_key).
    type: str
  s3_session_token:
    description: Session token of temporary credentials.
    type: str
  s3_profile:
    description: Name of a profile in the AWS configuration files.
    type: str
  s3_ca_bundle:
    description: PEM file of the authorities that the endpoint's certificate may be signed by.
    type: path
  s3_addressing_style:
    description: Whether the bucket's name goes into the host name (V(virtual)) or the path (V(path)).
    type: str
    choices: [auto, path, virtual]
    default: auto
  s3_timeout:
    description: Seconds to wait for a connection or for the next bytes of an answer.
    type: int
    default: 60
  s3_attempts:
    description: How often one request is tried at most, with jittered exponential back-off.
    type: int
    default: 6
"""
