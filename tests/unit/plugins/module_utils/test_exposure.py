# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a stranger sees: ports, versions of TLS, headers and paths, on servers that are as wrong as the tests want them."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, Unavailable
from ansible_collections.fileforge.ops.plugins.module_utils._exposure import ports, target, versions, web
from hypothesis import given
from hypothesis import strategies as st

from tests.lab.ports import free_port
from tests.lab.tls import self_signed

GOOD = {
    "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Content-Type": "text/html",
}


class Web:
    """A web server whose pages and headers the test decides."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.everything: bytes | None = None
        self.headers = dict(GOOD)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            server_version, sys_version = "web", ""

            def do_GET(self) -> None:
                body = outer.pages.get(self.path, outer.everything)
                self.send_response(404 if body is None else 200)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body or b"nothing")

            def log_message(self, *_details: object) -> None:
                """Stay quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def look(self, *accepted: str, **options: t.Any) -> dict[str, t.Any]:
        """Area to check."""
        made = target.Target(f"http://localhost:{self.port}/", address="127.0.0.1", accepted=accepted, **options)
        return {check.id.split(".")[1]: check for check in target.examine(made)}


@pytest.fixture
def site() -> t.Iterator[Web]:
    made = Web()
    yield made
    made.server.shutdown()
    made.server.server_close()


# Ports


@given(st.sets(st.integers(1, 65535), min_size=1, max_size=30))
def test_ranges_are_ports_in_order_each_once(wanted: set[int]) -> None:
    assert ports.ports_of([*map(str, wanted), f"{min(wanted)}-{min(wanted)}"]) == sorted(wanted)


@pytest.mark.parametrize("bad", ["0", "65536", "8-7", "http", "1-", "1,2", "-1"])
def test_bad_ranges_are_named(bad: str) -> None:
    with pytest.raises(InvalidOption, match="ports"):
        ports.ports_of([bad])


def test_open_ports_are_found_and_compared(site: Web) -> None:
    other = socket.create_server(("127.0.0.1", 0))
    port, closed = other.getsockname()[1], free_port()
    looked = {"ports": [str(site.port), str(port), str(closed)]}
    with other:
        found = site.look(expected_ports=[site.port], **looked)["ports"]
        assert (found.status, found.evidence["unexpected"], found.evidence["refused"]) == ("critical", [port], 1)
        assert str(port) in found.summary and "expected_ports" in found.hint
        assert site.look(f"port:{port}", expected_ports=[site.port], **looked)["ports"].status == "ok"
        assert site.look(expected_ports=[site.port, port], **looked)["ports"].status == "ok"
    missing = site.look(expected_ports=[site.port, port], **looked)["ports"]
    assert missing.status == "warning" and missing.evidence["missing"] == [port]
    assert "ports" not in site.look(), "without a list nothing is compared"


def test_a_host_that_is_not_known_is_unknown() -> None:
    checks = target.examine(target.Target("https://nobody.invalid/", expected_ports=[443], ports=["443"], timeout=2))
    assert {check.id: check.status for check in checks} == dict.fromkeys(
        ("exposure.ports", "exposure.tls", "exposure.headers", "exposure.paths"), "unknown"
    )
    assert all(check.hint and check.subject == "nobody.invalid" for check in checks)


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificate")
    self_signed(directory, ["localhost"])
    return directory


class TlsServer:
    """Handshakes with one configuration, as often as asked."""

    def __init__(self, certificate: Path, oldest: ssl.TLSVersion, newest: ssl.TLSVersion, ciphers: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "fullchain.pem", certificate / "privkey.pem")
        context.set_ciphers(ciphers)
        context.minimum_version, context.maximum_version = oldest, newest
        self.context = context
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = ("127.0.0.1", self.listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                accepted, _address = self.listener.accept()
            except OSError:
                return
            accepted.settimeout(5)
            try:
                self.context.wrap_socket(accepted, server_side=True).close()
            except OSError:
                accepted.close()


@pytest.mark.parametrize(
    ("oldest", "newest", "ciphers", "spoken", "weak", "status"),
    [
        ("TLSv1", "TLSv1_3", "ALL:@SECLEVEL=0", ["TLSv1.0", "TLSv1.1", "TLSv1.2", "TLSv1.3"], True, "critical"),
        ("TLSv1_2", "TLSv1_3", "DEFAULT", ["TLSv1.2", "TLSv1.3"], False, "ok"),
        ("TLSv1_3", "TLSv1_3", "DEFAULT", ["TLSv1.3"], False, "ok"),
        ("TLSv1_2", "TLSv1_2", "ALL:eNULL:@SECLEVEL=0", ["TLSv1.2"], True, "warning"),
    ],
)
def test_versions_and_weak_suites_are_found(
    certificate: Path, oldest: str, newest: str, ciphers: str, spoken: list[str], weak: bool, status: str
) -> None:
    with pytest.warns(DeprecationWarning) if oldest == "TLSv1" else _nothing():
        server = TlsServer(certificate, ssl.TLSVersion[oldest], ssl.TLSVersion[newest], ciphers)
    with server.listener:
        found = versions.look(server.address, "localhost", 5)
    assert found["versions"] == spoken and bool(found["weak"]) == weak, found
    check = versions.judge(found, "TLSv1.2", ())
    assert check.status == status and (check.hint or status == "ok")
    findings = [f"tls:{name}" for name in spoken] + [f"cipher:{suite}" for suite in found["weak"].values()]
    assert versions.judge(found, "TLSv1.3", findings).status == "ok"


class _nothing:
    def __enter__(self) -> None:
        """No warning is wanted."""

    def __exit__(self, *_details: object) -> None:
        """Nothing to do."""


def test_what_does_not_speak_tls_is_no_answer(site: Web) -> None:
    with pytest.raises(versions.NotTls):
        versions.look(("127.0.0.1", site.port), "localhost", 5)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Unavailable, match="no answer"):
        versions.look(silent.getsockname(), "localhost", 0.2)
    assert versions.judge({"versions": [], "weak": {}}, "TLSv1.2", ()).status == "unknown"


