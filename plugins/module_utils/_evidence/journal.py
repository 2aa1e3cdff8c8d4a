# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal of a run: JSON lines chained by hash. PRIVATE to the collection.

Each line is one JSON object in canonical form (sorted keys, no white space, ASCII). ``prev`` is the hash of the line before
(64 zeros in the first), ``hash`` is the SHA-256 of ``prev`` followed by the canonical form of the line without ``hash``, and
``seq`` counts from 1. The first line is a ``playbook_start`` and the last a ``playbook_end``: a journal without its end was cut,
or its run was killed. The chain finds accidents and careless edits; who can write the file can also write another one, so the
last hash of a journal is worth keeping elsewhere (reports do).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
import typing as t

GENESIS = "0" * 64
START = "playbook_start"
END = "playbook_end"
MAX_EVIDENCE = 1 << 30
"""Bytes of a file that are hashed at most; larger evidence is named with its size only."""


def canonical(value: t.Any) -> str:
    """JSON of one form only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def line_hash(prev: str, fields: t.Mapping[str, t.Any]) -> str:
    """The hash of a line whose fields (``hash`` apart) are given."""
    body = {key: value for key, value in fields.items() if key != "hash"}
    return hashlib.sha256(f"{prev}{canonical(body)}".encode()).hexdigest()


class JournalWriter:
    """Appends lines to a new file; each is on disk (fsync) when ``append`` returns. Raises OSError."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.seq = 0
        self.head = GENESIS
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._handle = os.open(path, flags, 0o640)

    def append(self, fields: t.Mapping[str, t.Any]) -> str:
        """Write one line; returns its hash."""
        line = {**fields, "seq": self.seq + 1, "prev": self.head}
        digest = line_hash(self.head, line)
        data = f"{canonical({**line, 'hash': digest})}\n".encode()
        while data:
            data = data[os.write(self._handle, data) :]
        os.fsync(self._handle)
        self.seq += 1
        self.head = digest
        return digest

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


@dataclasses.dataclass(frozen=True)
class Verification:
    """What reading a journal found. ``broken_line`` counts from 1 and is 0 when the chain holds."""

    lines: int
    head: str
    complete: bool
    broken_line: int = 0
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether every line is the one that was written; says nothing about lines cut off at the end: see ``complete``."""
        return self.broken_line == 0


def parse_line(text: str, number: int, prev: str) -> tuple[dict[str, t.Any], str]:
    """One line and what is wrong with it ("" when nothing is)."""
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict) or canonical(fields) != text:
            return {}, "not in the form in which it was written"
    except ValueError:
        return {}, "not JSON"
    if fields.get("seq") != number:
        return fields, f"has number {fields.get('seq')!r}: a line was removed, added or moved"
    if fields.get("prev") != prev:
        return fields, "does not follow the line before it"
    if fields.get("hash") != line_hash(prev, fields):
        return fields, "its content does not match its hash"
    if (number == 1) != (fields.get("event") == START):
        return fields, f"is a {fields.get('event')!r} in the wrong place"
    return fields, ""


def read(path: str) -> tuple[list[dict[str, t.Any]], Verification]:
    """The lines up to the first broken one, and the verification. Raises OSError when the file cannot be read."""
    with open(path, "rb") as stream:
        return read_bytes(stream.read())


def read_bytes(data: bytes) -> tuple[list[dict[str, t.Any]], Verification]:
    """As ``read``, for the content of a journal."""
    entries: list[dict[str, t.Any]] = []
    head = GENESIS
    texts = data.decode("utf-8", errors="replace").split("\n")
    if texts and texts[-1] == "":
        texts.pop()
    elif texts:
        texts[-1] += "\N{REPLACEMENT CHARACTER}"  # no line end: written in part
    for number, text in enumerate(texts, start=1):
        problem = f"comes after {END}" if entries and entries[-1]["event"] == END else ""
        fields, broken = parse_line(text, number, head)
        if problem or broken:
            return entries, Verification(len(entries), head, False, number, broken or problem)
        entries.append(fields)
        head = str(fields["hash"])
    return entries, Verification(len(entries), head, bool(entries) and entries[-1]["event"] == END)


def verify(path: str) -> Verification:
    """Whether the chain holds, and if not, which line is the first broken one."""
    return read(path)[1]


def file_evidence(path: str) -> dict[str, t.Any]:
    """Name, size and SHA-256 of a file that proves something; says so when it is not a readable regular file."""
    evidence: dict[str, t.Any] = {"path": path}
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            os.close(handle)
            return {**evidence, "error": "not a regular file"}
        with os.fdopen(handle, "rb") as stream:
            return {**evidence, "size": status.st_size, **_file_digest(stream, status.st_size)}
    except OSError as error:
        return {**evidence, "error": error.strerror}


def _file_digest(stream: t.BinaryIO, size: int) -> dict[str, str]:
    if size > MAX_EVIDENCE:
        return {"error": "too large to hash"}
    digest = hashlib.sha256()
    for chunk in iter(lambda: stream.read(1 << 20), b""):
        digest.update(chunk)
    return {"sha256": digest.hexdigest()}
