# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stanzas under the real logrotate: accepted, read, and proven by forced rotations of a log that is being written."""

from __future__ import annotations

import contextlib
import grp
import gzip
import os
import pwd
import re
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import Refused
from ansible_collections.fileforge.ops.plugins.module_utils._host import logrotate
from ansible_collections.fileforge.ops.plugins.module_utils._host.logrotate_stanza import StanzaOptions
from ansible_collections.fileforge.ops.plugins.module_utils._host.postrotate import Signal
from ansible_collections.fileforge.ops.plugins.module_utils._host.stanzas import Configuration

from tests.lab import ROOT
from tests.lab.configuration import make_logs
from tests.lab.daemon import wait_until

if t.TYPE_CHECKING:
    from tests.integration.conftest import ModuleRunner

ME = pwd.getpwuid(os.geteuid()).pw_name
MY_GROUP = grp.getgrgid(os.getegid()).gr_name
WRITER = """\
import sys, time
from pathlib import Path
from tests.lab.app.logfile import LogFile
log = LogFile(Path(sys.argv[1]), Path(sys.argv[2]))
while True:
    log.write("written")
    time.sleep(0.0005)
"""


@pytest.fixture
def etc(place: Path) -> Path:
    make_logs(place / "log", place / "etc")
    return place / "etc"


def arguments(etc: Path, **changes: t.Any) -> dict[str, t.Any]:
    return {
        "dest": str(etc / "logrotate.d" / "app"),
        "main_config": str(etc / "logrotate.conf"),
        "paths": [f"{etc.parent}/log/*.log"],
        "frequency": "daily",
        "rotate": 30,
        "create_mode": "0640",
        "create_owner": ME,
        "create_group": MY_GROUP,
        "signal": {"pid_file": f"{etc.parent}/writer.pid"},
        **changes,
    }


def options(etc: Path, **changes: t.Any) -> StanzaOptions:
    given = {"paths": [f"{etc.parent}/log/*.log"], "frequency": "daily", "signal": Signal(f"{etc.parent}/writer.pid"), **changes}
    return StanzaOptions(**given)


def target(etc: Path, name: str = "app") -> logrotate.Target:
    return logrotate.Target(str(etc / "logrotate.d" / name), str(etc / "logrotate.conf"))


