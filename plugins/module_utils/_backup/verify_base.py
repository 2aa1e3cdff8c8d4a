# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verifying a base backup and its WAL: restored to a point in time on a scratch server, and every page read. PRIVATE."""

from __future__ import annotations

import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._backup.base_backups import BaseBackup
from ansible_collections.fileforge.ops.plugins.module_utils._backup.catalog import Catalog, RecoveryPlan, plan_recovery
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore import Outcome, Restore
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_plan import RestoreOptions
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_recover import Limits
from ansible_collections.fileforge.ops.plugins.module_utils._backup.scratch_server import Place, ScratchServer
from ansible_collections.fileforge.ops.plugins.module_utils._backup.verifications import BASE
from ansible_collections.fileforge.ops.plugins.module_utils._backup.verify_common import (
    LATEST,
    Bad,
    Findings,
    VerifyOptions,
    ask,
    could_not,
    examine,
)
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, OpsError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import Store
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import HOST, ServerOptions, read_version
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress
from ansible_collections.fileforge.ops.plugins.module_utils._time import iso
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline

STALL = 600
START = 120
_ENVIRONMENT = (
    "disk_space",
    "wrong_version",
    "interpreter",
    "parent_missing",
    "parent_not_writable",
    "parent_not_reachable",
    "locked",
    "not_a_data_directory",
    "data_directory_mount",
)
"""Refusals of a restore that say something about this host and nothing about the backup."""
_UNKNOWN = (HOST, "tablespace_created")
"""Reasons of a recovery that could not go on here, although the backup may be good."""


def choose(store: Store, options: VerifyOptions) -> BaseSubject:
    """The base backup of that name, or the newest that was ever finished. Raises Refused (``no_backups``, ``backup_unknown``)."""
    catalog = Catalog.load(store, options.prefix)
    place = f"{options.prefix}base/ of bucket {store.bucket}"
    if options.backup != LATEST:
        named = [backup for backup in catalog.backups if backup.name == options.backup]
        if not named:
            known = [backup.name for backup in catalog.backups]
            raise Refused("backup_unknown", f"there is no base backup {options.backup} below {place}", backups=known)
        return BaseSubject(store, options, catalog, named[0])
    finished = [backup for backup in catalog.backups if backup.has_index or backup.plain]
    if not finished:
        raise Refused("no_backups", f"there is no base backup below {place}", hint="make one: playbooks/backup.yml")
    return BaseSubject(store, options, catalog, finished[-1])


