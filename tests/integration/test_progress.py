# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Long modules under the progress action: what is shown, what is returned, and what happens when something dies."""

from __future__ import annotations

import os
import signal
import time
import typing as t
from pathlib import Path

import pytest

from tests.integration.plays import Playbook, kill_tree
from tests.lab.daemon import start_time, wait_until

MODULE = """\
#!/usr/bin/python
import os, signal, sys, time
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress

def held(path):
    while path and os.path.exists(path):
        time.sleep(0.02)

def main():
    module = AnsibleModule({
        "progress_file": {"type": "path"}, "mode": {"default": "ok"}, "hold": {"type": "path"}, "mark": {"type": "path"},
        "token": {"no_log": True},
    }, supports_check_mode=True)
    mode, mark = module.params["mode"], module.params["mark"]
    progress = Progress(module.params["progress_file"], clock=lambda: 0.0)
    if mark:
        with open(mark + ".pid", "w") as stream:
            stream.write(f"{os.getpid()} {os.getppid()} {os.geteuid()}")
    with progress.phase("fetch", 1000 * 1024):
        progress.advance(430 * 1024, "a\\x1b[2Jname")
        progress._publish(force=True)
        if mark:
            open(mark + ".fetching", "w").close()
        held(module.params["hold"])
        progress.advance(570 * 1024)
    if mode == "crash":
        raise RuntimeError("boom")
    if mode == "fail":
        module.fail_json(msg="cannot", code="refused", changed=True)
    if mode == "stderr":
        print("a library's remark", file=sys.stderr)
    with progress.phase("replay", unit="segments"):
        progress.set(7)
    if mark:
        open(mark + ".done", "w").close()
    module.exit_json(changed=not module.check_mode, timings=progress.timings, diff={"before": "a\\n", "after": "b\\n"}, stopped=[1])

main()
"""

FLAKY = """\
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection.local import Connection as Local

DOCUMENTATION = '''
name: flaky
short_description: local, and lost while a file is there
description: As local.
author: FileForge operations (@fileforge)
version_added: 1.0.0
options: {}
'''

import os


class Connection(Local):
    transport = "flaky"

    def exec_command(self, cmd, in_data=None, sudoable=True):
        if os.path.exists("{lost}"):
            with open("{lost}", "r+") as stream:
                left = int(stream.read() or 0) - 1
                stream.seek(0)
                stream.write(str(left))
                stream.truncate()
            if left == 0:
                os.unlink("{lost}")
            raise AnsibleConnectionFailure("the wire was cut")
        return super().exec_command(cmd, in_data=in_data, sudoable=sudoable)

    def reset(self):
        raise RuntimeError("nothing to reset")
"""


def slow(place: Path, arguments: dict[str, t.Any] | None = None, *, module: str = "slow", **play: t.Any) -> Playbook:
    task = {"name": "Slow", module: arguments or {}, "register": "outcome", **play.pop("task", {})}
    task.setdefault("ignore_errors", True)
    return Playbook(place, [task], **play).add_module(module, MODULE, progress=module == "slow")


def lose(lost: Path, times: int) -> None:
    """The connection fails this often from now on."""
    partial = lost.with_suffix(".partial")
    partial.write_text(str(times))
    partial.rename(lost)


def leftovers(playbook: Playbook) -> list[str]:
    return sorted(path.name for path in playbook.async_directory.glob("*")) if playbook.async_directory.exists() else []


def assert_tidy(playbook: Playbook) -> None:
    assert leftovers(playbook) == []
    # Ansible's own wrapper looks every five seconds whether its module has ended, then removes its directory
    wait_until(lambda: not list((playbook.place / "tmp").glob("ansible-tmp-*")), 20, "temporary directories to be removed")


def pids(mark: Path) -> tuple[int, int, int]:
    module, wrapper, user = (int(number) for number in Path(f"{mark}.pid").read_text().split())
    return module, wrapper, user


