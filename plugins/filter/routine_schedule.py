# Copyright (c) FileForge operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the schedules of routine tasks: the same moments for systemd and for AWX, from one description."""

from __future__ import annotations

DOCUMENTATION = r"""
name: routine_schedule
short_description: Make systemd calendars and AWX rules of routine tasks
version_added: 1.0.0
author: FileForge operations (@fileforge)
description:
  - Says for each task when it runs, as an expression for C(OnCalendar) of a systemd timer and as a rule for a schedule of AWX. Both
    come from one description, so that they name the same moments.
positional: _input, timezone, prefix
options:
  _input:
    description:
      - The tasks, each with C(key) (its name in file names), C(task) (its title), C(playbook), C(owner), C(every) (V(daily),
        V(weekly), V(monthly) or V(quarterly)) and C(at) (hour and minute, as V('06:30')).
      - C(day) is a day of the week (V(Mon) to V(Sun)) for a weekly task, and for a monthly or quarterly one also a day of the month
        from 1 to 28. A day of the week is the first one of the month then. Without it a weekly task runs on Monday, another on the
        first.
      - C(calendar) and C(rrule) together replace C(every), C(day) and C(at).
      - C(description), C(extra_vars), C(job_template), C(timeout) and C(delay) (seconds) are kept as they are.
    type: list
    elements: dict
    required: true
  timezone:
    description: Time zone of C(at).
    type: str
    default: UTC
  prefix:
    description: What the names of units begin with.
    type: str
    default: fileforge-
"""

EXAMPLES = r"""
- name: Show when the logs are reviewed
  ansible.builtin.debug:
    msg: "{{ [{'key': 'log-review', 'task': 'Log review', 'playbook': 'log-review.yml', 'owner': 'On-call',
      'every': 'daily', 'at': '06:30'}] | fileforge.ops.routine_schedule('Europe/Berlin') }}"
"""

RETURN = r"""
_value:
  description: The tasks with C(unit), C(calendar), C(rrule), C(job_template), C(description) and C(extra_vars).
  type: list
  elements: dict
"""

import re
import typing as t
import zoneinfo

from ansible.errors import AnsibleFilterError

Task = t.Mapping[str, t.Any]
DAYS = {"Mon": "MO", "Tue": "TU", "Wed": "WE", "Thu": "TH", "Fri": "FR", "Sat": "SA", "Sun": "SU"}
EVERY = ("daily", "weekly", "monthly", "quarterly")
QUARTERS = "01,04,07,10"
START = "20260101"
"""Day from which rules count: the first of a quarter."""
KEY = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
PLAYBOOK = re.compile(r"[A-Za-z0-9_-]+\.yml")
AT = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
SECRET = re.compile(r"passw|secret|token|credential|private|api_?key|access_?key", re.IGNORECASE)
LINES = re.compile(r"[\x00-\x1f\x7f]")


def routine_schedule(tasks: t.Sequence[Task], timezone: str = "UTC", prefix: str = "fileforge-") -> list[dict[str, t.Any]]:
    """The tasks with the times of both; raises AnsibleFilterError with the place, the value and the fix."""
    try:
        zoneinfo.ZoneInfo(str(timezone))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise AnsibleFilterError(
            f"fileforge.ops.routine_schedule: {timezone!r} is not a time zone, such as Europe/Berlin"
        ) from error
    made = [_made(task, place, str(timezone), str(prefix)) for place, task in enumerate(tasks)]
    keys = [task["key"] for task in made]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise AnsibleFilterError(f"fileforge.ops.routine_schedule: the key {twice[0]!r} is given twice; each task needs its own")
    return made


def _made(task: Task, place: int, timezone: str, prefix: str) -> dict[str, t.Any]:
    if not isinstance(task, t.Mapping):
        raise AnsibleFilterError(f"fileforge.ops.routine_schedule: item {place} is not a task: {task!r}")
    _named(task, place)
    extra = task.get("extra_vars") or {}
    _open(task, place, extra)
    calendar, rrule = _given(task, place) if task.get("calendar") or task.get("rrule") else _times(task, place, timezone)
    return {
        **task,
        "unit": f"{prefix}{task['key']}",
        "calendar": calendar,
        "rrule": rrule,
        "job_template": str(task.get("job_template") or f"FileForge {task['task']}"),
        "description": str(task.get("description") or task["task"]),
        "extra_vars": dict(extra),
    }


def _refuse(task: Task, place: int, name: str, fix: str) -> t.NoReturn:
    who = task.get("key") or task.get("task") or place
    raise AnsibleFilterError(f"fileforge.ops.routine_schedule: {name} of task {who!r} is {task.get(name)!r}; {fix}")


