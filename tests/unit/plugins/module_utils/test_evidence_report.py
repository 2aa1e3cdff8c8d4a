# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The measures of a report, and what its renderings keep to."""

from __future__ import annotations

import datetime
import html.parser
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._evidence.render import render_html, render_markdown
from ansible_collections.fileforge.ops.plugins.module_utils._evidence.report import Facts, build, forecast, measure_rto, same_report
from hypothesis import given, settings
from hypothesis import strategies as st

DISASTER = datetime.datetime(2026, 11, 23, 14, 5, tzinfo=datetime.timezone.utc)
TEXT = st.text(max_size=12)
AMOUNTS = st.floats(0, 1e5, allow_nan=False)


def after(seconds: float) -> datetime.datetime:
    return DISASTER + datetime.timedelta(seconds=seconds)


def phase(name: str, seconds: float, done: int, unit: str = "B", step: str = "") -> dict[str, t.Any]:
    return {"step": step, "phase": name, "seconds": seconds, "done": done, "unit": unit}


def facts(**changes: t.Any) -> Facts:
    values: dict[str, t.Any] = {"title": "Drill", "plans": [], "phases": [], "assertions": [], "rto": 14400, "rpo": 3600}
    return Facts(**{**values, **changes})


@pytest.mark.parametrize(
    ("seconds", "status"), [(0, "ok"), (11519, "ok"), (11520, "warning"), (14400, "warning"), (14400.5, "critical")]
)
def test_verdict_of_the_rto(seconds: float, status: str) -> None:
    measure = measure_rto(facts(disaster_time=DISASTER, restored_time=after(seconds)))
    assert measure.seconds == seconds
    check = measure.check("dr.rto", "RTO", "restore faster")
    assert (check.status, check.hint) == (status, "" if status == "ok" else "restore faster")
    assert measure.as_dict()["met"] == (status != "critical")


def test_without_a_disaster_time_the_rto_counts_from_the_start_and_says_so() -> None:
    measure = measure_rto(facts(run_started=DISASTER, restored_time=after(60)))
    assert (measure.seconds, measure.basis) == (60, "start of the run to first verified probe")


def test_times_in_the_wrong_order_are_unknown_never_zero() -> None:
    report = build(facts(disaster_time=DISASTER, restored_time=after(-1), last_commit=after(5)), "run")
    assert report["rto"]["seconds"] is report["rpo"]["seconds"] is None
    assert "wrong" in report["rto"]["problem"]
    assert report["status"] == "unknown"


@given(
    size=st.integers(10**7, 10**13),
    seconds=st.floats(1, 5000),
    wal=st.integers(1, 10**5),
    replay=st.floats(1, 5000),
    rest=st.floats(0, 4000),
)
def test_a_recovery_of_the_forecast_size_takes_the_rto(size: int, seconds: float, wal: int, replay: float, rest: float) -> None:
    known = facts(
        phases=[phase("fetch", seconds, size), phase("replay", replay, wal, "segments"), phase("rollout", 1, 2, "pods")],
        disaster_time=DISASTER,
        restored_time=after(seconds + replay + rest),
    )
    found = forecast(known, measure_rto(known))
    database, backlog, taken = found["largest_database_bytes"], found["largest_wal_backlog_bytes"], found["inputs"]
    rate, replay_rate = size / seconds, wal * known.wal_segment_size / replay
    for amount, speed, fixed in ((database, rate, replay), (backlog, replay_rate, seconds)):
        predicted = amount / speed + fixed + taken["other_seconds"]
        assert predicted == pytest.approx(known.rto, rel=1e-3) or (amount == 0 and predicted >= known.rto)


def test_rates_that_are_not_known_give_no_forecast() -> None:
    for phases in ([], [phase("fetch", 0, 5)], [phase("fetch", 5, 0)], [phase("fetch", 5, 9, "files")]):
        known = facts(phases=phases)
        found = forecast(known, measure_rto(known))
        assert found["largest_database_bytes"] is found["largest_wal_backlog_bytes"] is None


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _value in attrs}
        if tag not in ("meta", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "rect":
            assert self.open.pop() == tag


HOSTILE = st.sampled_from(["<script>", "</td>", "\"onload='x", "&amp;", "| a | `b`", "\x1b[2J", "$title"]) | TEXT


@settings(max_examples=60, deadline=None)
@given(words=st.lists(HOSTILE, min_size=9, max_size=9), seconds=AMOUNTS, done=st.integers(0, 10**15))
def test_whatever_the_facts_say_the_page_is_well_formed_and_inert(words: list[str], seconds: float, done: int) -> None:
    plan = {"title": words[0], "digest": words[1], "steps": [{"action": words[2], "object": words[3], "destructive": True}]}
    known = facts(
        title=words[4],
        plans=[plan, {"steps": words[5]}],
        phases=[phase(words[6], seconds, done, "B", words[7])],
        assertions=[{"name": words[8], "ok": False, "detail": words[0]}],
        files=[{"path": words[1], "error": words[2]}],
    )
    report = build(known, "run")
    page, tags = render_html(report), Tags()
    tags.feed(page)
    assert tags.open == []
    assert not {"script", "img", "link", "iframe", "object", "a"} & tags.seen
    assert not {name for name in tags.attributes if name.startswith("on") or name in ("src", "href")}
    assert "\x1b" not in page + render_markdown(report)
    assert render_html(report) == page


def test_the_same_facts_give_the_same_report_and_name() -> None:
    first, second = facts(disaster_time=DISASTER), facts(disaster_time=DISASTER)
    assert first.run_id() == second.run_id() != facts(disaster_time=after(1)).run_id()
    assert first.run_id().startswith("20261123T140500Z-")
    assert same_report(build(first, "a"), build(second, "a"))
    assert not same_report(build(first, "a"), build(facts(disaster_time=DISASTER, rto=1), "a"))
