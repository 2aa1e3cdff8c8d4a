# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The application's configuration: a file from the production-config checkout, secrets from the environment."""

from __future__ import annotations

import dataclasses
import json
import os
import typing as t
import urllib.parse
from pathlib import Path

CONFIG = "FILEFORGE_CONFIG"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the API and the worker need to know."""

    database: dict[str, t.Any]
    redis: dict[str, t.Any]
    uploads: Path
    queue: str
    revision: int

    @classmethod
    def load(cls) -> Settings:
        """Read the file that FILEFORGE_CONFIG names."""
        content = json.loads(Path(os.environ[CONFIG]).read_text(encoding="utf-8"))
        return cls(content["database"], content["redis"], Path(content["uploads"]), content["queue"], int(content["revision"]))

    def connect(self, timeout: int = 3) -> t.Any:
        """A database connection."""
        import psycopg

        return psycopg.connect(**self.database, password=os.environ["FILEFORGE_DATABASE_PASSWORD"], connect_timeout=timeout)

    def redis_client(self, timeout: float = 2.0) -> t.Any:
        """A Redis client."""
        import redis

        password = os.environ["FILEFORGE_REDIS_PASSWORD"]
        return redis.Redis(**self.redis, password=password, socket_timeout=timeout, socket_connect_timeout=timeout)

    def broker(self) -> str:
        """The URL of Celery's broker."""
        password = urllib.parse.quote(os.environ["FILEFORGE_REDIS_PASSWORD"], safe="")
        return f"redis://:{password}@{self.redis['host']}:{self.redis['port']}/{self.redis['db']}"
