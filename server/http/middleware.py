"""Around every request: an id, one log line, metrics, and the one map from errors to responses."""

import asyncio
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import HttpVersion11, hdrs, web

from dropoff_tus import wire
from dropoff_tus.audit import Actor, acting
from dropoff_tus.errors import DropoffError, MalformedRequestError, MethodNotAllowedError, UploadDamagedError
from dropoff_tus.messages import TUS_VERSION
from server.clock import SystemClock
from server.http.appkeys import (
    API_TOKEN_ID,
    BODY,
    CLIENT_PSEUDONYMS,
    CONFIG,
    DROP_ID,
    METHOD,
    METRICS,
    OFFSET,
    REQUEST_ID,
    ROUTE,
    UPLOAD_ID,
    UPLOADS,
)
from server.http.connection import SERVER_NAME
from server.http.forwarded import client_of, is_trusted
from server.http.problems import SECURITY_HEADERS, RangeError, is_api, is_own, problem, problem_of_http
from server.http.socket_body import CUT, RECEIVED_BY
from server.logs import describe
from server.repeats import repeats

_log = logging.getLogger("server.request")
_log.addFilter(repeats)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PATCH", "DELETE"})
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_ALLOW = (
    "Authorization, Origin, X-Requested-With, X-Request-ID, X-HTTP-Method-Override, Content-Type, Upload-Length, "
    "Upload-Offset, Tus-Resumable, Upload-Metadata, Upload-Defer-Length, Upload-Concat, Upload-Checksum, "
    "Dropoff-Code, Dropoff-Token"
)
_EXPOSE = (
    "Upload-Offset, Location, Upload-Length, Tus-Version, Tus-Resumable, Tus-Max-Size, Tus-Extension, Upload-Metadata, "
    "Upload-Defer-Length, Upload-Concat, Upload-Expires, Tus-Checksum-Algorithm, Retry-After, Dropoff-Upload-Id, "
    "Dropoff-Receipt, X-Request-Id"
)


class UnexpectedError(DropoffError):
    """Something failed that should not; the log says what."""


