# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that are read from and written to, and signals that end the work in good order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import ProcessFailed, WaitTimeout
from ansible_collections.fileforge.ops.plugins.module_utils._process import Interrupted, interruptible, piped
from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline

from tests.lab.daemon import wait_until


def python(text: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(text)]


def test_what_it_writes_is_read_and_its_complaints_are_kept() -> None:
    with piped(python("import sys; print('out'); sys.stderr.write('a\\nb\\n' + 'x' * 200000); sys.exit(3)"), read=True) as it:
        assert it.output.read() == b"out\n"
        code = it.wait(30)
        error = it.failure(code)
    assert code == 3 and error.state["rc"] == 3
    assert "ended with status 3: a / b / xxx" in error.message


def test_what_is_written_is_read() -> None:
    with piped(python("import sys; sys.exit(len(sys.stdin.read()))"), write=True, env={"X": "1"}) as it:
        it.feed(b"seven.\n", Deadline(30))
        it.input.close()
        assert it.wait(30) == 7


def test_a_signal_is_named() -> None:
    with piped(python("import os; os.kill(os.getpid(), 9)")) as it:
        assert "was killed by SIGKILL: it said nothing" in it.failure(it.wait(30)).message


def test_it_does_not_outlive_the_body() -> None:
    with pytest.raises(WaitTimeout, match="did not end within"), piped(python("import time; time.sleep(600)")) as it:
        it.wait(0.01)
    assert it.process.poll() == -signal.SIGTERM


def test_a_reader_that_has_ended_is_a_broken_pipe_and_no_more() -> None:
    with piped(python("pass"), write=True) as it:
        it.wait(30)
        with pytest.raises(BrokenPipeError):
            it.feed(b"x" * 10_000_000, Deadline(30))


def test_a_program_that_does_not_read_is_not_waited_for_forever() -> None:
    with piped(python("import time; time.sleep(600)"), write=True) as it:
        with pytest.raises(WaitTimeout, match="was not ready"):
            it.feed(b"x" * 10_000_000, Deadline(0.2))


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(ProcessFailed, match="no such program"), piped(["/nowhere/program"]):
        pass


def test_it_ends_when_this_process_is_killed(tmp_path: Path) -> None:
    child = tmp_path / "child"
    program = f"""
    import pathlib, sys, time
    sys.path[:0] = {[path for path in sys.path if path]!r}
    import tests.conftest
    from ansible_collections.fileforge.ops.plugins.module_utils._process import piped
    with piped([sys.executable, "-c", "import time; time.sleep(600)"]) as it:
        pathlib.Path({str(child)!r}).with_suffix(".new").write_text(str(it.process.pid))
        pathlib.Path({str(child)!r}).with_suffix(".new").rename({str(child)!r})
        time.sleep(600)
    """
    process = subprocess.Popen(python(program))
    wait_until(child.exists, 60, "the program to run")
    pid = int(child.read_text())
    process.kill()
    process.wait(30)

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except OSError:
            return True

    wait_until(gone, 30, "the program to end, too")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_become_errors_and_handlers_come_back(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"{signal.Signals(number).name}; nothing is left"), interruptible("nothing is left"):
        os.kill(os.getpid(), number)
        signal.pause()
    assert signal.getsignal(number) is before
