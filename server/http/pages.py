"""The upload page at /d/<id>, the same for known and unknown drop-offs, and what it asks once there is a code."""

import asyncio
import json
import re

from aiohttp import web

from dropoff_tus import policy, wire
from dropoff_tus.errors import (
    BodyTimeoutError,
    MalformedRequestError,
    UploadDamagedError,
    UploadGoneError,
    UploadNotFoundError,
)
from dropoff_tus.ids import UploadToken
from dropoff_tus.model import Dropoff, Usage
from server.clock import SystemClock
from server.http.appkeys import AUTH, BUNDLE, CATALOG, CONFIG, ROUTE, UPLOADS
from server.http.bundle import CODINGS
from server.http.forwarded import client_of
from server.settings.units import stamp

_POLICY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types dropoff"
    )
}
"""The policy of the page, and of its scripts, since a worker obeys that of its own script. Other answers allow
nothing."""
_PAGE_HEADERS = {
    **_POLICY,
    # Sending goes on while nobody touches the screen.
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), screen-wake-lock=(self)",
}
_FOR_EVER = "public, max-age=31536000, immutable"
_MOST_RECEIPTS = 500
_TOKEN = re.compile(rb"\b[0-9a-f]{32}\b")
_BODY_SECONDS = 30.0


def add_routes(app: web.Application) -> None:
    """Add the page and what belongs to it."""
    app.router.add_get("/d/assets/{name}", asset)
    app.router.add_get("/d/{drop_id}", page)
    app.router.add_get("/d/{drop_id}/info", info)
    app.router.add_post("/d/{drop_id}/receipts", receipts)


async def page(request: web.Request) -> web.Response:
    """Show the page. The words of the browser's language come beside the script, not after it."""
    request[ROUTE] = "page"
    bundle = request.app[BUNDLE]
    headers = {**_PAGE_HEADERS, "Vary": "Accept-Language"}
    words = bundle.words_for(request.headers.get("Accept-Language", ""))
    if words is not None:
        headers["Link"] = f"<./assets/{words}>; rel=modulepreload"
    return web.Response(body=bundle.page, content_type="text/html", charset="utf-8", headers=headers)


async def asset(request: web.Request) -> web.Response:
    """Send a file of the page, compressed as the browser takes it. Its name changes with it, so it is kept for ever."""
    request[ROUTE] = "asset"
    found = request.app[BUNDLE].assets.get(request.match_info["name"])
    if found is None:
        raise web.HTTPNotFound
    headers = {"Content-Type": found.content_type, "Cache-Control": _FOR_EVER, "Vary": "Accept-Encoding"}
    if found.content_type.startswith("text/javascript"):
        headers.update(_POLICY)
    accepted = request.headers.get("Accept-Encoding", "")
    for coding in CODINGS:
        if coding in found.coded and _accepts(accepted, coding):
            return web.Response(body=found.coded[coding], headers={**headers, "Content-Encoding": coding})
    return web.Response(body=found.content, headers=headers)


def _accepts(accepted: str, coding: str) -> bool:
    """Tell whether a browser takes a coding. Source: RFC 9110, section 12.5.3 (a weight of 0 refuses it)."""
    weights = {
        name.strip(): weight for name, _, weight in (item.partition(";") for item in accepted.lower().split(","))
    }
    return coding in weights and weights[coding].replace(" ", "").rstrip("0.") != "q="


async def info(request: web.Request) -> web.Response:
    """Say what the drop-off takes, to whoever has the code."""
    request[ROUTE] = "info"
    drop = await _proven(request)
    usage = await request.app[CATALOG].usage(drop.id)
    return web.Response(text=json.dumps(_told(request, drop, usage)), content_type="application/json")


async def _proven(request: web.Request) -> Dropoff:
    """Return the drop-off to whoever has its code."""
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers]
    client = client_of(request, request.app[CONFIG].server.trusted_proxies)
    code = wire.presented_code(headers)
    return (await request.app[AUTH].grant_slowly(request.match_info["drop_id"], code, client)).dropoff


def _told(request: web.Request, drop: Dropoff, usage: Usage) -> dict[str, object]:
    config, terms = request.app[CONFIG], drop.terms
    return {
        "id": drop.id,
        "name": terms.name,
        "recipient": terms.receiver or None,
        "contact": terms.contact or None,
        "retain_seconds": terms.retain_seconds or None,
        "expire_after_seconds": config.tus.expire_after or None,
        "state": policy.window_state(drop, SystemClock().now()),
        "mode": terms.mode.value,
        "sealing": terms.seal_in_browser,
        "recipients": (terms.recipients or config.keys.root_recipients) if terms.seal_in_browser else (),
        "opens_at": stamp(terms.opens_at),
        "expires_at": stamp(terms.expires_at),
        "limits": {
            "max_upload_bytes": policy.max_upload_bytes(config.tus.max_upload_bytes, terms),
            "max_total_bytes": terms.max_total_bytes,
            "max_uploads": terms.max_uploads,
            "allowed_types": list(terms.allowed_types),
            "name_patterns": list(terms.name_patterns),
        },
        "left": {
            "bytes": max(0, terms.max_total_bytes - usage.bytes) if terms.max_total_bytes else None,
            "uploads": max(0, terms.max_uploads - usage.uploads) if terms.max_uploads else None,
        },
    }


async def receipts(request: web.Request) -> web.Response:
    """Give the receipts of many uploads at once, one signed line each, to whoever has the code and their tokens."""
    request[ROUTE] = "receipts"
    drop = await _proven(request)
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            tokens = [UploadToken(found.decode()) for found in _TOKEN.findall(await request.read())]
    except TimeoutError:
        raise BodyTimeoutError("the body did not come in time; nothing was changed") from None
    if len(tokens) > _MOST_RECEIPTS:
        raise MalformedRequestError(
            f"one request gives at most {_MOST_RECEIPTS} receipts; ask for the others in others"
        )
    finder = request.app[UPLOADS].finder

    async def receipt(token: UploadToken) -> bytes:
        try:
            return await finder.receipt(drop.id, token)
        except (UploadDamagedError, UploadGoneError, UploadNotFoundError):
            return b""

    return web.Response(body=b"".join(await asyncio.gather(*map(receipt, tokens))), content_type="text/plain")