def test_lines_are_shown_and_the_result_is_the_modules_own(place: Path) -> None:
    (place / "a").mkdir()
    (place / "b").mkdir()
    hold = place / "hold"
    hold.touch()
    shown = slow(place / "a", {"hold": str(hold), "mode": "stderr"})
    process = shown.start("-vvv")
    lines = []
    for line in t.cast("t.IO[str]", process.stdout):
        lines.append(line.rstrip())
        if line.startswith("slow localhost: fetch 43%"):
            hold.unlink()
    assert process.wait(60) == 0, lines
    mine = [line for line in lines if line.startswith("slow localhost:")]
    assert mine[0].startswith("slow localhost: fetch 43% 430.0/1000.0 KiB")
    assert mine[0].endswith("a?[2Jname")
    assert mine[1:] == ["slow localhost: fetch done: 1000.0 KiB in 0.0s", "slow localhost: replay done: 7 segments in 0.0s"]
    plain = slow(place / "b", {"mode": "stderr"}, module="plain").run("-vvv")
    with_progress = shown.outcome()
    for result in (with_progress, plain.registered):
        result.get("invocation", {}).get("module_args", {}).pop("progress_file", None)
        result.get("invocation", {}).get("module_args", {}).pop("hold", None)
    assert with_progress == plain.registered
    assert_tidy(shown)


def test_a_failure_is_returned_as_it_is(place: Path) -> None:
    playbook = slow(place, {"mode": "fail"})
    ended = playbook.run()
    assert {name: ended.registered[name] for name in ("failed", "msg", "code", "changed")} == {
        "failed": True,
        "msg": "cannot",
        "code": "refused",
        "changed": True,
    }
    assert "fetch done" in ended.output
    assert not {"ansible_job_id", "finished", "started", "results_file"} & set(ended.registered)
    assert_tidy(playbook)


def test_an_uncaught_error_is_told_without_traces_of_the_wrapper(place: Path) -> None:
    playbook = slow(place, {"mode": "crash"})
    ended = playbook.run()
    assert ended.registered["failed"] is True
    assert "boom" in ended.registered["msg"]
    assert "async_wrapper" not in ended.output
    assert_tidy(playbook)


def test_an_invalid_option_fails_at_once(place: Path) -> None:
    playbook = slow(place, {"nonsense": 1})
    ended = playbook.run()
    assert ended.registered["failed"] is True
    assert "nonsense" in ended.registered["msg"]
    assert_tidy(playbook)


@pytest.mark.parametrize("victims", ["module", "module and wrapper"])
def test_a_killed_module_is_reported_within_seconds(place: Path, victims: str) -> None:
    mark, hold = place / "mark", place / "hold"
    hold.touch()
    playbook = slow(place, {"mark": str(mark), "hold": str(hold)})
    process = playbook.start()
    wait_until(Path(f"{mark}.fetching").exists, 60, "the module to work")
    module, wrapper, _user = pids(mark)
    begin = time.monotonic()
    for pid in [wrapper, module] if victims != "module" else [module]:
        os.kill(pid, signal.SIGKILL)
    output, _none = process.communicate(timeout=60)
    assert time.monotonic() - begin < 40
    outcome = playbook.outcome()
    assert outcome["failed"] is True
    assert outcome["code"] == "no_result"
    assert "gave no result" in outcome["msg"]
    assert "run the same playbook again" in outcome["hint"]
    assert "Traceback" not in output
    assert leftovers(playbook) == []


def test_the_time_limit_of_the_task_ends_the_module(place: Path) -> None:
    mark, hold = place / "mark", place / "hold"
    hold.touch()
    playbook = slow(place, {"mark": str(mark), "hold": str(hold)}, task={"timeout": 15})
    ended = playbook.run()
    assert ended.registered["failed"] is True
    module, _wrapper, _user = pids(mark)
    wait_until(lambda: start_time(module) is None, 30, "the module to be stopped")


def test_check_mode_runs_plainly(place: Path) -> None:
    playbook = slow(place)
    ended = playbook.run("--check")
    assert ended.registered["changed"] is False
    assert "slow localhost:" not in ended.output
    assert not playbook.async_directory.exists()


def test_a_task_with_its_own_async_is_left_alone(place: Path) -> None:
    playbook = slow(place, task={"async": 60, "poll": 1})
    ended = playbook.run()
    assert ended.registered["changed"] is True
    assert ended.registered["timings"][0]["phase"] == "fetch"
    assert "slow localhost: fetch" not in ended.output


