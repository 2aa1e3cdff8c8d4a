# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports of checks: nothing that was looked at is lost, nothing that was not is ok, and yesterday is the right run."""

from __future__ import annotations

import datetime
import json
import re
import typing as t
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._checks import STATUSES, Check, worst
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._report import html, machine, model, rows, store, text
from ansible_collections.fileforge.ops.plugins.module_utils._report.history import History, HistoryError, Run, run_of
from hypothesis import given
from hypothesis import strategies as st

NOON = datetime.datetime(2026, 11, 23, 12, 0, tzinfo=datetime.timezone.utc)
HOUR = datetime.timedelta(hours=1)
HOSTILE = "<script>alert(1)</script> | `x` *y* [z](w) \x1b[2J\u202e ' \" & \n# end"


def check(status: str = "ok", **fields: t.Any) -> dict[str, t.Any]:
    return Check(**{"id": "area.name", "status": status, "summary": f"it is {status}", **fields}).as_dict()


def section(*checks: dict[str, t.Any], name: str = "Area", **result: t.Any) -> model.Section:
    made = model.section_of({"name": name, "result": {"checks": list(checks), **result}}, 0)
    assert made is not None
    return made


def report(*checks: dict[str, t.Any], history: History | None = None, when: datetime.datetime = NOON) -> model.Report:
    return model.build("Daily check", [section(*checks)], history or History([]), when)


def run(age: datetime.timedelta, status: str = "ok", value: float | None = None, key: str = "area.name") -> Run:
    return Run(NOON - age, status, {key: (status, value)})


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (None, "did not run"),
        ({"failed": True, "msg": "connection refused"}, "connection refused"),
        ({"unreachable": True, "msg": "no route"}, "no route"),
        ({"failed": True}, "no message"),
        ({"changed": False}, "no checks"),
        ({"checks": []}, "no checks"),
    ],
)
def test_what_could_not_look_is_unknown(result: t.Any, words: str) -> None:
    made = model.section_of({"name": "Log files", "result": result}, 0)
    assert made is not None
    assert [(c["id"], c["status"]) for c in made.checks] == [("log_files.probe", "unknown")]
    assert words in made.checks[0]["summary"]


def test_checks_of_a_module_that_failed_later_are_kept() -> None:
    made = section(check("ok"), failed=True, msg="the rest timed out")
    assert [c["status"] for c in made.checks] == ["ok", "unknown"]


def test_a_task_that_was_skipped_on_purpose_is_left_out() -> None:
    assert model.section_of({"name": "Area", "result": {"skipped": True, "changed": False}}, 0) is None


@pytest.mark.parametrize(
    "source",
    [
        {"result": {}},
        {"name": "x", "result": "text"},
        {"name": "x", "result": {"checks": ["text"]}},
        {"name": "x", "result": {"checks": [{"id": "a", "status": "fine"}]}},
    ],
)
def test_what_is_no_result_is_refused_with_its_place(source: dict[str, t.Any]) -> None:
    with pytest.raises(InvalidOption, match=r"results\[4\]"):
        model.section_of(source, 4)


statuses = st.sampled_from(STATUSES)


@given(st.lists(statuses, max_size=12))
def test_every_check_is_counted_and_the_worst_decides(found: list[str]) -> None:
    made = model.build("x", [section(*(check(s) for s in found))] if found else [], History([]), NOON)
    assert made["status"] == worst(found)
    assert made["counts"] == {status: found.count(status) for status in STATUSES}
    assert sorted(p["status"] for p in made["problems"]) == sorted(s for s in found if s != "ok")
    ranks = [STATUSES.index(p["status"]) for p in made["problems"]]
    assert ranks == sorted(ranks, reverse=True), "the worst first"
    keys = [c["key"] for s in made["sections"] for c in s["checks"]]
    assert len(set(keys)) == len(found), "each check has a key of its own"


@given(statuses, st.sampled_from(sorted(model.FAILS)))
def test_exit_policy(status: str, fail_on: str) -> None:
    expected = {"never": False, "critical": status == "critical", "warning": status != "ok"}[fail_on]
    assert model.violates(report(check(status)), fail_on) is expected


ages = st.lists(st.integers(min_value=1, max_value=200), max_size=15, unique=True)


