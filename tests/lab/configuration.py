# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The production configuration: a bare git repository with a history, and the checkout that the application reads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import typing as t
from pathlib import Path

BRANCH = "main"
IDENTITY = {
    "GIT_AUTHOR_NAME": "FileForge platform",
    "GIT_AUTHOR_EMAIL": "platform@example.org",
    "GIT_COMMITTER_NAME": "FileForge platform",
    "GIT_COMMITTER_EMAIL": "platform@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}


def git(*arguments: str, cwd: Path) -> str:
    """Run git; what it printed."""
    completed = subprocess.run(
        ["git", *arguments], cwd=cwd, env={**os.environ, **IDENTITY}, capture_output=True, text=True, timeout=60, check=False
    )
    if completed.returncode != 0:
        raise RuntimeError(f"git {' '.join(arguments)}: {completed.stderr.strip()}")
    return completed.stdout.strip()


def make_repository(repository: Path, application: t.Mapping[str, t.Any]) -> None:
    """The bare repository with several commits, the last of which is what runs; complete or not at all."""
    fresh = repository.with_name(repository.name + ".making")
    work = repository.with_name(repository.name + ".work")
    for place in (fresh, work):
        shutil.rmtree(place, ignore_errors=True)
    fresh.mkdir(parents=True)
    git("init", "--quiet", "--bare", f"--initial-branch={BRANCH}", cwd=fresh)
    git("clone", "--quiet", str(fresh), str(work), cwd=fresh.parent)
    git("checkout", "--quiet", "-B", BRANCH, cwd=work)

    def commit(message: str, files: t.Mapping[str, str]) -> None:
        for name, text in files.items():
            place = work / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
        git("add", "--all", cwd=work)
        git("commit", "--quiet", "--message", message, cwd=work)

    def rendered(revision: int, **changes: t.Any) -> str:
        return json.dumps({**application, "revision": revision, **changes}, indent=2, sort_keys=True) + "\n"

    commit("Describe the application", {"README.md": "# FileForge production configuration\n", "application.json": rendered(1)})
    commit("Limit uploads", {"application.json": rendered(2, upload_limit_mib=50), "limits.json": '{"requests_per_minute": 600}\n'})
    commit(
        "Keep logs for two weeks",
        {"logging/retention.json": '{"days": 14}\n', "application.json": rendered(3, upload_limit_mib=50)},
    )
    commit("Allow larger uploads", {"application.json": rendered(4, upload_limit_mib=100)})
    git("push", "--quiet", "origin", BRANCH, cwd=work)
    shutil.rmtree(work)
    shutil.rmtree(repository, ignore_errors=True)
    fresh.rename(repository)


def head(repository: Path) -> str:
    """The commit that production runs."""
    return git("rev-parse", BRANCH, cwd=repository)


def check_out(repository: Path, checkout: Path) -> None:
    """Clone the repository; complete or not at all."""
    fresh = checkout.with_name(checkout.name + ".cloning")
    shutil.rmtree(fresh, ignore_errors=True)
    git("clone", "--quiet", "--branch", BRANCH, str(repository), str(fresh), cwd=repository.parent)
    shutil.rmtree(checkout, ignore_errors=True)
    fresh.rename(checkout)


def make_logs(logs: Path, logrotate: Path) -> None:
    """The directory of the logs, and a configuration of logrotate that includes a directory of stanzas."""
    stanzas = logrotate / "logrotate.d"
    for directory in (logs, logrotate, stanzas):
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
    main = logrotate / "logrotate.conf"
    main.write_text(f"weekly\nrotate 4\ncreate\ninclude {stanzas}\n", encoding="utf-8")
    main.chmod(0o644)