class BaseSubject:
    """A base backup that is to be verified."""

    kind = BASE

    def __init__(self, store: Store, options: VerifyOptions, catalog: Catalog, backup: BaseBackup) -> None:
        self._store = store
        self._options = options
        self._catalog = catalog
        self._backup = backup
        self.name = backup.name
        self.key = backup.key
        self.size = backup.size

    def expected(self) -> list[str]:
        """See Subject."""
        options = self._options
        names = ["verify.manifest", "verify.wal", "verify.checksum", "verify.restore"]
        names += ["verify.minimum_rows"] if options.minimum_rows else []
        names += [f"postgres.assert.{assertion.name}" for assertion in options.assertions]
        names += ["postgres.amcheck.indexes", "postgres.amcheck.tables"] if options.amcheck else []
        return names + (["verify.page_checksums"] if options.page_checksums and self._has_checksums() else [])

    def _has_checksums(self) -> bool:
        """As far as the index tells; the restored cluster knows for certain."""
        try:
            return self._backup.has_index and self._backup.index().checksums
        except IntegrityError:
            return False

    def run(self, place: Place, findings: Findings, progress: Progress, deadline: Deadline) -> dict[str, t.Any]:
        """See Subject."""
        options = self._restore_options(place, deadline)
        self._index(findings)
        plan = self._plan(options, findings)
        outcome = self._restore(options, plan, findings, progress)
        server = ScratchServer(place, int(outcome.backup["version_num"] or 0) // 10000 or (read_version(place.data_directory) or 0))
        with progress.phase("verify", None, ""):
            databases = server.databases()
            ask(server, self._options.database or "", self._options, findings, deadline)
            examine(server, databases, self._options, findings, deadline)
        if self._options.page_checksums:
            with progress.phase("page_checksums", None, ""):
                _pages(server, findings, deadline)
        return {
            "bytes": self.size,
            "version_num": outcome.backup["version_num"],
            "system_identifier": outcome.backup["system_identifier"],
            "stopped": outcome.backup["stopped"],
            "recovery": outcome.recovery,
            "databases": databases,
        }

    def _restore_options(self, place: Place, deadline: Deadline) -> RestoreOptions:
        options = self._options
        return RestoreOptions(
            s3=self._store.options,
            data_directory=place.data_directory,
            target_time=options.target_time,
            prefix=options.prefix,
            backup=self.name,
            bin_directory=options.bin_directory,
            server=ServerOptions(owner=options.owner, settings=options.server_options),
            scratch=True,
            jobs=options.jobs,
            limits=Limits(max(1, int(deadline.left)), STALL, START),
            interpreter=options.program_interpreter,
        )

    def _index(self, findings: Findings) -> None:
        backup = self._backup
        if backup.plain:
            findings.unknown(
                "verify.manifest",
                f"{backup.key} is a plain archive without index: nothing tells what it must hold",
                hint="make backups with postgres_base_backup",
            )
            return
        try:
            if backup.problem:
                raise IntegrityError(backup.problem)
            index = backup.index()
        except (IntegrityError, Refused) as error:
            findings.bad("verify.manifest", error.message)
            raise Bad from error
        files = sum(len(archive.files) for archive in index.archives)
        findings.ok(
            "verify.manifest",
            f"{backup.name} holds {files} files of PostgreSQL {index.version_num // 10000}, {index.start_lsn} to {index.stop_lsn}",
        )

    def _plan(self, options: RestoreOptions, findings: Findings) -> RecoveryPlan:
        """``verify.wal``: every segment from the backup to the target is there and belongs together."""
        target = options.target()
        try:
            plan = plan_recovery(self._catalog, target, backup=self.name)
        except (IntegrityError, Refused) as error:
            findings.bad("verify.wal", error.message, hint=error.hint, evidence=error.state)
            raise Bad from error
        findings.ok(
            "verify.wal",
            f"{len(plan.segments)} segments follow each other up to {plan.end_segment} on timeline {plan.timeline}",
            value=len(plan.segments),
            unit="segments",
            evidence={"target_time": iso(target), "last_transaction": iso(plan.last_transaction)},
        )
        return plan

    def _restore(self, options: RestoreOptions, plan: RecoveryPlan, findings: Findings, progress: Progress) -> Outcome:
        try:
            outcome = Restore(options, progress).run()
        except OpsError as error:
            self._failed(error, findings, progress)
            raise Bad from error
        if not self._backup.plain:
            findings.ok("verify.checksum", f"all files of {self.name} have the SHA-256 of the index", value=self.size, unit="B")
        else:
            findings.unknown("verify.checksum", f"{self.name} has no checksums")
        recovery = outcome.recovery
        findings.ok(
            "verify.restore",
            f"recovered to {recovery['target_time'] or 'the end of the archived WAL'}, last commit {recovery['last_commit']}",
            evidence=recovery,
        )
        return outcome

    def _failed(self, error: OpsError, findings: Findings, progress: Progress) -> None:
        """Put down what a failed restore says about the backup; raise it again when it says nothing."""
        reason = error.state.get("reason")
        phase = progress.timings[-1]["phase"] if progress.timings else ""
        if isinstance(error, Refused) and reason in _ENVIRONMENT:
            raise error
        if reason == "archive_damaged" or (isinstance(error, IntegrityError) and phase in ("", "fetch")):
            findings.bad("verify.checksum", error.message)
        elif could_not(error) or reason in _UNKNOWN or phase in ("", "fetch", "sync"):
            findings.unknown("verify.restore", error.message, hint=error.hint)
        else:
            findings.bad("verify.restore", error.message, hint=error.hint, evidence=error.state.get("log"))


def _pages(server: ScratchServer, findings: Findings, deadline: Deadline) -> None:
    if not server.checksums():
        return
    server.stop()
    try:
        count, shown = server.wrong_pages(max(1.0, deadline.left))
    except OpsError as error:
        findings.unknown("verify.page_checksums", error.message, hint=error.hint)
        return
    if count:
        summary = f"{count} pages have a wrong checksum: {', '.join(shown[:5])}"
        findings.bad("verify.page_checksums", summary, value=count, unit="pages", evidence=shown)
    else:
        findings.ok("verify.page_checksums", "every page has its checksum", value=0, unit="pages")
