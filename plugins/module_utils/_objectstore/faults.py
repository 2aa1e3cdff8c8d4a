# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What boto3's errors mean: missing, denied, unavailable or damaged. PRIVATE to the collection."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    AccessDenied,
    IntegrityError,
    InvalidOption,
    NotFound,
    OpsError,
    Refused,
    Unavailable,
)

_CREDENTIALS: dict[str, tuple[str, str]] = {
    "InvalidAccessKeyId": ("the service does not know this access key", "check s3_access_key and that it belongs to this service"),
    "SignatureDoesNotMatch": (
        "the secret key does not belong to the access key",
        "check s3_secret_key, and that s3_region is right",
    ),
    "ExpiredToken": ("the temporary credentials have expired", "get new credentials and run again: finished work is kept"),
    "InvalidToken": ("the session token is not valid", "check s3_session_token: it goes with one access key only"),
    "RequestTimeTooSkewed": ("this host's clock differs too much from the service's", "correct the clock (NTP) and run again"),
    "AuthorizationHeaderMalformed": ("the request was signed for another region", "set s3_region to the bucket's region"),
    "AccountProblem": ("the account is closed or suspended", "ask the service's operator"),
}
_BUSY = {
    "SlowDown",
    "ServiceUnavailable",
    "InternalError",
    "RequestTimeout",
    "RequestTimeoutException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "BandwidthLimitExceeded",
    "OperationAborted",
}
_NO_BUCKET = {"NoSuchBucket"}
_NO_KEY = {"NoSuchKey", "NoSuchVersion", "NoSuchUpload"}
_DAMAGED = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "IncompleteBody", "InvalidRange", "InvalidPart", "416"}
_OFFLINE = {
    "EndpointConnectionError",
    "ConnectionError",
    "ConnectionClosedError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "HTTPClientError",
    "ProxyConnectionError",
    "SSLError",
    "ResponseStreamingError",
    "IncompleteReadError",
    "ProtocolError",
    "IncompleteRead",
    "TimeoutError",
    "ConnectionResetError",
    "BrokenPipeError",
}
_NO_CREDENTIALS = {
    "NoCredentialsError": "no credentials were found",
    "PartialCredentialsError": "the credentials are not complete",
    "CredentialRetrievalError": "the credentials could not be fetched",
    "ProfileNotFound": "the AWS configuration files have no such profile",
    "UnauthorizedSSOTokenError": "the single sign-on session has expired",
    "SSOTokenLoadError": "there is no single sign-on session",
}
_WRONG_OPTION = {"ParamValidationError", "InvalidRegionError", "NoRegionError", "UnknownEndpointError", "ValueError"}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a request went, for messages."""

    where: str
    bucket: str
    key: str | None = None
    secrets: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    def __str__(self) -> str:
        path = self.bucket if self.key is None else f"{self.bucket}/{self.key}"
        return f"s3://{printable(path)} at {self.where}"

    def state(self) -> dict[str, t.Any]:
        """The same as result keys."""
        state = {"bucket": self.bucket, "endpoint": self.where}
        return state if self.key is None else {**state, "key": self.key}

    def clean(self, text: str) -> str:
        """The text on one line, without secrets, not too long."""
        for secret in self.secrets:
            text = text.replace(secret, "********")
        return " ".join(text.split())[:300]


def printable(text: str) -> str:
    """The text with control and other unprintable characters escaped, so that a key cannot forge a line of output."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text)


def translate(error: Exception, action: str, place: Place, *, ask_bucket: t.Callable[[], None], in_body: bool = False) -> OpsError:
    """The OpsError that says what ``error`` means for ``action`` on ``place``.

    ``ask_bucket`` makes a request whose error tells more; it is used when the answer to HEAD had no code.
    """
    answer = getattr(error, "response", None)
    if isinstance(answer, dict) and "Error" in answer:
        return _of_answer(_Answer.of(answer), action, place, ask_bucket)
    return _of_exception(error, action, place, in_body)


@dataclasses.dataclass(frozen=True)
class _Answer:
    code: str
    status: int
    message: str

    @classmethod
    def of(cls, answer: dict[str, t.Any]) -> _Answer:
        problem = answer["Error"]
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return cls(str(problem.get("Code", status)), status, str(problem.get("Message", "")))

    @property
    def vague(self) -> bool:
        """Whether the answer had no body, as with HEAD: its code is then only the status."""
        return self.code == str(self.status) or self.code in ("NotFound", "Forbidden", "BadRequest")


