# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judging a certificate, served or in a file, and saying so as checks. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import os
import re
import ssl
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils import _process
from ansible_collections.fileforge.ops.plugins.module_utils._checks import CRITICAL, OK, UNKNOWN, WARNING, Check, grade
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, InvalidOption, OpsError, ProcessFailed
from ansible_collections.fileforge.ops.plugins.module_utils._time import iso, now
from ansible_collections.fileforge.ops.plugins.module_utils._tls import authority
from ansible_collections.fileforge.ops.plugins.module_utils._tls.certificate import Certificate, can_parse, from_pem
from ansible_collections.fileforge.ops.plugins.module_utils._tls.endpoint import Endpoint, HandshakeFailed, distrust, explain, look

RENEW = "renew it: playbooks/cert-renewal.yml"
RUNBOOK = "runbook: Maintenance Tasks, Certificate Renewal"
CHAIN = "serve the whole chain (fullchain.pem), or give ca_cert for a private authority"
REACH = "look whether this host reaches the authority: name server, firewall, proxy"
INSTALL = "install python3-cryptography"
NO_LIBRARY = "the Python library cryptography is not installed on this host (python3-cryptography)"
MINIMUM_RSA = 2048
_VERDICT = re.compile(r"error (\d+) at (\d+) depth lookup: ?(.*)")


@dataclasses.dataclass(frozen=True)
class Questions:
    """What is asked about a certificate."""

    name: str
    """In the ids of the checks."""
    hostname: str = ""
    """What it must be for; empty asks nothing."""
    warning_days: float = 30
    critical_days: float = 7
    ca_cert: str | None = None
    timeout: float = 10
    ocsp: bool = False
    acme_directory: str = ""
    acme_ca_cert: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.critical_days <= self.warning_days:
            raise InvalidOption("critical_days", self.critical_days, f"must be between 0 and warning_days ({self.warning_days:g})")
        if self.timeout <= 0:
            raise InvalidOption("timeout", self.timeout, "must be more than 0")

    def id(self, what: str) -> str:
        """Id of a check."""
        return f"certificate.{re.sub(r'[^a-z0-9_-]+', '-', self.name.lower()).strip('-')}.{what}"


@dataclasses.dataclass
class Findings:
    """The facts and the checks."""

    certificate: Certificate | None = None
    chain: tuple[Certificate, ...] = ()
    chain_known: bool = False
    version: str = ""
    checks: list[Check] = dataclasses.field(default_factory=list)
    window: authority.Window | None = None
    revocation: authority.Revocation | None = None

    def as_dict(self) -> dict[str, t.Any]:
        """For a module's result."""
        return {
            "certificate": self.certificate.as_dict() if self.certificate else None,
            "chain": [item.as_dict() for item in self.chain] if self.chain_known else None,
            "tls_version": self.version,
            "renewal_window": self.window.as_dict() if self.window else None,
            "ocsp": self.revocation.as_dict() if self.revocation else None,
        }


def examine_endpoint(endpoint: Endpoint, asked: Questions) -> Findings:
    """Look at what is served. Not reached is unknown; reached without TLS is critical."""
    found = Findings()
    what = f"the certificate of {endpoint}"
    try:
        served = look(endpoint, asked.timeout, asked.ca_cert)
    except OpsError as error:
        if isinstance(error, InvalidOption):
            raise
        broken = isinstance(error, HandshakeFailed) and can_parse()
        hint = error.hint or ("look at the server's TLS configuration and log" if broken else RUNBOOK)
        found.checks = _unseen(asked, error.message, CRITICAL if broken else UNKNOWN, hint)
        return found
    found.certificate, found.chain, found.chain_known = served.leaf, served.chain, served.chain_known
    found.version = served.version
    found.checks.append(Check(asked.id("presented"), OK, f"{endpoint} serves a certificate over {served.version}"))
    _judge(found, asked, what)

    def trusted(dates: bool) -> str:
        return distrust(endpoint, asked.timeout, asked.ca_cert, dates=dates)

    found.checks.append(_chain_check(found, asked, trusted, what))
    return found


