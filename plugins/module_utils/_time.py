# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Points in time, always with an offset. PRIVATE to the collection."""

from __future__ import annotations

import datetime
import re

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption

UTC = datetime.timezone.utc
_ISO = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2})[T ](?P<time>\d{2}:\d{2}(?::\d{2})?)(?:[.,](?P<fraction>\d{1,6}))?"
    r"\s*(?P<zone>Z|UTC|[+-]\d{2}(?::?\d{2})?)?$",
    re.IGNORECASE,
)


def parse_time(text: str, option: str) -> datetime.datetime:
    """An ISO 8601 date and time with an offset, as UTC. Refuses a bare local time: it is ambiguous.

    Accepts ``T`` or a blank between date and time, seconds optional, up to microseconds, and ``Z``, ``UTC``, ``+02``, ``+0200``
    or ``+02:00``. PostgreSQL itself rejects ``...T...Z`` as a recovery target; callers give it ``postgres_time`` of the result.
    """
    match = _ISO.match(text.strip())
    if match is None:
        raise InvalidOption(option, text, "not a date and time", hint="use for example 2026-11-23T14:05:00+00:00")
    if match["zone"] is None:
        raise InvalidOption(
            option, text, "ambiguous: it has no offset from UTC", hint=f"add one, for example {text.strip()}+00:00 for UTC"
        )
    zone = match["zone"].upper()
    zone = "+00:00" if zone in ("Z", "UTC") else zone
    digits = zone[1:].replace(":", "").ljust(4, "0")
    seconds = match["time"] if match["time"].count(":") == 2 else f"{match['time']}:00"
    fraction = (match["fraction"] or "").ljust(6, "0")
    try:
        value = datetime.datetime.fromisoformat(f"{match['date']}T{seconds}.{fraction}{zone[0]}{digits[:2]}:{digits[2:]}")
    except ValueError as error:
        raise InvalidOption(option, text, str(error), hint="use for example 2026-11-23T14:05:00+00:00") from error
    return value.astimezone(UTC)


def now() -> datetime.datetime:
    """Now, in UTC."""
    return datetime.datetime.now(UTC)


def iso(value: datetime.datetime | None) -> str | None:
    """``2026-11-23T14:05:00.123456+00:00``; None stays None."""
    return None if value is None else value.astimezone(UTC).isoformat(timespec="microseconds")


def postgres_time(value: datetime.datetime) -> str:
    """A form every PostgreSQL accepts for ``recovery_target_time`` whatever its TimeZone: ``2026-11-23 14:05:00.123456+00``."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00")


def duration_text(seconds: float) -> str:
    """``1 h 02 min``, ``3 min 07 s`` or ``4.2 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