@web.middleware
async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every request, whatever happens."""
    request_id = request[REQUEST_ID] = _request_id(request)
    metrics, started = request.app[METRICS], time.monotonic()
    metrics.running.inc()
    status, code, refusal = 500, None, None
    try:
        try:
            # Its target is no path, so no route is ever found for it.
            with acting(lambda: _client(request)):
                _check_framing(request)
                response = await (handler if request.method != "CONNECT" else _refuse_connect)(request)
        except DropoffError as error:
            code, response, refusal = error.code, _refuse(request, error), error
            if isinstance(error, UploadDamagedError) and UPLOAD_ID in request:
                request.app[UPLOADS].ports.counts.damaged.add(request[UPLOAD_ID])
        except web.HTTPException as error:
            kept = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
            response = (
                problem_of_http(error, kept)
                if is_api(request)
                else web.Response(status=error.status, text=f"{error.reason}\n", headers=kept)
            )
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:  # noqa: BLE001 - the last line of defence; its text may quote the request
            code = UnexpectedError.code
            _log.error("unexpected error", extra={"exception": describe(error)})
            response = _refuse(request, UnexpectedError("the server failed; acknowledged bytes are safe"))
        status = response.status
        if not response.prepared:
            decorate(request, response)
        return response
    finally:
        seconds = time.monotonic() - started
        metrics.running.dec()
        method = request.method if request.method in _METHODS else "other"
        route = request.get(ROUTE, "none")
        metrics.answered(route, method, status, seconds, code)
        _log.info(
            "request",
            extra={
                "method": method,
                "route": route,
                "drop_id": request.get(DROP_ID),
                "upload_id": request.get(UPLOAD_ID),
                **({"token_id": request[API_TOKEN_ID]} if API_TOKEN_ID in request else {}),
                "status": status,
                "code": code,
                "seconds": round(seconds, 4),
                **_progress(request, refusal),
                "request_id": request_id,
            },
        )


def _progress(request: web.Request, refusal: DropoffError | None) -> Mapping[str, object]:
    """Return how far an upload got, as `upload show --history` reads it: bytes that came, its offset, and the cut."""
    told: dict[str, object] = {}
    if BODY in request:
        told |= {"bytes": request[BODY].received_bytes, "received_by": request.get(RECEIVED_BY)}
    if refusal is not None and refusal.offset is not None:
        return {**told, "offset": refusal.offset, "cut": refusal.cut}
    return {**told, "offset": request[OFFSET]} if OFFSET in request else told


def _client(request: web.Request) -> Actor:
    """Return the actor of a request for the audit."""
    address = client_of(request, request.app[CONFIG].server.trusted_proxies)
    client = request.app[CLIENT_PSEUDONYMS].client(address, SystemClock().now().date())
    return Actor(f"token:{request[API_TOKEN_ID]}", client.origin) if API_TOKEN_ID in request else client


def _request_id(request: web.Request) -> str:
    """Return the id a proxy gave, or a client if its form is that of no secret; else a new one."""
    presented = request.headers.get("X-Request-ID")
    if presented and (
        _UUID.fullmatch(presented)
        or (_REQUEST_ID.fullmatch(presented) and is_trusted(request, request.app[CONFIG].server.trusted_proxies))
    ):
        return presented
    return os.urandom(16).hex()


def _check_framing(request: web.Request) -> None:
    """Refuse a body of which another server on the way may have seen another end.

    Source: RFC 9112, section 6.1 (of HTTP/1.0 with Transfer-Encoding, "treat the message as if the framing is faulty
    [...] and close the connection").
    """
    if request.version < HttpVersion11 and hdrs.TRANSFER_ENCODING in request.headers:
        raise MalformedRequestError("HTTP/1.0 knows no Transfer-Encoding; nothing was written")


async def _refuse_connect(_request: web.Request) -> web.StreamResponse:
    raise MethodNotAllowedError("this is no proxy", allow=("GET", "HEAD", "OPTIONS", "POST", "PATCH", "DELETE"))


def _refuse(request: web.Request, error: DropoffError) -> web.Response:
    if is_api(request):
        return problem(error)
    # The status of HEAD matters only for uploads; elsewhere aiohttp leaves the body out.
    head = "HEAD" in {request.method, request.get(METHOD)} and request.path.startswith("/files/")
    status, headers, body = wire.render_error(error, head=head)
    response = web.Response(status=status, body=body or None, content_type="text/plain", charset="utf-8")
    for name, value in headers:
        response.headers[name] = value
    if isinstance(error, RangeError):
        response.headers["Content-Range"] = f"bytes */{error.size_bytes}"
    if error.close_connection or request.method == "CONNECT":
        response.force_close()
    return response


def decorate(request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers that every response has. A handler that begins to send calls this first."""
    if CUT in request:
        response.force_close()
    headers = response.headers
    headers["X-Request-Id"] = request[REQUEST_ID]
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Server"] = SERVER_NAME
    if request.path.startswith("/files"):
        headers["Tus-Resumable"] = TUS_VERSION
    if is_own(request):
        # And no CORS, whatever is configured: a browser is no place for an operator's token.
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        return
    if request.app[CONFIG].tus.cors_origins:
        headers.update(_cors(request))


def _cors(request: web.Request) -> Mapping[str, str]:
    """Return the CORS headers, by which browsers decide which pages may send requests."""
    config, origin = request.app[CONFIG], request.headers.get("Origin")
    allowed: dict[str, str] = {"Vary": "Origin"}
    listed = origin in config.tus.cors_origins and origin != "*"
    if origin is None or not (listed or "*" in config.tus.cors_origins):
        return allowed
    allowed["Access-Control-Allow-Origin"] = origin
    if listed:
        # For the site that [pre_create] asks, which may know its users by a cookie.
        allowed["Access-Control-Allow-Credentials"] = "true"
    if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
        return {**allowed, "Access-Control-Expose-Headers": _EXPOSE}
    if listed and request.headers.get("Access-Control-Request-Private-Network") == "true":
        allowed["Access-Control-Allow-Private-Network"] = "true"
    return {
        **allowed,
        "Access-Control-Allow-Methods": "POST, HEAD, PATCH, OPTIONS, GET, DELETE",
        "Access-Control-Allow-Headers": ", ".join((_ALLOW, *config.pre_create.headers)),
        "Access-Control-Max-Age": "86400",
    }
