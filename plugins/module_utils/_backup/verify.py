# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verifying a backup by restoring it where it can do no harm, and writing down what came out. PRIVATE to the collection.

The verdict is about the backup: what is wrong with it becomes a check, and the run ends well. What keeps this host from looking
(no room, no programs, no bucket) is an error, and nothing is written down.
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._backup import verifications, verify_base, verify_dump
from ansible_collections.fileforge.ops.plugins.module_utils._backup.verifications import DUMP, Verification
from ansible_collections.fileforge.ops.plugins.module_utils._backup.verify_common import (
    LATEST,
    Bad,
    Findings,
    Subject,
    VerifyOptions,
    time_taken,
)
from ansible_collections.fileforge.ops.plugins.module_utils._checks import result_of
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import Store
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step
from ansible_collections.fileforge.ops.plugins.module_utils._process import interruptible
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress
from ansible_collections.fileforge.ops.plugins.module_utils._time import iso, now
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline


def run_verify(store: Store, options: VerifyOptions, *, check_mode: bool, progress: Progress) -> dict[str, t.Any]:
    """Verify a backup unless one was found good a short time ago; the module's result."""
    options.check()
    place = options.place()
    place.check()
    store.check_bucket()
    choose: t.Callable[[Store, VerifyOptions], Subject] = verify_dump.choose if options.kind == DUMP else verify_base.choose
    subject = choose(store, options)
    young = _young(store, options, subject)
    plan = _plan(store, options, subject, young)
    result = {"changed": bool(plan.steps) and options.record, "plan": plan.as_dict(), "diff": plan.as_diff() if plan.steps else {}}
    if young is not None:
        return {**result, **_of_record(young, young.key_below(options.prefix))}
    if check_mode:
        shown = {"kind": subject.kind, "name": subject.name, "key": subject.key, "bytes": subject.size}
        return {**result, "backup": shown, "checks": [], "status": "unknown", "findings": [], "timings": [], "record": ""}
    return {**result, **_verify(store, options, subject, progress)}


def _young(store: Store, options: VerifyOptions, subject: Subject) -> Verification | None:
    """The newest good verification of this kind, or of the named backup, when it is younger than ``max_age``."""
    if not options.max_age:
        return None
    for record in verifications.newest_first(store, options.prefix):
        if (now() - record.finished_at).total_seconds() >= options.max_age:
            return None
        if record.kind == options.kind and options.backup in (LATEST, record.backup):
            return record if record.ok else None
    return None


def _plan(store: Store, options: VerifyOptions, subject: Subject, young: Verification | None) -> Plan:
    place = options.place()
    plan = Plan(f"verification of the {subject.kind} backup {subject.name} in {store.bucket}/{options.prefix}")
    if young is not None:
        plan.notes.append(f"{young.backup} was verified at {young.finished}, less than {options.max_age} s ago")
        return plan
    left = place.leftovers()
    if left.steps:
        plan.notes.append(f"removes what a verification that was cut off left in {place.directory}")
    plan.steps.append(Step("fetch", subject.key, bytes=subject.size))
    plan.steps.append(Step("restore", place.data_directory, detail="a scratch server on its Unix socket only, archiving off"))
    plan.steps.append(Step("verify", place.data_directory, len(subject.expected()), detail="checks"))
    plan.steps.append(Step("remove", place.data_directory, detail="the scratch server, whatever happens"))
    if options.record:
        name = f"{options.prefix}{verifications.PLACE}<time>-{subject.kind}-{subject.name}.json"
        plan.steps.append(Step("upload", name, detail="the verdict"))
    return plan


def _verify(store: Store, options: VerifyOptions, subject: Subject, progress: Progress) -> dict[str, t.Any]:
    begun = now()
    place = options.place()
    findings = Findings(subject.expected())
    facts: dict[str, t.Any] = {}
    with interruptible("the scratch server was removed, and there is no verdict"), place.held():
        try:
            facts = subject.run(place, findings, progress, Deadline(options.timeout))
            time_taken(progress, options.rto, findings)
        except Bad:
            pass
        with progress.phase("remove", None, ""):
            place.clear()
    verdict = result_of(findings.complete())
    record = Verification(
        kind=subject.kind,
        backup=subject.name,
        key=subject.key,
        status=verdict["status"],
        started=str(iso(begun)),
        finished=str(iso(now())),
        host=os.uname().nodename,
        checks=tuple(verdict["checks"]),
        timings=tuple(progress.timings),
        facts=facts,
    )
    key = verifications.save(store, options.prefix, record) if options.record else ""
    return {**_of_record(record, key), "findings": findings.damage}


def _of_record(record: Verification, key: str) -> dict[str, t.Any]:
    """The part of the module's result that a record holds."""
    return {
        "backup": {"kind": record.kind, "name": record.backup, "key": record.key, **record.facts},
        "checks": list(record.checks),
        "status": record.status,
        "begun": record.started,
        "ended": record.finished,
        "timings": list(record.timings),
        "findings": [],
        "record": key,
    }
