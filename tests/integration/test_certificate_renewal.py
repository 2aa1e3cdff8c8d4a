# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""certbot against a real ACME server, nginx in between, and clients that connect all the time and never see a broken handshake."""

from __future__ import annotations

import datetime
import os
import stat
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import OpsError
from ansible_collections.fileforge.ops.plugins.modules import certificate_renewal as module

from tests.integration.acme import Clients, Site, fingerprint
from tests.lab.tls import NAME

if t.TYPE_CHECKING:
    from tests.integration.conftest import ModuleRunner, ModuleStarter

DISTRIBUTION = "/usr/bin/python3"


@pytest.fixture(scope="module")
def started(session_place: Path) -> t.Iterator[Site]:
    """nginx and the authority, for this file."""
    site = Site(session_place / "acme")
    try:
        yield site.start()
    finally:
        site.stop()


@pytest.fixture
def site(started: Site) -> t.Iterator[Site]:
    """No certificate yet: nginx serves the placeholder."""
    started.fresh()
    yield started
    hooks = started.paths.certbot / "renewal-hooks" / "deploy"
    for hook in hooks.iterdir() if hooks.is_dir() else ():
        hook.unlink()


@pytest.fixture
def clients(site: Site) -> t.Iterator[Clients]:
    """Connect during the whole test; any broken handshake or answer fails it."""
    with Clients(site.paths.ports["https"]) as connected:
        yield connected


def here(site: Site, **changes: t.Any) -> dict[str, t.Any]:
    """The module's work without Ansible; its result, also when it fails."""
    defaults = {name: spec.get("default") for name, spec in module.ARGUMENTS.items()}
    params = {**defaults, **site.options(**changes)}
    try:
        return module.operate(params, check=False, diff=False)
    except OpsError as error:
        return {"failed": True, **error.result()}


def kept(site: Site) -> dict[str, str]:
    """Links, numbered files and settings of the lineage, as they are on disk."""
    base = site.paths.certbot
    found = {str(link): os.readlink(link) for link in sorted((base / "live" / site.name).glob("*.pem"))}
    files = [*sorted((base / "archive" / site.name).iterdir()), base / "renewal" / f"{site.name}.conf"]
    return {**found, **{str(file): file.read_text() for file in files}}


def test_issue(site: Site, clients: Clients, run_module: ModuleRunner) -> None:
    """Predicted, done, and not done again; clients see the placeholder, then the new certificate."""
    placeholder = site.served()
    predicted = run_module("certificate_renewal", site.options(), check=True, diff=True)
    assert (predicted["changed"], predicted["outcome"], site.way.orders) == (True, "issued", 0)
    assert "request" in predicted["diff"]["after"] and not (site.paths.certbot / "live" / site.name).exists()
    done = run_module("certificate_renewal", site.options())
    assert (done["changed"], done["outcome"], site.way.orders) == (True, "issued", 1)
    assert done["plan"]["digest"] == predicted["plan"]["digest"]
    assert done["certificate"]["names"] == [NAME]
    assert done["certificate"]["fingerprint"] == done["served"][0]["fingerprint"] == site.served()
    again = run_module("certificate_renewal", site.options())
    assert (again["changed"], again["outcome"], site.way.orders) == (False, "unchanged", 1)
    assert clients.seen == [placeholder, site.served()]


def test_renewed_when_due(site: Site, clients: Clients, run_module: ModuleRunner) -> None:
    """With the distribution's Python and its library."""
    old = site.plant(10)
    done = run_module("certificate_renewal", site.options(), interpreter=DISTRIBUTION)
    assert (done["outcome"], done["previous"]["fingerprint"]) == ("renewed", old)
    assert done["reasons"] == ["10.0 days left, fewer than 30"] and "renewed" in done["summary"]
    assert site.served() == fingerprint(site.paths.certbot / "live" / site.name / "fullchain.pem") != old
    again = run_module("certificate_renewal", site.options(), interpreter=DISTRIBUTION)
    assert (again["changed"], again["outcome"], site.way.orders) == (False, "unchanged", 1)
    assert clients.seen[-2:] == [old, site.served()]


