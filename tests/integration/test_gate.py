# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate, through real ansible-playbook with and without a terminal."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step, digest_of

from tests.integration.plays import Ended, Playbook

PROMPT = "anything else to stop:"


def plan_of(title: str = "Restore the database", *, destructive: bool = True, size: int = 4096) -> dict[str, t.Any]:
    step = Step("replace", "/var/lib/postgresql/15/main", bytes=size, destructive=destructive)
    return Plan(title, [step], ["free disk: 4 GiB"]).as_dict()


def gate(place: Path, *plans: dict[str, t.Any], **options: t.Any) -> Playbook:
    """A gate before a task that must only be reached when it passed."""
    arguments = {"plans": list(plans), "title": "Recover", "confirm": "{{ confirm | default('') }}", **options}
    done = {"content": "destroyed", "dest": str(place / "destroyed"), "mode": "0600"}
    tasks = [
        {"name": "Gate", "fileforge.ops.gate": arguments, "register": "outcome"},
        {"name": "Destroy", "ansible.builtin.copy": done, "when": "not ansible_check_mode"},
    ]
    return Playbook(place, tasks)


def assert_stopped(place: Path, ended: Ended, code: str) -> None:
    assert ended.rc != 0, ended.output
    assert not (place / "destroyed").exists()
    assert f"code: {code}" in ended.output


def test_without_terminal_and_confirmation_it_fails_closed_and_says_what_to_type(place: Path) -> None:
    plan = plan_of()
    ended = gate(place, plan).run()
    assert_stopped(place, ended, "confirmation_needed")
    assert "! replace     /var/lib/postgresql/15/main (4.0 KiB)" in ended.output
    assert "free disk: 4 GiB" in ended.output
    assert f"-e confirm={plan['digest']}" in ended.output


def test_the_confirmed_digest_passes(place: Path) -> None:
    plan = plan_of()
    ended = gate(place, plan).run("-e", f"confirm={plan['digest']}")
    assert ended.rc == 0, ended.output
    assert (place / "destroyed").exists()
    assert ended.registered["confirmed"] is True
    assert ended.registered["confirmed_by"] == "digest"
    assert ended.registered["changed"] is False


def test_a_digest_from_before_the_world_changed_is_refused(place: Path) -> None:
    old, new = plan_of(size=4096), plan_of(size=8192)
    ended = gate(place, new).run("-e", f"confirm={old['digest']}")
    assert_stopped(place, ended, "plan_changed")
    assert old["digest"] in ended.output
    assert new["digest"] in ended.output


def test_several_plans_have_one_digest_in_their_order(place: Path) -> None:
    first, second = plan_of(), plan_of("Make the files equal", size=1)
    combined = digest_of([first["digest"], second["digest"]])
    ended = gate(place, first, second).run("-e", f"confirm={combined}")
    assert ended.rc == 0, ended.output
    assert ended.registered["digest"] == combined
    (place / "destroyed").unlink()
    assert_stopped(place, gate(place, second, first).run("-e", f"confirm={combined}"), "plan_changed")


def test_own_digests_still_confirm_when_one_plan_is_done(place: Path) -> None:
    first, second = plan_of(), plan_of("Make the files equal", size=1)
    done = Plan(first["title"]).as_dict()
    confirm = f"confirm={first['digest']},{second['digest']}"
    assert gate(place, done, second).run("-e", confirm).rc == 0
    (place / "destroyed").unlink()
    assert_stopped(place, gate(place, first, second).run("-e", f"confirm={first['digest']}"), "plan_changed")


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan["steps"][0].update(object="/srv"),
        lambda plan: plan["steps"].append(Step("remove", "/").as_dict()),
        lambda plan: plan["steps"][0].pop("destructive"),
        lambda plan: plan.update(title="Nothing much"),
        lambda plan: plan.pop("digest"),
        lambda plan: plan.update(steps="none"),
        lambda plan: plan["steps"][0].update(command="rm"),
    ],
)
def test_a_tampered_plan_is_refused_even_when_confirmed(place: Path, change: t.Callable[[dict[str, t.Any]], t.Any]) -> None:
    plan = plan_of()
    digest = plan["digest"]
    change(plan)
    assert_stopped(place, gate(place, plan).run("-e", f"confirm={digest}"), "plan_tampered")


def test_nothing_to_do_needs_no_confirmation_whatever_was_confirmed(place: Path) -> None:
    ended = gate(place, Plan("Restore").as_dict()).run("-e", "confirm=0123456789abcdef")
    assert ended.rc == 0, ended.output
    assert ended.registered["needed"] is False
    assert ended.registered["confirmed"] is False


def test_harmless_plans_pass_unless_always(place: Path) -> None:
    plan = plan_of(destructive=False)
    assert gate(place, plan).run().rc == 0
    (place / "destroyed").unlink()
    assert_stopped(place, gate(place, plan, always=True).run(), "confirmation_needed")


def test_check_mode_never_stops_and_returns_the_digest(place: Path) -> None:
    plan = plan_of()
    for confirm in ("", "0123456789abcdef"):
        ended = gate(place, plan).run("--check", "-e", f"confirm={confirm}", env={"ANSIBLE_SHOW_CUSTOM_STATS": "true"})
        assert ended.rc == 0, ended.output
        assert ended.registered["digest"] == plan["digest"]
        assert ended.registered["confirmed"] is False
        assert f"-e confirm={plan['digest']}" in ended.output
        assert f"confirm: {plan['digest']}," in ended.output.partition("CUSTOM STATS")[2], "for the next job of a workflow"


def test_yes_at_a_terminal_passes(place: Path) -> None:
    ended = gate(place, plan_of()).run_on_terminal(PROMPT, "yes")
    assert ended.rc == 0, ended.output
    assert ended.registered["confirmed_by"] == "terminal"
    assert (place / "destroyed").exists()


@pytest.mark.parametrize("answer", ["no", "", "y", "yes please", "\x03"])
def test_any_other_answer_at_a_terminal_stops(place: Path, answer: str) -> None:
    assert_stopped(place, gate(place, plan_of()).run_on_terminal(PROMPT, answer), "declined")


def test_a_wrong_digest_is_not_asked_about(place: Path) -> None:
    ended = gate(place, plan_of()).run_on_terminal(PROMPT, "yes", "-e", "confirm=0123456789abcdef")
    assert PROMPT not in ended.output
    assert_stopped(place, ended, "plan_changed")


@pytest.mark.parametrize("how", ["option", "variable", "environment"])
def test_nobody_is_asked_where_nobody_sits(place: Path, how: str) -> None:
    options = {"allow_prompt": False} if how == "option" else {}
    arguments = ["-e", "awx_job_id=7"] if how == "variable" else []
    env = {"AWX_ISOLATED_DATA_DIR": "/tmp"} if how == "environment" else {}
    ended = gate(place, plan_of(), **options).run_on_terminal(PROMPT, "yes", *arguments, env=env)
    assert PROMPT not in ended.output
    assert_stopped(place, ended, "confirmation_needed")


def test_a_plan_cannot_write_on_the_terminal(place: Path) -> None:
    plan = Plan("Restore", [Step("replace", "a\x1b[2Jb\nc", destructive=True)]).as_dict()
    ended = gate(place, plan).run()
    assert "\x1b" not in ended.output
    assert "a?[2Jb?c" in ended.output