def rotate(etc: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What the daily timer does, with a state file of our own."""
    argv = [logrotate.program(), *words, "--state", str(etc / "status"), str(etc / "logrotate.conf")]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def errors_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("error")]


@contextlib.contextmanager
def writing(log: Path, pid_file: Path) -> t.Iterator[subprocess.Popen[bytes]]:
    """A process that keeps writing numbered lines and reopens its log on SIGHUP."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(log), str(pid_file)], cwd=ROOT)
    try:
        wait_until(lambda: pid_file.exists() and log.exists() and log.stat().st_size > 0, 30, "the writer to write")
        yield writer
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait(10)


def lines_in(directory: Path) -> list[int]:
    """The numbers of all lines, rotated ones included, in order."""
    numbers: list[int] = []
    for file in directory.iterdir():
        text = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text()
        numbers += [int(number) for number in re.findall(r" line=(\d+) written\n", text)]
    return sorted(numbers)


def open_log(pid: int, log: Path) -> bool:
    """Whether the process has the file of that name open, as it is now."""
    found = log.stat()
    handles = [os.stat(f"/proc/{pid}/fd/{handle}") for handle in os.listdir(f"/proc/{pid}/fd") if int(handle) > 2]
    return (found.st_dev, found.st_ino) in {(handle.st_dev, handle.st_ino) for handle in handles}


def test_check_run_and_second_run(run_module: ModuleRunner, etc: Path) -> None:
    dest = etc / "logrotate.d" / "app"
    (etc.parent / "log" / "app.log").write_text("one line\n")
    predicted = run_module("logrotate_config", arguments(etc), check=True, diff=True)
    assert predicted["changed"] and not dest.exists() and "+    rotate 30" in predicted["output"]
    done = run_module("logrotate_config", arguments(etc))
    assert done["changed"] and dest.read_text() == done["stanza"] == predicted["stanza"]
    assert dest.stat().st_mode & 0o777 == 0o644 and done["files"] == [str(etc.parent / "log" / "app.log")]
    assert not run_module("logrotate_config", arguments(etc))["changed"]
    debug = rotate(etc, "--debug")
    assert debug.returncode == 0 and not errors_of(debug), debug.stderr
    assert "after 1 days (30 rotations)" in debug.stderr

    changed = run_module("logrotate_config", arguments(etc, rotate=7, backup=True))
    assert changed["changed"] and Path(changed["backup_file"]).read_text() == done["stanza"]
    debug = rotate(etc, "--debug")
    assert not errors_of(debug) and "(7 rotations)" in debug.stderr, "the kept file is not read"
    gone = run_module("logrotate_config", {"dest": str(dest), "state": "absent"})
    assert gone["changed"] and not dest.exists() and (etc.parent / "log" / "app.log").read_text() == "one line\n"
    assert not run_module("logrotate_config", {"dest": str(dest), "state": "absent"})["changed"]


def test_another_stanza_for_the_same_files_is_refused(run_module: ModuleRunner, etc: Path) -> None:
    (etc.parent / "log" / "app.log").touch()
    (etc / "logrotate.d" / "theirs").write_text(f"{etc.parent}/lo?/app.* {{\n  weekly\n}}\n")
    refused = run_module("logrotate_config", arguments(etc), expect_failure=True)
    assert (refused["code"], refused["reason"]) == ("refused", "conflict")
    [conflict] = refused["conflicts"]
    assert (conflict["file"], conflict["line"]) == (str(etc / "logrotate.d" / "theirs"), 1)
    assert conflict["files"] == [str(etc.parent / "log" / "app.log")] and not (etc / "logrotate.d" / "app").exists()


def test_the_runbooks_reload_is_refused_with_what_to_write(run_module: ModuleRunner, etc: Path) -> None:
    hiding = "systemctl reload fileforge > /dev/null 2>&1 || true"
    refused = run_module("logrotate_config", arguments(etc, postrotate=[hiding]), expect_failure=True)
    assert refused["code"] == "invalid_option" and refused["hint"] == "write only 'systemctl reload fileforge'"
    assert not (etc / "logrotate.d" / "app").exists()


@pytest.mark.parametrize("changes", [{}, {"delaycompress": True, "dateext": True, "dateformat": "-%Y%m%d-%s"}])
def test_no_line_is_lost_through_forced_rotations(etc: Path, changes: dict[str, t.Any]) -> None:
    logs, pid_file = etc.parent / "log", etc.parent / "writer.pid"
    log = logs / "app.log"
    given = {"create_mode": "0640", "create_owner": ME, "create_group": MY_GROUP, **changes}
    logrotate.install(options(etc, **given), target(etc), check_mode=False)
    with writing(log, pid_file) as writer:
        for _round in range(3):
            second = int(time.time())
            before = log.stat().st_ino
            done = rotate(etc, "--force")
            assert done.returncode == 0 and not errors_of(done), done.stderr
            assert log.stat().st_ino != before and log.stat().st_mode & 0o777 == 0o640
            wait_until(lambda: log.stat().st_size > 0, 30, "lines in the new file")
            assert open_log(writer.pid, log)
            if "dateformat" in changes:  # names by the second: the next rotation needs another one
                wait_until(lambda second=second: int(time.time()) > second + 1, 10, "another second")
    rotated = [file for file in logs.iterdir() if file != log]
    assert len(rotated) == 3 and sum(file.suffix == ".gz" for file in rotated) == 2, "the newest is not compressed yet"
    numbers = lines_in(logs)
    assert len(numbers) >= 4, "each of the four files has at least one"
    assert numbers == list(range(1, numbers[-1] + 1)), "lost or doubled lines"


def test_a_failing_reload_is_reported_and_nothing_more(etc: Path) -> None:
    """The writer is gone: logrotate must say so. The runbook's stanza says nothing in the same state."""
    log = etc.parent / "log" / "app.log"
    log.write_text("a line\n")
    logrotate.install(options(etc), target(etc), check_mode=False)
    done = rotate(etc, "--force")
    assert done.returncode != 0 and any("postrotate" in line for line in errors_of(done))
    assert "writer.pid" in done.stderr, "what the command printed is there"
    own = (etc / "logrotate.d" / "app").read_text()
    kill = f'kill -s HUP "$(cat {etc.parent}/writer.pid)"'
    assert kill in own
    (etc / "logrotate.d" / "app").write_text(own.replace(kill, f"{kill} > /dev/null 2>&1 || true"))
    log.write_text("another line\n")
    hidden = rotate(etc, "--force")
    assert hidden.returncode == 0 and not errors_of(hidden)


def test_what_logrotate_says_decides(etc: Path) -> None:
    """An unknown directive is an error line with status 0."""
    for text, word in (
        ("/var/log/x.log {\n  bogus 3\n}\n", "bogus"),
        ("/var/log/x.log {\n  rotate many\n}\n", "rotation count"),
        ("/var/log/x.log {\n  daily\n", "stanza"),
        (f"{etc.parent}/log/none.log {{\n  daily\n  nomissingok\n}}\n", "No such file"),
    ):
        with pytest.raises(Refused) as refused:
            logrotate.judge(text)
        assert refused.value.state["reason"] == "not_accepted" and word in refused.value.message
    with pytest.raises(Refused) as refused:
        logrotate.install(options(etc, missingok=False, paths=[f"{etc.parent}/log/none.log"]), target(etc), check_mode=False)
    assert refused.value.state["reason"] == "not_accepted" and not (etc / "logrotate.d" / "app").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="the rule is about root")