@given(ages)
def test_yesterday_is_the_newest_run_that_is_a_day_old(hours: list[int]) -> None:
    history = History(sorted((run(HOUR * age) for age in hours), key=lambda each: each.time))
    found = history.reference(NOON)
    old = [age for age in hours if age >= 20]
    expected = min(old) if old else max(hours, default=None)
    assert (NOON - found.time == HOUR * expected) if found and expected else (found is None and expected is None)


@given(st.lists(statuses, min_size=1, max_size=10), statuses)
def test_since_goes_back_to_the_last_other_status(past: list[str], now: str) -> None:
    history = History([run(HOUR * (len(past) - place), status) for place, status in enumerate(past)])
    same = 0
    for status in reversed(past):
        if status != now:
            break
        same += 1
    assert NOON - history.since("area.name", now, NOON) == HOUR * same


def test_changes_against_yesterday() -> None:
    history = History(
        [Run(NOON - 24 * HOUR, "warning", {"a": ("ok", 1), "b": ("warning", 2), "c": ("unknown", None), "gone": ("ok", 1)})]
    )
    made = report(
        check("critical", id="a"), check("ok", id="b"), check("unknown", id="c"), check("warning", id="d"), history=history
    )
    changes = made["changes"]
    assert [item["key"] for item in changes["worse"]] == ["a"]
    assert [item["key"] for item in changes["better"]] == ["b"]
    assert [item["key"] for item in changes["appeared"]] == ["d"]
    assert changes["gone"] == [{"key": "gone", "was": "ok"}]
    assert text.change_summary(made) == "1 worse, 1 better, 1 new, 1 no longer looked at"


def test_history_survives_a_damaged_line_and_keeps_it(tmp_path: Path) -> None:
    path = str(tmp_path / "history.jsonl")
    History([run(HOUR)]).save(path)
    with open(path, "a", encoding="utf-8") as stream:
        stream.write('{"time": "2026-11-23T12:0')
    found = History.load(path)
    assert (len(found.runs), found.damaged) == (1, 1)
    found.with_run(run(HOUR * 0), 10).save(path)
    assert [len(History.load(path).runs), History.load(path).damaged] == [2, 0]
    assert "2026-11-23T12:0" in Path(f"{path}.damaged").read_text()


def test_history_that_cannot_be_read_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=re.escape(str(tmp_path))):
        History.load(str(tmp_path))


@given(st.lists(st.tuples(statuses, st.none() | st.floats(allow_nan=False, allow_infinity=False)), max_size=5))
def test_a_run_is_what_its_line_says(points: list[tuple[str, float | None]]) -> None:
    made = Run(NOON, "ok", {f"k{place}": point for place, point in enumerate(points)})
    assert Run.of_line(made.as_line()) == made


def test_trend_is_of_the_numbers_only() -> None:
    runs = [run(HOUR * 3, value=1.0), run(HOUR * 2, value=None), run(HOUR, value=3)]
    assert History(runs).points("area.name", 10) == [1.0, 3]
    made = report(check(value=True, subject="x"), check(value="text", subject="y"), check(value=2.5, subject="z"))
    assert [point[1] for point in run_of(made).checks.values()] == [None, None, 2.5]


# the renderings


class Page(HTMLParser):
    """Balance and content of a page."""

    VOID: t.ClassVar[set[str]] = {"meta"}

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.seen.append(data)


def hostile() -> model.Report:
    history = History([run(HOUR * 30, "ok", 1.0), run(HOUR * 25, "ok", 2.0)])
    return report(
        check("critical", summary=HOSTILE, hint=HOSTILE, subject=HOSTILE, value=3.0), check("ok", value=1), history=history
    )


def test_page_is_whole_holds_nothing_foreign_and_executes_nothing() -> None:
    page = Page(html.html(hostile()))
    assert not page.open
    assert "script" not in page.tags and not page.links
    assert any("<script>alert(1)</script>" in data for data in page.seen), "the text is there as text"


def test_page_puts_the_verdict_before_the_problems_before_the_rest() -> None:
    page = html.html(report(check("critical", summary="disk full"), check("ok", summary="queue short", id="b.c")))
    places = [page.index(words) for words in ("needs a person now", "What to do", "disk full", "All checks", "queue short")]
    assert places == sorted(places)


