# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Points in time, always with an offset. PRIVATE to the collection."""

from __future__ import annotations

import datetime
import re

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption

UTC = datetime.timezone.utc
_DAY = datetime.timedelta(days=1)
_DATE = (
    r"(?P<year>\d{4})(?:(?P<dash>-?)(?P<month>\d{2})(?P=dash)(?P<day>\d{2})"
    r"|(?P<line>-?)W(?P<week>\d{2})(?P=line)(?P<weekday>\d)|-?(?P<ordinal>\d{3}))"
)
_CLOCK = r"(?P<hour>\d{2})(?:(?P<colon>:?)(?P<minute>\d{2})(?:(?P=colon)(?P<second>\d{2}))?)?(?:[.,](?P<fraction>\d{1,30}))?"
_ZONE = r"(?P<zone>Z|UTC|(?P<sign>[+\-\u2212])(?P<hours>\d{2})(?::?(?P<minutes>\d{2}))?)?"
_ISO = re.compile(rf"{_DATE}[T ]{_CLOCK}\s*{_ZONE}\Z", re.IGNORECASE | re.ASCII)
_EXAMPLE = "use for example 2026-11-23T14:05:00+00:00"


def parse_time(text: str, option: str) -> datetime.datetime:
    """An ISO 8601 date and time with an offset, as UTC. Refuses a bare local time: it is ambiguous.

    Accepts the extended and the basic form, calendar, week and ordinal dates, ``T`` or a blank between date and time, a time that
    leaves out seconds or minutes, a fraction of its last part after ``.`` or ``,`` (cut to microseconds), and ``Z``, ``UTC``,
    ``+02``, ``+0200`` or ``+02:00``. PostgreSQL itself rejects some of these as a recovery target; callers give it
    ``postgres_time`` of the result.
    """
    match = _ISO.match(text.strip())
    if match is None:
        raise InvalidOption(option, text, "not a date and time", hint=_EXAMPLE)
    if match["zone"] is None:
        raise InvalidOption(
            option, text, "ambiguous: it has no offset from UTC", hint=f"add one, for example {text.strip()}+00:00 for UTC"
        )
    try:
        return datetime.datetime.combine(_date_of(match), datetime.time(), UTC) + _clock_of(match) - _offset_of(match)
    except (ValueError, OverflowError) as error:
        raise InvalidOption(option, text, str(error), hint=_EXAMPLE) from error


def _date_of(match: re.Match[str]) -> datetime.date:
    year = int(match["year"])
    if match["week"]:
        return datetime.date.fromisocalendar(year, int(match["week"]), int(match["weekday"]))
    if match["ordinal"]:
        date = datetime.date(year, 1, 1) + _DAY * (int(match["ordinal"]) - 1)
        if date.year != year:
            raise ValueError(f"the year {year} has no day {match['ordinal']}")
        return date
    return datetime.date(year, int(match["month"]), int(match["day"]))


def _clock_of(match: re.Match[str]) -> datetime.timedelta:
    """Since midnight; 24:00 is the end of the day."""
    hour, minute, second = (int(match[name] or 0) for name in ("hour", "minute", "second"))
    unit = 1 if match["second"] else 60 if match["minute"] else 3600
    digits = match["fraction"] or "0"
    fraction = datetime.timedelta(microseconds=int(digits) * unit * 1_000_000 // 10 ** len(digits))
    since = datetime.timedelta(hours=hour, minutes=minute, seconds=second) + fraction
    if minute > 59 or second > 59 or since > _DAY:
        raise ValueError("there is no such time of day")
    return since


def _offset_of(match: re.Match[str]) -> datetime.timedelta:
    hours, minutes = int(match["hours"] or 0), int(match["minutes"] or 0)
    if hours > 15 or minutes > 59:
        raise ValueError("there is no such offset from UTC")
    offset = datetime.timedelta(hours=hours, minutes=minutes)
    return offset if match["sign"] == "+" else -offset


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
