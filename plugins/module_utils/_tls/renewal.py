# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renewing a certificate so that clients get the new one, or keep the old one. PRIVATE to the collection.

What is to be done is decided from three things: what certbot keeps (the lineage), what the endpoints serve, and what the authority
suggests. ``request`` asks the authority, ``adopt`` takes a certificate that an earlier run could not deploy, ``deploy`` makes the
server serve what is there. Each ends with a test of the server's configuration, a reload, and a look at what is served; when that
is not the new certificate, links and settings go back to the old one. Run again after a kill, it goes on from what it finds.
"""

from __future__ import annotations

import dataclasses
import os
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils import _process
from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    IntegrityError,
    InvalidOption,
    OpsError,
    ProcessFailed,
    Refused,
    WaitTimeout,
)
from ansible_collections.fileforge.ops.plugins.module_utils._files import exclusive_lock
from ansible_collections.fileforge.ops.plugins.module_utils._module import require_library
from ansible_collections.fileforge.ops.plugins.module_utils._plan import Plan, Step
from ansible_collections.fileforge.ops.plugins.module_utils._time import iso
from ansible_collections.fileforge.ops.plugins.module_utils._tls import authority, certbot
from ansible_collections.fileforge.ops.plugins.module_utils._tls.certificate import PACKAGE, Certificate
from ansible_collections.fileforge.ops.plugins.module_utils._tls.endpoint import Endpoint, look
from ansible_collections.fileforge.ops.plugins.module_utils._tls.lineage import Lineage, replace_link
from ansible_collections.fileforge.ops.plugins.module_utils._wait import wait_for

NOTHING, DEPLOY, ADOPT, REQUEST = "nothing", "deploy", "adopt", "request"
TIMES_IN_A_ROW = 3
"""How often an endpoint must serve the new certificate: while it reloads, an old worker may still answer."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What is wanted of the certificate and of the server."""

    order: certbot.CertbotOptions
    endpoints: t.Sequence[Endpoint]
    test_command: t.Sequence[str]
    reload_command: t.Sequence[str]
    renew_before_days: float = 30
    use_ari: bool = True
    force: bool = False
    link: str | None = None
    probe_timeout: float = 10
    command_timeout: float = 60
    reload_timeout: float = 30

    def __post_init__(self) -> None:
        for option in ("probe_timeout", "command_timeout", "reload_timeout"):
            if getattr(self, option) <= 0:
                raise InvalidOption(option, getattr(self, option), "must be more than 0")
        if self.renew_before_days < 0:
            raise InvalidOption("renew_before_days", self.renew_before_days, "must not be negative")
        if not self.endpoints:
            raise InvalidOption("endpoints", [], "what is served could not be looked at", hint="name at least one endpoint")
        if not self.reload_command:
            raise InvalidOption("reload_command", [], "without a reload the server keeps the old certificate")
        if self.link and os.path.lexists(self.link) and not os.path.islink(self.link):
            raise InvalidOption("link", self.link, "is not a symbolic link", hint="make it one, to the directory in use now")


class RenewalFailed(OpsError):
    """The new certificate is not served; ``restored`` says whether the old state is back."""

    code = "renewal_failed"


