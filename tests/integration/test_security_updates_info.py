# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The package manager of this host, and apt with lists of our own."""

from __future__ import annotations

import email.utils
import hashlib
import os
import shutil
import stat
import subprocess
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._host import updates_apt
from ansible_collections.fileforge.ops.plugins.module_utils._host.updates import DAY, UpdateOptions, review

if t.TYPE_CHECKING:
    from tests.integration.conftest import ModuleRunner

NAMES = {"updates.security", "updates.security_age", "updates.lists", "updates.reboot", "updates.held"}
pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt")

INSTALLED = """\
Package: openssl
Status: install ok installed
Priority: optional
Section: utils
Maintainer: Test <test@example.org>
Architecture: all
Version: 3.0.1-1
Description: test

Package: nano
Status: {nano} ok installed
Priority: optional
Section: editors
Maintainer: Test <test@example.org>
Architecture: all
Version: 1.0
Description: test
"""


class Apt:
    """An apt of our own: state, sources and lists in one directory, its archive in another, no network."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place, self.archive = place / "apt", place / "archive"
        for name in ("lists/partial", "cache/archives/partial", "etc", "dpkg", "empty"):
            (self.place / name).mkdir(parents=True)
        self.status = self.place / "dpkg" / "status"
        self.hold(False)
        settings = {
            "Dir::State": self.place,
            "Dir::State::lists": self.place / "lists",
            "Dir::State::status": self.status,
            "Dir::Cache": self.place / "cache",
            "Dir::Etc::sourcelist": self.place / "sources.list",
            "Dir::Etc::sourceparts": self.place / "empty",
            "Dir::Etc::preferences": self.place / "none",
            "Dir::Etc::preferencesparts": self.place / "empty",
            "APT::Sandbox::User": "root",
        }
        if os.geteuid() != 0:
            settings.pop("APT::Sandbox::User")
        config = self.place / "apt.conf"
        config.write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
        monkeypatch.setenv("APT_CONFIG", str(config))
        monkeypatch.setattr(updates_apt, "LISTS", str(self.place / "lists"))
        monkeypatch.setattr(updates_apt, "STAMPS", (str(self.place / "lists"), str(self.place / "lists" / "partial")))
        monkeypatch.setattr(updates_apt, "REBOOT", (str(place / "reboot-required"),))

    def hold(self, held: bool) -> None:
        self.status.write_text(INSTALLED.format(nano="hold" if held else "install"))

    def publish(self, suite: str, label: str, versions: dict[str, str], *, valid: float = DAY) -> None:
        """An archive on disk with these packages, then apt-get update."""
        component = self.archive / "dists" / suite / "main" / "binary-all"
        component.mkdir(parents=True, exist_ok=True)
        text = "".join(
            f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Test <test@example.org>\n"
            f"Filename: pool/{name}.deb\nSize: 1\nSHA256: {'0' * 64}\nDescription: test\n\n"
            for name, version in versions.items()
        )
        (component / "Packages").write_text(text)
        now = time.time()
        digest, size = hashlib.sha256(text.encode()).hexdigest(), len(text)
        published, end = (email.utils.formatdate(moment, usegmt=True) for moment in (now - 3600, now + valid))
        (self.archive / "dists" / suite / "Release").write_text(
            f"Origin: Test\nLabel: {label}\nSuite: {suite}\nCodename: {suite}\nDate: {published}\nValid-Until: {end}\n"
            f"Architectures: all\nComponents: main\nSHA256:\n {digest} {size} main/binary-all/Packages\n"
        )

    def update(self, *suites: str) -> None:
        sources = [f"deb [trusted=yes arch=all] file:{self.archive} {suite} main\n" for suite in suites]
        (self.place / "sources.list").write_text("".join(sources))
        argv = ["apt-get", "update", "-o", "Acquire::AllowInsecureRepositories=true"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def look(self, now: float | None = None) -> dict[str, str]:
        outcome = review(UpdateOptions(), updates_apt.look(60), now or time.time(), record=False)
        return {check.id.partition(".")[2]: check.status for check in outcome.checks}


@pytest.fixture
def apt(place: Path, monkeypatch: pytest.MonkeyPatch) -> Apt:
    place.chmod(place.stat().st_mode | stat.S_IXOTH)
    return Apt(place, monkeypatch)


def test_this_host(run_module: ModuleRunner, place: Path) -> None:
    """What it finds depends on the host; that it finds each thing or says unknown does not."""
    history = place / "seen.json"
    checked = run_module("security_updates_info", {"history_file": str(history)}, check=True)
    assert not history.exists()
    first = run_module("security_updates_info", {"history_file": str(history)})
    for result in (checked, first):
        assert not result["changed"] and result["manager"] == "apt"
        assert {check["id"] for check in result["checks"]} == NAMES
    by_id = {check["id"]: check for check in first["checks"]}
    if first["security_updates"]:
        assert by_id["updates.security"]["status"] != "ok"
        assert first["oldest_fix_age_days"] == pytest.approx(0, abs=0.1) and history.exists()


def test_fixes_holds_and_lists_of_a_real_apt(apt: Apt, place: Path) -> None:
    apt.publish("stable", "Test", {"openssl": "3.0.1-1", "nano": "1.0"})
    apt.publish("stable-security", "Test-Security", {"openssl": "3.0.1-1"})
    apt.update("stable", "stable-security")
    fine = apt.look()
    assert fine == {"security": "ok", "security_age": "ok", "lists": "ok", "reboot": fine["reboot"], "held": "ok"}

    apt.publish("stable", "Test", {"openssl": "3.0.1-1", "nano": "1.1"})
    apt.publish("stable-security", "Test-Security", {"openssl": "3.0.2-1"})
    apt.update("stable", "stable-security")
    found = updates_apt.look(60)
    [fix] = found.fixes
    assert (fix.package, fix.installed, fix.candidate, found.other_updates) == ("openssl", "3.0.1-1", "3.0.2-1", 1)
    assert apt.look()["security"] == "warning"

    apt.hold(True)
    apt.publish("stable-security", "Test-Security", {"openssl": "3.0.2-1", "nano": "1.2"})
    apt.update("stable", "stable-security")
    found = updates_apt.look(60)
    assert {fix.package: fix.held for fix in found.fixes} == {"openssl": False, "nano": True} and found.held == ["nano"]
    assert apt.look()["held"] == "warning"

    (place / "reboot-required").touch()
    assert apt.look()["reboot"] == "warning"


def test_lists_that_cannot_be_trusted(apt: Apt) -> None:
    assert apt.look()["lists"] == "unknown" and apt.look()["security"] == "unknown", "never updated"
    apt.publish("stable", "Test", {"openssl": "3.0.1-1"})
    apt.update("stable")
    assert apt.look()["security"] == "unknown", "no security archive among the sources"
    apt.publish("stable-security", "Test-Security", {"openssl": "3.0.1-1"}, valid=60 * DAY)
    apt.update("stable", "stable-security")
    now = time.time()
    assert apt.look(now + 3 * DAY)["lists"] == "warning" and apt.look(now + 3 * DAY)["security"] == "ok"
    assert apt.look(now + 8 * DAY) == {**apt.look(), "lists": "unknown", "security": "unknown", "security_age": "unknown"}
    apt.publish("stable-security", "Test-Security", {"openssl": "3.0.1-1"}, valid=DAY)
    apt.update("stable", "stable-security")
    assert apt.look(now + 1.9 * DAY)["security"] == "unknown", "the list has expired although it is young"
    apt.status.write_text("Package: broken\n\nnonsense")
    assert apt.look()["security"] == "unknown"
