"""The tus routes: translate a request, call one use case, translate the answer."""

from contextlib import suppress
from dataclasses import replace

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

from dropoff_tus import protocol, wire
from dropoff_tus.errors import DropoffError, MethodNotAllowedError, UploadNotFoundError
from dropoff_tus.headers import Fields
from dropoff_tus.ids import PROBE_DROP_ID, UploadToken, is_drop_id
from dropoff_tus.messages import Capabilities
from dropoff_tus.model import Role
from server.http import download
from server.http.appkeys import (
    AUTH,
    BODY,
    BODY_RATE,
    CONFIG,
    DROP_ID,
    METHOD,
    METRICS,
    OFFSET,
    PRE_CREATE,
    ROUTE,
    STORE,
    UPLOAD_ID,
    UPLOADS,
)
from server.http.body import Pace, StreamBody
from server.http.forwarded import base_url, client_of
from server.http.socket_body import request_body


async def handle(request: web.Request) -> web.StreamResponse:
    """Serve everything below /files/."""
    pieces = request.match_info["tail"].rstrip("/").split("/")
    if not pieces[0] or len(pieces) > 3:  # noqa: PLR2004 - drop-off, token, "receipt"
        raise protocol.absent()
    request[DROP_ID] = pieces[0] if is_drop_id(pieces[0]) else "other"
    if len(pieces) == 1:
        return await _on_dropoff(request, pieces[0])
    token = UploadToken.parse(pieces[1])
    if token is not None:
        request[UPLOAD_ID] = token.upload_id
    if len(pieces) == 3 and pieces[2] != "receipt":  # noqa: PLR2004
        raise protocol.absent()
    try:
        return await (_on_upload if len(pieces) == 2 else _receipt)(request, pieces[0], token)  # noqa: PLR2004
    except UploadNotFoundError:
        # The store's words are for operators.
        raise protocol.absent() from None


def _headers(request: web.Request) -> Fields:
    return Fields((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers)


def _respond(reply: wire.Reply) -> web.Response:
    status, headers = wire.render(reply)
    return web.Response(status=status, headers=CIMultiDict(headers))


def _body(request: web.Request) -> StreamBody:
    async def send_continue() -> None:
        # HTTP/1.0 knows no interim answers.
        if request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
            writer = request._payload_writer  # noqa: SLF001 - what aiohttp's own expect handler writes to
            await writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            writer.output_size = 0

    min_rate, count = request.app[BODY_RATE].min_bytes_per_second, request.app[METRICS].count_received
    body = request[BODY] = request_body(request, Pace(send_continue, min_rate, count))
    return body


async def _on_dropoff(request: web.Request, drop_id: str) -> web.StreamResponse:
    headers = _headers(request)
    request[ROUTE] = "dropoff"
    config = request.app[CONFIG]
    if request.method == "OPTIONS":
        return _respond(Capabilities(config.tus.max_upload_bytes))
    if request.method == "POST":
        wire.check_version("POST", headers)
    wire.effective_method(request.method, headers, on_upload=False)
    # First, so that nobody without a code can make us read long ones.
    wire.check_sizes(headers)
    code = wire.presented_code(headers)
    client = client_of(request, config.server.trusted_proxies)
    grant = await request.app[AUTH].grant_slowly(drop_id, code, client)
    creator, body = request.app[UPLOADS].creator, _body(request)
    try:
        empty = wire.may_be_empty(headers) and await body.is_empty(config.tus.body_idle_timeout)
        create = wire.parse_create(headers, drop_id=drop_id, presented=code, empty=empty)
        pre_create = request.app.get(PRE_CREATE)
        if pre_create is not None and drop_id != PROBE_DROP_ID:
            if create.role is Role.FINAL:
                # The site learns how long it will be. Parts of which that cannot be said are refused below.
                with suppress(DropoffError):
                    create = replace(create, length=await creator.parts_bytes(grant.dropoff, create.parts))
            create = await pre_create.approve(drop_id, create, headers)
        if create.token is not None:
            # Its bytes are kept even if the creation fails, so the log names it.
            request[UPLOAD_ID] = create.token.upload_id
        created = await creator.create(grant, _drop_url(request, drop_id), create, body)
    finally:
        await body.close()
    request[UPLOAD_ID] = created.upload_id
    if created.offset is not None:
        request[OFFSET] = created.offset
    return _respond(created)


async def _on_upload(request: web.Request, drop_id: str, token: UploadToken | None) -> web.StreamResponse:
    headers = _headers(request)
    request[ROUTE] = "upload"
    config, uploads = request.app[CONFIG], request.app[UPLOADS]
    if request.method == "OPTIONS":
        return _respond(Capabilities(config.tus.max_upload_bytes))
    if request.method == "GET":
        if not config.tus.download:
            message = "uploaded files cannot be read back"
            raise MethodNotAllowedError(message, allow=("OPTIONS", "HEAD", "PATCH", "DELETE"))
        return await _download(request, drop_id, token)
    wire.check_version(request.method, headers)
    method = request[METHOD] = wire.effective_method(request.method, headers, on_upload=True)
    wire.check_version(method, headers)
    wire.check_sizes(headers)
    if token is None:
        raise protocol.absent()
    if method == "HEAD":
        status = await uploads.finder.head(drop_id, token)
        request[OFFSET] = status.offset
        return _respond(status)
    if method == "DELETE":
        return _respond(await uploads.ender.terminate(drop_id, token))
    patch = wire.parse_patch(headers)
    url, body = _drop_url(request, drop_id) + token.secret, _body(request)
    try:
        appended = await uploads.appender.append(drop_id, token, patch, body, url)
        request[OFFSET] = appended.offset
        return _respond(appended)
    finally:
        await body.close()


def _drop_url(request: web.Request, drop_id: str) -> str:
    server = request.app[CONFIG].server
    return f"{base_url(request, server.public_url, server.trusted_proxies)}/files/{drop_id}/"


async def _receipt(request: web.Request, drop_id: str, token: UploadToken | None) -> web.StreamResponse:
    request[ROUTE] = "receipt"
    if request.method != "GET":
        raise MethodNotAllowedError("a receipt can only be read", allow=("GET",))
    if token is None:
        raise protocol.absent()
    line = await request.app[UPLOADS].finder.receipt(drop_id, token)
    headers = {"Cache-Control": "no-store", "Content-Disposition": download.receipt_disposition(token.upload_id)}
    return web.Response(body=line, content_type="application/octet-stream", headers=headers)


async def _download(request: web.Request, drop_id: str, token: UploadToken | None) -> web.StreamResponse:
    """Serve a finished managed upload to whoever has the URL and the code."""
    request[ROUTE] = "download"
    client = client_of(request, request.app[CONFIG].server.trusted_proxies)
    await request.app[AUTH].grant_slowly(drop_id, wire.presented_code(_headers(request)), client)
    if token is None:
        raise protocol.absent()
    stored = await request.app[UPLOADS].finder.readable(drop_id, token)
    return await download.send(request, request.app[STORE], stored, {"Tus-Resumable": "1.0.0"})