def test_a_task_with_no_log_shows_nothing(place: Path) -> None:
    ended = slow(place, {"token": "hunter2hunter2"}, task={"no_log": True}).run("-vvv")
    assert ended.rc == 0, ended.output
    assert "slow localhost: fetch" not in ended.output
    assert "hunter2hunter2" not in ended.output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user without a password")
def test_another_user_by_become(place: Path) -> None:
    mark = place / "mark"
    for directory in (place, place / "async", place / "tmp"):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o777)
    become = {"become": True, "become_user": "postgres", "become_method": "ansible.builtin.su"}
    playbook = slow(place, {"mark": str(mark)}, task=become, vars={"ansible_python_interpreter": "/usr/bin/python3"})
    ended = playbook.run("-vvv")
    assert ended.registered.get("changed") is True, ended.output
    assert "slow localhost: fetch done" in ended.output
    assert pids(mark)[2] != 0
    assert leftovers(playbook) == []


def test_a_short_loss_of_the_connection_is_bridged(place: Path) -> None:
    mark, hold, lost = place / "mark", place / "hold", place / "lost"
    hold.touch()
    playbook = slow(place, {"mark": str(mark), "hold": str(hold)}, connection="flaky")
    playbook.add_plugin("connection_plugins", "flaky", FLAKY.replace("{lost}", str(lost)))
    process = playbook.start()
    wait_until(Path(f"{mark}.fetching").exists, 60, "the module to work")
    lose(lost, 2)
    wait_until(lambda: not lost.exists(), 60, "the connection to come back")
    hold.unlink()
    output, _none = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "\nslow localhost: connection lost, trying again in 1 s; the module goes on\n" in output
    assert playbook.outcome()["changed"] is True
    assert_tidy(playbook)


def test_a_lasting_loss_says_that_the_module_goes_on_and_how_to_resume(place: Path) -> None:
    mark, hold, lost = place / "mark", place / "hold", place / "lost"
    hold.touch()
    variables = {"fileforge_reconnect_seconds": 2}
    playbook = slow(place, {"mark": str(mark), "hold": str(hold)}, connection="flaky", vars=variables)
    playbook.add_plugin("connection_plugins", "flaky", FLAKY.replace("{lost}", str(lost)))
    process = playbook.start()
    wait_until(Path(f"{mark}.fetching").exists, 60, "the module to work")
    lose(lost, 1000000)
    output, _none = process.communicate(timeout=60)
    assert process.returncode == 4, output
    told = " ".join(output.split())
    assert "The module goes on by itself (job j" in told
    assert "Run the same playbook again" in told
    hold.unlink()
    wait_until(Path(f"{mark}.done").exists, 30, "the module to finish by itself")


def test_the_module_finishes_when_the_controller_is_killed_and_a_second_run_is_correct(place: Path) -> None:
    mark, hold = place / "mark", place / "hold"
    hold.touch()
    playbook = slow(place, {"mark": str(mark), "hold": str(hold)})
    process = playbook.start()
    wait_until(Path(f"{mark}.fetching").exists, 60, "the module to work")
    module, _wrapper, _user = pids(mark)
    kill_tree(process.pid)
    process.communicate(timeout=30)
    assert start_time(module) is not None
    hold.unlink()
    wait_until(Path(f"{mark}.done").exists, 30, "the module to finish by itself")
    wait_until(lambda: start_time(module) is None, 30, "the module to end")
    assert leftovers(playbook) != []
    for path in playbook.async_directory.iterdir():
        os.utime(path, (time.time() - 8 * 86400,) * 2)
    again = playbook.run()
    assert again.registered["changed"] is True
    assert not [name for name in leftovers(playbook) if name.startswith("fileforge-")]


def test_the_real_modules_use_it() -> None:
    root = Path(__file__).resolve().parents[2]
    for name in ("postgres_restore", "postgres_base_backup", "s3_tree", "kube_rollout"):
        assert "ProgressAction" in (root / f"plugins/action/{name}.py").read_text()
        assert '"progress_file"' in (root / f"plugins/modules/{name}.py").read_text()
