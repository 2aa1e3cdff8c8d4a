# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connection to a PostgreSQL server."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of module_utils/_argspec.py POSTGRES."""

    DOCUMENTATION = r"""
options:
  postgres_host:
    description: Host name, address, or absolute path of the directory of the server's Unix socket. Without it, libpq's default.
    type: str
  postgres_port:
    description: Port, also part of the socket's name.
    type: int
    default: 5432
  postgres_user:
    description: Role to connect as.
    type: str
    default: postgres
  postgres_password:
    description: Password. Without it, E(PGPASSWORD), the password file or peer authentication are used.
    type: str
  postgres_database:
    description: Database to connect to.
    type: str
    default: postgres
  postgres_sslmode:
    description: How TLS is negotiated, in libpq's terms.
    type: str
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
    default: prefer
  postgres_sslrootcert:
    description: PEM file of the authorities that the server's certificate may be signed by.
    type: path
  postgres_connect_timeout:
    description: Seconds to wait for a connection.
    type: int
    default: 10
"""
