# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bucket's policy as data: what is asked for, the lifecycle rules that follow, and what rules do to backups. PRIVATE.

No rule of ours ever expires a current object below ``base/``, ``wal/`` or ``database/``: a rule counts days and nothing else, so it
would take WAL that a kept backup needs, and when backups are not made any more, the last one. These expire by
``postgres_backup_expire``; rules only move them to a cheaper class and remove what was deleted some days ago.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.names import check_prefix

Rule = t.Dict[str, t.Any]

NONE = "none"
CLASSES = (NONE, "GLACIER_IR", "STANDARD_IA", "INTELLIGENT_TIERING")
"""Classes whose objects can be read at once: an index that must be asked for hours before makes a backup unusable."""
SLOW_CLASSES = ("GLACIER", "DEEP_ARCHIVE")
SMALLEST = 131072
"""Smaller objects (indexes, manifests) stay where they are: they cost more to move than they save."""
LOCKS = {NONE: "", "governance": "GOVERNANCE", "compliance": "COMPLIANCE"}
ENCRYPTIONS = (NONE, "AES256", "aws:kms")
OURS = "fileforge:"
KINDS = ("base", "base-archive", "wal", "database", "database-archive", "files", "files-aside", "files-manifest")
MOST_RULES = 1000
_DAYS = ("deleted_days", "files_days", "archive_after_days", "abort_uploads_days", "object_lock_days", "replica_lag")


@dataclasses.dataclass(frozen=True)
class PolicyOptions:
    """What the module's options say."""

    prefix: str = ""
    files_prefix: str = "files"
    versioning: bool = True
    deleted_days: int = 7
    files_days: int = 90
    archive_class: str = "GLACIER_IR"
    archive_after_days: int = 7
    abort_uploads_days: int = 7
    object_lock: str = NONE
    object_lock_days: int = 7
    encryption: str = "AES256"
    encryption_key: str | None = None
    block_public_access: bool = True
    replication: bool = True
    replica_lag: int = 900

    def check(self) -> None:
        """Raise InvalidOption for what cannot be meant."""
        for name in _DAYS:
            if getattr(self, name) < 1:
                raise InvalidOption(name, getattr(self, name), "must be at least 1")
        if not self.files_prefix.strip("/") or self.files_prefix.startswith("/"):
            raise InvalidOption("files_prefix", self.files_prefix, "must name the place of the files in the bucket")
        check_prefix(self.prefix)
        if self.encryption_key and self.encryption != "aws:kms":
            raise InvalidOption("encryption_key", self.encryption_key, "is only of use with encryption=aws:kms")
        if self.archive_class == "STANDARD_IA" and self.archive_after_days < 30:
            raise InvalidOption("archive_after_days", self.archive_after_days, "must be at least 30 for STANDARD_IA: S3 demands it")
        if not self.versioning and self.object_lock != NONE:
            raise InvalidOption("object_lock", self.object_lock, "needs versioning, which is not asked for")

    @property
    def places(self) -> dict[str, str]:
        """Prefixes of the objects whose current version no rule may expire, by what they hold."""
        return {
            "base backups": f"{self.prefix}base/",
            "WAL": f"{self.prefix}wal/",
            "dumps": f"{self.prefix}database/",
            "configuration": f"{self.prefix}config/",
            "files": f"{self.files}/",
        }

    @property
    def files(self) -> str:
        """The files' prefix without its slash."""
        return self.files_prefix.rstrip("/")

    def rule_id(self, kind: str) -> str:
        """A rule's name; other prefixes of the bucket have rules of their own."""
        return f"{OURS}{self.prefix}{kind}"


def wanted_rules(options: PolicyOptions) -> list[Rule]:
    """The lifecycle rules of the policy, in order."""
    rules = []
    for kind, days in (("base", options.deleted_days), ("wal", options.deleted_days), ("database", options.deleted_days)):
        rules.append(_cleaning(options, kind, f"{options.prefix}{kind}/", days))
        if options.archive_class != NONE and kind != "wal":
            rules.append(_archiving(options, f"{kind}-archive", f"{options.prefix}{kind}/"))
    rules.append(_cleaning(options, "files", f"{options.files}/", options.files_days))
    aside = _cleaning(options, "files-aside", f"{options.files}.aside/", 1)
    rules.append({**aside, "Expiration": {"Days": options.files_days}})
    rules.append(_cleaning(options, "files-manifest", f"{options.files}.tree.jsonl.gz", options.files_days))
    return rules