def _named(task: Task, place: int) -> None:
    for name, pattern, fix in (
        ("key", KEY, "give lower-case letters and digits with single - between; it becomes the name of files"),
        ("playbook", PLAYBOOK, "give the name of a file in playbooks/, such as log-review.yml"),
    ):
        if not pattern.fullmatch(str(task.get(name) or "")):
            _refuse(task, place, name, fix)
    for name in ("task", "owner", "description", "job_template"):
        needed = name in ("task", "owner")
        if (needed and not task.get(name)) or LINES.search(str(task.get(name) or "")):
            _refuse(task, place, name, "give one line of text")
    for name in ("timeout", "delay"):
        if name in task and (not isinstance(task[name], int) or isinstance(task[name], bool) or task[name] < 0):
            _refuse(task, place, name, "give a number of seconds")


def _open(task: Task, place: int, extra: t.Any) -> None:
    """What is in a unit file and in the arguments of a process, everyone on the host can read."""
    if not isinstance(extra, t.Mapping):
        _refuse(task, place, "extra_vars", "give a dictionary")
    for name in extra:
        if SECRET.search(str(name)):
            raise AnsibleFilterError(
                f"fileforge.ops.routine_schedule: extra_vars of task {task['key']!r} has {name}: everyone on the host can read it;"
                " put secrets into the environment file or a vault"
            )


def _given(task: Task, place: int) -> tuple[str, str]:
    calendar, rrule = str(task.get("calendar") or ""), str(task.get("rrule") or "")
    if not calendar or not rrule:
        _refuse(task, place, "calendar" if rrule else "rrule", "give calendar and rrule together, or every and at")
    if LINES.search(calendar):
        _refuse(task, place, "calendar", "give one line")
    for wrong, fix in (
        (
            not re.match(r"DTSTART(;TZID=[^:;\s]+:\d{8}T\d{6}|:\d{8}T\d{6}Z) RRULE:", rrule),
            "begin with DTSTART;TZID=zone:time RRULE:",
        ),
        ("INTERVAL=" not in rrule, "AWX wants an INTERVAL"),
        ("SECONDLY" in rrule or "EXDATE" in rrule or "RDATE" in rrule, "AWX knows no SECONDLY, EXDATE or RDATE"),
        (re.search(r"BYDAY=[^;]*\d", rrule), "AWX knows no numbered BYDAY: the first Monday is BYDAY=MO;BYSETPOS=1"),
        (LINES.search(rrule), "give one line"),
    ):
        if wrong:
            _refuse(task, place, "rrule", fix)
    return calendar, rrule


def _times(task: Task, place: int, timezone: str) -> tuple[str, str]:
    every, at = task.get("every"), task.get("at")
    if every not in EVERY:
        _refuse(task, place, "every", f"give one of {', '.join(EVERY)}")
    clock = AT.fullmatch(at) if isinstance(at, str) else None
    if clock is None:
        _refuse(task, place, "at", "give hour and minute between quotes, as '06:30'")
    week, dates, rule = _rule(task, place)
    when = f"{clock[1]}:{clock[2]}:00"
    calendar = " ".join(part for part in (week, dates, when, timezone) if part)
    return calendar, f"DTSTART;TZID={timezone}:{START}T{clock[1]}{clock[2]}00 RRULE:{rule}"


def _rule(task: Task, place: int) -> tuple[str, str, str]:
    """Day of the week and date for systemd, and the rule for AWX."""
    every = task["every"]
    day = task.get("day", "Mon" if every == "weekly" else 1)
    if every == "daily":
        if "day" in task:
            _refuse(task, place, "day", "a daily task has no day: leave it out")
        return "", "*-*-*", "FREQ=DAILY;INTERVAL=1"
    if every == "weekly":
        if day not in DAYS:
            _refuse(task, place, "day", f"give one of {', '.join(DAYS)}")
        return day, "*-*-*", f"FREQ=WEEKLY;INTERVAL=1;BYDAY={DAYS[day]}"
    months, rule = ("*", "FREQ=MONTHLY;INTERVAL=1") if every == "monthly" else (QUARTERS, "FREQ=MONTHLY;INTERVAL=3")
    if day in DAYS:
        return day, f"*-{months}-01..07", f"{rule};BYDAY={DAYS[day]};BYSETPOS=1"
    if not isinstance(day, int) or isinstance(day, bool) or not 1 <= day <= 28:
        _refuse(task, place, "day", f"give a day of the month from 1 to 28, or one of {', '.join(DAYS)}")
    return "", f"*-{months}-{day:02d}", f"{rule};BYMONTHDAY={day}"


class FilterModule:
    """What this file offers."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"routine_schedule": routine_schedule}