@given(st.binary(max_size=200))
def test_any_answer_is_read_or_refused(answer: bytes) -> None:
    try:
        found = versions.agreed(answer)
    except versions.NotTls:
        return
    assert found is None or len(found) == 2


# Headers


def test_good_headers_are_ok_and_each_missing_one_is_told(site: Web) -> None:
    assert site.look()["headers"].status == "ok"
    page = web.Page(200, {name.lower(): value for name, value in GOOD.items()}, b"")
    assert web.header_problems(page, "https") == {}
    for name in GOOD:
        if name != "Content-Type":
            less = {key: value for key, value in page.headers.items() if key != name.lower()}
            assert web.header_problems(web.Page(200, less, b""), "https"), name
    short = {**page.headers, "strict-transport-security": "max-age=3600"}
    assert list(web.header_problems(web.Page(200, short, b""), "https")) == ["strict-transport-security"]
    assert web.header_problems(web.Page(200, short, b""), "http") == {}, "it means nothing without TLS"


def test_headers_that_tell_what_runs_there(site: Web) -> None:
    site.headers["X-Powered-By"] = "PHP/8.1.2"
    found = site.look()["headers"]
    assert found.status == "warning" and "PHP/8.1.2" in found.evidence["x-powered-by"] and "header:x-powered-by" in found.hint
    assert site.look("header:x-powered-by")["headers"].status == "ok"


# Paths


def test_secrets_and_debug_pages_are_found_by_their_content(site: Web) -> None:
    assert site.look()["paths"].status == "ok"
    site.pages["/.git/HEAD"] = b"ref: refs/heads/main\n"
    site.pages["/metrics"] = b"# HELP requests_total Requests\nrequests_total 1\n"
    found = site.look()["paths"]
    assert found.status == "critical" and [item["path"] for item in found.evidence["found"]] == ["/.git/HEAD", "/metrics"]
    assert site.look("path:/.git/HEAD")["paths"].status == "warning"
    assert site.look("path:/.git/HEAD", "path:/metrics")["paths"].status == "ok"
    del site.pages["/.git/HEAD"]
    site.pages["/.env"] = b"DB_PASSWORD=hunter2\n"
    secret = site.look()["paths"]
    assert secret.status == "critical" and "hunter2" not in str(secret.as_dict()), "what was found is not told on"


def test_an_application_that_answers_everything_is_no_finding(site: Web) -> None:
    site.everything = b"<html><title>FileForge</title></html>"
    assert site.look()["paths"].status == "ok"
    site.everything = b"# HELP everything is the same page\n# TYPE x y\nservices:\nclusters:\n"
    assert site.look()["paths"].status == "ok", "also when it looks like something"


def test_a_debug_page_for_what_is_not_there(site: Web) -> None:
    site.everything = b"<h1>Error</h1> you see this because DEBUG = True"
    assert site.look()["paths"].status == "critical" and site.look("debug")["paths"].status == "ok"


def test_own_paths(site: Web) -> None:
    site.pages["/internal"] = b"for us only"
    own = {"path": "/internal", "pattern": "for us", "what": "the intranet", "status": "warning"}
    found = site.look(paths=[own])["paths"]
    assert found.status == "warning" and "/internal (the intranet)" in found.summary


def test_a_path_that_could_not_be_asked_is_unknown() -> None:
    check = web.judge_paths(([], False, ["/.env"]), 10, ())
    assert check.status == "unknown" and "/.env" in check.summary
    found = [web.Fingerprint("/x", "x", "x")]
    assert web.judge_paths((found, False, ["/.env"]), 10, ()).status == "critical", "what is found counts all the same"


def test_every_fingerprint_is_a_pattern_with_a_reason() -> None:
    assert len({item.path for item in web.FINGERPRINTS}) == len(web.FINGERPRINTS)
    for item in web.FINGERPRINTS:
        assert item.path.startswith("/") and item.what and item.status in ("warning", "critical")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"url": "ftp://x"}, "not an http"),
        ({"url": "https://user:secret@x/"}, "credentials"),
        ({"url": "https://x:99999/"}, "url"),
        ({"url": f"https://{'x' * 70}.example/"}, "url"),
        ({"accepted": ["everything"]}, "accepted"),
        ({"ports": ["x"]}, "ports"),
        ({"timeout": 0}, "timeout=0"),
        ({"paths": [{"path": "x", "pattern": "x", "what": "x", "status": "warning"}]}, "begins with /"),
        ({"paths": [{"path": "/x", "pattern": "(", "what": "x", "status": "warning"}]}, "regular expression"),
    ],
)
def test_bad_targets_are_named(changes: dict[str, t.Any], words: str) -> None:
    with pytest.raises(InvalidOption, match=words) as refused:
        target.Target(**{"url": "https://x/", **changes})
    assert "secret" not in str(refused.value)