def _cleaning(options: PolicyOptions, kind: str, prefix: str, days: int) -> Rule:
    """Remove what was deleted or replaced so many days ago, and uploads that were never finished."""
    return {
        "ID": options.rule_id(kind),
        "Status": "Enabled",
        "Filter": {"Prefix": prefix},
        "Expiration": {"ExpiredObjectDeleteMarker": True},
        "NoncurrentVersionExpiration": {"NoncurrentDays": days},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": options.abort_uploads_days},
    }


def _archiving(options: PolicyOptions, kind: str, prefix: str) -> Rule:
    return {
        "ID": options.rule_id(kind),
        "Status": "Enabled",
        "Filter": {"And": {"Prefix": prefix, "ObjectSizeGreaterThan": SMALLEST}},
        "Transitions": [{"Days": options.archive_after_days, "StorageClass": options.archive_class}],
    }


def is_ours(rule: Rule, options: PolicyOptions) -> bool:
    """Whether a rule is one of this policy's, for this prefix."""
    return rule.get("ID") in {options.rule_id(kind) for kind in KINDS}


def merged_rules(found: t.Sequence[Rule], options: PolicyOptions) -> list[Rule]:
    """The rules that are not ours as they are, then ours."""
    rules = [rule for rule in found if not is_ours(rule, options)] + wanted_rules(options)
    if len(rules) > MOST_RULES:
        raise InvalidOption("s3_bucket", len(rules), f"a bucket can have {MOST_RULES} lifecycle rules, this one would have more")
    return rules


def canonical(rule: Rule) -> str:
    """The same text for the same rule, however it was written."""
    return json.dumps(rule, sort_keys=True, default=_plain)


def _plain(value: t.Any) -> str:
    return value.isoformat() if isinstance(value, datetime.datetime) else str(value)


def rule_text(rule: Rule) -> str:
    """A rule for a person."""
    said = []
    days = rule.get("Expiration", {}).get("Days")
    if days:
        said.append(f"expires objects after {days} days")
    if rule.get("Expiration", {}).get("Date"):
        said.append(f"expires objects on {_plain(rule['Expiration']['Date'])}")
    for move in rule.get("Transitions", ()):
        said.append(f"moves objects to {move.get('StorageClass')} after {move.get('Days', 0)} days")
    old = rule.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays")
    if old:
        said.append(f"removes older versions after {old} days")
    abort = rule.get("AbortIncompleteMultipartUpload", {}).get("DaysAfterInitiation")
    if abort:
        said.append(f"drops unfinished uploads after {abort} days")
    return f"{prefix_of(rule) or 'everything'}: {', '.join(said) or 'nothing'}"


def prefix_of(rule: Rule) -> str:
    """What the keys that it is for begin with; empty for all."""
    condition = rule.get("Filter") or {}
    return str(condition.get("Prefix") or (condition.get("And") or {}).get("Prefix") or rule.get("Prefix") or "")


def applies(rule: Rule, place: str) -> bool:
    """Whether an enabled rule may match objects of ours below a prefix. Ours have no tags, so a rule for a tag does not."""
    condition = rule.get("Filter") or {}
    if rule.get("Status") != "Enabled" or condition.get("Tag") or (condition.get("And") or {}).get("Tags"):
        return False
    prefix = prefix_of(rule)
    return prefix.startswith(place) or place.startswith(prefix)


def expires_current(rule: Rule) -> bool:
    """Whether it deletes objects, not only markers and older versions."""
    found = rule.get("Expiration") or {}
    return bool(found.get("Days") or found.get("Date"))


def shortens(rule: Rule, before: Rule | None) -> bool:
    """Whether putting this rule in the place of another (or of none) deletes something that would have stayed."""
    for name, key in (("Expiration", "Days"), ("NoncurrentVersionExpiration", "NoncurrentDays")):
        days = (rule.get(name) or {}).get(key)
        former = ((before or {}).get(name) or {}).get(key)
        if days and (former is None or days < former or prefix_of(rule) != prefix_of(before or {})):
            return True
    return False


def dangers(rules: t.Sequence[Rule], options: PolicyOptions) -> list[tuple[Rule, str]]:
    """Rules, whoever made them, that take backups away, and what they do."""
    found = []
    for rule in rules:
        for what, place in options.places.items():
            if not applies(rule, place):
                continue
            if expires_current(rule):
                found.append((rule, f"deletes {what} by their age alone"))
            slow = [move["StorageClass"] for move in rule.get("Transitions", ()) if move.get("StorageClass") in SLOW_CLASSES]
            if slow:
                found.append((rule, f"moves {what} to {slow[0]}, from where nothing can be read at once"))
            days = (rule.get("NoncurrentVersionExpiration") or {}).get("NoncurrentDays")
            if what == "files" and days and days < options.files_days:
                found.append((rule, f"removes deleted and replaced files after {days} instead of {options.files_days} days"))
    return found
