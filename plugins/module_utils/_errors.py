# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The errors that engines raise. PRIVATE to the collection.

A message says what failed and on what; ``hint`` says what to do next; ``state`` is what was known when it failed and becomes
part of the module's result. ``main()`` has the one ``except`` that turns them into ``fail_json``.
"""

from __future__ import annotations

import typing as t


class OpsError(Exception):
    """Anything an engine knows how to explain."""

    code = "failed"

    def __init__(self, message: str, *, hint: str = "", **state: t.Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.state = state

    def result(self) -> dict[str, t.Any]:
        """The keyword arguments for ``fail_json``."""
        result = {**self.state, "msg": self.message, "code": self.code}
        if self.hint:
            result["hint"] = self.hint
        return result


class InvalidOption(OpsError):
    """The user gave something that cannot be used; nothing was touched."""

    code = "invalid_option"

    def __init__(self, option: str, value: t.Any, problem: str, *, hint: str = "") -> None:
        super().__init__(f"{option}={value!r}: {problem}", hint=hint, option=option)


class Refused(OpsError):
    """A precondition does not hold, so nothing was touched. ``reason`` is a stable word for tests and for automation."""

    code = "refused"

    def __init__(self, reason: str, message: str, *, hint: str = "", **state: t.Any) -> None:
        super().__init__(message, hint=hint, reason=reason, **state)


class PlanChanged(Refused):
    """The world is not the one whose plan was confirmed."""

    code = "plan_changed"

    def __init__(self, expected: str, found: str, **state: t.Any) -> None:
        super().__init__(
            "plan_changed",
            f"the confirmed plan {expected} is not the plan that would be carried out now ({found}): the world has changed",
            hint="read the new plan and confirm its digest",
            **state,
        )


class Unavailable(OpsError):
    """A remote part did not answer, after bounded retries."""

    code = "unavailable"


class AccessDenied(OpsError):
    """Credentials are missing, wrong, expired or not enough."""

    code = "access_denied"


class NotFound(OpsError):
    """A named thing truly does not exist (never: could not look)."""

    code = "not_found"


class IntegrityError(OpsError):
    """Bytes are not the bytes that were promised."""

    code = "integrity"


class WaitTimeout(OpsError):
    """A deadline passed, or a fail-early condition was met; ``last`` is the last state seen."""

    code = "timeout"


class ProcessFailed(OpsError):
    """A program ended with an unexpected status."""

    code = "process_failed"


class MissingLibrary(OpsError):
    """A Python library that this module needs is not installed for the interpreter in use."""

    code = "missing_library"
