# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bucket's policy as checks, and whether the second region has what the first one has. PRIVATE to the collection."""

from __future__ import annotations

import datetime
import heapq
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, UNKNOWN, WARNING, Check
from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import ObjectInfo, Store
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.policy import BucketPolicy, Setting, State
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.policy_rules import (
    NONE,
    Rule,
    applies,
    dangers,
    is_ours,
    rule_text,
)
from ansible_collections.fileforge.ops.plugins.module_utils._time import duration_text

APPLY = "apply it: playbooks/backup-policy.yml"
CONSOLE = "look at it in the service's own console"
SAMPLE = 50
"""How many of the newest objects of each kind are looked for in the second bucket."""


class PolicyChecks:
    """Questions to one state of a bucket."""

    def __init__(self, policy: BucketPolicy, state: State, now: datetime.datetime, replica: t.Callable[[], Store] | None) -> None:
        self._policy = policy
        self._options = policy.options
        self._state = state
        self._now = now
        self._replica = replica

    def all(self) -> list[Check]:
        """Every check of what is asked for."""
        options, state, policy = self._options, self._state, self._policy
        found = [self._rules(), self._kept()]
        if options.versioning:
            words = "older versions of objects are kept", "deleted and replaced objects are gone at once"
            found.append(self._simple("policy.versioning", policy.versioned(state), state.versioning, CRITICAL, *words))
        if options.archive_class != NONE:
            found.append(self._archive())
        if options.object_lock != NONE:
            words = f"new objects are locked for {options.object_lock_days} days", "objects are not locked as asked"
            found.append(self._simple("policy.object_lock", policy.locked(state), state.object_lock, WARNING, *words))
        if options.encryption != NONE:
            words = f"objects are encrypted ({options.encryption})", f"objects are not encrypted with {options.encryption}"
            found.append(self._simple("policy.encryption", policy.encrypted(state), state.encryption, CRITICAL, *words))
        if options.block_public_access:
            words = "public access is blocked", "public access is not blocked"
            found.append(self._simple("policy.public_access", policy.blocked(state), state.public_access, CRITICAL, *words))
        if options.replication:
            found += self._elsewhere()
        return found

    @staticmethod
    def _simple(name: str, holds: bool | None, setting: Setting, bad: str, good_words: str, bad_words: str) -> Check:
        if holds is None:
            return Check(name, UNKNOWN, f"could not look: {setting.problem}", hint=CONSOLE)
        return Check(name, OK, good_words) if holds else Check(name, bad, bad_words, hint=APPLY)

    def _rules(self) -> Check:
        words = "the lifecycle rules are those of the policy", "the lifecycle rules are not those of the policy"
        return self._simple("policy.lifecycle", self._policy.ruled(self._state), self._state.lifecycle, WARNING, *words)

    def _archive(self) -> Check:
        moved = [rule for rule in self._state.rules if is_ours(rule, self._options) and rule.get("Transitions")]
        wanted = self._options.archive_class
        holds = any(move["StorageClass"] == wanted for rule in moved for move in rule["Transitions"])
        words = f"backups move to {wanted} after {self._options.archive_after_days} days", f"backups do not move to {wanted}"
        known = holds if self._state.lifecycle.known else None
        return self._simple("policy.archive_class", known, self._state.lifecycle, WARNING, *words)

    def _kept(self) -> Check:
        """No rule, whoever made it, takes backups or WAL away by age."""
        name = "policy.kept"
        if not self._state.lifecycle.known:
            return Check(name, UNKNOWN, f"could not look: {self._state.lifecycle.problem}", hint=CONSOLE)
        found = [(rule, what) for rule, what in dangers(self._state.rules, self._options) if not is_ours(rule, self._options)]
        if not found:
            return Check(name, OK, "no lifecycle rule takes away what a backup needs", 0, "rules")
        rule, what = found[0]
        return Check(
            name,
            CRITICAL,
            f"the lifecycle rule {rule.get('ID') or '(without a name)'} {what}",
            len(found),
            "rules",
            hint="remove the rule or give it a prefix of its own: base backups, WAL and dumps expire by postgres_backup_expire",
            evidence=[{"rule": rule.get("ID", ""), "what": what, "does": rule_text(rule)} for rule, what in found],
        )

    # -- the second region ----------------------------------------------------------------------------------------------

    def _elsewhere(self) -> list[Check]:
        replica = self._copied()
        return [self._replication(replica), *([replica] if replica is not None else [])]

    def _replication(self, replica: Check | None) -> Check:
        name = "policy.replication"
        setting = self._state.replication
        if not setting.known:
            return Check(name, UNKNOWN, f"could not look: {setting.problem}", hint=CONSOLE)
        rules: list[Rule] = (setting.value or {}).get("Rules", [])
        missing = [what for what, place in self._options.places.items() if not any(applies(rule, place) for rule in rules)]
        if not missing:
            return self._statuses(name, rules)
        if replica is not None and not rules:
            what = "the service replicates nothing by itself; what the second bucket has is policy.replica"
            return Check(name, replica.status, what, hint="" if replica.status == OK else "see policy.replica")
        return Check(
            name,
            CRITICAL,
            f"not replicated to another region: {', '.join(missing)}",
            len(missing),
            hint="set replication up in the service, or give the second bucket (replica)",
        )

    def _statuses(self, name: str, rules: t.Sequence[Rule]) -> Check:
        """What the service says about the newest objects: replication that is configured may fail all the same."""
        target = rules[0].get("Destination", {}).get("Bucket", "")
        try:
            said = [(item, self._policy.replication_status(item.key)) for item in self._settled_sample()]
        except OpsError as error:
            return Check(name, UNKNOWN, f"could not look at the newest objects: {error.message}", hint=error.hint or CONSOLE)
        failed = [item.key for item, status in said if status == "FAILED"]
        late = [item.key for item, status in said if status == "PENDING"]
        if failed or late:
            words = f"{len(failed)} failed" if failed else f"{len(late)} are not replicated after {duration_text(self._lag)}"
            return Check(
                name,
                CRITICAL if failed else WARNING,
                f"of the {len(said)} newest objects {words}, for example {(failed or late)[0]}",
                len(failed or late),
                hint="look at the replication role's permissions, and at the second bucket's",
                evidence={"failed": failed[:10], "pending": late[:10]},
            )
        return Check(name, OK, f"replicated to {target}; none of the {len(said)} newest objects failed or is late", 0)

    @property
    def _lag(self) -> int:
        return self._options.replica_lag

    def _settled_sample(self) -> list[ObjectInfo]:
        """The newest objects of each kind that are old enough to have been copied."""
        limit = self._now - datetime.timedelta(seconds=self._lag)
        found: list[ObjectInfo] = []
        for place in self._options.places.values():
            old = (item for item in self._policy.store.list(place) if item.last_modified and item.last_modified <= limit)
            found += heapq.nlargest(SAMPLE, old, key=lambda item: (item.last_modified, item.key))
        return found

    def _copied(self) -> Check | None:
        """Whether the second bucket has the newest objects; None when there is none to look at."""
        name = "policy.replica"
        if self._replica is None:
            return None
        try:
            sample = self._settled_sample()
            missing = self._missing(self._replica(), sample)
        except OpsError as error:
            hint = error.hint or "check the second bucket's name, place and credentials"
            return Check(name, UNKNOWN, f"could not look: {error.message}", hint=hint)
        if not sample:
            none = "there is no object that should have been copied by now"
            return Check(name, UNKNOWN, none, 0, "objects", hint="make a backup (playbooks/backup.yml), then look again")
        if missing:
            return Check(
                name,
                CRITICAL,
                f"{len(missing)} of the {len(sample)} newest objects are not in the second bucket after "
                f"{duration_text(self._lag)}, for example {missing[0]}",
                len(missing),
                "objects",
                hint="look at what copies objects to the second region; until then it cannot replace the first",
                evidence=missing[:10],
            )
        return Check(name, OK, f"the second bucket has the {len(sample)} newest objects", 0, "objects")

    def _missing(self, second: Store, sample: t.Sequence[ObjectInfo]) -> list[str]:
        """Keys that are not there with the same size; ETags differ between copies that were made in other parts."""
        missing = []
        for place in self._options.places.values():
            wanted = {item.key: item.size for item in sample if item.key.startswith(place)}
            if wanted:
                there = {item.key: item.size for item in second.list(place) if item.key in wanted}
                missing += [key for key, size in sorted(wanted.items()) if there.get(key) != size]
        return missing
