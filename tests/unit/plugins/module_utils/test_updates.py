# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pending fixes: what apt and dnf say, how old it is, and what cannot be known."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils import _process
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, ProcessFailed
from ansible_collections.fileforge.ops.plugins.module_utils._host import package_manager, updates, updates_apt, updates_dnf
from ansible_collections.fileforge.ops.plugins.module_utils._host.updates import DAY, Fix, Found, UpdateOptions, review

NOW = 1_790_000_000.0
FIX = Fix("openssl", "1", "2", "Debian-Security:12/oldstable-security")
SIMULATION = """\
Reading package lists...
Inst base-files [12.4] (12.4+deb12u15 Debian:12.15/oldstable [amd64])
Inst libgcrypt20 [1.10.1-3] (1.10.1-3+deb12u1 Debian:12.15/oldstable, Debian-Security:12/oldstable-security [amd64]) []
Inst openssl [3.0.2] (3.0.3 Ubuntu:22.04/jammy-updates, Ubuntu:22.04/jammy-security [amd64])
Inst linux-image-6.1.0-40-amd64 (6.1.1-1 Debian-Security:12/oldstable-security [amd64])
Inst mine [1] (2 not-security:1/stable [amd64])
Remv old [1]
Conf base-files (12.4+deb12u15 Debian:12.15/oldstable [amd64])
"""


def found(**changes: t.Any) -> Found:
    return Found(**{"manager": "apt", "lists_refreshed": NOW - 3600, "reboot": False, "reboot_reason": "x", **changes})


def statuses(state: Found, **changes: t.Any) -> dict[str, str]:
    outcome = review(UpdateOptions(**changes), state, NOW, record=False)
    return {check.id.partition(".")[2]: check.status for check in outcome.checks}


# What is made of it


def test_nothing_pending_is_ok() -> None:
    assert set(statuses(found()).values()) == {"ok"}


def test_a_pending_fix_is_a_warning_and_its_age_grows() -> None:
    for days, status in ((1, "ok"), (7, "warning"), (29, "warning"), (30, "critical")):
        state = found(fixes=[FIX, Fix("new", "1", "2", "x", issued=NOW - 3600), Fix("old", "1", "2", "x", issued=NOW - days * DAY)])
        assert statuses(state)["security"] == "warning" and statuses(state)["security_age"] == status
    outcome = review(UpdateOptions(), state, NOW, record=False).as_dict()
    assert (outcome["newest_fix_age_days"], outcome["oldest_fix_age_days"]) == (0.04, 30)
    assert statuses(found(fixes=[FIX] * 3), security_critical=3)["security"] == "critical"


def test_an_age_that_nobody_knows_is_unknown() -> None:
    assert statuses(found(fixes=[FIX]))["security_age"] == "unknown"


def test_the_first_sight_is_remembered(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "seen.json"
    options = UpdateOptions(history_file=str(file))
    review(options, found(fixes=[FIX]), NOW - 8 * DAY, record=False)
    assert not file.exists(), "check mode writes nothing"
    review(options, found(fixes=[FIX]), NOW - 8 * DAY, record=True)
    outcome = review(options, found(fixes=[FIX, Fix("other", "1", "2", "x")]), NOW, record=True)
    assert (outcome.as_dict()["newest_fix_age_days"], outcome.as_dict()["oldest_fix_age_days"]) == (0, 8)
    assert {check.id: check.status for check in outcome.checks}["updates.security_age"] == "warning"
    review(options, found(), NOW, record=True)
    again = review(options, found(fixes=[FIX]), NOW, record=True)
    assert again.as_dict()["oldest_fix_age_days"] == 0, "what was installed and comes back is new"


def test_a_broken_history_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "seen.json").write_text("{")
    seen = statuses(found(fixes=[FIX]), history_file=str(tmp_path / "seen.json"))
    assert (seen["history"], seen["security"], seen["reboot"]) == ("unknown", "warning", "ok")


