# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories that are given to somebody: whole at once, or finished by the next run."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._files import make_directory

ME = (os.geteuid(), os.getegid())
FOLDER = os.O_RDONLY | os.O_DIRECTORY


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("wanted", [0o700, 0o711, 0o755])
@pytest.mark.parametrize("owner", [None, ME])
def test_made_with_its_mode_whatever_the_umask(wanted: int, owner: tuple[int, int] | None, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        make_directory(str(tmp_path / "new"), wanted, owner)
    finally:
        os.umask(before)
    assert mode(tmp_path / "new") == wanted


def test_what_is_there_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(0o750)
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("folder")
    for name in ("folder", "file", "link"):
        make_directory(str(tmp_path / name), 0o700, ME)
    assert mode(tmp_path / "folder") == 0o750
    assert (tmp_path / "file").read_text() == "x" and (tmp_path / "link").is_symlink()


def test_below_a_handle(tmp_path: Path) -> None:
    handle = os.open(tmp_path, FOLDER)
    try:
        make_directory(b"inner", 0o711, ME, dir_fd=handle)
    finally:
        os.close(handle)
    assert mode(tmp_path / "inner") == 0o711


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")
@pytest.mark.parametrize("step", ["fchown", "fchmod"])
def test_a_half_made_one_is_finished(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "new"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, step, killed)
        make_directory(str(path), 0o700, (12345, 23456))
    assert path.is_dir() and mode(path) != 0o700
    make_directory(str(path), 0o700, (12345, 23456))
    facts = path.stat()
    assert (facts.st_uid, facts.st_gid, mode(path)) == (12345, 23456, 0o700)
