# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers that are not success, as Kubernetes words them."""

from __future__ import annotations

import typing as t

from .objects import Object


class ApiError(Exception):
    """Becomes a Status object with its HTTP code."""

    def __init__(self, code: int, reason: str, message: str, **details: t.Any) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def status(self) -> Object:
        status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details:
            status["details"] = self.details
        return status


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden(resource: str, name: str, why: str) -> ApiError:
    return ApiError(403, "Forbidden", f'{resource} "{name}" is forbidden: {why}', name=name, kind=resource)


def no_such_path() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def not_found(resource: str, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{resource} "{name}" not found', name=name, kind=resource.split(".", maxsplit=1)[0])


def not_allowed() -> ApiError:
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def already_exists(resource: str, name: str) -> ApiError:
    return ApiError(409, "AlreadyExists", f'{resource} "{name}" already exists', name=name, kind=resource)


def conflict(resource: str, name: str, why: str) -> ApiError:
    message = f'Operation cannot be fulfilled on {resource} "{name}": {why}'
    return ApiError(409, "Conflict", message, name=name, kind=resource.split(".", maxsplit=1)[0])


def changed_meanwhile(resource: str, name: str) -> ApiError:
    return conflict(resource, name, "the object has been modified; please apply your changes to the latest version and try again")


def expired(oldest: int, asked: int) -> ApiError:
    return ApiError(410, "Expired", f"too old resource version: {asked} ({oldest})")


def invalid(kind: str, name: str, field: str, problem: str) -> ApiError:
    causes = [{"reason": "FieldValueInvalid", "message": problem, "field": field}]
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {field}: {problem}', name=name, kind=kind, causes=causes)
