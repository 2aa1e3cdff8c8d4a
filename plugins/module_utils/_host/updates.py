# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Security fixes that this host does not have yet, and whether the list of them can be trusted. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils import _checks, _files
from ansible_collections.fileforge.ops.plugins.module_utils._checks import Check, grade
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError

DAY = 86400.0
REVIEW = "review and install them in the next maintenance window (runbook: Security patch review)"
RELEASE = re.compile(r"(?P<version>.+?-\d+)-(?P<flavour>[a-z].*)$")


@dataclasses.dataclass(frozen=True)
class Fix:
    """An update of one package that closes a security hole."""

    package: str
    installed: str
    candidate: str
    source: str
    severity: str = ""
    advisory: str = ""
    issued: float | None = None
    held: bool = False

    @property
    def key(self) -> str:
        """What makes it this fix."""
        return f"{self.package}={self.candidate}"


@dataclasses.dataclass
class Found:
    """What the package manager knows; what it could not tell is in ``problems`` under the name of the check."""

    manager: str = ""
    fixes: list[Fix] = dataclasses.field(default_factory=list)
    other_updates: int | None = None
    held: list[str] = dataclasses.field(default_factory=list)
    lists_refreshed: float | None = None
    lists_valid_until: float | None = None
    lists_published: float | None = None
    reboot: bool | None = None
    reboot_reason: str = ""
    problems: dict[str, str] = dataclasses.field(default_factory=dict)

    def attempt(self, area: str, look: t.Callable[[], None]) -> None:
        """Look, and keep the reason when it cannot be done: one area never hides another."""
        try:
            look()
        except OpsError as error:
            self.problems[area] = error.message
        except OSError as error:
            self.problems[area] = f"{error.filename or ''}: {error.strerror}"


@dataclasses.dataclass
class UpdateOptions:
    """When to worry."""

    manager: str = "auto"
    security_warning: int = 1
    security_critical: int | None = None
    age_warning_days: float = 7
    age_critical_days: float = 30
    lists_warning_hours: float = 48
    lists_unknown_hours: float = 168
    history_file: str | None = None
    timeout: float = 120

    def check(self) -> None:
        """Raise InvalidOption for what makes no sense."""
        if self.security_warning < 1:
            raise InvalidOption("security_warning", self.security_warning, "must be at least 1")
        if self.security_critical is not None and self.security_critical < self.security_warning:
            raise InvalidOption("security_critical", self.security_critical, f"is below security_warning={self.security_warning}")
        for low, high in (("age_warning_days", "age_critical_days"), ("lists_warning_hours", "lists_unknown_hours")):
            if not 0 < getattr(self, low) <= getattr(self, high):
                raise InvalidOption(low, getattr(self, low), f"must be above 0 and at most {high}={getattr(self, high):g}")
        if self.timeout <= 0:
            raise InvalidOption("timeout", self.timeout, "must be more than 0 seconds")


def version_key(text: str) -> tuple[tuple[int, t.Union[int, str]], ...]:
    """Orders releases of kernels: numbers by value."""
    return tuple((1, int(part)) if part.isdigit() else (0, part) for part in re.findall(r"\d+|[a-zA-Z]+", text))


def kernel_state(found: Found, *, boot: str = "/boot", running: str | None = None) -> None:
    """Whether a newer kernel is installed than the one that runs; nothing is said where none is installed (containers)."""
    running = running or os.uname().release
    installed = [name[len("vmlinuz-") :] for name in os.listdir(boot) if name.startswith("vmlinuz-") and "rescue" not in name]
    if not installed:
        found.reboot, found.reboot_reason = found.reboot or False, found.reboot_reason or "no kernel is installed on this host"
        return

    def flavour(name: str) -> str:
        match = RELEASE.match(name)
        return match["flavour"] if match else ""

    same = [name for name in installed if flavour(name) == flavour(running)]
    newest = max(same or installed, key=version_key)
    if running not in installed:
        found.reboot, found.reboot_reason = True, f"the running kernel {running} is not installed any more; {newest} is"
    elif version_key(newest) > version_key(running):
        found.reboot, found.reboot_reason = True, f"kernel {newest} is installed, {running} runs"
    elif found.reboot is None:
        found.reboot, found.reboot_reason = False, f"the newest installed kernel {running} runs"


