# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bucket's policy: look at it, plan, apply, look again. PRIVATE to the collection.

Services differ in what they can be asked. What one does not implement, or the credentials may not see, is unknown with the reason,
never taken for set; nothing is planned for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import AccessDenied, OpsError, Refused, WaitTimeout
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import Store
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.faults import Place, translate
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.policy_rules import (
    LOCKS,
    NONE,
    PolicyOptions,
    Rule,
    canonical,
    is_ours,
    merged_rules,
    rule_text,
    shortens,
    wanted_rules,
)
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step
from ansible_collections.fileforge.ops.plugins.module_utils._wait import wait_for

SETTLE = 60.0
"""Seconds until a service must show what it has accepted."""
PROBE = ".fileforge-policy-probe"
_ABSENT = {
    "NoSuchLifecycleConfiguration",
    "ObjectLockConfigurationNotFoundError",
    "ServerSideEncryptionConfigurationNotFoundError",
    "NoSuchPublicAccessBlockConfiguration",
    "ReplicationConfigurationNotFoundError",
}
_UNSUPPORTED = {"NotImplemented", "MethodNotAllowed", "XNotImplemented", "NotSupported", "UnsupportedOperation"}
_BLOCKED = {"BlockPublicAcls": True, "IgnorePublicAcls": True, "BlockPublicPolicy": True, "RestrictPublicBuckets": True}


class Unsupported(OpsError):
    """The service does not implement this."""

    code = "unsupported"


@dataclasses.dataclass(frozen=True)
class Setting:
    """One part of a bucket's configuration: what there is, or why that is not known."""

    value: t.Any = None
    problem: str = ""

    @property
    def known(self) -> bool:
        """Whether it could be looked at."""
        return not self.problem


@dataclasses.dataclass(frozen=True)
class State:
    """A bucket's configuration."""

    versioning: Setting
    lifecycle: Setting
    """The whole answer; its ``Rules`` are the rules."""
    object_lock: Setting
    encryption: Setting
    public_access: Setting
    replication: Setting

    @property
    def rules(self) -> list[Rule]:
        """Lifecycle rules."""
        return list((self.lifecycle.value or {}).get("Rules", ()))