def _of_answer(answer: _Answer, action: str, place: Place, ask_bucket: t.Callable[[], None]) -> OpsError:
    if answer.vague and answer.status in (400, 403, 404) and place.key is not None:
        sharper = _ask(ask_bucket, action, place)
        if sharper is not None:
            return sharper
    for meaning in (_credentials, _missing, _busy, _condition):
        found = meaning(answer, action, place)
        if found is not None:
            return found
    return OpsError(
        f"cannot {action} {place}: {answer.code}: {place.clean(answer.message)}",
        s3_code=answer.code,
        **place.state(),
    )


def _ask(ask_bucket: t.Callable[[], None], action: str, place: Place) -> OpsError | None:
    """The meaning of the bucket's own answer when that fails too; None when the bucket is fine."""
    try:
        ask_bucket()
    except Exception as error:  # pylint: disable=broad-except
        answer = getattr(error, "response", None)
        if not (isinstance(answer, dict) and "Error" in answer):
            return _of_exception(error, action, place, in_body=False)
        sharper = _Answer.of(answer)
        return None if sharper.vague or sharper.code == "AccessDenied" else _of_answer(sharper, action, place, lambda: None)
    return None


def _credentials(answer: _Answer, action: str, place: Place) -> OpsError | None:
    if answer.code in ("PermanentRedirect", "301", "IllegalLocationConstraintException"):
        return InvalidOption("s3_region", place.bucket, f"cannot {action} {place}: the bucket is in another region")
    if answer.code == "InvalidObjectState":
        return Refused(
            "object_archived",
            f"cannot {action} {place}: the object is in an archive class (such as Glacier)",
            hint="have the service restore it first, then run again",
            **place.state(),
        )
    if answer.code not in _CREDENTIALS and answer.status not in (401, 403):
        return None
    why, hint = _CREDENTIALS.get(
        answer.code, ("access denied", "check that the credentials may list, read and (for backups) write this bucket and prefix")
    )
    return AccessDenied(f"cannot {action} {place}: {why} ({answer.code})", hint=hint, s3_code=answer.code, **place.state())


def _missing(answer: _Answer, action: str, place: Place) -> OpsError | None:
    if answer.code in _NO_BUCKET or (answer.status == 404 and place.key is None):
        return NotFound(
            f"cannot {action} {place}: there is no bucket {place.bucket}",
            hint="check s3_bucket and s3_endpoint",
            reason="bucket",
            **place.state(),
        )
    if answer.code in _NO_KEY or answer.status == 404:
        return NotFound(f"cannot {action} {place}: there is no such object", reason="key", s3_code=answer.code, **place.state())
    return None


def _busy(answer: _Answer, action: str, place: Place) -> OpsError | None:
    if answer.code not in _BUSY and answer.status < 500 and answer.status not in (408, 429):
        return None
    return Unavailable(
        f"cannot {action} {place}: the service answered {answer.status} {answer.code}, after retries",
        hint="the service is overloaded or failing: run again later; finished work is kept",
        s3_code=answer.code,
        **place.state(),
    )


def _condition(answer: _Answer, action: str, place: Place) -> OpsError | None:
    if answer.status == 412 or answer.code in ("PreconditionFailed", "ConditionalRequestConflict"):
        return IntegrityError(
            f"cannot {action} {place}: the object is not the expected one any more: it was replaced meanwhile",
            hint="run again: the new object will be planned and used as a whole",
            reason="precondition",
            **place.state(),
        )
    if answer.code in _DAMAGED or answer.status == 416:
        return IntegrityError(
            f"cannot {action} {place}: {answer.code}: the bytes are not those that were promised",
            hint="the object is shorter than expected, or was damaged on its way: run again, or use another copy",
            s3_code=answer.code,
            **place.state(),
        )
    return None


def _of_exception(error: Exception, action: str, place: Place, in_body: bool) -> OpsError:
    names = [cls.__name__ for cls in type(error).__mro__]
    text = place.clean(str(error))
    for name in names:
        if name in _NO_CREDENTIALS:
            return AccessDenied(
                f"cannot {action} {place}: {_NO_CREDENTIALS[name]}",
                hint="give s3_access_key and s3_secret_key, s3_profile, or the environment that the AWS SDK reads",
                **place.state(),
            )
    if "SSLError" in names:
        return Unavailable(
            f"cannot {action} {place}: TLS failed: {text}",
            hint="if the service has a private authority, give its certificate in s3_ca_bundle",
            in_body=in_body,
            **place.state(),
        )
    if any(name in _OFFLINE for name in names):
        return Unavailable(
            f"cannot {action} {place}: {names[0]}: {text}",
            hint="check s3_endpoint, the network and that the service runs; then run again: finished work is kept",
            in_body=in_body,
            **place.state(),
        )
    if any(name in _WRONG_OPTION for name in names):
        return InvalidOption("s3_bucket/s3_endpoint/s3_region", place.bucket, f"cannot {action} {place}: {text}")
    return OpsError(f"cannot {action} {place}: {names[0]}: {text}", **place.state())
