# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at what real sockets serve, good, broken and slow, and judging it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, Unavailable
from ansible_collections.fileforge.ops.plugins.module_utils._tls import endpoint as engine
from ansible_collections.fileforge.ops.plugins.module_utils._tls.endpoint import Endpoint, HandshakeFailed, distrust, look
from ansible_collections.fileforge.ops.plugins.module_utils._tls.examine import Findings, Questions, examine_endpoint, examine_file

from tests.lab.signer import Signer

Handler = t.Callable[[socket.socket], None]


class Server:
    """Accepts, and lets the handler do the rest."""

    def __init__(self, handler: Handler) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.handler = handler
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _address = self.listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self.handler(connection)

    def endpoint(self, **more: t.Any) -> Endpoint:
        return Endpoint("127.0.0.1", self.port, **more)


@pytest.fixture
def serve() -> t.Iterator[t.Callable[[Handler], Server]]:
    made: list[Server] = []

    def start(handler: Handler) -> Server:
        made.append(Server(handler))
        return made[-1]

    yield start
    for server in made:
        server.listener.close()


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer()


def tls(place: Path, seen: list[str] | None = None) -> Handler:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.load_cert_chain(place / "fullchain.pem", place / "privkey.pem")
    context.sni_callback = lambda _socket, name, _context: seen.append(name) if seen is not None and name else None

    def handle(connection: socket.socket) -> None:
        with contextlib.suppress(ssl.SSLError), context.wrap_socket(connection, server_side=True) as wrapped:
            wrapped.recv(1)

    return handle


def statuses(found: Findings) -> dict[str, str]:
    return {check.id.rsplit(".", 1)[1]: check.status for check in found.checks}


def asked(place: Path | None, **more: t.Any) -> Questions:
    fields = {"name": "a", "hostname": "a.example", "timeout": 5, **more}
    return Questions(ca_cert=str(place / "root.pem") if place else None, **fields)


def test_good(signer: Signer, tmp_path: Path, serve: t.Callable[[Handler], Server]) -> None:
    place, seen = signer.write(tmp_path / "a", ["a.example"], days=90), []
    endpoint = serve(tls(place, seen)).endpoint(server_name="a.example")
    found = examine_endpoint(endpoint, asked(place))
    assert set(statuses(found).values()) == {"ok"}, found.checks
    assert set(statuses(found)) == {"presented", "expiry", "hostname", "key", "chain"}
    assert set(seen) == {"a.example"}, "SNI was sent"
    assert found.chain_known and [item.subject for item in found.chain] == ["CN=a.example", "CN=intermediate"]
    assert found.version == "TLSv1.3" and found.checks[0].id == "certificate.a.presented"


@pytest.mark.parametrize(
    ("days", "begin", "status"),
    [
        (90, -1, "ok"),
        (30.5, -1, "ok"),
        (29.9, -1, "warning"),
        (7.5, -1, "warning"),
        (6.9, -1, "critical"),
        (-1, -9, "critical"),
        (90, 2, "critical"),
    ],
)
def test_expiry_and_its_thresholds(
    signer: Signer, tmp_path: Path, serve: t.Callable[[Handler], Server], days: float, begin: float, status: str
) -> None:
    """An expired or not yet valid certificate is described and its chain is judged apart from its dates."""
    place = signer.write(tmp_path / "a", ["a.example"], days=days, begin=begin)
    found = examine_endpoint(serve(tls(place)).endpoint(server_name="a.example"), asked(place))
    assert {**statuses(found), "expiry": "?"} == {"presented": "ok", "expiry": "?", "hostname": "ok", "key": "ok", "chain": "ok"}
    assert statuses(found)["expiry"] == status
    [expiry] = [check for check in found.checks if check.id.endswith("expiry")]
    assert expiry.value == pytest.approx(days, abs=0.02)
    assert ("cert-renewal" in expiry.hint) == (status != "ok")
    assert statuses(examine_file(str(place / "fullchain.pem"), asked(place))) == statuses(found)


