# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook on the lab, whose writer keeps writing while its log is rotated; and the page's own examples."""

from __future__ import annotations

import re
import subprocess
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.fileforge.ops.plugins.module_utils._host.logrotate_stanza import StanzaOptions, render
from ansible_collections.fileforge.ops.plugins.module_utils._host.postrotate import ALLOWED, Signal

from tests.lab import ROOT
from tests.lab.daemon import wait_until

if t.TYPE_CHECKING:
    from tests.integration.playbooks.conftest import PlayedLab

PAGE = (ROOT / "docs" / "log-rotation.md").read_text(encoding="utf-8")


def numbers_of(logs: Path) -> list[int]:
    """The numbers of the newest writer's lines in all files."""
    found = [
        (file.name != "writer.log", pid, int(number))
        for file in logs.glob("writer.log*")
        for pid, number in re.findall(r" pid=(\d+) line=(\d+) .*\n", file.read_text(encoding="utf-8"))
    ]
    newest = next(pid for old, pid, _number in found if not old)
    return sorted(number for _old, pid, number in found if pid == newest)


def test_check_run_second_run_and_a_rotation_under_the_writer(lab: PlayedLab) -> None:
    facts = lab.facts["logs"]
    logs, stanza = Path(facts["directory"]), Path(facts["logrotate_directory"]) / "fileforge"
    log = logs / "writer.log"
    predicted = lab.play_well("log-rotation", check=True)
    assert re.search(r"changed=1\b", predicted.output) and "+    rotate 30" in predicted.output and not stanza.exists()
    assert re.search(r"changed=1\b", lab.play_well("log-rotation").output)
    assert re.search(r"changed=0\b", lab.play_well("log-rotation").output)
    text = stanza.read_text(encoding="utf-8")
    for directive in ("daily", "rotate 30", "compress", "delaycompress", "missingok", "notifempty"):
        assert f"    {directive}\n" in text
    assert "||" not in text and "/dev/null" not in text

    wait_until(lambda: log.exists() and log.stat().st_size > 0, 30, "the lab's writer to log")
    before = log.stat().st_ino
    argv = ["/usr/sbin/logrotate", "--force", "--state", facts["logrotate_state"], facts["logrotate_config"]]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "error" not in done.stderr, done.stderr
    assert log.stat().st_ino != before
    wait_until(lambda: log.stat().st_size > 0, 30, "lines in the new file: the handle was reopened")
    numbers = numbers_of(logs)
    assert numbers == list(range(numbers[0], numbers[-1] + 1)) and numbers[0] == 1, "lost or doubled lines"
    assert len(list(logs.glob("writer.log.*"))) == 1


def test_a_stanza_of_somebody_else_stops_the_playbook(lab: PlayedLab) -> None:
    facts = lab.facts["logs"]
    theirs = Path(facts["logrotate_directory"]) / "another"
    theirs.write_text(f"{facts['directory']}/writer.log {{\n  weekly\n}}\n", encoding="utf-8")
    try:
        played = lab.play("log-rotation")
        assert played.returncode != 0 and "another stanza is for the same files" in played.output
        assert str(theirs) in played.output
    finally:
        theirs.unlink()


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", PAGE, re.S))
def test_the_pages_examples_are_stanzas(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their commands and users are those of another host; all else is judged as it stands there."""
    monkeypatch.setattr(
        "ansible_collections.fileforge.ops.plugins.module_utils._host.postrotate.locate", lambda name: f"/bin/{name}"
    )
    for item in yaml.safe_load(text)["fileforge_log_stanzas"]:
        item.pop("name")
        given = {**item, "signal": Signal(**item["signal"])} if "signal" in item else dict(item)
        options = StanzaOptions(**given, postrotate_allowed=ALLOWED)
        options.check()
        assert render(options).count("postrotate\n") == 1


def test_the_pages_stanza_is_the_production_inventorys() -> None:
    inventory = yaml.safe_load((ROOT / "inventories/production/group_vars/all/logs.yml").read_text(encoding="utf-8"))
    first = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.S)[0])
    assert first["fileforge_log_stanzas"] == inventory["fileforge_log_stanzas"]
    for command in re.findall(r"^    ansible-playbook .*?(playbooks/\S+)", PAGE, re.M):
        assert (ROOT / command).exists()
