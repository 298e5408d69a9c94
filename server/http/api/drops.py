"""Drop-offs over HTTP."""

from datetime import datetime
from typing import Any

from aiohttp import web
from pydantic import BaseModel, Field

from dropoff_tus.audit import Act
from dropoff_tus.errors import InvalidFieldError, ScopeMissingError
from dropoff_tus.ids import is_drop_id
from dropoff_tus.model import TERMS, Mode, Scope
from dropoff_tus.terms import Kind
from server.answers import DropAnswer, DropUsageAnswer, JsonAnswer, NewDropAnswer
from server.clock import SystemClock
from server.http import download
from server.http.api.access import limited_to, outside
from server.http.api.requests import (
    Closing,
    ContentFilter,
    DropCreation,
    DropEditing,
    DropFilter,
    Waiting,
    cursor,
    later,
    read_body,
    read_cursor,
    read_query,
)
from server.http.appkeys import CATALOG, CONFIG, DROP_ID, DROPOFFS, ENDED_DROPS, PURGE_JOBS, STORE
from server.http.forwarded import base_url
from server.http.problems import SealedError
from server.settings.units import parse_time
from server.usecases.closing import set_closed
from server.usecases.dropoffs import unknown
from server.usecases.operating.archiving import as_tar
from server.usecases.operating.exporting import Export, Exporter, is_since

_ASK_AGAIN_SECONDS = 2


class DropsAnswer(JsonAnswer):
    """One page of drop-offs, oldest first."""

    drops: list[DropAnswer]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


async def list_drops(request: web.Request) -> BaseModel:
    """List drop-offs, page by page.

    A token of one drop-off lists this one.
    """
    wanted, base, own = read_query(request, DropFilter), _base(request), limited_to(request)
    catalog, after = request.app[CATALOG], read_cursor(wanted.cursor)
    if own is None:
        # One more than is asked for tells whether there is another page.
        found = await catalog.dropoffs(after=after, limit=wanted.limit + 1)
    else:
        only = await catalog.dropoff(own)
        found = [] if only is None or (after is not None and (only.created_at, only.id) <= after) else [only]
    page = found[: wanted.limit]
    return DropsAnswer(
        drops=[DropAnswer.of(base, dropoff) for dropoff in page],
        next_cursor=cursor(page[-1]) if len(found) > len(page) else None,
    )


async def create_drop(request: web.Request) -> BaseModel:
    """Make a drop-off.

    Its code is in the answer and nowhere else.
    """
    if outside(request, None):
        raise ScopeMissingError("the API token is for one drop-off, and makes none", scope=Scope.DROPS_WRITE.value)
    wanted = await read_body(request, DropCreation)
    terms = request.app[CONFIG].dropoffs.terms(_terms(wanted), SystemClock().now())
    dropoff, code = await request.app[DROPOFFS].create(terms, drop_id=wanted.id, with_code=wanted.has_code)
    request[DROP_ID] = dropoff.id
    return NewDropAnswer.of(_base(request), dropoff, code)


async def show_drop(request: web.Request) -> BaseModel:
    """Show a drop-off and its usage."""
    return DropUsageAnswer.with_usage(_base(request), *await request.app[DROPOFFS].show(_drop_id(request)))


async def edit_drop(request: web.Request) -> BaseModel:
    """Change the terms of a drop-off."""
    drop_id = _drop_id(request)
    wanted = await read_body(request, DropEditing)
    has_code = wanted.has_code if "has_code" in wanted.model_fields_set else None
    changed = await request.app[DROPOFFS].edit(drop_id, _terms(wanted), has_code=has_code)
    return DropUsageAnswer.with_usage(_base(request), *changed)


def _terms(wanted: BaseModel) -> dict[str, Any]:
    """Return the terms that a body says; null is as good as nothing, but for a time."""
    given: dict[str, Any] = {}
    for name in wanted.model_fields_set & TERMS.keys():
        value = getattr(wanted, name)
        if TERMS[name].kind is Kind.TIME:
            given[name] = _moment(name, value)
        elif value is not None:
            given[name] = tuple(value) if isinstance(value, list) else value
    return given