def test_wrong_name_and_missing_intermediate(signer: Signer, tmp_path: Path, serve: t.Callable[[Handler], Server]) -> None:
    place = signer.write(tmp_path / "a", ["b.example"], chain=False)
    found = examine_endpoint(serve(tls(place)).endpoint(server_name="a.example"), asked(place))
    assert statuses(found) == {"presented": "ok", "expiry": "ok", "hostname": "critical", "key": "ok", "chain": "critical"}
    by_file = examine_file(str(place / "fullchain.pem"), asked(place))
    assert statuses(by_file) == statuses(found)
    for looked in (found, by_file):
        [chain] = [check for check in looked.checks if check.id.endswith("chain")]
        assert "not complete" in chain.summary or "without the one that signed it" in chain.summary


def test_a_weak_key_is_described(signer: Signer, tmp_path: Path, serve: t.Callable[[Handler], Server]) -> None:
    place = signer.write(tmp_path / "a", ["a.example"], rsa_bits=1024)
    found = examine_endpoint(serve(tls(place)).endpoint(server_name="a.example"), asked(place))
    assert statuses(found)["key"] == "warning" and statuses(found)["chain"] == "critical", "clients refuse it"


def test_unknown_authority(signer: Signer, tmp_path: Path, serve: t.Callable[[Handler], Server]) -> None:
    place, other = signer.write(tmp_path / "a", ["a.example"]), Signer("other").write(tmp_path / "b", ["a.example"])
    endpoint = serve(tls(place)).endpoint(server_name="a.example")
    assert distrust(endpoint, 5, str(place / "root.pem")) == ""
    assert "not trusted" in distrust(endpoint, 5, str(other / "root.pem"))
    assert statuses(examine_file(str(place / "fullchain.pem"), asked(other)))["chain"] == "critical"


def test_an_intermediate_that_ends_first(signer: Signer, tmp_path: Path) -> None:
    place = signer.write(tmp_path / "a", ["a.example"], days=2000)
    found = examine_file(str(place / "fullchain.pem"), asked(place, warning_days=1900, critical_days=950))
    assert statuses(found)["chain"] == "warning" and statuses(found)["expiry"] == "ok"


def test_unreachable_is_unknown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = examine_endpoint(Endpoint("127.0.0.1", port), asked(None))
    assert set(statuses(found).values()) == {"unknown"}
    assert "Connection refused" in found.checks[0].summary
    found = examine_endpoint(Endpoint("no-such-host.invalid"), asked(None))
    assert set(statuses(found).values()) == {"unknown"}


