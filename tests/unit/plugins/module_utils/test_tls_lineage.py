# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""certbot's directory: numbers, links, and what is set aside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._tls.lineage import KINDS, Lineage, replace_link

from tests.lab.signer import Signer


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    """Versions 1 and 2 of a lineage, the links on 1."""
    signer, archive = Signer(), tmp_path / "archive" / "api"
    archive.mkdir(parents=True)
    for number in (1, 2):
        made = signer.write(tmp_path / f"made{number}", ["a.example"], days=10 * number)
        for kind in KINDS:
            source = "privkey.pem" if kind == "privkey" else "fullchain.pem"
            (archive / f"{kind}{number}.pem").write_bytes((made / source).read_bytes())
    (tmp_path / "renewal").mkdir()
    (tmp_path / "renewal" / "api.conf").write_text("[renewalparams]\nserver = https://acme.example/dir\n")
    made_lineage = Lineage(str(tmp_path), "api")
    made_lineage.point(1)
    return made_lineage


def test_reads(lineage: Lineage) -> None:
    assert lineage.exists() and lineage.versions() == [1, 2] and lineage.current() == 1
    assert lineage.check(2).days_left == pytest.approx(20, abs=0.1)
    assert lineage.setting("server") == "https://acme.example/dir" and lineage.setting("account") == ""
    assert os.readlink(f"{lineage.live}/cert.pem") == "../../archive/api/cert1.pem"


def test_half_changed_links_have_no_number(lineage: Lineage) -> None:
    replace_link(f"{lineage.live}/privkey.pem", "../../archive/api/privkey2.pem")
    assert lineage.current() is None
    lineage.point(2)
    assert lineage.current() == 2


def test_set_aside_and_back(lineage: Lineage) -> None:
    lineage.set_aside(2)
    assert (lineage.versions(), lineage.set_aside_versions()) == ([1], [2])
    assert lineage.check(2).names == ("a.example",)
    lineage.set_aside(2)
    lineage.bring_back(2)
    assert (lineage.versions(), lineage.set_aside_versions()) == ([1, 2], [])


def test_set_aside_half_way_can_be_completed_both_ways(lineage: Lineage) -> None:
    path = Path(lineage.archive) / "chain2.pem"
    path.rename(f"{path}.undeployed")
    assert (lineage.versions(), lineage.set_aside_versions()) == ([1], [2])
    lineage.bring_back(2)
    assert lineage.versions() == [1, 2]


def test_an_incomplete_version_is_none(lineage: Lineage) -> None:
    (Path(lineage.archive) / "privkey2.pem").unlink()
    assert (lineage.versions(), lineage.set_aside_versions()) == ([1], [])


def test_what_was_set_aside_is_dropped(lineage: Lineage) -> None:
    lineage.set_aside(2)
    lineage.drop_set_aside()
    assert sorted(os.listdir(lineage.archive)) == sorted(f"{kind}1.pem" for kind in KINDS)


def test_a_key_of_another_certificate_is_found(lineage: Lineage) -> None:
    (Path(lineage.archive) / "privkey2.pem").write_bytes((Path(lineage.archive) / "privkey1.pem").read_bytes())
    with pytest.raises(IntegrityError, match="is not the key"):
        lineage.check(2)


def test_settings_go_back(lineage: Lineage) -> None:
    before = lineage.settings()
    assert before is not None
    Path(lineage.configuration).write_text("changed")
    lineage.restore_settings(before)
    assert lineage.settings() == before


def test_nothing_there(tmp_path: Path) -> None:
    empty = Lineage(str(tmp_path), "api")
    assert not empty.exists() and empty.versions() == [] and empty.current() is None and empty.settings() is None


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "-x", "a b"])
def test_names_that_leave_the_directory(name: str) -> None:
    with pytest.raises(InvalidOption, match="cert_name"):
        Lineage("/etc/letsencrypt", name)
