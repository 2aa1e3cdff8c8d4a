# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Earlier runs of a report: one JSON line each, the newest last. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError
from ansible_collections.fileforge.ops.plugins.module_utils._files import write_whole
from ansible_collections.fileforge.ops.plugins.module_utils._time import iso, parse_time

Point = t.Tuple[str, t.Optional[float]]
"""Status and value of a check in a run."""


class HistoryError(OpsError):
    """The history cannot be read or written."""

    code = "history"


@dataclasses.dataclass(frozen=True)
class Run:
    """One earlier run: its time, its status, and of each check status and value."""

    time: datetime.datetime
    status: str
    checks: dict[str, Point]

    def status_of(self, key: str) -> str | None:
        """The status that the check had; None when it was not there."""
        point = self.checks.get(key)
        return point[0] if point else None

    def statuses(self) -> list[tuple[str, str]]:
        """Key and status of every check."""
        return [(key, point[0]) for key, point in self.checks.items()]

    def as_line(self) -> str:
        """One line of the file."""
        return json.dumps({"time": iso(self.time), "status": self.status, "checks": self.checks}, sort_keys=True)

    @classmethod
    def of_line(cls, line: str) -> Run:
        """Raises ValueError, KeyError or TypeError for a line that is none of ours."""
        found = json.loads(line)
        try:
            time = parse_time(found["time"], "history")
        except InvalidOption as error:
            raise ValueError(str(error)) from error
        return cls(time, str(found["status"]), {str(key): (str(point[0]), point[1]) for key, point in found["checks"].items()})


@dataclasses.dataclass(frozen=True)
class History:
    """Runs in the order of their times."""

    runs: list[Run]
    damaged: int = 0

    DAY: t.ClassVar[datetime.timedelta] = datetime.timedelta(hours=20)
    """From this age on a run counts as yesterday's: schedules drift, and a person may look an hour early."""

    @classmethod
    def load(cls, path: str) -> History:
        """From a file; one that is not there is empty, a line that cannot be read is counted and left out. Raises HistoryError."""
        runs, damaged = [], 0
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                for line in stream:
                    try:
                        runs.append(Run.of_line(line))
                    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
                        damaged += 1
        except FileNotFoundError:
            return cls([])
        except OSError as error:
            raise HistoryError(f"{path}: {error.strerror}", hint="look at the path and its rights") from error
        return cls(sorted(runs, key=lambda run: run.time), damaged)

    def reference(self, when: datetime.datetime) -> Run | None:
        """The run to compare with: the newest that is a day old; without one the oldest there is."""
        earlier = [run for run in self.runs if run.time < when]
        old = [run for run in earlier if when - run.time >= self.DAY]
        return old[-1] if old else earlier[0] if earlier else None

    def since(self, key: str, status: str, when: datetime.datetime) -> datetime.datetime:
        """Since when the check has had this status without another one between; ``when`` for a new one."""
        begun = when
        for run in reversed(self.runs):
            if run.time >= when or run.status_of(key) != status:
                break
            begun = run.time
        return begun

    def points(self, key: str, limit: int) -> list[float]:
        """The last numeric values, oldest first."""
        found = [run.checks[key][1] for run in self.runs if key in run.checks]
        return [value for value in found if isinstance(value, (int, float)) and not isinstance(value, bool)][-limit:]

    def with_run(self, run: Run, keep: int) -> History:
        """With one more run, the oldest beyond ``keep`` dropped."""
        return History(sorted([*self.runs, run], key=lambda each: each.time)[-keep:], self.damaged)

    def save(self, path: str) -> None:
        """Write the file as a whole. Raises HistoryError."""
        try:
            if self.damaged:
                os.replace(path, f"{path}.damaged")
            write_whole(path, "".join(f"{run.as_line()}\n" for run in self.runs).encode(), mode=0o640)
        except OSError as error:
            raise HistoryError(f"{path}: {error.strerror}", hint="look at the path, its rights and the free disk") from error


def run_of(report: dict[str, t.Any]) -> Run:
    """A report as a run of the history."""
    points: dict[str, Point] = {}
    for section in report["sections"]:
        for check in section["checks"]:
            value = check["value"]
            number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
            points[check["key"]] = (check["status"], number)
    return Run(parse_time(report["time"], "time"), report["status"], points)