def test_not_due(site: Site, clients: Clients, run_module: ModuleRunner) -> None:
    old = site.plant(45)
    before = kept(site)
    done = run_module("certificate_renewal", site.options())
    assert (done["changed"], done["outcome"], site.served(), site.way.orders) == (False, "unchanged", old, 0)
    assert "renewed" not in done["summary"] and kept(site) == before


def test_authority_down(site: Site, clients: Clients, run_module: ModuleRunner) -> None:
    old = site.plant(10)
    before, site.way.state = kept(site), "closed"
    failed = run_module("certificate_renewal", site.options(), expect_failure=True)
    assert (failed["outcome"], failed["reason"], failed["restored"]) == ("failed", "authority_unavailable", True)
    assert failed["changed"] is False and failed["hint"] and "status page" in failed["hint"]
    assert site.served() == old and kept(site) == before
    site.way.state = "open"
    assert here(site)["outcome"] == "renewed"


def test_challenge_refused(site: Site, clients: Clients, run_module: ModuleRunner, place: Path) -> None:
    old = site.plant(10)
    before = kept(site)
    failed = run_module("certificate_renewal", site.options(webroot_path=str(place)), expect_failure=True)
    assert (failed["outcome"], failed["reason"], failed["restored"]) == ("failed", "challenge_failed", True)
    assert NAME in failed["msg"] and "unauthorized" in failed["msg"]
    assert site.served() == old and kept(site) == before


def test_configuration_broken_before(site: Site, clients: Clients, run_module: ModuleRunner) -> None:
    """Nothing is requested: it could not be used, and authorities count."""
    old = site.plant(10)
    before = kept(site)
    site.web.write_configuration("nonsense;")
    for check in (True, False):
        failed = run_module("certificate_renewal", site.options(), check=check, expect_failure=True)
        assert (failed["outcome"], failed["reason"], site.way.orders) == ("failed", "configuration_broken", 0)
        assert "nonsense" in failed["msg"]
    assert site.served() == old and kept(site) == before


def test_configuration_broken_meanwhile(site: Site, clients: Clients) -> None:
    """A hook of certbot breaks it. The old certificate is back; mended, the new one is taken without a second order."""
    old = site.plant(10)
    before = kept(site)
    hooks = site.paths.certbot / "renewal-hooks" / "deploy"
    hooks.mkdir(parents=True, exist_ok=True)
    hook = hooks / "break"
    hook.write_text(f"#!/bin/sh\necho 'nonsense;' >> {site.web.configuration}\n")
    hook.chmod(stat.S_IRWXU)
    failed = here(site)
    hook.unlink()
    assert (failed["outcome"], failed["reason"], site.served()) == ("failed", "configuration_refused", old)
    aside = {name for name in kept(site) if name.endswith(".undeployed")}
    assert {name: text for name, text in kept(site).items() if name not in aside} == before and len(aside) == 4
    site.web.write_configuration()
    done = here(site)
    assert (done["outcome"], site.way.orders) == ("deployed", 1)
    assert site.served() == done["certificate"]["fingerprint"] != old


def test_reload_without_effect(site: Site, clients: Clients, run_module: ModuleRunner) -> None:
    old = site.plant(10)
    deaf = site.options(reload_command=["true"], reload_timeout=1)
    failed = run_module("certificate_renewal", deaf, expect_failure=True)
    assert (failed["outcome"], failed["reason"], failed["restored"]) == ("failed", "not_served", True)
    assert "not in use" in failed["msg"] and failed["certificate"]["fingerprint"] == site.served() == old
    done = run_module("certificate_renewal", site.options())
    assert (done["outcome"], site.way.orders, site.served() != old) == ("deployed", 1, True)
    assert here(site)["outcome"] == "unchanged"


