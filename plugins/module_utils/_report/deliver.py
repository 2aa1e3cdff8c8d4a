# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A finished report: written, kept, and returned as modules return it. PRIVATE to the collection."""

from __future__ import annotations

import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._report import machine, model, store, text

SOURCE: dict[str, dict[str, t.Any]] = {
    "name": {"type": "str", "required": True},
    "result": {"type": "dict"},
    "host": {"type": "str", "default": ""},
    "seconds": {"type": "float"},
}
"""What was looked at, and what the module returned."""
ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "directory": {"type": "path"},
    "formats": {
        "type": "list",
        "elements": "str",
        "choices": list(store.RENDERERS),
        "default": ["json", "text", "markdown", "html"],
    },
    "fail_on": {"type": "str", "choices": list(model.FAILS), "default": "critical"},
    "keep": {"type": "int", "default": 400},
    "width": {"type": "int", "default": 100},
}


def kept_in(params: t.Mapping[str, t.Any]) -> store.Store | None:
    """Where the reports are kept; None without a directory. Raises InvalidOption."""
    for name, least in (("keep", 2), ("width", 40)):
        if params[name] < least:
            raise InvalidOption(name, params[name], f"must be {least} or more")
    return store.Store(params["directory"], params["keep"]) if params["directory"] else None


def deliver(
    report: model.Report, kept: store.Store | None, params: t.Mapping[str, t.Any], check_mode: bool, textfile: str | None = None
) -> dict[str, t.Any]:
    """Write the report unless in check mode, and return the result of the module; it fails as ``fail_on`` says."""
    contents = store.rendered(report, params["formats"])
    metrics = machine.prometheus(report) if textfile else ""
    files: dict[str, str] = {}
    if not check_mode:
        files = kept.write(report, contents) if kept else {}
        if textfile:
            store.write_textfile(textfile, metrics)
            files["textfile"] = textfile
    failed = model.violates(report, params["fail_on"])
    return {
        "changed": False,
        "failed": failed,
        **({"msg": f"{report['title']}: {report['summary']}"} if failed else {}),
        **{name: report[name] for name in ("status", "summary", "counts", "changes")},
        "checks": [check for section in report["sections"] for check in section["checks"]],
        "text": text.terminal(report, params["width"]),
        "nagios": text.nagios(report).rstrip("\n"),
        "nagios_code": text.NAGIOS_CODES[report["status"]],
        "files": files,
    }