class FirstSeen:
    """When each pending fix was seen first, kept in a file; what is not pending any more is forgotten."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            with open(path, encoding="utf-8") as stream:
                self.times = {str(key): float(value) for key, value in json.load(stream)["first_seen"].items()}
        except FileNotFoundError:
            self.times = {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise OpsError(f"history_file={path}: cannot be used ({error})", hint="move it away; a new one is begun") from error

    def note(self, fixes: t.Sequence[Fix], now: float) -> None:
        """Add what is new, drop what is gone."""
        self.times = {fix.key: min(self.times.get(fix.key, now), now) for fix in fixes}

    def write(self) -> None:
        """Keep it."""
        try:
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), mode=0o755, exist_ok=True)
            _files.write_whole(self.path, json.dumps({"version": 1, "first_seen": self.times}, indent=0).encode(), mode=0o644)
        except OSError as error:
            raise OpsError(f"history_file={self.path}: {error.strerror}", hint="give a path that can be written") from error


@dataclasses.dataclass
class Review:
    """What was found, with ages and checks."""

    found: Found
    ages: dict[str, float]
    checks: list[Check]

    def as_dict(self) -> dict[str, t.Any]:
        """For the module's result."""
        found = self.found
        days = sorted(self.ages.values())
        return {
            "manager": found.manager or None,
            "security_updates": [
                {**dataclasses.asdict(fix), "age_days": _days(self.ages.get(fix.key)), "issued": _date(fix.issued)}
                for fix in found.fixes
            ],
            "other_updates": found.other_updates,
            "held": found.held,
            "reboot_required": found.reboot,
            "lists_refreshed": _date(found.lists_refreshed),
            "newest_fix_age_days": _days(days[0]) if days else None,
            "oldest_fix_age_days": _days(days[-1]) if days else None,
        }


def _days(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds / DAY, 2)


def _date(moment: float | None) -> str | None:
    return None if moment is None else time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(moment))


def review(options: UpdateOptions, found: Found, now: float, *, record: bool) -> Review:
    """Ages and checks of what was found."""
    ages: dict[str, float] = {fix.key: max(0.0, now - fix.issued) for fix in found.fixes if fix.issued is not None}
    if options.history_file and "security" not in found.problems:
        try:
            seen = FirstSeen(options.history_file)
            seen.note(found.fixes, now)
            for key, moment in seen.times.items():
                ages.setdefault(key, now - moment)
            if record:
                seen.write()
        except OpsError as error:
            found.problems.setdefault("history", error.message)
    result = Review(found, ages, [])
    result.checks = [
        _security_check(options, found, now),
        _age_check(options, result, now),
        _lists_check(options, found, now),
        _reboot_check(found),
        _held_check(found),
    ]
    if "history" in found.problems:
        hint = "give a history_file that can be written"
        result.checks.append(Check("updates.history", _checks.UNKNOWN, found.problems["history"], hint=hint))
    return result


def lists_trust(options: UpdateOptions, found: Found, now: float) -> tuple[str, str]:
    """Status of the package lists, and why."""
    if "lists" in found.problems or found.lists_refreshed is None:
        return _checks.UNKNOWN, found.problems.get("lists", "there are no package lists on this host")
    hours = (now - found.lists_refreshed) / 3600
    if found.lists_valid_until is not None and now > found.lists_valid_until:
        return (
            _checks.UNKNOWN,
            f"the security list was valid until {_date(found.lists_valid_until)} only: refreshing it fails or is not done",
        )
    status = _checks.OK
    if hours >= options.lists_unknown_hours:
        status = _checks.UNKNOWN
    elif hours >= options.lists_warning_hours:
        status = _checks.WARNING
    return status, f"package lists were refreshed {hours:.0f} h ago"


