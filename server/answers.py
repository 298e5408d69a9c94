"""Answers about drop-offs, uploads and tokens for operators: the same for `--json` and the API."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, create_model

from dropoff_tus.model import TERMS, ApiToken, Dropoff, Scope, StoredUpload, UploadRow, Usage
from dropoff_tus.policy import WindowState, window_state
from dropoff_tus.ports.store import ExportedUploads, Seen, Space, StoredUploads
from dropoff_tus.protocol import disagreement
from dropoff_tus.states import UploadState
from server.clock import SystemClock
from server.settings.drop_terms import FORMS, Natural, Time, described
from server.settings.units import stamp


class OperatorStore(StoredUploads, Space, ExportedUploads, Protocol):
    """The store, with the calls that are only for operators."""

    async def signed_receipt(self, upload_id: str, identities: Sequence[str] = ()) -> bytes | None:
        """Return the receipt's signed line, or None where it is not there or cannot be read here."""
        ...


class JsonAnswer(BaseModel):
    """The common settings of all models."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class DropAddress(JsonAnswer):
    """Where a drop-off is."""

    id: str
    name: str
    upload_url: str = Field(description="Where tus clients create uploads.")
    page_url: str = Field(description="The upload page.")


class NewDropAnswer(DropAddress):
    """A drop-off with its new code."""

    code: str | None = Field(description="The code, shown this once; null where none is needed.")

    @classmethod
    def of(cls, base_url: str, dropoff: Dropoff, code: str | None) -> Self:
        """Show a drop-off whose code was made just now."""
        return cls(**_address(base_url, dropoff), code=code)


class DropState(DropAddress):
    """How a drop-off stands."""

    has_code: bool
    closed: bool
    state: WindowState = Field(description="Whether it takes uploads now: open; or closed, not_open yet, or expired.")
    created_at: Time


_TERMS: dict[str, Any] = {
    name: (FORMS[term.kind].answer, Field(description=described(term)))
    for name, term in TERMS.items()
    if name not in DropState.model_fields
}


class DropAnswer(create_model("_Terms", __base__=DropState, **_TERMS)):  # type: ignore[misc]
    """A drop-off."""

    @classmethod
    def of(cls, base_url: str, dropoff: Dropoff) -> Self:
        """Show a drop-off."""
        return cls(**_members(base_url, dropoff))


class DropUsageAnswer(DropAnswer):
    """A drop-off and what its uploads take."""

    uploads: int = Field(ge=0)
    bytes: Natural

    @classmethod
    def with_usage(cls, base_url: str, dropoff: Dropoff, usage: Usage) -> Self:
        """Show a drop-off with its usage."""
        return cls(**_members(base_url, dropoff), uploads=usage.uploads, bytes=usage.bytes)


def _address(base_url: str, dropoff: Dropoff) -> dict[str, str]:
    return {
        "id": dropoff.id,
        "name": dropoff.terms.name,
        "upload_url": f"{base_url}/files/{dropoff.id}/",
        "page_url": f"{base_url}/d/{dropoff.id}",
    }


def _members(base_url: str, dropoff: Dropoff) -> dict[str, Any]:
    terms = {name: getattr(dropoff.terms, name) for name in TERMS}
    return {
        **{name: stamp(value) if isinstance(value, datetime) else value for name, value in terms.items()},
        **_address(base_url, dropoff),
        "has_code": dropoff.code_mac is not None,
        "closed": dropoff.closed,
        "state": window_state(dropoff, SystemClock().now()),
        "created_at": stamp(dropoff.created_at),
    }


class UploadAnswer(JsonAnswer):
    """An upload. Name and digest are null where the server cannot read them."""

    id: str
    drop_id: str
    state: UploadState
    filename: str | None = Field(description="As the client named it: text to show, never a path.")
    relative_path: str | None = Field(
        description="The path within the folder that the client chose, as it gave it: text, never to be followed."
    )
    sealed_by: str | None = Field(
        description="age: the client sealed the content before sending, so length and digest are of the age file."
    )
    sender: str | None = Field(description="The sender, as the client said: text to show.")
    length: Natural | None = Field(description="Null until the client has said it.")
    offset: Natural = Field(description="How many bytes are here.")
    sha256: str | None
    created_at: Time
    completed_at: Time | None
    reason: str | None = Field(
        description="Why it ended, a fixed phrase: such as `retention is over` or `idle for too long` of expired ones."
    )


_TOLD = ("filename", "relative_path", "sealed_by", "sender")
"""By the client, in its metadata."""
_AT_ONCE = 32
"""How many a thread looks at in one turn: some 50 ms."""


async def upload_answers(
    store: OperatorStore, rows: Sequence[UploadRow], identities: Sequence[str] = ()
) -> list[UploadAnswer]:
    """Show uploads: their rows, and what the store knows of them. One that cannot be read is as the catalog has it.

    Args:
        store: Where they are.
        rows: The catalog's.
        identities: age identities that open what the server cannot.
    """
    answers: list[UploadAnswer] = []
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        seen = await store.look([row.id for row in some], identities)
        answers += [UploadAnswer(**_told(row, one)) for row, one in zip(some, seen, strict=True)]
    return answers


def _told(row: UploadRow, seen: Seen) -> dict[str, Any]:
    stored, told = _agreeing(row, seen), dict[str, Any]()
    if stored is not None and row.state is UploadState.COMPLETE and seen.receipt is not None:
        told = {**seen.receipt, "filename": seen.receipt.get("path")}
    elif stored is not None and seen.metadata is not None:
        told = {name: getattr(seen.metadata, name) for name in _TOLD}
    return {
        "id": row.id,
        "drop_id": row.drop_id,
        "state": row.state,
        **{name: told.get(name) for name in _TOLD},
        "length": row.length,
        "offset": (row.size_bytes or 0) if stored is None else stored.offset,
        "sha256": told.get("sha256"),
        "created_at": stamp(row.created_at),
        "completed_at": stamp(row.completed_at),
        "reason": None if stored is None else stored.end_reason,
    }


def _agreeing(row: UploadRow, seen: Seen) -> StoredUpload | None:
    """Return where an upload stands in the store; None where nothing is known, or the row contradicts it."""
    return None if seen.stored is None or disagreement(row, seen.stored) is not None else seen.stored


class UploadDetailAnswer(UploadAnswer):
    """An upload with the sender's message, which lists do not have."""

    message: str | None = Field(description="From whoever sent it: text to show.")


async def upload_details(store: OperatorStore, row: UploadRow, identities: Sequence[str] = ()) -> UploadDetailAnswer:
    """Show an upload as `upload_answers` does, with the message."""
    (seen,) = await store.look([row.id], identities)
    metadata = None if _agreeing(row, seen) is None else seen.metadata
    return UploadDetailAnswer(**_told(row, seen), message=None if metadata is None else metadata.message)


class DeletedAnswer(JsonAnswer):
    """An upload that was shredded."""

    id: str
    state: UploadState


class ApiTokenAnswer(JsonAnswer):
    """An API token, without its secret."""

    id: str
    name: str
    scopes: list[Scope]
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    drop_id: str | None = Field(description="The drop-off it is for; null: all.")

    @classmethod
    def of(cls, token: ApiToken) -> Self:
        """Show a token."""
        return cls(
            id=token.id,
            name=token.name,
            scopes=list(token.scopes),
            created_at=stamp(token.created_at),
            expires_at=stamp(token.expires_at),
            revoked_at=stamp(token.revoked_at),
            drop_id=token.drop_id,
        )