@pytest.mark.parametrize(
    ("changes", "lists", "security"),
    [
        ({"lists_refreshed": NOW - 47 * 3600}, "ok", "ok"),
        ({"lists_refreshed": NOW - 48 * 3600}, "warning", "ok"),
        ({"lists_refreshed": NOW - 168 * 3600}, "unknown", "unknown"),
        ({"lists_valid_until": NOW - 1}, "unknown", "unknown"),
        ({"lists_valid_until": NOW + 1}, "ok", "ok"),
        ({"lists_refreshed": None}, "unknown", "unknown"),
        ({"problems": {"lists": "no security archive"}}, "unknown", "unknown"),
    ],
)
def test_old_lists_tell_nothing(changes: dict[str, t.Any], lists: str, security: str) -> None:
    seen = statuses(found(**changes))
    assert (seen["lists"], seen["security"], seen["security_age"]) == (lists, security, security)


def test_reboot_and_holds() -> None:
    assert statuses(found(reboot=True))["reboot"] == "warning"
    assert statuses(found(reboot=None))["reboot"] == "unknown"
    assert statuses(found(held=["other"]))["held"] == "ok"
    assert statuses(found(fixes=[Fix("openssl", "1", "2", "x", held=True)], held=["openssl"]))["held"] == "warning"


@pytest.mark.parametrize("area", ["security", "lists", "reboot", "held"])
def test_one_that_cannot_be_asked_hides_no_other(area: str) -> None:
    seen = statuses(found(problems={area: "broken"}))
    assert seen[area] == "unknown"
    others = {"lists": {"security", "security_age"}, "security": {"security_age"}}.get(area, set())
    assert {name for name, status in seen.items() if status == "unknown"} == {area, *others}


@pytest.mark.parametrize(
    "changes",
    [
        {"security_warning": 0},
        {"security_critical": 0},
        {"age_warning_days": 40},
        {"lists_warning_hours": 0},
        {"lists_unknown_hours": 1},
        {"timeout": 0},
    ],
)
def test_options_that_make_no_sense(changes: dict[str, t.Any]) -> None:
    with pytest.raises(InvalidOption):
        UpdateOptions(**changes).check()


def test_without_a_package_manager_all_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for manager in ("auto", "apt", "dnf"):
        state = package_manager.look(manager, 5)
        outcome = review(UpdateOptions(), state, NOW, record=False)
        assert {check.status for check in outcome.checks} == {"unknown"} and outcome.as_dict()["manager"] is None


# Kernels


@pytest.mark.parametrize(
    ("installed", "running", "needed"),
    [
        ([], "6.1.0-40-amd64", False),
        (["6.1.0-40-amd64"], "6.1.0-40-amd64", False),
        (["6.1.0-9-amd64", "6.1.0-40-amd64"], "6.1.0-40-amd64", False),
        (["6.1.0-9-amd64", "6.1.0-40-amd64"], "6.1.0-9-amd64", True),
        (["6.1.0-9-cloud-amd64", "6.1.0-40-amd64"], "6.1.0-9-cloud-amd64", False),
        (["6.1.0-40-amd64"], "6.1.0-9-amd64", True),
        (["5.14.0-427.el9.x86_64", "5.14.0-503.el9.x86_64", "0-rescue-abc"], "5.14.0-427.el9.x86_64", True),
    ],
)
def test_kernels(tmp_path: Path, installed: list[str], running: str, needed: bool) -> None:
    for name in installed:
        (tmp_path / f"vmlinuz-{name}").touch()
    state = Found()
    updates.kernel_state(state, boot=str(tmp_path), running=running)
    assert state.reboot is needed and state.reboot_reason


# apt


def test_the_simulation_of_apt() -> None:
    pending, removed = updates_apt.parse_simulation(SIMULATION)
    assert [item[0] for item in pending] == ["base-files", "libgcrypt20", "openssl", "linux-image-6.1.0-40-amd64", "mine"]
    assert pending[1][:3] == ("libgcrypt20", "1.10.1-3", "1.10.1-3+deb12u1") and pending[3][1] == "" and removed == ["old"]
    assert [updates_apt.is_security(item[3]) for item in pending] == [False, True, True, True, True]
    assert not updates_apt.is_security("Debian:12.15/oldstable, Debian:12-updates/oldstable-updates")


