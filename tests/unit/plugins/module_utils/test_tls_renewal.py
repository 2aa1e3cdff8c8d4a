# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deciding, refusing, deploying and going back, with a server and an authority that do as they are told."""

from __future__ import annotations

import dataclasses
import os
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, ProcessFailed, Refused, Unavailable
from ansible_collections.fileforge.ops.plugins.module_utils._time import now
from ansible_collections.fileforge.ops.plugins.module_utils._tls import authority, certbot
from ansible_collections.fileforge.ops.plugins.module_utils._tls import renewal as engine
from ansible_collections.fileforge.ops.plugins.module_utils._tls.certbot import CertbotOptions, RequestFailed
from ansible_collections.fileforge.ops.plugins.module_utils._tls.certificate import from_pem
from ansible_collections.fileforge.ops.plugins.module_utils._tls.endpoint import Endpoint, Served
from ansible_collections.fileforge.ops.plugins.module_utils._tls.lineage import KINDS, Lineage
from ansible_collections.fileforge.ops.plugins.module_utils._tls.renewal import Renewal, RenewalFailed, Request

from tests.lab.signer import Signer

SIGNER = Signer()


def fail(error: Exception) -> t.NoReturn:
    raise error


class World:
    """A server that reads its certificate when it is reloaded, and a certbot that brings what it is told."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place = place
        self.lineage = Lineage(str(place), "api")
        self.commands: list[str] = []
        self.refuses: str | None = None
        """A command that fails, from the second time on with a leading ``later``."""
        self.deaf = False
        self.reachable = True
        self.brings: dict[str, t.Any] | None = {"names": ["a.example"], "days": 90}
        self.serving = place / "placeholder"
        SIGNER.write(self.serving, ["a.example"], days=3)
        self.serving /= "fullchain.pem"
        self.loaded = self.serving.read_text()
        self.window: authority.Window | Exception | None = None
        monkeypatch.setattr(engine, "look", self._look)
        monkeypatch.setattr(engine._process, "run", self._run)
        monkeypatch.setattr(certbot, "request", self._request)
        monkeypatch.setattr(authority, "renewal_window", self._suggest)

    def add(self, names: t.Sequence[str], days: float, serve: bool = True) -> None:
        """One more version, as certbot leaves it."""
        number = max([0, *self.lineage.versions()]) + 1
        archive = Path(self.lineage.archive)
        archive.mkdir(parents=True, exist_ok=True)
        made = SIGNER.write(self.place / f"made{len(os.listdir(self.place))}", names, days=days)
        for kind in KINDS:
            source = "privkey.pem" if kind == "privkey" else "fullchain.pem"
            (archive / f"{kind}{number}.pem").write_bytes((made / source).read_bytes())
        self.lineage.point(number)
        Path(self.lineage.configuration).parent.mkdir(exist_ok=True)
        Path(self.lineage.configuration).write_text(f"version {number}\nserver = https://acme.example/dir\n")
        if serve:
            self.serving = Path(self.lineage.live) / "fullchain.pem"
            self.loaded = self.serving.read_text()

    def _look(self, _endpoint: Endpoint, _timeout: float) -> Served:
        if not self.reachable:
            raise Unavailable("a.example:443: Connection refused")
        return Served(from_pem(self.loaded, "loaded")[0])

    def _run(self, argv: t.Sequence[str], timeout: float) -> None:
        word = argv[0]
        first = word not in self.commands
        self.commands.append(word)
        if self.refuses == word or (self.refuses == f"later {word}" and not first):
            raise ProcessFailed(f"{word} ended with status 1: [emerg]")
        if word == "reload" and not self.deaf:
            self.loaded = self.serving.read_text()

    def _request(self, _order: CertbotOptions, *, known: bool, same_names: bool) -> None:
        self.commands.append(f"certbot {'renew' if known and same_names else 'certonly'}")
        if self.brings is None:
            raise RequestFailed("no certificate: refused", reason="challenge_failed")
        self.add(**self.brings, serve=False)
        self.serving = Path(self.lineage.live) / "fullchain.pem"

    def _suggest(self, *_arguments: object) -> authority.Window | None:
        window = self.window
        if isinstance(window, Exception):
            fail(window)
        return window

    def renewal(self, domains: t.Sequence[str] = ("a.example",), **changes: t.Any) -> Renewal:
        order = CertbotOptions("api", domains, authenticator="nginx", config_directory=str(self.place))
        fields: dict[str, t.Any] = {"test_command": ["test"], "reload_command": ["reload"], "reload_timeout": 0.3}
        return Renewal(Request(order=order, endpoints=[Endpoint("a.example")], **{**fields, **changes}))

    def state(self) -> tuple[int | None, list[int], list[int], bytes | None]:
        return self.lineage.current(), self.lineage.versions(), self.lineage.set_aside_versions(), self.lineage.settings()

    def days_served(self) -> int:
        return round(from_pem(self.loaded, "loaded")[0].days_left)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_issue(world: World) -> None:
    rehearsed = world.renewal().rehearse()
    assert (rehearsed["changed"], rehearsed["outcome"], world.commands) == (True, "issued", ["test"])
    done = world.renewal().apply()
    assert (done["changed"], done["outcome"], world.days_served()) == (True, "issued", 90)
    assert done["plan"]["digest"] == rehearsed["plan"]["digest"]
    assert world.commands == ["test", "test", "certbot certonly", "test", "reload"]
    again = world.renewal().apply()
    assert (again["changed"], again["outcome"]) == (False, "unchanged")


@pytest.mark.parametrize(("days", "outcome"), [(29.9, "renewed"), (30.1, "unchanged"), (-0.5, "renewed")])
def test_due_by_days(world: World, days: float, outcome: str) -> None:
    world.add(["a.example"], days)
    assert world.renewal().apply()["outcome"] == outcome
    assert ("certbot renew" in world.commands) == (outcome == "renewed")


def test_due_by_names(world: World) -> None:
    world.add(["b.example"], 80)
    assert world.renewal().apply()["reasons"] == ["it is not for a.example"]
    assert "certbot certonly" in world.commands


@pytest.mark.parametrize("asked", [("b.example", "a.example"), ("A.Example", "b.example"), ("B.EXAMPLE", "a.Example")])
def test_other_case_and_order_are_the_same_names(world: World, asked: tuple[str, ...]) -> None:
    world.add(["a.example", "b.example"], 80)
    assert world.renewal(asked).apply()["outcome"] == "unchanged"
    world.add(["a.example", "b.example"], 3)
    world.brings = {"names": ["b.example", "a.example"], "days": 90}
    assert world.renewal(asked).apply()["outcome"] == "renewed"
    assert [command for command in world.commands if command.startswith("certbot")] == ["certbot renew"]
    assert world.renewal(asked).apply()["outcome"] == "unchanged"


def test_more_names_than_asked_are_no_reason(world: World) -> None:
    world.add(["a.example", "www.a.example"], 80)
    assert world.renewal().apply()["outcome"] == "unchanged"
    assert world.renewal(domains=()).apply()["outcome"] == "unchanged"


def test_due_by_suggestion(world: World) -> None:
    world.add(["a.example"], 80)
    world.window = authority.Window(now(), now(), now())
    assert world.renewal(use_ari=False).apply()["outcome"] == "unchanged"
    done = world.renewal().apply()
    assert done["outcome"] == "renewed" and "suggests" in done["reasons"][0] and done["renewal_window"]["due"]


def test_a_silent_authority_leaves_it_to_the_days(world: World) -> None:
    world.add(["a.example"], 80)
    world.window = Unavailable("acme.example: Connection refused")
    done = world.renewal().apply()
    assert (done["outcome"], done["renewal_window_problem"]) == ("unchanged", "acme.example: Connection refused")


def test_force(world: World) -> None:
    world.add(["a.example"], 80)
    assert world.renewal(force=True).apply()["outcome"] == "renewed"
    assert world.days_served() == 90


@pytest.mark.parametrize(("broken", "reason"), [("test", "configuration_broken"), ("reachable", "endpoint_unreachable")])
@pytest.mark.parametrize("check", [True, False])
def test_nothing_is_requested_for_a_server_that_cannot_use_it(world: World, broken: str, reason: str, check: bool) -> None:
    world.add(["a.example"], 5)
    before = world.state()
    world.refuses = broken if broken == "test" else None
    world.reachable = broken == "test"
    renewal = world.renewal()
    with pytest.raises(Refused) as caught:
        renewal.rehearse() if check else renewal.apply()
    assert caught.value.state["reason"] == reason and caught.value.state["outcome"] == "failed"
    assert world.state() == before and not [word for word in world.commands if word.startswith("certbot")]


def test_not_due_and_not_reached_is_said(world: World) -> None:
    world.add(["a.example"], 80)
    world.reachable = False
    done = world.renewal().apply()
    assert (done["changed"], done["outcome"]) == (False, "unchanged")
    assert "could not be looked at" in done["summary"]


def test_a_request_that_fails_changes_nothing(world: World) -> None:
    world.add(["a.example"], 5)
    before, world.brings = world.state(), None
    with pytest.raises(RenewalFailed) as caught:
        world.renewal().apply()
    assert (caught.value.state["reason"], caught.value.state["restored"]) == ("challenge_failed", True)
    assert caught.value.state["outcome"] == "failed" and world.state() == before
    assert "reload" not in world.commands


@pytest.mark.parametrize(
    ("how", "reason"), [("later test", "configuration_refused"), ("reload", "reload_failed"), ("deaf", "not_served")]
)
def test_a_server_that_does_not_take_it_keeps_the_old_one(world: World, how: str, reason: str) -> None:
    world.add(["a.example"], 5)
    before = world.state()
    world.refuses, world.deaf = (None, True) if how == "deaf" else (how, False)
    with pytest.raises(RenewalFailed) as caught:
        world.renewal().apply()
    assert (caught.value.state["reason"], caught.value.state["restored"]) == (reason, True)
    assert "renewed" not in caught.value.message
    assert world.state() == (before[0], before[1], [2], before[3]), "links and settings as before, the new one set aside"
    assert world.days_served() == 5
    world.refuses, world.deaf = None, False
    rehearsed = world.renewal().rehearse()
    assert rehearsed["outcome"] == "deployed"
    done = world.renewal().apply()
    assert (done["outcome"], world.days_served()) == ("deployed", 90)
    assert world.commands.count("certbot renew") == 1, "the authority was asked once"
    assert world.renewal().apply()["changed"] is False


def test_a_disk_that_is_full(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    link = world.place / "current"
    link.symlink_to(world.place / "placeholder")
    world.add(["a.example"], 5)
    world.serving, before = world.place / "placeholder" / "fullchain.pem", world.state()
    world.loaded = world.serving.read_text()

    def full(path: str, _target: str) -> None:
        raise OSError(28, "No space left on device", path)

    with monkeypatch.context() as patched, pytest.raises(RenewalFailed) as caught:
        patched.setattr(engine, "replace_link", full)
        world.renewal(link=str(link)).apply()
    assert caught.value.state["reason"] == "not_written" and "No space left" in caught.value.message
    assert world.state()[:2] == before[:2] and os.readlink(link) == str(world.place / "placeholder")


def test_force_does_not_take_the_one_that_waits(world: World) -> None:
    world.add(["a.example"], 5)
    world.add(["a.example"], 80, serve=False)
    world.lineage.point(1)
    world.lineage.set_aside(2)
    assert world.renewal(force=True).apply()["outcome"] == "renewed"
    assert world.days_served() == 90
    assert not [name for name in os.listdir(world.lineage.archive) if name.endswith(".undeployed")]


@pytest.mark.parametrize("days", [10, 80])
def test_one_that_waits_is_taken_only_while_it_is_good(world: World, days: float) -> None:
    world.add(["a.example"], 5)
    world.add(["a.example"], days, serve=False)
    world.lineage.point(1)
    world.lineage.set_aside(2)
    assert world.renewal().apply()["outcome"] == ("renewed" if days == 10 else "deployed")


def test_killed_before_the_reload(world: World) -> None:
    """The run after it finds the new certificate kept but not served."""
    world.add(["a.example"], 5)
    world.add(["a.example"], 90, serve=False)
    done = world.renewal().apply()
    assert (done["outcome"], world.days_served()) == ("deployed", 90)
    assert not [word for word in world.commands if word.startswith("certbot")]


def test_killed_between_two_links(world: World) -> None:
    world.add(["a.example"], 5)
    world.add(["a.example"], 90, serve=False)
    link = Path(world.lineage.live) / "privkey.pem"
    link.unlink()
    link.symlink_to("../../archive/api/privkey1.pem")
    done = world.renewal().apply()
    assert (done["outcome"], world.lineage.current(), world.days_served()) == ("deployed", 2, 90)


def test_killed_before_the_reload_and_the_server_deaf(world: World) -> None:
    """What is served is in the archive, so that is what the links go back to."""
    world.add(["a.example"], 5)
    world.add(["a.example"], 90, serve=False)
    world.deaf = True
    with pytest.raises(RenewalFailed):
        world.renewal().apply()
    assert world.state()[:3] == (1, [1], [2])


@pytest.mark.parametrize(
    ("brings", "reason"),
    [({"names": ["b.example"], "days": 90}, "not_usable"), ({"names": ["a.example"], "days": -0.5}, "not_usable")],
)
def test_what_certbot_brings_is_not_believed(world: World, brings: dict[str, t.Any], reason: str) -> None:
    world.add(["a.example"], 5)
    world.brings = brings
    with pytest.raises(RenewalFailed) as caught:
        world.renewal().apply()
    assert caught.value.state["reason"] == reason and world.lineage.current() == 1
    assert "reload" not in world.commands


def test_certbot_says_yes_and_does_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add(["a.example"], 5)
    monkeypatch.setattr(certbot, "request", lambda *_arguments, **_options: None)
    with pytest.raises(RenewalFailed) as caught:
        world.renewal().apply()
    assert caught.value.state["reason"] == "not_renewed"


def test_the_link_follows_and_goes_back(world: World) -> None:
    link = world.place / "current"
    link.symlink_to(world.place / "placeholder")
    world.deaf = True
    with pytest.raises(RenewalFailed) as caught:
        world.renewal(link=str(link)).apply()
    assert os.readlink(link) == str(world.place / "placeholder") and caught.value.state["restored"]
    world.deaf = False
    done = world.renewal(link=str(link)).apply()
    assert done["outcome"] == "deployed", "the first one waits in the lineage"
    assert os.path.realpath(link) == os.path.realpath(world.lineage.live)


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"endpoints": []}, "endpoints"),
        ({"reload_command": []}, "reload_command"),
        ({"renew_before_days": -1}, "renew_before_days"),
        ({"reload_timeout": 0}, "reload_timeout"),
        ({"probe_timeout": -1}, "probe_timeout"),
    ],
)
def test_bad_options(world: World, changes: dict[str, t.Any], option: str) -> None:
    good = world.renewal().request
    with pytest.raises(InvalidOption) as caught:
        dataclasses.replace(good, **changes)
    assert caught.value.state["option"] == option


def test_to_issue_needs_names_a_way_and_a_link_that_is_one(world: World) -> None:
    with pytest.raises(InvalidOption, match="domains"):
        world.renewal(domains=())
    good = world.renewal().request
    with pytest.raises(InvalidOption, match="authenticator"):
        Renewal(dataclasses.replace(good, order=dataclasses.replace(good.order, authenticator=None)))
    with pytest.raises(InvalidOption, match="not a symbolic link"):
        dataclasses.replace(good, link=str(world.place / "placeholder"))


def test_two_at_once(world: World) -> None:
    world.add(["a.example"], 5)
    with engine.exclusive_lock(f"{world.place}/.fileforge-api.lock", "another"), pytest.raises(Refused) as caught:
        world.renewal().apply()
    assert caught.value.state["reason"] == "locked"
