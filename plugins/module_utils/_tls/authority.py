# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the authority says about a certificate: when to renew it (ARI, RFC 9773) and whether it is revoked (OCSP). PRIVATE.

Private to the collection. An authority that offers neither is normal; one that does not answer is Unavailable.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import http.client
import json
import ssl
import typing as t
import urllib.error
import urllib.parse
import urllib.request

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, OpsError, Unavailable
from ansible_collections.fileforge.ops.plugins.module_utils._module import require_library
from ansible_collections.fileforge.ops.plugins.module_utils._time import UTC, iso, now, parse_time
from ansible_collections.fileforge.ops.plugins.module_utils._tls.certificate import PACKAGE, Certificate
from ansible_collections.fileforge.ops.plugins.module_utils._wait import retry

MAX_ANSWER = 64 * 1024


@dataclasses.dataclass(frozen=True)
class Window:
    """When the authority suggests to renew."""

    start: datetime.datetime
    end: datetime.datetime
    moment: datetime.datetime
    """The point in the window that this certificate takes: always the same one, different from other certificates'."""
    explanation: str = ""

    @property
    def due(self) -> bool:
        """Whether that point has come."""
        return now() >= self.moment

    def as_dict(self) -> dict[str, t.Any]:
        """For a module's result."""
        return {
            "start": iso(self.start),
            "end": iso(self.end),
            "moment": iso(self.moment),
            "due": self.due,
            "explanation_url": self.explanation,
        }


@dataclasses.dataclass(frozen=True)
class Revocation:
    """What an OCSP responder said; ``state`` is good, revoked or unknown."""

    state: str
    this_update: datetime.datetime
    next_update: datetime.datetime | None

    def as_dict(self) -> dict[str, t.Any]:
        """For a module's result."""
        return {"state": self.state, "this_update": iso(self.this_update), "next_update": iso(self.next_update)}


def renewal_window(certificate: Certificate, directory: str, ca_cert: str | None = None, timeout: float = 10) -> Window | None:
    """The suggested window of a certificate; None when the ACME server offers none, or the certificate is not its own."""
    if not certificate.ari_id:
        return None
    address = _json(directory, ca_cert, timeout).get("renewalInfo")
    if not address:
        return None
    try:
        answer = _json(f"{str(address).rstrip('/')}/{certificate.ari_id}", ca_cert, timeout)
    except _Absent:
        return None
    try:
        start, end = (parse_time(str(answer["suggestedWindow"][name]), name) for name in ("start", "end"))
    except (KeyError, TypeError, OpsError) as error:
        raise Unavailable(f"{address}: not renewal information: {error}") from error
    share = int.from_bytes(hashlib.sha256(certificate.ari_id.encode()).digest()[:4], "big") / 2**32
    return Window(start, end, start + (end - start) * share, str(answer.get("explanationURL") or ""))


def revocation(certificate: Certificate, issuer: Certificate, timeout: float = 10) -> Revocation | None:
    """Ask the certificate's OCSP responder; None when it names none. The answer must be signed by the issuer or its delegate."""
    if not certificate.ocsp_urls:
        return None
    ocsp = require_library("cryptography.x509.ocsp", PACKAGE)
    x509 = require_library("cryptography.x509", PACKAGE)
    hashes = require_library("cryptography.hazmat.primitives.hashes", PACKAGE)
    serialization = require_library("cryptography.hazmat.primitives.serialization", PACKAGE)
    parsed, signer = (x509.load_der_x509_certificate(item.der) for item in (certificate, issuer))
    request = ocsp.OCSPRequestBuilder().add_certificate(parsed, signer, hashes.SHA1()).build()  # the hash that names the issuer
    url = certificate.ocsp_urls[0]
    headers = {"Content-Type": "application/ocsp-request"}
    body = _fetch(url, None, timeout, request.public_bytes(serialization.Encoding.DER), headers)
    try:
        answer = ocsp.load_der_ocsp_response(body)
    except ValueError as error:
        raise Unavailable(f"{url}: not an OCSP response: {error}") from error
    if answer.response_status != ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise Unavailable(f"{url}: answered {answer.response_status.name.lower()}")
    if answer.serial_number != parsed.serial_number or not _signed(answer, signer):
        raise Unavailable(f"{url}: the answer is not about this certificate, or not signed by its issuer")
    found = Revocation(
        answer.certificate_status.name.lower(), *(_ocsp_date(answer, name) for name in ("this_update", "next_update"))
    )
    if found.next_update is not None and found.next_update < now():
        raise Unavailable(f"{url}: the answer is out of date since {iso(found.next_update)}")
    return found


