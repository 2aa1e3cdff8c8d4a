# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps committing timestamped rows, so that what a recovery lost can be measured; waits out a database that is down."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from tests.lab.app.logfile import LogFile
from tests.lab.app.settings import Settings

INTERVAL = 0.2
INSERT = "INSERT INTO heartbeat DEFAULT VALUES"


def main() -> None:
    """Write until told to stop."""
    import psycopg

    settings = Settings.load()
    ended = threading.Event()
    log = LogFile(Path(os.environ["FILEFORGE_LOG"]), Path(os.environ["FILEFORGE_LOG_PID"]))
    signal.signal(signal.SIGTERM, lambda *_unused: ended.set())
    while not ended.is_set():
        try:
            with settings.connect() as connection:
                connection.autocommit = True
                connection.execute("SET statement_timeout = '5s'")
                print("connected", flush=True)
                while not ended.wait(INTERVAL):
                    connection.execute(INSERT)
                    log.write("heartbeat committed")
        except psycopg.Error as error:
            print(f"waiting: {type(error).__name__}", flush=True)
            log.write(f"waiting for the database: {type(error).__name__}")
            ended.wait(1.0)


if __name__ == "__main__":
    main()
