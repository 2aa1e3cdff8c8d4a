# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies new objects from one bucket to another for as long as it runs: the second region of the lab.

As between real regions, deletions are not copied, and what marks other objects as complete follows them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
import typing as t

LAST = (".index.json.gz", ".tree.jsonl.gz")
INTERVAL = 2.0
"""Seconds between two looks; each lists a whole bucket."""


def order(key: str) -> tuple[bool, str]:
    """Markers after everything else."""
    return key.endswith(LAST), key


class Replicator:
    """One direction between two buckets of one service; remembers the ETag it copied of each key."""

    def __init__(self, client: t.Any, source: str, target: str) -> None:
        self.client = client
        self.source = source
        self.target = target
        self.copied: dict[str, str] = {}

    def listing(self, bucket: str) -> dict[str, tuple[str, int]]:
        """Key to ETag and size."""
        found = {}
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            found.update({item["Key"]: (item["ETag"], item["Size"]) for item in page.get("Contents", [])})
        return found

    def remember(self) -> None:
        """Objects that the target has already, byte for byte as far as the listings tell."""
        there = self.listing(self.target)
        self.copied = {key: fact[0] for key, fact in self.listing(self.source).items() if there.get(key) == fact}

    def round(self, ended: threading.Event) -> int:
        """Copy what is new; how many objects that were."""
        waiting = [key for key, (etag, _size) in self.listing(self.source).items() if self.copied.get(key) != etag]
        for key in sorted(waiting, key=order):
            if ended.is_set():
                break
            answer = self.client.head_object(Bucket=self.source, Key=key)
            place = {"Bucket": self.source, "Key": key}
            self.client.copy_object(Bucket=self.target, Key=key, CopySource=place, CopySourceIfMatch=answer["ETag"])
            self.copied[key] = answer["ETag"]
        return len(waiting)


def main() -> None:
    """Replicate until told to stop."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("target")
    arguments = parser.parse_args()
    connection = json.loads(os.environ["FILEFORGE_REPLICATOR"])
    client = boto3.client("s3", **connection, config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard"}))
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_unused: ended.set())
    replicator = Replicator(client, arguments.source, arguments.target)
    known = False
    while not ended.is_set():
        try:
            if not known:
                replicator.remember()
                known = True
            copied = replicator.round(ended)
            if copied:
                print(f"{copied} objects copied", flush=True)
        except (BotoCoreError, ClientError) as error:
            print(f"waiting: {error}", flush=True)
        ended.wait(INTERVAL)


if __name__ == "__main__":
    main()
