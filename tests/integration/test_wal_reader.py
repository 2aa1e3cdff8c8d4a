# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The WAL reader against PostgreSQL's own pg_waldump, on segments of real servers."""

from __future__ import annotations

import re
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import wal

from tests.lab.daemon import wait_until
from tests.lab.postgres import PostgresCluster

LINE = re.compile(r"rmgr: Transaction +len .*?tx: +(\d+), lsn: ([0-9A-F/]+), prev \S+, desc: (COMMIT|ABORT)(_PREPARED)? ")
TIME = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d\.\d+) UTC")


def work(connection: t.Any) -> None:
    """Every kind of transaction's end, in segments full of records of all sizes."""
    connection.execute("CREATE TABLE line (number int PRIMARY KEY, text text)")
    for turn in range(1, 5):
        connection.execute(
            "INSERT INTO line SELECT n, repeat('x', 100) FROM generate_series(%s, %s) n", (turn * 100_000, turn * 100_000 + 15_000)
        )
        for number in range(400):
            connection.execute("INSERT INTO line VALUES (%s, repeat('y', %s))", (turn * 1000 + number, number * 7 % 3000))
        for suffix, end in (("a", "COMMIT"), ("b", "ROLLBACK")):
            with connection.transaction():
                connection.execute("INSERT INTO line VALUES (%s, 'p')", (-turn * 10 - ord(suffix),))
                connection.execute(f"PREPARE TRANSACTION '{suffix}{turn}'")
            connection.execute(f"{end} PREPARED '{suffix}{turn}'")
        connection.execute("BEGIN")
        connection.execute("UPDATE line SET text = 'z' WHERE number < %s", (turn * 1000,))
        connection.execute("ROLLBACK")
        connection.execute(
            "DO $$ BEGIN FOR k IN 1..200 LOOP BEGIN PERFORM txid_current(); CREATE TEMP TABLE t (i int); DROP TABLE t; "
            "EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$"
        )
        connection.execute("SELECT pg_logical_emit_message(false, 'm', repeat('L', 3000000))")
        if turn == 3:
            connection.execute("SELECT pg_switch_wal()")


def expected(cluster: PostgresCluster, directory: t.Any, first: str, last: str) -> list[tuple[str, int, str, int]]:
    """What pg_waldump says."""
    dump = cluster.run("pg_waldump", "-p", str(directory), "-r", "Transaction", first, last).stdout
    found = []
    for line in dump.splitlines():
        match = LINE.match(line)
        if match is not None:
            time = TIME.search(line)
            assert time is not None, line
            kind = match[3].lower() + (match[4] or "").lower()
            found.append((f"{time[1]} {time[2]}", wal.parse_lsn(match[2]), kind, int(match[1])))
    return found


@pytest.mark.parametrize("version", [15, 18])
def test_transactions_as_pg_waldump_shows_them(postgres: t.Any, version: int) -> None:
    cluster = postgres(version=version, settings={"max_prepared_transactions": 5, "wal_level": "logical"}, start=False)
    archive = cluster.directory("archive")
    cluster.configure({"archive_mode": "on", "archive_command": f'cp "%p" "{archive}/%f"'})
    cluster.start()
    with cluster.connect() as connection:
        work(connection)
        name = connection.execute("SELECT pg_walfile_name(pg_create_restore_point('end'))").fetchone()[0]
        connection.execute("SELECT pg_switch_wal()")
        system = connection.execute("SELECT system_identifier::text FROM pg_control_system()").fetchone()[0]
    wait_until((archive / name).exists, 60, "the last segment to be archived")
    cluster.stop()

    names = sorted(path.name for path in archive.iterdir() if wal.SEGMENT_NAME.match(path.name))
    reader, scans = wal.WalReader(), []
    for each in names:
        data = (archive / each).read_bytes()
        reader.feed(data)
        scans.append(wal.scan_segment(data))
        assert wal.split_segment_name(each)[1] * wal.DEFAULT_SEGMENT_SIZE == scans[-1].header.start_lsn
    found = [
        (wal.record_time(item.time).strftime("%Y-%m-%d %H:%M:%S.%f"), item.lsn, item.kind, item.xid) for item in reader.transactions
    ]
    assert found == expected(cluster, archive, names[0], names[-1])
    assert len(found) > 1500 and {item[2] for item in found} == {"commit", "abort", "commit_prepared", "abort_prepared"}
    assert not reader.ended and reader.switched and all(scan.complete for scan in scans)
    alone = [item for scan in scans for item in scan.transactions]
    split = [item for item in map(wal.split_transaction, scans, scans[1:]) if item is not None]
    assert sorted([*alone, *split], key=lambda item: item.lsn) == reader.transactions
    assert scans[0].header.system_identifier == system and scans[0].header.major_version == version


@pytest.mark.parametrize("version", [15, 18])
def test_the_end_of_wal_of_a_crashed_server(postgres: t.Any, version: int) -> None:
    """The segment in use holds zeros or old records behind its end; pg_waldump stops at the same place."""
    cluster = postgres(version=version, settings={"wal_recycle": "on", "min_wal_size": "80MB"})
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE line (text text)")
        for _turn in range(4):
            connection.execute("INSERT INTO line SELECT repeat('x', 200) FROM generate_series(1, 40000)")
            connection.execute("SELECT pg_switch_wal()")
            connection.execute("CHECKPOINT")
        for number in range(50):
            connection.execute("INSERT INTO line VALUES (%s)", (str(number),))
        name = connection.execute("SELECT pg_walfile_name(pg_current_wal_lsn())").fetchone()[0]
    cluster.kill()
    directory = cluster.data_directory / "pg_wal"
    scan = wal.scan_segment((directory / name).read_bytes())
    dump = cluster.run("pg_waldump", "-p", str(directory), name, check=False)
    last = re.findall(r"lsn: ([0-9A-F/]+),", dump.stdout)[-1]
    assert not scan.complete and wal.parse_lsn(last) < scan.end_lsn < wal.parse_lsn(last) + 8300
    assert len(scan.transactions) == len(re.findall(r"desc: COMMIT ", dump.stdout)) >= 50
