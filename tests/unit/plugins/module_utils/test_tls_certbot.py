# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""certbot's command line, and its failures in words."""

from __future__ import annotations

import stat
import subprocess
import sys
import threading
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, WaitTimeout
from ansible_collections.fileforge.ops.plugins.module_utils._tls import certbot as engine
from ansible_collections.fileforge.ops.plugins.module_utils._tls.certbot import CertbotOptions, RequestFailed

HOLD = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"


def options(**changes: t.Any) -> CertbotOptions:
    return CertbotOptions(**{"cert_name": "api", "domains": ["a.example", "b.example"], **changes})


def test_an_order_names_everything() -> None:
    argv = engine.arguments(
        options(
            authenticator="webroot",
            webroot_path="/w",
            agree_tos=True,
            email="a@b.example",
            key_type="rsa",
            acme_server="https://c/dir",
        ),
        known=False,
        same_names=False,
    )
    text = " ".join(argv)
    assert text.startswith("certbot certonly --cert-name api --non-interactive --force-renewal --config-dir /etc/letsencrypt")
    assert "--domain a.example --domain b.example --webroot --webroot-path /w" in text
    assert "--agree-tos --email a@b.example" in text and "--key-type rsa" in text and "--server https://c/dir" in text
    assert "--renew-with-new-domains" not in text


def test_a_renewal_lets_the_names_alone_and_runs_the_hooks() -> None:
    text = " ".join(engine.arguments(options(), known=True, same_names=True))
    assert text.startswith("certbot renew --cert-name api") and "--domain" not in text
    assert "--no-random-sleep-on-renew" in text and "--server" not in text and "register" not in text


def test_other_names_are_a_new_order_under_the_old_name() -> None:
    text = " ".join(engine.arguments(options(), known=True, same_names=False))
    assert "certonly" in text and "--renew-with-new-domains --domain a.example" in text


def test_authenticators() -> None:
    nginx = options(authenticator="nginx", nginx_server_root="/n", certbot_arguments=["--http-01-port=81"])
    assert engine.arguments(nginx, known=True, same_names=True)[-4:] == [
        "--nginx",
        "--nginx-server-root",
        "/n",
        "--http-01-port=81",
    ]
    hook = options(authenticator="dns_hook", dns_auth_hook="/h", dns_cleanup_hook="/c", domains=["*.a.example"])
    text = " ".join(engine.arguments(hook, known=False, same_names=False))
    assert text.endswith("--manual --preferred-challenges dns --manual-auth-hook /h --manual-cleanup-hook /c")


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"authenticator": "webroot"}, "webroot_path"),
        ({"authenticator": "dns_hook"}, "dns_auth_hook"),
        ({"domains": ["a b"]}, "domains"),
        ({"domains": ["https://a.example"]}, "domains"),
        ({"domains": ["a.example,b.example"]}, "domains"),
        ({"domains": ["*.a.example"], "authenticator": "nginx"}, "authenticator"),
        ({"acme_ca_cert": "/no/such/file"}, "acme_ca_cert"),
    ],
)
def test_bad_options(changes: dict[str, t.Any], option: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        options(**changes)
    assert caught.value.state["option"] == option


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("Error: urn:ietf:params:acme:error:rateLimited :: There were too many requests of a given type", "rate_limited"),
        ("Domain: a\n  Type:   unauthorized\n  Detail: 404\nSome challenges have failed.", "challenge_failed"),
        ("Another instance of Certbot is already running.", "certbot_busy"),
        ("Requesting acme.example/dir: Connection refused", "authority_unavailable"),
        ("HTTPSConnectionPool: Read timed out. (read timeout=45)", "authority_unavailable"),
        ("Error: urn:ietf:params:acme:error:serverInternal :: oops", "authority_unavailable"),
        ("The requested nginx plugin does not appear to be installed", "authenticator_unavailable"),
        ("You must agree to the Terms of Service", "account"),
        ("Traceback", "certbot_failed"),
    ],
)
def test_reasons(output: str, reason: str) -> None:
    error = engine.failure(output, "/nowhere")
    assert error.state["reason"] == reason and error.hint
    assert error.state["certbot_output"] == output


def test_a_failed_challenge_is_told_with_its_detail() -> None:
    output = "blah\n  Domain: a.example\n  Type:   unauthorized\n  Detail: Invalid response: 404\nSome challenges have failed.\n"
    assert engine.failure(output, "/x").message == (
        "no certificate: Domain: a.example; Type: unauthorized; Detail: Invalid response: 404"
    )


def test_when_to_come_back(tmp_path: Path) -> None:
    (tmp_path / "letsencrypt.log").write_text("HTTP 201\nRetry-After: 3\n\nHTTP 429\nRetry-After: 7200\n")
    error = engine.failure("rateLimited", str(tmp_path))
    assert error.state["retry_after"] == 7200 and "7200" in error.hint
    assert engine.failure("rateLimited", "/nowhere").state["retry_after"] is None


def test_a_program_that_fails_hangs_or_is_not_there(tmp_path: Path) -> None:
    program = tmp_path / "certbot"
    program.write_text('#!/bin/sh\necho "$REQUESTS_CA_BUNDLE: Connection refused" >&2\nexit 1\n')
    program.chmod(stat.S_IRWXU)
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    with pytest.raises(RequestFailed) as caught:
        engine.request(options(certbot_path=str(program), acme_ca_cert=str(bundle)), known=True, same_names=True)
    assert caught.value.state["reason"] == "authority_unavailable" and str(bundle) in caught.value.message
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(RequestFailed) as caught:
        engine.request(options(certbot_path=str(program), certbot_timeout=0.2), known=True, same_names=True)
    assert caught.value.state["reason"] == "timeout"
    with pytest.raises(RequestFailed) as caught:
        engine.request(options(certbot_path=str(tmp_path / "absent")), known=True, same_names=True)
    assert caught.value.state["reason"] == "certbot_missing" and "apt-get install certbot" in caught.value.hint


def test_another_certbot_is_waited_for(tmp_path: Path) -> None:
    """By its lock, which ends with it."""
    order = options(config_directory=str(tmp_path))
    assert engine.await_other(order) is False
    (tmp_path / ".certbot.lock").touch()
    assert engine.await_other(order) is False
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / ".certbot.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin and holder.stdout and holder.stdout.readline() == b"held\n"
    assert engine.busy(str(tmp_path))
    with pytest.raises(WaitTimeout):
        engine.await_other(options(config_directory=str(tmp_path), certbot_timeout=0.1))
    threading.Timer(0.2, holder.stdin.close).start()
    assert engine.await_other(order) is True
    assert holder.wait(10) == 0