class BucketPolicy:
    """The policy of one bucket."""

    def __init__(self, store: Store, options: PolicyOptions) -> None:
        options.check()
        self.store = store
        self.options = options

    # -- asking -------------------------------------------------------------------------------------------------------

    def _ask(self, action: str, operation: str, **arguments: t.Any) -> t.Any:
        """One request; None when there is no such configuration. Raises Unsupported, and what the store raises."""
        store = self.store
        place = Place(store.options.where, store.bucket, None, store.options.secrets)
        try:
            answer = getattr(store.client, operation)(Bucket=store.bucket, **arguments)
        except Exception as error:
            response = getattr(error, "response", None) or {}
            code = str(response.get("Error", {}).get("Code", ""))
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if code in _ABSENT:
                return None
            if code in _UNSUPPORTED or status in (405, 501):
                raise Unsupported(f"cannot {action} {place}: the service does not implement this ({code or status})") from error
            raise translate(error, action, place, ask_bucket=store.check_bucket) from error
        answer.pop("ResponseMetadata", None)
        return answer

    def _setting(self, what: str, operation: str, key: str = "") -> Setting:
        try:
            answer = self._ask(f"look at {what} of", operation)
        except (Unsupported, AccessDenied) as error:
            return Setting(problem=error.message)
        return Setting((answer or {}).get(key) if key else answer)

    def look(self) -> State:
        """Everything; raises NotFound and Unavailable when there is no bucket to look at."""
        self.store.check_bucket()
        return State(
            self._setting("the versioning", "get_bucket_versioning", "Status"),
            self._setting("the lifecycle rules", "get_bucket_lifecycle_configuration"),
            self._setting("the object lock", "get_object_lock_configuration", "ObjectLockConfiguration"),
            self._setting("the encryption", "get_bucket_encryption", "ServerSideEncryptionConfiguration"),
            self._setting("the public access", "get_public_access_block", "PublicAccessBlockConfiguration"),
            self._setting("the replication", "get_bucket_replication", "ReplicationConfiguration"),
        )

    def replication_status(self, key: str) -> str:
        """What the service says of one object: COMPLETED, PENDING, FAILED, REPLICA, or nothing."""
        answer = self._ask(f"look at {key} in", "head_object", Key=key)
        return str((answer or {}).get("ReplicationStatus", ""))

    # -- what is asked for ----------------------------------------------------------------------------------------------

    def wanted_encryption(self) -> dict[str, t.Any]:
        """As the service takes it."""
        default: dict[str, t.Any] = {"SSEAlgorithm": self.options.encryption}
        if self.options.encryption_key:
            default["KMSMasterKeyID"] = self.options.encryption_key
        rule = {"ApplyServerSideEncryptionByDefault": default}
        return {"Rules": [{**rule, "BucketKeyEnabled": True} if self.options.encryption == "aws:kms" else rule]}

    def wanted_lock(self) -> dict[str, t.Any]:
        """As the service takes it."""
        retention = {"Mode": LOCKS[self.options.object_lock], "Days": self.options.object_lock_days}
        return {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": retention}}

    def versioned(self, state: State) -> bool | None:
        """Whether versioning is as asked; None when it is not asked for or not known."""
        if not self.options.versioning or not state.versioning.known:
            return None
        return bool(state.versioning.value == "Enabled")

    def encrypted(self, state: State) -> bool | None:
        """The same for encryption; a service's own choice of algorithm is not enough where a key is asked for."""
        if self.options.encryption == NONE or not state.encryption.known:
            return None
        rules = (state.encryption.value or {}).get("Rules", ())
        found = [rule.get("ApplyServerSideEncryptionByDefault", {}) for rule in rules]
        wanted = self.wanted_encryption()["Rules"][0]["ApplyServerSideEncryptionByDefault"]
        return any(all(item.get(name) == value for name, value in wanted.items()) for item in found)

    def blocked(self, state: State) -> bool | None:
        """The same for public access."""
        if not self.options.block_public_access or not state.public_access.known:
            return None
        return all((state.public_access.value or {}).get(name) is True for name in _BLOCKED)

    def locked(self, state: State) -> bool | None:
        """The same for the object lock."""
        if self.options.object_lock == NONE or not state.object_lock.known:
            return None
        found = state.object_lock.value or {}
        wanted = self.wanted_lock()["Rule"]["DefaultRetention"]
        return bool((found.get("Rule") or {}).get("DefaultRetention") == wanted)

    def ruled(self, state: State) -> bool | None:
        """The same for the lifecycle rules."""
        if not state.lifecycle.known:
            return None
        found = {canonical(rule) for rule in state.rules if is_ours(rule, self.options)}
        return found == {canonical(rule) for rule in wanted_rules(self.options)}

    # -- the plan -------------------------------------------------------------------------------------------------------

    def plan(self, state: State) -> Plan:
        """What would be changed. What is not known is a note."""
        options = self.options
        plan = Plan(f"policy of bucket {self.store.bucket} for backups below {options.prefix or 'the top'}")
        if self.versioned(state) is False:
            plan.steps.append(Step("enable", "versioning"))
        if self.encrypted(state) is False:
            key = f" with key {options.encryption_key}" if options.encryption_key else ""
            plan.steps.append(Step("set", "encryption", detail=f"{options.encryption}{key}, proven by an object"))
        if self.blocked(state) is False:
            plan.steps.append(Step("block", "public access"))
        if self.ruled(state) is False:
            plan.steps += self._rule_steps(state.rules)
        if self.locked(state) is False:
            detail = f"{options.object_lock} for {options.object_lock_days} days; once enabled, it cannot be taken off the bucket"
            plan.steps.append(Step("lock", "new objects", destructive=True, detail=detail))
        for name, setting in vars(state).items():
            if not setting.known:
                plan.notes.append(f"{name.replace('_', ' ')}: {setting.problem}")
        return plan

    def _rule_steps(self, found: t.Sequence[Rule]) -> t.Iterator[Step]:
        before = {rule["ID"]: rule for rule in found if is_ours(rule, self.options)}
        wanted = wanted_rules(self.options)
        for rule in wanted:
            former = before.pop(rule["ID"], None)
            if former is None or canonical(former) != canonical(rule):
                action = "add" if former is None else "replace"
                yield Step(f"{action}_rule", rule["ID"], destructive=shortens(rule, former), detail=rule_text(rule))
        for name, rule in before.items():
            yield Step("remove_rule", name, detail=rule_text(rule))

    # -- doing it -------------------------------------------------------------------------------------------------------

    def apply(self, state: State) -> State:
        """Make it so; the new state. Raises Refused (``not_kept``) when the service does not keep to what it has accepted."""
        if self.versioned(state) is False:
            self._ask("enable versioning of", "put_bucket_versioning", VersioningConfiguration={"Status": "Enabled"})
        if self.encrypted(state) is False:
            self._encrypt(state)
        if self.blocked(state) is False:
            self._ask("block public access to", "put_public_access_block", PublicAccessBlockConfiguration=_BLOCKED)
        if self.ruled(state) is False:
            self._put_rules()
        if self.locked(state) is False:
            self._ask("set the object lock of", "put_object_lock_configuration", ObjectLockConfiguration=self.wanted_lock())
        return self._settled()

    def _settled(self) -> State:
        """Wait until the service shows what it has accepted: some take a while."""
        try:
            return wait_for(
                "the bucket's policy", self.look, lambda state: not self.plan(state).steps, timeout=SETTLE, interval=1.0
            )
        except WaitTimeout as error:
            left = [step.object for step in self.plan(error.state["last"]).steps]
            raise Refused(
                "not_kept",
                f"bucket {self.store.bucket}: the service accepted the configuration but does not show it: {', '.join(left)}",
                hint="look at the bucket's configuration in the service; another process may change it, too",
            ) from error

    def _put_rules(self) -> None:
        """Add ours to what is there now: the configuration is one document, so it is read again just before."""
        current = self._ask("look at the lifecycle rules of", "get_bucket_lifecycle_configuration") or {}
        rules = merged_rules(current.get("Rules", ()), self.options)
        arguments: dict[str, t.Any] = {"LifecycleConfiguration": {"Rules": rules}}
        least = "TransitionDefaultMinimumObjectSize"
        known = self.store.client.meta.service_model.operation_model("PutBucketLifecycleConfiguration").input_shape.members
        if current.get(least) and least in known:
            arguments[least] = current[least]
        try:
            self._ask("set the lifecycle rules of", "put_bucket_lifecycle_configuration", **arguments)
        except Unsupported as error:
            raise Unsupported(
                error.message,
                hint="a service without storage classes cannot move objects: set archive_class=none and run again",
            ) from error

    def _encrypt(self, state: State) -> None:
        """Set the encryption and prove it by writing an object; put the former one back when that fails."""
        wanted = self.wanted_encryption()
        self._ask("set the encryption of", "put_bucket_encryption", ServerSideEncryptionConfiguration=wanted)
        try:
            self._prove_encryption()
        except OpsError as error:
            if state.encryption.value:
                former = state.encryption.value
                self._ask("set the encryption of", "put_bucket_encryption", ServerSideEncryptionConfiguration=former)
            else:
                self._ask("remove the encryption of", "delete_bucket_encryption")
            raise Refused(
                "encryption_fails",
                f"bucket {self.store.bucket}: the service accepts encryption={self.options.encryption} but then cannot store an "
                f"object, so the former encryption was put back: {error.message}",
                hint="give the service the key that it needs (a KMS, or a key of its own), or set encryption=none",
            ) from error

    def _prove_encryption(self) -> None:
        key = f"{self.options.prefix}{PROBE}"
        info = self.store.put(key, b"proves that objects can be written and read under the bucket's encryption\n")
        try:
            found = self.store.head(key)
            self.store.get(key)
        finally:
            version = {"VersionId": info.version_id} if info.version_id else {}
            with contextlib.suppress(OpsError):  # an object lock may hold it; a rule or a person removes it later
                self._ask("remove the probe from", "delete_object", Key=key, **version)
        if found.encryption != self.options.encryption:
            raise OpsError(f"the object was stored with the encryption {found.encryption or 'none'}")
