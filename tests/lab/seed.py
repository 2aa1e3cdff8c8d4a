# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab's database and uploads directory hold at first: every row of ``files`` matches a real file."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import os
import random
import shutil
import typing as t
from pathlib import Path

ROWS = "LAB_ROWS"
FILES = "LAB_FILES"
KINDS = ("pdf", "png", "txt", "csv", "zip")
SCHEMA = """
CREATE TABLE users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE files (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id bigint NOT NULL REFERENCES users,
    path text NOT NULL,
    size bigint NOT NULL CHECK (size >= 0),
    sha256 text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    updated_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX files_path_key ON files (path) TABLESPACE fileforge_slow;
CREATE INDEX idx_files_updated_at ON files (updated_at);
CREATE TABLE file_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    file_id bigint NOT NULL REFERENCES files,
    what text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
) TABLESPACE fileforge_slow;
CREATE TABLE heartbeat (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""
EVENTS = """
INSERT INTO file_events (file_id, what, at)
SELECT 1 + number % %(files)s, (ARRAY['upload', 'download', 'share'])[1 + number % 3], now() - number * interval '1 minute'
FROM generate_series(1, %(rows)s) AS number
"""


@dataclasses.dataclass(frozen=True)
class File:
    """One uploaded file and its row."""

    path: str
    size: int
    sha256: str
    updated_at: datetime.datetime


def sizes() -> tuple[int, int]:
    """How many rows of history and how many files; from LAB_ROWS and LAB_FILES."""
    rows = int(os.environ.get(ROWS, "20000"))
    return rows, int(os.environ.get(FILES, str(max(1, min(rows, 400)))))


def content(number: int) -> bytes:
    """The bytes of the file of that number: always the same."""
    source = random.Random(number)
    size = 200_000 + source.randrange(300_000) if number % 50 == 0 else source.randrange(24_000)
    return source.randbytes(size)


def make_files(directory: Path, count: int) -> list[File]:
    """Write the files into a fresh directory; complete or not at all."""
    fresh = directory.with_name(directory.name + ".seeding")
    shutil.rmtree(fresh, ignore_errors=True)
    beginning = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    made = []
    for number in range(1, count + 1):
        data = content(number)
        path = f"{2020 + number % 7}/{number % 12 + 1:02d}/user-{number % 40:03d}/file-{number:06d}.{KINDS[number % len(KINDS)]}"
        place = fresh / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        place.chmod(0o640)
        made.append(File(path, len(data), hashlib.sha256(data).hexdigest(), beginning + datetime.timedelta(hours=number)))
    shutil.rmtree(directory, ignore_errors=True)
    fresh.rename(directory)
    return made


def fill(connection: t.Any, files: t.Sequence[File], rows: int) -> None:
    """Make and fill the tables, in one transaction: all of it or nothing."""
    with connection.transaction():
        connection.execute(SCHEMA)
        users = "INSERT INTO users (email) SELECT 'user-' || number || '@example.org' FROM generate_series(1, 40) AS number"
        connection.execute(users)
        with connection.cursor().copy("COPY files (user_id, path, size, sha256, updated_at) FROM STDIN") as copy:
            for number, file in enumerate(files):
                copy.write_row((1 + number % 40, file.path, file.size, file.sha256, file.updated_at))
        import psycopg

        psycopg.ClientCursor(connection).execute(EVENTS.replace(" % ", " %% "), {"files": len(files), "rows": rows})


def is_filled(connection: t.Any) -> bool:
    """Whether the tables are there (they come with their rows)."""
    return connection.execute("SELECT to_regclass('heartbeat') IS NOT NULL").fetchone()[0] is True