def examine_file(path: str, asked: Questions) -> Findings:
    """Look at a PEM file: the certificate first, then the ones that signed it."""
    found = Findings()
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            chain = from_pem(stream.read(), path)
    except (OSError, IntegrityError) as error:
        text = f"{path}: {error.strerror}" if isinstance(error, OSError) else error.message
        status = UNKNOWN if isinstance(error, OSError) and not isinstance(error, FileNotFoundError) else CRITICAL
        found.checks = _unseen(asked, text, status, RUNBOOK)
        return found
    found.certificate, found.chain, found.chain_known = chain[0], tuple(chain), True
    found.checks.append(Check(asked.id("presented"), OK, f"{path} holds {len(chain)} certificates"))
    _judge(found, asked, f"the certificate in {path}")

    def trusted(dates: bool) -> str:
        return verify_chain(path, chain[0], asked, dates)

    found.checks.append(_chain_check(found, asked, trusted, f"the certificate in {path}"))
    return found


def verify_chain(path: str, leaf: Certificate, asked: Questions, dates: bool = True) -> str:
    """OpenSSL's verdict on the certificates of a file, as ``distrust`` gives it for served ones."""
    if asked.ca_cert is not None and not os.access(asked.ca_cert, os.R_OK):
        raise InvalidOption("ca_cert", asked.ca_cert, "cannot be read", hint="give a PEM file of authorities")
    argv = ["openssl", "verify", "-purpose", "sslserver", "-untrusted", os.path.abspath(path)]
    argv += ["-CAfile", os.path.abspath(asked.ca_cert)] if asked.ca_cert else []
    argv += [] if dates else ["-no_check_time"]
    done = _process.run(argv, timeout=asked.timeout, check=False, stdin=ssl.DER_cert_to_PEM_cert(leaf.der))
    if done.returncode == 0:
        return ""
    verdict = _VERDICT.search(done.stderr + done.stdout)
    if verdict is None:
        raise ProcessFailed(f"openssl verify said: {(done.stderr or done.stdout).strip()[:300]}")
    return explain(int(verdict[1]), verdict[3].strip())


def _unseen(asked: Questions, problem: str, status: str, hint: str) -> list[Check]:
    """The certificate could not be seen: so nothing is known about it."""
    checks = [Check(asked.id("presented"), status, problem, hint=hint)]
    names = ["expiry", "chain", *(["hostname"] if asked.hostname else []), *(["revocation"] if asked.ocsp else [])]
    names += ["renewal_window"] if asked.acme_directory else []
    return checks + [Check(asked.id(name), UNKNOWN, f"not seen: {problem}", hint=hint) for name in names]


def _judge(found: Findings, asked: Questions, what: str) -> None:
    """The checks that need only the certificate."""
    certificate = t.cast(Certificate, found.certificate)
    found.checks.append(_expiry(certificate, asked, what))
    if asked.hostname:
        good = certificate.covers(asked.hostname)
        names = ", ".join(certificate.names) or "no name at all"
        text = f"{what} is {'' if good else 'not '}for {asked.hostname}" + ("" if good else f" but for {names}")
        hint = "" if good else "issue one with the right domains, or correct the server's configuration"
        found.checks.append(
            Check(asked.id("hostname"), OK if good else CRITICAL, text, hint=hint, evidence=list(certificate.names))
        )
    found.checks.append(_key_check(certificate, asked, what))
    if asked.ocsp:
        found.checks.append(_revocation_check(found, asked, what))
    if asked.acme_directory:
        found.checks.append(_window_check(found, asked, what))


def _expiry(certificate: Certificate, asked: Questions, what: str) -> Check:
    days, status = certificate.days_left, OK
    if certificate.not_before > now():
        text, status = f"{what} is not valid before {iso(certificate.not_before)}", CRITICAL
    elif days < 0:
        text, status = f"{what} ended {-days:.1f} days ago", CRITICAL
    else:
        text, status = f"{what} is valid for {days:.1f} more days", grade(days, asked.warning_days, asked.critical_days)
        if asked.warning_days == asked.critical_days and days <= asked.critical_days:
            status = CRITICAL
    return Check(
        asked.id("expiry"),
        status,
        text,
        value=days,
        unit="days",
        warning=asked.warning_days,
        critical=asked.critical_days,
        hint="" if status == OK else RENEW,
        evidence={"not_before": iso(certificate.not_before), "not_after": iso(certificate.not_after)},
    )