def fake_apt(monkeypatch: pytest.MonkeyPatch, answers: dict[str, str]) -> None:
    def run(argv: t.Sequence[str], **_options: t.Any) -> _process.Completed:
        if argv[0] not in answers:
            raise ProcessFailed(f"{argv[0]} ended with status 100: broken packages")
        return _process.Completed(tuple(argv), 0, answers[argv[0]], "")

    monkeypatch.setattr(updates_apt._process, "run", run)


@pytest.fixture
def lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "lists"
    place.mkdir()
    (place / "x_debian-security_dists_bookworm-security_InRelease").write_text(
        "Label: Debian-Security\nSuite: oldstable-security\nDate: Sat, 21 Nov 2026 00:53:02 UTC\n"
        "Valid-Until: Sat, 28 Nov 2026 00:53:02 UTC\nMD5Sum:\n"
    )
    monkeypatch.setattr(updates_apt, "LISTS", str(place))
    monkeypatch.setattr(updates_apt, "STAMPS", (str(place),))
    monkeypatch.setattr(updates_apt, "REBOOT", (str(tmp_path / "reboot-required"),))
    os.utime(place, (NOW, NOW))
    return place


def test_apt(monkeypatch: pytest.MonkeyPatch, lists: Path) -> None:
    fake_apt(monkeypatch, {"apt-get": SIMULATION, "apt-mark": "openssl:amd64\nnano\n"})
    state = updates_apt.look(5)
    assert not state.problems
    assert [(fix.package, fix.held) for fix in state.fixes] == [("libgcrypt20", False), ("openssl", True), ("mine", False)]
    assert state.other_updates == 1 and state.held == ["openssl:amd64", "nano"] and state.lists_refreshed == NOW
    assert state.lists_valid_until == 1795827182.0
    (lists.parent / "reboot-required").touch()
    (lists.parent / "reboot-required.pkgs").write_text("linux-base\nlibc6\n")
    again = updates_apt.look(5)
    assert again.reboot and "libc6, linux-base" in again.reboot_reason


def test_a_broken_apt_is_unknown_not_ok(monkeypatch: pytest.MonkeyPatch, lists: Path) -> None:
    fake_apt(monkeypatch, {"apt-mark": ""})
    seen = {check.id: check.status for check in review(UpdateOptions(), updates_apt.look(5), NOW + 1, record=False).checks}
    assert seen["updates.security"] == "unknown" and seen["updates.held"] == "ok" and seen["updates.lists"] == "ok"


def test_sources_without_a_security_archive_are_unknown(monkeypatch: pytest.MonkeyPatch, lists: Path) -> None:
    fake_apt(monkeypatch, {"apt-get": "", "apt-mark": ""})
    for file in lists.iterdir():
        file.write_text("Label: Debian\nSuite: oldstable\nMD5Sum:\n a security b\n")
    assert "no security archive" in updates_apt.look(5).problems["lists"]
    for file in lists.iterdir():
        file.unlink()
    assert "no package lists" in updates_apt.look(5).problems["lists"]


# dnf

DNF4_LIST = """\
Last metadata expiration check: 0:10:00 ago on Mon Nov 23 20:00:00 2026.
RHSA-2026:1001 Important/Sec. openssl-1:3.0.7-25.el9_3.x86_64
RHSA-2026:1002 Moderate/Sec.  python3-urllib3-1.26.5-5.el9.noarch
TEST-2026:3    Unknown/Sec.   gamma-1.1-1.noarch
RHBA-2026:1003 bugfix         bash-5.1.8-9.el9.x86_64
"""
DNF4_INFO = """\
===============================================================================
  Important: openssl security update
===============================================================================
  Update ID: RHSA-2026:1001
       Type: security
    Updated: 2026-11-20 00:00:00
Description: fixes
   Severity: Important

===============================================================================
  gamma security update
===============================================================================
  Update ID: TEST-2026:3
       Type: security
    Updated: 2026-11-15 00:00:00
Description: d
"""
DNF5_LIST = """\
Name                   Type     Severity                                   Package              Issued
FEDORA-2026-0a1b2c3d4e security Important openssl-libs-1:3.2.1-2.fc40.x86_64 2026-11-20 01:02:03
FEDORA-2026-0a1b2c3d4f bugfix   None      bash-5.2.26-3.fc40.x86_64          2026-11-20 01:02:03
"""


