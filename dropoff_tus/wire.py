"""Raw headers to typed requests, replies and errors to raw headers. No HTTP library is known here.

Source: tus 1.0.0, Core protocol; docs/develop/architecture.md.
"""

from dropoff_tus import concat
from dropoff_tus import headers as grammar
from dropoff_tus.checksum import CHECKSUM_SIZES
from dropoff_tus.errors import (
    DropoffError,
    HeadersTooLargeError,
    InvalidConcatError,
    InvalidContentTypeError,
    InvalidUploadLengthError,
    LengthAndDeferError,
    MalformedRequestError,
    MethodNotAllowedError,
    ModifyFinalError,
    RefusedBySiteError,
    UnsupportedVersionError,
)
from dropoff_tus.headers import Headers
from dropoff_tus.messages import (
    EXTENSIONS,
    TUS_VERSION,
    Appended,
    BodyInfo,
    Capabilities,
    Create,
    Created,
    Patch,
    Status,
    Terminated,
)
from dropoff_tus.model import Role
from dropoff_tus.shown import show_start

Reply = Created | Status | Appended | Terminated | Capabilities
RawHeaders = list[tuple[str, str]]
COLLECTION_METHODS = ("OPTIONS", "POST")
UPLOAD_METHODS = ("OPTIONS", "HEAD", "PATCH", "DELETE")
OFFSET_STREAM = "application/offset+octet-stream"
_OVERRIDABLE = frozenset({"PATCH", "DELETE", "HEAD"})
_MAX_HEADER_BYTES = 16 << 10
_SHOWN_CHARACTERS = 64
_HEAD_STATUSES = frozenset({404, 410, 423})


def effective_method(method: str, headers: Headers, *, on_upload: bool) -> str:
    """Resolve X-HTTP-Method-Override, and refuse what the resource does not know.

    Raises:
        MethodNotAllowedError: With the methods for Allow.

    Source: tus 1.0.0, X-HTTP-Method-Override.
    """
    override = grammar.get(headers, "X-HTTP-Method-Override")
    allow = UPLOAD_METHODS if on_upload else COLLECTION_METHODS
    if override is not None and method == "POST":
        if not on_upload or override.upper() not in _OVERRIDABLE:
            message = "X-HTTP-Method-Override may be PATCH, DELETE or HEAD, on an upload"
            raise MethodNotAllowedError(message, allow=allow)
        return override.upper()
    if method not in allow:
        raise MethodNotAllowedError(f"this resource does not know {method}", allow=allow)
    return method


def check_version(method: str, headers: Headers) -> None:
    """Refuse POST, PATCH and DELETE without `Tus-Resumable: 1.0.0`.

    Raises:
        UnsupportedVersionError: Nothing was read or written.
    """
    if method in {"POST", "PATCH", "DELETE"} and _version(headers) != TUS_VERSION:
        raise UnsupportedVersionError(f"send Tus-Resumable: {TUS_VERSION}; nothing was written")


def _version(headers: Headers) -> str | None:
    return grammar.get(headers, "Tus-Resumable", UnsupportedVersionError)


def check_sizes(headers: Headers) -> None:
    """Refuse headers above our limits, which lie below the parser's. Cheap, so that it can come before all else.

    Raises:
        HeadersTooLargeError, InvalidMetadataError: One is.
    """
    for name, value in headers:
        limit = grammar.MAX_CONCAT_BYTES if name.lower() == "upload-concat" else _MAX_HEADER_BYTES
        if len(value) > limit:
            raise HeadersTooLargeError(
                f"the header {show_start(name, _SHOWN_CHARACTERS)} is longer than {limit} bytes; nothing was written"
            )
        if name.lower() == "upload-metadata":
            grammar.check_pairs(value)


def presented_code(headers: Headers) -> str | None:
    """Find the code a request carries; never fails."""
    return grammar.presented_code(headers)


def body_info(headers: Headers) -> BodyInfo:
    """Read what the headers say of the body.

    Raises:
        MalformedRequestError: A coded transfer we do not take, or a malformed Content-Length.
        InvalidChecksumError: Upload-Checksum.

    Source: RFC 9112, section 6.3, items 3 to 5 (both at once "ought to be handled as an error").
    """
    coding = grammar.get(headers, "Transfer-Encoding")
    if coding is not None and coding.lower() != "chunked":
        raise MalformedRequestError("only `Transfer-Encoding: chunked` is understood")
    text = grammar.get(headers, "Content-Length")
    if coding is not None and text is not None:
        raise MalformedRequestError("send Content-Length or Transfer-Encoding, not both")
    length: int | None = None
    if coding is None:
        length = 0 if text is None else grammar.number(text, "Content-Length", MalformedRequestError)
    return BodyInfo(length, grammar.upload_checksum(headers))


def may_be_empty(headers: Headers) -> bool:
    """Tell whether it takes the first byte, or the end, of a creation's body to know if it brings one.

    So it is where the length is unknown and bytes would be refused. Proxies send an empty body so, for instance where
    a client speaks HTTP/2 to them.
    """
    if (grammar.get(headers, "Transfer-Encoding") or "").lower() != "chunked":
        return False
    role = grammar.get(headers, "Upload-Concat", InvalidConcatError) or ""
    return _content_type(headers) != OFFSET_STREAM or role.startswith("final")