async def close_drop(request: web.Request) -> BaseModel:
    """Take no new uploads.

    Uploads that have begun may finish, unless they are to end now.
    """
    drop_id = _drop_id(request)
    now = (await read_body(request, Closing, optional=True)).now
    await set_closed(request.app[CATALOG], request.app[ENDED_DROPS], drop_id, closed=True, end_open=now)
    return await show_drop(request)


async def reopen_drop(request: web.Request) -> BaseModel:
    """Take new uploads again."""
    await set_closed(request.app[CATALOG], request.app[ENDED_DROPS], _drop_id(request), closed=False)
    return await show_drop(request)


class Kept(JsonAnswer):
    """An upload that could not be shredded now."""

    id: str
    why: str


class PurgedAnswer(JsonAnswer):
    """The shredded uploads of a drop-off; with status 202, the progress."""

    id: str
    total: int = Field(ge=0, description="How many uploads there are to look at; 0 until they are counted.")
    removed: int = Field(ge=0)
    kept: list[Kept] = Field(description="Uploads that were in use; purge again.")
    unread: list[str] = Field(description="Uploads in the store of which nobody can say whose they are.")
    certificate: str | None = Field(description="The signed line, once nothing is kept.")


async def purge_drop(request: web.Request) -> BaseModel | web.StreamResponse:
    """Close a drop-off and shred all that it received.

    It goes on even if the client does not wait for the end.
    """
    drop_id = _drop_id(request)
    wanted = read_query(request, Waiting)
    purge = await request.app[PURGE_JOBS].ask(drop_id, wanted.wait)
    outcome, certificate = purge.outcome, purge.certificate
    answer = PurgedAnswer(
        id=drop_id,
        total=purge.total,
        removed=purge.done if outcome is None else len(outcome.removed),
        kept=[] if outcome is None else [Kept(id=upload_id, why=why) for upload_id, why in outcome.kept],
        unread=[] if outcome is None or limited_to(request) is not None else outcome.unread,
        certificate=None if certificate is None else certificate.decode("ascii").rstrip("\n"),
    )
    return answer if outcome is not None else later(answer, _ASK_AGAIN_SECONDS)


async def get_drop_content(request: web.Request) -> web.StreamResponse:
    """Download all finished uploads of a managed drop-off as a tar archive, with their paths and a manifest."""
    drop_id, catalog = _drop_id(request), request.app[CATALOG]
    since = _moment("since", read_query(request, ContentFilter).since)
    dropoff = await catalog.dropoff(drop_id)
    if dropoff is None:
        raise unknown()
    exporter = Exporter(request.app[STORE], catalog, act=Act.UPLOAD_DOWNLOAD)
    rows, export = await exporter.finished(drop_id), Export()
    if any(row.mode is Mode.SEALED and is_since(row, since) for row in rows):
        raise SealedError(
            "this drop-off has sealed uploads, which the server cannot read; use `drop export --identity`"
        )
    archive = as_tar(exporter, export, exporter.planned(export, rows, since), lambda _count: None)
    return await download.send_archive(request, f"{dropoff.terms.name}.tar", export, archive)


async def new_code(request: web.Request) -> BaseModel:
    """Replace the code.

    The new one is in the answer and nowhere else.
    """
    return NewDropAnswer.of(_base(request), *await request.app[DROPOFFS].new_code(_drop_id(request)))


def _base(request: web.Request) -> str:
    server = request.app[CONFIG].server
    return base_url(request, server.public_url, server.trusted_proxies)


def _drop_id(request: web.Request) -> str:
    drop_id = request.match_info["drop_id"]
    if not is_drop_id(drop_id) or outside(request, drop_id):
        raise unknown()
    request[DROP_ID] = drop_id
    return drop_id


def _moment(field: str, text: str | None) -> datetime | None:
    """Read an RFC 3339 time; durations, which the command line takes too, are left to it."""
    if text is None:
        return None
    try:
        if text[:1].isdigit() and "-" in text:
            return parse_time(text, SystemClock().now())
    except ValueError:
        pass
    raise InvalidFieldError(field, 'is not a time; write one with its zone, such as "2030-01-31T12:00:00Z"')
