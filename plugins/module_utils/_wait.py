# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting and retrying, always bounded. PRIVATE to the collection."""

from __future__ import annotations

import random
import time
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import Unavailable, WaitTimeout

T = t.TypeVar("T")


class Deadline:
    """A point on the monotonic clock that waits share."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until the deadline, never below zero."""
        return max(0.0, self._end - time.monotonic())


def wait_for(
    what: str,
    probe: t.Callable[[], T],
    done: t.Callable[[T], bool],
    *,
    timeout: float,
    interval: float = 0.5,
    failed: t.Callable[[T], str | None] = lambda state: None,
    on_state: t.Callable[[T], None] = lambda state: None,
) -> T:
    """Probe until ``done(state)``; return that state.

    ``failed(state)`` returns a reason when waiting longer is useless. Raises WaitTimeout with ``last`` (the last state seen)
    and ``waited`` (seconds). ``probe`` must have its own, shorter timeout.
    """
    begin = time.monotonic()
    deadline = Deadline(timeout)
    while True:
        state = probe()
        on_state(state)
        if done(state):
            return state
        waited = round(time.monotonic() - begin, 1)
        reason = failed(state)
        if reason:
            raise WaitTimeout(f"gave up waiting for {what}: {reason}", last=state, waited=waited)
        if not deadline.left:
            raise WaitTimeout(f"{what}: not there after {timeout:g} s", last=state, waited=waited)
        time.sleep(min(interval, deadline.left))


def retry(
    what: str,
    call: t.Callable[[], T],
    *,
    retry_on: tuple[type[BaseException], ...],
    attempts: int = 5,
    base_delay: float = 0.2,
    max_delay: float = 5.0,
    sleep: t.Callable[[float], None] = time.sleep,
) -> T:
    """Call until it does not raise one of ``retry_on``; full-jitter exponential back-off between attempts.

    Raises Unavailable, caused by the last error, after ``attempts`` calls.
    """
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except retry_on as error:
            if attempt == attempts:
                raise Unavailable(f"{what}: {error} (after {attempts} attempts)") from error
            sleep(random.uniform(0, min(max_delay, base_delay * 2**attempt)))  # noqa: S311 - jitter, not a secret
    raise AssertionError("unreachable: attempts is at least 1")
