# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""How full file systems are, how fast they fill, and when they are full. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import time
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils import _checks
from ansible_collections.fileforge.ops.plugins.module_utils._checks import Check, grade_over
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._host import growth, mounts
from ansible_collections.fileforge.ops.plugins.module_utils._host.mounts import Mount, Usage
from ansible_collections.fileforge.ops.plugins.module_utils._plan import human_bytes

HINT = "find what grows (du -x), rotate logs (playbooks/log-rotation.yml), then enlarge the volume"


@dataclasses.dataclass
class DiskOptions:
    """What to look at and when to worry; fractions are of 1."""

    paths: t.Sequence[str] = ()
    required_mounts: t.Sequence[str] = ()
    exclude: t.Sequence[str] = ()
    usage_warning: float = 0.8
    usage_critical: float = 0.9
    inodes_warning: float = 0.8
    inodes_critical: float = 0.9
    days_warning: float = 30
    days_critical: float = 7
    timeout: float = 5
    history_file: str | None = None
    history_days: float = 30

    def check(self) -> None:
        """Raise InvalidOption for what makes no sense."""
        for name in ("usage", "inodes"):
            warning, critical = getattr(self, f"{name}_warning"), getattr(self, f"{name}_critical")
            if not 0 < warning <= critical <= 1:
                raise InvalidOption(
                    f"{name}_warning",
                    warning,
                    f"must be above 0 and at most {name}_critical={critical:g}, which is at most 1",
                    hint="80 % is 0.8",
                )
        if not 0 <= self.days_critical <= self.days_warning:
            raise InvalidOption("days_critical", self.days_critical, f"must be between 0 and days_warning={self.days_warning:g}")
        if self.timeout <= 0:
            raise InvalidOption("timeout", self.timeout, "must be more than 0 seconds")
        if self.history_days < 2:
            raise InvalidOption("history_days", self.history_days, "must be at least 2: growth is only told from a day on")
        for option in ("paths", "required_mounts"):
            for path in getattr(self, option):
                if not path.startswith("/"):
                    raise InvalidOption(option, path, "not an absolute path")


@dataclasses.dataclass
class Volume:
    """One file system, or one path that was asked for."""

    usage: Usage
    mount: Mount | None
    required: bool = False
    samples: int = 0
    rate: float | None = None

    @property
    def days_to_full(self) -> float | None:
        """At the present growth; None when it does not grow or is not known."""
        return growth.days_until(self.usage.available_bytes, self.rate)

    def as_dict(self) -> dict[str, t.Any]:
        """For the module's result."""
        seen = dataclasses.asdict(self.usage)
        seen.pop("real_path")
        mount = self.mount
        return {
            **seen,
            "used_fraction": _rounded(self.usage.used_fraction),
            "used_inode_fraction": _rounded(self.usage.used_inode_fraction),
            "mount_point": mount.mount_point if mount else None,
            "device": mount.device if mount else None,
            "type": mount.type if mount else None,
            "growth_bytes_per_day": None if self.rate is None else round(self.rate * growth.DAY),
            "days_to_full": _rounded(self.days_to_full, 1),
            "samples": self.samples,
        }


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


def look(options: DiskOptions, *, record: bool, clock: t.Callable[[], float] = time.time) -> tuple[list[Volume], list[Check]]:
    """Volumes and checks. With ``record`` the sample is kept in the history."""
    options.check()
    table = mounts.read_mounts()
    wanted = list(dict.fromkeys([*options.paths, *options.required_mounts])) or _all_real(table, options.exclude)
    found = mounts.measure_all(wanted, options.timeout)
    volumes = [
        Volume(usage, mounts.mount_of(usage.real_path or usage.path, table), usage.path in options.required_mounts)
        for usage in found
    ]
    checks: list[Check] = []
    if options.history_file:
        try:
            _follow(volumes, growth.History(options.history_file, options.history_days), clock(), record)
        except Refused as error:
            hint = error.hint or "let the user of the run read and write it"
            checks.append(Check("disk.history", _checks.UNKNOWN, error.message, hint=hint))
    for volume in volumes:
        checks += checks_of(volume, options)
    if not volumes:
        checks.append(Check("disk.mounts", _checks.UNKNOWN, "no file system to look at was found", hint="give the paths"))
    return volumes, checks