class Renewal:
    """One certificate, from the decision to what is served."""

    def __init__(self, request: Request) -> None:
        require_library("cryptography.x509", PACKAGE)
        self.request = request
        self.lineage = Lineage(request.order.config_directory, request.order.cert_name)
        self.previous = self._kept()
        if self.previous is None and not request.order.domains:
            raise InvalidOption("domains", [], "needed to issue a certificate that is not there yet")
        if self.previous is None and not request.order.authenticator:
            raise InvalidOption("authenticator", None, "needed to issue a certificate that is not there yet")
        self.served_before = self.look_at_endpoints()
        self.window: authority.Window | None = None
        self.window_problem = ""
        self.adopted: int | None = None
        self.reasons: list[str] = []
        self.action = self._decide()
        self.plan = self._plan()

    # --- decision ---

    def _kept(self) -> Certificate | None:
        """The newest certificate of the lineage that certbot uses, or would use but for half changed links."""
        if not self.lineage.exists():
            return None
        number = self.lineage.current()
        return self.lineage.certificate(number if number in self.lineage.versions() else self.lineage.versions()[-1])

    def _decide(self) -> str:
        self.reasons = self._due(self.previous) if self.previous is not None else ["there is no certificate yet"]
        if self.request.force:
            self.reasons.append("asked for")
        if self.reasons:
            self.adopted = None if self.request.force else self._adoptable()
            return ADOPT if self.adopted is not None else REQUEST
        self.reasons = self._not_deployed(t.cast(Certificate, self.previous))
        return DEPLOY if self.reasons else NOTHING

    def _due(self, certificate: Certificate) -> list[str]:
        """Why the authority is to be asked; nothing when it is not."""
        reasons = []
        if certificate.days_left < self.request.renew_before_days:
            reasons.append(f"{certificate.days_left:.1f} days left, fewer than {self.request.renew_before_days:g}")
        missing = certificate.lacks(self.request.order.domains)
        if missing:
            reasons.append(f"it is not for {', '.join(missing)}")
        if self.request.use_ari and not reasons:
            reasons += self._suggested(certificate)
        return reasons

    def _suggested(self, certificate: Certificate) -> list[str]:
        """What the authority suggests; not to learn it stops nothing, the days count then."""
        directory = self.request.order.acme_server or self.lineage.setting("server")
        if not directory:
            return []
        try:
            timeout = self.request.probe_timeout
            self.window = authority.renewal_window(certificate, directory, self.request.order.acme_ca_cert, timeout)
        except OpsError as error:
            self.window_problem = error.message
            return []
        return [f"the authority suggests to renew since {iso(self.window.moment)}"] if self.window and self.window.due else []

    def _adoptable(self) -> int | None:
        """The newest certificate set aside that needs no renewal itself."""
        for number in reversed(self.lineage.set_aside_versions()):
            try:
                if not self._due(self.lineage.check(number)):
                    return number
            except (IntegrityError, OSError):
                continue
        return None

    def _not_deployed(self, kept: Certificate) -> list[str]:
        """Why the server does not serve what is kept."""
        reasons = []
        if self.lineage.current() is None:
            reasons.append(f"the links in {self.lineage.live} do not agree")
        if self.request.link and not self._link_is_right():
            reasons.append(f"{self.request.link} does not lead to {self.lineage.live}")
        for endpoint, served in zip(self.request.endpoints, self.served_before):
            if served["fingerprint"] and served["fingerprint"] != kept.fingerprint:
                reasons.append(f"{endpoint} serves another certificate (until {served['not_after']})")
        return reasons

    def _link_is_right(self) -> bool:
        return os.path.realpath(str(self.request.link)) == os.path.realpath(self.lineage.live)

    def _plan(self) -> Plan:
        name, order = self.request.order.cert_name, self.request.order
        plan = Plan(f"certificate {name}")
        if self.action == NOTHING:
            return plan
        if self.action == REQUEST:
            names = ", ".join(order.domains or (self.previous.names if self.previous else ()))
            plan.steps.append(
                Step("request", name, detail=f"from the authority for {names} ({order.authenticator or 'as before'})")
            )
        elif self.action == ADOPT:
            plan.steps.append(Step("adopt", name, detail="the one that an earlier run could not deploy"))
        if self.request.link and not self._link_is_right():
            plan.steps.append(Step("link", self.request.link, detail=self.lineage.live))
        plan.steps.append(Step("test", " ".join(self.request.test_command) or "nothing"))
        plan.steps.append(Step("reload", " ".join(self.request.reload_command)))
        plan.steps += [Step("look", str(endpoint), detail="must serve the new certificate") for endpoint in self.request.endpoints]
        plan.notes += self.reasons
        return plan

    # --- what is served ---

    def look_at_endpoints(self) -> list[dict[str, t.Any]]:
        """What each endpoint serves now."""
        return [self.served(endpoint) for endpoint in self.request.endpoints]

    def served(self, endpoint: Endpoint) -> dict[str, t.Any]:
        """What one endpoint serves now."""
        fields: dict[str, t.Any] = {"endpoint": str(endpoint), "fingerprint": "", "serial": "", "not_after": None, "problem": ""}
        try:
            leaf = look(endpoint, self.request.probe_timeout).leaf
        except OpsError as error:
            return {**fields, "problem": error.message}
        return {**fields, "fingerprint": leaf.fingerprint, "serial": leaf.serial, "not_after": iso(leaf.not_after)}

    def test(self) -> None:
        """Let the server test its configuration."""
        if self.request.test_command:
            self._command(self.request.test_command, "configuration_refused")

    def reload(self) -> None:
        """Let the server read its configuration and certificates anew."""
        self._command(self.request.reload_command, "reload_failed")

    def _command(self, argv: t.Sequence[str], reason: str) -> None:
        try:
            _process.run(argv, timeout=self.request.command_timeout)
        except OpsError as error:
            raise ProcessFailed(error.message, reason=reason) from error

    # --- the deed ---

    def ready(self) -> None:
        """Refuse before anything is asked or changed: an unusable server would make a new certificate worth nothing."""
        if self.action == NOTHING:
            return
        unseen = [served["problem"] for served in self.served_before if served["problem"]]
        if unseen:
            raise Refused(
                "endpoint_unreachable",
                f"nothing was requested, because what is served cannot be looked at: {'; '.join(unseen)}",
                hint="start the server, or correct endpoints",
                **self.state("failed"),
            )
        try:
            self.test()
        except OpsError as error:
            raise Refused(
                "configuration_broken",
                f"nothing was requested, because the server refuses its own configuration: {error.message}",
                hint="correct the server's configuration, then run this again",
                **self.state("failed"),
            ) from error

    def rehearse(self) -> dict[str, t.Any]:
        """What would be done."""
        self.ready()
        would = {NOTHING: "unchanged", DEPLOY: "deployed", ADOPT: "deployed"}
        outcome = would.get(self.action, "renewed" if self.previous else "issued")
        return {"changed": self.action != NOTHING, **self.state(outcome), "summary": self._would()}

    def apply(self) -> dict[str, t.Any]:
        """Do it; raises RenewalFailed with the old state restored, or the reason why it is not."""
        self.ready()
        if self.action == NOTHING:
            return {"changed": False, **self.state("unchanged"), "summary": self._unchanged()}
        os.makedirs(self.request.order.config_directory, mode=0o755, exist_ok=True)
        if certbot.await_other(self.request.order):
            return Renewal(self.request).apply()  # it may have done what is to be done
        lock = os.path.join(self.request.order.config_directory, f".fileforge-{self.request.order.cert_name}.lock")
        with exclusive_lock(lock, f"renewal of {self.request.order.cert_name}"):
            undo = Undo(self)
            try:
                number = self._obtain()
                self.deploy(number)
            except OpsError as error:
                raise undo.failed(error) from error
            except OSError as error:
                raise undo.failed(OpsError(f"{error.filename or 'the disk'}: {error.strerror}", reason="not_written")) from error
            if self.action == REQUEST:
                self.lineage.drop_set_aside()
        outcome = "deployed" if self.action != REQUEST else "renewed" if self.previous else "issued"
        return {"changed": True, **self.state(outcome), "summary": self._done(outcome)}

    def _obtain(self) -> int:
        """The number of the version to deploy."""
        if self.action == ADOPT:
            self.lineage.bring_back(t.cast(int, self.adopted))
            return t.cast(int, self.adopted)
        if self.action == DEPLOY:
            return self.lineage.current() or self.lineage.versions()[-1]
        order = self.request.order
        same = self.previous is not None and (not order.domains or self.previous.has_exactly(order.domains))
        certbot.request(order, known=self.previous is not None, same_names=same)
        return self._obtained()

    def _obtained(self) -> int:
        """certbot says that it succeeded; believe the files only."""
        number = self.lineage.current()
        if number is None:
            raise certbot.RequestFailed("certbot ended well but left no certificate", reason="not_renewed")
        new = self.lineage.check(number)
        if self.previous is not None and new.fingerprint == self.previous.fingerprint:
            raise certbot.RequestFailed("certbot ended well but the certificate is the old one", reason="not_renewed")
        missing = new.lacks(self.request.order.domains)
        if missing or not new.valid_now:
            problem = (
                f"is not for {', '.join(missing)}" if missing else f"is valid from {iso(new.not_before)} to {iso(new.not_after)}"
            )
            raise certbot.RequestFailed(f"the certificate that certbot brought {problem}", reason="not_usable")
        return number

    def deploy(self, number: int) -> None:
        """Make the server serve a version, and see that it does."""
        certificate = self.lineage.check(number)
        if self.lineage.current() != number:
            self.lineage.point(number)
        if self.request.link and not self._link_is_right():
            replace_link(self.request.link, self.lineage.live)
        self.test()
        self.reload()
        self.await_served(certificate.fingerprint)

    def await_served(self, fingerprint: str) -> None:
        """Wait until every endpoint serves it, several times in a row."""
        rows = [0] * len(self.request.endpoints)

        def probe() -> list[dict[str, t.Any]]:
            served = self.look_at_endpoints()
            for place, item in enumerate(served):
                rows[place] = rows[place] + 1 if item["fingerprint"] == fingerprint else 0
            return served

        def done(_state: t.Any) -> bool:
            return min(rows) >= TIMES_IN_A_ROW

        wait_for("the new certificate to be served", probe, done, timeout=self.request.reload_timeout, interval=0.1)

    # --- what is told ---

    def state(self, outcome: str) -> dict[str, t.Any]:
        """The facts of a result."""
        kept = self._kept()
        return {
            "outcome": outcome,
            "reasons": self.reasons,
            "plan": self.plan.as_dict(),
            "certificate": kept.as_dict() if kept else None,
            "previous": self.previous.as_dict() if self.previous else None,
            "served": self.look_at_endpoints() if outcome in ("issued", "renewed", "deployed", "failed") else self.served_before,
            "renewal_window": self.window.as_dict() if self.window else None,
            "renewal_window_problem": self.window_problem,
        }

    def _would(self) -> str:
        if self.action == NOTHING:
            return self._unchanged()
        verb = {REQUEST: "request and deploy", ADOPT: "deploy the waiting", DEPLOY: "deploy the"}[self.action]
        return f"would {verb} certificate {self.request.order.cert_name}: {'; '.join(self.reasons)}"

    def _unchanged(self) -> str:
        kept = t.cast(Certificate, self.previous)
        unseen = [served["problem"] for served in self.served_before if served["problem"]]
        text = f"certificate {self.request.order.cert_name} is not due: {kept.days_left:.1f} days left"
        return f"{text}, but what is served could not be looked at: {'; '.join(unseen)}" if unseen else f"{text}, and it is served"

    def _done(self, outcome: str) -> str:
        kept = t.cast(Certificate, self._kept())
        where = ", ".join(map(str, self.request.endpoints))
        return (
            f"certificate {self.request.order.cert_name} was {outcome}, valid until {iso(kept.not_after)}, and is served by {where}"
        )


