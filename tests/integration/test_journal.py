# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal of real playbook runs."""

from __future__ import annotations

import hashlib
import json
import re
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._evidence import journal

from tests.integration.plays import Playbook, kill_tree
from tests.lab.daemon import wait_until

SECRET = "hunter2-hunter2"
OTHER = "correct horse/battery+staple"
HEADERS = {"Authorization": "Digest header-1-secret", "X-Own": "header-2-secret", "Cookie": "header-3-secret"}
RESULT = """\
#!/usr/bin/python
import json
from ansible.module_utils.basic import AnsibleModule
options = {"result": {"type": "json"}, "api_token": {"no_log": True}, "odd": {"no_log": True}}
module = AnsibleModule(options, supports_check_mode=True)
module.exit_json(**json.loads(module.params["result"]))
"""


def task(name: str, action: str, arguments: t.Any, **keywords: t.Any) -> dict[str, t.Any]:
    return {"name": name, action: arguments, **keywords}


def entries_of(playbook: Playbook, number: int = 0) -> list[dict[str, t.Any]]:
    entries, found = journal.read(str(playbook.journal_files()[number]))
    assert found.ok, found
    return entries


def ends(entries: list[dict[str, t.Any]]) -> dict[str, dict[str, t.Any]]:
    return {entry["task"]: entry for entry in entries if entry["event"] == "task_end"}


def test_one_line_for_each_step_with_who_what_when_and_how_it_ended(place: Path) -> None:
    tasks = [
        task("Ok", "ansible.builtin.command", "true", changed_when=False),
        task("Changed", "ansible.builtin.command", "true"),
        task("Skipped", "ansible.builtin.command", "true", when=False),
        task("Failed", "ansible.builtin.fail", {"msg": "on purpose"}, ignore_errors=True),
        task("Loop", "ansible.builtin.command", "echo {{ item }}", loop=[1, 2]),
        task("Where", "ansible.builtin.debug", {"msg": "{{ lookup('env', 'FILEFORGE_JOURNAL') }}"}, register="outcome"),
    ]
    playbook = Playbook(place, tasks, journal=True)
    ended = playbook.run("-e", "awx_job_id=41", "-e", "awx_user_name=dba", "-e", "reason='drill 7'")
    assert ended.rc == 0, ended.output
    entries = entries_of(playbook)
    assert journal.verify(str(playbook.journal_files()[0])).complete
    assert entries[0]["event"] == "playbook_start"
    assert entries[0]["user"]
    assert entries[0]["playbook"] == str(playbook.path)
    play = next(entry for entry in entries if entry["event"] == "play_start")
    assert play["why"] == {"awx_job_id": "41", "awx_user_name": "dba", "reason": "drill 7"}
    found = ends(entries)
    statuses = {"Ok": "ok", "Changed": "changed", "Skipped": "skipped", "Failed": "failed", "Loop": "changed"}
    assert {name: found[name]["status"] for name in statuses} == statuses
    assert found["Failed"]["ignored"] is True
    assert found["Failed"]["results"]["msg"] == "on purpose"
    assert found["Ok"]["module"] == "ansible.builtin.command"
    assert found["Ok"]["host"] == "localhost"
    assert found["Ok"]["seconds"] >= 0
    assert found["Ok"]["started"] <= found["Ok"]["time"]
    assert len(found["Loop"]["results"]["items"]) == 2
    assert ended.registered["msg"] == str(playbook.journal_files()[0])
    assert [entry["event"] for entry in entries].count("task_start") == len(tasks) + 1
    assert entries[-1]["status"] == "ok"


def test_key_results_are_kept_and_evidence_is_hashed(place: Path) -> None:
    proof = place / "proof.txt"
    proof.write_text("it works")
    result = {
        "plan": {"title": "Restore", "digest": "0123456789abcdef", "steps": [{}, {}]},
        "timings": [{"phase": "fetch", "seconds": 1.5, "done": 7, "unit": "B"}],
        "checks": [{"id": "a.b", "status": "ok", "summary": "fine", "evidence": {"big": 1}}],
        "status": "ok",
        "evidence_files": [str(proof), str(place / "missing")],
        "uninteresting": 1,
    }
    playbook = Playbook(place, [task("Result", "result", {"result": json.dumps(result)})], journal=True)
    ended = playbook.add_module("result", RESULT, progress=False).run()
    assert ended.rc == 0, ended.output
    found = ends(entries_of(playbook))["Result"]
    assert found["results"] == {
        "plan": {"title": "Restore", "digest": "0123456789abcdef", "steps": 2},
        "timings": result["timings"],
        "checks": [{"id": "a.b", "status": "ok", "summary": "fine"}],
        "status": "ok",
    }
    digest = hashlib.sha256(b"it works").hexdigest()
    assert found["evidence"] == [
        {"path": str(proof), "size": 8, "sha256": digest},
        {"path": str(place / "missing"), "error": "No such file or directory"},
    ]