def parse_create(headers: Headers, *, drop_id: str, presented: str | None, empty: bool = False) -> Create:
    """Read a POST on a drop-off.

    Args:
        headers: The request's.
        drop_id: The drop-off's.
        presented: The code, which is kept out of the metadata.
        empty: A body of unknown length has ended without a byte, so there is none.

    Raises:
        DropoffError: The first header that does not follow the grammar.

    Source: tus 1.0.0, creation, POST; creation with upload; concatenation.
    """
    role, parts = concat.parse(grammar.get(headers, "Upload-Concat", InvalidConcatError), drop_id)
    metadata = grammar.metadata(headers, presented)
    digests = grammar.digests(metadata)
    body = BodyInfo(0) if empty else body_info(headers)
    if role is Role.FINAL:
        if body.length != 0:
            raise ModifyFinalError("a concatenation takes no bytes; nothing was written")
        # Upload-Length of a final is ignored: its parts say it.
        return Create(role, None, metadata, digests, parts)
    length = grammar.upload_length(headers)
    deferred = grammar.defers_length(headers)
    if length is not None and deferred:
        raise LengthAndDeferError("send Upload-Length or Upload-Defer-Length, not both")
    if length is None and not deferred:
        raise InvalidUploadLengthError("send Upload-Length, or Upload-Defer-Length: 1 if it is not known yet")
    brought = body if _brings_bytes(headers, body) else None
    return Create(role, length, metadata, digests, parts, brought, grammar.proposed_token(headers))


def _brings_bytes(headers: Headers, body: BodyInfo) -> bool:
    """Tell whether a creation comes with data.

    Source: tus 1.0.0, creation with upload ("The Client MUST include the Content-Type:
    application/offset+octet-stream header").
    """
    if body.length == 0:
        return False
    if _content_type(headers) != OFFSET_STREAM:
        raise InvalidContentTypeError(f"a body on creation needs Content-Type: {OFFSET_STREAM}; nothing was written")
    return True


def parse_patch(headers: Headers) -> Patch:
    """Read a PATCH.

    Raises:
        DropoffError: The first header that does not follow the grammar.

    Source: tus 1.0.0, PATCH.
    """
    offset = grammar.upload_offset(headers)
    if _content_type(headers) != OFFSET_STREAM:
        raise InvalidContentTypeError(f"PATCH needs Content-Type: {OFFSET_STREAM}; nothing was written")
    return Patch(offset, body_info(headers), grammar.upload_length(headers))


def render(reply: Reply) -> tuple[int, RawHeaders]:
    """Return status and headers of a reply."""
    headers: RawHeaders = _common()
    if isinstance(reply, Capabilities):
        headers += [
            ("Tus-Version", TUS_VERSION),
            ("Tus-Extension", ",".join(EXTENSIONS)),
            ("Tus-Checksum-Algorithm", ",".join(CHECKSUM_SIZES)),
        ]
        if reply.max_size_bytes:
            headers.append(("Tus-Max-Size", str(reply.max_size_bytes)))
        return 204, headers
    if isinstance(reply, Terminated):
        return 204, headers
    if isinstance(reply, Status):
        return 200, headers + _status_headers(reply)
    if isinstance(reply, Created):
        headers += [("Location", reply.location), ("Dropoff-Upload-Id", reply.upload_id)]
    if reply.offset is not None:
        headers.append(("Upload-Offset", str(reply.offset)))
    if reply.expires_at is not None:
        headers.append(("Upload-Expires", grammar.http_date(reply.expires_at)))
    if reply.receipt is not None:
        headers.append(("Dropoff-Receipt", reply.receipt))
    return (201 if isinstance(reply, Created) else 204), headers


def render_error(error: DropoffError, *, head: bool) -> tuple[int, RawHeaders, bytes]:
    """Return status, headers and body of a refusal. HEAD answers only 404, 410 and 423, with no body.

    tus-js-client starts again from zero on anything else, so a passing trouble must look like a lock.
    """
    status, retry = error.status_hint, error.retry_after_seconds
    if isinstance(error, RefusedBySiteError):
        status = error.status
    if head and status not in _HEAD_STATUSES and not isinstance(error, MethodNotAllowedError):
        status, retry = 423, retry or 5
    headers = _common()
    if retry is not None:
        headers.append(("Retry-After", str(retry)))
    if isinstance(error, UnsupportedVersionError):
        headers.append(("Tus-Version", TUS_VERSION))
    if isinstance(error, MethodNotAllowedError):
        headers.append(("Allow", ", ".join(error.allow)))
    headers.append(("Cache-Control", "no-store"))
    body = b"" if head else f"{error.code}: {error.message}\n".encode()
    return status, headers, body


def _common() -> RawHeaders:
    return [("Tus-Resumable", TUS_VERSION), ("X-Content-Type-Options", "nosniff")]


def _content_type(headers: Headers) -> str:
    text = grammar.get(headers, "Content-Type", InvalidContentTypeError) or ""
    return text.partition(";")[0].strip().lower()


def _status_headers(reply: Status) -> RawHeaders:
    headers: RawHeaders = [("Upload-Offset", str(reply.offset)), ("Cache-Control", "no-store")]
    if reply.length is not None:
        headers.append(("Upload-Length", str(reply.length)))
    else:
        headers.append(("Upload-Defer-Length", "1"))
    if reply.metadata is not None and reply.metadata.pairs:
        headers.append(("Upload-Metadata", grammar.render_metadata(reply.metadata)))
    if reply.concat is not None:
        headers.append(("Upload-Concat", reply.concat))
    if reply.expires_at is not None:
        headers.append(("Upload-Expires", grammar.http_date(reply.expires_at)))
    return headers
