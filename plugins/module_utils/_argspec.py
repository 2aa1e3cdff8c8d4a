# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Option groups that modules share; each has a doc fragment of the same name. PRIVATE to the collection."""

from __future__ import annotations

import typing as t

Spec = t.Dict[str, t.Dict[str, t.Any]]

S3: Spec = {
    "s3_bucket": {"type": "str", "required": True},
    "s3_endpoint": {"type": "str"},
    "s3_region": {"type": "str", "default": "us-east-1"},
    "s3_access_key": {"type": "str", "no_log": True},
    "s3_secret_key": {"type": "str", "no_log": True},
    "s3_session_token": {"type": "str", "no_log": True},
    "s3_profile": {"type": "str"},
    "s3_ca_bundle": {"type": "path"},
    "s3_addressing_style": {"type": "str", "choices": ["auto", "path", "virtual"], "default": "auto"},
    "s3_timeout": {"type": "int", "default": 60},
    "s3_attempts": {"type": "int", "default": 6},
}

POSTGRES: Spec = {
    "postgres_host": {"type": "str"},
    "postgres_port": {"type": "int", "default": 5432},
    "postgres_user": {"type": "str", "default": "postgres"},
    "postgres_password": {"type": "str", "no_log": True},
    "postgres_database": {"type": "str", "default": "postgres"},
    "postgres_sslmode": {
        "type": "str",
        "default": "prefer",
        "choices": ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
    },
    "postgres_sslrootcert": {"type": "path"},
    "postgres_connect_timeout": {"type": "int", "default": 10},
}

KUBE: Spec = {
    "kube_config": {"type": "path"},
    "kube_context": {"type": "str"},
    "kube_host": {"type": "str"},
    "kube_token": {"type": "str", "no_log": True},
    "kube_ca_cert": {"type": "path"},
    "kube_validate_certs": {"type": "bool", "default": True},
    "kube_timeout": {"type": "int", "default": 30},
}

REDIS: Spec = {
    "redis_host": {"type": "str", "default": "localhost"},
    "redis_port": {"type": "int", "default": 6379},
    "redis_db": {"type": "int", "default": 0},
    "redis_username": {"type": "str"},
    "redis_password": {"type": "str", "no_log": True},
    "redis_url": {"type": "str", "no_log": True},
    "redis_tls": {"type": "bool", "default": False},
    "redis_validate_certs": {"type": "bool", "default": True},
    "redis_ca_cert": {"type": "path"},
    "redis_timeout": {"type": "float", "default": 5},
}

PROMETHEUS: Spec = {
    "prometheus_url": {"type": "str", "required": True},
    "prometheus_token": {"type": "str", "no_log": True},
    "prometheus_username": {"type": "str"},
    "prometheus_password": {"type": "str", "no_log": True},
    "prometheus_headers": {"type": "dict", "default": {}},
    "prometheus_validate_certs": {"type": "bool", "default": True},
    "prometheus_ca_cert": {"type": "path"},
    "prometheus_timeout": {"type": "float", "default": 10},
    "prometheus_attempts": {"type": "int", "default": 3},
}

PLANNED: Spec = {
    "plan_digest": {"type": "str", "no_log": False},
}

PROGRESS: Spec = {
    "progress_file": {"type": "path"},
}


def merge(*specs: Spec) -> Spec:
    """One spec from several. Raises ValueError when two define the same option: that is a mistake of ours."""
    merged: Spec = {}
    for spec in specs:
        twice = merged.keys() & spec.keys()
        if twice:
            raise ValueError(f"options defined twice: {sorted(twice)}")
        merged.update(spec)
    return merged