MANY = [{"statement": f"SELECT {place} <b>", "calls": place, "read_bytes": place << 20, "role": None} for place in range(1, 13)]


def test_what_else_a_check_has_seen_is_a_table() -> None:
    made = report(check("ok", summary="SELECT 1 costs most", evidence=MANY, value=1))
    assert rows.rows_of(made["sections"][0]["checks"][0]) == (
        ["statement", "calls", "read"],
        [[f"SELECT {place} <b>", str(place), f"{place}.0 MiB"] for place in range(1, 11)],
    )
    page = html.html(made)
    assert not Page(page).open and "the first 10 of 12" in page
    assert page.count("SELECT 2 &lt;b&gt;") == 1 and page.count("SELECT 12 &lt;b&gt;") == 0
    assert "| SELECT 2 &lt;b&gt; | 2 | 2.0 MiB |" in text.markdown(made)


@pytest.mark.parametrize("evidence", [None, "text", {"a": 1}, ["a", "b"], [{"a": 1}], [{"a": 1}, "b"]])
def test_other_evidence_is_no_table(evidence: t.Any) -> None:
    made = report(check("warning", evidence=evidence))
    assert rows.rows_of(made["problems"][0]) is None
    assert 'class="rows"' not in html.html(made)


def test_cells_of_a_table_are_words() -> None:
    strange = {"flag": True, "list": ["a", 1], "labels": {"job": "x"}, "number": 0.25, "long": "y" * 999, "empty": []}
    heads, found = rows.rows_of(check(evidence=[strange, {"late\n": "\x1b[2J"}])) or ([], [])
    assert heads == ["flag", "list", "labels", "number", "long", "late"]
    assert found[0][:4] == ["yes", "a, 1", "job=x", "0.25"] and len(found[0][4]) == 240
    assert found[1] == ["", "", "", "", "", "[2J"]


def rules(style: str) -> t.Iterator[tuple[str, str]]:
    """Each rule of a style sheet with the media query around it."""
    for media, inner, plain in re.findall(r"@media ([^{]+?) \{((?:[^{}]*\{[^{}]*\})*)[^{}]*\}|([^@{}]+\{[^{}]*\})", style):
        for rule in re.findall(r"[^{}]+\{[^{}]*\}", inner) or [plain]:
            yield media, " ".join(rule.split())


def test_paper_is_light_whole_and_not_taken_for_a_phone() -> None:
    [style] = re.findall(r"<style>(.*?)</style>", html.html(report(check("critical"))), re.DOTALL)
    found = list(rules(style))
    assert {media for media, _rule in found} == {"", "print", "(prefers-color-scheme: dark)", "screen and (max-width: 720px)"}
    colours = {media: set(re.findall(r"--[\w-]+", rule)) for media, rule in found if rule.startswith(":root")}
    assert colours["print"] >= colours["(prefers-color-scheme: dark)"] > set(), "no colour of the dark page is left"
    last = [media for media, rule in found if rule.startswith(":root")][-1]
    printed = " ".join(rule for media, rule in found if media == "print")
    assert last == "print" and "color-scheme: light" in printed
    assert "details::details-content { content-visibility: visible" in printed, "what is folded is on the paper"
    assert "thead { display: table-header-group; }" in printed and "overflow: visible" in printed
    assert not re.search(r"\.(panel|section)[^{]*\{[^}]*break-inside: avoid", printed), "a long table begins where it is"


