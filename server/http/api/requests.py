"""Requests of operators: parameters and bodies as models, from which the API's description is made too."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, create_model

from dropoff_tus.errors import BodyTimeoutError
from dropoff_tus.model import TERMS, Dropoff, UploadRow
from dropoff_tus.states import UploadState
from dropoff_tus.terms import Kind
from server.http.problems import InvalidContentError, InvalidRequestError, TooLargeError, UnsupportedTypeError
from server.settings.drop_terms import FORMS, described

M = TypeVar("M", bound=BaseModel)
MOST_BODY_BYTES = 64 << 10
MOST_ON_A_PAGE = 200
MOST_WAIT_SECONDS = 20
"""Well below what proxies and clients wait for by default."""
_BODY_SECONDS = 30.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_WORD = re.compile(r"[A-Za-z_]{1,32}")
_INTEGER = re.compile(r"[0-9]{1,9}")

DropId = Annotated[
    str, StringConstraints(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
]
UploadId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Cursor = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,17}-[0-9a-f]{32}$")]
DropCursor = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]{1,17}-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"),
]


class Request(BaseModel):
    """The common settings of all models: nothing is guessed, and nothing unknown is ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


_CREATION: dict[str, Any] = {
    name: (FORMS[term.kind].request, Field(description=described(term)))
    if term.kind is Kind.LABEL
    else (FORMS[term.kind].request | None, Field(None, description=described(term)))
    for name, term in TERMS.items()
}
# The factories make no default: a missing member is absent, and only times may be null.
_EDITING: dict[str, Any] = {
    name: (FORMS[term.kind].request, Field(None, description=described(term)))
    if term.kind is Kind.TIME
    else (FORMS[term.kind].request, Field(default_factory=str, description=described(term)))
    for name, term in TERMS.items()
}


class DropCreation(create_model("_Creation", __base__=Request, **_CREATION)):  # type: ignore[misc]
    """A drop-off to be made. Missing members come from the server's section [dropoffs]."""

    id: DropId | None = Field(None, description="A UUIDv4 of your own for it.")
    has_code: bool = Field(default=True, description="False lets anyone who has the URL upload.")


class DropEditing(create_model("_Editing", __base__=Request, **_EDITING)):  # type: ignore[misc]
    """Changes to a drop-off. Missing members stay; nothing comes from the server's configuration."""

    has_code: bool = Field(
        default_factory=bool,
        json_schema_extra={"const": False},
        description="False takes the code away: anyone who has the URL can upload; new-code makes one again.",
    )


class DropFilter(Request):
    """Which page of drop-offs."""

    cursor: DropCursor | None = Field(None, description="The next_cursor of the page before.")
    limit: int = Field(50, ge=1, le=MOST_ON_A_PAGE, description="How many on a page.")


class Closing(Request):
    """How to close a drop-off."""

    now: bool = Field(default=False, description="Also end running uploads, within seconds.")


class Waiting(Request):
    """How long to wait for the end of what may take long."""

    wait: int = Field(
        MOST_WAIT_SECONDS, ge=0, le=MOST_WAIT_SECONDS, description="Seconds until the answer is 202, and it goes on."
    )


class ContentFilter(Request):
    """Which uploads of a drop-off to send."""

    since: str | None = Field(None, description="Only what was completed at this time (RFC 3339) or later.")


class UploadFilter(Request):
    """Which uploads, and which page of them."""

    drop_id: DropId | None = Field(None, description="Only uploads of this drop-off.")
    state: list[UploadState] = Field(default_factory=list, description="In one of these states; may be repeated.")
    partials: Literal["true", "false"] = Field("false", description="Also the parts of concatenations.")
    cursor: Cursor | None = Field(None, description="The next_cursor of the page before.")
    limit: int = Field(50, ge=1, le=MOST_ON_A_PAGE, description="How many on a page.")


def later(answer: BaseModel, seconds: int) -> web.Response:
    """Return an answer that is not the last: the request goes on by itself, and is to be made again."""
    return web.Response(
        status=202,
        body=answer.model_dump_json().encode("utf-8"),
        content_type="application/json",
        headers={"Retry-After": str(seconds)},
    )


def cursor(item: Dropoff | UploadRow) -> str:
    """Return the place behind an item of a list that is ordered by creation and id."""
    return f"{(item.created_at - _EPOCH) // _MICROSECOND}-{item.id}"


def read_cursor(text: str | None) -> tuple[datetime, str] | None:
    """Read such a place."""
    if text is None:
        return None
    micros, _, found = text.partition("-")
    return _EPOCH + timedelta(microseconds=int(micros)), found


def read_query(request: web.Request, model: type[M]) -> M:
    """Read the query string.

    Raises:
        InvalidRequestError: It is not what the model says.
    """
    values: dict[str, object] = {}
    for name in request.query:
        given = request.query.getall(name)
        field = model.model_fields.get(name)
        if field is not None and field.default_factory is list:
            values[name] = given
        elif len(given) > 1:
            raise InvalidRequestError("the query is not valid", [(_place(name), "is there more than once")])
        elif field is not None and field.annotation is int:
            values[name] = int(given[0]) if _INTEGER.fullmatch(given[0]) else given[0]
        else:
            values[name] = given[0]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InvalidRequestError("the query is not valid", _mistakes(error)) from None


async def read_body(request: web.Request, model: type[M], *, optional: bool = False) -> M:
    """Read a body of JSON, up to a fixed size.

    Raises:
        UnsupportedTypeError: It is not sent as plain JSON.
        TooLargeError: It is larger.
        InvalidRequestError: It is no JSON.
        InvalidContentError: It is not what the model says.
    """
    raw = await _read(request)
    if not raw and optional:
        return model()
    if request.content_type.lower() != "application/json" or "Content-Encoding" in request.headers:
        raise UnsupportedTypeError("send JSON, with Content-Type: application/json and no Content-Encoding")
    try:
        return model.model_validate_json(raw, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        if any(mistake["type"] == "json_invalid" for mistake in found):
            raise InvalidRequestError("the body is no JSON; nothing was changed") from None
        raise InvalidContentError("the body is not valid; nothing was changed", _mistakes(error)) from None


async def _read(request: web.Request) -> bytes:
    """Read a body within its limits of size and time."""
    raw = b""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in request.content.iter_any():
                raw += piece
                if len(raw) > MOST_BODY_BYTES:
                    raise TooLargeError(f"a body has at most {MOST_BODY_BYTES} bytes; nothing was changed")
    except TimeoutError:
        raise BodyTimeoutError("the body did not come in time; nothing was changed") from None
    return raw


def _mistakes(error: ValidationError) -> list[tuple[str, str]]:
    """Return where each mistake is, and what: never what was sent, which may be a secret in the wrong place."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [(".".join(_place(part) for part in mistake["loc"]) or "body", mistake["msg"]) for mistake in found]


def _place(part: int | str) -> str:
    """Return a part of a place; the name of an unknown member is the client's, so only a word is shown."""
    return str(part) if isinstance(part, int) or _WORD.fullmatch(part) else "(a name)"
