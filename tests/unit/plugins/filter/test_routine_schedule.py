# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Schedules: both forms name the same moments, as systemd and the rule's library understand them, and bad input is refused."""

from __future__ import annotations

import datetime
import re
import subprocess
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.fileforge.ops.plugins.filter.routine_schedule import DAYS, routine_schedule
from dateutil import rrule as rules

ROOT = Path(__file__).resolve().parents[4]
BASE = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
TASK = {"key": "a", "task": "A", "playbook": "a.yml", "owner": "Platform", "every": "daily", "at": "06:30"}
PRODUCTION = yaml.safe_load((ROOT / "inventories/production/group_vars/all/schedule.yml").read_text())["fileforge_routine_tasks"]
RUNBOOK = {
    "Log review": ("daily", "On-call"),
    "SSL certificate check": ("weekly", "Platform"),
    "Security patch review": ("weekly", "Security"),
    "Performance review": ("weekly", "Platform"),
    "Capacity planning": ("monthly", "Platform"),
    "Penetration test": ("quarterly", "Security"),
}
VARIANTS = [
    {"every": "daily", "at": "23:59"},
    *({"every": every, "at": "07:05", "day": day} for every in ("weekly", "monthly", "quarterly") for day in DAYS),
    *({"every": every, "at": "00:00", "day": day} for every in ("monthly", "quarterly") for day in (1, 28)),
]


def made(**more: t.Any) -> dict[str, t.Any]:
    [task] = routine_schedule([{**TASK, **more}])
    return task


def by_systemd(calendar: str, count: int) -> list[datetime.datetime]:
    argv = ["systemd-analyze", "calendar", f"--iterations={count}", "--base-time=2026-01-01 00:00:00 UTC", calendar]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=30, check=False, env={"PATH": "/usr/bin:/bin", "TZ": "UTC", "LC_ALL": "C"}
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"(?:Next elapse|Iter\. #\d+|\(in UTC\)): \w+ (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC", done.stdout)
    return [datetime.datetime.strptime(when, "%Y-%m-%d %H:%M:%S").replace(tzinfo=datetime.timezone.utc) for when in found]


def by_rule(rule: str, count: int) -> list[datetime.datetime]:
    found = rules.rrulestr(rule)
    times: list[datetime.datetime] = []
    for when in found.xafter(BASE, inc=False, count=count):
        times.append(when.astimezone(datetime.timezone.utc))
    return times


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: " ".join(str(value) for value in variant.values()))
def test_both_forms_name_the_same_moments(variant: dict[str, t.Any]) -> None:
    task = made(**variant)
    times = by_systemd(task["calendar"], 6)
    assert len(times) == 6
    assert times == by_rule(task["rrule"], 6)


def test_summer_time_is_the_same_for_both() -> None:
    [task] = routine_schedule([{**TASK, "every": "monthly", "day": "Mon"}], "Europe/Berlin")
    times = by_systemd(task["calendar"], 12)
    assert {when.hour for when in times} == {4, 5}, "06:30 in Berlin is another hour of UTC in summer"
    assert times == by_rule(task["rrule"], 12)


def test_the_tasks_of_the_runbook_are_scheduled_as_it_says() -> None:
    found = {task["task"]: (task["every"], task["owner"]) for task in PRODUCTION}
    assert {title: found[title] for title in RUNBOOK} == RUNBOOK
    for task in routine_schedule(PRODUCTION):
        assert by_systemd(task["calendar"], 4) == by_rule(task["rrule"], 4), task["key"]
    lab = yaml.safe_load((ROOT / "inventories/lab/group_vars/all/schedule.yml").read_text())
    assert lab["fileforge_routine_tasks"] == PRODUCTION


def test_rules_are_what_awx_accepts() -> None:
    for task in routine_schedule([*PRODUCTION, *({**TASK, "key": f"v{n}", **variant} for n, variant in enumerate(VARIANTS))]):
        rule = task["rrule"]
        assert re.fullmatch(r"DTSTART;TZID=[A-Za-z_/]+:\d{8}T\d{6} RRULE:FREQ=(DAILY|WEEKLY|MONTHLY);INTERVAL=\d.*", rule)
        assert not re.search(r"BYDAY=[^;]*\d|SECONDLY|EXDATE|RDATE|COUNT|UNTIL", rule)
        assert rule.count("DTSTART") == rule.count("RRULE") == 1


def test_names_and_what_is_not_given() -> None:
    task = made()
    assert task["unit"] == "fileforge-a"
    assert (task["job_template"], task["description"], task["extra_vars"]) == ("FileForge A", "A", {})
    assert task["calendar"] == "*-*-* 06:30:00 UTC"
    own = made(calendar="hourly", rrule="DTSTART:20260101T000000Z RRULE:FREQ=HOURLY;INTERVAL=1")
    assert own["calendar"] == "hourly"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"key": "A b"}, "lower-case"),
        ({"key": "../x"}, "lower-case"),
        ({"playbook": "../../etc/x.yml"}, "playbooks/"),
        ({"playbook": None}, "playbooks/"),
        ({"owner": ""}, "one line"),
        ({"owner": "x\nExecStart=/bin/sh"}, "one line"),
        ({"every": "yearly"}, "quarterly"),
        ({"at": 630}, "quotes"),
        ({"at": "24:00"}, "quotes"),
        ({"day": 1}, "leave it out"),
        ({"every": "weekly", "day": 1}, "Mon"),
        ({"every": "monthly", "day": 31}, "28"),
        ({"timeout": "1h"}, "seconds"),
        ({"extra_vars": ["a"]}, "dictionary"),
        ({"extra_vars": {"db_password": "x"}}, "environment file"),
        ({"calendar": "hourly"}, "together"),
        ({"calendar": "hourly", "rrule": "DTSTART:20260101T000000 RRULE:FREQ=HOURLY;INTERVAL=1"}, "DTSTART;TZID"),
        ({"calendar": "hourly", "rrule": "DTSTART:20260101T000000Z RRULE:FREQ=HOURLY"}, "INTERVAL"),
        ({"calendar": "hourly", "rrule": "DTSTART:20260101T000000Z RRULE:FREQ=MONTHLY;INTERVAL=1;BYDAY=1MO"}, "BYSETPOS"),
        ({"calendar": "a\nb", "rrule": "DTSTART:20260101T000000Z RRULE:FREQ=HOURLY;INTERVAL=1"}, "one line"),
    ],
)
def test_what_is_refused_names_the_task_and_the_fix(more: dict[str, t.Any], said: str) -> None:
    with pytest.raises(AnsibleFilterError, match=re.escape(said)):
        made(**more)


def test_a_key_twice_and_a_zone_that_is_none() -> None:
    with pytest.raises(AnsibleFilterError, match="twice"):
        routine_schedule([TASK, TASK])
    with pytest.raises(AnsibleFilterError, match="time zone"):
        routine_schedule([TASK], "Mars/Base")
    with pytest.raises(AnsibleFilterError, match="item 0"):
        routine_schedule(["daily"])  # type: ignore[list-item]
