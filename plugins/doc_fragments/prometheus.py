# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connection to a Prometheus server."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of module_utils/_argspec.py PROMETHEUS."""

    DOCUMENTATION = r"""
options:
  prometheus_url:
    description: URL of the server, or of one that has the same API, without C(/api/v1) and without credentials.
    type: str
    required: true
  prometheus_token:
    description: Token that is sent as C(Authorization) header.
    type: str
  prometheus_username:
    description: User for basic authentication, when there is no token.
    type: str
  prometheus_password:
    description: Password for basic authentication.
    type: str
  prometheus_headers:
    description: More request headers, for example C(X-Scope-OrgID). Their values are not kept secret.
    type: dict
    default: {}
  prometheus_validate_certs:
    description: Whether to verify the certificate and its host name.
    type: bool
    default: true
  prometheus_ca_cert:
    description: PEM file of the authorities that the certificate may be signed by. Without it, the system's.
    type: path
  prometheus_timeout:
    description: Seconds for one request, and for the server to work on it.
    type: float
    default: 10
  prometheus_attempts:
    description: How often a request is made at most, when the server is not reached or not ready.
    type: int
    default: 3
"""