def test_a_directory_that_others_can_write_is_refused_as_logrotate_would(etc: Path) -> None:
    logs = etc.parent / "log"
    (logs / "app.log").write_text("a line\n")
    logs.chmod(0o777)
    with pytest.raises(Refused) as refused:
        logrotate.install(options(etc), target(etc), check_mode=False)
    assert refused.value.state["reason"] == "insecure_directory"
    with pytest.raises(Refused, match="insecure permissions"):
        logrotate.judge(f"{logs}/app.log {{\n  daily\n}}\n")
    assert logrotate.install(options(etc, su_user="root", su_group="root"), target(etc), check_mode=False).changed
    assert not errors_of(rotate(etc, "--debug"))


def test_two_stanzas_that_logrotate_itself_takes_for_one(etc: Path) -> None:
    """Our reading of a configuration is logrotate's: the same patterns, from the same files."""
    logs = etc.parent / "log"
    for name in ("a.log", "b.log", "c c.log"):
        (logs / name).touch()
    stanzas = etc / "logrotate.d"
    (stanzas / "10-a").write_text(
        f"# a comment {{\n{logs}/a.log\n{logs}/b.log {{\n  postrotate\n    {{ true; }}\n  endscript\n}}\n"
    )
    (stanzas / "20-c").write_text(f"compress\n'{logs}/c c.log' {{ rotate 3\n}}\n{logs}/none*.log {{\n missingok\n}}\n")
    (stanzas / "30.rpmsave").write_text(f"{logs}/a.log {{\n}}\n")
    (stanzas / "40.txt.swp").write_text("nonsense {\n")
    (stanzas / "sub").mkdir()
    debug = rotate(etc, "--debug")
    assert not errors_of(debug), debug.stderr
    read = [line.split(" ")[-1] for line in debug.stderr.splitlines() if line.startswith("reading config file")]
    handled = "\n".join(re.findall(r"^rotating pattern: (.*?)  (?:\d+ bytes|after|weekly|monthly)", debug.stderr, re.M | re.S))
    mine = Configuration(str(etc / "logrotate.conf"))
    assert [Path(file).name for file in mine.files] == [Path(file).name for file in read]
    for stanza in mine.stanzas:
        assert all(pattern in handled for pattern in stanza.patterns)
    assert [stanza.patterns for stanza in mine.stanzas] == [
        (f"{logs}/a.log", f"{logs}/b.log"),
        (f"{logs}/c c.log",),
        (f"{logs}/none*.log",),
    ]
    (stanzas / "50-again").write_text(f"{logs}/*.log {{\n}}\n")
    assert any("duplicate log entry" in line for line in errors_of(rotate(etc, "--debug")))
    with pytest.raises(Refused) as refused:
        logrotate.install(options(etc), target(etc), check_mode=True)
    assert refused.value.state["reason"] == "conflict"
    assert {Path(item["file"]).name for item in refused.value.state["conflicts"]} == {"10-a", "20-c", "50-again"}