def _all_real(table: t.Sequence[Mount], exclude: t.Sequence[str]) -> list[str]:
    with open(mounts.FILESYSTEMS, encoding="utf-8") as stream:
        real = mounts.real_mounts(table, stream.read())
    left_out = set(exclude)
    return [mount.mount_point for mount in real if mount.mount_point not in left_out and mount.type not in left_out]


def _follow(volumes: t.Sequence[Volume], history: growth.History, now: float, record: bool) -> None:
    """Growth from what was seen before and now."""
    for volume in volumes:
        if volume.usage.problem or (volume.required and not _is_mounted(volume)):
            continue
        key = volume.usage.path
        history.add(key, now, volume.usage.used_bytes)
        samples = history.samples[key]
        volume.samples, volume.rate = len(samples), growth.slope(samples)
    if record:
        history.write()


def _is_mounted(volume: Volume) -> bool:
    real = volume.usage.real_path or volume.usage.path
    return volume.mount is not None and volume.mount.mount_point == real


def checks_of(volume: Volume, options: DiskOptions) -> list[Check]:
    """The checks of one volume, which is their subject; what could not be looked at is unknown."""
    usage, path = volume.usage, volume.usage.path
    if usage.problem:
        summary, hint = f"{path}: {usage.problem}", "look at the mount and its server (dmesg)"
        return [Check("disk.usage", _checks.UNKNOWN, summary, unit="fraction", hint=hint, subject=path)]
    if volume.required and not _is_mounted(volume):
        where = volume.mount.mount_point if volume.mount else "/"
        summary = f"{path} is not a mount point: what is written there fills {where}"
        return [Check("disk.mounted", _checks.CRITICAL, summary, hint=f"mount {path} before the application starts", subject=path)]
    checks = [_usage_check(volume, options)]
    inodes = usage.used_inode_fraction
    if inodes is not None:
        warning, critical = options.inodes_warning, options.inodes_critical
        text = f"{path}: {inodes:.1%} of {usage.total_inodes} inodes used, {usage.available_inodes} left"
        status = grade_over(inodes, warning, critical)
        hint = "find the directory with many small files (du --inodes -x)" if status != _checks.OK else ""
        checks.append(Check("disk.inodes", status, text, round(inodes, 4), "fraction", warning, critical, hint, subject=path))
    if volume.rate is not None:
        checks.append(_growth_check(volume, options))
    return checks


def _usage_check(volume: Volume, options: DiskOptions) -> Check:
    usage, path = volume.usage, volume.usage.path
    fraction = usage.used_fraction
    if fraction is None:
        text, hint = f"{path}: its file system has no size", "leave it out (exclude): nothing is stored there"
        return Check("disk.usage", _checks.UNKNOWN, text, unit="fraction", hint=hint, subject=path)
    warning, critical = options.usage_warning, options.usage_critical
    status = grade_over(fraction, warning, critical)
    text = f"{path}: {fraction:.1%} of {human_bytes(usage.used_bytes + usage.available_bytes)} used"
    text += f", {human_bytes(usage.available_bytes)} left"
    hint = HINT if status != _checks.OK else ""
    seen = volume.as_dict()
    return Check("disk.usage", status, text, round(fraction, 4), "fraction", warning, critical, hint, seen, subject=path)


def _growth_check(volume: Volume, options: DiskOptions) -> Check:
    days, daily, path = volume.days_to_full, (volume.rate or 0.0) * growth.DAY, volume.usage.path
    warning, critical = options.days_warning, options.days_critical
    if days is None:
        text = f"{path}: does not grow ({volume.samples} samples)"
        return Check("disk.days_to_full", _checks.OK, text, None, "days", warning, critical, subject=path)
    status = _checks.CRITICAL if days <= critical else _checks.WARNING if days <= warning else _checks.OK
    text = f"{path}: grows {human_bytes(daily)} a day, full in {days:.1f} days ({volume.samples} samples)"
    hint = HINT if status != _checks.OK else ""
    return Check("disk.days_to_full", status, text, round(days, 1), "days", warning, critical, hint, subject=path)
