# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Points in time as people and programs write them."""

from __future__ import annotations

import datetime

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._time import UTC, iso, parse_time, postgres_time

MOMENT = datetime.datetime(2026, 11, 23, 14, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23T14:05:00+00:00",
        " 2026-11-23 14:05:00Z ",
        "2026-11-23t14:05z",
        "2026-11-23 14:05:00 UTC",
        "20261123T140500Z",
        "20261123T1405Z",
        "20261123T160500+0200",
        "20261123T160500+02",
        "20261123T1605+02:00",
        "2026-11-23T09:05:00-0500",
        "2026-11-23T09:05:00\u221205:00",
        "2026-11-23T19:35:00.000000+05:30",
        "2026-W48-1T14:05:00Z",
        "2026W481T140500Z",
        "2026-327T14:05:00Z",
        "2026327T140500Z",
        "2026-11-23T14.08333333333333333333333333334Z",
        "2026-11-23T14:05,0Z",
    ],
)
def test_forms_of_one_moment(text: str) -> None:
    assert parse_time(text, "target_time") == MOMENT


@pytest.mark.parametrize(
    ("fraction", "microseconds"), [(".5", 500000), (",5", 500000), (".000001", 1), (".1234569", 123456), (",123456999999", 123456)]
)
def test_fractions_are_cut_to_microseconds(fraction: str, microseconds: int) -> None:
    expected = MOMENT + datetime.timedelta(microseconds=microseconds)
    assert parse_time(f"2026-11-23T14:05:00{fraction}Z", "t") == parse_time(f"20261123T140500{fraction}+00", "t") == expected


def test_fractions_of_minutes_and_hours_and_the_end_of_the_day() -> None:
    assert parse_time("2026-11-23T14:05,5Z", "t") == MOMENT + datetime.timedelta(seconds=30)
    assert parse_time("20261123T13,5Z", "t") == MOMENT - datetime.timedelta(minutes=35)
    assert parse_time("2026-11-23T24:00:00Z", "t") == parse_time("2026-11-24T00:00:00Z", "t")


@pytest.mark.parametrize("text", ["2026-11-23T14:05:00", "20261123T140500", "2026-11-23 14:05", "2026-W48-1T14:05:00.5"])
def test_without_an_offset_it_is_ambiguous(text: str) -> None:
    with pytest.raises(InvalidOption, match=f"target_time='{text}': ambiguous") as caught:
        parse_time(text, "target_time")
    assert f"{text}+00:00" in caught.value.hint
    assert parse_time(f"{text}+00:00", "target_time")


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "yesterday", "2026-11-23", "14:05:00Z", "1795442700", "23.11.2026 14:05:00Z", "11/23/2026 14:05:00Z"),
        *("2026-1123T14:05:00Z", "202611-23T14:05:00Z", "2026-11-23T14:0500Z", "2026-11-23T1405:00Z", "2026-11-23T14:05:00CET"),
        *("2026-02-30T10:00:00Z", "2026-13-01T10:00:00Z", "2026-366T10:00:00Z", "2026-000T10:00:00Z", "2026-W54-1T10:00:00Z"),
        *("2026-W01-8T10:00:00Z", "2026-11-23T25:00:00Z", "2026-11-23T24:00:01Z", "2026-11-23T14:60:00Z", "2026-11-23T14:05:60Z"),
        *("2026-11-23T14:05:00+16:00", "2026-11-23T14:05:00+02:75", "2026-11-23T14:05:00+2", "2026-11-23T14:05:00+00:00Z"),
        *("0001-01-01T00:00:00+02:00", "9999-12-31T23:59:59-02:00", "0000-01-01T00:00:00Z", "２026-11-23T14:05:00Z"),
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_time(text, "target_time")
    assert caught.value.message.startswith(f"target_time={text!r}: ")
    assert "2026-11-23T14:05:00+00:00" in caught.value.hint
    assert caught.value.state["option"] == "target_time"


def test_what_postgresql_is_told() -> None:
    assert postgres_time(parse_time("20261123T160500,25+0200", "t")) == "2026-11-23 14:05:00.250000+00"
    assert iso(parse_time("20261123T160500,25+0200", "t")) == "2026-11-23T14:05:00.250000+00:00"
