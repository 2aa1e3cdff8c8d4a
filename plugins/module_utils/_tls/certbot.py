# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running certbot, and saying why it failed in a word that automation can act on. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import re
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils import _process
from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    InvalidOption,
    OpsError,
    ProcessFailed,
    WaitTimeout,
)
from ansible_collections.fileforge.ops.plugins.module_utils._wait import wait_for

AUTHENTICATORS = ("webroot", "nginx", "dns_hook")
_REASONS: tuple[tuple[str, str, str], ...] = (
    (
        "rate_limited",
        r"rateLimited|too many (certificates|requests|failed authorizations)",
        "wait until the authority's limit ends",
    ),
    (
        "challenge_failed",
        r"challenges have failed|failed to authenticate some domains|urn:ietf:params:acme:error:(unauthorized|connection|dns|caa)",
        "make the challenge reachable: port 80 and the webroot from outside, or the DNS record",
    ),
    ("certbot_busy", r"Another instance of Certbot is already running", "wait for the other certbot, or for its timer"),
    (
        "authority_unavailable",
        r"Connection refused|Name or service not known|Temporary failure in name resolution|Network is unreachable|timed out|"
        r"Connection reset|Connection aborted|No route to host|CERTIFICATE_VERIFY_FAILED|certificate verify failed|"
        r"serverInternal|Service (Unavailable|busy)|Bad Gateway|SSLError",
        "look at the authority's status page, at this host's way out, and at acme_server and acme_ca_cert",
    ),
    (
        "authenticator_unavailable",
        r"plugin is not working|does not appear to be installed|Could not choose appropriate plugin|requested .+ plugin",
        "install and configure certbot's plugin, for example python3-certbot-nginx",
    ),
    (
        "account",
        r"--agree-tos|agree to the|Terms of Service|accountDoesNotExist|externalAccountRequired",
        "set agree_tos and email",
    ),
)
_DETAIL = re.compile(r"^\s*(?:Domain|Type|Detail|Error|Failed to renew certificate|An unexpected error|Hint)\b.*", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class CertbotOptions:
    """What certbot is called with."""

    cert_name: str
    domains: t.Sequence[str] = ()
    authenticator: str | None = None
    webroot_path: str | None = None
    dns_auth_hook: str | None = None
    dns_cleanup_hook: str | None = None
    nginx_server_root: str | None = None
    email: str | None = None
    agree_tos: bool = False
    acme_server: str | None = None
    acme_ca_cert: str | None = None
    key_type: str | None = None
    certbot_path: str = "certbot"
    config_directory: str = "/etc/letsencrypt"
    work_directory: str = "/var/lib/letsencrypt"
    logs_directory: str = "/var/log/letsencrypt"
    certbot_arguments: t.Sequence[str] = ()
    certbot_timeout: float = 300

    def __post_init__(self) -> None:
        needs = {"webroot": ("webroot_path",), "dns_hook": ("dns_auth_hook",)}.get(self.authenticator or "", ())
        for option in needs:
            if not getattr(self, option):
                raise InvalidOption(option, getattr(self, option), f"needed for authenticator={self.authenticator}")
        for domain in self.domains:
            if not re.fullmatch(r"(\*\.)?[^\s/:*@,]+", domain):
                raise InvalidOption("domains", domain, "not a domain name", hint="a name such as api.example.org or *.example.org")
        if self.authenticator in ("webroot", "nginx") and any(domain.startswith("*.") for domain in self.domains):
            raise InvalidOption("authenticator", self.authenticator, "cannot prove a wildcard", hint="use dns_hook")
        if self.acme_ca_cert is not None and not os.access(self.acme_ca_cert, os.R_OK):
            raise InvalidOption("acme_ca_cert", self.acme_ca_cert, "cannot be read")


class RequestFailed(OpsError):
    """certbot did not bring a certificate; ``reason`` is a stable word."""

    code = "request_failed"


def arguments(options: CertbotOptions, *, known: bool, same_names: bool) -> list[str]:
    """certbot's command line: a renewal when nothing but time has changed, or else an order for these names."""
    renew = known and same_names
    argv = [options.certbot_path, "renew" if renew else "certonly", "--cert-name", options.cert_name]
    argv += ["--non-interactive", "--force-renewal"]
    argv += ["--no-random-sleep-on-renew"] if renew else []
    for option, value in (
        ("--config-dir", options.config_directory),
        ("--work-dir", options.work_directory),
        ("--logs-dir", options.logs_directory),
        ("--server", options.acme_server),
        ("--key-type", options.key_type),
    ):
        argv += [option, value] if value else []
    argv += ["--agree-tos"] if options.agree_tos else []
    argv += ["--email", options.email] if options.email else ["--register-unsafely-without-email"] if options.agree_tos else []
    if not renew:
        argv += ["--renew-with-new-domains"] if known else []
        argv += [word for domain in options.domains for word in ("--domain", domain)]
    return [*argv, *_authenticator(options), *options.certbot_arguments]


def _authenticator(options: CertbotOptions) -> list[str]:
    if options.authenticator == "webroot":
        return ["--webroot", "--webroot-path", str(options.webroot_path)]
    if options.authenticator == "nginx":
        return ["--nginx", *(["--nginx-server-root", options.nginx_server_root] if options.nginx_server_root else [])]
    if options.authenticator == "dns_hook":
        argv = ["--manual", "--preferred-challenges", "dns", "--manual-auth-hook", str(options.dns_auth_hook)]
        return argv + (["--manual-cleanup-hook", options.dns_cleanup_hook] if options.dns_cleanup_hook else [])
    return []


def request(options: CertbotOptions, *, known: bool, same_names: bool) -> None:
    """Run certbot to its end; raises RequestFailed."""
    argv = arguments(options, known=known, same_names=same_names)
    env = {"REQUESTS_CA_BUNDLE": os.path.abspath(options.acme_ca_cert)} if options.acme_ca_cert else None
    try:
        done = _process.run(argv, timeout=options.certbot_timeout, check=False, env=env)
    except ProcessFailed as error:
        raise RequestFailed(error.message, hint="apt-get install certbot", reason="certbot_missing") from error
    except WaitTimeout as error:
        raise RequestFailed(
            f"certbot did not end within {options.certbot_timeout:g} s",
            hint="look at the authority and at certbot's log; raise certbot_timeout when the challenge needs longer",
            reason="timeout",
        ) from error
    if done.returncode != 0:
        raise failure(f"{done.stdout}\n{done.stderr}", options.logs_directory)


def await_other(options: CertbotOptions) -> bool:
    """Wait until no other certbot works in the directory; whether there was one. Raises WaitTimeout."""
    if not busy(options.config_directory):
        return False
    wait_for(
        "the certbot that is running already to end",
        lambda: busy(options.config_directory),
        lambda is_busy: not is_busy,
        timeout=options.certbot_timeout,
    )
    return True


def busy(config_directory: str) -> bool:
    """Whether a certbot holds its lock on the directory."""
    try:
        handle = os.open(os.path.join(config_directory, ".certbot.lock"), os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def failure(output: str, logs_directory: str) -> RequestFailed:
    """certbot's output as an error."""
    for word, pattern, advice in _REASONS:
        if re.search(pattern, output):
            reason, hint = word, advice
            break
    else:
        reason, hint = "certbot_failed", f"look at {os.path.join(logs_directory, 'letsencrypt.log')}"
    details = [" ".join(line.split()) for line in _DETAIL.findall(output)]
    details = details or [" ".join(line.split()) for line in output.strip().splitlines()[-3:]]
    state: dict[str, t.Any] = {"reason": reason, "certbot_output": output.strip()[-2000:]}
    if reason == "rate_limited":
        state["retry_after"] = _retry_after(logs_directory)
        hint += f" ({state['retry_after']} s from now, it says)" if state["retry_after"] is not None else ""
    return RequestFailed(f"no certificate: {'; '.join(dict.fromkeys(details))[:600]}", hint=hint, **state)


def _retry_after(logs_directory: str) -> int | None:
    """certbot tells it to its log only."""
    try:
        with open(os.path.join(logs_directory, "letsencrypt.log"), encoding="utf-8", errors="replace") as stream:
            found = re.findall(r"^Retry-After: (\d+)\s*$", stream.read(), re.MULTILINE | re.IGNORECASE)
    except OSError:
        return None
    return int(found[-1]) if found else None
