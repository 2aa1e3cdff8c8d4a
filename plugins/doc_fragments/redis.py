# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connection to a Redis server."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of module_utils/_argspec.py REDIS."""

    DOCUMENTATION = r"""
options:
  redis_host:
    description: Host name or address.
    type: str
    default: localhost
  redis_port:
    description: Port.
    type: int
    default: 6379
  redis_db:
    description: Number of the database.
    type: int
    default: 0
  redis_username:
    description: User of the access control list. Without it, the user V(default).
    type: str
  redis_password:
    description: Password.
    type: str
  redis_url:
    description:
      - URL in the form C(redis://user:password@host:6379/0), or C(rediss) for TLS, as Celery takes it.
      - It takes the place of O(redis_host), O(redis_port), O(redis_db), O(redis_username), O(redis_password) and O(redis_tls).
    type: str
  redis_tls:
    description: Whether to use TLS.
    type: bool
    default: false
  redis_validate_certs:
    description: Whether to verify the server's certificate and its host name.
    type: bool
    default: true
  redis_ca_cert:
    description: PEM file of the authorities that the server's certificate may be signed by. Without it, the system's.
    type: path
  redis_timeout:
    description: Seconds to wait for a connection, and for each answer.
    type: float
    default: 5
"""