def test_nothing_is_wider_than_a_phone() -> None:
    many = History([run(HOUR * age) for age in range(60, 0, -1)])
    page = html.html(report(check("critical", evidence=MANY), history=many))
    for width in map(int, re.findall(r'<(?:svg|table)[^>]* width="(\d+)"', page)):
        assert width <= 300 or f'width="{width}" height="14" viewBox="0 0 {width} 14"' in page
    [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert ".runs svg { max-width: 100%; height: auto; }" in style
    phone = " ".join(rule for media, rule in rules(style) if "max-width" in media)
    assert "td code { white-space: normal; }" in phone and "1fr)" in phone and not re.search(r"columns:[^;]* 1fr;", phone)


def test_trend_needs_two_values() -> None:
    one = report(check(value=1))["sections"][0]["checks"][0]
    assert html.sparkline(one) == ""
    assert "from 1 to 3" in html.sparkline({**one, "value": 3, "history": [1.0, 2.0]})
    assert "polyline" in html.sparkline({**one, "value": 1, "history": [1.0]}), "a level line"


def test_terminal_shows_problems_first_and_no_control_characters() -> None:
    shown = text.terminal(hostile())
    assert "\x1b" not in shown and "\u202e" not in shown
    assert shown.index("CRITICAL  area.name") < shown.index("1 of 2 ok")
    assert max(map(len, text.terminal(report(check("warning", summary="long " * 60)), 60).splitlines())) <= 60


def test_markdown_tables_keep_their_columns_whatever_the_text() -> None:
    rows = [line for line in text.markdown(hostile()).splitlines() if line.startswith("| CRITICAL")]
    assert rows
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6, 4}


def test_nagios_line() -> None:
    line = text.nagios(report(check("warning", value=85.0, unit="%", warning=80.0, critical=90.0, subject="/srv")))
    assert line == ("Daily check WARNING: 1 warning of 1 checks - area.name [/srv]: it is warning | 'area.name//srv'=85%;80;90\n")
    assert "'area.name'=12;30:;7:" in text.nagios(report(check(value=12, unit="d", warning=30, critical=7)))
    assert text.nagios(hostile()).count("|") == 1 and text.nagios(hostile()).count("\n") == 1
    assert sorted(text.NAGIOS_CODES[status] for status in STATUSES) == [0, 1, 2, 3]


def test_junit_tells_bad_from_not_looked_at() -> None:
    root = ElementTree.fromstring(machine.junit(report(*(check(status, subject=status) for status in STATUSES))))
    suite = root[0]
    assert {name: suite.attrib[name] for name in ("tests", "failures", "errors")} == {"tests": "4", "failures": "2", "errors": "1"}
    assert [case[0].tag for case in suite] == ["system-out", "failure", "error", "failure"]
    ElementTree.fromstring(machine.junit(hostile()))


def test_prometheus_text_is_read_back() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    made = report(check("warning", value=85.0, unit="%", subject='/s"r\\v'), check("ok", subject="b"), check("ok"), check("ok"))
    families = {family.name: family for family in text_string_to_metric_families(machine.prometheus(made))}
    active = [sample.labels for sample in families["fileforge_check_status"].samples if sample.value == 1]
    assert [labels["status"] for labels in active] == ["warning", "ok", "ok", "ok"]
    assert active[0]["subject"] == '/s"r\\v'
    assert len({tuple(sorted(labels.items())) for labels in active}) == 4, "no two checks share a series"
    assert [sample.value for sample in families["fileforge_check_value"].samples] == [85.0]
    assert families["fileforge_report_time_seconds"].samples[0].value == NOON.timestamp()


# the store


def test_store_keeps_reports_links_the_newest_and_drops_the_oldest(tmp_path: Path) -> None:
    place = store.Store(str(tmp_path / "reports"), 3)
    for number in range(5):
        made = model.build("x", [section(check(value=number))], place.history(), NOON + number * HOUR)
        files = place.write(made, store.rendered(made, ["json", "html"]))
    assert sorted(files) == ["report.html", "report.json"]
    assert json.loads((tmp_path / "reports/latest/report.json").read_text())["time"].startswith("2026-11-23T16")
    assert len([path for path in (tmp_path / "reports").iterdir() if store.STAMP.fullmatch(path.name)]) == 3
    assert [run.checks["area.name"][1] for run in place.history().runs] == [2, 3, 4]


def test_two_reports_of_one_second_are_both_kept(tmp_path: Path) -> None:
    place = store.Store(str(tmp_path), 10)
    made = report(check())
    first, second = (place.write(made, {"report.txt": "x"}) for _turn in range(2))
    assert first != second
    assert Path(first["report.txt"]).exists() and Path(second["report.txt"]).exists()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(store.ReportError, match="file"):
        store.Store(str(tmp_path / "file" / "reports"), 3).write(report(check()), {})
