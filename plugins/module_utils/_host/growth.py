# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Samples over time, and how fast something grows, whatever single samples say. PRIVATE to the collection."""

from __future__ import annotations

import json
import os
import statistics
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils import _files
from ansible_collections.fileforge.ops.plugins.module_utils._errors import Refused

DAY = 86400.0
LEAST_SAMPLES = 3
LEAST_SPAN = DAY
INTERVAL = 3600.0
"""Samples that are closer together than this replace each other."""
MOST_SAMPLES = 150

Sample = t.Tuple[float, float]
"""Seconds since 1970, and the value."""


class History:
    """Samples by name in one JSON file, written whole; what is older than ``keep_days`` is forgotten."""

    def __init__(self, path: str, keep_days: float) -> None:
        self.path = path
        self.keep = keep_days * DAY
        self.samples: dict[str, list[Sample]] = self._read()

    def _read(self) -> dict[str, list[Sample]]:
        try:
            with open(self.path, encoding="utf-8") as stream:
                content = json.load(stream)
            return {
                str(name): sorted((float(at), float(value)) for at, value in samples)
                for name, samples in content["samples"].items()
            }
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise Refused("history", f"history_file={self.path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refused(
                "history", f"history_file={self.path}: not a file of samples ({error})", hint="move it away; a new one is begun"
            ) from error

    def add(self, name: str, at: float, value: float) -> None:
        """Note a sample; one of the same hour is replaced, what is too old or from the future is dropped."""
        samples = [sample for sample in self.samples.get(name, []) if at - self.keep <= sample[0] <= at]
        if len(samples) > 1 and at - samples[-2][0] <= INTERVAL:
            samples.pop()
        self.samples[name] = [*samples, (at, value)]

    def write(self) -> None:
        """Keep it."""
        directory = os.path.dirname(os.path.abspath(self.path))
        try:
            os.makedirs(directory, mode=0o755, exist_ok=True)
            content = {"version": 1, "samples": self.samples}
            _files.write_whole(self.path, json.dumps(content, separators=(",", ":")).encode(), mode=0o644)
        except OSError as error:
            raise Refused(
                "history", f"history_file={self.path}: {error.strerror}", hint="give a path that can be written"
            ) from error


def thinned(samples: t.Sequence[Sample]) -> list[Sample]:
    """At most MOST_SAMPLES of them, evenly, the last one always."""
    step = -(-len(samples) // MOST_SAMPLES)
    return list(samples[::-1][::step][::-1]) if step > 1 else list(samples)


def slope(samples: t.Sequence[Sample]) -> float | None:
    """Units a second: the median of the slopes of all pairs (Theil and Sen), which a third of wild samples does not move.

    None with too few samples, or over too short a time, to say anything.
    """
    if len(samples) < LEAST_SAMPLES or samples[-1][0] - samples[0][0] < LEAST_SPAN:
        return None
    used = thinned(samples)
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for number, earlier in enumerate(used)
        for later in used[number + 1 :]
        if later[0] > earlier[0]
    ]
    return statistics.median(slopes) if slopes else None


def days_until(available: float, rate: float | None) -> float | None:
    """Days until ``available`` is used up at ``rate`` (units a second); None when it does not grow, or nobody knows."""
    if rate is None or rate <= 0:
        return None
    return available / rate / DAY