class _Absent(OpsError):
    """The address does not exist."""


def _json(url: str, ca_cert: str | None, timeout: float) -> dict[str, t.Any]:
    try:
        document = json.loads(_fetch(url, ca_cert, timeout))
    except ValueError as error:
        raise Unavailable(f"{url}: the answer is not JSON") from error
    if not isinstance(document, dict):
        raise Unavailable(f"{url}: the answer is not a JSON object")
    return document


def _fetch(
    url: str, ca_cert: str | None, timeout: float, data: bytes | None = None, headers: t.Mapping[str, str] | None = None
) -> bytes:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise InvalidOption("url", url, "not an http or https URL")
    try:
        context = ssl.create_default_context(cafile=ca_cert)
    except (OSError, ssl.SSLError) as error:
        raise InvalidOption("ca_cert", ca_cert, f"cannot be used: {error}", hint="give a PEM file of authorities") from error
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
    sent = {"User-Agent": "fileforge.ops", **(headers or {})}
    request = urllib.request.Request(url, data=data, headers=sent)  # noqa: S310 - the scheme was checked

    def ask() -> bytes:
        with opener.open(request, timeout=timeout) as answer:
            body: bytes = answer.read(MAX_ANSWER)
            return body

    try:
        return retry(url, ask, retry_on=(urllib.error.URLError, OSError, http.client.HTTPException), attempts=2)
    except Unavailable as error:
        if isinstance(error.__cause__, urllib.error.HTTPError) and error.__cause__.code in (404, 409):
            raise _Absent(f"{url}: {error.__cause__.code}") from error
        raise


def _ocsp_date(answer: t.Any, name: str) -> t.Any:
    value = getattr(answer, f"{name}_utc", None)
    if value is None and getattr(answer, name, None) is not None:
        value = getattr(answer, name).replace(tzinfo=UTC)
    return value


def _signed(answer: t.Any, issuer: t.Any) -> bool:
    """Signed by the issuer, or by a certificate that the issuer signed for that purpose."""
    if _verifies(issuer.public_key(), answer.signature, answer.tbs_response_bytes, answer.signature_hash_algorithm):
        return True
    for delegate in answer.certificates:
        usages = [ext.value for ext in delegate.extensions if ext.oid.dotted_string == "2.5.29.37"]
        allowed = any(usage.dotted_string == "1.3.6.1.5.5.7.3.9" for found in usages for usage in found)
        own = _verifies(issuer.public_key(), delegate.signature, delegate.tbs_certificate_bytes, delegate.signature_hash_algorithm)
        key = delegate.public_key()
        if allowed and own and _verifies(key, answer.signature, answer.tbs_response_bytes, answer.signature_hash_algorithm):
            return True
    return False


def _verifies(key: t.Any, signature: bytes, content: bytes, algorithm: t.Any) -> bool:
    padding = require_library("cryptography.hazmat.primitives.asymmetric.padding", PACKAGE)
    ec = require_library("cryptography.hazmat.primitives.asymmetric.ec", PACKAGE)
    invalid = require_library("cryptography.exceptions", PACKAGE).InvalidSignature
    more = [ec.ECDSA(algorithm)] if hasattr(key, "curve") else [padding.PKCS1v15(), algorithm] if hasattr(key, "key_size") else []
    try:
        key.verify(signature, content, *more)
    except (invalid, TypeError):
        return False
    return True
