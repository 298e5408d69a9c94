"""Uploads over HTTP. Only ids name them here: operators have no use for an upload's token."""

from contextlib import suppress

from aiohttp import web
from pydantic import BaseModel, Field

from dropoff_tus.errors import DropoffNotFoundError, UploadDamagedError, UploadNotFoundError
from dropoff_tus.ids import is_upload_id
from dropoff_tus.model import Mode, UploadRow
from dropoff_tus.protocol import check_agrees, gone
from dropoff_tus.states import ENDED, UploadState
from server.answers import DeletedAnswer, JsonAnswer, UploadAnswer, upload_answers, upload_details
from server.http import download
from server.http.api.access import limited_to, outside
from server.http.api.requests import UploadFilter, cursor, read_cursor, read_query
from server.http.appkeys import CATALOG, DROP_ID, STORE, UPLOAD_ID, UPLOADS
from server.http.problems import NotFinishedError, SealedError


class UploadsAnswer(JsonAnswer):
    """One page of uploads, oldest first."""

    uploads: list[UploadAnswer]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


async def list_uploads(request: web.Request) -> BaseModel:
    """List uploads, page by page."""
    wanted = read_query(request, UploadFilter)
    catalog, store = request.app[CATALOG], request.app[STORE]
    drop_id = wanted.drop_id
    if drop_id is not None:
        request[DROP_ID] = drop_id
        if outside(request, drop_id) or await catalog.dropoff(drop_id) is None:
            raise DropoffNotFoundError("there is no such drop-off")
    # One more than is asked for tells whether there is another page.
    rows = await catalog.uploads(
        drop_id=drop_id or limited_to(request),
        states=wanted.state,
        partials=wanted.partials == "true",
        after=read_cursor(wanted.cursor),
        limit=wanted.limit + 1,
    )
    page = rows[: wanted.limit]
    shown = await upload_answers(store, page)
    return UploadsAnswer(uploads=shown, next_cursor=cursor(page[-1]) if len(rows) > len(page) else None)


async def show_upload(request: web.Request) -> BaseModel:
    """Show an upload."""
    return await upload_details(request.app[STORE], await _row(request))


async def get_receipt(request: web.Request) -> web.StreamResponse:
    """Fetch the signed receipt of a finished upload."""
    row = await _row(request)
    _check_finished(row)
    line = await request.app[STORE].signed_receipt(row.id)
    if line is None:
        if row.mode is Mode.SEALED:
            raise SealedError("this upload is sealed, so the server cannot read its receipt; use the command line")
        raise UploadNotFoundError("this upload has no receipt")
    headers = {"Content-Disposition": download.receipt_disposition(row.id)}
    return web.Response(body=line, content_type="application/octet-stream", headers=headers)


async def get_content(request: web.Request) -> web.StreamResponse:
    """Download a finished managed upload, or a range of it."""
    row = await _row(request)
    _check_finished(row)
    if row.mode is Mode.SEALED:
        raise SealedError("this upload is sealed, so the server cannot read it; export it with a root identity")
    store = request.app[STORE]
    return await download.send(request, store, await store.stat(row.id), {"Cache-Control": "no-store"})


async def delete_upload(request: web.Request) -> BaseModel:
    """Shred an upload."""
    upload_id = _upload_id(request)
    if limited_to(request) is not None:
        await _row(request)
    await request.app[UPLOADS].ender.delete(upload_id)
    return DeletedAnswer(id=upload_id, state=UploadState.DELETED)


def _upload_id(request: web.Request) -> str:
    upload_id = request.match_info["upload_id"]
    if not is_upload_id(upload_id):
        raise _absent()
    request[UPLOAD_ID] = upload_id
    return upload_id


async def _row(request: web.Request) -> UploadRow:
    row = await request.app[CATALOG].upload(_upload_id(request))
    if row is None or outside(request, row.drop_id):
        raise _absent()
    # An upload that does not verify is shown as the catalog has it; reading it fails later.
    with suppress(UploadNotFoundError, UploadDamagedError):
        check_agrees(row, await request.app[STORE].stat(row.id))
    request[DROP_ID] = row.drop_id
    return row


def _check_finished(row: UploadRow) -> None:
    if row.state in ENDED:
        raise gone(row.state)
    if row.state is not UploadState.COMPLETE:
        raise NotFinishedError(f"the upload is not finished (it is {row.state.value}); try again when it is complete")


def _absent() -> UploadNotFoundError:
    return UploadNotFoundError("there is no such upload")
