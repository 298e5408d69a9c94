"""The bytes of a finished upload as an attachment: whole, or one range, cut off where they do not verify.

Source: RFC 9110, sections 13.1.5 and 14 (ranges); RFC 6266 and RFC 8187 (the file's name).
"""

import logging
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from urllib.parse import quote

from aiohttp import web

from dropoff_tus.audit import Act, Event
from dropoff_tus.errors import DropoffError, UploadDamagedError, UploadGoneError
from dropoff_tus.model import StoredUpload
from dropoff_tus.ports.store import StoredUploads
from server.http.appkeys import CATALOG
from server.http.middleware import decorate
from server.http.problems import RangeError
from server.usecases.operating.exporting import Export

TAR = "application/x-tar"
_log = logging.getLogger(__name__)
_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)")
_SEPARATORS = re.compile(r"[/\\]")
_NOT_PLAIN = re.compile(r"[^ -~]|[\"%*:;<>?|]")
_LETTERS = re.compile(r"[0-9A-Za-z]")
_MOST_DIGITS = 18
_PARTIAL = 206
_MOST_NAME_CHARACTERS = 255
"""More than file systems take; clients refuse headers of several KiB, and with them the download."""


async def send(
    request: web.Request, store: StoredUploads, stored: StoredUpload, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Send the content of a finished upload that the server can read.

    Raises:
        RangeError: No byte of it is in the range.
        UploadDamagedError, KeyMissingError: The first bytes cannot be read; later the connection is cut.
    """
    metadata = await store.metadata(stored.id)
    name = metadata.filename if metadata is not None else None
    if metadata is not None and metadata.sealed_by is not None:
        name = f"{name or stored.id}.age"
    etag = f'"{stored.id}"'
    # Of HEAD a Range says nothing (RFC 9110, section 14.2).
    whole = (0, stored.offset, 200)
    start, stop, status = whole if request.method == "HEAD" else _range(request, stored.offset, etag)
    response = web.StreamResponse(
        status=status,
        headers={
            **headers,
            "Content-Type": "application/octet-stream",
            "Content-Length": str(stop - start),
            "Accept-Ranges": "bytes",
            "ETag": etag,
            "Content-Disposition": disposition(name, stored.id),
            "Content-Security-Policy": "sandbox; default-src 'none'",
            "X-Content-Type-Options": "nosniff",
        },
    )
    if status == _PARTIAL:
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{stored.offset}"
    decorate(request, response)
    if request.method == "HEAD" or start == stop:
        await response.prepare(request)
        await response.write_eof()
        return response
    # Before the first byte, so that none leaves unrecorded.
    event = Event(Act.UPLOAD_DOWNLOAD, stored.drop_id, stored.id, size_bytes=stop - start)
    await request.app[CATALOG].record(event)
    # Closed with the answer: left to the collector, files and buffers of a client that went away would stay open.
    async with aclosing(store.read(stored.id, start=start, stop=stop)) as pieces:
        # An upload that cannot be read at all is refused, as long as nothing has been sent.
        piece = await anext(pieces, b"")
        await response.prepare(request)
        try:
            await response.write(piece)
            async for piece in pieces:
                await response.write(piece)
        except DropoffError as error:
            ended = await _has_ended(store, stored.id)
            told = {"upload_id": stored.id, "code": UploadGoneError.code if ended else error.code}
            raise _cut(request, told, logging.INFO if ended else logging.ERROR) from error
        await response.write_eof()
        return response


async def send_archive(
    request: web.Request, name: str, export: Export, archive: AsyncGenerator[bytes, None]
) -> web.StreamResponse:
    """Send a tar archive whole, or not to its end.

    Raises:
        UploadDamagedError: Its first files cannot be read; later the connection is cut.
    """
    response = web.StreamResponse(
        headers={
            "Cache-Control": "no-store",
            "Content-Type": TAR,
            "Content-Disposition": disposition(name, name),
            "Content-Security-Policy": "sandbox; default-src 'none'",
        }
    )
    decorate(request, response)
    async with aclosing(archive) as pieces:
        piece = b"" if request.method == "HEAD" else await anext(pieces)
        for upload_id, why in export.failed:
            message = f"upload {upload_id} cannot be read: {why}. Nothing was sent; `drop export` leaves such ones out"
            raise UploadDamagedError(message)
        await response.prepare(request)
        if request.method != "HEAD":
            try:
                await response.write(piece)
                async for piece in pieces:
                    if export.failed:
                        raise UploadDamagedError(export.failed[0][1])
                    await response.write(piece)
            except DropoffError as error:
                told = {"upload_id": export.failed[0][0]} if export.failed else {}
                raise _cut(request, {**told, "code": error.code}, logging.ERROR) from error
        await response.write_eof()
    return response


def _cut(request: web.Request, told: Mapping[str, str], level: int) -> ConnectionResetError:
    """Break the connection: any answer now would look like content, and one that lacks its end is understood."""
    _log.log(level, "a download was cut off", extra=told)
    if request.transport is not None:
        request.transport.abort()
    return ConnectionResetError()


async def _has_ended(store: StoredUploads, upload_id: str) -> bool:
    """Tell whether an upload was shredded meanwhile: then a failed read is no damage."""
    try:
        return (await store.stat(upload_id)).ended is not None
    except DropoffError:
        return False


def disposition(name: str | None, other: str) -> str:
    """Return Content-Disposition for a client's name of a file, whatever is in it.

    It has the whole name, encoded, and a plain one for programs such as curl that read no other; neither has a path.
    The plain one also lacks all that shells, file systems and parsers may misread, and a dot in front, which would hide
    the file or make it a program's settings.

    Args:
        name: As the client named it; None if it did not.
        other: The name if nothing is left of the client's.

    Source: RFC 6266, sections 4.3 and 5, and appendix D.
    """
    last = _SEPARATORS.split(name or "")[-1][:_MOST_NAME_CHARACTERS]
    last = last if last.strip(" .") else other
    plain = _NOT_PLAIN.sub("_", last).strip(" .")
    if not _LETTERS.search(plain.partition(".")[0]):
        # Names of which no letter is ASCII would all be the same.
        plain = other + plain.lstrip("_ ")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(last, safe='', errors='replace')}"


def receipt_disposition(upload_id: str) -> str:
    """Return Content-Disposition for an upload's receipt, so that each is saved under a name of its own."""
    return disposition(f"receipt-{upload_id}.txt", upload_id)


def _range(request: web.Request, size_bytes: int, etag: str) -> tuple[int, int, int]:
    """Return start, stop and status. One range only; several, other units and other versions get the whole.

    Source: RFC 9110, section 14.2 (a server may ignore Range) and 13.1.5.
    """
    text = request.headers.get("Range")
    found = _RANGE.fullmatch(text.strip()) if text else None
    if found is None or not any(found.groups()) or request.headers.get("If-Range", etag) != etag:
        return 0, size_bytes, 200
    first, last = found.groups()
    start = max(0, size_bytes - _number(last)) if not first else _number(first)
    stop = size_bytes if not first or not last else min(size_bytes, _number(last) + 1)
    if start >= stop:
        raise RangeError(f"the upload has {size_bytes} bytes, none of them in this range", size_bytes=size_bytes)
    return start, stop, _PARTIAL


def _number(digits: str) -> int:
    """Read a number; one that no file can reach is as good as any other, and Python would not read the longest."""
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= _MOST_DIGITS else 1 << 62