def test_both_versions_of_dnf() -> None:
    [first, second, third] = updates_dnf.parse_list(DNF4_LIST, updates_dnf.parse_dates(DNF4_INFO))
    assert (first.package, first.candidate, first.severity) == ("openssl", "1:3.0.7-25.el9_3.x86_64", "important")
    assert first.issued == 1795132800.0 and second.issued is None and second.package == "python3-urllib3"
    assert (third.package, third.candidate, third.severity, third.issued) == ("gamma", "1.1-1.noarch", "unknown", 1794700800.0)
    [only] = updates_dnf.parse_list(DNF5_LIST, {})
    assert (only.package, only.advisory, only.issued) == ("openssl-libs", "FEDORA-2026-0a1b2c3d4e", 1795136523.0)


class FakeDnf:
    """Answers by the first word after the options."""

    def __init__(self, answers: dict[str, tuple[int, str, str]]) -> None:
        self.answers = answers

    def __call__(self, argv: t.Sequence[str], *, check: bool = True, **_options: t.Any) -> _process.Completed:
        words = [word for word in argv[1:] if not word.startswith("--")] if argv[0] == "dnf" else ["rpm"]
        code, out, err = self.answers.get(" ".join(words[:2]), self.answers.get(words[0], (1, "", "No such command: x")))
        if check and code:
            raise ProcessFailed(f"dnf ended with status {code}: {err}")
        return _process.Completed(tuple(argv), code, out, err)


@pytest.fixture
def dnf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, tuple[int, str, str]]:
    answers = {
        "updateinfo list": (0, DNF4_LIST, ""),
        "updateinfo info": (0, DNF4_INFO, ""),
        "check-update": (100, "\nopenssl.x86_64  1:3.0.7-25.el9_3  baseos\nbash.x86_64  5.1.8-9.el9  baseos\n", ""),
        "versionlock": (0, "openssl-1:3.0.7-24.el9.*\nalpha-0:1.0-1.*\n", ""),
        "needs-restarting": (1, "Core libraries or services have been updated:\n  * glibc\n\nReboot is required.\n", ""),
        "rpm": (0, "openssl 1:3.0.7-24.el9\n", ""),
    }
    monkeypatch.setattr(updates_dnf._process, "run", FakeDnf(answers))
    (tmp_path / "repomd.xml").touch()
    os.utime(tmp_path / "repomd.xml", (NOW, NOW))
    monkeypatch.setattr(updates_dnf, "CACHES", (str(tmp_path / "repomd.xml"),))
    return answers


def test_dnf(dnf: dict[str, tuple[int, str, str]]) -> None:
    state = updates_dnf.look(5)
    assert not state.problems and state.lists_refreshed == NOW
    assert [(fix.package, fix.installed, fix.held) for fix in state.fixes] == [
        ("openssl", "1:3.0.7-24.el9", True),
        ("python3-urllib3", "", False),
        ("gamma", "", False),
    ]
    assert (state.held, state.other_updates, state.reboot) == (["alpha", "openssl"], 1, True) and "glibc" in state.reboot_reason
    dnf["needs-restarting"] = (0, "No core libraries or services have been updated.\nReboot should not be necessary.\n", "")
    assert updates_dnf.look(5).reboot is False


def test_dnf_without_its_plugins(dnf: dict[str, tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    del dnf["versionlock"], dnf["needs-restarting"]
    state = updates_dnf.look(5)
    assert state.held == [] and state.reboot is not None, "the kernels tell"
    dnf["updateinfo list"] = (1, "", "Cache-only enabled but no cache for 'baseos'")
    monkeypatch.setattr(updates_dnf, "CACHES", (str(tmp_path / "none.xml"),))
    state = updates_dnf.look(5)
    assert "no cache" in state.problems["security"] and "no cached metadata" in state.problems["lists"]


def test_a_refusal_is_told(dnf: dict[str, tuple[int, str, str]]) -> None:
    dnf["check-update"] = (1, "", "boom")
    dnf["versionlock"] = (1, "", "boom")
    state = updates_dnf.look(5)
    assert set(state.problems) == {"security", "held"}
