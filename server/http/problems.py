"""Refusals of the API, as problem details: JSON with status, title, detail and our stable code.

Source: RFC 9457; RFC 6750, section 3 (the challenge of 401 and 403); docs/reference/api.md, Errors.
"""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web

from dropoff_tus.errors import (
    DropoffError,
    InvalidFieldError,
    MethodNotAllowedError,
    ScopeMissingError,
    UnauthorizedError,
)

PREFIX = "/api/"
CONTENT_TYPE = "application/problem+json"
SECURITY_HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), screen-wake-lock=()",
    "Referrer-Policy": "no-referrer",
}
"""For the API, and for the page where it says nothing else."""
_REALM = 'Bearer realm="dropoff-tus"'
_CODES = {404: "ERR_NOT_FOUND", 405: "ERR_METHOD_NOT_ALLOWED", 413: "ERR_TOO_LARGE"}


class InvalidRequestError(DropoffError, code="ERR_INVALID_REQUEST", status=400):
    """The request is not what the API's description says. `errors` has a pair of place and problem for each mistake."""

    def __init__(self, message: str, errors: Sequence[tuple[str, str]] = ()) -> None:
        """Keep the mistakes."""
        super().__init__(message)
        self.errors = errors


class InvalidContentError(InvalidRequestError, code="ERR_INVALID_CONTENT", status=422):
    """The body is JSON, but not what the API's description says."""


class UnsupportedTypeError(DropoffError, code="ERR_UNSUPPORTED_TYPE", status=415):
    """The body is not sent as JSON."""


class TooLargeError(DropoffError, code="ERR_TOO_LARGE", status=413, close_connection=True):
    """The body is larger than any the API takes."""


class RangeError(DropoffError, code="ERR_RANGE_NOT_SATISFIABLE", status=416):
    """No byte of the upload is in the range."""

    def __init__(self, message: str, *, size_bytes: int) -> None:
        """Keep how many bytes there are."""
        super().__init__(message)
        self.size_bytes = size_bytes


class NotFinishedError(DropoffError, code="ERR_NOT_FINISHED", status=409):
    """Only finished uploads have this."""


class SealedError(DropoffError, code="ERR_SEALED", status=403):
    """The upload is sealed, so the server cannot read it."""


def is_api(request: web.BaseRequest) -> bool:
    """Tell whether a request is for the API."""
    return request.path.startswith(PREFIX)


def is_own(request: web.BaseRequest) -> bool:
    """Tell whether a request is for what no other site may use: the API, and the page with what belongs to it."""
    return is_api(request) or request.path.startswith("/d/")


def problem(error: DropoffError) -> web.Response:
    """Return the response for a refusal."""
    members: dict[str, Any] = {}
    headers: dict[str, str] = {}
    if isinstance(error, InvalidRequestError) and error.errors:
        members["errors"] = [{"at": at, "detail": detail} for at, detail in error.errors]
    if isinstance(error, InvalidFieldError):
        members["errors"] = [{"at": error.field, "detail": error.problem}]
    if isinstance(error, MethodNotAllowedError):
        headers["Allow"] = ", ".join(error.allow)
    if isinstance(error, RangeError):
        headers["Content-Range"] = f"bytes */{error.size_bytes}"
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = _REALM + (', error="invalid_token"' if error.presented else "")
    if isinstance(error, ScopeMissingError):
        headers["WWW-Authenticate"] = f'{_REALM}, error="insufficient_scope", scope="{error.scope}"'
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
    response = _response(error.status_hint, error.code, error.message, members, headers)
    if error.close_connection:
        response.force_close()
    return response


def problem_of_http(error: web.HTTPException, headers: Mapping[str, str]) -> web.Response:
    """Return the response for what aiohttp itself refuses: no such route, no such method."""
    return _response(error.status, _CODES.get(error.status, "ERR_HTTP"), f"{error.reason}", {}, headers)


def _response(
    status: int, code: str, detail: str, members: Mapping[str, Any], headers: Mapping[str, str]
) -> web.Response:
    known = status in {item.value for item in HTTPStatus}
    title = HTTPStatus(status).phrase if known else code
    shown = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code, **members}
    return web.Response(
        status=status, body=json.dumps(shown).encode("ascii"), content_type=CONTENT_TYPE, headers=headers
    )