class Undo:
    """The state before, to go back to."""

    def __init__(self, renewal: Renewal) -> None:
        self.renewal = renewal
        lineage, request = renewal.lineage, renewal.request
        self.number = self._good_number()
        self.versions = lineage.versions()
        self.settings = lineage.settings()
        self.link = os.readlink(request.link) if request.link and os.path.islink(request.link) else None
        self.serving = [served["fingerprint"] for served in renewal.served_before]

    def _good_number(self) -> int | None:
        """The version that the links lead to; where only that one is to be deployed, the version that is served."""
        lineage = self.renewal.lineage
        if self.renewal.action != DEPLOY:
            return lineage.current()
        serving = {served["fingerprint"] for served in self.renewal.served_before}
        for number in reversed(lineage.versions()):
            if lineage.certificate(number).fingerprint in serving:
                return number
        return lineage.current()

    def failed(self, error: OpsError) -> RenewalFailed:
        """Go back, and explain what happened and what is served now."""
        renewal = self.renewal
        requested = isinstance(error, certbot.RequestFailed)
        try:
            changed = self._files()
            if not requested or changed:
                self._server()
            restored, problem = True, ""
        except (OpsError, OSError) as other:
            restored, problem = False, getattr(other, "message", str(other))
        reason = str(error.state.get("reason") or ("not_served" if isinstance(error, WaitTimeout) else error.code))
        message = error.message if requested else f"{self._what()}: {self._why(error)}"
        message += "; what was there before is in place" if restored else f"; and going back failed: {problem}"
        state = {key: value for key, value in error.state.items() if key not in ("reason", "argv", "rc", "last", "waited")}
        hint = error.hint or "look at the server's configuration and log; the new certificate waits and needs no new request"
        told = {**renewal.state("failed"), "reason": reason, "restored": restored, "changed": False}
        return RenewalFailed(message, hint=hint, **{**state, **told})

    def _what(self) -> str:
        obtained = "obtained" if self.renewal.action == REQUEST else "there"
        return f"a new certificate is {obtained} but not in use"

    def _why(self, error: OpsError) -> str:
        if not isinstance(error, WaitTimeout) or "last" not in error.state:
            return error.message
        last = error.state["last"]
        found = "; ".join(
            f"{item['endpoint']} {item['problem'] or 'serves the one until ' + str(item['not_after'])}" for item in last
        )
        return f"the server was reloaded and does not serve it within {self.renewal.request.reload_timeout:g} s ({found})"

    def _files(self) -> bool:
        """Links, versions and settings; whether anything had to go back."""
        lineage, request = self.renewal.lineage, self.renewal.request
        changed = False
        if self.link is not None and os.readlink(str(request.link)) != self.link:
            replace_link(str(request.link), self.link)
            changed = True
        if self.number is None:
            return changed  # nothing was there: the new lineage stays, and the next run deploys it
        if lineage.current() != self.number:
            lineage.point(self.number)
            changed = True
        for number in lineage.versions():
            if number > self.number:
                lineage.set_aside(number)
                changed = True
        if self.settings is not None:
            lineage.restore_settings(self.settings)
        return changed

    def _server(self) -> None:
        """A reload may have taken effect in part, so it is done again unless the old certificates are served."""
        renewal = self.renewal
        if [served["fingerprint"] for served in renewal.look_at_endpoints()] == self.serving:
            return
        renewal.test()
        renewal.reload()
        for endpoint, before in zip(renewal.request.endpoints, self.serving):
            wait_for(
                f"{endpoint} to serve the old certificate again",
                lambda endpoint=endpoint: renewal.served(endpoint),  # type: ignore[misc]
                lambda served, before=before: served["fingerprint"] == before,  # type: ignore[misc]
                timeout=renewal.request.reload_timeout,
                interval=0.1,
            )
