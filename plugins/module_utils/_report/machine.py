# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report for machines: JUnit XML and Prometheus text. PRIVATE to the collection."""

from __future__ import annotations

import typing as t
from xml.etree import ElementTree

from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, STATUSES, UNKNOWN, WARNING
from ansible_collections.fileforge.ops.plugins.module_utils._markup import printable
from ansible_collections.fileforge.ops.plugins.module_utils._module import require_library
from ansible_collections.fileforge.ops.plugins.module_utils._report.text import name_of
from ansible_collections.fileforge.ops.plugins.module_utils._time import parse_time

Report = t.Dict[str, t.Any]
ELEMENTS = {CRITICAL: "failure", WARNING: "failure", UNKNOWN: "error"}
"""What a status is in JUnit: an answer that is bad is a failure, no answer is an error."""


def _attributes(**values: t.Any) -> dict[str, str]:
    return {name: printable(value) for name, value in values.items()}


def junit(report: Report) -> str:
    """JUnit XML as CI servers read it: a suite for each section, a case for each check."""
    root = ElementTree.Element("testsuites", _attributes(name=report["title"]))
    for section in report["sections"]:
        kinds = [ELEMENTS.get(check["status"]) for check in section["checks"]]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            _attributes(
                name=section["name"],
                tests=len(kinds),
                failures=kinds.count("failure"),
                errors=kinds.count("error"),
                timestamp=report["time"],
                hostname=section["host"],
            ),
        )
        for check, kind in zip(section["checks"], kinds):
            case = ElementTree.SubElement(suite, "testcase", _attributes(classname=section["name"], name=name_of(check)))
            if kind:
                said = ElementTree.SubElement(case, kind, _attributes(type=check["status"], message=check["summary"]))
                said.text = printable(check["hint"])
            else:
                ElementTree.SubElement(case, "system-out").text = printable(check["summary"])
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def prometheus(report: Report) -> str:
    """Text for node exporter's textfile collector, written by prometheus_client. Raises MissingLibrary.

    ``fileforge_check_status`` is 1 for the status that a check has and 0 for the others (a state set, as OpenMetrics calls it),
    ``fileforge_check_value`` is its value where that is a number, and a report that stopped coming shows in
    ``fileforge_report_time_seconds``.
    """
    library = require_library("prometheus_client", "prometheus-client")
    registry = library.CollectorRegistry()
    labels = ("section", "host", "check", "subject")
    status = library.Gauge("fileforge_check_status", "1 for the status that the check has.", (*labels, "status"), registry=registry)
    value = library.Gauge("fileforge_check_value", "Value that the check found.", (*labels, "unit"), registry=registry)
    overall = library.Gauge("fileforge_report_status", "1 for the worst status of the report.", ("status",), registry=registry)
    when = library.Gauge("fileforge_report_time_seconds", "When the report was made, seconds since 1970.", registry=registry)
    for section in report["sections"]:
        for check in section["checks"]:
            names = (section["name"], section["host"], check["id"], check["subject"] or check["key"].partition("#")[2])
            for name in STATUSES:
                status.labels(*names, name).set(float(check["status"] == name))
            number = check["value"]
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                value.labels(*names, check["unit"]).set(number)
    for name in STATUSES:
        overall.labels(name).set(float(report["status"] == name))
    when.set(parse_time(report["time"], "time").timestamp())
    text: str = library.generate_latest(registry).decode()
    return text
