# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs modules that only look in one process of the host, each in a fork of it with a deadline. PRIVATE to the collection.

To start Python, and Ansible's part of it, costs more than most looks do. Here it is paid once.
"""

from __future__ import annotations

import functools
import importlib
import typing as t

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.parameters import remove_values
from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._module import attempt
from ansible_collections.fileforge.ops.plugins.module_utils._parallel import Answer, Call, run_all

if t.TYPE_CHECKING:  # and this is how Ansible knows what to send to the host; a test compares it with NAMES
    from ansible_collections.fileforge.ops.plugins.module_utils._probes import (  # noqa: F401
        celery_queue_info,
        disk_usage_info,
        exposure_info,
        http_probe_info,
        kube_log_info,
        kube_workload_info,
        postgres_backup_info,
        postgres_health_info,
        postgres_statement_info,
        prometheus_metric_info,
        security_updates_info,
        tls_certificate_info,
    )

COLLECTION = "fileforge.ops."
NAMES = (
    "celery_queue_info",
    "disk_usage_info",
    "exposure_info",
    "http_probe_info",
    "kube_log_info",
    "kube_workload_info",
    "postgres_backup_info",
    "postgres_health_info",
    "postgres_statement_info",
    "prometheus_metric_info",
    "security_updates_info",
    "tls_certificate_info",
)
MODULES = tuple(f"{COLLECTION}{name}" for name in NAMES)
Probe = t.Mapping[str, t.Any]


def run_probes(probes: t.Sequence[Probe], at_once: int, check_mode: bool) -> list[dict[str, t.Any]]:
    """For each probe (``name``, ``module``, ``args``, ``timeout``) its name, the seconds it took and its result."""
    calls = [Call(functools.partial(run_probe, probe, check_mode), probe["timeout"]) for probe in probes]
    return [result_of(probe, answer) for probe, answer in zip(probes, run_all(calls, at_once))]


def run_probe(probe: Probe, check_mode: bool) -> dict[str, t.Any]:
    """What the module of this name would return for these options, its secrets removed."""
    code = importlib.import_module(f"{__package__}.{probe['module'][len(COLLECTION) :]}")
    given = ArgumentSpecValidator(code.ARGUMENTS, **getattr(code, "CONSTRAINTS", {})).validate(probe["args"])

    def operation() -> dict[str, t.Any]:
        if given.error_messages:
            raise OpsError("; ".join(given.error_messages))
        found: dict[str, t.Any] = code.operate(given.validated_parameters, check_mode)
        return found

    done, result = attempt(operation)
    kept: dict[str, t.Any] = remove_values(result if done else {**result, "failed": True}, given._no_log_values)
    return kept


def result_of(probe: Probe, answer: Answer) -> dict[str, t.Any]:
    """What the module said, without Ansible's own keys; a failure when it said nothing."""
    value = answer.value if isinstance(answer.value, dict) else {}
    found = {name: said for name, said in value.items() if not name.startswith("_ansible_") and name != "invocation"}
    if answer.problem:
        found = {"failed": True, "msg": answer.problem, "hint": f"run {probe['module']} by itself to see what it waits for"}
    return {"name": probe["name"], "seconds": answer.seconds, "result": found}
