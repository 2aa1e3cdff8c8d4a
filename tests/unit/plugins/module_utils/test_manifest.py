# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backup manifests: round trip, damage, and PostgreSQL's own verdict on one."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.manifest import Manifest, ManifestFile, WalRange
from hypothesis import given
from hypothesis import strategies as st

from tests.lab.postgres import distribution_binaries, packaged_binaries

RANGE = WalRange(1, "0/2000028", "0/3000000")
NAMES = st.binary(min_size=1, max_size=30).map(os.fsdecode)


@given(st.lists(st.builds(ManifestFile, NAMES, st.integers(0, 1 << 40), st.integers(0, 1 << 32), st.just("a" * 64)), max_size=5))
def test_round_trip(files):
    for identifier in (None, "7300000000000000001"):
        manifest = Manifest(tuple(files), (RANGE,), identifier)
        assert Manifest.from_bytes(manifest.to_bytes()) == manifest


def test_damage_is_noticed():
    data = Manifest((ManifestFile("base/1/1", 5, 0, "a" * 64),), (RANGE,)).to_bytes()
    for place in range(len(data) - 1):
        with pytest.raises(IntegrityError):
            Manifest.from_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    with pytest.raises(IntegrityError):
        Manifest.from_bytes(data[:-10])


def test_another_algorithm_is_refused_by_name():
    data = Manifest((ManifestFile("base/1/1", 5, 0, "a" * 64),), (RANGE,)).to_bytes()
    head = data[: data.index(b'"Manifest-Checksum"')].replace(b"SHA256", b"CRC32C")
    text = head + f'"Manifest-Checksum": "{hashlib.sha256(head).hexdigest()}"}}\n'.encode()
    with pytest.raises(IntegrityError, match="CRC32C"):
        Manifest.from_bytes(text)


@pytest.mark.parametrize("binaries", [distribution_binaries, packaged_binaries])
def test_postgresql_verifies_it(tmp_path: Path, binaries):
    """pg_verifybackup parses the manifest, checks its checksum, and every file's; names no text encoding can hold, too."""
    version = 18 if binaries is packaged_binaries else 15
    files = []
    for name in ("PG_VERSION", "plain", 'quo"te\\d', "tab\tbed", "grün", os.fsdecode(b"latin-\xfc")):
        content = f"{version}\n".encode() if name == "PG_VERSION" else os.fsencode(name)
        (tmp_path / name).write_bytes(content)
        files.append(ManifestFile(name, len(content), 1_700_000_000, hashlib.sha256(content).hexdigest()))
    manifest = Manifest(tuple(files), (RANGE,))
    path = tmp_path / "backup_manifest"

    def verdict() -> subprocess.CompletedProcess[str]:
        path.write_bytes(manifest.to_bytes())
        return subprocess.run(
            [binaries() / "pg_verifybackup", "-n", tmp_path], capture_output=True, text=True, errors="replace", check=False
        )

    assert verdict().stdout.startswith("backup successfully verified"), verdict().stderr
    wrong = dataclasses.replace(files[1], sha256="0" * 64)
    manifest = dataclasses.replace(manifest, files=(files[0], wrong, *files[2:]))
    assert verdict().returncode != 0
    assert "plain" in verdict().stderr
