# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""How often containers were restarted within a window: from samples that are kept, or from what the statuses tell. PRIVATE.

A status holds only the number of all restarts and the end of the last run. For a pod older than the window that gives a lower
bound; a sample from before the window gives the exact number.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._files import write_whole
from ansible_collections.fileforge.ops.plugins.module_utils._kube.client import Object
from ansible_collections.fileforge.ops.plugins.module_utils._time import iso, parse_time

SAMPLES = 48
"""So many samples are kept for a window."""
POD_AGE, NO_RESTART, LAST_STATE, SAMPLE = "pod_age", "no_restart", "last_state", "sample"


def moment(text: t.Any) -> datetime.datetime | None:
    """A time as the server writes it."""
    try:
        return parse_time(str(text), "time") if text else None
    except InvalidOption:
        return None


@dataclasses.dataclass(frozen=True)
class Restarts:
    """Of one container. ``method`` is how ``delta`` is known; not ``exact``: it may have been more."""

    pod: str
    container: str
    delta: int
    exact: bool
    method: str
    total: int
    reason: str = ""
    exit_code: int | None = None
    ended: str = ""

    def as_dict(self) -> dict[str, t.Any]:
        """For the module's result."""
        return dataclasses.asdict(self)


@dataclasses.dataclass
class Samples:
    """Restart counters by ``pod uid/container`` at several times, the oldest first."""

    taken: list[tuple[datetime.datetime, dict[str, int]]] = dataclasses.field(default_factory=list)
    problem: str = ""

    @classmethod
    def load(cls, path: str | None) -> Samples:
        """From a file; a broken one counts as empty and says so."""
        if not path:
            return cls()
        try:
            with open(path, encoding="utf-8") as source:
                content = json.load(source)
            taken = [
                (parse_time(entry["at"], "at"), {str(key): int(count) for key, count in entry["restarts"].items()})
                for entry in content["samples"]
            ]
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidOption) as error:
            return cls(problem=f"{path} cannot be used: {error}")
        return cls(sorted(taken, key=lambda entry: entry[0]))

    def baseline(self, key: str, start: datetime.datetime) -> tuple[int, bool] | None:
        """The counter at the beginning of the window, or the oldest one known since; whether it is the former."""
        known = [(at, counts[key]) for at, counts in self.taken if key in counts]
        before = [count for at, count in known if at <= start]
        if before:
            return before[-1], True
        return (known[0][1], False) if known else None

    def keep(self, path: str, counts: dict[str, int], now: datetime.datetime, window: datetime.timedelta) -> None:
        """Add a sample, forget what no window needs any more, write the file."""
        taken = [entry for entry in self.taken if entry[0] < now]
        recent = [entry for entry in taken if entry[0] > now - window]
        recent = _thinned(recent, window / SAMPLES)
        old = [entry for entry in taken if entry[0] <= now - window][-1:]
        samples = [{"at": iso(at), "restarts": known} for at, known in [*old, *recent, (now, counts)]]
        try:
            write_whole(path, json.dumps({"samples": samples}).encode(), mode=0o600)
        except OSError as error:
            self.problem = f"{path} cannot be written: {error}"


def _thinned(
    taken: list[tuple[datetime.datetime, dict[str, int]]], gap: datetime.timedelta
) -> list[tuple[datetime.datetime, dict[str, int]]]:
    """Samples with at least ``gap`` between them, the older of two kept."""
    kept: list[tuple[datetime.datetime, dict[str, int]]] = []
    for entry in taken:
        if not kept or entry[0] - kept[-1][0] >= gap:
            kept.append(entry)
    return kept


def statuses(pod: Object) -> t.Iterator[Object]:
    """Of containers and init containers."""
    status: Object = pod.get("status") or {}
    for field in ("initContainerStatuses", "containerStatuses"):
        yield from status.get(field) or []


def counters(pods: t.Iterable[Object]) -> dict[str, int]:
    """The present restart counters."""
    return {
        f"{pod['metadata']['uid']}/{entry['name']}": int(entry.get("restartCount") or 0) for pod in pods for entry in statuses(pod)
    }


def last_end(entry: Object) -> Object:
    """The last end of a container, its present state first."""
    state: Object = entry.get("state") or {}
    return state.get("terminated") or (entry.get("lastState") or {}).get("terminated") or {}


def restarts_of(pod: Object, entry: Object, samples: Samples, start: datetime.datetime) -> Restarts:
    """How often one container was restarted since ``start``."""
    total = int(entry.get("restartCount") or 0)
    ended = last_end(entry)
    delta, exact, method = _delta(pod, entry, samples, start, total)
    code = ended.get("exitCode")
    return Restarts(
        pod["metadata"]["name"],
        entry["name"],
        delta,
        exact,
        method,
        total,
        str(ended.get("reason") or ""),
        int(code) if code is not None else None,
        str(ended.get("finishedAt") or ""),
    )


def _delta(pod: Object, entry: Object, samples: Samples, start: datetime.datetime, total: int) -> tuple[int, bool, str]:
    if total == 0:
        return 0, True, NO_RESTART
    created = moment(pod["metadata"].get("creationTimestamp"))
    if created is not None and created >= start:
        return total, True, POD_AGE
    ended = moment(((entry.get("lastState") or {}).get("terminated") or {}).get("finishedAt"))
    known = samples.baseline(f"{pod['metadata']['uid']}/{entry['name']}", start)
    if known is not None and known[0] <= total:
        count, exact = known
        within = ended is not None and ended >= start
        delta = total - count
        return (delta, True, SAMPLE) if exact else (max(delta, int(within)), not within, SAMPLE)
    if ended is not None and ended < start:
        return 0, True, LAST_STATE
    return 1, False, LAST_STATE