def _lists_check(options: UpdateOptions, found: Found, now: float) -> Check:
    status, text = lists_trust(options, found, now)
    hours = None if found.lists_refreshed is None else round((now - found.lists_refreshed) / 3600, 1)
    hint = "" if status == _checks.OK else "refresh them (apt-get update, dnf makecache), and see why nothing does it daily"
    return Check("updates.lists", status, text, hours, "hours", options.lists_warning_hours, None, hint)


def _security_check(options: UpdateOptions, found: Found, now: float) -> Check:
    identity, count = "updates.security", len(found.fixes)
    limits: t.Dict[str, t.Any] = {"warning": options.security_warning, "critical": options.security_critical, "unit": "packages"}
    if "security" in found.problems:
        return Check(
            identity,
            _checks.UNKNOWN,
            found.problems["security"],
            hint="look by hand: apt list --upgradable, dnf updateinfo",
            **limits,
        )
    trust, why = lists_trust(options, found, now)
    if trust == _checks.UNKNOWN:
        summary = f"at least {count} security updates are pending, but {why}"
        return Check(identity, _checks.UNKNOWN, summary, value=count, hint="refresh the package lists, then look again", **limits)
    status = grade(count, options.security_warning, options.security_critical)
    names = sorted({fix.package for fix in found.fixes})
    text = f"{count} security updates are pending" + (
        f": {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}" if names else ""
    )
    return Check(identity, status, text, value=count, hint=REVIEW if count else "", evidence=names, **limits)


def _age_check(options: UpdateOptions, result: Review, now: float) -> Check:
    identity = "updates.security_age"
    limits: t.Dict[str, t.Any] = {"unit": "days", "warning": options.age_warning_days, "critical": options.age_critical_days}
    if "security" in result.found.problems:
        summary = "not known, because the security updates are not"
        return Check(identity, _checks.UNKNOWN, summary, hint="see updates.security", **limits)
    trust, why = lists_trust(options, result.found, now)
    if trust == _checks.UNKNOWN and not result.ages:
        return Check(identity, _checks.UNKNOWN, why, hint="see updates.lists", **limits)
    if not result.found.fixes:
        return Check(identity, _checks.OK, "no security update is pending", value=0, **limits)
    if not result.ages:
        summary = "when the pending fixes came out is not known"
        return Check(
            identity, _checks.UNKNOWN, summary, hint="give history_file: then the day counts on which each was first seen", **limits
        )
    oldest, newest = max(result.ages.values()) / DAY, min(result.ages.values()) / DAY
    status = grade(oldest, options.age_warning_days, options.age_critical_days)
    text = f"security fixes wait for {oldest:.1f} days (the newest one for {newest:.1f})"
    return Check(identity, status, text, value=round(oldest, 2), hint="" if status == _checks.OK else REVIEW, **limits)


def _reboot_check(found: Found) -> Check:
    if "reboot" in found.problems or found.reboot is None:
        hint = "compare by hand: uname -r and the newest kernel that is installed"
        summary = found.problems.get("reboot", "whether a reboot is needed is not known")
        return Check("updates.reboot", _checks.UNKNOWN, summary, hint=hint)
    if found.reboot:
        hint = "reboot in the next maintenance window, one host after the other"
        return Check("updates.reboot", _checks.WARNING, f"a reboot is needed: {found.reboot_reason}", "yes", hint=hint)
    return Check("updates.reboot", _checks.OK, f"no reboot is needed: {found.reboot_reason}", "no")


def _held_check(found: Found) -> Check:
    if "held" in found.problems:
        hint = "look by hand: apt-mark showhold, dnf versionlock"
        return Check("updates.held", _checks.UNKNOWN, found.problems["held"], hint=hint)
    blocked = sorted({fix.package for fix in found.fixes if fix.held})
    if blocked:
        summary = f"a hold keeps security fixes away: {', '.join(blocked)}"
        return Check(
            "updates.held",
            _checks.WARNING,
            summary,
            len(blocked),
            "packages",
            1,
            None,
            "lift the hold (apt-mark unhold) or say why",
        )
    text = f"{len(found.held)} packages are held, none has a security fix" if found.held else "no package is held"
    return Check("updates.held", _checks.OK, text, 0, "packages", 1, None, evidence=found.held)