def test_rate_limit(site: Site, clients: Clients, run_module: ModuleRunner) -> None:
    old = site.plant(10)
    before, site.way.state = kept(site), "rate_limited"
    failed = run_module("certificate_renewal", site.options(), expect_failure=True)
    assert (failed["outcome"], failed["reason"], failed["retry_after"]) == ("failed", "rate_limited", 3600)
    assert (failed["restored"], site.served(), kept(site)) == (True, old, before)
    assert site.way.orders == 1, "asked once, not again and again"


def test_terms_are_for_the_user_to_agree_to(site: Site, clients: Clients, place: Path) -> None:
    """A new account needs it, and nobody agrees silently."""
    failed = here(site, agree_tos=False, config_directory=str(place))
    assert (failed["outcome"], failed["reason"], site.way.orders) == ("failed", "account", 0)


def test_the_authority_suggests_it(site: Site, clients: Clients) -> None:
    """Long before the days say so, and not before the suggested moment."""
    site.plant(80)
    now = datetime.datetime.now(datetime.timezone.utc)
    site.way.window = {
        "start": (now + datetime.timedelta(days=50)).isoformat(),
        "end": (now + datetime.timedelta(days=51)).isoformat(),
    }
    later = here(site)
    assert (later["outcome"], later["renewal_window"]["due"]) == ("unchanged", False)
    site.way.window = {
        "start": (now - datetime.timedelta(days=2)).isoformat(),
        "end": (now - datetime.timedelta(days=1)).isoformat(),
    }
    done = here(site)
    assert (done["outcome"], site.way.orders) == ("renewed", 1) and "suggests" in done["reasons"][0]


def test_nginx_proves_it(site: Site, clients: Clients) -> None:
    """certbot changes nginx's configuration for a moment, and leaves it as it was."""
    before = site.web.configuration.read_text()
    port = site.paths.ports["http"]
    arguments = [f"--http-01-port={port}", "--nginx-sleep-seconds=1"]
    done = here(site, authenticator="nginx", nginx_server_root=str(site.paths.nginx), certbot_arguments=arguments)
    assert done.get("outcome") == "issued", done
    assert site.web.configuration.read_text() == before


def test_dns_proves_a_wildcard(site: Site, clients: Clients, place: Path) -> None:
    hook = place / "publish"
    record = '{"host": "_acme-challenge.\'$CERTBOT_DOMAIN\'.", "value": "\'$CERTBOT_VALIDATION\'"}'
    hook.write_text(f"#!/bin/sh\ncurl -sf -d '{record}' {site.authority.names_url}/set-txt\n")
    hook.chmod(stat.S_IRWXU)
    wildcard = "*." + NAME.split(".", 1)[1]
    done = here(site, authenticator="dns_hook", dns_auth_hook=str(hook), domains=[wildcard])
    assert done.get("outcome") == "issued", done
    assert done["certificate"]["names"] == [wildcard] and site.served() == done["certificate"]["fingerprint"]


def test_killed_and_run_again(site: Site, clients: Clients, start_module: ModuleStarter) -> None:
    """SIGKILL when the order was placed; certbot itself lives on, and the next run waits for it and ends what was begun."""
    old = site.plant(10)
    run = start_module("certificate_renewal", site.options())
    run.wait_for(lambda: site.way.orders, what="the order")
    run.kill_controller()
    done = here(site)
    assert done.get("outcome") in ("renewed", "deployed"), done
    assert site.served() == done["certificate"]["fingerprint"] != old
    assert site.way.orders == 1
    assert here(site)["outcome"] == "unchanged"


def test_the_clients_would_have_noticed(site: Site) -> None:
    """A restart in place of a reload breaks connections, and the loop that all these tests rely on sees it."""
    with pytest.raises(AssertionError, match=r"refused|reset"), Clients(site.paths.ports["https"]):
        site.web.stop()
        site.web.start()