def test_answered_without_tls_is_critical(serve: t.Callable[[Handler], Server]) -> None:
    def plain(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    found = examine_endpoint(serve(plain).endpoint(), asked(None))
    assert statuses(found) == {"presented": "critical", "expiry": "unknown", "chain": "unknown", "hostname": "unknown"}


@pytest.mark.parametrize("what", ["silent", "trickle", "hang up"])
def test_one_deadline_for_everything(serve: t.Callable[[Handler], Server], what: str) -> None:
    """A peer that sends a byte now and then does not get a new timeout for each."""
    ended = threading.Event()

    def handle(connection: socket.socket) -> None:
        while what != "hang up" and not ended.wait(0.05):
            if what == "trickle":
                connection.sendall(b"\x16\x03\x03\x40\x00"[:1])

    begin = time.monotonic()
    with pytest.raises((Unavailable, HandshakeFailed)):
        look(serve(handle).endpoint(), 0.5)
    ended.set()
    assert time.monotonic() - begin < 5


def smtp(place: Path, refuse: str = "") -> Handler:
    secure = tls(place)

    def handle(connection: socket.socket) -> None:
        connection.sendall(b"220 mail ready\r\n")
        for command, answer in (("EHLO", b"250-mail\r\n250-SIZE 1000\r\n250 STARTTLS\r\n"), ("STARTTLS", b"220 go\r\n")):
            assert connection.recv(1000).startswith(command.encode())
            connection.sendall(b"454 no\r\n" if command == refuse else answer)
        secure(connection)

    return handle


def postgres(place: Path, answer: bytes = b"S") -> Handler:
    secure = tls(place)

    def handle(connection: socket.socket) -> None:
        assert connection.recv(8) == bytes.fromhex("0000000804d2162f")
        connection.sendall(answer)
        secure(connection)

    return handle


def test_starttls(signer: Signer, tmp_path: Path, serve: t.Callable[[Handler], Server]) -> None:
    place = signer.write(tmp_path / "a", ["a.example"])
    for kind, handler in (("smtp", smtp(place)), ("postgres", postgres(place))):
        found = examine_endpoint(serve(handler).endpoint(server_name="a.example", starttls=kind), asked(place))
        assert set(statuses(found).values()) == {"ok"}, (kind, found.checks)


def test_starttls_refused_is_critical(signer: Signer, tmp_path: Path, serve: t.Callable[[Handler], Server]) -> None:
    place = signer.write(tmp_path / "a", ["a.example"])
    for kind, handler, text in (
        ("smtp", smtp(place, "STARTTLS"), "'454 no' instead of 220"),
        ("postgres", postgres(place, b"N"), "ssl = off"),
        ("postgres", postgres(place, b"E"), "does not answer as PostgreSQL"),
    ):
        found = examine_endpoint(serve(handler).endpoint(starttls=kind), asked(place))
        assert found.checks[0].status == "critical" and text in found.checks[0].summary


def test_an_older_python_sees_less_but_judges_the_same(
    signer: Signer, tmp_path: Path, serve: t.Callable[[Handler], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_sent_chain", lambda _tls: [])
    place = signer.write(tmp_path / "a", ["a.example"])
    found = examine_endpoint(serve(tls(place)).endpoint(server_name="a.example"), asked(place))
    assert set(statuses(found).values()) == {"ok"} and found.as_dict()["chain"] is None


def test_without_the_library(
    signer: Signer, tmp_path: Path, serve: t.Callable[[Handler], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "can_parse", lambda: False)
    monkeypatch.setattr("ansible_collections.fileforge.ops.plugins.module_utils._tls.examine.can_parse", lambda: False)
    place, other = signer.write(tmp_path / "a", ["a.example"], days=20), Signer("other").write(tmp_path / "b", ["a.example"])
    endpoint = serve(tls(place)).endpoint(server_name="a.example")
    found = examine_endpoint(endpoint, asked(place, ocsp=True, acme_directory="https://acme.example/dir"))
    assert statuses(found) == {
        "presented": "ok",
        "expiry": "warning",
        "hostname": "ok",
        "key": "unknown",
        "revocation": "unknown",
        "renewal_window": "unknown",
        "chain": "ok",
    }
    untrusted = examine_endpoint(endpoint, asked(other))
    assert set(statuses(untrusted).values()) == {"unknown"}
    assert "python3-cryptography" in untrusted.checks[0].hint


@pytest.mark.parametrize(
    ("fields", "option"),
    [({"host": ""}, "host"), ({"port": 0}, "port"), ({"port": 70000}, "port"), ({"starttls": "ldap"}, "starttls")],
)
def test_bad_endpoints(fields: dict[str, t.Any], option: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        Endpoint(**{"host": "a.example", **fields})
    assert caught.value.state["option"] == option


def test_bad_questions(tmp_path: Path, signer: Signer, serve: t.Callable[[Handler], Server]) -> None:
    with pytest.raises(InvalidOption, match="critical_days"):
        Questions("a", warning_days=5, critical_days=9)
    with pytest.raises(InvalidOption, match="timeout"):
        Questions("a", timeout=0)
    place = signer.write(tmp_path / "a", ["a.example"])
    endpoint = serve(tls(place)).endpoint()
    for look_at in (lambda q: examine_endpoint(endpoint, q), lambda q: examine_file(str(place / "fullchain.pem"), q)):
        with pytest.raises(InvalidOption, match="ca_cert"):
            look_at(Questions("a", ca_cert=str(tmp_path / "absent.pem")))


def test_files_that_cannot_be_judged(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    assert statuses(examine_file(str(tmp_path / "empty.pem"), Questions("a")))["presented"] == "critical"
    assert statuses(examine_file(str(tmp_path / "absent.pem"), Questions("a")))["presented"] == "critical"
    (tmp_path / "directory").mkdir()
    assert statuses(examine_file(str(tmp_path / "directory"), Questions("a")))["presented"] == "unknown"