@pytest.mark.parametrize("verbosity", ["-v", "-vvvv"])
def test_no_secret_is_ever_written(place: Path, verbosity: str) -> None:
    result = {"msg": f"login with {SECRET} failed", "failed": True, "hint": f"https://u:{SECRET}@db/", "status": OTHER}
    tasks = [
        task("By name", "result", {"result": "{}", "api_token": SECRET}),
        task("In headers", "ansible.builtin.uri", {"url": "http://127.0.0.1:9/", "headers": HEADERS}, ignore_errors=True),
        task("Hidden option", "result", {"result": "{}", "api_token": "x", "odd": "{{ db_password }}"}),
        task("In a message", "result", {"result": json.dumps(result)}, ignore_errors=True),
        task(
            "On a command line", "ansible.builtin.command", "echo --password={{ db_password }} {{ lookup('env', 'S3_SECRET_KEY') }}"
        ),
        task("In a URL", "ansible.builtin.debug", {"msg": "https://user:unknown-{{ 1 }}-pass@host/ Bearer abcdefghij0123"}),
        task("no_log", "ansible.builtin.command", "echo no-log-{{ 6 * 7 }}-value", no_log=True),
        task("no_log in a loop", "ansible.builtin.command", "echo {{ item }}", no_log=True, loop=["no-log-42-value"]),
        task("no_log and failed", "ansible.builtin.fail", {"msg": "no-log-42-value"}, no_log=True, ignore_errors=True),
        task(
            "A fact",
            "ansible.builtin.set_fact",
            {"smtp_password": "{{ db_password }}", "note": "{{ lookup('env', 'S3_SECRET_KEY') }}"},
        ),
    ]
    playbook = Playbook(place, tasks, journal=True, vars={"db_password": SECRET, "nested": {"api_key": "nested-secret-value"}})
    playbook.add_module("result", RESULT, progress=False)
    ended = playbook.run(verbosity, "-e", "vault_token=extra-secret-value", env={"S3_SECRET_KEY": OTHER})
    assert ended.rc == 0, ended.output
    text = playbook.journal_files()[0].read_text()
    assert not re.search("header-[0-9]-secret", text)
    for secret in (SECRET, OTHER, "unknown-1-pass", "abcdefghij0123", "no-log-42", "extra-secret-value", "nested-secret-value"):
        assert secret not in text, secret
    found = ends(entries_of(playbook))
    assert len(found) == len(tasks) + 1
    assert found["no_log"]["inputs"] == ["_raw_params"]
    assert found["no_log"]["no_log"] is True
    assert "results" not in found["no_log"]


def test_a_failed_run_ends_with_failed_and_a_killed_one_does_not_end(place: Path) -> None:
    playbook = Playbook(place, [task("Fail", "ansible.builtin.fail", {"msg": "no"})], journal=True)
    assert playbook.run().rc == 2
    assert entries_of(playbook)[-1]["status"] == "failed"
    mark = place / "mark"
    slow = [
        task("Mark", "ansible.builtin.file", {"path": str(mark), "state": "touch"}),
        task("Wait", "ansible.builtin.wait_for", {"path": str(place / "never")}),
    ]
    killed = Playbook(place, slow, journal=True)
    process = killed.start()
    wait_until(lambda: mark.exists() and '"task":"Wait"' in killed.journal_files()[-1].read_text(), 60, "the second task")
    kill_tree(process.pid)
    process.communicate(timeout=30)
    entries, found = journal.read(str(killed.journal_files()[-1]))
    assert found.ok
    assert not found.complete
    assert entries[-1]["event"] == "task_start"
    assert entries[-1]["task"] == "Wait"


@pytest.mark.parametrize("obstacle", ["file in the way", "full disk"])
def test_a_failing_disk_warns_once_and_never_stops_the_playbook(place: Path, obstacle: str) -> None:
    playbook = Playbook(
        place, [task("A", "ansible.builtin.command", "true"), task("B", "ansible.builtin.command", "true")], journal=True
    )
    env = {}
    if obstacle == "full disk":
        playbook.add_plugin(
            "vars_plugins",
            "full",
            "import os\n"
            "from ansible.plugins.vars import BaseVarsPlugin\n"
            "real = os.write\n"
            "def full(handle, data):\n"
            "    if b'\"seq\":3' in bytes(data):\n"
            "        raise OSError(28, 'No space left on device')\n"
            "    return real(handle, data)\n"
            "os.write = full\n"
            "class VarsModule(BaseVarsPlugin):\n"
            "    def get_vars(self, loader, path, entities, cache=True):\n"
            "        return {}\n",
        )
        env["ANSIBLE_VARS_PLUGINS"] = str(place / "vars_plugins")
    else:
        playbook.journals.write_text("in the way")
    ended = playbook.run(env=env)
    assert ended.rc == 0, ended.output
    assert "ok=3" in ended.output
    told = " ".join(ended.output.split())
    assert told.count("the journal of this run cannot be written") == 1
    assert "the run goes on without" in told
    assert "Traceback" not in ended.output


def test_the_default_place_is_below_the_evidence(place: Path) -> None:
    playbook = Playbook(place, [task("A", "ansible.builtin.command", "true")], journal=True)
    ended = playbook.run(env={"FILEFORGE_JOURNAL_DIR": "", "FILEFORGE_EVIDENCE_DIR": str(place / "evidence")})
    assert ended.rc == 0, ended.output
    assert len(list((place / "evidence/journal").glob("*.jsonl"))) == 1
    ended = playbook.run(env={"FILEFORGE_JOURNAL_DIR": "", "HOME": str(place)})
    assert ended.rc == 0, ended.output
    assert len(list((place / ".fileforge/journal").glob("*.jsonl"))) == 1


def test_nothing_is_written_when_it_is_not_enabled(place: Path) -> None:
    playbook = Playbook(place, [task("A", "ansible.builtin.command", "true")])
    assert playbook.run().rc == 0
    assert not playbook.journals.exists()