def _key_check(certificate: Certificate, asked: Questions, what: str) -> Check:
    if not certificate.key_type:
        return Check(asked.id("key"), UNKNOWN, f"the key of {what} was not seen: {NO_LIBRARY}", hint=INSTALL)
    weak = certificate.key_type.startswith("RSA") and certificate.key_bits < MINIMUM_RSA
    text = f"{what} has a key of type {certificate.key_type}" + (f"; {MINIMUM_RSA} bits are the least" if weak else "")
    return Check(asked.id("key"), WARNING if weak else OK, text, value=certificate.key_type, hint=RENEW if weak else "")


def _chain_check(found: Findings, asked: Questions, distrusted: t.Callable[[bool], str], what: str) -> Check:
    """An expired certificate is judged by ``expiry``; its chain is judged as if it were not."""
    certificate = t.cast(Certificate, found.certificate)
    try:
        problem = distrusted(certificate.valid_now)
    except OpsError as error:
        if isinstance(error, InvalidOption):
            raise
        text, hint = f"the chain of {what} could not be judged: {error.message}", error.hint or RUNBOOK
        return Check(asked.id("chain"), UNKNOWN, text, hint=hint)
    sent = [item.subject for item in found.chain] if found.chain_known else None
    if problem:
        return Check(asked.id("chain"), CRITICAL, f"{what} would not be trusted: {problem}", hint=CHAIN, evidence=sent)
    short = [item for item in found.chain[1:] if item.days_left < min(asked.critical_days, certificate.days_left)]
    if found.chain_known and short:
        text = f"the chain of {what} is trusted, but {short[0].subject} in it ends in {short[0].days_left:.1f} days"
        return Check(asked.id("chain"), WARNING, text, hint=RENEW, evidence=sent)
    return Check(asked.id("chain"), OK, f"the chain of {what} is complete and trusted", evidence=sent)


def _revocation_check(found: Findings, asked: Questions, what: str) -> Check:
    certificate, identifier = t.cast(Certificate, found.certificate), asked.id("revocation")
    if not certificate.key_type:
        return Check(identifier, UNKNOWN, f"{what} was not asked about: {NO_LIBRARY}", hint=INSTALL)
    if not certificate.ocsp_urls:
        return Check(identifier, OK, f"{what} names no OCSP responder, so there is nothing to ask")
    if len(found.chain) < 2:
        return Check(identifier, UNKNOWN, f"the issuer of {what} was not seen, and OCSP needs it", hint=CHAIN)
    try:
        found.revocation = authority.revocation(certificate, found.chain[1], asked.timeout)
    except OpsError as error:
        return Check(identifier, UNKNOWN, f"the OCSP responder of {what} did not tell: {error.message}", hint=error.hint or REACH)
    state = found.revocation.state if found.revocation else "unknown"
    status = {"good": OK, "revoked": CRITICAL}.get(state, UNKNOWN)
    return Check(identifier, status, f"{what} is {state} by OCSP", value=state, hint="" if status == OK else RENEW)


def _window_check(found: Findings, asked: Questions, what: str) -> Check:
    certificate, identifier = t.cast(Certificate, found.certificate), asked.id("renewal_window")
    if not certificate.key_type:
        return Check(identifier, UNKNOWN, f"the authority was not asked about {what}: {NO_LIBRARY}", hint=INSTALL)
    try:
        found.window = authority.renewal_window(certificate, asked.acme_directory, asked.acme_ca_cert, asked.timeout)
    except InvalidOption:
        raise
    except OpsError as error:
        text = f"the authority did not tell when to renew {what}: {error.message}"
        return Check(identifier, UNKNOWN, text, hint=error.hint or REACH)
    if found.window is None:
        return Check(identifier, OK, f"the authority suggests no window for {what}")
    window = found.window
    text = f"the authority suggests to renew {what} between {iso(window.start)} and {iso(window.end)}"
    status = CRITICAL if window.end <= now() else WARNING if window.due else OK
    return Check(identifier, status, text, value=iso(window.moment), hint="" if status == OK else RENEW, evidence=window.as_dict())
