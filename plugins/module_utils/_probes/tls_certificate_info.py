# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options and result of the module of the same name. PRIVATE to the collection."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import result_of
from ansible_collections.fileforge.ops.plugins.module_utils._tls.endpoint import Endpoint
from ansible_collections.fileforge.ops.plugins.module_utils._tls.examine import Questions, examine_endpoint, examine_file

PORTS = {"smtp": 25, "postgres": 5432}
ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "host": {"type": "str"},
    "port": {"type": "int"},
    "server_name": {"type": "str"},
    "starttls": {"type": "str", "choices": ["smtp", "postgres"]},
    "path": {"type": "path"},
    "name": {"type": "str"},
    "hostname": {"type": "str"},
    "warning_days": {"type": "float", "default": 30},
    "critical_days": {"type": "float", "default": 7},
    "ca_cert": {"type": "path"},
    "timeout": {"type": "float", "default": 10},
    "ocsp": {"type": "bool", "default": False},
    "acme_directory": {"type": "str"},
    "acme_ca_cert": {"type": "path"},
}
CONSTRAINTS: dict[str, t.Any] = {
    "mutually_exclusive": [("path", name) for name in ("host", "port", "server_name", "starttls")],
    "required_one_of": [("host", "path")],
}


def questions(params: dict[str, t.Any]) -> Questions:
    """What the options ask."""
    own = params["server_name"] or params["host"]
    return Questions(
        name=params["name"] or own or os.path.splitext(os.path.basename(params["path"]))[0],
        hostname=params["hostname"] or own or "",
        acme_directory=params["acme_directory"] or "",
        **{name: params[name] for name in ("warning_days", "critical_days", "ca_cert", "timeout", "ocsp", "acme_ca_cert")},
    )


def operate(params: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Look and return the result of the module."""
    asked = questions(params)
    if params["path"]:
        found = examine_file(params["path"], asked)
    else:
        starttls = params["starttls"] or ""
        port = params["port"] if params["port"] is not None else PORTS.get(starttls, 443)
        found = examine_endpoint(Endpoint(params["host"], port, params["server_name"] or "", starttls), asked)
    return {"changed": False, "name": asked.name, **found.as_dict(), **result_of(found.checks)}
