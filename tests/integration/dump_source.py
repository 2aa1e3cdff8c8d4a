# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server with an application's database, its dumps and base backups in a bucket, and what is forged from them."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
import shutil
import typing as t
import uuid
from pathlib import Path

from ansible_collections.fileforge.ops.plugins.module_utils._backup import dump, dumps
from ansible_collections.fileforge.ops.plugins.module_utils._backup.dumps import DumpManifest, DumpObject
from ansible_collections.fileforge.ops.plugins.module_utils._backup.verify import run_verify
from ansible_collections.fileforge.ops.plugins.module_utils._backup.verify_common import VerifyOptions
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import Store
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.connection import PostgresOptions
from ansible_collections.fileforge.ops.plugins.module_utils._progress import Progress

from tests.integration.restore_source import Source
from tests.lab.facts import wal_interpreter
from tests.lab.place import owner
from tests.lab.s3 import S3Server

DATABASE = "app"
FILES, USERS = 20_000, 1_000
SCHEMA = """
CREATE SCHEMA "Odd ""schema";
CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE files (id int PRIMARY KEY, user_id int REFERENCES users, sum text) TABLESPACE far;
CREATE INDEX files_sum ON files (sum);
CREATE TABLE "Odd ""schema"."it's; --" (n int);
CREATE TABLE parted (n int) PARTITION BY RANGE (n);
CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (100);
CREATE UNLOGGED TABLE fleeting (n int);
ALTER TABLE files OWNER TO fileforge;
GRANT SELECT ON users TO reader;
INSERT INTO users SELECT n, md5(n::text) FROM generate_series(1, 1000) n;
INSERT INTO files SELECT n, 1 + n % 1000, md5(n::text) FROM generate_series(1, 20000) n;
INSERT INTO parted SELECT n FROM generate_series(0, 99) n;
INSERT INTO fleeting VALUES (1);
SELECT lo_from_bytea(0, 'large');
"""


@dataclasses.dataclass
class World:
    """Everything, in one bucket."""

    source: Source
    place: Path

    @classmethod
    def create(cls, place: Path, s3: S3Server, **more: t.Any) -> World:
        """Running, and filled."""
        bucket = s3.create_bucket(f"test-{uuid.uuid4().hex[:12]}")
        place.mkdir(mode=0o755)
        place.chmod(0o755)
        world = cls(Source.create(place, s3, bucket, **more), place)
        cluster = world.source.cluster
        cluster.execute("CREATE ROLE fileforge")
        cluster.execute("CREATE ROLE reader")
        cluster.execute(f"CREATE DATABASE {DATABASE} OWNER fileforge")
        with cluster.connect(DATABASE) as connection:
            connection.execute(SCHEMA)
        return world

    def close(self) -> None:
        """Leave nothing."""
        self.source.cluster.destroy()
        self.source.s3.empty_bucket(self.source.bucket)
        self.source.s3.client().delete_bucket(Bucket=self.source.bucket)
        shutil.rmtree(self.place, ignore_errors=True)

    @property
    def store(self) -> Store:
        """The bucket."""
        return Store(self.source.options)

    @property
    def scratch(self) -> Path:
        """Where verifications happen."""
        return self.place / "verify"

    def options(self, **more: object) -> dict[str, t.Any]:
        """Arguments of the module postgres_dump."""
        return {**self.source.cluster.options(DATABASE), **self.source.s3.options(self.source.bucket), **more}

    def verify_arguments(self, **more: object) -> dict[str, t.Any]:
        """Arguments of the module postgres_backup_verify."""
        own = {"scratch_directory": str(self.scratch), "owner": owner(), "program_interpreter": wal_interpreter()}
        return {**self.source.s3.options(self.source.bucket), **own, **more}

    def dump(self, **options: t.Any) -> dict[str, t.Any]:
        """Make a dump with the engine; the module's result."""
        postgres = PostgresOptions.from_params(self.source.cluster.options(DATABASE))
        return dump.run_dump(self.store, postgres, dump.DumpOptions(**options), check_mode=False, progress=Progress())

    def verify_options(self, **options: t.Any) -> VerifyOptions:
        """The engine's options."""
        own = {"scratch_directory": str(self.scratch), "owner": owner(), "program_interpreter": wal_interpreter()}
        return VerifyOptions(**{**own, **options})

    def verify(self, **options: t.Any) -> dict[str, t.Any]:
        """Verify with the engine; the module's result. Nothing of it is left, whatever came out."""
        try:
            return run_verify(self.store, self.verify_options(**options), check_mode=False, progress=Progress())
        finally:
            self.assert_nothing_is_left()

    def assert_nothing_is_left(self) -> None:
        """Nothing in the directory, and no process of a verification."""
        assert list(self.scratch.rglob("*")) == []
        assert self.processes() == []

    def processes(self) -> list[str]:
        """Processes that have to do with the scratch server."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if f"{self.scratch}/data" in command:
                found.append(command)
        return found

    # -- forgeries -----------------------------------------------------------------------------------------------------

    def manifest(self, name: str) -> DumpManifest:
        """Of a dump."""
        return DumpManifest.from_bytes(self.store.get(f"{dumps.PLACE}{name}.{dumps.MANIFEST}"))

    def sql(self, name: str) -> bytes:
        """What a plain dump holds."""
        return gzip.decompress(self.store.get(f"{dumps.PLACE}{name}.sql.gz"))

    def forge(self, name: str, new: str, content: bytes, **changes: t.Any) -> str:
        """A plain dump of other content with a manifest to match; its name."""
        packed = gzip.compress(content)
        item = DumpObject(f"{new}.sql.gz", len(packed), hashlib.sha256(packed).hexdigest())
        own = {"content_bytes": len(content), "content_sha256": hashlib.sha256(content).hexdigest(), "objects": (item,)}
        manifest = dataclasses.replace(self.manifest(name), name=new, **{**own, **changes})
        self.store.put(f"{dumps.PLACE}{item.name}", packed)
        self.store.put(f"{dumps.PLACE}{new}.{dumps.MANIFEST}", manifest.to_bytes())
        return new

    def damage(self, name: str, new: str, change: t.Callable[[bytes], bytes]) -> str:
        """The same dump and manifest under another name, but for the bytes of the object; its name."""
        manifest = self.manifest(name)
        item = dataclasses.replace(manifest.objects[0], name=f"{new}.sql.gz")
        self.store.put(f"{dumps.PLACE}{item.name}", change(self.store.get(f"{dumps.PLACE}{name}.sql.gz")))
        forged = dataclasses.replace(manifest, name=new, objects=(item,))
        self.store.put(f"{dumps.PLACE}{new}.{dumps.MANIFEST}", forged.to_bytes())
        return new
